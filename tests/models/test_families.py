"""Ten families from the command line to the benchmark: trained, saved, loaded in plain transformers, scored.

Each comes with the habits of its published tokenizer, as `TOKENIZER_STYLES` has them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from evaluations import PlainModel, evaluate, flags, read_lines
from exactness import differences, make_group, rewards_and_gradients
from runs import Run, train, write_rows
from safetensors.torch import load_file, save_file
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PADDED
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.multimodal import save_text_part
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.models.support import context_length, why_not_packed
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.conversations import ConversationReader, ScoringCounts
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

# The class that is saved, and the tokenizer's style.
FAMILIES = {
    "gemma": ("GemmaForSequenceClassification", "gemma"),
    "gemma2": ("Gemma2ForSequenceClassification", "gemma"),
    "gemma3_text": ("Gemma3TextForSequenceClassification", "gemma3"),
    "mistral": ("MistralForSequenceClassification", "mistral"),
    "mixtral": ("MixtralForSequenceClassification", "mistral"),
    "llama": ("LlamaForSequenceClassification", "llama3"),
    "qwen2": ("Qwen2ForSequenceClassification", "qwen25"),
    "qwen3": ("Qwen3ForSequenceClassification", "qwen3"),
    "phi3": ("Phi3ForSequenceClassification", "phi3"),
    "bert": ("BertForSequenceClassification", "bert"),
    "deberta-v2": ("DebertaV2ForSequenceClassification", "deberta"),
}
ENCODERS = ("bert", "deberta-v2")
ROWS = learnable_preferences(170, seed=3)
TRAINED, HELD_OUT = ROWS[:-60], ROWS[-60:]
# What some templates refuse: a system message, and two turns of one role in a row.
ODD_FIRST = [{"role": "system", "content": "Be kind."}] * 2 + [{"role": "user", "content": "Good morning."}] * 3
REFUSED = {"gemma": 5, "mistral": 5, "gemma3": 3}  # of these by a style's template
ODD = [
    {side: [message, *row[side]] for side in ("chosen", "rejected")}
    for message, row in zip(ODD_FIRST, TRAINED, strict=False)
]
VERIFIED = ("mixtral", "bert")  # reloaded by a process of its own


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, object]:
    """Flags of a run that takes a few seconds and learns."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "train_set_path": write_rows(folder / "train.jsonl", TRAINED + ODD),
        "eval_set_path": write_rows(folder / "eval.jsonl", HELD_OUT),
        "max_length": 320,
        "max_steps": 30,
        "pairs_per_step": 16,
        "learning_rate": 3e-3,
        "eval_on_start": "true",
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def build_model(tmp_path_factory) -> Callable[..., Path]:
    """A tiny language model of a family with a tokenizer of its own style."""

    def build(family: str, style: str, **changes: object) -> Path:
        texts = [message["content"] for row in ROWS for side in ("chosen", "rejected") for message in row[side]]
        tokenizer = train_tokenizer(texts, 600, **TOKENIZER_STYLES[style])
        if family in ("mistral", "mixtral", "phi3"):
            changes["sliding_window"] = 64  # with 16 in every layer the last token sees too little of an answer
        config = tiny_config(family, len(tokenizer), **token_ids(tokenizer), **changes)
        return build_tiny_checkpoint(tmp_path_factory.mktemp("models") / family, tokenizer, config)

    return build


@pytest.fixture(scope="module")
def finished(base, build_model, tmp_path_factory) -> Callable[[str], Run]:
    """The run of a family, made once."""
    runs: dict[str, Run] = {}

    def get(family: str) -> Run:
        if family not in runs:
            output = tmp_path_factory.mktemp(family) / "output"
            given = base | {"model_name": build_model(family, FAMILIES[family][1])}
            runs[family] = train(given | {"verify_saved_model": str(family in VERIFIED)}, output)
        return runs[family]

    return get


# --- from the command line to the benchmark -------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_and_learns(family, finished):
    run = finished(family)
    accuracy, loss = (
        [entry[name] for entry in run.history if name in entry] for name in ("eval_accuracy", "eval_loss")
    )
    assert loss[0] > 0.65  # a model that guesses has 0.693
    assert loss[1] < 0.6
    assert accuracy[1] > 0.65
    if family in VERIFIED:
        assert json.loads((run.model / "verification.json").read_text())["passed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_as_in_plain_transformers(family, finished, tmp_path):
    """eval_bench_mark.py gives every row the reward that plain transformers gives it alone."""
    run = finished(family)
    model, info = AutoModelForSequenceClassification.from_pretrained(run.model, output_loading_info=True)
    assert type(model) is getattr(transformers, FAMILIES[family][0])
    assert not any(info.values())
    files = {"pairs": write_rows(tmp_path / "pairs.jsonl", HELD_OUT)}
    results = evaluate(flags(run.model, files, tmp_path))
    batching = json.loads((results / "summary.json").read_text())["model"]["batching"]
    assert batching == ("padded" if family in ENCODERS else "shared_prefix")
    plain = PlainModel(run.model)
    for row, line in zip(HELD_OUT, read_lines(results / "scores.jsonl"), strict=True):
        for side in ("chosen", "rejected"):
            expected = plain(row[side][:-1], row[side][-1]["content"])
            assert line[f"{side}_reward"] == pytest.approx(expected, abs=1e-4)


# --- habits of tokenizers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_a_template_refuses_are_counted_and_the_others_trained_on(family, finished):
    """Gemma's templates and Mistral's refuse two turns of one role in a row and, but for Gemma-3's, a system role."""
    report = json.loads((finished(family).output / "data_report.json").read_text())["train"]
    refused = REFUSED.get(FAMILIES[family][1], 0)
    assert report["rows_read"] == len(TRAINED) + len(ODD)
    assert report["kept"] == len(TRAINED) + len(ODD) - refused
    assert {reason: lost["count"] for reason, lost in report["dropped"].items()} == (
        {"template_refuses": refused} if refused else {}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_pads_with_a_token_of_its_own(family, finished):
    """Mistral and Llama-3 come without a pad token, and Phi-3's is EOS, in which its template ends."""
    folder = finished(family).model
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    before = TOKENIZER_STYLES[FAMILIES[family][1]]["pad"]
    assert tokenizer.pad_token == (
        "<pad>" if before in (None, "<|endoftext|>" if family == "phi3" else None) else before
    )
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer.apply_chat_template(HELD_OUT[0]["chosen"])["input_ids"]
    assert tokenizer.pad_token_id not in ids
    if family == "phi3":
        assert ids[-1] == tokenizer.eos_token_id


def test_a_system_turn_that_the_template_adds_is_part_of_the_prompt(finished):
    """Qwen2.5's template begins every conversation with one; a system message of the row's own takes its place."""
    run = finished("qwen2")
    tokenizer, rows = run.trainer.processing_class, run.trainer.train_dataset.groups
    texts = [tokenizer.decode(row["prefix_ids"]) for row in rows]
    assert len(texts) > 50
    assert {text.count("<|im_start|>system") for text in texts} == {1}
    assert {text.startswith("<|im_start|>system\nYou are a helpful") for text in texts} == {True, False}


# --- encoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["bert", "deberta"])
def test_an_encoder_sees_a_question_and_its_answer_as_two_texts(style, build_model):
    """The tokens of the pair, as the tokenizer itself writes them; and of a plain text those of the text."""
    tokenizer = load_tokenizer(str(build_model("bert", style)))
    question, answer = HELD_OUT[0]["chosen"][0]["content"], HELD_OUT[0]["chosen"][-1]["content"]
    conversation = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert tokenizer.apply_chat_template(conversation)["input_ids"] == tokenizer(question, answer)["input_ids"]
    reader = ConversationReader(tokenizer, 20)
    counts = ScoringCounts()
    assert reader.read([(0, "How?")], counts)[0].ids == tokenizer("How?")["input_ids"]
    cut = reader.read([(0, conversation)], counts)[0].ids
    assert (cut[0], cut[-1], len(cut)) == (tokenizer.cls_token_id, tokenizer.sep_token_id, 20)


@pytest.mark.parametrize("family", ENCODERS)
def test_what_the_card_sends_to_text_embeddings_inference_has_the_tokens_of_training(family, finished):
    """That server tokenises a text with the marks that the tokenizer puts around it."""
    tokenizer = AutoTokenizer.from_pretrained(finished(family).model)
    card = (finished(family).model / "README.md").read_text()
    assert "as the chat template renders it but without its first `[CLS]` and last `[SEP]`" in card
    conversation = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    expected = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    assert tokenizer(text.removeprefix("[CLS]").removesuffix("[SEP]"))["input_ids"] == expected
    assert tokenizer(text)["input_ids"] != expected


def test_an_encoder_from_elsewhere_scores_plain_texts_between_its_marks(build_model, tmp_path):
    """Its tokenizer calls CLS and SEP neither BOS nor EOS: plain texts get them all the same, as in transformers."""
    folder = build_model("bert", "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    texts = [row["chosen"][-1]["content"] for row in HELD_OUT[:6]]
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    assert RewardScorer.from_pretrained(tmp_path).score(texts) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_an_encoder_brings_its_pooler(base, build_model, tmp_path):
    """A language model of masked words has none: drawn anew where the adapter is loaded, it gave other rewards."""
    flags = {"model_name": build_model("bert", "bert"), "use_peft": "true", "lora_r": 4, "max_steps": 2}
    run = train(base | flags, tmp_path / "output")
    assert json.loads((run.model / "verification.json").read_text())["passed"]
    saved = load_file(run.model / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in saved if "lora" not in name} == {"model", "pooler"}


# --- a model that also takes images ---------------------------------------------------------------------------


def renamed(folder: Path, copy: Path) -> Path:
    """The same checkpoint under the names that transformers gives the weights in memory."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    save_file(
        {name.replace("language_model.model.", "model.language_model."): value for name, value in weights.items()},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    return copy


@pytest.mark.parametrize("names", ["as published", "as in memory"])
def test_the_text_part_of_gemma3_is_trained_and_saved(names, base, build_model, tmp_path, caplog):
    """With a learning rate of 0, what is saved are the weights that were there, under the names of the text model."""
    folder = build_model("gemma3", "gemma")
    whole = AutoModelForImageTextToText.from_pretrained(folder).model.language_model
    if names == "as in memory":
        folder = renamed(folder, tmp_path / "renamed")
    run = train(base, tmp_path / "output", model_name=folder, learning_rate=0, max_steps=1, verify_saved_model="false")
    assert "the text part (gemma3_text) is trained" in caplog.text
    assert "Score head: new (score.weight)." in caplog.text
    expected = {f"model.{name}": value for name, value in whole.state_dict().items()}
    saved = load_file(run.model / "model.safetensors")
    assert saved.keys() == expected.keys() | {"score.weight"}
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    plain, info = AutoModelForSequenceClassification.from_pretrained(run.model, output_loading_info=True)
    assert type(plain) is transformers.Gemma3TextForSequenceClassification
    assert not any(info.values())
    # and it computes what the whole model computes of a text
    ids = torch.tensor([[1, *range(20, 60)]])
    with torch.no_grad():
        difference = plain.model(ids).last_hidden_state - whole(ids).last_hidden_state
    assert difference.abs().max() < 1e-5


def test_the_head_of_a_reward_model_that_takes_images_is_kept(base, build_model, tmp_path, caplog):
    folder = build_model("gemma3", "gemma")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.save_pretrained(tmp_path / "rewards")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "rewards")
    given = base | {"model_name": tmp_path / "rewards", "learning_rate": 0, "max_steps": 1}
    run = train(given, tmp_path / "output", verify_saved_model="false")
    assert "Score head: the one that the checkpoint has." in caplog.text
    assert torch.equal(load_file(run.model / "model.safetensors")["score.weight"], model.score.weight)
    # the scorer takes the whole model, as it is
    conversations = [row["chosen"] for row in HELD_OUT[:6]]
    expected = RewardScorer.from_pretrained(run.model, dtype="float32").score(conversations)
    found = RewardScorer.from_pretrained(tmp_path / "rewards", dtype="float32")
    assert found.batches.batching == "padded"
    assert found.score(conversations) == pytest.approx(expected, abs=1e-5)


def test_weights_under_unknown_names_are_refused(base, build_model, tmp_path):
    folder = renamed(build_model("gemma3", "gemma"), tmp_path / "renamed")
    weights = {f"eyes_and.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="expected all the weights of Gemma3TextForSequenceClassification, found none"):
        train(base, tmp_path / "output", model_name=folder)
    with pytest.raises(UserError, match="expected all the weights of Gemma3ForCausalLM, found none"):
        save_text_part(str(folder), tmp_path / "text")


def test_an_adapter_wants_the_text_part_in_a_folder_of_its_own(base, build_model, tmp_path):
    folder = build_model("gemma3", "gemma")
    flags = base | {"use_peft": "true", "lora_r": 4, "max_steps": 2}
    with pytest.raises(
        UserError, match=r"python -m reward_modeling\.models\.multimodal .* NEW_FOLDER, and pass --model_name"
    ):
        train(flags, tmp_path / "refused", model_name=folder)
    save_text_part(str(folder), tmp_path / "text")
    run = train(flags, tmp_path / "output", model_name=tmp_path / "text")
    assert json.loads((run.model / "verification.json").read_text())["passed"]
    with pytest.raises(UserError, match="expected a language model that also takes images, found gemma3_text"):
        save_text_part(str(tmp_path / "text"), tmp_path / "again")


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("qwen2_5_vl", "for whose text part \\(qwen2_5_vl_text\\) transformers has no generic sequence classification"),
        ("t5", "found t5: it is an encoder with a decoder"),
    ],
)
def test_other_models_for_conditional_generation_are_refused_before_data_is_read(model_type, message, base, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        train(base, tmp_path / "output", model_name=tmp_path / "model", train_set_path=tmp_path / "nothing")


# --- how long a conversation may be, and what cannot be packed ------------------------------------------------

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
SHORT = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}


def test_longrope_is_exact_as_far_as_the_short_factors_go(build_model):
    """Phi-3's long variants. Beyond, a reward depends on what else is in the batch, in plain transformers too."""
    config = tiny_config("phi3", 97, sliding_window=None, num_labels=1, pad_token_id=0, **SHORT)
    assert context_length(config) == 64
    models = {}
    for attention in ("eager", SHARED_PREFIX):
        torch.manual_seed(0)
        models[attention] = reward_model_class(type(config))._from_config(config, attn_implementation=attention).eval()
    groups = [make_group(30, [20, 34], seed=1), make_group(5, [3, 4], seed=2)]
    reference = rewards_and_gradients(models["eager"], PADDED, groups)
    assert max(differences(reference, rewards_and_gradients(models[SHARED_PREFIX], SHARED_PREFIX, groups))) < 1e-5
    # negative control: one row of 65 tokens, and the others get other rewards
    longer = [make_group(30, [20, 35], seed=1), groups[1]]
    rewards, _ = rewards_and_gradients(models["eager"], PADDED, longer)
    assert (rewards[2:] - reference[0][2:]).abs().min() > 0.01


def test_longrope_beyond_its_short_factors_is_refused_with_the_reason(base, tmp_path):
    config = tiny_config("phi3", 97, max_position_embeddings=512, **SHORT)
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"at most 64, .*longrope.*found 320\. Pass --max_length 64 or less"):
        train(base, tmp_path / "output", model_name=tmp_path / "model")


def test_positions_that_begin_after_the_pad_token():
    """RoBERTa's last two positions are never used: a row as long as its config says would be beyond the embeddings."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = AutoConfig.for_model("roberta", vocab_size=50, max_position_embeddings=22, pad_token_id=1, **sizes)
    assert context_length(config) == 20
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model(torch.full((1, 20), 5))
    with pytest.raises((IndexError, RuntimeError), match="index"):
        model(torch.full((1, 21), 5))


@pytest.mark.parametrize("family", ["qwen2_moe", "phimoe"])
def test_a_window_that_attention_is_not_told_of_is_not_packed(family):
    """transformers applies it in the mask alone (5.23), and a packed row would attend to the whole context."""
    options = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2, "max_position_embeddings": 64}
    config = AutoConfig.for_model(family, num_hidden_layers=2, **options)
    assert "keeps its sliding window from the attention function" in why_not_packed(config)
    options |= {"use_sliding_window": False, "sliding_window": 64}
    assert why_not_packed(AutoConfig.for_model(family, num_hidden_layers=2, **options)) is None
