"""--chat_template FILE: a chat template of the user's own, in the place of the tokenizer's."""

import hashlib
import json
from pathlib import Path

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError

FLAG = "--chat_template"
EXAMPLE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


def set_chat_template(tokenizer: PreTrainedTokenizerBase, file: str | Path) -> None:
    """Let the tokenizer write conversations as the file says, and save that.

    Raises:
        UserError: there is no such file, or it is no jinja template.
    """
    try:
        template = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{FLAG} {file}: expected a readable jinja file, found none ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{FLAG} {file}: expected a jinja file in UTF-8, found other bytes ({error}).") from error
    if "{" not in template:
        raise UserError(f"{FLAG} {file}: expected a jinja template, found no {{{{ }}}} or {{% %}} in it.")
    tokenizer.chat_template = template
    try:
        tokenizer.apply_chat_template(EXAMPLE, tokenize=False)
    except TemplateSyntaxError as error:
        raise UserError(
            f"{FLAG} {file}:{error.lineno}: expected a jinja template, found that it does not parse ({error.message})."
        ) from error
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:  # what a template may run into
        raise UserError(
            f"{FLAG} {file}: expected a template that writes a question and its answer, found that it fails on them "
            f"({type(error).__name__}: {error})."
        ) from error


def fingerprint_of_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits; those of no template, too."""
    return hashlib.sha256(json.dumps(tokenizer.chat_template).encode()).hexdigest()[:16]
