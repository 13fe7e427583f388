"""What the reader of pairs makes of a row, and what it refuses of a whole set."""

from functools import partial

import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import STANDARD_FEATURES, kept_column, standardise_row
from reward_modeling.data.report import DataReport
from reward_modeling.objectives.pair_reader import PairReader

PAIR = {"prompt": "bake", "chosen": "wait", "rejected": "begin"}
LIST = {"prompt": "bake", "completions": ["wait", "begin", "set a timer"]}


def standard(*rows: dict) -> Dataset:
    standard_rows = [standardise_row(row, f"rows:{number}") for number, row in enumerate(rows, start=1)]
    return Dataset.from_list(standard_rows, features=STANDARD_FEATURES)


def check(reader: PairReader, *rows: dict) -> None:
    reader.check_rows([partial(kept_column, standard(*rows))], [DataReport("train", len(rows))])


@pytest.mark.parametrize("strength", [0, 3])
def test_a_tie_has_no_strength(strength):
    """Of 0 it would count nothing where the loss is scaled, and a threshold would learn of no ties."""
    (row,) = standard(PAIR | {"strength": strength}).to_list()
    assert row["strength"] == strength
    assert PairReader().read_row(row).targets == (((1.0, 3.0, 0.0) if strength else (0.5, 1.0, 0.0)),)


@pytest.mark.parametrize(
    ("lists", "rows", "learns"),
    [
        ("pairs", [PAIR, PAIR | {"chosen_probability": 0.5}], True),
        ("pairs", [PAIR, LIST | {"ranks": [1, 1, 2]}], True),
        ("pairs", [PAIR, LIST | {"ranks": [3, 1, 2]}], False),
        # As a whole, a list is no part of the model of ties.
        ("plackett_luce", [PAIR, LIST | {"ranks": [1, 1, 2]}], False),
        ("plackett_luce", [LIST | {"ranks": [1, 1, 2]}, PAIR | {"strength": 0}], True),
    ],
)
def test_a_threshold_is_learned_where_there_are_ties(lists, rows, learns):
    reader = PairReader(ties="davidson", lists=lists, learns_ties=True)
    if learns:
        check(reader, *rows)
        return
    with pytest.raises(UserError, match="--ties davidson: expected ties among the rows") as error:
        check(reader, *rows)
    assert ("answers of equal rank" in str(error.value)) is (lists == "pairs")
