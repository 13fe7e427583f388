"""The mixture of objectives' second stage at 500,000 answers: debiasing, the gate, and the figures of its report.

Generated features on disk: two answers to each prompt, 19 objectives that a head reads off them, the last of which is
verbosity and stands in the others. Which of two answers is chosen follows a known gate: Bradley-Terry on the objectives
without verbosity, weighted by a softmax of the prompt. Then what `rm_gating.py` does after its pass, with its defaults,
in a process of its own, whose peak of resident memory is what the kernel says (VmHWM).

    python benchmarks/frozen_gate.py --folder /tmp
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.frozen_features import peak_mib

OBJECTIVES = 19
SCALE = 4.0  # of the margins: what is chosen is mostly the better answer
SHARPNESS = 3.0  # of the known gate: a few objectives count in each prompt
SIGNALS = 16  # directions of a prompt's hidden state that the gate follows; the others are noise
LIKING = 0.5  # of the other objectives for verbosity
BLOCK = 10_000  # prompts that are generated at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=500_000)
    parser.add_argument("--hidden_size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where features are written, 6 bytes x hidden size an answer")
    parser.add_argument("--train_once", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_once:
        print(json.dumps(train_once(args.train_once, args.steps)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        best = write_features(Path(folder) / "features", args.answers, args.hidden_size)
        command = [sys.executable, __file__, "--train_once", folder, "--steps", str(args.steps)]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        about = {"answers": args.answers, "hidden_size": args.hidden_size, "steps": args.steps, "known_gate": best}
        print(json.dumps(about | json.loads(process.stdout.splitlines()[-1]), indent=2))


def write_features(folder: Path, answers: int, hidden: int) -> float:
    """A folder of features, and head.npy beside it.

    Returns:
        In how many pairs the known gate is right, which no gate can surpass but by luck.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    prompts = answers // 2
    head = (rng.standard_normal((OBJECTIVES, hidden)) / np.sqrt(hidden)).astype(np.float32)
    mixed = head.copy()
    mixed[:-1] += LIKING * head[-1]
    np.save(folder.with_name("head.npy"), mixed)
    mixing = (rng.standard_normal((SIGNALS, hidden)) / np.sqrt(SIGNALS)).astype(np.float32)
    gate = (SHARPNESS * rng.standard_normal((SIGNALS, OBJECTIVES - 1)) / np.sqrt(SIGNALS)).astype(np.float32)
    right, first_is_chosen = 0, []
    with (folder / "completions.npy").open("wb") as of_answers, (folder / "prompts.npy").open("wb") as of_prompts:
        for file, rows in ((of_answers, 2 * prompts), (of_prompts, prompts)):
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, hidden)}
            np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, prompts, BLOCK):
            count = min(BLOCK, prompts - first)
            signals = rng.standard_normal((count, SIGNALS), dtype=np.float32)
            states = signals @ mixing + 0.3 * rng.standard_normal((count, hidden), dtype=np.float32)
            pairs = rng.standard_normal((count, 2, hidden), dtype=np.float32)
            weights = np.exp(signals @ gate)
            weights /= weights.sum(axis=1, keepdims=True)
            margin = SCALE * (weights * ((pairs[:, 0] - pairs[:, 1]) @ head[:-1].T)).sum(axis=1)
            chosen = rng.random(count) < 1 / (1 + np.exp(-margin))
            right += int((chosen == (margin > 0)).sum())
            first_is_chosen.append(chosen)
            pairs.tofile(of_answers)
            states.astype(np.float32, copy=False).tofile(of_prompts)
    firsts = 2 * np.arange(prompts) + ~np.concatenate(first_is_chosen)
    np.save(folder / "firsts.npy", firsts)
    np.save(folder / "tokens.npy", rng.integers(5, 500, size=2 * prompts))
    return round(right / prompts, 4)


def open_features(folder: Path):
    """As they are after a pass over preference rows."""
    from reward_modeling.frozen_backbone.features import Features

    firsts = np.load(folder / "firsts.npy")
    prompts, answers = len(firsts), np.arange(2 * len(firsts))
    return Features(
        folder,
        *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("completions", "prompts")),
        prompt_keys=np.arange(prompts),
        completion_of=answers,
        prompt_of=answers // 2,
        completion_tokens=np.load(folder / "tokens.npy"),
        ratings=np.zeros((len(answers), 0), dtype=np.float32),
        pairs=np.stack([firsts, firsts ^ 1], axis=1),
        targets=np.tile(np.array([1, 1, 0], dtype=np.float32), (prompts, 1)),
        weights=np.ones(prompts),
        where=[f"generated:{number}" for number in range(prompts)],
        sources=["generated"] * prompts,
    )


def train_once(folder: Path, steps: int) -> dict[str, object]:
    """Seconds, the peak of this process's memory, and what the report says first."""
    from reward_modeling.frozen_backbone.gate_flags import GatingFlags
    from reward_modeling.frozen_backbone.gate_job import train_gate

    names = (*(f"objective_{place}" for place in range(OBJECTIVES - 1)), "verbosity")
    model = SimpleNamespace(head=np.load(folder / "head.npy"), names=names)
    args, before = GatingFlags(train_set_path="generated", steps=steps), peak_mib()
    started = time.perf_counter()
    trained = train_gate(args, model, open_features(folder / "features"), None, OBJECTIVES - 1)
    seconds, process = time.perf_counter() - started, time.process_time()
    figures = trained.figures
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(process, 1),
        "mib_before": before,
        "peak_gib": round(peak_mib() / 1024, 2),
        "best_step": figures["best_step"],
        "measured_pairs": figures["pairs"],
        "gate": round(figures["accuracy"]["value"], 4),
        "fixed_weights": round(figures["fixed_weights_accuracy"]["value"], 4),
        "gate_less_fixed_weights": figures["gate_less_fixed_weights"],
    }


if __name__ == "__main__":
    main()
