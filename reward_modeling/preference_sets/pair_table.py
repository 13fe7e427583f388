"""Rows of several sources as one table: numbers of each row in memory, texts on disk until they are asked for.

A row of a `PairTable` is a pair, or a list of ranked answers: one record, whatever the number of pairs that it stands
for. Another kind of rows has a table of its own (`rated_table.py`).

    table = PairTable([("shp", shp.rows), ("hh_rlhf", hh_rlhf.rows)])
    table.numbers("prompt_key")      # (pairs,), the pairs of shp first
    table.take(numbers)              # the texts of some pairs, in this order

`datasets` reads the rows of a selection one by one; here they are taken out of each of Arrow's batches at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.data.labels import LABELS

TEXTS = ("prompt", "chosen", "rejected")
NUMBERS = ("chosen_score", "rejected_score", "margin", *LABELS)
COLUMNS = (*TEXTS, "answers", "ranks", "template_options", "source", *NUMBERS, "is_text", "where", "prompt_key")


class RowTable(ABC):
    """The kept rows of one or more data sets that have these columns."""

    columns: ClassVar[tuple[str, ...]]

    def __init__(self, parts: Sequence[tuple[str, Dataset]]) -> None:
        """
        Args:
            parts: a name, which stands for the source of a row that names none, and rows.
        """
        self._batches: list[pa.RecordBatch] = []
        self._schema = pa.schema([])  # of rows that have no batch too
        places, numbers, start = [], [], 0
        for number, (name, rows) in enumerate(parts):
            of_part = rows.data.select(list(self.columns)).to_batches()
            self._schema = rows.data.schema
            for batch in of_part:  # with a source in every row
                filled = pc.fill_null(batch.column("source"), name)
                self._batches.append(batch.set_column(self.columns.index("source"), "source", filled))
            chosen = np.arange(len(rows)) if rows._indices is None else rows._indices.column(0).to_numpy()
            places.append(start + chosen.astype(np.int64))  # of datasets they are uint64
            numbers.append(np.full(len(rows), number))
            start += sum(len(batch) for batch in of_part)
        self._starts = np.cumsum([0, *map(len, self._batches)])
        # Where each row stands among all rows of all batches; int64 also where there is none.
        self._places = np.concatenate([np.empty(0, np.int64), *places])
        self.parts: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *numbers])
        """Which part each row comes from, `(rows,)`."""

    def __len__(self) -> int:
        return len(self._places)

    def numbers(self, name: str) -> NDArray:
        """A column of numbers, `(rows,)`; NaN where one is missing."""
        return self.column(name).to_numpy()

    def column(self, name: str) -> pa.ChunkedArray:
        """A column that is no text of the rows: it is read as a whole."""
        kind = self._schema.field(name).type if len(self._schema) else pa.null()
        return pa.chunked_array([batch.column(name) for batch in self._batches], kind).take(pa.array(self._places))

    def bytes_of_rows(self) -> NDArray[np.int64]:
        """How long each row's texts are, `(rows,)`."""
        lengths = np.zeros(self._starts[-1], dtype=np.int64)
        for start, batch in zip(self._starts, self._batches, strict=False):
            lengths[start : start + len(batch)] = self._bytes_of_batch(batch)
        return lengths[self._places]

    @abstractmethod
    def _bytes_of_batch(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """How long the texts of each row of a batch are, `(rows,)`."""

    def take(self, numbers: NDArray[np.integer]) -> pa.RecordBatch:
        """All columns of these rows, in this order."""
        order = np.argsort(self._places[numbers], kind="stable")
        found = [batch for _, batch in self._by_batch(numbers[order])]
        return pa.concat_batches(found).take(pa.array(np.argsort(order)))

    def in_disk_order(self) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """Every row once, in batches: their numbers and what stands in them."""
        yield from self._by_batch(np.argsort(self._places, kind="stable"))

    def _by_batch(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        places = self._places[numbers]
        which = np.searchsorted(self._starts, places, side="right") - 1
        cuts = np.flatnonzero(np.diff(which)) + 1
        for numbers_here, places_here in zip(np.split(numbers, cuts), np.split(places, cuts), strict=True):
            if len(places_here):
                number = np.searchsorted(self._starts, places_here[0], side="right") - 1
                yield numbers_here, self._batches[number].take(pa.array(places_here - self._starts[number]))


class PairTable(RowTable):
    """The kept rows of one or more data sets of `STANDARD_FEATURES`."""

    columns = COLUMNS

    def _bytes_of_batch(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """Of a pair with the prompt in both of its conversations."""
        return bytes_of_texts(batch, ("prompt", *TEXTS)) + _bytes_of_lists(batch.column("answers"))


def bytes_of_texts(batch: pa.RecordBatch, names: Sequence[str]) -> NDArray[np.int64]:
    """How long the texts of each row are together, `(rows,)`."""
    return sum((pc.binary_length(batch.column(name)).to_numpy() for name in names), np.zeros(len(batch), np.int64))


def _bytes_of_lists(lists: pa.ListArray) -> NDArray[np.int64]:
    """How long the texts of each list are together, `(lists,)`."""
    ends = np.cumsum([0, *pc.list_value_length(lists).to_numpy()])
    totals = np.cumsum([0, *pc.binary_length(lists.flatten()).to_numpy()])
    return np.diff(totals[ends])
