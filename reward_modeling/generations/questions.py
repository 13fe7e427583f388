"""The questions of Arena-Hard v0.1 and MT-Bench, whose answers stand in other files than they."""

from collections.abc import Callable, Mapping
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.generations.input_files import find_files
from reward_modeling.generations.input_rows import stream_rows

FLAG = "--questions"


def read_questions(path: str | Path) -> Callable[[object], list[str] | None]:
    """From a question_id to the turns of its user, of {"question_id": ..., "turns": [{"content": ...}]} or of texts.

    Raises:
        UserError: a row is no question.
    """
    found: dict[object, list[str]] = {}
    for row in stream_rows(find_files(FLAG, str(path))):
        turns = row.values.get("turns")
        texts = [_text(turn) for turn in turns] if isinstance(turns, list) else []
        question = row.values.get("question_id")
        if not isinstance(question, str | int) or not texts or None in texts:
            raise UserError(
                f"{FLAG}: expected question_id and turns (a list of texts, or of objects with content) at {row.where}, "
                f"found columns {', '.join(row.values)}. Pass the benchmark's question.jsonl."
            )
        found[question] = texts
    return found.get


def _text(turn: object) -> str | None:
    said = turn.get("content") if isinstance(turn, Mapping) else turn
    return said if isinstance(said, str) else None
