"""Rows whose texts begin alike, as benchmarks/trees.py trains on them: drawn ones, and published ones from files."""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from process_models import SOLUTIONS as SOLUTIONS  # of which others ask here
from process_models import outcome_row, read_rows
from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from reward_modeling.data.preferences import NO_OPTIONS, STANDARD_FEATURES, standardise_row  # noqa: E402
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group  # noqa: E402
from reward_modeling.data.step_rows import STEP_FEATURES, step_row  # noqa: E402
from reward_modeling.objectives.base import Objective  # noqa: E402
from reward_modeling.objectives.pairwise import Pairwise  # noqa: E402
from reward_modeling.objectives.pairwise_flags import PairwiseFlags  # noqa: E402
from reward_modeling.objectives.process import Process  # noqa: E402
from reward_modeling.objectives.process_flags import ProcessFlags  # noqa: E402

SPREAD = 0.4  # lengths are drawn log-normally
TEXT = (
    "add sum take away divide multiply by two three five seven twelve both sides of the equation so that we find x "
    "is equal to y where a number less than its square root gives us then let n be the first term and note this "
    "side length area triangle circle angle degrees how many ways can they sit in each row if no one stands next"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Case:
    """Rows of one kind, and who reads them."""

    name: str
    objective: Objective
    rows: list[dict] = field(repr=False)

    def groups(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict]:
        """As they are trained on: longer rows are cut, those that cannot be used are left out."""
        numbered = [(row, f"{self.name}:{number}") for number, row in enumerate(self.rows, start=1)]
        if isinstance(self.objective, Pairwise):
            read, features = [standardise_row(*row) for row in numbered], STANDARD_FEATURES
        else:
            read, features = [step_row(*row, NO_OPTIONS, None) for row in numbered], STEP_FEATURES
        dataset, options = Dataset.from_list(read, features=features), TokenizeOptions(max_length)
        groups = tokenize_and_group(dataset, tokenizer, self.objective.reader, options)
        return [group for group in groups.to_list() if group["units"]]


def pairwise_case(answers: int, prompts: int, words: tuple[int, int]) -> Case:
    """Ranked lists of answers: all their pairs, each in both orders.

    Args:
        words: of a prompt and of an answer, on average.
    """
    draw = random.Random(answers)
    rows = [
        {
            "prompt": _text(draw, words[0]),
            "completions": [_text(draw, words[1]) for _ in range(answers)],
            "ranks": list(range(1, answers + 1)),
        }
        for _ in range(prompts)
    ]
    return Case(f"pairwise, {answers} answers", Pairwise(PairwiseFlags()), rows)


def alternatives_case(count: int) -> Case:
    """Trees as PRM800K's first phase has them: several next steps at each place, of which the answer takes one.

    Made up: 4 to 10 places of 1 to 5 alternatives, a step of some 30 words, a problem of some 60.
    """
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        places = [
            [{"text": _text(draw, 30), "label": draw.random() < 0.7} for _ in range(draw.randint(1, 5))]
            for _ in range(draw.randint(4, 10))
        ]
        rows.append(
            {"prompt": _text(draw, 60), "steps": [[place[0] | {"chosen": True}, *place[1:]] for place in places]}
        )
    return Case("alternatives at each step", _process(), rows)


def prmbench_case(path: Path) -> Case:
    """Of a question the processes of all classes, of which some begin with the same steps."""
    return Case("PRMBench", _process(), read_rows(path))


def gsm8k_case(path: Path) -> Case:
    """Four solutions of a question, each with one label: they share the question."""
    made = (outcome_row(row) for row in read_rows(path))
    rows = [{"prompt": row["prompt"], "responses": row["responses"], "labels": row["is_correct"]} for row in made]
    return Case("GSM8K, four solutions", _process(), rows)


def texts(cases: Sequence[Case]) -> Iterator[str]:
    """What a tokenizer is trained on."""
    for case in cases:
        for row in case.rows[:200]:
            yield from map(str, row.values())


def _process() -> Process:
    return Process(ProcessFlags())


def _text(draw: random.Random, words: int) -> str:
    count = max(3, round(words * draw.lognormvariate(-(SPREAD**2) / 2, SPREAD)))
    return " ".join(draw.choices(WORDS, k=count)).capitalize() + "."
