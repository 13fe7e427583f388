"""Plain texts beside a chat template: nobody trains on them without having asked for it."""

import json

import datasets
import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions
from reward_modeling.models.tokenizer import ENCODER_TEMPLATE, load_tokenizer
from reward_modeling.objectives.bradley_terry import PairReader


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def prepare(tmp_path, tokenizer, rows, **options):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {"eval_size": 0, "seed": 0, "num_proc": 1}
    return prepare_pairs(str(path), None, tokenizer, PairReader(), TokenizeOptions(128), **known, **options)


TEXTS = [{"chosen": f"a calm hand {n}", "rejected": f"a blue chair {n}"} for n in range(3)]


def test_plain_texts_beside_a_template_have_to_be_asked_for(tmp_path, gemma_folder):
    tokenizer = load_tokenizer(gemma_folder)
    mixed = [*TEXTS, {"prompt": "How?", **TEXTS[0]}]
    for rows in (TEXTS, mixed):
        with pytest.raises(UserError) as refused:
            prepare(tmp_path, tokenizer, rows)
        assert "--train_set_path: expected conversations" in str(refused.value)
        assert "found 3 plain texts" in str(refused.value)
        assert "--plain_text true" in str(refused.value) and "--columns prompt=NAME" in str(refused.value)
        assert len(prepare(tmp_path, tokenizer, rows, plain_text=True).train) == len(rows)
    assert len(prepare(tmp_path, tokenizer, mixed[3:]).train) == 1


@pytest.mark.parametrize("template", [None, ENCODER_TEMPLATE])
def test_where_there_is_no_template_of_its_own_nothing_is_asked(template, tmp_path, gemma_folder):
    tokenizer = load_tokenizer(gemma_folder)
    tokenizer.chat_template = template
    assert len(prepare(tmp_path, tokenizer, TEXTS).train) == 3


def test_a_question_that_nobody_reads_is_named_first(tmp_path, gemma_folder):
    rows = [{"question": f"How {n}?", **row} for n, row in enumerate(TEXTS)]
    with pytest.raises(UserError, match="question in 3 of 3 rows"):
        prepare(tmp_path, load_tokenizer(gemma_folder), rows)
