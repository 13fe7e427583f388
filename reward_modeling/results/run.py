"""What is known of a trained model once the last step is taken: how it was trained, on what, and how good it is.

write_json(output / RUN, run_so_far(trainer, pairs, started))      # before the first step
results = gather_results(trainer, pairs, given, started)
results.write(output)      # run.json, evaluation.json, eval_scores.jsonl
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_modeling.common.file_names import RUN
from reward_modeling.common.flags import LOGGED, NEEDS_ADAPTER, flags_with
from reward_modeling.common.launch import engine_name
from reward_modeling.models.reward_normalization import NAMES
from reward_modeling.objectives.base import HeldOut
from reward_modeling.results.files import (
    described_device,
    described_model,
    held_out_name,
    manifest_of,
    remove_results,
    versions,
    write_evaluation,
    write_json,
)

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs


@dataclass(frozen=True)
class Results:
    """The files of a finished run, before they are written, and what the model card adds to them."""

    run: dict[str, Any]
    evaluation: dict[str, Any] | None
    held_out: HeldOut | None
    data_report: dict[str, Any]
    arguments: dict[str, Any]
    given: dict[str, Any]
    conversations: bool
    train_set_path: str

    @property
    def statistics(self) -> dict[str, float] | None:
        """Mean and standard deviation of the held-out rewards."""
        return None if self.evaluation is None else {name: self.evaluation[name] for name in NAMES}

    def write(self, output: Path) -> None:
        remove_results(output)
        write_json(output / RUN, self.run)
        if self.evaluation is not None:
            write_evaluation(output, self.evaluation, self.held_out)


def gather_results(trainer, pairs: "PreparedPairs", given: dict[str, Any], started: datetime) -> Results:
    """The same on every process, all of which have to call it.

    Args:
        trainer: an `rm.RewardTrainer` after its training.
        given: the arguments as they were given.
        started: when this process began.
    """
    args = trainer.args
    held_out = None if pairs.evaluation is None else trainer.evaluate_final_model()
    if held_out is not None and held_out.not_finite is not None:
        held_out = None  # the objective's metrics have said so; the weights are saved, and verified, all the same
    evaluation = None
    if held_out is not None:
        step = trainer.step_of_weights
        evaluation = {
            "step": step,
            "epoch": _epoch(trainer.state, step),
            "data": held_out_name(args.train_set_path, args.eval_set_path),
            **trainer.objective.evaluation(held_out),
        }
    run = run_so_far(trainer, pairs, started) | {
        "steps": trainer.state.global_step,
        "step_of_weights": trainer.step_of_weights,
        "epoch_of_weights": _epoch(trainer.state, trainer.step_of_weights),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
    }
    return Results(
        run=run,
        evaluation=evaluation,
        held_out=held_out,
        data_report={report.name: report.to_dict() for report in pairs.reports},
        arguments=run["arguments"],
        given=given,
        conversations=pairs.conversations,
        train_set_path=args.train_set_path,
    )


def _epoch(state, step: int) -> float | None:
    """At which epoch a step was; of an earlier one than the last the log says it, where there was one."""
    if step == state.global_step:
        return state.epoch
    return next((entry["epoch"] for entry in state.log_history if entry["step"] == step), None)


def run_so_far(trainer, pairs: "PreparedPairs", started: datetime) -> dict[str, Any]:
    """The content of run.json before the first step: what only the end can tell is None."""
    args = trainer.args
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else args.model_dtype
    return {
        "model_name": args.model_name,
        **described_model(trainer.model),
        "engine": engine_name(trainer.accelerator.state),
        "processes": args.world_size,
        "devices": described_device(args.device, args.world_size),
        "dtype": precision,
        "batching": trainer.collator.batching,
        "pairs": len(pairs.train),
        "prompts": int((pairs.train.sizes.units_per_group > 0).sum()),
        "pairs_per_step": args.pairs_per_step,
        "steps": None,
        "step_of_weights": None,
        "epoch_of_weights": None,
        "started": started.isoformat(timespec="seconds"),
        "seconds": None,
        "versions": versions(),
        "arguments": logged_arguments(args),
        "manifest": manifest_of(args.train_set_path),
    }


def logged_arguments(args: Any) -> dict[str, Any]:
    """The flags that decide what is learned, whether they were given or not."""
    without = () if args.use_peft else flags_with(type(args), NEEDS_ADAPTER)
    return {name: getattr(args, name) for name in flags_with(type(args), LOGGED) if name not in without}
