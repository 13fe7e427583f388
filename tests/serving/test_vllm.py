"""/classify, /pooling, /score and /v1/models: fields, activations and tokens as in vLLM 0.32.

`make test-serving` compares with a real vLLM; here its answers stand as they were read in its source and recorded.
"""

import base64
import struct

import pytest
import torch
from asking import CONVERSATIONS, NAME, TOLERANCE, app_of, ask, ask_all, error_of
from served_models import KINDS, make_model

from reward_modeling.data.conversations import Tokens
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.scoring import RewardScorer

USAGE = {"prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"}
FIELDS = {"id", "object", "created", "model", "data", "usage"}
DATA = {
    "/classify": {"index", "label", "probs", "num_classes"},
    "/pooling": {"index", "object", "data"},
    "/score": {"index", "object", "score"},
}


def rows_of(scorer: RewardScorer) -> list[list[int]]:
    texts = [scorer.tokenizer.apply_chat_template(messages, tokenize=False) for messages in CONVERSATIONS]
    return token_ids(texts, scorer.tokenizer)


def logits(scorer: RewardScorer, rows: list[list[int]]) -> list[list[float]]:
    """`(rows, labels)` in the model itself, each row alone; of a gated model its score."""
    if scorer.readout.reads_prompts:
        return [[reward] for reward in scorer.score(CONVERSATIONS)]
    with torch.inference_mode():
        return [
            scorer.model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long))
            .logits[0]
            .tolist()
            for row in rows
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_head(served, kind):
    scorer = served(kind)
    expected = logits(scorer, rows_of(scorer))
    responses = ask_all(app_of(scorer), [("/classify", {"messages": messages}) for messages in CONVERSATIONS])
    found = [response.json()["data"][0]["probs"] for response in responses]
    for one, outputs in zip(found, expected, strict=True):
        assert one == pytest.approx(outputs, abs=TOLERANCE)
    found[:2] = reversed(found[:2])  # a negative control
    assert any(one != pytest.approx(outputs, abs=TOLERANCE) for one, outputs in zip(found, expected, strict=True))
    data = responses[0].json()["data"][0]
    assert data["num_classes"] == len(expected[0])
    if kind != "gated":
        assert (
            data["label"] == scorer.model.config.id2label[max(range(len(data["probs"])), key=data["probs"].__getitem__)]
        )


@pytest.mark.parametrize("style", ["llama3", "gemma", "chatml"])
def test_all_inputs_have_the_fields_of_vllm_and_count_its_tokens(served, style):
    scorer = served(style=style)
    rows = rows_of(scorer)[:3]
    texts = [scorer.tokenizer.decode(row).removeprefix(scorer.tokenizer.bos_token or "") for row in rows]
    assert token_ids(texts, scorer.tokenizer) == rows
    inputs = [texts, rows, texts[0], rows[0]]
    for path in ("/classify", "/pooling"):
        for given, response in zip(
            inputs, ask_all(app_of(scorer), [(path, {"input": one}) for one in inputs]), strict=True
        ):
            answer = response.json()
            count = 3 if given in (texts, rows) else 1
            assert set(answer) == FIELDS
            assert (answer["object"], answer["model"]) == ("list", NAME)
            assert set(answer["usage"]) == USAGE
            assert answer["usage"]["prompt_tokens"] == sum(map(len, rows[:count])) == answer["usage"]["total_tokens"]
            assert [set(one) for one in answer["data"]] == [DATA[path]] * count
            assert [one["index"] for one in answer["data"]] == list(range(count))
            found = [one["probs" if path == "/classify" else "data"][0] for one in answer["data"]]
            assert found == pytest.approx(scorer.score([Tokens(row) for row in rows[:count]]), abs=TOLERANCE)


def test_verls_request_gets_the_raw_reward(served):
    """verl takes data[-1].probs[-1] of one text, whose leading BOS it has taken away."""
    scorer = served()
    text = scorer.tokenizer.apply_chat_template(CONVERSATIONS[0], tokenize=False).removeprefix(
        scorer.tokenizer.bos_token
    )
    answer = ask(app_of(scorer), "/classify", {"model": NAME, "input": text, "activation": False}).json()
    assert answer["data"][-1]["probs"][-1] == pytest.approx(scorer.score(CONVERSATIONS[:1])[0], abs=TOLERANCE)


PROBLEMS = [
    ("regression", 1, "identity"),
    ("regression", 3, "identity"),
    ("single_label_classification", 1, "sigmoid"),
    ("single_label_classification", 3, "softmax"),
    ("multi_label_classification", 3, "sigmoid"),
    (None, 1, "sigmoid"),
    (None, 3, "softmax"),
]
ACTIVATIONS = {"identity": lambda values: values, "sigmoid": torch.sigmoid, "softmax": lambda v: torch.softmax(v, -1)}


@pytest.mark.parametrize(("problem", "labels", "name"), PROBLEMS)
def test_the_default_activation_is_that_of_vllm(served, problem, labels, name):
    scorer = served("ratings" if labels > 1 else "one_label")
    text = {"input": "hello there"}
    config = scorer.model.config
    before, config.problem_type = config.problem_type, problem
    try:
        asked = [{}, {"use_activation": True}, {"activation": False}, {"use_activation": False, "activation": True}]
        paths = ["/classify"] * len(asked) + ["/pooling"] * len(asked)
        responses = ask_all(app_of(scorer), [(path, text | one) for path, one in zip(paths, asked * 2, strict=True)])
    finally:
        config.problem_type = before
    ids = scorer.tokenizer("hello there")["input_ids"]
    raw = torch.tensor(logits(scorer, [ids])[0])
    active = ACTIVATIONS[name](raw)
    expected = [active, active, raw, raw] * 2
    for path, response, values in zip(paths, responses, expected, strict=True):
        found = response.json()["data"][0]["probs" if path == "/classify" else "data"]
        assert found == pytest.approx(values.tolist(), abs=TOLERANCE)
    if name != "identity":
        assert (active - raw).abs().max() > 0.01


def test_pooling_in_base64_is_float32(served):
    scorer = served("ratings")
    plain, packed = ask_all(
        app_of(scorer), [("/pooling", {"input": "hello"} | more) for more in ({}, {"encoding_format": "base64"})]
    )
    values = plain.json()["data"][0]["data"]
    raw = base64.b64decode(packed.json()["data"][0]["data"])
    assert list(struct.unpack(f"<{len(values)}f", raw)) == values


def test_score_joins_two_texts(served):
    scorer = served()
    app_pairs = [
        {"text_1": "one ", "text_2": ["two", "three"]},
        {"queries": ["one ", "one "], "documents": ["two", "three"]},
        {"queries": "one ", "items": ["two", "three"]},
        {"data_1": "one ", "data_2": ["two", "three"]},
    ]
    expected = scorer.score([Tokens(scorer.tokenizer("one ", second)["input_ids"]) for second in ("two", "three")])
    for response in ask_all(app_of(scorer), [("/score", body) for body in app_pairs]):
        answer = response.json()
        assert set(answer) == FIELDS
        assert [set(one) for one in answer["data"]] == [DATA["/score"]] * 2
        assert [one["score"] for one in answer["data"]] == pytest.approx(expected, abs=TOLERANCE)


def test_special_tokens_are_those_that_the_request_asks_for(served):
    """A second BOS is the one thing that vLLM would add and we do not."""
    scorer = served()
    bos, ids = scorer.tokenizer.bos_token, scorer.tokenizer("hello there", add_special_tokens=False)["input_ids"]
    with_bos = [scorer.tokenizer.bos_token_id, *ids]
    asked = [("hello there", True, with_bos), ("hello there", False, ids), (f"{bos}hello there", True, with_bos)]
    bodies = [{"input": text, "add_special_tokens": special} for text, special, _ in asked]
    for (_, _, row), response in zip(asked, ask_all(app_of(scorer), [("/classify", b) for b in bodies]), strict=True):
        assert response.json()["usage"]["prompt_tokens"] == len(row)
        assert response.json()["data"][0]["probs"] == pytest.approx(scorer.score([Tokens(row)]), abs=TOLERANCE)


def test_a_request_may_ask_for_a_cut(served):
    scorer = served()
    ids = scorer.tokenizer("one two three four five six seven")["input_ids"]
    assert scorer.tokenizer.truncation_side == "right"
    asked = {"right": ids[:4], "left": ids[-4:], None: ids[:4]}
    bodies = [{"input": [ids], "truncate_prompt_tokens": 4, "truncation_side": side} for side in asked]
    for response, row in zip(ask_all(app_of(scorer), [("/classify", b) for b in bodies]), asked.values(), strict=True):
        answer = response.json()
        assert answer["usage"]["prompt_tokens"] == 4
        assert answer["data"][0]["probs"] == pytest.approx(scorer.score([Tokens(row)]), abs=TOLERANCE)
    long = ask(app_of(scorer), "/classify", {"input": [5] * 2000, "truncate_prompt_tokens": -1}).json()
    assert long["usage"]["prompt_tokens"] == scorer.reader.max_length


def test_messages_may_have_parts_and_options(tmp_path):
    scorer = RewardScorer.from_pretrained(make_model(tmp_path / "model", "one_label"), dtype="float32")
    scorer.tokenizer.chat_template = (
        "{{ bos_token }}{{ mood }}{% for message in messages %}{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    asked = {
        "hello\nthere": {},
        "angryhello\nthere": {"chat_template_kwargs": {"mood": "angry"}},
        "hello\nthereassistant": {"add_generation_prompt": True},
    }
    bodies = [{"messages": [{"role": "user", "content": parts}]} | more for more in asked.values()]
    expected = scorer.score([Tokens(row) for row in token_ids(list(asked), scorer.tokenizer)])
    found = [
        response.json()["data"][0]["probs"][0]
        for response in ask_all(app_of(scorer), [("/classify", b) for b in bodies])
    ]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert len({round(one, 3) for one in expected}) == 3


def test_models_are_listed(served):
    answer = ask(app_of(served()), "/v1/models").json()
    assert answer["object"] == "list"
    (model,) = answer["data"]
    assert {"id", "object", "created", "owned_by", "root", "parent", "max_model_len"} <= set(model)
    assert (model["id"], model["object"], model["max_model_len"]) == (NAME, "model", 1024)


MISTAKES = [
    ("/classify", {}, "expected either input or messages, found neither"),
    ("/classify", {"input": "a", "messages": []}, "found both"),
    ("/classify", {"input": []}, "expected at least one text"),
    ("/classify", {"input": ["a", 1]}, "input: expected a text, a list of texts, a list of tokens"),
    ("/classify", {"input": {"a": 1}}, "found an object"),
    ("/classify", {"input": "word " * 3000}, "expected at most 1024 tokens, found"),
    ("/classify", {"input": [5] * 1025}, "expected at most 1024 tokens, found 1025"),
    ("/classify", {"input": "a", "truncate_prompt_tokens": 1025}, "truncate_prompt_tokens: expected at most 1024"),
    ("/classify", {"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ("/classify", {"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 7 }}"}, "expected none in a"),
    (
        "/classify",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "parts of type text",
    ),
    ("/pooling", {"input": "a", "task": "embed"}, "expected classify"),
    ("/pooling", {"input": "a", "encoding_format": "bytes"}, "encoding_format"),
    (
        "/pooling",
        {"input": "a", "dimensions": 3},
        "dimensions: expected null, since the outputs are those of",
    ),
    ("/score", {"text_1": "a"}, "found no pair"),
    ("/score", {"text_1": ["a", "b"], "text_2": "a"}, "found 2 and 1"),
    ("/score", {"text_1": [], "text_2": "a"}, "found 0 and 1"),
]


def test_mistakes_are_named(served):
    responses = ask_all(app_of(served()), [(path, body) for path, body, _ in MISTAKES])
    for (path, body, words), response in zip(MISTAKES, responses, strict=True):
        assert response.status_code == 400, (path, body)
        assert words in error_of(response)["message"], response.text


def test_score_is_for_models_of_one_label(served):
    response = ask(app_of(served("ratings")), "/score", {"text_1": "a", "text_2": "b"})
    assert response.status_code == 400
    assert "expected a model of one label, found 3" in error_of(response)["message"]
