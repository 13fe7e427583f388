"""Data sets of the Hub: asked for once, so that a mistake costs seconds and not minutes of retries."""

from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, httpx

from reward_modeling.common.errors import HUB_ERRORS, UserError, one_line

HUB_TIMEOUT = 10.0  # seconds for the question whether a Hub id exists
# load_dataset raises ValueError for a missing config name, RuntimeError for a data set that is a script.
LOAD_ERRORS = (*HUB_ERRORS, DatasetsError, RuntimeError, httpx.RequestError)


@dataclass(frozen=True)
class HubOptions:
    """Which version and part of a data set: as `datasets.load_dataset` names them."""

    revision: str | None = None
    config: str | None = None
    data_dir: str | None = None


def load_hub_splits(path: str, name: str, options: HubOptions, hint: str, num_proc: int | None) -> DatasetDict:
    """All splits of a data set.

    Args:
        path: as the user wrote it, and `hint` what a local copy needs, for the messages.
        name: the Hub id.

    Raises:
        UserError: there is no such data set, the Hub cannot be reached, or it cannot be loaded.
    """
    try:
        # load_dataset asks an unreachable Hub for half a minute before it gives up: ask once ourselves,
        # unless it was downloaded before, when it answers without the Hub.
        if not (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir():
            HfApi().dataset_info(name, revision=options.revision, timeout=HUB_TIMEOUT)
        return datasets.load_dataset(
            name, options.config, data_dir=options.data_dir, revision=options.revision, num_proc=num_proc
        )
    except LOAD_ERRORS as error:
        raise UserError(
            f"expected a local path or a Hub id, found neither for {path}: it does not exist in {Path.cwd()}, and "
            f"{_describe(error, name)} [{one_line(error)}]. {hint}."
        ) from error


def _describe(error: Exception, name: str) -> str:
    if isinstance(error, RepositoryNotFoundError):
        return f"no data set {name} on the Hub (or it is private: run `hf auth login`)"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{name} is not downloaded and HF_HUB_OFFLINE is set"
    if isinstance(error, (httpx.RequestError, HfHubHTTPError, ConnectionError)):
        return f"the Hub cannot be reached for {name}"
    return f"the Hub's data set {name} cannot be loaded"
