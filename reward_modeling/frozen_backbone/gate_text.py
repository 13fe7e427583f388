"""The figures of a gate for a screen and for its model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_modeling.common.file_names import LAST_CHECKPOINT
from reward_modeling.display.page import render
from reward_modeling.display.text import Rows, align, count, interval, number, percent, share
from reward_modeling.results.model_card import base_name

MOST_SOURCES = 12


def gate_table(figures: Mapping[str, Any]) -> str:
    """evaluation.json for a screen."""
    head = (
        f"Held-out pairs, after step {figures['best_step']}: {count(figures['pairs'])} of "
        f"{count(figures['prompts'])} prompts"
    )
    lines = [head, *align(accuracy_rows(figures), words=(0,)), "", *align(objective_rows(figures))]
    if len(figures["by_source"]) > 1:
        lines += ["", "Weights by kind of prompt:", *align(source_rows(figures))]
    return "\n".join(lines)


def accuracy_rows(figures: Mapping[str, Any]) -> Rows:
    """Who is right how often, and how far the gate is ahead."""
    rows: Rows = [("", "right", "95% interval", "the gate is ahead by", "95% interval")]
    others = {
        "the gate": ("accuracy", None),
        "the best fixed weights": ("fixed_weights_accuracy", "gate_less_fixed_weights"),
        f"{figures['best_objective']} alone": ("best_objective_accuracy", "gate_less_best_objective"),
        "always the longer answer": ("longer_wins", None),
    }
    for words, (name, difference) in others.items():
        of = figures[name]
        ahead = ("", "") if difference is None else _ahead(figures[difference])
        rows.append((words, share(of), interval(of), *ahead))
    return rows


def _ahead(difference: Mapping[str, float | None]) -> tuple[str, str]:
    if difference["value"] is None:
        return "-", "-"
    value, low, high = (f"{100 * difference[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} points", f"{low} to {high}"


def objective_rows(figures: Mapping[str, Any]) -> Rows:
    """Of each objective its weight, how often it decides, and what debiasing did."""
    debiasing = figures["debiasing"]
    heads = ("objective", "mean weight", "deviation", "decides", "fixed weight")
    rows: Rows = [heads if debiasing is None else (*heads, "lambda", "correlation before", "after")]
    for name, of in figures["objectives"].items():
        cells = (number(of["weight"]), number(of["deviation"]), f"{percent(of['decides'])}%")
        row = (name, *cells, number(figures["fixed_weights"][name]))
        if debiasing is not None:
            lost = debiasing["objectives"][name]
            row += (number(lost["lambda"]), _value(lost["before"]), _value(lost["after"]))
        rows.append(row)
    return rows


def _value(of: Mapping[str, float | None]) -> str:
    return "-" if of["value"] is None else number(of["value"])


def source_rows(figures: Mapping[str, Any]) -> Rows:
    """The mean weights of each kind of prompt; the objectives are columns."""
    names = list(figures["objectives"])
    rows: Rows = [("source", "pairs", *names, "right", "ahead of fixed weights")]
    for source, of in list(figures["by_source"].items())[:MOST_SOURCES]:
        weights = (number(of["weights"][name]) for name in names)
        ahead = " (".join(_ahead(of["gate_less_fixed_weights"]))
        rows.append((source, count(of["pairs"]), *weights, share(of["accuracy"]), f"{ahead})"))
    return rows


def _base(name: str) -> str:
    """The run that the model of ratings is of, where its folder is called as those of all runs are."""
    return Path(name).resolve().parent.name if Path(name).name == LAST_CHECKPOINT else base_name(name)


def gate_card(folder: Path, run: Mapping[str, Any], figures: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """The text of README.md."""
    return render(
        "frozen_backbone/templates/gate_card.md",
        title=folder.resolve().parent.name,
        name=str(folder),
        base=_base(run["model_name"]),
        run=run,
        figures=figures,
        warnings=warnings,
        accuracies=accuracy_rows(figures),
        objectives=objective_rows(figures),
        sources=source_rows(figures) if len(figures["by_source"]) > 1 else None,
    )
