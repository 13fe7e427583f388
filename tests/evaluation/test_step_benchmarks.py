"""ProcessBench and PRMBench: formulas by hand, and the script on a process model against plain transformers."""

import json
import random
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import evaluate, flags, read_lines, run_evaluation
from processes import fork
from runs import ROOT, as_argv, write_rows
from step_models import PROCESS, QUESTIONS, TEXTS, plain_probabilities, save_process_model
from test_comparison import run_compare
from tiny_families import tiny_config
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import estimate
from reward_modeling.common.step_statistics import step_statistics
from reward_modeling.data.conversations import Tokens
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.prmbench import CLASS_ROWS, prmbench_scores
from reward_modeling.evaluation.benchmarks.processbench import SPLIT_ROWS, best_threshold, is_right, tuned_part
from reward_modeling.evaluation.benchmarks.reading import fingerprint, read_benchmark
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.scoring import StepScorer
from reward_modeling.tiny.quickstart import rewardbench_like_rows
from reward_modeling.tiny.tokenizers import token_ids

PROCESSBENCH, PRMBENCH = BENCHMARKS["processbench"], BENCHMARKS["prmbench"]


def figures_of(benchmark: Benchmark, rows: list[ScoredRow]) -> dict[str, float]:
    values = benchmark.values(rows)
    return {name: figure.value for name, figure in estimate(benchmark.formula_of(values), values).items()}


def scored(subset: str, right: list[float], wrong: list[float] = ()) -> ScoredRow:
    return ScoredRow(0, subset, np.array(right, dtype=float), np.array(wrong, dtype=float))


def random_row(draw: random.Random, subset: str) -> ScoredRow:
    steps = [round(draw.random(), 2) for _ in range(draw.randint(0, 4))]
    return scored(subset, steps, [round(draw.random(), 2)] if draw.random() < 0.5 or not steps else [])


# --- ProcessBench ---------------------------------------------------------------------------------------------


def test_processbench_by_hand():
    """The first step below 0.5 must be the first wrong one; one of just 0.5 is right."""
    rows = [
        scored("gsm8k", [0.9, 0.5], [0.4]),  # right
        scored("gsm8k", [0.9, 0.4], [0.1]),  # too early
        scored("gsm8k", [0.9], [0.6]),  # not seen
        scored("gsm8k", [], [0.2]),  # right: the first step
        scored("gsm8k", [0.9, 0.8]),  # right
        scored("gsm8k", [0.9, 0.8, 0.49]),
        scored("gsm8k", [0.5]),  # right
    ]
    figures = figures_of(PROCESSBENCH, rows)
    assert figures["gsm8k erroneous"] == 0.5
    assert figures["gsm8k correct"] == pytest.approx(2 / 3)
    assert figures["gsm8k"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert np.isnan([figures["math"], figures["overall"]]).all()


def test_processbench_is_the_mean_of_four_and_zero_where_both_accuracies_are():
    rows = [scored(split, [0.9], [0.1]) for split in SPLIT_ROWS] + [scored(split, [0.9]) for split in SPLIT_ROWS]
    assert figures_of(PROCESSBENCH, rows)["overall"] == 1
    rows = [row for row in rows if row.subset != "math"] + [scored("math", [0.4], [0.9]), scored("math", [0.1])]
    figures = figures_of(PROCESSBENCH, rows)
    assert (figures["math"], figures["overall"]) == (0, 0.75)


def test_a_tuned_threshold_is_the_best_one():
    draw = random.Random(0)
    for seed in range(20):
        draw.seed(seed)
        rows = [random_row(draw, "gsm8k") for _ in range(30)]
        erroneous = [row for row in rows if len(row.rejected)]
        correct = [row for row in rows if not len(row.rejected)]

        def f1(threshold, erroneous=erroneous, correct=correct):
            one, other = (np.mean([is_right(row, threshold) for row in of]) for of in (erroneous, correct))
            return 2 * one * other / (one + other) if one + other else 0

        best = max(map(f1, np.linspace(0.0025, 0.9975, 399)))
        assert f1(best_threshold(rows)) == pytest.approx(best)


def test_a_threshold_is_tuned_on_one_split_and_used_on_all():
    """Probabilities of gsm8k are half of what they mean."""
    rows = [scored("gsm8k", [0.4], [0.2]), scored("gsm8k", [0.45]), scored("math", [0.4], [0.2]), scored("math", [0.2])]
    part = tuned_part("gsm8k", rows)["tuned"]
    assert part["on"] == "gsm8k"
    assert 0.2 < part["threshold"] < 0.4
    assert (part["figures"]["gsm8k"]["value"], part["figures"]["math"]["value"]) == (1, 0)
    assert part["figures"]["overall"]["value"] is None
    assert "tuned" not in tuned_part("omnimath", rows)
    with pytest.raises(UserError, match="expected erroneous and correct answers"):
        best_threshold(rows[:1])


# --- PRMBench -------------------------------------------------------------------------------------------------


def test_prmbench_by_hand():
    """Valid: 3 of 4 seen; wrong: 1 of 2 seen. F1 of valid 6/8, of wrong 2/4."""
    rows = [scored("circular", [0.9, 0.5, 0.1], [0.2]), scored("circular", [0.8], [0.7])]
    assert figures_of(PRMBENCH, rows)["circular"] == pytest.approx((6 / 8 + 2 / 4) / 2)


def test_prmbench_pools_all_steps_and_has_f1_alone_where_nothing_is_wrong():
    rows = [scored(name, [0.9], [0.1]) for name in CLASS_ROWS if name != "multi_solutions"]
    rows += [scored("multi_solutions", [0.9, 0.9, 0.1])] * 2
    figures = figures_of(PRMBENCH, rows)
    assert figures["multi_solutions"] == pytest.approx(8 / 10)
    assert figures["circular"] == 1
    # pooled: 12 valid ones seen, 2 valid ones missed, 8 wrong ones seen
    assert figures["overall"] == pytest.approx((24 / 26 + 16 / 18) / 2)
    assert np.isnan(figures_of(PRMBENCH, rows[1:])["overall"])


# Of the first rows of each class that were published (ssmisya/PRMBench): rows, valid steps, wrong steps.
PUBLISHED_STEPS = {
    "redundency": (200, 2707, 382),
    "circular": (200, 1587, 579),
    "counterfactual": (200, 2288, 541),
    "step_contradiction": (200, 2531, 330),
    "domain_inconsistency": (200, 2366, 358),
    "confidence": (200, 2560, 355),
    "missing_condition": (200, 2072, 498),
    "deception": (200, 2294, 465),
    "multi_solutions": (167, 2368, 0),
}


def prmbench_of(share: float) -> dict[str, float]:
    """Where this share of valid and of wrong steps is said to be valid, over the classes in their published sizes."""
    means = {
        name: np.array([valid * share, wrong * share, wrong * (1 - share), valid * (1 - share)]) / rows
        for name, (rows, valid, wrong) in PUBLISHED_STEPS.items()
    }
    return {name: float(score) for name, score in prmbench_scores(means, CLASS_ROWS).items()}


def test_prmbench_of_all_valid_and_of_a_coin():
    """Of the published rows that are at hand 45.78 and 43.27 percent, by the formula and by hand."""
    steps = {side: sum(CLASS_ROWS[name] * of[side] / of[0] for name, of in PUBLISHED_STEPS.items()) for side in (1, 2)}
    valid, wrong = (steps[side] / sum(steps.values()) for side in (1, 2))
    # 2 TP / (2 TP + FP + FN): all valid has TP = valid and FP = wrong, a coin half of each in all four places
    by_hand = {1.0: valid / (2 * valid + wrong), 0.5: (valid / (valid + 0.5) + wrong / (wrong + 0.5)) / 2}
    for share, expected in ((1.0, 0.4578), (0.5, 0.43275)):
        found = prmbench_of(share)
        assert found["overall"] == pytest.approx(expected, abs=5e-5)
        assert found["overall"] == pytest.approx(by_hand[share], abs=1e-12)
    assert prmbench_of(1.0)["multi_solutions"] == 1
    assert prmbench_of(0.5)["multi_solutions"] == pytest.approx(2 / 3)  # F1 alone: the negative F1 would halve it
    pooled, of_classes = prmbench_of(1.0)["overall"], np.mean([prmbench_of(1.0)[name] for name in CLASS_ROWS])
    assert abs(pooled - of_classes) > 0.05  # all steps together, and not the mean of the classes


def test_the_published_figures_of_prmbench_belong_together():
    """All valid is 45.7, so 84.2% of the steps are valid; a fair coin has then 43.4, which was published too."""
    share = 0.457 / (1 - 0.457)
    rows = [
        scored(name, np.repeat([0.9, 0.1], round(500 * share)), np.repeat([0.9, 0.1], 500 - round(500 * share)))
        for name in CLASS_ROWS
        if name != "multi_solutions"
    ]
    rows.append(scored("multi_solutions", []))  # no steps: it changes nothing
    assert figures_of(PRMBENCH, rows)["overall"] == pytest.approx(0.434, abs=5e-4)
    assert PRMBENCH.guessing == "guessing, 43% (a fair coin; 45.7 where every step is said to be valid)"


def prm_row(number: int, name: str = "circular", errors: tuple = (2,), steps=TEXTS[:3], **more) -> dict:
    row = {"modified_question": QUESTIONS[number % 6], "modified_process": [f"1. {steps[0]}", *steps[1:]]}
    return row | {"error_steps": list(errors), "classification": name, "idx": f"{name}_{number}"} | more


def test_prmbench_rows(tmp_path):
    rows = [
        prm_row(1),
        prm_row(2, errors=(1, 9)),  # a step that does not exist
        prm_row(1, steps=TEXTS[3:]),  # repeated: the first counts
        prm_row(1, "deception"),  # of another class
        prm_row(3, "multi_solutions", ()),
        prm_row(4, modified_question=None, question="What else?"),
        {**prm_row(5), "idx": None},
        {**prm_row(5), "idx": None},  # repeated: the same answer
    ]
    read = read_benchmark("prmbench", str(write_rows(tmp_path / "prm.jsonl", rows)))
    labels = [list(row) for row in read.rows["step_labels"]]
    assert labels == [[1, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]]
    assert read.rows["subset"][:] == ["circular"] * 2 + ["deception", "multi_solutions"] + ["circular"] * 2
    assert read.rows[0]["steps"][0] == f"1. {TEXTS[0]}"
    assert json.loads(read.rows[4]["prompt"])[0]["content"] == "What else?"
    for wrong, words in (
        ({"error_steps": ["2"]}, r"numbers from 1, found \['2'\]"),
        ({"error_steps": [0, 2]}, r"numbers from 1, found \[0, 2\]"),  # counted from 0, as a step that does not exist
        ({"error_steps": [-1]}, r"numbers from 1, found \[-1\]"),
        ({"modified_process": []}, "expected modified_process"),
        ({"modified_question": None}, "expected modified_question or question"),
        ({"modified_question": " \n"}, "modified_question as a text that says something"),
    ):
        with pytest.raises(UserError, match=f"1 of 1 rows that cannot be read(.|\n)*{words}"):
            read_benchmark("prmbench", str(write_rows(tmp_path / "bad.jsonl", [prm_row(1, **wrong)])))


# --- rows of ProcessBench -------------------------------------------------------------------------------------


def process_row(number: int, split: str = "gsm8k", label: int = -1, steps=TEXTS[:3]) -> dict:
    return {"id": f"{split}-{number}", "problem": QUESTIONS[number % 6], "steps": steps, "label": label}


def test_processbench_rows_of_one_file_and_of_a_folder(tmp_path):
    rows = [process_row(0), process_row(1, "math", 1), process_row(2, "omnimath", 2)]
    one = read_benchmark("processbench", str(write_rows(tmp_path / "one.jsonl", rows)))
    assert one.rows["subset"][:] == ["gsm8k", "math", "omnimath"]
    assert [list(row) for row in one.rows["step_labels"]] == [[1, 1, 1], [1, 0, -1], [1, 1, 0]]
    unnamed = [{**row, "id": number} for number, row in enumerate(rows)]
    folder = tmp_path / "splits"
    folder.mkdir()
    write_rows(folder / "math.jsonl", unnamed[1:])
    write_rows(folder / "gsm8k.jsonl", unnamed[:1])
    assert read_benchmark("processbench", str(folder)).rows["subset"][:] == ["gsm8k", "math", "math"]
    for label in (3, -2, True, "1"):
        with pytest.raises(UserError, match="rows that cannot be read"):
            path = write_rows(tmp_path / "bad.jsonl", [process_row(0, label=label)])
            read_benchmark("processbench", str(path))
    blank_step = [process_row(0, steps=[TEXTS[0], ""])]
    read = read_benchmark("processbench", str(write_rows(tmp_path / "blank_step.jsonl", blank_step)))
    assert read.rows[0]["steps"] == [TEXTS[0], ""]
    blank = write_rows(tmp_path / "blank.jsonl", [{**process_row(0), "problem": " \n"}])
    with pytest.raises(UserError, match=r"rows that cannot be read(.|\n)*problem as a text that says something"):
        read_benchmark("processbench", str(blank))


def test_labels_are_a_part_of_the_fingerprint(tmp_path):
    """And rows without steps have the one that they had."""
    first, other = (
        read_benchmark("processbench", str(write_rows(tmp_path / f"{label}.jsonl", [process_row(0, label=label)])))
        for label in (0, 1)
    )
    assert fingerprint(first.rows) != fingerprint(other.rows)
    pairs = rewardbench_like_rows(1, seed=0, unlike=[])
    without = read_benchmark("rewardbench", str(write_rows(tmp_path / "pairs.jsonl", pairs))).rows
    columns = [without[name][:] for name in ("id", "subset", "prompt", "chosen", "rejected")]
    digest = blake2b(digest_size=16)
    for record in zip(*columns, strict=True):
        digest.update(json.dumps(record).encode() + b"\n")
    assert fingerprint(without) == digest.hexdigest()


# --- the script -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_process_model(tmp_path_factory.mktemp("process") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, draw = tmp_path_factory.mktemp("benchmarks"), random.Random(0)
    rows = []
    for split in SPLIT_ROWS:
        for number in range(12):
            steps = [draw.choice(TEXTS) for _ in range(draw.randint(1, 4))]
            label = draw.randint(-1, len(steps) - 1) if number > 3 else -1
            rows.append(process_row(number, split, label, steps))
    draw.shuffle(rows)
    prm = [
        prm_row(number, name, () if name == "multi_solutions" else (draw.randint(1, 3), 7), draw.sample(TEXTS, 3))
        for name in CLASS_ROWS
        for number in range(5)
    ]
    return {
        "processbench": write_rows(folder / "process.jsonl", rows),
        "prmbench": write_rows(folder / "prm.jsonl", prm),
    }


@pytest.fixture(scope="module")
def evaluated(model, files, tmp_path_factory) -> Path:
    return evaluate(flags(model, files, tmp_path_factory.mktemp("evaluation"), dtype="float32"), pages=True)


def plain(model: Path, rows: list[dict], question: str, steps: str) -> list[list[float]]:
    scorer = StepScorer.from_pretrained(model, dtype="float32", device="cpu")
    return plain_probabilities(model, scorer.tokenize([(row[question], row[steps]) for row in rows]))


def test_the_script_gives_processbench_of_plain_transformers(evaluated, model, files):
    part = json.loads((evaluated / "summary.json").read_text())["benchmarks"]["processbench"]
    rows = read_lines(files["processbench"])
    found = plain(model, rows, "problem", "steps")

    def f1(split: str, threshold: float) -> float:
        right = {True: [], False: []}
        for row, steps in zip(rows, found, strict=True):
            if row["id"].startswith(split):
                below = [place for place, each in enumerate(steps) if each < threshold]
                verdict = below[0] if below else -1
                right[row["label"] == -1].append(verdict == row["label"])
        one, other = np.mean(right[True]), np.mean(right[False])
        return 2 * one * other / (one + other) if one + other else 0.0

    tuned = part["tuned"]
    assert tuned["on"] == "gsm8k"
    for split in SPLIT_ROWS:
        assert part["figures"][split]["value"] == pytest.approx(f1(split, 0.5))
        assert tuned["figures"][split]["value"] == pytest.approx(f1(split, tuned["threshold"]))
    overall = part["figures"]["overall"]
    assert overall["value"] == pytest.approx(np.mean([f1(split, 0.5) for split in SPLIT_ROWS]))
    assert overall["low"] <= overall["value"] <= overall["high"]
    assert overall["rows"] == len(rows) == part["rows"]
    labelled = sum(len(row["steps"]) if row["label"] == -1 else row["label"] + 1 for row in rows)
    assert part["steps"]["steps"] == labelled
    record = (evaluated.parent.parent / "record.txt").read_text()
    assert "processbench/gsm8k-tuned\t" in record
    assert "processbench/overall\t" in record


def test_the_script_gives_prmbench_of_plain_transformers(evaluated, model, files):
    part = json.loads((evaluated / "summary.json").read_text())["benchmarks"]["prmbench"]
    rows = read_lines(files["prmbench"])
    counts = np.zeros((2, 2))  # by label and verdict
    labels, all_steps = [], []
    for row, steps in zip(rows, plain(model, rows, "modified_question", "modified_process"), strict=True):
        for place, probability in enumerate(steps):
            valid = place + 1 not in row["error_steps"]
            counts[int(valid), int(probability >= 0.5)] += 1
            labels.append(valid)
            all_steps.append(probability)
    (tn, fp), (fn, tp) = counts
    assert min(tn, fp, fn, tp) > 0
    score = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    assert part["figures"]["overall"]["value"] == pytest.approx(score)
    assert part["steps"]["brier"] == pytest.approx(np.mean((np.array(all_steps) - labels) ** 2), abs=1e-6)
    assert any("expected 6,211" in words for words in part["warnings"])


def test_scores_are_by_the_label_of_the_steps(evaluated, model, files):
    lines = [line for line in read_lines(evaluated / "scores.jsonl") if line["benchmark"] == "processbench"]
    rows = read_lines(files["processbench"])
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    found = plain(model, rows, "problem", "steps")
    for line, row, steps in zip(lines, rows, found, strict=True):
        end = len(steps) if row["label"] == -1 else row["label"]
        assert line["chosen_reward"] == pytest.approx(steps[:end], abs=1e-5)
        assert line["rejected_reward"] == pytest.approx(steps[end : end + 1] if row["label"] != -1 else [], abs=1e-5)


def test_the_page_shows_both_thresholds_and_the_calibration(evaluated):
    page = (evaluated / "report.html").read_text()
    for words in ("Calibration of steps", "which is the best one on gsm8k", "gsm8k (tuned on)", "PRMScore"):
        assert words in page
    assert "Erroneous and correct answers" in page and "Domains" not in page
    part = json.loads((evaluated / "summary.json").read_text())["benchmarks"]["processbench"]
    at_half, tuned = (of["overall"]["value"] for of in (part["figures"], part["tuned"]["figures"]))
    assert tuned != at_half
    open_part = page[: page.index("All numbers of ProcessBench")]  # the tables are folded away
    assert f"on gsm8k is {part['tuned']['threshold']:.3f}. F1: overall {100 * at_half:.1f} at 0.5, " in open_part
    assert f" at 0.5, {100 * tuned:.1f} (" in open_part


def test_of_one_split_both_thresholds_are_said_of_it():
    rows = [scored("gsm8k", [0.4], [0.2]), scored("gsm8k", [0.45])]
    figures = figures_of(PROCESSBENCH, rows)
    part = {"figures": {name: {"value": value, "low": 0.0, "high": 1.0} for name, value in figures.items()}}
    part["figures"] |= {name: of | {"value": None} for name, of in part["figures"].items() if np.isnan(of["value"])}
    (line,) = PROCESSBENCH.more_lines(part | tuned_part("gsm8k", rows))
    assert line == "The threshold that is best on gsm8k is 0.300. F1: gsm8k 0.0 at 0.5, 100.0 at that one."
    (line,) = PROCESSBENCH.more_lines(part | tuned_part("math", rows))
    assert line == "No threshold is tuned: of math there are not both erroneous and correct answers here."


def test_another_split_to_tune_on(model, files, tmp_path):
    given = flags(model, {"processbench": files["processbench"]}, tmp_path, tune_threshold_on="math")
    part = json.loads((evaluate(given) / "summary.json").read_text())["benchmarks"]["processbench"]
    assert part["tuned"]["on"] == "math"
    with pytest.raises(UserError, match="tune_threshold_on: expected"):
        evaluate(given | {"tune_threshold_on": "aime"})
    with pytest.raises(UserError, match="expected processbench among"):
        evaluate(flags(model, {"prmbench": files["prmbench"]}, tmp_path, tune_threshold_on="math"))


def test_answers_that_do_not_fit_are_refused_and_counted(model, files, tmp_path):
    rows = [*read_lines(files["processbench"]), process_row(99, "math", 0, TEXTS * 9)]
    longer = write_rows(tmp_path / "longer.jsonl", rows)
    part = json.loads(
        (evaluate(flags(model, {"processbench": longer}, tmp_path, max_length=120)) / "summary.json").read_text()
    )["benchmarks"]["processbench"]
    assert any("its steps alone are longer than max_length" in words for words in part["warnings"])
    assert part["figures"]["math"]["value"] is None  # one of 13 is too many
    assert part["figures"]["gsm8k"]["value"] is not None
    only = write_rows(tmp_path / "only.jsonl", rows[-1:])
    with pytest.raises(UserError, match=r"found none among 1; the first, .*its steps alone are longer than max_length"):
        evaluate(flags(model, {"processbench": only}, tmp_path / "only", max_length=120))


@pytest.fixture(scope="module")
def reward_model(model, tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("rewards"), AutoTokenizer.from_pretrained(model)
    config = tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_each_kind_of_model_is_refused_where_it_does_not_belong(model, reward_model, files, tmp_path):
    pairs = write_rows(tmp_path / "rewardbench.jsonl", rewardbench_like_rows(1, seed=0, unlike=[]))
    with pytest.raises(UserError, match=r"rewardbench: expected a model that .* whole .*for it: processbench,prmbench"):
        evaluate(flags(model, {"rewardbench": pairs}, tmp_path))
    with pytest.raises(UserError, match=r"processbench,prmbench: expected a process model.*for it: rewardbench"):
        evaluate(flags(reward_model, files, tmp_path))
    assert not any(tmp_path.rglob("*.json"))


def test_an_outcome_model_judges_no_steps(model, files, tmp_path):
    outcome = save_process_model(tmp_path / "outcome", process={**PROCESS, "outcome": True})
    for main, more in ((outcome, {}), (model, {"beside": outcome})):
        words = r"processbench,prmbench: expected a process model.*found .*outcome \(an outcome model.*whole answers"
        with pytest.raises(UserError, match=words):
            run_evaluation(flags(main, files, tmp_path, **more))
    assert not any(tmp_path.rglob("*.jsonl*"))
    pairs = write_rows(tmp_path / "rewardbench.json", rewardbench_like_rows(1, seed=0, unlike=[]))
    with pytest.raises(UserError, match=r"rewardbench: expected .*found .*an outcome model.*Score whole answers"):
        evaluate(flags(outcome, {"rewardbench": pairs}, tmp_path))


def test_a_model_beside_of_another_kind_is_refused_before_any_is_scored(model, reward_model, files, tmp_path):
    for main, beside in ((model, reward_model), (reward_model, model)):
        with pytest.raises(UserError, match=f"expected a process model.*found {reward_model}"):
            run_evaluation(flags(main, files, tmp_path, beside=beside))
    assert not any(tmp_path.rglob("*.jsonl*"))


# --- models of others -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_others(tmp_path_factory) -> Path:
    """As TRL saves one: nothing says where a step ends."""
    return save_process_model(tmp_path_factory.mktemp("others") / "model", process=None)


def test_a_model_that_does_not_say_where_steps_end_has_to_be_told(of_others, files, tmp_path):
    """Then it reads what TRL has it read: prompt, step and line break, each tokenised by itself, and no template."""
    given = flags(of_others, {"processbench": files["processbench"]}, tmp_path, dtype="float32")
    with pytest.raises(UserError, match=r"nothing that says where a step ends.*--step_separator '\\n'"):
        evaluate(given)
    folder = evaluate(given | {"step_separator": r"\n"})
    tokenizer = AutoTokenizer.from_pretrained(of_others)
    rows, chains = read_lines(files["processbench"]), []
    for row in rows:
        texts = [row["problem"], *(text for step in row["steps"] for text in (step, "\n"))]
        pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        ends = np.cumsum(list(map(len, pieces)))[2::2] - 1
        chains.append(Tokens([token for piece in pieces for token in piece], reads=ends.tolist()))
    lines = read_lines(folder / "scores.jsonl")
    for line, row, steps in zip(lines, rows, plain_probabilities(of_others, chains), strict=True):
        assert line["chosen_reward"] == pytest.approx(steps[: row["label"] if row["label"] >= 0 else None], abs=1e-5)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model"]["process"] == {"separator": "\n", "chat": False, "outcome": False, "aggregation": "min"}

    more = given | {"benchmarks": "prmbench", "prmbench_path": files["prmbench"], "processbench_path": None}
    with pytest.raises(UserError, match=r"to add benchmarks to; found one .*'separator': '\\n'"):
        evaluate({name: value for name, value in more.items() if value is not None} | {"step_separator": ""})


def test_the_chat_template_writes_the_prompt_where_it_is_told_to(of_others, files, tmp_path, model, evaluated):
    """So the same weights have the rewards of the model that says so itself."""
    told = {"step_separator": r"\n\n", "prompt_format": "chat", "dtype": "float32"}
    folder = evaluate(flags(of_others, files, tmp_path, **told))
    assert (folder / "scores.jsonl").read_text() == (evaluated / "scores.jsonl").read_text()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"step_separator": " "}, "--step_separator: expected a text that stands out"),
        ({"prompt_format": "plan"}, "--prompt_format: expected one of chat, plain, found 'plan'; did you mean plain"),
        ({"prompt_format": "chat"}, "nothing that says where a step ends"),
    ],
)
def test_what_a_model_cannot_be_told(told, words, of_others, files, tmp_path):
    with pytest.raises(UserError, match=words):
        evaluate(flags(of_others, files, tmp_path, **told))


def test_another_separator_than_the_saved_one_is_said_aloud(model, files, tmp_path, caplog):
    given = flags(model, {"prmbench": files["prmbench"]}, tmp_path)
    evaluate(given | {"step_separator": r"\n", "prompt_format": "chat", "output_dir": tmp_path / "record"})
    assert "another way than the model was trained with ({'separator': '\\n\\n'})" in caplog.text


def test_a_reward_model_has_no_steps(reward_model, tmp_path):
    pairs = {"rewardbench": write_rows(tmp_path / "pairs.jsonl", rewardbench_like_rows(1, seed=0, unlike=[]))}
    with pytest.raises(UserError, match=r"--step_separator, --prompt_format: expected a process model"):
        evaluate(flags(reward_model, pairs, tmp_path, step_separator=r"\n"))


def test_a_class_of_its_own_is_named(of_others, files, tmp_path):
    """Qwen2.5-Math-PRM has two layers behind its body, which no token classifier has."""
    folder = tmp_path / "model"
    shutil.copytree(of_others, folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["Qwen2ForProcessRewardModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"a token classifier .*, found .* .Qwen2ForProcessRewardModel"):
        evaluate(flags(folder, files, tmp_path, step_separator="<extra_0>"))


def test_two_processes_give_the_same_rows(evaluated, model, files, tmp_path):
    given = flags(model, files, tmp_path, dtype="float32")
    fork(ROOT / "eval_bench_mark.py", as_argv(given), tmp_path, processes=2)
    (folder,) = (tmp_path / "record").iterdir()
    assert (folder / "scores.jsonl").read_text() == (evaluated / "scores.jsonl").read_text()
    one, two = (json.loads((of / "summary.json").read_text())["benchmarks"] for of in (evaluated, folder))
    for name in files:
        assert {key: value for key, value in two[name].items() if key != "scoring"} == {
            key: value for key, value in one[name].items() if key != "scoring"
        }


def test_two_models_are_compared_row_by_row(evaluated, model, files, tmp_path):
    """One and the same model, and one that calls right what this one calls wrong."""
    other = tmp_path / "other"
    turned = AutoModelForTokenClassification.from_pretrained(model)
    with torch.no_grad():
        turned.score.weight.neg_()
        turned.score.bias.neg_()
    turned.save_pretrained(other)
    AutoTokenizer.from_pretrained(model).save_pretrained(other)
    folder = evaluate(flags(other, files, tmp_path, dtype="float32"))
    run_compare([evaluated, folder], output_dir=tmp_path / "compared")
    text = (tmp_path / "compared" / "comparison.json").read_text()
    parts = [json.loads((of / "summary.json").read_text())["benchmarks"] for of in (evaluated, folder)]
    for name in files:
        before, after = (part[name]["figures"]["overall"]["value"] for part in parts)
        assert before != after
        assert str(after - before)[:8] in text


# --- calibration ----------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    """Four steps of 0.75, of which two are right, and one of 0.05 that is wrong: off by (4 x 0.25 + 0.05) / 5."""
    found = step_statistics([0.75] * 4 + [0.05], [1, 1, 0, 0, 0])
    assert found["calibration_error"] == pytest.approx((4 * 0.25 + 0.05) / 5)
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)
    assert found["right"]["value"] == pytest.approx(2 / 5)
    assert found["auc"] == pytest.approx((2 * (2 * 0.5 + 1)) / 6)
    assert [row["rows"] for row in found["calibration"]] == [1, 0, 0, 0, 0, 0, 0, 4, 0, 0]
    assert found["brier"] == pytest.approx((2 * 0.0625 + 2 * 0.5625 + 0.0025) / 5)
    assert step_statistics([0.5], [1])["auc"] is None


def test_steps_of_one_answer_say_less_than_as_many_answers():
    draw = np.random.default_rng(0)
    right = np.repeat(draw.integers(0, 2, 50), 10)
    together = step_statistics(right, right, np.repeat(np.arange(50), 10))["right"]
    apart = step_statistics(right, right)["right"]
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])
