"""What the model will see, shown before the first step, and checks that refuse what cannot work."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.loader import PromptGroups
from reward_modeling.models.support import context_length, context_too_short
from reward_modeling.models.tokenizer import answer_ending, is_for_encoder, leading_bos, no_chat_template, special_ids

GROUPS_CHECKED = 200  # spread evenly over the data
SHOWN_TOKENS = 8  # at each of the places that the table shows


@dataclass
class Preflight:
    """The table for the screen and the problems found, each with its cure."""

    table: str
    problems: list[str]

    def raise_for_problems(self) -> None:
        """
        Raises:
            UserError: all problems in one message.
        """
        if self.problems:
            raise UserError("The preflight found what training cannot work with:\n- " + "\n- ".join(self.problems))


def run_preflight(
    groups: PromptGroups,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    max_length: int,
    conversations: bool,
) -> Preflight:
    """Look at one real pair and check a sample of the groups, token by token.

    Args:
        conversations: whether the rows are message lists, for which the template ends every answer; plain texts
            end in EOS.
    """
    problems = check_tokenizer(tokenizer, config, max_length, conversations)
    numbers = np.flatnonzero(groups.sizes.units_per_group)
    sample = numbers[np.linspace(0, len(numbers) - 1, min(GROUPS_CHECKED, len(numbers))).astype(int)]
    ending = expected_ending(tokenizer, conversations)
    for number in sample.tolist():
        problems += check_group(groups.groups[number], tokenizer, ending)
    table = show_pair(groups.groups[int(numbers[0])], tokenizer)
    return Preflight(table, list(dict.fromkeys(problems)))


def expected_ending(tokenizer: PreTrainedTokenizerBase, conversations: bool) -> list[int]:
    """Token ids in which every row must end."""
    if conversations:
        ending = answer_ending(tokenizer) if tokenizer.chat_template is not None else []
        # what stands before the first special token may merge with the last characters of an answer
        special = special_ids(tokenizer)
        first = next((place for place, token_id in enumerate(ending) if token_id in special), len(ending))
        return ending[first:]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, max_length: int, conversations: bool
) -> list[str]:
    """Problems that do not depend on the rows."""
    problems = []
    if conversations and tokenizer.chat_template is None:
        problems.append(no_chat_template(tokenizer))
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        problems.append(
            f"pad token: expected one that is not EOS, found {tokenizer.pad_token!r}. Set tokenizer.pad_token."
        )
    context = context_length(config)
    if context is not None and max_length > context:
        problems.append(context_too_short(max_length, config))
    return problems


def check_group(group: dict, tokenizer: PreTrainedTokenizerBase, ending: list[int]) -> list[str]:
    """Problems of one group of pairs, each with the row that shows it."""
    problems = []
    where = group["where"][0]
    prefix = group["prefix_ids"]
    bos = leading_bos(tokenizer)
    for completion in group["completion_ids"]:
        ids = prefix + completion
        if bos and (ids[:1] != bos or ids[1:2] == bos):
            found = "none" if ids[:1] != bos else "two"
            problems.append(f"BOS: expected exactly one {tokenizer.bos_token!r} in front, found {found} ({where}).")
        if ending and ids[-len(ending) :] != ending:
            problems.append(
                f"end of the answer: expected {tokenizer.convert_ids_to_tokens(ending)}, found "
                f"{tokenizer.convert_ids_to_tokens(ids[-len(ending) :])} ({where}). "
                "The template must end every answer in the same way."
            )
        if ids[-1] == tokenizer.pad_token_id:
            problems.append(
                f"scored token: it is the pad token {tokenizer.pad_token!r}, which readers of the saved model skip "
                f"({where}). Give the tokenizer another pad token."
            )
        if not completion:
            problems.append(f"scored token: it stands before the answers part ({where}).")
    return problems


def show_pair(group: dict, tokenizer: PreTrainedTokenizerBase) -> str:
    """One pair as the model sees it: beginning, where the answers part, end, scored token."""
    prefix = group["prefix_ids"]
    lines = [f"One pair as the model sees it ({group['where'][0]}):"]
    lines.append(f"  begins      {_shown(prefix[:SHOWN_TOKENS], tokenizer)}")
    lines.append(f"  parts after {_shown(prefix[-SHOWN_TOKENS:], tokenizer)}  ({len(prefix)} tokens shared)")
    for side, number in zip(("chosen", "rejected"), group["units"][0], strict=True):
        ids = group["completion_ids"][number]
        position = len(prefix) + len(ids) - 1
        lines.append(f"  {side:<11} {_shown(ids[:SHOWN_TOKENS], tokenizer)} ... {_shown(ids[-4:], tokenizer)}")
        where = f"the reward is read at token {position}, {tokenizer.decode([(prefix + ids)[-1]])!r}"
        if is_for_encoder(tokenizer):
            where = f"an encoder reads the reward off the whole text, pooled at its {tokenizer.cls_token!r}"
        lines.append(f"  {'':<11} {len(ids)} tokens; {where}")
    return "\n".join(lines)


def _shown(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.decode(ids))
