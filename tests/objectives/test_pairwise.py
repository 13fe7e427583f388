"""The loss of comparisons in every kind of batch against one written out: padded rows of the plain model, by hand.

The reference writes the question down itself, has the tokenizer's own chat template render it, and takes the labels
from the rows as they were written: no reader, composer, collator or loss of ours.
"""

import copy
import itertools
import math

import pytest
import torch
from datasets import Dataset
from exactness import TOLERANCE, differences
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification

from reward_modeling.common.words import BATCHINGS, PACKED, PADDED, SHARED_PREFIX
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import Chunk
from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.models.tokenizer import set_pad_token, token_ids
from reward_modeling.objectives.held_out_comparisons import EvaluatedComparisons, comparison_figures
from reward_modeling.objectives.pairwise import Pairwise, comparison_loss
from reward_modeling.objectives.pairwise_flags import PairwiseFlags
from reward_modeling.tiny.tokenizers import token_ids as special_token_ids

pytestmark = pytest.mark.usefixtures("own_cache")
FAMILIES = ["gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "qwen3_moe"]
CORPUS = [
    "[CONTEXT] <turn> user assistant [RESPONSE A] First wait. [RESPONSE B] Then?\n",
    "How do I mend a kettle? " * 5,
]
LONG = "How do I mend a kettle with little money and little time, and wait no longer than I have to?"
# Pairs with labels, a prompt of several rows, a list of which two answers tie.
ROWS = [
    {"prompt": LONG, "chosen": "First unplug it, then wait.", "rejected": "Then?", "chosen_probability": 0.7},
    {"prompt": LONG, "chosen": "Wait.", "rejected": "First unplug it, then wait.", "weight": 2.0},
    {"prompt": "How?", "chosen": "Wait, and wait again.", "rejected": "No.", "chosen_probability": 0.5, "weight": 0.5},
    {
        "prompt": "And then?",
        "completions": ["Wait for a long time, as I said.", "Mend the kettle, as I said.", "No.", "Then wait again."],
        "ranks": [1, 2, 2, 3],
        "weight": 3.0,
    },
]


@pytest.fixture(scope="module")
def tokenizer():
    trained = train_tokenizer(CORPUS, 330, **TOKENIZER_STYLES["llama3"])
    set_pad_token(trained)
    return trained


@pytest.fixture
def groups(tokenizer) -> list[dict]:
    rows = [standardise_row(row, f"rows:{number}") for number, row in enumerate(ROWS, start=1)]
    reader = Pairwise(PairwiseFlags()).reader
    grouped = tokenize_and_group(
        Dataset.from_list(rows, features=STANDARD_FEATURES), tokenizer, reader, TokenizeOptions(1000)
    )
    assert any(map(any, grouped["shared_lengths"]))  # more than the context is shared
    return grouped.to_list()


def comparisons() -> list[tuple[str, str, str, float, float]]:
    """Prompt, better answer, worse answer, probability and weight of each pair, from the rows as they stand."""
    found = []
    for row in ROWS:
        if "completions" not in row:
            found.append(
                (
                    row["prompt"],
                    row["chosen"],
                    row["rejected"],
                    row.get("chosen_probability", 1.0),
                    row.get("weight", 1.0),
                )
            )
            continue
        ranked = list(zip(row["completions"], row["ranks"], strict=True))
        pairs = [
            (one, other) for (one, of_one), (other, of_other) in itertools.product(ranked, ranked) if of_one < of_other
        ]
        found += [(row["prompt"], *pair, 1.0, row["weight"] / len(pairs)) for pair in pairs]
    return found


def tokens_of(tokenizer, prompt: str, first: str, second: str, generation_prompt: bool = True) -> list[int]:
    question = f"[CONTEXT] \n\n<turn> user\n {prompt}\n [RESPONSE A] {first} [RESPONSE B] {second} \n"
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=generation_prompt, return_dict=False)


def build(family: str, tokenizer, attention: str | None):
    """Of the plain class of transformers where no attention is named."""
    config = tiny_config(family, len(tokenizer), **special_token_ids(tokenizer))
    config.num_labels = 1
    torch.manual_seed(0)
    if attention is None:
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").train()
    return reward_model_class(type(config))._from_config(copy.deepcopy(config), attn_implementation=attention).train()


def written_out(model, tokenizer, *, generation_prompt: bool = True, orders: int = 2):
    """Mean losses of the orders, and the gradients of their weighted mean."""
    model.zero_grad()
    losses, weights = [], []
    for prompt, better, worse, p, weight in comparisons():
        of_orders = []
        for first, second, of_first in ((better, worse, p), (worse, better, 1 - p)):
            ids = tokens_of(tokenizer, prompt, first, second, generation_prompt)
            logit = model(input_ids=torch.tensor([ids])).logits[0, 0]
            probability = 1 / (1 + torch.exp(-logit))
            of_orders.append(-of_first * torch.log(probability) - (1 - of_first) * torch.log(1 - probability))
        losses.append(sum(of_orders[:orders]) / orders)
        weights.append(weight)
    losses, weights = torch.stack(losses), torch.tensor(weights)
    ((losses * weights).sum() / weights.sum()).backward()
    return losses.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def computed(model, batching: str, groups: list[dict], pad: int, objective: Pairwise | None = None):
    objective = objective or Pairwise(PairwiseFlags())
    model.zero_grad()
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]
    batch = MicroBatchCollator(batching, pad, objective.collate)(chunks, dict(enumerate(groups)))
    losses = objective.loss(model(**batch["model_inputs"]).logits.float(), batch["targets"])
    ((losses * batch["weights"]).sum() / batch["weights"].sum()).backward()
    return losses.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}, batch


def in_order(reference, found):
    """Both with their losses in ascending order: groups and rows are not in the same order."""
    return [(of[0].sort().values, of[1]) for of in (reference, found)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_against_the_plain_model(family, tokenizer, groups):
    """Losses and all gradients. Negative controls: no generation prompt, and one order alone."""
    plain = build(family, tokenizer, None)
    models = {PADDED: build(family, tokenizer, "eager"), PACKED: build(family, tokenizer, SHARED_PREFIX)}
    for model in models.values():
        model.load_state_dict(plain.state_dict())
    reference = written_out(plain, tokenizer)
    assert len(reference[0]) == 8
    tokens = {}
    for batching in BATCHINGS:
        model = models.get(batching, models[PACKED])
        *found, batch = computed(model, batching, groups, tokenizer.pad_token_id)
        tokens[batching] = batch["num_tokens"]
        assert max(differences(*in_order(reference, found))) < TOLERANCE, batching
        for change in ({"generation_prompt": False}, {"orders": 1}):
            wrong = written_out(plain, tokenizer, **change)
            assert min(differences(*in_order(wrong, found))) > 100 * TOLERANCE, (batching, change)
    assert tokens[SHARED_PREFIX] < 0.7 * tokens[PACKED]


def test_a_reversed_label_or_order_is_not_the_same(tokenizer, groups):
    """Negative controls of the reader's part."""
    plain, fast = build("llama", tokenizer, None), build("llama", tokenizer, SHARED_PREFIX)
    fast.load_state_dict(plain.state_dict())
    reference = written_out(plain, tokenizer)
    for wrong in ("label", "order"):
        changed = copy.deepcopy(groups)
        unit = changed[0]["units"][0]
        if wrong == "label":
            changed[0]["targets"][0][0] = 1 - changed[0]["targets"][0][0]
        else:
            changed[0]["units"][0] = unit[::-1]
        *found, _ = computed(fast, SHARED_PREFIX, changed, tokenizer.pad_token_id)
        assert min(differences(*in_order(reference, found))) > 100 * TOLERANCE


# --- the loss and its figures -----------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_of_both_orders():
    first, second = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([-3.0, 4.0, 0.0])
    p = torch.tensor([1.0, 0.25, 0.5])

    def entropy(logit: float, p: float) -> float:
        q = 1 / (1 + math.exp(-logit))
        return float(-p * math.log(q) - (1 - p) * math.log(1 - q))

    expected = [(entropy(a, c) + entropy(b, 1 - c)) / 2 for a, b, c in zip(first, second, p, strict=True)]
    assert comparison_loss(first, second, p).tolist() == pytest.approx(expected)
    far = comparison_loss(torch.tensor([1e4]), torch.tensor([1e4]), torch.tensor([1.0]))
    assert far.tolist() == [5e3]  # no overflow


def test_label_smoothing_leaves_ties_alone():
    objective = Pairwise(PairwiseFlags(label_smoothing=0.1))
    targets = objective.collate([[0, 1], [2, 3]], [[1.0, 5, 7], [0.5, 5, 7]])
    logits = torch.tensor([[2.0], [-1.0], [2.0], [-1.0]])
    expected = comparison_loss(logits[::2, 0], logits[1::2, 0], torch.tensor([0.9, 0.5]))
    assert objective.loss(logits, targets).tolist() == expected.tolist()


def test_sums_and_rows_add_up_however_a_step_is_cut():
    objective = Pairwise(PairwiseFlags())
    logits = torch.randn(12, 1, generator=torch.Generator().manual_seed(1))
    logits[10:] = 0.5  # equal outputs
    targets = [[p, 10.0, 20.0] for p in (1.0, 0.5, 0.7, 1.0, 1.0, 1.0)]

    def of(start: int, end: int):
        batch = objective.collate([[2 * n, 2 * n + 1] for n in range(end - start)], targets[start:end])
        part = logits[2 * start : 2 * end]
        return objective.sums(part, batch), objective.loss(part, batch), objective.evaluated(part, batch)

    whole, parts = of(0, 6), [of(0, 2), of(2, 2), of(2, 6)]
    assert torch.stack([part[0] for part in parts]).sum(dim=0).tolist() == pytest.approx(whole[0].tolist())
    assert torch.cat([part[1] for part in parts]).tolist() == whole[1].tolist()
    assert [row for part in parts for row in part[2]] == whole[2]
    first, second = logits[::2, 0], logits[1::2, 0]
    compared = [0, 2, 3, 4, 5]
    right = [1.0 if first[n] > second[n] else 0.5 if first[n] == second[n] else 0.0 for n in compared]
    flips = [float(first[n] * second[n] > 0) for n in compared]
    figures = objective.figures(whole[0].tolist())
    assert figures["accuracy"] == pytest.approx(sum(right) / 5) and figures["flips"] == pytest.approx(sum(flips) / 5)
    assert figures["first_probability"] == pytest.approx(torch.sigmoid(logits).mean().item())
    assert objective.figures(of(1, 2)[0].tolist()).keys() == {"first_probability"}  # a tie alone


def evaluated(rows: list[tuple[float, float, float]], prompts: list[int] | None = None) -> EvaluatedComparisons:
    """Of outputs in both orders and the probability of the label."""
    first, second, probabilities = torch.tensor(rows, dtype=torch.float64).T.numpy()
    count = len(rows)
    lengths = torch.arange(count, dtype=torch.float64).numpy(), torch.full((count,), 2.0, dtype=torch.float64).numpy()
    numbers = torch.tensor(prompts if prompts else list(range(count))).numpy()
    names = [f"rows:{number}" for number in range(count)]
    return EvaluatedComparisons(
        names, ["one"] * 3 + ["other"] * (count - 3), first, second, probabilities, *lengths,
        torch.ones(count, dtype=torch.float64).numpy(), numbers,
    )  # fmt: skip


def test_figures_of_held_out_pairs():
    """By hand: right in both orders, always the first, always the second, wrong in both, equal, without a verdict in
    one order, and a tie of the labels."""
    rows = [(2, -1, 1), (2, 1, 1), (-2, -1, 1), (-1, 3, 1), (0.5, 0.5, 1), (0.0, -1, 1), (4, 4, 0.5)]
    figures = comparison_figures(evaluated(rows))
    assert figures["pairs"] == 7 and figures["accuracy"]["rows"] == 6
    # the means: above one half in rows 1, 2, 6; at one half in 5
    assert figures["accuracy"]["right"] == 3.5 and figures["accuracy"]["ties"] == 1
    assert figures["by_order"]["chosen first"]["right"] == 3.5  # rows 1, 2, 5; row 6 has no verdict
    assert figures["by_order"]["chosen first"]["ties"] == 1
    assert figures["by_order"]["rejected first"]["right"] == 3  # rows 1, 3, 6
    assert (figures["flips"]["right"], figures["always_first"]["right"], figures["always_second"]["right"]) == (3, 2, 1)
    assert figures["flips"]["ties"] == 1
    assert figures["label_ties"]["pairs"] == 1 and figures["label_ties"]["mean_distance"] == 0
    assert figures["by_source"]["one"]["rows"] == 3
    assert figures["longer_wins"]["right"] == 3.5 and figures["by_length"]["equal length"]["rows"] == 1
    means = [(1 / (1 + math.exp(-a)) + 1 / (1 + math.exp(b))) / 2 for a, b, _ in rows]
    bins = [of for of in figures["calibration"] if of["rows"]]
    total = sum(of["confidence"] * of["rows"] for of in bins)
    assert total == pytest.approx(sum(max(mean, 1 - mean) for mean in means))
    for name in ("accuracy", "flips"):
        assert figures[name]["low"] < figures[name]["value"] < figures[name]["high"]


def test_a_mean_at_exactly_one_half_is_found_where_probabilities_round():
    """Both probabilities are 1 in float32, and the outputs differ: no tie. Equal outputs are one, whatever they are."""
    figures = comparison_figures(evaluated([(40, 30, 1), (30, 40, 1), (7.7, 7.7, 1)]))
    assert figures["accuracy"]["right"] == 1.5 and figures["accuracy"]["ties"] == 1


def test_pairs_of_one_prompt_widen_the_intervals():
    rows = [(2, -1, 1)] * 10 + [(-1, 2, 1)] * 10
    alone = comparison_figures(evaluated(rows))
    together = comparison_figures(evaluated(rows, prompts=[0] * 10 + [1] * 10))
    assert "prompts" not in alone and together["prompts"] == 2
    assert together["accuracy"]["high"] - together["accuracy"]["low"] > 1.5 * (
        alone["accuracy"]["high"] - alone["accuracy"]["low"]
    )


def test_the_groups_have_what_the_reader_says(groups, tokenizer):
    """Each whole row is what the tokenizer makes of the question."""
    whole = PromptGroups(Dataset.from_list(groups))
    assert len(whole) == 8 and whole.targets().shape == (8, 3)
    expected = {
        tuple(tokens_of(tokenizer, prompt, *pair))
        for prompt, better, worse, _, _ in comparisons()
        for pair in ((better, worse), (worse, better))
    }
    found = {tuple(group["prefix_ids"] + ids) for group in groups for ids in group["completion_ids"]}
    assert found == expected
    assert token_ids(["a"], tokenizer)  # the tokenizer writes BOS itself, once
