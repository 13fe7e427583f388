"""Figures of held-out answers against scipy and slow loops; intervals against a slow bootstrap and known worlds."""

import itertools
import json
import math
import resource
import time

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
from reward_modeling.data.rated_rows import rated_row
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.objectives.held_out_ratings import (
    EvaluatedRatings,
    rating_figures,
    rating_lines,
    rating_metrics,
    rating_table,
)
from reward_modeling.objectives.quantiles import LEVELS, QuantileRegression
from reward_modeling.objectives.rating_flags import RegressionFlags
from reward_modeling.objectives.rating_reader import RatingReader
from reward_modeling.objectives.rating_statistics import (
    MOST_PAIRS,
    SEED,
    answer_sums,
    drawn_sums,
    formulas,
    pair_shares,
    ranks_of,
    rated_pairs,
    sums_by_prompt,
    with_interval,
)
from reward_modeling.objectives.regression import Regression

NAN = math.nan


def world(seed: int, prompts: int, answers: int = 2, noise: float = 0.8) -> tuple[np.ndarray, ...]:
    """Outputs, ratings of five grades, lengths and prompts: answers of a prompt are alike in all of them."""
    generator = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), answers)

    def normal() -> np.ndarray:
        return 0.7 * generator.normal(size=prompts)[prompt] + 0.7 * generator.normal(size=len(prompt))

    quality = normal()
    lengths = np.round(np.exp(5 + 0.3 * quality + 0.5 * normal()))
    return quality + noise * normal(), np.clip(np.round(2 + 1.2 * quality), 0, 4), lengths, prompt


# --- against scipy and loops ------------------------------------------------------------------------------------------


def test_ranks():
    values = np.random.default_rng(0).integers(0, 9, size=200)
    assert np.array_equal(ranks_of(values), stats.rankdata(values) - 1)


def test_errors_and_correlations():
    outputs, ratings, lengths, _ = world(1, 300)
    assert len(set(ratings)) == 5  # many are equal
    figures = formulas(answer_sums(outputs, ratings, lengths).sum(axis=0))
    assert figures == pytest.approx(
        {
            "squared_error": np.mean((outputs - ratings) ** 2),
            "mean_label_squared_error": np.var(ratings),
            "pearson": stats.pearsonr(outputs, ratings).statistic,
            "spearman": stats.spearmanr(outputs, ratings).statistic,
            "length_spearman": stats.spearmanr(lengths, ratings).statistic,
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_correlations_do_not_depend_on_scale(scale):
    outputs, ratings, lengths, _ = world(1, 100)
    figures = formulas(answer_sums(scale * (outputs + 100), scale * ratings, lengths).sum(axis=0))
    assert figures["pearson"] == pytest.approx(stats.pearsonr(outputs, ratings).statistic, abs=1e-9)


def test_what_has_no_correlation_has_none():
    for outputs, ratings in (([1.0, 1.0], [0.0, 1.0]), ([0.1, 0.2], [3.0, 3.0]), ([], []), ([1.0], [2.0])):
        sums = answer_sums(np.array(outputs), np.array(ratings), np.arange(float(len(outputs))))
        assert math.isnan(formulas(sums.sum(axis=0))["spearman"])


def slow_pairs(ratings, prompts, answers) -> set[tuple[int, int]]:
    return {
        (one, other)
        for one, other in itertools.permutations(range(len(ratings)), 2)
        if prompts[one] == prompts[other] and ratings[one] > ratings[other] and answers[one] != answers[other]
    }


@pytest.mark.parametrize("seed", range(5))
def test_pairs(seed):
    generator = np.random.default_rng(seed)
    prompts, answers = generator.integers(0, 12, size=60), generator.integers(0, 6, size=60)
    ratings, outputs = generator.integers(0, 4, size=60).astype(float), generator.integers(0, 6, size=60) / 2
    lengths = generator.integers(5, 9, size=60)
    expected = slow_pairs(ratings, prompts, answers)
    assert set(zip(*(of.tolist() for of in rated_pairs(ratings, prompts, answers)), strict=True)) == expected
    shares = pair_shares(outputs, ratings, lengths, prompts, answers)
    right = sum(outputs[one] > outputs[other] for one, other in expected)
    equal = sum(outputs[one] == outputs[other] for one, other in expected)
    found = shares["pair_accuracy"]
    assert (found["right"], found["ties"], found["rows"]) == (right, equal, len(expected)) and equal
    longer = sum((lengths[one] > lengths[other]) + 0.5 * (lengths[one] == lengths[other]) for one, other in expected)
    assert shares["longer_wins"]["value"] == pytest.approx(longer / len(expected))
    assert found["low"] < found["value"] < found["high"]


def test_of_a_prompt_with_many_answers_some_pairs_are_drawn():
    """The share is that of all, within what a draw makes of it; other prompts keep all of theirs."""
    outputs, ratings, *_ = world(2, 700)
    prompts = np.array([0] * 1390 + [1, 1, 2, 2, 2, 3, 4, 4, 4, 4])
    answers = np.arange(1400)
    better, worse = rated_pairs(ratings, prompts, answers)
    many = prompts[better] == 0
    assert 0.6 * MOST_PAIRS < many.sum() <= MOST_PAIRS and np.all(ratings[better] > ratings[worse])
    small = slow_pairs(ratings[1390:], prompts[1390:], answers[1390:])
    assert {(one - 1390, other - 1390) for one, other in zip(better[~many], worse[~many], strict=True)} == small
    whole = [(one, other) for one, other in itertools.combinations(range(600), 2) if ratings[one] != ratings[other]]
    of_all = np.mean([(outputs[one] > outputs[other]) == (ratings[one] > ratings[other]) for one, other in whole])
    assert np.mean(outputs[better[many]] > outputs[worse[many]]) == pytest.approx(of_all, abs=4 * 0.5 / MOST_PAIRS**0.5)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_a_draw_is_that_of_a_slow_bootstrap():
    """In any number of parts; and a draw of answers, the negative control, has narrower intervals."""
    outputs, ratings, lengths, prompts = world(3, 60, answers=6)
    sums = sums_by_prompt(answer_sums(outputs, ratings, lengths), prompts, 60)
    generator = np.random.default_rng(SEED)
    slow = [np.concatenate([np.flatnonzero(prompts == n) for n in generator.integers(60, size=60)]) for _ in range(300)]
    drawn = formulas(drawn_sums(sums, 300))
    expected = {
        "squared_error": [np.mean((outputs[of] - ratings[of]) ** 2) for of in slow],
        "pearson": [stats.pearsonr(outputs[of], ratings[of]).statistic for of in slow],
        "spearman": [stats.pearsonr(ranks_of(outputs)[of], ranks_of(ratings)[of]).statistic for of in slow],
    }
    for name, values in expected.items():
        assert drawn[name] == pytest.approx(np.array(values), abs=1e-9)
    alone = formulas(drawn_sums(answer_sums(outputs, ratings, lengths), 300))
    assert np.std(alone["spearman"]) < 0.9 * np.std(drawn["spearman"])


def test_a_draw_does_not_depend_on_how_much_is_in_memory(monkeypatch):
    sums = sums_by_prompt(answer_sums(*world(3, 60)[:3]), world(3, 60)[3], 60)
    whole = drawn_sums(sums, 100)
    monkeypatch.setattr("reward_modeling.objectives.rating_statistics.NUMBERS_AT_ONCE", 60 * 7)
    assert drawn_sums(sums, 100) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("answers", "noise"), [(2, 0.8), (4, 0.2)])
def test_intervals_hold_the_true_figure_as_often_as_they_say(answers, noise):
    """In 93 to 95% of 300 worlds of 150 prompts here; the mean of a fixed sample's squares is known less well."""
    true = formulas(answer_sums(*world(999, 200_000, answers, noise)[:3]).sum(axis=0))
    held = dict.fromkeys(true, 0)
    for seed in range(300):
        *columns, prompts = world(seed, 150, answers, noise)
        sums = sums_by_prompt(answer_sums(*columns), prompts, 150)
        points, draws = formulas(sums.sum(axis=0)), formulas(drawn_sums(sums, 300))
        for name in true:
            interval = with_interval(float(points[name]), draws[name])
            held[name] += interval["low"] <= true[name] <= interval["high"]
    assert all(0.90 <= count / 300 <= 0.98 for count in held.values()), held


def test_intervals_of_what_has_none():
    assert with_interval(NAN, np.zeros(3)) == {"value": None, "low": None, "high": None}
    assert with_interval(0.5, np.full(3, NAN)) == {"value": 0.5, "low": None, "high": None}
    assert with_interval(0.5, np.array([0.6, 0.7, NAN])) == {"value": 0.5, "low": 0.5, "high": pytest.approx(0.6975)}


def evaluated(count: int, attributes: int, answers: int = 2, unknown: float = 0.4) -> EvaluatedRatings:
    generator = np.random.default_rng(0)
    quality = generator.normal(size=(count, 1))
    ratings = np.clip(np.round(2 + quality + 0.5 * generator.normal(size=(count, attributes))), 0, 4)
    known = generator.random((count, attributes)) >= unknown
    known[:, 0] |= ~known.any(axis=1)
    return EvaluatedRatings(
        where=[f"x:{number}" for number in range(count)],
        attributes=tuple(f"a{number}" for number in range(attributes)),
        outputs=2 + quality + generator.normal(size=(count, attributes)),
        ratings=np.where(known, ratings, NAN),
        ranges=np.tile([0.0, 4.0], (attributes, 1)),
        losses=generator.random(count),
        rewards=quality[:, 0],
        prompts=np.arange(count) // answers * 3,  # numbers of groups, of which some are empty
        answers=np.arange(count) % answers,
        lengths=generator.integers(10, 4000, size=count),
        others=np.zeros((count, 0)),
    )


def test_figures_of_each_attribute_are_of_the_answers_that_have_it():
    held_out = evaluated(200, 3)
    figures, metrics = rating_figures(held_out), rating_metrics(held_out)
    for place, name in enumerate(held_out.attributes):
        known = ~np.isnan(held_out.ratings[:, place])
        outputs, ratings = held_out.outputs[known, place], held_out.ratings[known, place]
        of = figures["attributes"][name]
        assert of["rows"] == known.sum() < 200 and of["outside_of_range"] == 0
        assert of["spearman"]["value"] == pytest.approx(stats.spearmanr(outputs, ratings).statistic)
        assert of["spearman"]["low"] < of["spearman"]["value"] < of["spearman"]["high"]
        assert of["mean_label_squared_error"]["value"] == pytest.approx(ratings.var())
        expected = slow_pairs(ratings, held_out.prompts[known], held_out.answers[known])
        right = sum(outputs[one] > outputs[other] for one, other in expected)
        assert of["pair_accuracy"]["value"] == pytest.approx(right / len(expected))
        assert metrics[f"spearman_{name}"] == pytest.approx(of["spearman"]["value"])
        assert metrics[f"error_{name}"] == pytest.approx(math.sqrt(of["squared_error"]["value"]) / 4)
    for name in ("spearman", "pair_accuracy"):
        mean = np.mean([of[name]["value"] for of in figures["attributes"].values()])
        assert metrics[name] == pytest.approx(mean) and figures[name] == pytest.approx(mean)
    assert metrics["loss"] == figures["loss"] == pytest.approx(held_out.losses.mean())
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_what_cannot_be_computed_is_nan_in_a_log_and_null_in_json():
    """One answer a prompt; an attribute that nobody rated here, or all alike."""
    held_out = evaluated(6, 3, answers=1, unknown=0)
    held_out.ratings[:, 1], held_out.ratings[:, 2] = NAN, 3.0
    metrics, figures = rating_metrics(held_out), rating_figures(held_out)
    assert math.isnan(metrics["pair_accuracy"]) and figures["pair_accuracy"] is None
    assert not {"spearman_a1", "error_a1", "spearman_a2"} & metrics.keys() and "error_a2" in metrics
    assert metrics["spearman"] == metrics["spearman_a0"]
    assert figures["attributes"]["a1"]["squared_error"] == {"value": None, "low": None, "high": None}
    assert figures["attributes"]["a1"]["rows"] == 0 and figures["attributes"]["a2"]["spearman"]["value"] is None
    (line,) = rating_lines({f"eval_{name}": value for name, value in metrics.items()})
    assert line.startswith("evaluation of 6 answers: loss") and "Spearman" in line and "pairs" not in line
    table = rating_table(json.loads(json.dumps(figures)) | {"step": 3, "data": "eval"})
    assert [row.split()[:2] for row in table.splitlines()[-3:]] == [["a0", "6"], ["a1", "0"], ["a2", "6"]]


def test_ratings_outside_of_the_range_are_counted():
    held_out = evaluated(50, 2)
    held_out.ranges[1] = 1, 3
    outside = int(np.isin(held_out.ratings[:, 1], [0, 4]).sum())
    figures = rating_figures(held_out)
    assert [of["outside_of_range"] for of in figures["attributes"].values()] == [0, outside] and outside
    assert f"ratings of a1 outside of the training set's range: {outside}" in rating_table(
        figures | {"step": 1, "data": "x"}
    )


def test_an_output_that_is_no_number_ends_nothing():
    held_out = evaluated(10, 2)
    assert held_out.not_finite is None
    held_out.outputs[4, 1] = NAN
    assert "not finite in 1 of 10 answers, the first x:4" in held_out.not_finite
    metrics = rating_metrics(held_out)
    assert metrics["answers"] == 10 and all(math.isnan(metrics[name]) for name in ("loss", "spearman", "pair_accuracy"))


def test_fifty_thousand_answers_with_nineteen_attributes():
    """Draws are made in parts: prompts x resamples at once would be 400 MB. 1.5 s and 160 MiB here."""
    held_out = evaluated(50_000, 19)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    rating_metrics(held_out)
    rating_figures(held_out)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert time.perf_counter() - started < 60


# --- from rows to figures ---------------------------------------------------------------------------------------------

ROWS = [
    ("which tea?", "green tea, heat the water first", (4, NAN)),
    ("which water?", "water", (1, 0)),
    ("which tea?", "tea", (NAN, 1)),
    ("which tea?", "green tea, heat the water first", (3, 1)),  # another person on the first answer
    ("which heat?", "heat it", (2, 1)),
]


@pytest.fixture
def groups(own_cache) -> PromptGroups:
    tokenizer = train_tokenizer(["which green tea, heat the water first"], 300, **TOKENIZER_STYLES["gemma"])
    rows = [
        rated_row(
            {"prompt": prompt, "response": said, "a": ratings[0], "b": ratings[1]}, f"x:{n}", ("a", "b"), ReadOptions()
        )
        for n, (prompt, said, ratings) in enumerate(ROWS)
    ]
    grouped = tokenize_and_group(Dataset.from_list(rows), tokenizer, RatingReader(("a", "b")), TokenizeOptions(64))
    return PromptGroups(grouped)


def test_answers_from_rows_to_figures(groups):
    """In the order of the data, whatever the order in which processes give them."""
    objective = Regression(RegressionFlags(attributes="a,b", label_ranges="b=0:2", weights="a=1,b=-2"))
    objective.fit(groups)
    assert len(groups) == 5 and objective.ranges == {"a": (1.0, 4.0), "b": (0.0, 2.0)}
    places = [(group, unit) for group, count in enumerate((3, 1, 1)) for unit in range(count)]
    rows = [(key, 0.5 + number, 0.1 * number, 0.5) for number, key in enumerate(places)]
    held_out = objective.held_out(rows[::-1], groups)
    assert held_out.where == ["x:0", "x:2", "x:3", "x:1", "x:4"]
    assert held_out.answers.tolist() == [0, 1, 0, 0, 0] and held_out.prompts.tolist() == [0, 0, 0, 1, 2]
    assert held_out.outputs[:, 0] == pytest.approx([1, 1.3, 1.6, 1.9, 2.2]) and set(held_out.outputs[:, 1]) == {1.0}
    assert held_out.rewards == pytest.approx([-1, -0.9, -0.8, -0.7, -0.6])
    assert held_out.losses.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    # characters of the answer, however much of it all answers of a prompt share
    assert held_out.lengths.tolist() == [31, 3, 31, 5, 7]
    first, second, *_ = held_out.score_lines()
    assert first == {
        "where": "x:0",
        "reward": pytest.approx(-1),
        "outputs": {"a": 1.0, "b": 1.0},
        "ratings": {"a": 4.0, "b": None},
    }
    assert second["ratings"] == {"a": None, "b": 1.0}
    # of one answer with two ratings there is no pair
    assert rating_figures(held_out)["attributes"]["a"]["pair_accuracy"]["rows"] == 0
    with pytest.raises(RuntimeError, match="expected each of 5 answers once, found 4"):
        objective.held_out(rows[1:], groups)


def test_intervals_of_quantiles_and_how_many_ratings_they_hold(groups):
    """The outer quantiles in order, a rating at an end inside; crossing is counted, and moves no mean."""
    import torch

    objective = QuantileRegression(RegressionFlags(attributes="a,b", loss="quantile"))
    objective.fit(groups)
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(5, 38, generator=generator).reshape(5, 2, 19)
    logits[:3] = logits[:3].sort(dim=2).values
    logits[3, 0] = 0.0  # all at the least rating, which is that of x:1
    logits = logits.reshape(5, 38)
    batch = objective.collate([[number] for number in range(5)], groups.targets().tolist())
    keys = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    values = objective.evaluated(logits, batch)
    held_out = objective.held_out([(key, *row) for key, row in zip(keys, values, strict=True)], groups)
    assert held_out.losses == pytest.approx(objective.loss(logits, batch).numpy())
    figures = objective.evaluation(held_out)
    for place, name in enumerate(("a", "b")):
        low, high = objective.ranges[name]
        inside, widths, crossed = [], [], []
        for answer, rating in enumerate(groups.targets()[:, place]):
            of = sorted(low + (high - low) * logits.reshape(5, 2, 19)[answer, place].double().numpy())
            if not math.isnan(rating):
                inside.append(of[0] <= rating <= of[-1])
                widths.append(of[-1] - of[0])
                crossed.append(answer == 4 or (answer == 3 and place == 1))
        found = figures["attributes"][name]["interval"]
        assert found["nominal"] == pytest.approx(0.9) and found["crossed"] == np.mean(crossed)
        assert (found["coverage"]["right"], found["coverage"]["rows"]) == (sum(inside), len(inside))
        assert found["width"]["value"] == pytest.approx(np.mean(widths))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    table = objective.evaluation_table(figures | {"step": 1, "data": "x"})
    assert "of 4 ratings between the outer quantiles" in table and "(meant are 90.0%)" in table.replace(
        "; meant", " (meant"
    )
    assert len(LEVELS) == 19
