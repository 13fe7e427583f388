"""A first look at all rows, before a model is loaded: whether they can be read, how many they are, which files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.common.screen import shows_bars
from reward_modeling.generations.added_columns import ADDED
from reward_modeling.generations.counts import Counts, report
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.forms.reader import column_of
from reward_modeling.generations.input_files import fingerprint_of_files
from reward_modeling.generations.input_rows import stream_rows
from reward_modeling.generations.scored_rows import has_rewards, rows_with_rewards
from reward_modeling.generations.windows import read_row

ROWS_OF_NAMES = 100  # whose columns a message names
ROW_FORMATS = (
    "prompt and responses (a list); prompt and completion; messages; chosen and rejected; instruction and output "
    "(AlpacaEval); input and output (OpenRLHF); conversation_a and conversation_b (LMArena); question_id and choices "
    "beside --questions (Arena-Hard v0.1). Columns of other names are read by --columns prompt=NAME,responses=NAME"
)


@dataclass(frozen=True)
class Look:
    """What was seen of the rows."""

    rows: int
    answers: int
    fingerprint: str
    """Of the files."""
    has_messages: bool
    """Whether there is something for a chat template."""
    forms: Mapping[str, int]
    """How many rows are of which form."""
    taken: Mapping[str, str]
    """Columns with names of those that some models add, and the first row with each."""

    @property
    def words(self) -> str:
        forms = ", ".join(f"{count:,} of {name}" for name, count in self.forms.items())
        return f"{self.rows:,} with {self.answers:,} answers ({forms})"


def look_at_rows(files: Sequence[Path], reader: RowReader, limit: int | None, *, overwrite: bool) -> Look:
    """Read every row once.

    Args:
        overwrite: rows may have rewards already.

    Raises:
        UserError: a file is broken; a row has rewards; a column that a flag names is nowhere; nothing can be scored.
    """
    counts, names, taken = Counts(), dict[str, None](), dict[str, str]()
    readable, has_messages, missing = 0, False, set(reader.columns.named)
    rows, inner = islice(stream_rows(files), limit), None
    for row in tqdm(rows, desc="Reading", unit=" rows", disable=not shows_bars()):
        if not overwrite and (column := rows_with_rewards(row)):
            raise UserError(has_rewards(row.where, column))
        for name in ADDED:
            if name in row.values:
                taken.setdefault(name, row.where)
        inner = inner or _column_of_rows(row.values)
        if counts.rows < ROWS_OF_NAMES:
            names |= dict.fromkeys(row.values)
        if missing:
            missing = {name for name in missing if column_of(row.values, name) is None}
        counts.rows += 1
        read = read_row(row, reader)
        if read.form is not None:
            counts.forms[read.form] = counts.forms.get(read.form, 0) + 1
        if read.answers is None:
            counts.refuse(read.problem, row.where, rows=1)
            continue
        readable += 1
        counts.answers += len(read.answers)
        has_messages = has_messages or not isinstance(read.answers.prompt, str)
    label = ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    if not counts.rows:
        raise UserError(f"--input: expected rows of generated answers in {label}, found none: it is empty.")
    if missing:
        name = min(missing)
        raise UserError(
            f"--columns: expected a column {name} in {label}, found none{did_you_mean(name, names)}; columns found: "
            f"{', '.join(names) or 'none'}."
        )
    if not readable:
        if counts.rows == 1 and inner:
            raise UserError(
                f"--input: expected rows in {label}, found one object with rows in {inner}. Write these alone: jq -c "
                f"'.{inner}[]' FILE"
            )
        raise UserError(
            f"--input: expected rows with generated answers in {label}, found none that can be scored; columns found: "
            f"{', '.join(names) or 'none'}.\nRows may have {ROW_FORMATS}.\n{report(counts)}"
        )
    return Look(counts.rows, counts.answers, fingerprint_of_files(files), has_messages, counts.forms, taken)


def _column_of_rows(values: Mapping[str, object]) -> str | None:
    """The column of a row that holds a list of objects, if any: {"data": [{...}, ...]}."""
    lists = (name for name, value in values.items() if isinstance(value, list) and value)
    return next((name for name in lists if all(isinstance(one, dict) for one in values[name])), None)
