"""Train a reward model with one output for each attribute of an answer, on ratings.

    accelerate launch rm_regression.py --model_name google/gemma-2b-it --train_set_path data/helpsteer2 \
        --attributes helpfulness,correctness,coherence,complexity,verbosity --output_path ./models/gemma2b_ratings
"""

import sys
from dataclasses import dataclass

from reward_modeling.common.early_answers import answer_early
from reward_modeling.common.errors import run_script
from reward_modeling.frozen_backbone.flags import FrozenBackboneFlags
from reward_modeling.objectives.regression import Regression, RegressionFlags
from reward_modeling.training.flags import RunFlags


@dataclass
class ScriptArguments(FrozenBackboneFlags, RegressionFlags, RunFlags):
    """The defaults to edit.

    What a flag means stands with its base class, and in `python rm_regression.py --help`: those of the loss in
    objectives/regression.py, those of --freeze_backbone in frozen_backbone/flags.py, the others in training/flags.py.
    """

    model_name: str = "google/gemma-2b-it"
    train_set_path: None | str | list[str] = "data/helpsteer2"  # noqa: RUF036 (None first, as in transformers)
    output_path: str = "./models/gemma2b_ratings"
    attributes: str | None = "helpfulness,correctness,coherence,complexity,verbosity"
    label_ranges: str | None = None  # helpfulness=0:4,...; unset: those of the training set
    weights: str | None = None  # of the scalar reward: helpfulness=0.65,...; unset: the mean
    learning_rate: float = 1e-5
    num_train_epochs: float = 2
    max_length: int = 4096


def main() -> None:
    answer_early(ScriptArguments)
    # Only now, since they take seconds: transformers and what trains.
    from reward_modeling.frozen_backbone.job import fit_or_train
    from reward_modeling.training.job import run_job

    run_job(ScriptArguments, Regression, fit_or_train)


if __name__ == "__main__":
    sys.argv[0] = "rm_regression.py"
    run_script(main)
