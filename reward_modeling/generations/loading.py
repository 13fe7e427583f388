"""The model that scores rows, of whatever kind, and what it cannot do to them.

scoring = load_scoring("./last_checkpoint", state, plain_text=False)
"""

import logging
from collections.abc import Mapping
from functools import partial

from accelerate import PartialState
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.generations.by_answer import ByAnswer, BySteps
from reward_modeling.generations.by_comparison import ByComparison
from reward_modeling.generations.look import Look
from reward_modeling.generations.row_scoring import RowScoring
from reward_modeling.generations.scored_rows import has_rewards
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import is_process_model
from reward_modeling.objectives.weights_flag import describe_weights
from reward_modeling.scoring import PairScorer, RewardScorer
from reward_modeling.scoring.loading import load_model
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.steps import Steps
from reward_modeling.scoring.step_format import StepFormat, log_steps, readout_by_flags

logger = logging.getLogger("score")


def load_scoring(
    name_or_path: str,
    state: PartialState,
    *,
    plain_text: bool = False,
    normalize: bool = False,
    step_format: StepFormat | None = None,
    **options: object,
) -> RowScoring:
    """Load the model, and say what it is.

    Args:
        plain_text: rows hold texts that are scored as they stand.
        step_format: of a process model; see `read_step_format`.
        options: further ones of `RewardScorer.from_pretrained`.

    Raises:
        UserError: see `RewardScorer.from_pretrained`; or the model cannot do what the flags ask for.
    """
    readout_of = partial(_checked_readout, plain_text=plain_text, normalize=normalize, step_format=step_format)
    loaded = load_model(name_or_path, device=state.device, readout_of=readout_of, normalize=normalize, **options)
    if compares_answers(loaded.model.config):
        scoring: RowScoring = ByComparison(PairScorer.of_loaded(loaded))
    else:
        kind = BySteps if isinstance(loaded.readout, Steps) else ByAnswer
        scoring = kind(RewardScorer(**vars(loaded)))
    scorer = scoring.scorer
    logger.info(
        "Model: %s, %s, %s, at most %s tokens a %s; %s batches of at most %s tokens on %d x %s.",
        *(type(scorer.model).__name__, name_or_path, scorer.dtype_name, scorer.reader.max_length or "any number of"),
        *(scoring.reads, scorer.batches.batching, f"{scorer.batches.max_tokens:,}"),
        *(state.num_processes, state.device.type),
    )
    if scorer.readout.reward_weights is not None:
        logger.info("Reward: the weighted sum of %s.", describe_weights(scorer.readout.reward_weights))
    if scoring.words:
        logger.info("Reward: %s.", scoring.words)
    if isinstance(scoring, BySteps):
        log_steps(logger, scorer, step_format)
    return scoring


def _checked_readout(
    path: str,
    config: PreTrainedConfig,
    weights: Mapping[str, float] | None = None,
    *,
    plain_text: bool,
    normalize: bool,
    step_format: StepFormat | None,
) -> Readout:
    """
    Raises:
        UserError: before the weights are read, that the model takes no plain texts, or has nothing to normalize; see
            also `readout_by_flags`.
    """
    kind = "a pairwise" if compares_answers(config) else "a process" if is_process_model(config) else None
    if kind and plain_text:
        raise UserError(
            f"--plain_text: expected a model that scores a text as it stands, found {path}, {kind} model, which has to "
            "know where an answer begins. Leave the flag out, and give prompts as messages, or as texts of the user's."
        )
    if kind and normalize:
        raise UserError(
            f"--normalize: expected a model with rewards of any size, found {path}, {kind} model, whose rewards are "
            "probabilities, or are made of some. Leave the flag out."
        )
    return readout_by_flags(path, config, weights, step_format=step_format)


def check_template(scoring: RowScoring, look: Look) -> None:
    """
    Raises:
        UserError: there are messages, and the tokenizer has no chat template.
    """
    if not look.has_messages:
        return
    try:
        scoring.scorer.reader.check_template()
    except UserError as error:
        plain = "; --plain_text true scores prompts and answers that are texts as they stand" * scoring.takes_texts
        raise UserError(f"{error} Or pass --chat_template FILE{plain}.") from error


def check_columns(scoring: RowScoring, look: Look) -> None:
    """
    Raises:
        UserError: rows have a column of a name that this model adds.
    """
    if name := next((name for name in scoring.beside if name in look.taken), None):
        raise UserError(has_rewards(look.taken[name], name))
