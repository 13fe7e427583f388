"""What is served is what was trained: vLLM on the CPU, and serve.py, by the commands that the cards print."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import train
from served.conftest import VERIFIED, read_served, score_py
from served.servers import EAGER, commands_of, own_server, vllm_server

from reward_modeling.checkpoints.fold import fold_model
from reward_modeling.scoring.merge_adapter import merge_adapter


def verify(command: list[str], url: str, *more: str, status: int = 0) -> str:
    """By a card's command, but for the server's address."""
    assert command[:4] == ["python", "score.py", "--verify_server", "http://127.0.0.1:8000"]
    return score_py("--verify_server", url, *command[4:], *more, status=status)


def largest(said: str) -> str:
    return re.search(r"The\s+largest\s+difference\s+is\s+([\d.e+-]+)\.", said)[1]


def check_equal(python: str, folder: Path, tmp_path: Path, seen: Callable, what: str, *more: str) -> None:
    """The card's own commands find vLLM equal, and the card says so."""
    commands = commands_of(folder / "README.md")
    with vllm_server(python, commands["vllm"], tmp_path, *more) as url:
        said = verify(commands["score.py"], url, "--write_card", "true")
    assert "EQUAL: what is served is what was saved" in said
    (entry,) = read_served(folder)
    assert entry["messages"] >= 2
    assert entry["longest_row"] > max(map(len, json.loads((folder / "verification.json").read_text())["rows"]))
    assert (entry["server"], entry["protocol"], entry["dtype"]) == ("vLLM", "vllm", "float32")
    assert "- Served equal on " in (folder / "README.md").read_text()
    rows = f"{entry['rows']} rows, {entry['tokens']} tokens"
    seen(f"{what}, vLLM {entry['version']}", f"{rows}; largest difference {entry['largest_difference']:.1e}")


# --- equal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma2", "llama", "qwen3"])
def test_a_model_of_each_family(family, trained, vllm_python, tmp_path, seen):
    compiled = family == "llama"  # as the card's command has it
    folder = trained(family) / "last_checkpoint"
    check_equal(vllm_python, folder, tmp_path, seen, f"tiny {family}", *(() if compiled else EAGER))


def test_a_model_of_ratings_with_all_its_outputs(ratings, vllm_python, tmp_path, seen):
    check_equal(vllm_python, ratings, tmp_path, seen, "tiny qwen2 of 3 ratings", *EAGER)


def test_a_folded_model(ratings, vllm_python, tmp_path, seen):
    folder = tmp_path / "folded"
    fold_model(ratings, folder, {"kindness": 0.7, "usefulness": 0.3})
    check_equal(vllm_python, folder, tmp_path, seen, "the same folded", *EAGER)


def test_a_merged_adapter(trained, vllm_python, tmp_path, seen):
    """Against the rows of the run itself, and against those of the adapter that was merged by hand."""
    output = trained("llama", use_peft="true", merge_adapter="true")
    check_equal(vllm_python, output / "merged_checkpoint", tmp_path, seen, "tiny llama, adapter merged", *EAGER)
    by_hand = tmp_path / "merged"
    merge_adapter(output / "last_checkpoint", by_hand)
    command = commands_of(output / "merged_checkpoint" / "README.md")["vllm"]
    command[command.index("--model") + 1] = str(by_hand)
    with vllm_server(vllm_python, command, tmp_path, *EAGER) as url:
        flags = ["--verify_server", url, "--protocol", "vllm"]
        said = score_py(*flags, "--reward_name_or_path", str(output / "last_checkpoint"), status=0)
        seen("tiny llama, merged by hand, rows of the adapter", f"largest difference {largest(said)}")
        # the model that the adapter was trained on has another head
        other = score_py(*flags, "--reward_name_or_path", str(trained("llama") / "last_checkpoint"), status=1)
    assert re.search(r"DIFFERENT: .*\((another model|weights that are alike)", other)


def test_smollm2(pairs, vllm_python, tmp_path, seen):
    """The real one: one step of training, so that the head is not drawn alone."""
    from real.fetch import cache_folder, read_assets
    from real.published import SMOLLM2

    base = cache_folder() / f"{read_assets()[SMOLLM2].folder_name}-float32"
    if not base.is_dir():
        pytest.skip(f"{base}: SmolLM2 is not here; make test-real fetches it")
    given = VERIFIED | {"model_name": base, "train_set_path": pairs, "max_steps": 1, "learning_rate": 1e-5}
    folder = train(given, tmp_path / "smollm2").model
    check_equal(vllm_python, folder, tmp_path, seen, "SmolLM2-135M", "--max-model-len", "1024", *EAGER)


def test_serve_py_by_every_protocol(trained, ratings, tmp_path, seen):
    for what, folder in (("tiny gemma2", trained("gemma2") / "last_checkpoint"), ("tiny qwen2 of 3 ratings", ratings)):
        commands = commands_of(folder / "README.md")
        with own_server(commands["serve.py"], tmp_path) as url:
            for protocol in ("ours", "vllm", "openrlhf"):
                command = [protocol if part == "vllm" else part for part in commands["score.py"]]
                said = verify(command, url)
                seen(f"{what}, serve.py, {protocol}", f"largest difference {largest(said)}")


# --- what is wrong is found, and said by its name -------------------------------------------------------------


def test_a_server_without_problem_type_that_is_too_short(trained, vllm_python, tmp_path, seen):
    """Who says nothing of an activation gets a sigmoid there; rows beyond the length are refused."""
    folder = trained("llama") / "last_checkpoint"
    lengths = sorted(len(ids) for ids in json.loads((folder / "verification.json").read_text())["rows"])
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["problem_type"]
    (copy / "config.json").write_text(json.dumps(config))
    commands = commands_of(folder / "README.md")
    command = [str(copy) if part == str(folder) else part for part in commands["vllm"]]
    with vllm_server(vllm_python, command, tmp_path, *EAGER) as url:
        said = verify(commands["score.py"], url, status=1)
    told, silent, text = ways_of(said)
    assert "equal, largest difference" in told
    assert "Cause: a sigmoid." in silent
    assert "equal, largest difference" in text
    seen("tiny llama, config.json without problem_type", "a sigmoid, where a request says nothing of it")
    with vllm_server(vllm_python, command, tmp_path, "--max-model-len", str(lengths[-1] - 1), *EAGER) as url:
        said = verify(commands["score.py"], url, status=1)
    told, silent, _ = ways_of(said)
    assert "Cause: too short a length." in told
    assert "Cause: too short a length." in silent and "Cause: a sigmoid." in silent
    seen("the same, --max-model-len below the longest row", "too short a length")


def ways_of(said: str) -> list[str]:
    """What is said of the ways that decide."""
    _, *parts = re.split(r"^(?=Token ids|Text)", said, flags=re.MULTILINE)
    return parts[:3]


def test_a_server_that_rounds_to_16_bits(trained, vllm_python, tmp_path, seen):
    folder = trained("gemma2") / "last_checkpoint"
    commands = commands_of(folder / "README.md")
    command = [*commands["vllm"]]
    command[command.index("float32")] = "bfloat16"
    with vllm_server(vllm_python, command, tmp_path, *EAGER) as url:
        said = verify(commands["score.py"], url, status=1)
        assert re.search(r"DIFFERENT: what is served is not what was saved\s+\(lower precision", said)
        seen("tiny gemma2 in bfloat16", "lower precision")
        said = verify(commands["score.py"], url, "--served_dtype", "bfloat16")
        assert "EQUAL within the rounding of bfloat16" in said
        seen("tiny gemma2 in bfloat16, --served_dtype bfloat16", f"equal, largest difference {largest(said)}")


def test_a_second_bos_and_another_model(trained, vllm_python, tmp_path, seen):
    folder = trained("gemma2") / "last_checkpoint"
    commands = commands_of(folder / "README.md")
    with vllm_server(vllm_python, commands["vllm"], tmp_path, *EAGER) as url:
        said = verify(commands["score.py"], url)
        assert re.search(r"Text with its BOS: other rewards, by up to \S+ \(a second BOS\)", said)
        seen("tiny gemma2, a text with its BOS", "a second BOS")
        other = trained("gemma2", learning_rate=5e-2, max_steps=6, seed=3) / "last_checkpoint"
        said = score_py("--verify_server", url, *command_for(commands["score.py"], other), status=1)
        assert re.search(r"DIFFERENT: .*\(another model\)", said), said
        seen("tiny gemma2, another run's", "another model")


def command_for(command: list[str], folder: Path) -> list[str]:
    """The flags behind the server's address, for another checkpoint."""
    return [*command[4 : command.index("--reward_name_or_path") + 1], str(folder)]
