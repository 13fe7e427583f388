"""The figures of held-out steps against formulas that are written out, and their intervals against slow draws."""

import math

import numpy as np
import pytest
from stepped_rows import held_out

from reward_modeling.common.step_statistics import area_under_curve, step_statistics
from reward_modeling.objectives.held_out_steps import step_figures, step_lines, step_metrics, step_table
from reward_modeling.objectives.step_statistics import (
    UNKNOWN,
    area_with_interval,
    constant_loss,
    first_error,
    harmonic,
)

NAN = math.nan


SOLUTIONS = [
    (0, [0.9, 0.8, 0.3], [1, 1, 0]),  # its first error is found
    (0, [0.9, 0.4, 0.3], [1, 1, 0]),  # seen too early
    (1, [0.7, 0.6], [1, 0.9]),  # none, and none is seen
    (2, [0.2, 0.9], [1, 1]),  # one is seen
    (3, [0.6, 0.5, 0.9], [1, 0, NAN]),  # not seen, since one half says right; later steps are not known
    (4, [0.9, 0.1], [NAN, 0]),  # not known which is the first
    (5, [0.75], [0.5]),  # neither
]


def test_every_figure_by_hand():
    figures = step_figures(held_out(SOLUTIONS))
    assert (figures["solutions"], figures["prompts"]) == (7, 6)
    assert figures["steps"] == {"all": 16, "labelled": 14, "right": 9, "wrong": 4}
    # of .9 .8 .9 .4 .7 .6 .2 .9 .6 two are below one half
    assert figures["found_right"]["rows"] == 9 and figures["found_right"]["right"] == 7
    # of .3 .3 .5 .1 one is not
    assert figures["found_wrong"]["rows"] == 4 and figures["found_wrong"]["right"] == 3
    assert figures["step_accuracy"]["value"] == pytest.approx((7 + 3) / (9 + 4))
    # of prompts 0, 0, 3 the first alone
    assert figures["first_error"]["with_error"]["rows"] == 3 and figures["first_error"]["with_error"]["right"] == 1
    assert figures["first_error"]["without_error"]["rows"] == 2
    assert figures["first_error"]["f1"]["value"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    values = {"min": 0.6, "product": 0.42, "last": 0.6, "mean": 0.65}
    aggregated = held_out(SOLUTIONS).aggregated
    assert {name: aggregated[name][2] for name in aggregated} == pytest.approx(values)
    assert figures["reward_mean"] == pytest.approx(aggregated["product"].mean())


def test_a_solution_whose_labels_end_before_it_is_not_one_without_a_wrong_step():
    """Its steps count; only where it has a wrong step is its first error known. The control has no such solutions."""
    whole, cut = step_figures(held_out(SOLUTIONS)), step_figures(held_out(SOLUTIONS, unfinished=[0, 2]))
    assert whole["first_error"]["with_error"] == cut["first_error"]["with_error"]
    assert (whole["first_error"]["without_error"]["rows"], cut["first_error"]["without_error"]["rows"]) == (2, 1)
    assert cut["first_error"]["without_error"]["right"] == 0 and cut["first_error"]["f1"]["value"] == 0
    # products of those with an error: 0.216, 0.108, 0.27; without: 0.42 (not known), 0.18
    assert whole["aggregations"]["product"]["value"] == pytest.approx(4 / 6)
    assert cut["aggregations"]["product"]["value"] == pytest.approx(1 / 3)
    assert step_metrics(held_out(SOLUTIONS, unfinished=[0, 2]))["first_error_f1"] == 0
    same = ("solutions", "loss", "steps", "step_accuracy", "auc", "calibration_error")
    assert {name: whole[name] for name in same} == {name: cut[name] for name in same}


def test_losses_and_calibration_by_hand():
    """The loss is a mean over steps, and not over solutions; the figures of calibration take labels of one half."""
    solutions = [
        (0, [0.9, 0.4, 0.8], [1, 0.1, NAN]),
        (0, [0.7], [0.5]),
        (1, [0.6, 0.3], [1, 1]),
        (2, [0.2, 0.9], [0, 0.9]),
    ]
    figures = step_figures(held_out(solutions))
    assert figures["steps"] == {"all": 8, "labelled": 7, "right": 4, "wrong": 2}
    assert figures["step_accuracy"]["value"] == pytest.approx(5 / 6)  # 0.3 of a right step is wrong
    assert figures["always_the_same"]["value"] == pytest.approx(4 / 6)
    assert (figures["found_right"]["value"], figures["found_wrong"]["value"]) == pytest.approx((3 / 4, 1))
    assert figures["balanced_accuracy"]["value"] == pytest.approx(7 / 8)
    assert figures["auc"]["value"] == pytest.approx(7 / 8)  # of 0.9 0.6 0.3 0.9 against 0.4 0.2, one pair is wrong
    # with an error: the first at its second step, the last at its first; without: one, whose second step is taken
    # for wrong; a label of one half says neither
    errors = figures["first_error"]
    assert (errors["with_error"]["value"], errors["with_error"]["rows"]) == (1.0, 2)
    assert (errors["without_error"]["value"], errors["f1"]["value"]) == (0.0, 0.0)
    mean = (1 + 0.1 + 0.5 + 1 + 1 + 0 + 0.9) / 7
    assert figures["constant_loss"] == pytest.approx(-mean * math.log(mean) - (1 - mean) * math.log(1 - mean))
    # bins: 0.9 and 0.9 with 1 and 0.9, 0.4 with 0.1, 0.7 with 0.5, 0.6 with 1, 0.3 with 1, 0.2 with 0
    off = abs(1.8 - 1.9) + abs(0.4 - 0.1) + abs(0.7 - 0.5) + abs(0.6 - 1) + abs(0.3 - 1) + abs(0.2 - 0)
    assert figures["calibration_error"]["value"] == pytest.approx(off / 7)
    known = [(0.9, 1), (0.4, 0.1), (0.7, 0.5), (0.6, 1), (0.3, 1), (0.2, 0), (0.9, 0.9)]
    losses = [-label * math.log(p) - (1 - label) * math.log(1 - p) for p, label in known]
    assert figures["loss"] == pytest.approx(sum(losses) / len(losses))


def test_the_figures_of_a_benchmark_are_those_of_held_out_steps():
    """`step_statistics`, which has no draws, of the same steps; also of probabilities on the edge of a bin."""
    solutions = [*SOLUTIONS, (6, [0.3, 0.7, 0.58, 0.995, 0.005], [0, 1, 1, 1, 0])]
    figures = step_figures(held_out(solutions))
    rows = [(p, label, prompt) for prompt, of, known in solutions for p, label in zip(of, known, strict=True)]
    found = step_statistics(*zip(*(row for row in rows if not math.isnan(row[1])), strict=True))
    for name in ("calibration_error", "auc"):
        assert found[name] == pytest.approx(figures[name]["value"])
    assert found["accuracy"] == figures["step_accuracy"] and found["calibration"] == figures["calibration"]
    assert [row["rows"] for row in found["calibration"]] == [1, 1, 1, 3, 1, 2, 2, 3, 1, 4]


def written_out(solutions: list[tuple]) -> dict[str, float]:
    """Loops alone."""
    right, wrong, terms, erring, whole = [], [], [], [], []
    for _, probabilities, labels in solutions:
        for p, y in zip(probabilities, labels, strict=True):
            if math.isnan(y):
                continue
            terms.append(-(y * math.log(p) + (1 - y) * math.log(1 - p)))
            if y != 0.5:
                (right if y > 0.5 else wrong).append(p)
        truth = next((n for n, y in enumerate(labels) if not y > 0.5), -1)
        if truth >= 0 and not labels[truth] < 0.5:
            continue
        seen = next((n for n, p in enumerate(probabilities) if p < 0.5), -1)
        (whole if truth == -1 else erring).append(seen == truth)
    one, other = (sum(p >= 0.5 for p in right) / len(right), sum(p < 0.5 for p in wrong) / len(wrong))
    a, b = sum(erring) / len(erring), sum(whole) / len(whole)
    pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for p in right for q in wrong]
    hits = sum(p >= 0.5 for p in right) + sum(p < 0.5 for p in wrong)
    return {
        "loss": sum(terms) / len(terms),
        "step_accuracy": hits / (len(right) + len(wrong)),
        "balanced_accuracy": (one + other) / 2,
        "auc": sum(pairs) / len(pairs),
        "first_error_f1": 2 * a * b / (a + b) if a + b else 0.0,
    }


def random_solutions(count: int, seed: int) -> list[tuple]:
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        steps = int(draw.integers(1, 7))
        labels = [
            float(draw.choice([0, 0.2, 0.5, 0.9, 1, NAN], p=[0.1, 0.05, 0.05, 0.2, 0.5, 0.1])) for _ in range(steps)
        ]
        if all(map(math.isnan, labels)):
            labels[0] = 1.0
        shown = [0.3 if math.isnan(label) else label for label in labels]
        probabilities = [float(np.clip(round(0.5 * y + draw.uniform(0, 0.5), 2), 0.01, 0.99)) for y in shown]
        made.append((number // 3, probabilities, labels))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_loops(seed):
    solutions = random_solutions(80, seed)
    metrics, expected = step_metrics(held_out(solutions)), written_out(solutions)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    figures = step_figures(held_out(solutions))
    assert figures["loss"] == pytest.approx(expected["loss"])
    assert figures["step_accuracy"]["value"] == pytest.approx(expected["step_accuracy"])
    for name in ("balanced_accuracy", "auc"):
        assert figures[name]["value"] == pytest.approx(expected[name])
    assert figures["first_error"]["f1"]["value"] == pytest.approx(expected["first_error_f1"])


@pytest.mark.parametrize("figure", ["auc", "balanced_accuracy", "first_error_f1"])
def test_intervals_are_those_of_prompts_drawn_one_by_one(figure):
    """The negative control draws single solutions, of which three to a prompt say the same: it is too narrow."""
    alike = [
        (prompt, [p + 0.001 * copy for p in of], known)
        for prompt, of, known in [(number, *rest) for number, (_, *rest) in enumerate(random_solutions(50, 7))]
        for copy in range(3)
    ]
    figures = step_figures(held_out(alike))
    found = figures["first_error"]["f1"] if figure == "first_error_f1" else figures[figure]
    draw, widths = np.random.default_rng(1), {}
    by_prompt = [alike[start : start + 3] for start in range(0, len(alike), 3)]
    for name, units in (("prompts", by_prompt), ("solutions", [[one] for one in alike])):
        values = []
        for _ in range(400):
            drawn = [one for number in draw.integers(len(units), size=len(units)) for one in units[number]]
            values.append(written_out(drawn)[figure])
        low, high = np.quantile(values, [0.025, 0.975])
        widths[name] = high - low
    assert found["high"] - found["low"] == pytest.approx(widths["prompts"], rel=0.2)
    assert widths["solutions"] < 0.75 * widths["prompts"]


def test_area_with_weights_is_that_of_repeated_steps():
    draw = np.random.default_rng(0)
    probabilities, is_right = draw.integers(0, 6, size=40) / 5, draw.random(40) < 0.6
    weights = draw.integers(0, 4, size=(3, 40)).astype(float)
    for found, of in zip(area_under_curve(probabilities, is_right, weights), weights, strict=True):
        p, kinds = (np.repeat(each, of.astype(int)) for each in (probabilities, is_right))
        assert found == pytest.approx(float(area_under_curve(p, kinds)[0]))
    assert math.isnan(area_under_curve(probabilities, np.ones(40, dtype=bool))[0])
    assert area_with_interval(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0))["value"] is None


def test_edges():
    assert first_error([1, 0.5, 0]) == UNKNOWN and first_error([0.9, NAN]) == UNKNOWN and first_error([1, 0, NAN]) == 1
    assert first_error([0.2]) == 0 and first_error([1, NAN, 0]) == UNKNOWN and first_error([1, 1]) == -1
    assert harmonic(np.array([3.0, 0, 2, 0])) == 0 and math.isnan(harmonic(np.array([0.0, 0, 2, 1])))
    assert constant_loss(np.array([1.0, 1])) == 0
    assert constant_loss(np.array([1.0, 0.5])) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_not_finite_outputs_have_no_figures():
    broken = held_out(SOLUTIONS)
    broken.probabilities[3][0] = NAN
    assert "in 1 of 7 solutions, the first rows:3" in broken.not_finite
    assert math.isnan(step_metrics(broken)["auc"]) and step_metrics(broken)["solutions"] == 7


def test_text():
    evaluation = {"step": 4, "data": "rows", **step_figures(held_out(SOLUTIONS))}
    said = step_table(evaluation)
    assert "9 right and 4 wrong steps" in said and "first errors, F1" in said
    logs = {f"eval_{name}": value for name, value in step_metrics(held_out(SOLUTIONS)).items()}
    assert step_lines(logs)[0].startswith("evaluation of 7 solutions: loss ")
