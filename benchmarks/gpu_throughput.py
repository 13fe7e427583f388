"""Training and scoring on one GPU: shared prefix against packed and padded rows, at Gemma-2B's and Mistral-7B's shapes.

Weights are random, rows are drawn (gpu_workloads.py says of which lengths). Training is rm.py's own RewardTrainer with
its defaults (bf16, AdamW, gradient clipping, the memory probe), at the same pairs in every step and every mode;
"padded" are eight pairs of any length at a time, as in TRL's RewardTrainer. Timed are whole steps, collation and
optimizer included, after steps to warm up, without a look at the GPU between them.

Figures are printed and written as JSON after each case; a case for which memory runs out, or no time is left, says so
in its row. Without a GPU a small version runs on the CPU, whose figures say nothing about a GPU.

    python benchmarks/gpu_throughput.py --minutes 10 --output gpu.json
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu_profile import PARTS
from gpu_scoring import score_rows
from gpu_training import MODES, OUT_OF_MEMORY, Amount, Case, free_memory, run_case
from gpu_workloads import SHAPES, SMALL_BY, SMALL_SHAPES, WORKLOADS, matrix_rate

from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX
from reward_modeling.models.attention import register_shared_prefix_attention

SMALLER, LARGER = SHAPES
NO_TIME, FAILED = "no time left", "failed"
EXPECTED_SHARE = 0.3  # of the matrix rate, to foresee how long a case takes
SECONDS_PER_CASE = 8  # to build a model, and to find out what the first step of a process has to


def cases_in_order(options: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """What is trained before scoring, and what after it: what decides most, and surely fits, comes first.

    All modes of a workload are neighbours, since a GPU's clock drifts. Eight padded pairs of the smaller model without
    checkpointing take 93 to 157 GiB, so that on 80 GB they have no figure but with checkpointing: that comes before the
    larger model.
    """

    def cases(model: str, checkpointing: bool) -> list[Case]:
        if model not in options.models or checkpointing not in options.checkpointing:
            return []
        return [Case(model, workload, mode, checkpointing) for workload in options.workloads for mode in options.modes]

    after = [*cases(SMALLER, True), *cases(LARGER, True), *cases(LARGER, False)]
    return cases(SMALLER, False), after


class Report:
    """Everything measured so far: on the screen line by line, and as one JSON file that is written anew each time."""

    def __init__(self, options: argparse.Namespace, device: torch.device):
        self.output, self.deadline = options.output, time.monotonic() + 60 * options.minutes
        self.record = {"machine": machine(device), "matrix_rate": matrix_rate(device), "training": [], "scoring": []}
        self.write()

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def add(self, part: str, figures: dict, line: str) -> None:
        self.record[part].append(figures)
        self.write()
        print(f"{line}  ({self.seconds_left:.0f} s left)", flush=True)

    def write(self) -> None:
        if self.output:
            self.output.write_text(json.dumps(self.record, indent=1))


def machine(device: torch.device) -> dict:
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    facts = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"), "versions": packages}
    facts["python"] = platform.python_version()
    if device.type == "cpu":
        return facts | {"device": f"CPU, {os.cpu_count()} cores"}
    gpu = torch.cuda.get_device_properties(device)
    facts |= {"device": f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB", "driver": driver_version()}
    return facts | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def driver_version() -> str:
    """Or "unknown": a container need not have nvidia-smi, and no figure hangs on it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    return lines[0] if lines else "unknown"


def is_profiled(case: Case) -> bool:
    """Of padded rows one case alone: to read the profile of eight passes takes as long as many of their steps."""
    if case.mode == PADDED:
        return case.model == SMALLER and case.checkpointing and case.workload == next(iter(WORKLOADS))
    return case.model == LARGER or not case.checkpointing


def amount_of(case: Case, options: argparse.Namespace, small: bool) -> Amount:
    """Of the larger model a quarter as many pairs are timed: its steps take four times as long."""
    if small:
        return Amount(pairs_per_step=12, max_length=256, warm_up=1, timed=1, profiled=not case.checkpointing)
    larger = case.model == LARGER
    return Amount(
        pairs_per_step=options.pairs_per_step // 2 if larger else options.pairs_per_step,
        max_length=4096,
        warm_up=1 if larger else options.warm_up,
        timed=options.timed // 2 if larger else options.timed,
        profiled=is_profiled(case),
    )


def expected_seconds(case: Case, amount: Amount, rate: float) -> float:
    """A rough guess, from the tokens of a mode and the rate of this GPU, with which a case is begun or left out."""
    workload, layers = WORKLOADS[case.workload], SHAPES[case.model].config
    weights = layers.num_hidden_layers * 3 * layers.hidden_size * layers.intermediate_size * 1.3
    pairs_per_prompt = workload.answers * (workload.answers - 1) / 2
    answers = {PADDED: 2 * pairs_per_prompt * (1 + workload.spread), PACKED: workload.answers, SHARED_PREFIX: 1}
    tokens = answers[case.mode] * (workload.prompt + workload.answer)
    if case.mode == SHARED_PREFIX:
        tokens = workload.prompt + workload.answers * workload.answer
    flops = (8 if case.checkpointing else 6) * weights * tokens / pairs_per_prompt * amount.pairs_per_step
    return SECONDS_PER_CASE + (amount.steps + 0.5) * flops / (EXPECTED_SHARE * rate)


def train_all(report: Report, cases: list[Case], options: argparse.Namespace, small: bool) -> None:
    shapes = SMALL_SHAPES if small else SHAPES
    for case in cases:
        amount = amount_of(case, options, small)
        workload = WORKLOADS[case.workload].shortened(SMALL_BY) if small else WORKLOADS[case.workload]
        figures = {"model": case.model, "workload": case.workload, "mode": case.mode}
        shape = replace(shapes[case.model], compiled=options.compile, fused_norms=options.fused_norms)
        shape = replace(shape, weights=options.weights or shape.weights)
        figures |= {"checkpointing": case.checkpointing, "weights": shape.weights, "compiled": shape.compiled}
        figures["fused_norms"] = shape.fused_norms
        if not small and expected_seconds(case, amount, report.record["matrix_rate"]) > report.seconds_left:
            report.add("training", figures | {"result": NO_TIME}, f"{case}: {NO_TIME}")
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                figures |= run_case(case, shape, workload, amount, folder)
        except Exception as error:  # one case that fails must not take the figures of the others with it
            traceback.print_exc()
            figures |= {FAILED: f"{type(error).__name__}: {error}"[:300]}
        free_memory()
        report.add("training", figures | {"result": result_of(figures)}, f"{case}: {result_of(figures)}")


def result_of(figures: dict) -> str:
    problem = next((name for name in (OUT_OF_MEMORY, FAILED) if name in figures), None)
    if problem is not None:
        return problem
    retries = figures["allocation_retries"]
    warning = f", {retries} allocations waited for memory" if retries else ""
    return f"{figures['pairs'] / figures['seconds']:.1f} pairs/s{warning}"


def score_all(report: Report, options: argparse.Namespace, device: torch.device, small: bool) -> None:
    shapes = SMALL_SHAPES if small else SHAPES
    for name in options.score:
        if not small and report.seconds_left < 60:
            report.add("scoring", {"model": name, "result": NO_TIME}, f"scoring, {name}: {NO_TIME}")
            continue
        try:
            scorers = score_rows(shapes[name], 6 if small else options.rows, device)
            line = ", ".join(f"{kind} {of['rows'] / of['seconds']:.1f} rows/s" for kind, of in scorers.items())
            figures = {"model": name, "scorers": scorers}
        except Exception as error:  # as in train_all
            traceback.print_exc()
            line, figures = FAILED, {"model": name, FAILED: f"{type(error).__name__}: {error}"[:300]}
        free_memory()
        report.add("scoring", figures, f"scoring, {name}: {line}")


def training_table(record: dict) -> list[str]:
    """Pairs per second, and what share of the matrix rate the operations of the unique tokens have."""
    titles = ["model", "workload", "checkpointing", "mode", "pairs/s", "of padded", "of packed", "unique tokens/s"]
    titles += ["MFU of unique", "tokens computed / unique", "peak GiB", "tokens a pass, at most", "passes a step"]
    rates = {
        (run["model"], run["workload"], run["checkpointing"], run["mode"]): run["pairs"] / run["seconds"]
        for run in record["training"]
        if "seconds" in run
    }
    lines = []
    for run in record["training"]:
        place = (run["model"], run["workload"], run["checkpointing"])
        line = [run["model"], run["workload"], "on" if run["checkpointing"] else "off", run["mode"]]
        if "seconds" not in run:
            lines.append([*line, run["result"], *[""] * (len(titles) - 5)])
            continue
        rate = rates[(*place, run["mode"])]
        others = [rates.get((*place, mode)) for mode in (PADDED, PACKED)]
        line += [f"{rate:.1f}", *["" if other is None else f"{rate / other:.2f} x" for other in others]]
        line.append(f"{run['unique_tokens'] / run['seconds']:,.0f}")
        line.append(f"{run['flops'] / run['seconds'] / record['matrix_rate']:.1%}")
        line.append(f"{run['computed_tokens'] / run['unique_tokens']:.2f}")
        passes = run["passes"] * run["pairs_per_step"] / run["pairs"]
        largest = "16 rows" if run["mode"] == PADDED else f"{run['max_tokens']:,}"
        lines.append([*line, f"{run['peak_gib']:.1f}", largest, f"{passes:.1f}"])
    return markdown([titles, *lines])


def parts_table(record: dict) -> list[str]:
    """Share of a timed step's seconds in which the GPU computed each part; "host": it had nothing to compute."""
    titles = ["model", "workload", "checkpointing", "mode", "ms a step", *PARTS, "host", "kernels a step"]
    lines = []
    for run in record["training"]:
        if "profile" not in run:
            continue
        profiled = run["profile"]
        steps = run["pairs"] / run["pairs_per_step"]
        scale = run["unique_tokens"] / profiled["unique_tokens"]  # from the profiled step to all timed ones
        shares = [profiled["parts"][part] * scale / run["seconds"] for part in PARTS]
        line = [
            run["model"],
            run["workload"],
            "on" if run["checkpointing"] else "off",
            run["mode"],
            f"{1000 * run['seconds'] / steps:.0f}",
        ]
        line += [f"{share:.1%}" for share in (*shares, 1 - sum(shares))]
        lines.append([*line, f"{profiled['kernels']:,}"])
    return markdown([titles, *lines])


def scoring_table(record: dict) -> list[str]:
    titles = ["model", "scorer", "rows", "rows/s", "ours is faster by", "margins off by (of their spread)"]
    lines = []
    for run in record["scoring"]:
        if "scorers" not in run:
            lines.append([run["model"], run.get("result", FAILED), *[""] * (len(titles) - 2)])
            continue
        ours = run["scorers"]["ours"]["seconds"]
        for name, of in run["scorers"].items():
            line = [run["model"], name, str(of["rows"]), f"{of['rows'] / of['seconds']:.1f}"]
            lines.append([*line, f"{of['seconds'] / ours:.2f} x", f"{of['margins_off_by']:.1e}"])
    return markdown([titles, *lines])


def markdown(lines: list[list[str]]) -> list[str]:
    rule = ["---"] * len(lines[0])
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]


def print_report(record: dict) -> None:
    facts = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    driver = f", driver {facts['driver']}, CUDA {facts['cuda']}" if "driver" in facts else ""
    print(f"\n```\n{facts['command']}\n```\n")
    print(f"{facts['device']}{driver}; {packages}, Python {facts['python']}; {facts['date']}.")
    print(f"Matrix products on random numbers: {record['matrix_rate'] / 1e12:.2f} TFLOP/s.")
    for table in (training_table(record), parts_table(record), scoring_table(record)):
        if table[2:]:
            print("", *table, sep="\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="begin nothing that would not end by then")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON, after each case")
    parser.add_argument("--models", nargs="*", default=list(SHAPES), choices=list(SHAPES), help="to train")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--checkpointing", nargs="+", default=["off", "on"], choices=["off", "on"], help="of gradients")
    parser.add_argument("--weights", choices=["float32", "bfloat16"], help="of the trained model; see gpu_workloads.py")
    parser.add_argument("--compile", action="store_true", help="fuse norms and feed-forward parts by torch.compile")
    parser.add_argument("--fused_norms", action="store_true", help="compute norms by torch's kernel for them")
    parser.add_argument("--without_cudnn", action="store_true", help="padded rows by other attention kernels")
    parser.add_argument("--score", nargs="*", default=["gemma-2b"], choices=list(SHAPES), help="models to score with")
    parser.add_argument("--rows", type=int, default=1000, help="rows that each scorer scores")
    parser.add_argument("--pairs_per_step", type=int, default=64)
    parser.add_argument("--warm_up", type=int, default=2, help="steps of each case that are not timed")
    parser.add_argument("--timed", type=int, default=4, help="steps of each case that are; of the larger model half")
    options = parser.parse_args()
    options.checkpointing = [name == "on" for name in options.checkpointing]
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = read_options()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    register_shared_prefix_attention()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = device.type == "cpu"
    torch.backends.cuda.enable_cudnn_sdp(not options.without_cudnn)
    if small:
        print("No GPU here: a small version on the CPU, to try the script. Its figures say nothing about a GPU.")
        options.models = [name for name in options.models if name in SMALL_SHAPES]
        options.score = [name for name in options.score if name in SMALL_SHAPES]
    report = Report(options, device)
    print(f"{report.record['machine']['device']}: {report.record['matrix_rate'] / 1e12:.2f} TFLOP/s", flush=True)
    before_scoring, after_scoring = cases_in_order(options)
    train_all(report, before_scoring, options, small)
    score_all(report, options, device, small)
    train_all(report, after_scoring, options, small)
    print_report(report.record)
    if any(FAILED in run for part in ("training", "scoring") for run in report.record[part]):
        sys.exit(1)


if __name__ == "__main__":
    main()
