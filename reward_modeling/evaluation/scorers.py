"""The model that is evaluated: loaded by what its config.json says that it is, and described.

check_before("./last_checkpoint", ["prmbench"], None, revision=None)      # of its config.json alone
scorer = load_scorer("./last_checkpoint", state, data)
summary["model"] = describe_model("./last_checkpoint", None, scorer)
"""

import logging
from collections.abc import Mapping, Sequence

from accelerate import PartialState
from transformers import PreTrainedConfig, utils

from reward_modeling.checkpoints.run_record import fingerprint_of_weights
from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import kept_column
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.models.chat_template import fingerprint_of_template
from reward_modeling.models.checkpoint_config import read_config
from reward_modeling.models.pairwise_format import PAIRWISE, compares_answers
from reward_modeling.models.process_format import PROCESS, is_outcome_model, is_process_model
from reward_modeling.models.reward_normalization import tie_values_of
from reward_modeling.models.tokenizer import HUB_ERRORS, not_found, refuse_plain_texts
from reward_modeling.objectives.weights_flag import describe_weights
from reward_modeling.scoring import PairScorer, RewardScorer
from reward_modeling.scoring.loading import load_model
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.catalog import any_readout
from reward_modeling.scoring.readouts.steps import Steps
from reward_modeling.scoring.step_format import PROCESS_MODEL, StepFormat, check_step_format, described, log_steps

logger = logging.getLogger("eval_bench_mark")

Scorer = RewardScorer | PairScorer


def check_plain_texts(data: list[BenchmarkRows], scorer: Scorer) -> None:
    """
    Raises:
        UserError: pairs are plain texts, and the tokenizer has a chat template of its own.
    """
    for benchmark in data:
        prompts = [] if benchmark.rows is None else kept_column(benchmark.rows, "prompt")
        count = sum(not prompt.as_py() for prompt in prompts)
        refuse_plain_texts(count, f"--{benchmark.benchmark}_path", scorer.tokenizer)


# --- before the weights are read ------------------------------------------------------------------------------


def check_before(
    name_or_path: str,
    benchmarks: Sequence[str],
    step_format: StepFormat | None,
    *,
    flag: str = "reward_name_or_path",
    **hub_options: object,
) -> None:
    """Before any model is scored: of two, the second would else be refused when the first has been.

    Of an adapter nothing is known here; `load_scorer` checks it.

    Args:
        flag: that names the model.
        hub_options: `revision` and `trust_remote_code`.

    Raises:
        UserError: there is no such model, or it is not one for these benchmarks.
    """
    try:
        config = _config_of(name_or_path, **hub_options)
    except UserError as error:  # which names the flag of training
        raise UserError(f"--{flag} {str(error).removeprefix('--model_name ')}") from error
    if config is not None:
        check_kind(name_or_path, config, benchmarks, step_format)


def _config_of(name_or_path: str, **hub_options: object) -> PreTrainedConfig | None:
    """None of an adapter, whose own says nothing."""
    try:
        is_adapter = utils.find_adapter_config_file(name_or_path, revision=hub_options["revision"]) is not None
    except HUB_ERRORS as error:
        raise not_found(name_or_path, "a model", error) from error
    return None if is_adapter else read_config(name_or_path, **hub_options)


def check_kind(
    name_or_path: str, config: PreTrainedConfig, benchmarks: Sequence[str], step_format: StepFormat | None
) -> None:
    """
    Raises:
        UserError: benchmarks of steps for a model of rewards or of whole answers, or of rewards for a process model;
            or how steps are written for a model that reads none.
    """
    is_process = is_process_model(config)
    if is_process and is_outcome_model(config):
        raise UserError(
            f"--benchmarks {','.join(benchmarks)}: expected a process model or a reward model, found "
            f"{described(name_or_path, config)}. It was trained on whole answers, right or wrong: its output says "
            "nothing of a single step, and no benchmark of pairs takes it. Score whole answers with score.py."
        )
    wrong = [name for name in benchmarks if BENCHMARKS[name].of_steps != is_process]
    if wrong:
        expected = PROCESS_MODEL if not is_process else "a model that scores or compares whole answers"
        theirs = ",".join(name for name, benchmark in BENCHMARKS.items() if benchmark.of_steps == is_process)
        raise UserError(
            f"--benchmarks {','.join(wrong)}: expected {expected}, found {described(name_or_path, config)}. "
            f"Benchmarks for it: {theirs}."
        )
    check_step_format(name_or_path, config, step_format)


# --- the model ------------------------------------------------------------------------------------------------


def load_scorer(
    name_or_path: str,
    state: PartialState,
    data: Sequence[BenchmarkRows],
    *,
    step_format: StepFormat | None = None,
    **options: object,
) -> Scorer:
    """Load the model, and say what it is: one that scores an answer or its steps, or one that compares two.

    Args:
        data: what it is evaluated on.
        step_format: see `read_step_format`.
        options: those of `RewardScorer.from_pretrained`.
    """
    benchmarks = [of.benchmark for of in data]

    def readout_of(path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None = None) -> Readout:
        check_kind(path, config, benchmarks, step_format)
        return any_readout(path, config, weights, step_format)

    loaded = load_model(name_or_path, device=state.device, readout_of=readout_of, **options)
    compares = compares_answers(loaded.model.config)
    scorer = PairScorer.of_loaded(loaded) if compares else RewardScorer(**vars(loaded))
    words = (
        f"{type(scorer.model).__name__}, {name_or_path}, {scorer.dtype_name}, at most "
        f"{scorer.reader.max_length or 'any number of'} tokens a {'comparison' if compares else 'conversation'}; "
        f"{scorer.batches.batching} batches of at most {scorer.batches.max_tokens:,} tokens on "
        f"{state.num_processes} x {state.device.type}."
    )
    logger.info("Model: %s", words)
    if scorer.readout.reward_weights is not None:
        logger.info("Reward: the weighted sum of %s.", describe_weights(scorer.readout.reward_weights))
    if isinstance(scorer.readout, Steps):
        log_steps(logger, scorer, step_format)
    return scorer


def describe_model(name_or_path: str, revision: str | None, scorer: Scorer) -> dict:
    """The model's part of summary.json."""
    return {
        "name_or_path": name_or_path,
        "revision": revision,
        "weights": fingerprint_of_weights(name_or_path, scorer.model.config),
        "chat_template": fingerprint_of_template(scorer.tokenizer),
        "class": type(scorer.model).__name__,
        "dtype": scorer.dtype_name,
        "max_length": scorer.reader.max_length,
        "batching": scorer.batches.batching,
        **({PAIRWISE: scorer.model.config.pairwise} if isinstance(scorer, PairScorer) else {}),
        **({PROCESS: scorer.readout.process.to_config()} if isinstance(scorer.readout, Steps) else {}),
        **(tie_values_of(scorer.model.config) or {}),
        **({} if scorer.readout.reward_weights is None else {"reward_weights": scorer.readout.reward_weights}),
    }
