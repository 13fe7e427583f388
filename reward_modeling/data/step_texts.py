"""How a prompt and the steps of an answer become text: the prompt, then each step and its separator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.composing import Composer, Messages
from reward_modeling.data.rendering import render_prompt


@dataclass(frozen=True)
class StepComposer(Composer):
    """An answer is a list of steps, each a text.

    White space around a step is none of it: the separator says what stands between steps. It stays where the separator
    is "".
    """

    ends_answers: ClassVar[bool] = False  # a row ends in a separator, whatever the template writes behind an answer
    separator: str = "\n\n"
    chat: bool = True

    @property
    def uses_template(self) -> bool:
        return self.chat

    def pieces(
        self, prompt: Messages, answer: Sequence[str], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> list[str]:
        """The prompt up to the answer, then step, separator, step, separator; steps alone where it is empty."""
        if self.chat:
            before = render_prompt(prompt, options, tokenizer)
        else:
            before = "\n".join(message["content"] for message in prompt)
        ends = [self.separator] if self.separator else []
        return [before, *(text for step in answer for text in (step.strip() if ends else step, *ends))]

    def said(self, prompt: Messages, answer: Sequence[str]) -> tuple[Messages, int]:
        return [*prompt, *({"role": "assistant", "content": step} for step in answer)], len(answer)
