"""Several sets read as one: their rows one after the other, with the counts of each."""

from collections.abc import Sequence

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from reward_modeling.data.preferences import read_column
from reward_modeling.data.report import DataReport, report_rows


def join_sets(sets: Sequence[Dataset]) -> Dataset:
    """The rows in the order of the sets: a pair that two sets have stands there twice, and is found in its group."""
    return sets[0] if len(sets) == 1 else datasets.concatenate_datasets(list(sets))


def reports_of_sets(
    name: str, paths: Sequence[str], sets: Sequence[Dataset], groups: Sequence[Dataset]
) -> list[DataReport]:
    """The counts of each set by itself; none where there is but one.

    Args:
        groups: what `prompt_groups.tokenize_and_group` has made of their rows, with what it has dropped of them.
    """
    if len(sets) == 1:
        return []
    dropped: dict[str, list[tuple[str, str]]] = {}
    for part in groups:
        columns = ("dropped_where", "dropped_reason", "dropped_excerpt")
        values = (part.data.column(column).combine_chunks().flatten().to_pylist() for column in columns)
        for where, *rest in zip(*values, strict=True):
            dropped.setdefault(where, []).append(tuple(rest))
    reports = []
    # Of pairs that are there twice the later ones are dropped, and two sets may be one file.
    for number, (path, rows) in reversed(list(enumerate(zip(paths, sets, strict=True), start=1))):
        report = report_rows(f"{name} {number}, {path}", rows)
        places = read_column(rows, "where")
        for where in places.filter(pc.is_in(places, value_set=pa.array(list(dropped), pa.string()))).to_pylist():
            reason, excerpt = dropped[where].pop()
            report.add(reason, 1, where, excerpt)
            if not dropped[where]:
                del dropped[where]
        reports.append(report)
    return reports[::-1]
