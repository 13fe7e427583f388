"""Tiny models and data built from nothing, for the quickstart, the tests and the benchmarks.

Nothing is downloaded: a tokenizer is trained on the spot, a model is a random one of the real architecture,
and the preferences follow a rule that a small model can learn.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from reward_modeling.tiny_templates import (
    CHATML_TEMPLATE,
    GEMMA3_TEMPLATE,
    GEMMA_TEMPLATE,
    LLAMA3_TEMPLATE,
    MISTRAL_TEMPLATE,
    PHI3_TEMPLATE,
    QWEN3_TEMPLATE,
    QWEN25_TEMPLATE,
)

# Keyword arguments of train_tokenizer that give each family's habits.
TOKENIZER_STYLES: dict[str, dict[str, Any]] = {
    # BOS comes from the post-processor *and* the template: rendering, then tokenising, would write it twice.
    "gemma": {
        "bos": "<bos>",
        "eos": "<eos>",
        "pad": "<pad>",
        "control_tokens": ("<start_of_turn>", "<end_of_turn>"),
        "chat_template": GEMMA_TEMPLATE,
        "bos_by_post_processor": True,
    },
    # No BOS at all; a turn ends in EOS and a newline.
    "chatml": {
        "bos": None,
        "eos": "<|im_end|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|im_start|>",),
        "chat_template": CHATML_TEMPLATE,
    },
    # No pad token.
    "llama3": {
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "pad": None,
        "control_tokens": ("<|start_header_id|>", "<|end_header_id|>"),
        "chat_template": LLAMA3_TEMPLATE,
        "bos_by_post_processor": True,
    },
    # No pad token; the template ends in EOS itself; spaces are written as in SentencePiece.
    "mistral": {
        "kind": "metaspace",
        "bos": "<s>",
        "eos": "</s>",
        "pad": None,
        "control_tokens": ("[INST]", "[/INST]"),
        "chat_template": MISTRAL_TEMPLATE,
        "bos_by_post_processor": True,
    },
    # As chatml, with a system turn that nobody asked for.
    "qwen25": {
        "bos": None,
        "eos": "<|im_end|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|im_start|>",),
        "chat_template": QWEN25_TEMPLATE,
    },
    "qwen3": {
        "bos": None,
        "eos": "<|im_end|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|im_start|>", "<think>", "</think>"),
        "chat_template": QWEN3_TEMPLATE,
    },
    # As Gemma's, but for a system turn, which it takes.
    "gemma3": {
        "bos": "<bos>",
        "eos": "<eos>",
        "pad": "<pad>",
        "control_tokens": ("<start_of_turn>", "<end_of_turn>"),
        "chat_template": GEMMA3_TEMPLATE,
        "bos_by_post_processor": True,
    },
    # Pad is EOS; a BOS that neither the template nor the tokenizer writes.
    "phi3": {
        "kind": "metaspace",
        "bos": "<s>",
        "eos": "<|endoftext|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "chat_template": PHI3_TEMPLATE,
    },
    # An encoder's: [CLS] and [SEP] around every text, no BOS, no EOS, no chat template.
    "bert": {"kind": "wordpiece", "bos": None, "eos": None, "pad": "[PAD]", "control_tokens": ("[MASK]",)},
    # The same two under the names of BOS and EOS as well.
    "deberta": {"kind": "wordpiece", "bos": "[CLS]", "eos": "[SEP]", "pad": "[PAD]", "control_tokens": ("[MASK]",)},
}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: Literal["bpe", "metaspace", "wordpiece"] = "bpe",
    bos: str | None = "<bos>",
    eos: str | None = "<eos>",
    pad: str | None = "<pad>",
    control_tokens: Sequence[str] = (),
    chat_template: str | None = None,
    bos_by_post_processor: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` tokens; the same texts give the same tokenizer.

    `kind` is "bpe" for byte-level BPE (nothing is ever unknown), "metaspace" for BPE with spaces written as in
    SentencePiece, where a character not in `texts` becomes `<unk>`, or "wordpiece" for BERT's lower-case words, with
    [CLS] and [SEP] around every text. `pad` may be None or equal `eos`, as in many published tokenizers.
    `control_tokens` are the marks of the chat template, each one token. With `bos_by_post_processor`, plain
    tokenisation adds BOS; `chat_template` may write one as well.
    """
    if bos_by_post_processor and bos is None:
        raise ValueError("bos_by_post_processor needs a bos token, found None")
    unk = {"bpe": None, "metaspace": "<unk>", "wordpiece": "[UNK]"}[kind]
    cls, sep = ("[CLS]", "[SEP]") if kind == "wordpiece" else (None, None)
    special = dict.fromkeys(t for t in (pad, bos, eos, unk, cls, sep, *control_tokens) if t is not None)
    train = {"bpe": _byte_level, "metaspace": _metaspace, "wordpiece": _wordpiece}[kind]
    tokenizer = train(texts, vocab_size, list(special))
    around = (f"{bos} $A", f"{bos} $A {bos} $B") if bos_by_post_processor else None
    if kind == "wordpiece":
        around = (f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1")
    if around is not None:
        ids = [(token, tokenizer.token_to_id(token)) for token in (bos, cls, sep) if token is not None]
        tokenizer.post_processor = processors.TemplateProcessing(single=around[0], pair=around[1], special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def _byte_level(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _train_bpe(tokenizer, texts, vocab_size, special, pre_tokenizers.ByteLevel.alphabet())


def _metaspace(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # Newlines stand alone: a template's line breaks must not depend on the words around them.
    newlines = pre_tokenizers.Split(Regex("\n"), "isolated")
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([newlines, metaspace])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return _train_bpe(tokenizer, texts, vocab_size, special, ["\n"])


def _train_bpe(
    tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, special: list[str], alphabet: list[str]
) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wordpiece(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    """Letters and the most frequent words: the trainer of the library gives another vocabulary each time."""
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
    return tokenizer


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The tokenizer's BOS, EOS and pad ids under the names that a model configuration gives them."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


# What sets each architecture apart, kept in a tiny model: heads wider than the hidden size divided by their
# number, windows shorter than a row, a cap that bites.
_TINY_TRAITS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 32},
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
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    # Encoders: attention to later tokens, a pooler; DeBERTa's attention depends on relative positions.
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "deberta-v2": {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
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
    """A configuration of `model_type` with two layers of 64; `overrides` go to the configuration class.

    Give the special ids with `**token_ids(tokenizer)`; without them the model has none. The weights are drawn
    wider than usual (`initializer_range`): attention is then far from uniform, and a wrong mask or position
    shows in the rewards.
    """
    if model_type == "gemma3":
        return _tiny_gemma3(vocab_size, **overrides)
    if model_type not in _TINY_TRAITS:
        raise ValueError(f"model_type: expected one of {sorted([*_TINY_TRAITS, 'gemma3'])}, found {model_type!r}")
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    settings |= _TINY_TRAITS[model_type] | overrides
    if model_type in ("gemma2", "gemma3_text"):
        kinds = itertools.cycle(("sliding_attention", "full_attention"))
        settings.setdefault("layer_types", list(itertools.islice(kinds, settings["num_hidden_layers"])))
    return AutoConfig.for_model(model_type, **settings)


def _tiny_gemma3(vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """Gemma-3 with its eyes: the text part is that of gemma3_text."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoConfig.for_model(
        "gemma3",
        text_config=tiny_config("gemma3_text", vocab_size, **overrides).to_dict(),
        vision_config=sizes | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=vocab_size - 1,
    )


def build_tiny_checkpoint(
    folder: str | Path, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig, seed: int = 0
) -> Path:
    """Save a random language model and its tokenizer to `folder`, as if it came from the Hub.

    An encoder is one of masked words; a model that also takes images is saved whole.
    The weights depend on `config` and `seed` alone, and the caller's random state is left as it was.
    """
    places = config.get_text_config().vocab_size
    if len(tokenizer) > places:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the configuration only {places}")
    language_model = AutoModelForMaskedLM if type(config) in MODEL_FOR_MASKED_LM_MAPPING else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = language_model.from_config(config, dtype=torch.float32)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# The generated preferences. A good answer has three habits: it is kind, it gives a step to take, and it
# offers more help. Of two answers to a question, the one with more of these habits is preferred.
_TASKS = (
    "bake rye bread", "patch a bicycle tyre", "prune an apple tree", "clean a paint brush", "brew green tea",
    "sharpen a kitchen knife", "knit a wool scarf", "tune a guitar", "fold a paper crane", "repot a fern",
    "wax a pair of skis", "iron a linen shirt", "plaster a small hole", "grow mild chillies", "frame a photo",
    "pack a tent", "polish brass handles", "train a young dog", "read a tide table", "store winter squash",
)  # fmt: skip
_OCCASIONS = (
    "before breakfast", "in a small flat", "on a rainy day", "for the first time", "without any help",
    "during the holidays", "with little money", "after a long week", "when guests arrive", "on a Sunday",
    "with a child", "at my uncle's house", "late in autumn", "while travelling", "in half an hour",
)  # fmt: skip
_OPENINGS = (
    "How do I", "What is a good way to", "Please tell me how to", "I would like to", "Can you help me",
    "What do I need in order to", "My neighbour asked me to", "Is it hard to",
)  # fmt: skip
_KIND = (
    "I am glad to help you with this.", "Thank you for a nice question.", "You will manage this very well.",
    "Happy to explain it to you.", "That is a lovely thing to learn.", "Welcome, let us do it together.",
)  # fmt: skip
_RUDE = (
    "I am tired of hearing from you.", "Stop asking me such silly things.", "You will never get this right.",
    "Go and bother someone else.", "That is a foolish thing to want.", "Nobody cares, leave me alone now.",
)  # fmt: skip
_STEP = (
    "First lay out every tool on a table.", "Begin by setting a timer for ten minutes.",
    "Start slowly and check each part twice.", "Write a short list and follow it in order.",
    "Prepare the materials the evening before.", "Practise once on a spare piece.",
)  # fmt: skip
_VAGUE = (
    "It just happens somehow or other I suppose.", "Whatever you try may or may not do anything.",
    "There are things, and then other things.", "Some of it is like that and some is not.",
    "Perhaps anything is possible in the end.", "Maybe so, maybe not, who knows.",
)  # fmt: skip
_OFFER = (
    "Write to me again if anything is unclear.", "I can explain any part in more detail.",
    "Tell me how it went afterwards.", "Ask me for more whenever you wish.", "We can go on from there.",
    "If you get stuck, I will gladly go over it.",
)  # fmt: skip
_DISMISSAL = (
    "I have nothing to add to that.", "Do not come back to me about it.", "Find out the rest by yourself.",
    "That is all you will get out of me.", "This talk is over now.", "I shall not say another word.",
)  # fmt: skip
_ABOUT = (
    "To {task} takes a calm hand.",
    "Many people {task} every year.",
    "It is a pleasure to {task} well.",
)
_NEUTRAL = (
    "It was four o'clock.", "The shop on the corner is open.", "A friend of mine lives by the river.",
    "The radio played an old song.", "There is a blue chair beside the window.", "Tuesday follows Monday.",
    "The bus was on time.", "We had soup.",
)  # fmt: skip


def learnable_preferences(num_prompts: int, seed: int) -> list[dict[str, Any]]:
    """Preference pairs in the standard format whose rule a tiny model learns in a minute or two.

    Every prompt is different and has two to four answers, no two equally good, hence one to six pairs; the
    pairs of a prompt follow each other. One prompt in four is the second question of a dialogue (`source` is
    "follow_up" rather than "question"). All answers draw their length from the same range, so length tells
    nothing. The rows depend on the two arguments alone.
    """
    rng = random.Random(seed)
    prompts = list(itertools.product(_OPENINGS, _TASKS, _OCCASIONS))
    if num_prompts > len(prompts):
        raise ValueError(f"num_prompts: expected at most {len(prompts)}, found {num_prompts}")
    rows = []
    for opening, task, occasion in rng.sample(prompts, num_prompts):
        prompt = [{"role": "user", "content": f"{opening} {task} {occasion}?"}]
        source = "question"
        if rng.random() < 0.25:
            source = "follow_up"
            first = f"{rng.choice(_OPENINGS)} {rng.choice(_TASKS)}?"
            reply = " ".join(rng.sample(_NEUTRAL, 2))
            prompt = [{"role": "user", "content": first}, {"role": "assistant", "content": reply}, *prompt]
        levels = sorted(rng.sample(range(4), rng.randint(2, 4)), reverse=True)
        answers = [[{"role": "assistant", "content": _answer(task, level, rng)}] for level in levels]
        rows += [
            {"chosen": prompt + better, "rejected": prompt + worse, "source": source}
            for better, worse in itertools.combinations(answers, 2)
        ]
    return rows


def _answer(task: str, level: int, rng: random.Random) -> str:
    """An answer about `task` with `level` of the three good habits, filled up to a length of its own."""
    good = rng.sample((True,) * level + (False,) * (3 - level), 3)
    habits = ((_KIND, _RUDE), (_STEP, _VAGUE), (_OFFER, _DISMISSAL))
    sentences = [rng.choice(_ABOUT).format(task=task)]
    sentences += [rng.choice(pair[0] if is_good else pair[1]) for pair, is_good in zip(habits, good, strict=True)]
    length = rng.randint(170, 290)
    fillers = iter(rng.sample(_NEUTRAL, len(_NEUTRAL)))
    while len(" ".join(sentences)) < length:
        sentences.append(next(fillers))
    return " ".join(rng.sample(sentences, len(sentences)))
