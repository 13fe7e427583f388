"""The second half of scoring: from windows of tokens to rewards."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise

import torch
from transformers import PreTrainedModel

from reward_modeling.common.devices import to_device
from reward_modeling.common.errors import UserError, first_line
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import MicroBatch
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.plan import Batches, WindowPlan, plan_window
from reward_modeling.scoring.readouts.base import REWARD, Readout
from reward_modeling.scoring.windows import NumberedTokens

logger = logging.getLogger(__name__)


class ForwardPasses:
    """What a model and its readout make of tokens.

    Args:
        statistics: `reward_mean` and `reward_std`, by which rewards are normalized; None leaves them as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Batches,
        readout: Readout,
        *,
        pad_token_id: int = 0,
        statistics: Mapping[str, float] | None = None,
    ):
        self.model = model
        self.batches = batches
        self.readout = readout
        self.collator = MicroBatchCollator(batches.batching, pad_token_id, readout.collate)
        self.statistics = statistics

    def columns(
        self,
        windows: Iterable[list[NumberedTokens]],
        counts: ScoringCounts,
        *,
        process: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[tuple[int, list[float]]]:
        """(number in the input, columns of the readout) of this process's part, in ascending order in each window.

        Args:
            windows: the same on every process.
            progress: called with the number of conversations that a pass has finished.
        """
        passes = 0
        for window in windows:
            plan = plan_window(window, self.batches, counts)
            # Dealt out over the whole stream: no process gets the heaviest pass of every window.
            mine = plan.micro_batches[(process - passes) % num_processes :: num_processes]
            passes += len(plan.micro_batches)
            yield from sorted(chain(self._of_plan(plan, mine, counts, progress), not_read(window, process, progress)))
        if counts.not_finite:
            logger.warning("%d rewards are infinite or not a number: try float32.", counts.not_finite)

    def _of_plan(
        self, plan: WindowPlan, micro_batches: list[MicroBatch], counts: ScoringCounts, progress: Callable
    ) -> Iterator[tuple[int, list[float]]]:
        passes = ((micro_batch, self._forward(plan, micro_batch, counts)) for micro_batch in micro_batches)
        # A GPU has the next pass to compute before this one's rewards are waited for.
        for (micro_batch, columns), _ in pairwise(chain(passes, [None])):
            done = 0
            for row, indices in zip(self.readout.rows(columns), plan.scored_by(micro_batch), strict=True):
                yield from ((index, row) for index in indices)
                done += len(indices)
                counts.not_finite += 0 if math.isfinite(row[REWARD]) else len(indices)
            progress(done)

    @torch.inference_mode()
    def _forward(self, plan: WindowPlan, micro_batch: MicroBatch, counts: ScoringCounts) -> torch.Tensor:
        """`(completions, columns)` of one pass in float32, as the readout has them."""
        groups = {chunk.group: plan.groups[chunk.group] for chunk in micro_batch}
        batch = self.collator(micro_batch, groups)
        inputs, reads = self._on_device(batch["model_inputs"]), self._on_device(batch["targets"])
        counts.passes += 1
        counts.tokens += inputs["input_ids"].numel()
        try:
            columns = self.readout.run(self.model, inputs, reads)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"Memory ran out in a forward pass of {inputs['input_ids'].numel():,} tokens: {first_line(error)}\n"
                f"Pass max_tokens_per_batch below {self.batches.max_tokens:,}, then max_length below what it is."
            ) from error
        if self.statistics is not None:
            rewards = columns[:, REWARD]
            columns[:, REWARD] = (rewards - self.statistics["reward_mean"]) / self.statistics["reward_std"]
        return columns

    def _on_device(self, values: dict) -> dict:
        device = self.model.device
        return {name: to_device(value, device) if torch.is_tensor(value) else value for name, value in values.items()}


def not_read(
    window: Iterable[NumberedTokens], process: int, progress: Callable[[int], object]
) -> Iterator[tuple[int, list[float]]]:
    """Columns of what has no tokens, since it does not fit into the model: not a number, on the first process."""
    left = [index for index, tokens in window if not len(tokens.ids)] if process == 0 else []
    progress(len(left))
    yield from ((index, [math.nan]) for index in left)
