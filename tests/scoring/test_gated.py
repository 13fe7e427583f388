"""Mixtures of objectives with a gate: ours and the published layout, against a class written after its description."""

import json
import random

import pytest
import torch
from published_gate import GEMMA2, LLAMA3, PublishedModel, write_published_folder
from safetensors.torch import load_file, save_file
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.gated_model import (
    PUBLISHED_NAMES,
    GateSettings,
    gated_model_class,
    is_gated,
    last_pattern_places,
)
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids as special_ids

TOLERANCE = 1e-5
ROWS = learnable_preferences(12, seed=3)
BATCHINGS = (PADDED, PACKED, SHARED_PREFIX)
STYLES = {"llama": ("llama3", LLAMA3), "gemma2": ("gemma", GEMMA2), "qwen2": ("chatml", None)}


def conversations() -> list[list[dict]]:
    both = [row[side] for row in ROWS for side in ("chosen", "rejected")]
    random.Random(0).shuffle(both)
    return both


def make_tokenizer(family: str):
    texts = [row["chosen"][-1]["content"] for row in ROWS]
    return train_tokenizer(texts, 400, **TOKENIZER_STYLES[STYLES[family][0]])


def ids_of(tokenizer, conversation) -> list[int]:
    return token_ids([tokenizer.apply_chat_template(conversation, tokenize=False)], tokenizer)[0]


def pattern_tokens(tokenizer, family: str) -> list[int]:
    """The pattern as it stands in a conversation: as this vocabulary writes it."""
    ids = ids_of(tokenizer, conversations()[0])
    pattern = STYLES[family][1]
    marks = [tokenizer.convert_tokens_to_ids(mark) for mark in ("<|eot_id|>", "<end_of_turn>")]
    start = max(place for place, token in enumerate(ids[:-3]) if token in marks)
    end = next(end for end in range(start, len(ids)) if tokenizer.decode(ids[start:end]) == pattern)
    return ids[start:end]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in the published layout, of a family with a published pattern."""
    made = {}

    def get(family: str, objectives: int = 5):
        if (family, objectives) not in made:
            tokenizer = make_tokenizer(family)
            config = tiny_config(family, len(tokenizer), num_labels=1, **special_ids(tokenizer))
            folder = tmp_path_factory.mktemp("published") / family
            write_published_folder(folder, tokenizer, config, objectives=objectives)
            pattern = None if STYLES[family][1] is None else pattern_tokens(tokenizer, family)
            made[family, objectives] = folder, tokenizer, pattern
        return made[family, objectives]

    return get


def by_hand(folder, tokenizer, pattern, rows):
    model = PublishedModel(folder, pattern)
    return [model(ids_of(tokenizer, row)) for row in rows]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_published_folder_gets_the_scores_of_its_own_class(published, family, batching):
    folder, tokenizer, pattern = published(family)
    expected = by_hand(folder, tokenizer, pattern, conversations())
    scorer = RewardScorer.from_pretrained(folder, dtype="float32", batching=batching)
    found = scorer.score_named(conversations())
    assert scorer.score(conversations()) == [each.reward for each in found]
    for here, there in zip(found, expected, strict=True):
        assert here.reward == pytest.approx(float(there["score"]), abs=TOLERANCE)
        assert list(here.attributes.values()) == pytest.approx(there["rewards"].tolist(), abs=TOLERANCE)
        assert list(here.gate_weights.values()) == pytest.approx(there["gating_output"].tolist(), abs=TOLERANCE)
    # nor does it run the code beside the weights where it may
    allowed = RewardScorer.from_pretrained(folder, dtype="float32", batching=batching, trust_remote_code=True)
    assert allowed.score(conversations()) == [each.reward for each in found]
    scores = torch.tensor([float(of["score"]) for of in expected])
    assert scores.std() > 100 * TOLERANCE  # a negative control: the scores are not all alike


def test_a_gate_at_another_place_is_seen(published, monkeypatch):
    """A negative control of the comparison above: the gate reads the token before."""
    folder, tokenizer, pattern = published("llama")
    expected = torch.tensor([float(of["score"]) for of in by_hand(folder, tokenizer, pattern, conversations())])
    from reward_modeling.scoring import prompt_ends

    right = prompt_ends.gate_position
    monkeypatch.setattr(prompt_ends, "gate_position", lambda ids, tail: right(ids, tail) - 1)
    found = torch.tensor(RewardScorer.from_pretrained(folder, dtype="float32").score(conversations()))
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_plain_forward_returns_what_the_published_class_returns(published, family):
    folder, tokenizer, pattern = published(family)
    rows = [ids_of(tokenizer, row) for row in conversations()[:4]]
    config = json.loads((folder / "config.json").read_text()) | {"gating_token_pattern": pattern}
    (folder / "config.json").write_text(json.dumps(config))
    model_class = gated_model_class(type(tiny_config(family, 400)))
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    width, expected = max(map(len, rows)), by_hand(folder, tokenizer, pattern, conversations()[:4])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
    with torch.no_grad():
        found = model(torch.tensor([ids + [0] * (width - len(ids)) for ids in rows]), mask)
    for name, values in found.items():
        for here, there in zip(values, expected, strict=True):
            assert torch.allclose(here, there[name], atol=TOLERANCE), name
    assert set(found) == set(expected[0])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_template_without_a_published_pattern(published, batching):
    """The gate reads the last token of the header, which the class by hand is told as a pattern of one token."""
    folder, tokenizer, _ = published("qwen2")
    rows = conversations()
    scorer = RewardScorer.from_pretrained(folder, dtype="float32", batching=batching)
    places = [tokens.gate for tokens in scorer.tokenize(rows)]
    model = PublishedModel(folder, [])
    expected = []
    for row, place in zip(rows, places, strict=True):
        ids = ids_of(tokenizer, row)
        # the prompt's end by another way: what the template writes when it is asked for an answer
        prompt = tokenizer.apply_chat_template(row[:-1], tokenize=False, add_generation_prompt=True)
        prompt_ids = token_ids([prompt], tokenizer)[0]
        assert ids[: len(prompt_ids)] == prompt_ids
        assert place == len(prompt_ids) - 2 and tokenizer.decode(prompt_ids[place + 1 :]) == "\n"
        model.find_pattern = lambda _ids, place=place: place
        expected.append(float(model(ids)["score"]))
    assert scorer.score(rows) == pytest.approx(expected, abs=TOLERANCE)


def test_a_prompt_s_gate_is_computed_once_for_all_its_answers(published):
    """All answers of a prompt get the same weights to the bit, and the prompt's tokens stand in a pass once."""
    folder, tokenizer, _ = published("llama")
    question = [{"role": "user", "content": "Which of these is right? " * 20}]
    answers = ["One.", "Two, I think.", "Three of them.", "None."]
    rows = [[*question, {"role": "assistant", "content": answer}] for answer in answers]
    scorer = RewardScorer.from_pretrained(folder, dtype="float32")
    found = scorer.score_named(rows)
    assert all(each.gate_weights == found[0].gate_weights for each in found)
    whole = [len(ids_of(tokenizer, row)) for row in rows]
    assert scorer.counts.tokens < 1.5 * max(whole) < sum(whole) / 2
    other = scorer.score_named([[{"role": "user", "content": "Hm?"}, rows[0][-1]]])
    assert other[0].gate_weights != found[0].gate_weights


def test_our_names_and_ranges_and_those_of_the_published_model(published, tmp_path):
    folder, _, _ = published("llama", objectives=19)
    found = RewardScorer.from_pretrained(folder).score_named(conversations()[:1])[0]
    assert tuple(found.attributes) == tuple(found.gate_weights) == PUBLISHED_NAMES
    assert len(set(PUBLISHED_NAMES)) == 19
    folder, _, _ = published("llama", objectives=3)
    config = json.loads((folder / "config.json").read_text())
    plain = RewardScorer.from_pretrained(folder).score_named(conversations()[:1])[0]
    assert list(plain.attributes) == ["objective_0", "objective_1", "objective_2"]
    named = config | {"objective_names": ["a", "b", "c"], "label_ranges": {"b": [1, 5]}}
    (folder / "config.json").write_text(json.dumps(named))
    found = RewardScorer.from_pretrained(folder).score_named(conversations()[:1])[0]
    assert found.reward == plain.reward
    assert found.attributes["a"] == plain.attributes["objective_0"]
    assert found.attributes["b"] == pytest.approx(1 + 4 * plain.attributes["objective_1"])


def test_a_model_of_ours_is_read_by_the_published_class(tmp_path):
    tokenizer = make_tokenizer("llama")
    config = tiny_config("llama", len(tokenizer), num_labels=1, **special_ids(tokenizer))
    settings = GateSettings(4, gating_temperature=3, gating_hidden_dim=16, gating_n_hidden=2)
    config.update(vars(settings) | {"objective_names": list("abcd")})
    model = gated_model_class(type(config))(config)
    with torch.no_grad():
        model.reward_transform_matrix[1] -= torch.rand(4)
        model.gating.logit_scale.fill_(3.0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["LlamaForRewardModelWithGating"]
    assert written["num_objectives"] == 4 and written["id2label"] == {"0": "LABEL_0"}
    pattern = pattern_tokens(tokenizer, "llama")
    by_class = PublishedModel(tmp_path, pattern)
    assert set(by_class.weights) == by_class.expected_names()
    expected = [float(by_class(ids_of(tokenizer, row))["score"]) for row in conversations()]
    assert RewardScorer.from_pretrained(tmp_path).score(conversations()) == pytest.approx(expected, abs=TOLERANCE)


def test_heads_stay_in_float32(published):
    folder, _, _ = published("llama")
    scorer = RewardScorer.from_pretrained(folder, dtype="bfloat16")
    names = {name: weight.dtype for name, weight in scorer.model.state_dict().items()}
    heads = {name for name, dtype in names.items() if dtype == torch.float32}
    assert heads == {name for name in names if not name.startswith("model.")}
    assert scorer.dtype_name == "bfloat16"
    rewards = scorer.score(conversations())
    whole = RewardScorer.from_pretrained(folder, dtype="float32").score(conversations())
    assert 0 < max(abs(a - b) for a, b in zip(rewards, whole, strict=True)) < 0.5


@pytest.mark.parametrize("batching", BATCHINGS)
def test_cut_conversations_read_the_same_token(published, batching):
    folder, _, pattern = published("llama")
    scorer = RewardScorer.from_pretrained(folder, dtype="float32", max_length=160, batching=batching)
    counts = ScoringCounts()
    tokens = scorer.reader.read(list(enumerate(conversations())), counts)
    rows, places = [one.ids for one in tokens], [one.gate for one in tokens]
    assert 0 < counts.cut < len(rows)
    model = PublishedModel(folder, pattern)
    expected = []
    for ids, place in zip(rows, places, strict=True):
        assert ids[place : place + len(pattern)] == pattern
        expected.append(float(model(ids)["score"]))
    assert scorer.score(conversations()) == pytest.approx(expected, abs=TOLERANCE)


def test_plain_texts_are_read_by_their_pattern_or_refused(published):
    folder, tokenizer, _ = published("llama")
    scorer = RewardScorer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(conversations()[0], tokenize=False)
    assert scorer.score([text]) == pytest.approx(scorer.score(conversations()[:1]), abs=TOLERANCE)
    with pytest.raises(UserError, match=r"conversation 1: expected messages, since the model's gate reads"):
        scorer.score([text, "Just a text."])
    folder, _, _ = published("qwen2")
    with pytest.raises(UserError, match="conversation 0: expected messages"):
        RewardScorer.from_pretrained(folder).score([text])


def test_what_is_refused(published, tmp_path):
    folder, tokenizer, _ = published("llama")
    with pytest.raises(UserError, match="has a gate, which weighs"):
        RewardScorer.from_pretrained(folder, weights={"objective_0": 1.0})
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for name, change, words in (
        ("lost", {"gating.logit_scale": None}, r"found none for 1 of them, such as gating.logit_scale"),
        ("shape", {"regression_layer.weight": torch.zeros(7, 64)}, r"expected the shape \(5, 64\) of regression_layer"),
    ):
        broken = tmp_path / name
        broken.mkdir()
        tokenizer.save_pretrained(broken)
        kept = {key: value for key, value in (weights | change).items() if value is not None}
        save_file(kept, broken / "model.safetensors")
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=words):
            RewardScorer.from_pretrained(broken)


def test_last_pattern_places():
    ids = torch.tensor([[1, 2, 3, 1, 2, 4], [1, 2, 9, 9, 9, 9]])
    assert last_pattern_places(ids, (1, 2)).tolist() == [3, 0]
    with pytest.raises(ValueError, match="found none in row 0"):
        last_pattern_places(ids, (9, 9))
    assert not is_gated(tiny_config("llama", 10))
