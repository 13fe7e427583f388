"""What score.py does, from a loaded model to the file of scored rows.

look = from_first(state, lambda: look_at_rows(files, reader, None, overwrite=False))
scoring = load_scoring("./last_checkpoint", state)
run = run_of(look, model, flags, scoring)
counts = Job(scoring, files, reader, state).score(output, run, done, look)
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from reward_modeling.checkpoints.run_record import fingerprint_of_weights
from reward_modeling.common.errors import UserError
from reward_modeling.common.launch import installed_versions
from reward_modeling.generations.added_columns import REWARD_KIND
from reward_modeling.generations.counts import Counts, report
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.input_rows import stream_rows
from reward_modeling.generations.look import Look
from reward_modeling.generations.output_file import STATE_VERSION, OutputFile, Progress, Writer
from reward_modeling.generations.progress import RowProgress
from reward_modeling.generations.row_scoring import RowScoring, Scored
from reward_modeling.generations.scored_rows import line_of
from reward_modeling.generations.windows import ReadRow, read_row, windows_of
from reward_modeling.models.chat_template import fingerprint_of_template

logger = logging.getLogger("score")

PACKAGES = ("torch", "transformers", "tokenizers")  # those that could make other rewards of the same rows


def describe_model(name_or_path: str, revision: str | None, scoring: RowScoring) -> dict:
    """What decides the rewards, and is the same wherever the model's files lie."""
    scorer = scoring.scorer
    return {
        "weights": fingerprint_of_weights(name_or_path, scorer.model.config),
        "revision": revision,
        "chat_template": fingerprint_of_template(scorer.tokenizer),
        "class": type(scorer.model).__name__,
        "dtype": scorer.dtype_name,
        "max_length": scorer.reader.max_length,
        "batching": scorer.batches.batching,
        **scoring.model_entry(),
    }


def run_of(look: Look, model: Mapping, flags: Mapping, scoring: RowScoring) -> dict:
    """What one run computes: a run that goes on from its rows has to have the same, but for `output_file.FREE`."""
    files = {"fingerprint": look.fingerprint, "rows": look.rows}
    run = {"version": STATE_VERSION, "input": files, "model": model, "flags": flags}
    scorer = scoring.scorer
    device = scorer.model.device.type
    threads = torch.get_num_threads() if device == "cpu" else None  # by which sums are cut into parts
    return {**run, "device": device, "max_tokens_per_batch": scorer.batches.max_tokens, "threads": threads}


# --- windows ----------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """Scores the rows of files, window by window, on every process together."""

    scoring: RowScoring
    files: Sequence[Path]
    reader: RowReader
    state: PartialState
    limit: int | None = None
    overwrite_rewards: bool = False

    def score(self, output: OutputFile, run: Mapping, done: Progress, look: Look) -> Counts:
        """Write every row that is not written yet, on the first process; the counts of all of them there.

        Raises:
            UserError: a file is broken, a row cannot take another column, the disk is full, memory runs out.
        """
        counts = Counts.of_json(done.counts)
        progress = RowProgress(look.rows, done.rows, speaks=self.state.is_main_process)
        with _counted_over_all():
            return self._write(output, run, done, counts, progress)

    def _write(self, output: OutputFile, run: Mapping, done: Progress, counts: Counts, progress: RowProgress) -> Counts:
        if not self.state.is_main_process:
            self._score(None, counts, done.rows, progress)
            return counts
        with output.writing(done, run) as writer:
            self._score(writer, counts, done.rows, progress)
        return counts

    def _score(self, writer: Writer | None, counts: Counts, skip: int, progress: RowProgress) -> None:
        rows = (read_row(row, self.reader) for row in islice(stream_rows(self.files), skip, self.limit))
        for number, window in enumerate(windows_of(rows, self.scoring.size)):
            self.scoring.check(window, counts)
            scored = self._rewards(window, number, counts, progress)
            if writer is not None:
                options = {"overwrite": self.overwrite_rewards, "kind": self.scoring.kind}
                lines = [line_of(row, of_row, counts, **options) for row, of_row in zip(window, scored, strict=True)]
                writer.append(lines, counts.as_json())
            progress.finish(len(window))
        progress.close()

    def _rewards(self, window: list[ReadRow], number: int, counts: Counts, progress: RowProgress) -> Scored:
        """Of each row what the model says of its answers, by their places; the same on every process."""
        given = self.scoring.given(window)
        processes, finished = self.state.num_processes, 0

        def advance(more: int) -> None:
            """By the own share: the other processes are about as far."""
            nonlocal finished
            finished += more
            progress.within(finished * processes / len(given), len(window))

        # Another process begins with the heaviest pass of each window.
        ranks = {"process_index": (self.state.process_index + number) % processes, "num_processes": processes}
        own = list(self.scoring.stream((one.what for one in given), progress=advance, **ranks))
        made = self.scoring.scorer.counts
        counts.cut += made.cut
        counts.cut_tokens += made.cut_tokens
        found: dict[int, Any] = {}
        total = 0
        for part, tokens in gather_object([(own, made.tokens)]):
            counts.tokens += tokens
            total += len(part)
            found.update(part)
        if total != len(given) or len(found) != total:
            raise RuntimeError(f"{total} results of {len(given)} texts, not each exactly once")
        return self.scoring.rewards(window, given, found, counts)


@contextmanager
def _counted_over_all() -> Iterator[None]:
    """Without what scoring says of each window: it is counted over all of them here."""
    of_windows = logging.getLogger("reward_modeling.scoring")
    level = of_windows.level
    of_windows.setLevel(logging.ERROR)
    try:
        yield
    finally:
        of_windows.setLevel(level)


# --- the end ----------------------------------------------------------------------------------------------------------


def finish(output: OutputFile, run: Mapping, counts: Counts, about: Mapping, kind: str | None) -> None:
    """The counts on the screen, the manifest, and the output under its name.

    Args:
        kind: what the rewards are, where they are not a model's own outputs.

    Raises:
        UserError: no row has a reward; nothing is left behind then.
    """
    if not counts.rows_scored:
        output.discard()
        raise UserError(f"expected rows that can be scored, found none among {counts.rows:,}.\n{report(counts)}")
    manifest = {"what": "rewards of generated answers", **about, **({REWARD_KIND: kind} if kind else {})}
    manifest |= {"run": run, "counts": counts.as_json(), "versions": installed_versions(PACKAGES)}
    output.finish(manifest)
    print(report(counts), flush=True)
    logger.info("Scored rows: %s", output.path)
    logger.info("Manifest: %s", output.manifest)
