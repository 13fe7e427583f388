"""What rows say of two answers each, so that it can be seen which say the same, and which the opposite.

    said = read_comparisons(table)
    said.group, said.says      # (comparisons,): which two answers to a prompt, and which of them is better

A pair is one comparison. A list of ranked answers is one of every two of its answers, a comparison of equal ranks being
a tie. So a pair meets the list that has its two answers, and both meet what another source says of them.

A pair of `chosen_probability` 0.5 is a tie, whichever of its answers is called chosen. Beyond that, how sure or how
strong a preference is makes no difference: a pair that is turned round together with its probability says the same,
and the reader has turned it back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.data.labels import TIE
from reward_modeling.preference_sets.pair_table import PairTable

SECOND, FIRST, EQUAL, LISTED = range(4)
"""Of two answers in the order of their bytes, which is better; `LISTED` stands for a whole list."""


@dataclass(frozen=True)
class Comparisons:
    """What the rows of a table say."""

    digests: NDArray[np.uint64]
    """`(rows, 2)`: 128 bits of a prompt, what goes to its template included, with two answers in the order of their
    bytes, or with a list's answers and ranks. Among a million rows two different ones agree by chance with a
    probability of 1e-27."""
    kinds: NDArray[np.uint8]
    """`(rows,)`: what a pair says of its two answers, or `LISTED`."""
    written: NDArray[np.uint64]
    """`(rows,)`: differs where the same is written in another order, a tie turned round or a list shuffled."""
    row: NDArray[np.int64]
    """`(comparisons,)`, not decreasing: which row says it. A list that shares its prompt with no other row has none,
    since there is nothing that could say the same or the opposite."""
    group: NDArray[np.int64]
    """`(comparisons,)`: the same number for the same prompt and the same two answers."""
    says: NDArray[np.uint8]
    """`(comparisons,)`: `FIRST` or `SECOND` is better, or they are `EQUAL`."""

    @property
    def row_keys(self) -> NDArray[np.int64]:
        """64 bits that say what a row is, `(rows,)`: what is drawn depends on them and a seed alone."""
        return (self.digests[:, 0] ^ (self.digests[:, 1] << np.uint64(1)) ^ self.kinds.astype(np.uint64)).view(np.int64)


def read_comparisons(table: PairTable) -> Comparisons:
    """Read the texts of a table once."""
    digests = np.empty((len(table), 2), dtype=np.uint64)
    kinds, written = np.empty(len(table), dtype=np.uint8), np.empty(len(table), dtype=np.uint64)
    shared = _has_company(table)
    of_lists: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint8]]] = []
    for numbers, batch in table.in_disk_order():
        is_list = pc.greater(pc.list_value_length(batch.column("answers")), 0).to_numpy(zero_copy_only=False)
        for mask, read in ((~is_list, _read_pairs), (is_list, _read_lists)):
            if mask.any():
                digests[numbers[mask]], kinds[numbers[mask]], written[numbers[mask]] = read(batch.filter(mask))
        expanded = is_list & shared[numbers]
        for number, row in zip(numbers[expanded], _list_rows(batch.filter(pa.array(expanded))), strict=True):
            found, says = _comparisons_of_list(*row)
            of_lists.append((np.full(len(says), number), found, says))
    pairs = np.flatnonzero(kinds != LISTED)
    whole = [(pairs, digests[pairs], kinds[pairs]), *of_lists]
    row, found, says = (np.concatenate(parts) for parts in zip(*whole, strict=True))
    order = np.argsort(row, kind="stable")
    return Comparisons(digests, kinds, written, row[order], _numbered(found)[order], says[order])


def _has_company(table: PairTable) -> NDArray[np.bool_]:
    """Rows whose prompt another row may have, `(rows,)`. The keys of plain texts do not tell."""
    _, inverse, counts = np.unique(table.numbers("prompt_key"), return_inverse=True, return_counts=True)
    return (counts[inverse] > 1) | table.column("is_text").to_numpy()


def _read_pairs(rows: pa.RecordBatch) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64]]:
    """What `Comparisons` has of each pair: digests, kinds, and how it is written."""
    prompts, chosen, rejected = _bytes_of(rows, "prompt"), _bytes_of(rows, "chosen"), _bytes_of(rows, "rejected")
    options = _bytes_of(rows, "template_options")
    texts = zip(prompts, options, chosen, rejected, strict=True)
    digests = _digests([(prompt + given, *sorted((one, other))) for prompt, given, one, other in texts])
    is_first = np.array([one < other for one, other in zip(chosen, rejected, strict=True)], dtype=np.uint8)
    is_tie = pc.fill_null(pc.equal(rows.column("chosen_probability"), TIE), False).to_numpy(zero_copy_only=False)
    return digests, np.where(is_tie, EQUAL, is_first).astype(np.uint8), is_first.astype(np.uint64)


def _read_lists(rows: pa.RecordBatch) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64]]:
    """The same of each list."""
    found = list(_list_rows(rows))
    digests = _digests([(prompt, *(b"%d %b" % (rank, answer) for answer, rank in said)) for prompt, said in found])
    written = _digests([tuple(text.encode() for text in texts) for texts in rows.column("answers").to_pylist()])
    return digests, np.full(len(rows), LISTED, dtype=np.uint8), written[:, 0]


def _list_rows(rows: pa.RecordBatch) -> Iterator[tuple[bytes, list[tuple[bytes, int]]]]:
    """Of each list its prompt, with what goes to the template, and its answers with their ranks, in their order."""
    columns = (_bytes_of(rows, "prompt"), _bytes_of(rows, "template_options"))
    lists = (rows.column(name).to_pylist() for name in ("answers", "ranks"))
    for prompt, given, answers, ranks in zip(*columns, *lists, strict=True):
        yield prompt + given, sorted(zip((answer.encode() for answer in answers), ranks, strict=True))


def _comparisons_of_list(prompt: bytes, said: list[tuple[bytes, int]]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Digests and what is said, of every two answers of a list."""
    two = list(combinations(said, 2))
    digests = _digests([(prompt, one, other) for (one, _), (other, _) in two])
    says = [EQUAL if rank == its_rank else FIRST if rank < its_rank else SECOND for (_, rank), (_, its_rank) in two]
    return digests, np.array(says, dtype=np.uint8)


def _bytes_of(rows: pa.RecordBatch, name: str) -> list[bytes]:
    return pc.cast(rows.column(name), pa.binary()).to_pylist()


def _digests(texts: list[tuple[bytes, ...]]) -> NDArray[np.uint64]:
    """128 bits of some texts each, `(texts, 2)`."""
    found = [blake2b(b"\0".join(parts), digest_size=16).digest() for parts in texts]
    return np.frombuffer(b"".join(found), dtype="<u8").reshape(-1, 2)


def _numbered(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A number for each digest of 128 bits: equal for equal ones."""
    digests = np.ascontiguousarray(digests)
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(digests)])
    return values.dictionary_encode().indices.to_numpy().astype(np.int64)
