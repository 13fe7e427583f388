"""What is in a preference set, and what is wrong with it: any rows that rm.py takes, before they are trained on.

Rows kept and dropped, prompts, lengths, duplicates, pairs that contradict each other or go in circles, ties, replies
that are cut, what a judge who only counts characters would get right (and fourteen like it), prompts that stand in a
benchmark, sources, and ten random pairs to read. The table goes to the screen; lint.json and lint.html (one page, no
network) to --output_path. What is found is serious, a warning or a note: the limits stand in
reward_modeling/preference_sets/lint/findings.py. With --strict the exit status is 1 where something serious is found.

Rows of ratings have a table of their own, and no page: of each attribute how many answers are rated on it, from what to
what, and what it has to do with length (reward_modeling/preference_sets/lint/ratings.py).

    python data_prep/lint.py data/mixture2 --strict
    python data_prep/lint.py data/helpsteer_ratings
    python data_prep/lint.py pairs.jsonl.gz --tokenizer google/gemma-2b-it --benchmarks rewardbench=filtered.parquet
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.flags import PATH, at_least, changed_flags, flag
from reward_modeling.common.launch import worker_count
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PREFERRED_HELP,
    RATED_TARGETS,
    REVISION_HELP,
    TARGETS,
    read_options,
    read_options_problems,
)
from reward_modeling.data.sources import ALL_SUFFIXES
from reward_modeling.preference_sets.arguments import attribute_names, check_flags, name_problems
from reward_modeling.preference_sets.rated_manifest import written_scales

NO_PAIRS = "expected columns chosen and rejected"
SWITCHES = ("--strict", "--overwrite")  # need no value
SWITCH_WORDS = ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")


@dataclass
class ScriptArguments:
    """The defaults to edit. PATH may stand without its flag."""

    path: Annotated[str, PATH] = flag("", "File, folder, glob or Hub id of preference rows, as for rm.py.")
    output_path: Annotated[str | None, PATH] = flag(
        None, "Folder for lint.json and lint.html. Unset: lint/NAME of the data."
    )
    tokenizer: Annotated[str | None, PATH] = flag(None, "Folder or Hub id: lengths are then counted in its tokens too.")
    chat_template: Annotated[str | None, PATH] = flag(
        None, "A jinja file: the chat template to take, in the place of the tokenizer's own."
    )
    token_rows: Annotated[int, at_least(0)] = flag(10_000, "Pairs that are tokenised, drawn at random; 0 takes all.")
    benchmarks: Annotated[str | None, PATH] = flag(
        None, "Whose prompts should not be in the set: rewardbench, rewardbench2=local_copy.parquet, a file."
    )
    attributes: str | None = flag(
        None,
        "Of rows of ratings: their columns, with commas between. Unset: those that the folder's manifest.json names.",
    )
    columns: str | None = flag(None, COLUMNS_HELP)
    ignore_columns: str | None = flag(None, IGNORE_HELP)
    preferred_values: str | None = flag(None, PREFERRED_HELP)
    dataset_revision: str | None = flag(None, REVISION_HELP)
    seed: Annotated[int, at_least(0)] = flag(0, "Of the pairs to read and of the pairs that are tokenised.")
    num_proc: Annotated[int | None, at_least(1)] = flag(None, "Worker processes. Unset: one per core, at most 16.")
    strict: bool = flag(False, "Exit with status 1 if something serious is found.")
    overwrite: bool = flag(False, "Replace lint.json and lint.html in output_path.")

    def __post_init__(self):
        check_flags(self)

    def problems(self) -> list[str]:
        missing = [] if self.path else ["expected the path of preference rows: python data_prep/lint.py PATH"]
        if self.chat_template is not None and self.tokenizer is None:
            missing.append("--chat_template: expected --tokenizer too, whose template it replaces, found none")
        names = attribute_names(self.attributes)
        missing += name_problems(names, "--attributes")
        if self.attributes is not None and not names:
            missing.append("--attributes: expected the columns of ratings, found none")
        targets = (*RATED_TARGETS, *names) if names else TARGETS
        return missing + read_options_problems(self.columns, self.ignore_columns, self.preferred_values, targets)

    @property
    def output_folder(self) -> Path:
        """Where the report goes."""
        return Path(self.output_path or Path("lint") / name_of(self.path))


def name_of(path: str) -> str:
    """A folder's name for the data at `path`: its last part, without what is no letter, digit, dash or dot."""
    name = Path(path).name
    suffixes = sorted(ALL_SUFFIXES, key=len, reverse=True)
    name = name.removesuffix(next((suffix for suffix in suffixes if name.endswith(suffix)), ""))
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


def with_path_flag(argv: Sequence[str]) -> list[str]:
    """The path that stands without a flag, wherever it does, with its flag."""
    for place, token in enumerate(argv):
        before = argv[place - 1] if place else ""
        is_switch = before in SWITCHES and token.lower() not in SWITCH_WORDS
        is_value = before.startswith("--") and "=" not in before and not is_switch
        if not token.startswith("-") and not is_value:
            return [*argv[:place], "--path", *argv[place:]]
    return list(argv)


def check_ratings(arguments: ScriptArguments, attributes: Sequence[str]) -> None:
    """What is done for rows of ratings.

    Raises:
        UserError: flags for pairs, and what reading and writing refuse.
    """
    from reward_modeling.preference_sets.lint.ratings import lint_ratings, rated_summary_text
    from reward_modeling.preference_sets.lint.report import LINT_JSON, check_output, write_json

    if given := changed_flags(arguments, ["tokenizer", "chat_template", "token_rows", "preferred_values"]):
        names = ", ".join(f"--{name}" for name in given)
        raise UserError(f"{names}: expected with pairs, found rows of ratings ({', '.join(attributes[:5])})")
    folder = arguments.output_folder
    check_output(folder, arguments.overwrite)
    summary = lint_ratings(
        arguments.path,
        attributes,
        options=read_options(
            arguments.columns,
            arguments.ignore_columns,
            arguments.dataset_revision,
            targets=(*RATED_TARGETS, *attributes),
        ),
        benchmarks=arguments.benchmarks,
        scales=written_scales(arguments.path),
        num_proc=worker_count(arguments.num_proc),
    )
    write_json(summary, folder)
    print(rated_summary_text(summary))
    print(f"\nAll of it: {folder / LINT_JSON}", flush=True)
    if arguments.strict and any(finding["level"] == "serious" for finding in summary["findings"]):
        sys.exit(1)


def main() -> None:
    arguments, _ = parse_script_arguments(ScriptArguments, with_path_flag(sys.argv[1:]))
    if attributes := attribute_names(arguments.attributes) or [*(written_scales(arguments.path) or ())]:
        check_ratings(arguments, attributes)
        return
    # Only now, since they take seconds: torch, and what draws the page.
    from reward_modeling.preference_sets.lint.report import LINT_HTML, LINT_JSON, check_output, write_output
    from reward_modeling.preference_sets.lint.summary import lint
    from reward_modeling.preference_sets.lint.tables import summary_text

    folder = arguments.output_folder
    check_output(folder, arguments.overwrite)
    try:
        summary = lint(
            arguments.path,
            seed=arguments.seed,
            num_proc=worker_count(arguments.num_proc),
            tokenizer=arguments.tokenizer,
            token_rows=arguments.token_rows,
            benchmarks=arguments.benchmarks,
            options=read_options(
                arguments.columns, arguments.ignore_columns, arguments.dataset_revision, arguments.preferred_values
            ),
            chat_template=arguments.chat_template,
        )
    except UserError as error:
        if str(error).startswith(NO_PAIRS):
            raise UserError(f"{error} Of rows of ratings name the columns: --attributes NAME,NAME.") from error
        raise
    except OSError as error:
        raise UserError(
            f"cannot measure {arguments.path} ({type(error).__name__}: {error}). Make room where data sets are cached "
            "(HF_DATASETS_CACHE) and in the folder of temporary files (TMPDIR)."
        ) from error
    write_output(summary, folder)  # before the screen, which may be a pipe that somebody closes
    print(summary_text(summary))
    print(f"\nAll of it: {folder / LINT_HTML} and {folder / LINT_JSON}", flush=True)
    if arguments.strict and any(finding["level"] == "serious" for finding in summary["findings"]):
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/lint.py"
    run_script(main)
