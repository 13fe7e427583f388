"""The saved model is the model in memory: what passes, and what must not."""

import copy
import itertools
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from reward_modeling.checkpoints import verification
from reward_modeling.checkpoints.reference_rewards import reference_rewards
from reward_modeling.checkpoints.verification import (
    FLOAT32_TOLERANCE,
    LARGEST_ROUNDING_TOLERANCE,
    LEAST_ROUNDING_TOLERANCE,
    ROUNDING_FACTOR,
    choose_rows,
    token_rows,
    tolerance,
    verify_saved_model,
)
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.common.launch import child_environment
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import BradleyTerry

SCRIPT = Path(__file__).parents[2] / "reward_modeling" / "checkpoints" / "reference_rewards.py"
FLOAT32 = {"dtype": torch.float32, "weights_dtype": torch.float32}
AUTOCAST = {"dtype": torch.bfloat16, "weights_dtype": torch.float32, "autocast": True}
BFLOAT16 = {"dtype": torch.bfloat16, "weights_dtype": torch.bfloat16}


def groups_of_lengths(lengths: list[tuple[int, list[int]]]) -> PromptGroups:
    """One group for each (prefix length, completion lengths); every later answer is rejected for the one before."""
    rng = random.Random(0)
    columns = []
    for prefix, completions in lengths:
        ids = [[rng.randrange(10, 300) for _ in range(length)] for length in (prefix, *completions)]
        numbers = list(range(len(completions)))
        columns.append(
            {
                "prefix_ids": ids[0],
                "completion_ids": ids[1:],
                "units": [list(pair) for pair in itertools.pairwise(numbers)],
                "targets": [[1.0, 1.0, 0.0]] * (len(numbers) - 1),
                "weights": [1.0] * (len(numbers) - 1),
                "shares": [1.0] * (len(numbers) - 1),
                "prefix_length": prefix,
                "completion_lengths": completions,
                "shared_lengths": [0] * len(completions),
            }
        )
    return PromptGroups(Dataset.from_list(columns))


GROUPS = groups_of_lengths([(20, [9, 14, 5]), (70, [11, 30]), (8, [3, 4]), (40, [25, 6]), (33, [10, 22, 31])])


def in_memory(model, batching: str, autocast: bool = False) -> tuple[list[list[int]], list[float]]:
    """The rows of the check and the rewards that the model in memory gives them."""
    micro_batch = choose_rows(GROUPS, batching)
    batch = MicroBatchCollator(batching, model.config.pad_token_id)(micro_batch, GROUPS.read(micro_batch))
    rows = token_rows(batch["model_inputs"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return rows, model(**batch["model_inputs"]).logits[:, 0].float().tolist()


@pytest.fixture(scope="module")
def model(gemma_folder):
    config, tokenizer = load_config(gemma_folder), load_tokenizer(gemma_folder)
    torch.manual_seed(0)
    return load_reward_model(gemma_folder, config, tokenizer, attn_implementation=SHARED_PREFIX).eval()


@pytest.fixture
def save(gemma_folder, tmp_path):
    """A function that saves a model with its tokenizer."""

    def save(model, **options) -> Path:
        folder = tmp_path / "last_checkpoint"
        model.save_pretrained(folder, **options)
        AutoTokenizer.from_pretrained(gemma_folder).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def at_once(monkeypatch):
    """The script's function called in this process: a new one takes seconds to import what it needs."""

    def rewards(folder, request, timeout, result):
        return reference_rewards(str(folder), **request)

    monkeypatch.setattr(verification, "rewards_of_another_process", rewards)


# --- rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED, PADDED])
def test_rows_are_whole_pairs_of_different_lengths(batching):
    micro_batch = choose_rows(GROUPS, batching)
    assert micro_batch == choose_rows(GROUPS, batching)
    assert all(chunk.unit_end == chunk.unit_start + 1 for chunk in micro_batch)
    assert [chunk.group for chunk in micro_batch] == [2, 0, 4, 1]  # from the shortest to the longest
    assert micro_batch[0] == GROUPS.sizes.chunk(batching, 2, 0, 1)


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED, PADDED])
def test_token_rows_are_prefix_and_completion(batching):
    micro_batch = choose_rows(GROUPS, batching)
    groups = GROUPS.read(micro_batch)
    batch = MicroBatchCollator(batching, 0, BradleyTerry.collate)(micro_batch, groups)
    expected = [
        groups[chunk.group]["prefix_ids"] + groups[chunk.group]["completion_ids"][number]
        for chunk in micro_batch
        for number in (chunk.unit_start, chunk.unit_start + 1)
    ]
    assert token_rows(batch["model_inputs"]) == expected
    assert batch["targets"]["pairs"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("most", "max_tokens", "chosen"),
    [
        (8, 10_000, [(2, 0), (0, 1), (4, 1), (1, 0)]),  # of pairs that take 24, 68, 68, 110, 128, 130, 200
        (4, 10_000, [(2, 0), (1, 0)]),
        (8, 271, [(2, 0), (0, 0), (0, 1), (4, 0)]),
        (8, 200, [(2, 0), (0, 0), (0, 1)]),
        (8, 10, [(2, 0)]),
    ],
)
def test_rows_within_a_number_of_tokens(most, max_tokens, chosen):
    micro_batch = choose_rows(GROUPS, SHARED_PREFIX, most, max_tokens)
    assert [(chunk.group, chunk.unit_start) for chunk in micro_batch] == chosen


# --- what passes --------------------------------------------------------------------------------------------


def test_a_saved_model_is_the_one_in_memory(model, save, caplog):
    """In several files, and whatever batching the rewards in memory come from."""
    caplog.set_level("INFO")
    folder = save(model, max_shard_size="100KB")
    rows, rewards = [], []
    for batching in (SHARED_PREFIX, PACKED, PADDED):
        for values, more in zip((rows, rewards), in_memory(model, batching), strict=True):
            values += more
    result = verify_saved_model(folder, rows, rewards, **FLOAT32)
    assert result.passed and not result.problems
    result.raise_if_failed(folder)
    assert result.tolerance == pytest.approx(FLOAT32_TOLERANCE * max(1, *map(abs, rewards)))
    assert max(result.largest_difference_padded, result.largest_difference_alone) < result.tolerance / 10
    assert result.rewards_alone == pytest.approx(rewards, abs=1e-5)
    assert len(rewards) == 24 and len({round(reward, 4) for reward in rewards}) == 8
    assert "Saved model: reloaded in plain transformers, 24 rows score as in memory" in caplog.text
    record = json.loads((folder / VERIFICATION).read_text())
    assert record == vars(result)
    assert (record["model_class"], record["device"]) == ("GemmaForSequenceClassification", "cpu")
    assert record["versions"]["torch"] == torch.__version__
    assert not list(folder.glob("*.partial"))


def test_bfloat16_with_the_variables_of_a_distributed_job(model, save, monkeypatch):
    job = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_DEEPSPEED")
    for name in job:
        monkeypatch.setenv(name, "true")
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    place |= {"ACCELERATE_MIXED_PRECISION": "fp16", "TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert not child_environment().keys() & {*job, *place}
    half = copy.deepcopy(model).to(torch.bfloat16)
    folder = save(half)
    result = verify_saved_model(folder, *in_memory(half, SHARED_PREFIX), **BFLOAT16)
    assert result.passed, result.problems
    assert result.precision == "bfloat16"
    assert 0 < result.rounding < result.tolerance < 0.1


def test_threads_that_a_person_chose_stay(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    assert {"OMP_NUM_THREADS": "1", "PYTHONPATH": "somewhere"}.items() <= child_environment().items()


@pytest.mark.parametrize(
    ("scale", "rounding", "expected"),
    [
        (2.0, None, 2 * FLOAT32_TOLERANCE),
        (1.0, 0.01, ROUNDING_FACTOR * 0.01),
        (4.0, 0.0, 4 * LEAST_ROUNDING_TOLERANCE),
        (1.0, 0.9, LARGEST_ROUNDING_TOLERANCE),
        (1.0, float("nan"), LARGEST_ROUNDING_TOLERANCE),
    ],
)
def test_tolerance(scale, rounding, expected):
    assert tolerance(scale, rounding) == pytest.approx(expected)


# --- what must not pass -------------------------------------------------------------------------------------


def new_head(model):
    model.score.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))


def zeroed_layer(model):
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()


def swapped_layers(model):
    first, second = (copy.deepcopy(layer.state_dict()) for layer in model.model.layers)
    model.model.layers[0].load_state_dict(second)
    model.model.layers[1].load_state_dict(first)


@pytest.mark.parametrize("precision", [FLOAT32, AUTOCAST], ids=["float32", "autocast"])
@pytest.mark.parametrize("damage", [new_head, zeroed_layer, swapped_layers])
def test_wrong_weights_are_found(model, save, damage, precision, at_once, caplog):
    """Far beyond the tolerance; undamaged, the same comparison passes."""
    rows, rewards = in_memory(model, SHARED_PREFIX, autocast=precision is AUTOCAST)
    result = verify_saved_model(save(model), rows, rewards, **precision)
    assert result.passed, result.problems
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        damage(wrong)
    folder = save(wrong)
    result = verify_saved_model(folder, rows, rewards, **precision)
    assert not result.passed
    assert min(result.largest_difference_padded, result.largest_difference_alone) > 5 * result.tolerance
    assert "NOT verified" in caplog.text
    with pytest.raises(UserError, match=r"expected the rewards .* found differences up to .*\n.* kept in"):
        result.raise_if_failed(folder)
    assert json.loads((folder / VERIFICATION).read_text())["passed"] is False


def test_another_pad_token_is_found(model, save, at_once):
    """transformers takes the reward after the padding, which the configuration's pad token does not name."""
    folder = save(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    result = verify_saved_model(folder, *in_memory(model, SHARED_PREFIX), **FLOAT32)
    assert not result.passed
    assert result.largest_difference_alone < result.tolerance < 0.01 < result.largest_difference_padded
    with pytest.raises(UserError, match="it is the padding: compare the tokenizer's pad token"):
        result.raise_if_failed(folder)


def missing_shard(folder: Path) -> str:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    return "plain transformers could not load and score it"


def truncated_shard(folder: Path) -> str:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    return "SafetensorError"


@pytest.mark.parametrize("damage", [missing_shard, truncated_shard])
def test_damaged_files_are_found(model, save, damage):
    folder = save(model, max_shard_size="100KB")
    expected = damage(folder)
    result = verify_saved_model(folder, *in_memory(model, SHARED_PREFIX), **FLOAT32)
    assert not result.passed
    with pytest.raises(UserError) as error:
        result.raise_if_failed(folder)
    assert expected in str(error.value)
    assert "Traceback" not in str(error.value)
    assert result.stderr and json.loads((folder / VERIFICATION).read_text())["stderr"] == result.stderr


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_that_are_no_numbers_are_found(model, save, at_once, reward):
    rows, rewards = in_memory(model, SHARED_PREFIX)
    folder = save(model)
    result = verify_saved_model(folder, rows, [reward, *rewards[1:]], **FLOAT32)
    assert not result.passed
    assert json.loads((folder / VERIFICATION).read_text())["rewards"][:2] == [None, rewards[1]]


def test_lost_weights_are_named(model, save, at_once):
    """transformers draws new ones and only warns."""
    folder = save(model)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    result = verify_saved_model(folder, *in_memory(model, SHARED_PREFIX), **FLOAT32)
    assert result.problems[0] == "1 weights are missing, such as score.weight"
    assert len(result.problems) == 2


def test_weights_saved_in_fewer_bits_are_found(model, save, at_once):
    folder = save(copy.deepcopy(model).to(torch.bfloat16))
    rows, rewards = in_memory(model, SHARED_PREFIX)
    result = verify_saved_model(folder, rows, rewards, **FLOAT32)
    assert not result.passed
    assert result.problems[0].startswith("expected weights in float32, found 21 in BF16, such as model.")
    assert len(result.problems) == 2


def test_a_process_that_does_not_end(model, save):
    result = verify_saved_model(save(model), *in_memory(model, SHARED_PREFIX), **FLOAT32, timeout=0.01)
    assert result.problems == ["reloading and scoring 8 rows took more than 0.01 s"]


@pytest.mark.parametrize(("number", "words"), [(9, "signal 9, perhaps for host memory"), (15, "signal 15;")])
def test_a_process_that_is_killed(number, words, model, save, tmp_path, monkeypatch):
    script = tmp_path / "killed.py"
    script.write_text(f"import os; os.kill(os.getpid(), {number})")
    monkeypatch.setattr(verification, "SCRIPT", script)
    result = verify_saved_model(save(model), *in_memory(model, SHARED_PREFIX), **FLOAT32)
    assert len(result.problems) == 1 and words in result.problems[0] and not result.passed


def test_the_script_needs_nothing_of_ours(model, save, tmp_path):
    """Copied to another folder, as somebody without this project would run it."""
    folder = save(model)
    script = shutil.copy(SCRIPT, tmp_path / "rewards.py")
    request = json.dumps({"rows": [[2, 30, 40], [2, 50]]})
    command = [sys.executable, "-P", str(script), str(folder), str(tmp_path / "answer.json")]
    subprocess.run(command, input=request, text=True, check=True, cwd=tmp_path, capture_output=True, timeout=120)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["padded"] == pytest.approx(answer["alone"], abs=1e-5)
