"""Serve a reward model over HTTP, as OpenRLHF, vLLM's clients and verl ask for rewards, and in a way of our own.

    python serve.py --reward_name_or_path ./models/gemma2b_rm/last_checkpoint --host 127.0.0.1 --port 8000

    curl -s http://127.0.0.1:8000/v1/rewards -H 'Content-Type: application/json' \
        -d '{"prompt": "How do I brew green tea?", "responses": ["With water at 80 degrees.", "No idea."]}'

It also answers at /get_reward, /classify, /pooling, /score, /v1/models, /health and /metrics.
"""

import logging
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, problems_with, run_script
from reward_modeling.common.flags import PATH, at_least, flag, flag_problems, from_to, one_of
from reward_modeling.objectives.step_format_flags import (
    PROMPT_FORMAT_HELP,
    PROMPT_FORMATS,
    STEP_SEPARATOR_HELP,
    read_step_format,
)
from reward_modeling.objectives.weights_flag import WEIGHTS_HELP, read_weights
from reward_modeling.serving.keys import check_key, read_key_file

KEY_VARIABLE = "REWARD_API_KEY"
SHORTEST_KEY = 8


@dataclass
class ScriptArguments:
    """The defaults to edit."""

    # Model
    reward_name_or_path: Annotated[str, PATH] = flag(
        "./models/gemma2b_rm/last_checkpoint", "Hub id or folder of a reward model, or of a LoRA adapter of one."
    )
    revision: str | None = flag(None, "Branch, tag or commit of the model.")
    trust_remote_code: bool = flag(False, "Run code that the model's repository holds.")
    dtype: str | None = flag(None, "float32, bfloat16 or float16. Unset: bfloat16 on a GPU, float32 on a CPU.")
    device: str | None = flag(None, "Such as cuda:1 or cpu. Unset: the first GPU, or the CPU where there is none.")
    chat_template: Annotated[str | None, PATH] = flag(
        None, "A jinja file: the chat template to take as it is, in the place of the model's own."
    )
    weights: str | None = flag(None, WEIGHTS_HELP)
    step_separator: str | None = flag(None, STEP_SEPARATOR_HELP)
    prompt_format: Annotated[str | None, one_of(*PROMPT_FORMATS)] = flag(None, PROMPT_FORMAT_HELP)
    normalize: bool = flag(
        False,
        "Give (reward - mean) / deviation of the held-out rewards of the training in /v1/rewards and /get_reward. "
        "/classify, /pooling and /score give the model's raw outputs in any case.",
    )
    complete_texts: bool = flag(
        False,
        "Add to a text that stops inside what the chat template writes behind an answer the rest of it: a policy stops "
        "at <|im_end|>, and ChatML and Gemma write a line break behind it, where the reward is read. Messages and "
        "tokens are complete, and stay as they are.",
    )
    served_model_name: str | None = flag(
        None, "The model's name in answers, and in requests that name one. Unset: reward_name_or_path."
    )

    # Server
    host: str = flag("127.0.0.1", "Address to listen at. 0.0.0.0: all of this machine, for others too.")
    port: Annotated[int, from_to(0, 65535)] = flag(8000, "0: any that is free; the log says which.")
    api_key: str | None = flag(
        None,
        "Ask for the header `Authorization: Bearer KEY`, but at /health. Whoever may list processes sees it: "
        f"--api_key_file or the variable {KEY_VARIABLE} hides it.",
    )
    api_key_file: Annotated[str | None, PATH] = flag(None, "A file whose first line is the key.")

    # Computation
    max_length: Annotated[int | None, at_least(2)] = flag(
        None, "Longer conversations are refused, not cut, in tokens. Unset: the model's own context."
    )
    max_tokens_per_batch: Annotated[int | None, at_least(1)] = flag(
        None, "Tokens of one forward pass, which bounds its memory. Unset: 32,768 on a GPU, 2,048 else."
    )
    threads: Annotated[int | None, at_least(1)] = flag(
        None,
        "Threads of the forward passes on a CPU. Unset: torch's own number: what OMP_NUM_THREADS says, else the cores. "
        "Fewer where other programs need the machine: threads that wait for each other spin.",
    )
    batching: str = flag("auto", "shared_prefix, packed, padded or auto: see eval_bench_mark.py.")

    # Limits
    max_conversations: Annotated[int, from_to(1, 100_000)] = flag(2048, "Conversations of one request.")
    max_queue_conversations: Annotated[int, at_least(1)] = flag(
        16_384, "Conversations that wait. A request beyond is answered 503 with Retry-After."
    )
    max_queue_tokens: Annotated[int, at_least(1)] = flag(2_000_000, "Tokens that wait, and of one request.")
    max_body_mb: Annotated[int, at_least(1)] = flag(32, "Size of one request, in 1,048,576 bytes.")
    max_connections: Annotated[int, at_least(1)] = flag(512, "Connections at a time. One beyond gets 503.")
    client_timeout: Annotated[float, at_least(0.1)] = flag(
        60.0, "Seconds that a client may take to send a request, and to read its answer."
    )
    shutdown_timeout: Annotated[float, at_least(0)] = flag(
        30.0, "Seconds that requests in flight get to finish after SIGTERM or Ctrl-C. A second signal ends at once."
    )

    def __post_init__(self):
        problems = list(flag_problems(self))
        if not self.reward_name_or_path.strip():
            problems.append("--reward_name_or_path: expected the Hub id or folder of a reward model, found nothing")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            problems.append(
                f"expected one process, found {os.environ['WORLD_SIZE']} of a launcher. Run python serve.py; for "
                "several GPUs start one server on each, with --device and --port of its own"
            )
        problems += problems_with(read_weights, self.weights)
        problems += problems_with(read_step_format, self.step_separator, self.prompt_format)
        try:
            self.key = self._read_key()
        except UserError as error:
            problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))

    def _read_key(self) -> str | None:
        """
        Raises:
            UserError: there is more than one, or none where one was promised, or one that is too short.
        """
        given = {"--api_key": self.api_key, "--api_key_file": self.api_key_file}
        given[KEY_VARIABLE] = os.environ.get(KEY_VARIABLE)
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return None
        if len(given) > 1:
            raise UserError(f"expected one key, found {' and '.join(given)}. Pass one of them")
        ((name, key),) = given.items()
        key = read_key_file(key) if name == "--api_key_file" else key
        return check_key(key, name, shortest=SHORTEST_KEY)


# ----------------------------------------------------------------------------------------------------------
# Job
# ----------------------------------------------------------------------------------------------------------


def main() -> None:
    args, _ = parse_script_arguments(ScriptArguments)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"expected fastapi, uvicorn and prometheus-client to be installed, found none of {error.name}. Run "
            "pip install 'reward-modeling[serve]'."
        ) from error
    # Only now, since they take seconds: transformers and torch.
    from reward_modeling.common.screen import set_up_screen
    from reward_modeling.serving.app import make_app
    from reward_modeling.serving.running import bind, check_reach, run
    from reward_modeling.serving.settings import MEGABYTE, Settings

    set_up_screen(logging.INFO, speaks=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    settings = Settings(
        model_name=args.served_model_name or args.reward_name_or_path,
        api_key=args.key,
        complete_texts=args.complete_texts,
        max_body_bytes=args.max_body_mb * MEGABYTE,
        max_conversations=args.max_conversations,
        max_queue_conversations=args.max_queue_conversations,
        max_queue_tokens=args.max_queue_tokens,
        max_connections=args.max_connections,
        client_timeout=args.client_timeout,
        shutdown_timeout=args.shutdown_timeout,
    )
    bound = bind(args.host, args.port)  # a port that is taken shows before the model is loaded
    check_reach(bound, settings)
    run(make_app(load_scorer(args), settings), bound)


def load_scorer(args: ScriptArguments):
    """Load the model, and say what it is."""
    import torch

    from reward_modeling.models.pairwise_format import compares_answers
    from reward_modeling.scoring import PairScorer, RewardScorer
    from reward_modeling.scoring.loading import load_model
    from reward_modeling.scoring.readouts.steps import Steps
    from reward_modeling.scoring.step_format import log_steps, readout_by_flags

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    step_format = read_step_format(args.step_separator, args.prompt_format)
    loaded = load_model(
        args.reward_name_or_path,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        dtype=args.dtype,
        device=args.device,
        max_length=args.max_length,
        max_tokens_per_batch=args.max_tokens_per_batch,
        batching=args.batching,
        normalize=args.normalize,
        chat_template=args.chat_template,
        weights=read_weights(args.weights),
        readout_of=partial(readout_by_flags, step_format=step_format),
    )
    compares = compares_answers(loaded.model.config)
    if compares and args.normalize:
        raise UserError(
            "--normalize true: expected a model that gives rewards, found a pairwise one, which gives probabilities. "
            "Leave it out."
        )
    scorer = PairScorer.of_loaded(loaded) if compares else RewardScorer(**vars(loaded))
    logger = logging.getLogger("serve")
    logger.info(
        "Model: %s, %s, %s, at most %s tokens a conversation; %s batches of at most %d tokens on %s, %d threads.",
        *(type(scorer.model).__name__, args.reward_name_or_path, scorer.dtype_name),
        *(scorer.reader.max_length or "any number of", scorer.batches.batching, scorer.batches.max_tokens),
        *(scorer.model.device, torch.get_num_threads()),
    )
    if isinstance(scorer.readout, Steps):
        log_steps(logger, scorer, step_format)
    return scorer


if __name__ == "__main__":
    sys.argv[0] = "serve.py"
    run_script(main)
