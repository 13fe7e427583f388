"""Process: P(right) of each step of a solution, read where the step ends, trained on labels of steps (PRM).

Two outputs, wrong and right; the loss of a step is the cross-entropy of their softmax with its label, a probability. A
solution that is one step with a label makes an outcome model (ORM). The flags: process_flags.py; what it reads of a
row: step_reader.py; the figures: held_out_steps.py.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from reward_modeling.common.errors import UserError
from reward_modeling.common.step_statistics import EVEN
from reward_modeling.models.process_format import LABELS, PROCESS, RIGHT, ProcessFormat
from reward_modeling.models.tokenizer import is_for_encoder
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.evaluated_steps import EvaluatedSteps
from reward_modeling.objectives.held_out_steps import step_figures, step_lines, step_metrics, step_shares, step_table
from reward_modeling.objectives.process_flags import CHAT, ProcessFlags, read_separator
from reward_modeling.objectives.step_reader import StepReader, are_outcomes, only_label

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reward_modeling.data.loader import PromptGroups

logger = logging.getLogger(__name__)

# Order of the sums that are kept during training. Compared are the steps with a label that is not one half.
SOLUTIONS, RIGHT_STEPS, WRONG_STEPS, FOUND_RIGHT, FOUND_WRONG = range(5)


class Process(Objective):
    """The cross-entropy of the steps that have a label, their mean over the whole step of the optimizer.

    The loss of a solution is the mean over its steps, and its weight their number.
    """

    flags = ProcessFlags
    kind = "steps"
    num_labels = len(LABELS)
    label_names = LABELS
    reads_steps = True
    progress_figures: ClassVar[tuple[str, ...]] = ("step_accuracy", "balanced_accuracy")

    def __init__(self, flags: ProcessFlags):
        super().__init__(flags)
        separator, chat = read_separator(flags.step_separator), flags.prompt_format
        self.given: dict[str, Any] = {} if separator is None else {"separator": separator}
        self.given |= {} if chat is None else {"chat": chat == CHAT}
        self.format = ProcessFormat(**self.given, aggregation=flags.aggregation)
        self.is_encoder = False

    @property
    def reader(self) -> StepReader:
        return StepReader(
            separator=self.format.separator,
            chat=self.format.chat,
            neutral_steps=self.options.neutral_steps,
            last_step_only=self.options.last_step_only,
        )

    # --- what the model reads ---

    def go_on_from(self, saved: Mapping[str, Any]) -> None:
        """Take from the model how it reads an answer, where the flags do not say it."""
        values = saved.get(PROCESS) or {}
        known = {name: values[name] for name in ("separator", "chat") if name in values}
        for name, flag_name in (("separator", "--step_separator"), ("chat", "--prompt_format")):
            if name in known and self.given.get(name, known[name]) != known[name]:
                logger.warning("%s: another one than the model was trained with (%r).", flag_name, known[name])
        self.format = replace(self.format, **known | self.given)

    def take_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises `UserError`: it has no token for the separator."""
        self.is_encoder = is_for_encoder(tokenizer)
        separator = self.format.separator
        ids = tokenizer(separator, add_special_tokens=False)["input_ids"] if separator else [None]
        if not ids and not self.is_encoder:
            raise UserError(
                f"--step_separator {separator!r}: expected a text that has tokens, at which the score is read, found "
                f"none of it in the tokenizer ({tokenizer.name_or_path}). Pass another one."
            )

    def fit(self, groups: "PromptGroups", evaluations: Sequence["PromptGroups"] = ()) -> None:
        """Take from the training set whether each answer is one step.

        Raises:
            UserError: there are several, and the model is an encoder; or all steps have the same label.
        """
        label = only_label(groups)
        if label is not None:
            which = " (of last steps alone, as --last_step_only says)" if self.options.last_step_only else ""
            words = {0.0: "wrong", 1.0: "right"}.get(label, f"{label:g}")
            raise UserError(
                f"--train_set_path: expected right and wrong steps, found labels{which} that are all {words}, of which "
                "a model learns to say the same of any step. Add solutions that have other labels."
            )
        outcome = are_outcomes(groups)
        self.format = replace(self.format, outcome=outcome)
        if self.is_encoder and not (outcome and all(map(are_outcomes, evaluations))):
            raise UserError(
                "--model_name: expected a decoder, which reads a step before the next one, found an encoder: what it "
                "says of a step would depend on the steps behind it. Take a causal language model; an encoder can be "
                "trained on whole answers, with one label each."
            )

    def saved_values(self) -> dict[str, Any]:
        """`process`: see models/process_format.py."""
        return {PROCESS: self.format.to_config()}

    # --- the loss ---

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """`steps` `(steps,)` long, the rows of the logits; `labels` `(steps,)`, P(right), NaN where none; `solutions`
        `(steps,)` long, which solution a step is of; `sizes` `(solutions,)` long, the number of its steps."""
        lengths = [len(unit) for unit in units]
        if lengths != [len(labels) for labels in targets]:
            raise ValueError(f"expected a label for each step, found {list(map(len, targets))} for {lengths}")
        return {
            "steps": torch.tensor([read for unit in units for read in unit], dtype=torch.long),
            "labels": torch.tensor([label for labels in targets for label in labels], dtype=torch.float32),
            "solutions": torch.arange(len(units)).repeat_interleave(torch.tensor(lengths, dtype=torch.long)),
            "sizes": torch.tensor(lengths, dtype=torch.long),
        }

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        losses, known = step_losses(logits[targets["steps"]], targets["labels"]), ~torch.isnan(targets["labels"])
        sums = logits.new_zeros(len(targets["sizes"])).index_add(0, targets["solutions"], losses)
        counts = torch.zeros_like(sums).index_add(0, targets["solutions"], known.to(sums.dtype))
        return sums / counts.clamp(min=1)

    # --- figures ---

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs, labels = logits[targets["steps"]], targets["labels"]
        says_right = outputs[:, RIGHT] >= outputs[:, 1 - RIGHT]  # as `step_statistics.says_right`
        is_right, is_wrong = labels > EVEN, labels < EVEN  # NaN is neither
        counts = (is_right, is_wrong, is_right & says_right, is_wrong & ~says_right)
        return torch.stack([logits.new_tensor(float(len(targets["sizes"]))), *(each.sum().float() for each in counts)])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """The share of steps that were found to be what they are, of all, and the mean of right and wrong ones."""
        right, wrong = sums[RIGHT_STEPS], sums[WRONG_STEPS]
        figures = {}
        if right + wrong:
            figures["step_accuracy"] = (sums[FOUND_RIGHT] + sums[FOUND_WRONG]) / (right + wrong)
            figures["right_steps"] = right / (right + wrong)
        if right and wrong:
            figures["balanced_accuracy"] = (sums[FOUND_RIGHT] / right + sums[FOUND_WRONG] / wrong) / 2
        return figures

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of a solution its loss, then P(right) of each step."""
        right = logits[targets["steps"]].softmax(dim=1)[:, RIGHT].split(targets["sizes"].tolist())
        return [(loss, *of.tolist()) for loss, of in zip(self.loss(logits, targets).tolist(), right, strict=True)]

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedSteps:
        return EvaluatedSteps.from_rows(rows, groups, self.format.aggregation)

    def metrics(self, held_out: EvaluatedSteps) -> dict[str, float]:
        return step_metrics(held_out)

    def evaluation(self, held_out: EvaluatedSteps) -> dict[str, Any]:
        return step_figures(held_out)

    evaluation_lines = staticmethod(step_lines)
    evaluation_table = staticmethod(step_table)
    evaluation_shares = staticmethod(step_shares)


def step_losses(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-(y log P(right) + (1 - y) log P(wrong)), 0 where there is no label.

    Args:
        outputs: `(steps, 2)`, of wrong and right.
        labels: `(steps,)`: y in 0..1, NaN where not known.

    Returns:
        `(steps,)`.
    """
    known = ~torch.isnan(labels)
    right = torch.where(known, labels, 0.0)
    log_shares = F.log_softmax(outputs, dim=1)
    losses = -(right * log_shares[:, RIGHT] + (1 - right) * log_shares[:, 1 - RIGHT])
    return torch.where(known, losses, 0.0)
