"""What is wrong with a preference set: figures held against the limits in one table.

    for finding in findings(summary): print(finding["level"], finding["message"])

A figure gets the highest level whose limit it is above. The limits are a judgement, not a law: change them here. The
messages stand in templates/findings.txt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reward_modeling.data.report import REASON_WORDS
from reward_modeling.display.page import render
from reward_modeling.display.text import count

LEVELS = ("serious", "warning", "note")


@dataclass(frozen=True)
class Limits:
    """A figure above one of them is found; None: never at this level."""

    note: float | None
    warning: float | None
    serious: float | None
    figure: str
    """What is held against them."""


LIMITS = {
    "dropped": Limits(0, 0.01, 0.10, "share of the rows read that are not used"),
    "duplicates": Limits(0, 0.01, 0.10, "share of the pairs that stand there before"),
    "same_reply": Limits(0, 0.001, 0.01, "share of the pairs whose replies are the same but for white space"),
    # People who compare answers contradict themselves in some percent of pairs; a mixture should not.
    "contradictions": Limits(0, 0.005, 0.05, "share of the pairs whose opposite is there too"),
    "cycles": Limits(0, 0.01, 0.10, "share of the pairs in circles of three or more replies"),
    "equal_scores": Limits(0, 0.01, 0.10, "share of the scored pairs with equal scores"),
    "rejected_higher": Limits(None, 0, 0.01, "share of the scored pairs whose rejected reply scores higher"),
    "negative_margin": Limits(None, 0, 0.01, "share of the pairs with a margin whose margin is negative"),
    "cut": Limits(0.01, 0.05, 0.25, "share of the replies that break off in the middle"),
    "unfinished": Limits(0.10, 0.25, None, "share of the replies without an end"),
    "marks": Limits(0, None, None, "share of the replies with leftover marks of a chat template"),
    "marks_of_a_side": Limits(None, 0.5, 0.6, "lower end of one side's share, of pairs that differ in marks"),
    # Longer answers win 55 to 65% in the usual sets; a reward model trained on more learns the ruler first.
    "rule": Limits(None, 0.65, 0.80, "lower end of the interval of what one number alone gets right"),
    "refusals_preferred": Limits(0.6, None, None, "lower end of the share that prefer the one refusal, from 30 pairs"),
    "plain_texts": Limits(0, None, None, "share of the pairs that are plain texts"),
    "one_prompt": Limits(0.01, 0.10, None, "share of the pairs that one prompt has, from 50 pairs"),
    "overlap": Limits(None, 0, 0.01, "prompts of the set that are in a benchmark, per prompt of it"),
}
FEWEST_PAIRS_OF_ONE_PROMPT = 50
FEWEST_REFUSALS = 30
FEWEST_MARKS = 0.001  # share of the pairs that differ in marks: fewer are not what a model learns


def findings(summary: Mapping) -> list[dict[str, object]]:
    """What is above its limits, worst first; within a level in the order of `LIMITS`."""
    found = []

    def check(name: str, value: float | None, first: str | None, caller: Callable[[], str]) -> str:
        limits = LIMITS[name]
        for level in LEVELS:
            limit = getattr(limits, level)
            if value is not None and limit is not None and value > limit:
                figure = {"value": value, "limit": limit, "figure": limits.figure}
                message = " ".join(caller().split())
                found.append({"check": name, "level": level, **figure, "message": message, "first": first})
                break
        return ""

    render(
        "preference_sets/lint/templates/findings.txt",
        summary=summary,
        check=check,
        share=lambda part, whole: part / whole if whole else None,
        plural=lambda number, word: f"{count(number)} {word}{'s' if number != 1 else ''}",
        reason_words=REASON_WORDS,
        fewest_refusals=FEWEST_REFUSALS,
        fewest_marks=FEWEST_MARKS,
        fewest_pairs_of_one_prompt=FEWEST_PAIRS_OF_ONE_PROMPT,
    )
    order = list(LIMITS)
    return sorted(found, key=lambda finding: (LEVELS.index(finding["level"]), order.index(finding["check"])))
