"""What a run leaves in its output folder for people and for `report.html`, beside checkpoints and transformers' log.

`evaluation.json`: the held-out figures of the model that is in last_checkpoint. A figure that is missing is null.

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

`{...}` has the keys of "accuracy". A bin of "by_length_difference" holds the pairs whose chosen answer has from `from`
to `to` tokens more than the rejected one, both included; the bins, at most 8, hold every pair.

`eval_scores.jsonl`: a line for each held-out pair, in the data's order: "where", "source", "chosen_reward",
"rejected_reward", "margin" (their difference), "chosen_tokens", "rejected_tokens".

`preflight.txt`: the table of the preflight, as it was printed.

`run.json`: "model_name", "model_type", "class", "num_parameters", "trained_parameters", "engine", "processes",
"devices", "dtype", "batching", "pairs", "prompts", "pairs_per_step", "steps", "started" (UTC), "seconds" (of the
process that ended the run), "versions", "manifest" (what the folder of --train_set_path says of itself, or null).
"""

EVALUATION = "evaluation.json"
EVAL_SCORES = "eval_scores.jsonl"
PREFLIGHT = "preflight.txt"
RUN = "run.json"
