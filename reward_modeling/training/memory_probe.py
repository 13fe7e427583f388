"""The heaviest micro-batch of an epoch, tried before the first step: memory that runs out does so in minute one."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import heaviest_micro_batch
from reward_modeling.estimate.memory import STATES_OF_OPTIMIZER

GIB = 2**30
# The last is cuBLAS's, which takes memory for each thread that it first works for: the backward pass has its own.
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")


def probe_memory(trainer: Any, model: torch.nn.Module) -> dict[str, float]:
    """Run the heaviest micro-batch of the epoch forward and backward, and leave no trace; what the log is to say of it.

    Its loss counts zero times: so do all its gradients, whatever the engine does with them.
    """
    args, device, deepspeed = trainer.args, trainer.args.device, trainer.is_deepspeed_enabled
    loader = trainer.callback_handler.train_dataloader
    heaviest, most_in_a_step = heaviest_micro_batch(loader.batch_sampler.plan, args.world_size)
    micro_batch = loader.dataset.collate(heaviest)
    tokens = micro_batch["num_tokens"]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    where = f"the trial of the heaviest micro-batch ({tokens:,} tokens), before the first step"
    with out_of_memory_explained(where, args.max_tokens), no_trace(device):
        # DeepSpeed has the optimizer's states from the beginning, and clears gradients itself.
        reserved = [] if deepspeed else reserve_for_optimizer(trainer.optimizer, args.optim)
        if most_in_a_step > 1 and not deepspeed:
            reserve_gradients(model)
        trainer.forward_backward(model, micro_batch, 0.0, last=False)
        del reserved
    if not deepspeed:
        model.zero_grad()
    peak = trainer.accelerator.gather(torch.tensor([peak_memory(device)], device=device)).max().item()
    return {"heaviest_micro_batch_tokens": tokens, "peak_memory_gib": peak}


def no_trace(device: torch.device) -> Any:
    """A context after which random numbers go on as if nothing had been drawn."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def reserve_for_optimizer(optimizer: torch.optim.Optimizer, name: str) -> list[torch.Tensor]:
    """As much memory as the optimizer will take in its first step, which comes after the probe.

    Nothing where it holds its states already, after a resume, or where it is not known how much it takes.
    """
    if optimizer.state:
        return []
    copies = STATES_OF_OPTIMIZER.get(name, 0)
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
    return [torch.empty_like(weight) for weight in weights for _ in range(copies)]


def reserve_gradients(model: torch.nn.Module) -> None:
    """Gradients of zero, as those of the step's earlier micro-batches are there while a later one is computed."""
    for weight in model.parameters():
        if weight.requires_grad and weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU since its statistics were reset; on a CPU the most that the process has had since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # Linux counts in KiB


@contextmanager
def out_of_memory_explained(doing: str, max_tokens: int) -> Iterator[None]:
    """Memory that runs out ends in a message.

    Raises:
        UserError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not any(text in str(error).lower() for text in OUT_OF_MEMORY_TEXTS):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Memory ran out in {doing}: {reason}\nIn this order, what costs least first:\n"
            "- --gradient_checkpointing true, if it is off;\n"
            f"- --max_tokens_per_micro_batch below {max_tokens:,}: smaller forward passes, and more of them in a "
            "step (what gradient accumulation does elsewhere; here --gradient_accumulation_steps says how many pairs a "
            "step has, and costs no memory);\n"
            "- --max_length below what it is: two conversations of that length must fit into a forward pass;\n"
            "- the model spread over the GPUs: accelerate_configs/deepspeed_zero3.yaml or fsdp2.yaml;\n"
            "- weights and optimizer in the machine's own memory: --deepspeed deepspeed_3_offload.json."
        ) from error
