"""Tensors on their way to a GPU, without waiting for it."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; on a GPU the copy queues up behind what was launched before.

    A copy out of ordinary memory would first wait until the GPU has nothing left to do, and the GPU then for Python.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
