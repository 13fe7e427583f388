"""Sequences of tokens, the same in training and in scoring: how they begin and end, and what they share."""

from transformers import PreTrainedTokenizerBase


def end_text(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A plain text with EOS at its end, once."""
    eos = tokenizer.eos_token or ""
    return text if text.endswith(eos) else text + eos


def leading_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos_token_id] if the tokenizer itself starts a text with it, else []."""
    bos_token_id = tokenizer.bos_token_id
    starts_with_bos = bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [bos_token_id]
    return [bos_token_id] if starts_with_bos else []


def common_prefix_length(sequences: list[list[int]]) -> int:
    """Tokens that all sequences begin with; every sequence keeps at least its last token to itself."""
    if not sequences:
        return 0
    smallest, largest = min(sequences), max(sequences)
    limit = min(map(len, sequences)) - 1
    for position in range(limit):
        if smallest[position] != largest[position]:
            return position
    return limit
