"""Every benchmark by its name."""

from dataclasses import dataclass

from reward_modeling.data.sources import Columns
from reward_modeling.evaluation.benchmarks.base import (
    EXCERPT_LENGTH,
    MISSING_COLUMN,
    PAIRS,
    TEST_SETS,
    RowFormat,
    _finite,
    _kind,
    _Unreadable,
    filled_row,
    to_json,
)
from reward_modeling.evaluation.benchmarks.preference_test_sets import PREFERENCE_TEST_SETS, _test_set
from reward_modeling.evaluation.benchmarks.rewardbench import REWARDBENCH, _rewardbench
from reward_modeling.evaluation.benchmarks.rewardbench2 import REWARDBENCH2, _rewardbench2
from reward_modeling.evaluation.benchmarks.rm_bench import _rm_bench

TITLES = {
    "rewardbench": "RewardBench",
    "preference_test_sets": "Preference test sets",
    "rewardbench2": "RewardBench 2",
    "rm_bench": "RM-Bench",
    "pairs": "Pairs",
}


@dataclass(frozen=True)
class _Published:
    """What a benchmark is called, and where the Hub has it (`split` is also the one taken of a local folder)."""

    name: str
    hub_id: str
    split: str
    in_default: bool = False  # whether it is scored unless `--benchmarks` says otherwise


_PUBLISHED = {
    "rewardbench": _Published(REWARDBENCH.name, "allenai/reward-bench", "filtered", in_default=True),
    TEST_SETS: _Published(PREFERENCE_TEST_SETS.name, "allenai/preference-test-sets", "", in_default=True),
    "rewardbench2": _Published(REWARDBENCH2.name, "allenai/reward-bench-2", "test"),
    "rm_bench": _Published("RM-Bench", "THU-KEG/RM-Bench", "train"),
}
BENCHMARKS = (*_PUBLISHED, PAIRS)


# --- rows ---------------------------------------------------------------------------------------------------


def evaluation_row(row: object, where: str, *, benchmark: str, subset: str | None = None) -> dict[str, object]:
    """One row of `EVALUATION_FEATURES`; `subset` is that of all rows of a file whose rows do not say it."""
    try:
        if not isinstance(row, dict):
            raise _Unreadable(f"expected an object with columns, found {_kind(row)}")
        row_format = ROW_FORMATS[benchmark]
        if missing := [name for name in row_format.columns.required if row.get(name) is None]:
            said = f"no {', '.join(missing)} in {to_json(row)}"
            return _unreadable_row(where, row, subset, MISSING_COLUMN, said)
        given = {} if subset is None else {"subset": subset}
        return filled_row(where, row.get("id"), **given, **row_format.read(row))
    except _Unreadable as error:
        return _unreadable_row(where, row, subset, str(error), to_json(row))


def _unreadable_row(where: str, row: object, subset: str | None, reason: str, shown: str) -> dict[str, object]:
    said = row if isinstance(row, dict) else {}
    subset = subset or said.get("subset") or said.get("domain")
    row_id = to_json(_finite(said.get("id"))).encode(errors="replace").decode()
    shown = shown if len(shown) <= EXCERPT_LENGTH else f"{shown[: EXCERPT_LENGTH - 1]}…"
    return {
        "where": where,
        "id": row_id,
        "subset": subset.encode(errors="replace").decode() if isinstance(subset, str) else "",
        "prompt": "",
        "chosen": [],
        "rejected": [],
        "prompt_key": 0,
        "reason": reason,
        "excerpt": shown.encode(errors="replace").decode(),  # half a character must not reach Arrow
    }


def _columns(required: tuple[str, ...], row_formats: str) -> Columns:
    return Columns(required, tuple(dict.fromkeys(("prompt", *required, "id"))), row_formats)


ROW_FORMATS = {
    "rewardbench": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "subset"),
            "prompt as a text or messages, chosen and rejected as one text each, subset as a name",
        ),
        _rewardbench,
    ),
    "rewardbench2": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "subset"),
            "prompt as a text or messages, chosen as a list of 1 text and rejected of 3 (Ties: of at least one, and "
            "id 'ref:N' or 'tied:N'), subset as a name",
        ),
        _rewardbench2,
    ),
    "rm_bench": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "domain"),
            "prompt as a text or messages, chosen and rejected as lists of 3 texts, domain as a name",
        ),
        _rm_bench,
    ),
    "preference_test_sets": RowFormat(
        _columns(
            ("chosen", "rejected"),
            "prompt as a text or messages with the two answers as texts, or whole conversations in chosen and rejected "
            "(messages, or transcripts that begin with 'Human:')",
        ),
        _test_set,
    ),
}
