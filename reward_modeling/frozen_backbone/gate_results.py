"""What a gate's training leaves: the whole model, verified before it gets its name, and its figures.

last_checkpoint/     backbone, objectives, transform matrix and gate in the published layout; README.md, a card with
                     the tables; verification.json
evaluation.json      the figures of pairs that neither training nor the choice of the step has seen
run.json             of what, how and when
data_report.json     every row that was read, kept, or dropped for a counted reason
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from reward_modeling.checkpoints.folders import clean_up
from reward_modeling.checkpoints.output_folder import remove_earlier_run
from reward_modeling.checkpoints.verified_rows import write_verification
from reward_modeling.common.atomic import commit, unfinished, write_whole
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import ARGUMENTS, EVAL_SCORES, EVALUATION, LAST_CHECKPOINT, RUN
from reward_modeling.common.launch import installed_versions
from reward_modeling.data.prepare import PreparedPairs
from reward_modeling.frozen_backbone.debiasing import Debiased
from reward_modeling.frozen_backbone.features import Features, read_rows
from reward_modeling.frozen_backbone.gate import FittedGate
from reward_modeling.frozen_backbone.gate_figures import gate_warnings
from reward_modeling.frozen_backbone.gate_flags import GatingFlags
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, Parts
from reward_modeling.frozen_backbone.gate_text import gate_card
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel, merge
from reward_modeling.frozen_backbone.gated_verification import Sample, draw_sample, verify
from reward_modeling.frozen_backbone.ridge import predict
from reward_modeling.models.gated_model import GateSettings
from reward_modeling.results.run import PACKAGES, write_json

logger = logging.getLogger(__name__)

CARD = "README.md"
MUCH = 0.1  # of the standard deviation of scores


@dataclass(frozen=True)
class Trained:
    """A gate with what it was trained on."""

    pairs: GatePairs
    parts: Parts
    fitted: FittedGate
    debiased: Debiased
    figures: dict[str, Any]


def settings_of(args: GatingFlags, objectives: int) -> GateSettings:
    return GateSettings(objectives, args.gating_temperature, args.gating_hidden_dim, args.gating_n_hidden)


def scores_of(features: Features, outputs: NDArray, matrix: NDArray, fitted: FittedGate, answers: NDArray) -> NDArray:
    """`(answers,)` scores of some of the answers, as the saved model gives them."""
    rows, place = np.unique(features.prompt_of[answers], return_inverse=True)
    with torch.no_grad():
        gating = fitted.gate(torch.from_numpy(read_rows(features.prompts, rows))).double().numpy()[place]
    return (gating * (outputs[answers] @ matrix)).sum(axis=1)


def save(
    args: GatingFlags,
    given: dict[str, object],
    started: datetime,
    model: ObjectiveModel,
    data: PreparedPairs,
    features: Features,
    trained: Trained,
    device: torch.device,
) -> None:
    """`last_checkpoint`, verified before it gets its name, then run.json and evaluation.json."""
    output, folder = Path(args.output_path), Path(args.output_path) / LAST_CHECKPOINT
    outputs, matrix = predict(features.blocks(), model.head), trained.debiased.matrix
    scores = partial(scores_of, features, outputs, matrix, trained.fitted)
    measured = np.unique(features.pairs[trained.parts.measure])
    held_out = scores(measured)
    lines = score_lines(features, trained.parts.measure, dict(zip(measured.tolist(), held_out.tolist(), strict=True)))
    statistics = {"reward_mean": float(held_out.mean()), "reward_std": float(held_out.std())}
    settings = settings_of(args, len(model.names))
    writing = unfinished(folder)
    merged = merge(model, matrix, trained.fitted.gate, settings, statistics)
    merged.save_pretrained(writing)
    model.tokenizer.save_pretrained(writing)
    warnings = [*gate_warnings(trained.figures), *trained.debiased.warnings(model.names)]
    run = run_figures(args, model, merged, data, trained, started)
    (writing / ARGUMENTS).write_text(json.dumps(given, indent=2, default=str), encoding="utf-8")
    (writing / CARD).write_text(gate_card(folder, run, trained.figures, warnings), encoding="utf-8")
    verified = verify_written(writing, model, trained, draw_sample(data.train, features), device)
    write_verification(writing, verified)
    commit(folder)
    if args.overwrite_output_dir:  # not before the new model is there
        remove_earlier_run(args.output_path, keep=folder.name)
    write_json(output / EVALUATION, trained.figures | statistics)
    write_whole(output / EVAL_SCORES, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    write_json(output / RUN, run | {"seconds": round((datetime.now(UTC) - started).total_seconds(), 1)})
    logger.info(
        "Verification: the saved model is the trained one; %d scores, computed again, differ by up to %.2g.",
        *(verified["answers"], verified["largest_difference"]),
    )
    logger.info("Done: the model with its gate is in %s", folder)
    for message in [*warnings, *rounding_warning(verified.get("rounding", 0.0), held_out.std(), model.model.dtype)]:
        logger.warning("WARNING: %s.", message)


def score_lines(features: Features, pairs: NDArray, scores: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    """The lines of eval_scores.jsonl, as rm.py writes them."""
    for pair in pairs.tolist():
        chosen, rejected = features.pairs[pair].tolist()
        yield {
            "where": features.where[pair],
            "source": features.sources[pair],
            "chosen_reward": scores[chosen],
            "rejected_reward": scores[rejected],
            "margin": scores[chosen] - scores[rejected],
            "chosen_tokens": int(features.completion_tokens[chosen]),
            "rejected_tokens": int(features.completion_tokens[rejected]),
        }


def verify_written(
    writing: Path, model: ObjectiveModel, trained: Trained, sample: Sample, device: torch.device
) -> dict[str, Any]:
    try:
        return verify(writing, model, trained.debiased.matrix, trained.fitted.gate, sample, device)
    except UserError:
        clean_up(writing.parent)
        raise


def rounding_warning(rounding: float, deviation: float, dtype: torch.dtype) -> list[str]:
    """Where a head of large weights, as ridge regression finds them, makes much of the rounding of hidden states."""
    if rounding <= MUCH * deviation:
        return []
    name = str(dtype).removeprefix("torch.")
    return [
        f"in {name} rounding alone moves scores by up to {rounding:.2g}, where their standard deviation is "
        f"{deviation:.2g}. --dtype float32 keeps them"
    ]


def run_figures(
    args: GatingFlags,
    model: ObjectiveModel,
    merged: PreTrainedModel,
    data: PreparedPairs,
    trained: Trained,
    started: datetime,
) -> dict[str, Any]:
    """The content of run.json."""
    parts = dict(zip(Parts._fields, map(len, trained.parts), strict=True))
    return {
        "model_name": args.model_name,
        "model_type": merged.config.model_type,
        "class": type(merged).__name__,
        "objectives": list(model.names),
        "num_parameters": sum(weight.numel() for weight in merged.parameters()),
        "trained_parameters": sum(weight.numel() for weight in trained.fitted.gate.parameters()),
        "pairs": len(trained.pairs),
        "prompts": int((data.train.sizes.units_per_group > 0).sum()),
        "pairs_of_parts": parts,
        "steps": args.steps,
        "step_of_weights": trained.fitted.best_step,
        "debias": trained.debiased.kind,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "started": started.isoformat(timespec="seconds"),
        "seconds": None,
        "versions": installed_versions(PACKAGES),
        "arguments": args.logged(),
    }
