"""This project's rows: `chosen` and `rejected` as whole conversations, which rm.py reads; `messages` for one answer."""

from reward_modeling.best_of_n.answers import ScoredPrompt
from reward_modeling.best_of_n.formats.base import NotWritable, Row, RowFormat, options_of
from reward_modeling.best_of_n.selection import Selected


class Ours(RowFormat):
    """See docs/DATA.md: `chosen_score` and `rejected_score` count in rm.py with --loss_margin scores alone."""

    def pair(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        chosen, rejected = selected.chosen.messages, selected.rejected.messages
        if isinstance(chosen, str):
            return {"chosen": prompt.messages + chosen, "rejected": prompt.messages + rejected}
        if chosen[:-1] != rejected[:-1]:
            raise NotWritable("answers of several messages: chosen and rejected may differ in the last one alone")
        return {"chosen": [*prompt.messages, *chosen], "rejected": [*prompt.messages, *rejected]}

    def answer(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        if isinstance(prompt.messages, str):
            return {"text": prompt.messages + selected.chosen.messages}
        return {"messages": [*prompt.messages, *selected.chosen.messages]}

    def template_options(self, prompt: ScoredPrompt) -> Row:
        tools, kwargs = options_of(prompt)
        return ({"tools": tools} if tools else {}) | ({"chat_template_kwargs": kwargs} if kwargs else {})
