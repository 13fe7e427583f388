"""Choose answers by their rewards: pairs for DPO, the best answers for SFT, and a report of what the choice is worth.

    accelerate launch score.py --reward_name_or_path MODEL --input generations.jsonl --output scored.jsonl
    python best_of_n.py --input scored.jsonl --select dpo_pairs --output pairs.jsonl

    python best_of_n.py --input scored.jsonl --select best --format trl --output best.jsonl
    python best_of_n.py --mix llama=scored_a.jsonl,qwen=scored_b.jsonl --select dpo_pairs --length_matched true \\
        --min_gap 1.0 --output pairs.jsonl

Answers to one prompt are gathered from wherever they stand. No model is loaded, and no text stays in memory.
reward_modeling/best_of_n/choices.py says what --choose does, and in what it differs from RLHFlow's run_dpo.py.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from reward_modeling.best_of_n.choices import CHOICES, MAX_MIN, MAX_MIN_P, PairRule
from reward_modeling.best_of_n.columns import SEVERAL_HELP, RewardColumns
from reward_modeling.best_of_n.formats.catalog import FORMATS
from reward_modeling.best_of_n.outputs import SUFFIXES, Outputs
from reward_modeling.best_of_n.selection import SELECTIONS, SelectionOptions
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.flags import NOT_NEGATIVE, PATH, SEED, at_least, changed_flags, flag, flag_problems, one_of
from reward_modeling.data.read_options import read_options_problems
from reward_modeling.generations.columns_flag import COLUMN_TARGETS, COLUMNS_HELP
from reward_modeling.objectives.weights_flag import read_weights

OF_PAIRS = ("choose", "min_gap", "length_matched", "max_pairs_per_prompt", "write_margin")  # for dpo_pairs alone
OF_PLACES = ("input", "mix", "output", "overwrite_output")  # say nothing of the rows


@dataclass
class ScriptArguments:
    """The defaults to edit."""

    # Files
    input: Annotated[None | str | list[str], PATH] = flag(  # noqa: RUF009, RUF036 (as in eval_bench_mark.py)
        None, "Scored rows: files that score.py wrote, folders or globs of them, one or several."
    )
    mix: Annotated[None | str | list[str], PATH] = flag(  # noqa: RUF009, RUF036 (as above)
        None,
        "In the place of --input the answers of several models to the same prompts: A.jsonl,B.jsonl, or with names "
        "llama=A.jsonl,qwen=B.jsonl. Best and worst are then chosen among the answers of all. Not for rewards of a "
        "pairwise model, which compare within a row alone.",
    )
    output: Annotated[str, PATH] = flag(
        "chosen.jsonl", "File of the rows to write, .jsonl or .jsonl.gz; manifest and report go beside it."
    )
    overwrite_output: bool = flag(False, "Replace an earlier output of this name.")
    format: Annotated[str, one_of(*FORMATS)] = flag(
        "ours", "ours (which rm.py reads), trl, or llama_factory, with its entry in dataset_info.json."
    )

    # What is chosen
    select: Annotated[str, one_of(*SELECTIONS)] = flag(
        "dpo_pairs",
        "best: the best answer of each prompt; top_k: the best --top_k; dpo_pairs: a better and a worse one.",
    )
    choose: Annotated[str, one_of(*CHOICES)] = flag(
        MAX_MIN,
        "Of pairs, the answer that the best one is paired with: max_min the worst one, max_max the second best, "
        "max_random any lower one, max_min_p the worst one by the reward less --len_penalty for each character.",
    )
    min_gap: Annotated[float, NOT_NEGATIVE] = flag(
        0.0,
        "Of pairs, the least difference of what is chosen by: the two rewards, or what --len_penalty leaves of "
        "them. Where that is equal there is no pair in any case. Rewards of a pairwise model are from 0 to 1.",
    )
    length_matched: bool = flag(
        False,
        "Of pairs, the rejected answer is the one of nearest length to the chosen one among those that are --min_gap "
        "below it. Takes the place of --choose.",
    )
    max_pairs_per_prompt: Annotated[int, at_least(1)] = flag(
        1, "Further pairs are chosen in the same way among the answers that are in no pair yet."
    )
    top_k: Annotated[int | None, at_least(1)] = flag(None, "Of --select top_k, how many answers of a prompt.")
    min_answers: Annotated[int, at_least(1)] = flag(2, "Prompts with fewer different answers are dropped.")
    len_penalty: Annotated[float, NOT_NEGATIVE] = flag(
        0.0, "Subtracted from the reward for each character of the answer: with --choose max_min_p, best or top_k."
    )
    seed: Annotated[int, SEED] = flag(0, "Of what is drawn: max_random, and which of answers with equal rewards.")
    write_margin: bool = flag(
        False,
        "Write the gap of a pair as `margin` too: the one of --min_gap. rm.py and TRL's RewardTrainer "
        "subtract a margin in their loss unasked, so rewards of a model should not become margins unless that is "
        "wanted.",
    )

    # Columns
    columns: str | None = flag(None, COLUMNS_HELP)
    plain_text: bool = flag(
        False, "Prompts and answers that are texts are plain texts, as score.py scored them with this flag."
    )
    questions: Annotated[str | None, PATH] = flag(
        None, "The file of questions that answers of Arena-Hard v0.1 and MT-Bench belong to."
    )
    reward_column: str = flag("rewards", "The rewards, one for each answer of a row." + SEVERAL_HELP)
    by: str | None = flag(None, "Choose by this attribute, in the place of the reward.")
    weights: str | None = flag(
        None, "Choose by a weighted sum of attributes, in the place of the reward: helpfulness=0.65,verbosity=-0.4."
    )
    truth_column: str | None = flag(
        None,
        "Which answers are right (true or false, 1 or 0, one for each answer): the report then has the share of right "
        "answers. Unset: is_correct, where rows have it. Written as --reward_column.",
    )
    answer_column: str | None = flag(
        None,
        "The final answer of each answer, such as a number: the report then has a majority, too. "
        "Written as --reward_column.",
    )

    def __post_init__(self):
        if problems := list(self._problems()):
            raise UserError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        yield from flag_problems(self)
        yield from read_options_problems(self.columns, None, targets=COLUMN_TARGETS)
        try:
            read_weights(self.weights)
        except UserError as error:
            yield str(error)
        if (self.input is None) == (self.mix is None):
            found = "neither" if self.input is None else "both"
            yield f"--input or --mix: expected one of them, the scored rows, found {found}"
        if not self.output.endswith(SUFFIXES):
            yield f"--output: expected a {' or '.join(SUFFIXES)} file, found {self.output}"
        elif self.format == "llama_factory" and self.output.endswith(".gz"):
            yield f"--output: expected a .jsonl file, since LLaMA-Factory reads no packed ones, found {self.output}"
        given = ", ".join(f"--{name}" for name in changed_flags(self, list(OF_PAIRS)))
        if given and self.select != "dpo_pairs":
            yield f"{given}: expected --select dpo_pairs beside it, found {self.select}"
        if (self.top_k is None) == (self.select == "top_k"):
            found = self.select if self.top_k is not None else "none"
            yield f"--top_k: expected a number with --select top_k, and with it alone, found {found}"
        if self.length_matched and self.choose not in (MAX_MIN, MAX_MIN_P):
            yield f"--length_matched: expected no --choose beside it but {MAX_MIN_P}, found {self.choose}"
        if self.select == "dpo_pairs" and (self.len_penalty > 0) != (self.choose == MAX_MIN_P):
            found = f"{self.len_penalty:g} with {self.choose}"
            yield f"--len_penalty: expected above 0 with --choose {MAX_MIN_P}, and 0 with other choices, found {found}"
        if self.select == "dpo_pairs" and self.min_answers < 2:
            yield f"--min_answers: expected at least 2 for pairs, found {self.min_answers}"
        if self.by is not None and self.weights is not None:
            yield "--by and --weights: expected one of them, found both"

    def reward_columns(self) -> RewardColumns:
        """Where the numbers stand."""
        weights = read_weights(self.weights)
        return RewardColumns(self.reward_column, self.by, weights, self.truth_column, self.answer_column)

    def selection_options(self) -> SelectionOptions:
        """What is taken of a prompt's answers."""
        rule = PairRule(self.choose, self.min_gap, self.length_matched, self.max_pairs_per_prompt)
        return SelectionOptions(rule, self.top_k or 1, self.min_answers, self.len_penalty, self.seed)

    def given_flags(self) -> dict[str, object]:
        """The flags with their values, for the manifest; where things stand is in no manifest."""
        return {
            declared.name: getattr(self, declared.name) for declared in fields(self) if declared.name not in OF_PLACES
        }


def main() -> None:
    arguments, _ = parse_script_arguments(ScriptArguments)
    outputs = Outputs(Path(arguments.output), arguments.overwrite_output, arguments.format == "llama_factory")
    outputs.check()
    choose_answers(arguments, outputs)


def choose_answers(arguments: ScriptArguments, outputs: Outputs) -> None:
    """Read the rows, write what is chosen, and say what it comes to."""
    # Imported when the flags are known to be right: what reads files, and plots.
    from reward_modeling.best_of_n.files import input_files, mixed_files
    from reward_modeling.best_of_n.job import Job, run
    from reward_modeling.best_of_n.report import report_lines
    from reward_modeling.generations.forms import RowReader, read_columns
    from reward_modeling.generations.forms.base import Reading
    from reward_modeling.generations.questions import read_questions

    files = input_files(arguments.input) if arguments.input is not None else mixed_files(arguments.mix)
    outputs.check_not_among(file.path for file in files)
    questions = None if arguments.questions is None else read_questions(arguments.questions)
    report = run(
        Job(
            files=files,
            outputs=outputs,
            select=arguments.select,
            format=arguments.format,
            columns=arguments.reward_columns(),
            options=arguments.selection_options(),
            reader=RowReader(read_columns(arguments.columns), Reading(arguments.plain_text, questions)),
            write_margin=arguments.write_margin,
            flags=arguments.given_flags(),
        )
    )
    print("\n".join(report_lines(report, arguments.output)))


if __name__ == "__main__":
    sys.argv[0] = "best_of_n.py"
    run_script(main)
