"""Published tokenizers with their templates: the published ids, two steps of training, the same rewards elsewhere."""

import json

import pytest
import transformers
from real.conftest import ROWS
from real.published import GOLDEN_IDS, PUBLISHED, every_published, tokenizer_folder
from runs import plain_rewards, train, weights_of

from reward_modeling.common.errors import UserError
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.scoring import RewardScorer

GOLDEN = {"llama_3.2": "llama3_2", "gemma": "gemma2", "llama": "phi3_mini", "bert_uncased": "minilm"}
WITHOUT_BOS = "llama"  # Llama-2's ids begin with BOS; Phi-3, which has its vocabulary, writes none


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_the_published_ones(text, tmp_path, seen):
    file = GOLDEN_IDS / f"{text}_encoded.json"
    if not file.exists():
        pytest.skip("REAL_GOLDEN_IDS: expected the folder of swift-transformers' golden ids, found none")
    golden = json.loads(file.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(str(tokenizer_folder(PUBLISHED[GOLDEN[text]], tmp_path / "tokenizer")))
    ids = tokenizer(golden["text"]).input_ids
    expected = golden["token_ids"][1:] if text == WITHOUT_BOS else golden["token_ids"]
    assert ids == expected
    assert tokenizer(golden["text"][1:]).input_ids != expected  # the negative control
    seen(f"golden ids of {text}", f"{GOLDEN[text]}: all {len(ids)} ids agree")


@pytest.mark.parametrize("published", every_published(refused=False))
def test_trains_and_is_scored_alike_in_plain_transformers(published, model_of, flags, tmp_path, seen, request, capsys):
    model = model_of(published)
    run = train(flags | {"model_name": model}, tmp_path / "output")
    assert len(run.losses()) == 2
    assert run.trainer.model.config.vocab_size >= published.vocabulary
    assert any((weight != 0).any() for weight in weights_of(run.model).values())
    conversations = [row[side] for row in ROWS for side in ("chosen", "rejected")]
    rewards = RewardScorer.from_pretrained(str(run.model)).score(conversations)
    plain = plain_rewards(run.model, conversations, together=False)
    assert rewards == pytest.approx(plain, abs=1e-4)
    assert plain_rewards(run.model, conversations, together=True) == pytest.approx(plain, abs=1e-4)
    assert max(plain) - min(plain) > 1e-2  # a reward that is read in the same place of all texts has one value
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    report = json.loads((run.output / "data_report.json").read_text())["train"]
    difference = max(abs(a - b) for a, b in zip(rewards, plain, strict=True))
    seen(
        request.node.callspec.id,
        f"{report['kept']} of {len(ROWS)} rows kept; pad token {tokenizer.pad_token!r}; rewards of RewardScorer and of "
        f"plain transformers within {difference:.0e}",
    )


@pytest.mark.parametrize("published", every_published(refused=True))
def test_what_cannot_be_trained_on_is_refused_by_name(published, model_of, flags, tmp_path, seen, request):
    with pytest.raises(UserError, match=published.refused) as refusal:
        train(flags | {"model_name": model_of(published), "preflight_only": "true"}, tmp_path / "output")
    seen(request.node.callspec.id, "refused: " + " ".join(str(refusal.value).split())[:300])
