"""From prompts with scored answers to preference pairs, or to lists of ranked answers.

    pairs = build_pairs(arguments, SOURCE, to_answers)     # arguments.pairs says how
    pairs = pairs_from_answers(read_answers(arguments, SOURCE, to_answers), "distinct_scores", seed=0)

How a prompt's answers make pairs stands in `answer_choice.py`; "lists" makes none: a prompt is one row with all its
answers, from the best on, and their ranks. A list of two answers is a pair without scores.

Before that, an answer without a score (null, NaN, infinite) goes, and so does one without words. A text that was given
several times is one answer with the mean of its scores: otherwise it could be better and worse than a third at once.

What is drawn is the smallest hash of seed, prompt and answer: the same in any order of the rows and on any number of
workers. Prompts stand in the order in which they first appear, the pairs of a prompt from the best chosen answer on.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence, Set
from copy import deepcopy
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from reward_modeling.common.launch import worker_count
from reward_modeling.data import preferences
from reward_modeling.data.cached_rows import cache_error, cache_root, map_processes
from reward_modeling.data.keys import mix_keys, text_key
from reward_modeling.data.labels import FLOAT32_MAX
from reward_modeling.data.preferences import dropped_row, kept_rows, read_column, standardise_row
from reward_modeling.data.report import DropReason, report_rows
from reward_modeling.preference_sets.answer_choice import PAIR_CHOICES, choose_pairs, score_levels
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.source import (
    EXCERPT_LENGTH,
    PAIR_FEATURES,
    PreferenceSource,
    SourcePairs,
    SourceRows,
    add_pair_keys,
    note_pairs,
    number_column,
    read_answers,
)

CACHE_VERSION = 2  # to be raised when other pairs are made than before
LISTS = "lists"
ANSWER_CHOICES = (*PAIR_CHOICES, LISTS)
CHOICES_HELP = f"{', '.join(PAIR_CHOICES)}; or lists: a row for each prompt, with all its answers and their ranks."
PROMPTS_PER_BATCH = 256
ROWS_PER_WORKER = 2000  # a worker process costs about as much as the pairs of this many rows

# Counted per prompt, in the first of its rows; the words are those of the report.
TALLIES = {
    "unscored": "answers without a score",
    "empty": "empty answers",
    "repeated": "answers that repeat another",
    "undecided": "prompts without two different scores",
}
MADE_FEATURES = Features({**PAIR_FEATURES, **{name: Value("int64") for name in TALLIES}})


class _Answer(NamedTuple):
    """A distinct answer of a prompt."""

    text: str
    score: float
    places: tuple[int, ...]  # rows of the prompt that have it


def build_pairs(arguments: SourceArguments, source: PreferenceSource, to_answers: Callable[..., dict]) -> SourcePairs:
    """The pairs or lists of a set of scored answers, as the flags `pairs` and `write_margin` of its script say."""
    answers = read_answers(arguments, source, to_answers)
    return pairs_from_answers(
        answers, arguments.pairs, arguments.seed, num_proc=arguments.num_proc, write_margin=arguments.write_margin
    )


def list_problems(arguments: SourceArguments) -> list[str]:
    """What is wrong with the flags of a script where lists are made."""
    if arguments.pairs != LISTS or not arguments.write_margin:
        return []
    return ["--write_margin: expected with pairs, as a list has ranks alone, found --pairs lists"]


def pairs_from_answers(
    answers: SourceRows, how: str, seed: int, *, num_proc: int | None = None, write_margin: bool = False
) -> SourcePairs:
    """Make the pairs of every prompt; rows of one prompt may stand anywhere.

    The report counts the source's rows: one is kept where an answer of it is in a pair. Else its reason is the first
    of: no score, an empty reply, too few different scores for its prompt, what `standardise_row` says, not drawn.

    Args:
        how: one of `ANSWER_CHOICES`.
        num_proc: worker processes, at most one for `ROWS_PER_WORKER` rows; None: one per core, at most 16.
        write_margin: give each pair a `margin`, the difference of its scores (rm.py subtracts it in the loss).

    Raises:
        UserError: the cache cannot be written.
    """
    if how not in ANSWER_CHOICES:
        raise ValueError(f"how: expected one of {', '.join(ANSWER_CHOICES)}, found {how!r}")
    made = _made_rows(answers.rows, how, seed, num_proc, write_margin)
    report = deepcopy(answers.report)
    for reason, dropped in report_rows(report.name, made).dropped.items():
        report.add(reason, dropped.count, dropped.first_where, dropped.first_excerpt)
    rows = made.select(kept_rows(made)).select_columns(list(PAIR_FEATURES))
    count = pc.sum(pc.list_value_length(read_column(answers.rows, "answers"))).as_py() or 0
    report.notes |= {"prompts read": len(np.unique(number_column(answers.rows, "group_key"))), "answers": count}
    report.notes |= {words: int(number_column(made, name).sum()) for name, words in TALLIES.items()}
    note_pairs(report, rows)
    return SourcePairs(answers.source, rows, report, answers.options, made_of_answers=True)


# --- rows of one prompt ---------------------------------------------------------------------------------------


def _made_rows(rows: Dataset, how: str, seed: int, num_proc: int | None, write_margin: bool) -> Dataset:
    """`MADE_FEATURES`: a row for each pair, and one with a reason for each source row that is in none."""
    if not len(rows):
        return Dataset.from_dict({name: [] for name in MADE_FEATURES}, features=MADE_FEATURES)
    order, starts = _prompt_order(number_column(rows, "group_key"))
    options = {"how": how, "seed": seed, "write_margin": write_margin}
    versions = [preferences.CACHE_VERSION, CACHE_VERSION]
    fingerprint = datasets.fingerprint.Hasher.hash([versions, rows._fingerprint, options])
    try:
        return Dataset.from_dict({"start": starts[:-1], "end": starts[1:]}).map(
            _make_batch,
            batched=True,
            batch_size=PROMPTS_PER_BATCH,
            remove_columns=["start", "end"],
            features=MADE_FEATURES,
            fn_kwargs={"rows": rows.select(order), **options},
            num_proc=map_processes(worker_count(num_proc), len(order), ROWS_PER_WORKER),
            cache_file_name=str(cache_root() / f"pairs-{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            desc="making pairs",
        )
    except OSError as error:
        raise cache_error(error) from error


def _prompt_order(keys: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Rows with equal keys side by side, `(rows,)`, and where each key's start, `(keys + 1,)`.

    Keys stand in the order in which they first appear, so that reading the rows is nearly sequential.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[inverse]
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(first)))])
    return np.argsort(group, kind="stable"), starts.astype(np.int64)


def _make_batch(batch: dict, rows: Dataset, how: str, seed: int, write_margin: bool) -> dict[str, list]:
    first = batch["start"][0]
    table = rows.select(range(first, batch["end"][-1])).to_list()
    made: list[dict] = []
    for start, end in zip(batch["start"], batch["end"], strict=True):
        same_key = table[start - first : end - first]
        for prompt in dict.fromkeys(row["prompt"] for row in same_key):  # several are all but impossible
            made += _made_of_prompt([row for row in same_key if row["prompt"] == prompt], how, seed, write_margin)
    return {name: [row[name] for row in made] for name in MADE_FEATURES}


def _made_of_prompt(group: list[dict], how: str, seed: int, write_margin: bool) -> list[dict]:
    """The pairs of a prompt, and its rows that are in none of them. Never nothing: a row is in a pair or dropped."""
    tally = dict.fromkeys(TALLIES, 0)
    answers, reasons = _distinct_answers(group, tally)
    levels = score_levels([answer.score for answer in answers])
    tally["undecided"] = int(len(set(levels)) < 2)
    made, used = [], set()
    failure = DropReason.TOO_FEW_ANSWERS if tally["undecided"] else DropReason.NOT_SAMPLED
    for compared, row in _rows_of_answers(group, answers, levels, how, seed, write_margin):
        if row["reason"]:
            failure = DropReason(row["reason"])
        else:
            made.append(row)
            used.update(place for answer in compared for place in answer.places)
    for place, row in enumerate(group):
        if place not in used:
            scores = ", ".join(map(str, row["scores"])) or "none"
            excerpt = f"scores {scores}: {row['prompt']}"[:EXCERPT_LENGTH]
            dropped = dropped_row(row["where"], reasons.get(place, failure), excerpt)
            made.append({**dropped, "group_key": 0, "pair_key": 0})
    made[0] |= tally
    return [{**dict.fromkeys(TALLIES, 0), **row} for row in made]


def _rows_of_answers(
    group: list[dict], answers: list[_Answer], levels: list[int], how: str, seed: int, write_margin: bool
) -> Iterator[tuple[Sequence[_Answer], dict[str, object]]]:
    """The rows that a prompt's answers make, each with the answers that are in it."""
    if how == LISTS:
        if len(set(levels)) > 1:
            yield answers, _list(group, answers, levels)
        return
    keys = np.array([text_key(group[0]["prompt"], answer.text.strip()) for answer in answers], dtype=np.int64)
    for better, worse in choose_pairs(levels, mix_keys(keys, seed).tolist(), how):
        compared = (answers[better], answers[worse])
        yield compared, _pair(group, *compared, write_margin)


def _distinct_answers(group: list[dict], tally: dict[str, int]) -> tuple[list[_Answer], dict[int, DropReason]]:
    """The answers that can be compared, the best first; and why a row has none of them.

    Templates trim messages: texts that differ in the white space around them are one answer.
    """
    found: dict[str, list[tuple[str, float, int]]] = {}
    reasons: dict[int, DropReason] = {}
    for place, row in enumerate(group):
        answers = zip(row["answers"], row["scores"], strict=True)
        scored = [(text, score) for text, score in answers if score is not None and abs(score) <= FLOAT32_MAX]
        usable = [(text, score) for text, score in scored if text.strip()]
        tally["unscored"] += len(row["answers"]) - len(scored)
        tally["empty"] += len(scored) - len(usable)
        for text, score in usable:
            found.setdefault(text.strip(), []).append((text, score, place))
        if not row["answers"]:
            reasons[place] = DropReason.TOO_FEW_ANSWERS
        elif not usable:
            reasons[place] = DropReason.EMPTY_REPLY if scored else DropReason.NO_SCORE
    answers = []
    for same in found.values():
        texts, scores, places = zip(*same, strict=True)
        tally["repeated"] += len(same) - 1
        # fsum: the mean is the same in any order
        answers.append(_Answer(min(texts), math.fsum(scores) / len(scores), tuple(sorted(set(places)))))
    # by text where scores are equal: so the order does not depend on that of the rows
    return sorted(answers, key=lambda answer: (-answer.score, answer.text)), reasons


def _pair(group: list[dict], chosen: _Answer, rejected: _Answer, write_margin: bool) -> dict[str, object]:
    pair = {
        "prompt": json.loads(group[0]["prompt"]),
        "chosen": chosen.text,
        "rejected": rejected.text,
        "margin": chosen.score - rejected.score if write_margin else None,
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "source": _source_of(group, chosen.places),
    }
    return _standard(group, pair, {chosen.places[0], rejected.places[0]})


def _list(group: list[dict], answers: list[_Answer], levels: list[int]) -> dict[str, object]:
    row = {
        "prompt": json.loads(group[0]["prompt"]),
        "completions": [answer.text for answer in answers],
        "ranks": [1 - level for level in levels],
        "source": _source_of(group, answers[0].places),
    }
    return _standard(group, row, {answer.places[0] for answer in answers})


def _source_of(group: list[dict], places: Sequence[int]) -> str | None:
    """That of a text that may stand in rows of several: the smallest name does not depend on their order."""
    return min((group[place]["source"] for place in places if group[place]["source"] is not None), default=None)


def _standard(group: list[dict], row: dict, places: Set[int]) -> dict[str, object]:
    standard = standardise_row(row, ", ".join(group[place]["where"] for place in sorted(places)))
    return add_pair_keys(standard, group[0]["group_key"])
