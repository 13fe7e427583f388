"""Does a reward model of this toolkit make a policy better? One turn of the loop, on a task whose truth is checked.

    make test-real                                                  # fetches SmolLM2-135M-Instruct, once
    pip install -r requirements-benchmarks.txt                      # TRL
    python benchmarks/best_of_n_loop.py --output /tmp/loop          # some quarter of an hour on two idle cores
    python benchmarks/best_of_n_loop.py --output /tmp/tiny --policy tiny    # another task and policy, two minutes

1. The policy answers some prompts; right and wrong answers make pairs, and rm.py trains a reward model on them.
2. The policy answers other prompts; score.py scores the answers, best_of_n.py chooses among them by reward alone.
3. TRL trains the policy on what was chosen, by DPO or SFT, for a few steps.
4. Policy and trained policy answer held-out prompts: the true score and the reward of both, with 95% intervals over
   prompts, and what choosing the best of n answers by reward gives there.

The task two_words asks for one short sentence with two given words. Rewards that rise while the true score does not are
a finding too: both are printed. Every stage leaves its files in --output, and one that has is not run again.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from loop_figures import compare, print_figures  # noqa: E402
from loop_options import SPLITS, TINY, check_settings, read_options  # noqa: E402
from loop_policy import TRL_VERSION, Policy  # noqa: E402
from loop_tasks import TASKS, Task, build_tiny_policy  # noqa: E402

from reward_modeling.common.atomic import whole_file  # noqa: E402
from reward_modeling.common.errors import run_script  # noqa: E402

WHERE = ("output", "trl_python")  # flags that say nothing of what comes out
PAIRS_OF_A_PROMPT = 4  # that the reward model is trained on, each of other answers
# Before and after training the same: a policy that did not change gives the same answers.
SEEDS = {"reward": 1, "policy": 2, "before": 3, "after": 3}


def main() -> None:
    options = read_options(__doc__)
    loop = Loop(options)
    loop.split_prompts()
    loop.build_policy()
    loop.sample("reward", loop.policy)
    loop.train_reward_model()
    loop.sample("policy", loop.policy)
    loop.score("policy")
    loop.choose("policy", {"dpo": "dpo_pairs", "sft": "best"}[options.learn])
    loop.train_policy()
    for name, policy in {"before": loop.policy, "after": loop.trained}.items():
        loop.sample(name, policy, split="held_out")
        loop.score(name)
    loop.choose("before", "best")
    figures = compare(loop.rows("before_scored"), loop.rows("after_scored"), loop.report("before"))
    results = {
        "settings": loop.settings,
        "figures": figures,
        "stages": loop.seconds,
        "versions": versions(loop.trained / TRL_VERSION),
    }
    (loop.folder / "results.json").write_text(json.dumps(results, indent=2))
    print_figures(figures)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {results['versions']}")
    print(f"{sum(loop.seconds.values()):.0f} seconds: {loop.seconds}")


class Loop:
    """The stages and their files."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.folder: Path = options.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task: Task = TASKS[options.task]
        self.policy = self.folder / "policy" if options.policy == TINY else Path(options.policy)
        self.trained = self.folder / "trained"
        self.reward_model = self.folder / "reward" / "last_checkpoint"
        self.settings = {name: str(value) for name, value in vars(options).items() if name not in WHERE}
        self._times = self.folder / "seconds.json"
        self.seconds: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}
        check_settings(self.folder / "settings.json", self.settings)

    # --- the stages ---

    def split_prompts(self) -> None:
        """Drawn by the seed, no prompt in two of the three splits."""

        def draw() -> dict[str, list[str]]:
            sizes = self.options.prompts
            drawn = iter(random.Random(self.options.seed).sample(self.task.prompts(), sum(sizes)))
            return {name: [next(drawn) for _ in range(size)] for name, size in zip(SPLITS, sizes, strict=True)}

        self._stage("prompts", lambda path: path.write_text(json.dumps(draw(), indent=1)), "prompts.json")
        self.prompts = json.loads((self.folder / "prompts.json").read_text())

    def build_policy(self) -> None:
        if self.options.policy == TINY:
            last = "policy/model.safetensors"
            self._stage("tiny policy", lambda _: build_tiny_policy(self.policy, self.options.seed), last)

    def sample(self, name: str, policy: Path, split: str | None = None) -> None:
        """NAME.jsonl: RLHFlow's rows, with the truth of each answer."""

        def write(path: Path) -> None:
            seed = 1000 * self.options.seed + SEEDS[name]
            write_rows(path, self._answers(policy, self.prompts[split or name], seed))

        self._stage(f"sample {name}", write, f"{name}.jsonl")

    def train_reward_model(self) -> None:
        pairs = self.folder / "reward_pairs.jsonl"
        options = self.options
        flags = {
            "model_name": self.policy,
            "train_set_path": pairs,
            "output_path": self.folder / "reward",
            "overwrite_output_dir": "true",
            "max_length": 256,
            "pairs_per_step": 16,
            "learning_rate": options.reward_rate,
            "num_train_epochs": options.reward_epochs,
            "gradient_checkpointing": "false",
            "eval_size": 0,
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": "true",
            "bf16": str(options.dtype == "bfloat16").lower(),
            "num_proc": 1,
            "seed": options.seed,
        }
        self._stage("pairs of truth", lambda path: write_rows(path, pairs_of_truth(self.rows("reward"))), pairs.name)
        self._stage("rm.py", self._script("rm.py", flags), "reward/last_checkpoint/contents.json")

    def score(self, name: str) -> None:
        flags = {
            "reward_name_or_path": self.reward_model,
            "input": self.folder / f"{name}.jsonl",
            "output": self.folder / f"{name}_scored.jsonl",
        }
        self._stage(f"score.py {name}", self._script("score.py", flags), f"{name}_scored.jsonl")

    def choose(self, name: str, select: str) -> None:
        flags = {
            "input": self.folder / f"{name}_scored.jsonl",
            "select": select,
            "format": "trl",
            "output": self.folder / f"{name}_chosen.jsonl",
            "seed": self.options.seed,
        }
        self._stage(f"best_of_n.py {name}", self._script("best_of_n.py", flags), f"{name}_chosen.jsonl")

    def train_policy(self) -> None:
        options = self.options
        flags = {
            "policy": self.policy,
            "rows": self.folder / "policy_chosen.jsonl",
            "output": self.trained,
            "steps": options.steps,
            "rate": options.rate,
            "seed": options.seed,
        }
        python = options.trl_python or sys.executable
        command = [python, ROOT / "benchmarks" / "loop_policy.py", options.learn, *as_flags(flags)]
        command += ["--bf16"] if options.dtype == "bfloat16" else []
        self._stage(f"TRL, {options.learn}", lambda _: self._run(options.learn, command), "trained/trainer_state.json")

    # --- what they share ---

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]

    def report(self, name: str) -> dict[str, Any]:
        """That of best_of_n.py."""
        return json.loads((self.folder / f"{name}_chosen.jsonl.report.json").read_text())

    def _answers(self, policy: Path, prompts: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
        options = self.options
        sampled = Policy(policy, options.dtype).sample(
            prompts,
            options.answers,
            max_new_tokens=self.task.max_new_tokens,
            temperature=options.temperature,
            seed=seed,
        )
        for prompt, answers in zip(prompts, sampled, strict=True):
            yield {
                "prompt": [{"role": "user", "content": prompt}],
                "responses": [text for text, _ in answers],
                "is_correct": [ended and self.task.is_right(prompt, text) for text, ended in answers],
            }

    def _stage(self, name: str, run: Callable[[Path], Any], last: str) -> None:
        """Run a stage that has not left its last file."""
        path = self.folder / last
        if path.exists():
            return
        started = time.perf_counter()
        run(path)
        if not path.exists():
            raise RuntimeError(f"{name}: expected {path} to be written, found no such file")
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self._times.write_text(json.dumps(self.seconds, indent=2))
        print(f"{name}: {self.seconds[name]:.0f} s", flush=True)

    def _script(self, script: str, flags: dict[str, Any]) -> Callable[[Path], None]:
        return lambda path: self._run(f"{script}_{path.stem}", [sys.executable, ROOT / script, *as_flags(flags)])

    def _run(self, name: str, command: Sequence[Any]) -> None:
        """As a user runs it; its output goes to NAME.log.

        Raises:
            RuntimeError: it failed.
        """
        log = self.folder / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.run([*map(str, command)], stdout=file, stderr=subprocess.STDOUT)
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed ({log}):\n{log.read_text()[-3000:]}")


def pairs_of_truth(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A right answer against a wrong one of the same prompt, each answer once."""
    for row in rows:
        answers = dict(zip(row["responses"], row["is_correct"], strict=True))  # each text once
        right, wrong = ([text for text, verdict in answers.items() if verdict is side] for side in (True, False))
        for chosen, rejected in [*zip(right, wrong, strict=False)][:PAIRS_OF_A_PROMPT]:
            yield {
                side: [*row["prompt"], {"role": "assistant", "content": text}]
                for side, text in (("chosen", chosen), ("rejected", rejected))
            }


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with whole_file(path) as unfinished, unfinished.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def as_flags(values: dict[str, Any]) -> list[str]:
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


def versions(trained: Path) -> dict[str, str]:
    """TRL's is that of the interpreter that trained."""
    return {name: version(name) for name in ("torch", "transformers")} | {"trl": trained.read_text().strip()}


if __name__ == "__main__":
    run_script(main)
