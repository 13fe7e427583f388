"""How a packed row is cut into spans: what its queries see, and at which tokens it is read."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from reward_modeling.common.devices import to_device


class Span(NamedTuple):
    """Queries `start:end` of the row, after the keys `prefix_start:prefix_end` (empty for a span of its own).

    The prefix is a span too, and may have a prefix itself: the queries see the keys of all of them.
    """

    start: int
    end: int
    prefix_start: int
    prefix_end: int

    @property
    def num_queries(self) -> int:
        return self.end - self.start


@dataclass(eq=False)
class PackedLayout:
    """How one packed row is cut. The spans cover the row in order; a prefix is itself one of the spans.

    `completion_spans` are the numbers of the spans that end a conversation. `read_positions` are the tokens of the row
    whose hidden states the head reads, in any span and in any order. `last_layer` and `read_tokens` are set by the
    model, for a layout whose other tokens may be left out of the last layer. `kernel` takes the place of the device's
    own attention.
    """

    spans: tuple[Span, ...]
    completion_spans: tuple[int, ...] = ()
    read_positions: tuple[int, ...] = ()
    last_layer: int | None = None
    read_tokens: "ReadTokens | None" = None
    kernel: Callable | None = None
    _cache: dict = field(default_factory=dict, repr=False)

    def read_index(self, device: torch.device) -> torch.Tensor:
        """`(reads,)`: `read_positions` on the device."""
        if ("reads", device) not in self._cache:
            self._cache["reads", device] = to_device(torch.tensor(self.read_positions), device)
        return self._cache["reads", device]

    @cached_property
    def span_of_read(self) -> list[int]:
        """Per read position the number of the span that it stands in."""
        starts = [span.start for span in self.spans]
        return [bisect_right(starts, position) - 1 for position in self.read_positions]

    @cached_property
    def read_spans(self) -> tuple[Span, ...]:
        """Per read position its span, cut behind it: what a query at this position sees."""
        pairs = zip(self.read_positions, self.span_of_read, strict=True)
        return tuple(self.spans[number]._replace(end=position + 1) for position, number in pairs)

    @cached_property
    def span_lengths(self) -> list[int]:
        return [span.num_queries for span in self.spans]

    @cached_property
    def prefix_spans(self) -> list[list[int]]:
        """Per span the numbers of the spans that it follows, the first of the conversation first; [] for none."""
        index_of = {(span.start, span.end): index for index, span in enumerate(self.spans)}
        before: list[list[int]] = []
        for span in self.spans:  # a prefix stands before what follows it
            prefix = index_of[span.prefix_start, span.prefix_end] if span.prefix_start < span.prefix_end else None
            before.append([] if prefix is None else [*before[prefix], prefix])
        return before

    def places_seen(self, read: int) -> list[int]:
        """The places in the row of what the token at a read position sees, in the order of its conversation."""
        span = self.read_spans[read]
        before = [self.spans[number] for number in self.prefix_spans[self.span_of_read[read]]]
        return [place for each in (*before, span) for place in range(each.start, each.end)]

    def causal_mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """`(queries, keys)`, True where a query sees a key; None where plain causality says the same.

        The last query stands at the last key (aligned to the bottom right); `window` counts the keys that a
        query sees, itself included, as transformers' `sliding_window` does.
        """
        if window is not None and window >= keys:
            window = None
        if window is None and queries == keys:
            return None
        cache_key = (queries, keys, window, device)
        if cache_key not in self._cache:
            query_positions = torch.arange(keys - queries, keys, device=device)[:, None]
            key_positions = torch.arange(keys, device=device)[None, :]
            visible = key_positions <= query_positions
            if window is not None:
                visible &= key_positions > query_positions - window
            self._cache[cache_key] = visible
        return self._cache[cache_key]

    def variable_length(self, device: torch.device, reads_only: bool = False) -> "VariableLength":
        """The same layout as one call of a variable-length kernel wants it."""
        if ("variable_length", device, reads_only) not in self._cache:
            self._cache["variable_length", device, reads_only] = self._variable_length(device, reads_only)
        return self._cache["variable_length", device, reads_only]

    def _variable_length(self, device: torch.device, reads_only: bool) -> "VariableLength":
        """With numpy, and one copy per tensor: a row of short answers has hundreds of spans."""
        spans = self.read_spans if reads_only else self.spans
        numbers = self.span_of_read if reads_only else range(len(spans))
        # each span's keys are pieces of the row: what it follows, and its own
        pieces = [
            (self.spans[before].start, self.spans[before].num_queries)
            for number in numbers
            for before in self.prefix_spans[number]
        ]
        own_starts, own_lengths = np.array([(span.start, span.num_queries) for span in spans]).T
        counts = np.array([len(self.prefix_spans[number]) for number in numbers])
        before_starts, before_lengths = np.array(pieces, dtype=np.int64).reshape(-1, 2).T
        own_places = np.cumsum(counts)  # where among the pieces before them the own ones stand
        piece_starts = np.insert(before_starts, own_places, own_starts)
        piece_lengths = np.insert(before_lengths, own_places, own_lengths)
        ends_of_keys = np.cumsum(piece_lengths)[own_places + np.arange(len(spans))]
        lengths = (np.ones_like(own_lengths) if reads_only else own_lengths, np.diff(ends_of_keys, prepend=0))
        key_index = None
        if reads_only or counts.any():
            # within a piece the positions count up by one
            shifts = piece_starts - (np.cumsum(piece_lengths) - piece_lengths)
            key_index = np.arange(piece_lengths.sum()) + np.repeat(shifts, piece_lengths)
            key_index = to_device(torch.from_numpy(key_index), device)
        offsets = (torch.from_numpy(np.cumsum([0, *of], dtype=np.int32)) for of in lengths)
        return VariableLength(key_index, *(to_device(of, device) for of in offsets), *(int(of.max()) for of in lengths))


@dataclass(eq=False)
class ReadTokens:
    """Where the head reads, from the last layer's attention to its feed-forward part and no further.

    The attention sets `positions` each time it runs, in a recomputation too, so that it never belongs to another
    batch than the one that the layer is computing.
    """

    positions: torch.Tensor | None = None
    in_feed_forward: torch.Tensor | None = None
    row_length: int = 0


@dataclass(eq=False)
class VariableLength:
    """Queries in the row's own order; keys gathered as [prefix; span] for every span."""

    key_index: torch.Tensor | None  # (keys,) positions in the row, None where that is the identity
    cu_seqlens_q: torch.Tensor  # (spans + 1,) int32
    cu_seqlens_k: torch.Tensor  # (spans + 1,) int32
    max_length_q: int
    max_length_k: int

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """As every kernel takes them after query, key and value."""
        return self.cu_seqlens_q, self.cu_seqlens_k, self.max_length_q, self.max_length_k
