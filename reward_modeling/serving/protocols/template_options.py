"""What a request may hand to the chat template."""

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.serving.errors import bad_request

ALLOWED = {"tools", "documents", "add_generation_prompt", "continue_final_message"}


def _own_arguments() -> frozenset[str]:
    """Of `apply_chat_template`: they would change what comes back. A template of the request's own is a program."""
    return frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - ALLOWED


OWN_ARGUMENTS = _own_arguments()


def checked_options(options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """
    Raises:
        ApiError: some are no variables of a template.
    """
    if wrong := sorted(OWN_ARGUMENTS & set(options or ())):
        raise bad_request(
            f"chat_template_kwargs: expected variables of the chat template, found {', '.join(wrong)}. Leave it out; a "
            "template of your own goes into the server's --chat_template.",
            "chat_template_kwargs",
        )
    return options
