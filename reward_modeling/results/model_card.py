"""README.md of a saved reward model: what it is, what it learned from, how good it is, how to use it.

write_model_card(folder, results, name="models/gemma2b_rm/last_checkpoint", adapter=False)

templates/model_card.md has its words; a test runs the Python in it. The Hub reads the block of YAML at its top. Tokens
are not in it: `results.given` has none.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData

from reward_modeling.common.file_names import LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.data.report import dropped_rows
from reward_modeling.display.page import mark_as_code, render
from reward_modeling.display.text import Rows, accuracy_rows
from reward_modeling.results.run import Results, source_rows

CARD = "README.md"
PLOTS = {
    "held_out_accuracy.png": "Accuracy with 95% intervals",
    "held_out_margins.png": "Histogram of the margins",
    "held_out_calibration.png": "Confidence against the share right",
}
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
    path = Path(name)
    is_of_a_run = path.name in (LAST_CHECKPOINT, MERGED_CHECKPOINT)
    given = {key: value for key, value in results.given.items() if key != "output_path"}
    arguments = sorted((results.run["arguments"] | given).items())
    return render(
        "results/templates/model_card.md",
        data=card_data(results, adapter=adapter),
        title=path.resolve().parent.name if is_of_a_run else name,
        name=name,
        adapter=adapter,
        run=results.run,
        evaluation=results.evaluation,
        warnings=results.warnings,
        accuracies=None if results.evaluation is None else _accuracies(results.evaluation),
        plots=PLOTS,
        conversations=results.conversations,
        data_report=results.data_report,
        dropped_rows=dropped_rows,
        source_rows=source_rows,
        arguments=[
            ("argument", "value"),
            *((key, mark_as_code(json.dumps(value, default=str))) for key, value in arguments),
        ],
    )


def card_data(results: Results, *, adapter: bool) -> ModelCardData:
    """What the Hub files a model under. Names that are none of the Hub's are left out: it would refuse them."""
    base, manifest = hub_id(results.run["model_name"]), results.run["manifest"]
    # the training set itself, or what a manifest says it is made of
    names = [source["dataset_path"] or "" for source in manifest["sources"]] if manifest else [results.train_set_path]
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "rlhf", "preference-data", *(["lora"] if adapter else [])],
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=list(dict.fromkeys(filter(None, map(hub_id, names)))) or None,
    )


def hub_id(name: str) -> str | None:
    """`owner/name` of the Hub, without a split behind a colon; None for what is on this disk, or has another form."""
    name = name.partition(":")[0]
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _accuracies(evaluation: Mapping) -> Rows:
    rows = {"all": evaluation["accuracy"], **evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        rows |= {f"source: {name}": row for name, row in evaluation["by_source"].items()}
    return accuracy_rows(rows, "pairs")


def _write_plots(folder: Path, evaluation: Mapping) -> None:
    # Half a second of matplotlib, which no other process and no benchmark needs.
    from reward_modeling.display.plot_style import draw_png
    from reward_modeling.display.plots import draw_bars, draw_calibration, draw_margins

    groups = {"": {"overall": evaluation["accuracy"]}, "by length": evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        groups["by source"] = dict(list(evaluation["by_source"].items())[:MOST_BARS])
    longer = 100 * evaluation["longer_wins"]["value"]
    drawn = (
        draw_png(draw_bars, groups, chance=50, baseline=longer),
        draw_png(draw_margins, evaluation["margins"], evaluation["accuracy"]),
        draw_png(draw_calibration, evaluation["calibration"]),
    )
    for name, content in zip(PLOTS, drawn, strict=True):
        (folder / name).write_bytes(content)
