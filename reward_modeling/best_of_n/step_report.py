"""The aggregations of steps in the report of best_of_n.py: tables over n, and curves.

steps = report["steps"]
print(*align(step_table(steps)), sep="\\n")
"""

from collections.abc import Iterator, Mapping

from reward_modeling.best_of_n.step_curves import MAJORITY, ORACLE, RANDOM
from reward_modeling.common.aggregations import AGGREGATIONS
from reward_modeling.display.text import Rows, align, count, interval, percent

BEST, VOTES = "best by ", "votes by "


def step_heading(steps: Mapping) -> str:
    return (
        f"Right answers, percent, by the probabilities of their steps ({count(steps['answers'])} answers of "
        f"{count(steps['prompts'])} prompts): the best one of n by each aggregation"
    )


def vote_heading() -> str:
    return "Right answers, percent: the final answer of n with the most votes, each vote weighted by an aggregation"


def step_table(rows: list[Mapping]) -> Rows:
    """Best of n by each aggregation; each with its interval."""
    return _table(rows, BEST, (RANDOM, ORACLE))


def vote_table(rows: list[Mapping]) -> Rows:
    """Weighted votes beside a majority."""
    return _table(rows, VOTES, (MAJORITY,))


def _table(rows: list[Mapping], kind: str, others: tuple[str, ...]) -> Rows:
    table: Rows = [("n", "prompts", *AGGREGATIONS, *others)]
    for row in rows:
        means = [row["ways"][name] for name in (*(kind + name for name in AGGREGATIONS), *others)]
        cells = (f"{percent(mean['value'])} ({interval(mean)})" for mean in means)
        table.append((str(row["n"]), count(row["ways"][RANDOM]["prompts"]), *cells))
    return table


def step_lines(rows: list[Mapping]) -> list[str]:
    """Both tables on the screen, of these n."""
    if not rows:
        return []
    lines = [*align(step_table(rows))]
    return [*lines, "", vote_heading(), *align(vote_table(rows))] if MAJORITY in rows[0]["ways"] else lines


def step_notes(steps: Mapping) -> list[str]:
    """What the last n says: which aggregation does best, and by how much; a sentence each."""
    if not steps["rows"] or steps["rows"][-1]["n"] == 1:
        return []
    last = steps["rows"][-1]
    texts = []
    for kind, other, words in ((BEST, RANDOM, "one at random"), (VOTES, MAJORITY, "the majority")):
        if other not in last["ways"]:
            texts.append("No votes: they need the final answer of each answer, which --answer_column names.")
            continue
        less = {name: last["less"][kind + name] for name in AGGREGATIONS}
        said = ", ".join(f"{name} {100 * of['value']:+.1f} ({_ends(of)})" for name, of in less.items())
        texts.append(f"{kind.strip().capitalize()} steps, of {last['n']}, less {words}, points: {said}.")
    return texts


def _ends(mean: Mapping) -> str:
    return "-" if mean["low"] is None else f"{100 * mean['low']:.1f} to {100 * mean['high']:.1f}"


def step_tables(steps: Mapping) -> Iterator[tuple[str, Rows]]:
    """For the page: all n."""
    yield step_heading(steps), step_table(steps["rows"])
    if steps["rows"] and MAJORITY in steps["rows"][0]["ways"]:
        yield vote_heading(), vote_table(steps["rows"])


def step_curves(steps: Mapping) -> Iterator[tuple[str, str, dict[str, list]]]:
    """(title, caption, curves) of each plot."""
    rows = steps["rows"]
    kinds = [("Best by the steps", BEST, RANDOM), ("Votes weighted by the steps", VOTES, MAJORITY)]
    captions = {
        BEST: "Percent of prompts whose answer is right, if it is the best one of n by an aggregation of its steps.",
        VOTES: "The same of the final answer with the most votes, each vote weighted by an aggregation.",
    }
    for title, kind, other in kinds:
        if rows and other in rows[0]["ways"]:
            names = {**{name: kind + name for name in AGGREGATIONS}, other: other}
            curves = {words: [(row["n"], row["ways"][way]) for row in rows] for words, way in names.items()}
            yield title, captions[kind], curves
