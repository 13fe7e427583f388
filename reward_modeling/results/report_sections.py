"""The sections of a run's report.html, each from what `run_reader` has read, and each saying what it lacks."""

from collections.abc import Iterator, Mapping
from html import escape

from reward_modeling.common.file_names import (
    ARGUMENTS,
    DATA_REPORT,
    EVALUATION,
    LAST_CHECKPOINT,
    PREFLIGHT,
    RUN,
    VERIFICATION,
)
from reward_modeling.data.report import REASON_WORDS, DropReason
from reward_modeling.display.page import (
    figure_block,
    folded,
    html_table,
    paragraph,
    plots_block,
    section,
    sentence,
    settings_table,
)
from reward_modeling.display.pair_blocks import accuracy_table, bin_ends, pair_lines, pair_plots, pair_tables
from reward_modeling.display.plots import bar_plot
from reward_modeling.display.text import MOST_SUBSETS, count, interval, number, percent
from reward_modeling.results.log_curves import Curve, log_curve
from reward_modeling.results.read_run import RunFiles
from reward_modeling.results.report_plots import curve_plot, reward_plot, short_number

FIGURES = {
    "loss": "Loss",
    "accuracy": "Accuracy, percent",
    "margin": "Margin",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
}
CAPTIONS = {
    "loss": "Mean over pairs. Centering and a router's loss are in that of the training alone.",
    "accuracy": "Pairs whose chosen answer has the higher reward.",
    "margin": "Mean of reward(chosen) - reward(rejected).",
    "learning_rate": "As the schedule gave it.",
    "grad_norm": "Of all gradients, before clipping.",
    "tokens_per_second": "Computed over all processes; a shared prompt counts once.",
}
TRAINING, HELD_OUT = "training", "held out"
MOST_EVALUATIONS = 100  # that the table shows


# --- curves ---------------------------------------------------------------------------------------------------


def training_section(run: RunFiles) -> str:
    """The curves of the log, with the numbers behind them."""
    curves = {name: _curves_of(run, name) for name in FIGURES}
    drawn = {name: found for name, found in curves.items() if found}
    if not drawn:
        return section("Training", paragraph("Nothing was logged yet."))
    plots = plots_block(_curve_figure(name, found) for name, found in drawn.items())
    return section("Training", _log_note(drawn) + plots + _evaluations(run) + _points(drawn))


def _curves_of(run: RunFiles, name: str) -> dict[str, Curve]:
    trained = log_curve(run.history, name)
    held_out = log_curve(run.history, f"eval_{name}", low=f"eval_{name}_low", high=f"eval_{name}_high")
    return {key: curve for key, curve in ((TRAINING, trained), (HELD_OUT, held_out)) if curve is not None}


def _curve_figure(name: str, curves: Mapping[str, Curve]) -> str:
    title, caption = FIGURES[name], CAPTIONS[name]
    if bad := sum(curve.not_finite for curve in curves.values()):
        caption += f" {count(bad)} logs that are no numbers are left out."
    plot = curve_plot(curves, label=title, percent=name == "accuracy", may_be_logarithmic=name == "grad_norm")
    return figure_block(title, caption, plot)


def _log_note(drawn: Mapping[str, Mapping[str, Curve]]) -> str:
    """What a point is, and what the shades are."""
    most = max((curves[TRAINING].logs_per_point for curves in drawn.values() if TRAINING in curves), default=1)
    words = "Each point is one log."
    if most > 1:
        words = (
            f"Each point is the mean of {count(most)} logs in a row, and the band around it their lowest and highest."
        )
    if HELD_OUT in drawn.get("accuracy", {}) and drawn["accuracy"][HELD_OUT].has_band:
        words += " The band around the held-out accuracy is its 95% interval."
    return paragraph(words, "muted")


def _evaluations(run: RunFiles) -> str:
    """A line for each evaluation, the newest ones if there are many."""
    found = [entry for entry in run.history if "eval_loss" in entry]
    if not found:
        return ""
    names = {"eval_loss": number, "eval_margin": number, "eval_reward_mean": number, "eval_reward_std": number}
    head = ("step", "epoch", "accuracy, percent", "95% interval", *(name.removeprefix("eval_") for name in names))
    rows = (
        (
            count(one["step"]),
            f"{one['epoch']:.2f}",
            percent(one.get("eval_accuracy")),
            logged_interval(one),
            *(shown(one[name]) if name in one else "-" for name, shown in names.items()),
        )
        for one in found[-MOST_EVALUATIONS:]
    )
    left_out = f"; the last {MOST_EVALUATIONS} of {count(len(found))}" if len(found) > MOST_EVALUATIONS else ""
    return folded(f"All evaluations{left_out}", html_table(head, rows))


def logged_interval(entry: Mapping) -> str:
    """Of the accuracy of an evaluation in the log."""
    row = {key: entry.get(f"eval_accuracy{end}") for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return "-" if row["low"] is None else interval(row)


def _points(drawn: Mapping[str, Mapping[str, Curve]]) -> str:
    """The points of the training curves, as drawn."""
    curves = {name: found[TRAINING] for name, found in drawn.items() if TRAINING in found}
    by_step: dict[float, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            by_step.setdefault(step, {})[name] = value
    rows = (
        (f"{step:,.0f}", *(_point(name, values.get(name)) for name in curves))
        for step, values in sorted(by_step.items())
    )
    return folded("All points of the training curves", html_table(("step", *(FIGURES[name] for name in curves)), rows))


def _point(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return percent(value) if name == "accuracy" else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


# --- held-out pairs -------------------------------------------------------------------------------------------


def held_out_section(run: RunFiles) -> str:
    """The figures of the final model on pairs that it was not trained on."""
    title, found = "On held-out pairs", run.evaluation
    if found is None:
        return section(title, paragraph(_why_no_evaluation(run)))
    if found["step"] > run.step:
        words = f"{EVALUATION} is of step {count(found['step'])}, and so of an earlier run: it is left out."
        return section(title, paragraph(words))
    about = f"The model of step {count(found['step'])}; {count(found['pairs'])} pairs: {found['data']}."
    lines = "".join(map(sentence, pair_lines(found)))
    plots = plots_block([*_reward_figures(found), *_shares(found)])
    return section(title, paragraph(about, "muted") + plots + lines + folded("All numbers", _held_out_tables(found)))


def _why_no_evaluation(run: RunFiles) -> str:
    if run.end is None:
        return f"No {EVALUATION} yet: it is written when training is over. The curves have the evaluations so far."
    if run.last_entry("eval_loss") is None:
        return f"No {EVALUATION}: nothing was held out."
    return f"No {EVALUATION} is there. The curves have the evaluations."


def _reward_figures(found: Mapping) -> Iterator[str]:
    rewards = found["rewards"]
    caption = (
        "Of the chosen and of the rejected answers; the less they overlap, the better. The outermost bins count what "
        "lies beyond them, too."
    )
    plot = reward_plot(rewards["edges"], rewards, label="Rewards of held-out answers")
    yield figure_block("Rewards", caption, plot)
    yield from pair_plots("Held-out pairs", found)


def _shares(found: Mapping) -> Iterator[str]:
    """Accuracy by the difference in length and by source."""
    marks = {"chance": 50, "baseline": None}
    if by_difference := _named_differences(found):
        caption = "Percent right, by tokens of the chosen answer less those of the rejected one."
        plot = bar_plot({"": by_difference}, label="Held-out accuracy by difference in length", **marks)
        yield figure_block("Difference in length", caption, plot)
    if sources := found["by_source"]:
        drawn = dict(sorted(sources.items(), key=lambda item: -item[1]["rows"])[:MOST_SUBSETS])
        few = f" The {MOST_SUBSETS} largest." if len(sources) > MOST_SUBSETS else ""
        plot = bar_plot({"": drawn}, label="Held-out accuracy by source", **marks)
        yield figure_block("Sources", f"Percent right, with 95% intervals.{few}", plot, tall=len(drawn) > 12)


def _named_differences(found: Mapping) -> dict[str, Mapping]:
    return {_difference(one["from"], one["to"]): one for one in found["by_length_difference"]}


def _difference(low: int, high: int) -> str:
    """-200 to -51; one number where the bin has one."""
    return f"{low:+,}" if low == high else f"{low:+,} to {high:+,}"


def _held_out_tables(found: Mapping) -> str:
    rewards = found["rewards"]
    bins = zip(*bin_ends(rewards["edges"]), rewards["chosen"], rewards["rejected"], strict=True)
    rows = ((number(low), number(high), count(chosen), count(rejected)) for low, high, chosen, rejected in bins)
    summary = {name: number(found[name]) for name in ("loss", "reward_mean", "reward_std")}
    return (
        f"{html_table(('', ''), ((name.replace('_', ' '), value) for name, value in summary.items()))}"
        f"{pair_tables(found)}<h3>Difference in length</h3>{accuracy_table(_named_differences(found))}"
        f"<h3>Sources</h3>{accuracy_table(found['by_source'])}"
        f"<h3>Rewards</h3>{html_table(('from', 'to', 'chosen', 'rejected'), rows)}"
    )


# --- data, preflight, origin ----------------------------------------------------------------------------------


def data_section(run: RunFiles) -> str:
    """Rows read, kept and dropped, and what the data say of themselves."""
    if run.data_report is None:
        return section("Data", paragraph(f"No {DATA_REPORT} is there."))
    return section("Data", "".join(_data_set(report) for report in run.data_report.values()) + _manifest(run))


def _data_set(report: Mapping) -> str:
    read, kept = report["rows_read"], report["kept"]
    words = f"{count(read)} rows read, {count(kept)} kept ({kept / max(read, 1):.1%})."
    rows = [
        (
            REASON_WORDS[DropReason(reason)],
            count(dropped["count"]),
            f"{dropped['count'] / max(read, 1):.2%}",
            dropped["first_where"],
            dropped["first_excerpt"],
        )
        for reason, dropped in report["dropped"].items()
    ]
    head = ("dropped because", "rows", "share", "first row", "which reads")
    table = html_table(head, rows, "words") if rows else ""
    notes = html_table(("also counted", "rows"), ((note, count(number)) for note, number in report["notes"].items()))
    return f"<h3>{escape(report['name'])}</h3>{paragraph(words)}{table}{notes if report['notes'] else ''}"


def _manifest(run: RunFiles) -> str:
    """The sources, as the data's own manifest.json counts them."""
    manifest = None if run.run is None else run.run["manifest"]
    if manifest is None:
        return ""
    rows = (
        (one["name"], count(one["pairs"]), count(one["prompts"]), str(one["licence"]), str(one["dataset_path"]))
        for one in manifest["sources"]
    )
    table = html_table(("source", "pairs", "prompts", "licence", "from"), rows, "words")
    return f"<h3>Sources</h3>{table}{folded('The whole manifest', settings_table(manifest))}"


def preflight_section(run: RunFiles) -> str:
    """One pair as the model sees it."""
    if run.preflight is None:
        return section("What the model sees", paragraph(f"No {PREFLIGHT} is there."))
    return section("What the model sees", f"<pre>{escape(run.preflight)}</pre>")


def origin_section(run: RunFiles) -> str:
    """How the model was made and whether what was saved is what was trained."""
    content = paragraph(_proof(run))
    if (probe := run.last_entry("heaviest_micro_batch_tokens")) is not None:
        tokens, peak = count(probe["heaviest_micro_batch_tokens"]), short_number(probe["peak_memory_gib"])
        content += paragraph(f"The heaviest micro-batch, {tokens} tokens, took {peak} GiB of memory at its peak.")
    if run.run is None:
        content += paragraph(f"No {RUN} is there: model, engine and versions are not known.")
    else:
        apart = ("versions", "manifest", "arguments")
        others = {name: value for name, value in run.run.items() if name not in apart and value is not None}
        content += folded("Run", settings_table(others)) + folded("Versions", settings_table(run.run["versions"]))
        learned = settings_table(run.run.get("arguments", {}))  # which older runs did not write
        content += folded("Arguments that decide what is learned, defaults too", learned)
    if run.arguments is None:
        content += paragraph(f"No {LAST_CHECKPOINT}/{ARGUMENTS} is there: it is saved with the final model.")
    else:
        content += folded("Arguments, as given", settings_table(run.arguments))
    return section("How it was made", content)


def _proof(run: RunFiles) -> str:
    proof = run.verification
    if proof is None:
        return f"The saved model was not compared with the one in memory: no {LAST_CHECKPOINT}/{VERIFICATION} is there."
    if not proof["passed"]:
        return f"The saved model is NOT the one that was trained: {'; '.join(proof['problems'])}"
    off = max(proof["largest_difference_padded"], proof["largest_difference_alone"])
    return (
        f"The saved model, loaded in plain transformers, gives the rewards of the model in memory: off by {off:.1e} at "
        f"most, allowed are {proof['tolerance']:.1e}, over {count(proof['num_rows'])} rows."
    )
