"""The held-out figures as text: one line of a log during training, a table at its end."""

from collections.abc import Mapping

from reward_modeling.display.text import (
    accuracy_rows,
    align,
    count,
    number,
    pair_lines,
    percent,
    points,
    shorten,
    wrap,
)
from reward_modeling.objectives.held_out_pairs import SOURCE_ACCURACY

MOST_SHOWN = 8  # sources in the line of an evaluation, the worst ones
OWN = ("accuracy_low", "accuracy_high")  # of the names that begin like those of the sources


def evaluation_lines(logs: Mapping[str, float]) -> list[str]:
    """What a person needs of the metrics of an evaluation, as they were logged under "eval_"."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    low, high = percent(logs["accuracy_low"]), percent(logs["accuracy_high"])
    lines = [
        f"evaluation of {count(logs['pairs'])} pairs: loss {number(logs['loss'])}, {percent(logs['accuracy'])}% "
        f"right ({low}-{high}; the longer answer {percent(logs['longer_wins'])}%), margin {number(logs['margin'])}, "
        f"rewards {number(logs['reward_mean'])} ± {number(logs['reward_std'])}, calibration error "
        f"{points(logs['calibration_error'])}"
    ]
    sources = {name: logs[name] for name in logs if name.startswith(SOURCE_ACCURACY) and name not in OWN}
    if sources:
        worst = sorted(sources, key=sources.__getitem__)[:MOST_SHOWN]
        more = f", and {len(sources) - len(worst)} better ones" if len(sources) > len(worst) else ""
        shares = (f"{shorten(name.removeprefix(SOURCE_ACCURACY))} {percent(sources[name])}" for name in worst)
        lines.append(f"by source: {', '.join(shares)}{more}")
    return lines


def held_out_table(evaluation: Mapping) -> str:
    """Everything that evaluation.json has for a screen.

    Args:
        evaluation: as `results.files` describes it.
    """
    lines = wrap(f"Held-out pairs, after step {evaluation['step']} ({evaluation['data']})")
    lines += [line for text in pair_lines(evaluation) for line in wrap(text, indent=2)]
    mean, deviation = number(evaluation["reward_mean"]), number(evaluation["reward_std"])
    lines.append(f"  loss: {number(evaluation['loss'])}; rewards: mean {mean}, standard deviation {deviation}")
    if len(evaluation["by_source"]) > 1:
        sources = {shorten(name): row for name, row in evaluation["by_source"].items()}
        lines += ["", *align(accuracy_rows(sources, "source"))]
    return "\n".join(lines)


def named_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """Every accuracy of evaluation.json, under a name for a tracker's table."""
    return {
        "all": evaluation["accuracy"],
        "always the longer answer": evaluation["longer_wins"],
        **evaluation["by_length"],
        **{f"source {name}": row for name, row in evaluation["by_source"].items()},
    }
