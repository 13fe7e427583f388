"""Padded rows in blocks against one row at a time in plain transformers: rewards and every parameter's gradient."""

import copy

import pytest
import torch
from exactness import PAD, TOLERANCE, VOCAB_SIZE, differences, make_group
from tiny_classifiers import tiny_classifier_config
from tiny_families import tiny_config
from transformers import AutoModelForSequenceClassification

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.micro_batches import block_shapes
from reward_modeling.data.planning import PADDED, GroupSizes, plan_epoch
from reward_modeling.models.adapters import add_adapter
from reward_modeling.models.reward_model import BlocksMixin, reward_model_class, with_blocks
from reward_modeling.objectives.bradley_terry import BradleyTerry, bradley_terry_loss

FAMILIES = ["bert", "deberta-v2", "modernbert", "gemma"]  # three encoders, and a decoder with --batching padded


def plain_model(family: str):
    options = {"num_labels": 1, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
    tiny = tiny_classifier_config if family == "xlnet" else tiny_config
    config = tiny(family, VOCAB_SIZE, **options)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").train()
    for name, parameter in model.named_parameters():  # a new model's biases are zero, and so would be mistakes in them
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def model_with_blocks(family: str):
    """The same weights in the class that is trained."""
    plain = plain_model(family)
    own_class = reward_model_class(type(plain.config))
    if own_class is None:
        return with_blocks(plain)
    model = own_class._from_config(copy.deepcopy(plain.config), attn_implementation="eager").train()
    model.load_state_dict(plain.state_dict())
    return model


def groups_of_many_lengths() -> list[dict]:
    """Pairs of like and of very different lengths, and groups whose pairs share rows."""
    lengths = [(10, [60, 3]), (2, [40, 41]), (30, [4, 50]), (5, [9, 8]), (1, [1, 2]), (20, [20, 21]), (3, [70, 5])]
    groups = [make_group(prefix, answers, seed) for seed, (prefix, answers) in enumerate(lengths)]
    return [*groups, make_group(15, [5, 30, 12, 48], seed=7), make_group(6, [7, 7, 33], seed=8)]


def one_row_at_a_time(model, groups: list[dict]):
    """The mean loss over all pairs, in the plainest way: {(group, completion): reward} and gradients."""
    rewards, losses = {}, []
    for number, group in enumerate(groups):
        for place, ids in enumerate(group["completion_ids"]):
            row = torch.tensor([[*group["prefix_ids"], *ids]])
            rewards[number, place] = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0]
        losses += [
            bradley_terry_loss(rewards[number, chosen], rewards[number, rejected])
            for chosen, rejected in group["units"]
        ]
    torch.stack(losses).mean().backward()
    return rewards, gradients_of(model)


def in_blocks(model, groups: list[dict], max_tokens: int, processes: int, change=lambda inputs: inputs, side="right"):
    """The step's rewards and gradients over all micro-batches of all processes, and the shapes that were computed."""
    plan = plan_epoch(
        GroupSizes.from_rows(groups), units_per_step=100, max_tokens=max_tokens, batching=PADDED, seed=0, epoch=0
    )
    collator = MicroBatchCollator(PADDED, PAD, BradleyTerry.collate, padding_side=side)
    rewards, shapes = {}, []
    for micro_batch in [micro_batch for of in plan.micro_batches(0, processes) for micro_batch in of]:
        batch = collator(micro_batch, dict(enumerate(groups)))
        logits = model(**change(batch["model_inputs"])).logits.float()
        (0.0 * logits.sum() + bradley_terry_loss(*logits[:, 0][batch["targets"]["pairs"]].unbind(1)).sum()).backward()
        units = [(of.group, unit) for of in micro_batch if of.counted for unit in range(of.unit_start, of.unit_end)]
        for (group, unit), pair in zip(units, batch["targets"]["pairs"].tolist(), strict=True):
            for place, row in zip(groups[group]["units"][unit], pair, strict=True):
                rewards[group, place] = logits[row, 0]
        shapes.append(block_shapes(micro_batch))
    return rewards, {name: gradient / plan.step_units(0) for name, gradient in gradients_of(model).items()}, shapes


def gradients_of(model) -> dict[str, torch.Tensor]:
    named = model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def far_apart(reference, found) -> float:
    """The larger of the differences of rewards and gradients."""
    (rewards, gradients), (fast, fast_gradients) = reference, found
    assert rewards.keys() == fast.keys() and gradients.keys() == fast_gradients.keys()
    both = (torch.stack([of[key] for key in rewards]).detach() for of in (rewards, fast))
    return max(differences(*zip(both, (gradients, fast_gradients), strict=True)))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [160, 300, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_and_gradients_are_those_of_one_row_at_a_time(family, max_tokens, processes):
    groups = groups_of_many_lengths()
    reference = one_row_at_a_time(plain_model(family), groups)
    rewards, gradients, shapes = in_blocks(model_with_blocks(family), groups, max_tokens, processes)
    assert max(map(len, shapes)) > 1
    assert far_apart(reference, (rewards, gradients)) < TOLERANCE


@pytest.mark.parametrize("max_tokens", [160, 300])
def test_a_model_that_reads_the_last_place_is_padded_on_the_left(max_tokens):
    """XLNet; padded on the right, the negative control, its summary is that of padding."""
    groups = groups_of_many_lengths()
    reference = one_row_at_a_time(plain_model("xlnet"), groups)
    rewards, gradients, shapes = in_blocks(model_with_blocks("xlnet"), groups, max_tokens, 2, side="left")
    assert max(map(len, shapes)) > 1
    assert far_apart(reference, (rewards, gradients)) < TOLERANCE
    rewards, gradients, _ = in_blocks(model_with_blocks("xlnet"), groups, max_tokens, 2)
    assert far_apart(reference, (rewards, gradients)) > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_in_another_order_are_found(family):
    """The negative control: the same blocks, whose logits are taken for each other's."""
    groups = groups_of_many_lengths()
    reference = one_row_at_a_time(plain_model(family), groups)

    def reversed_blocks(inputs: dict) -> dict:
        return {"blocks": inputs["blocks"][::-1]} if "blocks" in inputs else inputs

    rewards, gradients, _ = in_blocks(model_with_blocks(family), groups, 300, 1, reversed_blocks)
    assert far_apart(reference, (rewards, gradients)) > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_padding_that_is_attended_to_is_found(family):
    """The other one: masks of ones."""
    groups = groups_of_many_lengths()
    reference = one_row_at_a_time(plain_model(family), groups)

    def unmasked(inputs: dict) -> dict:
        blocks = inputs.get("blocks", [inputs])
        return {"blocks": [block | {"attention_mask": torch.ones_like(block["input_ids"])} for block in blocks]}

    rewards, gradients, _ = in_blocks(model_with_blocks(family), groups, 300, 1, unmasked)
    assert far_apart(reference, (rewards, gradients)) > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_takes_blocks(family):
    groups = groups_of_many_lengths()
    reference = one_row_at_a_time(plain_model(family), groups)
    model = model_with_blocks(family)
    model.gradient_checkpointing_enable()
    rewards, gradients, _ = in_blocks(model, groups, 300, 1)
    assert far_apart(reference, (rewards, gradients)) < TOLERANCE


@pytest.mark.parametrize("family", ["bert", "gemma"])
def test_an_adapter_takes_blocks(family):
    """peft names all arguments that a model may take, as None."""
    groups = groups_of_many_lengths()
    options = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "model_name": "", "revision": None}
    torch.manual_seed(0)
    adapted = add_adapter(model_with_blocks(family), **options)
    one_block = in_blocks(adapted, groups, 10**9, 1, as_single_rows)
    adapted.zero_grad()
    found = in_blocks(adapted, groups, 300, 2)
    assert found[1] and max(map(len, found[2])) > 1
    assert far_apart(one_block[:2], found[:2]) < TOLERANCE


def as_single_rows(inputs: dict) -> dict:
    """Each row as a block of its own, without its padding."""
    rows = []
    for block in inputs.get("blocks", [inputs]):
        width = block["input_ids"].shape[1]
        for number, read in enumerate((block["read_positions"] % width).tolist()):
            length = int(block["attention_mask"][number].sum())
            row = {name: block[name][number : number + 1, :length] for name in ("input_ids", "attention_mask")}
            rows.append(row | {"read_positions": torch.tensor([read])})
    return {"blocks": rows}


def test_the_class_keeps_its_name_and_the_forward_of_transformers():
    """What is saved names the class, and what a library calls it with is what it takes."""
    model, plain = with_blocks(plain_model("bert")), plain_model("bert")
    assert isinstance(model, BlocksMixin) and isinstance(model, type(plain))
    assert (type(model).__name__, type(model).__module__) == (type(plain).__name__, type(plain).__module__)
    assert type(with_blocks(model)) is type(model)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = plain(ids).logits
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(input_ids=ids, read_positions=torch.tensor([2])).logits, expected)
