"""Tiny models and tokenizers of every family that the tests train and score, beside those of `reward_modeling.tiny`."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from reward_modeling.tiny import models as tiny_models
from reward_modeling.tiny import tokenizers as tiny_tokenizers

# What sets each architecture apart, kept in a tiny model: heads wider than the hidden size divided by their
# number, windows shorter than a row, a cap that bites.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TRAITS: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "llama": {},
    "mistral": {"head_dim": 16, "sliding_window": 16},
    # Experts that are few enough for every one to get tokens.
    "mixtral": {"head_dim": 16, "sliding_window": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    # Query, key and value in one matrix; only half of each head is rotated.
    "phi3": {
        "sliding_window": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 64},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {**_EXPERTS, "head_dim": 32},
    # Encoders: attention to later tokens, a pooler; DeBERTa's attention depends on relative positions.
    "bert": _NO_DROPOUT,
    # ModernBERT: windows to both sides, in two layers of three; it skips padding where it can.
    "modernbert": {"local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": {
        **_NO_DROPOUT,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 0,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
}


def tiny_config(model_type: str, vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """As `tiny.models.tiny_config`, with what sets the architecture apart; gemma3 is Gemma-3 with its eyes."""
    if model_type == "gemma3":
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return AutoConfig.for_model(
            "gemma3",
            text_config=tiny_config("gemma3_text", vocab_size, **overrides).to_dict(),
            vision_config=sizes | {"image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
            image_token_index=vocab_size - 1,
        )
    settings = TRAITS[model_type] | overrides
    if model_type in ("gemma2", "gemma3_text"):
        kinds = itertools.cycle(("sliding_attention", "full_attention"))
        settings.setdefault("layer_types", list(itertools.islice(kinds, settings.get("num_hidden_layers", 2))))
    return tiny_models.tiny_config(model_type, vocab_size, **settings)


CHAT_TEMPLATES = {style: options["chat_template"] for style, options in tiny_tokenizers.TOKENIZER_STYLES.items()} | {
    file.stem: file.read_text(encoding="utf-8").removesuffix("\n")
    for file in sorted(Path(__file__).with_name("chat_templates").glob("*.jinja"))
}
_CHATML = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>", "control_tokens": ("<|im_start|>",)}
# Spaces are written as in SentencePiece, and a character that is not in the texts is unknown. Newlines stand alone: a
# template's line breaks must not depend on the words around them.
_METASPACE = {
    "unk": "<unk>",
    "pre_tokenizer": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    ),
    "decoder": decoders.Metaspace(prepend_scheme="never"),
    "alphabet": ["\n"],
}

# Keyword arguments of train_tokenizer that give each family's habits.
TOKENIZER_STYLES: dict[str, dict[str, Any]] = tiny_tokenizers.TOKENIZER_STYLES | {
    # A system turn stands before the first question, within the user's turn.
    "gemma3": tiny_tokenizers.TOKENIZER_STYLES["gemma"] | {"chat_template": CHAT_TEMPLATES["gemma3"]},
    # No BOS at all; a turn ends in EOS and a newline.
    "chatml": {**_CHATML, "chat_template": CHAT_TEMPLATES["chatml"]},
    # A conversation that does not begin with a system turn gets one.
    "qwen25": {**_CHATML, "chat_template": CHAT_TEMPLATES["qwen25"]},
    # Before the last answer stands a thought, an empty one where the answer has none.
    "qwen3": {
        **_CHATML,
        "control_tokens": ("<|im_start|>", "<think>", "</think>"),
        "chat_template": CHAT_TEMPLATES["qwen3"],
    },
    # No pad token; the template ends in EOS itself.
    "mistral": {
        **_METASPACE,
        "bos": "<s>",
        "eos": "</s>",
        "pad": None,
        "control_tokens": ("[INST]", "[/INST]"),
        "chat_template": CHAT_TEMPLATES["mistral"],
        "bos_by_post_processor": True,
    },
    # Turns end in a mark of their own, and the conversation in EOS, which is the pad token too; a BOS that neither the
    # template nor the tokenizer writes.
    "phi3": {
        **_METASPACE,
        "bos": "<s>",
        "eos": "<|endoftext|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "chat_template": CHAT_TEMPLATES["phi3"],
    },
    # An encoder's: [CLS] and [SEP] around every text, no BOS, no EOS, no chat template.
    "bert": {"wordpiece": True, "bos": None, "eos": None, "pad": "[PAD]", "control_tokens": ("[MASK]",)},
    # The same two under the names of BOS and EOS as well.
    "deberta": {"wordpiece": True, "bos": "[CLS]", "eos": "[SEP]", "pad": "[PAD]", "control_tokens": ("[MASK]",)},
}


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, wordpiece: bool = False, **style: Any):
    """As `tiny.tokenizers.train_tokenizer`; or one of BERT's lower-case words."""
    train = _train_wordpiece if wordpiece else tiny_tokenizers.train_tokenizer
    return train(texts, vocab_size, **style)


def _train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    bos: str | None,
    eos: str | None,
    pad: str,
    control_tokens: tuple[str, ...],
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Letters and the most frequent words: the trainer of the library gives another vocabulary each time."""
    special = list(dict.fromkeys(filter(None, (pad, bos, eos, "[UNK]", "[CLS]", "[SEP]", *control_tokens))))
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(words)))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    tokens = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent])
    vocabulary = {token: number for number, token in enumerate(itertools.islice(tokens, vocab_size))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
