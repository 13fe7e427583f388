"""eval_bench_mark.py of a pairwise model: every pair in both orders, against plain transformers and plain Python."""

import json
import random
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from evaluations import evaluate, flags, read_lines, run_evaluation
from pairwise_models import PlainPairs, save_pairwise, take_out_the_liking
from processes import fork
from runs import ROOT, as_argv, write_rows

from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.evaluation.comparison_figures import figures_of_comparisons
from reward_modeling.evaluation.files import read_scores
from reward_modeling.evaluation.triples import count_triples
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.quickstart import rewardbench_like_rows

ROWS = learnable_preferences(30, seed=5)
ANSWERS = sorted({row[side][-1]["content"] for row in ROWS for side in ("chosen", "rejected")})
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairwise") / "gemma" / "last_checkpoint"
    return take_out_the_liking(save_pairwise(folder, "gemma"))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> Path:
    return save_pairwise(tmp_path_factory.mktemp("rewards") / "bt" / "last_checkpoint", "gemma", entry=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, chance = tmp_path_factory.mktemp("benchmarks"), random.Random(1)
    rewardbench = rewardbench_like_rows(2, seed=2, unlike=[])
    rewardbench[4]["rejected"] = rewardbench[4]["chosen"]
    rm_bench, ranking, math = [], [], []
    for number, domain in enumerate(["chat", "code", "math", "safety-refuse", "safety-response"] * 2):
        answers = chance.sample(ANSWERS, 6)
        row = {"id": f"{domain}_{number}", "prompt": f"Question {number}?", "domain": domain}
        rm_bench.append(row | {"chosen": answers[:3], "rejected": answers[3:]})
    for number, subset in enumerate(["Factuality", "Precise IF", "Math", "Safety", "Focus"] * 3):
        answers = chance.sample(ANSWERS, 4)
        row = {"id": str(number), "prompt": f"Question {number}?", "subset": subset}
        ranking.append(row | {"chosen": answers[:1], "rejected": answers[1:]})
    ranking.append(
        {"id": "ref:0", "prompt": "A colour?", "subset": "Ties", "chosen": ["Red"], "rejected": ["Two", "7"]}
    )
    ranking.append(
        {"id": "tied:0", "prompt": "A colour.", "subset": "Ties", "chosen": ["Red", "Blue"], "rejected": ["7"]}
    )
    for place in range(10):
        for problem in range(2):
            row = {"problem": f"Problem {problem}?", "eval_solution": [ANSWERS[place]], "subject": "Algebra"}
            math.append(row | {"solution_reference": "x" if place else "human_to_GPT-4", "problem_id": problem})
    sets = folder / "sets"
    sets.mkdir()
    write_rows(
        sets / "shp.jsonl",
        [
            {
                "prompt": row["chosen"][-2]["content"],
                "chosen": row["chosen"][-1]["content"],
                "rejected": row["rejected"][-1]["content"],
            }
            for row in ROWS[:6]
        ],
    )
    (folder / "rm_bench.json").write_text(json.dumps(rm_bench))
    return {
        "rewardbench": write_rows(folder / "rewardbench.jsonl", rewardbench),
        "preference_test_sets": sets,
        "rewardbench2": write_rows(folder / "rewardbench2.jsonl", ranking),
        "rm_bench": folder / "rm_bench.json",
        "rewardmath": write_rows(folder / "rewardmath.jsonl", math),
        "pairs": write_rows(folder / "pairs.jsonl", own_rows()),
    }


def own_rows() -> list[dict]:
    """Pairs, a soft label, a tie, and a list of four answers, two of which rank alike."""
    rows = [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in ROWS[:8]]
    rows.append(rows[0] | {"chosen_probability": 0.75, "chosen": ROWS[9]["chosen"], "rejected": ROWS[9]["rejected"]})
    rows.append({"chosen": ROWS[10]["chosen"], "rejected": ROWS[10]["rejected"], "chosen_probability": 0.5})
    question = [{"role": "user", "content": "Which of these?"}]
    rows.append({"prompt": question, "completions": ANSWERS[:4], "ranks": [1, 2, 2, 3]})
    return rows


@pytest.fixture(scope="module")
def evaluated(model, files, tmp_path_factory) -> Path:
    """The folder of one evaluation of all benchmarks, with its page."""
    return evaluate(flags(model, files, tmp_path_factory.mktemp("evaluation")), pages=True)


def lines_of(folder: Path, name: str) -> list[dict]:
    return [line for line in read_lines(folder / "scores.jsonl") if line["benchmark"] == name]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def sigmoid(x) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def probability(logits: list[list[float]], one: int, other: int) -> float:
    """That one answer is better than the other, by the outputs of a line of scores.jsonl."""
    return float((sigmoid(logits[one][other]) + 1 - sigmoid(logits[other][one])) / 2)


# --- outputs --------------------------------------------------------------------------------------------------


def test_every_pair_is_compared_in_both_orders_as_in_plain_transformers(evaluated, model, files):
    plain = PlainPairs(model)
    rows, lines = read_lines(files["rewardbench"]), lines_of(evaluated, "rewardbench")
    expected = plain.orders([(user(row["prompt"]), row["chosen"], row["rejected"]) for row in rows])
    for row, line, (first, second) in zip(rows, lines, expected, strict=True):
        assert line["id"] == row["id"] and line["chosen_reward"] is None is line["rejected_reward"]
        (own, chosen_first), (rejected_first, also_own) = line["logits"]
        assert own is None is also_own
        assert [chosen_first, rejected_first] == pytest.approx([first, second], abs=TOLERANCE)
        mean = (sigmoid(first) + 1 - sigmoid(second)) / 2
        assert line["correct"] is bool(mean > 0.5 and row["chosen"] != row["rejected"])
    assert lines[4]["correct"] is False and probability(lines[4]["logits"], 0, 1) == 0.5


def test_of_lists_every_two_of_six_answers_are_compared(evaluated, model, files):
    plain = PlainPairs(model)
    row, line = json.loads(files["rm_bench"].read_text())[3], lines_of(evaluated, "rm_bench")[3]
    answers, logits = row["chosen"] + row["rejected"], line["logits"]
    pairs = list(combinations(range(6), 2))
    expected = plain.orders([(user(row["prompt"]), answers[one], answers[other]) for one, other in pairs])
    found = [(logits[one][other], logits[other][one]) for one, other in pairs]
    assert np.array(found) == pytest.approx(np.array(expected), abs=TOLERANCE)
    assert line["correct"] == [[probability(logits, i, 3 + j) > 0.5 for j in range(3)] for i in range(3)]


def test_of_ten_answers_right_ones_are_compared_with_wrong_ones_alone(evaluated):
    for line in lines_of(evaluated, "rewardmath"):
        known = np.isfinite(np.array(line["logits"], dtype=float))
        assert known[0, 1:].all() and known[1:, 0].all() and known.sum() == 18
    assert len(lines_of(evaluated, "rewardmath")) == 2


def test_a_list_of_ones_own_is_split_into_its_pairs(evaluated):
    lines = lines_of(evaluated, "pairs")
    of_list = {line["id"]: line for line in lines if str(line["id"]).startswith("10:")}
    assert of_list.keys() == {"10:1-2", "10:1-3", "10:1-4", "10:2-4", "10:3-4"}
    assert all(
        np.array(line["logits"]).shape == (2, 2) and line["weight"] == pytest.approx(0.2) for line in of_list.values()
    )
    assert lines[8]["chosen_probability"] == 0.75 and lines[9]["correct"] is None


# --- figures --------------------------------------------------------------------------------------------------


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_figures_follow_from_the_rows(evaluated):
    """Every figure that is particular to comparisons once more, from scores.jsonl, in plain Python."""
    part, lines = summary_of(evaluated)["benchmarks"]["rewardbench"], lines_of(evaluated, "rewardbench")
    first = np.array([line["logits"][0][1] for line in lines])
    second = np.array([line["logits"][1][0] for line in lines])
    mean = (sigmoid(first) + sigmoid(-second)) / 2
    ties = first == second
    found = part["comparisons"]
    assert found["pairs"] == len(lines) and found["ties"] == ties.sum() == 1
    assert part["pairs"]["accuracy"]["value"] == pytest.approx((mean[~ties] > 0.5).sum() / len(lines))
    assert part["pairs"]["accuracy"]["ties"] == 1  # counted as wrong, as RewardBench says
    assert found["by_order"]["chosen first"]["value"] == pytest.approx((first > 0).mean())
    assert found["by_order"]["rejected first"]["value"] == pytest.approx((second < 0).mean())
    assert found["flips"]["value"] == pytest.approx(((first > 0) == (second > 0)).mean())
    assert found["first_probability"] == pytest.approx(np.concatenate([sigmoid(first), sigmoid(second)]).mean())
    assert found["flips"]["low"] < found["flips"]["value"] < found["flips"]["high"]
    confidence = np.maximum(mean, 1 - mean)
    bins = [one for one in part["pairs"]["calibration"] if one["rows"]]
    assert sum(one["confidence"] * one["rows"] for one in bins) == pytest.approx(confidence.sum())


def test_lists_are_scored_by_their_comparisons(evaluated, capsys):
    parts = summary_of(evaluated)["benchmarks"]
    credits = {}
    for line in lines_of(evaluated, "rewardbench2"):
        if line["subset"] != "Ties":
            above = [probability(line["logits"], 0, other) for other in (1, 2, 3)]
            credits.setdefault(line["subset"], []).append(float(min(above) > 0.5))
    for name, of in credits.items():
        assert parts["rewardbench2"]["subsets"][name]["value"] == pytest.approx(np.mean(of))
    ties = lines_of(evaluated, "rewardbench2")[-1]
    assert ties["correct"] is None and "logits" not in ties
    assert (
        parts["rewardbench2"]["figures"]["Ties"]["value"]
        is None
        is parts["rewardbench2"]["figures"]["overall"]["value"]
    )
    (warning,) = [words for words in parts["rewardbench2"]["warnings"] if "how far rewards are apart" in words]
    assert "2 of 2 rows of 'Ties' were not scored" in warning
    wins = [line["correct"] for line in lines_of(evaluated, "rm_bench")]
    assert parts["rm_bench"]["matrix"]["all"] == pytest.approx(np.mean(wins, axis=0))
    ranks = [
        1 + sum(probability(line["logits"], 0, other) <= 0.5 for other in range(1, 10))
        for line in lines_of(evaluated, "rewardmath")
    ]
    assert parts["rewardmath"]["figures"]["MRR"]["value"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_intransitive_triples_are_counted_where_all_were_compared(evaluated):
    parts = summary_of(evaluated)["benchmarks"]
    for name, answers in {"rm_bench": 6, "rewardbench2": 4}.items():
        triples = circles = 0
        for line in lines_of(evaluated, name):
            for a, b, c in combinations(range(answers), 3) if "logits" in line else ():
                wins = [probability(line["logits"], *pair) > 0.5 for pair in ((a, b), (b, c), (c, a))]
                triples, circles = triples + 1, circles + (sum(wins) in (0, 3))
        found = parts[name]["comparisons"]["triples"]
        assert (found["rows"], found["right"]) == (triples, circles)
        assert found["low"] <= found["value"] <= found["high"]
    assert parts["pairs"]["comparisons"]["triples"]["rows"] >= 4  # of the list, whose answers of one rank too
    assert "triples" not in parts["rewardmath"]["comparisons"]


def random_outputs(chance: random.Random, number: int) -> np.ndarray:
    table = np.array([[chance.gauss(0, 1) for _ in range(number)] for _ in range(number)])
    np.fill_diagonal(table, np.nan)
    return table


def test_triples_against_trying_all_of_them_and_over_rows_of_one_prompt():
    chance = random.Random(3)
    tables = [random_outputs(chance, 5) for _ in range(20)]
    found = count_triples((number, list("abcde"), table) for number, table in enumerate(tables))
    expected = 0
    for table in tables:
        for triple in combinations(range(5), 3):
            wins = [table[i, j] > table[j, i] for i, j in (triple[:2], triple[1:], (triple[2], triple[0]))]
            expected += sum(wins) in (0, 3)
    assert found.triples.tolist() == [10] * 20 and found.circles.sum() == expected > 5
    circle = np.array([[np.nan, 1.0], [0.0, np.nan]])  # the first is better
    pairs = [("p", [one, other], circle) for one, other in ("ab", "bc", "ca")]
    together = count_triples(pairs)
    assert (together.triples.tolist(), together.circles.tolist()) == ([1], [1])
    assert together.figures()["value"] == 1 and together.figures()["low"] < 1
    assert count_triples(pairs[:2]) is None  # a and c were not compared
    assert count_triples([("p", ["a", "a"], circle), ("q", ["b", "c"], circle)]) is None


def test_a_transitive_model_has_the_figures_of_its_rewards():
    """Comparisons made of rewards give every benchmark's figures as these rewards do, ties included."""
    chance = np.random.default_rng(0)
    for name, sides in {
        "rewardbench": (1, 1),
        "rewardbench2": (1, 3),
        "rm_bench": (3, 3),
        "rewardmath": (1, 9),
    }.items():
        benchmark = BENCHMARKS[name]
        subset = next(iter(benchmark.subset_rows), "Algebra")
        rewards = chance.integers(-3, 4, (60, sum(sides))).astype(float)
        plain = [ScoredRow(n, subset, of[: sides[0]], of[sides[0] :]) for n, of in enumerate(rewards)]
        compared = []
        for n, of in enumerate(rewards):
            place = chance.normal(size=(len(of), len(of)))  # a liking for the answer that stands first
            table = (of[:, None] - of) + (place + place.T) / 4
            compared.append(ScoredRow.compared(n, subset, table, sides[0]))
        assert any(row.is_tie for row in plain) and [row.is_tie for row in plain] == [row.is_tie for row in compared]
        assert [row.is_right for row in plain] == [row.is_right for row in compared]
        before, after = (benchmark.values(rows) for rows in (plain, compared))
        assert before.keys() == after.keys()
        for key in before:
            assert np.array_equal(before[key], after[key])
        figures = figures_of_comparisons(compared, None)
        assert figures["pairs"] == 60 * sides[0] * sides[1]
        assert (figures["ties"] > 0) and figures["by_order"]["chosen first"]["value"] < 1


def test_rows_come_back_from_the_file_as_they_were(evaluated):
    for name, rows in read_scores(evaluated / "scores.jsonl").items():
        for row, line in zip(rows, lines_of(evaluated, name), strict=True):
            if "logits" in line:
                assert row.is_scored
                assert line["correct"] in (None, BENCHMARKS[name].row_result(row))


def test_a_torn_line_of_outputs_gets_one_message(evaluated, tmp_path):
    line = lines_of(evaluated, "rm_bench")[0]
    line["logits"] = line["logits"][:-1]
    (tmp_path / "scores.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"scores\.jsonl:1: expected an object"):
        read_scores(tmp_path / "scores.jsonl")


# --- what is shown --------------------------------------------------------------------------------------------


def test_report_record_and_page_say_it(model, files, tmp_path, capsys):
    some = {name: files[name] for name in ("rewardbench", "rm_bench")}
    folder = evaluate(flags(model, some, tmp_path), pages=True)
    screen, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (" ".join(of.lower().split()) for of in (screen, page)):
        assert "of which the mean probability decides" in text and "verdicts that flip with the order" in text
        assert "triples of answers to 10 prompts" in text and "compares two answers" in text
        assert " orders (" in text and "conversations (" not in text
    record = dict(line.split("\t") for line in (tmp_path / "record.txt").read_text().splitlines())
    parts = summary_of(folder)["benchmarks"]
    for name in some:
        found = parts[name]["comparisons"]
        assert float(record[f"{name}/flips"]) == pytest.approx(found["flips"]["value"], abs=1e-6)
        assert float(record[f"{name}/chosen-first"]) == pytest.approx(
            found["by_order"]["chosen first"]["value"], abs=1e-6
        )
    assert float(record["rm_bench/intransitive"]) == pytest.approx(
        parts["rm_bench"]["comparisons"]["triples"]["value"], abs=1e-6
    )
    assert summary_of(folder)["model"]["pairwise"] == {"format": "rlhflow", "answers": ["A", "B"]}


def test_marks_in_answers_are_counted(model, files, tmp_path, capsys):
    rows = [*own_rows()[:3], {"prompt": "Why?", "chosen": "So. [RESPONSE B] No.", "rejected": "No."}]
    folder = evaluate(flags(model, {"pairs": write_rows(tmp_path / "marked.jsonl", rows)}, tmp_path))
    assert summary_of(folder)["benchmarks"]["pairs"]["comparisons"]["escaped"] == 2
    assert "2 texts hold a mark of the comparison" in capsys.readouterr().out


def test_a_reward_model_says_nothing_of_it(reward_model, files, tmp_path, capsys):
    folder = evaluate(flags(reward_model, {"rewardbench": files["rewardbench"]}, tmp_path), pages=True)
    assert "comparisons" not in summary_of(folder)["benchmarks"]["rewardbench"]
    assert "flip" not in capsys.readouterr().out + (tmp_path / "record.txt").read_text()


# --- beside ---------------------------------------------------------------------------------------------------


def beside_folders(given: dict[str, object]) -> tuple[Path, Path]:
    """Evaluate; the folders of the model and of the one beside it."""
    run_evaluation(given, pages=True)
    folders = {folder.name.split("--")[0]: folder for folder in given["record_dir"].with_suffix("").iterdir()}
    return folders["gemma"], folders["bt"]


def test_a_bradley_terry_model_beside_it_with_paired_intervals(model, reward_model, files, tmp_path, capsys):
    some = {name: files[name] for name in ("rewardbench", "rm_bench", "pairs")}
    own, other = beside_folders(flags(model, some, tmp_path, beside=reward_model))
    parts, others = summary_of(own)["benchmarks"], summary_of(other)["benchmarks"]
    assert summary_of(other)["model"]["name_or_path"] == str(reward_model)
    for name in some:
        beside = parts[name]["beside"]
        assert beside["model"] == str(reward_model)
        figures = beside["figures"]
        assert figures.keys() == (parts[name]["figures"] or {"accuracy": 0}).keys()
        for figure, entry in figures.items():
            mine = (parts[name]["figures"] or parts[name]["pairs"])[figure]
            theirs = (others[name]["figures"] or others[name]["pairs"])[figure]
            assert (entry["own"]["value"], entry["other"]["value"]) == (mine["value"], theirs["value"])
            assert entry["difference"]["value"] == pytest.approx(mine["value"] - theirs["value"])
            assert entry["difference"]["low"] <= entry["difference"]["value"] <= entry["difference"]["high"]
    screen, page = capsys.readouterr().out, (own / "report.html").read_text()
    assert "Beside " in screen and "over the rows that both have scored" in page
    record = (tmp_path / "record.txt").read_text()
    assert f"beside\t{reward_model}" in record and "rewardbench/overall-difference\t" in record
    # an earlier evaluation does as well, and gives the same
    again = flags(model, some, tmp_path, beside=other, output_dir=tmp_path / "again")
    run_evaluation(again)
    (folder,) = (tmp_path / "again").iterdir()
    assert {name: part["beside"] for name, part in summary_of(folder)["benchmarks"].items()} == {
        name: part["beside"] for name, part in parts.items()
    }


def test_beside_other_rows_there_are_no_differences(model, reward_model, files, tmp_path, caplog):
    other = evaluate(flags(reward_model, {"pairs": files["pairs"]}, tmp_path / "a"))
    fewer = write_rows(tmp_path / "fewer.jsonl", own_rows()[:5])
    folder = evaluate(flags(model, {"pairs": fewer}, tmp_path / "b", beside=other))
    assert "beside" not in summary_of(folder)["benchmarks"]["pairs"]
    assert "was evaluated on other rows" in caplog.text
    with pytest.raises(UserError, match="--beside: expected another model"):
        evaluate(flags(model, {"pairs": fewer}, tmp_path / "c", beside=model))


def test_what_cannot_stand_beside_is_refused_before_anything_is_scored(model, reward_model, files, tmp_path):
    other = evaluate(flags(reward_model, {"pairs": files["pairs"]}, tmp_path / "a"))
    some = {"rewardbench": files["rewardbench"]}
    with pytest.raises(UserError, match=r"--beside .*: expected an evaluation of some of rewardbench, found .* pairs"):
        evaluate(flags(model, some, tmp_path / "b", beside=other))
    with pytest.raises(UserError, match=r"--beside .*nothing: expected a model in a local folder"):
        evaluate(flags(model, some, tmp_path / "b", beside=tmp_path / "nothing"))
    assert not (tmp_path / "b").exists()


def test_two_evaluations_are_compared_as_ever(model, reward_model, files, tmp_path, capsys):
    some = {"rm_bench": files["rm_bench"], "pairs": files["pairs"]}
    folders = [evaluate(flags(path, some, tmp_path / path.parent.name)) for path in (reward_model, model)]
    from reward_modeling.evaluation.comparison import compare
    from reward_modeling.evaluation.evaluations import read_evaluations

    comparison = compare(read_evaluations(list(map(str, folders))))
    entry = comparison["benchmarks"]["rm_bench"]["figures"]["overall"]["B"]["difference"]
    assert entry["low"] is not None
    assert comparison["benchmarks"]["rm_bench"]["incomparable"] == {}


# --- processes, mistakes --------------------------------------------------------------------------------------


def test_two_processes_give_the_bits_of_one(evaluated, model, files, tmp_path):
    given = flags(model, files, tmp_path)
    fork(ROOT / "eval_bench_mark.py", as_argv(given), ROOT, processes=2)
    (folder,) = given["record_dir"].with_suffix("").iterdir()
    assert (folder / "scores.jsonl").read_bytes() == (evaluated / "scores.jsonl").read_bytes()


def test_plain_texts_cannot_be_compared(model, files, tmp_path):
    texts = write_rows(tmp_path / "texts.jsonl", [{"chosen": "yes", "rejected": "no"}] * 1)
    with pytest.raises(UserError, match="a plain text has no prompt apart from its answers"):
        evaluate(flags(model, {"pairs": texts}, tmp_path, plain_text=True))


def test_benchmarks_can_be_added_to_an_earlier_evaluation(model, files, tmp_path):
    evaluate(flags(model, {"rm_bench": files["rm_bench"]}, tmp_path))
    folder = evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path))
    assert summary_of(folder)["benchmarks"].keys() == {"rm_bench", "pairs"}
    assert summary_of(folder)["benchmarks"]["rm_bench"]["comparisons"]["pairs"] == 90
    assert lines_of(folder, "rm_bench")


def test_max_length_costs_context_alone(model, files, tmp_path):
    given = flags(model, {"rewardbench": files["rewardbench"]}, tmp_path, max_length=400)
    folder = evaluate(given)
    assert summary_of(folder)["model"]["max_length"] == 400
    assert all(line["correct"] is not None for line in lines_of(folder, "rewardbench"))
    shutil.rmtree(given["record_dir"].with_suffix(""))


def test_answers_that_do_not_fit_beside_each_other_are_not_compared(model, tmp_path):
    rows = [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in ROWS[:4]]
    long = [*rows[1]["rejected"][:-1], {"role": "assistant", "content": "This is never read to its end. " * 200}]
    rows[1] = rows[1] | {"rejected": long}
    given = flags(model, {"pairs": write_rows(tmp_path / "long.jsonl", rows)}, tmp_path, max_length=400)
    folder = evaluate(given)
    assert [line["correct"] is None for line in lines_of(folder, "pairs")] == [False, True, False, False]
    (warning,) = (words for words in summary_of(folder)["benchmarks"]["pairs"]["warnings"] if "not scored" in words)
    assert "two of its answers are longer than max_length without any context" in warning
