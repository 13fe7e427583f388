"""Files and folders that appear whole, through links and into places that cannot be renamed; and who holds a folder."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reward_modeling.common.atomic import hold_folder, whole_file, whole_folder, write_whole
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import MANIFEST
from reward_modeling.preference_sets.writing import check_output, new_output


def fill(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text("{}")
    (folder / "train-00000-of-00001.jsonl").write_text(text)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    with new_output(tmp_path / "real", overwrite=False) as folder:
        fill(folder, "first")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    for text in ("second", "third"):
        with new_output(link, overwrite=True) as folder:
            fill(folder, text)
        assert link.is_symlink() and (tmp_path / "real" / "train-00000-of-00001.jsonl").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_link_that_leads_nowhere_yet(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with new_output(link, overwrite=False) as folder:
        fill(folder, "first")
    assert (tmp_path / "real" / MANIFEST).exists() and link.is_symlink()


def test_a_report_of_the_linter_is_no_reason_to_refuse(tmp_path):
    with new_output(tmp_path / "out", overwrite=False) as folder:
        fill(folder, "first")
    (tmp_path / "out" / "lint.json").write_text("{}")
    check_output(tmp_path / "out", overwrite=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a file system")
def test_a_mount_point_is_refused_before_the_work(tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("mount is not allowed here")
    try:
        with pytest.raises(UserError, match="found a mount point"):
            check_output(tmp_path, overwrite=False)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    page = tmp_path / "page.html"
    write_whole(page, "old")
    with pytest.raises(ZeroDivisionError), whole_file(page) as path:
        path.write_text("half")
        1 / 0  # noqa: B018
    assert page.read_text() == "old"
    write_whole(page, "new")
    assert page.read_text() == "new" and list(tmp_path.iterdir()) == [page]


def test_a_folder_has_no_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """Else a power failure could leave the name without the bytes."""
    synced, opened, open_file, sync = [], {}, os.open, os.fsync

    def note_open(path, *args, **kwargs):
        descriptor = open_file(path, *args, **kwargs)
        opened[descriptor] = Path(path).name
        return descriptor

    def note_sync(descriptor):
        synced.append((opened[descriptor], (tmp_path / "out").exists()))
        sync(descriptor)

    with whole_folder(tmp_path / "out", lambda: None, UserError("in use")) as folder:
        fill(folder, "first")
        monkeypatch.setattr(os, "open", note_open)
        monkeypatch.setattr(os, "fsync", note_sync)
    names = {MANIFEST, "train-00000-of-00001.jsonl", ".out.unfinished"}
    assert {name for name, there in synced if not there} == names
    assert synced[-1] == (tmp_path.name, True)


def test_a_folder_is_held_by_one_process_and_not_by_its_workers(tmp_path):
    in_use = UserError("in use")
    with hold_folder(tmp_path, in_use):
        with pytest.raises(UserError, match="in use"), hold_folder(tmp_path, in_use):
            raise AssertionError
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with hold_folder(tmp_path, in_use, seconds=10):  # the worker is still there
            os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
