"""What a user says about the columns of rows: which of them to read as what, and which to pass over.

options = read_options("prompt=question,chosen=response_j", "license,dialogue_id")
options.renamed({"question": "Hello!", "response_j": "Hi.", "rejected": "No."})
# {"rejected": "No.", "prompt": "Hello!", "chosen": "Hi."}
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from reward_modeling.common.errors import UserError, did_you_mean

TARGETS = (
    "prompt",
    "chosen",
    "rejected",
    "system",
    "tools",
    "chat_template_kwargs",
    "margin",
    "chosen_score",
    "rejected_score",
    "chosen_probability",
    "preferred",
    "strength",
    "weight",
    "completions",
    "ranks",
    "scores",
    "source",
)
# Of answers with ratings, beside the attributes.
RATED_TARGETS = (
    "messages",
    "prompt",
    "response",
    "ratings",
    "system",
    "tools",
    "chat_template_kwargs",
    "source",
)
# Of prompts with steps, or with answers that are right or wrong.
STEP_TARGETS = (
    "prompt",
    "completions",
    "labels",
    "steps",
    "messages",
    "response",
    "responses",
    "label",
    "system",
    "tools",
    "chat_template_kwargs",
    "source",
)
LISTED = ", ".join(TARGETS)
OF_SEVERAL = ("preferred", "completions", "ranks", "scores")  # whose columns are the places of a list
LISTS = (*OF_SEVERAL, "responses", "labels")  # the last two of generated answers and of steps
OF_NUMBERS = ("ranks", "scores")  # which a table of text (CSV) has as texts, each in a column of its own
OWN = " (the file's own)"  # a column in whose place another one is read

COLUMNS_HELP = (
    "Columns to read under other names than theirs: prompt=question,chosen=response_j. Texts of several are joined by "
    f"a line break: prompt=instruction+input; of {', '.join(OF_SEVERAL)} they are a list. What may be read: {LISTED}."
)
RATED_COLUMNS_HELP = (
    "Columns to read under other names than theirs: prompt=question,response=answer,helpfulness=score. Texts of "
    f"several are joined by a line break: prompt=instruction+input. What may be read: {', '.join(RATED_TARGETS)}, and "
    "the attributes."
)
STEP_COLUMNS_HELP = (
    "Columns to read under other names than theirs: prompt=question,completions=solution_steps,labels=step_labels. Of "
    "prompt the texts of several are joined by a line break: prompt=instruction+input; of completions, labels and "
    f"responses they are a list. What may be read: {', '.join(STEP_TARGETS)}."
)
REVISION_HELP = "Branch, tag or commit of the Hub's data set."
IGNORE_HELP = "Columns that are left aside on purpose, with commas between, where a run would stop and name them."
PREFERRED_HELP = (
    "What stands in columns read as `preferred` for the first answer, for the second and for neither, with commas "
    "between. Unset: 1,2,0."
)
PLAIN_TEXT_HELP = "Score plain texts (rows without a prompt) as they stand, though the tokenizer has a chat template."


@dataclass(frozen=True)
class ReadOptions:
    """Small, since it goes to worker processes and into the keys of caches."""

    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of what is read, the columns of the file that it is made of."""
    ignored: tuple[str, ...] = ()
    revision: str | None = None
    """Branch, tag or commit of a data set of the Hub."""
    preferred_values: tuple[str, ...] = ()
    """What in a column `preferred` stands for the first answer, for the second and for neither; () for 1, 2 and 0."""

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that a file must have."""
        return tuple(name for _, names in self.columns for name in names)

    @property
    def key(self) -> str:
        """The same for the same options alone."""
        return repr(tuple(getattr(self, one.name) for one in fields(self))) if self != ReadOptions() else ""

    def renamed(self, row: Mapping[str, object]) -> dict[str, object]:
        """The row with its columns under the names by which they are read."""
        if not self.columns:
            return row
        targets = {target for target, _ in self.columns}
        found = {}
        for name, value in row.items():
            if name in targets and name not in self.ignored:
                found[name + OWN] = value
            elif name not in targets and name not in self.named:
                found[name] = value
        for name in {*self.named} & targets:  # columns that change places are no columns left over
            found.pop(name + OWN, None)
        for target, names in self.columns:
            values = [row.get(name) for name in names]
            if target in OF_NUMBERS and len(values) > 1:
                values = [_number(value) for value in values]
            found[target] = values if target in LISTS and len(values) > 1 else _joined(values)
        return found

    def reads(self, target: str) -> bool:
        """Whether some column is to be read as this."""
        return any(target == name for name, _ in self.columns)


def _number(value: object) -> object:
    """The number that a text is, and what is no such text as it is."""
    try:
        return float(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        return value


def _joined(values: list[object]) -> object:
    """One value as it is; texts of several columns with a line break between, those that say something."""
    said = [value for value in values if value is not None and not (isinstance(value, str) and not value.strip())]
    if len(values) > 1 and all(isinstance(value, str) for value in said):
        return "\n".join(said)
    return said[0] if len(said) == 1 else (values[0] if len(values) == 1 else said or None)


def read_options(
    columns: str | None,
    ignore_columns: str | None,
    revision: str | None = None,
    preferred_values: str | None = None,
    targets: tuple[str, ...] = TARGETS,
) -> ReadOptions:
    """The options that the flags ask for.

    Args:
        targets: what may be read.

    Raises:
        UserError: with everything that is wrong with them.
    """
    if problems := read_options_problems(columns, ignore_columns, preferred_values, targets):
        raise UserError("\n".join(problems))
    return ReadOptions(tuple(_entries(columns)), _names(ignore_columns), revision, _names(preferred_values))


def read_options_problems(
    columns: str | None,
    ignore_columns: str | None,
    preferred_values: str | None = None,
    targets: tuple[str, ...] = TARGETS,
) -> list[str]:
    """Everything that is wrong with the flags."""
    problems, entries = [], _entries(columns)
    for target, names in entries:
        if target not in targets or not names:
            close = did_you_mean(target, targets)
            problems.append(
                f"--columns: expected what is read and its column, as in prompt=question, found "
                f"{target}={'+'.join(names)}{close or '; what is read: ' + ', '.join(targets)}"
            )
    given, named = [target for target, _ in entries], [name for _, names in entries for name in names]
    problems += [f"--columns: expected {name} to be read once, found it twice" for name in _repeated(given)]
    problems += [f"--columns: expected each column once, found {name} twice" for name in _repeated(named)]
    problems += [
        f"--columns and --ignore_columns: expected a column in one of them, found {name} in both"
        for name in _names(ignore_columns)
        if name in named
    ]
    values = _names(preferred_values)
    if values and (len(values) != 3 or len(set(values)) != 3):
        problems.append(
            "--preferred_values: expected three different values, for the first answer, the second and neither, as in "
            f"A,B,tie, found {preferred_values}"
        )
    if values and "preferred" not in given:
        problems.append(
            "--preferred_values: expected a column that is read as preferred, as in --columns preferred=label, found "
            "none"
        )
    return problems


def _entries(columns: str | None) -> list[tuple[str, tuple[str, ...]]]:
    entries = (entry.partition("=") for entry in (columns or "").split(",") if entry.strip())
    return [(target.strip(), _names(names, "+")) for target, _, names in entries]


def _names(text: str | None, separator: str = ",") -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(separator) if name.strip()))


def _repeated(names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
