"""How rows of steps may be written: what makes a prompt and a tree of steps of every accepted form.

The forms are a table, `FORMS`: a further one is one more function and one line. The function takes the row, of which
the form's columns say something, and gives back what it read (None: the row is not of this form).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.messages import Message, parse_json, says_nothing
from reward_modeling.data.pairs import TRANSCRIPTS, json_type, read_side
from reward_modeling.data.pairs import read_text as read_messages_in_text
from reward_modeling.data.row_forms import Row, RowDropped, is_blank
from reward_modeling.data.step_chains import FIRST
from reward_modeling.data.step_labels import LABEL_KEYS, LabelReading, is_without_text, read_text
from reward_modeling.data.step_marks import MARK, is_signed, read_dialogue, read_marked_text
from reward_modeling.data.step_trees import BLANK, StepTree, read_prm800k, read_tree
from reward_modeling.data.transcripts import invites_answer, parse_transcript

BEYOND = "error_steps beyond the last step, which are passed over"
ANSWERS = ("response", "completion")
OUTCOME_COLUMNS = ("prompt", *ANSWERS, "responses", "completions", *LABEL_KEYS, "labels")


class FoundSteps(NamedTuple):
    """A prompt and its steps, and the columns that they stand in."""

    prompt: list[Message]
    tree: StepTree
    columns: tuple[str, ...]


@dataclass(frozen=True)
class StepForm:
    """A way to write steps down."""

    name: str
    """As reports name it; "" for that of the standard."""
    columns: tuple[str, ...]
    """That a row of this form has."""
    read: Callable[[Row, LabelReading], FoundSteps | None]


def read_steps(row: Row, reading: LabelReading) -> FoundSteps:
    """
    Raises:
        RowDropped: the row is of no form, or what it says cannot be used.
    """
    for form in FORMS:
        if not any(says_nothing(row.get(name)) for name in form.columns):
            found = form.read(row, reading)
            if found is not None:
                reading.forms |= {form.name} - {""}
                return found
    raise RowDropped(DropReason.NO_STEPS)


def read_prompt(value: object, forms: set[str]) -> list[Message]:
    """The messages before an answer; a text is one turn of the user, or the turns of a transcript.

    Raises:
        RowDropped: there are none, or the last one is the assistant's.
    """
    value = read_messages_in_text(value, forms)
    if is_blank(value):
        raise RowDropped(DropReason.NO_STEPS, "prompt is missing")
    if isinstance(value, str) and invites_answer(value) and (turns := parse_transcript(value)):
        forms.add(TRANSCRIPTS)
        value = turns
    prompt = read_side(value, "user", forms)
    if prompt[-1]["role"] == "assistant":
        raise RowDropped(DropReason.WRONG_TYPE, "prompt ends with the assistant: what it says belongs to the steps")
    return prompt


def _list(value: object, name: str) -> list:
    """A list, also one that is written as JSON, as a table of text has it."""
    if isinstance(value, str):
        value = parse_json(value)
    if not isinstance(value, list):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is {json_type(value) if value is not None else 'a text'}")
    return value


def _chain(steps: Sequence[object], labels: Sequence[float | None]) -> StepTree:
    """
    Raises:
        RowDropped: a step is empty or no text, or there are not as many labels.
    """
    texts = [read_text(step) for step in steps]
    if len(texts) != len(labels):
        raise RowDropped(DropReason.LABELS_DIFFER, f"{len(texts)} steps, {len(labels)} labels")
    tree = StepTree()
    tree.add_chain(texts, labels)
    return tree


# --- the forms --------------------------------------------------------------------------------------------------------


def _trl(row: Row, reading: LabelReading) -> FoundSteps | None:
    """{"prompt": "...", "completions": ["step", "step"], "labels": [true, 0.3]}"""
    name = "steps" if says_nothing(row.get("completions")) else "completions"
    steps = row.get(name)
    if isinstance(steps, str) and not isinstance(parse_json(steps), list):
        return None  # a whole answer
    if says_nothing(steps):
        return None
    labels = [reading.label(label) for label in _list(row["labels"], "labels")]
    tree = _chain(_list(steps, name), labels)
    return FoundSteps(read_prompt(row.get("prompt"), reading.forms), tree, ("prompt", name, "labels"))


def _tree(row: Row, reading: LabelReading) -> FoundSteps:
    """{"prompt": "...", "steps": [{"text": "step", "label": 1}, [{"text": "so", "label": 1, "chosen": true}, ...]]}"""
    tree = read_tree(_list(row["steps"], "steps"), reading)
    return FoundSteps(read_prompt(row.get("prompt"), reading.forms), tree, ("prompt", "steps"))


def _prm800k(row: Row, reading: LabelReading) -> FoundSteps | None:
    """{"question": {"problem": "..."}, "label": {"steps": [{"completions": [...], "chosen_completion": 0}]}}"""
    question, label = (
        parse_json(value) if isinstance(value, str) else value for value in (row["question"], row["label"])
    )
    if not (isinstance(question, Mapping) and isinstance(label, Mapping)):
        return None
    tree = read_prm800k(_list(label.get("steps"), "label.steps"), reading)
    return FoundSteps(read_prompt(question.get("problem"), reading.forms), tree, ("question", "label"))


def _prmbench(row: Row, reading: LabelReading) -> FoundSteps:
    """{"modified_question": "...", "modified_process": ["step", "step"], "error_steps": [2]}, counted from 1"""
    steps, errors = (_list(row[name], name) for name in ("modified_process", "error_steps"))
    if not all(isinstance(error, int) and not isinstance(error, bool) and error > 0 for error in errors):
        raise RowDropped(DropReason.WRONG_TYPE, f"error_steps {errors!r:.60}: expected numbers from 1")
    if any(error > len(steps) for error in errors):
        reading.forms.add(BEYOND)
    labels = [float(number not in errors) for number in range(1, len(steps) + 1)]
    name = next((name for name in ("modified_question", "question", "prompt") if not says_nothing(row.get(name))), "")
    columns = ("prompt", "question", "modified_question", "original_question", "original_process", "modified_process")
    tree = _chain(steps, labels)
    return FoundSteps(read_prompt(row.get(name), reading.forms), tree, (*columns, "error_steps"))


def _math_shepherd(row: Row, reading: LabelReading) -> FoundSteps | None:
    """{"input": "Question Step 1: ... ки\\nStep 2: ... ки", "label": "Question Step 1: ... +\\nStep 2: ... -"}"""
    if not (isinstance(row["input"], str) and isinstance(row["label"], str) and MARK in row["input"]):
        return None
    question, steps, labels = read_marked_text(row["input"], row["label"], reading.forms)
    tree = _chain(steps, labels)
    return FoundSteps(read_prompt(question, reading.forms), tree, ("input", "label"))


def _dialogue(row: Row, reading: LabelReading) -> FoundSteps | None:
    """[{"role": "user", "content": "Question Step 1: ..."}, {"role": "assistant", "content": "+"}, ...]"""
    name = "conversations" if says_nothing(row.get("messages")) else "messages"
    value = read_messages_in_text(row.get(name), reading.forms)
    if says_nothing(value) or isinstance(value, str):
        return None
    messages = read_side(value, "user", reading.forms)
    if not is_signed(messages):
        return None
    question = row.get("prompt")
    asked = question if isinstance(question, str) else None
    prompt, steps, labels = read_dialogue(messages, asked, reading.forms)
    tree = _chain(steps, labels)
    return FoundSteps(read_prompt(prompt, reading.forms), tree, (name, *("prompt",) * (asked is not None)))


def _outcome(row: Row, reading: LabelReading) -> FoundSteps | None:
    """{"prompt": "...", "response": "the whole answer", "label": true}; a conversation in messages; or responses and
    labels, of one prompt"""
    label = next((row[name] for name in (*LABEL_KEYS, "labels") if not says_nothing(row.get(name))), None)
    if not says_nothing(row.get("responses")):
        return _outcomes(row, label, reading)
    answer = next((row[name] for name in (*ANSWERS, "completions") if not says_nothing(row.get(name))), None)
    prompt, columns = row.get("prompt"), OUTCOME_COLUMNS
    if answer is None:
        name = "conversations" if says_nothing(row.get("messages")) else "messages"
        value = read_messages_in_text(row.get(name), reading.forms)
        if says_nothing(value) or isinstance(value, str):
            return None
        *prompt, answer = read_side(value, "user", reading.forms)
        columns = (name, *LABEL_KEYS, "labels")
        if answer["role"] != "assistant":
            raise RowDropped(DropReason.LAST_NOT_ASSISTANT, f"{name} end with {answer['role']}")
    if label is None:
        raise RowDropped(DropReason.STEPS_NOT_LABELLED)
    known = label[0] if isinstance(label, list) and len(label) == 1 else label
    tree = _chain([read_text(answer, "the answer")], [reading.label(known)])
    return FoundSteps(read_prompt(prompt, reading.forms), tree, columns)


def _outcomes(row: Row, labels: object, reading: LabelReading) -> FoundSteps:
    """Several answers to one prompt; answers that are objects may have their label in them."""
    answers = _list(row["responses"], "responses")
    if labels is None:
        labels = [
            next((one[name] for name in LABEL_KEYS if name in one), None) for one in answers if isinstance(one, dict)
        ]
    labels, tree = _list(labels, "labels"), StepTree(strips=reading.strips)
    if len(answers) != len(labels):
        raise RowDropped(DropReason.LABELS_DIFFER, f"{len(answers)} responses, {len(labels)} labels")
    blank = [is_without_text(answer) for answer in answers]
    if all(blank):
        raise RowDropped(DropReason.EMPTY_STEP)
    reading.counts += Counter({BLANK: sum(blank)})
    for answer, label, says_nothing_at_all in zip(answers, labels, blank, strict=True):
        if not says_nothing_at_all:
            tree.add(read_text(answer, "an answer"), reading.label(label), FIRST, reading.counts)
    return FoundSteps(read_prompt(row.get("prompt"), reading.forms), tree, OUTCOME_COLUMNS)


FORMS = (
    StepForm("PRM800K", ("question", "label"), _prm800k),
    StepForm("PRMBench", ("modified_process",), _prmbench),
    StepForm("texts with a mark behind each step (Math-Shepherd)", ("input", "label"), _math_shepherd),
    StepForm("dialogues in which the assistant says + or -", (), _dialogue),
    StepForm("", ("labels",), _trl),
    StepForm("trees of alternatives", ("steps",), _tree),
    StepForm("answers with one label each (outcome)", (), _outcome),
)
