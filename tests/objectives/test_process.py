"""The objective of steps, by hand: its loss, its sums and figures, and how the flags say what is read.

The loss of whole batches against plain transformers is in test_step_losses.py.
"""

import json
import math

import pytest
import torch
from stepped_rows import outcome_rows, stepped_rows
from test_step_losses import groups_of, tokenizer_of

from reward_modeling.common.errors import UserError
from reward_modeling.models.process_format import ProcessFormat
from reward_modeling.objectives.process import Process, step_losses
from reward_modeling.objectives.process_flags import ProcessFlags
from reward_modeling.objectives.step_reader import StepReader

pytestmark = pytest.mark.usefixtures("own_cache")
NAN = math.nan


def test_soft_labels_stay_as_they_are():
    """0.9 is learned as 0.9: the loss is least where P(right) is, and not at 0 as int(0.9) would have it."""
    labels = torch.tensor([0.9, 0.1, 1.0, NAN])
    outputs = torch.zeros(4, 2, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        step_losses(outputs, labels).sum().backward()
        optimizer.step()
    right = outputs.detach().softmax(dim=1)[:, 1]
    assert right[:2].tolist() == pytest.approx([0.9, 0.1], abs=1e-3)
    assert right[2] > 0.99 and right[3] == 0.5


def test_what_is_not_known_leaks_nothing():
    """Whatever the outputs there; a mask that multiplies, the negative control, gives NaN."""
    objective = Process(ProcessFlags())
    logits = torch.tensor([[0.0, 1.0], [3e38, -3e38], [2.0, 0.0], [math.inf, 0.0]], requires_grad=True)
    targets = objective.collate([[0, 1], [2, 3]], [[1.0, NAN], [0.25, NAN]])
    losses = objective.loss(logits, targets)
    losses.sum().backward()
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    assert losses.tolist() == pytest.approx([-math.log(p), -0.25 * math.log(q) - 0.75 * math.log(1 - q)])
    assert logits.grad[[0, 2]].flatten().tolist() == pytest.approx([1 - p, p - 1, 0.25 - q, q - 0.25])
    assert not logits.grad[[1]].any()


@pytest.mark.parametrize(("form", "chains"), [("chat", [[0.5, 1.0]]), ("plain", [[0.0], [1.0, 1.0]])])
def test_alternatives_that_differ_in_outer_white_space_are_one(form, chains, tmp_path):
    """Where it goes, they have the same tokens; in TRL's form, the control, it stays, and they are two."""
    alternatives = [{"text": "Add two.", "label": 1, "chosen": True}, {"text": "Add two. ", "label": 0}]
    rows = [{"prompt": "How many?", "steps": [alternatives, {"text": "So five.", "label": 1}]}]
    objective = Process(ProcessFlags(prompt_format=form))
    groups = groups_of(rows, tokenizer_of("qwen2"), objective, tmp_path)
    assert sorted(of.tolist() for of in groups.target_lists()) == chains


def test_sums_add_up_however_a_step_is_cut():
    """And a micro-batch without solutions adds nothing."""
    objective = Process(ProcessFlags())
    draw = torch.Generator().manual_seed(1)
    sizes = [3, 1, 4, 2]
    targets = [[1.0, 0.0, NAN], [0.9], [0.0, 1.0, 0.5, 0.1], [NAN, 1.0]]
    logits = torch.randn(sum(sizes), 2, generator=draw)

    def of(first: int, last: int):
        start = sum(sizes[:first])
        units, place = [], 0
        for size in sizes[first:last]:
            units.append(list(range(place, place + size)))
            place += size
        batch, part = objective.collate(units, targets[first:last]), logits[start : start + place]
        return objective.sums(part, batch), objective.loss(part, batch), objective.evaluated(part, batch)

    whole, parts = of(0, 4), [of(0, 1), of(1, 1), of(1, 3), of(3, 4)]
    assert torch.stack([part[0] for part in parts]).sum(dim=0).tolist() == pytest.approx(whole[0].tolist())
    assert torch.cat([part[1] for part in parts]).tolist() == pytest.approx(whole[1].tolist())
    rows = [value for part in parts for row in part[2] for value in row]
    assert rows == pytest.approx([value for row in whole[2] for value in row])
    figures = objective.figures(whole[0].tolist())
    labels = torch.tensor([target for unit in targets for target in unit])
    says, known = logits[:, 1] >= logits[:, 0], (labels == labels) & (labels != 0.5)
    agree = says == (labels > 0.5)
    of_right, of_wrong = agree[known & (labels > 0.5)].float().mean(), agree[known & (labels < 0.5)].float().mean()
    assert figures["step_accuracy"] == pytest.approx(agree[known].float().mean().item())
    assert figures["balanced_accuracy"] == pytest.approx(((of_right + of_wrong) / 2).item())


def test_whole_answers_make_an_outcome_model(tmp_path):
    tokenizer, objective = tokenizer_of("qwen2"), Process(ProcessFlags())
    objective.fit(groups_of(outcome_rows(6, seed=2), tokenizer, objective, tmp_path))
    assert objective.saved_values()["process"] == {
        "separator": "\n\n",
        "chat": True,
        "outcome": True,
        "aggregation": "min",
    }
    objective.fit(groups_of(stepped_rows(6, seed=2), tokenizer, objective, tmp_path))
    assert objective.saved_values()["process"]["outcome"] is False


def test_a_separator_without_tokens_is_refused():
    tokenizer = tokenizer_of("mistral")
    objective = Process(ProcessFlags(step_separator="\u200b"))
    if tokenizer("\u200b", add_special_tokens=False)["input_ids"]:
        objective.take_tokenizer(tokenizer)
        return
    with pytest.raises(UserError, match="expected a text that has tokens"):
        objective.take_tokenizer(tokenizer)


def test_flags_go_on_from_the_model():
    saved = json.loads('{"process": {"separator": "\\n", "chat": false, "outcome": true, "aggregation": "last"}}')
    objective = Process(ProcessFlags())
    objective.go_on_from(saved)
    assert (objective.reader.separator, objective.reader.chat) == ("\n", False)
    given = Process(ProcessFlags(step_separator="\\n\\n", prompt_format="chat"))
    given.go_on_from(saved)
    assert (given.reader.separator, given.reader.chat) == ("\n\n", True)


def test_an_empty_micro_batch_has_no_loss():
    process, logits = Process(ProcessFlags()), torch.zeros(3, 2)
    targets = process.collate([], [])
    assert process.loss(logits, targets).shape == (0,)
    assert process.sums(logits, targets).tolist() == [0, 0, 0, 0, 0]
    assert process.evaluated(logits, targets) == [] and process.figures([0.0] * 5) == {}


def test_figures_of_training():
    """Labels of one half are neither; P(right) = one half says right, whatever the label."""
    process = Process(ProcessFlags())
    targets = process.collate([[0, 1, 2], [3, 4, 5]], [[1.0, 0.9, 0.5], [0.0, 0.2, 0.8]])
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    sums = process.sums(logits, targets).tolist()
    # right are the first, second and last, of which the second is not found; wrong the fourth and, not found, the fifth
    assert sums == [2, 3, 2, 2, 1]
    figures = {"step_accuracy": 3 / 5, "right_steps": 3 / 5, "balanced_accuracy": (2 / 3 + 1 / 2) / 2}
    assert process.figures(sums) == pytest.approx(figures)


def test_flags_make_the_format():
    assert Process(ProcessFlags()).format == ProcessFormat()
    given = Process(ProcessFlags(step_separator="\\n", prompt_format="plain"))
    assert given.format == ProcessFormat("\n", chat=False) and given.reader == StepReader("\n", chat=False)
    process = Process(ProcessFlags(prompt_format="plain"))  # what is given stays, the rest is the model's
    process.go_on_from({"process": {"separator": "<extra_0>", "chat": True, "outcome": False, "aggregation": "min"}})
    assert process.format == ProcessFormat("<extra_0>", chat=False)
