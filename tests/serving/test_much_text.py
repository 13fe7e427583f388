"""Requests that stand for much text: refused before it is made, or read without keeping others waiting."""

import asyncio
import json
import threading

import pytest
from asking import CONVERSATIONS, TOLERANCE, app_of, ask, ask_all, client_of, error_of
from pydantic import ValidationError
from served_models import make_model

from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.conversations import ConversationReader
from reward_modeling.serving import lots
from reward_modeling.serving.lanes import SMALL_BODY
from reward_modeling.serving.protocols.fields import MOST
from reward_modeling.serving.protocols.openrlhf import GetRewardRequest
from reward_modeling.serving.protocols.ours import RewardsRequest
from reward_modeling.serving.protocols.vllm_fields import ClassifyRequest, ScoreRequest

PATH = "/v1/rewards"
WORDS = "word " * 20_000  # 100 KB


@pytest.fixture
def scorer(tmp_path):
    folder = make_model(tmp_path / "model", "one_label", max_position_embeddings=256)
    return RewardScorer.from_pretrained(folder, dtype="float32")


@pytest.fixture
def work(monkeypatch):
    """Characters that were rendered, and conversations that were made into tokens."""
    done = {"characters": 0, "conversations": 0}
    render, whole = ConversationReader.render, ConversationReader._whole

    def counted_render(self, index, conversation):
        text = render(self, index, conversation)
        done["characters"] += len(text)
        return text

    def counted_whole(self, window):
        done["conversations"] += len(window)
        return whole(self, window)

    monkeypatch.setattr(ConversationReader, "render", counted_render)
    monkeypatch.setattr(ConversationReader, "_whole", counted_whole)
    return done


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": WORDS, "responses": ["a"] * 2000}),
        (PATH, {"prompt": "a", "responses": [WORDS] * 100}),
        (PATH, {"conversations": [[{"role": "user", "content": WORDS}]] * 3}),
        ("/classify", {"messages": [{"role": "user", "content": WORDS}]}),
        ("/classify", {"input": [WORDS] * 3}),
        ("/get_reward", {"query": [WORDS] * 3}),
        ("/score", {"text_1": WORDS, "text_2": ["a"] * 2000}),
    ],
)
def test_a_text_that_is_too_long_in_any_case_is_no_tokens(scorer, work, monkeypatch, path, body):
    app = app_of(scorer)
    before, tokenised = dict(work), []
    inner = type(scorer.tokenizer)._encode_plus

    def counted(self, *args, **options):
        tokenised.append(args)
        return inner(self, *args, **options)

    monkeypatch.setattr(type(scorer.tokenizer), "_encode_plus", counted)
    response = ask(app, path, body)
    assert response.status_code == 400
    message = error_of(response)["message"]
    assert message.startswith("conversation 0: expected at most 256 tokens, found a text of ")
    assert work["conversations"] == before["conversations"]
    assert work["characters"] - before["characters"] <= len(WORDS) + 1000
    assert tokenised == []


def test_the_first_conversation_that_is_too_long_ends_the_work(scorer, work):
    app = app_of(scorer)
    before = dict(work)
    words = "word " * 600  # short enough in characters
    response = ask(app, PATH, {"prompt": words, "responses": ["a"] * 2000})
    assert "expected at most 256 tokens, found" in error_of(response)["message"]
    assert work["characters"] - before["characters"] < 1.1 * lots.LOT_CHARACTERS  # and not 2,000 times the prompt


def test_one_token_too_many_ends_the_work(scorer, work):
    app = app_of(scorer, max_queue_tokens=1000)
    before = work["conversations"]
    response = ask(app, PATH, {"prompt": "a b c d e f g h", "responses": ["a"] * 2000})
    message = error_of(response)["message"]
    assert message.startswith("expected at most 1,000 tokens in a request, found ")
    assert work["conversations"] - before == lots.LOT_ROWS


def test_a_place_is_that_in_the_request_whatever_the_lots(scorer, monkeypatch):
    monkeypatch.setattr(lots, "LOT_ROWS", 4)
    long, wrong = [{"role": "user", "content": "word " * 600}], [{"role": "user"}]
    asked = [
        ({"conversations": [*CONVERSATIONS[:9], long]}, PATH, "conversation 9: expected at most 256 tokens"),
        ({"conversations": [*CONVERSATIONS[:9], wrong]}, PATH, "conversation 9, message 0"),
        ({"query": ["a"] * 9 + ["word " * 600]}, "/get_reward", "conversation 9: expected at most 256 tokens"),
    ]
    for body, path, words in asked:
        assert words in error_of(ask(app_of(scorer), path, body))["message"]


@pytest.mark.parametrize("path", [PATH, "/get_reward", "/classify", "/score"])
def test_lots_change_no_reward(scorer, monkeypatch, path):
    texts = [scorer.tokenizer.apply_chat_template(one, tokenize=False) for one in CONVERSATIONS]
    body = {
        PATH: {"conversations": CONVERSATIONS},
        "/get_reward": {"query": texts},
        "/classify": {"input": texts},
        "/score": {"text_1": "hello", "text_2": texts},
    }[path]
    whole = ask(app_of(scorer), path, body).json()
    monkeypatch.setattr(lots, "LOT_CHARACTERS", 100)
    cut = ask(app_of(scorer), path, body).json()
    assert numbers_of(cut) == pytest.approx(numbers_of(whole), abs=TOLERANCE)


def numbers_of(answer: dict) -> list[float]:
    return (
        answer["rewards"]
        if "rewards" in answer
        else [one["score"] if "score" in one else one["probs"][0] for one in answer["data"]]
    )


def test_prompts_are_not_kept_once_for_each_answer(scorer):
    model = app_of(scorer).state.service.model
    prompt = [{"role": "user", "content": "word " * 50}]
    conversations = [[*prompt, {"role": "assistant", "content": answer}] for answer in ("a", "b")]
    other = [{"role": "user", "content": "word " * 51}, {"role": "assistant", "content": "a"}]
    rows = [row for lot in model.messages_whole([*conversations, other]) for row in lot]
    assert rows[0].prompt == rows[1].prompt != rows[2].prompt
    assert all(len(row.prompt) <= 32 for row in rows)


def test_a_cut_of_a_very_long_text_is_that_of_its_tokens(scorer):
    """Of a text of any length, of which only what is kept is made into tokens."""
    text = "".join(f"word{number} " for number in range(20_000))
    ids = scorer.tokenizer(text)["input_ids"]
    assert len(text) > 2 * app_of(scorer).state.service.model._limit.most
    for side, kept in (("right", ids[:200]), ("left", ids[-200:])):
        body = {"truncate_prompt_tokens": 200, "truncation_side": side}
        asked = [("/classify", body | {"input": given}) for given in (text, kept)]
        found, expected = (response.json()["data"][0]["probs"] for response in ask_all(app_of(scorer), asked))
        assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("large", ["body", "amplified"])
def test_small_requests_do_not_wait_for_the_tokens_of_large_ones(scorer, monkeypatch, large):
    """As many large requests as there are threads stand still while a small one is answered."""
    held, let_go = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(lots, "LOT_ROWS", 4)

    app = app_of(scorer, max_body_bytes=4 * SMALL_BODY)
    model = app.state.service.model
    whole = model.messages_whole

    def slow(conversations, options=None):
        for number, lot in enumerate(whole(conversations, options)):
            if len(conversations) > 4 and (number > 2 or large == "body"):
                held.release()
                assert let_go.wait(30)
            yield lot

    monkeypatch.setattr(model, "messages_whole", slow)
    padding = {"tools": [{"name": "x" * SMALL_BODY}]} if large == "body" else {}

    async def run() -> None:
        async with client_of(app) as client:
            many = {"prompt": "large", "responses": ["a"] * 30} | padding
            waiting = [asyncio.create_task(client.post(PATH, json=many)) for _ in range(4)]
            for _ in range(2):
                assert await asyncio.to_thread(held.acquire, timeout=30)
            small = await asyncio.wait_for(client.post(PATH, json={"prompt": "a", "responses": ["b"]}), 20)
            assert small.status_code == 200
            assert not any(task.done() for task in waiting)
            let_go.set()
            assert {response.status_code for response in await asyncio.gather(*waiting)} == {200}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (RewardsRequest, {"conversations": [1] * 10_000}),
        (RewardsRequest, {"messages": [1] * 10_000}),
        (RewardsRequest, {"input_ids": [["a"] * 10_000] * 3}),
        (RewardsRequest, {"prompt": "a", "responses": [1] * 10_000}),
        (RewardsRequest, {"messages": [{}], "tools": [1] * 10_000}),
        (RewardsRequest, {"input_ids": [[1]], "gate_positions": ["a"] * 10_000}),
        (GetRewardRequest, {"query": [1] * 10_000}),
        (ClassifyRequest, {"input": [None] * 10_000}),
        (ClassifyRequest, {"messages": [None] * 10_000}),
        (ScoreRequest, {"text_1": [None] * 10_000, "text_2": "a"}),
    ],
)
def test_a_request_is_read_no_further_than_to_its_first_mistake(fields, body):
    with pytest.raises(ValidationError) as mistakes:
        fields.model_validate_json(json.dumps(body))
    assert mistakes.value.error_count() <= 5  # of the kinds that a field may have


def test_a_list_of_any_length_is_not_read(scorer):
    response = ask(app_of(scorer), PATH, {"input_ids": [[]] * (MOST + 1)})
    assert error_of(response)["message"] == "input_ids: expected at most 100,000 in a request, found more."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"m" * 1_000_000: 1}),
        (PATH, {"model": "m" * 1_000_000, "messages": [{"role": "user", "content": "a"}]}),
        (PATH, {"messages": [{"role": "r" * 1_000_000, "content": 3}]}),
        (PATH, {"messages": [{"role": "r" * 10_000, "content": "a"}]}),
        (PATH, {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"tokenize": "k" * 1_000_000}}),
        ("/pooling", {"input": "a", "task": "t" * 1_000_000}),
        ("/classify", {"input": "a", "truncation_side": "t" * 1_000_000}),
    ],
)
def test_an_error_repeats_little_of_a_request(scorer, path, body):
    scorer.tokenizer.chat_template = "{{ raise_exception('no role ' + messages[0].role) }}"
    response = ask(app_of(scorer), path, body)
    assert response.status_code in (400, 404)
    assert len(response.content) < 2000
    assert len(error_of(response)["param"] or "") <= 103
