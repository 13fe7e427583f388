"""Benchmarks from every kind of file, every form of a row, every mistake of the user's."""

import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from reward_modeling.common.errors import UserError
from reward_modeling.data import cached_rows, sources
from reward_modeling.data.transcripts import merge_turns, parse_transcript
from reward_modeling.evaluation.benchmarks import own_pairs
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.preference_test_sets import TEST_SET_ROWS
from reward_modeling.evaluation.benchmarks.reading import fingerprint, read_benchmark, reading_order
from reward_modeling.evaluation.benchmarks.rows import (
    EVALUATION_FEATURES,
    answer_length,
    conversations,
    evaluation_row,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
SETS = "preference_test_sets"
REWARDBENCH = BENCHMARKS["rewardbench"]
QUESTION, GOOD, BAD = "Wie weit ist der Mond?", "384,400 km für den Mond", "3 km"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield tmp_path / "hf-cache" / "reward_modeling"
    datasets.enable_progress_bars()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def rewardbench(count=4):
    return [
        {"prompt": f"question {i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}", "subset": "hep-js", "id": i}
        for i in range(count)
    ]


REWARDBENCH2 = [
    {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math", "id": "7", "num_correct": 1},
    {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c"], "subset": "Ties", "id": "tied:1", "num_correct": 2},
    {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d", "e"], "subset": "Ties", "id": "ref:1"},
]
RM_BENCH = [
    {"id": "x", "prompt": "q", "chosen": ["a", "aa", "# a"], "rejected": ["b", "bb", "# b"], "domain": "safety-refuse"}
]
PAIR = {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD}
JUDGEBENCH = [
    {"pair_id": "a", "source": source, "question": QUESTION, "response_model": model, "label": label}
    | {"response_A": GOOD if label == "A>B" else BAD, "response_B": BAD if label == "A>B" else GOOD}
    for source, model, label in (
        ("mmlu-pro-math", "gpt-4o-2024-05-13", "A>B"),
        ("livebench-reasoning", "gpt-4o-2024-05-13", "B>A"),
        ("livebench-math", "claude-3-5-sonnet-20240620", "B>A"),
        ("livecodebench", "claude-3-5-sonnet-20240620", "A>B"),
    )
]


def solution(problem, right, *steps, subject="Algebra"):
    """A row of RewardMATH."""
    reference = "human_to_GPT-4" if right else "google/gemma-7b-it"
    row = {"problem": f"problem {problem}", "eval_solution": list(steps), "solution_reference": reference}
    return row | {"subject": subject, "problem_id": problem, "id": len(steps)}


REWARDMATH = [
    solution(7, True, "one", "two"),
    solution(7, False, "three"),
    solution(3, False, "wrong first", subject="Geometry"),
    solution(7, False, "four"),
    solution(3, True, "right", subject="Geometry"),
]
PROCESSBENCH = [{"id": "a", "problem": "1 + 1?", "steps": ["It is 2."], "label": -1}]
PRMBENCH = [
    {"modified_question": "1 + 1?", "modified_process": ["It is 3."], "error_steps": [1], "classification": "circular"}
]


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, indent=1) if ".json" in path.suffixes else "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def message_of(benchmark, path):
    with pytest.raises(UserError) as caught:
        read_benchmark(benchmark, None if path is None else str(path))
    return str(caught.value)


# --- transcripts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("\n\nHuman: Hi\n\nAssistant: Hello", [user("Hi"), assistant("Hello")]),
        ("Human:Hi\n\nAssistant:Hello\n", [user("Hi"), assistant("Hello")]),
        (" \n Human: a\n\nb\n\n\nAssistant:  c\n\n1. d ", [user("a\n\nb"), assistant("c\n\n1. d")]),
        # words that begin no turn: in a line, after a single newline, in other letters
        (
            "\n\nHuman: Say\nAssistant: no\n\nAssistant: The Human: said\nHuman: x\n\nhuman: y",
            [user("Say\nAssistant: no"), assistant("The Human: said\nHuman: x\n\nhuman: y")],
        ),
        # one speaker twice
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d", [user("a\n\nb"), assistant("c\n\nd")]),
        # nobody spoke: the turns around it are one speaker's
        ("\n\nHuman: a\n\nAssistant: \n\nHuman: b\n\nAssistant: c", [user("a\n\nb"), assistant("c")]),
        ("\n\nHuman:\n\nAssistant: c", [assistant("c")]),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", [user("a"), assistant("b"), user("c")]),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: ", [user("a"), assistant("b")]),
        # line breaks of Windows, a space before the speaker, single line breaks, and User
        ("Human: a\r\nb\r\n\r\nAssistant: c\r\n", [user("a\r\nb"), assistant("c")]),
        ("\n\n Human: a\n\n Assistant: b\n\n  Human: c", [user("a"), assistant("b\n\n  Human: c")]),
        ("Human: a\n\nb\nAssistant: c\r\nHuman: d", [user("a\n\nb"), assistant("c"), user("d")]),
        ("User: a\n\nAssistant: b\n\nHuman: c\nUser: d", [user("a"), assistant("b\n\nHuman: c\nUser: d")]),
        ("User: a\n Assistant: b\n User: c", [user("a"), assistant("b"), user("c")]),
        ("Human: a\nUser: b\nAssistant: c", [user("a\nUser: b"), assistant("c")]),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_transcripts(text, messages, keep):
    assert parse_transcript(text, keep_empty_answer=keep) == messages


def test_an_empty_last_answer_is_an_invitation_or_an_answer():
    for text in ("\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: \n"):
        assert parse_transcript(text) == [user("a")]
        assert parse_transcript(text, keep_empty_answer=True) == [user("a"), assistant("")]
    text = "\n\nHuman: a\n\nAssistant: b\n\nAssistant:"
    assert parse_transcript(text, keep_empty_answer=True) == parse_transcript(text) == [user("a"), assistant("b")]


@pytest.mark.parametrize(
    "text",
    [
        *("", "Hi", "\n\nHuman: Hi", "\n\nAssistant: Hi\n\nHuman: Ho"),
        *("Intro:\n\nHuman: Hi\n\nAssistant: Hello", "Humans: Hi\n\nAssistant: Hello", "Human: Hi Assistant: Hello"),
        *("Say\nUser: Hi\nAssistant: Ho", "User: Hi", "User: Hi\n\nHuman: Ho", "user: Hi\nAssistant: Ho"),
        # where the turns do not alternate
        *("Human: a\nAssistant: b\nAssistant: c", "Human: a\nHuman: b\nAssistant: c"),
        "User: a\n\nUser: b\n\nAssistant: c",
    ],
)
def test_what_is_no_transcript(text):
    assert parse_transcript(text) is parse_transcript(text, keep_empty_answer=True) is None


def test_merging_leaves_its_input_as_it_is():
    messages = [user("a"), user(""), {**user("b"), "name": "Ada"}, assistant("c")]
    assert merge_turns(messages) == [user("a\n\nb"), assistant("c")]
    assert messages[0] == user("a")


SPEECH = st.text("ab:\n HumanAssistant", max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), SPEECH), max_size=6), st.booleans())
def test_transcripts_against_a_reading_word_by_word(turns, keep):
    text = "".join(f"\n\n{speaker}: {content}" for speaker, content in [("Human", "a"), *turns])
    expected, pieces = [], []
    for piece in (
        ("\n\n" + text.lstrip())
        .replace("\n\nHuman:", "\0user\1")
        .replace("\n\nAssistant:", "\0assistant\1")[1:]
        .split("\0")
    ):
        role, _, content = piece.partition("\1")
        pieces.append((role, content.strip()))
    for number, (role, content) in enumerate(pieces):
        is_answer = keep and number == len(pieces) - 1 and role == "assistant"
        if expected and expected[-1]["role"] == role and (content or is_answer):
            expected[-1]["content"] += "\n\n" + content if content else ""
        elif content or is_answer:
            expected.append({"role": role, "content": content})
    has_answer = any(role == "assistant" for role, _ in pieces)
    assert parse_transcript(text, keep_empty_answer=keep) == (expected if has_answer else None)


@pytest.mark.skipif(not (SHARED / "hh_harmless_raw.jsonl.gz").is_file(), reason="the real rows are not here")
def test_real_transcripts():
    read = read_benchmark(SETS, f"anthropic_harmless={SHARED / 'hh_harmless_raw.jsonl.gz'}").rows
    with gzip.open(SHARED / "hh_harmless_raw.jsonl.gz", "rt") as lines:
        raw = [json.loads(line) for line in lines]
    assert len(read) == len(raw) == 1500
    for row, source in zip(read, raw, strict=True):
        for side, [conversation] in zip(("chosen", "rejected"), conversations(row), strict=True):
            roles = [message["role"] for message in conversation]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            # nothing but the speakers' names and white space is gone
            left = "".join(message["content"] for message in conversation)
            words = source[side].replace("\n\nHuman:", "").replace("\n\nAssistant:", "")
            assert "".join(left.split()) == "".join(words.split())


# --- rows ---------------------------------------------------------------------------------------------------


def test_rows_of_rewardbench():
    row = evaluation_row({**PAIR, "subset": "hep-js", "id": 5}, "here:1", benchmark=REWARDBENCH)
    assert list(row) == list(EVALUATION_FEATURES)
    assert (row["where"], row["id"], row["subset"], row["reason"]) == ("here:1", "5", "hep-js", "")
    assert row["prompt"] == '[{"role": "user", "content": "Wie weit ist der Mond?"}]'
    assert conversations(row) == ([[user(QUESTION), assistant(GOOD)]], [[user(QUESTION), assistant(BAD)]])
    assert [answer_length(row[side][0]) for side in ("chosen", "rejected")] == [len(GOOD), len(BAD)]
    messages = [{"role": "system", "content": "Kurz.", "name": None}, user(QUESTION)]
    row = evaluation_row({**PAIR, "prompt": messages, "subset": "hep-js"}, "", benchmark=REWARDBENCH)
    assert row["id"] == "null"
    assert conversations(row)[0] == [[{"role": "system", "content": "Kurz."}, user(QUESTION), assistant(GOOD)]]
    # no words, or the same: a tie, which counts as wrong, and no reason to leave the row out
    row = evaluation_row({**PAIR, "chosen": "", "rejected": "", "subset": "hep-js"}, "", benchmark=REWARDBENCH)
    assert conversations(row) == ([[user(QUESTION), assistant("")]], [[user(QUESTION), assistant("")]])
    # a transcript is what somebody asks here
    row = evaluation_row({**PAIR, "prompt": "Human: a\n\nAssistant:", "subset": "x"}, "", benchmark=REWARDBENCH)
    assert json.loads(row["prompt"]) == [user("Human: a\n\nAssistant:")]


def test_rows_with_several_answers(tmp_path):
    rows = read_benchmark("rewardbench2", save(tmp_path / "x.jsonl", REWARDBENCH2)).rows
    assert [(len(row["chosen"]), len(row["rejected"])) for row in rows] == [(1, 3), (2, 1), (1, 4)]
    assert rows["id"][:] == ['"7"', '"tied:1"', '"ref:1"']
    assert rows["subset"][:] == ["Math", "Ties", "Ties"]
    assert conversations(rows[1])[0] == [[user("q"), assistant("a")], [user("q"), assistant("b")]]
    rows = read_benchmark("rm_bench", save(tmp_path / "total_dataset.json", RM_BENCH)).rows
    assert rows["where"][:] == [f"{tmp_path}/total_dataset.json row 0"]
    assert rows["subset"][:] == ["safety-refuse"]
    assert [conversation[1]["content"] for conversation in conversations(rows[0])[1]] == ["b", "bb", "# b"]


def test_rows_of_judgebench(tmp_path):
    rows = read_benchmark("judgebench", save(tmp_path / "x.jsonl", JUDGEBENCH)).rows
    assert rows["subset"][:] == ["gpt knowledge", "gpt reasoning", "claude math", "claude coding"]
    assert rows["id"][:] == ['"a"'] * 4
    for row in rows:
        assert conversations(row) == ([[user(QUESTION), assistant(GOOD)]], [[user(QUESTION), assistant(BAD)]])


def test_solutions_of_rewardmath_are_grouped_by_problem(tmp_path):
    """Steps are joined by one newline, as the authors' script for classifiers does."""
    rows = read_benchmark("rewardmath", save(tmp_path / "x.json", REWARDMATH)).rows
    assert rows.features == EVALUATION_FEATURES
    assert rows["id"][:] == ["7", "3"] and rows["subset"][:] == ["Algebra", "Geometry"]
    assert conversations(rows[0]) == (
        [[user("problem 7"), assistant("one\ntwo")]],
        [[user("problem 7"), assistant("three")], [user("problem 7"), assistant("four")]],
    )
    assert conversations(rows[1])[1] == [[user("problem 3"), assistant("wrong first")]]


def test_problems_of_rewardmath_without_one_right_solution_are_named(tmp_path):
    rows = [*REWARDMATH, solution(7, True, "another"), solution(9, True, "alone")]
    rows = read_benchmark("rewardmath", save(tmp_path / "x.jsonl", rows)).rows
    assert rows["reason"][:] == [
        "expected one solution of human_to_GPT-4 and wrong ones, found 2 and 2",
        "",
        "expected one solution of human_to_GPT-4 and wrong ones, found 1 and 0",
    ]
    assert rows[0]["excerpt"] == "problem 7"


HUMAN = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
TURNS = [user("q"), assistant("a"), user("r")]
X, Y = [assistant("x")], [assistant("y")]
SHOWN = ("User: q\nAssistant: x", "User: q\nAssistant: y")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ("q", "x", " y", ([user("q")], [assistant("x")], [assistant(" y")])),
        (TURNS, "x", "y", (TURNS, [assistant("x")], [assistant("y")])),
        ([user("q")], [assistant("x")], [assistant("y")], ([user("q")], [assistant("x")], [assistant("y")])),
        # a transcript and its answers, with or without an invitation, or in the middle of an answer
        (HUMAN, " x\n", "y", (TURNS, [assistant("x")], [assistant("y")])),
        (HUMAN.removesuffix("\n\nAssistant:"), "x", "", (TURNS, [assistant("x")], [assistant("")])),
        (f"{HUMAN} well", "x", "y", (TURNS, [assistant("well\n\nx")], [assistant("well\n\ny")])),
        # whole transcripts, with no prompt, a blank one, or one that they hold
        *(
            (prompt, f"{HUMAN} x", f"{HUMAN}", (TURNS, [assistant("x")], [assistant("")]))
            for prompt in (None, "", " ", [], "q", HUMAN, TURNS)
        ),
        # prompts that differ: each keeps its own turns, behind what both begin with
        (
            None,
            "Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: x",
            "Human: q\n\nAssistant: b\n\nHuman: s\n\nAssistant: y",
            ([user("q")], [assistant("a"), user("r"), assistant("x")], [assistant("b"), user("s"), assistant("y")]),
        ),
        (
            None,
            "Human: q\n\nAssistant: x",
            "Human: Q\n\nAssistant: y",
            ([], [user("q"), assistant("x")], [user("Q"), assistant("y")]),
        ),
        # one conversation is how the other begins
        (
            None,
            [*TURNS, assistant("x")],
            TURNS[:2],
            ([user("q")], [assistant("a"), user("r"), assistant("x")], TURNS[1:2]),
        ),
        # whole conversations that hold the prompt already, or go on from it
        (
            "in other words",
            [*TURNS, assistant("x")],
            [*TURNS, assistant("y")],
            (TURNS, [assistant("x")], [assistant("y")]),
        ),
        (TURNS, [*TURNS, assistant("x")], [*TURNS, assistant("y")], (TURNS, [assistant("x")], [assistant("y")])),
        (
            TURNS[:2],
            [user("r"), assistant("x")],
            [user("r"), assistant("x")],
            (TURNS, [assistant("x")], [assistant("x")]),
        ),
        # a completion that merely quotes a transcript
        ("q", f"{HUMAN} x", "y", ([user("q")], [assistant(f"{HUMAN} x")], [assistant("y")])),
        # dialogues that somebody asked for, or that are the conversation
        *((prompt, *SHOWN, ([user("q")], X, Y)) for prompt in (None, "", "q", [user("q")])),
        ("A dialogue!", *SHOWN, ([user("A dialogue!")], *([assistant(text)] for text in SHOWN))),
        # a dialogue to be answered, and one that is asked about
        ("User: q\nAssistant:", "x", "y", ([user("q")], X, Y)),
        ("User: q\nAssistant: a", "x", "y", ([user("User: q\nAssistant: a")], X, Y)),
    ],
)
def test_rows_of_the_preference_test_sets(prompt, chosen, rejected, expected):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "subset": "not this one"}
    found = evaluation_row(row, "here", benchmark=BENCHMARKS[SETS], subset="shp")
    assert (found["reason"], found["subset"]) == ("", "shp")
    sides = [json.loads(answer) for side in ("chosen", "rejected") for answer in found[side]]
    assert (json.loads(found["prompt"]), *sides) == expected
    before, right, wrong = expected
    assert conversations(found) == ([before + right], [before + wrong])


WRONG = [
    ("rewardbench", 7, "expected an object with columns, found int 7"),
    ("rewardbench", {**PAIR}, "expected every column, found a row that lacks one"),
    ("rewardbench", {**PAIR, "subset": 3}, "expected subset as a text, found int 3"),
    ("rewardbench", {**PAIR, "subset": "x", "chosen": ["a"]}, "expected chosen as a text, found a list of 1 (a text)"),
    ("rewardbench", {**PAIR, "subset": "x", "prompt": []}, "expected prompt as a text or a list of messages, found an"),
    (
        "rewardbench",
        {**PAIR, "subset": "x", "prompt": ["q"]},
        "expected prompt[0] as a message with role and content, f",
    ),
    (
        "rewardbench",
        {**PAIR, "subset": "x", "prompt": [{"role": "user"}]},
        "prompt[0] with content as a text, found no",
    ),
    ("rewardbench", {**PAIR, "subset": "x", "chosen": "\ud800"}, "expected text, found half a character ('\\ud800')"),
    (
        "rewardbench2",
        {**REWARDBENCH2[0], "rejected": ["b", "c"]},
        "expected rejected as a list of 3 texts, found a list",
    ),
    ("rewardbench2", {**REWARDBENCH2[0], "chosen": "a"}, "expected chosen as a list of 1 text, found a text"),
    ("rewardbench2", {**REWARDBENCH2[1], "chosen": []}, "chosen as a list of at least one text, found an empty list"),
    ("rewardbench2", {**REWARDBENCH2[1], "id": "7"}, "expected id of a row of Ties as 'ref:N' or 'tied:N', found '7'"),
    (
        "rewardbench2",
        {**REWARDBENCH2[1], "id": None},
        "expected id of a row of Ties as 'ref:N' or 'tied:N', found No",
    ),
    (
        "rm_bench",
        {**RM_BENCH[0], "chosen": ["a", "b", None]},
        "3 texts, found a list of 3 (a text, nothing)",
    ),
    ("judgebench", {**JUDGEBENCH[0], "label": "A=B"}, "expected label A>B or B>A, found 'A=B'"),
    ("judgebench", {**JUDGEBENCH[0], "source": "arena"}, "begin with mmlu-pro, livebench-reasoning, livebench-math,"),
    ("judgebench", {**JUDGEBENCH[0], "response_model": "o1"}, "to begin with gpt or claude, found 'o1'"),
    (
        "rewardmath",
        {**REWARDMATH[0], "eval_solution": "one"},
        "eval_solution as a list of at least one text, found",
    ),
    (SETS, {**PAIR, "prompt": ""}, "or chosen and rejected as whole conversations (messages, or"),
    (
        SETS,
        {**PAIR, "chosen": [user("x")]},
        "the assistant's message last in chosen, found role 'user'",
    ),
    (
        SETS,
        {"chosen": [assistant("x")], "rejected": [assistant("y")]},
        "found none in chosen and no p",
    ),
    (
        SETS,
        {"chosen": "Human:\n\nAssistant: a", "rejected": "Human:\n\nAssistant: b"},
        "a user's mess",
    ),
    (SETS, {**PAIR, "rejected": {}}, "rejected as a text or a list of messages, found an object"),
]


@pytest.mark.parametrize(("benchmark", "row", "reason"), WRONG)
def test_rows_that_cannot_be_read(benchmark, row, reason):
    subset = "shp" if benchmark == SETS else None
    found = evaluation_row(row, "here:9", benchmark=BENCHMARKS[benchmark], subset=subset)
    assert reason in found["reason"]
    assert found["where"] == "here:9"
    assert 0 < len(found["excerpt"]) <= 160
    Dataset.from_list([found], features=EVALUATION_FEATURES)  # Arrow takes it


def test_unreadable_rows_are_counted_and_shown(tmp_path):
    rows = rewardbench(9)
    for number in (1, 3, 4, 5, 7):
        rows[number]["chosen"] = number
    del rows[3]["chosen"]
    path = save(tmp_path / "x.jsonl", rows)
    message = message_of("rewardbench", path)
    assert message.startswith("RewardBench (--rewardbench_path): expected prompt as a text or messages, chosen and ")
    assert "found 5 of 9 rows that cannot be read:\n" in message
    assert f"  {path}:2: expected chosen as a text, found int 1: " + '{"prompt": "question 0", "chosen": 1,' in message
    assert f"  {path}:4: expected every column, found a row that lacks one: no chosen in " in message
    assert f"{path}:5" in message
    assert f"{path}:6" not in message
    assert "and 2 more\n" in message
    assert message.endswith("put them right, or delete them if they should not count.")
    assert message_of("rewardbench", path) == message, "from the cache too"


def test_one_bad_row_of_a_large_subset_costs_no_evaluation(tmp_path):
    """It counts under its own subset, whatever the benchmark's columns are called."""
    rows = [{**JUDGEBENCH[0], "pair_id": str(number), "question": f"question {number}"} for number in range(101)]
    rows[7]["label"] = "A=B"
    read = read_benchmark("judgebench", save(tmp_path / "x.jsonl", rows)).rows
    assert [row["subset"] for row in read if row["reason"]] == [read[0]["subset"]] != [""]
    message_of("judgebench", save(tmp_path / "y.jsonl", rows[:50]))  # 1 of 50 is too many


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.json.gz", "x.parquet", "saved", "dict", "folder"]
)
@pytest.mark.parametrize(
    ("benchmark", "rows", "split"),
    [
        ("rewardbench", rewardbench(), "filtered"),
        ("rewardbench2", REWARDBENCH2, "test"),
        ("rm_bench", RM_BENCH, "train"),
    ],
)
def test_every_kind_of_file(name, benchmark, rows, split, tmp_path):
    path = tmp_path / name
    if name == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    elif name == "dict":
        DatasetDict({"raw": Dataset.from_list(rows * 2), split: Dataset.from_list(rows)}).save_to_disk(path)
    elif name == "folder":
        save(path / "a.jsonl", rows[:1])
        save(path / "b.parquet", rows[1:] or rows[:0] or rows)
    else:
        save(path, rows)
    expected = rows if name != "folder" or len(rows) > 1 else rows * 2
    found = read_benchmark(benchmark, str(path))
    assert (found.benchmark, found.sources, found.report) == (benchmark, (str(path),), None)
    assert found.rows.features == EVALUATION_FEATURES
    assert found.rows.cache_files, "memory-mapped"
    assert found.rows["id"][:] == [json.dumps(row["id"]) for row in expected]
    reference = read_benchmark(benchmark, save(tmp_path / "reference.jsonl", expected)).rows
    assert fingerprint(found.rows) == fingerprint(reference)
    assert len(fingerprint(reference)) == 32


def test_a_fingerprint_is_that_of_what_is_scored_and_of_its_order(tmp_path):
    rows = rewardbench()
    changes = [rows[::-1], rows[:3], [*rows[:3], {**rows[3], "rejected": "other"}], [*rows[:3], {**rows[3], "id": 0}]]
    read = [
        read_benchmark("rewardbench", save(tmp_path / f"{number}.jsonl", changed)).rows
        for number, changed in enumerate([rows, *changes])
    ]
    assert len({fingerprint(one) for one in read}) == 5
    assert fingerprint(read[1].select([3, 2, 1, 0])) == fingerprint(read[0])
    # null keys that Parquet adds to messages are no difference
    messages = [{**row, "prompt": [user("q"), {**assistant("a"), "name": "Ada"}, user("r")]} for row in rows]
    one, other = (
        read_benchmark("rewardbench", save(tmp_path / f"m.{kind}", messages)) for kind in ("jsonl", "parquet")
    )
    assert fingerprint(one.rows) == fingerprint(other.rows)


def test_one_file_as_two_benchmarks(tmp_path, cache):
    path = save(tmp_path / "x.jsonl", rewardbench())
    assert set(read_benchmark("rewardbench", path).rows["subset"]) == {"hep-js"}
    sets = read_benchmark(SETS, f"shp={path},mine={path}").rows
    assert sets["subset"][:] == ["shp"] * 4 + ["mine"] * 4
    assert len(read_benchmark("pairs", path).rows) == 4
    assert len([folder for folder in cache.iterdir() if folder.is_dir()]) == 4


def test_a_second_reading_reads_the_cache(tmp_path, monkeypatch):
    path = save(tmp_path / "x.jsonl", rewardbench())
    first, pairs = read_benchmark("rewardbench", path), read_benchmark("pairs", path)
    monkeypatch.setattr(cached_rows, "_parts", None)
    monkeypatch.setattr(own_pairs, "_pair_rows", None)
    assert read_benchmark("rewardbench", path, num_proc=2).rows[:] == first.rows[:]
    assert read_benchmark("pairs", path).rows[:] == pairs.rows[:]


def test_processes_change_nothing(tmp_path):
    path = save(tmp_path / "x.parquet", rewardbench(50))
    by_two = read_benchmark("rewardbench", path, num_proc=2).rows[:]
    monkey = save(tmp_path / "y.parquet", rewardbench(50))
    by_one = read_benchmark("rewardbench", monkey).rows[:]
    assert {**by_two, "where": []} == {**by_one, "where": []}


@pytest.mark.skipif(not (SHARED / "rewardbench_rows.jsonl").is_file(), reason="the real rows are not here")
def test_real_rows_of_rewardbench():
    rows = read_benchmark("rewardbench", str(SHARED / "rewardbench_rows.jsonl")).rows
    assert len(rows) == 310
    assert set(rows["subset"]) == {"llmbar-natural", "llmbar-adver-manual", "hep-python"}


# --- the preference test sets -------------------------------------------------------------------------------


def pair(name, number=0):
    return {"prompt": f"{name} {number}", "chosen": "good", "rejected": "bad"}


def test_sets_in_a_folder(tmp_path):
    folder = tmp_path / "sets"
    save(folder / "summarize-00001-of-00002.parquet", [pair("summarize", 1)])
    save(folder / "summarize-00000-of-00002.parquet", [pair("summarize", 0)])
    save(folder / "shp.jsonl.gz", [pair("shp")])
    save(folder / "anthropic_hhh-00000-of-00001.parquet", [pair("hhh")])
    save(folder / "zebra.json", [pair("zebra")])
    save(folder / "ant" / "a.jsonl", [pair("ant", 0)])
    save(folder / "ant" / "b.jsonl", [pair("ant", 1)])
    Dataset.from_list([pair("better")]).save_to_disk(folder / "pku_better")
    DatasetDict(mtbench_gpt4=Dataset.from_list([pair("gpt4")])).save_to_disk(folder / "mtbench_gpt4")
    for name in ("README.md", "dataset_info.json", "manifest.json", ".hidden.jsonl"):
        (folder / name).write_text("no data")
    names = ["anthropic_hhh", "mtbench_gpt4", "pku_better", "shp", "summarize", "summarize", "ant", "ant", "zebra"]
    found = read_benchmark(SETS, str(folder))
    assert found.rows["subset"][:] == names
    first = [json.loads(prompt)[0]["content"] for prompt in found.rows["prompt"]]
    assert first[4:8] == ["summarize 0", "summarize 1", "ant 0", "ant 1"]
    assert found.sources[3:6] == (
        f"{folder}/shp.jsonl.gz",
        f"{folder}/summarize-00000-of-00002.parquet",
        f"{folder}/summarize-00001-of-00002.parquet",
    )
    assert found.rows[3]["where"] == f"{folder}/shp.jsonl.gz:1"
    # what a clone of the Hub's repository looks like
    (tmp_path / "clone").mkdir()
    folder.rename(tmp_path / "clone" / "data")
    assert read_benchmark(SETS, str(tmp_path / "clone")).rows["subset"][:] == names


def test_sets_of_a_saved_dict_of_one_file_and_of_a_list(tmp_path):
    one, two = Dataset.from_list([pair("a")]), Dataset.from_list([pair("b")])
    DatasetDict(zebra=one, shp=two).save_to_disk(tmp_path / "dict")
    found = read_benchmark(SETS, str(tmp_path / "dict"))
    assert found.sources == (f"{tmp_path}/dict:shp", f"{tmp_path}/dict:zebra")
    assert json.loads(found.rows[0]["prompt"]) == [user("b 0")]
    path = save(tmp_path / "a,b" / "shp.jsonl", [pair("a")])
    assert read_benchmark(SETS, path).rows["subset"][:] == ["shp"]
    listed = f"mine={tmp_path}/dict:zebra, summarize={path},anthropic_hhh={tmp_path}/a,b/*.jsonl"
    found = read_benchmark(SETS, listed)
    assert found.rows["subset"][:] == ["anthropic_hhh", "summarize", "mine"]
    assert found.sources == (f"{tmp_path}/a,b/*.jsonl", path, f"{tmp_path}/dict:zebra")


def test_mistakes_with_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = "--preference_test_sets_path: expected a folder with one .json"
    for path in ("nothing", "=x.jsonl", "shp=", "nothing,shp=x.jsonl", ","):
        message = message_of(SETS, path)
        assert message.startswith(start), path
        assert f"found {path!r}, which does not exist in {tmp_path} and is no list" in message
        assert "The sets are anthropic_harmless, " in message
    assert "found shp twice in 'shp=a.jsonl,shp=b.jsonl'" in message_of(SETS, "shp=a.jsonl,shp=b.jsonl")
    (tmp_path / "empty").mkdir()
    assert "found nothing in empty" in message_of(SETS, "empty")
    (tmp_path / "empty" / "notes.md").write_text("x")
    assert "found notes.md in empty" in message_of(SETS, "empty")
    save(tmp_path / "two" / "shp.jsonl", [pair("a")])
    save(tmp_path / "two" / "shp.parquet", [pair("a")])
    assert "found shp.jsonl and shp.parquet in two, all for the set shp" in message_of(SETS, "two")
    message = message_of(SETS, "shp=nothing.jsonl")
    assert message.startswith(
        "Preference test sets (--preference_test_sets_path): expected an existing path or a Hub id"
    )
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "dataset_dict.json").write_text("{")
    assert "expected a whole, readable file at torn" in message_of(SETS, "torn")
    save(tmp_path / "bad.jsonl", [{"chosen": "a", "rejected": "b"}])
    save(tmp_path / "good.jsonl", [pair("a")])
    message = message_of(SETS, "shp=good.jsonl,summarize=bad.jsonl")
    assert "found 1 of 2 rows that cannot be read:\n  bad.jsonl:1: expected a prompt, or" in message


# --- pairs --------------------------------------------------------------------------------------------------


def test_pairs_are_what_training_would_keep(tmp_path):
    rows = [{**PAIR, "source": None}, {**PAIR, "chosen": ""}, {**PAIR, "source": "mine"}]
    rows += [{"chosen": "a text", "rejected": "[1]"}, {}]
    paths = [save(tmp_path / "x.jsonl", rows), save(tmp_path / "x.parquet", rows[:4])]
    one, other = (read_benchmark("pairs", path) for path in paths)
    assert (one.benchmark, one.sources) == ("pairs", (paths[0],))
    assert one.rows.features == EVALUATION_FEATURES
    assert one.rows["id"][:] == ["0", "2", "3"]
    assert one.rows["subset"][:] == ["pairs", "mine", "pairs"]
    assert one.rows["where"][:] == [f"{paths[0]}:{line}" for line in (1, 3, 4)]
    assert one.rows.cache_files, "memory-mapped"
    assert conversations(one.rows[0]) == ([[user(QUESTION), assistant(GOOD)]], [[user(QUESTION), assistant(BAD)]])
    assert conversations(one.rows[2]) == (["a text"], ["[1]"])
    assert [answer_length(one.rows[2][side][0]) for side in ("chosen", "rejected")] == [6, 3]
    assert (one.report.rows_read, one.report.kept) == (5, 3)
    assert {reason: dropped.count for reason, dropped in one.report.dropped.items()} == {
        "no_chosen_or_rejected": 1,
        "empty_reply": 1,
    }
    assert fingerprint(one.rows) == fingerprint(other.rows)


def test_mistakes_with_pairs(tmp_path):
    assert message_of("pairs", None).startswith("--pairs_path: expected a path or a Hub id, because pairs are rows of")
    assert message_of("pairs", tmp_path / "no.jsonl").startswith("--pairs_path: expected an existing path or a Hub id")
    path = save(tmp_path / "x.jsonl", [{**PAIR, "chosen": ""}])
    message = message_of("pairs", path)
    assert f"--pairs_path: expected pairs in {path}, found none that can be used.\npairs: 1 row read, 0" in message


# --- the Hub, and other mistakes ----------------------------------------------------------------------------


def test_the_published_rows_are_the_default(monkeypatch):
    published = {
        "allenai/reward-bench": {"filtered": rewardbench(), "raw": rewardbench(2)},
        "allenai/preference-test-sets": {name: [pair(name)] for name in [*sorted(TEST_SET_ROWS)[::-1], "other"]},
        "allenai/reward-bench-2": {"test": REWARDBENCH2},
        "THU-KEG/RM-Bench": {"train": RM_BENCH},
        "ScalerLab/JudgeBench": {"claude": JUDGEBENCH[2:], "gpt": JUDGEBENCH[:2]},
        "RewardMATH/RewardMATH": {"test": REWARDMATH},
        "Qwen/ProcessBench": dict.fromkeys(("omnimath", "math", "olympiadbench", "gsm8k"), PROCESSBENCH),
        "hitsmy/PRMBench_Preview": {"train": PRMBENCH},
    }
    load = datasets.load_dataset

    def from_hub(name, *config, **options):
        if name not in published:
            return load(name, *config, **options)
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in published[name].items()})

    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda self, name, revision, timeout: None)
    monkeypatch.setattr(sources.datasets, "load_dataset", from_hub)
    found = {name: read_benchmark(name, None) for name in BENCHMARKS if name != "pairs"}
    assert {name: len(read.rows) for name, read in found.items()} == {
        "rewardbench": 4,
        SETS: 9,
        "rewardbench2": 3,
        "rm_bench": 1,
        "judgebench": 4,
        "rewardmath": 2,
        "processbench": 4,
        "prmbench": 1,
    }
    assert found["processbench"].rows["subset"][:] == ["gsm8k", "math", "olympiadbench", "omnimath"]
    assert found["judgebench"].sources == ("ScalerLab/JudgeBench:gpt", "ScalerLab/JudgeBench:claude")
    assert found["rewardbench"].sources == ("allenai/reward-bench:filtered",)
    assert found[SETS].rows["subset"][:] == list(TEST_SET_ROWS)
    assert found[SETS].sources[7] == "allenai/preference-test-sets:shp"
    assert found["rm_bench"].rows[0]["where"] == "THU-KEG/RM-Bench:train row 0"


@pytest.mark.parametrize("benchmark", [name for name in BENCHMARKS if name != "pairs"])
def test_a_hub_that_cannot_be_reached(benchmark, monkeypatch):
    def refuse(self, name, revision, timeout):
        raise sources.httpx.ConnectTimeout("slow")

    monkeypatch.setattr(sources.HfApi, "dataset_info", refuse)
    message = message_of(benchmark, None)
    assert "the Hub cannot be reached for " in message
    assert f" The flag for the path is --{benchmark}_path" in message
    assert f"; --benchmarks without {benchmark} leaves it out." in message


@pytest.mark.parametrize("benchmark", [name for name in BENCHMARKS if name != "pairs"])
@pytest.mark.parametrize("name", ["shp.jsonl", "shp.parquet"])
def test_other_columns_are_named(benchmark, name, tmp_path):
    path = save(tmp_path / name, [{"question": "q", "answer": "a"}] * 2)
    *first, last = BENCHMARKS[benchmark].columns.required
    message = message_of(benchmark, path)
    assert f"(--{benchmark}_path): expected columns {', '.join(first)} and {last} in {path}, found no row" in message
    accepted = BENCHMARKS[benchmark].columns.row_formats
    assert f"columns found: question, answer. Rename or convert them; accepted rows: {accepted}" in message


def test_other_mistakes(tmp_path):
    assert "RM-Bench (--rm_bench_path): expected an existing path or a Hub id" in message_of("rm_bench", "no.json")
    (tmp_path / "x.jsonl").write_text("")
    assert f"expected rows in {tmp_path}/x.jsonl, found none" in message_of("rewardbench2", tmp_path / "x.jsonl")
    DatasetDict(raw=Dataset.from_list(rewardbench())).save_to_disk(tmp_path / "dict")
    message = message_of("rewardbench", tmp_path / "dict")
    assert f"RewardBench (--rewardbench_path): expected split filtered in {tmp_path}/dict, found raw" in message


# --- the order of reading -----------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 3), max_size=40))
def test_equal_prompts_are_read_side_by_side(keys):
    rows = Dataset.from_dict({"prompt_key": np.array(keys, dtype=np.int64)})
    expected = [number for key in dict.fromkeys(keys) for number, other in enumerate(keys) if other == key]
    assert reading_order(rows).tolist() == expected
    reverse = rows.select(range(len(keys))[::-1])
    backwards = [number for key in dict.fromkeys(keys[::-1]) for number, other in enumerate(keys[::-1]) if other == key]
    assert reading_order(reverse).tolist() == backwards


def test_prompts_of_several_sets_and_plain_texts_in_reading_order(tmp_path):
    save(tmp_path / "shp.jsonl", [pair("a"), pair("b"), pair("a")])
    save(tmp_path / "other.parquet", [pair("b"), pair("c")])
    rows = read_benchmark(SETS, f"shp={tmp_path}/shp.jsonl,other={tmp_path}/other.parquet").rows
    assert reading_order(rows).tolist() == [0, 2, 1, 3, 4]
    texts = [{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "c"}, {"chosen": "a", "rejected": "b"}]
    rows = read_benchmark("pairs", save(tmp_path / "texts.jsonl", texts)).rows
    assert reading_order(rows).tolist() == [0, 2, 1], "a text is a prompt of its own"
