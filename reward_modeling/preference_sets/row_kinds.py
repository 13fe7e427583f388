"""The kinds of rows that data_prep writes, pairs and ratings, and what is done with each.

    kind = kind_of(found)                                # of what a script has read
    table = kind.table([(found.source.name, found)])
    write_rows(table, order, folder, "train", "parquet", kind.lines(table, order))

A further kind is one more `RowKind`, made of files of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reward_modeling.preference_sets import arguments
from reward_modeling.preference_sets.common_scales import common_scales
from reward_modeling.preference_sets.label_counts import label_counts
from reward_modeling.preference_sets.manifest import manifest_table, row_counts, source_entry
from reward_modeling.preference_sets.mixing import Chosen, choose_pairs
from reward_modeling.preference_sets.pair_table import PairTable, RowTable
from reward_modeling.preference_sets.rated_lines import rated_lines
from reward_modeling.preference_sets.rated_manifest import (
    UNIT,
    attribute_entries,
    rated_manifest_table,
    rated_source_entry,
)
from reward_modeling.preference_sets.rated_mixing import choose_answers
from reward_modeling.preference_sets.rated_table import RatedTable
from reward_modeling.preference_sets.ratings import SourceRatings
from reward_modeling.preference_sets.row_lines import LineForm, pair_lines, written_columns
from reward_modeling.preference_sets.source import SourcePairs, SourceRows

Shares = Sequence[tuple[float, int | None]]


@dataclass(frozen=True)
class RowKind:
    """What differs between kinds of rows."""

    name: str
    unit: str
    """What a row is called, in the plural."""
    table: Callable[[Sequence[tuple[str, SourceRows]]], RowTable]
    choose: Callable[[RowTable, Shares, NDArray[np.bool_], int], tuple[Chosen, RowTable]]
    """Which rows of a mixture stay, by the shares of its parts, those in a benchmark and a seed."""
    lines: Callable[[RowTable, NDArray[np.integer]], LineForm]
    entry: Callable[[SourceRows, Mapping[str, int]], dict[str, object]]
    """What a manifest says of a source, beside what others have counted of it."""
    counts: Callable[[RowTable, NDArray[np.integer]], dict[str, object]]
    """What a manifest counts of some rows of a mixture."""
    summary: Callable[[Sequence[Mapping], RowTable, NDArray[np.integer]], dict[str, object]]
    """What else a manifest says of all that is written, of the entries of its sources."""
    screen: Callable[[Mapping[str, object]], str]
    """A manifest as a table."""


def kind_of(found: SourceRows) -> RowKind:
    return RATINGS if isinstance(found, SourceRatings) else PAIRS


# --- pairs ----------------------------------------------------------------------------------------------------


def _pair_table(parts: Sequence[tuple[str, SourcePairs]]) -> PairTable:
    return PairTable([(name, pairs.rows) for name, pairs in parts])


def _count_pairs(table: PairTable, numbers: NDArray[np.integer]) -> dict[str, object]:
    labels = label_counts(lambda name: table.column(name).take(pa.array(numbers)))
    return {**row_counts(table.numbers("prompt_key")[numbers]), "labels": labels}


PAIRS = RowKind(
    name=arguments.PAIRS,
    unit="pairs",
    table=_pair_table,
    choose=lambda table, *how: (choose_pairs(table, *how), table),
    lines=lambda table, numbers: pair_lines(table, written_columns(table, numbers)),
    entry=source_entry,
    counts=_count_pairs,
    summary=lambda sources, table, numbers: {},
    screen=manifest_table,
)


# --- ratings --------------------------------------------------------------------------------------------------


def _count_answers(table: RatedTable, numbers: NDArray[np.integer]) -> dict[str, object]:
    rated = (~np.isnan(table.values[numbers])).sum(axis=0).tolist()
    rated = {name: count for name, count in zip(table.attributes, rated, strict=True) if count}
    return {**row_counts(table.numbers("prompt_key")[numbers], UNIT), "rated": rated, "labels": {}}


def _summary(sources: Sequence[Mapping], table: RatedTable, numbers: NDArray[np.integer]) -> dict[str, object]:
    values = table.values[numbers]
    entries = attribute_entries(table.attributes, values, common_scales(sources))
    written = {name: entry for name, entry in entries.items() if entry["rated"]}  # the columns that there are
    return {"rows": arguments.RATINGS, "attributes": written}


RATINGS = RowKind(
    name=arguments.RATINGS,
    unit=UNIT,
    table=RatedTable,
    choose=choose_answers,
    lines=rated_lines,
    entry=lambda ratings, published: rated_source_entry(ratings),
    counts=_count_answers,
    summary=_summary,
    screen=rated_manifest_table,
)
KINDS = {kind.name: kind for kind in (PAIRS, RATINGS)}
