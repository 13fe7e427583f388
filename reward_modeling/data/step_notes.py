"""What a report says of steps: how many are right and wrong, and which of them hold the separator."""

import json
from collections import Counter

import numpy as np
import pyarrow.compute as pc

from reward_modeling.common.step_statistics import EVEN
from reward_modeling.data.examples import KeptColumn
from reward_modeling.data.report import DataReport
from reward_modeling.data.step_chains import up_to_labels


def note_steps(report: DataReport, column: KeptColumn, separator: str, *, whole: bool = False) -> None:
    """Count the labels of the rows that are kept.

    Args:
        column: from the name of a column of `step_rows.STEP_FEATURES` to its values in the rows that are kept.
        whole: chains are read to their last step, and not to their last label.
    """
    of_rows = column("labels").combine_chunks()
    labels = of_rows.flatten().to_numpy(zero_copy_only=False)  # null becomes NaN
    row, wrong = np.repeat(np.arange(len(of_rows)), pc.list_value_length(of_rows).to_numpy()), labels < EVEN
    report.notes |= {
        "steps": len(labels),
        "steps that are right": int((labels > EVEN).sum()),
        "steps that are wrong": int(wrong.sum()),
    }
    alternatives, without = column("parents").combine_chunks(), int(np.isnan(labels).sum())
    counts = {
        "steps with a probability between 0 and 1": int(((labels > 0) & (labels < 1)).sum()),
        "steps without a label": without,
        "steps behind the last label, which are not read": 0 if whole or not without else _unread_steps(column),
        "steps with a rating of 0": pc.sum(column("neutral")).as_py() or 0,
        "rows with a wrong step": len(np.unique(row[wrong])),
        "rows with several chains of steps": _several_chains(alternatives),
    }
    report.notes |= {words: count for words, count in counts.items() if count} | _counted(column)
    _note_separators(report, column, separator)


def _unread_steps(column: KeptColumn) -> int:
    """Steps behind the last label of their chain."""
    rows = zip(column("parents").to_pylist(), column("labels").to_pylist(), strict=True)
    return sum(len(labels) - len(up_to_labels(parents, labels)) for parents, labels in rows if None in labels)


def _counted(column: KeptColumn) -> dict[str, int]:
    """What `LabelReading.counts` says of the rows."""
    total: Counter[str] = Counter()
    for entry in pc.value_counts(column("counted")).to_pylist():
        if entry["values"]:
            total.update({words: count * entry["counts"] for words, count in json.loads(entry["values"]).items()})
    return dict(total.most_common())


def _several_chains(parents) -> int:
    """Rows in which some step is followed by more than one, or that begin with more than one."""
    flat, lengths = parents.flatten().to_numpy(), pc.list_value_length(parents).to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    followed, counts = np.unique(np.stack([row, flat], axis=1), axis=0, return_counts=True)
    return len(np.unique(followed[counts > 1, 0]))


def _note_separators(report: DataReport, column: KeptColumn, separator: str) -> None:
    """Steps that hold the separator: one more step seems to end there. A whole answer is one step and may hold it."""
    if not separator:
        return
    steps, parents = column("steps").combine_chunks(), column("parents").combine_chunks()
    holds = pc.match_substring(pc.utf8_trim_whitespace(steps.flatten()), separator).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(steps)), pc.list_value_length(steps).to_numpy())
    in_chains = np.zeros(len(steps), dtype=bool)
    in_chains[row[parents.flatten().to_numpy() >= 0]] = True
    found = holds & in_chains[row]
    if found.any():
        first = column("where")[int(row[int(np.argmax(found))])].as_py()
        report.note(f"steps that hold the separator {separator!r}", int(found.sum()), first)
