"""Anthropic's HH-RLHF: two transcripts of one dialogue, of which a person preferred one.

    python data_prep/hh_rlhf.py --output_path data/hh_rlhf
    python data_prep/hh_rlhf.py --subsets harmless-base --dataset_path downloads/hh-rlhf --output_path data/harmless

A turn begins with "Human:" or "Assistant:" after a blank line; the same words elsewhere are what somebody said. Rows
whose transcripts are broken are dropped, each under its own reason. The mixtures take the three helpful subsets.
"""

import glob
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

if not __package__:  # run as a script
    import _path  # noqa: F401

from datasets import concatenate_datasets

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import flag
from reward_modeling.data.report import DataReport
from reward_modeling.data.row_forms import transcript_turns
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import name_source, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, note_pairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

SUBSETS = ("helpful-base", "helpful-rejection-sampled", "helpful-online", "harmless-base")
COLUMNS = ("chosen", "rejected")
SOURCE = PreferenceSource(
    "hh_rlhf",
    Columns(COLUMNS, COLUMNS, "chosen and rejected as transcripts that begin with 'Human:'"),
    licence="MIT",
    published={"mixture1": 115_547, "mixture2": 115_547},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = flag(
        "Anthropic/hh-rlhf",
        "Hub id; or a local clone: a folder with a folder per subset, in each train.jsonl.gz and "
        "test.jsonl.gz; or one subset's folder; or a file of any subset, which is read as it is.",
    )
    output_path: str = "data/hh_rlhf"
    subsets: str = flag(
        "helpful-base,helpful-rejection-sampled,helpful-online",
        f"Out of {', '.join(SUBSETS)}, with commas between them; read in this order.",
    )

    def problems(self) -> list[str]:
        chosen = self.subsets.split(",")
        if set(chosen) <= set(SUBSETS) and len(set(chosen)) == len(chosen):
            return []
        return [f"--subsets: expected some of {', '.join(SUBSETS)}, found {self.subsets!r}"]


def to_pair(row: dict, subset: str | None) -> dict:
    """Both transcripts as messages. What they have in common is checked as in any other pair."""
    chosen, rejected = (transcript_turns(text_of(row, side), side) for side in COLUMNS)
    return {"chosen": chosen, "rejected": rejected, "source": name_source("hh_rlhf", subset)}


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of all subsets, one subset after the other."""
    parts = {
        subset: read_pairs(
            replace(arguments, dataset_path=path),
            SOURCE,
            partial(to_pair, subset=subset),
            hub=HubOptions(data_dir=subset),
        )
        for subset, path in _paths(arguments).items()
    }
    rows = concatenate_datasets([part.rows for part in parts.values()])
    report = DataReport(SOURCE.name, sum(part.report.rows_read for part in parts.values()))
    for subset, part in parts.items():
        for reason, dropped in part.report.dropped.items():
            # A row of the Hub is named by its number alone, which each subset has.
            where = dropped.first_where
            where = where if subset is None or subset in where else f"{subset}: {where}"
            report.add(reason, dropped.count, where, dropped.first_excerpt)
        if subset is not None:
            report.notes |= {f"pairs of {subset}": len(part.rows), f"rows of {subset}": part.report.rows_read}
    note_pairs(report, rows)
    return SourcePairs(SOURCE, rows, report, arguments.options())


def _paths(arguments: ScriptArguments) -> dict[str | None, str]:
    """Subset -> what to read of it; None where a local file does not say which subsets it has."""
    path, subsets = arguments.dataset_path, arguments.subsets.split(",")
    local = Path(path).expanduser()
    if local.is_dir():
        if any((local / subset).is_dir() for subset in SUBSETS):
            return {subset: _subset_folder(local / subset, arguments.split) for subset in subsets}
        return {local.name if local.name in SUBSETS else None: path}
    name, _, _ = path.rpartition(":")
    if local.exists() or glob.has_magic(path) or (name and Path(name).expanduser().exists()):
        return {None: path}
    return dict.fromkeys(subsets, path)


def _subset_folder(folder: Path, split: str) -> str:
    if not folder.is_dir():
        raise UserError(
            f"{SOURCE.name}: expected a file of split {split} in {folder}, found no such folder. "
            "Download it, or leave the subset out of --subsets."
        )
    return str(folder)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
