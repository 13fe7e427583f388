"""Held-out comparisons as text: the line of the log, and the lines and the table of evaluation.json."""

import math
from collections.abc import Mapping

from reward_modeling.display.text import (
    accuracy_rows,
    align,
    count,
    interval,
    number,
    percent,
    points,
    share,
    shorten,
    wrap,
)
from reward_modeling.objectives.held_out_comparisons import METRICS
from reward_modeling.objectives.held_out_pairs import MOST_SHOWN, SOURCE_ACCURACY


def comparison_lines(logs: Mapping[str, float]) -> list[str]:
    """What a person needs of the metrics of an evaluation, as they were logged under "eval_"."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    pairs = f"evaluation of {count(logs['pairs'])} pairs in both orders: loss {number(logs['loss'])}"
    if math.isnan(logs["accuracy"]):
        return [pairs]
    ends = f"{percent(logs['accuracy_low'])}-{percent(logs['accuracy_high'])}"
    orders = f"{percent(logs['accuracy_chosen_first'])}% with the chosen one first"
    orders += f", {percent(logs['accuracy_rejected_first'])}% with the rejected one first"
    lines = [
        f"{pairs}, {percent(logs['accuracy'])}% right ({ends}; the longer answer {percent(logs['longer_wins'])}%), "
        f"{orders}; {percent(logs['flips'])}% of the verdicts flip with the order, calibration error "
        f"{points(logs['calibration_error'])}"
    ]
    sources = {name: logs[name] for name in logs if name.startswith(SOURCE_ACCURACY) and name not in METRICS}
    if sources:
        worst = sorted(sources, key=sources.__getitem__)[:MOST_SHOWN]
        more = f", and {len(sources) - len(worst)} better ones" if len(sources) > len(worst) else ""
        shares = (f"{shorten(name.removeprefix(SOURCE_ACCURACY))} {percent(sources[name])}" for name in worst)
        lines.append(f"by source: {', '.join(shares)}{more}")
    return lines


def accuracy_lines(evaluation: Mapping) -> list[str]:
    """How many pairs are right, in sentences; none where all pairs are ties."""
    accuracy, longer = evaluation["accuracy"], evaluation["longer_wins"]
    if not accuracy["rows"]:
        return []
    equal = f", {count(accuracy['ties'])} at exactly one half count as half right" if accuracy["ties"] else ""
    orders = (f"{name} {share(row)} ({interval(row)})" for name, row in evaluation["by_order"].items())
    groups = (f"{name} {share(row)} ({count(row['rows'])})" for name, row in evaluation["by_length"].items())
    return [
        f"mean of both orders: {share(accuracy)} right ({interval(accuracy)}){equal}",
        f"each order alone: {', '.join(orders)}",
        f"always the longer answer: {share(longer)} right ({interval(longer)})",
        f"by length: {', '.join(groups)}",
    ]


def order_lines(evaluation: Mapping) -> list[str]:
    """What the order of the answers does, ties, and what else there is, in sentences."""
    flips, lines = evaluation["flips"], []
    if flips["rows"]:
        places = f"always the first answer {share(evaluation['always_first'])}"
        places += f", always the second {share(evaluation['always_second'])}"
        none = f"; {count(flips['ties'])} have no verdict in one order" if flips["ties"] else ""
        lines.append(f"verdicts that flip with the order: {share(flips)} ({interval(flips)}); {places}{none}")
    if ties := evaluation.get("label_ties"):
        distance = f"mean distance of the probability from one half {number(ties['mean_distance'])}"
        lines.append(f"ties of the labels, which are not counted there: {count(ties['pairs'])}; {distance}")
    if weighted := evaluation.get("weighted_accuracy"):
        lines.append(f"by the weights of the rows: {share(weighted)} right ({interval(weighted)})")
    if "prompts" in evaluation:
        lines.append(f"the intervals take the pairs of each of {count(evaluation['prompts'])} prompts together")
    first, error = percent(evaluation["first_probability"]), points(evaluation["calibration_error"])
    lines.append(f"mean probability of the answer that stands first: {first}%; calibration error: {error}")
    return lines


def _all_lines(evaluation: Mapping) -> list[str]:
    return [*accuracy_lines(evaluation), *order_lines(evaluation)]


def comparison_table(evaluation: Mapping) -> str:
    """evaluation.json for a screen."""
    lines = wrap(f"Held-out pairs, after step {evaluation['step']} ({evaluation['data']})")
    lines += [line for text in _all_lines(evaluation) for line in wrap(text, indent=2)]
    lines.append(f"  loss: {number(evaluation['loss'])}")
    if len(evaluation["by_source"]) > 1:
        sources = {shorten(name): row for name, row in evaluation["by_source"].items()}
        lines += ["", *align(accuracy_rows(sources, "source"))]
    return "\n".join(lines)


def comparison_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """Every share of evaluation.json, under a name for a tracker's table."""
    return {
        "all": evaluation["accuracy"],
        **({"all, by weight": evaluation["weighted_accuracy"]} if "weighted_accuracy" in evaluation else {}),
        **evaluation["by_order"],
        "verdicts that flip": evaluation["flips"],
        "always the longer answer": evaluation["longer_wins"],
        **evaluation["by_length"],
        **{f"source {name}": row for name, row in evaluation["by_source"].items()},
    }
