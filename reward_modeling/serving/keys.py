"""API keys: read from a file, and checked, without ever being shown."""

from pathlib import Path

from reward_modeling.common.errors import UserError


def read_key_file(path: str, name: str = "--api_key_file") -> str:
    """The first line of the file.

    Raises:
        UserError: it is no file of text, or its first line is no key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} {path}: expected a file of text ({type(error).__name__}).") from error
    return check_key(text.partition("\n")[0].removeprefix("\ufeff"), f"{name} {path}")


def check_key(key: str, name: str, *, shortest: int = 1) -> str:
    """The key without white space at its ends.

    Args:
        name: where it is from, for the message.
        shortest: characters that it has to have.

    Raises:
        UserError: it is too short, or has characters that a header cannot have.
    """
    key = key.strip()
    if len(key) < shortest or not key.isascii() or not key.isprintable():
        others = "" if len(key) < shortest else ", some of another kind"
        raise UserError(
            f"{name}: expected a key of at least {shortest} ASCII characters, found {len(key)} characters{others}. "
            "Make one with: openssl rand -hex 32"
        )
    return key
