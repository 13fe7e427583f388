"""Files as people have them, and what is said of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.rated_rows import load_rated_rows
from reward_modeling.data.read_options import ReadOptions

pytestmark = pytest.mark.usefixtures("own_cache")
ROW = {"prompt": "How do I make a café crème?", "chosen": "With steam.", "rejected": "No idea."}
LINES = (json.dumps(ROW, ensure_ascii=False) + "\n") * 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", LINES.encode("utf-16"), "expected JSON lines in UTF-8, found zero bytes at"),
        ("x.jsonl", b"\0" * 200, "found zero bytes at"),
        ("x.jsonl", LINES.encode("latin-1"), "Save the file in UTF-8."),
        ("x.jsonl", LINES[:-9].encode(), "x.jsonl:3: .*Mend or delete it."),
        ("x.jsonl", b"<html>404</html>\n", "x.jsonl:1: .*Mend or delete it."),
        ("x.jsonl", LINES.replace("chosen", "Chosen").encode(), "Capitals count: found chosen as Chosen. Rename"),
        ("x.csv", b"Prompt,Chosen,Rejected\nq,a,b\n", "found prompt as Prompt, chosen as Chosen, rejected as Rejected"),
        ("x.json", json.dumps({"data": [ROW]}).encode(), "If the rows stand in a list data, save that list alone."),
    ],
)
def test_what_is_wrong_with_a_file_is_said(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="(?s)" + words):
        load_preference_dataset(str(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bom_and_line_ends_change_nothing(encoding, end, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(LINES.replace("\n", end).encode(encoding))
    rows = load_preference_dataset(str(tmp_path / "x.jsonl"))
    assert rows["reason"][:] == [""] * 3 and json.loads(rows[0]["prompt"])[0]["content"] == ROW["prompt"]


def test_half_a_character_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(ROW | {"chosen": "yes \ud83d"}) + "\n")
    (row,) = load_preference_dataset(str(tmp_path / "x.jsonl"))
    assert row["reason"] == "wrong_type" and row["excerpt"].startswith("half a character (\\ud800 to \\udfff)")


NUMBERS = pa.map_(pa.string(), pa.float64())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (NUMBERS, [("kindness", 1.0)]),
        (pa.list_(NUMBERS), [[("kindness", 1.0)]]),
        (pa.struct([("inner", NUMBERS)]), {"inner": [("kindness", 1.0)]}),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow stream", "arrow file"])
def test_a_column_of_a_type_that_cannot_be_read_is_named(suffix, kind, value, tmp_path):
    schema = pa.schema([*((name, pa.string()) for name in ROW), ("response", pa.string()), ("ratings", kind)])
    table = pa.Table.from_pylist([{**ROW, "response": "r", "ratings": value}], schema=schema)
    path = tmp_path / f"x.{suffix.split()[0]}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        new_writer = pa.ipc.new_stream if suffix == "arrow stream" else pa.ipc.new_file
        with new_writer(str(path), schema) as writer:
            writer.write_table(table)
    words = r"(?s)x\.\w+: expected columns .*, found ratings \(.*map<string, double.*as a struct or as JSON text"
    with pytest.raises(UserError, match=words):
        load_preference_dataset(str(path))
    with pytest.raises(UserError, match=words):
        load_rated_rows(str(path), ("kindness",), ReadOptions(), num_proc=1)
