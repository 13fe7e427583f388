"""Tokenizers trained on the spot, in the styles of published ones.

templates/ has their chat templates: the token layouts and the habits of the published ones, in the fewest words that
keep them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).with_name("templates")

# Keyword arguments of train_tokenizer that give each family's habits.
TOKENIZER_STYLES: dict[str, dict[str, Any]] = {
    # BOS comes from the post-processor *and* the template: rendering, then tokenising, would write it twice.
    "gemma": {
        "bos": "<bos>",
        "eos": "<eos>",
        "pad": "<pad>",
        "control_tokens": ("<start_of_turn>", "<end_of_turn>"),
        "chat_template": (TEMPLATES / "gemma.jinja").read_text(encoding="utf-8").removesuffix("\n"),
        "bos_by_post_processor": True,
    },
    # No pad token.
    "llama3": {
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "pad": None,
        "control_tokens": ("<|start_header_id|>", "<|end_header_id|>"),
        "chat_template": (TEMPLATES / "llama3.jinja").read_text(encoding="utf-8").removesuffix("\n"),
        "bos_by_post_processor": True,
    },
}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    bos: str | None = "<bos>",
    eos: str | None = "<eos>",
    pad: str | None = "<pad>",
    unk: str | None = None,
    control_tokens: Sequence[str] = (),
    chat_template: str | None = None,
    bos_by_post_processor: bool = False,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
    decoder: decoders.Decoder | None = None,
    alphabet: Sequence[str] | None = None,
) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer of at most `vocab_size` tokens; the same texts give the same tokenizer.

    Without a `pre_tokenizer`, its `decoder` and `alphabet` it is one of bytes, to which nothing is unknown. `pad` may
    be None or equal `eos`, as in many published tokenizers. `control_tokens` are the marks of the chat template, each
    one token. With `bos_by_post_processor`, plain tokenisation adds BOS; `chat_template` may write one as well.
    """
    if bos_by_post_processor and bos is None:
        raise ValueError("bos_by_post_processor needs a bos token, found None")
    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys(filter(None, (pad, bos, eos, unk, *control_tokens)))),
        initial_alphabet=alphabet or pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos_by_post_processor:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The tokenizer's BOS, EOS and pad ids under the names that a model configuration gives them."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
