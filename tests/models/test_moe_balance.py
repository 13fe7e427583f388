"""A mixture of experts: every token takes the same experts however its row is batched, and so does the balance loss."""

import pytest
import torch
import torch.nn.functional as F
from exactness import VOCAB_SIZE, build_model, differences, mixed_groups
from runs import train, write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, PADDED, Chunk
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.moe_balance import SOFTMAX_ROUTERS, load_balancing_losses, why_no_load_balancing
from reward_modeling.objectives.bradley_terry import BradleyTerry, bradley_terry_loss
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

FAMILIES = sorted(SOFTMAX_ROUTERS)
EXPERTS, TOP_K = 4, 2
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def models():
    """(eager, shared prefix) of each family with the same weights."""
    built: dict[str, tuple] = {}

    def get(family: str):
        if family not in built:
            eager, fast = build_model(family, "eager"), build_model(family, SHARED_PREFIX)
            fast.load_state_dict(eager.state_dict())
            built[family] = (eager, fast)
        return built[family]

    return get


def collated(batching: str, groups: list[dict]) -> dict:
    micro_batch = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]
    return MicroBatchCollator(batching, 0, BradleyTerry.collate)(micro_batch, dict(enumerate(groups)))


def places(inputs: dict) -> list[list[int]]:
    """For each response, where its tokens stand among all that the router sees, prompt first."""
    if "packed_layout" not in inputs:
        width = inputs["input_ids"].shape[1]
        return [list(range(end // width * width, end + 1)) for end in inputs["read_positions"].tolist()]
    layout = inputs["packed_layout"]
    spans = layout.read_spans
    return [[*range(span.prefix_start, span.prefix_end), *range(span.start, span.end)] for span in spans]


def routes(model, batching: str, groups: list[dict], change=lambda inputs: None) -> list[list[torch.Tensor]]:
    """For each layer and each response the experts of its tokens, `(tokens, top_k)`, in ascending order."""
    seen: list[torch.Tensor] = []
    gates = [layer.mlp.gate for layer in model.get_decoder().layers]
    handles = [gate.register_forward_hook(lambda _module, _inputs, output: seen.append(output[2])) for gate in gates]
    inputs = collated(batching, groups)["model_inputs"]
    change(inputs)
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    last = seen[-1].sort(dim=-1).values
    layers = [[layer.sort(dim=-1).values[place] for place in places(inputs)] for layer in seen[:-1]]
    if "packed_layout" in inputs:  # of the last layer the scored tokens alone, one for each response
        return [*layers, list(last[:, None])]
    return [*layers, [last[[place[-1]]] for place in places(inputs)]]


def share_of_equal(expected: list[list[torch.Tensor]], found: list[list[torch.Tensor]]) -> list[float]:
    """For each layer."""
    return [
        torch.cat([(a == b).all(dim=-1) for a, b in zip(*layers, strict=True)]).float().mean().item()
        for layers in zip(expected, found, strict=True)
    ]


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_takes_the_same_experts(family, batching, models):
    eager, fast = models(family)
    expected = routes(eager, PADDED, mixed_groups())
    assert share_of_equal(expected, routes(fast, batching, mixed_groups())) == [1.0, 1.0]
    assert len(torch.cat(expected[0])) > 300
    for layer in expected:  # and they are not always the same ones
        assert torch.cat(layer).flatten().bincount(minlength=EXPERTS).min() > 0.02 * sum(map(len, layer))


def test_negative_control_other_positions_take_other_experts(models):
    """The comparison above can fail: where every token stands at position 0, tokens take other experts."""
    eager, fast = models("mixtral")

    def stand_at_zero(inputs: dict) -> None:
        inputs["position_ids"] = torch.zeros_like(inputs["position_ids"])

    expected = routes(eager, PADDED, mixed_groups())
    equal = share_of_equal(expected, routes(fast, SHARED_PREFIX, mixed_groups(), change=stand_at_zero))
    assert max(equal) < 0.9, equal


# --- the balance loss -----------------------------------------------------------------------------------------


def balance_by_hand(model, groups: list[dict]) -> torch.Tensor:
    """Each conversation in a row of its own, with the router's logits as transformers hands them out."""
    losses = []
    for group in groups:
        for completion in group["completion_ids"]:
            ids = torch.tensor([group["prefix_ids"] + completion])
            of_layers = []
            for logits in model.model(ids, output_router_logits=True).router_logits:
                share = F.softmax(logits, dim=-1).mean(dim=0)
                chosen = [
                    (logits.topk(TOP_K).indices == expert).any(dim=-1).float().mean() for expert in range(EXPERTS)
                ]
                of_layers.append(EXPERTS * sum(c * s for c, s in zip(chosen, share, strict=True)))
            losses.append(sum(of_layers) / len(of_layers))
    return torch.stack(losses)


def total_and_gradients(model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The balance losses, and the gradients of the ranking loss with them."""
    model.zero_grad()
    outputs = model(**batch["model_inputs"], load_balancing=True)
    chosen, rejected = outputs.logits[:, 0][batch["targets"]["pairs"]].unbind(dim=1)
    loss = bradley_terry_loss(chosen, rejected) + 0.5 * outputs.load_balancing_losses[batch["targets"]["pairs"]].mean(
        dim=1
    )
    loss.mean().backward()
    return outputs.load_balancing_losses.detach(), {
        name: weight.grad.clone() for name, weight in model.named_parameters()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_load_balancing_losses_are_the_same_in_any_batch(family, models):
    """Padded, packed and shared, with and without checkpointing: the losses of rows alone, and the same gradients."""
    eager, fast = models(family)
    groups = mixed_groups()
    expected = balance_by_hand(eager, groups).detach()
    reference = total_and_gradients(eager, collated(PADDED, groups))
    assert torch.allclose(reference[0], expected, rtol=0, atol=TOLERANCE)
    for checkpointing in (False, True):
        if checkpointing:
            fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for batching in (SHARED_PREFIX, PACKED):
            assert max(differences(reference, total_and_gradients(fast, collated(batching, groups)))) < TOLERANCE
    fast.gradient_checkpointing_disable()
    # and afterwards an ordinary forward again computes the scored tokens of the last layer alone
    assert share_of_equal(routes(eager, PADDED, groups), routes(fast, SHARED_PREFIX, groups)) == [1.0, 1.0]


def test_balance_reaches_the_routers(models):
    """Negative control: without the balance loss the routers' gradients are others."""
    _, fast = models("mixtral")
    batch = collated(SHARED_PREFIX, mixed_groups())
    _, with_balance = total_and_gradients(fast, batch)
    fast.zero_grad()
    chosen, rejected = fast(**batch["model_inputs"]).logits[:, 0][batch["targets"]["pairs"]].unbind(dim=1)
    bradley_terry_loss(chosen, rejected).mean().backward()
    for layer in (0, 1):
        name = f"model.layers.{layer}.mlp.gate.weight"
        without = fast.get_parameter(name).grad
        assert (with_balance[name] - without).abs().max() > 0.01 * without.abs().max()


def test_balance_is_top_k_where_all_is_even():
    """And grows to the number of experts where one expert of one gets everything."""
    even = torch.eye(EXPERTS).roll(1, 0) + torch.eye(EXPERTS)  # every expert is chosen twice by four tokens
    mask = torch.ones((1, EXPERTS))
    assert load_balancing_losses((even, even), TOP_K, layout=None, mask=mask).tolist() == pytest.approx([TOP_K])
    one = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * EXPERTS)
    assert load_balancing_losses((one,), 1, layout=None, mask=mask).tolist() == pytest.approx([EXPERTS])


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_model_without_experts_has_no_balance_loss(family):
    assert "found " + family in why_no_load_balancing(tiny_config(family, VOCAB_SIZE))


# --- through rm.py --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("mixtral")
    rows = learnable_preferences(30, seed=1)
    texts = [row[side][-1]["content"] for row in rows for side in ("chosen", "rejected")]
    tokenizer = train_tokenizer(texts, 400, **TOKENIZER_STYLES["mistral"])
    return {
        "model_name": build_tiny_checkpoint(
            folder / "mixtral", tokenizer, tiny_config("mixtral", len(tokenizer), **token_ids(tokenizer))
        ),
        "train_set_path": write_rows(folder / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 3,
        "pairs_per_step": 12,
        "learning_rate": 1e-3,
        "eval_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
        "router_aux_loss_coef": 0.1,
    }


def test_a_step_does_not_depend_on_how_it_is_cut(base, tmp_path):
    """Losses of a run with the balance loss: in large and in small forward passes, padded, packed and shared."""
    runs = {
        name: train(base, tmp_path / name, **changes)
        for name, changes in {
            "shared": {},
            "small": {"max_tokens_per_micro_batch": 512, "gradient_checkpointing": "false"},
            "padded": {"batching": "padded"},
            "without": {"router_aux_loss_coef": 0},
        }.items()
    }
    expected = runs["shared"].losses()
    assert runs["small"].losses() == pytest.approx(expected, abs=1e-4)
    assert runs["padded"].losses() == pytest.approx(expected, abs=1e-4)
    # it adds about 0.1 x top_k
    assert runs["shared"].losses()[0] - runs["without"].losses()[0] == pytest.approx(0.1 * TOP_K, abs=0.1)
    assert runs["shared"].losses()[0] - runs["without"].losses()[0] > 0.1
    # an evaluation measures the ranking alone
    assert runs["shared"].last("eval_loss") < 1.2 * runs["without"].last("eval_loss")


def test_the_flag_is_refused_without_experts(base, gemma_folder, tmp_path):
    with pytest.raises(UserError, match=r"--router_aux_loss_coef: expected a model of the types mixtral.*found gemma"):
        train(base, tmp_path / "output", model_name=gemma_folder)
