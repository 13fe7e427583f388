"""The preference test sets: nine sets of pairs, four of which are RewardBench's Prior Sets.

A set is a split on the Hub; of a person's own it is a file, a folder, or a split of a DatasetDict.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.common.paths import named_paths
from reward_modeling.data.held_prompts import are_transcripts, holds_prompt
from reward_modeling.data.messages import Message
from reward_modeling.data.row_forms import is_blank
from reward_modeling.data.sources import ALL_SUFFIXES, SUFFIXES, is_data_file, saved_splits
from reward_modeling.data.transcripts import invites_answer, merge_turns, parse_transcript
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import plain_mean, weighted_mean
from reward_modeling.evaluation.benchmarks.rewardbench import BENCHMARK as REWARDBENCH
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, section_scores
from reward_modeling.evaluation.benchmarks.rows import Fields, UnreadableRow, assistant, messages_of, prompt_of

# `allenai/preference-test-sets`
TEST_SET_ROWS = {
    "anthropic_harmless": 2266,
    "anthropic_helpful": 6192,
    "anthropic_hhh": 221,
    "mtbench_gpt4": 2400,
    "mtbench_human": 3355,
    "pku_better": 9000,
    "pku_safer": 9000,
    "shp": 1741,
    "summarize": 9000,
}
PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
PRIOR_WEIGHT = 0.5  # of the prior sets in the overall score, where a section weighs 1
OVERALL_WITH_PRIOR = "overall with prior sets"


def prior_score(test_set_accuracy: Mapping[str, float]) -> float:
    """Prior Sets: the plain mean of the four `PRIOR_SETS`, whatever their sizes; NaN where one is missing."""
    return plain_mean(test_set_accuracy, PRIOR_SETS)


def overall_with_prior(scores: Mapping[str, float], prior: float) -> float:
    """(Chat + Chat Hard + Safety + Reasoning + 0.5 x Prior Sets) / 4.5; NaN where one is missing."""
    weights = {**dict.fromkeys(SECTIONS, 1), "Prior Sets": PRIOR_WEIGHT}
    return weighted_mean({**scores, "Prior Sets": prior}, weights)


# --- where they stand -----------------------------------------------------------------------------------------

_SHARD = r"-\d{5}-of-\d{5}"
_ENDING = re.compile(rf"({_SHARD})?({'|'.join(map(re.escape, ALL_SUFFIXES))})?$")


def test_set_sources(path: str, flag: str) -> list[tuple[str, str]]:
    """(name, source) of each test set at `path`: the known ones in their order, then others by name.

    A source is what `data.sources.find_source` takes; a set of several shards has one for each. `flag` is for messages.

    Raises:
        UserError: no sets there, or the list of them is malformed.
    """
    local = Path(path).expanduser()
    if local.is_file() or (local / "state.json").is_file():
        sets = [(_set_name(local), path)]
    elif (local / "dataset_dict.json").is_file():
        sets = [(name, f"{path}:{name}") for name in saved_splits(path, local)]
    elif local.is_dir():
        sets = _sets_of_folder(path, local, flag)
    else:
        sets = _listed_sets(path, flag)
    known = list(TEST_SET_ROWS)
    return sorted(sets, key=lambda part: (known.index(part[0]) if part[0] in known else len(known), part[0]))


def _sets_of_folder(path: str, folder: Path, flag: str) -> list[tuple[str, str]]:
    children = list(filter(_may_be_set, sorted(folder.iterdir())))
    if [child.name for child in children] == ["data"] and children[0].is_dir():  # as the Hub lays them out
        children = list(filter(_may_be_set, sorted(children[0].iterdir())))
    if not children:
        found = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
        raise _sets_error(flag, f"found {found} in {path}")
    by_name: dict[str, list[Path]] = {}
    for child in children:
        by_name.setdefault(_set_name(child), []).append(child)
    for name, files in by_name.items():
        if len(files) > 1 and not all(re.search(_SHARD, file.name) for file in files):
            found = " and ".join(file.name for file in files)
            raise _sets_error(flag, f"found {found} in {path}, all for the set {name}")
    return [(name, str(file)) for name, files in by_name.items() for file in files]


def _may_be_set(child: Path) -> bool:
    return is_data_file(child) or (child.is_dir() and not child.name.startswith((".", "_")))


def _set_name(path: Path) -> str:
    return _ENDING.sub("", path.name)


def _listed_sets(path: str, flag: str) -> list[tuple[str, str]]:
    sets = named_paths(path)
    if not sets or not all(map(all, sets)):
        where = f"does not exist in {Path.cwd()}"
        raise _sets_error(flag, f"found {path!r}, which {where} and is no list of names and paths")
    if twice := sorted(name for name, times in Counter(name for name, _ in sets).items() if times > 1):
        raise _sets_error(flag, f"found {', '.join(twice)} twice in {path!r}")
    return sets


def _sets_error(flag: str, found: str) -> UserError:
    return UserError(
        f"{flag}: expected a folder with one {SUFFIXES} file or folder for each set, a DatasetDict folder "
        f"of save_to_disk with one split for each, or a list such as shp=shp.jsonl,summarize=other/file.parquet; "
        f"{found}. The sets are {', '.join(TEST_SET_ROWS)}: name their files after them, once each."
    )


# --- rows -----------------------------------------------------------------------------------------------------


def _read_row(row: dict) -> Fields:
    sides = _whole_sides(row)
    for name, messages in zip(("chosen", "rejected"), sides, strict=True):
        if messages[-1]["role"] != "assistant":
            raise UnreadableRow(f"expected the assistant's message last in {name}, found role {messages[-1]['role']!r}")
        if all(message["role"] == "assistant" for message in messages):
            raise UnreadableRow(f"expected a user's message before the answer, found none in {name} and no prompt")
    chosen, rejected = sides
    # Here two prompts may differ: each side keeps its own turns, and what both begin with is the prompt.
    length = len(list(takewhile(lambda turns: turns[0] == turns[1], zip(chosen[:-1], rejected[:-1], strict=False))))
    return {"prompt": chosen[:length], "chosen": [chosen[length:]], "rejected": [rejected[length:]]}


def _whole_sides(row: dict) -> list[list[Message]]:
    """The whole conversations of chosen and rejected, however the row spells them."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    is_text = isinstance(chosen, str) and isinstance(rejected, str)
    if is_text and are_transcripts(None if is_blank(prompt) else prompt, chosen, rejected):
        return [parse_transcript(text, keep_empty_answer=True) for text in (chosen, rejected)]
    is_transcript = isinstance(prompt, str) and invites_answer(prompt)
    before = parse_transcript(prompt) if is_transcript else prompt_of(prompt)
    if not is_text:
        sides = [messages_of(row[name], name, "assistant") for name in ("chosen", "rejected")]
        held = prompt if isinstance(prompt, str) else before
        is_whole = not before or all(holds_prompt(messages, held) for messages in sides)
        return sides if is_whole else [before + messages for messages in sides]
    if not before:
        raise UnreadableRow(
            "expected a prompt, or chosen and rejected as whole conversations (messages, or transcripts that begin "
            "with 'Human:' and have an 'Assistant:'), found texts without a prompt"
        )
    if is_transcript:  # the answers are part of one: without outer space, and joined to what the assistant said before
        return [merge_turns([*before, assistant(text.strip())]) for text in (chosen, rejected)]
    return [[*before, assistant(text)] for text in (chosen, rejected)]


def _record_lines(benchmark: Benchmark, part: Mapping) -> list[tuple[str, Mapping]]:
    lines = {name: {"value": None} for name in TEST_SET_ROWS} | part["subsets"]
    return [*lines.items(), ("Prior-sets", part["figures"]["Prior Sets"])]


BENCHMARK = Benchmark(
    name="preference_test_sets",
    title="Preference test sets",
    required=("chosen", "rejected"),
    row_formats=(
        "prompt as a text or messages with the two answers as texts, or whole conversations in chosen and rejected "
        "(messages, or transcripts that begin with 'Human:')"
    ),
    read_row=_read_row,
    hub_id="allenai/preference-test-sets",
    splits=tuple(TEST_SET_ROWS),
    path_help="A folder with a file for each set, or name=file,name=file.",
    local_sources=test_set_sources,
    subset_rows=TEST_SET_ROWS,
    figures={"Prior Sets": PRIOR_SETS},
    formula=lambda means, rows: {"Prior Sets": prior_score(means)},
    sections={"Prior Sets": PRIOR_SETS},
    record_lines=_record_lines,
)


def _with_prior(means: Mapping[str, float], rows: Mapping[str, int], *, legacy: bool = False) -> dict[str, float]:
    sections = section_scores(means, legacy_xstest_weights=legacy)
    return {OVERALL_WITH_PRIOR: overall_with_prior(sections, prior_score(means))}


# The one figure that is made of RewardBench and the prior sets.
WITH_PRIOR = Benchmark(
    name="combined",
    title="RewardBench and prior sets",
    parts=(REWARDBENCH.name, BENCHMARK.name),
    figures={OVERALL_WITH_PRIOR: (*REWARDBENCH.subset_rows, *PRIOR_SETS)},
    formula=_with_prior,
    legacy_formula=partial(_with_prior, legacy=True),
)
