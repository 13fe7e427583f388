"""/v1/rewards against RewardScorer: every form of a request, every kind of model, every mistake."""

import json

import pytest
from asking import CONVERSATIONS, NAME, ROWS, TOLERANCE, app_of, ask, ask_all, error_of, metric
from served_models import KINDS, make_model

from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.readouts.base import columns_of_answers

PATH = "/v1/rewards"
USER = {"role": "user", "content": "hello there"}


def assert_close(found: object, expected: object) -> None:
    """The same structure, with numbers that agree."""
    assert json.loads(json.dumps(found), parse_float=lambda _: 0.0, parse_int=lambda _: 0) == json.loads(
        json.dumps(expected), parse_float=lambda _: 0.0, parse_int=lambda _: 0
    )
    assert numbers(found) == pytest.approx(numbers(expected), abs=TOLERANCE)


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    return [number for one in value for number in numbers(one)] if isinstance(value, (list, tuple)) else [value]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_says_over_http_what_its_scorer_says(served, kind):
    scorer = served(kind)
    expected = columns_of_answers(scorer.score_named(CONVERSATIONS))
    answer = ask(app_of(scorer), PATH, {"conversations": CONVERSATIONS}).json()
    usage = answer.pop("usage")
    assert answer.pop("model") == NAME
    assert_close(answer, expected)
    assert usage["conversations"] == len(CONVERSATIONS)
    tokens = scorer.tokenize(CONVERSATIONS)
    assert usage["tokens"] == sum(len(row.ids) for row in tokens)
    answer["rewards"][:2] = reversed(answer["rewards"][:2])  # a negative control: two answers in each other's places
    with pytest.raises(AssertionError):
        assert_close(answer, expected)


def test_all_forms_of_a_request_give_the_same_rewards(served):
    scorer = served()
    prompt, answers = ROWS[0]["chosen"][:-1], [ROWS[0][side][-1]["content"] for side in ("chosen", "rejected")]
    conversations = [[*prompt, {"role": "assistant", "content": answer}] for answer in answers]
    ids = [list(row.ids) for row in scorer.tokenize(conversations)]
    forms = [
        {"prompt": prompt, "responses": answers},
        {"prompt": prompt, "responses": [[{"role": "assistant", "content": answer}] for answer in answers]},
        {"conversations": conversations},
        {"input_ids": ids},
    ]
    asked_alone = ask(app_of(scorer), PATH, {"prompt": "how?", "responses": answers}).json()["rewards"]
    of_text = [[{"role": "user", "content": "how?"}, {"role": "assistant", "content": answer}] for answer in answers]
    assert asked_alone == pytest.approx(scorer.score(of_text), abs=TOLERANCE)
    expected = scorer.score(conversations)
    for response in ask_all(app_of(scorer), [(PATH, form) for form in forms]):
        assert response.json()["rewards"] == pytest.approx(expected, abs=TOLERANCE)
    single = ask(app_of(scorer), PATH, {"messages": conversations[1]})
    assert single.json()["rewards"] == pytest.approx(expected[1:], abs=TOLERANCE)


def in_parts(messages: list[dict]) -> list[dict]:
    """The same messages as OpenAI's lists of parts."""
    return [
        message | {"content": [{"type": "text", "text": part} for part in message["content"].split("\n")]}
        for message in messages
    ]


def test_contents_may_come_in_parts_in_every_form(served):
    scorer = served()
    prompt = [{"role": "user", "content": "two lines\nof a question"}]
    answer = [{"role": "assistant", "content": "two lines\nof an answer"}]
    expected = scorer.score([prompt + answer])
    forms = [
        {"prompt": in_parts(prompt), "responses": [in_parts(answer)]},
        {"prompt": in_parts(prompt), "responses": [answer[0]["content"]]},
        {"messages": in_parts(prompt + answer)},
        {"conversations": [in_parts(prompt + answer)]},
    ]
    for response in ask_all(app_of(scorer), [(PATH, form) for form in forms]):
        assert response.json()["rewards"] == pytest.approx(expected, abs=TOLERANCE)


def test_a_prompt_is_computed_once_for_all_its_answers(served):
    scorer = served()
    prompt = [{"role": "user", "content": "a question of some length, " * 20}]
    answers = [f"answer {number}" for number in range(8)]
    rows = scorer.tokenize([[*prompt, {"role": "assistant", "content": answer}] for answer in answers])
    usage = ask(app_of(scorer), PATH, {"prompt": prompt, "responses": answers}).json()["usage"]
    longest = max(len(row.ids) for row in rows)
    assert usage["tokens"] == sum(len(row.ids) for row in rows)
    assert longest < usage["computed_tokens"] < longest + 8 * 20


def test_tools_and_variables_reach_the_chat_template(tmp_path):
    folder = make_model(tmp_path / "model", "one_label")
    scorer = RewardScorer.from_pretrained(folder, dtype="float32")
    scorer.tokenizer.chat_template = (
        "{{ bos_token }}{% for tool in tools or [] %}{{ tool.name }}{% endfor %}{{ mood }}"
        "{% for message in messages %}{{ message.content }}{% endfor %}{{ eos_token }}"
    )
    messages = [USER, {"role": "assistant", "content": "good morning"}]
    options = [{}, {"tools": [{"name": "search"}]}, {"chat_template_kwargs": {"mood": "angry"}}]
    expected = [scorer.score([messages], template_options=one)[0] for one in ({}, options[1], {"mood": "angry"})]
    responses = ask_all(app_of(scorer), [(PATH, {"messages": messages} | one) for one in options])
    assert [response.json()["rewards"][0] for response in responses] == pytest.approx(expected, abs=TOLERANCE)
    assert len({round(reward, 4) for reward in expected}) == 3


def test_normalized_rewards_are_those_of_our_route_alone(served):
    plain = served()
    parts = (plain.model, plain.tokenizer, plain.batches, plain.reader.max_length)
    scorer = RewardScorer(*parts, {"reward_mean": 2.0, "reward_std": 0.5})
    raw = plain.score(CONVERSATIONS[:1])[0]
    ours, vllms = ask_all(app_of(scorer), [(path, {"messages": CONVERSATIONS[0]}) for path in (PATH, "/classify")])
    assert ours.json()["rewards"] == pytest.approx([(raw - 2.0) / 0.5], abs=TOLERANCE)
    assert vllms.json()["data"][0]["probs"] == pytest.approx([raw], abs=TOLERANCE)


def test_a_tokenizer_that_would_cut_and_pad_is_used_by_several_threads(tmp_path):
    """Its settings are taken back before the threads begin: changed by one in the midst of another's call, it fails."""
    folder = make_model(tmp_path / "model", "one_label")
    scorer = RewardScorer.from_pretrained(folder, dtype="float32")
    expected = scorer.score(CONVERSATIONS)
    fresh = RewardScorer.from_pretrained(folder, dtype="float32")
    fresh.tokenizer.backend_tokenizer.enable_truncation(5)
    fresh.tokenizer.backend_tokenizer.enable_padding(length=500)
    app = app_of(fresh, tokenizer_threads=8)
    assert fresh.tokenizer.backend_tokenizer.truncation is None
    assert fresh.tokenizer.backend_tokenizer.padding is None
    responses = ask_all(app, [(PATH, {"messages": messages}) for messages in CONVERSATIONS * 4])
    assert [response.json()["rewards"][0] for response in responses] == pytest.approx(expected * 4, abs=TOLERANCE)


def test_nothing_asked_is_nothing_answered(served):
    for body in ({"conversations": []}, {"prompt": "a", "responses": []}, {"input_ids": []}):
        response = ask(app_of(served()), PATH, body)
        assert (response.status_code, response.json()["rewards"]) == (200, [])


MISTAKES = {
    "no JSON": (b"{", "found what is none"),
    "not UTF-8": (b'{"prompt": "\xff"}', "found what is none"),
    "half a surrogate": (b'{"prompt": "\\ud800", "responses": ["a"]}', "found what is none"),
    "deep JSON": (b'{"messages": ' + b"[" * 100_000, "recursion limit"),
    "a list": (b"[]", "expected an object, found a list"),
    "nothing": ({}, "found none"),
    "two forms": ({"messages": [USER], "conversations": [[USER]]}, "found messages and conversations"),
    "prompt alone": ({"prompt": "a"}, "found none"),
    "prompt and messages": ({"prompt": "a", "messages": [USER]}, "found one without the other"),
    "a misspelt field": ({"message": [USER]}, "did you mean messages?"),
    "a misspelt field, to the end of its message": ({"promt": "a"}, "found 'promt'; did you mean prompt?"),
    "a part that is no text": (
        {"prompt": "a", "responses": [[{"role": "assistant", "content": [{"type": "image_url"}]}]]},
        "responses: expected content as a text or as parts of type text, found another",
    ),
    "places of gates beside messages": (
        {"messages": [USER], "gate_positions": [0]},
        "gate_positions: expected them beside input_ids",
    ),
    "another type": (
        {"prompt": 3, "responses": ["a"]},
        "prompt: expected a text or a list of messages, found a number",
    ),
    "of one response": ({"prompt": "a", "responses": ["a", 3]}, "responses: expected a list of texts"),
    "no content": ({"messages": [{"role": "user"}]}, "expected role and content as texts"),
    "no message": ({"conversations": [[USER], []]}, "conversation 1"),
    "tokens as texts": ({"input_ids": [["a"]]}, "input_ids: expected a list of lists of tokens, found a text"),
    "another's tokens": ({"input_ids": [[1], [2, 5000]]}, "conversation 1: expected tokens from 0 to"),
    "negative tokens": ({"input_ids": [[-1]]}, "found -1"),
    "huge tokens": ({"input_ids": [[10**30]]}, "found 1000000"),
    "no tokens": ({"input_ids": [[1], []]}, "conversation 1: expected at least one token"),
    "too long": ({"input_ids": [[1], [5] * 1025]}, "conversation 1: expected at most 1024 tokens, found 1025"),
    "too long as messages": ({"messages": [USER | {"content": "word " * 3000}]}, "expected at most 1024 tokens"),
    "too many": ({"input_ids": [[1]] * 41}, "input_ids: expected at most 40 in a request, found 41"),
    "too many tokens": ({"input_ids": [[1] * 1000] * 21}, "expected at most 20,000 tokens in a request, found 21,000"),
    "an argument of the template's": (
        {"messages": [USER], "chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
        "found chat_template",
    ),
    "another argument": ({"messages": [USER], "chat_template_kwargs": {"tokenize": True}}, "found tokenize"),
}


def test_a_mistake_is_answered_by_what_was_expected_and_what_was_found(served):
    app = app_of(served(), max_conversations=40, max_queue_tokens=20_000)
    responses = ask_all(app, [(PATH, body) for body, _ in MISTAKES.values()])
    for (name, (_, words)), response in zip(MISTAKES.items(), responses, strict=True):
        assert response.status_code == 400, name
        assert words in error_of(response)["message"], (name, response.text)
        assert "?." not in response.text


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"input": 1}, "an object"),
        (3, "a number"),
        (-3, "a number"),
        (0.5, "a number with a point"),
        (1e30, "a number with a point"),
        (True, "true or false"),
        (False, "true or false"),
        ([1], "a list"),
        ('"input":{', "a text"),
    ],
)
def test_what_was_found_is_named_by_its_kind(served, value, kind):
    response = ask(app_of(served()), PATH, {"messages": [USER], "chat_template_kwargs": value})
    if kind == "an object":
        response = ask(app_of(served()), PATH, {"messages": value})
        assert error_of(response)["message"].endswith("each with role and content, found an object.")
    else:
        assert error_of(response)["message"] == f"chat_template_kwargs: expected an object, found {kind}."


def test_another_model_is_not_found(served):
    response = ask(app_of(served()), PATH, {"messages": [USER], "model": "other"})
    assert response.status_code == 404
    assert error_of(response)["param"] == "model"
    assert ask(app_of(served()), PATH, {"messages": [USER], "model": NAME}).status_code == 200


def test_a_gated_model_wants_messages(served):
    responses = ask_all(
        app_of(served("gated")),
        [
            (PATH, {"input_ids": [[1, 2]]}),
            ("/get_reward", {"query": ["hello"]}),
            ("/classify", {"input": "hello"}),
            ("/classify", {"input": [1, 2]}),
            ("/score", {"text_1": "a", "text_2": "b"}),
            ("/classify", {"messages": [*CONVERSATIONS[0]], "truncate_prompt_tokens": 5}),
        ],
    )
    for response in responses:
        assert response.status_code == 400
        assert "gate reads" in error_of(response)["message"]
    assert ask(app_of(served("gated")), "/get_reward", {"query": []}).status_code == 200


def test_a_gated_model_takes_tokens_with_the_places_that_its_gate_reads(served):
    scorer = served("gated")
    rows = scorer.tokenize(CONVERSATIONS[:4])
    ids, gates = [list(row.ids) for row in rows], [row.gate for row in rows]
    expected = scorer.score(CONVERSATIONS[:4])
    found = ask(app_of(scorer), PATH, {"input_ids": ids, "gate_positions": gates}).json()["rewards"]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    other = ask(app_of(scorer), PATH, {"input_ids": ids, "gate_positions": [0] * 4}).json()["rewards"]
    assert max(abs(a - b) for a, b in zip(other, expected, strict=True)) > 1e-4  # they are read


@pytest.mark.parametrize("gates", [[0], [0, 1, 1], [0, 2], [-1, 0], [3, 0], []])
def test_places_of_gates_are_one_in_each_row(served, gates):
    response = ask(app_of(served("gated")), PATH, {"input_ids": [[1, 2, 3], [1, 2]], "gate_positions": gates})
    assert response.status_code == 400
    message = error_of(response)["message"]
    assert f"gate_positions: expected a place in each of 2 rows of tokens, found {len(gates)}" in message


def test_a_model_without_a_gate_takes_no_places(served):
    response = ask(app_of(served()), PATH, {"input_ids": [[1, 2]], "gate_positions": [0]})
    assert response.status_code == 400
    assert "gate_positions: expected none, since the model has no gate" in error_of(response)["message"]
    mistyped = ask(app_of(served()), PATH, {"input_ids": [[1, 2]], "gate_positions": [0.5]})
    assert "gate_positions: expected a list of numbers, beside input_ids" in error_of(mistyped)["message"]


def test_a_reward_that_is_no_number_is_an_error_and_no_json(tmp_path):
    scorer = RewardScorer.from_pretrained(make_model(tmp_path / "model", "one_label"), dtype="float32")
    scorer.model.get_input_embeddings().weight.data[7] = float("nan")
    app = app_of(scorer)
    good = {"input_ids": [[1, 2, 3]]}
    bad, fine = ask_all(app, [(PATH, {"input_ids": [[1, 2], [1, 7, 3]]}), (PATH, good)])
    assert bad.status_code == 500
    assert "conversation 1: the model gives nan" in error_of(bad)["message"]
    assert fine.json()["rewards"] == pytest.approx(scorer.score([Tokens([1, 2, 3])]), abs=TOLERANCE)
    assert metric(app, "reward_not_finite_total") == 1
