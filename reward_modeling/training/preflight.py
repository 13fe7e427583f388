"""What the model will see, shown before the first step, and checks that refuse what cannot work."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.examples import RowReader
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import SHARED_PREFIX
from reward_modeling.data.rendering import TemplateRefuses, render
from reward_modeling.data.report import DataReport
from reward_modeling.models.tokenizer import answer_ending, leading_bos, special_ids, token_ids
from reward_modeling.training.shown_units import show_units
from reward_modeling.training.verdict import data_problems

GROUPS_CHECKED = 200  # spread evenly over the data
PREAMBLE_SHOWN = 80  # characters


def run_preflight(
    groups: PromptGroups,
    tokenizer: PreTrainedTokenizerBase,
    reader: RowReader,
    *,
    conversations: bool,
    reports: Sequence[DataReport] = (),
    shown: int = 1,
    batching: str = SHARED_PREFIX,
    max_tokens: int | None = None,
) -> tuple[str, list[str]]:
    """Show real rows, check a sample of the groups token by token, and look at the counts of the data.

    Args:
        conversations: whether the rows are message lists, for which the template ends every answer; plain texts
            end in EOS.
        shown: how many rows are shown.
        batching, max_tokens: of the micro-batches that the units have to fit into; None: of any size.

    Returns:
        What is shown, and the problems found, each once and with what to do about it.
    """
    problems = data_problems(reports)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        problems.append(
            f"pad token: expected one that is not EOS, found {tokenizer.pad_token!r}. Set tokenizer.pad_token."
        )
    if max_tokens is not None:
        problems += large_unit_problems(groups, reader, batching, max_tokens)
    numbers = np.flatnonzero(groups.sizes.units_per_group)
    sample = numbers[np.linspace(0, len(numbers) - 1, min(GROUPS_CHECKED, len(numbers))).astype(int)]
    ending = expected_ending(tokenizer, conversations) if reader.composer.ends_answers else []
    found: dict[str, list[Problem]] = {}
    for number in sample.tolist():
        of_group = {problem.kind: problem for problem in check_group(groups.groups[number], tokenizer, ending)}
        for kind, problem in of_group.items():
            found.setdefault(kind, []).append(problem)
    for same in found.values():
        where = f"in {len(same):,} of the {len(sample):,} prompts that were looked at; the first: {same[0].where}"
        problems.append(f"{same[0].words} ({where}).{same[0].advice}")
    return show_units(groups, numbers, tokenizer, reader, shown), problems


def large_unit_problems(groups: PromptGroups, reader: RowReader, batching: str, max_tokens: int) -> Iterator[str]:
    """Units of more than two completions may not fit into a micro-batch, and none is ever cut."""
    sizes = groups.sizes
    members, group_of = np.diff(sizes.member_offsets), sizes.group_of_unit
    longest = np.maximum.reduceat(sizes.completion_tokens, sizes.member_offsets[:-1]) if len(members) else members
    may_be_large = (members > 2) & (members * (sizes.prefix_lengths[group_of] + longest) > max_tokens)
    tokens = {}
    for unit in np.flatnonzero(may_be_large).tolist():
        group = int(group_of[unit])
        place = unit - int(sizes.unit_offsets[group])
        tokens[unit] = sizes.chunk(batching, group, place, place + 1).tokens
    too_large = {unit: count for unit, count in tokens.items() if count > max_tokens}
    if not too_large:
        return
    largest = max(too_large, key=too_large.__getitem__)
    least, flag = too_large[largest], "--max_tokens_per_micro_batch"
    instead = f", or {reader.smaller_units}" if reader.smaller_units else ""
    yield (
        f"{flag}: expected at least {least:,}, the tokens of the {members[largest]} answers of "
        f"{groups.of_units('where')[largest]}, which go into one pass together, found {max_tokens:,} (too few for "
        f"{len(too_large):,} of {int((members > 2).sum()):,} lists of answers). Pass {flag} {least}{instead}."
    )


def preamble_problem(tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """What is wrong where the template itself writes more than a row may have, such as a long system text; else ""."""
    if tokenizer.chat_template is None:
        return ""
    shortest = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        text = render(shortest, {}, tokenizer)
    except TemplateRefuses:
        return ""
    tokens = len(token_ids([text], tokenizer)[0])
    if tokens <= max_length:
        return ""
    return (
        f"the chat template writes {tokens:,} tokens around a question and an answer of one sign each, beginning with "
        f"{text[:PREAMBLE_SHOWN]!r}: no row fits into --max_length {max_length:,}. Take a longer one, or a template "
        "that writes less (--chat_template FILE.jinja)."
    )


def expected_ending(tokenizer: PreTrainedTokenizerBase, conversations: bool) -> list[int]:
    """Token ids in which every row must end."""
    if not conversations:
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ending = answer_ending(tokenizer)
    # what stands before the first special token may merge with the last characters of an answer
    special = special_ids(tokenizer)
    first = next((place for place, token_id in enumerate(ending) if token_id in special), len(ending))
    return ending[first:]


class Problem(NamedTuple):
    """What is wrong with a group: problems of one kind are said once."""

    kind: str
    words: str
    where: str
    advice: str = ""


def check_group(group: dict, tokenizer: PreTrainedTokenizerBase, ending: list[int]) -> Iterator[Problem]:
    """Problems of one group, with the row that shows them."""
    where = group["where"][0]
    bos = leading_bos(tokenizer)
    for completion, positions in zip(group["completion_ids"], group["read_positions"], strict=True):
        ids = group["prefix_ids"] + completion
        if bos and (ids[:1] != bos or ids[1:2] == bos):
            found = "none" if ids[:1] != bos else "two"
            yield Problem("BOS", f"BOS: expected exactly one {tokenizer.bos_token!r} in front, found {found}", where)
        if ending and ids[-len(ending) :] != ending:
            yield Problem(
                "ending",
                f"end of the answer: expected {tokenizer.convert_ids_to_tokens(ending)}, found "
                f"{tokenizer.convert_ids_to_tokens(ids[-len(ending) :])}",
                where,
                " The template must end every answer in the same way.",
            )
        if tokenizer.pad_token_id in (ids[position] for position in positions):
            yield Problem(
                "pad",
                f"scored token: it is the pad token {tokenizer.pad_token!r}, which readers of the saved model skip",
                where,
                " Give the tokenizer another pad token.",
            )
        if not completion:
            yield Problem("scored", "scored token: it stands before the answers part", where)
