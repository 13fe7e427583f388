"""Tokenizers trained on the spot, in the styles of published ones.

templates/ has their chat templates: the token layouts and the habits of the published ones, in the fewest words that
keep them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8").removesuffix("\n")
    for file in sorted(Path(__file__).with_name("templates").glob("*.jinja"))
}
_GEMMA = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "control_tokens": ("<start_of_turn>", "<end_of_turn>")}
_CHATML = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>", "control_tokens": ("<|im_start|>",)}

# Keyword arguments of train_tokenizer that give each family's habits.
TOKENIZER_STYLES: dict[str, dict[str, Any]] = {
    # BOS comes from the post-processor *and* the template: rendering, then tokenising, would write it twice.
    "gemma": {**_GEMMA, "chat_template": CHAT_TEMPLATES["gemma"], "bos_by_post_processor": True},
    # A system turn stands before the first question, within the user's turn.
    "gemma3": {**_GEMMA, "chat_template": CHAT_TEMPLATES["gemma3"], "bos_by_post_processor": True},
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
    # No pad token.
    "llama3": {
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "pad": None,
        "control_tokens": ("<|start_header_id|>", "<|end_header_id|>"),
        "chat_template": CHAT_TEMPLATES["llama3"],
        "bos_by_post_processor": True,
    },
    # No pad token; the template ends in EOS itself; spaces are written as in SentencePiece.
    "mistral": {
        "kind": "metaspace",
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
        "kind": "metaspace",
        "bos": "<s>",
        "eos": "<|endoftext|>",
        "pad": "<|endoftext|>",
        "control_tokens": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "chat_template": CHAT_TEMPLATES["phi3"],
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
    around = (f"{bos} $A", f"{bos} $A {bos} $B") if bos_by_post_processor else None
    if kind == "wordpiece":
        tokenizer = _wordpiece(texts, vocab_size, list(special))
        around = (f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1")
    else:
        tokenizer = _bpe(texts, vocab_size, list(special), metaspace=kind == "metaspace")
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


def _bpe(texts: Iterable[str], vocab_size: int, special: list[str], *, metaspace: bool) -> Tokenizer:
    if metaspace:
        # Newlines stand alone: a template's line breaks must not depend on the words around them.
        newlines = pre_tokenizers.Split(Regex("\n"), "isolated")
        pre_tokenizer = pre_tokenizers.Sequence([newlines, pre_tokenizers.Metaspace(prepend_scheme="never")])
        decoder, alphabet = decoders.Metaspace(prepend_scheme="never"), ["\n"]
    else:
        pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
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
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
