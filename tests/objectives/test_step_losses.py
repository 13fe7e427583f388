"""The loss of steps in every kind of batch against one written out from plain transformers: values and all gradients.

The reference has each chain of steps alone in a row of the plain token classifier, and takes steps and labels from the
rows as they were written: no reader, collator or loss of ours. A step that several chains of a tree have is one step.
"""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from exactness import TOLERANCE, differences
from runs import write_rows
from stepped_rows import RIGHT, WRONG, chains_in, stepped_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoConfig, AutoModelForTokenClassification

from reward_modeling.common.words import BATCHINGS, PACKED, PADDED, SHARED_PREFIX
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.group_rows import TokenizeOptions
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import Chunk
from reward_modeling.data.prompt_groups import tokenize_and_group
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.models.reward_model import process_model_class, with_blocks
from reward_modeling.objectives.process import Process, step_losses
from reward_modeling.objectives.process_flags import ProcessFlags
from reward_modeling.tiny.preferences import TEXTS
from reward_modeling.tiny.tokenizers import token_ids

pytestmark = pytest.mark.usefixtures("own_cache")
NAN = math.nan
STYLES = {  # of families: BOS by template and tokenizer, no BOS, spaces of SentencePiece, soft caps, windows, experts
    "gemma": "gemma",
    "gemma2": "gemma",
    "gpt2": "chatml",
    "llama": "llama3",
    "mistral": "mistral",
    "qwen2": "chatml",
    "qwen3": "chatml",
    "qwen3_moe": "chatml",
}
PROBE = "the answer stands here"
NO_OPTIONS = ReadOptions()


class Step(NamedTuple):
    row: list[int]
    place: int
    label: float
    times: int  # how many chains it stands in


def tokenizer_of(family: str):
    texts = [*RIGHT, *WRONG, *TEXTS["neutral"], *TEXTS["openings"], *TEXTS["tasks"], *TEXTS["occasions"], "\n\n", "?!"]
    return train_tokenizer(texts, 500, **TOKENIZER_STYLES[STYLES[family]])


def steps_of(rows: list[dict], tokenizer, separator: str = "\n\n", chat: bool = True) -> list[Step]:
    """Every step that has a label, once, with the row of tokens of the first chain that it stands in."""
    found: dict[tuple, Step] = {}
    for row in rows:
        before = row["prompt"]
        if chat:
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": PROBE}]
            before = tokenizer.apply_chat_template(turns, tokenize=False).partition(PROBE)[0]
        for steps, labels in chains_in(row):
            ids = tokenizer(before, add_special_tokens=not chat)["input_ids"]
            places = []
            for step in steps:
                for piece in [step, separator] if separator else [step]:
                    ids = ids + tokenizer(piece, add_special_tokens=False)["input_ids"]
                places.append(len(ids) - 1)
            for number, (place, label) in enumerate(zip(places, labels, strict=True)):
                key = (row["prompt"], *steps[: number + 1])
                if label is not None:
                    times = found[key].times if key in found else 0
                    found[key] = Step(ids, place, label, times + 1)
    return list(found.values())


def plain_model(family: str, tokenizer):
    config = tiny_config(family, len(tokenizer), **token_ids(tokenizer))
    config.num_labels = 2
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()  # no dropout
    with torch.no_grad():
        model.score.weight.normal_(std=0.1)
        model.score.bias.normal_()
    return model


def written_out(model, steps: list[Step], *, shift: int = 0, whole: bool = False, repeated: bool = False):
    """The cross-entropy of each step, and their mean.

    Negative controls: read `shift` tokens before; labels as `whole` numbers, as TRL's int() has them; the steps that
    chains share `repeated` in each.
    """
    model.zero_grad()
    losses, weights = [], []
    for step in steps:
        logits = model(torch.tensor([step.row])).logits[0, step.place - shift]
        right = torch.exp(logits[1]) / torch.exp(logits).sum()
        label = int(step.label) if whole else step.label
        losses.append(-label * torch.log(right) - (1 - label) * torch.log(1 - right))
        weights.append(step.times if repeated else 1)
    values = torch.stack(losses)
    ((values * torch.tensor(weights)).sum() / sum(weights)).backward()
    return values.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def groups_of(rows: list[dict], tokenizer, objective: Process, folder: Path) -> PromptGroups:
    path = write_rows(folder / "rows.jsonl", rows)
    standard = objective.reader.load_rows(str(path), 1, NO_OPTIONS)
    assert set(standard["reason"]) == {""}
    return PromptGroups(tokenize_and_group(standard, tokenizer, objective.reader, TokenizeOptions(1000)))


def batch_of(batching: str, groups: PromptGroups, pad: int, objective: Process) -> dict:
    (batch,) = batches_of(batching, groups, pad, objective, 1)
    return batch


def batches_of(batching: str, groups: PromptGroups, pad: int, objective: Process, cuts: int) -> list[dict]:
    count, rows = groups.sizes.units_per_group.tolist(), dict(enumerate(groups.groups.to_list()))
    chunks = [Chunk(number, 0, units, 0) for number, units in enumerate(count)]
    collator = MicroBatchCollator(batching, pad, objective.collate)
    return [collator(chunks[start::cuts], rows) for start in range(cuts)]


def computed(model, batch: dict | list[dict], objective: Process, *, by_chain: bool = False):
    """The losses of steps, and gradients of the mean as the trainer takes it; or of a mean over chains.

    Args:
        batch: of a whole step, or the micro-batches of one.
    """
    model.zero_grad()
    losses, batches = [], batch if isinstance(batch, list) else [batch]
    weights = [torch.ones_like(of["weights"]) if by_chain else of["weights"] for of in batches]
    total = sum(of.sum() for of in weights)
    for one, of in zip(batches, weights, strict=True):
        logits, labels = model(**one["model_inputs"]).logits.float(), one["targets"]["labels"]
        ((objective.loss(logits, one["targets"]) * of).sum() / total).backward()
        losses.append(step_losses(logits[one["targets"]["steps"]], labels)[~torch.isnan(labels)].detach())
    return torch.cat(losses).sort().values, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def in_order(of_reference):
    values, gradients = of_reference
    return values.sort().values, gradients


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return stepped_rows(9, seed=5)


@pytest.mark.parametrize("family", [family for family in STYLES if family != "gpt2"])
def test_every_batch_against_plain_transformers(family, rows, tmp_path):
    tokenizer, objective = tokenizer_of(family), Process(ProcessFlags())
    plain = plain_model(family, tokenizer)
    models = {}
    for attention in ("eager", SHARED_PREFIX):
        models[attention] = process_model_class(type(plain.config))._from_config(
            plain.config, attn_implementation=attention
        )
        models[attention].load_state_dict(plain.state_dict())
    groups = groups_of(rows, tokenizer, objective, tmp_path)
    steps = steps_of(rows, tokenizer)
    assert {step.label for step in steps} == {0.0, 0.1, 0.9, 1.0} and max(step.times for step in steps) > 2
    reference = in_order(written_out(plain, steps))
    tokens = {}
    for batching in BATCHINGS:
        batch = batch_of(batching, groups, plain.config.pad_token_id or 0, objective)
        tokens[batching] = batch["num_tokens"]
        found = computed(models["eager" if batching == PADDED else SHARED_PREFIX].train(), batch, objective)
        assert max(differences(reference, found)) < TOLERANCE
    cut = batches_of(SHARED_PREFIX, groups, plain.config.pad_token_id or 0, objective, 3)
    assert max(differences(reference, computed(models[SHARED_PREFIX], cut, objective))) < TOLERANCE
    assert tokens[SHARED_PREFIX] < 0.75 * tokens[PACKED]  # and in the place of a row for each alternative, a tree
    controls = ({"shift": 1}, {"whole": True}, {"repeated": True})
    others = [in_order(written_out(plain, steps, **control)) for control in controls]
    others.append(computed(models[SHARED_PREFIX], batch, objective, by_chain=True))
    for other in others:
        assert max(differences(other, found)) > 100 * TOLERANCE


def test_a_class_that_gives_all_logits_in_padded_rows(rows, tmp_path):
    tokenizer, objective = tokenizer_of("gpt2"), Process(ProcessFlags())
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), num_labels=2, **sizes, **token_ids(tokenizer))
    torch.manual_seed(0)
    plain = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    ours = with_blocks(AutoModelForTokenClassification.from_config(config, attn_implementation="eager")).eval()
    ours.load_state_dict(plain.state_dict())
    steps, batch = (
        steps_of(rows, tokenizer),
        batch_of(PADDED, groups_of(rows, tokenizer, objective, tmp_path), 0, objective),
    )
    found = computed(ours, batch, objective)
    assert max(differences(in_order(written_out(plain, steps)), found)) < TOLERANCE
    assert max(differences(in_order(written_out(plain, steps, shift=1)), found)) > 100 * TOLERANCE


@pytest.mark.parametrize("labels", [([1, 0], [0, 1]), ([1, 0], [1, 0]), ([1, 0], [0])], ids=str)
def test_equal_tokens_in_other_steps(labels, tmp_path):
    """Two solutions whose tokens are the same, cut into steps at other places: each is read where its own steps end."""
    tokenizer, objective = tokenizer_of("qwen2"), Process(ProcessFlags(step_separator="\\n"))
    a, b, c = (text.rstrip(".!") for text in RIGHT[:3])
    whole = len(labels[1]) == 1
    solutions = [f"{a}\n{b}", c], [f"{a}\n{b}\n{c}"] if whole else [a, f"{b}\n{c}"], [b, a]
    rows = [
        {"prompt": TEXTS["tasks"][0], "completions": steps, "labels": of}
        for steps, of in zip(solutions, (*labels, [1, 0]), strict=True)
    ]
    groups = groups_of(rows, tokenizer, objective, tmp_path)
    (group,) = groups.groups.to_list()
    assert not group["dropped_reason"] and group["targets"] == [row["labels"] for row in rows]
    for (number,), row in zip(group["units"], rows, strict=True):
        ids, steps = group["prefix_ids"] + group["completion_ids"][number], row["completions"]
        texts = [tokenizer.decode(ids[: end + 1]) for end in group["read_positions"][number]]
        assert [text.rpartition("assistant\n")[2] for text in texts] == [
            "\n".join([*steps[:count], ""]) for count in range(1, len(steps) + 1)
        ]
    plain = plain_model("qwen2", tokenizer)
    first, second, last = (steps_of([row], tokenizer, "\n") for row in rows)
    assert first[0].row == second[0].row and first[0].place != second[0].place  # what this test is about
    moved = [own._replace(place=other.place) for own, other in zip(second, first, strict=False)]
    reference, control = (in_order(written_out(plain, [*first, *steps, *last])) for steps in (second, moved))
    for batching in BATCHINGS:
        attention = "eager" if batching == PADDED else SHARED_PREFIX
        fast = process_model_class(type(plain.config))._from_config(plain.config, attn_implementation=attention)
        fast.load_state_dict(plain.state_dict())
        found = computed(fast.train(), batch_of(batching, groups, plain.config.pad_token_id or 0, objective), objective)
        assert max(differences(reference, found)) < TOLERANCE
        assert max(differences(control, found)) > 100 * TOLERANCE


@pytest.mark.parametrize(("separator", "flag"), [("", ""), ("\n", "\\n"), (" ?! ", " ?! ")], ids=repr)
def test_other_separators(separator, flag, rows, tmp_path):
    """And the form of TRL, whose prompts stand as they are."""
    tokenizer = tokenizer_of("llama")
    for form in ("chat", "plain"):
        objective = Process(ProcessFlags(step_separator=flag, prompt_format=form))
        plain = plain_model("llama", tokenizer)
        fast = process_model_class(type(plain.config))._from_config(plain.config, attn_implementation=SHARED_PREFIX)
        fast.load_state_dict(plain.state_dict())
        groups = groups_of(rows, tokenizer, objective, tmp_path)
        steps = steps_of(rows, tokenizer, separator, chat=form == "chat")
        found = computed(fast.train(), batch_of(SHARED_PREFIX, groups, 0, objective), objective)
        assert max(differences(in_order(written_out(plain, steps)), found)) < TOLERANCE


def test_trees_are_rows_for_each_alternative(rows, tmp_path):
    """Their steps, each with its label in the first row alone, give the same loss and the same gradients."""
    tokenizer, objective = tokenizer_of("qwen2"), Process(ProcessFlags())
    flat, seen = [], set()
    for row in rows:
        for steps, labels in chains_in(row):
            keys = [(row["prompt"], *steps[: number + 1]) for number in range(len(steps))]
            own = [None if key in seen else label for key, label in zip(keys, labels, strict=True)]
            seen.update(keys)
            if any(label is not None for label in own):
                flat.append({"prompt": row["prompt"], "completions": steps, "labels": own})
    assert len(flat) > 1.5 * len(rows)
    plain = plain_model("qwen2", tokenizer)
    fast = process_model_class(type(plain.config))._from_config(plain.config, attn_implementation=SHARED_PREFIX)
    fast.load_state_dict(plain.state_dict())
    results, tokens = [], []
    for given, batching in ((rows, SHARED_PREFIX), (flat, PACKED)):
        batch = batch_of(batching, groups_of(given, tokenizer, objective, tmp_path), 0, objective)
        results.append(computed(fast, batch, objective))
        tokens.append((batch["num_tokens"], batch["weights"].sum().item()))
    assert max(differences(*results)) < TOLERANCE
    assert tokens[0][0] < 0.75 * tokens[1][0] and tokens[0][1] == tokens[1][1]


def test_the_last_steps_alone(rows, tmp_path):
    """Of each chain of a tree."""
    tokenizer, objective = tokenizer_of("qwen2"), Process(ProcessFlags(last_step_only=True))
    ends = {}
    for row in rows:
        for steps, labels in chains_in(row):
            ends[row["prompt"], tuple(steps)] = labels[-1]
    labels = sorted(label for label in ends.values() if label is not None)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    standard = objective.reader.load_rows(str(path), 1, NO_OPTIONS)
    groups = PromptGroups(tokenize_and_group(standard, tokenizer, objective.reader, TokenizeOptions(1000)))
    targets = [target for group in groups.groups["targets"] for unit in group for target in unit]
    assert sorted(target for target in targets if target == target) == pytest.approx(labels)
    assert set(groups.sizes.unit_weights.tolist()) == {1.0}
