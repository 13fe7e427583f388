"""Process models and pairwise models: vLLM on the CPU, and serve.py, by the commands that their cards print."""

import re
from pathlib import Path

import pytest
import requests
from served.conftest import read_served, score_py
from served.servers import EAGER, commands_of, own_server, vllm_server

from reward_modeling.scoring import PairScorer, StepScorer

CLOSE = 1e-5
QUESTION = "Begin with 7. What is it in the end?"
STEPS = ["Then add 2 to it, surely this is right.", "Then add 5 to it, perhaps this is right."]
ANSWERS = ["Heat the water to eighty degrees.", "Nobody cares.", "Boil it for an hour."]


def verify(command: list[str], url: str, *more: str, status: int = 0) -> str:
    assert command[:4] == ["python", "score.py", "--verify_server", "http://127.0.0.1:8000"]
    return score_py("--verify_server", url, *command[4:], *more, status=status)


def against(command: list[str], folder: Path) -> list[str]:
    """The card's command for another checkpoint."""
    return [*command[: command.index("--reward_name_or_path") + 1], str(folder)]


def largest(said: str) -> str:
    return re.search(r"The\s+largest\s+difference\s+is\s+([\d.e+-]+)\.", said)[1]


def check_equal(folder: Path, url: str, seen, what: str) -> dict:
    """The card's own command finds it equal, and the card says so."""
    said = verify(commands_of(folder / "README.md")["score.py"], url, "--write_card", "true")
    assert "EQUAL: what is served is what was saved" in said
    (entry,) = read_served(folder)
    assert (entry["server"], entry["protocol"], entry["dtype"]) == ("vLLM", "vllm", "float32")
    assert "- Served equal on " in (folder / "README.md").read_text()
    seen(f"{what}, vLLM {entry['version']}", f"{entry['rows']} outputs; largest difference {largest(said)}")
    return entry


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_a_process_model(family, of_steps, vllm_python, tmp_path, seen):
    folder = of_steps(family) / "last_checkpoint"
    with vllm_server(vllm_python, commands_of(folder / "README.md")["vllm"], tmp_path, *EAGER) as url:
        entry = check_equal(folder, url, seen, f"tiny {family} of steps")
        assert entry["ways"] == ["token ids", "token ids, with no word of an activation"]
        scorer = StepScorer.from_pretrained(folder, dtype="float32")
        (tokens,) = scorer.tokenize([(QUESTION, STEPS)])
        (answer,) = requests.post(f"{url}/pooling", json={"input": [list(tokens.ids)]}, timeout=60).json()["data"]
        found = [answer["data"][place][1] for place in tokens.reads]
        assert found == pytest.approx(scorer.score(QUESTION, STEPS), abs=CLOSE)
        if family == "llama":  # another model is found
            other = of_steps(family, learning_rate=5e-2, max_steps=6, seed=3) / "last_checkpoint"
            said = verify(against(commands_of(folder / "README.md")["score.py"], other), url, status=1)
            assert re.search(r"DIFFERENT: .*(another model|weights that are alike)", said)


def test_a_pairwise_model(of_pairs, vllm_python, tmp_path, seen):
    folder = of_pairs("qwen2") / "last_checkpoint"
    commands = commands_of(folder / "README.md")
    with vllm_server(vllm_python, commands["vllm"], tmp_path, *EAGER) as url:
        entry = check_equal(folder, url, seen, "tiny qwen2 of comparisons")
        assert entry["messages"] >= 2
        other = of_pairs("qwen2", learning_rate=5e-2, max_steps=6, seed=3) / "last_checkpoint"
        said = verify(against(commands["score.py"], other), url, status=1)
        assert re.search(r"DIFFERENT: .*(another model|weights that are alike)", said)


def test_serve_py(of_steps, of_pairs, tmp_path, seen):
    outcome = of_steps("qwen3", outcome=True) / "last_checkpoint"
    folders = {"steps": of_steps("gemma2") / "last_checkpoint", "outcomes": outcome}
    folders["comparisons"] = of_pairs("qwen2") / "last_checkpoint"
    for what, folder in folders.items():
        commands = commands_of(folder / "README.md")
        with own_server(commands["serve.py"], tmp_path) as url:
            for protocol in ("ours", "vllm"):
                command = [protocol if part == "vllm" else part for part in commands["score.py"]]
                seen(
                    f"tiny model of {what}, serve.py, {protocol}", f"largest difference {largest(verify(command, url))}"
                )
            check_answers(what, folder, url)


def check_answers(what: str, folder: Path, url: str) -> None:
    if what == "comparisons":
        answer = requests.post(f"{url}/v1/rewards", json={"prompt": QUESTION, "responses": ANSWERS}, timeout=60)
        due = PairScorer.from_pretrained(folder, dtype="float32").rank(QUESTION, ANSWERS).scores
        assert answer.json()["rewards"] == pytest.approx(due, abs=CLOSE)
        return
    scorer = StepScorer.from_pretrained(folder, dtype="float32")
    steps = ["\n\n".join(STEPS)] if what == "outcomes" else STEPS
    asked = {"responses": steps} if what == "outcomes" else {"steps": steps}
    answer = requests.post(f"{url}/v1/rewards", json={"prompt": QUESTION} | asked, timeout=60).json()
    assert answer["steps"] == [pytest.approx(scorer.score(QUESTION, steps), abs=CLOSE)]
