"""Models that compare two answers: their one label is no reward, and RewardScorer refuses them."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.pairwise_format import FORMAT, PAIRWISE, compares_answers
from reward_modeling.models.process_format import is_process_model
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.one_label import OneLabel


def comparison_readout(path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None = None) -> Readout:
    """
    Args:
        path: what a message calls the model.

    Raises:
        UserError: the model does not compare answers, or in another text than is known here; or weights are given.
    """
    if not compares_answers(config):
        is_process = is_process_model(config)
        other = "StepScorer reads process models" if is_process else "RewardScorer reads models that score one answer"
        raise UserError(
            f"{path}: expected a model that compares two answers, as rm_pairwise.py saves it, found no {PAIRWISE!r} in "
            f"its config.json ({', '.join(config.architectures or ['no architecture'])}). {other}."
        )
    entry = config.to_dict()[PAIRWISE]
    if not isinstance(entry, Mapping) or entry.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected in its config.json {PAIRWISE!r} with the format {FORMAT!r}, found {entry!r}, which is "
            "not known here. Take the version of this toolkit that trained it."
        )
    if config.num_labels != 1:
        raise UserError(
            f"{path}: expected one label, the logit of A less that of B, found {config.num_labels}. Save the model "
            "with one."
        )
    if weights is not None:
        raise UserError(
            f"weights: expected a model with named outputs, found that {path} compares two answers. Leave them out."
        )
    return OneLabel()


def refuse_pairwise(path: str, config: PreTrainedConfig) -> None:
    """
    Raises:
        UserError: the model compares two answers, and has no reward of one.
    """
    if compares_answers(config):
        raise UserError(
            f"{path}: expected a model that scores one answer, found a pairwise one, which says of two answers which "
            "is better. Use PairScorer.from_pretrained of reward_modeling.scoring, with its compare(prompt, a, b) and "
            "rank(prompt, answers); eval_bench_mark.py takes the model as it is."
        )
