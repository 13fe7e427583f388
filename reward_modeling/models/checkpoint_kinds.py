"""What the head of each kind of model asks of a checkpoint, which may be a language model or a model of any kind.

A kind with a head of its own is one more function, in `CHECKS`: it refuses checkpoints whose head would go on as what
it is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import check_labels, is_process_model
from reward_modeling.models.rating_outputs import RANGES, output_names
from reward_modeling.models.support import why_no_steps


@dataclass(frozen=True)
class WantedHead:
    """The head that a model shall have."""

    num_labels: int = 1
    label_names: Sequence[str] = ()
    any_head: bool = False
    """Whatever head the checkpoint has will be replaced."""
    compares: bool = False
    """It reads two answers, and so must one that is kept."""
    reads_steps: bool = False
    """It is a token classifier's, and so must one be that is kept; any other head is left."""

    def goes_on(self, config: PreTrainedConfig) -> bool:
        """Whether the head of a reward model is kept."""
        return has_score_head(config) and not self.any_head and not self.reads_steps


def has_score_head(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint says that it is a `*ForSequenceClassification`."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


# --- the checks: each raises `UserError` ------------------------------------------------------------------------------


def _check_no_gate(model_name: str, config: PreTrainedConfig, wanted: WantedHead) -> None:
    """Nothing goes on from a mixture of objectives."""
    if is_gated(config):
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or a reward model, found a mixture of "
            f"objectives with a gate ({config.architectures[0]}), which no script trains on. Start from the model that "
            "it was made from."
        )


def _check_steps(model_name: str, config: PreTrainedConfig, wanted: WantedHead) -> None:
    """A process model goes on as one alone, with two labels; and there are families without token classifiers."""
    if is_process_model(config):
        if not wanted.reads_steps:
            raise UserError(
                f"--model_name {model_name}: expected a causal language model or a reward model, found a token "
                "classifier such as rm_process.py saves, whose head says of single steps whether they are right. "
                "Start from the language model it was made from, or go on with rm_process.py."
            )
        check_labels(f"--model_name {model_name}", config)
    if wanted.reads_steps and why_no_steps(config) is not None:
        raise UserError(
            f"--model_name {model_name}: expected a model of which transformers has a token classifier, found "
            f"{config.model_type}: {why_no_steps(config)}. Take another one, such as a Llama, Qwen or Gemma."
        )


def _check_number(model_name: str, config: PreTrainedConfig, wanted: WantedHead) -> None:
    """A head that goes on has as many outputs."""
    if wanted.goes_on(config) and config.num_labels != wanted.num_labels:
        scores = "one score" if wanted.num_labels == 1 else f"{wanted.num_labels} scores"
        instead = "Start from the language model it was made from."
        if wanted.num_labels == 1 and hasattr(config, RANGES):
            instead = f"Fold it first: python rm_regression.py --fold {model_name} --output_path NEW_FOLDER."
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or a reward model with {scores}, found "
            f"a classifier with {config.num_labels} labels. {instead}"
        )


def _check_answers(model_name: str, config: PreTrainedConfig, wanted: WantedHead) -> None:
    """A head that goes on reads one answer, or two, as before."""
    if wanted.goes_on(config) and compares_answers(config) != wanted.compares:
        kinds = ("a reward model, which reads one answer", "a pairwise model, which reads two answers")
        due, found = (kinds[wanted.compares], kinds[not wanted.compares])
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or {due}, found {found}: what its head "
            "has learned says nothing here. Start from the language model it was made from."
        )


def _check_names(model_name: str, config: PreTrainedConfig, wanted: WantedHead) -> None:
    """Ratings go on as those of the same attributes."""
    if not (wanted.label_names and wanted.goes_on(config) and hasattr(config, RANGES)):
        return
    pairs = zip(output_names(config), wanted.label_names, strict=True)
    different = next(((place, *names) for place, names in enumerate(pairs, start=1) if names[0] != names[1]), None)
    if different is not None:
        place, found, expected = different
        raise UserError(
            f"--model_name {model_name}: expected a model whose output {place} is {expected}, as --attributes says, "
            f"found {found}. Pass the attributes in the order in which the model has them, or start from the language "
            "model it was made from."
        )


CHECKS: tuple[Callable[[str, PreTrainedConfig, WantedHead], None], ...] = (
    _check_no_gate,
    _check_steps,
    _check_number,
    _check_answers,
    _check_names,
)
