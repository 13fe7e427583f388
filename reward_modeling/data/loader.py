"""Data loaders whose batches are the planned micro-batches of one process."""

from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import EpochPlan, GroupSizes, MicroBatch, plan_epoch, plan_evaluation

if TYPE_CHECKING:
    from datasets import Dataset  # not in a benchmark, whose groups are in memory


class PromptGroups:
    """Groups as `prompt_groups.tokenize_and_group` writes them, with their sizes; the length is counted in units."""

    def __init__(self, groups: "Dataset"):
        self.groups = groups
        self.sizes = GroupSizes.from_dataset(groups)

    def __len__(self) -> int:
        return self.sizes.num_units

    def of_units(self, column: str) -> list:
        """What stands in "where", "sources" or "unfinished" for each unit, in the order of the groups."""
        return self.groups.data.column(column).combine_chunks().flatten().to_pylist()

    def targets(self) -> np.ndarray:
        """`(units, targets)`, of units that all have as many."""
        return self.groups.data.column("targets").combine_chunks().flatten().flatten().to_numpy().reshape(len(self), -1)

    def target_lists(self) -> list[np.ndarray]:
        """Of each unit its targets, of which it may have any number."""
        of_units = self.groups.data.column("targets").combine_chunks().flatten()
        lengths = of_units.value_lengths().to_numpy()
        return np.split(of_units.flatten().to_numpy(), np.cumsum(lengths)[:-1]) if len(lengths) else []

    def completion_characters(self) -> np.ndarray:
        """`(members,)`: how long the completions of all units are, without their prompt."""
        characters = self.groups.data.column("characters").combine_chunks().flatten().to_numpy()
        sizes = self.sizes
        group_of_member = np.repeat(sizes.group_of_unit, np.diff(sizes.member_offsets))
        return characters[sizes.members + sizes.completion_offsets[group_of_member]]

    def read(self, micro_batch: MicroBatch) -> dict[int, dict]:
        """The groups of a micro-batch, by number."""
        numbers = sorted({chunk.group for chunk in micro_batch})
        columns = self.groups[numbers]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return dict(zip(numbers, rows, strict=True))


class CollatedGroups(TorchDataset):
    """Indexed by micro-batches, not by numbers: the sampler says what to read."""

    def __init__(self, groups: PromptGroups, collator: MicroBatchCollator):
        self.groups = groups
        self.collator = collator

    def __len__(self) -> int:
        return len(self.groups)

    def collate(self, micro_batch: MicroBatch) -> dict:
        """What the trainer's `compute_loss` takes, with the chunks that it was made of."""
        rows = self.groups.read(micro_batch)
        return {**self.collator(micro_batch, rows), "chunks": micro_batch}

    __getitem__ = collate


class StepDataset(CollatedGroups):
    """One item is what one process computes in one optimizer step."""

    def __getitem__(self, step: tuple[float, list[MicroBatch]]) -> dict:
        step_weight, micro_batches = step
        return {"step_weight": step_weight, "micro_batches": [self.collate(batch) for batch in micro_batches]}


class StepSampler:
    """For each optimizer step of an epoch the micro-batches of one process, as a batch of one item."""

    def __init__(self, sizes: GroupSizes, *, process: int, num_processes: int, epoch: int = 0, **plan_options):
        self.sizes = sizes
        self.process, self.num_processes = process, num_processes
        self.plan_options = plan_options
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        self.plan: EpochPlan = plan_epoch(self.sizes, epoch=epoch, **self.plan_options)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[float, list[MicroBatch]]]]:
        for step in range(len(self.plan)):
            micro_batches = self.plan.micro_batches(step, self.num_processes)[self.process]
            yield [(self.plan.step_weight(step), micro_batches)]


class StepDataLoader(DataLoader):
    """Tells its sampler the epoch, as transformers' Trainer expects of a data loader."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def training_loader(
    groups: PromptGroups, collator: MicroBatchCollator, *, num_workers: int = 0, **sampler_options
) -> StepDataLoader:
    """One batch per optimizer step: `step_weight` (over all processes) and this process's `micro_batches`.

    Args:
        sampler_options: of `StepSampler` and of `plan_epoch`, but for the batching, which is the collator's.
    """
    sampler = StepSampler(groups.sizes, batching=collator.batching, **sampler_options)
    dataset = StepDataset(groups, collator)
    return StepDataLoader(dataset, batch_sampler=sampler, collate_fn=itemgetter(0), num_workers=num_workers)


def evaluation_loader(
    groups: PromptGroups, collator: MicroBatchCollator, *, max_tokens: int, process: int, num_processes: int
) -> DataLoader:
    """One batch per micro-batch; every unit is counted on exactly one process."""
    micro_batches = plan_evaluation(
        groups.sizes, max_tokens=max_tokens, batching=collator.batching, num_processes=num_processes
    )[process]
    batches = [[micro_batch] for micro_batch in micro_batches]
    return DataLoader(CollatedGroups(groups, collator), batch_sampler=batches, collate_fn=itemgetter(0))
