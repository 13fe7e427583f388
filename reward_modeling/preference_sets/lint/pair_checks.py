"""What the linter finds in a preference set, from numbers alone: no texts, no files, no printing.

    graph = preference_graph(prompt_keys, chosen_keys, rejected_keys)   # (pairs,) int64 each
    graph.contradicted.sum(), graph.in_cycle.sum()
    rule = single_rule(chosen_lengths, rejected_lengths)                # a judge who looks at one number

Texts are compared by 64-bit keys. Of two million distinct replies the odds that any two share a key are one in ten
million, and to be taken for one reply they would also have to stand under one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import share_right

QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
TRIMMING_ROUNDS = 30


def distribution(values: ArrayLike) -> dict[str, float | int | None]:
    """Rows, mean, extremes and `QUANTILES`, which are values that occur (the lower one between two)."""
    values = np.asarray(values)
    if not len(values):
        return {"rows": 0, "mean": None, "min": None, **dict.fromkeys(QUANTILES), "max": None}
    quantiles = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf").tolist()
    return {
        "rows": len(values),
        "mean": float(values.mean()),
        "min": values.min().item(),
        **dict(zip(QUANTILES, quantiles, strict=True)),
        "max": values.max().item(),
    }


def length_histogram(columns: Sequence[NDArray]) -> dict[str, list]:
    """Counts of each column in the same bins, four to a doubling, from the shortest to the longest of all."""
    longest = max((int(column.max()) for column in columns if len(column)), default=0)
    steps = np.unique(np.round(2 ** np.arange(0, np.log2(longest + 1) + 0.5, 0.25)).astype(np.int64))
    edges = np.concatenate([[0], steps[steps <= longest], [longest + 1]])
    counts = [np.histogram(column, bins=edges)[0] for column in columns]
    used = np.flatnonzero(np.sum(counts, axis=0))
    first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
    return {"edges": edges[first : last + 1].tolist(), "counts": [count[first:last].tolist() for count in counts]}


def counted(values: ArrayLike, upper_bounds: Sequence[int]) -> dict[str, int]:
    """How many values lie in 1 to the first bound, above it to the second, and so on; the last group is open.

    >>> counted([1, 1, 2, 5, 9], (1, 3))
    {'1': 2, '2-3': 1, '4+': 2}
    """
    bounds = [0, *upper_bounds]
    names = [str(high) if high == low + 1 else f"{low + 1}-{high}" for low, high in pairwise(bounds)]
    groups = np.searchsorted(upper_bounds, np.asarray(values), side="left")
    counts = np.bincount(groups, minlength=len(bounds)).tolist()
    return dict(zip([*names, f"{bounds[-1] + 1}+"], counts, strict=True))


# --- rules ----------------------------------------------------------------------------------------------------


def single_rule(chosen: ArrayLike, rejected: ArrayLike) -> dict[str, object]:
    """A judge who looks at one number of the two replies, and tosses a coin where it is equal.

    The intervals take pairs as independent; where prompts have many pairs the true ones are wider.

    Args:
        chosen, rejected: `(pairs,)` of some number of the replies.

    Returns:
        greater_preferred: of the pairs whose numbers differ, how often the greater one is preferred.
        accuracy: of all pairs, the judge taking whichever of the greater and the smaller is preferred more often.
        takes: greater or smaller.
    """
    chosen, rejected = np.asarray(chosen), np.asarray(rejected)
    greater, smaller = int((chosen > rejected).sum()), int((chosen < rejected).sum())
    ties = len(chosen) - greater - smaller
    return {
        "greater_preferred": share_right(greater, greater + smaller),
        "accuracy": share_right(max(greater, smaller) + ties / 2, len(chosen), ties),
        "takes": "greater" if greater >= smaller else "smaller",
    }


# --- preferences as a graph -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreferenceGraph:
    """Who is preferred to whom: replies are nodes (a reply under two prompts is two), pairs are edges; ties are none.

    The arrays are `(pairs,)`, in the order of the pairs.
    """

    repeated: NDArray[np.bool_]
    """The same pair stands there before."""
    same_reply: NDArray[np.bool_]
    """Both replies are the same."""
    contradicted: NDArray[np.bool_]
    """The opposite pair is there too."""
    in_cycle: NDArray[np.bool_]
    """Part of a strongly connected component with a circle of three or more replies: each of its replies is preferred
    to each other along some path."""
    contradictions: int
    """Pairs of replies preferred both ways, each counted once however often it stands there."""
    components: tuple[int, ...]
    """How many replies each such component has, largest first."""
    replies_of_prompt: NDArray[np.int64]
    """`(replies,)`: in how many prompts the reply of a node stands."""
    better: NDArray[np.int64]
    worse: NDArray[np.int64]


def preference_graph(
    prompts: NDArray[np.int64],
    chosen: NDArray[np.int64],
    rejected: NDArray[np.int64],
    is_tie: NDArray[np.bool_] | None = None,
    lists: NDArray[np.int64] | None = None,
) -> PreferenceGraph:
    """The graph of all pairs, in time n log n: see `PreferenceGraph`.

    Args:
        prompts, chosen, rejected: `(pairs,)` keys of the texts.
        is_tie: `(pairs,)`; of a tie it does not matter which reply is called chosen.
        lists: `(pairs,)` keys of lists that the pairs are the ends of, 0 of a pair; None: there are no lists. Two of
            them are repeated only as whole lists.
    """
    pairs = len(prompts)
    is_tie = np.zeros(pairs, dtype=bool) if is_tie is None else is_tie
    nodes, reply_counts = _nodes(np.concatenate([prompts, prompts]), np.concatenate([chosen, rejected]))
    better, worse = nodes[:pairs], nodes[pairs:]
    count = np.int64(len(reply_counts))
    repeated = _repeated(better, worse, is_tie, np.zeros(pairs, dtype=np.int64) if lists is None else lists)
    edges, inverse = np.unique((better * count + worse)[~is_tie], return_inverse=True)
    heads, tails = edges // max(count, 1), edges % max(count, 1)
    proper = heads != tails
    both_ways = np.isin(tails * count + heads, edges) & proper
    labels = strong_components(heads[proper], tails[proper], int(count))
    inside = proper & (labels[heads] == labels[tails])
    is_circular, components = _circular_components(heads[inside], both_ways[inside], labels)
    return PreferenceGraph(
        repeated=repeated,
        same_reply=(better == worse),
        contradicted=_of_all(both_ways[inverse], ~is_tie),
        in_cycle=_of_all((inside & is_circular[labels[heads]])[inverse], ~is_tie),
        contradictions=int(both_ways.sum()) // 2,
        components=components,
        replies_of_prompt=reply_counts,
        better=better,
        worse=worse,
    )


def _repeated(better: NDArray, worse: NDArray, is_tie: NDArray[np.bool_], lists: NDArray) -> NDArray[np.bool_]:
    """Pairs that stand there before, `(pairs,)`."""
    ends = np.where(is_tie, np.sort([better, worse], axis=0), [better, worse])
    columns = (lists, is_tie, *ends)
    order = np.lexsort(columns)  # stable: of equal pairs the first stays first
    repeated = np.zeros(len(better), dtype=bool)
    repeated[order[1:]] = np.all([values[order[1:]] == values[order[:-1]] for values in columns], axis=0)
    return repeated


def _of_all(values: NDArray[np.bool_], which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The values of these pairs among all, `(pairs,)`; False of the others."""
    found = np.zeros(len(which), dtype=bool)
    found[which] = values
    return found


def _nodes(prompts: NDArray[np.int64], replies: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each distinct (prompt, reply), from 0; and in how many prompts that reply stands."""
    _, prompts = np.unique(prompts, return_inverse=True)
    texts, replies = np.unique(replies, return_inverse=True)
    nodes, numbers = np.unique(prompts * len(texts) + replies, return_inverse=True)
    reply_of_node = nodes % max(len(texts), 1)
    return numbers, np.bincount(reply_of_node)[reply_of_node]


def _circular_components(
    heads: NDArray, both_ways: NDArray, labels: NDArray
) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Which components have a circle of three or more, by label, and their sizes.

    A strongly connected component of n replies without such a circle is a tree whose every edge goes both ways: it
    links n - 1 pairs of replies. Any more linked pairs close a circle.
    """
    sizes = np.bincount(labels, minlength=1)
    weights = np.where(both_ways, 0.5, 1.0)  # an edge that goes both ways is there twice and links one pair
    linked = np.bincount(labels[heads], weights=weights, minlength=len(sizes))
    is_circular = (sizes >= 3) & (linked > sizes - 0.75)
    return is_circular, tuple(sorted(sizes[is_circular].tolist(), reverse=True))


def strong_components(heads: NDArray[np.int64], tails: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The strongly connected component of each of `count` nodes, as a label; edges go from heads to tails.

    Nodes that nothing enters or nothing leaves are in no circle. Taking them away, some rounds over, leaves next to
    nothing of a consistent set for networkx, which needs some hundred bytes for each edge.
    """
    labels = np.arange(count)
    for _ in range(TRIMMING_ROUNDS):
        alive = (np.bincount(heads, minlength=count) > 0) & (np.bincount(tails, minlength=count) > 0)
        kept = alive[heads] & alive[tails]
        if kept.all():
            break
        heads, tails = heads[kept], tails[kept]
    graph = nx.DiGraph(zip(heads.tolist(), tails.tolist(), strict=True))
    for component in nx.strongly_connected_components(graph):
        labels[list(component)] = min(component)
    return labels
