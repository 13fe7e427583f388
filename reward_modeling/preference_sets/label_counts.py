"""How many rows say more than that one answer is better: lists, ties, probabilities, strengths, weights."""

from collections.abc import Mapping

import pyarrow.compute as pc

from reward_modeling.data.labels import TIE
from reward_modeling.data.row_notes import KeptColumn

LABEL_WORDS = {
    "lists": "lists of ranked answers",
    "answers_in_lists": "answers in lists",
    "ties": "ties",
    "soft_labels": "rows with a chosen_probability between 0.5 and 1",
    "strengths": "rows with a strength",
    "weights": "rows with a weight",
}


def label_counts(column: KeptColumn) -> dict[str, int]:
    """The rows with each kind of label, in the order of `LABEL_WORDS`; a kind that no row has is left out.

    A list is one row. A tie is a pair; equal ranks in a list are not counted.

    Args:
        column: from the name of a standard column to its values in the rows that are meant.
    """
    lengths, probability = pc.list_value_length(column("answers")), column("chosen_probability")
    found = {
        "lists": pc.greater(lengths, 0),
        "answers_in_lists": lengths,
        "ties": pc.equal(probability, TIE),
        "soft_labels": pc.and_(pc.greater(probability, TIE), pc.less(probability, 1.0)),
        "strengths": pc.is_valid(column("strength")),
        "weights": pc.is_valid(column("weight")),
    }
    counts = {name: pc.sum(values).as_py() or 0 for name, values in found.items()}
    return {name: number for name, number in counts.items() if number}


def in_words(counts: Mapping[str, int]) -> str:
    """The counts on one line."""
    return ", ".join(f"{number:,} {LABEL_WORDS[name]}" for name, number in counts.items())
