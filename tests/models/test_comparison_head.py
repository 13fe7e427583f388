"""The head of a pairwise model before training: the softmax of the language model over A and B, for every family."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_classifiers import families, tiny_classifier_config
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from tokenizers import normalizers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.data.pair_texts import COMPARISON
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.comparison_head import (
    CAPS,
    FACTOR_NAMES,
    answer_tokens,
    check_language_model,
    comparison_head,
)
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.models.support import NO_REWARDS
from reward_modeling.models.tokenizer import load_tokenizer

CORPUS = [
    "[CONTEXT] [RESPONSE A] First wait. [RESPONSE B] Then wait, and wait again.\n",
    "ABC <turn> user assistant " * 9,
]
FAMILIES = [
    name
    for name in families()
    if CONFIG_MAPPING[name] in MODEL_FOR_CAUSAL_LM_MAPPING
    and reward_model_class(CONFIG_MAPPING[name]) is not None
    and name not in NO_REWARDS
]
QUICK = ("llama", "cohere", "granite", "gemma2", "phi", "falcon_h1")
WITH_BIAS = ("phi",)  # of their head
ROWS = [
    [[{"role": "user", "content": "How?"}], [[{"role": "assistant", "content": text}] for text in pair]]
    for pair in (("First wait.", "Then?"), ("Then?", "First wait."), ("wait " * 9, "and " * 20))
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, 400, **TOKENIZER_STYLES["llama3"] | {"pad": "<pad>"})


def save(config: PreTrainedConfig, tokenizer, folder: Path, **options) -> str:
    """A tiny language model whose weights are large enough for logits that differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            model.get_output_embeddings().weight.normal_(std=0.5)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return str(folder)


def language_model_logits(folder: str, tokenizer, rows: list[list[int]]) -> torch.Tensor:
    """`(rows, 2)`: of A and B, as RLHFlow reads them, each row alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = [tokenizer.encode(word, add_special_tokens=False)[0] for word in ("A", "B")]
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row])).logits[0, -1, tokens] for row in rows])


def outputs_of(folder: str, rows: list[list[int]], **changes) -> torch.Tensor:
    """`(rows,)`: of the pairwise model that is made of it."""
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    check_language_model(folder, config)
    model = load_reward_model(
        folder, config, tokenizer, initial_head=lambda: comparison_head(folder, config, tokenizer) | changes
    ).eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows])


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[list[int]]:
    texts = ["".join(COMPARISON.pieces(*row, {}, tokenizer)) for row in ROWS]
    return [tokenizer(text, add_special_tokens=False)["input_ids"][-100:] for text in texts]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_it_is_the_softmax_of_the_language_model(family, tokenizer, rows, tmp_path, caplog):
    """Or is refused, or a warning says that the language model caps its logits."""
    config = tiny_classifier_config(family, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    for number, name in enumerate(sorted(FACTOR_NAMES)):
        if hasattr(config, name) and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, 0.3 + number)
    folder = save(config, tokenizer, tmp_path / family)
    try:
        outputs = outputs_of(folder, rows)
    except UserError as error:
        assert family in WITH_BIAS and "whose head has a bias" in str(error)
        return
    logits = language_model_logits(folder, tokenizer, rows)
    assert logits.diff(dim=1).abs().max() > 0.1
    if "caps its logits" in caplog.text:
        assert any(getattr(config, name, None) for name in CAPS)
        cap = next(filter(None, (getattr(config, name, None) for name in CAPS)))
        logits = cap * torch.atanh(logits / cap)
    torch.testing.assert_close(torch.sigmoid(outputs), logits.softmax(dim=1)[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs, logits[:, 0] - logits[:, 1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "several files"])
def test_tied_and_untied(family, tied, shards, tokenizer, rows, tmp_path, caplog):
    config = tiny_classifier_config(family, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config.tie_word_embeddings = tied
    folder = save(config, tokenizer, tmp_path / family, **({"max_shard_size": "20KB"} if shards else {}))
    assert bool(list(Path(folder).glob("*.index.json"))) == shards
    logits = language_model_logits(folder, tokenizer, rows)
    outputs = outputs_of(folder, rows)
    assert (torch.sigmoid(outputs) - logits.softmax(dim=1)[:, 0]).abs().max() < 1e-5
    assert logits.diff(dim=1).abs().max() > 0.1
    stored = "embed_tokens.weight" if tied else "lm_head.weight"
    assert re.search(rf'begins as the row of "A" less that of "B" in [a-z_.]*{stored}', caplog.text)
    assert "Score head: new" not in caplog.text and "the one that the checkpoint has" not in caplog.text
    # the negative control: the rows of two other tokens
    model_head = comparison_head(folder, load_config(folder), tokenizer)["score.weight"]
    other = outputs_of(folder, rows, **{"score.weight": model_head.roll(1)})
    assert (torch.sigmoid(other) - logits.softmax(dim=1)[:, 0]).abs().max() > 1e-2


def test_a_stored_head_is_read_though_the_configuration_ties_it(tokenizer, rows, tmp_path):
    """transformers takes the lm_head of the files where it differs from the embeddings that it is tied to."""
    config = tiny_classifier_config("llama", len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config.tie_word_embeddings = False
    folder = save(config, tokenizer, tmp_path / "llama")
    settings = json.loads(Path(folder, "config.json").read_text())
    Path(folder, "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    logits = language_model_logits(folder, tokenizer, rows)
    assert (torch.sigmoid(outputs_of(folder, rows)) - logits.softmax(dim=1)[:, 0]).abs().max() < 1e-5


def test_weights_of_torch(tokenizer, rows, tmp_path):
    config = tiny_classifier_config("llama", len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    folder = save(config, tokenizer, tmp_path / "llama")
    logits = language_model_logits(folder, tokenizer, rows)
    model = AutoModelForCausalLM.from_pretrained(folder)
    Path(folder, "model.safetensors").unlink()
    torch.save(model.state_dict(), Path(folder, "pytorch_model.bin"))
    assert (torch.sigmoid(outputs_of(folder, rows)) - logits.softmax(dim=1)[:, 0]).abs().max() < 1e-5


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_and_b_that_are_no_tokens(tokenizer):
    assert answer_tokens(tokenizer) == (tokenizer.convert_tokens_to_ids("A"), tokenizer.convert_tokens_to_ids("B"))
    expected = "A and B are a token each, of which the head is made, found A as"
    several = train_tokenizer(["wait"], 400, **TOKENIZER_STYLES["llama3"])
    several.backend_tokenizer.normalizer = normalizers.Replace("A", "AA")
    with pytest.raises(UserError, match=f"{expected} .*'A', 'A'.*B as .*Pass --init_head new"):
        answer_tokens(several)
    unknown = train_tokenizer(["wait"], 100, **TOKENIZER_STYLES["mistral"])
    with pytest.raises(UserError, match=expected):
        answer_tokens(unknown)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("bert", {}, r"found .* \(bert\), which is none"),
        ("phi", {}, "whose head has a bias"),
        ("llama", {"logit_scale": 0.5}, "found logit_scale in the configuration of .* of which it is not known"),
    ],
)
def test_what_gives_no_head(family, changes, said, tokenizer):
    config = tiny_classifier_config(family, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=said):
        check_language_model("a-model", config)
    check_language_model("a-model", tiny_classifier_config("llama", len(tokenizer)))


def test_a_checkpoint_without_its_rows(tokenizer, tmp_path):
    config = tiny_classifier_config("llama", len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config.tie_word_embeddings = False
    folder = save(config, tokenizer, tmp_path / "llama")
    bare = AutoModelForCausalLM.from_pretrained(folder).model
    shutil.rmtree(folder)
    bare.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"expected lm_head.weight among its weights.*Pass --init_head new"):
        outputs_of(folder, [[1, 2, 3]])
