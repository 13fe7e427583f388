"""What sequences of tokens begin with alike."""

from collections.abc import Sequence


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences begin with; every sequence keeps at least its last token to itself."""
    smallest, largest = min(sequences, default=[]), max(sequences, default=[])
    limit = min((len(sequence) - 1 for sequence in sequences), default=0)
    return next((place for place in range(limit) if smallest[place] != largest[place]), limit)
