"""Score generated answers with a reward model: the same rows, with their rewards.

    accelerate launch score.py --reward_name_or_path ./models/gemma2b_rm/last_checkpoint \
        --input generations.jsonl --output scored.jsonl

Rows are {"prompt": ..., "responses": [...]} and what else people have (reward_modeling/generations/forms). A process
model gives the probabilities of steps beside its rewards. Those of a pairwise model are win probabilities among the
answers of a row. A run that was killed goes on where it was with --resume true.

Or compare what a running server gives with what the saved model gave (its flags: --verify_server URL --help):

    python score.py --verify_server http://127.0.0.1:8000 --protocol vllm \
        --reward_name_or_path ./models/gemma2b_rm/last_checkpoint
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.errors import UserError, problems_with, report_once_per_node, run_script
from reward_modeling.common.flags import PATH, flag, flag_problems, one_of
from reward_modeling.common.interruption import TYPED_COMMAND, end_with_launcher, ends_at_once, with_flag
from reward_modeling.data.read_options import read_options_problems
from reward_modeling.generations.columns_flag import COLUMN_TARGETS, COLUMNS_HELP
from reward_modeling.objectives.step_format_flags import (
    PROMPT_FORMAT_HELP,
    PROMPT_FORMATS,
    STEP_SEPARATOR_HELP,
    read_step_format,
)
from reward_modeling.objectives.weights_flag import WEIGHTS_HELP, read_weights

if TYPE_CHECKING:
    from reward_modeling.generations.output_file import OutputFile

# What decides, beside the files and the model, what the output is.
OF_ROWS = ("columns", "plain_text", "questions", "limit", "overwrite_rewards")


@dataclass
class ScriptArguments:
    """The defaults to edit."""

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
    normalize: bool = flag(
        False, "Give (reward - reward_mean) / reward_std, by the held-out rewards that the checkpoint carries."
    )

    # Rows
    input: Annotated[None | str | list[str], PATH] = flag(  # noqa: RUF009, RUF036 (as in eval_bench_mark.py)
        None,
        "Files of generated answers, folders or globs of them, one or several: .jsonl, .json, .parquet, .csv, .tsv, "
        "also .gz.",
    )
    columns: str | None = flag(None, COLUMNS_HELP)
    plain_text: bool = flag(
        False,
        "Score prompts and answers that are texts as they stand, one behind the other, without the chat template.",
    )
    questions: Annotated[str | None, PATH] = flag(
        None, "The file of questions that answers of Arena-Hard v0.1 and MT-Bench belong to."
    )
    limit: int | None = flag(None, "Score the first rows alone, so many.")

    # Output
    output: Annotated[str | None, PATH] = flag(
        None, "File of the scored rows, .jsonl or .jsonl.gz. It is OUTPUT.partial until all rows are scored."
    )
    resume: bool = flag(
        False,
        "Go on where an earlier run was killed, if one has begun OUTPUT.partial; one that is finished stays as it is.",
    )
    overwrite_output: bool = flag(False, "Replace OUTPUT, and begin anew what an earlier run has begun.")
    overwrite_rewards: bool = flag(False, "Replace the rewards that rows have already.")

    # A running server, in the place of all that
    verify_server: str | None = flag(
        None, "Compare a server's rewards with the saved model's: --verify_server URL --help shows the flags of that."
    )

    # Scoring
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longer conversations lose their oldest tokens. Unset: the model's own context."},
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Tokens of one forward pass, which bounds its memory. Unset: 32,768 on a GPU, 2,048 else."},
    )
    batching: str = field(
        default="auto",
        metadata={
            "help": "shared_prefix computes a prompt once for all its answers; packed is free of padding; padded is "
            "one row per answer; auto is shared_prefix where the model allows it."
        },
    )

    def __post_init__(self):
        if problems := self._problems():
            raise UserError("\n".join(problems))

    def _problems(self) -> list[str]:
        problems = read_options_problems(self.columns, None, targets=COLUMN_TARGETS)
        problems += flag_problems(self)
        problems += problems_with(read_weights, self.weights)
        problems += problems_with(read_step_format, self.step_separator, self.prompt_format)
        if self.verify_server is not None:
            problems.append("--verify_server: expected on the command line, found it in the file of --config")
        if not self.input:
            problems.append("--input: expected the files of generated answers, found nothing")
        if not self.output:
            problems.append("--output: expected the file to write the scored rows to, found nothing")
        if not self.reward_name_or_path.strip():
            problems.append("--reward_name_or_path: expected the Hub id or folder of a reward model, found nothing")
        for name, least in {"max_length": 2, "max_tokens_per_batch": 1, "limit": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                problems.append(f"--{name}: expected at least {least}, found {getattr(self, name)}")
        return problems


# ----------------------------------------------------------------------------------------------------------
# Job
# ----------------------------------------------------------------------------------------------------------


def main() -> None:
    if any(token.partition("=")[0] in ("--verify_server", "--verify-server") for token in sys.argv[1:]):
        from reward_modeling.serving.verification_flags import run_verification

        run_verification()
        return
    with report_once_per_node():
        args, _ = parse_script_arguments(ScriptArguments)
    score_rows(args)


def score_rows(args: ScriptArguments) -> None:
    """Read, score and write the rows."""
    # Imported when the flags are known: torch, and what reads files.
    from reward_modeling.generations import job
    from reward_modeling.generations.forms import RowReader, read_columns
    from reward_modeling.generations.forms.base import Reading
    from reward_modeling.generations.input_files import find_files, folders_passed_over
    from reward_modeling.generations.loading import check_columns, check_template, load_scoring
    from reward_modeling.generations.look import look_at_rows
    from reward_modeling.generations.output_file import OutputFile
    from reward_modeling.generations.processes import from_first, start_processes
    from reward_modeling.generations.questions import read_questions

    end_with_launcher()
    output = OutputFile(args.output)
    with report_once_per_node():
        output.check(resume=args.resume, overwrite=args.overwrite_output)
        files = find_files("--input", args.input)
        output.check_is_no_input(files)
        questions = None if args.questions is None else read_questions(args.questions)
        reader = RowReader(read_columns(args.columns), Reading(args.plain_text, questions))
    state = start_processes()
    look = from_first(state, lambda: look_at_rows(files, reader, args.limit, overwrite=args.overwrite_rewards))
    job.logger.info("Rows: %s.", look.words)
    if passed_over := folders_passed_over(args.input):
        job.logger.warning("Not read: the folders in those of --input, such as %s. Pass them too.", passed_over[0])
    with report_once_per_node():
        scoring = load_scoring(
            args.reward_name_or_path,
            state,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            dtype=args.dtype,
            max_length=args.max_length,
            max_tokens_per_batch=args.max_tokens_per_batch,
            batching=args.batching,
            normalize=args.normalize,
            plain_text=args.plain_text,
            chat_template=args.chat_template,
            weights=read_weights(args.weights),
            step_format=read_step_format(args.step_separator, args.prompt_format),
        )
        check_template(scoring, look)
        if not args.overwrite_rewards:
            check_columns(scoring, look)
    model = job.describe_model(args.reward_name_or_path, args.revision, scoring)
    run = job.run_of(look, model, {name: getattr(args, name) for name in OF_ROWS}, scoring)
    may_be_finished = args.resume and not args.overwrite_output
    if from_first(state, lambda: may_be_finished and output.is_finished(run)):
        job.logger.info("Finished already: %s", output.path)
        state.destroy_process_group()
        return
    done = from_first(state, lambda: output.begin(run, resume=args.resume))
    with ends_at_once(lambda of: f"Stopped by {of.name}. {how_to_go_on(output)}"):
        rows = job.Job(scoring, files, reader, state, args.limit, args.overwrite_rewards)
        counts = rows.score(output, run, done, look)
        if state.is_main_process:
            about = {"model": args.reward_name_or_path, "input": args.input}
            job.finish(output, run, counts, about, scoring.kind)
    state.wait_for_everyone()
    state.destroy_process_group()


def how_to_go_on(output: "OutputFile") -> str:
    """What a run says that is ended by a signal."""
    command = with_flag(without_tokens(TYPED_COMMAND), "resume", "true")
    return f"What is scored is in {output.partial}. To go on:\n\n    {command}\n"


if __name__ == "__main__":
    sys.argv[0] = "score.py"
    run_script(main)
