"""What makes computations on a CPU give the same numbers each time, and copies to a device."""

import torch

# Those that torch gives to the vector mathematics of Intel's MKL (aten/src/ATen/cpu/vml.h).
FUNCTIONS = (
    *("abs", "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log1p", "log2"),
    *("sin", "sqrt", "tan", "tanh", "trunc"),
)


def warm_up_mkl() -> None:
    """Call each function once, on one number and so on one thread.

    MKL chooses the kernel of a function when it is called first. Where several threads call it at once, one of them
    may compute its share with a kernel of low accuracy, that one time (pytorch/pytorch#188792): the cosines of the
    rotary positions were 1.5e-4 off in the first forward pass of a process, and the rewards 7e-4.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)


ALIGNMENT = 64  # bytes: that of what torch allocates itself


def align_parameters(model: torch.nn.Module) -> None:
    """Copy each parameter on the CPU that does not begin at a multiple of 64 bytes, one after the other.

    The weights of a safetensors file are used where the file is mapped into memory, at any address, but in a
    distributed process, where transformers copies them. A product with a vector, such as the score head's, adds up in
    another order where an address is no multiple of 16: then the same rewards differed in their last digits between one
    process and two.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; on a GPU the copy queues up behind what was launched before.

    A copy out of ordinary memory would first wait until the GPU has nothing left to do, and the GPU then for Python.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
