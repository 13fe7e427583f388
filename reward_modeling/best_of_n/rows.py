"""From a scored row to its prompt, answers and rewards.

reader = ScoredRowReader(RewardColumns(by="helpfulness"), RowReader())
prompt = reader.read(row, "scored.jsonl:12", dropped)     # a ScoredPrompt, or None where the row is dropped
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.columns import REWARD_COLUMN, MissingColumns, RewardColumns, value_of
from reward_modeling.best_of_n.dropped import Dropped, Reason
from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.data.keys import text_key
from reward_modeling.data.messages import to_json
from reward_modeling.display.text import shorten
from reward_modeling.generations.added_columns import REWARD_KIND, WIN_PROBABILITY
from reward_modeling.generations.answers import Answers, Unreadable
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.forms.base import of_several_prompts

YES, NO = ("true", "yes", "correct", "1"), ("false", "no", "incorrect", "wrong", "0")
SIDES = ("chosen", "rejected")
SHOWN_WIDTH = 40  # characters of a value that a message shows
GREATEST = 3.4028234663852886e38  # of float32: sums of squares of what is greater would be infinite
STEPS = "steps"
OF_MODELS = ("generator", "model")


@dataclass
class Seen:
    """What the rows turned out to have."""

    rows: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)
    truths: int = 0
    """Answers whose truth is known."""
    finals: int = 0
    steps: int = 0
    """Answers whose steps have probabilities."""
    no_truths: int = 0
    """Answers whose truth is none that is read."""
    first_no_truth: str = ""
    kwargs: int = 0
    """Rows with chat_template_kwargs."""
    kinds: dict[str | None, tuple[int, str]] = field(default_factory=dict)
    """What the rewards of rows are, where they are not a model's own outputs: how many rows, and the first place."""
    sizes: set[int] = field(default_factory=set)
    """How many answers with a reward rows have."""
    unread: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Columns that a row has in another form than is read: how many rows, and the first place."""


class ScoredRowReader:
    """Reads rows one by one and notes what they have."""

    def __init__(self, columns: RewardColumns, reader: RowReader, dropped: Dropped):
        self.columns, self.reader, self.dropped, self.seen = columns, reader, dropped, Seen()
        self.missing = MissingColumns({**columns.named, "--columns": "+".join(reader.columns.named)})

    def read(self, row: Mapping[str, object], where: str, model: str | None = None) -> ScoredPrompt | None:
        """A prompt with the answers of one row, those without a reward too; None where the row is dropped."""
        self.seen.rows += 1
        for name in row:
            self.seen.columns[name] = self.seen.columns.get(name, 0) + 1
        self.missing.see(row)
        try:
            answers = self.reader.read(row)
        except Unreadable as unreadable:
            self.dropped.add(Reason.UNREADABLE_ROW, f"{where} ({unreadable.text})")
            return None
        rewards = self._rewards(row, len(answers))
        if rewards is None or len(rewards) != len(answers):
            found = "" if rewards is None else f" ({len(rewards)} and {len(answers)})"
            self.dropped.add(Reason.NOT_SCORED if rewards is None else Reason.REWARDS_DIFFER, where + found)
            return None
        if of_several_prompts(answers):
            self.dropped.add(Reason.PROMPTS_DIFFER, where)
            return None
        self._see_kind(row, rewards, where)
        return self._prompt(row, answers, rewards, where, model)

    def _see_kind(self, row: Mapping, rewards: Sequence, where: str) -> None:
        kind = row.get(REWARD_KIND) if self.columns.are_scores else None
        kind = WIN_PROBABILITY if kind == WIN_PROBABILITY else None
        number, first = self.seen.kinds.get(kind, (0, where))
        self.seen.kinds[kind] = number + 1, first
        self.seen.sizes.add(sum(finite(reward) is not None for reward in rewards))

    @property
    def are_win_probabilities(self) -> bool:
        return WIN_PROBABILITY in self.seen.kinds

    def _prompt(self, row: Mapping, answers: Answers, rewards: Sequence, where: str, model: str | None) -> ScoredPrompt:
        options = to_json(dict(answers.options)) if answers.options else ""
        self.seen.kwargs += any(name != "tools" for name in answers.options)
        prompt = ScoredPrompt(answers.prompt or "", options, key_of(answers, options), where)
        prompt.source = row["source"] if isinstance(row.get("source"), str) else None
        count = len(answers)
        truths = self._of_answers(row, self.columns.truth_name, count, where)
        finals = self._of_answers(row, self.columns.final, count, where)
        models, steps = _models(row, count), _steps(row, count)
        labelled = count == 2 and all(row.get(name) is not None for name in SIDES)
        for place, messages in enumerate(answers.answers):
            if messages is None:  # it could not be scored
                self.dropped.add(Reason.NO_REWARD, where)
                continue
            of = models[place] or model
            truth = None if truths is None else self._truth(truths[place], where)
            final = None if finals is None or finals[place] is None else str(finals[place]).strip()
            self.seen.truths += truth is not None
            self.seen.finals += final is not None
            self.seen.steps += steps[place] is not None
            prompt.answers.append(
                ScoredAnswer(
                    messages,
                    finite(rewards[place]),
                    text_key(to_json(messages)),
                    (of,) if of else (),
                    truth,
                    final,
                    SIDES[place] if labelled else None,
                    steps[place],
                )
            )
        return prompt

    def _truth(self, value: object, where: str) -> float | None:
        truth = truth_of(value)
        if truth is None and value is not None:
            self.seen.no_truths += 1
            self.seen.first_no_truth = self.seen.first_no_truth or f"{where} ({shorten(str(value), SHOWN_WIDTH)})"
        return truth

    def _rewards(self, row: Mapping, count: int) -> list | None:
        """A number or null for each answer, or None where the row has none of them."""
        name = self.columns.rewards
        if not self.columns.attributes:
            value = value_of(row, name)
            return [value] if count == 1 and not isinstance(value, list) and value is not None else as_list(value)
        entries = as_list(row.get("attributes"))
        return None if entries is None else [self._weighted(entry) for entry in entries]

    def _weighted(self, entry: object) -> float | None:
        """The attribute that is chosen by, or the weighted sum; None where the answer lacks one."""
        if not isinstance(entry, dict):
            return None
        for name in entry:
            self.seen.attributes[name] = self.seen.attributes.get(name, 0) + 1
        values = {name: finite(entry.get(name)) for name in self.columns.attributes}
        if None in values.values():
            return None
        weights = self.columns.weights or {self.columns.by: 1.0}
        return finite(sum(weights[name] * value for name, value in values.items()))

    def _of_answers(self, row: Mapping, name: str | None, count: int, where: str) -> list | None:
        """A column with a value for each answer; None where it is not there, or cannot be read."""
        value = None if name is None else value_of(row, name)
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        if len(values) == count:
            return values
        number, first = self.seen.unread.get(name, (0, where))
        self.seen.unread[name] = number + 1, first
        return None

    def check(self, sources: str) -> None:
        """
        Raises:
            UserError: no row has what the flags ask for.
        """
        seen, columns = self.seen, self.columns
        there = ", ".join(list(seen.columns)[:12]) or "no columns"
        if not seen.rows:
            raise UserError(f"expected scored rows in {sources}, found none: it is empty.")
        if columns.attributes and "attributes" not in seen.columns:
            raise UserError(
                f"expected the column attributes in {sources}, found {there}. Score them with score.py first."
            )
        if len(seen.kinds) > 1:
            (won, first), (others, other) = seen.kinds[WIN_PROBABILITY], seen.kinds[None]
            raise UserError(
                f"expected rewards of one kind in {sources}, found win probabilities of a pairwise model in {won:,} "
                f"rows, the first at {first}, and others in {others:,}, the first at {other}. Pass them one by one."
            )
        for flag, name in self.missing.columns():
            hint = did_you_mean(name, seen.columns)
            if flag == REWARD_COLUMN:
                hint += f". Score them with score.py first, or name it: {flag}"
            raise UserError(f"{flag}: expected the column {name} in {sources}, found {there}{hint}.")
        for name in columns.attributes:
            if name not in seen.attributes:
                known = ", ".join(seen.attributes) or "none"
                hint = did_you_mean(name, seen.attributes)
                flag = "--by" if columns.by else "--weights"
                raise UserError(f"{flag} {name}: expected an attribute of the answers, found {known}{hint}.")


def key_of(answers: Answers, options: str) -> int:
    """The same for the same prompt and options, whatever white space stands around a message; texts without a prompt,
    which is somewhere in them, stand for it."""
    if isinstance(answers.prompt, str) and answers.prompt:
        return text_key(to_json(answers.prompt), options)  # white space in front of an answer is a part of the text
    if answers.prompt:
        said = [{**message, "content": message["content"].strip()} for message in answers.prompt]
        return text_key(to_json(said), options)
    return text_key(to_json(sorted(text for text in answers.answers if text is not None)), options)


def as_list(value: object) -> list | None:
    return value if isinstance(value, list) else None


def finite(value: object) -> float | None:
    """The value as a float; None of what is no number, or none that a reward may have."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= GREATEST:  # not of NaN either
        return None
    return float(value)


def truth_of(value: object) -> float | None:
    """1 for right and 0 for wrong, or a part of 1; None where it is not known."""
    if isinstance(value, str):
        word = value.strip().lower()
        return 1.0 if word in YES else 0.0 if word in NO else None
    if isinstance(value, bool):
        return float(value)
    number = finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def _models(row: Mapping, count: int) -> list[str | None]:
    """Whose each answer is, where the row says so: `generator` or `model`, or `model_a` and `model_b` of an arena."""
    if count == 2 and all(isinstance(row.get(name), str) for name in ("model_a", "model_b")):
        return [row["model_a"], row["model_b"]]
    value = next((row[name] for name in OF_MODELS if row.get(name) is not None), None)
    values = value if isinstance(value, list) and len(value) == count else [value] * count
    return [one if isinstance(one, str) and one else None for one in values]


def _steps(row: Mapping, count: int) -> list[tuple[float, ...] | None]:
    """P(right) of the steps of each answer, as score.py writes them; texts of that name are something else."""
    value = row.get(STEPS)
    values = value if isinstance(value, list) and len(value) == count else [None] * count
    return [_probabilities(one) for one in values]


def _probabilities(value: object) -> tuple[float, ...] | None:
    numbers = [finite(one) for one in value] if isinstance(value, list) and value else [None]
    return tuple(numbers) if all(one is not None and 0 <= one <= 1 for one in numbers) else None
