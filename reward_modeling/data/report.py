"""What was kept of a data set and what was dropped, why, and where the first such row stands.

report = report_rows("train", rows)
report.add(DropReason.OVERLONG, count=12, where="train.jsonl:812", excerpt="...")  # by a later stage
print(report.table())
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from reward_modeling.data.drop_reasons import DropReason as DropReason  # of which others ask here
from reward_modeling.display.text import Rows, align

if TYPE_CHECKING:
    from datasets import Dataset


REASON_WORDS: dict[str, str] = {reason: reason.words for reason in DropReason}
# What is counted of rows that are kept, in the words of the table.
CUT_UNITS = "whose prompt was cut to max_length"
NO_USER_TURN = "rows without a turn of the user"
TOKENS_CUT = "tokens that these lost"
NOTED_ROWS = {
    "control": "rows with control tokens of the tokenizer in {}",  # chosen, rejected
    "foreign": "rows with marks of other chat templates in {}",
    "escaped": "rows that hold a mark of the comparison, which is written in another way there",
    "unknown": "rows with unknown tokens",
    "thoughts": "rows whose earlier thoughts the template leaves out, as it is meant to",
    "tools": "rows whose tools the template leaves out",
    "chains": "rows with steps behind the last label of their chain",
}
OF_TOKENS = ("tokens", "unknown_tokens", "first_of_note")  # of a report
LOUD_SHARE_DROPPED = 0.05  # more than this share of the rows dropped is a warning that cannot be missed
TABLE_EXCERPT = 60  # characters of the first row's excerpt that the table shows


@dataclass
class DroppedRows:
    """The rows dropped under one reason: how many, and the first of them."""

    count: int
    first_where: str
    first_excerpt: str


@dataclass
class DataReport:
    """Counts of one data set. `kept` is always `rows_read` less everything dropped."""

    name: str
    rows_read: int
    dropped: dict[str, DroppedRows] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """Counts worth showing that drop nothing, such as the number of prompts."""
    tokens: int = 0
    """Of all distinct conversations."""
    unknown_tokens: int = 0
    first_of_note: dict[str, str] = field(default_factory=dict)
    """Of a note about some rows, where the first of them stands and what is found there."""

    @property
    def kept(self) -> int:
        return self.rows_read - sum(rows.count for rows in self.dropped.values())

    @property
    def share_dropped(self) -> float:
        """Dropped rows per row read; 0 where nothing was read."""
        return (self.rows_read - self.kept) / self.rows_read if self.rows_read else 0.0

    def add(self, reason: DropReason | str, count: int, where: str = "", excerpt: str = "") -> None:
        """Count `count` more rows under `reason`; the first row that was named stays the one shown.

        Raises:
            ValueError: `reason` is no `DropReason`, or more rows are dropped than were read.
        """
        reason = DropReason(reason)
        if count == 0:
            return
        if not 0 < count <= self.kept:
            raise ValueError(f"{self.name}: {count} more rows {reason.value}, but {self.kept} are left")
        if reason.value in self.dropped:
            self.dropped[reason.value].count += count
        else:
            self.dropped[reason.value] = DroppedRows(count, where, excerpt)

    def note(self, words: str, count: int, first: str = "") -> None:
        """Add to a count that drops nothing: several parts of the rows share one report."""
        self.notes[words] = self.notes.get(words, 0) + count
        if first:
            self.first_of_note.setdefault(words, " ".join(first.split()))

    def table(self) -> str:
        """An aligned table for the screen: one line for each reason, in the order the reasons are checked."""
        rows_read = max(self.rows_read, 1)
        read = f"{self.rows_read:,} row{'s' if self.rows_read != 1 else ''} read"
        lines = [f"{self.name}: {read}, {self.kept:,} kept ({self.kept / rows_read:.1%})"]
        if self.dropped:
            rows = [(*row, first_row(where, excerpt)) for *row, where, excerpt in dropped_rows(self.to_dict())]
            lines += align(rows, words=(0, 3))
        for note, count in self.notes.items():
            first = self.first_of_note.get(note)
            lines.append(f"  {note}: {count:,}" + (f"  (first: {first})" if first else ""))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The report for a manifest: plain dicts, strings and numbers."""
        content = asdict(self)
        if not self.tokens:  # nothing was tokenised
            content = {name: value for name, value in content.items() if name not in OF_TOKENS}
        return {**content, "kept": self.kept, "share_dropped": self.share_dropped}


def first_row(where: str, excerpt: str) -> str:
    """Where a row stands and how it begins, on one line of a table."""
    return f"{where}  {' '.join(excerpt.split())[:TABLE_EXCERPT]}".rstrip()


def dropped_rows(report: Mapping) -> Rows:
    """A table of why rows were dropped, in the order the reasons are checked, with the first row of each.

    Args:
        report: as `DataReport.to_dict` has it.
    """
    rows: Rows = [("dropped because", "rows", "share", "first row", "which reads")]
    for reason in DropReason:
        if dropped := report["dropped"].get(reason.value):
            share = f"{dropped['count'] / report['rows_read']:.2%}"
            first = dropped["first_where"], dropped["first_excerpt"]
            rows.append((reason.words, f"{dropped['count']:,}", share, *first))
    return rows


def report_rows(name: str, rows: "Dataset") -> DataReport:
    """Count the reasons of standard rows (see `data.preferences.load_preference_dataset`), on their Arrow columns."""
    report = DataReport(name, len(rows))
    if not len(rows):
        return report
    reasons = rows.select_columns(["reason"]).with_format("arrow")[:]["reason"]
    counts = {entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(reasons)}
    for reason in DropReason:
        if count := counts.get(reason.value, 0):
            first = rows[pc.index(reasons, pa.scalar(reason.value, reasons.type)).as_py()]
            report.add(reason, count, first["where"], first["excerpt"])
    return report
