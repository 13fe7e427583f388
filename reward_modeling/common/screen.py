"""What of the libraries' words reaches the screen: what a user can act on, and bars where somebody looks at them.

Messages are filtered one by one, by their words: another warning of the same library is shown.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Logger, and the beginning of what it says.
NOISE = (
    ("DeepSpeed", "Setting accelerator to CPU."),  # it is imported by peft and accelerate, whatever the engine
    # Embeddings for a pad token of ours, which a line of ours tells of; no text has that token.
    ("transformers.modeling_utils", "The new embeddings will be initialized from a multivariate normal distribution"),
)
LIBRARIES = r"(torch|accelerate|transformers|peft|deepspeed|datasets|huggingface_hub)(\.|$)"


class Unsaid(logging.Filter):
    """Keeps messages that begin like this from being shown."""

    def __init__(self, beginning: str):
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginning)


UNSAID = [(name, Unsaid(beginning)) for name, beginning in NOISE]


def filter_noise() -> None:
    """Also before the libraries are imported, which may speak then; a second call changes nothing."""
    for name, unsaid in UNSAID:
        logging.getLogger(name).addFilter(unsaid)


def set_up_screen(level: int, *, speaks: bool) -> None:
    """Logging of a script's process.

    Args:
        level: of this process's own messages.
        speaks: whether it is the one of several that shows progress.
    """
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s", level=level)
    for noisy in ("httpx", "httpx2", "datasets", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, before our message
    transformers_logging.set_verbosity_warning()
    filter_noise()
    warnings.filterwarnings("ignore", category=FutureWarning, module=LIBRARIES)  # for those who write these libraries
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=LIBRARIES)
    if not (speaks and shows_bars()):
        _disable_bars()


def shows_bars() -> bool:
    """Bars are for terminals: in a file each state of one is a line, or a part of an endless one."""
    return sys.stderr.isatty()


def _disable_bars() -> None:
    """Of the libraries, in this process."""
    import huggingface_hub.utils
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read where it is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()


@contextmanager
def bar_of_file(file: Path, total: int, words: str) -> Iterator[None]:
    """A bar on a terminal while another process adds a byte to the file for each of `total` things that it has done."""
    from tqdm.auto import tqdm

    over = threading.Event()

    def follow() -> None:
        with tqdm(total=total, desc=words, leave=False, dynamic_ncols=True) as bar:
            while not over.wait(0.2):
                bar.update((file.stat().st_size if file.exists() else 0) - bar.n)

    follower = threading.Thread(target=follow, daemon=True)
    if shows_bars():
        follower.start()
    try:
        yield
    finally:
        over.set()
        if follower.ident is not None:
            follower.join()
