"""The rows of one prompt as the template writes them: each distinct completion once, as a whole conversation.

What the template refuses or leaves out is noted with the completion; which rows are dropped for it is decided in
`group_rows`.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.composing import tokenize_pieces
from reward_modeling.data.control_tokens import control_tokens, foreign_mark
from reward_modeling.data.examples import Example, RowReader
from reward_modeling.data.losses import NOTHING_LOST, Losses, find_losses
from reward_modeling.data.rendering import TemplateRefuses, read_options, render_prompt
from reward_modeling.models.tokenizer import end_text

Ids = tuple[int, ...]


class PieceIds(NamedTuple):
    """What tells completions of a prompt apart: equal ids in other pieces are other steps, read in other places."""

    ids: Ids
    piece_lengths: tuple[int, ...]


@dataclass
class Completion:
    """One distinct completion of a prompt, rendered as the whole conversation that it ends."""

    rendered: str | None  # None: the template refuses it
    refusal: str = ""
    losses: Losses = NOTHING_LOST
    control_token: str = ""  # one that stands in what was said
    foreign_mark: str = ""  # or else one of another template's
    escaped_mark: str = ""  # one of the composer's own
    answer: Any = None  # as the composer takes it; None of a plain text
    characters: int = 0  # of the answer, without its prompt and the marks of the template; of a plain text all count
    pieces: Sequence[str] = ()  # of `rendered`, which are tokenised one by one
    ids: Ids = ()
    piece_lengths: Sequence[int] = ()  # of the ids of each piece

    @property
    def key(self) -> PieceIds:
        return PieceIds(self.ids, tuple(self.piece_lengths))


class GroupRow(NamedTuple):
    """A row with its completions; rows of a group share equal ones."""

    columns: dict
    example: Example
    completions: list[Completion]


class RowRenderer:
    """Renders and tokenises for one tokenizer and one reader."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reader: RowReader) -> None:
        self.tokenizer, self.reader = tokenizer, reader
        self.control = control_tokens(tokenizer)

    def split_by_prompt(self, rows: list[dict]) -> list[list[dict]]:
        """Rows of one key, by what the template renders of their prompts: white space may tell them apart."""
        by_spelling: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            by_spelling.setdefault((row["prompt"], row["template_options"]), []).append(row)
        if len(by_spelling) < 2:
            return [rows]
        by_rendering: dict[object, list[dict]] = {}
        for spelling, spelt in by_spelling.items():
            by_rendering.setdefault(self._rendered_prompt(*spelling), []).extend(spelt)
        return list(by_rendering.values())

    def _rendered_prompt(self, prompt: str, template_options: str) -> object:
        try:
            return render_prompt(json.loads(prompt), read_options(template_options), self.tokenizer)
        except TemplateRefuses:
            return prompt, template_options

    def render_rows(self, rows: list[dict]) -> list[GroupRow]:
        """The rows of one prompt, each distinct completion rendered once.

        Each after the prompt as its own row spells it: a message that vanishes makes two prompts equal.
        """
        render_text = functools.cache(self._render_text)
        answerers: dict[tuple[str, str], Callable[[str], Completion]] = {}
        rendered = []
        for row in rows:
            spelling = row["prompt"], row["template_options"]
            if not row["is_text"] and spelling not in answerers:
                prompt, options = json.loads(spelling[0]), read_options(spelling[1])
                answerers[spelling] = functools.cache(functools.partial(self._render_answer, prompt, options))
            render_one = render_text if row["is_text"] else answerers[spelling]
            example = self.reader.read_row(row)
            rendered.append(GroupRow(row, example, list(map(render_one, example.completions))))
        return rendered

    def _render_text(self, text: str) -> Completion:
        ended = end_text(text, self.tokenizer)
        said = text.removesuffix(self.tokenizer.eos_token or "").removeprefix(self.tokenizer.bos_token or "")
        control = self.control.find(said)
        foreign = "" if control else foreign_mark(said)
        return Completion(ended, "", NOTHING_LOST, control, foreign, "", None, len(ended), [ended])

    def _render_answer(self, prompt: list[dict], options: dict, completion: str) -> Completion:
        answer = json.loads(completion)
        try:
            pieces = self.reader.composer.pieces(prompt, answer, options, self.tokenizer)
        except TemplateRefuses as refusal:
            return Completion(None, refusal=str(refusal))
        text = "".join(pieces)
        messages, own = self.reader.composer.said(prompt, answer)
        losses = find_losses(messages, text, own)
        said = [content for message in messages[-own:] if isinstance(content := message.get("content"), str)]
        control = next(filter(None, map(self.control.find, said)), "")
        foreign = "" if control else next(filter(None, map(foreign_mark, said)), "")
        escaped, characters = self.reader.composer.escaped(prompt, answer), sum(map(len, said)) or len(text)
        return Completion(text, "", losses, control, foreign, escaped, answer, characters, pieces)

    def tokenize(self, groups: list[list[GroupRow]]) -> None:
        """Fill in the ids, of each completion once."""
        completions = {id(each): each for group in groups for row in group for each in row.completions}
        renderable = [each for each in completions.values() if each.rendered is not None]
        if not renderable:
            return
        rows = tokenize_pieces([completion.pieces for completion in renderable], self.tokenizer)
        for completion, pieces in zip(renderable, rows, strict=True):
            completion.ids = tuple(chain.from_iterable(pieces))
            completion.piece_lengths = list(map(len, pieces))
