"""The flags of every training script and what they mean, for all to read that have not imported torch.

`training.arguments` makes of them, and of transformers' own, the arguments of a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from reward_modeling.common.flags import (
    LOGGED,
    NEEDS_ADAPTER,
    NOT_NEGATIVE,
    PATH,
    SEED,
    Check,
    OnResume,
    at_least,
    below,
    flag,
    one_of,
    unsupported,
)
from reward_modeling.common.words import ALL_LINEAR, BATCHINGS
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PLAIN_TEXT_HELP,
    PREFERRED_HELP,
    REVISION_HELP,
    TARGETS,
)
from reward_modeling.estimate.memory import GPUS

FIXED, FREE, DATA = OnResume
OF_ADAPTER = (FIXED, NEEDS_ADAPTER, LOGGED)
STEPS = Check("at least 1, or -1 for whole epochs", lambda steps: steps == -1 or steps >= 1)
NO_TOKEN_COUNT = Check(
    "no", lambda value: str(value).lower() in ("no", "false"), "tokens_per_second and tokens_saved are logged instead"
)


@dataclass
class RunFlags:
    """The flags of a training script but those of its objective, with their rules: see common/flags.py."""

    def objective_problems(self) -> Iterator[str]:
        """What is wrong with the flags of the objective beside each other."""
        yield from ()

    @property
    def read_targets(self) -> tuple[str, ...]:
        """What --columns may read: of preferences, where the flags of the objective do not say otherwise."""
        return TARGETS

    # Model
    model_name: Annotated[str, PATH] = flag(
        "google/gemma-2b-it", "Hub id or folder of a causal language model, or of a reward model to go on with."
    )
    model_revision: str | None = flag(None, "Branch, tag or commit of the model.")
    model_dtype: Annotated[str, one_of("float32", "bfloat16"), FIXED, LOGGED] = flag(
        "float32",
        "Type of the weights that the optimizer holds: float32 or bfloat16. With bf16 the computation is "
        "in bfloat16 either way; bfloat16 weights halve the memory and lose small updates.",
    )
    trust_remote_code: bool = flag(False, "Run code that the model's repository holds.")

    chat_template: Annotated[str | None, PATH, DATA] = flag(
        None, "A jinja file: the chat template to use and to save, in the place of the tokenizer's own."
    )

    # Data
    train_set_path: Annotated[None | str | list[str], PATH, DATA] = flag(  # noqa: RUF009, RUF036
        "weqweasdas/preference_dataset_mix2",
        "Hub id (id:split, id:config:split), save_to_disk folder, .json/.jsonl/.csv/.tsv/.parquet/.arrow file, folder "
        "or glob; several with spaces or commas between.",
    )
    eval_set_path: Annotated[None | str | list[str], PATH, DATA] = flag(  # noqa: RUF009, RUF036
        None,
        "As train_set_path, or name=path,name=path for several sets, of which the first decides which model is best. "
        "Unset: eval_size rows of the training set, by prompt.",
    )
    dataset_revision: Annotated[str | None, DATA] = flag(None, REVISION_HELP)
    max_train_samples: Annotated[int | None, at_least(1), DATA] = flag(
        None, "Train on at most so many pairs, whole prompts only, drawn by the seed. Unset: on all."
    )
    columns: Annotated[str | None, DATA] = flag(None, COLUMNS_HELP)
    ignore_columns: Annotated[str | None, DATA] = flag(None, IGNORE_HELP)
    preferred_values: Annotated[str | None, DATA] = flag(None, PREFERRED_HELP)
    plain_text: Annotated[bool, DATA] = flag(False, PLAIN_TEXT_HELP)
    eval_size: Annotated[int, NOT_NEGATIVE, DATA] = flag(
        500, "Rows held out where eval_set_path is unset; at most a tenth. 0 for none."
    )
    max_length: Annotated[int, at_least(1), DATA, LOGGED] = flag(4096, "Longest conversation, in tokens.")
    overlong: Annotated[str, one_of("truncate", "drop"), DATA, LOGGED] = flag(
        "truncate",
        "truncate cuts the oldest turns of longer conversations, then the beginning of the last question, and no "
        "answer; drop drops these rows.",
    )
    num_proc: Annotated[int | None, at_least(1)] = flag(
        None, "Worker processes that read and tokenise. Unset: one per core, at most 16."
    )

    # Output
    output_path: Annotated[str, PATH] = flag(
        "./models/gemma2b_rm", "Folder of checkpoints, the final model and all reports."
    )
    overwrite_output_dir: bool = flag(False, "Remove what an earlier run left in output_path.")
    verify_saved_model: bool = flag(
        True, "Reload last_checkpoint in plain transformers and compare its rewards with those in memory."
    )
    preflight_only: bool = flag(False, "Check data and tokenizer, show what the model will see, and stop.")
    show: Annotated[int, at_least(0)] = flag(1, "How many rows the preflight shows whole: pairs and ranked lists.")
    estimate: bool = flag(
        False, "Show tokens, steps, memory by engine and hours on --gpus GPUs of the kind --gpu, and stop."
    )
    gpus: Annotated[int | None, at_least(1)] = flag(None, "For --estimate: how many GPUs. Unset: one.")
    gpu: Annotated[str | None, one_of(*GPUS)] = flag(None, f"For --estimate: {', '.join(GPUS)}.")

    # Adapters
    use_peft: Annotated[bool, FIXED, LOGGED] = flag(
        False, "Train a LoRA adapter and the score head, and leave the model's own weights as they are."
    )
    lora_r: Annotated[int, at_least(1), *OF_ADAPTER] = flag(16, "Rank of the adapter's matrices.")
    lora_alpha: Annotated[int, at_least(1), *OF_ADAPTER] = flag(32, "The adapter counts lora_alpha / lora_r times.")
    lora_dropout: Annotated[float, below(1), *OF_ADAPTER] = flag(0.0, "Dropout before the adapter's matrices.")
    lora_target_modules: Annotated[str, *OF_ADAPTER] = flag(
        ALL_LINEAR, "all-linear (all linear layers but the head), or names separated by commas: q_proj,v_proj."
    )
    load_in_4bit: Annotated[bool, *OF_ADAPTER] = flag(
        False, "QLoRA: hold the frozen weights in four bits. Needs a GPU and bitsandbytes."
    )
    merge_adapter: Annotated[bool, NEEDS_ADAPTER] = flag(
        False, "Also write merged_checkpoint: adapter and model as one plain checkpoint."
    )

    # Batches
    per_device_train_batch_size: Annotated[int, at_least(1)] = flag(1, "Pairs per device; see the next flag.")
    gradient_accumulation_steps: Annotated[int, at_least(1)] = flag(
        32,
        "A step has per_device_train_batch_size x gradient_accumulation_steps x devices pairs. How many "
        "forward passes these take is decided by max_tokens_per_micro_batch.",
    )
    pairs_per_step: Annotated[int | None, at_least(1), FIXED, LOGGED] = flag(
        None,
        "Pairs in a step over all devices, in place of the two flags above: the same steps on any number of devices.",
    )
    per_device_eval_batch_size: Annotated[int, at_least(1)] = flag(
        1, "Kept for habit: evaluation too is cut by max_tokens_per_micro_batch."
    )
    max_tokens_per_micro_batch: Annotated[int | None, FREE] = flag(
        None, "Tokens of one forward pass, which bounds its memory. Unset: 4 x max_length."
    )
    batching: Annotated[str, one_of("auto", *BATCHINGS), FREE] = flag(
        "auto",
        "shared_prefix computes a prompt once for all its answers; packed is free of padding; padded is "
        "one row per answer; auto is shared_prefix where the model allows it.",
    )
    attn_implementation: str | None = flag(None, "Attention of padded batches: eager, sdpa, flash_attention_2.")

    probe_memory: bool = flag(
        True, "Try the heaviest micro-batch before the first step, so that memory runs out at once or not."
    )

    # Loss
    router_aux_loss_coef: Annotated[float, NOT_NEGATIVE, FREE] = flag(
        0.0, "Mixture of experts: weight of the loss that spreads each conversation's tokens evenly."
    )

    # Optimisation
    learning_rate: Annotated[float, NOT_NEGATIVE, FIXED, LOGGED] = flag(1e-5, "Peak learning rate.")
    weight_decay: Annotated[float, NOT_NEGATIVE, FIXED, LOGGED] = flag(0.001, "Weight decay of AdamW.")
    num_train_epochs: Annotated[float, FREE, LOGGED] = flag(1, "Passes over the training set.")
    lr_scheduler_type: Annotated[str, FIXED, LOGGED] = flag("cosine", "Learning rate schedule.")
    warmup_steps: Annotated[float, FIXED, LOGGED] = flag(0.03, "Warm-up: a share of all steps below 1, else steps.")
    optim: Annotated[str, FIXED, LOGGED] = flag("adamw_torch_fused", "Optimizer, as transformers names it.")
    bf16: Annotated[bool | None, FREE, LOGGED] = flag(
        None, "Compute in bfloat16. Unset: on a GPU that does it well, and nowhere else."
    )
    gradient_checkpointing: bool = flag(
        True, "Recompute activations in the backward pass, which saves most of their memory."
    )

    ddp_timeout: int = flag(
        6 * 3600, "Seconds that processes wait for each other: for one that tokenises, or saves a large model."
    )

    # During the run
    logging_steps: float = flag(10, "Steps between two logs.")
    logging_first_step: bool = flag(True, "Log the first step too.")
    logging_nan_inf_filter: bool = flag(False, "Hide a loss that is not a number.")
    save_every_steps: Annotated[int | None, at_least(1)] = flag(None, "Unset: at the end of each epoch.")
    eval_every_steps: Annotated[int | None, at_least(1)] = flag(None, "Unset: at the end of each epoch.")
    save_strategy: str = flag("epoch", "no, steps, epoch or best.")
    eval_strategy: str = flag("epoch", "no, steps or epoch. The final model is evaluated in any case.")
    early_stopping_patience: Annotated[int | None, at_least(1), FREE, LOGGED] = flag(
        None,
        "Stop after so many evaluations without a better --metric_for_best_model (unset: loss). The best "
        "model is then what is saved at the end, unless --load_best_model_at_end false.",
    )
    early_stopping_threshold: Annotated[float, NOT_NEGATIVE, FREE] = flag(
        0.0, "By how much the metric has to be better for an evaluation to count as one."
    )
    load_best_model_at_end: bool | None = flag(
        None, "End with the best model evaluated. Unset: with early stopping, else not."
    )
    report_to: None | str | list[str] = flag(  # noqa: RUF009, RUF036
        "wandb", "wandb, tensorboard, none, ..."
    )
    deepspeed: Annotated[str | None, PATH] = flag(None, "A DeepSpeed JSON file, such as deepspeed_3.json.")
    remove_unused_columns: bool = flag(False, "Not used: batches are built by rm.py.")

    # Flags of transformers with rules of ours; their help is transformers'
    output_dir: Annotated[str | None, PATH] = None
    resume_from_checkpoint: Annotated[str | None, PATH] = None
    accelerator_config: Annotated[dict | str | None, PATH] = None
    fsdp_config: Annotated[dict | str | None, PATH] = None
    max_steps: Annotated[int, STEPS, FREE, LOGGED] = -1
    seed: Annotated[int, SEED, FIXED, LOGGED] = 42
    data_seed: Annotated[int | None, SEED, FIXED] = None
    adam_beta1: Annotated[float, FIXED] = 0.9
    adam_beta2: Annotated[float, FIXED] = 0.999
    adam_epsilon: Annotated[float, FIXED] = 1e-8
    optim_args: Annotated[str | None, FIXED] = None
    lr_scheduler_kwargs: Annotated[dict | str | None, FIXED] = None
    max_grad_norm: Annotated[float, FREE] = 1.0
    fp16: Annotated[bool, FREE] = False
    metric_for_best_model: Annotated[str | None, FIXED, LOGGED] = None  # or two metrics would be compared
    greater_is_better: Annotated[bool | None, FIXED] = None

    # Flags of transformers that have no use here
    label_smoothing_factor: Annotated[float, unsupported(0.0, "It is for classifiers")] = 0.0
    include_num_input_tokens_seen: Annotated[str | bool, NO_TOKEN_COUNT] = "no"
    neftune_noise_alpha: Annotated[
        float | None, unsupported(None, "Its noise is scaled by the length of a row, which may hold many answers")
    ] = None
    train_sampling_strategy: Annotated[
        str, unsupported("random", "Steps are drawn whatever the lengths, and micro-batches are balanced by tokens")
    ] = "random"
    auto_find_batch_size: Annotated[
        bool, unsupported(False, "--max_tokens_per_micro_batch sets the memory; the batch size is the pairs of a step")
    ] = False
    enable_jit_checkpoint: Annotated[
        bool, unsupported(False, "A checkpoint is saved at SIGTERM without it, and its own handler would interfere")
    ] = False
    use_liger_kernel: Annotated[
        bool,
        unsupported(
            False,
            "liger-kernel saves memory on the logits of a vocabulary, which a score head does not have. Its other "
            "kernels replace functions of transformers at run time, and were not shown equal on packed rows",
        ),
    ] = False
