"""score.py --verify_server against serve.py's application, by each protocol, for each kind of model; and the card."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from published_gate import write_published_folder
from rating_models import NAMES, save_classifier, with_ratings
from serving.servers import serving_app
from serving.verified_models import FaultyServer, conversations, running, save_verified, write_verification
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoConfig

import score
from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import gated_model_class
from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.app import make_app
from reward_modeling.serving.settings import Settings
from reward_modeling.serving.verification_card import BEGIN, END, read_served, with_lines
from reward_modeling.tiny.tokenizers import token_ids

LEVELS = [0.25, 0.5, 0.75]
PROTOCOLS = ("vllm", "openrlhf", "ours")


def make_quantiles(folder: Path) -> Path:
    texts = [message["content"] for conversation in conversations() for message in conversation]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES["gemma"])
    names = [f"{name}@{level:.2f}" for name in NAMES for level in LEVELS]
    config = with_ratings(tiny_config("gemma2", len(tokenizer), **token_ids(tokenizer)), names, quantile_levels=LEVELS)
    return write_verification(save_classifier(folder, tokenizer, config))


@torch.no_grad()
def make_gated(folder: Path) -> Path:
    """Its rewards are those of the class alone, by transformers' own attention."""
    texts = [message["content"] for conversation in conversations() for message in conversation]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES["llama3"])
    write_published_folder(
        folder, tokenizer, tiny_config("llama", len(tokenizer), **token_ids(tokenizer)), objectives=5
    )
    rows = RewardScorer.from_pretrained(folder).tokenize(conversations())
    config = AutoConfig.from_pretrained(folder)
    model = gated_model_class(type(config)).from_pretrained(folder, config=config, attn_implementation="eager").eval()
    scores = []
    for row in rows:
        ids = torch.tensor([row.ids])
        scores.append(model(ids, torch.ones_like(ids), gate_positions=torch.tensor([row.gate])).score.item())
    record = {"passed": True, "rows": [list(row.ids) for row in rows], "gates": [row.gate for row in rows]}
    record |= {"rewards": scores, "rewards_alone": scores, "largest_difference": 1e-7}
    (folder / "verification.json").write_text(json.dumps(record))
    return folder


KINDS = {
    "one label": save_verified,
    "ratings": lambda folder: save_verified(folder, family="qwen2", ratings=True),
    "quantiles": make_quantiles,
    "gated": make_gated,
}


def serving(folder: Path):
    """The address of serve.py's application in a thread of this process."""
    return serving_app(make_app(RewardScorer.from_pretrained(folder, dtype="float32"), Settings(model_name="tiny")))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    folder = KINDS[request.param](tmp_path_factory.mktemp("served") / "model")
    with serving(folder) as url:
        yield request.param, folder, url


def test_serve_py_is_equal_by_its_own_protocol(kind, verify):
    _, folder, url = kind
    status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=folder)
    assert status == 0, said
    assert "EQUAL: what is served is what was saved" in said
    record = json.loads((folder / "verification.json").read_text())
    record["rewards_alone"][0] += 0.01
    (folder / "verification.json").write_text(json.dumps(record))
    status, said = verify(verify_server=url, protocol="ours", reward_name_or_path=folder)
    record["rewards_alone"][0] -= 0.01
    (folder / "verification.json").write_text(json.dumps(record))
    assert (status, "Cause: changed files." in said) == (1, True), said


@pytest.mark.parametrize("protocol", ["vllm", "openrlhf"])
def test_serve_py_is_equal_by_the_protocols_of_others(kind, verify, protocol):
    name, folder, url = kind
    if name == "gated":  # these send tokens and texts, of which nobody knows where the prompt ends
        with pytest.raises(UserError, match="expected --protocol ours"):
            verify(verify_server=url, protocol=protocol, reward_name_or_path=folder)
        return
    status, said = verify(verify_server=url, protocol=protocol, reward_name_or_path=folder)
    assert status == 0, said


# --- flags, and what is written -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_verified(tmp_path / "model")


CARD = f"# A model\n\n## Use\n\nNone of these was run.\n\n{BEGIN}\n{END}\n\n## Training data\n\nSome.\n"


def test_the_card_says_served_equal_where_it_was_asked_for_and_true(folder, verify):
    (folder / "README.md").write_text(CARD)
    (folder / "contents.json").write_text(json.dumps({"README.md": {"bytes": len(CARD), "xxh3_128": "0"}}))
    server = FaultyServer(folder)
    with running(server) as url:
        flags = {"verify_server": url, "protocol": "vllm", "reward_name_or_path": folder}
        assert verify(**flags)[0] == 0
        assert (folder / "README.md").read_text() == CARD
        assert not (folder / "served.json").exists()

        server.change_outputs = torch.sigmoid
        status, said = verify(**flags, write_card="true")
        assert (status, "Not written: the server is not equal." in said) == (1, True)
        assert (folder / "README.md").read_text() == CARD
        assert not (folder / "served.json").exists()

        server.set_right()
        for _ in range(2):  # the second takes the place of the first
            assert verify(**flags, write_card="true")[0] == 0
        assert verify(**flags | {"protocol": "openrlhf"}, write_card="true")[0] == 0
    text = (folder / "README.md").read_text()
    lines = text[text.index(BEGIN) : text.index(END)].splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].startswith("- Served equal on 20")
    assert re.search(r"vLLM 0.0.test, protocol `vllm`, 9 rows of up to [\d,]+ tokens in float32", lines[0])
    assert "3 conversations through its chat template" in lines[0]
    assert "the chat template was not compared" in lines[1]
    assert text.replace("\n".join(lines) + "\n", "") == CARD
    first, second = json.loads((folder / "served.json").read_text())
    assert (first["server"], first["version"], first["protocol"]) == ("vLLM", "0.0.test", "vllm")
    assert 0 <= first["largest_difference"] < first["tolerance"] < 1e-3
    assert (first["rows"], second["protocol"]) == (9, "openrlhf")
    entry = json.loads((folder / "contents.json").read_text())["README.md"]
    assert entry["bytes"] == (folder / "README.md").stat().st_size
    assert entry["xxh3_128"] != "0"


def test_other_weights_in_the_folder_were_not_served(folder, verify, tmp_path):
    with running(FaultyServer(folder)) as url:
        assert verify(verify_server=url, protocol="vllm", reward_name_or_path=folder, write_card="true")[0] == 0
    assert len(read_served(folder)) == 1
    other = save_verified(tmp_path / "other", seed=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert read_served(folder) == []


def test_a_card_without_the_place_gets_one_at_its_end():
    once = with_lines("# A model\n", ["- one"])
    assert once == f"# A model\n\n## Served\n\n{BEGIN}\n- one\n{END}\n"
    assert with_lines(once, ["- two"]) == once.replace("one", "two")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"protocol": "vllm"}, "found no --reward_name_or_path"),
        (
            {"protocol": "vlm", "reward_name_or_path": "x"},
            r"--protocol: expected one of vllm, openrlhf, ours, found 'vlm'",
        ),
        ({"protocol": "vllm", "reward_name_or_path": "no/such"}, "expected the folder or the Hub id of a reward model"),
        ({"input": "rows.jsonl"}, "--verify_server: .*--input"),
    ],
)
def test_mistakes(flags, message, monkeypatch):
    argv = [token for name, value in flags.items() for token in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["score.py", "--verify_server", "http://127.0.0.1:9", *argv])
    with pytest.raises(UserError, match=message):
        score.main()


def test_a_key_comes_from_a_file_or_a_variable(folder, verify, monkeypatch, tmp_path):
    server = FaultyServer(folder)
    server.key = "right-key"
    (tmp_path / "key").write_text("right-key\nanother line\n")
    with running(server) as url:
        flags = {"verify_server": url, "protocol": "vllm", "reward_name_or_path": folder}
        assert verify(**flags, api_key_file=tmp_path / "key")[0] == 0
        monkeypatch.setenv("REWARD_API_KEY", "right-key")
        status, said = verify(**flags)
    assert status == 0
    assert "right-key" not in said
