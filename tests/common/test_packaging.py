"""The package as a library: rooms and nothing beside them, and a wheel that scores with three dependencies."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoModelForSequenceClassification

from reward_modeling.tiny.models import tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reward_modeling"
FILE = re.compile(r"(?<![\w/.])(?:reward_modeling|tests|benchmarks|data_prep|docs|recipes)/[\w/]*\.(?:py|md|yaml)")
BASE = ("torch", "transformers", "numpy")
EXTRAS = ("accelerate", "datasets", "deepspeed", "matplotlib", "peft", "pyarrow", "wandb")
SCORE = """
import importlib.util, json, pathlib, sys

import reward_modeling
from reward_modeling.scoring import RewardScorer

folder, conversations = sys.argv[1], json.loads(sys.argv[2])
rewards = RewardScorer.from_pretrained(folder).score(conversations)
print(json.dumps({
    "rewards": [reward.hex() for reward in rewards],
    "package": str(pathlib.Path(reward_modeling.__file__).parent),
    "trainer": "transformers.trainer" in sys.modules,
    "installed": [name for name in sys.argv[3:] if importlib.util.find_spec(name)],
}))
"""


def test_no_module_stands_outside_the_rooms():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_readme_shows_every_room():
    tree = re.findall(r"^ +(\w+)/  ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(tree) == sorted(path.parent.name for path in PACKAGE.glob("*/**/__init__.py"))


def test_every_module_and_file_that_a_text_names_is_there():
    """In messages, strings of code and documents: the linter sees none of these names."""
    folders = ("reward_modeling", "tests", "benchmarks", "data_prep", "docs", "recipes")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]
    files += [ROOT / name for name in ("rm.py", "eval_bench_mark.py", "Makefile", "README.md", "CONTRIBUTING.md")]
    missing = []
    for file in files:
        text = re.sub(r'"\s*\n\s*f?"', "", file.read_text())  # a message over several lines
        modules = re.findall(r"(?:from|-m) (reward_modeling(?:\.\w+)+)", text)
        named = {module.replace(".", "/") for module in modules} | set(FILE.findall(text))
        for name in named:
            if not any((ROOT / (name + ending)).is_file() for ending in ("", ".py", "/__init__.py")):
                missing.append(f"{file.relative_to(ROOT)}: {name}")
    assert missing == []


def imported(path: Path) -> set[str]:
    """The packages that a file imports, by their first name: outside a `try`, also within functions."""
    tree = ast.parse(path.read_text())
    tried = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in tried:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and id(node) not in tried:
            names.append(node.module)
    return {name.split(".")[0] for name in names}


def test_what_tests_import_is_installed_for_them():
    """A fresh environment has requirements-dev.txt and no more: what stands in ours by chance does not count."""
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    named = [line.split("==")[0] for line in lines.splitlines() if "==" in line]
    installed = set(with_their_dependencies(tuple(named)))
    modules = [path for path in (ROOT / "tests").rglob("*.py") if not {"real", "served"} & set(path.parts)]
    distributions = importlib.metadata.packages_distributions()
    missing = []
    for path in modules:
        for name in imported(path):
            from_outside = {canonicalize_name(found) for found in distributions.get(name, [])}
            if from_outside and not from_outside & installed:
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


def with_their_dependencies(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions by name: those named, and what these say they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            for requirement in map(Requirement, found[name].requires or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(canonicalize_name(requirement.name))
    return found


def environment_of(distributions, folder: Path) -> Path:
    """A fresh environment's Python, beside which these distributions are linked and nothing else stands."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for distribution in distributions:
        for entry in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site / entry).symlink_to(distribution.locate_file(entry).resolve())
    return folder / "bin" / "python"


def run(*command, cwd: Path) -> str:
    process = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory) -> str:
    """A tiny Gemma reward model with its tokenizer."""
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(200, seed=0)]
    tokenizer = train_tokenizer(texts, 512, **TOKENIZER_STYLES["gemma"])
    config = tiny_config("gemma", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    folder = tmp_path_factory.mktemp("models") / "reward"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build folder of before adds to it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "reward_modeling", ignore=shutil.ignore_patterns("__pycache__"))
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", *build, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {name for name in files if "__pycache__" not in name}


@pytest.mark.slow
def test_the_wheel_scores_with_torch_transformers_and_numpy_alone(wheel, reward_folder, tmp_path):
    """In an environment without the extras, outside of the checkout: the checkout's rewards, bit for bit."""
    python = environment_of(with_their_dependencies(BASE).values(), tmp_path / "fresh")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", wheel, cwd=tmp_path)

    conversations = [row[side] for row in learnable_preferences(2, seed=1) for side in ("chosen", "rejected")]
    question = [reward_folder, json.dumps(conversations), *EXTRAS]
    fresh = json.loads(run(python, "-c", SCORE, *question, cwd=tmp_path))
    checkout = json.loads(run(sys.executable, "-c", SCORE, *question, cwd=ROOT))
    assert Path(fresh["package"]).is_relative_to(tmp_path)
    assert Path(checkout["package"]) == PACKAGE
    assert (fresh["installed"], fresh["trainer"]) == ([], False)
    assert checkout["installed"] == list(EXTRAS)
    assert fresh["rewards"] == checkout["rewards"]
    assert len(set(fresh["rewards"])) > 4
