"""/v1/rewards and /classify of a pairwise model, against plain transformers and PairScorer."""

import math

import pytest
from asking import app_of, ask, ask_all, error_of, metric
from pairwise_models import ROWS, PlainPairs, pair_text, save_pairwise, take_out_the_liking
from step_models import save_process_model

import serve
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.scoring import PairScorer
from reward_modeling.scoring.readouts.steps import Steps

PATH = "/v1/rewards"
CLOSE = 1e-5
PROMPT = ROWS[0]["chosen"][:-1]
ANSWERS = [row[side][-1]["content"] for row in ROWS[:2] for side in ("chosen", "rejected")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return take_out_the_liking(save_pairwise(tmp_path_factory.mktemp("pairs") / "model", "qwen2"))


@pytest.fixture
def app(model):
    return lambda **settings: app_for(model, **settings)


def app_for(model, **settings):
    return app_of(PairScorer.from_pretrained(model, dtype="float32"), **settings)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("family", ["qwen2", "gemma", "mistral", "gpt2"])
def test_answers_get_the_mean_probability_of_both_orders(family, tmp_path):
    path = take_out_the_liking(save_pairwise(tmp_path / "model", family))
    plain = PlainPairs(path)
    orders = {
        (one, other): plain.logits([plain.ids(PROMPT, ANSWERS[one], ANSWERS[other])]).item()
        for one in range(4)
        for other in range(4)
        if one != other
    }
    due = [
        sum((sigmoid(orders[one, other]) + sigmoid(-orders[other, one])) / 2 for other in range(4) if other != one) / 3
        for one in range(4)
    ]
    found = ask(app_for(path), PATH, {"prompt": PROMPT, "responses": ANSWERS}).json()
    assert found["rewards"] == pytest.approx(due, abs=CLOSE)
    for (one, other), logit in orders.items():
        assert found["logits"][one][other] == pytest.approx(logit, abs=1e-4)
    assert [found["logits"][one][one] for one in range(4)] == [None] * 4
    assert found["usage"]["conversations"] == 12
    # one order alone, or the orders the other way round, are other numbers
    one_order = [sum(sigmoid(orders[one, other]) for other in range(4) if other != one) / 3 for one in range(4)]
    assert max(abs(a - b) for a, b in zip(found["rewards"], one_order, strict=True)) > 0.01
    assert max(abs(logit - orders[other, one]) for (one, other), logit in orders.items()) > 0.01


def test_it_ranks_as_the_scorer(model, app):
    ranking = PairScorer.from_pretrained(model, dtype="float32").rank(PROMPT, ANSWERS)
    found = ask(app(), PATH, {"prompt": PROMPT, "responses": ANSWERS}).json()["rewards"]
    assert found == pytest.approx(ranking.scores, abs=CLOSE)
    backwards = ask(app(), PATH, {"prompt": PROMPT, "responses": ANSWERS[::-1]}).json()["rewards"]
    assert backwards[::-1] == pytest.approx(found, abs=CLOSE)


def test_two_answers_and_their_forms(model, app):
    text = PROMPT[-1]["content"]
    expected = PairScorer.from_pretrained(model, dtype="float32").compare(text, *ANSWERS[:2])
    message = [{"role": "assistant", "content": ANSWERS[0]}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": ANSWERS[1]}]}]
    forms = [
        {"prompt": text, "responses": ANSWERS[:2]},
        {"prompt": [{"role": "user", "content": text}], "responses": [message, parts]},
    ]
    for response in ask_all(app(), [(PATH, form) for form in forms]):
        assert response.json()["rewards"] == pytest.approx([expected, 1 - expected], abs=CLOSE)
    same = ask(app(), PATH, {"prompt": text, "responses": [ANSWERS[0]] * 3}).json()["rewards"]
    assert same == [0.5] * 3


def test_the_context_is_computed_once(model, app):
    prompt = [{"role": "user", "content": "a question of some length, " * 20}]
    usage = ask(app(), PATH, {"prompt": prompt, "responses": ["yes", "no", "perhaps"]}).json()["usage"]
    assert usage["computed_tokens"] < usage["tokens"] / 2


def test_requests_that_wait_together_get_their_own_answers(model, app):
    scorer = PairScorer.from_pretrained(model, dtype="float32")
    given = [(row["chosen"][:-1], row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in ROWS]
    expected = scorer.compare_many(given)
    requests = [(PATH, {"prompt": prompt, "responses": [a, b]}) for prompt, a, b in given]
    found = [response.json()["rewards"][0] for response in ask_all(app_for(model), requests)]
    assert found == pytest.approx(expected, abs=CLOSE)


MESSAGES = [*PROMPT, {"role": "assistant", "content": "b"}]
MISTAKES = {
    "one answer": (
        {"prompt": "a", "responses": ["b"]},
        "responses: expected at least two, since a pairwise model says",
    ),
    "no answer": ({"prompt": "a", "responses": []}, "found 0"),
    "a conversation": (
        {"messages": MESSAGES},
        "messages: expected prompt and at least two responses, since a pairwise",
    ),
    "conversations": ({"conversations": [MESSAGES, MESSAGES]}, "conversations: expected prompt and at least two"),
    "tokens": ({"input_ids": [[1, 2]]}, "The logit of a comparison's tokens is at /classify."),
    "steps": ({"prompt": "a", "steps": ["b"]}, "found 'steps'"),
    "an answer without messages": ({"prompt": "a", "responses": ["b", []]}, "comparison 0, b: expected an answer"),
    "no content": ({"prompt": [{"role": "user"}], "responses": ["a", "b"]}, "expected role and content as texts"),
    "too many": (
        {"prompt": "a", "responses": ["b"] * 8},
        "expected at most 40 orders of two of them in a request, found 56",
    ),
    "too long": ({"prompt": "word " * 3000, "responses": ["a", "b"]}, "expected at most 1024 tokens"),
}


def test_mistakes(model):
    app = app_for(model, max_conversations=40)
    for (name, (_, words)), response in zip(
        MISTAKES.items(), ask_all(app, [(PATH, body) for body, _ in MISTAKES.values()]), strict=True
    ):
        assert response.status_code == 400, name
        assert words in error_of(response)["message"], (name, response.text)


def test_classify_gives_the_output_of_a_comparison(model, app):
    plain = PlainPairs(model)
    ids = plain.ids(PROMPT, *ANSWERS[:2])
    due = plain.logits([ids]).item()
    question = [{"role": "user", "content": pair_text(PROMPT, *ANSWERS[:2])}]
    text = plain.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    bodies = [{"input": ids}, {"input": text}, {"messages": question, "add_generation_prompt": True}]
    for path in ("/classify", "/pooling"):
        for response in ask_all(app(), [(path, body) for body in bodies]):
            (entry,) = response.json()["data"]
            assert entry["probs" if path == "/classify" else "data"] == pytest.approx([due], abs=1e-4)


def test_a_question_without_a_generation_prompt_is_refused_and_a_text_counted(model):
    plain = PlainPairs(model)
    question = [{"role": "user", "content": pair_text(PROMPT, *ANSWERS[:2])}]
    refused = ask(app_for(model), "/classify", {"messages": question})
    assert refused.status_code == 400
    assert "add_generation_prompt true" in error_of(refused)["message"]
    for ask_for, count in ((True, 0), (False, 1)):
        text = plain.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=ask_for)
        app = app_for(model)
        assert ask(app, "/classify", {"input": text}).status_code == 200
        assert metric(app, "reward_open_ended_texts_total") == count


@pytest.mark.parametrize(
    ("path", "body"), [("/get_reward", {"query": ["a whole text"]}), ("/score", {"text_1": "a", "text_2": "b"})]
)
def test_what_scores_one_answer_is_refused(app, path, body):
    response = ask(app(), path, body)
    assert response.status_code == 400
    assert f"{path}: expected a model that scores one answer, found a pairwise one" in error_of(response)["message"]


def test_texts_are_not_completed(model):
    with pytest.raises(UserError, match=r"--complete_texts true: .* found a pairwise one"):
        app_for(model, complete_texts=True)


def test_the_script_loads_each_kind(model, tmp_path):
    def load(path, *more: str):
        argv = ["--reward_name_or_path", str(path), "--device", "cpu", *more]
        return serve.load_scorer(parse_script_arguments(serve.ScriptArguments, argv)[0])

    assert isinstance(load(model), PairScorer)
    assert isinstance(load(save_process_model(tmp_path / "steps")).readout, Steps)
    with pytest.raises(UserError, match=r"weights: expected a model with named outputs, found that .* compares"):
        load(model, "--weights", "helpfulness=1")
    with pytest.raises(UserError, match="normalize"):
        load(tmp_path / "steps", "--normalize", "true")
    with pytest.raises(UserError, match="normalize"):
        load(model, "--normalize", "true")
