"""rm_gating.py from its flags to the saved model: features, debiasing, gate, figures.

Several processes share the pass over the answers, and the first of them does the rest.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from reward_modeling.checkpoints.folders import clean_up
from reward_modeling.checkpoints.output_folder import check_model_stays, check_nothing_is_lost, only_run_in
from reward_modeling.common.atomic import check_writable
from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.common.errors import UserError, report_once_per_node
from reward_modeling.common.file_names import DATA_REPORT
from reward_modeling.common.interruption import ends_at_once
from reward_modeling.common.launch import worker_count
from reward_modeling.common.screen import set_up_screen, shows_bars
from reward_modeling.data.cached_rows import cache_root
from reward_modeling.data.gate_position import gate_tail
from reward_modeling.data.group_rows import TokenizeOptions
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.prepare import PreparedPairs, prepare_pairs, show_reports, write_reports
from reward_modeling.frozen_backbone.debiasing import debias_objectives, verbosity_place
from reward_modeling.frozen_backbone.feature_cache import cached_features
from reward_modeling.frozen_backbone.feature_pass import FeaturePass
from reward_modeling.frozen_backbone.features import Features
from reward_modeling.frozen_backbone.fixed_weights import best_single, fit_fixed_weights
from reward_modeling.frozen_backbone.gate import GateTraining, fit_gate
from reward_modeling.frozen_backbone.gate_figures import gate_figures, margins_of
from reward_modeling.frozen_backbone.gate_flags import GatingFlags
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, split
from reward_modeling.frozen_backbone.gate_results import Trained, save, settings_of
from reward_modeling.frozen_backbone.gate_text import gate_table
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel
from reward_modeling.frozen_backbone.objective_model import load_objectives
from reward_modeling.frozen_backbone.readers import PairFeatureReader
from reward_modeling.frozen_backbone.ridge import predict
from reward_modeling.models.support import context_length
from reward_modeling.scoring.options import CPU_TOKENS, GPU_TOKENS, choose_batching, choose_dtype

logger = logging.getLogger(__name__)

LONGEST = 4096  # tokens, as in rm.py


def run_gating(args: GatingFlags, given: dict[str, object]) -> None:
    """Train a gate, and save it with backbone and objectives as one model."""
    started = datetime.now(UTC)
    on_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    state = PartialState(cpu=on_cpu)
    set_up_screen(logging.INFO if state.is_main_process else logging.ERROR, speaks=state.is_main_process)
    warm_up_mkl()
    output = Path(args.output_path)
    check_writable("--output_path", output)
    with ends_at_once(), only_run_in(args.output_path, state.process_index):
        with report_once_per_node():
            if state.is_main_process:
                check_model_stays(args)
                clean_up(output)  # of a process that was killed
                if not args.overwrite_output_dir:
                    check_nothing_is_lost(args.output_path, resumes=False)
            model = load_objectives(args, choose_dtype(args.dtype, state.device), state.device)
            place = verbosity_place(args, model.names)
        how = feature_pass(args, model, state)
        data, reference = read_data(args, model, state)
        features = features_of(args, data.train, model, how)
        of_reference = None if reference is None else features_of(args, reference.train, model, how)
        state.destroy_process_group()
        if not state.is_main_process:
            return
        trained = train_gate(args, model, features, of_reference, place)
        save(args, given, started, model, data, features, trained, state.device)


# --- data and features ----------------------------------------------------------------------------------------


def read_data(
    args: GatingFlags, model: ObjectiveModel, state: PartialState
) -> tuple[PreparedPairs, PreparedPairs | None]:
    """The pairs, and the reference set where there is one. The first process reads, the others its cache."""
    with report_once_per_node(), state.main_process_first():
        data = prepare(args, "--train_set_path", args.train_set_path, model)
        reference = None
        if args.reference_set_path:
            reference = prepare(args, "--reference_set_path", args.reference_set_path, model)
    if state.is_main_process:
        reports = [*data.all_reports, *(reference.all_reports if reference else [])]
        show_reports(reports)
        write_reports(reports, Path(args.output_path) / DATA_REPORT)
    return data, reference


def prepare(args: GatingFlags, flag: str, path: str | list[str], model: ObjectiveModel) -> PreparedPairs:
    """
    Raises:
        UserError: unreadable data, or no usable pair; plain texts, which name no prompt.
    """
    context = context_length(model.model.config)
    reader = PairFeatureReader(margin="none", tail=gate_tail(model.tokenizer))
    longest = args.max_length or min(LONGEST, context or LONGEST)
    try:
        data = prepare_pairs(
            path,
            None,
            model.tokenizer,
            reader,
            TokenizeOptions(longest, args.overlong),
            eval_size=0,
            seed=args.seed,
            num_proc=worker_count(args.num_proc),
            read=args.read,
            max_train_samples=args.max_train_samples if flag == "--train_set_path" else None,
        )
    except UserError as error:
        raise UserError(str(error).replace("--train_set_path", flag)) from error
    for report in data.reports:  # the gate's own parts are held out, later
        report.notes.pop(f"{reader.unit} held out for evaluation", None)
    if not len(data.train):
        show_reports(data.reports)
        raise UserError(f"{flag} {path}: no pair is left to train on; the table above says why.")
    if flag != "--train_set_path":
        for report in data.reports:
            report.name = "reference"
    return data


def feature_pass(args: GatingFlags, model: ObjectiveModel, state: PartialState) -> FeaturePass:
    on_gpu = state.device.type != "cpu"
    return FeaturePass(
        choose_batching(args.model_name, args.batching, model.model.config),
        model.tokenizer.pad_token_id or 0,
        args.max_tokens_per_batch or (GPU_TOKENS if on_gpu else CPU_TOKENS),
        tail=gate_tail(model.tokenizer),
        process=state.process_index,
        num_processes=state.num_processes,
        wait=state.wait_for_everyone,
    )


def features_of(args: GatingFlags, groups: PromptGroups, model: ObjectiveModel, how: FeaturePass) -> Features:
    cache = Path(args.feature_cache) if args.feature_cache else cache_root()
    return cached_features(groups, model.model, how, cache)


# --- training -------------------------------------------------------------------------------------------------


def train_gate(
    args: GatingFlags, model: ObjectiveModel, features: Features, reference: Features | None, place: int | None
) -> Trained:
    """Debias, train, and measure on pairs that neither training nor the choice of the step has seen."""
    outputs = predict(features.blocks(), model.head)
    raw = GatePairs.of(features, outputs)
    parts = split(raw, args.held_out, args.seed)
    debiased = debias_objectives(args, model, features, outputs, raw, parts, reference, place)
    if debiased.found is not None:
        print(debiased.table(model.names), flush=True)
    pairs = GatePairs.of(features, outputs @ debiased.matrix)
    training = GateTraining(
        args.steps, args.pairs_per_step, args.learning_rate, args.weight_decay, args.dropout, seed=args.seed
    )
    counts = " + ".join(f"{len(part):,}" for part in parts)
    logger.info("Gate: %s pairs to train on, to choose the step by, and to measure; %d steps.", counts, args.steps)
    with bar(args.steps) as update:
        fitted = fit_gate(pairs, parts, settings_of(args, len(model.names)), training, update)
    logger.info("Gate: step %d of %d has the least held-out loss.", fitted.best_step, args.steps)
    of_training = (pairs.differences[parts.train], pairs.probability[parts.train], pairs.weights[parts.train])
    fixed, single = fit_fixed_weights(*of_training), best_single(*of_training)
    margins = margins_of(pairs, parts.measure, fitted.gate, fixed, single)
    figures = gate_figures(margins, model.names)
    figures |= {
        "fixed_weights": dict(zip(model.names, fixed.tolist(), strict=True)),
        "best_objective": model.names[single],
        "best_step": fitted.best_step,
        "history": fitted.history,
        "logit_scale": float(fitted.gate.logit_scale.detach()),
        "debiasing": debiased.figures(model.names),
    }
    print(gate_table(figures), flush=True)
    return Trained(pairs, parts, fitted, debiased, figures)


@contextmanager
def bar(steps: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; what it gives is called with a number of steps."""
    with tqdm(total=steps, desc="gate", leave=False, dynamic_ncols=True, disable=not shows_bars()) as shown:
        yield shown.update
