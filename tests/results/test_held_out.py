"""Figures of held-out pairs: aligned with the data, the same in any order of the rows, and right."""

import itertools
import json
import math
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from reward_modeling.common.intervals import share_of_rows
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.prompt_groups import GROUP_FEATURES, TokenizeOptions, tokenize_and_group
from reward_modeling.objectives.bradley_terry import BradleyTerry, BradleyTerryFlags, PairReader
from reward_modeling.objectives.held_out_pairs import (
    EvaluatedPairs,
    by_length_difference,
    by_source,
    evaluation_lines,
    held_out_figures,
    held_out_table,
    metric_names,
)
from reward_modeling.tiny.preferences import learnable_preferences


@pytest.fixture(scope="module")
def source_rows() -> list[dict]:
    """Prompts come back after others, and some rows have no source."""
    rows = learnable_preferences(12, seed=3)
    rows = rows[::2] + rows[1::2]
    return [{**row, "source": row["source"] if number % 3 else None} for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def groups(source_rows, gemma_folder, tmp_path_factory) -> PromptGroups:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in source_rows))
    tokenizer = AutoTokenizer.from_pretrained(gemma_folder)
    rows = load_preference_dataset(str(path), num_proc=1)
    return PromptGroups(tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(512)))


@pytest.fixture(scope="module")
def rows(groups) -> list[tuple]:
    """Rewards of every pair, one of them a tie."""
    random = np.random.default_rng(0)
    keys = [(group, pair) for group, count in enumerate(groups.sizes.units_per_group) for pair in range(count)]
    rewards = random.normal((0.5, 0.0), 1.0, size=(len(keys), 2)).tolist()
    rewards[3][1] = rewards[3][0]
    return [(key, *pair, 1.0, 1.0, 0.0) for key, pair in zip(keys, rewards, strict=True)]


def evaluation_metrics(rows: list[tuple], groups: PromptGroups, label_smoothing: float = 0.0) -> dict[str, float]:
    """As the trainer computes them."""
    objective = BradleyTerry(BradleyTerryFlags(label_smoothing=label_smoothing))
    return objective.metrics(objective.held_out(rows, groups))


def shuffled(rows: list[tuple], seed: int) -> list[tuple]:
    return [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))]


def pairs_of(chosen, rejected, chosen_tokens=None, rejected_tokens=None, sources=None) -> EvaluatedPairs:
    count = len(chosen)
    lengths = [
        np.ones(count, dtype=int) if tokens is None else np.array(tokens) for tokens in (chosen_tokens, rejected_tokens)
    ]
    where = [f"rows.jsonl:{number + 1}" for number in range(count)]
    rewards = [np.array(values, dtype=float) for values in (chosen, rejected)]
    labels = (np.ones(count), np.ones(count), np.zeros(count), np.ones(count))  # probability, strength, margin, weight
    return EvaluatedPairs(where, sources or ["one"] * count, *rewards, *labels, *lengths, np.arange(count))


# --- aligned with the data --------------------------------------------------------------------------------------


def test_every_line_is_of_its_own_row(groups, rows, source_rows):
    """Rewards, lengths and sources against the rows of the file and the groups read one by one."""
    pairs = EvaluatedPairs.from_rows(shuffled(rows, 1), groups)
    lines = list(pairs.score_lines())
    assert len(lines) == len(rows) == len(source_rows)
    for line, ((group, pair), chosen, rejected, *_) in zip(lines, rows, strict=True):
        written = groups.groups[group]
        row = source_rows[int(line["where"].rpartition(":")[2]) - 1]
        assert line["where"] == written["where"][pair]
        assert line["source"] == (row["source"] or "no source")
        assert (line["chosen_reward"], line["rejected_reward"]) == (chosen, rejected)
        assert line["margin"] == chosen - rejected
        for side, number in zip(("chosen", "rejected"), written["units"][pair], strict=True):
            assert line[f"{side}_tokens"] == len(written["completion_ids"][number])
    assert len({line["where"] for line in lines}) == len(lines)


def test_any_order_and_any_number_of_processes_give_the_same(groups, rows):
    expected = evaluation_metrics(rows, groups, 0.1)
    for seed in range(3):
        parts = shuffled(rows, seed)
        assert evaluation_metrics(parts[1::2] + parts[0::2], groups, 0.1) == expected
    moved = [(key, rejected, chosen, *labels) for key, chosen, rejected, *labels in rows[:1]] + rows[1:]
    assert evaluation_metrics(moved, groups, 0.1) != expected


@pytest.mark.parametrize(
    "change", [lambda rows: rows[:-1], lambda rows: [*rows, rows[0]], lambda rows: [*rows[1:], rows[1]]]
)
def test_each_pair_once(groups, rows, change):
    with pytest.raises(RuntimeError, match="expected each of"):
        evaluation_metrics(change(rows), groups)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_named(groups, rows, value, caplog):
    key, chosen, _, *labels = rows[5]
    broken = [*rows[:5], (key, chosen, value, *labels), *rows[6:]]
    metrics = evaluation_metrics(broken, groups)
    expected = evaluation_metrics(rows, groups).keys() - {
        "accuracy_question",
        "accuracy_follow_up",
        "accuracy_no_source",
    }
    assert metrics.keys() == expected and metrics.pop("pairs") == len(rows)
    assert all(math.isnan(figure) for figure in metrics.values())
    assert re.search(r"not finite in 1 of .*rows\.jsonl:\d+", caplog.text)
    assert len(evaluation_lines({f"eval_{name}": figure for name, figure in (metrics | {"pairs": 9}).items()})) == 1


# --- the numbers ------------------------------------------------------------------------------------------------


def test_figures_by_hand(groups, rows):
    figures = held_out_figures(EvaluatedPairs.from_rows(rows, groups))
    right = sum(chosen > rejected for _, chosen, rejected, *_ in rows)
    rewards = [reward for _, *pair, _, _, _ in rows for reward in pair]
    assert figures["accuracy"]["right"] == right and figures["accuracy"]["ties"] == 1
    assert figures["accuracy"]["value"] == right / len(rows)
    assert figures["accuracy"]["low"] < right / len(rows) < figures["accuracy"]["high"]
    assert figures["reward_mean"] == pytest.approx(statistics.fmean(rewards))
    assert figures["reward_std"] == pytest.approx(statistics.pstdev(rewards))
    assert figures["margins"]["mean"] == pytest.approx(statistics.fmean(c - r for _, c, r, *_ in rows))
    sides = figures["by_length"].values()
    assert sum(side["rows"] for side in sides) == figures["pairs"] == len(rows)
    histogram = figures["rewards"]
    assert sum(histogram["chosen"]) == sum(histogram["rejected"]) == len(rows)
    assert len(histogram["edges"]) == 41 and all(low < high for low, high in itertools.pairwise(histogram["edges"]))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_metrics_are_the_figures(groups, rows):
    metrics, figures = evaluation_metrics(rows, groups), held_out_figures(EvaluatedPairs.from_rows(rows, groups))
    by_hand = [math.log1p(math.exp(rejected - chosen)) for _, chosen, rejected, *_ in rows]
    assert metrics["loss"] == pytest.approx(statistics.fmean(by_hand))
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == (
        figures["accuracy"]["low"],
        figures["accuracy"]["high"],
    )
    assert metrics["longer_wins"] == figures["longer_wins"]["value"]
    named = {name.removeprefix("accuracy_"): value for name, value in metrics.items() if name.startswith("accuracy_")}
    assert named.keys() == {"low", "high", "no_source", "question", "follow_up"}
    assert named["question"] == figures["by_source"]["question"]["value"]
    margins = [(key, chosen, rejected, 1.0, 1.0, 0.5) for key, chosen, rejected, *_ in rows]
    assert evaluation_metrics(margins, groups)["loss"] > metrics["loss"]


def test_sources_beyond_fifty_are_one():
    sources = [f"s{number}" for number in range(53) for _ in range(2 if number < 50 else 1)]
    pairs = pairs_of([1.0] * len(sources), [0.0] * (len(sources) - 1) + [2.0], sources=sources)
    entries = by_source(pairs)
    assert len(entries) == 51
    assert entries["3 other sources"]["rows"] == 3 and entries["3 other sources"]["right"] == 2
    assert sum(entry["rows"] for entry in entries.values()) == len(sources)


def test_names_of_sources_hide_no_other_metric():
    names = metric_names(["low", "a/b", "a b", "a_b", "é" * 100], taken=["accuracy", "accuracy_low", "accuracy_high"])
    assert names["low"] == "accuracy_low_2"
    assert [names[source] for source in ("a/b", "a b", "a_b")] == ["accuracy_a_b", "accuracy_a_b_2", "accuracy_a_b_3"]
    assert len(set(names.values())) == 5


@pytest.mark.parametrize("seed", range(20))
def test_bins_of_the_length_difference_hold_every_pair_once(seed):
    random = np.random.default_rng(seed)
    count, largest = int(random.integers(1, 200)), int(random.choice([0, 1, 3, 50, 4000]))
    tokens = random.integers(1, largest + 2, size=(2, count))
    pairs = pairs_of(*random.normal(size=(2, count)), *tokens)
    bins = by_length_difference(pairs)
    difference = (tokens[0] - tokens[1]).tolist()
    assert 1 <= len(bins) <= 8
    assert all(one["from"] <= one["to"] for one in bins)
    assert all(one["to"] < after["from"] for one, after in itertools.pairwise(bins))
    for one in bins:
        inside = [number for number, value in enumerate(difference) if one["from"] <= value <= one["to"]]
        assert one["rows"] == len(inside) > 0
        assert one["right"] == sum(pairs.chosen[number] > pairs.rejected[number] for number in inside)
    assert sum(one["rows"] for one in bins) == count


def test_one_pair_and_equal_rewards():
    figures = held_out_figures(pairs_of([0.0], [0.0]))
    assert figures["accuracy"]["value"] == 0 and figures["accuracy"]["ties"] == 1
    assert figures["rewards"]["edges"][0] < 0 < figures["rewards"]["edges"][-1]
    json.dumps(figures, allow_nan=False)


def test_an_empty_source_column_is_no_source():
    record = {name: [[]] for name in GROUP_FEATURES} | {"prefix_ids": [[1, 2]], "prefix_length": [2]}
    record |= {
        "completion_ids": [[[3], [4, 5]]],
        "completion_lengths": [[1, 2]],
        "shared_lengths": [[0, 0]],
        "truncated_units": [0],
    }
    record |= {"weights": [[1.0]], "shares": [[1.0]]}
    record |= {
        "units": [[[0, 1]]],
        "targets": [[[1.0, 1.0, 0.0]]],
        "sources": [[""]],
        "where": [["a:1"]],
    }
    groups = PromptGroups(Dataset.from_dict(record, features=GROUP_FEATURES))
    pairs = EvaluatedPairs.from_rows([((0, 0), 1.0, 0.0, 1.0, 1.0, 0.0)], groups)
    assert pairs.sources == ["no source"]
    assert "accuracy_no_source" not in evaluation_metrics([((0, 0), 1.0, 0.0, 1.0, 1.0, 0.0)], groups)


# --- labels -----------------------------------------------------------------------------------------------------


def labelled(pairs: EvaluatedPairs, **columns) -> EvaluatedPairs:
    return replace(pairs, **{name: np.array(values) for name, values in columns.items()})


def test_ties_are_counted_apart():
    pairs = labelled(pairs_of([2.0, 0.0, 1.0], [1.0, 1.0, 0.5]), probabilities=[1.0, 0.7, 0.5])
    objective = BradleyTerry(BradleyTerryFlags(ties="davidson", tie_threshold=1.5))
    metrics = objective.metrics(pairs)
    predicted = [1.5 / (2 * math.cosh(distance / 2) + 1.5) for distance in (1.0, 1.0, 0.5)]
    assert (metrics["pairs"], metrics["ties"], metrics["accuracy"]) == (3, 1, 0.5)
    assert metrics["predicted_ties"] == pytest.approx(predicted[2])
    assert metrics["predicted_ties_of_others"] == pytest.approx(statistics.fmean(predicted[:2]))
    lines = evaluation_lines({f"eval_{name}": value for name, value in metrics.items()})
    assert lines[0].startswith("evaluation of 3 pairs, 1 of them ties: loss ") and " 50.0% right (" in lines[0]
    shares = [f"{100 * metrics[name]:.1f}%" for name in ("predicted_ties", "predicted_ties_of_others")]
    assert lines[1] == f"probability of a tie by the model: {shares[0]} on ties, {shares[1]} on other pairs"
    table = held_out_table({"step": 7, "epoch": 1.0, "data": "x", **objective.evaluation(pairs)})
    assert "the 2 rows that are no ties" in table and "ties: 1; mean distance of the rewards 0.5 of ties" in table
    without = BradleyTerry(BradleyTerryFlags()).metrics(pairs)
    assert without["ties"] == 1 and "predicted_ties" not in without


def test_ties_alone_have_no_accuracy_and_break_nothing():
    pairs = labelled(pairs_of([2.0, 0.0], [1.0, 1.0]), probabilities=[0.5, 0.5])
    objective = BradleyTerry(BradleyTerryFlags())
    metrics = objective.metrics(pairs)
    assert math.isnan(metrics["accuracy"]) and math.isnan(metrics["margin"]) and metrics["loss"] > 0
    (line,) = evaluation_lines({f"eval_{name}": value for name, value in metrics.items()})
    assert line.startswith("evaluation of 2 pairs, all of them ties: loss ") and "nan" not in line
    figures = objective.evaluation(pairs)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert "all rows are ties" in held_out_table({"step": 7, "epoch": 1.0, "data": "x", **figures})


def test_training_on_ties_alone_logs_what_there_is():
    """A step without a pair to compare has no accuracy and no margin, rather than figures that are no numbers."""
    objective = BradleyTerry(BradleyTerryFlags())
    logits = torch.tensor([[1.0], [0.0]])
    units, targets = [(0, 1)], [(0.5, 1.0, 0.0)]
    figures = objective.figures(objective.sums(logits, objective.collate(units, targets)).tolist())
    assert figures == {"reward_mean": 0.5, "reward_std": 0.5}
    preferred = objective.sums(logits, objective.collate(units, [(0.6, 1.0, 0.0)])).tolist()
    assert objective.figures(preferred).keys() == {"accuracy", "margin", "reward_mean", "reward_std"}


def test_pairs_of_one_prompt_are_taken_together(groups, rows):
    """Every interval is that of its prompts, which are the groups; without them it is narrower."""
    pairs = EvaluatedPairs.from_rows(shuffled(rows, 2), groups)
    assert pairs.prompts.tolist() == [group for (group, _), *_ in rows]
    figures, alone = held_out_figures(pairs), held_out_figures(labelled(pairs, prompts=range(len(pairs))))
    assert figures["prompts"] == len(groups.sizes) and "prompts" not in alone
    right = np.array([chosen > rejected for _, chosen, rejected, *_ in rows])
    assert figures["accuracy"] == share_of_rows(right, pairs.chosen == pairs.rejected, pairs.prompts)
    assert figures["accuracy"]["value"] == alone["accuracy"]["value"]
    copied = labelled(pairs, chosen=pairs.chosen * 0 + right[pairs.prompts], rejected=[0.5] * len(pairs))
    widths = [
        held_out_figures(labelled(copied, prompts=of))["accuracy"] for of in (pairs.prompts, np.arange(len(pairs)))
    ]
    together, apart = (one["high"] - one["low"] for one in widths)
    assert together > 1.2 * apart


# --- what is shown ----------------------------------------------------------------------------------------------


def test_an_evaluation_is_one_line_and_its_worst_sources():
    sources = [f"source {number:02}" for number in range(12) for _ in range(2)]
    chosen = [1.0] * len(sources)
    chosen[:2] = [-1.0, -1.0]
    pairs = pairs_of(chosen, [0.0] * len(sources), sources=sources)
    metrics = {"loss": 0.3} | dict.fromkeys(("margin", "reward_mean", "reward_std", "calibration_error"), 0.5)
    metrics |= {
        "accuracy": 11 / 12,
        "accuracy_low": 0.7,
        "accuracy_high": 0.98,
        "longer_wins": 0.5,
        "pairs": len(pairs),
    }
    entries = by_source(pairs)
    names = metric_names(entries, taken=metrics)
    metrics |= {names[source]: entry["value"] for source, entry in entries.items()}
    lines = evaluation_lines({f"eval_{name}": value for name, value in metrics.items()} | {"epoch": 1.0})
    assert len(lines) == 2
    assert "evaluation of 24 pairs" in lines[0] and "91.7% right (70.0-98.0" in lines[0]
    assert lines[1].startswith("by source: source_00 0.0, ") and lines[1].endswith("and 4 better ones")


def test_table_of_the_final_model(groups, rows):
    figures = held_out_figures(EvaluatedPairs.from_rows(rows, groups))
    table = held_out_table({"step": 7, "epoch": 1.0, "data": "held out of x", "loss": 0.5, **figures})
    for name, entry in figures["by_source"].items():
        (line,) = (line for line in table.splitlines() if line.split("  ")[1:2] == [name])
        assert line.split()[-2:] == [str(entry["rows"]), str(entry["ties"])]
    assert max(map(len, table.splitlines())) <= 100
