"""A gate on features of a generated world, where attributes and the weights of each prompt are known."""

import dataclasses

import numpy as np
import pytest
import torch

from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone.fixed_weights import best_single, fit_fixed_weights
from reward_modeling.frozen_backbone.gate import GateTraining, fit_gate, moments, pair_losses
from reward_modeling.frozen_backbone.gate_figures import gate_figures, gate_warnings, margins_of
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, Parts, read_rows, split
from reward_modeling.models.gated_model import GateSettings

NAMES = ("helpfulness", "correctness", "style")
SETTINGS = GateSettings(3, gating_temperature=10, gating_hidden_dim=64, gating_n_hidden=2)
TRAINING = GateTraining(steps=300, pairs_per_step=256)
HIDDEN = 16


def world(pairs: int = 6000, seed: int = 0, *, gated: bool = True) -> GatePairs:
    """Prompts are of three kinds, which their hidden states tell; in each another objective counts most.

    The preference is drawn by Bradley-Terry from the objectives under the weights of the prompt.
    """
    generator = np.random.default_rng(seed)
    prompts = pairs // 2
    kind = generator.integers(3, size=prompts)
    signal = np.eye(3)[kind] @ generator.normal(size=(3, HIDDEN)) * 3
    hidden = signal + generator.normal(size=(prompts, HIDDEN)) + 5.0  # a mean that standardising takes away
    weights = np.full((3, 3), 0.05) + 0.85 * np.eye(3)
    of_prompt = weights[kind] if gated else np.full((prompts, 3), 1 / 3)
    prompt = np.arange(pairs) % prompts
    differences = generator.normal(size=(pairs, 3)) * 0.3
    margin = 20 * (of_prompt[prompt] * differences).sum(axis=1)
    flip = generator.random(pairs) > 1 / (1 + np.exp(-margin))
    differences = np.where(flip[:, None], -differences, differences)
    lengths = generator.integers(5, 50, size=(pairs, 2))
    return GatePairs(
        differences.astype(np.float32),
        np.ones(pairs),
        np.ones(pairs),
        prompt,
        hidden.astype(np.float32),
        generator.permutation(prompts * 7)[:prompts][prompt].astype(np.int64),
        [("code", "chat", "maths")[each] for each in kind[prompt]],
        lengths,
    )


def figures_of(pairs: GatePairs, training: GateTraining = TRAINING):
    parts = split(pairs, 0.4, seed=1)
    fitted = fit_gate(pairs, parts, SETTINGS, training)
    of_training = (pairs.differences[parts.train], pairs.probability[parts.train], pairs.weights[parts.train])
    fixed, single = fit_fixed_weights(*of_training), best_single(*of_training)
    margins = margins_of(pairs, parts.measure, fitted.gate, fixed, single)
    return fitted, margins, gate_figures(margins, NAMES)


@pytest.fixture(scope="module")
def known_gate():
    return world(), *figures_of(world())


def test_the_gate_beats_fixed_weights_by_more_than_its_interval(known_gate):
    _, _, _, figures = known_gate
    for name in ("gate_less_fixed_weights", "gate_less_best_objective"):
        assert figures[name]["low"] > 0.03, figures[name]
    assert figures["loss_of_gate_less_fixed_weights"]["high"] < -0.03
    assert figures["accuracy"]["value"] > 0.85
    assert not gate_warnings(figures)


def test_the_weights_are_those_of_the_kinds_of_prompts(known_gate):
    _, _, _, figures = known_gate
    for kind, objective in zip(("code", "chat", "maths"), NAMES, strict=True):
        of = figures["by_source"][kind]
        assert max(of["weights"], key=of["weights"].get) == objective
        assert of["weights"][objective] > 0.6
        assert of["decides"][objective] > 0.6
        assert of["gate_less_fixed_weights"]["low"] > 0
    assert sum(of["decides"] for of in figures["objectives"].values()) == pytest.approx(1)


def test_without_a_gate_in_the_world_none_is_found():
    """A negative control: the weights are the same everywhere."""
    _, _, figures = figures_of(world(gated=False))
    difference = figures["gate_less_fixed_weights"]
    assert difference["low"] <= 0
    assert any("not shown to be better than fixed weights" in words for words in gate_warnings(figures))


def test_a_gate_that_does_nothing_is_said(known_gate):
    _, _, margins, figures = known_gate
    same = dataclasses.replace(margins, shares=np.full_like(margins.shares, 1 / 3))
    found = gate_warnings(gate_figures(same, NAMES))
    assert any("the gate does nothing" in words for words in found)
    assert not any("the gate does nothing" in words for words in gate_warnings(figures))


def test_a_handful_of_prompts_shows_nothing(known_gate):
    """The gate is far better, and all of its pairs say so: on 4 prompts, on 30, and on all."""
    pairs, fitted, _, _ = known_gate
    part = split(pairs, 0.4, seed=1).measure
    fixed = np.array([-1.0, -1.0, -1.0])  # mostly wrong

    def warned(prompts: int) -> tuple[dict, str]:
        chosen = part[np.isin(pairs.keys[part], np.unique(pairs.keys[part])[:prompts])]
        figures = gate_figures(margins_of(pairs, chosen, fitted.gate, fixed, 0), NAMES)
        return figures["gate_less_fixed_weights"], " ".join(gate_warnings(figures))

    few, words = warned(4)
    assert few["value"] > 0.5 and few["low"] < 0
    assert "measured on few prompts, 4, and on " in words and "not shown to be better" in words
    some, words = warned(30)
    assert some["low"] > 0 and 0 < some["differ"] <= some["prompts"] == 30
    assert f"measured on few prompts, 30, and on {some['differ']} of them" in words
    assert warned(600)[1] == ""


def test_the_same_data_give_the_same_gate_to_the_bit(known_gate):
    _, fitted, _, _ = known_gate
    before = torch.random.get_rng_state()
    again, _, _ = figures_of(world())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.history == fitted.history
    for name, weight in fitted.gate.state_dict().items():
        assert torch.equal(weight, again.gate.state_dict()[name]), name
    other, _, _ = figures_of(world(), dataclasses.replace(TRAINING, seed=43))
    assert other.history != fitted.history


def test_the_order_of_the_pairs_moves_no_prompt_to_another_part():
    pairs = world(600)
    order = np.random.default_rng(0).permutation(len(pairs))
    names = ("differences", "probability", "weights", "prompt", "keys", "lengths")
    shuffled = {name: getattr(pairs, name)[order] for name in names}
    other = dataclasses.replace(pairs, sources=[pairs.sources[n] for n in order], **shuffled)
    for one, two in zip(split(pairs, 0.2, 7), split(other, 0.2, 7), strict=True):
        assert set(pairs.keys[one]) == set(other.keys[two])
        assert len(one)
    parts = split(pairs, 0.2, 7)
    keys = [set(pairs.keys[part]) for part in parts]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert sum(map(len, parts)) == len(pairs)


def test_the_best_step_is_the_one_with_the_least_held_out_loss(known_gate):
    pairs, fitted, _, _ = known_gate
    best = min(fitted.history, key=lambda entry: entry["held_out_loss"])
    assert fitted.best_step == best["step"] > 0
    # what is returned is the gate of that step, in the units of the data
    parts = split(pairs, 0.4, seed=1)
    chosen = parts.choose
    with torch.no_grad():
        gating = fitted.gate(torch.from_numpy(pairs.prompts[pairs.prompt[chosen]]))
        margins = (gating * torch.from_numpy(pairs.differences[chosen])).sum(dim=1)
    loss = float(pair_losses(margins, torch.ones(len(chosen))).mean())
    assert loss == pytest.approx(best["held_out_loss"], abs=1e-5)


def test_early_choice_saves_a_gate_from_its_own_training():
    """With few pairs and no dropout the last step is worse than the chosen one."""
    pairs = world(240, seed=3)
    parts = split(pairs, 0.5, seed=1)
    fitted = fit_gate(pairs, parts, SETTINGS, GateTraining(steps=600, pairs_per_step=64, dropout=0.0))
    assert fitted.history[-1]["held_out_loss"] > min(each["held_out_loss"] for each in fitted.history) + 0.05
    assert fitted.best_step < 600


def test_weights_and_ties_count_in_the_loss():
    pairs = world(2000)
    weights = np.where(np.array(pairs.sources) == "code", 1e-9, 1.0)
    weighted = dataclasses.replace(pairs, weights=weights)
    figures = figures_of(weighted)[2]
    # what counted nothing was not learned: the first objective decides where nobody said so
    assert figures["by_source"]["code"]["weights"]["helpfulness"] < 0.6
    ties = dataclasses.replace(pairs, probability=np.where(np.arange(2000) % 4, 1.0, 0.5))
    figures = figures_of(ties)[2]
    assert figures["ties"] > 0
    assert figures["accuracy"]["rows"] == figures["pairs"] - figures["ties"]


# --- pieces against their plain references --------------------------------------------------------------------


def test_fixed_weights_are_the_optimum():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4000, 3)) * [0.1, 1.0, 10.0]
    truth = np.array([8.0, -1.0, 0.05])
    p = (generator.random(4000) < 1 / (1 + np.exp(-x @ truth))).astype(float)
    weights = generator.uniform(0.5, 2, size=4000)
    found = fit_fixed_weights(x, p, weights)

    def loss(of):
        return float((weights * (p * np.logaddexp(0, -x @ of) + (1 - p) * np.logaddexp(0, x @ of))).sum())

    assert found == pytest.approx(truth, rel=0.2)
    for place in range(3):
        for factor in (0.99, 1.01):
            other = found.copy()
            other[place] *= factor
            assert loss(other) > loss(found)


def test_fixed_weights_of_pairs_that_are_separated_or_constant():
    x = np.array([[1.0, 0.0], [2.0, 0.0]])
    found = fit_fixed_weights(x, np.ones(2), np.ones(2))
    assert np.isfinite(found).all() and found[0] > 0 and found[1] == 0


def test_best_single_objective():
    x = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    assert best_single(x, np.array([1.0, 1.0, 0.0]), np.ones(3)) == 0
    assert best_single(x, np.array([0.0, 1.0, 1.0]), np.ones(3)) == 1
    assert best_single(x, np.array([0.0, 0.5, 0.5]), np.ones(3)) == 1


def test_which_objective_decides():
    pairs = world(300)
    fitted, margins, _ = figures_of(pairs, dataclasses.replace(TRAINING, steps=5))
    contributions = margins.shares * float(fitted.gate.logit_scale.detach())
    part = split(pairs, 0.4, seed=1).measure
    contributions = contributions * pairs.differences[part]
    for row, decided in zip(contributions, margins.decided_by, strict=True):
        sign = np.sign(row.sum())
        with_it = [place for place in range(3) if np.sign(row[place]) == sign]
        assert decided == max(with_it, key=lambda place: abs(row[place]))


def test_mapped_rows_are_the_array_s(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    rows = np.array([49, 0, 7, 7])
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(read_rows(mapped, rows), values[rows])
    assert np.array_equal(read_rows(values, rows), values[rows])


def test_moments_are_of_each_prompt_once():
    pairs = world(400)
    part = np.arange(300)
    mean, deviation = moments(pairs, part)
    rows = pairs.prompts[np.unique(pairs.prompt[part])]
    assert mean == pytest.approx(rows.mean(axis=0), rel=1e-5)
    assert deviation == pytest.approx(rows.std(axis=0), rel=1e-5)


def test_one_prompt_is_refused():
    pairs = world(40)
    with pytest.raises(UserError, match=r"pairs of many prompts, found one prompt in 40 pairs"):
        split(dataclasses.replace(pairs, keys=np.zeros(40, dtype=np.int64)), 0.2, 0)
    assert isinstance(split(pairs, 0.2, 0), Parts)
