"""Checkpoint folders under kills: before every single operation on the file system, and on disks that are full.

A kill is simulated by making the n-th change of the file system, and all after it, not happen, for every n.
"""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from reward_modeling.checkpoints.folders import (
    archive_later_checkpoints,
    clean_up,
    complete_checkpoints,
    delete_old_checkpoints,
    saving_failed,
    step_of,
)
from reward_modeling.checkpoints.output_folder import remove_earlier_run
from reward_modeling.common.atomic import (
    CONTENTS,
    DISCARDED,
    REPLACED,
    UNFINISHED,
    commit,
    remove_folder,
    unfinished,
    write_contents,
)
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import LAST_CHECKPOINT, TRAINER_STATE

CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir")
# More than one file before and after the last one that is written, so that every half deletion is possible.
FILES = ("model.safetensors", "optimizer.pt", "a/part.bin", TRAINER_STATE, "z.bin")


class Killed(BaseException):
    """Not an Exception: nothing in the code may catch it, as nothing catches SIGKILL."""


class Death:
    """Counts the changes of the file system, and lets those from `at` on not happen."""

    def __init__(self, at: int | None):
        self.at, self.count = at, 0

    def __call__(self, change: Callable) -> Callable:
        def changed(*args, **kwargs):
            if self.at is not None and self.count >= self.at:
                raise Killed
            self.count += 1
            return change(*args, **kwargs)

        return changed


@contextmanager
def dying(at: int | None) -> Iterator[Death]:
    death = Death(at)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, death(getattr(os, name)))
        patch.setattr(Path, "write_text", death(Path.write_text))
        yield death


def write(folder: Path, version: str = "old") -> Path:
    step = int("".join(filter(str.isdigit, folder.name)) or 0)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"version": version, "global_step": step}))
    write_contents(folder)
    return folder


def version_of(path: Path) -> str:
    return json.loads(path.read_text())["version"]


def is_complete(folder: Path) -> bool:
    """All files, and all of one version."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(CONTENTS, None)
    return sorted(found) == sorted(FILES) and len(set(map(version_of, found.values()))) == 1


def by_name(output: Path) -> list[Path]:
    """Everything that calls itself a checkpoint, whatever is in it."""
    return [path for path in output.iterdir() if path.name.startswith("checkpoint-") or path.name == LAST_CHECKPOINT]


def newest(output: Path) -> int:
    return max(map(step_of, complete_checkpoints(output)), default=0)


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


# --- kills ------------------------------------------------------------------------------------------------------


def write_and_publish(folder: Path) -> None:
    """As rm.py saves; the last file is the one that makes a folder a checkpoint."""
    write(unfinished(folder), "new")
    commit(folder)


OPERATIONS = {
    "first": ((), lambda output: write_and_publish(output / "checkpoint-2")),
    "next": ((2,), lambda output: write_and_publish(output / "checkpoint-4")),
    "same step again": ((2, 4), lambda output: write_and_publish(output / "checkpoint-4")),
    "only one, again": ((4,), lambda output: write_and_publish(output / "checkpoint-4")),
    "final model": ((2,), lambda output: write_and_publish(output / LAST_CHECKPOINT)),
    "final model again": ((2, LAST_CHECKPOINT), lambda output: write_and_publish(output / LAST_CHECKPOINT)),
    "keep one": ((2, 4, 6), lambda output: delete_old_checkpoints(output, 1, set())),
    "keep two": ((2, 4, 6, 8), lambda output: delete_old_checkpoints(output, 2, set())),
    "keep the best": ((2, 4, 6, 8), lambda output: delete_old_checkpoints(output, 2, {output / "checkpoint-4"})),
    "supersede": ((2, 4, 6), lambda output: archive_later_checkpoints(output / "checkpoint-2")),
    "overwrite": ((2, 4, LAST_CHECKPOINT), lambda output: remove_earlier_run(str(output))),
}
TAKES_AWAY_THE_NEWEST = ("supersede", "overwrite")  # they are asked to


def prepared(output: Path, there: tuple) -> Path:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    for name in there:
        write(output / (name if isinstance(name, str) else f"checkpoint-{name}"))
    return output


def killed(action: Callable[[], None], at: int | None) -> bool:
    """Do it until the kill. False if it was done before."""
    with dying(at):
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_before_any_change_leaves_complete_checkpoints(operation, tmp_path):
    there, operate = OPERATIONS[operation]
    output, at = tmp_path / "output", 0
    while True:
        prepared(output, there)
        before = newest(output)
        died = killed(lambda: operate(output), at)
        assert all(map(is_complete, by_name(output))), (at, names(output))
        clean_up(output)
        assert all(map(is_complete, by_name(output))), (at, names(output))
        assert not [name for name in names(output) if name.startswith((UNFINISHED, DISCARDED, REPLACED))]
        if operation not in TAKES_AWAY_THE_NEWEST:
            assert newest(output) >= before, at
            assert (output / LAST_CHECKPOINT).is_dir() or LAST_CHECKPOINT not in there, at
        if not died:
            break
        at += 1
    assert at >= 2  # there was something to interrupt


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_of_the_cleaning_up_too(operation, tmp_path):
    """Every pair of moments: one in the operation, one in the next process's `clean_up`."""
    there, operate = OPERATIONS[operation]
    output, at, died = tmp_path / "output", 0, True
    while died:
        second, died_again = 0, True
        while died_again:
            prepared(output, there)
            before = newest(output)
            died = killed(lambda: operate(output), at)
            died_again = killed(lambda: clean_up(output), second)
            assert all(map(is_complete, by_name(output))), (at, second, names(output))
            clean_up(output)
            assert all(map(is_complete, by_name(output))), (at, second, names(output))
            assert not [name for name in names(output) if name.startswith((UNFINISHED, DISCARDED, REPLACED))]
            assert operation in TAKES_AWAY_THE_NEWEST or newest(output) >= before
            second += 1
        at += 1


def test_a_kill_in_a_second_attempt_after_a_kill(tmp_path):
    """The folder of the first attempt is in the way of the second, and of its deletion."""
    output = tmp_path / "output"
    for at in range(30):
        prepared(output, (2,))
        write(unfinished(output / "checkpoint-4"), "half")
        write(output / f"{DISCARDED}{UNFINISHED}checkpoint-4", "half")
        write(output / f"{DISCARDED}checkpoint-2", "half")
        killed(lambda: clean_up(output), at)
        clean_up(output)
        assert names(output) == ["checkpoint-2"]
        assert is_complete(output / "checkpoint-2")


def test_supersede_loses_nothing(tmp_path):
    output, at, died = tmp_path / "output", 0, True
    while died:
        prepared(output, (2, 4, 6))
        died = killed(lambda: archive_later_checkpoints(output / "checkpoint-2"), at)
        assert len([path for path in output.iterdir() if is_complete(path)]) == 3
        at += 1
    assert names(output) == ["checkpoint-2", "superseded-checkpoint-4", "superseded-checkpoint-6"]


def test_nothing_is_published_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """Else a power failure could leave the name without the bytes."""
    write(unfinished(tmp_path / "checkpoint-2"))
    events, opened = [], {}
    os_open, os_fsync, os_rename = os.open, os.fsync, os.rename

    def note_open(path, *args, **kwargs):
        descriptor = os_open(path, *args, **kwargs)
        opened[descriptor] = Path(path)
        return descriptor

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(opened[descriptor]), os_fsync(descriptor)))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), os_rename(*paths)))
    commit(tmp_path / "checkpoint-2")
    folder = unfinished(tmp_path / "checkpoint-2")
    assert {folder, folder / "a", *(folder / name for name in (*FILES, CONTENTS))} == set(
        events[: events.index("rename")]
    )
    assert events[events.index("rename") :] == ["rename", tmp_path]  # the name itself


# --- what is there ------------------------------------------------------------------------------------------------


def test_complete_checkpoints_in_the_order_of_their_steps(tmp_path):
    for step in (2, 10, 100, 20):
        write(tmp_path / f"checkpoint-{step}")
    for other in ("unfinished-checkpoint-4", "superseded-checkpoint-6", "checkpoint-best", LAST_CHECKPOINT):
        write(tmp_path / other)
    write(tmp_path / "checkpoint-300")
    (tmp_path / "checkpoint-300" / TRAINER_STATE).unlink()
    (tmp_path / "checkpoint-400").write_text("a file")
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [2, 10, 20, 100]
    assert complete_checkpoints(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("most", "keep", "left"),
    [
        (None, [], [2, 4, 6, 8]),
        (0, [], [2, 4, 6, 8]),
        (9, [], [2, 4, 6, 8]),
        (2, [], [6, 8]),
        (1, [], [8]),
        (2, [2], [2, 8]),
        (3, [4], [4, 6, 8]),
        (1, [4], [4, 8]),  # the best and the newest are never deleted
        (1, [8], [8]),
        (1, [4, 6], [4, 6, 8]),
        (1, [100], [8]),  # a best one that is not there keeps nothing else
    ],
)
def test_delete_old_checkpoints(most, keep, left, tmp_path):
    for step in (2, 4, 6, 8):
        write(tmp_path / f"checkpoint-{step}")
    delete_old_checkpoints(tmp_path, most, {tmp_path / f"checkpoint-{step}" for step in keep})
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left]


def test_a_torn_checkpoint_is_neither_counted_nor_the_newest(tmp_path):
    for step in (2, 4, 6):
        write(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-6" / TRAINER_STATE).unlink()
    delete_old_checkpoints(tmp_path, 1, set())
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]


def test_superseded_twice(tmp_path):
    for version in ("first", "second", "third"):
        for step in (2, 4):
            write(tmp_path / f"checkpoint-{step}", version)
        archive_later_checkpoints(tmp_path / "checkpoint-2")
    later = ["superseded-checkpoint-4", "superseded-checkpoint-4-2", "superseded-checkpoint-4-3"]
    assert names(tmp_path) == ["checkpoint-2", *later]
    assert version_of(tmp_path / later[1] / TRAINER_STATE) == "second"


def test_clean_up_says_what_it_removes_and_leaves_the_rest(tmp_path, caplog):
    write(tmp_path / "checkpoint-2")
    write(tmp_path / "my-notes")
    write(unfinished(tmp_path / "checkpoint-4"))
    clean_up(tmp_path)
    clean_up(tmp_path / "missing")
    assert names(tmp_path) == ["checkpoint-2", "my-notes"]
    assert "removing" in caplog.text and "unfinished-checkpoint-4" in caplog.text


def test_what_was_replaced_comes_back(tmp_path):
    """Killed between the two renames: the new one is not published, so the old one is what there is."""
    write(tmp_path / f"{REPLACED}{LAST_CHECKPOINT}", "old")
    write(unfinished(tmp_path / LAST_CHECKPOINT), "new")
    clean_up(tmp_path)
    assert names(tmp_path) == [LAST_CHECKPOINT]
    assert version_of(tmp_path / LAST_CHECKPOINT / TRAINER_STATE) == "old"


def test_going_back_to_a_superseded_checkpoint(tmp_path):
    """It may have been renamed: what comes later than its step makes way, its namesake of the other line too."""
    for step in (2, 4, 6):
        write(tmp_path / f"checkpoint-{step}")
    write(tmp_path / "checkpoint-4", "other line").rename(tmp_path / "superseded-checkpoint-4")
    write(tmp_path / "checkpoint-4")
    archive_later_checkpoints(tmp_path / "superseded-checkpoint-4")
    assert names(tmp_path) == [
        "checkpoint-2",
        "superseded-checkpoint-4",
        "superseded-checkpoint-4-2",
        "superseded-checkpoint-6",
    ]
    assert version_of(tmp_path / "superseded-checkpoint-4" / TRAINER_STATE) == "other line"


def test_discard_where_an_earlier_deletion_left_its_folder(tmp_path):
    """As on a network file system, where a file that is still open cannot be deleted."""
    write(tmp_path / "checkpoint-2")
    write(tmp_path / f"{DISCARDED}checkpoint-2", "stuck")
    remove_folder(tmp_path / "checkpoint-2")
    assert names(tmp_path) in ([], [f"{DISCARDED}checkpoint-2"])


# --- full disks ---------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Longer ones are refused by the system in the middle of a write, as by a full disk or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tensors() -> dict[str, torch.Tensor]:
    return {"large": torch.ones(50_000), "small": torch.ones(100)}


WRITERS = {
    "torch.save": lambda path: torch.save(tensors(), path),
    "safetensors": lambda path: save_file(tensors(), path),
    "json": lambda path: path.write_text(json.dumps(["text"] * 50_000)),
}


def error_of(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:
        action()
    return raised.value


@pytest.mark.parametrize("size", [0, 700, 100_000, 199_900])
@pytest.mark.parametrize("writer", ["torch.save", "safetensors", "json"])
def test_errors_of_a_file_that_cannot_grow(writer, size, tmp_path):
    write(tmp_path / "checkpoint-2")
    with files_of_at_most(size):
        error = error_of(lambda: WRITERS[writer](tmp_path / "file"))
    failure = saving_failed(tmp_path / "checkpoint-4", error)
    assert isinstance(failure, UserError), repr(error)
    assert f"{tmp_path / 'checkpoint-4'}: expected to write this checkpoint" in str(failure)
    assert f"The last complete checkpoint is {tmp_path / 'checkpoint-2'}. Make room" in str(failure)
    assert len(str(failure).splitlines()) == 1


@pytest.mark.parametrize("writer", ["torch.save", "json"])  # safetensors would put a file in the device's place
def test_errors_of_a_full_device(writer, tmp_path):
    failure = saving_failed(tmp_path / "checkpoint-4", error_of(lambda: WRITERS[writer](Path("/dev/full"))))
    assert isinstance(failure, UserError)
    assert "There is no complete checkpoint yet" in str(failure)


def test_errors_of_a_tokenizer(gemma_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(gemma_folder)
    for size in (0, 2000):
        with files_of_at_most(size):
            error = error_of(lambda: tokenizer.save_pretrained(tmp_path / "unfinished-checkpoint-4"))
        assert isinstance(saving_failed(tmp_path / "checkpoint-4", error), UserError), repr(error)


@pytest.mark.parametrize("text", ["Disk quota exceeded (os error 122)", "No space left on device (os error 28)"])
def test_errors_of_libraries_written_in_rust(text, tmp_path):
    """They raise their own classes, without an errno."""
    assert saving_failed(tmp_path / "checkpoint-4", Exception(f"Error while serializing: I/O error: {text}"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Connection closed by peer [127.0.0.1]:29500"),
        ValueError("The weights trying to be saved contained shared tensors"),
        KeyError("optimizer"),
    ],
)
def test_other_errors_are_not_the_disk_s(error, tmp_path):
    assert saving_failed(tmp_path / "checkpoint-4", error) is None


def test_the_cause_may_lie_deeper(tmp_path):
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        assert isinstance(saving_failed(tmp_path / "checkpoint-4", error), UserError)
