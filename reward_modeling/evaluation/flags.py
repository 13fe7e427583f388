"""The flags of eval_bench_mark.py, and what is wrong with them: the script itself has the defaults to edit."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import PATH, at_least, flag, flag_problems, one_of
from reward_modeling.common.launch import worker_count
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PLAIN_TEXT_HELP,
    PREFERRED_HELP,
    REVISION_HELP,
    read_options_problems,
)
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, BenchmarkPaths
from reward_modeling.evaluation.benchmarks.processbench import SPLIT_ROWS, TUNED_ON
from reward_modeling.objectives.step_format_flags import (
    PROMPT_FORMAT_HELP,
    PROMPT_FORMATS,
    STEP_SEPARATOR_HELP,
    read_step_format,
)
from reward_modeling.objectives.weights_flag import WEIGHTS_HELP, read_weights

RECORD = "bench_mark_eval.txt"  # where record_dir is a folder
COMPARISON_FOLDER = "bench_mark_comparison"
# What may stand beside these two flags, which evaluate no model.
WITH_COMPARE = ("compare", "output_dir", "overwrite_output_dir")
WITH_VERDICTS = ("from_verdicts", "benchmarks", "legacy_xstest_weights", "record_dir", *WITH_COMPARE[1:])


@dataclass
class EvaluationFlags(BenchmarkPaths):
    """Beside these --rewardbench_path, and so on: where each benchmark stands."""

    # Model
    reward_name_or_path: Annotated[str, PATH] = flag(
        "./models/gemma2b_rm/last_checkpoint",
        "Hub id or folder of a reward model of any kind, or of a LoRA adapter of one.",
    )
    revision: str | None = flag(None, "Branch, tag or commit of the model.")
    trust_remote_code: bool = flag(False, "Run code that the model's repository holds.")
    dtype: str | None = flag(None, "float32, bfloat16 or float16. Unset: bfloat16 on a GPU, float32 on a CPU.")

    chat_template: Annotated[str | None, PATH] = flag(
        None, "A jinja file: the chat template to take as it is, in the place of the model's own."
    )

    weights: str | None = flag(None, WEIGHTS_HELP)
    step_separator: str | None = flag(None, STEP_SEPARATOR_HELP)
    prompt_format: Annotated[str | None, one_of(*PROMPT_FORMATS)] = flag(None, PROMPT_FORMAT_HELP)
    beside: Annotated[str | None, PATH] = flag(
        None,
        "Another model, such as a Bradley-Terry model of the data that a pairwise model was trained on, or the folder "
        "of an earlier evaluation of it: its figures beside the model's, with paired intervals of the differences. A "
        "model is evaluated first, into a folder of its own.",
    )

    # Output
    record_dir: Annotated[str, PATH] = flag(
        "./bench_mark_eval.txt",
        "File to which the scores are appended, name<TAB>score a line; in a folder, one of its own.",
    )
    output_dir: Annotated[str | None, PATH] = flag(
        None,
        "Folder of scores.jsonl, summary.json and report.html, in a folder named after the model. Unset: "
        "beside record_dir, without its suffix.",
    )
    overwrite_output_dir: bool = flag(
        False,
        "Replace the benchmarks that are asked for in what an earlier evaluation of the model left in "
        "output_dir. The others there stay in any case.",
    )

    compare: Annotated[list[str] | None, PATH] = flag(  # noqa: RUF009 (as in training/flags.py)
        None,
        "Folders that earlier evaluations have written, 2 to 8: their figures side by side, with paired "
        "intervals of the differences, as a table and a page. No model is loaded. Beside it only --output_dir "
        "(unset: ./bench_mark_comparison) and --overwrite_output_dir.",
    )

    # Benchmarks
    benchmarks: None | str | list[str] = flag(  # noqa: RUF009, RUF036 (as above)
        "rewardbench,preference_test_sets", f"Some of {', '.join(BENCHMARKS)}."
    )
    subsets: None | str | list[str] = flag(  # noqa: RUF009, RUF036 (as above)
        None, "Only these subsets of the benchmarks, with commas between: what needs others has no score."
    )
    from_verdicts: Annotated[str | None, PATH] = flag(
        None,
        "A file of verdicts that were made elsewhere (.csv: row, subset, and for each model a column of 1, "
        "0 or nothing), or of rewards (.jsonl, as scores.jsonl): its models' figures. No model is loaded.",
    )
    legacy_xstest_weights: bool = flag(False, "Weigh the two xstest subsets as tables of before September 2024 did.")

    tune_threshold_on: Annotated[str, one_of(*SPLIT_ROWS)] = flag(
        TUNED_ON,
        "Of ProcessBench, the split that a threshold is tuned on; figures at 0.5 stand beside those at it in any case.",
    )

    # Pairs of your own
    columns: str | None = flag(None, COLUMNS_HELP)
    preferred_values: str | None = flag(None, PREFERRED_HELP)
    ignore_columns: str | None = flag(None, IGNORE_HELP)
    plain_text: bool = flag(False, PLAIN_TEXT_HELP)
    dataset_revision: str | None = flag(None, f"{REVISION_HELP} (of --pairs_path.)")

    # Scoring
    max_length: Annotated[int | None, at_least(2)] = flag(
        None, "Longer conversations lose their oldest tokens. Unset: the model's own context."
    )
    max_tokens_per_batch: Annotated[int | None, at_least(1)] = flag(
        None, "Tokens of one forward pass, which bounds its memory. Unset: 32,768 on a GPU, 2,048 else."
    )
    batching: str = flag(
        "auto",
        "shared_prefix computes a prompt once for all its answers; packed is free of padding; padded is "
        "one row per answer; auto is shared_prefix where the model allows it.",
    )
    num_proc: Annotated[int | None, at_least(1)] = flag(
        None, "Worker processes that read files. Unset: one per core, at most 16."
    )

    def __post_init__(self):
        if self.compare is not None:
            self._check_alone("compare", WITH_COMPARE, "earlier evaluations have written", "evaluate first")
            self.comparison_folder = Path(self.output_dir or COMPARISON_FOLDER)
            return
        if self.from_verdicts is not None:
            self._check_alone("from_verdicts", WITH_VERDICTS, "was scored elsewhere", "evaluate the model itself")
        given = [self.benchmarks] if isinstance(self.benchmarks, str) else self.benchmarks or []
        self.benchmarks = [name for text in given for name in re.split(r"[,\s]+", text) if name]
        given = [self.subsets] if isinstance(self.subsets, str) else self.subsets or []
        self.subsets = [name.strip() for text in given for name in text.split(",") if name.strip()]
        self.num_proc = worker_count(self.num_proc)
        record = Path(self.record_dir)
        is_folder = record.is_dir() or self.record_dir.endswith(("/", os.sep))
        self.record_file = record / RECORD if is_folder else record
        if problems := list(self._problems()):
            raise UserError("\n".join(problems))
        self.benchmarks = [name for name in BENCHMARKS if name in self.benchmarks]

    def _check_alone(self, flag: str, allowed: tuple[str, ...], reads: str, otherwise: str) -> None:
        """
        Raises:
            UserError: flags of an evaluation beside one that makes none.
        """
        others = (flag for flag in fields(self) if flag.name not in allowed)
        if given := [f"--{other.name}" for other in others if getattr(self, other.name) != other.default]:
            beside = " and ".join(f"--{name}" for name in allowed[1:])
            raise UserError(
                f"--{flag}: expected no flags beside it but {beside}, found {', '.join(given)}. It reads what {reads}: "
                f"leave the others out, or {otherwise}."
            )

    def _problems(self) -> Iterator[str]:
        yield from read_options_problems(self.columns, self.ignore_columns, self.preferred_values)
        for read, given in (
            (read_weights, (self.weights,)),
            (read_step_format, (self.step_separator, self.prompt_format)),
        ):
            try:
                read(*given)
            except UserError as error:
                yield str(error)
        yield from self._benchmark_problems()
        yield from flag_problems(self)
        of_pairs = ("columns", "preferred_values", "ignore_columns", "plain_text", "dataset_revision")
        if "pairs" not in self.benchmarks and (given := [f"--{name}" for name in of_pairs if getattr(self, name)]):
            yield f"{', '.join(given)}: expected pairs among --benchmarks, found none"
        if self.tune_threshold_on != TUNED_ON and "processbench" not in self.benchmarks:
            yield "--tune_threshold_on: expected processbench among --benchmarks, whose threshold this is"
        if self.legacy_xstest_weights and "rewardbench" not in self.benchmarks:
            yield "--legacy_xstest_weights: expected rewardbench among --benchmarks, whose weights these are"
        if self.beside is not None and self.model_folder(self.beside) == self.model_folder(self.reward_name_or_path):
            yield f"--beside: expected another model, found {self.beside}, whose files have the same folder"
        if not self.reward_name_or_path.strip():
            yield "--reward_name_or_path: expected the Hub id or folder of a reward model, found nothing"

    def _benchmark_problems(self) -> Iterator[str]:
        """Of --benchmarks and where they stand."""
        known = f"--benchmarks: expected some of {', '.join(BENCHMARKS)}"
        yield from (f"{known}, found {name!r}" for name in self.benchmarks if name not in BENCHMARKS)
        if not self.benchmarks:
            yield f"{known}, found none"
        for name in BENCHMARKS:
            if getattr(self, f"{name}_path") is not None and name not in self.benchmarks:
                chosen = ",".join(self.benchmarks)
                yield f"--{name}_path is given, but not read: pass --benchmarks {chosen},{name} too"
        if "pairs" in self.benchmarks and self.pairs_path is None and self.from_verdicts is None:
            yield "--benchmarks pairs: expected --pairs_path too, the file of pairs"

    def model_folder(self, model: str) -> Path:
        """Where the files of a model go."""
        from reward_modeling.evaluation.files import folder_name

        record = self.record_file
        beside = record.with_suffix("") if record.suffix else Path(f"{record}_reports")
        return Path(self.output_dir or beside) / folder_name(model)

    def revision_of(self, model: str) -> str | None:
        """That of --revision is of the model that is evaluated, and not of the one beside it."""
        return self.revision if model == self.reward_name_or_path else None

    @property
    def step_format(self) -> dict[str, object] | None:
        """How a process model reads an answer that does not say it; see `read_step_format`."""
        return read_step_format(self.step_separator, self.prompt_format)

    def as_passed(self) -> dict[str, object]:
        """The flags with their values, for the summary."""
        return {flag.name: getattr(self, flag.name) for flag in fields(self)}
