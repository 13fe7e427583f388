"""README.md of a saved reward model: what it is, what it learned from, how good it is, how to use it.

write_model_card(folder, results, name="models/gemma2b_rm/last_checkpoint", adapter=False)

The Hub reads the block of YAML at its top. Tokens are not in it: `results.given` has none.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from reward_modeling.common.file_names import LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.data.report import REASON_WORDS, DropReason
from reward_modeling.display.text import count, interval, number, percent, shown, value_or_reason
from reward_modeling.results.model_card_usage import usage
from reward_modeling.results.run import Results

CARD = "README.md"
ACCURACY_PLOT, MARGIN_PLOT, CALIBRATION_PLOT = (
    "held_out_accuracy.png",
    "held_out_margins.png",
    "held_out_calibration.png",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MOST_BARS = 12  # sources in a plot


def write_model_card(folder: Path, results: Results, *, name: str, adapter: bool) -> None:
    """The card and its plots.

    Args:
        name: what the card calls the model: a Hub id, or the path of its folder.
        adapter: whether the folder holds an adapter, and not a whole model.
    """
    if results.evaluation is not None:
        _write_plots(folder, results.evaluation)
    (folder / CARD).write_text(model_card(results, name=name, adapter=adapter), encoding="utf-8")


def model_card(results: Results, *, name: str, adapter: bool) -> str:
    """The text of README.md."""
    sections = [
        f"---\n{yaml.safe_dump(front_matter(results, adapter=adapter), sort_keys=False, allow_unicode=True)}---",
        f"# {_title(name)}",
        _summary(results, adapter),
        "## Results\n\n" + _results(results.evaluation),
        usage(results, name=name, adapter=adapter),
        "## Training data\n\n" + _data(results),
        "## Training\n\n" + _training(results),
        LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


def _title(name: str) -> str:
    """A Hub id, or the name of the run that the folder is of."""
    path = Path(name)
    return path.resolve().parent.name if path.name in (LAST_CHECKPOINT, MERGED_CHECKPOINT) else name


def front_matter(results: Results, *, adapter: bool) -> dict[str, object]:
    """What the Hub files a model under. Names that are none of the Hub's are left out: it would refuse them."""
    matter: dict[str, object] = {"library_name": "peft" if adapter else "transformers"}
    matter["pipeline_tag"] = "text-classification"
    matter["tags"] = ["reward-model", "rlhf", "preference-data", *(["lora"] if adapter else [])]
    if (base := hub_id(results.run["model_name"])) is not None:
        matter |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if data := data_sets(results):
        matter["datasets"] = data
    return matter


def hub_id(name: str) -> str | None:
    """`owner/name` of the Hub, without a split behind a colon; None for what is on this disk, or has another form."""
    name = name.partition(":")[0]
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def data_sets(results: Results) -> list[str]:
    """Those of the Hub that the model learned from: the training set itself, or what a manifest says it is made of."""
    names = [results.train_set_path]
    if results.run["manifest"] is not None:
        names = [source["dataset_path"] or "" for source in results.run["manifest"]["sources"]]
    return list(dict.fromkeys(found for found in map(hub_id, names) if found is not None))


def _summary(results: Results, adapter: bool) -> str:
    run = results.run
    kind = "A LoRA adapter that makes a reward model of" if adapter else "A reward model, made of"
    trained = (
        f" {count(run['trained_parameters'])} of its {count(run['num_parameters'])} weights were trained."
        if run["trained_parameters"] < run["num_parameters"]
        else ""
    )
    return (
        f"{kind} `{run['model_name']}`: `{run['class']}` with one label, {count(run['num_parameters'])} parameters."
        f"{trained} It gives a conversation one number, the reward: of two answers to a prompt the better one is to "
        "get the higher. It learned that from pairs of a chosen and a rejected answer (Bradley-Terry)."
    )


# --- results ---------------------------------------------------------------------------------------------------


def _results(evaluation: Mapping | None) -> str:
    if evaluation is None:
        return "Not known: no rows were held out, or their rewards were not finite numbers."
    accuracy, margins = evaluation["accuracy"], evaluation["margins"]
    longer, error = percent(evaluation["longer_wins"]["value"]), 100 * evaluation["calibration_error"]
    mean, deviation = number(evaluation["reward_mean"]), number(evaluation["reward_std"])
    lines = [
        f"On {count(evaluation['pairs'])} pairs ({_code(evaluation['data'])}), after step {evaluation['step']}: "
        f"**{percent(accuracy['value'])}%** of the chosen answers get the higher reward (95% interval "
        f"{interval(accuracy)}). Always taking the longer answer is right in {longer}%.",
        _table(("pairs", "accuracy, percent", "95% interval", "number"), _accuracy_rows(evaluation)),
        f"Loss {number(evaluation['loss'])}; margin: mean {number(margins['mean'])}, median "
        f"{number(margins['median'])}; calibration error {error:.1f} points; rewards: mean {mean}, standard deviation "
        f"{deviation}.",
        f"![Accuracy with 95% intervals]({ACCURACY_PLOT})\n![Histogram of the margins]({MARGIN_PLOT})\n"
        f"![Confidence against the share right]({CALIBRATION_PLOT})",
    ]
    return "\n\n".join(lines)


def _accuracy_rows(evaluation: Mapping) -> list[tuple[str, ...]]:
    rows = {"all": evaluation["accuracy"], **evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        rows |= {f"source: {name}": row for name, row in evaluation["by_source"].items()}
    return [(name, value_or_reason(row), interval(row), count(row["rows"])) for name, row in rows.items()]


def _write_plots(folder: Path, evaluation: Mapping) -> None:
    # Half a second of matplotlib, which no other process and no benchmark needs.
    from reward_modeling.display.plot_style import as_png, png_style
    from reward_modeling.display.plots import draw_bars, draw_calibration, draw_margins

    groups = {"": {"overall": evaluation["accuracy"]}, "by length": evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        groups["by source"] = dict(list(evaluation["by_source"].items())[:MOST_BARS])
    longer = 100 * evaluation["longer_wins"]["value"]
    with png_style():
        (folder / ACCURACY_PLOT).write_bytes(as_png(draw_bars(groups, chance=50, baseline=longer)))
        (folder / MARGIN_PLOT).write_bytes(as_png(draw_margins(evaluation["margins"], evaluation["accuracy"])))
        (folder / CALIBRATION_PLOT).write_bytes(as_png(draw_calibration(evaluation["calibration"])))


# --- where it comes from ---------------------------------------------------------------------------------------


def _data(results: Results) -> str:
    run = results.run
    epoch = run["epoch_of_weights"]
    seen = "" if epoch is None else f" The saved weights saw {epoch:.2f} epochs of it."
    parts = [f"The training set has {count(run['pairs'])} pairs over {count(run['prompts'])} prompts.{seen}"]
    for name, report in results.data_report.items():
        rows = [
            (REASON_WORDS[reason], count(report["dropped"][reason.value]["count"]))
            for reason in DropReason
            if reason.value in report["dropped"]
        ]
        text = f"`{name}`: {count(report['rows_read'])} rows read, {count(report['kept'])} kept"
        notes = ", ".join(f"{note} {count(value)}" for note, value in report["notes"].items())
        parts.append(f"{text} ({notes})." if notes else f"{text}.")
        if rows:
            parts.append(_table(("dropped because", "rows"), rows))
    if (manifest := results.run["manifest"]) is not None:
        rows = [
            (source["name"], source["dataset_path"] or "", source["licence"] or "not stated", count(source["pairs"]))
            for source in manifest["sources"]
        ]
        parts.append(f"The set was made as `{shown(manifest['name'])}` of:")
        parts.append(_table(("source", "from", "licence", "pairs read"), rows))
    return "\n\n".join(parts)


def _training(results: Results) -> str:
    run = results.run
    step = run["step_of_weights"]
    kept = "" if step == run["steps"] else f"; the weights are those after step {count(step)}"
    text = (
        f"{count(run['steps'])} steps of {count(run['pairs_per_step'])} pairs{kept}, computed in {run['dtype']} on "
        f"{run['devices']} ({run['engine']}, {run['batching']} batches). {_listed(run['versions'])}."
    )
    named = {**results.arguments, **{name: value for name, value in results.given.items() if name != "output_path"}}
    rows = [(name, _code(json.dumps(named[name], default=str))) for name in sorted(named)]
    return f"{text}\n\n{_table(('argument', 'value'), rows)}"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {found}" for name, found in versions.items())


LIMITS = """\
## Limits and licence

- Rewards of answers to one prompt can be compared; those of answers to different prompts much less: the loss leaves
  them free by a constant for each prompt.
- The held-out pairs come from where this card says. On other prompts and other models' answers it may be much worse,
  and a policy that is trained against it will find out where.
- What those who judged the pairs liked, their errors and their prejudices are in it. It does not know what is true.
- The licences of the model that it was made of and of the data that it learned from apply. This card was written by a
  program, which does not know them unless they stand above: name them before you publish it."""


# --- Markdown --------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text from outside that stays in its cell, and is not read as HTML."""
    return shown(text).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    return f"`{shown(text).replace('`', chr(39))}`"
