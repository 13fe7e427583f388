"""Every accepted form of preference data, every reason to drop a row, every mistake of the user's."""

import gzip
import json
import math
import os
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.common.errors import UserError
from reward_modeling.data import cached_rows, json_lines, keys, preferences, sources
from reward_modeling.data.preferences import (
    STANDARD_FEATURES,
    load_preference_dataset,
    split_by_prompt,
    standardise_row,
)
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions
from reward_modeling.data.report import REASON_WORDS, DataReport, DropReason, report_rows
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import PairReader

ROOT = Path(__file__).parents[2]
QUESTION = {"role": "user", "content": "Wie weit ist der Mond?"}
GOOD = {"role": "assistant", "content": "384,400 km für den Mond"}
BAD = {"role": "assistant", "content": "3 km"}
ROW = {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    folder = tmp_path / "hf-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    datasets.disable_progress_bars()
    yield folder / "reward_modeling"
    datasets.enable_progress_bars()


def json_of(*messages):
    return json.dumps(list(messages), ensure_ascii=False)


def numbered(count, **extra):
    """Rows that all differ: row i asks question i // 2."""
    return [
        {
            "chosen": [{"role": "user", "content": f"question {i // 2}"}, {**GOOD, "content": f"good {i}"}],
            "rejected": [{"role": "user", "content": f"question {i // 2}"}, {**BAD, "content": f"bad {i}"}],
            **extra,
        }
        for i in range(count)
    ]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


# --- rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"prompt": QUESTION["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
        {"prompt": [QUESTION], "chosen": GOOD["content"], "rejected": BAD["content"]},
        {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": QUESTION["content"], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": None, **ROW},
        # UltraFeedback-binarized: a prompt string, and full conversations that hold it again
        {"prompt": QUESTION["content"], "prompt_id": "1", "messages": [QUESTION, GOOD], **ROW},
        {"prompt": f"<|user|>{QUESTION['content']}<|assistant|>", **ROW},
        # Parquet gives every message the keys of all; JSON may order them otherwise
        {
            "chosen": [{"name": None, "content": QUESTION["content"], "role": "user"}, GOOD],
            "rejected": [{**QUESTION, "tool_calls": None}, BAD],
        },
    ],
)
def test_every_form_of_a_conversation_gives_the_same_row(row):
    found = standardise_row(row, "here:1")
    assert list(found) == list(STANDARD_FEATURES)
    assert found == {
        "where": "here:1",
        "prompt": json_of(QUESTION),
        "chosen": json_of(GOOD),
        "rejected": json_of(BAD),
        "is_text": False,
        "answers": [],
        "ranks": [],
        "margin": None,
        "chosen_score": None,
        "rejected_score": None,
        "chosen_probability": None,
        "strength": None,
        "weight": None,
        "source": None,
        "template_options": "",
        "form": "",
        "unread": found["unread"],  # see test_row_forms.py
        "prompt_key": key_of(json_of(QUESTION)),
        "reason": "",
        "excerpt": "",
    }


def key_of(text):
    return int.from_bytes(blake2b(text.encode()).digest()[:8], "little", signed=True)


def test_plain_texts_stay_as_they_are():
    row = standardise_row({"prompt": None, "chosen": " a ", "rejected": "b", "margin": 2}, "here")
    assert (row["prompt"], row["chosen"], row["rejected"], row["is_text"]) == ("", " a ", "b", True)
    assert row["margin"] == 2.0
    assert row["prompt_key"] == key_of(" a \0b")


def test_conversations_of_several_turns_and_completions_of_several_messages():
    system = {"role": "system", "content": "Kurz."}
    row = standardise_row({"chosen": [system, QUESTION, GOOD], "rejected": [system, QUESTION, BAD]}, "")
    assert (row["prompt"], row["chosen"]) == (json_of(system, QUESTION), json_of(GOOD))
    tool = {"role": "tool", "content": "384400"}
    row = standardise_row({"prompt": [QUESTION], "chosen": [BAD, tool, GOOD], "rejected": [BAD]}, "")
    assert (row["prompt"], row["chosen"]) == (json_of(QUESTION), json_of(BAD, tool, GOOD))


def test_other_keys_of_messages_are_kept_in_one_order():
    one = {"role": "user", "content": "x", "name": "Ada", "id": 3}
    other = {"id": 3, "name": "Ada", "content": "x", "role": "user", "weight": None}
    row = standardise_row({"chosen": [one, GOOD], "rejected": [other, BAD]}, "")
    assert row["reason"] == ""
    assert row["prompt"] == '[{"role": "user", "content": "x", "id": 3, "name": "Ada"}]'


LIST = {"prompt": "q", "completions": ["a", "b", "c"]}
WRONG = {
    "no_chosen_or_rejected": [
        {"rejected": [BAD]},
        {"chosen": None, "rejected": "b"},
        {"chosen": [QUESTION, GOOD], "rejected": None},
        {},
    ],
    "wrong_type": [
        {**ROW, "chosen": 7},
        {"chosen": 7, "rejected": 8},
        {"chosen": "text", "rejected": [QUESTION, BAD]},
        {**ROW, "chosen": [QUESTION, {"role": "assistant", "content": None}]},
        {**ROW, "chosen": [QUESTION, {"role": "assistant", "content": [7]}]},
        {**ROW, "chosen": [QUESTION, {"role": "assistant", "content": [{"type": "text"}], "tool_calls": []}]},
        {**ROW, "chosen": [QUESTION, "x"]},
        {"prompt": 3, "chosen": "a", "rejected": "b"},
        {**ROW, "margin": "half"},
        {**ROW, "chosen_score": True},
        {"chosen": "half a character \ud800", "rejected": "b"},
        {**ROW, "source": "\ud800"},
        ["no", "object"],
        3,
        None,
    ],
    "unknown_role": [
        {**ROW, "chosen": [{**QUESTION, "role": "critic"}, GOOD]},
        {"chosen": [{"from": "narrator", "value": "x"}, GOOD], "rejected": [BAD]},
    ],
    "part_not_text": [
        {**ROW, "chosen": [QUESTION, {**GOOD, "content": [{"type": "image", "url": "x"}]}]},
        {"prompt": [{**QUESTION, "content": [{"text": "x"}, {"image": "y"}]}], "chosen": "a", "rejected": "b"},
    ],
    "empty_reply": [
        {**ROW, "chosen": [QUESTION, {"role": "assistant", "content": " \n"}]},
        {"chosen": "", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": " "},
        {"prompt": "q", "chosen": "", "rejected": ""},
        {"prompt": [QUESTION], "chosen": [], "rejected": [BAD]},
    ],
    "prompts_differ": [
        {**ROW, "rejected": [{"role": "user", "content": "Other?"}, BAD]},
        {"prompt": "q", "chosen": [QUESTION, GOOD], "rejected": [BAD]},
        {**ROW, "rejected": [QUESTION, GOOD, QUESTION]},
    ],
    "last_not_assistant": [
        {"chosen": [QUESTION, GOOD, QUESTION], "rejected": [QUESTION, GOOD, {**BAD, "role": "user"}]},
        {"prompt": [QUESTION], "chosen": [{**GOOD, "role": "tool"}], "rejected": [BAD]},
    ],
    "identical_text": [
        {**ROW, "rejected": ROW["chosen"]},
        {"chosen": "a", "rejected": "a"},
        {**ROW, "rejected": [QUESTION, {**GOOD, "name": None}], "margin": math.nan},
    ],
    "lengths_differ": [
        {**LIST, "ranks": [1, 2]},
        {**LIST, "scores": "[1, 2, 3, 4]"},
    ],
    "nan_margin": [
        {**ROW, "margin": math.nan},
        {**ROW, "rejected_score": -math.inf},
        {"chosen": "a", "rejected": "b", "chosen_score": math.nan},
        {**ROW, "margin": 10**400},
        {**ROW, "chosen_probability": math.nan},
        {**LIST, "scores": [1, 2, math.inf]},
    ],
    "label_out_of_range": [
        {**ROW, "chosen_probability": 1.2},
        {**ROW, "chosen_probability": -0.1},
        {**ROW, "strength": -1},
        {**ROW, "weight": -0.5},
        {**LIST, "ranks": [1, 2, 3], "weight": -1},
    ],
    "zero_weight": [
        {**ROW, "weight": 0},
        {**LIST, "ranks": [1, 2, 3], "weight": 0.0},
    ],
}


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason in WRONG for row in WRONG[reason]])
def test_rows_are_dropped_under_the_first_reason_that_holds(reason, row):
    found = standardise_row(row, "here:9")
    assert found["reason"] == DropReason(reason)
    assert found["where"] == "here:9"
    assert 0 < len(found["excerpt"]) <= 200
    Dataset.from_list([found], features=STANDARD_FEATURES)  # Arrow takes it


def test_every_row_reason_is_tried_and_has_words():
    assert list(WRONG) == [reason.value for reason in DropReason][: len(WRONG)]
    assert set(REASON_WORDS) == set(DropReason)


def test_an_excerpt_shows_both_ends_of_both_sides():
    long = "begin " + "x" * 5000 + " the end"
    row = {"chosen": [QUESTION, {**GOOD, "content": long}], "rejected": "", "margin": math.nan}
    excerpt = standardise_row(row, "")["excerpt"]
    assert len(excerpt) <= 200
    assert all(part in excerpt for part in ("chosen: [", "the end", 'rejected: ""', "NaN"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ROW, "margin": "half"}, "margin is a text"),
        ({**ROW, "rejected_score": True}, "rejected_score is true or false"),
        ({**ROW, "rejected": "bad"}, "chosen is a list, rejected a text"),
        ({**ROW, "chosen": [{"role": "user", "content": [1]}, GOOD]}, "a message's content is a list"),
        ({"chosen": [{"author": "gpt", "value": "a"}], "rejected": [BAD]}, "a message's role is missing"),
        ({"chosen": {"from": "gpt"}, "rejected": {"from": "gpt"}}, "a message's content is missing"),
        (
            {"chosen": '[{"role": "user", "content": "a"', "rejected": [BAD]},
            "a text begins like messages, and is no JSON",
        ),
    ],
)
def test_a_wrong_type_is_said_first(row, said):
    """Tables show the first characters of an excerpt only."""
    found = standardise_row(row, "")
    assert found["reason"] == DropReason.WRONG_TYPE
    assert found["excerpt"].startswith(f"{said} | chosen: ")
    assert len(found["excerpt"]) <= 200


def test_margins_that_nobody_asked_for_are_counted(tmp_path, gemma_folder):
    rows = [row | ({"margin": 0.5} if number % 3 == 0 else {}) for number, row in enumerate(numbered(12))]
    rows.append({**ROW, "margin": math.nan})
    train, evaluation = write_lines(tmp_path / "t.jsonl", rows), write_lines(tmp_path / "e.jsonl", rows[:3])
    note = "rows with a margin, which the loss subtracts"
    for eval_path, margin, expected in [(None, "auto", [4]), (evaluation, "auto", [4, 1]), (None, "none", [None])]:
        prepared = prepare_pairs(
            str(train),
            eval_path and str(eval_path),
            load_tokenizer(gemma_folder),
            PairReader(margin),
            TokenizeOptions(128),
            eval_size=0,
            seed=0,
            num_proc=1,
        )
        assert [report.notes.get(note) for report in prepared.reports] == expected


# --- kinds of paths -----------------------------------------------------------------------------------------


def save(kind, folder, rows):
    """Write `rows` in the way `kind` names; return the path to load and what `where` of row 1 is."""
    if kind.startswith("json"):
        suffix = kind.partition("-")[0]
        path = folder / f"train.{suffix}"
        if "array" in kind:
            text = json.dumps(rows, indent=2 if "indented" in kind else None).encode()
            path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
            return path, f"{path} row 1"
        return write_lines(path, rows), f"{path}:2"
    table = Dataset.from_list(rows)
    path = folder / kind
    if kind == "saved":
        table.save_to_disk(path)
    elif kind == "saved-dict":
        DatasetDict(train=table, test=table.select([0])).save_to_disk(path)
    elif kind == "stream.arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.data.schema) as writer:
            writer.write_table(table.data.table)
    elif kind == "file.arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.data.schema) as writer:
            writer.write_table(table.data.table)
    else:
        table.to_parquet(path)
    return path, f"{path} row 1"


@pytest.mark.parametrize(
    "kind",
    [
        *("jsonl", "jsonl.gz", "json", "json.gz", "json-array", "json-array-indented", "json.gz-array"),
        *("train.parquet", "stream.arrow", "file.arrow", "saved", "saved-dict"),
    ],
)
def test_every_kind_of_path(kind, tmp_path):
    path, second = save(kind, tmp_path, numbered(5, source="made up", margin=0.5, other="ignored"))
    before = sorted(tmp_path.rglob("*"))
    rows = load_preference_dataset(str(path))
    after = [file for file in sorted(tmp_path.rglob("*")) if "hf-cache" not in str(file)]
    assert after == [file for file in before if "hf-cache" not in str(file)], "nothing beside the data"
    assert rows.features == STANDARD_FEATURES
    assert [row["chosen"] for row in rows] == [json_of({**GOOD, "content": f"good {i}"}) for i in range(5)]
    assert rows[1]["where"] == second
    assert set(rows["reason"]) == {""}
    assert set(rows["source"]) == {"made up"}
    assert set(rows["margin"]) == {0.5}
    assert rows.cache_files, "memory-mapped"


def test_folder_and_glob_take_the_data_files_in_order(tmp_path):
    folder = tmp_path / "set"
    rows = numbered(9)
    write_lines(folder / "a.jsonl", rows[:3])
    write_lines(folder / "b.jsonl.gz", rows[3:5])
    Dataset.from_list(rows[5:7]).to_parquet(folder / "c.parquet")
    write_lines(folder / "d.json", rows[7:])
    write_lines(folder / "manifest.json", [{"rows": 9}])
    (folder / "README.md").write_text("about")
    expected = [json_of({**GOOD, "content": f"good {i}"}) for i in range(9)]
    loaded = load_preference_dataset(str(folder))
    assert loaded["chosen"][:] == expected
    assert loaded["where"][:] == [
        *(f"{folder}/a.jsonl:{line}" for line in (1, 2, 3)),
        *(f"{folder}/b.jsonl.gz:{line}" for line in (1, 2)),
        *(f"{folder}/c.parquet row {row}" for row in (0, 1)),
        *(f"{folder}/d.json:{line}" for line in (1, 2)),
    ]
    assert load_preference_dataset(f"{tmp_path}/**/*.json*")["chosen"][:] == expected[:5] + expected[7:]


def test_a_split_of_a_saved_dict(tmp_path):
    path, _ = save("saved-dict", tmp_path, numbered(3))
    assert len(load_preference_dataset(f"{path}:test")) == 1
    assert load_preference_dataset(f"{path}:test")[0]["where"] == f"{path}:test row 0"
    assert len(load_preference_dataset(str(path), default_split="test")) == 1


def test_a_path_with_brackets_is_the_file_of_that_name(tmp_path):
    for name in ("a[1].jsonl", "a[1].parquet"):
        file = tmp_path / name
        if file.suffix == ".jsonl":
            write_lines(file, [ROW])
        else:
            Dataset.from_list([ROW]).to_parquet(file)
        assert len(load_preference_dataset(str(file))) == 1


def test_a_local_path_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "org" / "name" / "x.jsonl", [ROW])
    assert load_preference_dataset("org/name")[0]["where"] == "org/name/x.jsonl:1"


def test_rows_of_the_hub(tmp_path, monkeypatch):
    Dataset.from_list(numbered(4)).to_parquet(tmp_path / "x.parquet")
    found = datasets.load_dataset("parquet", data_files={"train_prefs": str(tmp_path / "x.parquet")})
    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda self, name, revision, timeout: None)
    monkeypatch.setattr(sources.datasets, "load_dataset", lambda name, *_, **options: found)
    rows = load_preference_dataset("org/name:train_prefs")
    assert rows["where"][:2] == ["org/name:train_prefs row 0", "org/name:train_prefs row 1"]
    assert set(rows["reason"]) == {""}
    with pytest.raises(UserError, match="expected split train in org/name, found train_prefs"):
        load_preference_dataset("org/name")


# --- JSON line by line --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_line_numbers_hold_over_blocks_processes_and_blank_lines(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 1000)
    rows = numbered(60)
    rows[30]["chosen"][1]["content"] = "x" * 5000  # a line longer than several blocks
    lines = [json.dumps(row) for row in rows]
    lines[10:10] = ["", "  "]
    text = "\r\n".join(lines).encode()  # and no newline at the end
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    expected = [f"{path}:{number}" for number, line in enumerate(lines, 1) if line.strip()]
    by_two = load_preference_dataset(str(path), num_proc=2)
    assert len(by_two.cache_files) == 2
    assert by_two["where"][:] == expected
    monkeypatch.setattr(preferences, "CACHE_VERSION", -1)
    by_one = load_preference_dataset(str(path))
    assert len(by_one.cache_files) == 1
    assert by_one[:] == by_two[:]


def test_tables_keep_their_order_with_processes(tmp_path):
    path, _ = save("train.parquet", tmp_path, numbered(50))
    rows = load_preference_dataset(str(path), num_proc=2)
    assert rows["where"][:] == [f"{path} row {i}" for i in range(50)]


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_arrays_are_read_piece_by_piece(block, tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", block)
    rows = [*numbered(3), 123456, "text, ] with }", *numbered(1, margin=math.nan)]
    path = tmp_path / "x.json"
    path.write_text("\ufeff \n" + json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    loaded = load_preference_dataset(str(path))
    assert loaded["reason"][:] == ["", "", "", "wrong_type", "wrong_type", "nan_margin"]
    assert loaded["where"][:] == [f"{path} row {i}" for i in range(6)]


def test_a_row_of_other_types_costs_that_row_alone(tmp_path):
    rows = [ROW, {**ROW, "chosen": 7}, {"chosen": "a", "rejected": "b"}, {**ROW, "margin": math.nan}, {}]
    path = write_lines(tmp_path / "x.jsonl", [*rows, {**ROW, "margin": 1, "source": "s"}])
    loaded = load_preference_dataset(str(path))
    assert loaded["reason"][:] == ["", "wrong_type", "", "nan_margin", "no_chosen_or_rejected", ""]
    assert loaded["is_text"][:] == [False, False, True, False, False, False]
    assert loaded["margin"][:] == [None] * 5 + [1.0]
    assert loaded["source"][:] == [None] * 5 + ["s"]


def test_null_keys_and_missing_values_of_parquet(tmp_path):
    named = {**QUESTION, "name": "Ada"}
    rows = [ROW, {"chosen": [named, GOOD], "rejected": [named, BAD]}, {**ROW, "chosen": None}]
    Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
    loaded = load_preference_dataset(str(tmp_path / "x.parquet"))
    assert loaded["prompt"][:2] == [json_of(QUESTION), json_of(named)]
    assert loaded["reason"][:] == ["", "", "no_chosen_or_rejected"]


# --- the cache ----------------------------------------------------------------------------------------------


def test_a_second_call_reads_the_cache_and_a_changed_file_does_not(tmp_path, cache, monkeypatch):
    path = write_lines(tmp_path / "x.jsonl", numbered(4))
    first = load_preference_dataset(str(path))
    with monkeypatch.context() as no_reading:
        no_reading.setattr(cached_rows, "_parts", None)
        again = load_preference_dataset(str(path), num_proc=2)
    assert again[:] == first[:]
    assert again._fingerprint == first._fingerprint, "so that later stages' maps hit their cache too"
    assert len(list(cache.iterdir())) == 1
    write_lines(path, numbered(5))
    changed = load_preference_dataset(str(path))
    assert len(changed) == 5
    assert changed._fingerprint != first._fingerprint
    os.utime(path, ns=(1, 1))
    load_preference_dataset(str(path))
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(preferences, "CACHE_VERSION", -1)
    load_preference_dataset(str(path))
    assert len(list(cache.iterdir())) == 4


def test_sets_of_equal_size_never_share_a_fingerprint(tmp_path):
    one = load_preference_dataset(str(write_lines(tmp_path / "a.jsonl", numbered(2))))
    two = load_preference_dataset(str(write_lines(tmp_path / "b.jsonl", numbered(2)[::-1])))
    assert one._fingerprint != two._fingerprint
    assert one.map(lambda row: {"x": row["where"]})["x"][:] == one["where"][:]
    assert two.map(lambda row: {"x": row["where"]})["x"][:] == two["where"][:]


def test_a_saved_set_that_is_written_again_is_read_again(tmp_path):
    path, _ = save("saved", tmp_path, numbered(3))
    assert len(load_preference_dataset(str(path))) == 3
    Dataset.from_list(numbered(7)).save_to_disk(path)
    assert len(load_preference_dataset(str(path))) == 7


def test_a_failed_read_leaves_nothing_in_the_cache(tmp_path, cache):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n{")
    with pytest.raises(UserError):
        load_preference_dataset(str(path))
    assert list(cache.iterdir()) == []


# --- mistakes of the user's ---------------------------------------------------------------------------------


def message_of(path, **arguments):
    with pytest.raises(UserError) as caught:
        load_preference_dataset(str(path), **arguments)
    return str(caught.value)


@pytest.mark.parametrize("path", ["nothing.jsonl", "data/nothing.jsonl", "a/b/c", "/nowhere/x.parquet"])
def test_a_path_that_is_not_there(path):
    message = message_of(path)
    assert path in message
    assert "expected an existing path or a Hub id" in message


def test_a_hub_that_cannot_be_reached_fails_at_once(tmp_path):
    code = "from reward_modeling.data.preferences import load_preference_dataset as f; f('org/name:test')"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment.pop("HF_HUB_OFFLINE", None)
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert time.monotonic() - start < 20, "datasets alone asks for longer than that"
    last = ended.stderr.strip().splitlines()[-1]
    assert "UserError: expected a local path or a Hub id, found neither for org/name:test" in last
    assert "the Hub cannot be reached for org/name [ConnectError: " in last
    assert "pass its path: a .json" in last


def hub_error(kind):
    return kind("said the Hub", response=sources.httpx.Response(404, request=sources.httpx.Request("GET", "http://x")))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (hub_error(sources.RepositoryNotFoundError), "no data set org/name on the Hub (or it is private"),
        (hub_error(sources.HfHubHTTPError), "the Hub cannot be reached"),
        (sources.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (sources.httpx.ConnectTimeout("slow"), "[ConnectTimeout: slow]"),
    ],
)
def test_what_the_hub_may_answer(error, expected, monkeypatch):
    def refuse(self, name, revision, timeout):
        raise error

    monkeypatch.setattr(sources.HfApi, "dataset_info", refuse)
    assert expected in message_of("org/name")


def test_a_hub_data_set_that_cannot_be_loaded(monkeypatch):
    def refuse(name, *_, **options):
        raise ValueError("Config name is missing.\nPlease pick one")

    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda self, name, revision, timeout: None)
    monkeypatch.setattr(sources.datasets, "load_dataset", refuse)
    assert "cannot be loaded [ValueError: Config name is missing.]" in message_of("org/name")


def test_missing_splits(tmp_path):
    saved, _ = save("saved-dict", tmp_path, numbered(2))
    assert f"expected split dev in {saved}:dev, found train, test" in message_of(f"{saved}:dev")
    assert f"Name one of them: {saved}:train" in message_of(saved, default_split="dev")
    file = write_lines(tmp_path / "x.jsonl", [ROW])
    assert f"{file}:test asks for test, found none" in message_of(f"{file}:test")


@pytest.mark.parametrize("kind", ["jsonl", "json-array", "train.parquet", "saved"])
def test_missing_columns_are_named_with_those_found(kind, tmp_path):
    path, _ = save(kind, tmp_path, [{"prompt": "q", "good": "a", "rejected": "b"}] * 2)
    message = message_of(path)
    assert "expected columns chosen and rejected" in message
    assert "columns found: prompt, good, rejected" in message
    assert "accepted rows: chosen and rejected as two message lists, or prompt" in message


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_unreadable_line_is_named(num_proc, tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 500)
    path = write_lines(tmp_path / "x.jsonl", numbered(20))
    with path.open("a") as out:
        out.write('{"chosen": [{"role": "us')
    message = message_of(path, num_proc=num_proc)
    assert f'found at {path}:21: \'{{"chosen": [{{"role": "us\'' in message
    assert "JSONDecodeError" in message


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"chosen": "\xff\xfe"}\n')
    assert f"found at {path}:2: " in message_of(path)


@pytest.mark.parametrize(
    ("end", "place"), [("", "row 1"), (', {"chosen":', "row 2"), (" 5]", "row 1"), (", nonsense]", "row 2")]
)
def test_an_array_that_is_broken_is_named(end, place, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(numbered(2))[:-1] + end)
    assert f"found at {path} {place}: " in message_of(path)


@pytest.mark.parametrize("kind", ["jsonl.gz", "train.parquet", "stream.arrow", "file.arrow", "saved"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_torn_file_is_named(kind, share, tmp_path):
    path, _ = save(kind, tmp_path, numbered(300))
    torn = next(path.glob("*.arrow")) if path.is_dir() else path
    torn.write_bytes(torn.read_bytes()[: int(torn.stat().st_size * share)])
    message = message_of(path)
    assert f"expected a whole, readable file at {path}, found a broken one [" in message
    assert "\n" not in message


def test_empty_files_folders_and_globs(tmp_path):
    for name, text in (("x.jsonl", ""), ("y.json", "[]"), ("z.jsonl", "\n \n")):
        (tmp_path / name).write_text(text)
        assert f"expected rows in {tmp_path / name}, found none" in message_of(tmp_path / name)
    (tmp_path / "folder").mkdir()
    assert "found nothing" in message_of(tmp_path / "folder")
    (tmp_path / "folder" / "notes.md").write_text("x")
    assert "found notes.md" in message_of(tmp_path / "folder")
    assert "found nothing" in message_of(f"{tmp_path}/*.parquet")
    empty = Dataset.from_dict({"chosen": [], "rejected": []})
    empty.to_parquet(tmp_path / "e.parquet")
    assert "found none: it is empty" in message_of(tmp_path / "e.parquet")
    empty.save_to_disk(tmp_path / "saved")
    assert "found none: it is empty" in message_of(tmp_path / "saved")


def test_empty_files_beside_others_do_no_harm(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("a.jsonl", "b.jsonl.gz"):
        write_lines(tmp_path / "set" / name, [])
    Dataset.from_dict({"chosen": [], "rejected": []}).to_parquet(tmp_path / "set" / "c.parquet")
    Dataset.from_list([ROW]).to_parquet(tmp_path / "set" / "d.parquet")
    (tmp_path / "set" / "e.jsonl").write_text("\n\n")
    assert load_preference_dataset(str(tmp_path / "set"))["where"][:] == [f"{tmp_path}/set/d.parquet row 0"]


def test_an_extension_that_is_not_read(tmp_path):
    (tmp_path / "x.xlsx").write_text("chosen,rejected\n")
    message = message_of(tmp_path / "x.xlsx")
    assert "expected a .json, .jsonl, .json.gz, .jsonl.gz, .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .arrow f" in message


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "x.jsonl", [ROW])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", path)
    assert "set HF_DATASETS_CACHE" in message_of(path)


# --- holding out --------------------------------------------------------------------------------------------


def rows_of(keys, reasons=None):
    reasons = reasons or [""] * len(keys)
    return Dataset.from_dict({"number": range(len(keys)), "prompt_key": keys, "reason": reasons})


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 5), st.booleans()), max_size=60),
    eval_size=st.integers(0, 40),
    seed=st.integers(-(2**70), 2**70),
)
def test_no_prompt_stands_on_both_sides(groups, eval_size, seed):
    keys = [key for key, count, _ in groups for _ in range(count)]
    reasons = ["overlong" if dropped else "" for _, count, dropped in groups for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(keys))
    rows = rows_of(keys, reasons).cast_column("prompt_key", datasets.Value("int64"))
    rows = rows.cast_column("reason", datasets.Value("string"))
    train, held_out = split_by_prompt(rows, eval_size, seed)
    assert sorted([*train["number"], *held_out["number"]]) == list(range(len(keys)))
    assert len(held_out) <= min(eval_size, 0.1 * reasons.count(""))
    assert set(held_out["reason"]) <= {""}
    kept_train = {row["prompt_key"] for row in train if row["reason"] == ""}
    assert kept_train.isdisjoint(held_out["prompt_key"])
    shuffled_train, shuffled = split_by_prompt(rows.select(order), eval_size, seed)
    assert sorted(shuffled["number"]) == sorted(held_out["number"])
    assert sorted(shuffled_train["number"]) == sorted(train["number"])


def test_holding_out_fills_the_size_and_follows_the_seed():
    rows = rows_of([i // 3 for i in range(3000)])
    one, other = (split_by_prompt(rows, 100, seed)[1] for seed in (0, 1))
    assert len(one) == len(other) == 99
    assert set(one["prompt_key"]) != set(other["prompt_key"])
    assert len(split_by_prompt(rows, 10_000, 0)[1]) == 300
    assert len(split_by_prompt(rows, 10_000, 0, max_share=0.5)[1]) == 1500
    # One prompt with more rows than may be held out does not empty the held-out side.
    assert len(split_by_prompt(rows_of([0] * 500 + list(range(1, 501))), 50, 0)[1]) == 50


def test_splitmix64_is_the_published_one():
    """The first outputs of the reference implementation (Vigna) for state 1234567."""
    states = np.array([1234567, 1234567 + 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert keys._splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973]


def test_a_million_rows_are_split_in_seconds():
    table = {"prompt_key": np.arange(1_000_000) // 3, "reason": pa.array([""] * 1_000_000)}
    rows = Dataset(pa.table(table))
    start = time.process_time()
    train, held_out = split_by_prompt(rows, 2000, 0)
    assert time.process_time() - start < 10
    assert (len(train), len(held_out)) == (998_002, 1998)


# --- the report ---------------------------------------------------------------------------------------------


def test_the_report_counts_and_names_the_first(tmp_path):
    rows = [*numbered(6), {**ROW, "chosen": 7}, {**ROW, "margin": math.nan}, {**ROW, "chosen": None}, {}]
    path = write_lines(tmp_path / "x.jsonl", rows)
    report = report_rows("train", load_preference_dataset(str(path)))
    assert (report.rows_read, report.kept, report.share_dropped) == (10, 6, 0.4)
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "no_chosen_or_rejected": 2,
        "wrong_type": 1,
        "nan_margin": 1,
    }
    assert report.dropped["no_chosen_or_rejected"].first_where == f"{path}:9"
    report.add(DropReason.OVERLONG, 2, "x:1", "…")
    report.add("overlong", 1, "x:9", "other")
    report.notes["prompts"] = 3
    assert report.kept == 3
    lines = report.table().splitlines()
    assert lines[0] == "train: 10 rows read, 3 kept (30.0%)"
    assert lines[1].split() == ["dropped", "because", "rows", "share", "first", "row", "which", "reads"]
    assert lines[2].split()[:6] == ["chosen", "or", "rejected", "is", "missing", "2"]
    assert f"{path}:7  chosen is a number, rejected a list | chosen: 7" in lines[3]
    assert lines[5].endswith("3  30.00%  x:1  …")
    assert len({line.index("%") for line in lines[2:6]}) == 1, "aligned"
    assert lines[-1] == "  prompts: 3"
    manifest = json.loads(json.dumps(report.to_dict()))
    assert manifest["dropped"]["overlong"] == {"count": 3, "first_where": "x:1", "first_excerpt": "…"}
    assert (manifest["kept"], manifest["share_dropped"], manifest["notes"]) == (3, 0.7, {"prompts": 3})


def test_a_report_refuses_what_cannot_be():
    report = DataReport("train", 5)
    with pytest.raises(ValueError, match="'tired' is not a valid DropReason"):
        report.add("tired", 1)
    with pytest.raises(ValueError, match="6 more rows overlong, but 5 are left"):
        report.add("overlong", 6)
    report.add("overlong", 0)
    assert report.dropped == {}
    assert DataReport("none", 0).share_dropped == 0.0
    assert report_rows("none", rows_of([])).table() == "none: 0 rows read, 0 kept (0.0%)"


def turns(*contents):
    """Messages of alternating roles, the user's first."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([{"role": "system", "content": "Be brief."}], [{"role": "system", "content": "Be brief."}, *turns("q")]),
        (turns("earlier", "yes"), [*turns("earlier", "yes"), *turns("q")]),
        (turns("q"), turns("q")),  # the conversation has it already
        ("q", turns("q")),
        ("another rendering of q", turns("q")),
    ],
)
def test_a_prompt_beside_conversations_is_never_lost(prompt, expected):
    row = {"prompt": prompt, "chosen": turns("q", "good"), "rejected": turns("q", "bad")}
    standard = preferences.standardise_row(row, "x:1")
    assert standard["reason"] == ""
    assert json.loads(standard["prompt"]) == expected


def test_prompts_that_differ_in_outer_space_have_one_key():
    rows = [{"chosen": turns(q, "good"), "rejected": turns(q, "bad")} for q in ("question", "question ", "questions")]
    keys = [preferences.standardise_row(row, "x:1")["prompt_key"] for row in rows]
    assert keys[0] == keys[1] != keys[2]


def test_a_margin_beyond_float32_is_not_a_number():
    row = {"chosen": turns("q", "good"), "rejected": turns("q", "bad"), "margin": 1e39}
    assert preferences.standardise_row(row, "x:1")["reason"] == "nan_margin"


@pytest.mark.parametrize(("name", "content"), [("dataset_dict.json", "{"), ("state.json", "{}")])
def test_a_saved_data_set_with_a_broken_index(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="found a broken one"):
        preferences.load_preference_dataset(str(tmp_path))


def test_read_column_follows_a_selection():
    rows = Dataset.from_dict({"number": [10, 11, 12, 13]})
    assert preferences.read_column(rows, "number").to_pylist() == [10, 11, 12, 13]
    assert preferences.read_column(rows.select([3, 0]).select([1, 0]), "number").to_pylist() == [10, 13]


def test_an_empty_parquet_file_beside_a_full_one(tmp_path):
    table = Dataset.from_list(numbered(3))
    table.to_parquet(tmp_path / "a.parquet")
    table.select([]).to_parquet(tmp_path / "b.parquet")
    assert len(load_preference_dataset(str(tmp_path))) == 3
    assert "it is empty" in message_of(str(tmp_path / "b.parquet"))
