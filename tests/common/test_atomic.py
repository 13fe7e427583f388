"""Folders that appear whole, through links and into places that cannot be renamed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
