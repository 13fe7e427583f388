"""One answer in a row."""

from typing import ClassVar

from reward_modeling.data.messages import says_nothing
from reward_modeling.data.pairs import read_text
from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Reading, Row, joined, list_of, prompt_of
from reward_modeling.generations.forms.sides import in_own_words, read_sides


class Completion(Form):
    """{"prompt": text or messages, "completion": text or messages}, TRL's; `response` does as well as `completion`."""

    name: ClassVar[str] = "completion"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("completion",), ("response",))

    def read(self, row: Row, reading: Reading) -> Answers:
        answer = row["response"] if row.get("completion") is None else row["completion"]
        notes: set[str] = set()
        return joined(read_sides(prompt_of(row), [answer], notes, plain_text=reading.plain_text), row, notes)


class Alpaca(Form):
    """{"instruction": ..., "input": ..., "output": ..., "generator": ...}, AlpacaEval's; LLaMA-Factory's `history`."""

    name: ClassVar[str] = "AlpacaEval"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction", "output"),)

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        prompt = prompt_of({**row, "prompt": None})
        turns = list_of(row.get("history")) or []
        if turns:
            if not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
                raise Unreadable(NotScored.WRONG_TYPE, "history: expected pairs of a question and an answer")
            said = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
            prompt = [{"role": role, "content": text} for role, text in [*said, ("user", prompt)]]
        return joined(read_sides(prompt, [row["output"]], notes, plain_text=reading.plain_text), row, notes)


class InputOutput(Form):
    """{"input": text or messages, "output": text}, as OpenRLHF writes what it generates."""

    name: ClassVar[str] = "input and output"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("input", "output"),)

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        prompt = row["input"] if says_nothing(row.get("prompt")) else row["prompt"]
        return joined(read_sides(prompt, [row["output"]], notes, plain_text=reading.plain_text), row, notes)


class Messages(Form):
    """{"messages": [...]}, whose last message is the answer, as TRL, OpenAI and Arena-Hard v2 have it; `conversations`
    of ShareGPT and LLaMA-Factory."""

    name: ClassVar[str] = "messages"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("conversations",), ("conversation",))

    def read(self, row: Row, reading: Reading) -> Answers:
        column = next(name for (name,) in self.columns if row.get(name) is not None)
        notes: set[str] = set()
        with in_own_words():
            messages = read_text(row[column], notes)
        if not isinstance(messages, list):
            raise Unreadable(NotScored.WRONG_TYPE, f"{column}: expected a list of messages")
        if messages and isinstance(messages[-1], dict):
            messages = [*messages[:-1], _with_text(messages[-1])]
        return joined(read_sides(None, [messages], notes), row, notes)


def _with_text(message: dict) -> dict:
    """Arena-Hard v2 has {"answer": text}, and {"thought": text} of a model that thinks, where others have the text."""
    content = message.get("content")
    if not isinstance(content, dict) or not isinstance(content.get("answer"), str):
        return message
    thought = {} if says_nothing(content.get("thought")) else {"reasoning_content": content["thought"]}
    return {**message, "content": content["answer"], **thought}


class Text(Form):
    """{"text": ...}: prompt and answer in one text, which `--plain_text true` scores as it stands."""

    name: ClassVar[str] = "text"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        sides = read_sides(None, [row["text"]], notes, plain_text=reading.plain_text, has_prompt=False)
        return joined(sides, row, notes)
