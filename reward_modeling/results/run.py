"""What is known of a trained model once the last step is taken: how it was trained, on what, and how good it is.

write_json(output / RUN, run_so_far(trainer, data, started))      # before the first step
results = gather_results(trainer, data, given, started)
results.write(output)      # run.json, evaluation.json, eval_scores.jsonl

The files are for people and for `report.html`, beside checkpoints and transformers' log:

`evaluation.json`: the held-out figures of the model that is in last_checkpoint. A figure that is missing is null. Of
every kind of model it has "step", "epoch", "data", and "loss"; "reward_mean" and "reward_std" where there is a reward.
Those of ratings are described in results/ratings.py. Of pairs:

    {
      "step": 120, "epoch": 1.0, "data": "held out of pairs.jsonl",
      "pairs": 500, "loss": 0.41, "reward_mean": 0.02, "reward_std": 1.7,
      "accuracy": {"value": 0.81, "low": 0.77, "high": 0.84, "rows": 500, "right": 405, "ties": 0},
      "longer_wins": {...}, "by_length": {"chosen longer": {...}, "rejected longer": {...}, "equal length": {...}},
      "by_length_difference": [{"from": -200, "to": -51, "value": 0.7, "low": ..., ...}, ...],
      "by_source": {"helpful": {...}, "no source": {...}},
      "calibration_error": 0.06,
      "calibration": [{"low": 0.5, "high": 0.55, "confidence": 0.52, "value": 0.5, "value_low": ..., ...}, ...],
      "margins": {"mean": ..., "median": ..., "standard_deviation": ..., "edges": [41], "counts": [40]},
      "rewards": {"edges": [41], "chosen": [40], "rejected": [40]}
    }

Accuracies, lengths and margins are over the pairs that are no ties; a ranked list is its pairs. Only where they say
something are there: "prompts", if these are fewer than the pairs, which the intervals then take together;
"weighted_accuracy", by the weights of the pairs (those of a list share its weight); and

      "ties": {"pairs": 18, "ties": {"mean_distance": 0.4, "predicted_ties": 0.31}, "others": {...}}

where there are ties, or the model gives them a probability ("predicted_ties", the mean of it).

Of evaluation sets with names (--eval_set_path name=path,...) these are the figures of the first, "set" is its name, and
"sets" has the same of each of them: {"easy": {...}, "hard": {...}}. The lines of eval_scores.jsonl then begin with
"set".

`{...}` has the keys of "accuracy". A bin of "by_length_difference" holds the pairs whose chosen answer has from `from`
to `to` tokens more than the rejected one, both included; the bins, at most 8, hold every pair.

`eval_scores.jsonl`: a line for each held-out unit, in the data's order, of a pair: "where", "source", "chosen_reward",
"rejected_reward", "margin" (their difference), "chosen_tokens", "rejected_tokens"; and, where not all are 1,
"chosen_probability".

`preflight.txt`: the table of the preflight, as it was printed.

`run.json`: "kind" (of the model: what results/catalog.py knows it by), "unit" (what the loss is a mean over: "pairs",
"answers"), "model_name", "model_type", "class", "num_parameters", "trained_parameters", "engine", "processes",
"devices", "dtype", "batching", "pairs", "prompts", "pairs_per_step", "steps", "step_of_weights" and
"epoch_of_weights" (of the saved ones; epochs may be null), "started" (UTC), "seconds" (of the process that ended the
run), "versions", "arguments" (those that decide what is learned), "manifest" (what the folder of --train_set_path says
of itself, or null), "nothing_trained" (why no weight has moved since the last start, or null), "kinds" (in words, where
not all units are pairs of which one answer is preferred) and, of a model of ties, "tie_model" and "tie_threshold". It
is written before the first step, and again at the end: until then there is no threshold, and "steps",
"step_of_weights", "epoch_of_weights" and "seconds" are null.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_modeling.common.file_names import EVAL_SCORES, EVALUATION, MANIFEST, RUN
from reward_modeling.common.flags import LOGGED, NEEDS_ADAPTER, flags_with
from reward_modeling.common.launch import engine_name, installed_versions
from reward_modeling.data.set_paths import evaluation_paths, in_words, set_paths
from reward_modeling.display.text import Rows, count
from reward_modeling.models.adapters import count_weights, has_adapter
from reward_modeling.models.reward_normalization import NAMES
from reward_modeling.objectives.base import HeldOut
from reward_modeling.results.warnings import result_warnings

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "deepspeed",
    "datasets",
    "numpy",
    "safetensors",
)


@dataclass(frozen=True)
class Results:
    """The files of a finished run, before they are written, and what the model card adds to them."""

    run: dict[str, Any]
    evaluation: dict[str, Any] | None
    held_out: dict[str, HeldOut]
    data_report: dict[str, Any]
    given: dict[str, Any]
    conversations: bool
    train_sets: list[str]
    num_labels: int

    @property
    def warnings(self) -> list[str]:
        """What the page, the card and the screen say first."""
        return result_warnings(self.run, self.evaluation, self.data_report)

    @property
    def statistics(self) -> dict[str, float] | None:
        """Mean and standard deviation of the held-out rewards; None where there are none."""
        if self.evaluation is None or not self.evaluation.keys() >= set(NAMES):
            return None
        return {name: self.evaluation[name] for name in NAMES}

    def write(self, output: Path) -> None:
        remove_results(output)
        write_json(output / RUN, self.run)
        if self.evaluation is not None:
            write_json(output / EVALUATION, self.evaluation)
            own = (
                ({"set": name} if name else {}, line) for name, of in self.held_out.items() for line in of.score_lines()
            )
            lines = (json.dumps(name | line, ensure_ascii=False, allow_nan=False) for name, line in own)
            (output / EVAL_SCORES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def gather_results(trainer: Any, data: "PreparedPairs", given: dict[str, Any], started: datetime) -> Results:
    """The same on every process, all of which have to call it.

    Args:
        trainer: a `RewardTrainer` after its training.
        given: the arguments as they were given.
        started: when this process began.
    """
    args, state, step = trainer.args, trainer.state, trainer.step_of_weights
    held_out = {} if data.evaluation is None else trainer.evaluate_final_model()
    if any(of_set.not_finite is not None for of_set in held_out.values()):
        held_out = {}  # the objective's metrics have said so; the weights are saved and verified all the same
    # of an earlier step than the last the log has the epoch, if it was logged
    logged_epochs = (entry["epoch"] for entry in state.log_history if entry["step"] == step)
    epoch = state.epoch if step == state.global_step else next(logged_epochs, None)
    evaluation = None
    train_sets, sets = set_paths(args.train_set_path), evaluation_paths(args.eval_set_path)
    if held_out:
        places = {name: in_words({name: of}) for name, of in sets.items()} or {
            "": f"held out of {', '.join(train_sets)}"
        }
        figures = {
            name: {"step": step, "epoch": epoch, "data": places[name], **trainer.objective.evaluation(of_set)}
            for name, of_set in held_out.items()
        }
        first = next(iter(figures))
        evaluation = figures[first] | ({"set": first, "sets": figures} if first else {})
    end = {"steps": state.global_step, "step_of_weights": step, "epoch_of_weights": epoch}
    end |= trainer.objective.saved_values()
    end["nothing_trained"] = trainer.largest_update.nothing
    end["seconds"] = round((datetime.now(UTC) - started).total_seconds(), 1)
    return Results(
        run=run_so_far(trainer, data, started) | end,
        evaluation=evaluation,
        held_out=held_out,
        data_report={report.name: report.to_dict() for report in data.all_reports},
        given=given,
        conversations=data.conversations,
        train_sets=train_sets,
        num_labels=trainer.objective.num_labels,
    )


def run_so_far(trainer: Any, data: "PreparedPairs", started: datetime) -> dict[str, Any]:
    """The content of run.json before the first step: what only the end can tell is None."""
    args, unit = trainer.args, trainer.objective.reader.unit
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    plain = trainer.model.get_base_model() if has_adapter(trainer.model) else trainer.model
    without = () if args.use_peft else flags_with(type(args), NEEDS_ADAPTER)
    logged = [name for name in flags_with(type(args), LOGGED) if name not in without]
    # Of a folder that data_prep/ has written; several sets have several.
    train_sets = set_paths(args.train_set_path)
    manifest = Path(train_sets[0]) / MANIFEST
    kinds = trainer.objective.reader.describe_kinds(data.train)
    has_manifest = len(train_sets) == 1 and manifest.is_file()
    return {
        "kind": trainer.objective.kind,
        "unit": unit,
        "model_name": args.model_name,
        "model_type": plain.config.model_type,
        "class": type(plain).__name__,
        "num_parameters": count_weights(trainer.model.parameters()),
        "trained_parameters": count_weights(weight for weight in trainer.model.parameters() if weight.requires_grad),
        "engine": engine_name(trainer.accelerator.state),
        "processes": args.world_size,
        "devices": device if args.world_size == 1 else f"{args.world_size} x {device}",
        "dtype": "bfloat16" if args.bf16 else "float16" if args.fp16 else args.model_dtype,
        "batching": trainer.collator.batching,
        unit: len(data.train),
        "prompts": int((data.train.sizes.units_per_group > 0).sum()),
        **({"kinds": kinds} if kinds else {}),
        f"{unit}_per_step": args.pairs_per_step,
        **dict.fromkeys(("steps", "step_of_weights", "epoch_of_weights", "nothing_trained")),
        "started": started.isoformat(timespec="seconds"),
        "seconds": None,
        "versions": installed_versions(PACKAGES),
        "arguments": {name: getattr(args, name) for name in logged},
        "manifest": json.loads(manifest.read_text(encoding="utf-8")) if has_manifest else None,
    }


def remove_results(output: Path) -> None:
    """The figures of a model that is not in last_checkpoint any more."""
    for name in (EVALUATION, EVAL_SCORES):
        (output / name).unlink(missing_ok=True)


def write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def source_rows(manifest: Mapping, unit: str) -> Rows:
    """A table of the sources, as the data's own manifest.json counts them.

    Args:
        unit: what it counts, such as "pairs"; it need not be what a run makes of the rows.
    """
    rows: Rows = [("source", unit, "prompts", "licence", "from")]
    for source in manifest["sources"]:
        words = source["licence"] or "not stated", source["dataset_path"] or ""
        rows.append((source["name"], count(source.get(unit)), count(source["prompts"]), *words))
    return rows
