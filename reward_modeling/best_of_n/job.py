"""best_of_n.py's job: from files of scored rows to rows to train on, with a manifest, a report and a page."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from reward_modeling.best_of_n.answers import ScoredPrompt, usable_answers
from reward_modeling.best_of_n.columns import RewardColumns
from reward_modeling.best_of_n.dropped import Dropped, Reason
from reward_modeling.best_of_n.figures import Figures
from reward_modeling.best_of_n.files import InputFile
from reward_modeling.best_of_n.formats.base import NotWritable, RowFormat, WriteOptions
from reward_modeling.best_of_n.formats.catalog import FORMATS
from reward_modeling.best_of_n.gather import Gathered, gather
from reward_modeling.best_of_n.outputs import Outputs, Paths, write_json
from reward_modeling.best_of_n.page import write_page
from reward_modeling.best_of_n.report import dropped_table
from reward_modeling.best_of_n.rows import ScoredRowReader
from reward_modeling.best_of_n.selection import SELECTIONS, Selected, Selection, SelectionOptions
from reward_modeling.common.errors import UserError
from reward_modeling.common.launch import installed_versions
from reward_modeling.common.screen import shows_bars
from reward_modeling.generations.added_columns import REWARD_KIND, WIN_PROBABILITY
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.input_rows import stream_rows, values_to_read


@dataclass(frozen=True)
class Job:
    """What the flags ask for."""

    files: Sequence[InputFile]
    outputs: Outputs
    select: str
    format: str
    columns: RewardColumns = field(default_factory=RewardColumns)
    options: SelectionOptions = field(default_factory=SelectionOptions)
    reader: RowReader = field(default_factory=RowReader)
    write_margin: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)
    """As they were given, for the manifest."""


def run(job: Job) -> dict[str, Any]:
    """Read, choose, write; returns the report.

    Raises:
        UserError: a broken file; rows without what the flags ask for; nothing to write; or the disk is full.
    """
    job.outputs.make_folder()
    with job.outputs.held():
        return _run(job)


def _run(job: Job) -> dict[str, Any]:
    dropped = Dropped()
    reader = ScoredRowReader(job.columns, job.reader, dropped)
    inputs = [input_entry(file) for file in job.files]
    with job.outputs.reported(), gather(read_files(job.files, reader), job.outputs.folder) as gathered:
        reader.check(", ".join(entry["path"] for entry in inputs))
        if reader.are_win_probabilities:
            check_win_probabilities(job)
        choosing = Choosing(job, reader, gathered)
        with job.outputs.open() as paths:
            written = choosing.write(gathered.prompts(), paths.rows)
            report = {
                "select": job.select,
                "format": job.format,
                "write_margin": job.write_margin,
                "inputs": inputs,
                "rows_read": reader.seen.rows,
                **choosing.figures.to_dict(),
                "columns": columns_entry(reader),
                "dropped": dropped.to_dict(),
            }
            if not written["rows"]:
                raise nothing_chosen(report)
            manifest = {
                **{name: report[name] for name in ("select", "format", "inputs", "rows_read", "prompts", "answers")},
                "flags": dict(job.flags),
                "written": written,
                "dropped": report["dropped"],
                **({REWARD_KIND: WIN_PROBABILITY} if reader.are_win_probabilities else {}),
                "versions": installed_versions(["numpy"]),
            }
            write_beside(job, paths, manifest, report, choosing.format)
    return report


def check_win_probabilities(job: Job) -> None:
    """
    Raises:
        UserError: what the flags ask for needs rewards that compare between rows, or of another size.
    """
    if any(file.model is not None for file in job.files):
        raise UserError(
            "--mix: expected rewards that compare between rows, found win probabilities among the answers of a row. "
            "Put the answers of all models to a prompt into one row, `responses` beside `model` (a list of names), "
            "score these rows, and pass them as --input."
        )
    rule = job.options.rule
    if rule.min_gap > 1 and not job.options.len_penalty:
        raise UserError(
            f"--min_gap: expected at most 1, because the rewards are win probabilities, found {rule.min_gap:g}."
        )


def input_entry(file: InputFile) -> dict[str, Any]:
    """A file with its checksum, for the manifest."""
    try:
        with file.path.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"expected a readable file, found {file.path} [{error.strerror}].") from error
    return {"path": str(file.path), "model": file.model, "sha256": digest}


def read_files(files: Iterable[InputFile], reader: ScoredRowReader) -> Iterator[ScoredPrompt]:
    """The rows that are not dropped."""
    with progress("reading", "row") as bar:
        for file in files:
            for row in stream_rows([file.path]):
                bar.update()
                if (prompt := reader.read(values_to_read(row), row.where, file.model)) is not None:
                    yield prompt


@contextmanager
def progress(words: str, unit: str, total: int | None = None) -> Iterator[tqdm]:
    """A bar, on a terminal."""
    with tqdm(desc=words, unit=f" {unit}", total=total, leave=False, disable=not shows_bars()) as bar:
        yield bar


class Choosing:
    """Prompt by prompt: figures of its answers, what is taken of them, and the rows of that."""

    def __init__(self, job: Job, reader: ScoredRowReader, gathered: Gathered):
        self.dropped, seen = reader.dropped, reader.seen
        self.selection: Selection = SELECTIONS[job.select](job.options)
        kind = WIN_PROBABILITY if reader.are_win_probabilities else None
        options = WriteOptions(job.write_margin, all_have_kwargs=seen.kwargs > 0, score_kind=kind)
        self.format: RowFormat = FORMATS[job.format](options)
        scored = gathered.scored_of_prompts()
        self.within_rows = reader.are_win_probabilities
        self.prompts, greatest = len(scored), int(scored.max(initial=0))
        has = {"has_truth": seen.truths > 0, "has_finals": seen.finals > 0, "has_steps": seen.steps > 0}
        self.figures = Figures(greatest, **has, seed=job.options.seed)

    def write(self, prompts: Iterable[ScoredPrompt], path: Path) -> dict[str, Any]:
        """Write the rows; returns how many, and the sha256 of the lines."""
        rows, content = 0, sha256()
        with open_lines(path) as file, progress("choosing", "prompt", self.prompts) as bar:
            for prompt in prompts:
                bar.update()
                if self.within_rows and prompt.answer_sets > 1:
                    self.dropped.add(Reason.SEVERAL_ROWS, prompt.where)
                    self.figures.prompts += 1
                    continue
                self.figures.add(prompt)
                for line in self.lines(prompt):
                    content.update(line)
                    file.write(line)
                    rows += 1
        return {"rows": rows, "content_sha256": content.hexdigest()}

    def lines(self, prompt: ScoredPrompt) -> list[bytes]:
        """The rows of a prompt; none where it is dropped."""
        usable = usable_answers(prompt, self.dropped)
        selected = self.selection.select(prompt, usable)
        if isinstance(selected, Reason):
            self.dropped.add(selected, prompt.where)
            return []
        written: list[tuple[Selected, bytes]] = []
        for one in selected:
            try:
                written.append((one, line_of(self.format.row(prompt, one))))
            except NotWritable as error:
                self.dropped.add(Reason.NOT_WRITABLE, f"{prompt.where} ({error})")
        if written:
            self.figures.add_selected(usable, [one for one, _ in written])
        return [line for _, line in written]


def line_of(row: Mapping[str, object]) -> bytes:
    """A row as JSON on one line.

    Raises:
        NotWritable: there is half a character in it (JSON's "\\ud800"), which no tokenizer takes.
    """
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise NotWritable("half a character, \\ud800 to \\udfff") from error


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    """A file of lines; packed where its name says so, the same bytes whenever it is written."""
    with path.open("wb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file


def columns_entry(reader: ScoredRowReader) -> dict[str, Any]:
    """Which columns the figures are of, and what could not be read of them."""
    columns, seen = reader.columns, reader.seen
    unread = {name: {"rows": number, "first": first} for name, (number, first) in seen.unread.items()}
    return {
        "chosen_by": " + ".join(columns.attributes) or columns.rewards,
        "reward_kind": WIN_PROBABILITY if reader.are_win_probabilities else None,
        "answers_of_rows": [min(seen.sizes), max(seen.sizes)] if seen.sizes else None,
        "truth": columns.truth_name if seen.truths or seen.no_truths else None,
        "final_answer": columns.final,
        "unread": unread,
        "unread_truths": {"answers": seen.no_truths, "first": seen.first_no_truth},
    }


def nothing_chosen(report: Mapping[str, Any]) -> UserError:
    table = "\n".join(dropped_table(report))
    return UserError(f"expected something to write, found that everything was dropped.\n{table}")


def write_beside(
    job: Job, paths: Paths, manifest: Mapping[str, Any], report: dict[str, Any], row_format: RowFormat
) -> None:
    """Manifest, report and page, and the entry of LLaMA-Factory."""
    write_json(paths.manifest, manifest)
    write_json(paths.report, report)
    paths.page.write_text(write_page(job.outputs.rows.name, report), encoding="utf-8", errors="backslashreplace")
    entry = row_format.beside(job.outputs.rows.name, pairs=SELECTIONS[job.select].pairs)
    if entry is not None and job.outputs.has_dataset_info:
        job.outputs.add_dataset_info(entry)
