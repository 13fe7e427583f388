"""A run that trains nothing but the head: features of all answers, a ridge regression, and the same model as of others.

`rm_regression.py --freeze_backbone true` comes here. What it leaves is what a trained run leaves, verified as that is.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from reward_modeling.checkpoints.output_folder import prepare_output_folder
from reward_modeling.common.errors import UserError, report_once_per_node
from reward_modeling.data.cached_rows import cache_root
from reward_modeling.data.gate_position import Tail, gate_tail
from reward_modeling.data.loader import PromptGroups
from reward_modeling.display.text import align
from reward_modeling.frozen_backbone.feature_cache import cached_features
from reward_modeling.frozen_backbone.feature_pass import FeaturePass, check_model
from reward_modeling.frozen_backbone.features import Features
from reward_modeling.frozen_backbone.flags import OF_TRAINING
from reward_modeling.frozen_backbone.readers import RatingFeatureReader
from reward_modeling.frozen_backbone.ridge import RidgeFit, check_libraries, fit_ridge, predict
from reward_modeling.models.adapters import count_weights
from reward_modeling.objectives.regression import Regression
from reward_modeling.results.ratings import ridge_rows
from reward_modeling.results.run import Results, gather_results
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.job import finish_run, prepare_run, start_output_folder, train
from reward_modeling.training.memory_probe import out_of_memory_explained
from reward_modeling.training.setup import build_trainer
from reward_modeling.training.trainer import RewardTrainer

logger = logging.getLogger(__name__)


class RegressionOnFeatures(Regression):
    """As `Regression`, of conversations of which the gate's position is read before the last token."""

    fits_head = True
    tail: Tail

    def take_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tail = gate_tail(tokenizer)

    @property
    def reader(self) -> RatingFeatureReader:
        return RatingFeatureReader(self.attributes, tail=self.tail)

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        return Regression.collate([unit[-1:] for unit in units], targets)


def fit_or_train(args: RunArguments, objective: Regression, given: dict) -> None:
    """What rm_regression.py runs."""
    if not args.freeze_backbone:
        train(args, objective, given)
        return
    with report_once_per_node():
        check_libraries()
    fit(args, RegressionOnFeatures(args), given)


def fit(args: RunArguments, objective: RegressionOnFeatures, given: dict) -> None:
    """The run, from data to the verified model, as `training.job.train` has it."""
    started = datetime.now(UTC)
    if not args.dry_run and (checkpoint := prepare_output_folder(args, resumes=False)) is not None:
        raise UserError(
            "--resume_from_checkpoint: expected no checkpoint beside --freeze_backbone, whose features are kept "
            f"without one, found {checkpoint}. Take another --output_path."
        )
    prepared = prepare_run(args, objective, given, write_report=not args.dry_run, takes_steps=False)
    if args.dry_run:
        return
    with out_of_memory_explained("loading the model", args.max_tokens):
        trainer = build_trainer(args, prepared.setup, prepared.data)
    with report_once_per_node():
        check_model(trainer.model)
    start_output_folder(trainer, prepared, None, started)

    # Features and ridge
    data, how = prepared.data, feature_pass(trainer)
    features = features_of(trainer, data.train, how)
    ridge = fit_on_first_process(args, objective, features)
    set_head(trainer.model, ridge.weights)
    if how.process == 0:
        show_ridge(ridge, objective.attributes)

    # Held-out answers
    sets = {} if data.evaluation is None else (data.evaluations or {"": data.evaluation})
    rows = {
        name: evaluated_rows(features_of(trainer, groups, how), groups, objective, ridge.weights)
        for name, groups in sets.items()
    }
    if rows:
        trainer.last_evaluation = trainer.state.global_step, rows
    results = gather_results(trainer, data, given, started)
    finish_run(trainer, without_training(results, trainer.model.score, ridge_figures(ridge, objective.attributes)))


def feature_pass(trainer: RewardTrainer) -> FeaturePass:
    """How this process takes part in computing features."""
    args, state = trainer.args, PartialState()
    lower = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else trainer.model.dtype
    return FeaturePass(
        trainer.collator.batching,
        trainer.collator.pad_token_id,
        args.target_tokens,
        tail=trainer.objective.tail,
        autocast=None if lower == trainer.model.dtype else lower,
        process=args.process_index,
        num_processes=args.world_size,
        wait=state.wait_for_everyone,
    )


def features_of(trainer: RewardTrainer, groups: PromptGroups, how: FeaturePass) -> Features:
    cache = Path(trainer.args.feature_cache) if trainer.args.feature_cache else cache_root()
    with out_of_memory_explained("computing features", how.max_tokens):
        return cached_features(groups, trainer.model, how, cache, trainer.objective.attributes)


def fit_on_first_process(args: RunArguments, objective: Regression, features: Features) -> RidgeFit:
    """The ridge regression, which the other processes wait for."""
    fitted: list[RidgeFit | None] = [None]
    if args.process_index == 0:
        labels = objective.scaled(torch.tensor(features.ratings)).numpy()
        fitted = [fit_ridge(features.blocks, labels, features.prompt_of, seed=args.seed)]
    return broadcast_object_list(fitted)[0] if args.world_size > 1 else fitted[0]


def set_head(model: torch.nn.Module, weights: NDArray) -> None:
    """The head in float32, whatever the other weights are in: bfloat16 would leave three digits of a solution."""
    model.score.to(torch.float32)
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor(weights))


def evaluated_rows(features: Features, groups: PromptGroups, objective: Regression, weights: NDArray) -> list[tuple]:
    """What `Regression.held_out` takes: of each answer its group and its number there, and what is kept of it."""
    logits = torch.tensor(predict(features.blocks(), weights))
    targets = {"answers": torch.arange(len(features)), "ratings": torch.tensor(features.ratings)}
    group = groups.sizes.group_of_unit
    numbers = np.arange(len(group)) - groups.sizes.unit_offsets[group]
    keys = zip(group.tolist(), numbers.tolist(), strict=True)
    return [(key, *values) for key, values in zip(keys, objective.evaluated(logits, targets), strict=True)]


# --- what is said of it -------------------------------------------------------------------------------------------


def ridge_figures(ridge: RidgeFit, attributes: Sequence[str]) -> dict[str, dict[str, float]]:
    """For run.json: by what alpha was chosen."""
    return {
        name: {
            "answers": int(ridge.rated[place]),
            "alpha": float(ridge.alpha[place]),
            "squared_error": float(ridge.errors[place].min()),
            "mean_label_squared_error": float(ridge.error_of_mean[place]),
        }
        for place, name in enumerate(attributes)
    }


def show_ridge(ridge: RidgeFit, attributes: Sequence[str]) -> None:
    """The same on the screen."""
    lines = align(ridge_rows(ridge_figures(ridge, attributes)))
    print(
        "Ridge regression on features; alpha by a fifth of the prompts, labels from 0 to 1:",
        *lines,
        sep="\n",
        flush=True,
    )
    if at_the_end := [name for name, last in zip(attributes, ridge.at_the_end, strict=True) if last]:
        logger.warning(
            "Ridge: the best alpha is the least or the greatest that was tried, of %s.", ", ".join(at_the_end)
        )


def without_training(results: Results, head: torch.nn.Module, figures: dict) -> Results:
    """The results without what is said of steps, and with what the head was fitted by."""
    arguments = {name: value for name, value in results.run["arguments"].items() if name not in OF_TRAINING}
    trained = count_weights(head.parameters())
    changes = {"arguments": arguments, "trained_parameters": trained, "epoch_of_weights": None, "ridge": figures}
    return replace(results, run=results.run | changes)
