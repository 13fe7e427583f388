"""Why rows, answers and prompts are not used, how many of them, and where the first stands."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reward_modeling.display.text import Rows


class Reason(StrEnum):
    """Its name in files, what is dropped for it, and its words; in the order in which it is looked for."""

    unit: str
    words: str

    def __new__(cls, value: str, unit: str, words: str) -> "Reason":
        reason = str.__new__(cls, value)
        reason._value_, reason.unit, reason.words = value, unit, words
        return reason

    UNREADABLE_ROW = "unreadable_row", "rows", "prompt or answers cannot be read"
    NOT_SCORED = "not_scored", "rows", "it has no rewards"
    PROMPTS_DIFFER = "prompts_differ", "rows", "its answers are of different prompts"
    REWARDS_DIFFER = "rewards_differ", "rows", "rewards and answers are not as many"

    NO_REWARD = "no_reward", "answers", "no finite reward"
    EMPTY_ANSWER = "empty_answer", "answers", "it says nothing"
    DUPLICATE_ANSWER = "duplicate_answer", "answers", "the prompt has the same answer already"
    SAID_OTHERWISE = "said_otherwise", "truths, final answers, labels", "the same answer has others elsewhere"

    SEVERAL_ROWS = "several_rows", "prompts", "its win probabilities are of several rows with different answers"
    NO_ANSWER = "no_answer", "prompts", "none of its answers can be used"
    TOO_FEW_ANSWERS = "too_few_answers", "prompts", "fewer different answers than --min_answers"
    EQUAL_REWARDS = "equal_rewards", "prompts", "all its answers have equal rewards"
    GAP_TOO_SMALL = "gap_too_small", "prompts", "no two of its answers are --min_gap apart"
    NOT_WRITABLE = "not_writable", "pairs or answers", "--format has no place for a part of it"


@dataclass
class Dropped:
    """Counts for each reason, with the first place."""

    counts: Counter[Reason] = field(default_factory=Counter)
    first: dict[Reason, str] = field(default_factory=dict)

    def add(self, reason: Reason, where: str, count: int = 1) -> None:
        """Count `count` more, which may be 0."""
        if count:
            self.counts[reason] += count
            self.first.setdefault(reason, where)

    def to_dict(self) -> dict[str, dict[str, object]]:
        """For JSON: {reason: {"unit", "count", "first"}}."""
        return {
            reason.value: {"unit": reason.unit, "count": self.counts[reason], "first": self.first[reason]}
            for reason in Reason
            if self.counts[reason]
        }


def dropped_rows(dropped: Mapping[str, Mapping]) -> Rows:
    """A table of what `Dropped.to_dict` gave, its head first."""
    rows: Rows = [("dropped", "number", "because", "first")]
    for reason in Reason:
        if entry := dropped.get(reason.value):
            rows.append((reason.unit, f"{entry['count']:,}", reason.words, str(entry["first"])))
    return rows
