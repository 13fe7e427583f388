"""Reward functions for TRL and OpenRLHF, and the clients of OpenRLHF and verl: rewards through a real serve.py, which
have to be those of a scorer in the same process."""

import asyncio
import importlib.util
import pickle
import threading

import pytest
import torch
from rating_models import NAMES, save_classifier, with_ratings
from scripted_server import server_that_says
from servers import running_server, tiny_reward_model
from trainer_clients import OpenRLHFClient, VerlClient
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.reward_functions import OpenRLHFReward, TrlReward, ended
from reward_modeling.serving.reward_sources import Served
from reward_modeling.tiny.models import tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

LIMIT, CONTROL = 1e-5, 1e-3
ROWS = learnable_preferences(12, seed=1)[:12]
CONVERSATIONS = [row[side] for row in ROWS for side in ("chosen", "rejected")]
PROMPTS = [conversation[:-1] for conversation in CONVERSATIONS]
COMPLETIONS = [conversation[-1:] for conversation in CONVERSATIONS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_reward_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scorer(model):
    return RewardScorer.from_pretrained(model, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(model):
    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def expected(scorer) -> list[float]:
    return scorer.score(CONVERSATIONS)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with running_server(model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=["served", "in process"])
def where(request, model) -> dict:
    """The first argument of a reward function and its options."""
    if request.param == "served":
        return {"where": request.getfixturevalue("server").url, "per_request": 5}
    return {"where": model, "dtype": "float32", "device": "cpu"}


def furthest(rewards, expected) -> float:
    """The largest difference."""
    one, other = (torch.as_tensor(values, dtype=torch.float64) for values in (rewards, expected))
    return (one - other).abs().max().item()


def whole_texts(tokenizer) -> list[str]:
    return [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in CONVERSATIONS]


def answer_ids(tokenizer, completion: list[dict]) -> list[int]:
    """As a policy writes it, its end included."""
    return tokenizer(completion[0]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]


def test_trl_messages(where, expected):
    reward = TrlReward(**where, name="kindness")
    rewards = reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1]] * 24, source=["a"] * 24)
    assert furthest(rewards, expected) <= LIMIT
    assert furthest(rewards, expected[1:] + expected[:1]) >= CONTROL
    assert reward.__name__ == "kindness"
    assert all(type(one) is float for one in rewards)


def test_trl_texts(where, expected, tokenizer):
    texts = whole_texts(tokenizer)
    heads = [text[: text.rindex(completion[0]["content"])] for text, completion in zip(texts, COMPLETIONS, strict=True)]
    answers = [completion[0]["content"] for completion in COMPLETIONS]
    assert furthest(TrlReward(**where, end=tokenizer.eos_token)(heads, answers), expected) <= LIMIT
    assert furthest(TrlReward(**where)(heads, answers), expected) >= CONTROL  # read at another token


def test_template_options_go_along(where, scorer):
    options = {"add_generation_prompt": True}  # a variable that this template knows
    rewards = TrlReward(**where, chat_template_kwargs=options)(PROMPTS, COMPLETIONS)
    assert furthest(rewards, scorer.score(CONVERSATIONS, template_options=options)) <= LIMIT
    assert furthest(rewards, scorer.score(CONVERSATIONS)) >= CONTROL


def test_openrlhf_function(where, expected, tokenizer):
    told = OpenRLHFReward(**where)(whole_texts(tokenizer), PROMPTS, [None] * 24)
    assert set(told) == {"rewards", "scores", "extra_logs"}
    assert furthest(told["rewards"], expected) <= LIMIT
    assert torch.equal(told["scores"], torch.sigmoid(told["rewards"]))
    assert told["extra_logs"] == {}


def test_openrlhf_loads_a_file(model, expected, tokenizer, tmp_path):
    """As its executor does: the module is run under another name, and asked for one query at a time, in a thread."""
    file = tmp_path / "rewards.py"
    options = {"dtype": "float32", "device": "cpu"}
    file.write_text(
        "from reward_modeling.serving.reward_functions import OpenRLHFReward\n"
        f"reward_func = OpenRLHFReward({str(model)!r}, **{options!r})\n"
    )
    spec = importlib.util.spec_from_file_location("reward_func", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def ask(text: str) -> dict:
        return await asyncio.to_thread(module.reward_func, [text], ["a prompt"], ["a label"])

    async def ask_all() -> list[dict]:
        return await asyncio.gather(*map(ask, whole_texts(tokenizer)))

    told = asyncio.run(ask_all())
    recorded = [torch.tensor([one["rewards"]]) for one in told]
    assert all(one.shape == (1,) for one in recorded)
    assert furthest(torch.cat(recorded), expected) <= LIMIT


def test_a_template_that_writes_a_line_break_behind_the_end_of_a_turn(tmp_path):
    """The policy stops at the end of its turn, and the reward is read behind it: at the end that is named."""
    options = {"dtype": "float32", "device": "cpu"}
    model = tiny_reward_model(tmp_path, family="gemma", style="gemma")
    scorer, end = RewardScorer.from_pretrained(model, **options), "<end_of_turn>\n"
    texts = whole_texts(scorer.tokenizer)
    assert all(text.endswith(end) for text in texts)
    expected, queries = scorer.score(CONVERSATIONS), [text.removesuffix("\n") for text in texts]
    assert furthest(OpenRLHFReward(model, end=end, **options)(queries, [], [])["rewards"], expected) <= LIMIT
    assert furthest(OpenRLHFReward(model, **options)(queries, [], [])["rewards"], expected) >= CONTROL


def test_nothing_to_score(where):
    assert TrlReward(**where)([], []) == []
    assert OpenRLHFReward(**where)([], [], [])["rewards"].shape == (0,)


def test_functions_can_be_pickled(where, expected, tokenizer):
    trl, openrlhf = pickle.loads(pickle.dumps((TrlReward(**where, name="mine"), OpenRLHFReward(**where))))
    assert trl.__name__ == "mine"
    assert furthest(trl(PROMPTS, COMPLETIONS), expected) <= LIMIT
    assert furthest(openrlhf(whole_texts(tokenizer), [], [])["rewards"], expected) <= LIMIT


def test_many_threads(where, expected, tokenizer):
    """As OpenRLHF calls a function: one query each, from threads."""
    reward, texts, rewards = OpenRLHFReward(**where), whole_texts(tokenizer), {}

    def ask(number: int) -> None:
        rewards[number] = reward([texts[number]], [""], [""])["rewards"].item()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert furthest([rewards[number] for number in range(24)], expected) <= LIMIT


def test_openrlhf_client(server, expected, tokenizer):
    """Its own requests; the second address gets empty lists, as there."""
    prompts = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False) for prompt in PROMPTS
    ]
    samples = list(zip(prompts, [answer_ids(tokenizer, completion) for completion in COMPLETIONS], strict=True))
    url = f"{server.url}/get_reward"
    told = OpenRLHFClient([url, url], tokenizer).rewards(samples)
    rewards = [one["reward"].item() for one in told]
    assert furthest(rewards, expected) <= LIMIT
    assert furthest(rewards[1:] + rewards[:1], expected) >= CONTROL
    scores = torch.tensor([one["score"].item() for one in told])
    assert torch.allclose(scores, torch.sigmoid(torch.tensor(rewards)))


def test_verl_client(server, model, expected, tokenizer):
    samples = [
        (prompt, answer_ids(tokenizer, completion)) for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    rewards = VerlClient(f"127.0.0.1:{server.port}", tokenizer, tokenizer, str(model)).rewards(samples)
    assert furthest(rewards, expected) <= LIMIT
    assert furthest(rewards[1:] + rewards[:1], expected) >= CONTROL


def test_attributes(tokenizer, tmp_path):
    """Of a model with named outputs, each in the logs."""
    config = with_ratings(tiny_config("llama", len(tokenizer), **token_ids(tokenizer)))
    path = save_classifier(tmp_path, tokenizer, config)
    scored = RewardScorer.from_pretrained(path, dtype="float32", device="cpu").score_named(CONVERSATIONS)
    told = OpenRLHFReward(path, dtype="float32", device="cpu")(whole_texts(tokenizer), [], [])
    assert furthest(told["rewards"], [one.reward for one in scored]) <= LIMIT
    for name in NAMES:
        assert furthest(told["extra_logs"][name], [one.attributes[name] for one in scored]) <= 1e-4  # up to 10


def test_attributes_through_a_server():
    answer = (200, {}, b'{"rewards": [1, 2], "scores": [0.7, 0.9], "extra_logs": {"a": [3, 4], "b": [5, 6]}}')
    with server_that_says(answer, answer) as (url, asked):
        told = OpenRLHFReward(url, per_request=2)(["a", "b", "c", "d"], [], [])
    assert [one["body"]["query"] for one in asked] == [["a", "b"], ["c", "d"]]
    assert told["rewards"].tolist() == [1, 2, 1, 2]
    assert {name: values.tolist() for name, values in told["extra_logs"].items()} == {
        "a": [3, 4, 3, 4],
        "b": [5, 6, 5, 6],
    }


@pytest.mark.parametrize("answer", [b'{"rewards": [1.0]}', b'{"error": {}}', b"[]"])
def test_an_answer_of_another_number_of_rewards(answer):
    with server_that_says((200, {}, answer)) as (url, _), pytest.raises(UserError, match="expected 2 rewards, found"):
        Served(url).of_texts(["a", "b"])


def test_a_server_that_refuses(server):
    with pytest.raises(UserError, match=r"status 400 \(Bad Request\): conversation 1"):
        TrlReward(server.url)([*PROMPTS[:1], []], [*COMPLETIONS[:1], []])


LONG = [{"role": "assistant", "content": "Heat the water slowly. " * 900}]


def refused_ones(tokenizer) -> dict:
    """What is asked, by what is wrong with the second of it."""
    texts = whole_texts(tokenizer)
    long = tokenizer.apply_chat_template(PROMPTS[1] + LONG, tokenize=False)
    return {
        "too long messages": ((PROMPTS[:4], [COMPLETIONS[0], LONG, *COMPLETIONS[2:4]]), "expected at most"),
        "too long text": (([texts[0], long, *texts[2:4]], [""] * 4), "expected at most"),
        "an empty text": (([texts[0], "", *texts[2:4]], [""] * 4), "expected at least one"),
        "no messages": (([PROMPTS[0], [], *PROMPTS[2:4]], [COMPLETIONS[0], [], *COMPLETIONS[2:4]]), "conversation 1"),
    }


@pytest.mark.parametrize("what", ["too long messages", "too long text", "an empty text", "no messages"])
def test_what_is_refused_is_the_same_in_process_and_served(where, expected, tokenizer, what, caplog):
    (prompts, completions), message = refused_ones(tokenizer)[what]
    with pytest.raises(UserError, match=message):
        TrlReward(**where)(prompts, completions)
    reward = TrlReward(**where, on_refusal=-5.0)
    for _ in range(2):
        rewards = reward(prompts, completions)
        assert rewards[1] == -5.0
        assert furthest([rewards[0], *rewards[2:]], [expected[0], *expected[2:4]]) <= LIMIT
    assert reward._source.refusals.count == 2
    (record,) = [record for record in caplog.records if "is refused and gets the reward -5" in record.message]
    assert message.split()[0] in record.message


def test_attributes_of_what_is_refused(tokenizer, tmp_path):
    config = with_ratings(tiny_config("llama", len(tokenizer), **token_ids(tokenizer)))
    path = save_classifier(tmp_path, tokenizer, config)
    reward = OpenRLHFReward(path, dtype="float32", device="cpu", on_refusal=-1)
    told = reward([whole_texts(tokenizer)[0], ""], [], [])
    assert told["rewards"][1] == -1
    for name in NAMES:
        assert told["extra_logs"][name].isnan().tolist() == [False, True]
    with pytest.raises(UserError, match="on_refusal: expected a finite number"):
        OpenRLHFReward("http://127.0.0.1:9", on_refusal=float("nan"))


def test_one_text_is_no_list_of_texts():
    with pytest.raises(UserError, match="expected a list of texts"):
        OpenRLHFReward("http://127.0.0.1:9")("a text", [], [])


def test_a_reward_that_is_no_number(model, tokenizer, tmp_path):
    broken = AutoModelForSequenceClassification.from_pretrained(model)
    broken.score.weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="conversation 0: expected a finite reward, found nan"):
        TrlReward(tmp_path, device="cpu")(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a", "a<e>\n"),
        ("a<e>", "a<e>\n"),
        ("a<e>\n", "a<e>\n"),
        ("a\n", "a\n<e>\n"),
        ("a<", "a<<e>\n"),
        ("a<e", "a<e<e>\n"),
        ("", "<e>\n"),
    ],
)
def test_the_end_of_a_text(text, whole):
    assert ended(text, "<e>\n") == whole
    assert ended(text, "") == text
