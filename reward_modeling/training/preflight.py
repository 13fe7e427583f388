"""What the model will see, shown before the first step, and checks that refuse what cannot work."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.examples import RowReader
from reward_modeling.data.loader import PromptGroups
from reward_modeling.models.tokenizer import answer_ending, is_for_encoder, leading_bos, special_ids

GROUPS_CHECKED = 200  # spread evenly over the data
SHOWN_TOKENS = 8  # at each of the places that the table shows


def run_preflight(
    groups: PromptGroups, tokenizer: PreTrainedTokenizerBase, reader: RowReader, *, conversations: bool
) -> tuple[str, list[str]]:
    """Show one real unit and check a sample of the groups, token by token.

    Args:
        conversations: whether the rows are message lists, for which the template ends every answer; plain texts
            end in EOS.

    Returns:
        The table for the screen and the problems found, each with what to do about it.
    """
    problems = []
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        problems.append(
            f"pad token: expected one that is not EOS, found {tokenizer.pad_token!r}. Set tokenizer.pad_token."
        )
    numbers = np.flatnonzero(groups.sizes.units_per_group)
    sample = numbers[np.linspace(0, len(numbers) - 1, min(GROUPS_CHECKED, len(numbers))).astype(int)]
    ending = expected_ending(tokenizer, conversations)
    for number in sample.tolist():
        problems += check_group(groups.groups[number], tokenizer, ending)
    table = show_unit(groups.groups[int(numbers[0])], tokenizer, reader)
    return table, list(dict.fromkeys(problems))


def expected_ending(tokenizer: PreTrainedTokenizerBase, conversations: bool) -> list[int]:
    """Token ids in which every row must end."""
    if not conversations:
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ending = answer_ending(tokenizer)
    # what stands before the first special token may merge with the last characters of an answer
    special = special_ids(tokenizer)
    first = next((place for place, token_id in enumerate(ending) if token_id in special), len(ending))
    return ending[first:]


def check_group(group: dict, tokenizer: PreTrainedTokenizerBase, ending: list[int]) -> list[str]:
    """Problems of one group, each with the row that shows it."""
    problems = []
    where = group["where"][0]
    bos = leading_bos(tokenizer)
    for completion, positions in zip(group["completion_ids"], group["read_positions"], strict=True):
        ids = group["prefix_ids"] + completion
        if bos and (ids[:1] != bos or ids[1:2] == bos):
            found = "none" if ids[:1] != bos else "two"
            problems.append(f"BOS: expected exactly one {tokenizer.bos_token!r} in front, found {found} ({where}).")
        if ending and ids[-len(ending) :] != ending:
            problems.append(
                f"end of the answer: expected {tokenizer.convert_ids_to_tokens(ending)}, found "
                f"{tokenizer.convert_ids_to_tokens(ids[-len(ending) :])} ({where}). "
                "The template must end every answer in the same way."
            )
        if tokenizer.pad_token_id in (ids[position] for position in positions):
            problems.append(
                f"scored token: it is the pad token {tokenizer.pad_token!r}, which readers of the saved model skip "
                f"({where}). Give the tokenizer another pad token."
            )
        if not completion:
            problems.append(f"scored token: it stands before the answers part ({where}).")
    return problems


def show_unit(group: dict, tokenizer: PreTrainedTokenizerBase, reader: RowReader) -> str:
    """One unit as the model sees it: beginning, where the answers part, end, tokens at which a reward is read."""

    def text(ids: list[int]) -> str:
        return repr(tokenizer.decode(ids))

    prefix, members = group["prefix_ids"], group["units"][0]
    lines = [
        f"One {reader.unit.removesuffix('s')} as the model sees it ({group['where'][0]}):",
        f"  begins      {text(prefix[:SHOWN_TOKENS])}",
        f"  parts after {text(prefix[-SHOWN_TOKENS:])}  ({len(prefix)} tokens shared)",
    ]
    names = reader.completion_names or [f"answer {number}" for number, _ in enumerate(members, start=1)]
    for name, number in zip(names, members, strict=True):
        completion = group["completion_ids"][number]
        ids = prefix + completion
        reads = (f"at token {position}, {text([ids[position]])}" for position in group["read_positions"][number])
        where = f"the reward is read {' and '.join(reads)}"
        if is_for_encoder(tokenizer):
            where = f"an encoder reads the reward off the whole text, pooled at its {tokenizer.cls_token!r}"
        lines.append(f"  {name:<11} {text(completion[:SHOWN_TOKENS])} ... {text(completion[-4:])}")
        lines.append(f"  {'':<11} {len(completion)} tokens; {where}")
    return "\n".join(lines)
