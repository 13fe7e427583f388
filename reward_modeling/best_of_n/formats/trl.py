"""TRL's rows: conversational `prompt`, `chosen`, `rejected` for DPOTrainer and RewardTrainer; `prompt`, `completion`
for SFTTrainer, which then trains on the completion alone."""

from reward_modeling.best_of_n.answers import ScoredPrompt
from reward_modeling.best_of_n.formats.base import Row, RowFormat, options_of, with_shared_turns
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.data.messages import to_json


class Trl(RowFormat):
    """The scores are columns that TRL passes over. A `margin` its RewardTrainer would subtract in the loss unasked."""

    def pair(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        before, (chosen, rejected) = with_shared_turns(prompt, selected.chosen, selected.rejected)
        return {"prompt": before, "chosen": chosen, "rejected": rejected}

    def answer(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        before, (completion,) = with_shared_turns(prompt, selected.chosen)
        return {"prompt": before, "completion": completion}

    def template_options(self, prompt: ScoredPrompt) -> Row:
        """Tools as JSON, which TRL parses: Arrow would give every tool the keys of all. Where one row has
        chat_template_kwargs all have: TRL fails on a null."""
        tools, kwargs = options_of(prompt)
        found: Row = {"tools": to_json(tools)} if tools else {}
        return found | ({"chat_template_kwargs": kwargs} if kwargs or self.options.all_have_kwargs else {})
