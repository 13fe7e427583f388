"""The snippets of the card of a process model, run for several tokenizers; and held-out steps of one kind."""

import json
import math
from pathlib import Path

import pytest
from runs import FEW_STEPS, Run, run_snippets, train, write_rows
from stepped_rows import chain_rows, outcome_rows, texts_of
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

import rm_process
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.tokenizers import token_ids

SPACED = [" Two and two are four.\n", "  Four and one are five. "]
STYLES = {"llama": "llama3", "qwen2": "chatml", "mistral": "mistral", "gemma2": "gemma"}


def run_of(tmp_path_factory, family: str, rows: list[dict], **flags: object) -> Run:
    folder = tmp_path_factory.mktemp(family)
    tokenizer = train_tokenizer([*texts_of(rows), "\n\n"], 500, **TOKENIZER_STYLES[STYLES[family]])
    model = build_tiny_checkpoint(
        folder / "model", tokenizer, tiny_config(family, len(tokenizer), **token_ids(tokenizer))
    )
    given = {"model_name": model, "train_set_path": write_rows(folder / "rows.jsonl", rows), "max_steps": 3}
    flags = FEW_STEPS | {"pairs_per_step": 8, "eval_size": 12, "eval_every_steps": 2} | given | flags
    return train(flags, folder / "output", main=rm_process.main, pages=True)


def with_spaces(card: str, path: Path) -> Path:
    """The card, with white space at the ends of its steps."""
    found = [line for line in card.splitlines() if line.startswith("steps = [")]
    assert len(found) == 2
    path.write_text(card.replace(found[0], f"steps = {SPACED!r}"))
    return path


def evaluation_of(run: Run) -> dict:
    return json.loads((run.output / "evaluation.json").read_text())


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("llama", {}),
        ("qwen2", {"step_separator": "\\n"}),
        ("mistral", {}),
        ("gemma2", {"prompt_format": "plain"}),
        ("qwen2", {"step_separator": ""}),
    ],
    ids=str,
)
def test_the_snippets_of_the_card_agree(family, flags, tmp_path_factory):
    """Plain transformers and StepScorer, whatever the tokenizer writes before a text."""
    run = run_of(tmp_path_factory, family, chain_rows(30, seed=5), **flags)
    assert "\n\n## Training data" in (run.model / "README.md").read_text()
    plain, toolkit = run_snippets(run.model / "README.md")
    assert len(plain["probabilities"]) == len(toolkit["steps"]) == 2
    assert toolkit["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)
    assert toolkit["rewards"]["min"] == min(toolkit["probabilities"])
    of_spaced = run_snippets(with_spaces((run.model / "README.md").read_text(), run.output / "spaced.md"))
    assert of_spaced[0]["steps"] == of_spaced[1]["steps"] == SPACED
    assert of_spaced[1]["probabilities"] == pytest.approx(of_spaced[0]["probabilities"], abs=1e-5)
    strips = not flags.get("prompt_format") and flags.get("step_separator") != ""
    assert (of_spaced[1]["probabilities"] == pytest.approx(toolkit["probabilities"], abs=1e-5)) == strips


def test_the_snippets_of_an_adapter_and_of_an_outcome_model(tmp_path_factory):
    rows = outcome_rows(40, seed=3)
    run = run_of(tmp_path_factory, "llama", rows, use_peft="true", lora_r=4)
    assert "\n\n## Training data" in (run.model / "README.md").read_text()
    plain, toolkit = run_snippets(run.model / "README.md")
    assert len(plain["probabilities"]) == 1
    assert toolkit["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)


def test_held_out_steps_of_one_kind_alone(tmp_path_factory):
    """Balanced accuracy, AUC and F1 are not known then: null, a dash, and no error."""
    rows = [row | {"labels": [1.0] * len(row["labels"])} for row in chain_rows(30, seed=5)]
    path = write_rows(tmp_path_factory.mktemp("held_out") / "right.jsonl", rows)
    run = run_of(tmp_path_factory, "llama", chain_rows(30, seed=6), eval_set_path=path)
    figures = evaluation_of(run)
    assert figures["balanced_accuracy"]["value"] is None and figures["auc"]["value"] is None
    assert figures["first_error"]["f1"]["value"] is None and figures["first_error"]["with_error"]["rows"] == 0
    assert figures["constant_loss"] == 0 and figures["loss"] > 0
    logged = [entry for entry in run.history if "eval_loss" in entry]
    assert all(math.isnan(entry["eval_auc"]) for entry in logged)
    assert (run.output / "report.html").is_file()
