"""Steps with labels: a prompt, and a chain or a tree of steps, each right or wrong.

    rows = load_step_rows("data/train.jsonl", options, neutral_steps="drop")

| columns                           | meaning                                                                    |
|-----------------------------------|----------------------------------------------------------------------------|
| `prompt`, `completions`, `labels` | a question, its steps, and whether each is right (TRL)                     |
| `prompt`, `steps`                 | a tree: {"text": ..., "label": ...} for each step, a list for alternatives |
| `messages` or `conversations`     | question and step of the user, "+" or "-" of the assistant, and so on      |
| `input`, `label`                  | texts with the mark "ки" behind each step, and a sign in its place         |
| `question`, `label`               | objects, as in PRM800K                                                     |
| `modified_process`, `error_steps` | steps and the numbers of those that are wrong (PRMBench)                   |
| `prompt`, `response`, `label`     | a whole answer, right or not; `completion` and `is_correct` are read too   |
| `prompt`, `responses`, `labels`   | several answers to one prompt                                              |

What a label may be says `step_labels`. `system`, `tools`, `chat_template_kwargs` and `source` are read as in preference
rows.
"""

from functools import partial

import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from reward_modeling.common.errors import UserError
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.held_prompts import looks_rendered
from reward_modeling.data.keys import prompt_key
from reward_modeling.data.messages import texts_in, to_json
from reward_modeling.data.pairs import RENDERED_PROMPTS, with_system
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped, is_blank
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.data.step_forms import FORMS, FoundSteps, read_steps
from reward_modeling.data.step_labels import LabelReading
from reward_modeling.data.template_options import read_template_options
from reward_modeling.data.unread_columns import is_suspect, unread_columns, unread_message_keys

CACHE_VERSION = 3  # to be raised when other rows come out than before
EXCERPT_LENGTH = 200
SUSPECT_LENGTH = 60
READ = ("system", "tools", "chat_template_kwargs", "source")  # beside what a form reads
ROW_FORMATS = (
    "prompt, completions (steps) and labels; prompt and steps (a tree); messages with + and - of the assistant; the "
    "files of Math-Shepherd, PRM800K and PRMBench; prompt, response and label, for whole answers. Columns of other "
    "names are read by --columns prompt=NAME,completions=NAME,labels=NAME"
)
# Of rows of other kinds their columns, and what to do.
HINTS = (
    (("chosen", "rejected"), "Preference pairs (chosen, rejected) are what rm.py trains on. "),
    (("question", "labels"), "To read question: --columns prompt=question. "),
)
STEP_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),
        "steps": List(Value("string")),
        "parents": List(Value("int32")),  # of each step the number of the one before it, see step_chains.py
        "labels": List(Value("float64")),  # P(right); null where not known
        "neutral": Value("int32"),  # steps with a rating of 0
        "minus_one": Value("bool"),  # a label is -1
        "counted": Value("string"),  # what else its steps show, as JSON: {"in words": how many}; "" for nothing
        "is_text": Value("bool"),
        "source": Value("string"),
        "template_options": Value("string"),
        "form": Value("string"),
        "unread": Value("string"),
        "prompt_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)


def load_step_rows(
    path: str,
    options: ReadOptions,
    neutral_steps: str | None = None,
    *,
    strips: bool = False,
    num_proc: int | None = None,
) -> Dataset:
    """One row of `STEP_FEATURES` for every row of `path`, as `preferences.load_preference_dataset` reads pairs.

    Args:
        neutral_steps: what a rating of 0 is, "right", "wrong", "half" or "drop".
        strips: alternatives that differ in the white space at their ends alone are one.

    Where any label is -1, all labels are ratings.

    Raises:
        UserError: nothing readable at `path`, no steps in it, a broken file; or ratings of 0, or labels of -1, and no
            word of what 0 is.
    """
    load = partial(_load, path, options, neutral_steps, num_proc, strips)
    rows = load()
    are_ratings = pc.any(rows.select_columns(["minus_one"]).with_format("arrow")[:]["minus_one"]).as_py()
    if neutral_steps is None:
        _refuse_neutral(rows)
        if are_ratings:
            raise _labels_are_ratings(rows)
    return load(are_ratings=True) if are_ratings else rows


def _load(
    path: str,
    options: ReadOptions,
    neutral_steps: str | None,
    num_proc: int | None,
    strips: bool,
    *,
    are_ratings: bool = False,
) -> Dataset:
    required, *others = (("prompt", "completions", "labels"), *(form.columns for form in FORMS if form.columns))
    others += [("messages",), ("conversations",), ("prompt", "response"), ("prompt", "completion"), ("responses",)]
    return load_rows(
        path,
        to_row=partial(step_row, options=options, neutral_steps=neutral_steps, are_ratings=are_ratings, strips=strips),
        features=STEP_FEATURES,
        version=f"steps-{CACHE_VERSION}-{neutral_steps}{'-ratings' * are_ratings}{'-stripped' * strips}{options.key}",
        missing=DropReason.NO_STEPS,
        num_proc=num_proc,
        columns=Columns(required, None, ROW_FORMATS, tuple(others), options.columns, HINTS),
        hub=HubOptions(revision=options.revision),
    )


def _refuse_neutral(rows: Dataset) -> None:
    """
    Raises:
        UserError: steps are rated 0.
    """
    counts = rows.select_columns(["neutral"]).with_format("arrow")[:]["neutral"]
    rated = pc.greater(counts, 0)
    if number := pc.sum(rated).as_py():
        where = rows[pc.index(rated, True).as_py()]["where"]
        raise UserError(
            f"expected to be told what a rating of 0 means, found {pc.sum(counts).as_py():,} steps that have it, in "
            f"{number:,} rows (first: {where}). PRM800K says neutral; TRL takes it as wrong, Qwen as right. Pass "
            "--neutral_steps wrong, right, half, which is a label of 0.5, or drop, which takes no loss there."
        )


def _labels_are_ratings(rows: Dataset) -> UserError:
    """What a label of 0 means beside one of -1 has to be said."""
    found = rows.select_columns(["minus_one"]).with_format("arrow")[:]["minus_one"]
    where = rows[pc.index(found, True).as_py()]["where"]
    return UserError(
        f"expected labels from 0 to 1, found labels of -1 in {pc.sum(found).as_py():,} rows (first: {where}). With "
        "these, labels are ratings: -1 is wrong, 1 is right, and 0 is neutral, in all rows. Say what 0 means: "
        "--neutral_steps right, wrong, half, which is a label of 0.5, or drop, which takes no loss there. If -1 means "
        "that a label is missing, write null in its place."
    )


def step_row(
    row: object,
    where: str,
    options: ReadOptions,
    neutral_steps: str | None,
    *,
    are_ratings: bool = False,
    strips: bool = False,
) -> dict[str, object]:
    """The row of one source row; if it cannot be used, with its reason and an excerpt.

    Args:
        are_ratings: labels that are numbers are ratings.
        strips: as `load_step_rows` has it.
    """
    reading = LabelReading(neutral_steps, are_ratings, strips)
    try:
        return {"where": where, **_checked(row, reading, options)}
    except RowDropped as dropped:
        excerpt = f"{dropped.detail} | {to_json(row)}" if dropped.detail else to_json(row)
        nothing = dict.fromkeys(("prompt", "template_options", "form", "unread", "counted"), "")
        nothing |= {"steps": [], "parents": [], "labels": [], "source": None, "prompt_key": 0, "is_text": False}
        shown = excerpt[:EXCERPT_LENGTH].encode(errors="replace").decode()  # half a character must not reach Arrow
        nothing |= {"neutral": reading.neutral, "minus_one": reading.minus_one}
        return {"where": where, **nothing, "reason": dropped.reason.value, "excerpt": shown}


def _checked(row: object, reading: LabelReading, options: ReadOptions) -> dict[str, object]:
    """The fields of a row that passes every check."""
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE)
    row = options.renamed(row)
    found = read_steps(row, reading)
    if not found.tree.steps:
        raise RowDropped(DropReason.NO_STEPS, "no step")
    if all(label is None for label in found.tree.labels):
        raise RowDropped(DropReason.STEPS_NOT_LABELLED)
    prompt, system = found.prompt, row.get("system")
    if prompt[0]["role"] == "user" and looks_rendered(prompt[0]["content"]):
        reading.forms.add(RENDERED_PROMPTS)
    if system is not None and not is_blank(system):
        prompt = with_system(prompt, system)
    return _fields(row, found._replace(prompt=prompt), reading, options)


def _fields(row: Row, found: FoundSteps, reading: LabelReading, options: ReadOptions) -> dict[str, object]:
    prompt, tree, columns = found
    template_options = read_template_options(row) if "tools" in row or "chat_template_kwargs" in row else ""
    source = row.get("source")
    source = source if source is None or isinstance(source, str) else to_json(source)
    names = unread_columns(row, {*READ, *columns, *options.ignored}, texts_in([*prompt, *tree.steps]))
    suspects = {name: to_json(row[name])[:SUSPECT_LENGTH] for name in names if is_suspect(name, row[name])}
    names += unread_message_keys(prompt)
    unread, excerpt = (to_json(said) if said else "" for said in (names, suspects))
    # Templates trim messages: prompts that differ in that alone must not stand on both sides of a split.
    unit = to_json([{**message, "content": message["content"].strip()} for message in prompt])
    texts = {"prompt": to_json(prompt), "source": source, "unread": unread, "excerpt": excerpt}
    try:
        for text in (*texts.values(), *tree.steps):
            (text or "").encode()
        key = prompt_key((unit + template_options).encode())
    except UnicodeEncodeError:  # JSON's "\ud800" is half a character: no text, and Arrow refuses it
        raise RowDropped(DropReason.WRONG_TYPE, "half a character (\\ud800 to \\udfff)") from None
    values = {"steps": tree.steps, "parents": tree.parents, "labels": tree.labels, "neutral": reading.neutral}
    values |= {"minus_one": reading.minus_one, "counted": to_json(reading.counts) if reading.counts else ""}
    values |= {"is_text": False, "template_options": template_options, "form": "; ".join(sorted(reading.forms))}
    return {**texts, **values, "prompt_key": key, "reason": ""}
