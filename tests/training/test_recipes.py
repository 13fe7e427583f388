"""Every recipe: what its header says is what it sets, its commands can be launched, and its first steps run."""

import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from engines import launch_environment
from runs import ROOT, Run, train, write_rows
from safetensors.torch import load_file
from stepped_rows import stepped_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

import rm
import rm_pairwise
import rm_process
import rm_regression
from reward_modeling.common.arguments import ScriptArgumentParser, parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.mixture import known_mixtures
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.ratings import rated_world
from reward_modeling.tiny.tokenizers import token_ids
from reward_modeling.training.arguments import RunArguments, arguments_of
from reward_modeling.training.launch_checks import launch_problems

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SCRIPTS = {
    "rm.py": rm,
    "rm_pairwise.py": rm_pairwise,
    "rm_process.py": rm_process,
    "rm_regression.py": rm_regression,
}
PUBLISHED = {
    # what the header calls it: the flag, and how its value is written there
    "lr": ("learning_rate", r"lr (\S+?),"),
    "pairs": ("pairs_per_step", r"(\d+) (?:pairs|answers|solutions) a step"),
    "epochs": ("num_train_epochs", r"(\d+) epoch"),
    "max_length": ("max_length", r"max_length (\d+)"),
}
FAMILIES = {
    "HuggingFaceTB/SmolLM2-": "llama",
    "Qwen/Qwen2.5-": "qwen2",
    "google/gemma-2-": "gemma2",
    "google/gemma-": "gemma",
    "mistralai/": "mistral",
    "meta-llama/": "llama",
    "models/llama31_70b_helpsteer2_folded": "llama",  # which the header says how to make
}
RATINGS, SCALED = (ROOT / "recipes" / f"llama31_70b_helpsteer2_{half}.yaml" for half in ("ratings", "scaled"))
STYLES = {"gemma": "gemma", "gemma2": "gemma", "mistral": "mistral", "llama": "llama3", "qwen2": "chatml"}
CONSTANT, WARMED_UP = r"constant after (\d+) warm-up steps", r"(cosine|linear), ([\d.]+)(%| warm-up steps)"
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def header(recipe: Path) -> str:
    return "\n".join(line[2:] for line in recipe.read_text().splitlines() if line.startswith("#"))


def commands(recipe: Path) -> list[list[str]]:
    """What the header says to type, word by word."""
    return [shlex.split(line) for line in re.findall(r"^ *accelerate launch .*", header(recipe), re.MULTILINE)]


def script_of(recipe: Path) -> str:
    """The script that all its commands launch."""
    (script,) = {word for words in commands(recipe) for word in words if word in SCRIPTS}
    return script


def one_line(recipe: Path) -> str:
    """The header with each paragraph on a line: what begins in capitals and ends in a colon begins one."""
    return re.sub(r"\n(?!\n|[A-Z][\w -]*: )", " ", header(recipe))


def schedule(recipe: Path, published: str | None) -> tuple[str, float]:
    """What the published line says of it, or, of the others, what rm.py does by itself."""
    if recipe == SCALED:  # of which no schedule was published: it takes that of the first half
        return schedule(RATINGS, one_line(RATINGS))
    if found := re.search(CONSTANT, published or ""):
        return "constant_with_warmup", float(found[1])
    if published is None:
        return "cosine", 0.03
    name, number, unit = re.search(WARMED_UP, published).groups()
    return name, float(number) / (100 if unit == "%" else 1)


def parsed(recipe: Path, *flags: str, script: str | None = None) -> RunArguments:
    arguments = SCRIPTS[script or script_of(recipe)].ScriptArguments
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return parse_script_arguments(arguments_of(arguments), ["--config", str(recipe), "--use_cpu", "true", *flags])[0]


def test_the_models_that_were_asked_for_are_there():
    stems = {recipe.stem.rsplit("_", 1)[0] for recipe in RECIPES}
    assert {"gemma_2b", "gemma_7b", "gemma_7b_mixture1", "mistral_7b", "llama3_8b", "gemma2_27b"} <= stems


@every_recipe
def test_a_recipe_sets_what_its_header_says(recipe):
    """The figures that were published, or that were run here, stand in the header and nowhere else; a recipe of none
    says so.
    """
    args, published = parsed(recipe), re.search(r"^(?:Published|Run here): (.*)", one_line(recipe), re.MULTILINE)
    assert (args.lr_scheduler_type, args.warmup_steps) == schedule(recipe, published and published[1])
    assert args.bf16
    if "Published: " not in header(recipe):
        assert "No published row" in header(recipe)
    if "No published row" in header(recipe):
        assert "no score to compare" in " ".join(header(recipe).split())
    if published is None:
        assert args.num_train_epochs == 1
        return
    found = {flag: match[1] for flag, pattern in PUBLISHED.values() if (match := re.search(pattern, published[1]))}
    assert "learning_rate" in found
    for flag, value in found.items():
        assert getattr(args, flag) == float(value), flag
    if "mixture" in published[1]:
        assert re.search(r"mixture (\d)", published[1])[1] == args.train_set_path[-1]


@every_recipe
def test_the_published_score_is_that_of_its_sections(recipe):
    """RewardBench's own formula, or the mean of four sections or splits: a figure copied wrongly does not add up."""
    line = re.search(r"^(RewardBench|ProcessBench): (.*?)(?: \(|$)", header(recipe), re.MULTILINE)
    assert (line is None) == ("No published row" in header(recipe) or "Best of 1024" in header(recipe))
    if line is not None:
        *sections, score = map(float, re.findall(r" (\d+\.\d)", line[2]))
        prior = [sections.pop()] if "prior sets" in line[2] else []
        assert len(sections) == 4
        assert prior or "(the mean of the four" in header(recipe)
        whole = (sum(sections) + 0.5 * sum(prior)) / (4 + 0.5 * len(prior))
        assert score == pytest.approx(whole, abs=0.0501)


@every_recipe
def test_its_data_can_be_built(recipe):
    args = parsed(recipe)
    lines = re.findall(r"python data_prep/(\w+)\.py (.*)", header(recipe))
    if not lines:
        assert "from the Hub" in header(recipe)
        return
    made = []
    for script, words in lines:
        arguments = importlib.import_module(f"data_prep.{script}").ScriptArguments
        made.append(ScriptArgumentParser(arguments).parse_arguments(shlex.split(words))[0])
    assert [one.output_path for one in made] == [path for path in (args.train_set_path, args.eval_set_path) if path]
    assert len({one.output_path for one in made}) == len(made)
    assert all(one.mixture in known_mixtures() for one in made if hasattr(one, "mixture"))


def problems_of_launch(deepspeed: str | None, words: list[str]) -> list[str]:
    flags = {"deepspeed": deepspeed, "fsdp": None, "fsdp_config": None, "gradient_checkpointing": True}
    return launch_problems(SimpleNamespace(**flags), launch_environment(words[2:]))


@every_recipe
def test_its_commands_can_be_launched(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)  # where they are typed
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    assert commands(recipe)
    for words in commands(recipe):
        assert Path(words[words.index("--config_file") + 1]).is_file()
        flags = words[words.index(script_of(recipe)) + 1 :]
        assert flags[:2] == ["--config", f"recipes/{recipe.name}"]
        deepspeed = flags[flags.index("--deepspeed") + 1] if "--deepspeed" in flags else None
        assert problems_of_launch(deepspeed, words) == []


def test_a_command_of_two_engines_would_be_found(monkeypatch):
    """The negative control."""
    monkeypatch.chdir(ROOT)
    words = shlex.split("accelerate launch --config_file accelerate_configs/fsdp2.yaml rm.py")
    assert "expected one engine" in problems_of_launch("deepspeed_3.json", words)[0]


def test_a_key_that_rm_does_not_know_is_refused(tmp_path):
    content = yaml.safe_load(RECIPES[0].read_text())
    content["pair_per_step"] = content.pop("pairs_per_step")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="unknown key 'pair_per_step'; did you mean pairs_per_step"):
        parsed(tmp_path / "recipe.yaml", script="rm.py")


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """A tiny model of a family, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("families")
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(60, seed=0)]

    class Models(dict):
        def __missing__(self, family: str) -> str:
            tokenizer = train_tokenizer(texts, 512, **TOKENIZER_STYLES[STYLES[family]])
            config = tiny_config(family, len(tokenizer), **token_ids(tokenizer))
            self[family] = str(build_tiny_checkpoint(folder / family, tokenizer, config))
            return self[family]

    return Models()


@every_recipe
def test_its_first_steps_run(recipe, tiny_models, tmp_path):
    """As it stands, but for the model's and the data's size."""
    content = yaml.safe_load(recipe.read_text())
    family = next(family for start, family in FAMILIES.items() if content["model_name"].startswith(start))
    run = first_steps(recipe, tiny_models[family], tmp_path)
    assert len(run.losses()) == 2
    assert run.trainer.args.lr_scheduler_type == content["lr_scheduler_type"]
    assert run.trainer.args.bf16
    assert run.trainer.model.config.model_type == family


def rows_for(recipe: Path, num_prompts: int, seed: int) -> list[dict]:
    if script_of(recipe) == "rm_process.py":
        return stepped_rows(num_prompts, seed)
    if recipe == RATINGS:
        return [
            {"messages": row["messages"], "helpfulness": row["kindness"]}
            for row in rated_world((num_prompts, 1, 1), seed)[0]
        ]
    return [
        row | {"strength": 1 + number % 3} if recipe == SCALED else row
        for number, row in enumerate(learnable_preferences(num_prompts, seed=seed))
    ]


def first_steps(recipe: Path, model: str | Path, tmp_path: Path, **changes: object) -> Run:
    held_out = write_rows(tmp_path / f"{recipe.stem}-eval.jsonl", rows_for(recipe, 4, seed=2))
    flags = {
        "config": recipe,
        "model_name": model,
        "train_set_path": write_rows(tmp_path / f"{recipe.stem}-train.jsonl", rows_for(recipe, 24, seed=1)),
        "max_length": 256,
        "max_tokens_per_micro_batch": 1024,
        "pairs_per_step": 16,
        "max_steps": 2,
        **({"eval_set_path": held_out} if "eval_set_path" in yaml.safe_load(recipe.read_text()) else {"eval_size": 4}),
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }
    return train(flags, tmp_path / recipe.stem, main=SCRIPTS[script_of(recipe)].main, **changes)


def fold_command() -> list[str]:
    """What the second half says to type before it."""
    (command,) = re.findall(r"^ *python rm_regression\.py (.*--fold.*|--fold.*)", header(SCALED), re.MULTILINE)
    return shlex.split(command)


def test_the_halves_of_the_recipe_fit_each_other():
    words = fold_command()
    given = dict(zip(words[::2], words[1::2], strict=True))
    first, second = (yaml.safe_load(recipe.read_text()) for recipe in (RATINGS, SCALED))
    assert given["--fold"] == f"{first['output_path']}/last_checkpoint"
    assert given["--output_path"] == second["model_name"]
    low, high = first["label_ranges"].removeprefix(f"{first['attributes']}=").split(":")
    assert given["--weights"] == f"{first['attributes']}={int(high) - int(low)}"


def test_scaled_bradley_terry_begins_where_the_ratings_ended(tiny_models, tmp_path, monkeypatch):
    """Both halves, one after the other, by the commands of the headers but for folders and sizes."""
    ratings = first_steps(RATINGS, tiny_models["llama"], tmp_path, weight_decay=0.0)
    folders = {"--fold": ratings.model, "--output_path": tmp_path / "folded"}
    words = fold_command()
    words = [str(folders.get(before, word)) for before, word in zip(["", *words], words, strict=False)]
    monkeypatch.setattr(sys, "argv", ["rm_regression.py", *words])
    rm_regression.main()
    scaled = first_steps(SCALED, tmp_path / "folded", tmp_path, weight_decay=0.0)
    heads = [load_file(folder / "model.safetensors")["score.weight"] for folder in (ratings.model, scaled.model)]
    # two steps of Adam move a weight by no more than the learning rate each; a new head would be another one altogether
    assert (heads[1] - 4 * heads[0]).abs().max() < 2.1 * 1e-6
    assert heads[0].abs().max() > 1e-3
