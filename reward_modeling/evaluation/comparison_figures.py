"""What is particular to a model that compares two answers: each order alone, and whether its verdicts agree.

    part["comparisons"] = figures_of_comparisons(rows, triples)      # beside the figures that every model has
    lines = lines_of_comparisons(part["comparisons"])

A row with several right or wrong answers counts with every pair of a right and a wrong one.
"""

from collections.abc import Mapping

import numpy as np

from reward_modeling.common.pair_probabilities import accuracy_of_orders, flip_figures, sigmoid
from reward_modeling.display.text import Rows as TextRows
from reward_modeling.display.text import accuracy_rows, count, interval, percent, share
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, prompts_of
from reward_modeling.evaluation.triples import Triples

# The lines of the record, and what of the figures stands there.
RECORDED = {"chosen-first": ("by_order", "chosen first"), "rejected-first": ("by_order", "rejected first")}
RECORDED |= {"flips": ("flips",), "intransitive": ("triples",)}


def figures_of_comparisons(rows: Rows, triples: Triples | None) -> dict | None:
    """
    Args:
        rows: those that were scored.

    Returns:
        `pairs`, how many were compared, and of them `ties`, those whose mean probability is exactly one half;
        `by_order`, the accuracy of each order alone, where a tie is half right; `flips`, the share of verdicts that
        change with the order, `always_first` and `always_second`; `first_probability`, the mean probability of the
        answer that stands first; `triples`, the share of intransitive ones. None where nothing was compared.
    """
    compared = [row for row in rows if row.logits is not None and not row.is_labelled_tie]
    if not compared:
        return None
    first, second, prompts = [], [], []
    for row, prompt in zip(compared, prompts_of(compared), strict=True):
        right = len(row.chosen)
        first.append(row.logits[:right, right:].ravel())
        second.append(row.logits[right:, :right].T.ravel())
        prompts.append(np.full(len(first[-1]), prompt))
    outputs, numbers = (np.concatenate(first), np.concatenate(second)), np.concatenate(prompts)
    in_front = np.concatenate(outputs)
    figures = {
        "pairs": len(numbers),
        "ties": int((outputs[0] == outputs[1]).sum()),
        "by_order": accuracy_of_orders(*outputs, numbers),
        **flip_figures(*outputs, numbers),
        "first_probability": float(sigmoid(in_front).mean()),
    }
    return figures if triples is None else figures | {"triples": triples.figures()}


def lines_of_comparisons(figures: Mapping) -> list[str]:
    """In sentences, for the screen and for the page."""
    orders = (f"{name} {share(row)} right ({interval(row)})" for name, row in figures["by_order"].items())
    flips, first, second = (figures[name] for name in ("flips", "always_first", "always_second"))
    lines = [
        f"compared in both orders, of which the mean probability decides: {count(figures['pairs'])} pairs of a right "
        f"and a wrong answer, {count(figures['ties'])} at exactly one half; margins are its log odds",
        f"each order alone: {', '.join(orders)}",
        f"verdicts that flip with the order: {share(flips)} ({interval(flips)}); always the first answer "
        f"{share(first)}, always the second {share(second)}; mean probability of the answer that stands first "
        f"{percent(figures['first_probability'])}%",
    ]
    if triples := figures.get("triples"):
        lines.append(
            f"intransitive: {share(triples)} ({interval(triples)}) of {count(triples['rows'])} triples of answers to "
            f"{count(triples['prompts'])} prompts"
        )
    if escaped := figures.get("escaped"):
        lines.append(f"{count(escaped)} texts hold a mark of the comparison, which is written in another way there")
    return lines


def tables_of_comparisons(figures: Mapping) -> list[tuple[str, TextRows]]:
    """Every share of the figures."""
    rows = {**figures["by_order"], "verdicts that flip": figures["flips"]}
    rows |= {"always the first answer": figures["always_first"], "always the second": figures["always_second"]}
    rows |= {"intransitive triples": figures["triples"]} if "triples" in figures else {}
    return [("Both orders", accuracy_rows(rows))]


def record_lines_of_comparisons(name: str, figures: Mapping) -> list[tuple[str, Mapping]]:
    """rewardbench/chosen-first, and so on."""
    lines = []
    for line, path in RECORDED.items():
        row: Mapping | None = figures
        for key in path:
            row = row.get(key) if row is not None else None
        if row is not None:
            lines.append((f"{name}/{line}", row))
    return lines
