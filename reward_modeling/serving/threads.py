"""How many threads a forward pass has on a CPU: not all cores, since those that wait spin on theirs.

The event loop and the tokenizer work beside the passes; on the last core the threads of a pass fight with them.
"""

import os

import torch

VARIABLE = "OMP_NUM_THREADS"


def set_threads(given: int | None, device: str | None) -> int:
    """Before the model is loaded; the number that the passes have.

    Args:
        given: the number wanted. None: on a CPU one less than torch would take, at least one, unless the environment
            says how many (OMP_NUM_THREADS); on a GPU as it is.
        device: of the model; None is the GPU where there is one.
    """
    on_cpu = device == "cpu" if device else not torch.cuda.is_available()
    if given is not None:
        torch.set_num_threads(given)
    elif on_cpu and not os.environ.get(VARIABLE):
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    return torch.get_num_threads()
