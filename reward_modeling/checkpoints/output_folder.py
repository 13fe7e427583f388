"""The folder that a run writes to: never over another run without being asked."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState

from reward_modeling.checkpoints.checksums import damaged_files
from reward_modeling.checkpoints.folders import (
    archive_later_checkpoints,
    clean_up,
    complete_checkpoints,
    is_complete,
    numbered_checkpoints,
)
from reward_modeling.common.atomic import CONTENTS, hold_folder, remove_folder
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import (
    CHECKPOINT,
    DATA_REPORT,
    EVAL_SCORES,
    EVALUATION,
    LAST_CHECKPOINT,
    MERGED_CHECKPOINT,
    PREFLIGHT,
    REPORT,
    RUN,
    TRAINER_STATE,
)

logger = logging.getLogger(__name__)

MODELS = (f"{CHECKPOINT}*", LAST_CHECKPOINT, MERGED_CHECKPOINT)
MODELS += tuple(f"*-{name}" for name in MODELS)  # unfinished, superseded, ...
# Written while a run runs, too. (data_report.json is the new run's, which has written it before it makes room.)
LOGS = (TRAINER_STATE, "all_results.json", REPORT, PREFLIGHT, EVALUATION, EVAL_SCORES, RUN, ".unfinished-*")
SECONDS_TO_SEE_A_FILE = 30
SECONDS_TO_WAIT_FOR_A_RUN = 5
SEEN_BY_ALL = ".seen-by-all"


@contextmanager
def only_run_in(output_path: str, process_index: int) -> Iterator[None]:
    """Hold the folder for this run as long as process 0 lives, whatever ends it.

    A launcher that is killed alone leaves its workers running: the restarted run would write beside them.

    Raises:
        UserError: another run holds it, and has not ended after some seconds; or it cannot be made.
    """
    if process_index != 0:
        yield
        return
    output = Path(output_path)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a mount that is read-only for root too, or a quota, which the modes do not show
        raise UserError(
            f"--output_path {output}: expected a folder that can be made and written to, found [{error}]. Take another "
            "path."
        ) from error
    in_use = UserError(
        f"--output_path {output}: expected a folder that no other run writes to, found that a process which is still "
        "alive does (of a launcher that was killed, perhaps). End it first: pgrep -af rm.py"
    )
    with hold_folder(output, in_use, SECONDS_TO_WAIT_FOR_A_RUN):
        try:
            yield
        finally:
            with suppress(OSError):  # it is not empty if anything was written
                output.rmdir()


def prepare_output_folder(args: Any, *, resumes: bool = True) -> str | None:
    """The checkpoint to resume from, if any. All processes have to call this, before anything is written.

    Args:
        resumes: such a run leaves checkpoints, from which another may go on.

    Raises:
        UserError: the run would write over another one; or the machines do not share the folder.
    """
    resume = (args.resume_from_checkpoint or "false").lower()
    if resume != "false":
        if args.process_index == 0:
            clean_up(Path(args.output_path))
        PartialState().wait_for_everyone()
    place = args.process_index, args.world_size
    checkpoint = checkpoint_to_resume(args.output_path, args.resume_from_checkpoint, *place)
    if not is_own(checkpoint, args.output_path):
        check_model_stays(args)
        if not args.overwrite_output_dir:
            check_nothing_is_lost(args.output_path, go_on=resume == "true", resumes=resumes)
    check_all_nodes_share(args.output_path, PartialState())
    return checkpoint


def make_room(args: Any, checkpoint: str | None) -> None:
    """Archive, or remove if asked to, what this run would write over or mistake for its own. For process 0 alone."""
    if is_own(checkpoint, args.output_path):
        archive_later_checkpoints(Path(checkpoint))
    elif args.overwrite_output_dir:
        remove_earlier_run(args.output_path)


def check_all_nodes_share(output_path: str, state: PartialState) -> None:
    """On several machines: every process must see what process 0 writes, since each writes its part of a checkpoint.

    Raises:
        UserError: on a process that does not.
    """
    if state.num_processes == int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes)):
        return
    sign = Path(output_path) / SEEN_BY_ALL
    state.wait_for_everyone()  # all have looked whether the folder is empty
    if state.is_main_process:
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.touch()
    state.wait_for_everyone()
    # A network file system may show a new file a few seconds late.
    deadline = time.monotonic() + SECONDS_TO_SEE_A_FILE
    while not (seen := sign.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    state.wait_for_everyone()
    if state.is_main_process:
        sign.unlink()
    if not seen:
        raise UserError(
            f"--output_path {output_path}: expected a folder that all machines share, found that process "
            f"{state.process_index} on {socket.gethostname()} does not see what process 0 writes there. Take a folder "
            "on a shared disk."
        )


def check_nothing_is_lost(output_path: str, *, go_on: bool = False, resumes: bool = True) -> None:
    """
    Args:
        go_on: the run would have resumed from a checkpoint in the folder, so the reports and logs there are its own.
        resumes: such a run can go on from a checkpoint.

    Raises:
        UserError: the folder holds something that a new run could write over.
    """
    output = Path(output_path)
    if go_on:
        found = sorted(path.name for pattern in MODELS for path in output.glob(pattern))
    else:
        ignored = (DATA_REPORT, PREFLIGHT, SEEN_BY_ALL)
        found = sorted(path.name for path in output.iterdir() if path.name not in ignored) if output.is_dir() else []
    if found:
        ways = "another folder, go on with --resume_from_checkpoint true," if resumes else "another folder,"
        raise UserError(
            f"--output_path {output}: expected a new or an empty folder, found {', '.join(found[:3])} in it. Take "
            f"{ways} or replace that run with --overwrite_output_dir."
        )


def checkpoint_to_resume(output_path: str, resume: str | None, process: int = 0, num_processes: int = 1) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` names: true for the newest one that is whole, or a folder.

    All processes have to call this.

    Raises:
        UserError: the folder is not a checkpoint, is damaged, or is deep in the output folder.
    """
    if resume is None or resume.lower() == "false":
        return None
    output = Path(output_path)
    if resume.lower() == "true":
        complete = complete_checkpoints(output)
        was_there = bool(numbered_checkpoints(output))
        for torn in sorted(set(numbered_checkpoints(output)) - set(complete)):
            logger.warning("Resume: %s lacks files that its %s lists, and is passed over.", torn, CONTENTS)
        while complete and (damaged := damaged_files(complete[-1], process, num_processes)):
            logger.warning(
                "Resume: %s is damaged, and is passed over: %s is not what was written.", complete.pop(), damaged[0]
            )
        if not complete and was_there:
            raise UserError(
                f"--resume_from_checkpoint true: expected a whole checkpoint in {output}, found none that is (see "
                "above). Take another folder, or replace that run with --overwrite_output_dir."
            )
        if not complete:
            logger.warning("Resume: no complete checkpoint in %s, so training starts afresh.", output)
            return None
        resume = str(complete[-1])
    elif not is_complete(Path(resume)):
        raise UserError(
            f"--resume_from_checkpoint {resume}: expected true or a checkpoint-N folder of rm.py with all the files "
            f"that its {CONTENTS} lists, found neither. Take an earlier checkpoint; to start from a model's weights "
            "pass it as --model_name."
        )
    elif damaged := damaged_files(Path(resume), process, num_processes):
        raise UserError(
            f"--resume_from_checkpoint {resume}: expected the files that were written there, found that {damaged[0]} "
            f"is not (by its hash in {CONTENTS}). Take an earlier checkpoint, or copy this one anew."
        )
    elif output.resolve() in Path(resume).resolve().parents and not is_own(resume, output_path):
        raise UserError(
            f"--resume_from_checkpoint {resume}: expected a checkpoint-N right in --output_path, or one of another "
            "folder, found one deeper in it. Move it up."
        )
    logger.info("Resume: going on from %s.", resume)
    return resume


def is_own(checkpoint: str | None, output_path: str) -> bool:
    """Whether the checkpoint has its place in this output folder, be it as a link."""
    return checkpoint is not None and Path(checkpoint).absolute().parent.resolve() == Path(output_path).resolve()


def remove_earlier_run(output_path: str, keep: str | None = None) -> None:
    """Only what rm.py writes: other files in the folder belong to somebody.

    Args:
        keep: the name of what is of this run.
    """
    for path in left_by_a_run(output_path):
        if path.name != keep:
            remove = remove_folder if path.is_dir() else Path.unlink  # a kill leaves no half of a checkpoint
            remove(path)


def left_by_a_run(output_path: str) -> list[Path]:
    return [*dict.fromkeys(path for pattern in (*MODELS, *LOGS) for path in Path(output_path).glob(pattern))]


def check_model_stays(args: Any) -> None:
    """
    Raises:
        UserError: --overwrite_output_dir would remove the model that the run starts from.
    """
    model = Path(args.model_name)
    places = {path for place in (model.absolute(), model.resolve()) for path in (place, *place.parents)}
    if args.overwrite_output_dir and any(
        {path.absolute(), path.resolve()} & places for path in left_by_a_run(args.output_path)
    ):
        raise UserError(
            f"--overwrite_output_dir: expected an --output_path without the model that is read, found --model_name "
            f"{args.model_name} in what would be removed from {args.output_path}. Take another --output_path."
        )
