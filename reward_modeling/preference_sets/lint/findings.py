"""What is wrong with a preference set: figures held against the limits in one table.

    for finding in findings(summary): print(finding["level"], finding["message"])

A figure gets the highest level whose limit it is above. The limits are a judgement, not a law: change them here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reward_modeling.data.report import DropReason
from reward_modeling.display.text import count, interval, percent

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
    # Longer answers win 55 to 65% in the usual sets; a reward model trained on more learns the ruler first.
    "rule": Limits(None, 0.65, 0.80, "lower end of the interval of what one number alone gets right"),
    "refusals_preferred": Limits(0.6, None, None, "lower end of the share that prefer the one refusal, from 30 pairs"),
    "plain_texts": Limits(0, None, None, "share of the pairs that are plain texts"),
    "other_prompts": Limits(None, 0, 0.01, "share of the pairs that are transcripts with two prompts"),
    "one_prompt": Limits(0.01, 0.10, None, "share of the pairs that one prompt has, from 50 pairs"),
    "overlap": Limits(None, 0, 0.01, "prompts of the set that are in a benchmark, per prompt of it"),
}
FEWEST_PAIRS_OF_ONE_PROMPT = 50
FEWEST_REFUSALS = 30

RULE_WORDS = {
    "characters": ("the longer reply", "the shorter reply"),
    "words": ("the reply of more words", "the reply of fewer words"),
    "lines": ("the reply of more lines", "the reply of fewer lines"),
    "markdown": ("the reply with more markdown", "the reply with less markdown"),
    "headings": ("the reply with more headings", "the reply with fewer headings"),
    "list items": ("the reply with more list items", "the reply with fewer list items"),
    "bold": ("the reply with more bold text", "the reply with less bold text"),
    "code": ("the reply with more code", "the reply with less code"),
    "digits": ("the reply with more digits", "the reply with fewer digits"),
    "question marks": ("the reply with more question marks", "the reply with fewer question marks"),
    "exclamation marks": ("the reply with more exclamation marks", "the reply with fewer exclamation marks"),
    "refusal": ("the refusal", "the reply that is no refusal"),
    "unfinished": ("the unfinished reply", "the finished reply"),
    "cut": ("the reply that breaks off", "the reply that does not break off"),
    "prompts it answers": ("the reply that more prompts have", "the reply that fewer prompts have"),
}


def findings(summary: Mapping) -> list[dict[str, object]]:
    """What is above its limits, worst first; within a level in the order of `LIMITS`."""
    found = []
    for check, value, message, first in _figures(summary):
        limits = LIMITS[check]
        above = [level for level in LEVELS if _is_above(value, getattr(limits, level))]
        if above:
            limit = {"value": value, "limit": getattr(limits, above[0]), "figure": limits.figure}
            found.append({"check": check, "level": above[0], **limit, "message": message, "first": first})
    order = list(LIMITS)
    return sorted(found, key=lambda finding: (LEVELS.index(finding["level"]), order.index(finding["check"])))


def _is_above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


Figure = tuple[str, float | None, str, str | None]
"""The check, its figure, what to say, and where the first such row stands."""


def _figures(summary: Mapping) -> Iterator[Figure]:
    rows = summary["rows"]
    reasons = (f"{DropReason(name).words} ({count(dropped['count'])})" for name, dropped in rows["dropped"].items())
    first = next((dropped["first_where"] for dropped in rows["dropped"].values()), None)
    not_used = count(rows["rows_read"] - rows["kept"])
    words = f"{not_used} of {_plural(rows['rows_read'], 'row')} are not used: {', '.join(reasons)}."
    yield "dropped", rows["share_dropped"], words, first
    yield from _consistency(summary, rows["kept"])
    yield from _scores(summary["scores"])
    yield from _replies(summary["replies"], rows["kept"])
    yield from _rules(summary["rules"])
    yield from _others(summary, rows["kept"])


def _consistency(summary: Mapping, pairs: int) -> Iterator[Figure]:
    both_ways, cycles = count(summary["contradictions"]["replies_both_ways"]), summary["cycles"]
    messages = {
        "duplicates": "{} stand there before: the same prompt, chosen and rejected reply. Keep one of each.",
        "same_reply": "{} have two replies that are the same but for white space. Take them out.",
        "contradictions": "{} of {} are contradicted: A over B and B over A "
        f"({both_ways} such A and B). No model can learn both.",
        "cycles": "{} of {} go in circles, A over B over C over A; groups of replies: "
        f"{count(cycles['knots'])}, the largest of {cycles['largest']}. No reward satisfies all of one.",
    }
    for check, message in messages.items():
        part = summary[check]
        words = message.format(_plural(part["pairs"], "pair"), _plural(part["prompts"], "prompt"))
        yield check, _share(part["pairs"], pairs), words, part["first"]


def _scores(scores: Mapping) -> Iterator[Figure]:
    of = f"of {_plural(scores['pairs'], 'pair')} with scores"
    words = f"{count(scores['equal'])} {of} have equal ones: nothing is preferred there."
    yield "equal_scores", _share(scores["equal"], scores["pairs"]), words, scores["first_equal"]
    words = f"{count(scores['rejected_higher'])} {of} have the higher one on the rejected reply: are the sides swapped?"
    yield "rejected_higher", _share(scores["rejected_higher"], scores["pairs"]), words, scores["first_rejected_higher"]
    negative, margins = scores["negative_margins"], scores["margins"]
    words = f"{count(negative)} of {count(margins)} margins are negative: the loss then asks for the rejected reply."
    yield "negative_margin", _share(negative, margins), words, scores["first_negative_margin"]


def _replies(sides: Mapping, pairs: int) -> Iterator[Figure]:
    for name, words in (("cut", "break off in the middle"), ("unfinished", "have no end (a guess by their last sign)")):
        chosen, rejected = (sides[side][name] for side in ("chosen", "rejected"))
        total = int(chosen["right"] + rejected["right"])
        shares = f"{percent(chosen['value'])}% of the chosen, {percent(rejected['value'])}% of the rejected"
        first = sides["chosen"]["first_cut"] or sides["rejected"]["first_cut"] if name == "cut" else None
        yield name, _share(total, 2 * pairs), f"{count(total)} of {count(2 * pairs)} replies {words}: {shares}.", first


def _rules(rules: Mapping) -> Iterator[Figure]:
    for name, rule in rules.items():
        accuracy = rule["accuracy"]
        if accuracy["value"] is not None:
            taken = RULE_WORDS[name][rule["takes"] == "smaller"]
            words = (
                f"Taking {taken} is right in {percent(accuracy['value'])}% of all pairs ({interval(accuracy)}): a "
                "reward model can do as well without reading."
            )
            yield "rule", accuracy["low"], words, None
    refusals = rules["refusal"]["greater_preferred"]
    if refusals["rows"] >= FEWEST_REFUSALS:
        words = (
            f"Of {_plural(refusals['rows'], 'pair')} with one refusal, {percent(refusals['value'])}% prefer it "
            f"({interval(refusals)}): right for a harmless set, wrong for a helpful one."
        )
        yield "refusals_preferred", refusals["low"], words, None


def _others(summary: Mapping, pairs: int) -> Iterator[Figure]:
    kinds, largest = summary["kinds"], summary["prompts"]["largest"]
    plain = pairs - kinds["conversations"]
    words = "are plain texts: no template is put around them, and their prompts are computed twice."
    yield "plain_texts", _share(plain, pairs), f"{_plural(plain, 'pair')} {words}", None
    apart = kinds["transcripts_with_other_prompts"]
    words = f"{_plural(apart, 'pair')} are transcripts whose prompts differ: their replies cannot be compared."
    yield "other_prompts", _share(apart, pairs), words, kinds["first_transcript_with_other_prompts"]
    many = largest["pairs"] if largest["pairs"] >= FEWEST_PAIRS_OF_ONE_PROMPT else 0
    words = (
        f"One prompt has {_plural(largest['pairs'], 'pair')}. --max_pairs_per_prompt of a source's script limits them."
    )
    yield "one_prompt", _share(many, pairs), words, largest["where"]
    for part in summary["overlap"]:
        words = (
            f"{_plural(part['prompts_found'], 'prompt')} here ({_plural(part['pairs'], 'pair')}) are in "
            f"{part['benchmark']}, which has {count(part['prompts'])}: its score would be too high. build_mixture.py "
            "--decontaminate takes them out."
        )
        yield "overlap", _share(part["prompts_found"], part["prompts"]), words, part["first"]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _plural(number: int, word: str) -> str:
    return f"{count(number)} {word}{'s' if number != 1 else ''}"
