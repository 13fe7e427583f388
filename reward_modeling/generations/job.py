"""What score.py does, from a loaded model to the file of scored rows.

look = from_first(state, lambda: look_at_rows(files, reader, None, overwrite=False))
scorer = load_scorer("./last_checkpoint", state)
run = run_of(scorer, look, ...)
counts = score_files(scorer, files, reader, output, run, progress, state)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from reward_modeling.checkpoints.run_record import fingerprint_of_weights
from reward_modeling.common.errors import UserError
from reward_modeling.common.launch import installed_versions
from reward_modeling.generations.counts import Counts, report
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.input_rows import stream_rows
from reward_modeling.generations.look import Look
from reward_modeling.generations.output_file import STATE_VERSION, OutputFile, Progress, Writer
from reward_modeling.generations.progress import RowProgress
from reward_modeling.generations.scored_rows import has_rewards, line_of
from reward_modeling.generations.template_checks import TemplateChecks
from reward_modeling.generations.windows import ReadRow, read_row, windows_of
from reward_modeling.models.chat_template import fingerprint_of_template
from reward_modeling.objectives.weights_flag import describe_weights
from reward_modeling.scoring import RewardScorer, ScoredConversation
from reward_modeling.scoring import scorer as scorer_module

logger = logging.getLogger("score")

PACKAGES = ("torch", "transformers", "tokenizers")  # those that could make other rewards of the same rows


def load_scorer(name_or_path: str, state: PartialState, **options: object) -> RewardScorer:
    """Load the model, and say what it is; `options` are those of `RewardScorer.from_pretrained`."""
    scorer = RewardScorer.from_pretrained(name_or_path, device=state.device, **options)
    logger.info(
        "Model: %s, %s, %s, at most %s tokens a conversation; %s batches of at most %s tokens on %d x %s.",
        *(type(scorer.model).__name__, name_or_path, scorer.dtype_name, scorer.reader.max_length or "any number of"),
        *(scorer.batches.batching, f"{scorer.batches.max_tokens:,}", state.num_processes, state.device.type),
    )
    if scorer.readout.reward_weights is not None:
        logger.info("Reward: the weighted sum of %s.", describe_weights(scorer.readout.reward_weights))
    # Of each window it would say what is counted over all of them here.
    logging.getLogger(scorer_module.__name__).setLevel(logging.ERROR)
    return scorer


def check_template(scorer: RewardScorer, look: Look) -> None:
    """
    Raises:
        UserError: there are messages, and the tokenizer has no chat template.
    """
    if not look.has_messages:
        return
    try:
        scorer.reader.check_template()
    except UserError as error:
        raise UserError(
            f"{error} Or pass --chat_template FILE; --plain_text true scores prompts and answers that are texts as "
            "they stand."
        ) from error


def check_columns(scorer: RewardScorer, look: Look) -> None:
    """
    Raises:
        UserError: rows have a column of a name that this model adds.
    """
    if name := next((name for name in scorer.readout.beside if name in look.taken), None):
        raise UserError(has_rewards(look.taken[name], name))


def describe_model(name_or_path: str, revision: str | None, scorer: RewardScorer) -> dict:
    """What decides the rewards, and is the same wherever the model's files lie."""
    return {
        "weights": fingerprint_of_weights(name_or_path, scorer.model.config),
        "revision": revision,
        "chat_template": fingerprint_of_template(scorer.tokenizer),
        "class": type(scorer.model).__name__,
        "dtype": scorer.dtype_name,
        "max_length": scorer.reader.max_length,
        "batching": scorer.batches.batching,
        "normalize": None if scorer.statistics is None else dict(scorer.statistics),
        "reward_weights": scorer.readout.reward_weights,
    }


def run_of(look: Look, model: Mapping, flags: Mapping, scorer: RewardScorer) -> dict:
    """What one run computes: a run that goes on from its rows has to have the same, but for `output_file.FREE`."""
    files = {"fingerprint": look.fingerprint, "rows": look.rows}
    run = {"version": STATE_VERSION, "input": files, "model": model, "flags": flags}
    device = scorer.model.device.type
    threads = torch.get_num_threads() if device == "cpu" else None  # by which sums are cut into parts
    return {**run, "device": device, "max_tokens_per_batch": scorer.batches.max_tokens, "threads": threads}


# --- windows ----------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """Scores the rows of files, window by window, on every process together."""

    scorer: RewardScorer
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
        if not self.state.is_main_process:
            self._score(None, counts, done.rows, progress)
            return counts
        with output.writing(done, run) as writer:
            self._score(writer, counts, done.rows, progress)
        return counts

    def _score(self, writer: Writer | None, counts: Counts, skip: int, progress: RowProgress) -> None:
        checks = TemplateChecks(self.scorer)
        rows = (read_row(row, self.reader) for row in islice(stream_rows(self.files), skip, self.limit))
        for number, window in enumerate(windows_of(rows)):
            checks.check(window, counts)
            scored = self._rewards(window, number, counts, progress)
            if writer is not None:
                lines = [
                    line_of(row, of_row, counts, overwrite=self.overwrite_rewards)
                    for row, of_row in zip(window, scored, strict=True)
                ]
                writer.append(lines, counts.as_json())
            progress.finish(len(window))
        progress.close()

    def _rewards(
        self, window: list[ReadRow], number: int, counts: Counts, progress: RowProgress
    ) -> list[dict[int, ScoredConversation]]:
        """Of each row what the model says of its answers, by their places; the same on every process."""
        to_score = [(row, place, one) for row, of in enumerate(window) for place, one in of.to_score()]
        processes, finished = self.state.num_processes, 0

        def advance(more: int) -> None:
            """By the own share: the other processes are about as far."""
            nonlocal finished
            finished += more
            progress.within(finished * processes / len(to_score), len(window))

        # Another process begins with the heaviest pass of each window.
        ranks = {"process_index": (self.state.process_index + number) % processes, "num_processes": processes}
        own = list(self.scorer.stream_named((one for *_, one in to_score), progress=advance, **ranks))
        counts.cut += self.scorer.counts.cut
        counts.cut_tokens += self.scorer.counts.cut_tokens
        scored: list[dict[int, ScoredConversation]] = [{} for _ in window]
        found = 0
        for part, tokens in gather_object([(own, self.scorer.counts.tokens)]):
            counts.tokens += tokens
            found += len(part)
            for index, one in part:
                row, place, _ = to_score[index]
                scored[row][place] = one
        if found != len(to_score) or sum(map(len, scored)) != found:
            raise RuntimeError(f"{found} rewards of {len(to_score)} answers, not each exactly once")
        return scored


# --- the end ----------------------------------------------------------------------------------------------------------


def finish(output: OutputFile, run: Mapping, counts: Counts, about: Mapping) -> None:
    """The counts on the screen, the manifest, and the output under its name.

    Raises:
        UserError: no row has a reward; nothing is left behind then.
    """
    if not counts.rows_scored:
        output.discard()
        raise UserError(f"expected rows that can be scored, found none among {counts.rows:,}.\n{report(counts)}")
    manifest = {"what": "rewards of generated answers", **about, "run": run, "counts": counts.as_json()}
    output.finish({**manifest, "versions": installed_versions(PACKAGES)})
    print(report(counts), flush=True)
    logger.info("Scored rows: %s", output.path)
    logger.info("Manifest: %s", output.manifest)
