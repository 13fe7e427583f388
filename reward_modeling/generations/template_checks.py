"""What a model's chat template makes of the answers of rows, before they are scored."""

from reward_modeling.common.errors import UserError
from reward_modeling.data.control_tokens import ControlTokens, control_tokens, foreign_mark
from reward_modeling.data.conversations import Conversation, parts_of
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.counts import CONTROL, FOREIGN, LOSES_ANSWER, LOSES_MESSAGE, Counts
from reward_modeling.generations.windows import ReadRow
from reward_modeling.scoring import RewardScorer


class TemplateChecks:
    """Marks the answers that cannot be scored, and counts those that lose a part or hold marks of a template."""

    def __init__(self, scorer: RewardScorer):
        self.scorer, self.reader = scorer, scorer.reader
        self.reads_prompts = scorer.readout.reads_prompts
        self.tokens: ControlTokens = control_tokens(scorer.tokenizer)

    def check(self, rows: list[ReadRow], counts: Counts) -> None:
        """Fill `refused` of the rows."""
        for row in rows:
            for place, conversation in row.to_score():
                if isinstance(conversation, str):
                    refusal = self._refusal_of_text(conversation)
                else:
                    refusal = self._refusal(row, place, conversation, counts)
                if refusal is not None:
                    row.refused[place] = refusal

    def _refusal(self, row: ReadRow, place: int, conversation: Conversation, counts: Counts) -> Unreadable | None:
        refusal, losses = self.reader.check(conversation, len(row.answers.answers[place]))
        if refusal:
            roles = ", ".join(message["role"] for message in parts_of(conversation)[0])
            return Unreadable(NotScored.TEMPLATE_REFUSES, f"{refusal}; roles: {roles}")
        where, text = row.row.where, row.answers.text(place)
        if token := self.tokens.find(text):
            counts.note(CONTROL, where, token, answers=1)
        elif mark := foreign_mark(text):
            counts.note(FOREIGN, where, mark, answers=1)
        if losses.answer:
            counts.note(LOSES_ANSWER, where, losses.answer, answers=1)
        if losses.message:
            counts.note(LOSES_MESSAGE, where, losses.message, answers=1)
        return None

    def _refusal_of_text(self, text: str) -> Unreadable | None:
        """A gate has to find the end of the prompt in it."""
        if not self.reads_prompts:
            return None
        try:
            self.scorer.tokenize([text])
        except UserError:
            return Unreadable(NotScored.NO_PROMPT_END)
        return None
