"""Verification that the saved model is the model in memory.

A few rows are scored in memory, and again by `reference_rewards.py`: another process, which reads the checkpoint with
transformers alone. The training process could not do that itself, since DeepSpeed would partition what is loaded, and
this project's attention is registered in it.
"""

import bisect
import json
import logging
import math
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open

from reward_modeling.checkpoints.verified_rows import write_verification
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.common.interruption import run_child
from reward_modeling.common.launch import child_environment
from reward_modeling.common.screen import bar_of_file
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import MicroBatch

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("reference_rewards.py")
STDERR_LINES = 20
FLOAT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}  # as safetensors calls them

# How far rewards may differ, as a share of the largest one, or of 1 if all are smaller. Measured over Llama, Mistral,
# Gemma, Gemma-2 and Qwen2 with 2 to 24 layers, packed rows in memory: at most 2.5e-6 in float32, while a new head, a
# zeroed layer or projection and two swapped layers gave 0.012 to 2.6.
FLOAT32_TOLERANCE = 1e-4
# In bfloat16 the model's own rounding decides: 0.003 to 0.034. How much it is, the reloaded model says itself, by its
# rewards in both precisions. What was measured is at most 1.5 times that, and what is wrong 8 times and more (but
# swapped layers of a fresh Gemma with weights of 0.02, which are much alike, gave as little as 2 times).
ROUNDING_FACTOR = 3
LEAST_ROUNDING_TOLERANCE, LARGEST_ROUNDING_TOLERANCE = 0.005, 0.2


def choose_rows(groups: PromptGroups, batching: str, most: int = 8, max_tokens: int = 4096) -> MicroBatch:
    """Whole units for the check, of different lengths from all over the set; the same ones on every process.

    They lie at even steps between the shortest unit and the longest that `max_tokens` leaves room for: on a CPU a
    large model takes many seconds for a thousand tokens. One unit always goes through.

    Args:
        batching: of the collator that will read the micro-batch.
        most: completions.
        max_tokens: of all rows together, counted as if all of a unit had the length of the longest one.
    """
    sizes = groups.sizes
    group_of_unit, members = sizes.group_of_unit, np.diff(sizes.member_offsets)
    longest_completion = np.maximum.reduceat(sizes.completion_tokens, sizes.member_offsets[:-1])
    tokens = members * (sizes.prefix_lengths[group_of_unit] + longest_completion)
    by_length = np.argsort(tokens, kind="stable")
    shortest = np.cumsum(tokens[by_length[: max(1, most // members.max())]])
    count = max(1, np.searchsorted(shortest, max_tokens, side="right"))

    def spread(longest: int) -> np.ndarray:
        return by_length[np.linspace(0, longest, count).astype(int)]

    # A longer longest unit makes no other one shorter, so the sum of the tokens only grows.
    longest = range(count - 1, len(by_length))
    fitting = bisect.bisect_right(longest, max_tokens, key=lambda end: tokens[spread(end)].sum())
    micro_batch = []
    for unit in spread(longest[max(0, fitting - 1)]).tolist():
        group = int(group_of_unit[unit])
        first = unit - int(sizes.unit_offsets[group])
        micro_batch.append(sizes.chunk(batching, group, first, first + 1))
    return micro_batch


def token_rows(model_inputs: dict) -> list[list[int]]:
    """The whole conversation behind each reward that the model returns for these inputs, in the same order.

    Read from the inputs themselves, that is from what the model in memory was given.
    """
    if "blocks" in model_inputs:
        return [row for block in model_inputs["blocks"] for row in token_rows(block)]
    tokens, ends = model_inputs["input_ids"].flatten().tolist(), model_inputs["read_positions"].tolist()
    if "packed_layout" not in model_inputs:
        width = model_inputs["input_ids"].shape[1]
        is_real = model_inputs["attention_mask"].flatten().tolist()
        rows = (range(end // width * width, end + 1) for end in ends)
        return [[tokens[place] for place in row if is_real[place]] for row in rows]
    layout = model_inputs["packed_layout"]
    return [[tokens[place] for place in layout.places_seen(read)] for read in range(len(ends))]


def whole_rows(rows: list[list[int]], outputs: list[float]) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Rows that are read at their ends, those that another one begins with as a place in that one.

    Args:
        rows: of a model that reads many tokens of an answer, one that ends at each of them.
        outputs: of each row as many.

    Returns:
        The rows that no other begins with; of each the tokens that are read of it; and the outputs in this order.
    """
    labels = len(outputs) // max(1, len(rows))
    whole: list[list[int]] = []
    reads: list[list[int]] = []
    ordered: list[float] = []
    # Backwards a row stands behind all that begin with it.
    for number in sorted(range(len(rows)), key=lambda number: rows[number], reverse=True):
        row = rows[number]
        if not whole or whole[-1][: len(row)] != row:
            whole.append(row)
            reads.append([])
        reads[-1].append(len(row) - 1)
        ordered += outputs[number * labels : (number + 1) * labels]
    return whole, reads, ordered


@dataclass
class Verification:
    """What the check found; `verification.json` holds these fields under their names."""

    passed: bool = False
    problems: list[str] = field(default_factory=list)
    largest_difference_padded: float | None = None
    largest_difference_alone: float | None = None
    tolerance: float | None = None
    rounding: float | None = None  # how far the lower precision moves the reloaded model's own rewards
    precision: str = "float32"
    num_rows: int = 0
    num_tokens: int = 0
    rows: list[list[int]] = field(default_factory=list)  # token ids; `verified_rows` reads them
    reads: list[list[int]] | None = None  # of a process model, the tokens of each row that are read
    rewards: list[float] = field(default_factory=list)
    rewards_padded: list[float] = field(default_factory=list)
    rewards_alone: list[float] = field(default_factory=list)
    model_class: str | None = None
    device: str | None = None
    seconds: float = 0.0
    versions: dict[str, str] = field(
        default_factory=lambda: {"torch": torch.__version__, "transformers": transformers.__version__}
    )
    stderr: list[str] = field(default_factory=list)

    def raise_if_failed(self, folder: Path) -> None:
        """Raises `UserError`: the check found a problem."""
        if not self.passed:
            raise UserError(
                f"The saved model was not verified to be the trained one: {'; '.join(self.problems)}.\n"
                f"The weights are kept in {folder}, and {VERIFICATION} there has all the figures. Do not use the model "
                "before this is explained: score some rows by hand, or take an earlier checkpoint. "
                "--verify_saved_model false leaves the check out."
            )


def verify_saved_model(
    folder: Path,
    rows: list[list[int]],
    rewards: list[float],
    *,
    dtype: torch.dtype,
    weights_dtype: torch.dtype,
    autocast: bool = False,
    trust_remote_code: bool = False,
    load_in_4bit: bool = False,
    reads_steps: bool = False,
    timeout: float = 3600,
) -> Verification:
    """Score the rows with the model saved in `folder` and compare; the result goes to the log and into the folder.

    Args:
        rows, rewards: token ids of whole conversations, and what the model in memory gave them.
        dtype: the lowest precision that the model in memory computed with (float16 stands for TF32 too).
        weights_dtype: of its weights: what is saved may not have less.
        autocast: the lower precision came from torch.autocast, and not from weights cast to it (bfloat16 weights,
            DeepSpeed, FSDP's mixed precision), which rounds more.
        load_in_4bit: the weights under an adapter were held in four bits, and have to be again.
        reads_steps: of a process model, which reads many tokens of an answer: `rows` has one row for each of them.
        timeout: seconds for the other process.
    """
    num_labels, reads = len(rewards) // max(1, len(rows)), None
    if reads_steps:
        rows, reads, rewards = whole_rows(rows, rewards)
    result = Verification(precision=_name(dtype), num_rows=len(rows), num_tokens=sum(map(len, rows)), reads=reads)
    result.rows, result.rewards = rows, rewards
    started = time.perf_counter()
    request = {"rows": rows, "trust_remote_code": trust_remote_code, "load_in_4bit": load_in_4bit}
    request |= {"num_labels": num_labels, "reads": reads}
    if dtype != torch.float32:
        request |= {"dtype": _name(dtype), "rounded_by": "autocast" if autocast else "weights"}
    answer = rewards_of_another_process(folder, request, timeout, result)
    if answer is not None:
        result.problems += _too_narrow(folder, weights_dtype)
        _compare(result, answer)
    result.passed = not result.problems
    result.seconds = round(time.perf_counter() - started, 2)
    write_verification(folder, asdict(result))
    if result.passed:
        logger.info(
            f"Saved model: reloaded in plain transformers, {len(rows)} rows score as in memory (largest difference "
            f"{result.largest_difference_padded:.1e} padded, {result.largest_difference_alone:.1e} alone; tolerance "
            f"{result.tolerance:.1e}; {result.seconds:.0f} s on {result.device})."
        )
    else:
        logger.error("Saved model: NOT verified: %s.", "; ".join(result.problems))
    return result


def rewards_of_another_process(folder: Path, request: dict, timeout: float, result: Verification) -> dict | None:
    """The answer of `reference_rewards.py`, or None with the reason among the problems.

    Args:
        request: its keyword arguments.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer_file = Path(scratch) / "rewards.json"
        # -P keeps the script's folder off the path, where modules of ours could take the place of others of that name.
        # -I would also drop PYTHONPATH, by which some find their transformers.
        command = [sys.executable, "-P", str(SCRIPT), str(folder.absolute()), str(answer_file)]
        options = {"env": child_environment(), "encoding": "utf-8", "errors": "replace"}
        progress = Path(scratch) / "progress"
        passes = len(request["rows"]) * (3 if "rounded_by" in request else 2)  # padded, alone, rounded
        request = request | {"progress": str(progress)}
        try:
            with bar_of_file(progress, passes, "verifying"):
                process = run_child(command, input=json.dumps(request), timeout=timeout, **options)
        except subprocess.TimeoutExpired:
            result.problems.append(f"reloading and scoring {len(request['rows'])} rows took more than {timeout:g} s")
            return None
        answer = json.loads(answer_file.read_text(encoding="utf-8")) if answer_file.is_file() else {}
    if process.returncode == 0:
        return answer
    result.stderr = process.stderr.strip().splitlines()[-STDERR_LINES:]
    ended = f"exit status {process.returncode}"
    if process.returncode < 0:
        memory = ", perhaps for host memory" if process.returncode == -signal.SIGKILL else ""
        ended = f"ended by signal {-process.returncode}{memory}"
    why = answer.get("error") or f"{ended}; {' '.join(result.stderr[-1:])}"
    result.problems.append(f"plain transformers could not load and score it ({' '.join(why.split())[:400]})")
    return None


def _too_narrow(folder: Path, weights_dtype: torch.dtype) -> list[str]:
    """A problem where a tensor was saved in fewer bits than it had. A wider one is no loss."""
    narrow: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                found = tensors.get_slice(name).get_dtype()
                if FLOAT_BITS.get(found, 64) < 8 * weights_dtype.itemsize:
                    narrow.setdefault(found, []).append(name)
    return [
        f"expected weights in {_name(weights_dtype)}, found {len(names)} in {found}, such as {names[0]}"
        for found, names in narrow.items()
    ]


def tolerance(scale: float, rounding: float | None) -> float:
    """The largest difference that passes, for rewards of this scale; `rounding` is None in float32."""
    if rounding is None:
        return FLOAT32_TOLERANCE * scale
    if math.isnan(rounding):  # the lower precision overflows in plain transformers
        return LARGEST_ROUNDING_TOLERANCE * scale
    wanted = max(ROUNDING_FACTOR * rounding, LEAST_ROUNDING_TOLERANCE * scale)
    return min(wanted, LARGEST_ROUNDING_TOLERANCE * scale)


def _compare(result: Verification, answer: dict) -> None:
    """Differences and tolerance; what does not hold goes among the problems."""
    rewards, padded, alone = (torch.tensor(r) for r in (result.rewards, answer["padded"], answer["alone"]))
    result.model_class, result.device = answer["model_class"], answer["device"]
    result.rewards_padded, result.rewards_alone = answer["padded"], answer["alone"]
    if "rounded" in answer:
        result.rounding = (torch.tensor(answer["rounded"]) - padded).abs().max().item()
    result.tolerance = tolerance(max(1.0, rewards.abs().max().item()), result.rounding)
    result.largest_difference_padded = (rewards - padded).abs().max().item()
    result.largest_difference_alone = (rewards - alone).abs().max().item()
    if names := answer["missing_weights"]:
        result.problems.append(f"{len(names)} weights are missing, such as {names[0]}")
    differences = {"padded together": result.largest_difference_padded, "alone": result.largest_difference_alone}
    # A reward that is infinite or not a number is a failure, and no measure for the others.
    wrong = [name for name, value in differences.items() if not (math.isfinite(value) and value <= result.tolerance)]
    if wrong:
        figures = ", ".join(f"{differences[name]:.2g} for rows {name}" for name in wrong)
        result.problems.append(
            f"expected the rewards of the model in memory within {result.tolerance:.2g}, found differences up to "
            f"{figures}"
        )
    if wrong == ["padded together"]:
        result.problems.append(
            "rows alone agree, so it is the padding: compare the tokenizer's pad token with pad_token_id in config.json"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
