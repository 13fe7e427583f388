"""The loss of steps in every kind of batch against padded plain transformers, one row for each solution.

The reference is transformers' own token classifier under eager attention, rows padded on the right, and a cross-entropy
that is written out step by step: no reader, collator, class or loss of ours.
"""

import copy
import json
import math
from typing import NamedTuple

import pytest
import torch
from exactness import PAD, TOLERANCE, VOCAB_SIZE, differences, make_group
from tiny_families import tiny_config
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForTokenClassification

from reward_modeling.common.words import BATCHINGS, PADDED, SHARED_PREFIX
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import Chunk
from reward_modeling.data.shared_beginnings import shared_with_previous
from reward_modeling.models.process_format import ProcessFormat, make_process_model
from reward_modeling.models.reward_model import class_for, with_blocks
from reward_modeling.objectives.process import Process, step_losses
from reward_modeling.objectives.process_flags import ProcessFlags
from reward_modeling.objectives.step_reader import StepReader

NAN = math.nan
FAMILIES = ["gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe"]


class Solution(NamedTuple):
    lengths: list[int]  # tokens of each step, its separator included
    labels: list[float]


# A prompt's length and its solutions: hard and soft labels, unknown ones, one step alone.
PROMPTS = [
    (40, [Solution([5, 9, 30], [1, 0.9, 0]), Solution([1, 1, 17], [NAN, 0, NAN]), Solution([12], [0.25])]),
    (1, [Solution([3, 4], [1, 1])]),
    (23, [Solution([8, 40, 2, 6, 6], [1, NAN, 0.5, 0, 0]), Solution([7, 7], [0, NAN])]),
]


def objective(**flags: object) -> Process:
    return Process(ProcessFlags(**flags))


def plain_groups() -> list[dict]:
    found = []
    for seed, (prefix, solutions) in enumerate(PROMPTS, start=1):
        group = make_group(prefix, [sum(of.lengths) for of in solutions], seed, pairs=[(0, 0)])
        reads = [(torch.tensor(of.lengths).cumsum(0) + prefix - 1).tolist() for of in solutions]
        found.append(with_units(group, reads, [of.labels for of in solutions]))
    return found


def with_units(group: dict, reads: list[list[int]], labels: list[list[float]]) -> dict:
    """A unit for each completion, weighted by its labels."""
    weights = [float(sum(not math.isnan(label) for label in of)) for of in labels]
    units = [[number] for number in range(len(labels))]
    return group | {"units": units, "targets": labels, "weights": weights, "read_positions": reads}


def tree_group(seed: int, *, counted_once: bool) -> dict:
    """Alternatives as PRM800K has them: three steps in common, then two ways, of which one divides again.

    With `counted_once` the first chain alone has the labels of what it shares.
    """
    parts = make_group(12, [10, 9, 12, 20, 8, 11, 17], seed)["completion_ids"]
    trunk = parts[:3]
    chains = sorted(([*trunk, parts[3], parts[4]], [*trunk, parts[3], parts[5]], [*trunk, parts[6]]))
    labels = {id(part): label for part, label in zip(parts, [1.0, 0.9, 1.0, 0.0, 1.0, 0.75, 0.0], strict=True)}
    group = make_group(12, [1] * 3, seed)
    completions = [[token for part in chain for token in part] for chain in chains]
    reads, targets, counted = [], [], set()
    for chain in chains:
        reads.append((torch.tensor([len(part) for part in chain]).cumsum(0) + 11).tolist())
        targets.append([NAN if counted_once and id(part) in counted else labels[id(part)] for part in chain])
        counted |= {id(part) for part in chain}
    shared = shared_with_previous(completions, 0)
    assert sorted(shared) == [0, 31, 51]
    return with_units(group | {"completion_ids": completions, "shared_lengths": shared}, reads, targets)


def build(family: str, attention: str):
    if family == "gpt2":
        config = AutoConfig.for_model(
            "gpt2", vocab_size=VOCAB_SIZE, n_embd=64, n_layer=2, n_head=4, initializer_range=0.15, pad_token_id=PAD
        )
    else:
        config = tiny_config(family, VOCAB_SIZE, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
    config.num_labels = 2
    torch.manual_seed(0)
    if attention == "plain":
        return AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    make_process_model(config)
    if class_for(config) is None:
        return with_blocks(AutoModelForTokenClassification.from_config(config, attn_implementation="eager")).eval()
    return class_for(config)._from_config(copy.deepcopy(config), attn_implementation=attention).train()


def models(family: str):
    """Plain transformers' model, and ours in both attentions, with the same weights."""
    plain = build(family, "plain")
    with torch.no_grad():
        (plain.classifier if family == "gpt2" else plain.score).bias.copy_(torch.tensor([0.3, -0.2]))
    ours = [build(family, attention) for attention in ("eager", SHARED_PREFIX)]
    for model in ours:
        model.load_state_dict(plain.state_dict())
    return plain, *ours


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def computed(model, batching: str, rows: list[dict], cuts: int = 1, process: Process | None = None):
    """The losses of the solutions, and the gradients of a step that is cut into as many micro-batches."""
    process = process or objective()
    model.zero_grad()
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(rows)]
    total = sum(sum(group["weights"]) for group in rows)
    losses = []
    for start in range(cuts):
        batch = MicroBatchCollator(batching, PAD, process.collate)(chunks[start::cuts], dict(enumerate(rows)))
        of_units = process.loss(model(**batch["model_inputs"]).logits.float(), batch["targets"])
        ((of_units * batch["weights"]).sum() / total).backward()
        losses.append(of_units.detach())
    return torch.cat(losses), gradients(model)


def written_out(model, rows: list[dict], over: str = "steps", label_of=float):
    """Rows padded together; the mean over all steps with a label, or (a negative control) over the solutions."""
    model.zero_grad()
    sequences, reads, labels = [], [], []
    for group in rows:
        for number, ids in enumerate(group["completion_ids"]):
            sequences.append(torch.tensor(group["prefix_ids"] + ids))
            reads.append(group["read_positions"][number])
            labels.append(group["targets"][number])
    inputs = pad_sequence(sequences, batch_first=True, padding_value=PAD)
    mask = pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
    logits = model(input_ids=inputs, attention_mask=mask).logits
    losses, terms = [], []
    for row, of_row, known in zip(logits, reads, labels, strict=True):
        of_solution = []
        for place, label in zip(of_row, known, strict=True):
            if not math.isnan(label):
                wrong, right = row[place].softmax(dim=-1)
                y = label_of(label)
                of_solution.append(-(y * right.log() + (1 - y) * wrong.log()))
        losses.append(sum(of_solution) / len(of_solution))
        terms += of_solution
    (torch.stack(terms) if over == "steps" else torch.stack(losses)).mean().backward()
    return torch.stack(losses).detach(), gradients(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_against_plain_transformers(family):
    """The negative controls: labels cut to 0 and 1 as TRL does, a mean over solutions, steps read one token earlier."""
    plain, eager, fast = models(family)
    rows = plain_groups()
    reference = written_out(plain, rows)
    for batching in BATCHINGS:
        for cuts in (1, 2):
            model = eager if batching == PADDED else fast
            found, of_weights = computed(model, batching, rows, cuts)
            expected = reference[0] if cuts == 1 else torch.cat([reference[0][:3], reference[0][4:], reference[0][3:4]])
            assert max(differences((expected, reference[1]), (found, of_weights))) < TOLERANCE, (batching, cuts)
    found = computed(fast, SHARED_PREFIX, rows)
    assert min(differences(written_out(plain, rows, label_of=int), found)) > 1000 * TOLERANCE
    values, of_weights = differences(written_out(plain, rows, over="solutions"), found)
    assert values < TOLERANCE and of_weights > 1000 * TOLERANCE
    earlier = [
        group | {"read_positions": [[max(0, place - 1) for place in of] for of in group["read_positions"]]}
        for group in rows
    ]
    assert min(differences(written_out(plain, earlier), found)) > 1000 * TOLERANCE


def test_a_class_that_gives_all_logits_in_padded_rows():
    plain, eager, _ = models("gpt2")
    rows = plain_groups()
    assert max(differences(written_out(plain, rows), computed(eager, PADDED, rows))) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_alternatives_against_one_row_for_each(family):
    """A shared step counts once, computed once; counted in each row, the negative control, it weighs more."""
    plain, eager, fast = models(family)
    rows = [tree_group(1, counted_once=True), tree_group(2, counted_once=True), *plain_groups()[1:]]
    reference = written_out(plain, rows)
    for batching in BATCHINGS:
        found = computed(eager if batching == PADDED else fast, batching, rows)
        assert max(differences(reference, found)) < TOLERANCE, batching
    everywhere = [tree_group(1, counted_once=False), tree_group(2, counted_once=False), *plain_groups()[1:]]
    in_each = written_out(plain, everywhere)
    assert max(differences(in_each, computed(fast, SHARED_PREFIX, everywhere))) < TOLERANCE
    assert differences(in_each, found)[1] > 1000 * TOLERANCE


def test_a_tree_takes_the_tokens_of_its_branches_alone():
    group = tree_group(1, counted_once=True)
    collator = MicroBatchCollator(SHARED_PREFIX, PAD, Process.collate)
    batch = collator([Chunk(0, 0, 3, 0)], {0: group})
    assert batch["num_tokens"] == 12 + 10 + 9 + 12 + 20 + 8 + 11 + 17
    assert batch["row_tokens"] == 3 * (12 + 31) + 2 * 20 + 8 + 11 + 17
    assert len(batch["model_inputs"]["read_positions"]) == 7  # each step once


# --- the loss and what is kept of it ----------------------------------------------------------------------------------


def test_a_soft_label_stays_what_it_is():
    """0.9 is least at P(right) = 0.9; through the reader it comes out as it went in."""
    outputs = torch.tensor([[0.0, math.log(9.0)]], requires_grad=True)  # P(right) = 0.9
    loss = step_losses(outputs, torch.tensor([0.9]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)), abs=1e-6)
    assert outputs.grad.abs().max() < 1e-6
    row = {"steps": ["a", "b"], "parents": [-1, 0], "labels": [0.9, None]}
    example = StepReader().read_row(row)
    assert example.targets[0][0] == 0.9 and math.isnan(example.targets[0][1])
    assert json.loads(example.completions[0]) == ["a", "b"] and list(example.weights) == [1.0]


def test_what_is_not_known_leaks_nothing():
    """Whatever the outputs of steps without a label are; a mask that multiplies, the negative control, gives NaN."""
    labels = torch.tensor([0.5, NAN, 1.0])
    outputs = torch.tensor([[0.1, 0.3], [1e38, -math.inf], [2.0, -1.0]], requires_grad=True)
    losses = step_losses(outputs, labels)
    losses.sum().backward()
    assert losses[1] == 0 and torch.isfinite(losses).all()
    assert outputs.grad[1].abs().max() == 0
    naive = (-(labels * outputs.log_softmax(dim=1)[:, 1]) * ~torch.isnan(labels)).sum()
    assert torch.isnan(naive)


def test_last_step_only():
    row = {"steps": ["a", "b", "c", "d"], "parents": [-1, 0, 1, 0], "labels": [1.0, 0.0, 0.75, 0.0]}
    example = StepReader(last_step_only=True).read_row(row)
    assert [[each for each in of if not math.isnan(each)] for of in example.targets] == [[0.75], [0.0]]
    assert list(example.weights) == [1.0, 1.0]


def test_an_empty_micro_batch_has_no_loss():
    targets = Process.collate([], [])
    process, logits = objective(), torch.zeros(3, 2)
    assert process.loss(logits, targets).shape == (0,)
    assert process.sums(logits, targets).tolist() == [0, 0, 0, 0, 0]
    assert process.evaluated(logits, targets) == [] and process.figures([0.0] * 5) == {}


def test_figures_of_training():
    """Labels of one half are neither; P(right) = one half says wrong."""
    targets = Process.collate([[0, 1, 2], [3, 4]], [[1.0, 0.9, 0.5], [0.0, 0.2]])
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    sums = objective().sums(logits, targets).tolist()
    assert sums == [2, 2, 2, 1, 2]
    assert objective().figures(sums) == {"step_accuracy": 0.75, "right_steps": 0.5, "balanced_accuracy": 0.75}


def test_flags_make_the_format():
    assert objective().format == ProcessFormat()
    assert objective(step_separator="\\n", prompt_format="plain").format == ProcessFormat("\n", chat=False)
    process = objective(prompt_format="plain")
    process.go_on_from({"process": {"separator": "<extra_0>", "chat": True, "outcome": False, "aggregation": "min"}})
    assert process.format == ProcessFormat("<extra_0>", chat=False)
    assert process.reader == StepReader("<extra_0>", chat=False)
