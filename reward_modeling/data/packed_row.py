"""One packed row of tokens, as it is put together prompt by prompt: spans, positions, and the places that are read."""

from collections.abc import Sequence

from reward_modeling.data.shared_beginnings import segments
from reward_modeling.models.packed_layout import PackedLayout, Span


class PackedRow:
    """Grows by `add`. A conversation has the positions that it has in a row of its own."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.position_ids: list[int] = []
        self.places: list[list[int]] = []  # per completion, the places of what is read of it
        self.completion_spans: list[int] = []
        self._spans: list[Span] = []
        self._parents: list[int | None] = []

    def add(
        self,
        prefix: Sequence[int],
        completions: Sequence[Sequence[int]],
        reads: Sequence[Sequence[int]],
        shared: Sequence[int],
    ) -> None:
        """A prompt and completions of it.

        Args:
            reads: per completion, which of its tokens are read, counted from the beginning of the prefix.
            shared: per completion, the tokens that it begins with as the one before it does; see shared_beginnings.py.
        """
        root = self._add_span(prefix, 0, None) if prefix else None
        tree, last_of = segments(list(map(len, completions)), shared)
        numbers: list[int] = []  # the spans of these segments
        for segment in tree:
            ids = completions[segment.completion][segment.start : segment.end]
            parent = root if segment.parent is None else numbers[segment.parent]
            numbers.append(self._add_span(ids, len(prefix) + segment.start, parent))
        for last, positions in zip(last_of, reads, strict=True):
            self.completion_spans.append(numbers[last])
            self.places.append([self._place(numbers[last], position) for position in positions])

    def _add_span(self, ids: Sequence[int], first_position: int, parent: int | None) -> int:
        start = len(self.tokens)
        before = (0, 0) if parent is None else self._spans[parent][:2]
        self._spans.append(Span(start, start + len(ids), *before))
        self._parents.append(parent)
        self.tokens.extend(ids)
        self.position_ids.extend(range(first_position, first_position + len(ids)))
        return len(self._spans) - 1

    def _place(self, number: int, position: int) -> int:
        """Where in the row a position of a conversation stands that ends in this span."""
        while position < self.position_ids[self._spans[number].start]:
            number = self._parents[number]
        start = self._spans[number].start
        return start + position - self.position_ids[start]

    def layout(self, read_positions: Sequence[int]) -> PackedLayout:
        return PackedLayout(tuple(self._spans), tuple(self.completion_spans), tuple(read_positions))
