"""/get_reward, as OpenRLHF's client asks."""

import logging
import math

import pytest
from asking import CONVERSATIONS, TOLERANCE, app_of, ask, ask_all, error_of, metric
from served_models import make_model

from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring import RewardScorer

PATH = "/get_reward"


def body_of(*texts: str) -> dict:
    """As the client sends it: the prompts and labels beside the texts."""
    return {"query": list(texts), "prompts": ["..."] * len(texts), "labels": [None] * len(texts)}


def whole_texts(scorer: RewardScorer) -> list[str]:
    return [scorer.tokenizer.apply_chat_template(messages, tokenize=False) for messages in CONVERSATIONS]


@pytest.mark.parametrize("style", ["llama3", "gemma", "chatml"])
def test_whole_texts_get_the_rewards_of_their_messages(served, style):
    scorer = served(style=style)
    expected = scorer.score(CONVERSATIONS)
    one_each = ask_all(app_of(scorer), [(PATH, body_of(text)) for text in whole_texts(scorer)])
    assert [response.json()["rewards"][0] for response in one_each] == pytest.approx(expected, abs=TOLERANCE)
    together = ask(app_of(scorer), PATH, body_of(*whole_texts(scorer))).json()
    assert together["rewards"] == pytest.approx(expected, abs=TOLERANCE)
    assert together["scores"] == pytest.approx([1 / (1 + math.exp(-reward)) for reward in expected])
    assert together["extra_logs"] == {}


def test_a_text_has_one_bos_whoever_wrote_it_and_nothing_is_appended(tmp_path):
    folder = make_model(tmp_path / "model", "one_label", style="gemma", family="gemma")
    scorer = RewardScorer.from_pretrained(folder, dtype="float32")
    bos = scorer.tokenizer.bos_token
    ids = scorer.tokenizer("hello there", add_special_tokens=False)["input_ids"]
    assert scorer.tokenizer("hello there")["input_ids"] == [scorer.tokenizer.bos_token_id, *ids]
    expected = scorer.score([Tokens([scorer.tokenizer.bos_token_id, *ids])])
    for text in ("hello there", f"{bos}hello there"):
        assert ask(app_of(scorer), PATH, body_of(text)).json()["rewards"] == pytest.approx(expected, abs=TOLERANCE)
    assert scorer.score(["hello there"]) != pytest.approx(expected, abs=1e-3)  # a scorer's text ends in EOS


def test_attributes_are_extra_logs(served):
    scorer = served("ratings")
    scored = scorer.score_named(CONVERSATIONS)
    answer = ask(app_of(scorer), PATH, body_of(*whole_texts(scorer))).json()
    assert answer["rewards"] == pytest.approx([one.reward for one in scored], abs=TOLERANCE)
    for name, values in answer["extra_logs"].items():
        assert values == pytest.approx([one.attributes[name] for one in scored], abs=10 * TOLERANCE)  # of ratings to 10
    assert list(answer["extra_logs"]) == list(scored[0].attributes)


def test_empty_lists_are_answered_by_empty_lists(served):
    response = ask(app_of(served()), PATH, body_of())
    assert (response.status_code, response.json()) == (200, {"rewards": [], "scores": [], "extra_logs": {}})


def test_texts_that_end_elsewhere_are_counted_and_told_once_without_their_words(served, caplog):
    scorer = served()
    app = app_of(scorer)
    whole = whole_texts(scorer)[0]
    with caplog.at_level(logging.INFO):
        ask_all(app, [(PATH, body_of(whole, "a SECRET text")), (PATH, body_of("another SECRET"))])
    assert metric(app, "reward_open_ended_texts_total") == 2
    (said,) = (record.getMessage() for record in caplog.records if "does not end" in record.getMessage())
    assert "SECRET" not in caplog.text
    assert scorer.tokenizer.eos_token in said
    assert "--complete_texts true" in said


@pytest.mark.parametrize("style", ["chatml", "gemma"])
@pytest.mark.parametrize("path", [PATH, "/classify"])
def test_texts_up_to_the_token_at_which_a_policy_stops_are_completed(served, style, path):
    """They get the reward of their messages; without the flag they get another one."""
    scorer = served(style=style)
    stopped = [text.removesuffix("\n") for text in whole_texts(scorer)]
    assert all(text.endswith(("<|im_end|>", "<end_of_turn>")) for text in stopped)
    expected = scorer.score(CONVERSATIONS)
    for texts in (stopped, whole_texts(scorer)):
        app = app_of(scorer, complete_texts=True)
        assert rewards_of(app, path, texts) == pytest.approx(expected, abs=TOLERANCE)
        assert metric(app, "reward_open_ended_texts_total") == 0
    app = app_of(scorer)
    plain = rewards_of(app, path, stopped)
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 1e-2
    assert metric(app, "reward_open_ended_texts_total") == len(stopped)


def rewards_of(app, path: str, texts: list[str]) -> list[float]:
    if path == PATH:
        return ask(app, path, body_of(*texts)).json()["rewards"]
    return [one["probs"][0] for one in ask(app, path, {"input": texts}).json()["data"]]


@pytest.mark.parametrize("ending", ["", " <", "<|im", "<|im_end|> and", "\n"])
def test_what_is_no_whole_special_token_of_the_end_is_not_completed(served, ending):
    scorer = served(style="chatml")
    text = f"<|im_start|>user\nhello there{ending}"
    asked = [app_of(scorer, complete_texts=flag) for flag in (True, False)]
    completed, plain = (ask(app, PATH, body_of(text)).json()["rewards"] for app in asked)
    assert completed == pytest.approx(plain, abs=TOLERANCE)


def test_an_end_of_one_token_leaves_nothing_to_complete(served):
    scorer = served(style="llama3")
    texts = [*whole_texts(scorer)[:2], "hello there"]
    completed, plain = (rewards_of(app_of(scorer, complete_texts=flag), PATH, texts) for flag in (True, False))
    assert completed == pytest.approx(plain, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": "a text"}, "query: expected a list of texts, found a text"),
        ({"queries": ["a"]}, "query: expected a list of texts"),
        ({"query": ["a", None]}, "found null at query[1]"),
        ({"query": ["a", ""]}, "text 1: expected at least one character"),
        ({"query": ["word " * 3000]}, "expected at most 1024 tokens, found"),
    ],
)
def test_mistakes_are_named(served, body, words):
    response = ask(app_of(served()), PATH, body)
    assert response.status_code == 400
    assert words in error_of(response)["message"]
