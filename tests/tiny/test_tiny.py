"""Tiny tokenizers, checkpoints and preferences are what they say they are."""

import itertools
import json

import pytest
import torch
from jinja2.exceptions import TemplateError
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.quickstart import report
from reward_modeling.tiny.tokenizers import token_ids

TEXTS = [
    "How do I bake rye bread?",
    "Begin by setting a timer.\nThen wait, and wait again.",
    "user assistant",
]
TURNS = [{"role": "user", "content": "How do I bake?"}, {"role": "assistant", "content": "Begin and wait."}]
STYLE_OF_MODEL = {
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "llama": "llama3",
    "mistral": "mistral",
    "mixtral": "mistral",
    "phi3": "phi3",
    "qwen2": "qwen25",
    "qwen2_moe": "chatml",
    "qwen3": "chatml",
    "qwen3_moe": "chatml",
}
RENDERED = {
    "gemma": "<bos><start_of_turn>user\nHow do I bake?<end_of_turn>\n"
    "<start_of_turn>model\nBegin and wait.<end_of_turn>\n",
    "chatml": "<|im_start|>user\nHow do I bake?<|im_end|>\n<|im_start|>assistant\nBegin and wait.<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow do I bake?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nBegin and wait.<|eot_id|>",
    "mistral": "<s>[INST] How do I bake? [/INST] Begin and wait.</s>",
    "qwen25": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nHow do I bake?<|im_end|>\n<|im_start|>assistant\nBegin and wait.<|im_end|>\n",
    "phi3": "<|user|>\nHow do I bake?<|end|>\n<|assistant|>\nBegin and wait.<|end|>\n<|endoftext|>",
}


def styled(style, **overrides):
    return train_tokenizer(TEXTS, 400, **(TOKENIZER_STYLES[style] | overrides))


def rendered_ids(tokenizer, messages=TURNS):
    return tokenizer.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("style", RENDERED)
def test_style_renders_and_tokenizes_as_declared(style):
    tokenizer = styled(style)
    settings = TOKENIZER_STYLES[style]
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == RENDERED[style]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        settings["bos"],
        settings["eos"],
        settings["pad"],
    )
    for mark in settings["control_tokens"]:
        assert len(tokenizer.tokenize(mark)) == 1
    assert tokenizer.decode(rendered_ids(tokenizer)) == RENDERED[style]


@pytest.mark.parametrize("style", ["gemma", "llama3", "mistral"])
def test_bos_is_written_by_template_and_post_processor(style):
    tokenizer = styled(style)
    assert rendered_ids(tokenizer).count(tokenizer.bos_token_id) == 1
    assert tokenizer("bake").input_ids[0] == tokenizer.bos_token_id
    twice = tokenizer(tokenizer.apply_chat_template(TURNS, tokenize=False)).input_ids
    assert twice.count(tokenizer.bos_token_id) == 2


def test_bos_by_template_only():
    tokenizer = styled("gemma", bos_by_post_processor=False)
    assert tokenizer.bos_token_id not in tokenizer("bake").input_ids
    assert rendered_ids(tokenizer)[0] == tokenizer.bos_token_id


def test_which_templates_end_in_eos():
    last = {style: rendered_ids(styled(style))[-1] for style in RENDERED}
    ends = {style for style in RENDERED if last[style] == styled(style).eos_token_id}
    assert ends == {"llama3", "mistral", "phi3"}


def test_a_system_message_takes_the_place_of_the_one_that_a_template_adds():
    system = {"role": "system", "content": "Be kind."}
    rendered = styled("qwen25").apply_chat_template([system, *TURNS], tokenize=False)
    assert rendered == "<|im_start|>system\nBe kind.<|im_end|>\n" + RENDERED["chatml"]


@pytest.mark.parametrize("style", ["bert", "deberta"])
def test_an_encoders_marks_stand_around_one_text_and_two(style):
    tokenizer = styled(style)
    assert tokenizer.chat_template is None
    assert tokenizer.convert_ids_to_tokens(tokenizer("Begin and WAIT").input_ids) == (
        ["[CLS]", "begin", "and", "wait", "[SEP]"]
    )
    pair = tokenizer.convert_ids_to_tokens(tokenizer("begin", "wait").input_ids)
    assert pair == ["[CLS]", "begin", "[SEP]", "wait", "[SEP]"]
    named = (tokenizer.bos_token, tokenizer.eos_token)
    assert named == ((None, None) if style == "bert" else ("[CLS]", "[SEP]"))


def test_pad_may_be_eos():
    tokenizer = styled("gemma", pad="<eos>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_byte_level_knows_every_character_and_metaspace_does_not():
    assert styled("gemma").decode(styled("gemma")("жук ☂", add_special_tokens=False).input_ids) == "жук ☂"
    mistral = styled("mistral")
    assert mistral.unk_token_id in mistral("жук").input_ids


@pytest.mark.parametrize("style", ["gemma", "mistral", "bert"])
def test_training_a_tokenizer_is_deterministic(style):
    assert styled(style).backend_tokenizer.to_str() == styled(style).backend_tokenizer.to_str()


def test_bos_by_post_processor_needs_bos():
    with pytest.raises(ValueError, match="needs a bos token"):
        styled("chatml", bos_by_post_processor=True)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be kind."}, *TURNS],
        [TURNS[0], TURNS[0]],
        [TURNS[1]],
        [TURNS[0], {"role": "tool", "content": "42"}],
    ],
)
def test_gemma_template_refuses_other_roles(messages):
    tokenizer = styled("gemma")
    assert tokenizer.chat_template == CHAT_TEMPLATES["gemma"]
    with pytest.raises(TemplateError, match=r"role|alternate"):
        tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_an_encoders_checkpoint_is_one_of_masked_words(tmp_path, model_type):
    tokenizer = styled("bert")
    build_tiny_checkpoint(tmp_path, tokenizer, tiny_config(model_type, len(tokenizer), **token_ids(tokenizer)))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"][0].endswith("ForMaskedLM")
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1, output_loading_info=True)
    assert {name for name in info["missing_keys"] if "pooler" not in name} == {"classifier.weight", "classifier.bias"}
    assert torch.isfinite(model.eval()(**tokenizer("How do I bake?", return_tensors="pt")).logits).all()


def test_gemma3_is_saved_with_its_eyes(tmp_path):
    tokenizer = styled("gemma")
    config = tiny_config("gemma3", len(tokenizer), **token_ids(tokenizer))
    build_tiny_checkpoint(tmp_path, tokenizer, config)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert config.text_config.layer_types == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(("model_type", "style"), STYLE_OF_MODEL.items())
def test_checkpoint_loads_as_a_classifier_with_its_tokenizer(tmp_path, model_type, style):
    tokenizer = styled(style)
    config = tiny_config(model_type, len(tokenizer), **token_ids(tokenizer))
    build_tiny_checkpoint(tmp_path, tokenizer, config)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert rendered_ids(loaded) == rendered_ids(tokenizer)
    assert token_ids(loaded) == token_ids(tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rewards = model(torch.tensor([rendered_ids(tokenizer)])).logits
    assert rewards.shape == (1, 1)
    assert torch.isfinite(rewards).all()


def test_configurations_keep_what_sets_an_architecture_apart():
    assert tiny_config("mistral", 300).sliding_window == 16
    gemma2 = tiny_config("gemma2", 300, num_hidden_layers=3)
    assert gemma2.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    assert gemma2.attn_logit_softcapping == 2.0
    assert tiny_config("gemma3_text", 300).layer_types == ["sliding_attention", "full_attention"]


def test_checkpoint_depends_on_the_seed_alone(tmp_path):
    tokenizer = styled("gemma")
    config = tiny_config("gemma", len(tokenizer), **token_ids(tokenizer))
    state = torch.random.get_rng_state()
    files = [build_tiny_checkpoint(tmp_path / str(i), tokenizer, config, seed=i // 2) for i in range(3)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in files]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_checkpoint_refuses_a_tokenizer_that_is_too_large(tmp_path):
    with pytest.raises(ValueError, match="the configuration only 10"):
        build_tiny_checkpoint(tmp_path, styled("gemma"), tiny_config("gemma", 10))


@pytest.fixture(scope="module")
def preferences():
    return learnable_preferences(1000, seed=0)


def test_preferences_depend_on_the_seed_alone(preferences):
    assert learnable_preferences(1000, seed=0) == preferences
    assert learnable_preferences(1000, seed=1) != preferences


def test_preferences_are_in_the_standard_format(preferences):
    for row in preferences:
        assert row["chosen"][:-1] == row["rejected"][:-1]
        assert row["chosen"][-1] != row["rejected"][-1]
        assert [m["role"] for m in row["chosen"]] == ["user", "assistant"] * (len(row["chosen"]) // 2)
        assert row["source"] == ("question" if len(row["chosen"]) == 2 else "follow_up")
    assert {row["source"] for row in preferences} == {"question", "follow_up"}


def test_every_prompt_is_one_group_of_one_three_or_six_pairs(preferences):
    questions = [row["chosen"][-2]["content"] for row in preferences]
    sizes = {question: questions.count(question) for question in set(questions)}
    assert len(sizes) == 1000
    assert set(sizes.values()) == {1, 3, 6}
    changes = sum(before != after for before, after in itertools.pairwise(questions))
    assert changes == 999  # the pairs of a prompt follow each other


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("measure", [len, lambda text: len(text.split())], ids=["characters", "words"])
def test_length_is_not_the_cue(seed, measure):
    rows = learnable_preferences(1000, seed)
    gaps = [measure(row["chosen"][-1]["content"]) - measure(row["rejected"][-1]["content"]) for row in rows]
    longer_wins = sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps) / len(gaps)
    assert 0.45 < longer_wins < 0.55


def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match="num_prompts: expected at most 2400"):
        learnable_preferences(2401, seed=0)


def run_folder(tmp_path, history):
    output = tmp_path / "output"
    output.mkdir()
    (output / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return output


def history_of(before, after):
    return [
        {"eval_accuracy": before, "step": 0},
        {"eval_accuracy": after, "step": 200},
        {"train_runtime": 61.0, "step": 200},
    ]


def test_report_shows_before_and_after(tmp_path, capsys):
    report(run_folder(tmp_path, history_of(0.5, 0.98)))
    printed = capsys.readouterr().out
    assert "0.500" in printed
    assert "0.980" in printed
    assert "61 s" in printed


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (history_of(0.5, 0.9), "expected more than 0.9 after training, found 0.900"),
        (history_of(0.5, 0.98)[1:], "expected eval_accuracy at step 0 and after training"),
        (history_of(0.5, 0.98)[:2], "expected an entry with train_runtime"),
    ],
)
def test_report_refuses_a_run_that_did_not_learn(tmp_path, history, message):
    with pytest.raises(UserError, match=message):
        report(run_folder(tmp_path, history))


def test_report_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"trainer_state\.json, found no such file"):
        report(tmp_path)
