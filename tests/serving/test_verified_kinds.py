"""score.py --verify_server of process models and pairwise models, and of servers that get something wrong."""

import json
import re
from pathlib import Path

import pytest
import torch
from pairwise_models import ROWS, PlainPairs, save_pairwise, take_out_the_liking
from serving.servers import serving_app
from serving.verified_models import FaultyServer, running
from step_models import chains, save_process_model
from transformers import AutoModelForTokenClassification

from reward_modeling.checkpoints.reference_rewards import reference_rewards
from reward_modeling.checkpoints.verification import whole_rows
from reward_modeling.common.errors import UserError
from reward_modeling.scoring import PairScorer, RewardScorer, StepScorer
from reward_modeling.serving.app import make_app
from reward_modeling.serving.protocols import our_pairs
from reward_modeling.serving.settings import Settings

CARD = "# A model\n\n## Use\n"


def write(folder: Path, rows: list[list[int]], **more) -> Path:
    rewards = reference_rewards(str(folder), rows, **more)["alone"]
    record = {"passed": True, "rows": rows, "rewards": rewards, "rewards_alone": rewards, "precision": "float32"}
    (folder / "verification.json").write_text(json.dumps(record | {"rounding": None} | more))
    return folder


def save_steps(folder: Path, family: str = "llama", **settings) -> Path:
    save_process_model(folder, family, **settings)
    scorer = StepScorer.from_pretrained(folder, dtype="float32")
    whole = [(prompt, [" ".join(steps)]) if scorer.process.outcome else (prompt, steps) for prompt, steps in chains(4)]
    tokens = scorer.tokenize(whole)
    ends = [list(of.ids[: place + 1]) for of in tokens for place in of.reads]
    rows, reads, _ = whole_rows(ends, [0.0] * 2 * len(ends))
    return write(folder, rows, reads=reads)


def save_pairs(folder: Path, family: str = "qwen2") -> Path:
    plain = PlainPairs(take_out_the_liking(save_pairwise(folder, family)))
    pairs = [(row["chosen"][:-1], *(row[side][-1]["content"] for side in ("chosen", "rejected"))) for row in ROWS[:3]]
    return write(folder, [list(plain.ids(*order)) for p, a, b in pairs for order in ((p, a, b), (p, b, a))])


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def steps(request, tmp_path_factory):
    return save_steps(tmp_path_factory.mktemp("steps") / "model", request.param)


@pytest.fixture(scope="module", params=["qwen2", "gemma"])
def pairs(request, tmp_path_factory):
    return save_pairs(tmp_path_factory.mktemp("pairs") / "model", request.param)


def served(scorer):
    return serving_app(make_app(scorer, Settings(model_name="tiny")))


def of_steps(folder: Path):
    return served(RewardScorer.from_pretrained(folder, dtype="float32"))


def of_pairs(folder: Path):
    return served(PairScorer.from_pretrained(folder, dtype="float32"))


# --- serve.py is equal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "ways"), [("ours", "token ids; a prompt with steps"), ("vllm", "token ids; token ids, with no")]
)
def test_serve_py_of_a_process_model(steps, protocol, ways, verify):
    with of_steps(steps) as url:
        status, said = verify(verify_server=url, protocol=protocol, reward_name_or_path=steps)
    assert status == 0, said
    assert f"EQUAL: what is served is what was saved (as {ways}" in " ".join(said.split())


@pytest.mark.parametrize(
    ("protocol", "ways"),
    [("ours", "token ids; a prompt with two answers"), ("vllm", "a question with a generation prompt")],
)
def test_serve_py_of_a_pairwise_model(pairs, protocol, ways, verify):
    with of_pairs(pairs) as url:
        status, said = verify(verify_server=url, protocol=protocol, reward_name_or_path=pairs)
    assert status == 0, said
    assert ways in " ".join(said.split())


def test_an_outcome_model_and_steps_without_separators(tmp_path, verify):
    for process in (
        {"separator": "\n\n", "chat": True, "outcome": True, "aggregation": "last"},
        {"separator": "", "chat": False, "outcome": False, "aggregation": "mean"},
    ):
        folder = save_steps(tmp_path / str(process["outcome"]), process=process)
        with of_steps(folder) as url:
            status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=folder)
        assert status == 0, said


def test_what_cannot_be_asked_is_one_message(steps, pairs, verify):
    for folder, name in ((steps, "a process model"), (pairs, "a pairwise model")):
        with pytest.raises(UserError, match=f"--protocol openrlhf: expected --protocol vllm or ours, since {name}"):
            verify(verify_server="http://127.0.0.1:9", protocol="openrlhf", reward_name_or_path=folder)


def test_the_card_says_so(steps, verify):
    (steps / "README.md").write_text(CARD)
    with running(StepServer(steps)) as url:
        assert verify(verify_server=url, protocol="vllm", reward_name_or_path=steps, write_card="true")[0] == 0
    record = json.loads((steps / "verification.json").read_text())
    (entry,) = json.loads((steps / "served.json").read_text())
    assert entry["tokens"] == sum(map(len, record["rows"]))
    assert entry["rows"] >= sum(map(len, record["reads"]))
    assert "- Served equal on 20" in (steps / "README.md").read_text()


def test_changed_files_are_found(tmp_path, verify):
    folder = save_steps(tmp_path / "model")
    other = save_steps(tmp_path / "other", initializer_range=0.05)
    with of_steps(folder) as url:
        (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=folder)
    assert (status, "changed files" in said) == (1, True), said


# --- other servers ----------------------------------------------------------------------------------------------


class StepServer(FaultyServer):
    """vLLM's /pooling of a token classifier, in plain transformers; `shift` tokens off, and without its activation."""

    def __init__(self, folder: Path):
        super().__init__(folder, AutoModelForTokenClassification)
        self.activates = True

    @torch.no_grad()
    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        if path != "/pooling":
            return 404, {"detail": "Not Found"}
        self.requests.append({"path": path} | body)
        (ids,) = body["input"]
        model = self.model if self.dtype == torch.float32 else self.model.to(self.dtype)
        logits = model(torch.tensor([self.change_ids(ids)])).logits[0].float()
        if body.get("use_activation", True) and self.activates:
            logits = logits.softmax(dim=-1)
        return 200, {"data": [{"index": 0, "data": self.change_outputs(logits).tolist()}]}


def softmax(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.softmax(dim=-1)


def test_a_server_of_all_tokens_is_equal_and_its_faults_are_named(steps, verify, tmp_path):
    server = StepServer(steps)
    flags = {"protocol": "vllm", "reward_name_or_path": steps}
    with running(server) as url:
        status, said = verify(verify_server=url, **flags)
        assert status == 0, said
        asked = [json.dumps(request) for request in server.requests]
        assert len(asked) == len(set(asked))  # once for all steps of a row

        server.change_outputs = softmax
        status, said = verify(verify_server=url, **flags)
        assert (status, "Cause: a softmax." in said) == (1, True), said

        for change in (lambda outputs: outputs.roll(1, dims=0), lambda outputs: outputs.flip(dims=[1])):
            server.change_outputs = change
            status, said = verify(verify_server=url, **flags)
            assert status == 1
            assert re.search(r"Cause: (another model|weights that are alike)\.", said), said

        server.set_right()
        server.activates = False
        status, said = verify(verify_server=url, **flags)
        assert status == 1
        assert re.search(r"Token ids: equal.*Token ids, with no word of an activation: DIFFERENT", said, re.DOTALL), (
            said
        )

        server.set_right()
        server.activates, server.dtype = True, torch.bfloat16
        status, said = verify(verify_server=url, **flags)
        assert (status, "lower precision" in said) == (1, True), said

    family = json.loads((steps / "config.json").read_text())["model_type"]
    with running(StepServer(save_steps(tmp_path / "other", family, initializer_range=0.05))) as url:
        status, said = verify(verify_server=url, **flags)
        assert status == 1
        assert re.search(r"Cause: (another model|weights that are alike)\.", said), said


def test_a_server_that_does_not_answer_for_each_token(steps, verify):
    server = StepServer(steps)
    with running(server) as url:
        for change, found in ((lambda outputs: outputs[:-1], "entries"), (lambda outputs: outputs[-1], "2 entries")):
            server.change_outputs = change
            with pytest.raises(UserError, match=f"the outputs of each of \\d+ tokens, found .*{found}"):
                verify(verify_server=url, protocol="vllm", reward_name_or_path=steps)


def test_messages_without_a_generation_prompt(pairs, verify):
    """As a server would have it that passes over add_generation_prompt."""
    with running(FaultyServer(pairs)) as url:
        status, said = verify(verify_server=url, protocol="vllm", reward_name_or_path=pairs)
    assert status == 1
    said = " ".join(said.split())
    assert "Token ids: equal" in said
    assert "A question with a generation prompt: DIFFERENT" in said
    assert "another chat template" in said and "and its generation prompt" in said


def test_a_sigmoid_and_another_pairwise_model(pairs, verify, tmp_path):
    server = FaultyServer(pairs)
    server.change_outputs = torch.sigmoid
    with running(server) as url:
        status, said = verify(verify_server=url, protocol="vllm", reward_name_or_path=pairs)
    assert (status, "Cause: a sigmoid." in said) == (1, True), said
    other = save_pairs(tmp_path / "other")
    plain = PlainPairs(other)  # it likes the other answer
    plain.model.score.weight.data.neg_()
    plain.model.save_pretrained(other)
    with of_pairs(other) as url:
        status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=pairs)
    assert status == 1, said


@pytest.mark.parametrize("fault", ["swapped", "one order"])
def test_a_server_that_mixes_up_the_orders(pairs, fault, verify, monkeypatch):
    if fault == "swapped":
        monkeypatch.setattr(our_pairs, "combinations", lambda numbers, _: [(1, 0)])
        monkeypatch.setattr(our_pairs, "round_robin_scores", lambda n, of: [1 - of[1, 0], of[1, 0]])
    else:
        monkeypatch.setattr(our_pairs, "mean_probability", lambda first, _: torch.sigmoid(torch.tensor(first)).item())
    with of_pairs(pairs) as url:
        if fault == "one order":
            with pytest.raises(UserError, match=r"expected as rewards\[0\] the mean of both orders"):
                verify(verify_server=url, protocol="ours", reward_name_or_path=pairs)
            return
        status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=pairs)
    assert status == 1
    assert re.search(r"A prompt with two answers: DIFFERENT", said), said
