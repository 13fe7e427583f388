"""Messages whose content comes as OpenAI's list of parts.

{"role": "user", "content": [{"type": "text", "text": "..."}, {"type": "text", "text": "..."}]}
"""

from typing import Any

from reward_modeling.serving.errors import bad_request


def with_text_contents(messages: list[dict[str, Any]], param: str) -> list[dict[str, Any]]:
    """The messages with contents as texts, the parts of one joined by line breaks, as vLLM joins them.

    Raises:
        ApiError: a part is no text; `param` is the field that the messages come from.
    """
    return [_with_text_content(message, param) for message in messages]


def _with_text_content(message: dict[str, Any], param: str) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise bad_request(f"{param}: expected content as a text or as parts of type text, found another.", param)
    return message | {"content": "\n".join(texts)}
