"""CSV and TSV: rows as those of JSON lines, and every broken table named."""

import csv
import gzip
import io
import json

import datasets
import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import load_preference_dataset

ROWS = [
    {"prompt": 'Say "hi",\nplease', "chosen": "hi\n\nthere", "rejected": "no, never", "margin": 0.5, "source": None},
    {"prompt": "Tabs\tand commas, both", "chosen": "long " * 60_000, "rejected": "b", "margin": None, "source": "s"},
    {"prompt": "ünï", "chosen": "x", "rejected": "y", "margin": -2.0, "source": "s"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def write_table(path, rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter="\t" if ".tsv" in path.name else ",")
    writer.writeheader()
    writer.writerows(rows)
    text = out.getvalue().encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz", "x.tsv.gz"])
def test_tables_give_the_rows_of_json(name, tmp_path):
    lines = tmp_path / "x.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    table = load_preference_dataset(str(write_table(tmp_path / name, ROWS)))
    columns = [column for column in table.column_names if column != "where"]
    assert table.select_columns(columns)[:] == load_preference_dataset(str(lines)).select_columns(columns)[:]
    assert table["where"][:] == [f"{tmp_path / name} row {number}" for number in range(3)]
    assert table["margin"][:] == [0.5, None, -2.0]


def test_messages_in_a_table(tmp_path):
    sides = {
        side: [{"role": "user", "content": "It's q"}, {"role": "assistant", "content": side}]
        for side in ("chosen", "rejected")
    }
    for write in (json.dumps, str):  # and as pandas writes lists down
        path = write_table(tmp_path / f"{write.__name__}.csv", [{side: write(value) for side, value in sides.items()}])
        (row,) = load_preference_dataset(str(path))
        assert json.loads(row["prompt"]) == sides["chosen"][:1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q,good,bad\nq,good,bad\n", "columns found (its first line): q, good, bad"),
        ("prompt;chosen;rejected\nq;a;b\n", "expected commas between the columns"),
        ("prompt,chosen,rejected\nq,a,b\nq,a, and b,c\n", "expected 3 fields, as in the header, at line 3"),
        ("prompt,chosen,rejected\nq,a\n", "found 2: 'q'"),
        ("chosen,chosen,rejected\na,b,c\n", "found 'chosen' twice"),
        ('chosen,rejected\n"a,b\n', "broken at line 2"),
        ("", "it is empty"),
        ("chosen,rejected\n", "it is empty"),
    ],
)
def test_broken_tables_are_named(text, said, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_preference_dataset(str(path))
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
