"""The flags that every script of data_prep has."""

import glob
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import SEED, at_least, flag_problems, one_of

FORMATS = ("parquet", "jsonl")
OUTPUT_FLAGS = ("output_path", "format", "num_proc", "overwrite")  # all others decide which pairs there are


@dataclass
class SourceArguments:
    """The flags of a script that reads one public set; each script sets its own defaults and adds its own flags."""

    dataset_path: str = field(
        default="", metadata={"help": "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."}
    )
    split: str = field(
        default="train", metadata={"help": "Split; in a local folder, the files named so (train.jsonl.gz)."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit on the Hub."})
    output_path: str = field(default="", metadata={"help": "Folder to write the pairs and their manifest.json to."})
    format: Annotated[str, one_of(*FORMATS)] = field(default="parquet", metadata={"help": "parquet or jsonl."})
    seed: Annotated[int, SEED] = field(default=0, metadata={"help": "Of every random choice."})
    num_proc: Annotated[int | None, at_least(1)] = field(
        default=None, metadata={"help": "Worker processes that read. Unset: one per core, at most 16."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what is in output_path."})

    def __post_init__(self):
        check_flags(self)

    def problems(self) -> list[str]:
        """What is wrong beside the values that a flag does not take."""
        return []

    def options(self) -> dict[str, object]:
        """What decides which pairs there are, for the manifest: not where they go, nor how many workers there are.

        A local path has no revision, and a file or a glob no split: both are None there.
        """
        options = {name: value for name, value in asdict(self).items() if name not in OUTPUT_FLAGS}
        path = self.dataset_path
        local, before_split = Path(path).expanduser(), Path(path.rpartition(":")[0] or path).expanduser()
        if local.is_file() or (glob.has_magic(path) and not local.exists()):
            return options | {"split": None, "revision": None}
        return options | {"revision": None} if local.exists() or before_split.exists() else options


def check_flags(arguments: object) -> None:
    """
    Raises:
        UserError: with everything that is wrong with the values.
    """
    problems = [*flag_problems(arguments), *arguments.problems()]
    if problems:
        raise UserError("\n".join(problems))
