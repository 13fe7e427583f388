"""What goes to a chat template beside the messages: the columns `tools` and `chat_template_kwargs`."""

import json

from reward_modeling.data.messages import parse_json, says_nothing, to_json
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped

OPTION_COLUMNS = ("tools", "chat_template_kwargs")
# Arguments of apply_chat_template that are no variables of a template: what is trained on is not theirs to decide.
NOT_OPTIONS = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
)


def read_template_options(row: Row) -> str:
    """The JSON of both columns as one object, {"tools": [...], **chat_template_kwargs}; "" where they say nothing.

    Raises:
        RowDropped: one of them is of another type.
    """
    options = {}
    if tools := _value(row.get("tools")):
        options["tools"] = _tools(tools)
    if kwargs := _value(row.get("chat_template_kwargs")):
        if not isinstance(kwargs, dict):
            raise RowDropped(DropReason.WRONG_TYPE, "chat_template_kwargs: expected an object")
        if taken := sorted(name for name in kwargs if name in NOT_OPTIONS):
            raise RowDropped(DropReason.WRONG_TYPE, f"chat_template_kwargs: {taken[0]} is not for a row to say")
        options |= {name: kwargs[name] for name in sorted(kwargs)}
    return to_json(options) if options else ""


def split_options(template_options: str) -> dict[str, str]:
    """The columns that a row's template options came from, as JSON; those that said something."""
    if not template_options:
        return {}
    options = json.loads(template_options)
    columns = {"tools": options.pop("tools", None), "chat_template_kwargs": options}
    return {name: to_json(value) for name, value in columns.items() if value}


def _value(value: object) -> object:
    """A value, or what its JSON holds; None where it says nothing."""
    if isinstance(value, str) and value.strip():
        parsed = parse_json(value)
        value = value if parsed is None and value.strip() != "null" else parsed
    if isinstance(value, dict):
        value = {key: one for key, one in value.items() if one is not None}  # Arrow's keys of other rows
    return None if says_nothing(value) or (isinstance(value, str) and not value.strip()) else value


def _tools(value: object) -> list[dict]:
    tools = [_value(tool) for tool in (value if isinstance(value, list) else [value])]
    if not all(isinstance(tool, dict) for tool in tools):
        raise RowDropped(DropReason.WRONG_TYPE, "tools: expected a list of objects")
    return tools
