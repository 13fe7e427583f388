"""Which pairs decide what: features of a generated world, in which each part of the pairs prefers something else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_families import tiny_config
from transformers import AutoModelForSequenceClassification

from reward_modeling.frozen_backbone.features import Features
from reward_modeling.frozen_backbone.fixed_weights import best_single, fit_fixed_weights
from reward_modeling.frozen_backbone.gate import pair_losses
from reward_modeling.frozen_backbone.gate_flags import BY_LENGTH, GatingFlags
from reward_modeling.frozen_backbone.gate_job import train_gate
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, Parts, split
from reward_modeling.frozen_backbone.gate_results import Trained
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel
from reward_modeling.frozen_backbone.ridge import predict
from reward_modeling.frozen_backbone.verbosity import debias

VERBOSITY, QUALITY, STYLE = range(3)
NAMES = ("verbosity", "quality", "style")
PROMPTS, HIDDEN, HELD_OUT, SEED = 600, 8, 0.5, 3
# What the people of each part prefer: so much of what an answer is truly worth, and so much of its style.
PREFERRED = Parts((1.0, 0.6), (-0.3, 1.0), (0.2, 1.0))
LIKES_LENGTH = Parts(1.0, 0.2, 0.2)  # the output `quality`, by so much more the longer an answer is


def make_features(folder: Path) -> Features:
    """A pair to each prompt. Hidden states are what an answer is worth, its style and its length, each a dimension."""
    rng = np.random.default_rng(0)
    prompt_of = np.repeat(np.arange(PROMPTS), 2)
    keys = rng.permutation(10 * PROMPTS)[:PROMPTS].astype(np.int64)
    parts = split_of(keys)
    part_of = np.zeros(PROMPTS, dtype=int)
    for number, part in enumerate(parts):
        part_of[part] = number
    worth, style, wordy = rng.normal(size=(3, 2 * PROMPTS))
    likes = np.array(LIKES_LENGTH)[part_of[prompt_of]]
    hidden = np.stack([worth + likes * wordy, style, wordy, *rng.normal(size=(HIDDEN - 3, 2 * PROMPTS))], axis=1)
    tastes = np.array(PREFERRED)[part_of]
    preferred = (tastes * np.stack([worth, style], axis=1).reshape(PROMPTS, 2, 2).transpose(1, 0, 2)).sum(axis=2)
    first = preferred[0] > preferred[1] + 0.5 * rng.normal(size=PROMPTS)
    answers = 2 * np.arange(PROMPTS)
    chosen, rejected = np.where(first, answers, answers + 1), np.where(first, answers + 1, answers)
    targets = np.tile(np.float32([1.0, np.nan, 0.0]), (PROMPTS, 1))
    # the length in tokens, of which the output `verbosity` knows but a part
    tokens = np.exp(5 + 0.4 * wordy + 0.4 * rng.normal(size=2 * PROMPTS)).astype(np.int64)
    prompts = rng.normal(size=(PROMPTS, HIDDEN)).astype(np.float32)
    return Features(
        folder,
        completions=hidden.astype(np.float32),
        prompts=prompts,
        prompt_keys=keys,
        completion_of=np.arange(2 * PROMPTS),
        prompt_of=prompt_of,
        completion_tokens=tokens,
        ratings=np.zeros((2 * PROMPTS, 0), dtype=np.float32),
        pairs=np.stack([chosen, rejected], axis=1),
        targets=targets,
        weights=np.ones(PROMPTS),
        where=[f"row {number}" for number in range(PROMPTS)],
        sources=["set"] * PROMPTS,
    )


def split_of(keys: np.ndarray) -> Parts:
    """The parts of pairs of which each has a prompt of its own."""
    number = len(keys)
    none, ones = np.zeros((number, 1), dtype=np.float32), np.ones(number)
    pairs = GatePairs(
        none, ones, ones, np.arange(number), none, keys, [None] * number, np.zeros((number, 2), dtype=int)
    )
    return split(pairs, HELD_OUT, SEED)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    return make_features(tmp_path_factory.mktemp("world") / "features")


@pytest.fixture(scope="module")
def model() -> ObjectiveModel:
    """Whose outputs are the dimensions of the hidden states."""
    config = tiny_config("llama", 50, hidden_size=HIDDEN, num_labels=len(NAMES))
    decoder = AutoModelForSequenceClassification.from_config(config)
    head = torch.zeros(len(NAMES), HIDDEN)
    for objective, dimension in ((QUALITY, 0), (STYLE, 1), (VERBOSITY, 2)):
        head[objective, dimension] = 1.0
    with torch.no_grad():
        decoder.score.weight.copy_(head)
    return ObjectiveModel(decoder, None, NAMES, {name: [0.0, 1.0] for name in NAMES})


def train(model: ObjectiveModel, features: Features, **changes: object) -> Trained:
    flags = {"train_set_path": "pairs", "held_out": HELD_OUT, "seed": SEED, "steps": 80, "pairs_per_step": 64}
    flags |= {"gating_hidden_dim": 16, "gating_n_hidden": 1, "gating_temperature": 1.0, "learning_rate": 1e-2}
    return train_gate(GatingFlags(**flags | changes), model, features, None, VERBOSITY)


@pytest.fixture(scope="module")
def trained(model, features) -> Trained:
    return train(model, features)


@pytest.fixture(scope="module")
def parts(features) -> Parts:
    return split_of(features.prompt_keys)


@pytest.fixture(scope="module")
def outputs(model, features) -> np.ndarray:
    return predict(features.blocks(), model.head)


def by_hand(features: Features, outputs: np.ndarray, parts: Parts) -> np.ndarray:
    """Debiased differences of all pairs, by the lambdas of the answers that are trained on."""
    answers = np.unique(features.pairs[parts.train])
    found = debias(outputs[answers], VERBOSITY, prompts=features.prompt_of[answers])
    debiased = outputs - found.lambdas * outputs[:, [VERBOSITY]]
    return debiased[features.pairs[:, 0]] - debiased[features.pairs[:, 1]]


def losses_of(trained: Trained, features: Features, differences: np.ndarray, part: np.ndarray) -> float:
    with torch.no_grad():
        gating = trained.fitted.gate(torch.from_numpy(features.prompts[part]))
        margins = (gating * torch.from_numpy(differences[part])).sum(dim=1)
    return float(pair_losses(margins, torch.ones(len(part))).mean())


def test_the_step_is_chosen_by_the_part_that_is_not_measured(trained, features, outputs, parts):
    differences = by_hand(features, outputs, parts)
    best = min(entry["held_out_loss"] for entry in trained.fitted.history)
    choose, measure = (losses_of(trained, features, differences, part) for part in (parts.choose, parts.measure))
    assert best == pytest.approx(choose, abs=1e-5)
    assert abs(choose - measure) > 0.02  # a negative control
    assert trained.figures["loss"] == pytest.approx(measure, abs=1e-5)
    for one, other in zip(trained.parts, parts, strict=True):
        assert np.array_equal(one, other)
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts)) == PROMPTS


def test_lambdas_are_found_on_the_answers_that_are_trained_on(trained, features, outputs, parts):
    answers = np.unique(features.pairs[parts.train])
    expected = debias(outputs[answers], VERBOSITY, prompts=features.prompt_of[answers])
    found = trained.figures["debiasing"]["objectives"]
    assert [found[name]["lambda"] for name in NAMES] == pytest.approx(expected.lambdas.tolist(), abs=1e-9)
    assert trained.figures["debiasing"]["answers"] == len(answers)
    of_all = debias(outputs, VERBOSITY, prompts=features.prompt_of)
    assert abs(of_all.lambdas[QUALITY] - expected.lambdas[QUALITY]) > 0.1  # a negative control


def test_what_a_gate_is_compared_with_is_fitted_to_debiased_rewards_of_training_pairs(
    trained, features, outputs, parts
):
    debiased = by_hand(features, outputs, parts)
    raw = outputs[features.pairs[:, 0]] - outputs[features.pairs[:, 1]]

    def fitted(differences: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, str]:
        of = differences[part], np.ones(len(part)), np.ones(len(part))
        return fit_fixed_weights(*of), NAMES[best_single(*of)]

    weights, single = fitted(debiased, parts.train)
    found = trained.figures["fixed_weights"]
    assert [found[name] for name in NAMES] == pytest.approx(weights.tolist(), abs=1e-4)
    assert trained.figures["best_objective"] == single == "quality"
    # negative controls: other pairs, or rewards as they were, give others
    for differences, part in ((debiased, parts.measure), (debiased, parts.choose), (raw, parts.train)):
        weights, single = fitted(differences, part)
        assert np.abs(weights - [found[name] for name in NAMES]).max() > 0.1
        assert single == "style"


def test_what_is_measured_are_those_weights_on_the_measured_part(trained, features, outputs, parts):
    differences = by_hand(features, outputs, parts)[parts.measure]
    weights = np.array([trained.figures["fixed_weights"][name] for name in NAMES])
    assert trained.figures["fixed_weights_accuracy"]["value"] == (differences @ weights > 0).mean()
    assert trained.figures["best_objective_accuracy"]["value"] == (differences[:, QUALITY] > 0).mean()
    assert trained.figures["pairs"] == len(parts.measure)


def test_by_length_means_the_tokens_of_the_answers(model, features, outputs, parts, trained):
    answers = np.unique(features.pairs[parts.train])
    tokens = features.completion_tokens[answers]
    found = train(model, features, debias=BY_LENGTH, steps=2).figures["debiasing"]
    quality = found["objectives"]["quality"]
    assert quality["before"]["value"] == pytest.approx(spearmanr(outputs[answers, QUALITY], tokens).statistic)
    left = outputs[answers, QUALITY] - quality["lambda"] * outputs[answers, VERBOSITY]
    assert spearmanr(left, tokens).statistic <= 0.03 < quality["before"]["value"]
    assert spearmanr(left + 2e-2 * outputs[answers, VERBOSITY], tokens).statistic > 0.03  # the least that is enough
    # the objective itself asks for another part of it
    other = trained.figures["debiasing"]
    assert found["measured_by"] == BY_LENGTH != other["measured_by"]
    assert abs(quality["lambda"] - other["objectives"]["quality"]["lambda"]) > 0.02
    assert abs(quality["before"]["value"] - other["objectives"]["quality"]["before"]["value"]) > 0.05
