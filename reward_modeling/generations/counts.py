"""What became of the rows: how many, which were not scored and why, what is worth a look."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from reward_modeling.data.pairs import RENDERED_PROMPTS
from reward_modeling.display.text import align, shorten
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.forms.sides import BEGINS_WITH_PROMPT, BEHIND_ASSISTANT, MESSAGES_AS_TEXT

# Notes that are made of rows, beside those of `forms`.
EQUAL_ANSWERS = "rows with equal answers, which have equal rewards"
NO_NUMBERS = "rows with NaN or Infinity, which JSON has not: null in the output"
CONTROL = "answers with control tokens of the tokenizer, which a sampler has left there"
FOREIGN = "answers with marks of another chat template"
LOSES_ANSWER = "answers of which the chat template leaves out a part"
LOSES_MESSAGE = "answers of whose prompt the chat template leaves out a message"
ESCAPED = "rows that hold a mark of the text of comparisons, which is written in another way there"
MAY_BE_STEPS = "rows of `completions` and `labels`, which may be the steps of one answer"
# What to do about some of them.
ADVICE = {
    CONTROL: "the reward is of what stands behind the end of an answer too. Take the tokens off, and score again.",
    LOSES_ANSWER: "the reward is of what the template writes. Pass --chat_template FILE where it should write all.",
    RENDERED_PROMPTS: "where prompts and answers are texts for the model already, pass --plain_text true.",
    BEHIND_ASSISTANT: "where an answer goes on with that turn, give the turn whole, as the last of `messages`.",
    MESSAGES_AS_TEXT: "where they stand for messages, write them as lists, or in a column named messages.",
    BEGINS_WITH_PROMPT: "some samplers give back the prompt before the answer. Take it off, and score again.",
}
ADVICE |= {
    MAY_BE_STEPS: "each was scored as an answer of its own. Give the steps of one answer as `completion`, a list.",
    NotScored.ALONE.words: "give all answers to a prompt in one row, as `responses`.",
}
SHOWN_WIDTH = 70  # characters of what the first row of a kind shows


@dataclass
class First:
    """How often something is, and the first place."""

    rows: int = 0
    answers: int = 0
    first: str = ""
    detail: str = ""


@dataclass
class Counts:
    """As JSON in the state of a run and in its manifest."""

    rows: int = 0
    rows_scored: int = 0  # with a reward for one of their answers or more
    answers: int = 0
    scored: int = 0
    forms: dict[str, int] = field(default_factory=dict)
    not_scored: dict[str, First] = field(default_factory=dict)
    notes: dict[str, First] = field(default_factory=dict)
    cut: int = 0
    cut_tokens: int = 0
    tokens: int = 0
    # Of a pairwise model, of which `cut` counts single orders.
    comparisons: int = 0
    flips: int = 0  # the two orders say otherwise

    @classmethod
    def of_json(cls, content: Mapping) -> "Counts":
        counts = cls(**content)
        for name in ("not_scored", "notes"):
            setattr(counts, name, {key: First(**of) for key, of in content.get(name, {}).items()})
        return counts

    def as_json(self) -> dict:
        return asdict(self)

    def refuse(self, found: Unreadable, where: str, *, rows: int = 0, answers: int = 0) -> None:
        _add(self.not_scored, found.reason.value, where, found.detail, rows, answers)

    def note(self, note: str, where: str, detail: str = "", *, rows: int = 0, answers: int = 0) -> None:
        _add(self.notes, note, where, detail, rows, answers)


def _add(found: dict[str, First], key: str, where: str, detail: str, rows: int, answers: int) -> None:
    entry = found.setdefault(key, First(first=where, detail=detail))
    entry.rows += rows
    entry.answers += answers


def report(counts: Counts) -> str:
    """The counts for the screen."""
    lines = [
        f"{_count(counts.rows, 'row')}, {_count(counts.answers, 'answer')}: {counts.scored:,} scored in "
        f"{_count(counts.rows_scored, 'row')}",
        *_table("not scored, because", ((NotScored(key).words, of) for key, of in counts.not_scored.items())),
        *_table("of note", counts.notes.items()),
    ]
    lines += [f"{words.capitalize()}: {ADVICE[words]}" for words in _words_of(counts) if words in ADVICE]
    if counts.comparisons:
        lines += _comparisons(counts)
    if counts.cut:
        unit = "order" if counts.comparisons else "answer"
        lines.append(
            f"{_count(counts.cut, unit)} cut to max_length, which takes the beginning of the prompt: "
            f"{_count(counts.cut_tokens, 'token')} in all"
        )
    return "\n".join(lines)


def _words_of(counts: Counts) -> Iterable[str]:
    return [*(NotScored(key).words for key in counts.not_scored), *counts.notes]


def _comparisons(counts: Counts) -> list[str]:
    share = counts.flips / counts.comparisons
    return [
        f"{_count(counts.comparisons, 'comparison')} of two answers, each in both orders, which say otherwise in "
        f"{share:.1%} of them",
        "A reward is the mean probability that an answer is better than another one of its row. It is 0.5 on average "
        "in every row, and does not compare with rewards of other rows or models.",
    ]


def _table(head: str, entries: Iterable[tuple[str, First]]) -> list[str]:
    rows = [(words, _how_many(of), _first(of)) for words, of in entries]
    return align([(head, "", "first"), *rows], words=(0, 2)) if rows else []


def _how_many(of: First) -> str:
    """Rows, and answers of others."""
    return " and ".join(_count(number, unit) for number, unit in ((of.rows, "row"), (of.answers, "answer")) if number)


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _first(of: First) -> str:
    return f"{of.first}: {shorten(of.detail, SHOWN_WIDTH)}" if of.detail else of.first
