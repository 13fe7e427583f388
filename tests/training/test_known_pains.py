"""Fifteen things that go wrong for users of reward-model trainers, one test for each.

Each docstring says what happens elsewhere, and with which damage to this project the test was seen to fail.
"""

import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from engines import NEEDS_COMPILER, run_engine
from peft import AutoPeftModelForSequenceClassification
from runs import Run, plain_rewards, same_weights, sigterm_in_step, train, weights_of, write_rows
from safetensors.torch import load_file
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from data_prep import build_mixture
from reward_modeling.checkpoints.verification import token_rows
from reward_modeling.data.loader import PromptGroups
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids
from reward_modeling.training.trainer import RewardTrainer

GUESSING = math.log(2)  # 0.693: the loss of a model that scores both answers alike


# ----------------------------------------------------------------------------------------------------------
# What the tests share
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(30, seed=1)


@pytest.fixture(scope="module")
def build_model(rows, tmp_path_factory) -> Callable[..., Path]:
    """A tiny language model of this family, whose tokenizer has the habits of `style` but for `habits`."""

    def build(family: str, style: str, *, sizes: dict | None = None, **habits: object) -> Path:
        texts = [message["content"] for row in rows for message in row["chosen"] + row["rejected"]]
        tokenizer = train_tokenizer(texts, 400, **(TOKENIZER_STYLES[style] | habits))
        config = tiny_config(family, len(tokenizer), **(sizes or {}), **token_ids(tokenizer))
        return build_tiny_checkpoint(tmp_path_factory.mktemp("models") / family, tokenizer, config)

    return build


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """Flags of a run of a second or two."""
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 4,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
        "seed": 42,
    }


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Run:
    """A run with the defaults otherwise: shared prefixes, float32."""
    return train(base, tmp_path_factory.mktemp("finished") / "output")


@pytest.fixture(scope="module")
def conversations(rows) -> list[list[dict]]:
    """Of different lengths, with prompts that several share."""
    return [row[side] for row in rows[:8] for side in ("chosen", "rejected")]


class Pass(NamedTuple):
    """A forward pass of a run, as it was computed."""

    trains: bool
    batch: dict
    keeps_graph: bool


@contextmanager
def watched_passes() -> Iterator[list[Pass]]:
    """The forward passes of the runs within."""
    passes, compute_loss = [], RewardTrainer.compute_loss

    def noted(trainer, model, inputs, *args, **options):
        result = compute_loss(trainer, model, inputs, *args, **options)
        total = result[0] if isinstance(result, tuple) else result
        passes.append(Pass(model.training, inputs, total.requires_grad))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, "compute_loss", noted)
        yield passes


def rewards_at_last_token(folder: Path, token_rows: list[list[int]]) -> list[float]:
    """By hand: the last layer's output at a row's last token, times the saved head."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        outputs = [model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in token_rows]
        return [(output @ model.score.weight[0]).item() for output in outputs]


def rewards_by_hand(folder: Path, conversations: list[list[dict]]) -> list[float]:
    """Of conversations as the saved template renders them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return rewards_at_last_token(folder, [tokenizer.apply_chat_template(c)["input_ids"] for c in conversations])


# ----------------------------------------------------------------------------------------------------------
# The fifteen pains
# ----------------------------------------------------------------------------------------------------------


def test_pad_token_that_is_eos(base, build_model, rows, conversations, tmp_path):
    """1. Where pad is EOS and the template ends every turn in EOS, others read both scores at the end of the shared
    question: they are equal, and the loss stays at 0.693.

    Seen to fail with the reward read at a row's first EOS (the loss was 0.6931 in each of the last steps), and with the
    pad token left at EOS and the preflight, which refuses that, switched off (plain rewards were up to 4.6 off).
    """
    folder = build_model("llama", "llama3", pad="<|eot_id|>")
    before = AutoTokenizer.from_pretrained(folder)
    assert before.pad_token_id == before.eos_token_id
    text = before.apply_chat_template(rows[0]["chosen"], tokenize=False)
    assert text.count(before.eos_token) == len(rows[0]["chosen"]) >= 2
    run = train(base, tmp_path / "output", model_name=folder, max_steps=30, pairs_per_step=16)
    assert sum(run.losses()[-5:]) / 5 < 0.6 * GUESSING
    expected = rewards_by_hand(run.model, conversations)
    for together in (True, False):
        assert plain_rewards(run.model, conversations, together) == pytest.approx(expected, abs=1e-4)
    assert AutoTokenizer.from_pretrained(run.model).pad_token_id != before.eos_token_id


@pytest.mark.parametrize(("family", "style"), [("mistral", "mistral"), ("llama", "llama3")])
def test_no_pad_token(family, style, base, build_model, conversations, tmp_path):
    """2. Where the tokenizer has no pad token, others save a model whose config has none either: transformers refuses
    two rows at once, or scores another token than the last.

    Seen to fail with pad_token_id None in the config that is saved ("Cannot handle batch sizes > 1"), and with EOS as
    the pad token and the preflight switched off (up to 2.0 off, even a row alone).
    """
    folder = build_model(family, style)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    run = train(base, tmp_path / "output", model_name=folder, max_steps=1)
    expected = rewards_by_hand(run.model, conversations)
    assert plain_rewards(run.model, conversations, together=False) == pytest.approx(expected, abs=1e-5)
    assert plain_rewards(run.model, conversations, together=True) == pytest.approx(expected, abs=1e-5)
    config = json.loads((run.model / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    assert config["pad_token_id"] == tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert config["vocab_size"] >= len(tokenizer)


NO_BOS_IN_TEMPLATE = {"chat_template": CHAT_TEMPLATES["llama3"].replace("{{ bos_token }}", "")}


@pytest.mark.parametrize(
    ("family", "style", "habits", "num_bos"),
    [
        pytest.param("gemma", "gemma", {}, 1, id="by template and tokenizer"),
        pytest.param("qwen2", "chatml", {}, 0, id="by none"),
        pytest.param("llama", "llama3", NO_BOS_IN_TEMPLATE, 1, id="by the tokenizer alone"),
    ],
)
def test_two_bos_tokens_or_none(family, style, habits, num_bos, base, build_model, conversations, tmp_path):
    """3. Rendered by the template and then tokenised, a text gets two BOS tokens where both write one, or none where
    the template does not: about a point of RewardBench, and a model served otherwise than it was trained.

    Seen to fail, with the preflight switched off, when rendered texts were tokenised with special tokens (two in each
    row) and when no BOS was put in front (none, where the tokenizer alone writes it): with it on, it refuses both. And,
    where the tokenizer alone writes it, with the template saved as it was (none for those who render with it).
    """
    folder = build_model(family, style, **habits)
    with watched_passes() as passes:
        run = train(base, tmp_path / "output", model_name=folder, max_steps=1)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    bos = tokenizer.bos_token_id
    trained = [ids for one in passes for ids in token_rows(one.batch["model_inputs"])]
    assert len(trained) >= 16
    assert {ids.count(bos) for ids in trained} == {num_bos}
    assert {ids[0] == bos for ids in trained} == {bool(num_bos)}
    # and the same tokens when the trained model is used, by our scorer or by anybody
    rewards = RewardScorer.from_pretrained(run.model, dtype="float32").score(conversations)
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    given = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert {ids.count(bos) for ids in given} == {num_bos}
    assert rewards == pytest.approx(rewards_at_last_token(run.model, given), abs=1e-4)


ADAPTER = {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-2, "lora_dropout": 0.0}


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "adapter_model.safetensors")


def test_lora_trains_saves_and_merges_the_score_head(base, conversations, tmp_path):
    """4. With an adapter others freeze the score head, leave it out of what is saved, so that a new one is drawn at
    every load, or merge the adapter without it.

    Seen to fail with the head frozen after the adapter was added, with the head left out of what is saved, with a merge
    under another head, and with one that leaves the matrices out.
    """
    flags = base | ADAPTER
    run = train(flags, tmp_path / "output", merge_adapter="true")
    untrained = train(flags, tmp_path / "untrained", learning_rate=0, weight_decay=0)
    head = "base_model.model.score.weight"
    assert not torch.equal(adapter_of(run)[head], adapter_of(untrained)[head])
    assert not any(torch.equal(weight, adapter_of(untrained)[name]) for name, weight in adapter_of(run).items())
    # Read again, twice, the same rewards: nothing is drawn anew, and what was trained is what scores.
    rewards = [RewardScorer.from_pretrained(run.model, dtype="float32").score(conversations) for _ in range(2)]
    assert rewards[0] == rewards[1]
    # The same without the merging that our scorer shares with --merge_adapter: in peft, with the adapter beside.
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    beside = AutoPeftModelForSequenceClassification.from_pretrained(run.model, num_labels=1).eval()
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    rows = [tokenizer(text, add_special_tokens=False, return_tensors="pt") for text in texts]
    with torch.no_grad():
        assert [beside(**row).logits.item() for row in rows] == pytest.approx(rewards[0], abs=1e-4)
    merged = run.output / "merged_checkpoint"
    assert torch.equal(weights_of(merged)["score.weight"], adapter_of(run)[head])
    assert rewards_by_hand(merged, conversations) == pytest.approx(rewards[0], abs=1e-5)
    before = RewardScorer.from_pretrained(untrained.model, dtype="float32").score(conversations)
    assert max(abs(a - b) for a, b in zip(before, rewards[0], strict=True)) > 0.1


@NEEDS_COMPILER
def test_zero3_saves_and_loads_the_whole_model(base, tmp_path):
    """5. Under ZeRO-3 each process holds a piece of the weights: others save empty tensors at the end, and cannot start
    from a reward model.

    Seen to fail with the state dict saved without gathering it (embeddings of shape (0,)), and with the head drawn
    again when a process of several loads a reward model (the loss of the second run was another).
    """
    flags = base | {"max_steps": 2, "eval_size": 0}
    alone = train(flags, tmp_path / "alone")
    run_engine("zero3", flags, tmp_path / "first" / "output")
    first = Run(tmp_path / "first" / "output")
    assert first.losses() == pytest.approx(alone.losses(), abs=1e-5)
    found, expected = weights_of(first.model), weights_of(alone.model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert torch.allclose(found[name], value, atol=1e-4), name
    # another seed: a head that is drawn again with the same one would be nearly the one of the first run
    again = {"model_name": first.model, "max_steps": 1, "seed": 7}
    run_engine("zero3", flags | again, tmp_path / "second" / "output")
    expected = train(flags | again, tmp_path / "alone again").losses()
    assert Run(tmp_path / "second" / "output").losses() == pytest.approx(expected, abs=1e-5)
    from_the_start = train(flags | again, tmp_path / "from the start", model_name=base["model_name"]).losses()
    assert expected != pytest.approx(from_the_start, abs=1e-2)


def test_bfloat16_head_starts_at_the_right_scale(base, build_model, tmp_path):
    """6. A new head in bfloat16 is left as it was in memory (NaN), or drawn so wide that the first losses are of order
    10 and training starts by undoing them.

    Seen to fail with a head that nothing initialises and one filled with NaN (the run ends at its first loss), and with
    one of standard deviation 1.
    """
    hidden = 512
    sizes = {"hidden_size": hidden, "num_hidden_layers": 1}
    folder = build_model("gemma", "gemma", sizes=sizes)
    run = train(base, tmp_path / "output", model_name=folder, model_dtype="bfloat16", learning_rate=0, max_steps=1)
    head = weights_of(run.model)["score.weight"]
    assert head.dtype == torch.bfloat16 and head.shape == (1, hidden)
    assert torch.isfinite(head).all()
    assert head.float().std().item() == pytest.approx(1 / math.sqrt(hidden + 1), rel=0.15)
    assert 0.1 < run.last("reward_std") < 5
    assert run.losses()[0] < 3 * GUESSING


def test_a_head_that_is_there_is_kept(finished, base, tmp_path, caplog):
    """7. Started from a reward model, others draw a new head without a word, and throw away what was learned.

    Seen to fail with the head drawn again after loading, and without the line in the log.
    """
    run = train(base, tmp_path / "output", model_name=finished.model, learning_rate=0, max_steps=1)
    assert "Score head: the one that the checkpoint has." in caplog.text
    assert "Score head: new" not in caplog.text
    before, after = (weights_of(folder)["score.weight"] for folder in (finished.model, run.model))
    assert torch.equal(before, after)
    assert run.last("eval_loss") == pytest.approx(finished.last("eval_loss"), abs=1e-6)
    caplog.clear()
    train(base, tmp_path / "from a language model", learning_rate=0, max_steps=1)
    assert "Score head: new (score.weight)." in caplog.text


def rows_trained_on(passes: list[Pass], groups: PromptGroups) -> list[str]:
    """Which rows of the file the passes trained on, in this order."""
    chunks = [chunk for one in passes if one.trains for chunk in one.batch["chunks"] if chunk.counted]
    return [place for c in chunks for place in groups.groups[c.group]["where"][c.unit_start : c.unit_end]]


def test_resume_goes_on_where_it_stopped(base, tmp_path):
    """8. Others begin the data again when a job is resumed, train on some rows twice and on others never, or refuse.

    Seen to fail with ignore_data_skip (some rows seen three times, others once), with the checkpoint not given to
    train(), and with a shuffle that depends on the clock.
    """
    flags = {name: value for name, value in base.items() if name != "max_steps"}
    flags |= {"num_train_epochs": 2, "probe_memory": "false"}
    with watched_passes() as undisturbed:
        whole = train(flags, tmp_path / "whole")
    groups, steps = whole.trainer.train_dataset, whole.state["global_step"]
    with watched_passes() as passes:
        with sigterm_in_step(steps // 3), pytest.raises(SystemExit) as end:
            train(flags, tmp_path / "stopped")
        assert end.value.code == 128 + signal.SIGTERM
        assert 0 < len(passes) < len(undisturbed) / 2
        resumed = train(flags, tmp_path / "stopped", resume_from_checkpoint="true")
    trained = rows_trained_on(passes, groups)
    assert set(Counter(trained).values()) == {2} and len(trained) == 2 * len(groups)
    assert trained == rows_trained_on(undisturbed, groups)
    assert resumed.losses() == whole.losses()
    assert same_weights(resumed.model, whole.model)


def test_the_best_checkpoint_is_kept(base, tmp_path):
    """9. With a limit of checkpoints others delete the best one, or never saved it, and end with the last.

    Seen to fail with the best left out of what a deletion keeps, without the save where a new best is found between
    two saves, and with the last weights not replaced by the best.
    """
    flags = {name: value for name, value in base.items() if name != "save_strategy"}
    flags |= {"max_steps": 12, "learning_rate": 5e-3, "eval_every_steps": 2, "save_every_steps": 4}
    flags |= {"save_total_limit": 1, "load_best_model_at_end": "true", "metric_for_best_model": "eval_loss"}
    run = train(flags, tmp_path / "output")
    evaluations = {entry["step"]: entry["eval_loss"] for entry in run.history if "eval_loss" in entry}
    best = min(evaluations, key=evaluations.get)
    assert best not in (2, 12) and best % 4 != 0  # it is not due to be saved, and not the last
    assert {path.name for path in run.output.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-12"}
    assert same_weights(run.model, run.output / f"checkpoint-{best}")
    assert not same_weights(run.model, run.output / "checkpoint-12")


def test_no_row_vanishes_for_its_length(base, rows, tmp_path):
    """10. Rows longer than max_length are filtered out in others without a count, up to most of a data set.

    Seen to fail with long rows passed over instead of cut, with dropped ones not counted, and with the end of the rows
    cut in place of the prompt (which the preflight refuses).
    """
    long_question = {"role": "user", "content": "How do I knit a wool scarf? " * 40}
    sides = ("chosen", "rejected")
    some = [row for row in rows if row["source"] == "question"][:20]
    some[:5] = [{side: [long_question, row[side][-1]] for side in sides} for row in some[:5]]
    flags = base | {"train_set_path": write_rows(tmp_path / "rows.jsonl", some), "eval_size": 0, "max_steps": 1}
    flags |= {"pairs_per_step": 100, "probe_memory": "false"}
    expected = {"truncate": (20, {}, 5), "drop": (15, {"overlong": 5}, 0)}
    for overlong, (kept, dropped, cut) in expected.items():
        with watched_passes() as passes:
            run = train(flags, tmp_path / overlong, overlong=overlong)
        report = json.loads((run.output / "data_report.json").read_text())["train"]
        assert (report["rows_read"], report["kept"]) == (20, kept)
        assert len(set(rows_trained_on(passes, run.trainer.train_dataset))) == kept
        assert {reason: lost["count"] for reason, lost in report["dropped"].items()} == dropped
        assert report["notes"]["pairs whose prompt was cut to max_length"] == cut
        # what is cut is the oldest of the prompt: BOS and the whole answer are there
        tokenizer = run.trainer.processing_class
        trained = [ids for one in passes for ids in token_rows(one.batch["model_inputs"])]
        answers = {row[side][-1]["content"] for row in some for side in sides}
        assert max(map(len, trained)) <= base["max_length"]
        assert all(ids[0] == tokenizer.bos_token_id for ids in trained)
        assert all(any(answer in tokenizer.decode(ids) for answer in answers) for ids in trained)


@pytest.mark.parametrize("batching", ["shared_prefix", "packed"])
def test_no_token_of_padding_is_computed(batching, base, tmp_path):
    """11. Others pad all rows of a batch to the longest, and compute the padding: half of the tokens and more.

    Seen to fail with every span padded to a multiple of 8, and with padded batches under the other names.
    """
    with watched_passes() as passes:
        run = train(base, tmp_path / "output", batching=batching, eval_size=20)
    pad = run.trainer.processing_class.pad_token_id
    assert {one.trains for one in passes} == {True, False}
    for one in passes:
        ids = one.batch["model_inputs"]["input_ids"]
        groups = run.trainer.train_dataset if one.trains else run.trainer.eval_dataset
        needed = 0
        for group, chunk in ((groups.groups[chunk.group], chunk) for chunk in one.batch["chunks"]):
            pairs = range(chunk.unit_start, chunk.unit_end)
            answers = {number for pair in pairs for number in group["units"][pair]}
            prompts = 1 if batching == "shared_prefix" else len(answers)
            needed += prompts * group["prefix_length"] + sum(group["completion_lengths"][a] for a in answers)
        assert ids.shape == (1, needed)
        assert pad not in ids
    assert all(entry["tokens_saved"] > 0 for entry in run.history if "tokens_saved" in entry)


def test_the_saved_model_can_be_served(finished, conversations):
    """12. What others save needs their own class, a renamed head or a second file: servers and `pipeline` refuse it, or
    read a head that they have drawn themselves.

    Seen to fail with a class name of our own in the config, with the head saved as v_head.weight, with two labels, and
    without the problem type in the config.
    """
    names = {path.name for path in finished.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "chat_template.jinja" in names  # which servers render conversations with
    suffixes = {path.suffix for path in finished.model.iterdir()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".md", ".png"}  # no code
    config = json.loads((finished.model / "config.json").read_text())
    # vLLM and SGLang choose the model by this name and build one linear layer, `score`, without a bias, of as many
    # outputs as there are labels. text-embeddings-inference asks for a name in ...Classification, for id2label and
    # label2id (one label makes it a reranker), and for a pad token id that is a number.
    assert config["architectures"] == ["GemmaForSequenceClassification"]
    assert config["id2label"].keys() == {"0"} and list(config["label2id"].values()) == [0]
    assert isinstance(config["pad_token_id"], int)
    assert config["pad_token_id"] == AutoTokenizer.from_pretrained(finished.model).pad_token_id
    # Without it vLLM and transformers' pipeline put the one logit through a sigmoid.
    assert config["problem_type"] == "regression"
    assert "auto_map" not in config | json.loads((finished.model / "tokenizer_config.json").read_text())
    weights = weights_of(finished.model)
    assert weights["score.weight"].shape == (1, config["hidden_size"])
    assert "score.bias" not in weights
    plain = AutoModelForSequenceClassification.from_pretrained(finished.model, dtype=torch.float32)
    assert plain.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    classify = pipeline("text-classification", model=str(finished.model), dtype=torch.float32, device="cpu")
    texts = classify.tokenizer.apply_chat_template(conversations, tokenize=False)
    expected = rewards_by_hand(finished.model, conversations)
    for options in ({"function_to_apply": "none"}, {}):
        results = classify(texts, add_special_tokens=False, batch_size=4, **options)
        assert [result["score"] for result in results] == pytest.approx(expected, abs=1e-4)


def padded_rewards(folder: Path, conversations: list[list[dict]], size: int, side: str, attention: str) -> list[float]:
    """In plain transformers, `size` rows at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    options = {"attn_implementation": attention, "dtype": torch.float32}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    rewards = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            rewards += model(**batch).logits[:, 0].tolist()
    return rewards


def test_a_score_does_not_depend_on_its_batch(finished, conversations):
    """13. In others a text gets another score in another batch, with padding on the other side, or under another
    attention; in bfloat16 close answers tie.

    Seen to fail with positions that run on through a packed row, with another pad_token_id in the saved config (up to
    2.5 off), and with the head computed in bfloat16.
    """
    expected = rewards_by_hand(finished.model, conversations)
    backwards = conversations[::-1]
    for attention in ("eager", "sdpa"):
        for side in ("right", "left"):
            rewards = padded_rewards(finished.model, conversations, 5, side, attention)
            assert rewards == pytest.approx(expected, abs=1e-5), (attention, side)
            rewards = padded_rewards(finished.model, backwards, 16, side, attention)
            assert rewards[::-1] == pytest.approx(expected, abs=1e-5), (attention, side)

    def scores(dtype: str, batching: str, tokens: int, given: list[list[dict]]) -> torch.Tensor:
        options = {"dtype": dtype, "batching": batching, "max_tokens_per_batch": tokens}
        return torch.tensor(RewardScorer.from_pretrained(finished.model, **options).score(given))

    ways = [(batching, tokens) for batching in ("shared_prefix", "packed", "padded") for tokens in (1, 600, 100_000)]
    float32 = torch.tensor(expected)
    for batching, tokens in ways:
        assert torch.allclose(scores("float32", batching, tokens, conversations), float32, rtol=0, atol=1e-5)
        assert torch.allclose(scores("float32", batching, tokens, backwards).flip(0), float32, rtol=0, atol=1e-5)
    bfloat16 = torch.stack([scores("bfloat16", batching, tokens, conversations) for batching, tokens in ways])
    rounding = (scores("bfloat16", "padded", 1, conversations) - float32).abs().max()
    assert 0 < rounding < 0.1
    assert (bfloat16.max(dim=0).values - bfloat16.min(dim=0).values).max() <= rounding
    # the head is computed in float32: rewards of 8 bits would make ties of close answers
    assert (bfloat16 != bfloat16.bfloat16()).any(dim=1).all()


def peak_of_tensors(compute: Callable[[], object]) -> int:
    """The most bytes of tensors that lived at once, of those made within."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        compute()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_an_evaluation_has_bounded_memory(base, tmp_path):
    """14. In others an evaluation runs out of memory where training did not: it pads batches of its own size, keeps
    graphs, or holds the outputs of all rows until its end.

    Seen to fail without torch.no_grad(), with passes that no number of tokens limits (24,778 for 512), and with the
    batches held until the end (2.6 times the memory for twelve times the pairs).
    """
    max_tokens = 2 * base["max_length"]
    flags = base | {"max_tokens_per_micro_batch": max_tokens, "max_steps": 1, "probe_memory": "false"}
    pairs, peaks = [], []
    for num_prompts in (8, 80):
        path = write_rows(tmp_path / f"{num_prompts}.jsonl", learnable_preferences(num_prompts, seed=5))
        run = train(flags, tmp_path / str(num_prompts), eval_set_path=path)
        pairs.append(run.last("eval_pairs"))
        peaks.append(peak_of_tensors(run.trainer.evaluate))
    with watched_passes() as passes:
        run.trainer.evaluate()
    assert max(one.batch["num_tokens"] for one in passes) <= max_tokens
    assert not any(one.trains or one.keeps_graph for one in passes)
    assert pairs[1] > 10 * pairs[0]
    assert peaks[1] < 1.2 * peaks[0]  # passes are not all equally full


def test_lora_with_gradient_checkpointing_gets_gradients(base, tmp_path):
    """14, the other half. With frozen embeddings and checkpointing others compute a loss that no adapter's weight is
    part of: an error in the first backward pass, or, with the head trained, adapters that stay at zero.

    Seen to fail with re-entrant checkpointing of layers whose inputs need no gradient (every gradient but the head's
    is zero), with queries cut off from the graph, and with half of the adapters frozen.
    """
    gradients: dict[str, float] = {}
    training_step = RewardTrainer.training_step

    def noted(trainer, model, *args, **options):
        result = training_step(trainer, model, *args, **options)
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                norm = 0.0 if weight.grad is None else weight.grad.norm().item()
                gradients[name] = max(gradients.get(name, 0.0), norm)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, "training_step", noted)
        run = train(base | ADAPTER, tmp_path / "output", gradient_checkpointing="true")
    assert run.trainer.model.is_gradient_checkpointing
    assert sum("lora_A" in name for name in gradients) == sum("lora_B" in name for name in gradients) == 14
    assert all(norm > 0 for norm in gradients.values()), gradients
    without = train(base | ADAPTER, tmp_path / "without", gradient_checkpointing="false")
    assert run.losses() == pytest.approx(without.losses(), abs=1e-5)


def test_a_recipe_can_be_rebuilt(base, rows, tmp_path):
    """15. Published mixtures and models cannot be made again: nobody wrote down how many rows went in, which were
    dropped, or the seed.

    Seen to fail with the mixture shuffled by the clock, with no dropped rows in the manifest, with the seed left out of
    script_arguments.json, and with a seed of the clock in training.
    """
    torn = [rows[0] | {"rejected": [*rows[0]["chosen"][:-1], {"role": "assistant", "content": ""}]}]
    parts = {"first": rows[:40] + torn, "second": rows[30:]}
    paths = [write_rows(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: recipe\nseed: 3\nsources:\n" + "".join(f"  - path: {path}\n" for path in paths))

    def build(name: str, **options: object) -> dict[str, bytes]:
        arguments = build_mixture.ScriptArguments(output_path=str(tmp_path / name), num_proc=1, **options)
        build_mixture.build(arguments)
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}

    files = build("data", mixture=str(recipe), test_size=6)
    manifest = json.loads(files["manifest.json"])
    assert build("data again", format=manifest["format"], **manifest["arguments"]) == files
    first, second = manifest["sources"]
    assert manifest["seed"] == first["options"]["seed"] == 3
    assert (first["read"]["rows"], first["read"]["kept"]) == (41, 40)
    assert sum(lost["rows"] for lost in first["read"]["dropped"].values()) == 1
    assert second["mixed"]["dropped"]["duplicate_pair"]["rows"] == 10
    assert len(first["fingerprint"]) == len(manifest["written"]["train"]["content_sha256"]) == 64
    assert manifest["pairs"] == len(rows)
    assert manifest["versions"].keys() >= {"python", "datasets"}

    published = train(base, tmp_path / "run", train_set_path=tmp_path / "data")
    report = json.loads((published.output / "data_report.json").read_text())["train"]
    assert report["rows_read"] == manifest["written"]["train"]["pairs"]
    stored = json.loads((published.model / "script_arguments.json").read_text())
    assert stored["seed"] == base["seed"]
    del stored["output_path"]
    again = train(stored, tmp_path / "run again")
    assert again.losses() == published.losses()
    assert same_weights(again.model, published.model)
