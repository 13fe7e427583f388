"""How a prompt and the steps of an answer become text: the prompt, then each step and its separator.

    StepComposer("\\n\\n").pieces(prompt, ["2 + 2 = 4.", "So it is 4."], {}, tokenizer)
    # [the prompt as the chat template writes it, up to the answer; "2 + 2 = 4.", "\\n\\n", "So it is 4.", "\\n\\n"]

Pieces are tokenised one by one: no token reaches from a step into its separator, so that a step has the same tokens
whatever follows, and a score is read at the end of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.composing import Composer, Messages
from reward_modeling.data.rendering import render_prompt


@dataclass(frozen=True)
class StepComposer(Composer):
    """An answer is a list of steps, each a text."""

    ends_answers: ClassVar[bool] = False  # a row ends in a separator, whatever the template writes behind an answer
    separator: str = "\n\n"
    """Stands behind each step; "" for nothing."""
    chat: bool = True
    """Whether the chat template writes the prompt; else its text stands in front as it is, the form of TRL."""

    @property
    def uses_template(self) -> bool:
        return self.chat

    @property
    def strips(self) -> bool:
        """Whether the white space at both ends of a step goes."""
        return self.chat and self.separator.isspace()

    def pieces(
        self, prompt: Messages, answer: Sequence[str], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> list[str]:
        """The prompt up to the answer, then step, separator, step, separator; steps alone where it is empty.

        Beside a separator of white space the white space at both ends of a step says nothing, and goes; not so in
        TRL's form, whose models have seen it.
        """
        if self.chat:
            before = render_prompt(prompt, options, tokenizer)
        else:
            before = "\n".join(message["content"] for message in prompt)
        if self.strips:
            answer = [step.strip() for step in answer]
        ends = [self.separator] if self.separator else []
        return [before, *(text for step in answer for text in (step, *ends))]

    def said(self, prompt: Messages, answer: Sequence[str]) -> tuple[Messages, int]:
        return [*prompt, *({"role": "assistant", "content": step} for step in answer)], len(answer)
