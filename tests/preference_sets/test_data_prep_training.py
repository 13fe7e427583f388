"""What each script of data_prep writes, straight into rm.py: a step is trained on it, and no row is lost on the way."""

import json
import sys

import pytest
from runs import train
from test_data_prep_answers import (
    HELPSTEER2_ROWS,
    HELPSTEER_FEATURES,
    HELPSTEER_ROWS,
    NECTAR_FEATURES,
    NECTAR_ROWS,
    ULTRAFEEDBACK_FEATURES,
    ULTRAFEEDBACK_ROWS,
    write,
)
from test_data_prep_labels import PREFERENCE_FEATURES, PREFERENCE_ROWS
from test_data_prep_pairs import FIXTURES
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from data_prep import helpsteer, helpsteer2, helpsteer3, nectar, pku_saferlhf, ultrafeedback
from reward_modeling.preference_sets.writing import run_source
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

ALL = FIXTURES | {
    ultrafeedback: (ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES),
    helpsteer: (HELPSTEER_ROWS, HELPSTEER_FEATURES),
    helpsteer2: (HELPSTEER2_ROWS, HELPSTEER_FEATURES),
    nectar: (NECTAR_ROWS, NECTAR_FEATURES),
}

# script, its rows and flags, and a loss that reads what they give
LABELLED = [
    (helpsteer2, (PREFERENCE_ROWS, PREFERENCE_FEATURES), ["--preference"], {"loss": "scaled"}),
    (helpsteer3, ALL[helpsteer3], ["--soft_labels", "true", "--min_strength", "0"], {"ties": "davidson"}),
    (pku_saferlhf, ALL[pku_saferlhf], ["--preference", "both", "--safer_weight", "0.7"], {"loss": "bradley_terry"}),
    (nectar, ALL[nectar], ["--pairs", "lists"], {"list_weight": "pair"}),
    (ultrafeedback, ALL[ultrafeedback], ["--pairs", "lists"], {"list_loss": "pairs"}),
]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> str:
    """A tiny Qwen2: its template takes a system message, which some sources have."""
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(60, seed=0)]
    tokenizer = train_tokenizer(texts, 400, **TOKENIZER_STYLES["chatml"])
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    build_tiny_checkpoint(folder, tokenizer, tiny_config("qwen2", len(tokenizer), **token_ids(tokenizer)))
    return str(folder)


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.SOURCE.name)
def test_what_a_script_writes_is_trained_on(script, language_model, tmp_path, monkeypatch):
    write_and_train(script, ALL[script], [], {}, language_model, tmp_path, monkeypatch)


@pytest.mark.parametrize(("script", "table", "flags", "loss"), LABELLED, ids=[case[0].SOURCE.name for case in LABELLED])
def test_labels_and_lists_are_trained_on(script, table, flags, loss, language_model, tmp_path, monkeypatch):
    notes = write_and_train(script, table, flags, loss, language_model, tmp_path, monkeypatch)
    labels = ("rows with a strength", "rows that are ties", "rows with a chosen_probability between 0.5 and 1")
    of_lists = "answers in lists of more than two"
    expected = {helpsteer2: labels[:2], helpsteer3: labels[1:2], pku_saferlhf: labels[2:]}.get(script, (of_lists,))
    assert all(notes[name] for name in expected)


def write_and_train(script, table, flags, loss, language_model, tmp_path, monkeypatch):
    """What a script writes of these rows, trained on for a step; gives the notes of the training set's report."""
    output = tmp_path / "pairs"
    path = write(tmp_path / "train.parquet", *table)
    flags = ["--dataset_path", str(path), "--output_path", str(output), "--num_proc", "1", *flags]
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    run_source(script.ScriptArguments, script.build)
    pairs = json.loads((output / "manifest.json").read_text())["pairs"]
    flags = {
        "model_name": language_model,
        "train_set_path": output,
        "eval_size": 0,
        "max_length": 512,
        "max_steps": 1,
        "pairs_per_step": 2,
        "report_to": "none",
        "use_cpu": "true",
        "save_strategy": "no",
        "verify_saved_model": "false",
        **loss,
    }
    run = train(flags, tmp_path / "model")
    assert run.state["global_step"] == 1
    report = json.loads((tmp_path / "model" / "data_report.json").read_text())["train"]
    # what stands there twice in a fixture is a trap of its own, and dropped by rm.py as such
    assert set(report["dropped"]) <= {"duplicate_pair"} and report["rows_read"] == pairs > 0
    return report["notes"]
