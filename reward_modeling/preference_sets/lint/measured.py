"""The numbers of a preference set's kept rows, column by column, as numpy arrays."""

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.data.keys import mix_keys
from reward_modeling.data.preferences import kept_rows, read_column


class Measured:
    """The columns of the kept rows."""

    def __init__(self, rows: Dataset, measures: Dataset):
        self.rows, self._measures = rows, measures
        self.kept = kept_rows(rows)
        """`(pairs,)` row numbers."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, name: str) -> NDArray:
        """`(pairs,)` of a measure, or of a number of the rows themselves (NaN where a row has none)."""
        table = self._measures if name in self._measures.column_names else self.rows
        return read_column(table, name).to_numpy()[self.kept]

    def added(self, side: str, names: tuple[str, ...]) -> NDArray:
        return sum(self[f"{side}_{name}"] for name in names)

    def first(self, mask: NDArray[np.bool_]) -> str | None:
        """Where the first pair stands that `mask` has."""
        return self.rows[int(self.kept[np.argmax(mask)])]["where"] if mask.any() else None

    def sample(self, count: int, seed: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """`count` row numbers drawn at random: by what the pairs say, whatever their order."""
        mix = self["rejected_key"]
        for name in ("chosen_key", "prompt_key"):
            mix = self[name] ^ mix_keys(mix, seed).view(np.int64)
        numbers = mix_keys(mix, seed)
        places = np.arange(len(self)) if among is None else np.flatnonzero(among)
        return self.kept[places[np.argsort(numbers[places], kind="stable")[:count]]]
