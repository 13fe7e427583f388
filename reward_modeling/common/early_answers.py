"""What a script answers before it imports what trains: --help, and mistakes in the names and types of flags.

    answer_early(ScriptArguments)      # first of all
    from reward_modeling.training.job import run_job

A training script's arguments derive from transformers' TrainingArguments, whose import takes seconds. Their own flags
can be read without it; of transformers' the names are enough, and they stand in its source.
"""

import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from reward_modeling.common.arguments import HELP_ALL, all_tokens, script_parser
from reward_modeling.common.errors import report_once_per_node

ALL = "--help_all"


def answer_early(flags_class: type, argv: Sequence[str] | None = None) -> None:
    """Show the help and exit, refuse what cannot be read, or return.

    Args:
        flags_class: a dataclass of the script's own flags, to which those of transformers come later.

    Raises:
        UserError: an unknown flag or key, one that is there twice, a value of another type, an unreadable file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if ALL in argv:
        return
    parser = script_parser(flags_class)
    parser.add_argument(ALL, action="help", help=HELP_ALL)
    with report_once_per_node():
        parser.parse_known_args(all_tokens(parser, argv, names_of_transformers_flags()))


def names_of_transformers_flags() -> list[str]:
    """The fields of TrainingArguments, read from its source: to import it takes torch."""
    package = importlib.util.find_spec("transformers")
    source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == "TrainingArguments")
    return [node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
