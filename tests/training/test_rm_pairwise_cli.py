"""The command line of rm_pairwise.py: its flags and defaults, and one clear message for every mistake."""

import json
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from compared_rows import compared_rows
from runs import ROOT, as_argv, train, write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from tokenizers import normalizers

import rm
import rm_pairwise
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import help_of
from reward_modeling.objectives.bradley_terry import BradleyTerryFlags
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids
from reward_modeling.training.arguments import arguments_of

TEXTS = [message["content"] for row in learnable_preferences(40, seed=0) for message in row["chosen"]]


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", compared_rows(12, seed=1))


@pytest.fixture
def flags(gemma_folder, rows_path, tmp_path) -> dict[str, object]:
    """A command line that works and takes no time."""
    return {
        "model_name": gemma_folder,
        "train_set_path": rows_path,
        "output_path": tmp_path / "output",
        "max_length": 512,
        "max_steps": 1,
        "pairs_per_step": 4,
        "eval_size": 0,
        "report_to": "none",
        "save_strategy": "no",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


def run(flags: dict[str, object]):
    flags = dict(flags)
    return train(flags, flags.pop("output_path"), main=rm_pairwise.main)


def checkpoint(folder: Path, family: str, style: str, **tokenizer_options) -> Path:
    tokenizer = train_tokenizer(TEXTS, 500, **TOKENIZER_STYLES[style] | tokenizer_options)
    return build_tiny_checkpoint(folder, tokenizer, tiny_config(family, len(tokenizer), **token_ids(tokenizer)))


def test_every_default_of_rm_that_is_not_of_its_loss_can_be_edited():
    of_loss = {field.name for field in fields(BradleyTerryFlags)}
    declared = {*rm.ScriptArguments.__annotations__} - of_loss
    assert declared <= {*rm_pairwise.ScriptArguments.__annotations__}
    arguments = arguments_of(rm_pairwise.ScriptArguments)
    for name in rm_pairwise.ScriptArguments.__annotations__:
        assert help_of(arguments, name), name


def test_help_is_quick():
    """Before torch is imported: 0.1 s here."""
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "rm_pairwise.py", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0 and time.perf_counter() - started < 20
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert not {"torch", "transformers", "datasets"} & imported
    said = " ".join(process.stdout.split())
    assert "--init_head" in said and "its row of A less its row of B" in said and "--loss_margin" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_head": "random"}, "--init_head: expected one of lm, new, found 'random'"),
        ({"ties": "davidson"}, "--ties: expected one of half, drop, found 'davidson'"),
        ({"label_smoothing": 0.5}, "--label_smoothing: expected 0 or more and below 0.5"),
        ({"plain_text": "true"}, "--plain_text: expected false, found true. A comparison holds the prompt once"),
        ({"metric_for_best_model": "margin"}, "expected one of loss, accuracy, flips, calibration_error, found"),
        ({"loss": "scaled"}, "loss"),
    ],
)
def test_wrong_flags_get_one_message(changes, said, flags):
    with pytest.raises(UserError, match=said):
        run(flags | changes)


# --- models and tokenizers --------------------------------------------------------------------------------------------


def test_a_tokenizer_in_which_a_and_b_are_no_tokens(flags, tmp_path):
    """Refused before any row is read; with a new head it trains."""
    tokenizer = train_tokenizer(TEXTS, 500, **TOKENIZER_STYLES["gemma"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("B", "BB")
    folder = build_tiny_checkpoint(
        tmp_path / "model", tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer))
    )
    with pytest.raises(UserError, match=r"A and B are a token each, .*found A as \['A'\], B as \['B', 'B'\]"):
        run(flags | {"model_name": folder, "train_set_path": "nowhere.jsonl"})
    assert len(run(flags | {"model_name": folder, "init_head": "new"}).losses()) == 1


def test_a_template_that_opens_no_answer(flags, tmp_path):
    template = TOKENIZER_STYLES["gemma"]["chat_template"].partition("{%- if add_generation_prompt")[0]
    template = template.partition("{% if add_generation_prompt")[0]
    folder = checkpoint(tmp_path / "model", "gemma", "gemma", chat_template=template)
    with pytest.raises(UserError, match="expected it to open an answer with add_generation_prompt"):
        run(flags | {"model_name": folder})


def test_a_template_that_always_opens_an_answer(flags, tmp_path):
    """Of such a one rm.py makes no model; what it opens is what is read here."""
    template = TOKENIZER_STYLES["gemma"]["chat_template"].replace("add_generation_prompt", "true")
    folder = checkpoint(tmp_path / "model", "gemma", "gemma", chat_template=template)
    with pytest.raises(UserError, match="expected it to end after the last answer"):
        train(flags | {"model_name": folder}, tmp_path / "reward")
    finished = run(flags | {"model_name": folder, "verify_saved_model": "true"})
    assert json.loads((finished.model / "verification.json").read_text())["passed"]


def test_a_base_model_without_a_template(flags, tmp_path):
    folder = checkpoint(tmp_path / "model", "llama", "llama3", chat_template=None)
    with pytest.raises(UserError, match=r"the rows are conversations and the tokenizer of .* has none"):
        run(flags | {"model_name": folder})


def test_an_encoder_begins_with_a_new_head(flags, tmp_path):
    """It has no words to say A and B with."""
    folder = checkpoint(tmp_path / "model", "bert", "bert")
    with pytest.raises(UserError, match=r"expected a causal language model whose logits .*found .* \(bert\)"):
        run(flags | {"model_name": folder})
    finished = run(flags | {"model_name": folder, "init_head": "new", "verify_saved_model": "true"})
    assert finished.trainer.collator.batching == "padded"
    assert json.loads((finished.model / "verification.json").read_text())["passed"]


def test_a_language_model_that_caps_its_logits(flags, tmp_path, caplog):
    """Gemma-2, of which RLHFlow made one of its models: taken, and said."""
    folder = checkpoint(tmp_path / "model", "gemma2", "gemma")
    assert run(flags | {"model_name": folder}).losses()
    assert "the language model caps its logits at 30 (final_logit_softcapping)" in caplog.text


# --- rows -------------------------------------------------------------------------------------------------------------


def test_plain_texts_are_refused(flags, tmp_path):
    rows = [{"chosen": f"Text {number}: yes.", "rejected": f"Text {number}: no."} for number in range(5)]
    path = write_rows(tmp_path / "texts.jsonl", [*rows, *learnable_preferences(6, seed=2)])
    with pytest.raises(UserError, match="expected a prompt and two answers in each row, found 5 plain texts"):
        run(flags | {"train_set_path": path})


def test_rows_that_all_are_too_long(flags, capsys):
    with pytest.raises(UserError, match="no pair is left to train on; see the table above"):
        run(flags | {"max_length": 40})
    assert "a completion is too long, even without its prompt" in capsys.readouterr().out


def test_the_preflight_shows_both_orders(flags, capsys):
    run(flags | {"show": 2})
    said = capsys.readouterr().out
    assert "One pair as the model sees it" in said and "chosen first, " in said and "rejected first, " in said
    assert "which answer is the better one is read at token" in said and "[RESPONSE B]" in said


def test_the_estimate_is_of_comparisons(flags, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rm_pairwise.py", *as_argv(flags | {"estimate": "true", "gpu": "l4-24g"})])
    rm_pairwise.main()
    said = capsys.readouterr().out
    computed, whole = (
        int(re.search(rf"{name} +([\d,]+)", said)[1].replace(",", ""))
        for name in ("tokens computed", "rows of all pairs")
    )
    assert "Verdict: " in said and 1.3 * computed < whole  # contexts, and of lists first answers, are computed once
