"""A head that begins as what a language model says of two words: its row of "A" less its row of "B".

The logits of a language model are its head times the last hidden state, and the softmax over two of them is the
sigmoid of their difference. So a classifier of one label with the difference of two rows as its head gives, before
training, what the language model gives; it needs no logits of the rest of the vocabulary.

The rows are read from the checkpoint's files, which every engine has whole. Where these have no head of their own and
the embeddings are tied to it, they are rows of the embeddings.
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.models.new_parts import HEAD, shapes_alone
from reward_modeling.models.pairwise_format import ANSWERS
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.models.stored_weights import BROKEN_FILES, broken_weights, files_here, shapes_in

logger = logging.getLogger(__name__)

NEW_HEAD = "Pass --init_head new, which begins with a head drawn at random."
# What families multiply their logits with (1) or divide them by (-1), by the beginning of their type's name.
FACTORS = {
    "cohere": ("logit_scale", 1),
    "falcon_h1": ("lm_head_multiplier", 1),
    "granite": ("logits_scaling", -1),
    "hyperclovax": ("logits_scaling", 1),
    "minicpm3": ("logits_scaling", -1),
}
FACTOR_NAMES = {name for name, _ in FACTORS.values()}
CAPS = ("final_logit_softcapping", "logits_soft_cap", "softcap")


def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of "A" and "B", as RLHFlow reads them.

    Raises:
        UserError: one of them is no token of its own.
    """
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ANSWERS]
    if all(len(of) == 1 for of in ids) and ids[0] != ids[1] and tokenizer.unk_token_id not in (ids[0][0], ids[1][0]):
        return ids[0][0], ids[1][0]
    found = ", ".join(f"{word} as {tokenizer.convert_ids_to_tokens(of)}" for word, of in zip(ANSWERS, ids, strict=True))
    raise UserError(
        f"--init_head lm: expected a tokenizer in which A and B are a token each, of which the head is made, found "
        f"{found} ({tokenizer.name_or_path}). {NEW_HEAD}"
    )


def check_language_model(model_name: str, config: PreTrainedConfig) -> None:
    """
    Raises:
        UserError: the difference of two logits of this family's language models is no row of a head.
    """
    wanted = "--init_head lm: expected a causal language model whose logits are its head times its last hidden state"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or reward_model_class(type(config)) is None:
        raise UserError(f"{wanted}, found {model_name} ({config.model_type}), which is none. {NEW_HEAD}")
    _logit_factor(model_name, config)
    if _head_of(config).has_bias:
        raise UserError(
            f"{wanted} and nothing else, found {model_name} ({config.model_type}), whose head has a bias, for which "
            f"a reward model's head has no place. {NEW_HEAD}"
        )
    for name in CAPS:
        if cap := getattr(config, name, None):
            logger.warning(
                "Score head: the language model caps its logits at %g (%s); the head begins as what they are without "
                "the cap.",
                *(cap, name),
            )


def comparison_head(
    model_name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, revision: str | None = None
) -> dict[str, torch.Tensor]:
    """The weight of the head, `(1, hidden)` in float32, by its name in a reward model.

    Raises:
        UserError: see `answer_tokens` and `check_language_model`; or the rows are not in the checkpoint's files.
    """
    tokens, hidden = answer_tokens(tokenizer), config.get_text_config().hidden_size
    names = _head_of(config).rows
    try:
        found = next(filter(None, (_stored_rows(model_name, name, tokens, hidden, revision) for name in names)), None)
    except BROKEN_FILES as error:
        raise broken_weights(model_name, error) from error
    if found is None:
        raise UserError(
            f"--model_name {model_name}: expected {' or '.join(names)} among its weights, of which --init_head lm "
            f"makes the head, found none of {hidden} columns. {NEW_HEAD}"
        )
    stored, rows = found
    logger.warning('Score head: begins as the row of "A" less that of "B" in %s.', stored)
    first, second = rows.float() * _logit_factor(model_name, config)
    return {f"{HEAD}.weight": (first - second)[None]}


class _Head(NamedTuple):
    """Where a family's language models have the rows of their head, and whether it has a bias beside them.

    In the order in which transformers takes them: a head that differs from the embeddings is taken, though the
    configuration ties it to them.
    """

    rows: tuple[str, ...]
    has_bias: bool


def _head_of(config: PreTrainedConfig) -> _Head:
    with shapes_alone():
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](copy.deepcopy(config))
    model.tie_weights()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    modules = (head, embeddings) if head.weight is embeddings.weight else (head,)
    names = {id(each): name for name, each in model.named_modules()}
    return _Head(tuple(f"{names[id(module)]}.weight" for module in modules), getattr(head, "bias", None) is not None)


def _logit_factor(model_name: str, config: PreTrainedConfig) -> float:
    """What the logits are multiplied with.

    Raises:
        UserError: the configuration names a factor, and what the family does with it is not known here.
    """
    names = [name for name in FACTOR_NAMES if getattr(config, name, None) not in (None, 1.0)]
    known = next((FACTORS[family] for family in FACTORS if config.model_type.startswith(family)), None)
    if not names:
        return 1.0
    if known is None or names != [known[0]]:
        raise UserError(
            f"--init_head lm: expected a language model whose logits are its head times its last hidden state, found "
            f"{', '.join(names)} in the configuration of {model_name} ({config.model_type}), of which it is not known "
            f"here what they do. {NEW_HEAD}"
        )
    return float(getattr(config, known[0])) ** known[1]


def _stored_rows(
    model_name: str, name: str, tokens: Sequence[int], hidden: int, revision: str | None
) -> tuple[str, torch.Tensor] | None:
    """The name under which the files have a matrix, and these rows of it, `(rows, hidden)`; None where they have none.

    A model's text part, and a model without its head, have it under a longer name or a shorter one.
    """
    last = ".".join(name.split(".")[-2:])
    for file in files_here(model_name, revision):
        for stored, shape in shapes_in(file).items():
            if f".{stored}".endswith(f".{last}") and len(shape) == 2 and shape[1] == hidden and shape[0] > max(tokens):
                return stored, _rows_of(file, stored, tokens)
    return None


def _rows_of(file: Path, name: str, rows: Sequence[int]) -> torch.Tensor:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            whole = tensors.get_slice(name)
            return torch.cat([whole[row : row + 1] for row in rows])
    weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return weights[name][list(rows)].clone()
