"""The flags of rm_gating.py and what they mean, for all to read that have not imported torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import (
    LOGGED,
    NOT_NEGATIVE,
    PATH,
    SEED,
    Check,
    at_least,
    below,
    flag,
    flag_problems,
    flags_with,
    one_of,
)
from reward_modeling.common.words import BATCHINGS
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PREFERRED_HELP,
    REVISION_HELP,
    ReadOptions,
    read_options,
    read_options_problems,
)

BY_OBJECTIVE, BY_LENGTH, NOT_AT_ALL = "verbosity-objective", "length", "none"
POSITIVE = Check("above 0", lambda value: value > 0)
SHARE = Check("above 0 and below 1", lambda value: 0 < value < 1)
CORRELATION = Check("0 or more and below 1", lambda value: 0 <= value < 1)


@dataclass
class GatingFlags:
    """The flags of a gate's training, with their rules: see common/flags.py."""

    # Model
    model_name: Annotated[str, PATH] = flag(
        "./models/gemma2b_ratings/last_checkpoint",
        "Folder or Hub id of a model of ratings: last_checkpoint of rm_regression.py, with or without "
        "--freeze_backbone. Its backbone and its outputs are left as they are.",
    )
    model_revision: str | None = flag(None, "Branch, tag or commit of the model.")
    trust_remote_code: bool = flag(False, "Run code that the model's repository holds.")
    dtype: Annotated[str | None, one_of("float32", "bfloat16", "float16"), LOGGED] = flag(
        None,
        "Type that hidden states are computed in, and the backbone is saved in. Unset: bfloat16 on a GPU that has it, "
        "else float32.",
    )

    # Data
    train_set_path: Annotated[None | str | list[str], PATH] = flag(  # noqa: RUF009, RUF036
        None, "Preference pairs, as rm.py reads them."
    )
    columns: str | None = flag(None, COLUMNS_HELP)
    preferred_values: str | None = flag(None, PREFERRED_HELP)
    ignore_columns: str | None = flag(None, IGNORE_HELP)
    dataset_revision: str | None = flag(None, REVISION_HELP)
    max_train_samples: Annotated[int | None, at_least(1), LOGGED] = flag(
        None, "The most pairs to take, whole prompts only, drawn by the seed."
    )
    held_out: Annotated[float, SHARE, LOGGED] = flag(
        0.2, "Share of the prompts that is held out. One half chooses the step, the other is measured once at the end."
    )
    max_length: Annotated[int | None, at_least(2), LOGGED] = flag(
        None, "Longest conversation, in tokens. Unset: 4096, or the model's context where that is shorter."
    )
    overlong: Annotated[str, one_of("truncate", "drop"), LOGGED] = flag(
        "truncate", "truncate cuts the oldest turns of longer pairs and no answer; drop drops these pairs."
    )
    num_proc: Annotated[int | None, at_least(1)] = flag(
        None, "Worker processes that read and tokenise. Unset: one per core, at most 16."
    )

    # Debiasing
    debias: Annotated[str | None, one_of(BY_OBJECTIVE, BY_LENGTH, NOT_AT_ALL), LOGGED] = flag(
        None,
        f"What objectives are freed of, before the gate is trained: they lose a part of the verbosity objective until "
        f"their rank correlation with that objective ({BY_OBJECTIVE}) or with the tokens of the answer ({BY_LENGTH}) "
        f"is at most --debias_bound. Unset: {BY_OBJECTIVE} where the model has one, else {NOT_AT_ALL}.",
    )
    verbosity_objective: Annotated[str | None, LOGGED] = flag(
        None, "The output that is subtracted. Unset: the one that has verbosity in its name."
    )
    debias_bound: Annotated[float, CORRELATION, LOGGED] = flag(0.03, "The greatest rank correlation that is left.")
    reference_set_path: Annotated[None | str | list[str], PATH] = flag(  # noqa: RUF009, RUF036
        None, "Preference rows whose answers the correlations are measured on. Unset: the answers that are trained on."
    )

    # Output
    output_path: Annotated[str, PATH] = flag("./models/gemma2b_gated", "Folder of the model and its figures.")
    overwrite_output_dir: bool = flag(False, "Remove what an earlier run left in output_path.")
    feature_cache: Annotated[str | None, PATH] = flag(
        None,
        "The folder in which hidden states are kept for the next run, 4 bytes x hidden size an answer and a prompt. "
        "Unset: reward_modeling in HF_DATASETS_CACHE.",
    )

    # Hidden states
    batching: Annotated[str, one_of("auto", *BATCHINGS)] = flag(
        "auto", "shared_prefix computes a prompt once for all its answers; auto is that where the model allows it."
    )
    max_tokens_per_batch: Annotated[int | None, at_least(1)] = flag(
        None, "Tokens of one forward pass, which bounds its memory. Unset: 32,768 on a GPU, 2,048 else."
    )

    # Gate
    gating_temperature: Annotated[float, POSITIVE, LOGGED] = flag(10.0, "What the gate's logits are divided by.")
    gating_hidden_dim: Annotated[int, at_least(1), LOGGED] = flag(1024, "Width of the gate's hidden layers.")
    gating_n_hidden: Annotated[int, at_least(0), LOGGED] = flag(3, "How many hidden layers the gate has.")
    steps: Annotated[int, at_least(1), LOGGED] = flag(2000, "Steps of the training; the best of them is taken.")
    pairs_per_step: Annotated[int, at_least(1), LOGGED] = flag(1024, "Pairs in a step.")
    learning_rate: Annotated[float, NOT_NEGATIVE, LOGGED] = flag(1e-3, "Peak learning rate of AdamW; cosine to 0.")
    weight_decay: Annotated[float, NOT_NEGATIVE, LOGGED] = flag(0.0, "Weight decay of AdamW.")
    dropout: Annotated[float, below(1), LOGGED] = flag(0.2, "Dropout after each hidden layer, while it is trained.")
    seed: Annotated[int, SEED, LOGGED] = flag(42, "Of what is held out, of the first weights and of the order.")

    def __post_init__(self):
        if problems := [*flag_problems(self), *self._problems()]:
            raise UserError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        yield from read_options_problems(self.columns, self.ignore_columns, self.preferred_values)
        if not self.train_set_path:
            yield "--train_set_path: expected preference pairs, found nothing"
        if not self.model_name.strip():
            yield "--model_name: expected the folder or Hub id of a model of ratings, found nothing"
        if self.debias == NOT_AT_ALL and (self.verbosity_objective or self.reference_set_path):
            yield f"--debias {NOT_AT_ALL}: expected neither --verbosity_objective nor --reference_set_path beside it"

    @property
    def read(self) -> ReadOptions:
        """Which columns of the rows are read as what."""
        return read_options(self.columns, self.ignore_columns, self.dataset_revision, self.preferred_values)

    def logged(self) -> dict[str, Any]:
        """The flags that decide what is learned, for run.json."""
        names = (
            "model_name",
            "model_revision",
            "train_set_path",
            "reference_set_path",
            *flags_with(type(self), LOGGED),
        )
        return {name: getattr(self, name) for name in names}
