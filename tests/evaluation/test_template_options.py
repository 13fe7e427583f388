"""Rows with `tools` and `chat_template_kwargs`: trained on with them, and scored with them."""

import pytest
import torch
from runs import write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification

from reward_modeling.common.errors import UserError
from reward_modeling.data.group_rows import TokenizeOptions
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.prompt_groups import tokenize_and_group
from reward_modeling.evaluation import job
from reward_modeling.evaluation.benchmarks.reading import fingerprint, read_benchmark
from reward_modeling.objectives.bradley_terry import PairReader
from reward_modeling.scoring import RewardScorer, Templated
from reward_modeling.tiny.tokenizers import token_ids

TOLERANCE, WRONG = 1e-4, 1e-3
OPTIONS = (
    "{% if tools %}{% for tool in tools %}may call {{ tool.function.name }}\n{% endfor %}{% endif %}"
    "{% if mood is defined %}be {{ mood }}\n{% endif %}"
)
TEXTS = ["How do I bake rye bread? First knead, then wait.", "may call oven be curt be kind", "Nobody knows. " * 5]
QUESTION = {"role": "user", "content": "How do I bake rye bread?"}


def tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


def rows() -> list[dict]:
    """One question under several options; some rows are longer than `max_length`."""
    found = []
    for number, options in enumerate(
        (
            {},
            {"tools": [tool("oven")]},
            {"tools": [tool("scale"), tool("oven")]},
            {"chat_template_kwargs": {"mood": "curt"}},
        )
    ):
        for length in (1, 12):
            prompt = [QUESTION, {"role": "assistant", "content": "Knead. " * length}, QUESTION]
            sides = {"chosen": f"Then wait {number}.", "rejected": "Nobody knows."}
            found.append({"prompt": prompt, **sides, **options})
    return found


@pytest.fixture
def checkpoint(tmp_path):
    """A random reward model whose template writes tools and a mood."""
    tokenizer = train_tokenizer(TEXTS, 400, **TOKENIZER_STYLES["chatml"])
    tokenizer.chat_template = OPTIONS + tokenizer.chat_template
    config = tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plain_rewards(path, sequences: list[list[int]]) -> list[float]:
    """Each alone in transformers, read at its last token."""
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    model.config.pad_token_id = None
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits.item() for ids in sequences]


@pytest.mark.parametrize("max_length", [1000, 70])
def test_a_pair_has_the_same_reward_in_training_and_in_evaluation(checkpoint, max_length, tmp_path, own_cache):
    path = str(write_rows(tmp_path / "pairs.jsonl", rows()))
    scorer = RewardScorer.from_pretrained(checkpoint, max_length=max_length if max_length < 1000 else None)
    standard = load_preference_dataset(path)
    groups = tokenize_and_group(standard, scorer.tokenizer, PairReader(), TokenizeOptions(max_length)).to_list()
    assert not any(group["dropped_reason"] for group in groups)
    assert bool(sum(group["truncated_units"] for group in groups)) == (max_length == 70)
    trained = {}
    for group in groups:
        for where, unit in zip(group["where"], group["units"], strict=True):
            for side, number in zip(("chosen", "rejected"), unit, strict=True):
                trained[where, side] = group["prefix_ids"] + group["completion_ids"][number]
    expected = dict(zip(trained, plain_rewards(checkpoint, list(trained.values())), strict=True))

    scored, counts = job.score_benchmark(scorer, read_benchmark("pairs", path), job.start_processes())
    found = {(row.where, side): float(getattr(row, side)[0]) for row in scored for side in ("chosen", "rejected")}
    assert found == pytest.approx(expected, abs=TOLERANCE) and len(found) == 2 * len(rows())
    assert bool(counts.cut) == (max_length == 70)

    # a negative control: without the options
    bare = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows()]
    conversations = [[*row["prompt"], {"role": "assistant", "content": row["chosen"]}] for row in bare]
    without = scorer.score(conversations)
    in_file = [expected[f"{path}:{number}", "chosen"] for number in range(1, len(bare) + 1)]
    assert max(abs(one - other) for one, other in zip(without, in_file, strict=True)) > WRONG

    # the library takes them too, for each or for all
    each = [{"tools": row.get("tools"), **row.get("chat_template_kwargs", {})} for row in rows()]
    each = [{name: value for name, value in one.items() if value} or None for one in each]
    assert scorer.score(conversations, template_options=each) == pytest.approx(in_file, abs=TOLERANCE)


def test_options_for_all_and_options_of_a_stream(checkpoint):
    scorer = RewardScorer.from_pretrained(checkpoint)
    conversations = [[QUESTION, {"role": "assistant", "content": answer}] for answer in ("First knead.", "Wait.")]
    kind, curt = ({"mood": mood} for mood in ("kind", "curt"))
    rewards = scorer.score(conversations, template_options=kind)
    templated = [Templated(conversation, kind) for conversation in conversations]
    assert [reward for _, reward in scorer.stream(templated)] == rewards
    others = scorer.score(conversations, template_options=curt)
    assert all(abs(one - other) > 1e-6 for one, other in zip(rewards, others, strict=True))
    assert scorer.score(conversations, template_options=[kind, None])[0] == pytest.approx(rewards[0], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("conversations", "options", "words"),
    [
        ([[QUESTION]], [{"mood": "kind"}] * 2, "expected one for each of 1 conversations, found 2"),
        (["a text"], {"mood": "kind"}, "conversation 0: expected messages beside template options, found a plain text"),
        ([[QUESTION]], ["kind"], "conversation 0: expected template options as a dict, found str 'kind'"),
    ],
)
def test_options_that_fit_no_conversation(checkpoint, conversations, options, words):
    with pytest.raises(UserError, match=words):
        RewardScorer.from_pretrained(checkpoint).score(conversations, template_options=options)


def test_rows_are_others_with_other_options(tmp_path, own_cache):
    plain, tools = (
        read_benchmark("pairs", str(write_rows(tmp_path / f"{name}.jsonl", [row]))).rows
        for name, row in (("plain", rows()[0]), ("tools", rows()[2]))
    )
    assert fingerprint(plain) != fingerprint(tools)
