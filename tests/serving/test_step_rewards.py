"""/v1/rewards and /pooling of a process model, against plain transformers and StepScorer."""

import base64
import math
import struct

import pytest
import torch
from asking import app_of, ask, ask_all, error_of
from step_models import (
    FAMILIES,
    PROCESS,
    chains,
    largest_difference,
    plain_probabilities,
    process_of,
    save_process_model,
)
from transformers import AutoModelForTokenClassification

import serve
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.scoring import RewardScorer, StepScorer
from reward_modeling.serving.model import ServedModel

PATH = "/v1/rewards"
QUESTION = "What is 3 plus 9, divided by three?"
STEPS = ["The sum is 12, which is even.", "Then divide it by three.", "So the answer is 4."]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_process_model(tmp_path_factory.mktemp("steps") / "model")


@pytest.fixture(scope="module")
def outcome_model(tmp_path_factory):
    process = PROCESS | {"outcome": True, "aggregation": "last"}
    return save_process_model(tmp_path_factory.mktemp("outcome") / "model", process=process)


def scorer_of(path) -> StepScorer:
    return StepScorer.from_pretrained(path, dtype="float32")


def plain_logits(path, ids: list[int]) -> torch.Tensor:
    """`(tokens, 2)` of one row alone."""
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    model = AutoModelForTokenClassification.from_pretrained(path, **options).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


# --- /v1/rewards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_have_the_probabilities_of_plain_transformers(family, tmp_path):
    path = save_process_model(tmp_path / "model", family, process=process_of(family))
    given = chains(12)
    rows = scorer_of(path).tokenize(given)
    requests = [(PATH, {"prompt": prompt, "steps": steps}) for prompt, steps in given]
    found = [response.json() for response in ask_all(app_of(path), requests)]
    assert largest_difference([one["steps"][0] for one in found], plain_probabilities(path, rows)) < CLOSE
    for one in found:
        (steps,), (each,) = one["steps"], one["aggregations"]
        assert each == {
            "min": min(steps),
            "product": pytest.approx(math.prod(steps)),
            "last": steps[-1],
            "mean": pytest.approx(sum(steps) / len(steps)),
        }
        assert one["rewards"] == [each["min"]]
    # read elsewhere they are others
    shifted = [row.__class__(row.ids, reads=[place - 1 for place in row.reads]) for row in rows]
    assert largest_difference([one["steps"][0] for one in found], plain_probabilities(path, shifted)) > 0.01


def test_what_answers_begin_with_is_computed_once(model):
    answers = [STEPS, STEPS[:2], [*STEPS[:2], "Nobody knows what comes next here."]]
    prompt = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": QUESTION}]
    scorer = scorer_of(model)
    expected = scorer.score_many([(prompt, steps) for steps in answers])
    rows = scorer.tokenize([(prompt, steps) for steps in answers])
    found = ask(app_of(model), PATH, {"prompt": prompt, "steps": answers}).json()
    assert largest_difference(found["steps"], expected) < CLOSE
    assert found["usage"]["tokens"] == sum(len(row.ids) for row in rows)
    assert found["usage"]["computed_tokens"] < max(len(row.ids) for row in rows) + 40


def test_an_answer_is_cut_at_the_separator_as_the_scorer_cuts_it(model):
    answer = "\n\n".join(STEPS)
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    expected = scorer_of(model).score(QUESTION, STEPS)
    forms = [{"prompt": QUESTION, "responses": [answer]}, {"messages": messages}, {"conversations": [messages]}]
    for response in ask_all(app_of(model), [(PATH, form) for form in forms]):
        assert largest_difference(response.json()["steps"], [expected]) < CLOSE
        assert response.json()["rewards"] == pytest.approx([min(expected)], abs=CLOSE)


def test_the_reward_is_the_saved_aggregation(tmp_path):
    for aggregation in ("product", "mean", "last"):
        path = save_process_model(tmp_path / aggregation, process=PROCESS | {"aggregation": aggregation})
        found = ask(app_of(path), PATH, {"prompt": QUESTION, "steps": STEPS}).json()
        assert found["rewards"] == [found["aggregations"][0][aggregation]]


def test_an_outcome_model_takes_plain_answers(outcome_model):
    answer = "\n\n".join(STEPS)
    (expected,) = scorer_of(outcome_model).score(QUESTION, [answer])
    whole, several = ask_all(
        app_of(outcome_model),
        [(PATH, {"prompt": QUESTION, "responses": [answer]}), (PATH, {"prompt": QUESTION, "steps": STEPS})],
    )
    assert whole.json()["steps"] == [[pytest.approx(expected, abs=CLOSE)]]
    assert several.status_code == 400
    assert (
        "steps: expected one step for each answer, since the model is an outcome model" in error_of(several)["message"]
    )
    assert "found 3" in error_of(several)["message"]


def test_tokens_come_with_the_places_that_are_read(model):
    (row,) = scorer_of(model).tokenize([(QUESTION, STEPS)])
    expected = scorer_of(model).score(QUESTION, STEPS)
    asked = {"input_ids": [list(row.ids)], "step_positions": [list(row.reads)]}
    earlier = asked | {"step_positions": [[place - 1 for place in row.reads]]}
    right, other = (response.json()["steps"] for response in ask_all(app_of(model), [(PATH, asked), (PATH, earlier)]))
    assert largest_difference(right, [expected]) < CLOSE
    assert largest_difference(other, [expected]) > 0.01


def test_requests_that_wait_together_get_their_own_answers(model):
    given = chains(24)
    expected = scorer_of(model).score_many(given)
    requests = [(PATH, {"prompt": prompt, "steps": steps}) for prompt, steps in given]
    requests += [("/pooling", {"input": QUESTION})] * 4
    found = ask_all(app_of(model), requests)
    assert largest_difference([one.json()["steps"][0] for one in found[: len(given)]], expected) < CLOSE


MISTAKES = {
    "no steps of an answer": ({"prompt": QUESTION, "steps": [STEPS, []]}, "steps: expected a list of texts, the steps"),
    "steps alone": ({"steps": STEPS}, "expected prompt and steps or responses together"),
    "steps and responses": ({"prompt": "a", "steps": STEPS, "responses": ["b"]}, "found steps and responses"),
    "a step that is no text": ({"prompt": "a", "steps": ["b", 3]}, "steps: expected a list of texts"),
    "an empty step": ({"prompt": "a", "steps": ["b", ""]}, "a text in each step, found none in step 1 of 2"),
    "a blank step": ({"prompt": "a", "steps": [["b"], ["c", " \n", "d"]]}, "conversation 1: expected a text in each"),
    "a blank answer": ({"prompt": "a", "responses": ["b", "\n\n"]}, "conversation 1: expected an answer with at least"),
    "an unknown field": ({"prompt": "a", "steps": ["b"], "x": 1}, "found 'x'"),
    "an empty prompt": ({"prompt": [], "steps": STEPS}, "conversation 0: expected at least one message"),
    "a question alone": ({"messages": [{"role": "user", "content": "a"}]}, "end with an assistant's answer"),
    "tokens without places": ({"input_ids": [[1, 2]]}, "step_positions: expected for each of 1 rows"),
    "no place": ({"input_ids": [[1, 2]], "step_positions": [[]]}, "step_positions: expected for each of 1 rows"),
    "places outside": ({"input_ids": [[1, 2]], "step_positions": [[2]]}, "outside of its row"),
    "places before": ({"input_ids": [[1, 2]], "step_positions": [[-1]]}, "outside of its row"),
    "other numbers of places": ({"input_ids": [[1, 2]], "step_positions": [[0], [0]]}, "found 2 lists"),
    "places beside steps": ({"prompt": "a", "steps": STEPS, "step_positions": [[0]]}, "beside input_ids"),
    "places of a gate": (
        {"input_ids": [[1, 2]], "step_positions": [[0]], "gate_positions": [0]},
        "gate_positions: expected none",
    ),
    "too long": ({"prompt": "a", "steps": ["word " * 3000]}, "expected at most 1024 tokens"),
    "many": ({"prompt": "a", "steps": [["b"]] * 41}, "steps: expected at most 40 in a request, found 41"),
    "a template of its own": (
        {"prompt": "a", "steps": STEPS, "chat_template_kwargs": {"chat_template": "x"}},
        "found chat_template",
    ),
}


def test_mistakes(model):
    app = app_of(model, max_conversations=40)
    for (name, (_, words)), response in zip(
        MISTAKES.items(), ask_all(app, [(PATH, body) for body, _ in MISTAKES.values()]), strict=True
    ):
        assert response.status_code == 400, name
        assert words in error_of(response)["message"], (name, response.text)


def test_tools_reach_the_chat_template(model):
    scorer = RewardScorer.from_pretrained(model, dtype="float32")
    scorer.tokenizer.chat_template = (
        "{{ mood }}{% for message in messages %}{{ message.content }}{% endfor %}{{ eos_token }}"
    )
    expected = StepScorer(scorer).score(QUESTION, STEPS, template_options={"mood": "angry"})
    asked = {"prompt": QUESTION, "steps": STEPS}
    calm, angry = ask_all(app_of(scorer), [(PATH, asked), (PATH, asked | {"chat_template_kwargs": {"mood": "angry"}})])
    assert largest_difference(angry.json()["steps"], [expected]) < CLOSE
    assert largest_difference(calm.json()["steps"], [expected]) > 1e-4


# --- what others ask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_gives_each_token_its_outputs(family, tmp_path):
    path = save_process_model(tmp_path / "model", family, process=process_of(family))
    rows = [list(row.ids) for row in scorer_of(path).tokenize(chains(4))]
    logits = [plain_logits(path, ids) for ids in rows]
    bodies = [
        {"input": rows, "use_activation": False},
        {"input": rows, "task": "token_classify"},
        {"input": rows[0], "use_activation": False, "encoding_format": "base64"},
    ]
    raw, softmax, encoded = (one.json()["data"] for one in ask_all(app_of(path), [("/pooling", one) for one in bodies]))
    for found, activated, due in zip(raw, softmax, logits, strict=True):
        assert (torch.tensor(found["data"]) - due).abs().max() < 1e-4
        assert (torch.tensor(activated["data"]) - due.softmax(dim=-1)).abs().max() < CLOSE
        assert (torch.tensor(found["data"]) - due.softmax(dim=-1)).abs().max() > 0.01
    content = base64.b64decode(encoded[0]["data"])
    values = torch.tensor(struct.unpack(f"<{len(content) // 4}f", content)).reshape(-1, 2)
    assert (values - logits[0]).abs().max() < 1e-4


def test_texts_and_cuts_of_pooling(model):
    tokenizer = scorer_of(model).tokenizer
    ids = tokenizer(QUESTION)["input_ids"]
    whole, cut = ask_all(
        app_of(model),
        [
            ("/pooling", {"input": QUESTION, "use_activation": False}),
            (
                "/pooling",
                {"input": QUESTION, "use_activation": False, "truncate_prompt_tokens": 4, "truncation_side": "left"},
            ),
        ],
    )
    assert (torch.tensor(whole.json()["data"][0]["data"]) - plain_logits(model, ids)).abs().max() < 1e-4
    assert (torch.tensor(cut.json()["data"][0]["data"]) - plain_logits(model, ids[-4:])).abs().max() < 1e-4


REFUSED = {
    "/get_reward": {"query": ["a whole text"]},
    "/classify": {"input": "a whole text"},
    "/score": {"text_1": "a", "text_2": "b"},
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_reads_whole_texts_is_refused(model, path):
    response = ask(app_of(model), path, REFUSED[path])
    assert response.status_code == 400
    assert f"{path}: expected a model that gives a conversation one reward" in error_of(response)["message"]
    assert "Ask /v1/rewards, with prompt and steps" in error_of(response)["message"]


def test_another_task_is_refused(model):
    response = ask(app_of(model), "/pooling", {"input": "a", "task": "classify"})
    assert (
        "task: expected token_classify, which is what the model does, found 'classify'" in error_of(response)["message"]
    )


def test_pooling_takes_no_messages(model):
    """The chat template knows no separators."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": STEPS[0]}]
    response = ask(app_of(model), "/pooling", {"messages": messages})
    assert response.status_code == 400
    assert "messages: expected token ids as `input`" in error_of(response)["message"]


def test_it_is_not_read_as_a_model_of_one_reward(model):
    """It was, and gave numbers."""
    with pytest.raises(TypeError, match="Steps has its own run, rows, reader"):
        ServedModel(RewardScorer.from_pretrained(model, dtype="float32"), 1000)


def test_texts_are_not_completed(model):
    with pytest.raises(UserError, match=r"--complete_texts true: .* found a process model"):
        app_of(model, complete_texts=True)


def test_a_probability_that_is_no_number_is_an_error(tmp_path):
    scorer = RewardScorer.from_pretrained(save_process_model(tmp_path / "model"), dtype="float32")
    scorer.model.get_input_embeddings().weight.data[7] = float("nan")
    for path, body in ((PATH, {"input_ids": [[1, 7, 3]], "step_positions": [[2]]}), ("/pooling", {"input": [1, 7, 3]})):
        response = ask(app_of(scorer), path, body)
        assert response.status_code == 500
        assert "the model gives nan" in error_of(response)["message"]


# --- models of others -------------------------------------------------------------------------------------------


def served_by_flags(path, *argv: str):
    args, _ = parse_script_arguments(serve.ScriptArguments, ["--reward_name_or_path", str(path), *argv])
    return serve.load_scorer(args)


def test_serve_is_told_where_the_steps_of_a_model_of_others_end(tmp_path, caplog):
    path = save_process_model(tmp_path / "model", process=None)
    with pytest.raises(UserError, match=r"nothing that says where a step ends.*--step_separator '\\n'"):
        served_by_flags(path)
    caplog.set_level("INFO")
    scorer = served_by_flags(path, "--step_separator", "\\n", "--dtype", "float32")
    assert "Steps: each ends in '\\n'" in caplog.text and "the prompt stands as it is" in caplog.text
    expected = StepScorer.from_pretrained(path, separator="\n", dtype="float32").score(QUESTION, STEPS)
    body = {"prompt": QUESTION, "responses": ["\n".join(STEPS)]}
    assert largest_difference(ask(app_of(scorer), PATH, body).json()["steps"], [expected]) < CLOSE
    chat = served_by_flags(path, "--step_separator", "\\n", "--prompt_format", "chat", "--dtype", "float32")
    assert largest_difference(ask(app_of(chat), PATH, body).json()["steps"], [expected]) > 1e-4
