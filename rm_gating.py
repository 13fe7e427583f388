"""Train the gate of a mixture of objectives on preference pairs; backbone and objectives are left as they are.

    python rm_gating.py --model_name models/gemma2b_ratings/last_checkpoint \
        --train_set_path my_pairs.jsonl --output_path ./models/gemma2b_gated
"""

import sys
from dataclasses import dataclass

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import report_once_per_node, run_script
from reward_modeling.frozen_backbone.gate_flags import GatingFlags


@dataclass
class ScriptArguments(GatingFlags):
    """The defaults to edit.

    What a flag means stands in frozen_backbone/gate_flags.py, and in `python rm_gating.py --help`.
    """

    model_name: str = "./models/gemma2b_ratings/last_checkpoint"  # of rm_regression.py
    train_set_path: None | str | list[str] = "weqweasdas/preference_dataset_mix2"  # noqa: RUF036 (None first, as in transformers)
    output_path: str = "./models/gemma2b_gated"
    held_out: float = 0.2

    # Debiasing
    debias: str | None = None  # verbosity-objective, length or none
    debias_bound: float = 0.03

    # Gate
    gating_temperature: float = 10.0
    gating_hidden_dim: int = 1024
    gating_n_hidden: int = 3
    steps: int = 2000
    pairs_per_step: int = 1024
    learning_rate: float = 1e-3
    dropout: float = 0.2


def main() -> None:
    with report_once_per_node():
        args, given = parse_script_arguments(ScriptArguments)
    # Only now, since they take seconds: transformers and what trains.
    from reward_modeling.frozen_backbone.gate_job import run_gating

    run_gating(args, given)


if __name__ == "__main__":
    sys.argv[0] = "rm_gating.py"
    run_script(main)
