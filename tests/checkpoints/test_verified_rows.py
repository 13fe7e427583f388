"""The rows of verification.json: whatever kind of model they are of, the scorer gives them what the file says."""

import json
from pathlib import Path

import pytest
import torch
from rating_models import NAMES, RANGES, WEIGHTS
from step_models import chains, save_process_model
from test_fold import CONVERSATIONS, ratings_model
from test_verification import FLOAT32, at_once, in_memory, model, save  # noqa: F401 (fixtures among them)
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from reward_modeling.checkpoints.fold import fold_model
from reward_modeling.checkpoints.verification import FLOAT32_TOLERANCE, verify_saved_model
from reward_modeling.checkpoints.verified_rows import read_verified_rows, write_verification
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.scoring import RewardScorer, StepScorer


def test_rows_of_a_reward_model(model, save, at_once):  # noqa: F811
    rows, rewards = in_memory(model, SHARED_PREFIX)
    folder = save(model)
    verify_saved_model(folder, rows, rewards, **FLOAT32)
    verified = read_verified_rows(folder)
    assert verified.rows == rows and verified.passed and verified.gates is None
    found = RewardScorer.from_pretrained(folder, dtype="float32").score(verified.conversations())
    tolerance = FLOAT32_TOLERANCE * max(1, *map(abs, rewards))
    assert found == pytest.approx([reward for (reward,) in verified.outputs], abs=tolerance)
    # negative control: the rows of one are not the rewards of another
    assert found != pytest.approx([reward for (reward,) in verified.outputs[1:] + verified.outputs[:1]], abs=tolerance)


def test_a_row_of_tokens_is_a_line(model, save, at_once):  # noqa: F811
    rows, rewards = in_memory(model, SHARED_PREFIX)
    folder = save(model)
    verify_saved_model(folder, rows, rewards, **FLOAT32)
    lines = (folder / VERIFICATION).read_text().splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith("    [")] == rows
    assert len(lines) < 100


def test_rows_of_a_model_of_ratings(tmp_path, at_once):  # noqa: F811
    """All outputs of a row, as the head gives them."""
    folder = ratings_model(tmp_path / "ratings")
    scorer = RewardScorer.from_pretrained(folder, dtype="float32")
    rows = [tokens.ids for tokens in scorer.tokenize(CONVERSATIONS[:5])]
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = [plain(torch.tensor([ids])).logits[0].tolist() for ids in rows]
    assert verify_saved_model(folder, rows, [value for row in outputs for value in row], **FLOAT32).passed
    verified = read_verified_rows(folder)
    assert [len(values) for values in verified.outputs] == [len(NAMES)] * 5
    for said, values in zip(scorer.score_named(verified.conversations()), verified.outputs, strict=True):
        assert said.reward == pytest.approx(sum(WEIGHTS[name] * values[place] for place, name in enumerate(NAMES)))
        for place, (low, high) in enumerate(RANGES[name] for name in NAMES):
            assert said.attributes[NAMES[place]] == pytest.approx(low + (high - low) * values[place], abs=1e-4)


def test_rows_of_a_process_model(tmp_path, at_once):  # noqa: F811
    """The outputs of both labels at each token that is read, in the order of `reads`."""
    folder = save_process_model(tmp_path / "steps")
    tokens = StepScorer.from_pretrained(folder, dtype="float32").tokenize(chains(4))
    plain = AutoModelForTokenClassification.from_pretrained(folder).eval()
    ends, outputs = [], []
    for of in tokens:
        with torch.no_grad():
            logits = plain(torch.tensor([of.ids])).logits[0]
        ends += [list(of.ids[: place + 1]) for place in of.reads]
        outputs += [value for place in of.reads for value in logits[place].tolist()]
    assert verify_saved_model(folder, ends, outputs, reads_steps=True, **FLOAT32).passed
    verified = read_verified_rows(folder)
    assert sum(map(len, verified.reads)) == len(verified.outputs) == len(ends) > len(verified.rows)
    found = RewardScorer.from_pretrained(folder, dtype="float32").score_named(verified.conversations())
    due = torch.tensor(verified.outputs).softmax(dim=-1)[:, 1]
    assert (torch.tensor([step for one in found for step in one.steps]) - due).abs().max() < 1e-5
    assert (due - due.roll(1)).abs().max() > 0.01


def test_rows_of_a_folded_model(tmp_path):
    fold_model(ratings_model(tmp_path / "source"), tmp_path / "folded")
    verified = read_verified_rows(tmp_path / "folded")
    assert len(verified.rows) == 4 and verified.passed
    found = RewardScorer.from_pretrained(tmp_path / "folded", dtype="float32").score(verified.conversations())
    assert found == pytest.approx([reward for (reward,) in verified.outputs], abs=1e-5)
    assert max(found) - min(found) > 1e-2
    fold_model(tmp_path / "source", tmp_path / "unverified", verify=False)
    with pytest.raises(UserError, match=r"unverified: expected verification.json, .* found none.*fold again"):
        read_verified_rows(tmp_path / "unverified")


def write(folder: Path, **record: object) -> Path:
    (folder / VERIFICATION).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"passed": True, "rewards": [1.0], "rewards_alone": [1.0]}, "expected the rows .* from before they were kept"),
        ({"rows": [], "rewards_alone": []}, "expected the rows"),
        ({"rows": [[1], [2]], "rewards_alone": []}, "finite outputs .* for 2 rows .* found 0 values"),
        ({"rows": [[1], [2]], "rewards_alone": [1.0, None]}, "finite outputs .* for 2 rows"),
        ({"rows": [[1], [2]], "rewards_alone": [1.0, 2.0, 3.0]}, "found 3 values"),
        ({"rows": [[1]], "rewards_alone": [], "problems": ["no room"]}, r"\(no room\)"),
    ],
)
def test_files_without_rows_are_refused(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        read_verified_rows(write(tmp_path, **record))


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / VERIFICATION).write_text("{")
    with pytest.raises(UserError, match="expected a file of JSON, found one that cannot be read"):
        read_verified_rows(tmp_path)
    with pytest.raises(UserError, match=r"expected verification.json, .* found none"):
        read_verified_rows(tmp_path / "nowhere")


def test_what_is_no_number_is_null(tmp_path):
    write_verification(tmp_path, {"rows": [], "rewards": [float("nan"), float("inf"), 1.0]})
    assert json.loads((tmp_path / VERIFICATION).read_text()) == {"rows": [], "rewards": [None, None, 1.0]}
