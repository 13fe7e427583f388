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
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from reward_modeling.common.file_names import LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.data.report import dropped_rows
from reward_modeling.display.page import mark_as_code, render
from reward_modeling.display.text import Rows, accuracy_rows, notes_on_pairs
from reward_modeling.models.tokenizer import end_text, is_for_encoder, leading_bos, token_ids
from reward_modeling.results.run import Results, source_rows

CARD = "README.md"
PLOTS = {
    "held_out_accuracy.png": "Accuracy with 95% intervals",
    "held_out_margins.png": "Histogram of the margins",
    "held_out_calibration.png": "Confidence against the share right",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PLAIN_TEXT = "A whole text, with its prompt and its answer, as in the training data."
# Others that show how a tokenizer writes beginnings: a space, a lower case, a line break.
PLAIN_TEXTS = (
    PLAIN_TEXT,
    " a text\n\nthat begins with a space. ",
    "Zwei Sätze. 1 + 1 = 2!",
    "\n\nHuman: Hi\n\nAssistant: Ho",
)
MOST_BARS = 12  # sources in a plot


def write_model_card(folder: Path, results: Results, *, name: str, adapter: bool) -> None:
    """The card and its plots.

    Args:
        name: what the card calls the model: a Hub id, or the path of its folder.
        adapter: whether the folder holds an adapter, and not a whole model.
    """
    if results.evaluation is not None:
        _write_plots(folder, results.evaluation)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    card = model_card(results, name=name, adapter=adapter, tokenizer=tokenizer)
    (folder / CARD).write_text(card, encoding="utf-8")


def model_card(results: Results, *, name: str, adapter: bool, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of README.md; `tokenizer` as it was saved with the model."""
    path = Path(name)
    is_of_a_run = path.name in (LAST_CHECKPOINT, MERGED_CHECKPOINT)
    given = {key: value for key, value in results.given.items() if key != "output_path"}
    given |= {key: base_name(given[key]) for key in ("model_name",) if key in given}
    arguments = sorted((results.run["arguments"] | given).items())
    return render(
        "results/templates/model_card.md",
        data=card_data(results, adapter=adapter),
        title=path.resolve().parent.name if is_of_a_run else name,
        name=name,
        base=base_name(results.run["model_name"]),
        adapter=adapter,
        run=results.run,
        plain_text=PLAIN_TEXT,
        as_text=text_that_is_tokenised_alike(tokenizer),
        writes_bos=bool(leading_bos(tokenizer)),
        encoder_marks=(tokenizer.cls_token, tokenizer.sep_token) if is_for_encoder(tokenizer) else None,
        evaluation=results.evaluation,
        warnings=results.warnings,
        accuracies=None if results.evaluation is None else _accuracies(results.evaluation),
        plots=PLOTS,
        notes_on_pairs=notes_on_pairs,
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
    names = [source["dataset_path"] or "" for source in manifest["sources"]] if manifest else results.train_sets
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "rlhf", "preference-data", *(["lora"] if adapter else [])],
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=list(dict.fromkeys(filter(None, map(hub_id, names)))) or None,
    )


def base_name(name: str) -> str:
    """What a card calls the model it was made from: nothing of where that lies on a disk.

    A folder is called as its config.json says that the model is called on the Hub, or by its own name.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    config = folder / CONFIG_NAME
    written = json.loads(config.read_text(encoding="utf-8")).get("_name_or_path") if config.is_file() else None
    return written if written and hub_id(written) else folder.resolve().name


def text_that_is_tokenised_alike(tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool] | None:
    """How a plain text is handed over as a text, so that it gets the tokens that it had in training.

    Tokenizers differ in what they write by themselves: BOS, CLS and SEP, EOS, or nothing.

    Returns:
        A Python expression of `conversation` and `tokenizer`, and whether the tokenizer adds its special tokens to it;
        None where no such text is found.
    """
    expected = token_ids([end_text(text, tokenizer) for text in PLAIN_TEXTS], tokenizer)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    ways = (
        ("conversation + tokenizer.eos_token", "", eos, True),
        ("conversation", "", "", True),
        ("conversation + tokenizer.eos_token", "", eos, False),
        ("conversation", "", "", False),
        ("tokenizer.bos_token + conversation + tokenizer.eos_token", bos, eos, False),
    )
    for expression, before, after, special in ways:
        texts = [before + text + after for text in PLAIN_TEXTS]
        if (eos or "eos" not in expression) and tokenizer(texts, add_special_tokens=special)["input_ids"] == expected:
            return expression, special
    return None


def hub_id(name: str) -> str | None:
    """`owner/name` of the Hub, without a split behind a colon; None for what is on this disk, or has another form."""
    name = name.partition(":")[0]
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _accuracies(evaluation: Mapping) -> Rows:
    rows = {"all": evaluation["accuracy"], **evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        rows |= {f"source: {name}": row for name, row in evaluation["by_source"].items()}
    rows |= {f"evaluation set: {name}": of["accuracy"] for name, of in evaluation.get("sets", {}).items()}
    return accuracy_rows(rows, "pairs")


def _write_plots(folder: Path, evaluation: Mapping) -> None:
    # Half a second of matplotlib, which no other process and no benchmark needs.
    from reward_modeling.display.plot_style import draw_png
    from reward_modeling.display.plots import draw_bars, draw_calibration, draw_margins

    groups = {"": {"overall": evaluation["accuracy"]}, "by length": evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        groups["by source"] = dict(list(evaluation["by_source"].items())[:MOST_BARS])
    longer = evaluation["longer_wins"]["value"]
    drawn = (
        draw_png(draw_bars, groups, chance=50, baseline=None if longer is None else 100 * longer),
        draw_png(draw_margins, evaluation["margins"], evaluation["accuracy"]),
        draw_png(draw_calibration, evaluation["calibration"]),
    )
    for name, content in zip(PLOTS, drawn, strict=True):
        (folder / name).write_bytes(content)
