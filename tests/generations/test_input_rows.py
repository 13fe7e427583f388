"""Reading rows: the same ones from every kind of file, as they stand, one after the other."""

import csv
import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data import json_lines
from reward_modeling.generations.input_files import find_files, fingerprint_of_files, folders_passed_over
from reward_modeling.generations.input_rows import json_of, stream_rows, values_to_read
from reward_modeling.generations.questions import read_questions

ROWS = [{"prompt": f"question {number}", "responses": ["ünï", 'a "b"\n'], "id": number} for number in range(5)]


def lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


def packed(text):
    return gzip.compress(text.encode(), mtime=0)


def write(path: Path, content) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path: Path, rows, **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def values(path):
    return [row.values for row in stream_rows([path])]


JSON_FILES = {
    "x.jsonl": lines(ROWS),
    "x.jsonl.gz": packed(lines(ROWS)),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS, ensure_ascii=False).encode(),
    "windows.jsonl": lines(ROWS).replace("\n", "\r\n\r\n"),
    "x.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "lines.json": lines(ROWS),
    "x.json.gz": packed(json.dumps(ROWS)),
    "lmflow.json": json.dumps({"type": "text_only", "instances": ROWS}, indent=1),
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_every_file_of_json_gives_the_same_rows(name, tmp_path):
    assert values(write(tmp_path / name, JSON_FILES[name])) == ROWS


def test_tables_give_the_same_rows(tmp_path, monkeypatch):
    assert values(write_parquet(tmp_path / "x.parquet", ROWS, row_group_size=2)) == ROWS
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert values(file) == ROWS
    texts = [{"prompt": row["prompt"], "completion": row["responses"][1], "empty": None} for row in ROWS]
    for name in ("x.csv", "x.tsv.gz"):
        path = tmp_path / name
        opened = gzip.open if name.endswith(".gz") else open
        with opened(path, "wt", newline="") as out:
            writer = csv.DictWriter(out, texts[0], delimiter="\t" if ".tsv" in name else ",")
            writer.writeheader()
            writer.writerows(texts)
        assert values(path) == texts


def test_a_row_says_where_it_stands_and_keeps_its_text(tmp_path):
    text = '{"n": 1.10,  "big": 12345678901234567890123, "half": "\\ud800", "odd": 1e400}'
    found = list(stream_rows([write(tmp_path / "x.jsonl", f"\n {text} \n")]))
    assert [(row.where, row.text) for row in found] == [(f"{tmp_path}/x.jsonl:2", text)]
    table = list(stream_rows([write_parquet(tmp_path / "x.parquet", ROWS)]))
    assert [row.where for row in table][:2] == [f"{tmp_path}/x.parquet row 0", f"{tmp_path}/x.parquet row 1"]
    assert {row.text for row in table} == {None}


def test_what_json_has_not_becomes_null_or_text(tmp_path):
    (row,) = stream_rows([write(tmp_path / "x.jsonl", '{"a": NaN, "b": [-Infinity, 1.5]}\n')])
    assert (row.values, row.text, row.has_no_number) == ({"a": None, "b": [None, 1.5]}, None, True)
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    table = [{"at": moment, "on": date(2026, 1, 2), "price": Decimal("1.50"), "bad": float("nan"), "in": [{"x": 1.0}]}]
    (row,) = stream_rows([write_parquet(tmp_path / "x.parquet", table)])
    as_text = {"at": moment.isoformat(), "on": "2026-01-02", "price": "1.50", "bad": None, "in": [{"x": 1.0}]}
    assert json.loads(json_of(row.values)) == as_text
    assert json.loads(json_of({"half": "\ud800", "ü": 1})) == {"half": "\ud800", "ü": 1}


def test_null_keys_that_a_table_gives_to_objects_are_not_read(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a", "name": None}]}, {"messages": [{"role": "x", "name": "b"}]}]
    first, _ = stream_rows([write_parquet(tmp_path / "x.parquet", rows)])
    assert values_to_read(first) == {"messages": [{"role": "user", "content": "a"}]}
    assert first.values["messages"][0]["name"] is None  # as it stands


def test_an_array_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 32)
    monkeypatch.setattr(json_lines, "LONGEST_ELEMENT", 4096)
    assert values(write(tmp_path / "x.json", json.dumps({"type": "t", "instances": ROWS}))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": ', r"at .*x.jsonl:2: '\{\"a\": '"),
        ("x.jsonl", '{"a": 1}\n[1]\n', r"expected one object with columns at .*:2, found '\[1\]'"),
        ("x.jsonl", "3\n", "found '3'"),
        ("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "zero bytes"),
        ("x.jsonl", b'{"a": "\xff"}\n', "Save the file in UTF-8"),
        ("x.json", '[{"a": 1}, {"a"', "row 1"),
        ("x.json", '{\n "a": 1\n}\n', "one over several lines at .*x.json:1"),
        ("x.json", "[1]", "row 0, found '1'"),
        ("x.jsonl.gz", packed('{"a": 1}\n' * 999)[:-9], "expected a whole, readable file"),
        ("x.csv", "a,b\n1\n", "expected 2 fields"),
        ("x.parquet", b"no parquet", "expected a whole, readable file"),
    ],
)
def test_broken_files_are_named(name, content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        list(stream_rows([write(tmp_path / name, content)]))


def test_bytes_in_a_table_are_refused(tmp_path):
    rows = [{"prompt": "x", "image": {"bytes": b"\x00", "path": None}}]
    with pytest.raises(UserError, match="found bytes in image"):
        list(stream_rows([write_parquet(tmp_path / "x.parquet", rows)]))


def test_dates_that_python_has_not_and_columns_of_one_name_are_refused(tmp_path):
    far = pa.array([999_999_999_999_999], pa.timestamp("ms"))
    for column in (far, pa.array([[999_999_999_999_999]], pa.list_(pa.timestamp("ms")))):
        pq.write_table(pa.table({"prompt": ["x"], "t": column}), tmp_path / "far.parquet")
        with pytest.raises(UserError, match=r"dates of the years 1 to 9999 .* found others in t \("):
            list(stream_rows([tmp_path / "far.parquet"]))
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="found 'prompt' twice"):
        list(stream_rows([tmp_path / "twice.parquet"]))


def test_what_is_no_number_in_a_table_is_told(tmp_path):
    rows = [{"a": 1.0, "b": [{"c": 2.0}]}, {"a": float("nan"), "b": []}, {"a": None, "b": [{"c": float("inf")}]}]
    found = stream_rows([write_parquet(tmp_path / "x.parquet", rows)])
    assert [row.has_no_number for row in found] == [False, True, True]


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_folders_and_globs(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.csv", "a.jsonl.manifest.json", ".hidden.jsonl", "notes.txt", "a,b.jsonl"):
        write(tmp_path / name, "x")
    names = ["a,b.jsonl", "a.jsonl", "b.jsonl", "c.csv"]
    assert [file.name for file in find_files("--input", str(tmp_path))] == names
    assert [file.name for file in find_files("--input", f"{tmp_path}/[ab].jsonl")] == ["a.jsonl", "b.jsonl"]
    given = [f"{tmp_path}/c.csv", f"{tmp_path}/b.jsonl,{tmp_path}/a.jsonl"]
    assert [file.name for file in find_files("--input", given)] == ["c.csv", "b.jsonl", "a.jsonl"]
    assert [file.name for file in find_files("--input", f"{tmp_path}/a,b.jsonl")] == ["a,b.jsonl"]
    for path, message in {
        f"{tmp_path}/none.jsonl": "found none: .* does not exist",
        f"{tmp_path}/notes.txt": "expected a .json, .* file, found",
        f"{tmp_path}/*.parquet": "files in .*, found nothing",
        f"{tmp_path}/a.jsonl,{tmp_path}/[a].jsonl": "each file once, found .*a.jsonl twice",
    }.items():
        with pytest.raises(UserError, match=message):
            find_files("--input", path)


def test_folders_in_folders_are_told(tmp_path):
    for name in ("a/b", "a/.git", "c"):
        (tmp_path / name).mkdir(parents=True)
    assert folders_passed_over([f"{tmp_path}/a,{tmp_path}/c", f"{tmp_path}/*"]) == [tmp_path / "a" / "b"]


def test_a_fingerprint_tells_other_bytes_and_another_order(tmp_path):
    files = [write(tmp_path / name, name) for name in ("a.jsonl", "b.jsonl")]
    first = fingerprint_of_files(files)
    assert fingerprint_of_files(files) == first
    assert fingerprint_of_files(files[::-1]) != first
    write(files[0], "A.jsonl")
    assert fingerprint_of_files(files) != first


def test_questions_are_found_by_their_ids(tmp_path):
    rows = [{"question_id": "a", "turns": [{"content": "q1"}]}, {"question_id": 81, "turns": ["q1", "q2"]}]
    questions = read_questions(write(tmp_path / "question.jsonl", lines(rows)))
    assert (questions("a"), questions(81), questions("b")) == (["q1"], ["q1", "q2"], None)
    with pytest.raises(UserError, match=r"--questions: expected question_id and turns .* found columns prompt"):
        read_questions(write(tmp_path / "other.jsonl", '{"prompt": "x"}\n'))
