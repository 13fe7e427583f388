"""Models with several named outputs: attributes and their weighted sum, against plain transformers."""

import json
from pathlib import Path

import peft
import pytest
import torch
from rating_models import NAMES, RANGES, SAVED, WEIGHTS, save_classifier, with_ratings
from test_scoring import (
    FAMILIES,
    TOLERANCE,
    WRONG,
    conversations,
    edit_config,
    family_config,
    family_tokenizer,
    largest_difference,
    template_ids,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.reward_normalization import write_adapter_statistics
from reward_modeling.scoring import RewardScorer, ScoredConversation
from reward_modeling.scoring import windows as windows_module
from reward_modeling.scoring.merge_adapter import merge_adapter
from reward_modeling.tiny.models import build_tiny_checkpoint


def gemma_of_ratings(path: Path) -> Path:
    tokenizer = family_tokenizer("gemma")
    return save_classifier(path, tokenizer, with_ratings(family_config("gemma", tokenizer)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of a family with three outputs, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            tokenizer = family_tokenizer(family)
            path = tmp_path_factory.mktemp("ratings") / family
            made[family] = save_classifier(path, tokenizer, with_ratings(family_config(family, tokenizer)))
        return made[family]

    return get


def plain_outputs(path: Path) -> torch.Tensor:
    """`(conversations, 3)` of transformers alone, each conversation alone."""
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    model.config.pad_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        rows = [torch.tensor([template_ids(tokenizer, messages)]) for messages in conversations()]
        return torch.cat([model(input_ids=ids).logits for ids in rows])


def expected(outputs: torch.Tensor, weights: dict[str, float] = WEIGHTS) -> list[ScoredConversation]:
    scored = []
    for row in outputs.tolist():
        of = dict(zip(NAMES, row, strict=True))
        reward = sum(weights.get(name, 0.0) * value for name, value in of.items())
        ratings = {name: RANGES[name][0] + of[name] * (RANGES[name][1] - RANGES[name][0]) for name in NAMES}
        scored.append(ScoredConversation(reward, ratings))
    return scored


def difference(found: list[ScoredConversation], wanted: list[ScoredConversation]) -> float:
    """The largest of the rewards and the attributes, as a share of each range."""
    assert all(list(one.attributes) == NAMES for one in found)
    differences = [largest_difference([one.reward for one in found], [one.reward for one in wanted])]
    for name, (low, high) in RANGES.items():
        values = [[one.attributes[name] / (high - low) for one in scored] for scored in (found, wanted)]
        differences.append(largest_difference(*values))
    return max(differences)


# ----------------------------------------------------------------------------------------------------------
# The same numbers as plain transformers
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_attributes_and_rewards_are_those_of_plain_transformers(folder, family):
    scorer = RewardScorer.from_pretrained(folder(family))
    outputs = plain_outputs(folder(family))
    scored = scorer.score_named(conversations())
    assert difference(scored, expected(outputs)) < TOLERANCE
    assert all(one.gate_weights is None for one in scored)
    assert scorer.score(conversations()) == [one.reward for one in scored]
    # the negative control: outputs in another order, and ranges of another attribute
    assert difference(scored, expected(outputs[:, [1, 0, 2]])) > WRONG


def test_plain_transformers_knows_the_names(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder("gemma"))
    assert [model.config.id2label[n] for n in range(model.config.num_labels)] == NAMES
    assert model.config.problem_type == "regression"
    assert model.score.bias is None


@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_weights_that_are_passed_take_the_place_of_the_saved_ones(folder, family):
    weights = {"correctness": 2, "verbosity": -0.5}  # the other one counts nothing
    scorer = RewardScorer.from_pretrained(folder(family), weights=weights)
    assert scorer.readout.reward_weights == {"helpfulness": 0.0, **weights}
    wanted = expected(plain_outputs(folder(family)), weights)
    assert difference(scorer.score_named(conversations()), wanted) < TOLERANCE
    assert difference(RewardScorer.from_pretrained(folder(family)).score_named(conversations()), wanted) > WRONG


def test_outputs_without_ranges_are_given_as_they_are(folder, tmp_path):
    path = gemma_of_ratings(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    for name in SAVED:
        del config[name]
    (path / "config.json").write_text(json.dumps(config))
    scored = RewardScorer.from_pretrained(path, weights={"helpfulness": 1}).score_named(conversations())
    outputs = plain_outputs(path)
    for number, name in enumerate(NAMES):
        assert largest_difference([one.attributes[name] for one in scored], outputs[:, number].tolist()) < TOLERANCE
    assert [one.reward for one in scored] == [one.attributes["helpfulness"] for one in scored]


def test_one_label_has_no_names_and_one_rating_has_its_name(folder, tmp_path):
    tokenizer = family_tokenizer("gemma")
    plain = save_classifier(tmp_path / "plain", tokenizer, family_config("gemma", tokenizer))
    rewards = RewardScorer.from_pretrained(plain).score(conversations())
    scored = RewardScorer.from_pretrained(plain).score_named(conversations())
    assert scored == [ScoredConversation(reward) for reward in rewards]
    saved = {"label_ranges": {"helpfulness": [0, 4]}, "reward_weights": {"helpfulness": 1.0}}
    edit_config(plain, id2label={"0": "helpfulness"}, label2id={"helpfulness": 0}, **saved)
    named = RewardScorer.from_pretrained(plain).score_named(conversations())
    assert [one.reward for one in named] == rewards
    assert all(one.attributes == {"helpfulness": pytest.approx(4 * one.reward)} for one in named)


def test_bfloat16_keeps_the_head_in_float32(folder):
    """Computed in bfloat16, outputs would have no more than its 8 bits."""
    scorer = RewardScorer.from_pretrained(folder("gemma"), dtype="bfloat16")
    values = [one.attributes["verbosity"] for one in scorer.score_named(conversations())]
    assert any(value != torch.tensor(value).bfloat16().item() for value in values)


# ----------------------------------------------------------------------------------------------------------
# Streams and processes
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_work_and_give_the_same(folder, monkeypatch, num_processes):
    monkeypatch.setattr(windows_module, "WINDOW", 37)
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    alone = list(scorer.stream_named(conversations()))
    assert [index for index, _ in alone] == list(range(len(conversations())))
    assert [(index, one.reward) for index, one in alone] == list(scorer.stream(conversations()))
    parts = []
    for process in range(num_processes):
        ranks = {"process_index": process, "num_processes": num_processes}
        part = list(scorer.stream_named(iter(conversations()), **ranks))
        assert [index for index, _ in part] == sorted(index for index, _ in part)
        parts += part
    assert sorted(parts, key=lambda each: each[0]) == alone  # bit for bit


def test_a_stream_of_names_reads_a_window_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(windows_module, "WINDOW", 20)
    read = []

    def lazily():
        for messages in conversations():
            read.append(messages)
            yield messages

    for index, _ in RewardScorer.from_pretrained(folder("gemma")).stream_named(lazily()):
        assert len(read) <= index + 2 * 20 + 1


def test_normalizing_moves_the_reward_alone(folder, tmp_path):
    path = gemma_of_ratings(tmp_path / "model")
    edit_config(path, reward_mean=0.25, reward_std=0.5)
    raw = RewardScorer.from_pretrained(path).score_named(conversations())
    scorer = RewardScorer.from_pretrained(path, normalize=True)
    normalized = scorer.score_named(conversations())
    assert [one.reward for one in normalized] == pytest.approx([(one.reward - 0.25) / 0.5 for one in raw], abs=1e-6)
    assert [one.attributes for one in normalized] == [one.attributes for one in raw]
    assert scorer.score(conversations()) == [one.reward for one in normalized]
    with pytest.raises(UserError, match=r"normalize: expected the weights that .* was saved with"):
        RewardScorer.from_pretrained(path, normalize=True, weights={"helpfulness": 1.0})


# ----------------------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"helpfullness": 1.0}, "'helpfullness'; did you mean helpfulness"),
        ({"safety": 1.0}, "'safety', which is none"),
        ({"helpfulness": float("nan")}, "helpfulness: nan"),
        ({"helpfulness": "0.5"}, "helpfulness: '0.5'"),
        ({"helpfulness": 0.0}, "by which every reward would be 0"),
        ({}, "by which every reward would be 0"),
    ],
)
def test_weights_that_are_wrong_are_refused(folder, weights, message):
    with pytest.raises(UserError, match=r"finite numbers for some of helpfulness, correctness, verbosity") as caught:
        RewardScorer.from_pretrained(folder("gemma"), weights=weights)
    assert message in str(caught.value)


def test_weights_for_one_label_are_refused(tmp_path):
    tokenizer = family_tokenizer("gemma")
    path = save_classifier(tmp_path / "plain", tokenizer, family_config("gemma", tokenizer))
    with pytest.raises(UserError, match="weights: expected a model with named outputs"):
        RewardScorer.from_pretrained(path, weights={"helpfulness": 1.0})


def test_outputs_of_one_name_are_refused(folder, tmp_path):
    path = gemma_of_ratings(tmp_path / "model")
    edit_config(path, id2label={"0": "a", "1": "b", "2": "a"}, reward_weights={"a": 1.0})
    with pytest.raises(UserError, match="names of their own, found a, b, a in id2label"):
        RewardScorer.from_pretrained(path)


def test_a_model_is_refused_before_its_weights_are_read(folder, tmp_path):
    path = gemma_of_ratings(tmp_path / "model")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="did you mean helpfulness"):
        RewardScorer.from_pretrained(path, weights={"helpfull": 1.0})


# ----------------------------------------------------------------------------------------------------------
# Adapters, and what is made of a model of ratings
# ----------------------------------------------------------------------------------------------------------


def save_ratings_adapter(tmp_path: Path, *, ours: bool) -> tuple[Path, peft.PeftModel]:
    """An adapter with a head of three outputs on a language model: as this project saves it, or as others do."""
    from tiny_families import tiny_config

    from reward_modeling.tiny.tokenizers import token_ids

    tokenizer = family_tokenizer("gemma")
    base = build_tiny_checkpoint(
        tmp_path / "language_model", tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer))
    )
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(NAMES))
    options = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = peft.get_peft_model(model, peft.LoraConfig(**options))
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    if ours:
        write_adapter_statistics(tmp_path / "adapter", SAVED)
    return tmp_path / "adapter", model.eval()


def outputs_of(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        rows = [torch.tensor([template_ids(tokenizer, messages)]) for messages in conversations()]
        return torch.cat([model(input_ids=ids).logits for ids in rows])


def test_an_adapter_names_its_outputs(tmp_path):
    adapter, model = save_ratings_adapter(tmp_path, ours=True)
    scorer = RewardScorer.from_pretrained(adapter)
    wanted = expected(outputs_of(model, scorer.tokenizer))
    assert difference(scorer.score_named(conversations()), wanted) < TOLERANCE
    merge_adapter(adapter, tmp_path / "merged")
    merged = RewardScorer.from_pretrained(tmp_path / "merged")
    assert difference(merged.score_named(conversations()), wanted) < TOLERANCE


def test_an_adapter_of_somebody_else_needs_weights(tmp_path):
    adapter, model = save_ratings_adapter(tmp_path, ours=False)
    with pytest.raises(UserError, match=r"found 3 labels \(LABEL_0, LABEL_1, LABEL_2\) and no reward_weights"):
        RewardScorer.from_pretrained(adapter)
    scorer = RewardScorer.from_pretrained(adapter, weights={"LABEL_1": 1})
    outputs = outputs_of(model, scorer.tokenizer)
    assert largest_difference(scorer.score(conversations()), outputs[:, 1].tolist()) < TOLERANCE


def test_names_of_ratings_are_not_handed_on(folder, tmp_path):
    """A Bradley-Terry model that goes on from one rating has one unnamed score."""
    tokenizer = family_tokenizer("gemma")
    path = save_classifier(tmp_path / "model", tokenizer, family_config("gemma", tokenizer))
    saved = {"label_ranges": {"helpfulness": [0, 4]}, "reward_weights": {"helpfulness": 1.0}}
    edit_config(path, id2label={"0": "helpfulness"}, label2id={"helpfulness": 0}, **saved)
    config = load_config(str(path))
    assert config.id2label == {0: "LABEL_0"}
    assert not {"label_ranges", "reward_weights"} & config.to_dict().keys()


# ----------------------------------------------------------------------------------------------------------
# Quantiles
# ----------------------------------------------------------------------------------------------------------


def test_an_attribute_of_quantiles_is_their_mean_and_has_an_interval(tmp_path):
    levels = [0.25, 0.5, 0.75]
    tokenizer = family_tokenizer("gemma")
    names = [f"{name}@{level:.2f}" for name in NAMES for level in levels]
    config = with_ratings(family_config("gemma", tokenizer), names, quantile_levels=levels)
    path = save_classifier(tmp_path / "model", tokenizer, config)
    quantiles = plain_outputs(path).reshape(-1, len(NAMES), len(levels))
    scored = RewardScorer.from_pretrained(path).score_named(conversations())
    assert difference(scored, expected(quantiles.mean(dim=2))) < TOLERANCE
    for number, name in enumerate(NAMES):
        low, high = RANGES[name]
        ends = [[one.intervals[name][end] for one in scored] for end in (0, 1)]
        least, greatest = (low + (high - low) * of[:, number] for of in (quantiles.amin(dim=2), quantiles.amax(dim=2)))
        assert largest_difference(ends[0], least.tolist()) < TOLERANCE * (high - low)
        assert largest_difference(ends[1], greatest.tolist()) < TOLERANCE * (high - low)
    assert any((quantiles.diff(dim=2) < 0).flatten())  # some have crossed, and are put in order
