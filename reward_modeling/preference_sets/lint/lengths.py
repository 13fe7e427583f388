"""How long prompts and replies are, in characters and in tokens, and whole pairs as the chat template writes them."""

import json

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.losses import find_losses
from reward_modeling.data.rendering import TemplateRefuses, read_options, render
from reward_modeling.models.tokenizer import end_text, load_tokenizer, token_ids
from reward_modeling.preference_sets.lint.pair_checks import distribution, length_histogram
from reward_modeling.preference_sets.lint.text_measures import SIDES, Measured, join_contents, texts_of_row

TOKENISED_AT_ONCE = 256


def tokenizer_for_lint(path: str, chat_template: str | None) -> PreTrainedTokenizerBase:
    """
    Raises:
        UserError: it cannot be read, or the file is no chat template.
    """
    try:
        return load_tokenizer(path, chat_template)
    except UserError as error:
        raise UserError(str(error).replace("--model_name", "--tokenizer")) from error


def lengths_of(prompt: NDArray, chosen: NDArray, rejected: NDArray) -> dict[str, object]:
    columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    histogram = length_histogram(list(columns.values()))
    histogram["counts"] = dict(zip(columns, histogram["counts"], strict=True))
    return {**{name: distribution(values) for name, values in columns.items()}, "histogram": histogram}


def token_lengths(table: Measured, tokenizer: PreTrainedTokenizerBase, drawn: NDArray[np.int64]) -> dict[str, object]:
    """Lengths of the drawn rows' texts alone, and of the longer conversation of each as the chat template writes it."""
    lengths, rendered = [np.empty((0, 3), dtype=np.int64)], []
    for start in range(0, len(drawn), TOKENISED_AT_ONCE):
        columns = table.rows[drawn[start : start + TOKENISED_AT_ONCE]]
        texts = []
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            rendered.append(_rendered_length(row, tokenizer))
            _, prompt, chosen, rejected = texts_of_row(row)
            texts += [join_contents(prompt), chosen, rejected]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths.append(np.array(list(map(len, ids))).reshape(-1, 3))
    prompts, chosen, rejected = np.concatenate(lengths).T
    whole = np.array([length for length in rendered if length is not None], dtype=np.int64)
    counts = {"pairs": len(drawn), "of": len(table), "refused": len(drawn) - len(whole)}
    return counts | lengths_of(prompts[prompts > 0], chosen, rejected) | {"rendered": distribution(whole)}


def _rendered_length(row: dict, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens of the longer conversation as a model reads it; None where the chat template refuses or loses a part."""
    if row["is_text"]:
        return max(map(len, token_ids([end_text(row[side], tokenizer) for side in SIDES], tokenizer)))
    if tokenizer.chat_template is None:
        return None
    prompt, options = json.loads(row["prompt"]), read_options(row["template_options"])
    texts = []
    for side in SIDES:
        answer = json.loads(row[side])
        try:
            texts.append(render([*prompt, *answer], options, tokenizer))
        except TemplateRefuses:
            return None
        losses = find_losses([*prompt, *answer], texts[-1], len(answer))
        if losses.answer or losses.message:
            return None
    return max(map(len, token_ids(texts, tokenizer)))
