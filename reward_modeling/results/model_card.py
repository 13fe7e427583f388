"""README.md of a saved reward model: what it is, what it learned from, how good it is, how to use it.

write_model_card(folder, results, name="models/gemma2b_rm/last_checkpoint", adapter=False)

templates/model_card.md has its words and, of each kind of model, a template that extends it; a test runs the Python in
it. The Hub reads the block of YAML at its top. Tokens are not in it: `results.given` has none.
"""

import json
import re
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from reward_modeling.common.file_names import LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.data.report import dropped_rows
from reward_modeling.display.page import mark_as_code, render
from reward_modeling.models.tokenizer import end_text, is_for_encoder, leading_bos, token_ids
from reward_modeling.results.catalog import kind_of
from reward_modeling.results.kind import ResultsKind
from reward_modeling.results.run import Results, source_rows

CARD = "README.md"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PLAIN_TEXT = "A whole text, with its prompt and its answer, as in the training data."
# Others that show how a tokenizer writes beginnings: a space, a lower case, a line break.
PLAIN_TEXTS = (
    PLAIN_TEXT,
    " a text\n\nthat begins with a space. ",
    "Zwei Sätze. 1 + 1 = 2!",
    "\n\nHuman: Hi\n\nAssistant: Ho",
)


def write_model_card(folder: Path, results: Results, *, name: str, adapter: bool) -> None:
    """The card and its plots.

    Args:
        name: what the card calls the model: a Hub id, or the path of its folder.
        adapter: whether the folder holds an adapter, and not a whole model.
    """
    if results.evaluation is not None:
        _write_plots(folder, kind_of(results.run), results.evaluation)
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
    kind, num_labels = kind_of(results.run), results.num_labels
    return render(
        kind.card_template,
        kind=kind,
        num_labels=num_labels,
        labels="one label" if num_labels == 1 else f"{num_labels} labels",
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
        pipeline_tag="text-classification" if kind_of(results.run).has_pipeline else "token-classification",
        tags=["reward-model", "rlhf", *kind_of(results.run).tags, *(["lora"] if adapter else [])],
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


def _write_plots(folder: Path, kind: ResultsKind, evaluation: dict) -> None:
    for name, content in zip(kind.card_plots, kind.draw_card_plots(evaluation), strict=True):
        (folder / name).write_bytes(content)
