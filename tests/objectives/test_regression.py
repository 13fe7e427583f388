"""The losses of ratings in every kind of batch against ones written out from plain logits, and their ranges.

The reference has each answer alone in a row of the plain model, and takes the ratings from the rows as they were
written: no reader, collator or loss of ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from exactness import PAD, TOLERANCE, VOCAB_SIZE, differences, make_group
from tiny_families import tiny_config

from reward_modeling.common.errors import UserError
from reward_modeling.common.words import BATCHINGS, PADDED, SHARED_PREFIX
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import Chunk
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.objectives.quantiles import LEVELS, QuantileRegression, masked_pinball, regression_of
from reward_modeling.objectives.rating_flags import RegressionFlags
from reward_modeling.objectives.regression import Regression, masked_squared_error

NAN = math.nan
FORM = "--label_ranges: expected each name once with its value, as in helpfulness=0:4,score=1:10, found "
NAMES = ("helpfulness", "helpsteer-verbosity", "is_safe")
RANGES = {"helpfulness": (0.0, 4.0), "helpsteer-verbosity": (-1.0, 10.0), "is_safe": (0.0, 1.0)}
FLAGS = {
    "attributes": ",".join(NAMES),
    "label_ranges": "helpfulness=0:4,helpsteer-verbosity=-1:10,is_safe=0:1",
}


class Answer(NamedTuple):
    length: int
    ratings: tuple[float, float, float]


# A prompt's length, and its answers: with all ratings, with some, one answer alone.
PROMPTS = [
    (40, [Answer(5, (4, NAN, 1)), Answer(30, (NAN, 3.5, NAN)), Answer(1, (0, -1, 0)), Answer(17, (NAN, NAN, 1))]),
    (1, [Answer(3, (2.5, NAN, NAN)), Answer(9, (1, 10, 0))]),
    (23, [Answer(40, (3, 2, 0))]),
    (12, [Answer(6, (NAN, 0, 0)), Answer(7, (1, 1, 1)), Answer(6, (4, 4, NAN))]),
]


def squared(outputs: torch.Tensor, place: int, label: float) -> torch.Tensor:
    return (outputs[place] - label) ** 2


def pinball(outputs: torch.Tensor, place: int, label: float) -> torch.Tensor:
    """Of 19 outputs after one another."""
    terms = []
    for number in range(19):
        level, error = 0.05 * (number + 1), label - outputs[19 * place + number]
        terms.append(level * error if error >= 0 else (level - 1) * error)
    return sum(terms) / 19


CASES: dict[str, Callable] = {"squared_error": squared, "quantile": pinball}


def objective_of(loss: str = "squared_error", **flags: object) -> Regression:
    return regression_of(RegressionFlags(**FLAGS | {"loss": loss} | flags))


def groups() -> list[dict]:
    found = []
    for seed, (prefix, answers) in enumerate(PROMPTS, start=1):
        group = make_group(prefix, [answer.length for answer in answers], seed, pairs=[(0, 0)])
        units = [[number] for number in range(len(answers))]
        found.append(group | {"units": units, "targets": [list(answer.ratings) for answer in answers]})
    return found


def build(family: str, attention: str, labels: int):
    config = tiny_config(family, VOCAB_SIZE, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
    config.num_labels = labels
    torch.manual_seed(0)
    return reward_model_class(type(config))._from_config(config, attn_implementation=attention).train()


def batch_of(batching: str, objective: Regression) -> dict:
    rows = groups()
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(rows)]
    return MicroBatchCollator(batching, PAD, objective.collate)(chunks, dict(enumerate(rows)))


def computed(model, batching: str, objective: Regression):
    model.zero_grad()
    batch = batch_of(batching, objective)
    losses = objective.loss(model(**batch["model_inputs"]).logits.float(), batch["targets"])
    losses.mean().backward()
    return losses.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def written_out(model, of_rating: Callable, over_all_ratings: bool = False):
    """Of each answer the mean over the ratings that it has, and the mean of these; or the mean over all ratings."""
    model.zero_grad()
    losses, terms = [], []
    for group, (_, answers) in zip(groups(), PROMPTS, strict=True):
        for ids, answer in zip(group["completion_ids"], answers, strict=True):
            hidden = model.model(torch.tensor([group["prefix_ids"] + ids])).last_hidden_state[0, -1]
            outputs = model.score.weight @ hidden
            of_answer = []
            for place, (name, rating) in enumerate(zip(NAMES, answer.ratings, strict=True)):
                low, high = RANGES[name]
                if not math.isnan(rating):
                    of_answer.append(of_rating(outputs, place, (rating - low) / (high - low)))
            losses.append(sum(of_answer) / len(of_answer))
            terms += of_answer
    (torch.stack(terms) if over_all_ratings else torch.stack(losses)).mean().backward()
    return torch.stack(losses).detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("loss", CASES)
@pytest.mark.parametrize("family", ["gemma", "gemma2", "llama", "mistral", "qwen3", "qwen3_moe"])
def test_every_batch_against_the_plain_model(family, loss):
    """The negative control: a mean over all ratings of the step has the same losses and other gradients."""
    objective = objective_of(loss)
    plain, fast = (build(family, attention, objective.num_labels) for attention in ("eager", SHARED_PREFIX))
    fast.load_state_dict(plain.state_dict())
    reference = written_out(plain, CASES[loss])
    for batching in BATCHINGS:
        found = computed(plain if batching == PADDED else fast, batching, objective)
        assert max(differences(reference, found)) < TOLERANCE
    values, gradients = differences(written_out(plain, CASES[loss], over_all_ratings=True), found)
    assert values < TOLERANCE and gradients > 1000 * TOLERANCE


def test_what_is_not_known_leaks_nothing():
    """Whatever the outputs of unknown ratings are; a mask that multiplies, the negative control, gives NaN."""
    labels = torch.tensor([[0.5, NAN, NAN], [NAN, 0.25, 1.0]])
    outputs = torch.tensor([[0.1, 1e30, -7.0], [3e38, 0.0, 0.5]], requires_grad=True)
    losses = masked_squared_error(outputs, labels)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0.4**2, (0.25**2 + 0.5**2) / 2])
    assert outputs.grad.flatten().tolist() == pytest.approx([-0.8, 0, 0, 0, -0.25, -0.5])
    naive = outputs.detach().requires_grad_()
    ((naive - labels).square() * ~torch.isnan(labels)).sum().backward()
    assert torch.isnan(naive.grad).any()


def test_pinball_leaks_nothing_and_is_that_of_its_definition():
    quantiles = torch.tensor([[[0.0, 2.0], [1e30, -5.0]]], requires_grad=True)
    losses = masked_pinball(quantiles, torch.tensor([[1.0, NAN]]), levels=(0.1, 0.9))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([(0.1 * 1 + 0.1 * 1) / 2])  # 0.1 below by 1, 0.9 above by 1
    assert quantiles.grad.tolist() == [[pytest.approx([-0.05, 0.05]), [0, 0]]]


def test_pinball_is_least_at_the_quantiles():
    """Of a skewed distribution, found by gradient descent."""
    generator = torch.Generator().manual_seed(0)
    labels = -torch.log(torch.rand(4000, 1, generator=generator))
    outputs = torch.zeros(1, 1, len(LEVELS), requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.02)
    for _ in range(1200):
        optimizer.zero_grad()
        masked_pinball(outputs.expand(4000, -1, -1), labels).mean().backward()
        optimizer.step()
    expected = torch.quantile(labels[:, 0], torch.tensor(LEVELS))
    assert (outputs.detach()[0, 0] - expected).abs().max() < 0.03


@pytest.mark.parametrize("loss", CASES)
def test_sums_and_rows_of_an_evaluation_add_up_however_a_step_is_cut(loss):
    """And a micro-batch without answers adds nothing."""
    objective = objective_of(loss)
    rows = groups()
    draw = torch.Generator().manual_seed(3)
    units = [(number, unit) for number, group in enumerate(rows) for unit in range(len(group["units"]))]
    logits = torch.randn(len(units), objective.num_labels, generator=draw)
    targets = [rows[number]["targets"][unit] for number, unit in units]

    def of(start: int, end: int):
        batch = objective.collate([[number] for number in range(end - start)], targets[start:end])
        part = logits[start:end]
        return objective.sums(part, batch), objective.loss(part, batch), objective.evaluated(part, batch)

    whole, parts = of(0, 10), [of(0, 4), of(4, 4), of(4, 9), of(9, 10)]
    assert torch.stack([part[0] for part in parts]).sum(dim=0).tolist() == pytest.approx(whole[0].tolist())
    assert torch.cat([part[1] for part in parts]).tolist() == whole[1].tolist()
    assert [row for part in parts for row in part[2]] == whole[2]
    ratings = torch.tensor(targets)
    low, high = torch.tensor(list(RANGES.values())).T
    errors = objective.attributes_of(logits) - (ratings - low) / (high - low)
    figures = objective.figures(whole[0].tolist())
    expected = {f"error_{name}": errors[:, place].square().nanmean().sqrt().item() for place, name in enumerate(NAMES)}
    assert figures == pytest.approx(expected)
    assert "error_is_safe" not in objective.figures([2, 1, 1, 0, 0.5, 0.5, 0])


def test_an_attribute_of_quantiles_is_their_mean():
    objective = objective_of("quantile", weights="helpfulness=2,is_safe=-1")
    assert isinstance(objective, QuantileRegression) and objective.num_labels == 57
    assert objective.label_names[18:20] == ("helpfulness@0.95", "helpsteer-verbosity@0.05")
    logits = torch.arange(57.0)[None]
    assert objective.attributes_of(logits).tolist() == [[9.0, 28.0, 47.0]]
    batch = objective.collate([[0]], [[NAN, NAN, 1.0]])
    ((_, *attributes, _, _, _, _, _, _, _, _, _),) = objective.evaluated(logits, batch)
    assert attributes == [9.0, 28.0, 47.0]
    saved = objective.saved_values()
    assert saved["quantile_levels"] == [round(0.05 * number, 2) for number in range(1, 20)]
    assert list(saved["label_ranges"]) == list(saved["reward_weights"]) == list(NAMES)


# --- ranges -----------------------------------------------------------------------------------------------------------


class Ratings:
    """As much of `PromptGroups` as ranges take."""

    def __init__(self, *rows: tuple[float, ...], prompts: list[int] | None = None):
        self.rows = np.array(rows, dtype=np.float32)
        self.sizes = self
        self.group_of_unit = np.array(prompts or range(len(rows)))
        self.members = np.arange(len(rows))

    def targets(self) -> np.ndarray:
        return self.rows


def two(**flags: object) -> Regression:
    return Regression(RegressionFlags(attributes="a,b", **flags))


def test_ranges_are_those_of_the_training_set_or_given():
    objective = two(label_ranges="b=0:10")
    objective.fit(Ratings((1, NAN), (NAN, 4), (-3, 9)))
    assert objective.saved_values() == {
        "label_ranges": {"a": [-3.0, 1.0], "b": [0.0, 10.0]},
        "reward_weights": {"a": 0.5, "b": 0.5},
    }
    assert objective.scaled(torch.tensor([[-3.0, 0.0], [1.0, 10.0], [NAN, 5.0]])).tolist() == [
        [0, 0],
        [1, 1],
        [pytest.approx(NAN, nan_ok=True), 0.5],
    ]


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([(1, NAN), (2, NAN)], {}, "--attributes b: expected ratings among the answers to train on, found none"),
        (
            [(1, 3), (2, 3)],
            {},
            "--attributes b: expected ratings that differ, found 3 everywhere.*--label_ranges b=0:4",
        ),
        (
            [(1, 3), (2, 5)],
            {"label_ranges": "b=0:4"},
            "--label_ranges b: expected all ratings from 0 to 4, .*found 3 to 5",
        ),
        ([(1, 3e38), (2, -3e38)], {}, "--attributes b: expected a range that float32 can tell apart"),
        ([(1, 1), (2, 1)], {"label_ranges": "b=1:1.00000001"}, "a range that float32 can tell apart, found 1.0 to 1.0"),
    ],
)
def test_ranges_that_cannot_be_trained_on(rows, flags, said):
    with pytest.raises(UserError, match=said):
        two(**flags).fit(Ratings(*rows))
    if "differ" in said:
        two(label_ranges="b=0:4").fit(Ratings(*rows))


@pytest.mark.parametrize(("least", "greatest"), [(0.1, 0.9), (0, 0.1), (0, 0.2), (0.7, 1), (-0.3, 0.6)])
def test_ratings_at_the_ends_of_a_range_are_in_it(least, greatest, caplog):
    """They are stored in float32, in which 0.1 is a little more than it is in the flag."""
    rows = Ratings((1, least), (2, greatest))
    objective = two(label_ranges=f"b={least}:{greatest}")
    objective.fit(rows, [rows])
    assert not caplog.text
    found = two()
    found.fit(rows)
    assert found.ranges["b"] == (least, greatest)
    with pytest.raises(UserError, match="expected all ratings from"):
        two(label_ranges=f"b={least}:{greatest - 1e-6}").fit(rows)


def test_ratings_of_an_evaluation_set_outside_of_the_range_are_said(caplog):
    objective = two()
    objective.fit(Ratings((0, 0), (4, 1)), [Ratings((5, 1), (-1, NAN), (2, 0)), Ratings((1, 1))])
    assert [record.getMessage() for record in caplog.records] == [
        "Evaluation: 2 of 3 ratings of a are outside of 0 to 4, the range of the training set."
    ]
    assert objective.ranges == {"a": (0.0, 4.0), "b": (0.0, 1.0)}


def test_a_metric_that_the_evaluation_set_cannot_have_is_refused():
    train, alone = Ratings((0, 0), (4, 1)), Ratings((1, 1), (2, 0))
    together = Ratings((1, 1), (2, 1), prompts=[0, 0])
    for metric in ("pair_accuracy", "eval_pair_accuracy"):
        objective = two(metric_for_best_model=metric)
        objective.fit(train, [together, alone])
        with pytest.raises(UserError, match="--metric_for_best_model pair_accuracy: expected prompts with several"):
            objective.fit(train, [alone, together])
    two(metric_for_best_model="spearman").fit(train, [alone])
    with pytest.raises(UserError, match="--metric_for_best_model spearman: expected ratings that differ"):
        two(metric_for_best_model="spearman").fit(train, [Ratings((1, 1), (NAN, 1))])


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"attributes": None},
            ["--attributes: expected the columns of the ratings, as in helpfulness,correctness, found none"],
        ),
        (
            {"attributes": " , "},
            ["--attributes: expected the columns of the ratings, as in helpfulness,correctness, found none"],
        ),
        ({"attributes": "a,b,a"}, ["--attributes: expected each once, found a twice"]),
        (
            {"attributes": "prompt,a"},
            ["--attributes: expected columns of ratings, found prompt, which is read as something else"],
        ),
        ({"attributes": "a=3"}, ["--attributes: expected names without = and @, found a=3"]),
        (
            {"label_ranges": "a=0"},
            [FORM + "a=0"],
        ),
        (
            {"label_ranges": "a=0:x"},
            [FORM + "a=0:x"],
        ),
        (
            {"label_ranges": "a=0:inf"},
            [FORM + "a=0:inf"],
        ),
        (
            {"label_ranges": "a=0:1,a=0:2"},
            [FORM + "a=0:1,a=0:2"],
        ),
        ({"label_ranges": "a=4:0"}, ["--label_ranges a: expected a smaller number before a greater one, found 4:0"]),
        ({"label_ranges": "c=0:4"}, ["--label_ranges: expected some of --attributes, a, b, found c"]),
        ({"weights": "c=1"}, ["--weights: expected some of --attributes, a, b, found c"]),
        (
            {"weights": "a"},
            ["--weights: expected each name once with its value, as in helpfulness=0.65,verbosity=-0.4, found a"],
        ),
        (
            {"weights": "a=0,b=0.0"},
            ["--weights: expected one other than 0, found none: the reward would be 0 for every answer"],
        ),
        ({"weights": "a=-1", "label_ranges": " a = 0 : 4 , b=-1:1"}, []),
    ],
    ids=str,
)
def test_wrong_flags_are_named(flags, said):
    assert list(RegressionFlags(**{"attributes": "a,b"} | flags).objective_problems()) == said


def test_the_reward_is_the_weighted_sum_or_the_mean():
    assert two().weights == {"a": 0.5, "b": 0.5}
    assert two(weights="b=-0.5").weights == {"a": 0.0, "b": -0.5}


def test_names_with_odd_characters():
    flags = RegressionFlags(attributes="helpsteer-helpfulness,a (1-5)", label_ranges="a (1-5)=1:5")
    assert not list(flags.objective_problems())
    assert Regression(flags).ranges == {"a (1-5)": (1.0, 5.0)}
