"""The script, from scored rows to files."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, Page
from scored import choose, manifest_of, random_rows, read_rows, report_of, write_rows

from reward_modeling.common.errors import UserError

ROOT = Path(__file__).parents[2]
SELECTS = [
    ("--select", "best"),
    ("--select", "top_k", "--top_k", "2", "--len_penalty", "0.01"),
    *(("--choose", name) for name in ("max_min", "max_max", "max_random")),
    ("--choose", "max_min_p", "--len_penalty", "0.1", "--max_pairs_per_prompt", "2"),
    ("--length_matched", "true", "--min_gap", "1"),
]


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *flags: choose(monkeypatch, capsys, *flags)


@pytest.mark.parametrize("flags", SELECTS)
def test_a_choice_depends_on_seed_and_prompt_alone(flags, run, tmp_path):
    """Not on the order of the rows, on how answers are spread over rows and files, or on their order in a row."""
    rows = random_rows()
    whole = write_rows(tmp_path / "whole.jsonl", rows)
    single = [
        {"prompt": [{"role": "user", "content": row["prompt"]}], "completion": answer, "rewards": [reward]}
        for row in rows
        for answer, reward in zip(row["responses"], row["rewards"], strict=True)
    ]
    random.Random(1).shuffle(single)
    parts = [write_rows(tmp_path / "a.jsonl.gz", single[:70]), write_rows(tmp_path / "b.jsonl", single[70:])]
    run("--input", whole, "--output", tmp_path / "one.jsonl", *flags)
    run("--input", f"{parts[0]},{parts[1]}", "--output", tmp_path / "two.jsonl", *flags)
    one, two = (sorted(map(json.dumps, read_rows(tmp_path / name))) for name in ("one.jsonl", "two.jsonl"))
    assert len(one) > 20
    assert one == two
    if "max_random" in flags:
        run("--input", whole, "--output", tmp_path / "three.jsonl", *flags, "--seed", "1")
        assert sorted(map(json.dumps, read_rows(tmp_path / "three.jsonl"))) != one


def test_every_answer_is_used_or_counted(run, tmp_path):
    rows = random_rows()
    output = tmp_path / "top.jsonl"
    words = run(
        "--input", write_rows(tmp_path / "in.jsonl", rows), "--select", "top_k", "--top_k", "9", "--output", output
    )
    report = report_of(output)
    counts = {name: entry["count"] for name, entry in report["dropped"].items()}
    assert counts["no_reward"] == sum(reward is None for row in rows for reward in row["rewards"])
    usable = {
        row["prompt"]: {
            answer
            for answer, reward in zip(row["responses"], row["rewards"], strict=True)
            if answer.strip() and reward is not None
        }
        for row in rows
    }
    answers = sum(len(row["responses"]) for row in rows)
    left = answers - sum(counts[name] for name in ("no_reward", "empty_answer", "duplicate_answer"))
    assert left == sum(map(len, usable.values()))
    written = read_rows(output)
    prompts = {row["messages"][0]["content"] for row in written}
    assert sum(len(usable[name]) for name in prompts) == len(written)
    dropped_prompts = sum(entry["count"] for entry in report["dropped"].values() if entry["unit"] == "prompts")
    assert len(prompts) + dropped_prompts == report["prompts"] == 40
    assert f"{counts['no_reward']}  no finite reward" in words


def brute(rows, n, take):
    """The mean over prompts and subsets of n answers with a reward."""
    values = []
    for row in rows:
        scored = [place for place, reward in enumerate(row["rewards"]) if reward is not None]
        if len(scored) >= n:
            values.append(np.mean([take(row, subset) for subset in itertools.combinations(scored, n)]))
    return np.mean(values), len(values)


def best_truth(row, subset):
    greatest = max(row["rewards"][place] for place in subset)
    return np.mean([row["is_correct"][place] for place in subset if row["rewards"][place] == greatest])


def most_frequent_truth(row, subset):
    finals = [row["final"][place] for place in subset]
    most = max(map(finals.count, finals))
    return np.mean([final == "1" for final in set(finals) if finals.count(final) == most])


def test_the_report_has_means_over_all_subsets(run, tmp_path):
    rows = random_rows()
    output = tmp_path / "pairs.jsonl"
    words = run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", output, "--answer_column", "final")
    report = report_of(output)
    takes = {
        "best": best_truth,
        "random": lambda row, subset: np.mean([row["is_correct"][place] for place in subset]),
        "oracle": lambda row, subset: max(row["is_correct"][place] for place in subset),
        "majority": most_frequent_truth,
    }
    assert [row["n"] for row in report["curve"]] == [1, 2, 3, 4, 5, 6]
    for curve, truth in zip(report["curve"], report["truth"]["rows"], strict=True):
        n = curve["n"]
        value, prompts = brute(rows, n, lambda row, subset: max(row["rewards"][place] for place in subset))
        assert (curve["reward"]["value"], curve["reward"]["prompts"]) == (pytest.approx(value, abs=1e-12), prompts)
        for name, take in takes.items():
            assert truth[name]["value"] == pytest.approx(brute(rows, n, take)[0], abs=1e-12)
        over = truth["best_less"]["random"]
        assert over["value"] == pytest.approx(truth["best"]["value"] - truth["random"]["value"], abs=1e-12)
    assert "From n = 2 on these are the prompts that have so many answers" in words
    assert "Best of 6 less the majority of 6" in words
    page = Page((tmp_path / "pairs.jsonl.report.html").read_text())
    assert all(reference.startswith("#") for reference in page.references) and "script" not in page.tags


def test_models_of_a_mix(run, tmp_path):
    """Both models gave "same": the answer counts once, and half for each."""
    a = [{"prompt": f"{n}?", "completion": "same" if n == 0 else f"a{n}", "rewards": [n - 1.5]} for n in range(4)]
    b = [{"prompt": f"{n}?", "completion": "same" if n == 0 else f"b{n}", "rewards": [0.0]} for n in range(4)]
    b.append({"prompt": "0?", "completion": "other", "rewards": [-9.0]})
    files = [write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", a), ("b", b))]
    output = tmp_path / "mixed.jsonl"
    words = run("--mix", f"A={files[0]},B={files[1]}", "--output", output, "--select", "dpo_pairs")
    models = report_of(output)["models"]
    assert (models["A"]["chosen"], models["B"]["chosen"]) == (1.5 + 1, 0.5 + 1)
    assert models["A"]["share_chosen"]["value"] == pytest.approx(2.5 / 4)
    assert read_rows(output)[0]["chosen_model"] == "A + B"
    assert "A" in words and "62.5" in words
    assert [entry["model"] for entry in manifest_of(output)["inputs"]] == ["A", "B"]


def test_a_mix_says_how_far_its_prompts_meet(run, tmp_path):
    def rows(model, *prompts):
        return [{"prompt": name, "responses": [f"{model}1", f"{model}2"], "rewards": [1, 2]} for name in prompts]

    a = write_rows(tmp_path / "a.jsonl", rows("a", "1?", "2? ", "3?"))
    b = write_rows(tmp_path / "b.jsonl", rows("b", "1?", "\n2?", "4?"))
    c = write_rows(tmp_path / "c.jsonl", rows("c", "5?"))
    output = tmp_path / "pairs.jsonl"
    words = run("--mix", f"{a},B={b}", "--output", output)
    assert report_of(output)["prompts_by_models"] == {"1": 2, "2": 2}
    assert "Prompts with answers of 1 model: 2; of 2 models: 2." in words and "WARNING" not in words
    first = read_rows(output)
    assert [row["chosen"][0]["content"] for row in first] == ["1?", "2? ", "3?", "4?"]  # as it stands
    run("--mix", f"B={b},a={a}", "--output", output, "--overwrite_output", "true")
    assert sorted(map(json.dumps, read_rows(output))) == sorted(map(json.dumps, first))
    words = run("--mix", f"{a},{c}", "--output", output, "--overwrite_output", "true")
    assert "WARNING: --mix: expected answers of several models to the same prompts" in words
    assert "found no prompt that two models" in " ".join(words.split())
    assert "WARNING" not in run("--input", f"{a},{c}", "--output", output, "--overwrite_output", "true")


def test_truths_that_cannot_be_read_are_named(run, tmp_path):
    rows = [
        {"prompt": f"{n}?", "responses": ["a", "b"], "rewards": [2, 1], "is_correct": ["maybe", n]} for n in range(3)
    ]
    words = run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", tmp_path / "pairs.jsonl")
    found = " ".join(words.split())
    assert "WARNING: is_correct: expected true, false or a number from 0 to 1, found something else for 4" in found
    assert "in.jsonl:1 (maybe). They count as without one." in found


def test_what_no_row_was_written_of_is_no_part_of_the_figures(run, tmp_path):
    """LLaMA-Factory has no place for the second prompt's options."""
    rows = [{"prompt": f"{n}?", "responses": ["a", "b"], "rewards": [1, 2]} for n in range(2)]
    rows[1] |= {"chat_template_kwargs": {"think": True}, "generator": "m"}
    output = tmp_path / "pairs.jsonl"
    run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", output, "--format", "llama_factory")
    report = report_of(output)
    assert (report["selected"]["prompts"], report["selected"]["rows"], report["lengths"]["chosen"]["prompts"]) == (
        1,
        1,
        1,
    )
    assert report["models"]["m"]["share_chosen"]["prompts"] == 1
    assert report["dropped"]["not_writable"]["count"] == 1


def test_a_margin_is_the_gap_that_was_used(run, tmp_path):
    """With a penalty it is not the difference of the rewards, which are equal here, and which is below 0 there."""
    rows = [{"prompt": f"{n}?", "responses": ["a" * 11, "b"], "rewards": [1.0 + n, 1.0]} for n in range(2)]
    output = tmp_path / "pairs.jsonl"
    flags = ("--choose", "max_min_p", "--len_penalty", "0.25", "--min_gap", "1", "--write_margin", "true")
    run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", output, *flags)
    found = [(row["chosen_score"], row["rejected_score"], row["margin"]) for row in read_rows(output)]
    assert found == [(1.0, 1.0, 2.5), (1.0, 2.0, 1.5)]


def test_pairs_say_what_the_rewards_say_and_not_the_row(run, tmp_path):
    asked = {"role": "user", "content": "Why?"}
    rows = [
        {
            "chosen": [{"role": "user", "content": f"Why {n}?"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": f"Why {n}?"}, {"role": "assistant", "content": "bad"}],
            "rewards": [1.0, 2.0 if n else 0.0],
        }
        for n in range(3)
    ]
    output = tmp_path / "pairs.jsonl"
    words = run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", output)
    assert [row["chosen"][-1]["content"] for row in read_rows(output)] == ["good", "bad", "bad"]
    assert asked["role"] == read_rows(output)[0]["chosen"][0]["role"]
    assert "Of 3 pairs whose rows say which answer is chosen, 2 (66.7%) are written the other way round" in words


def test_texts_of_anybody_stay_texts_on_the_page(run, tmp_path):
    name = HOSTILE.replace("/", "")
    rows = [{"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 2], "generator": [name, "x"]}]
    run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", tmp_path / "pairs.jsonl")
    page = Page((tmp_path / "pairs.jsonl.report.html").read_text())
    assert "script" not in page.tags
    assert any("<script>" in text for text in page.texts)


WRONG = [
    ((), "--input or --mix: expected one of them, the scored rows, found neither"),
    (("--input", "a.jsonl", "--mix", "a.jsonl"), "found both"),
    (("--input", "a.jsonl", "--output", "o.parquet"), "--output: expected a .jsonl or .jsonl.gz file"),
    (("--input", "a.jsonl", "--output", "o.jsonl.gz", "--format", "llama_factory"), "LLaMA-Factory reads no packed"),
    (("--input", "a.jsonl", "--select", "best", "--min_gap", "1"), "--min_gap: expected --select dpo_pairs"),
    (("--input", "a.jsonl", "--select", "top_k"), "--top_k: expected a number"),
    (("--input", "a.jsonl", "--top_k", "3"), "--top_k: expected a number with --select top_k"),
    (("--input", "a.jsonl", "--choose", "max_mid"), "--choose: expected one of .*did you mean max_min?"),
    (("--input", "a.jsonl", "--choose", "max_min_p"), "--len_penalty: expected above 0"),
    (("--input", "a.jsonl", "--len_penalty", "1"), "--len_penalty: expected .* found 1 with max_min"),
    (
        ("--input", "a.jsonl", "--choose", "max_max", "--length_matched", "true"),
        "--length_matched: expected no --choose",
    ),
    (("--input", "a.jsonl", "--min_answers", "1"), "--min_answers: expected at least 2"),
    (("--input", "a.jsonl", "--by", "x", "--weights", "x=1"), "--by and --weights: expected one"),
    (("--input", "a.jsonl", "--weights", "x"), "--weights: expected each name once"),
    (("--input", "a.jsonl", "--columns", "promt=x"), "did you mean prompt"),
    (("--input", "a.jsonl", "--min_gap", "-1"), "--min_gap: expected 0 or more"),
    (("--input", "none.jsonl"), "none.jsonl does not exist"),
    (("--input", "a.jsonl", "--output", "a.jsonl", "--overwrite_output"), "expected another file"),
    (("--input", "a.jsonl", "--reward_column", "scores"), "expected the column scores in a.jsonl, found prompt"),
    (
        ("--input", "a.jsonl", "--truth_column", "right"),
        "--truth_column: expected the column right in a.jsonl, found prompt",
    ),
    (("--input", "a.jsonl", "--truth_column", "a.x+b.x"), "--truth_column: expected the column a.x in a.jsonl"),
    (
        ("--input", "a.jsonl", "--columns", "prompt=promt"),
        "--columns: expected the column promt in .*did you mean prompt",
    ),
    (
        ("--input", "named.jsonl"),
        r"no form that is read: name them with --columns \(columns: question, answers, rewards\)",
    ),
    (("--input", "equal.jsonl"), "(?s)everything was dropped.*1  all its answers have equal rewards"),
    (("--input", "empty.jsonl"), "expected scored rows in empty.jsonl, found none"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_mistakes_are_named(flags, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 2]}
    write_rows(tmp_path / "a.jsonl", [row])
    write_rows(tmp_path / "equal.jsonl", [row | {"rewards": [1, 1]}])
    write_rows(tmp_path / "empty.jsonl", [])
    write_rows(tmp_path / "named.jsonl", [{"question": "Why?", "answers": ["a", "b"], "rewards": [1, 2]}])
    with pytest.raises(UserError, match=message):
        run(*flags)
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "equal.jsonl", "empty.jsonl", "named.jsonl"}


def test_a_mistake_ends_with_status_2_and_torch_is_not_loaded(tmp_path):
    """One process for both: it reads rows and finds none to write."""
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 1]}])
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print(sorted({'torch', 'transformers'} & {*sys.modules})));"
        f"sys.argv = ['best_of_n.py', '--input', {str(source)!r}, '--output', {str(tmp_path / 'o.jsonl')!r}];"
        "runpy.run_path('best_of_n.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert done.stderr.startswith("\nerror: expected something to write") and "Traceback" not in done.stderr
