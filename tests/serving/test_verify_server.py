"""score.py --verify_server: a server that is equal, and each fault by its name. The servers are plain transformers."""

import json
from pathlib import Path

import pytest
import torch
from scripted_server import server_that_says
from serving.verified_models import FaultyServer, conversations, running, save_verified
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from transformers import AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.models.tokenizer import set_up_for_encoder
from reward_modeling.serving.client_connection import Connection
from reward_modeling.serving.clients import CLIENTS, ServerInfo, VllmClient
from reward_modeling.serving.verification import Report, verify_server
from reward_modeling.serving.verification_card import write_served
from reward_modeling.serving.verification_probe import Probe
from reward_modeling.serving.verification_rows import read_checkpoint, row_of
from reward_modeling.serving.verification_text import report_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_verified(tmp_path_factory.mktemp("llama") / "model", reward_mean=0.4, reward_std=1.7)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory) -> Path:
    return save_verified(tmp_path_factory.mktemp("ratings") / "model", family="qwen2", ratings=True)


@pytest.fixture(scope="module")
def probe(folder) -> Probe:
    return Probe(folder)


@pytest.fixture(scope="module")
def served(folder):
    server = FaultyServer(folder)
    with running(server) as url:
        yield server, url


@pytest.fixture
def server(served) -> FaultyServer:
    served[0].set_right()
    served[0].requests.clear()
    return served[0]


@pytest.fixture
def verify(folder, served, probe):
    """Compare by a protocol; other arguments go to `verify_server`."""

    def run(protocol: str = "vllm", **options) -> Report:
        client = CLIENTS[protocol](Connection(served[1]))
        return verify_server(read_checkpoint(folder), client, load=lambda: probe, **options)

    return run


def not_needed():
    raise AssertionError("the model was loaded though nothing was to be explained")


def causes(report: Report, way: int = 0) -> list[str]:
    return [cause.name for cause in report.comparisons[way].causes]


def test_an_equal_server_needs_no_model(folder, server, served):
    client = VllmClient(Connection(served[1]))
    report = verify_server(
        read_checkpoint(folder), client, load=not_needed, ways=[way for way in client.ways if way.decides]
    )
    assert report.equal
    assert [one.equal for one in report.comparisons] == [True, True, True]
    assert report.largest < 1e-5
    assert "EQUAL: what is served is what was saved" in "\n".join(report_lines(report))
    assert str(report.server) == "vLLM 0.0.test, model served"


def test_a_text_with_its_bos_is_shown_and_does_not_decide(verify, server):
    report = verify()
    assert report.equal
    ways = [VllmClient.TOKENS, VllmClient.SILENT, VllmClient.TEXT, VllmClient.WHOLE_TEXT]
    assert [one.way for one in report.comparisons] == ways  # verl's is the right one
    assert not report.comparisons[3].equal
    assert causes(report, 3) == ["a second BOS"]
    assert "Text with its BOS: other rewards, by up to" in "\n".join(report_lines(report))
    assert "The server's count of tokens says so too" in report.comparisons[3].causes[0].sentence


def test_a_client_that_says_nothing_of_an_activation_may_get_a_sigmoid(verify, server):
    server.change_outputs = torch.sigmoid
    right = server.answer

    def unless_told_not_to(path, body):
        server.change_outputs = (lambda outputs: outputs) if body.get("use_activation") is False else torch.sigmoid
        return right(path, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "answer", unless_told_not_to)
        report = verify()
    assert [one.equal for one in report.deciding] == [True, False, True]
    assert causes(report, 1) == ["a sigmoid"]
    assert not report.equal


def faults(tokenizer) -> dict:
    """What the server does wrong, by the name under which it has to be found."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return {
        "a sigmoid": {"change_outputs": torch.sigmoid},
        "a softmax of one label, or a constant": {"change_outputs": lambda outputs: outputs.softmax(0)},
        "a normalisation": {"change_outputs": lambda outputs: (outputs - 0.4) / 1.7},
        "a scale and a shift": {"change_outputs": lambda outputs: outputs * 2 + 0.5},
        "a second BOS": {"change_ids": lambda ids: [bos, *ids]},
        "a missing BOS": {"change_ids": lambda ids: ids[1:]},
        "an EOS too many": {"change_ids": lambda ids: [*ids, eos]},
        "a missing EOS": {"change_ids": lambda ids: ids[:-1]},
        "a second BOS and a sigmoid": {
            "change_ids": lambda ids: [bos, *ids],
            "change_outputs": torch.sigmoid,
        },
        "a cut": {"change_ids": lambda ids: ids[:61]},
        "lower precision": {"dtype": torch.bfloat16},
        "a sigmoid and lower precision": {"change_outputs": torch.sigmoid, "dtype": torch.bfloat16},
    }


NAMES = list(faults(type("Ids", (), {"bos_token_id": 0, "eos_token_id": 1})))


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_found_by_its_name(verify, server, name):
    for what, value in faults(server.tokenizer)[name].items():
        setattr(server, what, value)
    report = verify(ways=[VllmClient.TOKENS])
    assert not report.equal
    assert causes(report) == [name]
    text = "\n".join(report_lines(report))
    assert f"Cause: {name}." in text
    assert "DIFFERENT" in text


@pytest.mark.parametrize(
    ("side", "keep"),
    [
        ("the end", lambda ids: ids[:61]),
        ("the beginning", lambda ids: ids[-61:]),
        ("the beginning after BOS", lambda ids: ids if len(ids) <= 61 else [ids[0], *ids[-60:]]),
    ],
)
def test_of_a_cut_the_length_and_the_side_are_found(verify, server, side, keep):
    server.change_ids = keep
    (cause,) = verify(ways=[VllmClient.TOKENS]).comparisons[0].causes
    assert f"to 61 tokens, at {side} (" in cause.sentence


def test_rows_that_are_refused_for_their_length(verify, server):
    server.max_length = 130
    report = verify(ways=[VllmClient.TOKENS])
    refused = [len(row.ids) for row in report.comparisons[0].rows if len(row.ids) > 130]
    assert refused
    assert causes(report) == ["too short a length"]
    sentence = report.comparisons[0].causes[0].sentence
    assert "takes at most 130 tokens" in sentence
    assert "the longest conversation has 130 tokens" in sentence
    assert "refused" in "\n".join(report_lines(report))


def test_rows_that_are_refused_for_another_reason(verify, server, monkeypatch):
    monkeypatch.setattr(server, "answer", lambda path, body: (400, {"error": {"message": "I will not"}}))
    assert causes(verify("openrlhf")) == ["refused rows"]
    assert causes(verify(ways=[VllmClient.TOKENS])) == ["refused rows"]


def test_a_refusal_does_not_hide_what_is_wrong_with_the_other_rows(verify, server):
    server.max_length, server.change_outputs = 160, torch.sigmoid
    assert causes(verify(ways=[VllmClient.TOKENS])) == ["too short a length", "a sigmoid"]


def test_other_weights_are_another_model(verify, folder, server, tmp_path):
    other = FaultyServer(save_verified(tmp_path / "other", seed=1))
    server.change_outputs, own = (lambda outputs: outputs), server.model
    try:
        server.model = other.model
        assert causes(verify(ways=[VllmClient.TOKENS])) == ["another model"]
    finally:
        server.model = own


def test_weights_that_are_a_little_off_are_alike_and_not_the_same(verify, server):
    kept = {name: value.clone() for name, value in server.model.state_dict().items()}
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            for weight in server.model.parameters():
                weight += 0.01 * weight.std() * torch.randn_like(weight)
        found = causes(verify(ways=[VllmClient.TOKENS]))
        assert found in (["weights that are alike"], ["lower precision or slightly other weights"])
        with torch.no_grad():
            for weight in server.model.parameters():
                weight += 0.04 * weight.std() * torch.randn_like(weight)
        assert causes(verify(ways=[VllmClient.TOKENS])) == ["weights that are alike"]
    finally:
        server.model.load_state_dict(kept)


def test_a_little_noise_is_not_called_rounding(verify, folder, server):
    """Both are of one size; only what the checkpoint itself rounds to tells them apart."""
    kept = {name: value.clone() for name, value in server.model.state_dict().items()}
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            for weight in server.model.parameters():
                weight += 1e-3 * weight.std() * torch.randn_like(weight)
        report = verify(ways=[VllmClient.TOKENS])
    finally:
        server.model.load_state_dict(kept)
    assert causes(report) == ["lower precision or slightly other weights"]
    assert "Either the server computes in lower precision or its weights" in " ".join(report_lines(report)).replace(
        "    ", ""
    )


def test_a_server_that_always_answers_1(verify, server):
    server.change_outputs = torch.ones_like
    for protocol in ("vllm", "openrlhf"):
        (cause,) = verify(protocol).comparisons[0].causes
        assert cause.name == "a softmax of one label, or a constant"
        assert "or always answers 1" in cause.sentence


# --- with the model loaded here -------------------------------------------------------------------------------


def test_messages_and_a_long_row_are_compared_too(verify, server, probe):
    report = verify(load_model=True)
    text = " ".join(" ".join(report_lines(report)).split())
    assert report.equal, text
    rows = {one.way: [len(row.ids) for row in one.rows] for one in report.comparisons}
    assert len(rows[VllmClient.MESSAGES]) == report.messages == 3
    assert max(rows[VllmClient.TOKENS]) == report.longest_row == probe.longest()
    assert f"up to {probe.longest():,} tokens). " in text
    assert "Not compared" not in text
    without = " ".join(" ".join(report_lines(verify())).split())
    assert "Not compared, without --load_model true: the chat template, longer rows" in without


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda template: template.replace("|trim", "").replace(" | trim", "") + "Again.", "another chat template"),
        (lambda template: "{{ bos_token }}" + template, "a second BOS"),
    ],
)
def test_another_chat_template_is_found(verify, server, change, named):
    """Token ids and texts know nothing of it."""
    server.chat_template = change(server.tokenizer.chat_template)
    assert verify().equal
    report = verify(load_model=True)
    assert not report.equal
    assert {one.way.name: one.equal for one in report.deciding} == {
        "token ids": True,
        "token ids, with no word of an activation": True,
        "text, without what the tokenizer adds": True,
        "messages": False,
    }
    assert causes(report, 3) == [named]


def test_messages_are_not_sent_to_another_model(verify, server):
    server.change_outputs = lambda outputs: outputs + 1
    report = verify(load_model=True)
    assert "/classify" in {request["path"] for request in server.requests}
    assert not any("messages" in request for request in server.requests)
    assert not report.equal


@pytest.mark.parametrize("tells", [True, False])
def test_a_cut_beyond_the_saved_rows_is_found(verify, folder, server, probe, tells, monkeypatch):
    longest = max(map(len, json.loads((folder / "verification.json").read_text())["rows"]))
    assert longest + 8 < probe.longest()
    server.change_ids = lambda ids: ids[: longest + 8]
    if not tells:
        right = server.answer

        def silent(path, body):
            status, answer = right(path, body)
            return status, {name: value for name, value in answer.items() if name != "usage"}

        monkeypatch.setattr(server, "answer", silent)
    assert verify(ways=[VllmClient.TOKENS]).equal
    report = verify(ways=[VllmClient.TOKENS], load_model=True)
    assert not report.equal
    assert causes(report) == (["a cut"] if tells else ["long rows"])


def test_files_that_are_not_what_was_saved_are_not_served(folder, server, served, tmp_path):
    """The server has the model that was saved, and the folder another one."""
    other = save_verified(tmp_path / "other", seed=1)
    (other / "verification.json").write_bytes((folder / "verification.json").read_bytes())
    client = VllmClient(Connection(served[1]))
    report = verify_server(read_checkpoint(other), client, load=lambda: Probe(other), load_model=True)
    assert all(one.equal for one in report.deciding)
    assert not report.equal
    assert "DIFFERENT: the files of" in "\n".join(report_lines(report))
    with pytest.raises(UserError, match="expected an equal server"):
        write_served(report)


def test_a_card_is_not_written_before_the_files_were_compared(verify, server, folder):
    with pytest.raises(UserError, match="expected the model loaded here"):
        write_served(verify())
    assert not (folder / "served.json").exists()


def test_a_precision_that_hides_something_says_what(verify, server, monkeypatch):
    server.dtype = torch.bfloat16
    report = verify(ways=[VllmClient.TOKENS], dtype="bfloat16")
    text = " ".join(" ".join(report_lines(report)).split())
    hidden = f"{report.tolerance:.2g}"
    assert f"EQUAL within the rounding of bfloat16 ({hidden})" in text
    assert (
        f"hides differences of the model up to {hidden}, and that it computes in bfloat16 is what --served_dtype"
        in text
    )
    says = ServerInfo("serve.py", dtype="float32")
    monkeypatch.setattr(VllmClient, "about", lambda self: says)
    with pytest.raises(UserError, match="expected a server that computes in it, found one that says float32"):
        verify(ways=[VllmClient.TOKENS], dtype="bfloat16")


def test_rounding_is_allowed_for_where_it_is_expected(verify, server):
    server.dtype = torch.bfloat16
    report = verify(ways=[VllmClient.TOKENS], dtype="bfloat16")
    assert report.equal
    assert report.largest > 1e-4
    assert "EQUAL within the rounding of bfloat16" in "\n".join(report_lines(report))
    server.change_ids = lambda ids: ids[1:]
    assert not verify(ways=[VllmClient.TOKENS], dtype="bfloat16").equal


def test_files_that_were_changed_after_they_were_verified(folder, server, served, tmp_path):
    other = save_verified(tmp_path / "other", seed=1)
    (other / "verification.json").write_bytes((folder / "verification.json").read_bytes())
    client = VllmClient(Connection(served[1]))
    server.change_ids = lambda ids: ids[1:]
    report = verify_server(read_checkpoint(other), client, load=lambda: Probe(other), ways=[client.TOKENS])
    assert causes(report) == ["changed files"]


# --- models of several outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda outputs: outputs, []),
        (torch.sigmoid, ["a sigmoid"]),
        (lambda outputs: outputs.softmax(0), ["a softmax"]),
        (lambda outputs: outputs[:2], ["another model"]),
        (lambda outputs: torch.cat([outputs, outputs[:1]]), ["another model"]),
    ],
)
def test_all_outputs_are_compared(ratings, change, expected):
    server = FaultyServer(ratings)
    server.change_outputs = change
    with running(server) as url:
        client = VllmClient(Connection(url))
        report = verify_server(read_checkpoint(ratings), client, load=not_needed, ways=[client.TOKENS])
    assert causes(report) == expected
    assert list(report.comparisons[0].expected[0]) == ["probs[0]", "probs[1]", "probs[2]"]


def test_one_output_alone_that_is_off(ratings):
    server = FaultyServer(ratings)
    server.change_outputs = lambda outputs: outputs + torch.tensor([0.0, 0.0, 0.01])
    with running(server) as url:
        client = VllmClient(Connection(url))
        report = verify_server(read_checkpoint(ratings), client, load=lambda: Probe(ratings), ways=[client.TOKENS])
    assert not report.equal
    assert "probs[2]" in "\n".join(report_lines(report))


def test_a_protocol_of_one_reward_gets_the_weighted_sum(ratings):
    server = FaultyServer(ratings)
    weights = torch.tensor([0.65, 0.8, -0.4])
    server.change_outputs = lambda outputs: (outputs * weights).sum()[None]
    with running(server) as url:
        client = CLIENTS["openrlhf"](Connection(url))
        report = verify_server(read_checkpoint(ratings), client, load=not_needed)
    assert report.equal
    assert list(report.comparisons[0].expected[0]) == ["reward"]


# --- texts ----------------------------------------------------------------------------------------------------


def test_openrlhf_gets_whole_texts_one_in_a_request(verify, server):
    assert verify("openrlhf").equal
    assert {len(request["query"]) for request in server.requests} == {1}
    assert all(request["query"][0].startswith("<|begin_of_text|>") for request in server.requests)


def test_a_server_that_puts_bos_before_a_text_that_has_it(verify, server):
    server.adds_bos = True
    try:
        report = verify("openrlhf")
    finally:
        server.adds_bos = False
    assert causes(report) == ["a second BOS"]


def test_a_bos_that_the_template_alone_writes_is_kept_and_verl_would_lose_it(tmp_path):
    """As in DeepSeek-V3's tokenizer: a server adds none to a text."""
    folder = save_verified(tmp_path / "model", tokenizer_options={"bos_by_post_processor": False})
    server = FaultyServer(folder)
    with running(server) as url:
        client = VllmClient(Connection(url))
        report = verify_server(read_checkpoint(folder), client, load=lambda: Probe(folder))
    assert report.equal
    assert [one.way for one in report.comparisons[2:]] == [client.TEXT, client.VERL_TEXT]
    assert causes(report, 3) == ["a missing BOS"]


def test_of_an_encoder_neither_mark_is_sent():
    texts = [message["content"] for conversation in conversations() for message in conversation]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES["bert"])
    set_up_for_encoder(tokenizer)
    ids = tokenizer.apply_chat_template(conversations()[0])["input_ids"]
    row = row_of(ids, None, tokenizer)
    assert row.text.startswith("[CLS]") and row.text.endswith("[SEP]")
    assert row.bare == row.text.removeprefix("[CLS]").removesuffix("[SEP]")
    assert VllmClient.VERL_TEXT.can_send(row)  # and would get a second SEP


def test_rows_without_a_text_are_counted(folder, server, served, probe, tmp_path):
    record = json.loads((folder / "verification.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # two tokens that are one: of their text they do not come out again
    text = tokenizer.decode(record["rows"][0][-3:-1])
    apart = [tokenizer.convert_tokens_to_ids(letter) for letter in "water"]
    assert tokenizer("water", add_special_tokens=False)["input_ids"] != apart, text
    record["rows"][0] = [*record["rows"][0][:-1], *apart, record["rows"][0][-1]]
    record["rewards_alone"] = probe.outputs([type("Ids", (), {"ids": ids, "gate": None}) for ids in record["rows"]])
    record["rewards_alone"] = record["rewards_alone"][:, 0].tolist()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "verification.json").write_text(json.dumps(record))
    client = VllmClient(Connection(served[1]))
    ways = [client.TOKENS, client.TEXT]
    report = verify_server(read_checkpoint(tmp_path), client, load=not_needed, ways=ways)
    assert report.equal
    assert [one.left_out for one in report.comparisons] == [0, 1]
    assert "1 of 8 rows have no text that gives their tokens" in "\n".join(report_lines(report))


# --- the connection -------------------------------------------------------------------------------------------


def test_a_key_is_sent_and_a_wrong_one_is_said(verify, served, server, folder):
    server.key = "right"
    try:
        client = VllmClient(Connection(served[1], api_key="right"))
        assert verify_server(read_checkpoint(folder), client, load=not_needed, ways=[client.TOKENS]).equal
        with pytest.raises(UserError, match=r"takes the key, found status 401 \(wrong key\)"):
            verify()
    finally:
        server.key = None


def test_a_busy_server_is_asked_again(verify, server, monkeypatch):
    monkeypatch.setattr("reward_modeling.serving.client_connection.time.sleep", lambda seconds: None)
    server.busy = 2
    assert verify(ways=[VllmClient.TOKENS]).equal


@pytest.mark.parametrize(
    ("url", "protocol", "message"),
    [
        ("http://127.0.0.1:9", "vllm", "expected a server that answers GET /v1/models, found none"),
        ("127.0.0.1:8000", "vllm", "expected an http address such as http://127.0.0.1:8000"),
        (None, "ours", "expected POST /v1/rewards, found status 404 .*Is --protocol the one"),
    ],
)
def test_no_server(folder, served, server, url, protocol, message):
    with pytest.raises(UserError, match=message):
        verify_server(read_checkpoint(folder), CLIENTS[protocol](Connection(url or served[1])), load=not_needed)


@pytest.mark.parametrize("protocol", ["vllm", "openrlhf"])
def test_a_redirect_is_not_followed(folder, served, server, protocol, monkeypatch):
    with server_that_says((307, {"Location": f"{served[1]}/classify"}, b"")) as (url, _):
        client = CLIENTS[protocol](Connection(url, api_key="secret"))
        monkeypatch.setattr(client, "about", lambda: ServerInfo("redirecting"))
        with pytest.raises(UserError, match=r"--verify_server .* found a redirect \(status 307\)"):
            verify_server(read_checkpoint(folder), client, load=not_needed)
    assert server.requests == []


def test_a_checkpoint_without_rows(folder, tmp_path):
    with pytest.raises(UserError, match=r"expected verification\.json, which a verified checkpoint has, found none"):
        read_checkpoint(tmp_path)
    record = json.loads((folder / "verification.json").read_text())
    (tmp_path / "verification.json").write_text(json.dumps(record | {"passed": False}))
    with pytest.raises(UserError, match="says that this has failed"):
        read_checkpoint(tmp_path)
