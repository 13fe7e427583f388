"""What is known of a trained model once the last step is taken: how it was trained, on what, and how good it is.

write_json(output / RUN, run_so_far(trainer, data, started))      # before the first step
results = gather_results(trainer, data, given, started)
results.write(output)      # run.json, evaluation.json, eval_scores.jsonl
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_modeling.common.file_names import RUN
from reward_modeling.common.flags import LOGGED, NEEDS_ADAPTER, flags_with
from reward_modeling.common.launch import engine_name
from reward_modeling.common.versions import installed_versions
from reward_modeling.models.reward_normalization import NAMES
from reward_modeling.objectives.base import HeldOut
from reward_modeling.results.files import (
    PACKAGES,
    describe_devices,
    describe_model,
    read_manifest,
    remove_results,
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


def gather_results(trainer: Any, data: "PreparedPairs", given: dict[str, Any], started: datetime) -> Results:
    """The same on every process, all of which have to call it.

    Args:
        trainer: a `RewardTrainer` after its training.
        given: the arguments as they were given.
        started: when this process began.
    """
    args, state, step = trainer.args, trainer.state, trainer.step_of_weights
    held_out = None if data.evaluation is None else trainer.evaluate_final_model()
    if held_out is not None and held_out.not_finite is not None:
        held_out = None  # the objective's metrics have said so; the weights are saved and verified all the same
    # of an earlier step than the last the log has the epoch, if it was logged
    logged_epochs = (entry["epoch"] for entry in state.log_history if entry["step"] == step)
    epoch = state.epoch if step == state.global_step else next(logged_epochs, None)
    evaluation = None
    if held_out is not None:
        name = args.eval_set_path or f"held out of {args.train_set_path}"
        evaluation = {"step": step, "epoch": epoch, "data": name, **trainer.objective.evaluation(held_out)}
    run = run_so_far(trainer, data, started) | {
        "steps": state.global_step,
        "step_of_weights": step,
        "epoch_of_weights": epoch,
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
    }
    return Results(
        run=run,
        evaluation=evaluation,
        held_out=held_out,
        data_report={report.name: report.to_dict() for report in data.reports},
        arguments=run["arguments"],
        given=given,
        conversations=data.conversations,
        train_set_path=args.train_set_path,
    )


def run_so_far(trainer: Any, data: "PreparedPairs", started: datetime) -> dict[str, Any]:
    """The content of run.json before the first step: what only the end can tell is None."""
    args, unit = trainer.args, trainer.objective.reader.unit
    return {
        "model_name": args.model_name,
        **describe_model(trainer.model),
        "engine": engine_name(trainer.accelerator.state),
        "processes": args.world_size,
        "devices": describe_devices(args.device, args.world_size),
        "dtype": "bfloat16" if args.bf16 else "float16" if args.fp16 else args.model_dtype,
        "batching": trainer.collator.batching,
        unit: len(data.train),
        "prompts": int((data.train.sizes.units_per_group > 0).sum()),
        f"{unit}_per_step": args.pairs_per_step,
        "steps": None,
        "step_of_weights": None,
        "epoch_of_weights": None,
        "started": started.isoformat(timespec="seconds"),
        "seconds": None,
        "versions": installed_versions(PACKAGES),
        "arguments": logged_arguments(args),
        "manifest": read_manifest(args.train_set_path),
    }


def logged_arguments(args: Any) -> dict[str, Any]:
    """The flags that decide what is learned, whether they were given or not."""
    without = () if args.use_peft else flags_with(type(args), NEEDS_ADAPTER)
    return {name: getattr(args, name) for name in flags_with(type(args), LOGGED) if name not in without}
