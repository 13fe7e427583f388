"""Rows of ratings of several sources as one table, with the attributes of all of them.

table = RatedTable([("helpsteer", helpsteer), ("ultrafeedback", ultrafeedback)])
table.attributes, table.values       # names, (answers, attributes): NaN where a source has not the attribute
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reward_modeling.preference_sets.pair_table import RowTable, bytes_of_texts
from reward_modeling.preference_sets.ratings import SourceRatings

RATING = "rating of "  # before the name of an attribute among the columns of `take`


class RatedTable(RowTable):
    """The answers of one or more sources."""

    columns = ("prompt", "response", "template_options", "source", "where", "prompt_key", "answer_key", "text_key")

    def __init__(self, parts: Sequence[tuple[str, SourceRatings]]) -> None:
        super().__init__([(name, ratings.rows) for name, ratings in parts])
        self.attributes = tuple(dict.fromkeys(name for _, ratings in parts for name in ratings.attributes))
        self.values: NDArray[np.float64] = np.full((len(self), len(self.attributes)), np.nan)
        for part, (_, ratings) in enumerate(parts):
            here = [self.attributes.index(name) for name in ratings.attributes]
            self.values[np.ix_(self.parts == part, here)] = ratings.values

    def take(self, numbers: NDArray[np.integer]) -> pa.RecordBatch:
        """All columns of these rows, in this order, and `RATING` + each attribute, null where not rated."""
        rows = super().take(numbers)
        for name, column in zip(self.attributes, self.values[numbers].T, strict=True):
            rows = rows.append_column(f"{RATING}{name}", pa.array(column, pa.float64(), from_pandas=True))
        return rows

    def _bytes_of_batch(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        return bytes_of_texts(batch, ("prompt", "response"))
