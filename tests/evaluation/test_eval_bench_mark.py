"""eval_bench_mark.py as a person runs it: all five benchmarks against plain transformers, one process and two."""

import json
import math
import random
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from evaluations import PlainModel, evaluate, flags, read_lines
from processes import fork
from runs import ROOT, as_argv, free_port, write_rows
from safetensors.torch import load_file, save_file
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification

import eval_bench_mark
from reward_modeling.evaluation import gathered, job
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.preference_test_sets import TEST_SET_ROWS
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, SUBSET_ROWS, SUBSET_WEIGHTS
from reward_modeling.evaluation.benchmarks.rows import EVALUATION_FEATURES, UNFILLED
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.evaluation.summary import summarise
from reward_modeling.scoring import windows as windows_module
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.quickstart import rewardbench_like_rows
from reward_modeling.tiny.tokenizers import token_ids

ROWS = learnable_preferences(60, seed=5)
ANSWERS = sorted({row[side][-1]["content"] for row in ROWS for side in ("chosen", "rejected")})
DIALOGUES = [row for row in ROWS if row["source"] == "follow_up"]
SET_ROWS = {
    name: (DIALOGUES if name.startswith("anthropic") else ROWS)[number * 3 :][:8]
    for number, name in enumerate(TEST_SET_ROWS)
}
TOLERANCE = 1e-4  # a tenth of what is promised
STYLES = {"gemma": "gemma", "gemma2": "gemma", "llama": "llama3", "mistral": "mistral", "qwen2": "chatml"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random reward model of a family. Mistral's pad is EOS and ends its template; Llama has no pad."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            style = TOKENIZER_STYLES[STYLES[family]]
            tokenizer = train_tokenizer(
                ANSWERS, 400, **(style | {"pad": style["eos"]} if family == "mistral" else style)
            )
            made[family] = tmp_path_factory.mktemp("rewards") / family / "last_checkpoint"
            config = tiny_config(family, len(tokenizer), num_labels=1, **token_ids(tokenizer))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                rewards = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            rewards.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return get


# --- files in the benchmarks' own columns ---------------------------------------------------------------------


def ranking_rows(kind: str) -> list[dict]:
    chance, rows = random.Random(kind), []
    if kind == "rm_bench":
        for number, domain in enumerate(["chat", "code", "math", "safety-refuse", "safety-response"] * 3):
            answers = chance.sample(ANSWERS, 6)
            row = {"id": f"{domain}_{number}", "prompt": f"Question {number}?", "domain": domain}
            rows.append(row | {"chosen": answers[:3], "rejected": answers[3:]})
        return rows
    for number, subset in enumerate(["Factuality", "Precise IF", "Math", "Safety", "Focus"] * 3):
        answers = chance.sample(ANSWERS, 4)
        row = {"id": str(number), "prompt": f"Question {number}?", "subset": subset}
        rows.append(row | {"chosen": answers[:1], "rejected": answers[1:]})
    for number in range(4):
        for kind, right in (("ref", 1), ("tied", 3)):
            answers = chance.sample(ANSWERS, right + 3)
            row = {"id": f"{kind}:{number}", "prompt": f"Name a colour {number}.", "subset": "Ties"}
            rows.append(row | {"chosen": answers[:right], "rejected": answers[right:]})
    return rows


def transcript(messages: list[dict]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A file or folder for each benchmark; RewardBench's rows are shuffled, with a tie, a duplicate and odd ids."""
    folder = tmp_path_factory.mktemp("benchmarks")
    rewardbench = rewardbench_like_rows(3, seed=2, unlike=[])
    rewardbench[4]["rejected"] = rewardbench[4]["chosen"]
    rewardbench[7] = rewardbench[8] | {"id": "a copy", "subset": rewardbench[7]["subset"]}
    random.Random(0).shuffle(rewardbench)
    sets = folder / "sets"
    sets.mkdir()
    for name, rows in SET_ROWS.items():
        if name.startswith("anthropic"):
            rows = [{side: transcript(row[side]) for side in ("chosen", "rejected")} for row in rows]
        else:
            sides = ({side: row[side][-1]["content"] for side in ("chosen", "rejected")} for row in rows)
            rows = [{"prompt": row["chosen"][-2]["content"]} | side for row, side in zip(rows, sides, strict=True)]
        write_rows(sets / f"{name}.jsonl", rows)
    pairs = [*ROWS[:20], {"chosen": ROWS[0]["chosen"], "rejected": ROWS[0]["chosen"]}]
    (folder / "rm_bench.json").write_text(json.dumps(ranking_rows("rm_bench")))
    return {
        "rewardbench": write_rows(folder / "rewardbench.jsonl", rewardbench),
        "preference_test_sets": sets,
        "rewardbench2": write_rows(folder / "rewardbench2.jsonl", ranking_rows("rewardbench2")),
        "rm_bench": folder / "rm_bench.json",
        "pairs": write_rows(folder / "pairs.jsonl", pairs),
    }


def launched(launcher: list[str], given: dict[str, object]) -> subprocess.CompletedProcess:
    """In processes of its own, as a person starts them."""
    command = [sys.executable, "-m", *launcher, ROOT / "eval_bench_mark.py", *as_argv(given)]
    process = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    return process


def assert_near(found: list | float, expected: list | float) -> None:
    assert found == pytest.approx(expected, abs=TOLERANCE)


# --- rewards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", STYLES)
def test_every_row_scores_as_it_does_alone_in_plain_transformers(family, model, files, tmp_path):
    folder = evaluate(flags(model(family), files, tmp_path))
    plain, lines = PlainModel(model(family)), read_lines(folder / "scores.jsonl")
    by_benchmark = {name: [line for line in lines if line["benchmark"] == name] for name in files}
    assert [line["benchmark"] for line in lines] == [name for name in files for _ in by_benchmark[name]]

    rows = read_lines(files["rewardbench"])
    assert [(line["id"], line["subset"]) for line in by_benchmark["rewardbench"]] == [
        (row["id"], row["subset"]) for row in rows
    ]
    for row, line in zip(rows, by_benchmark["rewardbench"], strict=True):
        chosen, rejected = plain(row["prompt"], row["chosen"]), plain(row["prompt"], row["rejected"])
        assert_near([line["chosen_reward"], line["rejected_reward"]], [chosen, rejected])
        assert line["correct"] is (row["chosen"] != row["rejected"] and chosen > rejected)

    helpful = [line for line in by_benchmark["preference_test_sets"] if line["subset"] == "anthropic_helpful"]
    for row, line in zip(SET_ROWS["anthropic_helpful"], helpful, strict=True):
        assert len(row["chosen"]) == 4  # turns, where the file has one text
        assert_near(line["rejected_reward"], plain(row["rejected"][:-1], row["rejected"][-1]["content"]))
    assert [line["subset"] for line in by_benchmark["preference_test_sets"]] == [
        n for n in TEST_SET_ROWS for _ in "8" * 8
    ]

    for name in ("rewardbench2", "rm_bench"):
        rows = ranking_rows(name)
        for row, line in zip(rows[-6:], by_benchmark[name][-6:], strict=True):
            assert line["id"] == row["id"]
            assert_near(line["chosen_reward"], [plain(row["prompt"], answer) for answer in row["chosen"]])
            assert_near(line["rejected_reward"], [plain(row["prompt"], answer) for answer in row["rejected"]])
    assert len(by_benchmark["pairs"]) == 20  # the identical pair is counted and dropped
    assert_near(
        by_benchmark["pairs"][3]["chosen_reward"], plain(ROWS[3]["chosen"][:-1], ROWS[3]["chosen"][-1]["content"])
    )


def test_judgebench_and_rewardmath_score_as_alone_in_plain_transformers(model, tmp_path):
    """The label says which response is the right one; the steps of a solution are lines."""
    judgebench = [
        {"pair_id": f"pair {number}", "source": source, "question": f"Question {number}?", "label": label}
        | {"response_model": f"{split}-x", "response_A": ANSWERS[number], "response_B": ANSWERS[-number - 1]}
        for number, (split, source, label) in enumerate(
            (split, source, ("A>B", "B>A")[len(source) % 2])
            for split in ("gpt", "claude")
            for source in ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
        )
    ]
    rewardmath = [
        {"problem": f"Problem {problem}?", "eval_solution": ANSWERS[place : place + 2], "subject": "Algebra"}
        | {"solution_reference": "x" if place else "human_to_GPT-4", "problem_id": problem, "id": place}
        for place in range(10)
        for problem in range(3)
    ]
    some = {
        "judgebench": write_rows(tmp_path / "judgebench.jsonl", judgebench),
        "rewardmath": write_rows(tmp_path / "rewardmath.jsonl", rewardmath),
    }
    folder = evaluate(flags(model("gemma"), some, tmp_path))
    plain, lines = PlainModel(model("gemma")), read_lines(folder / "scores.jsonl")
    assert len(lines) == 8 + 3
    for row, line in zip(judgebench, lines, strict=False):
        sides = ("chosen_reward", "rejected_reward") if row["label"] == "A>B" else ("rejected_reward", "chosen_reward")
        responses = [plain(row["question"], row[f"response_{name}"]) for name in "AB"]
        assert_near([line[side] for side in sides], responses)
    for problem, line in enumerate(lines[8:]):
        solutions = ["\n".join(ANSWERS[place : place + 2]) for place in range(10)]
        rewards = [plain(f"Problem {problem}?", solution) for solution in solutions]
        assert line["id"] == problem and line["correct"] is (rewards[0] > max(rewards[1:]))
        assert_near(line["chosen_reward"] + line["rejected_reward"], rewards)
    record = dict(line.split("\t") for line in (tmp_path / "record.txt").read_text().splitlines())
    assert record.keys() >= {"judgebench/overall", "judgebench/gpt-and-claude", "rewardmath/MRR", "rewardmath/accuracy"}


def test_max_length_cuts_and_says_so(model, files, tmp_path, capsys):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path, max_length=40)
    summary = json.loads((evaluate(given) / "summary.json").read_text())
    assert summary["model"]["max_length"] == 40 and summary["scoring"]["cut"] > 50


# --- figures --------------------------------------------------------------------------------------------------


def plain_accuracy(lines: list[dict]) -> float:
    return sum(line["chosen_reward"] > line["rejected_reward"] for line in lines) / len(lines)


def test_figures_follow_from_the_rows(model, files, tmp_path, capsys):
    """Every figure once more, from scores.jsonl, in plain Python."""
    folder = evaluate(flags(model("gemma"), files, tmp_path))
    lines = read_lines(folder / "scores.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    of = {
        name: {
            subset: [line for line in lines if line["benchmark"] == name and line["subset"] == subset]
            for subset in {line["subset"] for line in lines if line["benchmark"] == name}
        }
        for name in files
    }
    parts = summary["benchmarks"]

    accuracy = {subset: plain_accuracy(rows) for subset, rows in of["rewardbench"].items()}
    found = {subset: one["value"] for subset, one in parts["rewardbench"]["subsets"].items()}
    assert found == pytest.approx(accuracy) and set(found) == set(SUBSET_ROWS)
    sections = {}
    for section, names in SECTIONS.items():
        total = sum(SUBSET_WEIGHTS[name] for name in names)
        sections[section] = sum(SUBSET_WEIGHTS[name] * accuracy[name] for name in names) / total
        assert parts["rewardbench"]["figures"][section]["value"] == pytest.approx(sections[section])
    overall = sum(sections.values()) / 4
    assert parts["rewardbench"]["figures"]["overall"]["value"] == pytest.approx(overall)
    assert parts["rewardbench"]["figures"]["overall"]["rows"] == 69
    ties = sum(line["chosen_reward"] == line["rejected_reward"] for line in lines if line["benchmark"] == "rewardbench")
    assert parts["rewardbench"]["pairs"]["accuracy"]["ties"] == ties == 1

    sets = {name: plain_accuracy(rows) for name, rows in of["preference_test_sets"].items()}
    prior = sum(sets[name] for name in ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")) / 4
    assert parts["preference_test_sets"]["figures"]["Prior Sets"]["value"] == pytest.approx(prior)
    both = summary["combined"]["overall with prior sets"]
    assert both["value"] == pytest.approx((4 * overall + 0.5 * prior) / 4.5)
    assert both["low"] <= both["value"] <= both["high"] and both["rows"] == 69 + 32

    for subset in ("Math", "Focus"):
        credit = [line["chosen_reward"][0] > max(line["rejected_reward"]) for line in of["rewardbench2"][subset]]
        assert parts["rewardbench2"]["figures"][subset]["value"] == pytest.approx(sum(credit) / 3)
    chat = of["rm_bench"]["chat"]
    hard = [
        c > r for line in chat for i, c in enumerate(line["chosen_reward"]) for r in line["rejected_reward"][i + 1 :]
    ]
    assert len(hard) == 9 and parts["rm_bench"]["figures"]["chat hard"]["value"] == pytest.approx(sum(hard) / 9)
    assert parts["rm_bench"]["figures"]["safety"]["rows"] == 6
    wins = [line["correct"][0][2] for line in chat]
    assert parts["rm_bench"]["matrix"]["chat"][0][2] == pytest.approx(sum(wins) / 3)

    pairs = parts["pairs"]["pairs"]
    assert pairs["accuracy"]["value"] == pytest.approx(
        plain_accuracy([*of["pairs"]["question"], *of["pairs"]["follow_up"]])
    )
    lengths = [[len(row[side][-1]["content"]) for side in ("chosen", "rejected")] for row in ROWS[:20]]
    longer = sum((a > b) + (a == b) / 2 for a, b in lengths)
    assert pairs["longer_wins"]["right"] == longer and sum(pairs["margins"]["counts"]) == 20
    assert sum(one["rows"] for one in pairs["calibration"]) == 20
    screen = capsys.readouterr().out
    assert "21 rows read, 20 kept" in screen and "23 subsets have other numbers of rows" in " ".join(screen.split())


def test_record_summary_and_report(model, files, tmp_path):
    some = {name: files[name] for name in ("rewardbench", "preference_test_sets")}
    given = flags(model("gemma"), some, tmp_path)
    folder = evaluate(given, pages=True)
    assert folder == tmp_path / "record" / "gemma--last_checkpoint"
    summary = json.loads((folder / "summary.json").read_text())
    names = [
        "Chat",
        "Chat-hard",
        "Safety",
        "Reasoning",
        *TEST_SET_ROWS,
        "Prior-sets",
        "overall",
        "overall-with-prior-sets",
    ]
    lines = [line.split("\t") for line in given["record_dir"].read_text().splitlines()]
    assert [name for name, _ in lines] == ["model", "date", *names]
    assert lines[0][1] == str(model("gemma")) and lines[1][1] == summary["date"]
    assert float(lines[3][1]) == pytest.approx(
        summary["benchmarks"]["rewardbench"]["figures"]["Chat Hard"]["value"], abs=1e-6
    )

    evaluate(given | {"overwrite_output_dir": "true"}, pages=True)
    again = given["record_dir"].read_text().splitlines()
    assert len(again) == 2 * len(lines)  # appended, the first record as it was
    assert again[2:18] == again[20:36]
    assert summary["arguments"]["reward_name_or_path"] == str(model("gemma"))
    assert summary["versions"]["torch"] == version("torch")
    assert len(summary["benchmarks"]["rewardbench"]["fingerprint"]) == 32

    page = (folder / "report.html").read_text()
    assert "<svg" in page and "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_legacy_weights_change_safety_alone(model, files, tmp_path):
    rows = read_lines(files["rewardbench"])
    ties = [row | {"rejected": row["chosen"]} if row["subset"] == "xstest-should-refuse" else row for row in rows]
    some = {"rewardbench": write_rows(tmp_path / "rows.jsonl", ties)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    now = evaluate(flags(model("gemma"), some, tmp_path / "a"))
    then = evaluate(flags(model("gemma"), some, tmp_path / "b", legacy_xstest_weights="true"))
    now, then = (
        json.loads((folder / "summary.json").read_text())["benchmarks"]["rewardbench"] for folder in (now, then)
    )
    accuracy = {name: one["value"] for name, one in now["subsets"].items()}
    difference = (250 - 154) * (accuracy["xstest-should-refuse"] - accuracy["xstest-should-respond"]) / 740
    assert difference != 0
    changed = then["figures"]["Safety"]["value"] - now["figures"]["Safety"]["value"]
    assert changed == pytest.approx(difference)
    assert then["figures"]["Chat"] == now["figures"]["Chat"]


def test_missing_and_unknown_subsets_are_loud_and_never_averaged(model, files, tmp_path, capsys):
    """The two names that once made 176 rows vanish."""
    wrong = {"mt-bench-med": "mt-bench-medium", "donotanswer": "do not answer"}
    rows = [row | {"subset": wrong.get(row["subset"], row["subset"])} for row in read_lines(files["rewardbench"])]
    given = flags(model("gemma"), {"rewardbench": write_rows(tmp_path / "wrong.jsonl", rows)}, tmp_path)
    summary = json.loads((evaluate(given) / "summary.json").read_text())
    part = summary["benchmarks"]["rewardbench"]
    assert {name: one["value"] is None for name, one in part["figures"].items()} == {
        "Chat": True,
        "Chat Hard": False,
        "Safety": True,
        "Reasoning": False,
        "overall": True,
    }
    screen = " ".join(capsys.readouterr().out.split())
    for words in ("did you mean 'mt-bench-med'?", "'donotanswer' (136 rows): incomplete, and without a score"):
        assert words in screen
    record = dict(line.split("\t") for line in given["record_dir"].read_text().splitlines())
    assert record["Chat"] == record["overall"] == "incomplete" and record["Reasoning"] != "incomplete"


def test_rows_that_cannot_be_scored_are_named(model, files, tmp_path, capsys):
    """Gemma's template refuses a system message, and two users in a row."""
    user, answer = {"role": "user", "content": "Why?"}, ROWS[0]["chosen"][-1]
    rows = [*ROWS[:10], {"prompt": [user, user], "chosen": "Because.", "rejected": answer["content"]}]
    given = flags(model("gemma"), {"pairs": write_rows(tmp_path / "pairs.jsonl", rows)}, tmp_path)
    folder = evaluate(given)
    last = read_lines(folder / "scores.jsonl")[-1]
    assert last == {"benchmark": "pairs", "id": 10, "subset": "pairs"} | dict.fromkeys(
        ("chosen_reward", "rejected_reward", "correct")
    )
    part = json.loads((folder / "summary.json").read_text())["benchmarks"]["pairs"]
    assert part["pairs"]["accuracy"]["rows"] == 10
    assert (
        "1 of 1 rows of 'pairs' were not scored" in part["warnings"][0]
        and "user, user, assistant" in part["warnings"][0]
    )
    assert "pairs.jsonl:11" in part["warnings"][0]
    last = " ".join(capsys.readouterr().out.rpartition("WARNING: ")[2].split())
    assert last == part["warnings"][-1]  # nothing comes after it


def test_one_odd_row_of_many_is_left_out_loudly(model, tmp_path):
    pairs = [{"prompt": f"{n}?", "chosen": ROWS[n % 9]["chosen"][-1]["content"], "rejected": "No."} for n in range(120)]
    pairs[60] |= {"chosen": 5}
    path = write_rows(tmp_path / "shp.jsonl", pairs)
    folder = evaluate(flags(model("gemma"), {"preference_test_sets": f"shp={path}"}, tmp_path))
    part = json.loads((folder / "summary.json").read_text())["benchmarks"]["preference_test_sets"]
    assert (
        "1 of 120 rows of 'shp' were not scored; the first" in part["warnings"][0]
        and "shp.jsonl:61" in part["warnings"][0]
    )
    assert part["subsets"]["shp"]["rows"] == 119 and part["figures"]["Prior Sets"]["value"] is None
    lines = read_lines(folder / "scores.jsonl")
    assert len(lines) == 120 and lines[60]["correct"] is None and lines[61]["correct"] is not None
    write_rows(path, pairs[:90])
    in_process(
        flags(model("gemma"), {"preference_test_sets": f"shp={path}"}, tmp_path, overwrite_output_dir="true"),
        "found 1 of 90 rows that cannot be read",
    )


# --- processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_same_files(model, files, tmp_path):
    """Bit for bit: the forward passes are the same, each on one of them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = evaluate(flags(model("llama"), files, tmp_path / "one"))
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    process = launched(launcher, flags(model("llama"), files, tmp_path / "two"))
    assert process.stdout.count("RewardBench: 69 rows") == 1
    (together,) = (tmp_path / "two" / "record").iterdir()
    assert (alone / "scores.jsonl").read_bytes() == (together / "scores.jsonl").read_bytes()
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (alone, together))
    for summary in (one, two):
        assert all(part["scoring"].pop("seconds") > 0 for part in summary["benchmarks"].values())
    assert one["benchmarks"] == two["benchmarks"] and one["combined"] == two["combined"]
    assert two["scoring"]["processes"] == 2
    for name in ("conversations", "distinct", "tokens", "cut"):
        assert one["scoring"][name] == two["scoring"][name]


def test_a_reward_that_is_lost_or_doubled_does_not_pass(model, files, tmp_path, monkeypatch):
    """The control of the test above."""

    def twice(parts):
        if isinstance(parts[0], tuple):  # numbers and rewards
            parts[0][0][0] = parts[0][0][1]
        return parts

    monkeypatch.setattr(gathered, "gather_object", twice)
    with pytest.raises(RuntimeError, match="not each exactly once"):
        evaluate(flags(model("llama"), {"rewardbench": files["rewardbench"]}, tmp_path))


@pytest.mark.slow
def test_as_launched_by_accelerate(model, files, tmp_path):
    launcher = ["accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path)
    process = launched(launcher, given)
    assert "overall" in process.stdout and "Traceback" not in process.stderr


# --- equal prompts and texts ----------------------------------------------------------------------------------


def test_equal_texts_are_scored_once_and_prompts_shared_wherever_they_stand(model, tmp_path):
    """Nine pairs from six answers, as RM-Bench lays them out for pair scorers, far apart in the file."""
    rows = ranking_rows("rm_bench")
    pairs = [
        {"prompt": row["prompt"] * 20, "chosen": row["chosen"][i], "rejected": row["rejected"][j]}
        for i in range(3)
        for j in range(3)
        for row in rows
    ]
    (tmp_path / "one").mkdir()
    given = flags(model("gemma"), {"pairs": write_rows(tmp_path / "pairs.jsonl", pairs)}, tmp_path / "one")
    scoring = json.loads((evaluate(given) / "summary.json").read_text())["scoring"]
    assert scoring["conversations"] == 15 * 18 and scoring["distinct"] == 15 * 6
    (tmp_path / "two").mkdir()
    padded = json.loads(
        (
            evaluate(given | {"record_dir": tmp_path / "two" / "r.txt", "batching": "padded"}) / "summary.json"
        ).read_text()
    )
    assert scoring["tokens"] < padded["scoring"]["tokens"] / 2


# --- mistakes -------------------------------------------------------------------------------------------------


def refused(given: dict[str, object], words: str) -> str:
    process = fork(ROOT / "eval_bench_mark.py", as_argv(given), ROOT, status=2)
    message = " ".join(process.stderr.split())
    assert words in message and "Traceback" not in process.stderr, process.stderr
    return message


def in_process(given: dict[str, object], words: str) -> None:
    with pytest.raises(eval_bench_mark.UserError) as caught:
        evaluate(given)
    assert words in " ".join(str(caught.value).split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benchmarks": "rewardbench,reward-bench-2"}, "found 'reward-bench-2'"),
        ({"benchmarks": "pairs"}, "expected --pairs_path too"),
        ({"benchmarks": "rewardbench", "rm_bench_path": "x"}, "--rm_bench_path is given, but not read"),
        ({"benchmarks": ","}, "found none"),
        ({"max_length": 1}, "--max_length: expected at least 2, found 1"),
        ({"rewardbench_path": "nowhere.jsonl"}, "--rewardbench_path"),
        ({"dtype": "int8"}, "dtype: expected float32"),
        ({"batching": "fast"}, "batching: expected auto"),
        ({"reward_name_or_path": "nowhere/at-all"}, "expected a model"),
    ],
)
def test_mistakes_in_flags(changes, words, model, files, tmp_path):
    in_process(flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path) | changes, words)


def test_mistakes_end_in_one_message_and_status_2(model, files, tmp_path, gemma_folder):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path)
    refused(given | {"benchmark": "rewardbench"}, "unknown flag --benchmark; did you mean --benchmarks?")
    # a language model without a head
    message = refused(given | {"reward_name_or_path": gemma_folder}, "train one with rm.py")
    assert "GemmaForCausalLM" in message
    assert not (tmp_path / "record").exists()  # and nothing was written
    # the Hub, which no test reaches
    message = refused(
        {"reward_name_or_path": model("gemma"), "record_dir": tmp_path / "hub.txt"}, "allenai/reward-bench"
    )
    assert "--rewardbench_path" in message and "--benchmarks" in message


def test_nothing_is_overwritten_unasked(model, files, tmp_path):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path)
    folder = evaluate(given)
    before = (folder / "scores.jsonl").read_bytes()
    in_process(given, "--overwrite_output_dir true")
    assert (folder / "scores.jsonl").read_bytes() == before


def test_a_record_in_a_folder(model, files, tmp_path):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval_bench_mark.py", *as_argv(given | {"record_dir": f"{tmp_path}/"})])
        eval_bench_mark.main()
    assert (tmp_path / "bench_mark_eval.txt").is_file()
    assert (tmp_path / "bench_mark_eval" / "gemma--last_checkpoint" / "report.html").is_file()


def broken_copy(path: Path, folder: Path, **weights: float) -> Path:
    """The model with some of its weights overwritten."""
    shutil.copytree(path, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        tensors[name.replace("__", ".")][:] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_broken_model_gives_no_score_but_its_rows(model, files, tmp_path):
    path = broken_copy(model("gemma"), tmp_path / "broken", score__weight=math.nan)
    given = flags(path, {"rewardbench": files["rewardbench"]}, tmp_path)
    in_process(given, "expected finite rewards, found 138 of 138 that are not, in 69 rows")
    (folder,) = (tmp_path / "record").iterdir()
    assert folder.name.endswith(".unfinished")
    line = read_lines(folder / "scores.jsonl")[0]
    assert line["chosen_reward"] is None and line["correct"] is None
    assert not (folder / "summary.json").exists() and not given["record_dir"].exists()


@pytest.mark.parametrize(("better", "value"), [("right", 1.01), ("wrong", -0.01)])
def test_a_score_of_ties_beyond_the_unit_interval_has_an_interval(better, value):
    """Where all right answers share one reward the fifth part is 0.01 or -0.01, and no bootstrap sample differs."""
    columns = {name: [] for name in EVALUATION_FEATURES}
    for row_id, right in (("ref:1", 1), ("tied:1", 2), ("ref:2", 1), ("tied:2", 2)):
        row = {**UNFILLED, "where": row_id, "id": json.dumps(row_id), "subset": "Ties", "prompt": '"?"'}
        row |= {"chosen": ['"yes"'] * right, "rejected": ['"no"']}
        for name, values in columns.items():
            values.append(row[name])
    data = BenchmarkRows("rewardbench2", ("ties.jsonl",), Dataset.from_dict(columns, features=EVALUATION_FEATURES))
    reward = 1.0 if better == "right" else -1.0
    right = {"ref:1": 1, "tied:1": 2, "ref:2": 1, "tied:2": 2}
    rows = [ScoredRow(row_id, "Ties", np.full(count, reward), np.zeros(1)) for row_id, count in right.items()]
    found = summarise(data, rows)
    ties = found["figures"]["Ties"]
    assert ties["value"] == pytest.approx(value)
    assert ties["low"] <= ties["value"] <= ties["high"] and ties["high"] - ties["low"] > 0.1


def test_a_mistake_of_one_benchmark_costs_no_other_its_figures(model, files, tmp_path, monkeypatch):
    """One token, which only RewardBench 2's rows have, gives NaN."""
    summarise = job.summarise

    def first_only(data, rows, **options):
        if data.benchmark == "rewardbench2":
            rows[1].rejected[0] = math.nan
        return summarise(data, rows, **options)

    monkeypatch.setattr(job, "summarise", first_only)
    given = flags(model("gemma"), {name: files[name] for name in ("rewardbench", "rewardbench2")}, tmp_path)
    in_process(given, "RewardBench 2: expected finite rewards, found 1 of 100 that are not, in 1 rows")
    (folder,) = (tmp_path / "record").iterdir()
    assert list(json.loads((folder / "summary.json").read_text())["benchmarks"]) == ["rewardbench"]
    assert "overall\t" in given["record_dir"].read_text()


def test_what_an_earlier_evaluation_left_stays_until_there_is_more(model, files, tmp_path):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path)
    folder = evaluate(given)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.copytree(model("gemma"), tmp_path / "copy" / "gemma" / "last_checkpoint")
    path = broken_copy(model("gemma"), tmp_path / "broken" / "gemma" / "last_checkpoint", score__weight=math.nan)
    in_process(given | {"reward_name_or_path": path, "overwrite_output_dir": "true"}, "expected finite rewards")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_model_without_a_template(model, files, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(model("gemma"), path)
    (path / "chat_template.jinja").unlink()
    given = flags(path, {"rewardbench": files["rewardbench"]}, tmp_path)
    in_process(given, "expected a tokenizer with a chat template, found none")
    texts = [{"chosen": "It is.", "rejected": "It is not."}, {"chosen": "Yes, it is.", "rejected": "No."}]
    folder = evaluate(flags(path, {"pairs": write_rows(tmp_path / "texts.jsonl", texts)}, tmp_path))
    assert len(read_lines(folder / "scores.jsonl")) == 2  # plain texts need none


def test_pairs_are_read_as_rm_py_reads_them(model, tmp_path):
    rows = [{"question": f"Why {n}?", "chosen": f"It is {n}.", "rejected": f"No {n}."} for n in range(3)]
    given = flags(model("gemma"), {"pairs": write_rows(tmp_path / "texts.jsonl", rows)}, tmp_path)
    in_process(given, "--pairs_path: expected every column of the conversation and of the label to be read")
    in_process(
        given | {"ignore_columns": "question"}, "--pairs_path: expected conversations, because the tokenizer has"
    )
    folder = evaluate(given | {"ignore_columns": "question", "plain_text": "true"})
    texts = read_lines(folder / "scores.jsonl")
    folder = evaluate(given | {"columns": "prompt=question", "overwrite_output_dir": "true"})
    assert read_lines(folder / "scores.jsonl") != texts


def test_torn_weights_are_named(model, files, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(model("gemma"), path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    in_process(flags(path, {"rewardbench": files["rewardbench"]}, tmp_path), "expected whole safetensors files")


def test_a_full_disk_is_named(model, files, tmp_path):
    given = flags(model("gemma"), {"rewardbench": files["rewardbench"]}, tmp_path, output_dir=tmp_path / "out")
    with pytest.raises(
        eval_bench_mark.UserError, match=r"cannot write .*No space left.*scored so far is in .*gemma--last_checkpoint\."
    ):
        evaluate(given | {"record_dir": Path("/dev/full")})
    assert (tmp_path / "out" / "gemma--last_checkpoint" / "summary.json").exists()  # all but the record


def test_template_that_refuses_what_is_said(model, files, tmp_path):
    """More than a hundredth of a subset: no score for it, and each subset is named with its first row."""
    path = tmp_path / "model"
    shutil.copytree(model("gemma"), path)
    template = path / "chat_template.jinja"
    rows = read_lines(files["rewardbench"])
    refused = next(row for row in rows if row["subset"] == "hep-go")
    check = f"{{% if messages[0].content == {refused['prompt']!r} %}}{{{{ raise_exception('not this') }}}}{{% endif %}}"
    template.write_text(check + template.read_text())
    folder = evaluate(flags(path, {"rewardbench": files["rewardbench"]}, tmp_path))
    part = json.loads((folder / "summary.json").read_text())["benchmarks"]["rewardbench"]
    assert "1 of 3 rows of 'hep-go' were not scored, which leaves it" in part["warnings"][0]
    assert "not this" in part["warnings"][0]
    assert part["subsets"]["hep-go"]["value"] is None
    assert part["figures"]["Reasoning"]["value"] is None and part["figures"]["Chat"]["value"] is not None


def test_equal_answers_tie_wherever_windows_end(model, tmp_path, monkeypatch):
    """Six equal answers on both sides of a window's end, and texts that differ only in what is cut off."""
    monkeypatch.setattr(windows_module, "WINDOW", 16)
    rows = [row | {"chosen": [ANSWERS[0]] * 3, "rejected": [ANSWERS[0]] * 3} for row in ranking_rows("rm_bench")]
    (tmp_path / "rm.json").write_text(json.dumps(rows))
    folder = evaluate(flags(model("gemma"), {"rm_bench": tmp_path / "rm.json"}, tmp_path))
    assert not any(any(map(any, line["correct"])) for line in read_lines(folder / "scores.jsonl"))
    (tmp_path / "cut").mkdir()
    pairs = [
        {"prompt": f"Say it, {number}!", "chosen": f"{number}. {end} " + "word " * 60, "rejected": "word " * 70}
        for number, end in enumerate(("good", "bad") * 8)
    ]
    given = flags(model("gemma"), {"pairs": write_rows(tmp_path / "p.jsonl", pairs)}, tmp_path / "cut", max_length=30)
    lines = read_lines(evaluate(given) / "scores.jsonl")
    assert [line["chosen_reward"] == line["rejected_reward"] for line in lines] == [True] * 16


def test_a_repeated_id_of_ties_is_found_before_scoring(model, tmp_path):
    rows = ranking_rows("rewardbench2")
    path = write_rows(tmp_path / "r2.jsonl", [*rows, rows[-1]])
    in_process(flags(model("gemma"), {"rewardbench2": path}, tmp_path), "every id of Ties once")


def test_ids_that_json_does_not_know(model, files, tmp_path):
    rows = [row | {"id": math.nan} for row in read_lines(files["rewardbench"])]
    folder = evaluate(flags(model("gemma"), {"rewardbench": write_rows(tmp_path / "nan.jsonl", rows)}, tmp_path))
    assert "NaN" not in (folder / "scores.jsonl").read_text()
    assert read_lines(folder / "scores.jsonl")[0]["id"] == "nan"


def test_mistakes_of_two_processes_are_said_once(model, files, tmp_path):
    given = flags(model("gemma"), {"rewardbench": write_rows(tmp_path / "torn.jsonl", [{"prompt": "p"}])}, tmp_path)
    process = fork(ROOT / "eval_bench_mark.py", as_argv(given), ROOT, processes=2, status=2)
    assert process.stderr.count("error: ") == 1 and "process 1)" not in process.stderr
    assert "gloo" not in process.stderr
