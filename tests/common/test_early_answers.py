"""What a script answers before it imports what trains."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import rm
from reward_modeling.common.early_answers import answer_early, names_of_transformers_flags
from reward_modeling.common.errors import UserError

ROOT = Path(__file__).parents[2]
# Torch is imported, since the flags of a kind stand beside its loss: 1.3 s of processor time; with these it is 4.9.
HEAVY = ("transformers", "datasets", "accelerate", "deepspeed", "peft", "pandas", "matplotlib", "wandb")


def imported_by(script: str, *argv: str) -> tuple[set[str], str]:
    """The modules that are there when the script has answered, and what it said."""
    report = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: sys.__stdout__.write('\\n' + json.dumps(sorted(sys.modules))))\n"
        f"import runpy; sys.argv = {[script, *argv]!r}; sys.path.insert(0, {str((ROOT / script).parent)!r})\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, cwd=ROOT, timeout=120)
    *said, modules = process.stdout.splitlines()
    return set(json.loads(modules)), "\n".join(said) + process.stderr


@pytest.mark.parametrize(
    "argv,words",
    [
        (["--help"], "--max_tokens_per_micro_batch"),
        (["--max_lenght", "3"], "unknown flag --max_lenght; did you mean --max_length?"),
        (["--seed", "1", "--seed", "2"], "--seed: expected it once, found it twice"),
    ],
)
def test_rm_answers_before_it_imports_what_trains(argv, words):
    modules, said = imported_by("rm.py", *argv)
    assert words in said
    assert not modules & set(HEAVY)


def test_the_names_of_transformers_flags_are_all_of_them():
    from transformers import TrainingArguments

    assert set(names_of_transformers_flags()) >= {field.name for field in fields(TrainingArguments) if field.init}


def test_flags_of_transformers_pass_and_are_checked_later(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("adam_beta1: 0.8\nmax_length: 7\n")
    argv = ["--use_cpu", "true", "--logging-strategy", "no", "--no_skip_memory_metrics", "--config", str(config)]
    answer_early(rm.ScriptArguments, argv)
    with pytest.raises(UserError, match="adam_beta9"):
        answer_early(rm.ScriptArguments, [*argv, "--adam_beta9", "1"])
    with pytest.raises(UserError, match="invalid int value: 'long'"):
        answer_early(rm.ScriptArguments, [*argv, "--max_length", "long"])
    config.write_text("adam_beta9: 0.8\n")
    with pytest.raises(UserError, match="unknown key 'adam_beta9'; did you mean adam_beta"):
        answer_early(rm.ScriptArguments, argv)


def test_the_early_help_shows_the_flags_of_the_late_one(capsys):
    from reward_modeling.common.arguments import parse_script_arguments
    from reward_modeling.training.arguments import arguments_of

    shown = []
    for answer in (
        lambda: answer_early(rm.ScriptArguments, ["--help"]),
        lambda: parse_script_arguments(arguments_of(rm.ScriptArguments), ["--help"]),
    ):
        with pytest.raises(SystemExit):
            answer()
        lines = capsys.readouterr().out.splitlines()
        shown.append({line.split()[0] for line in lines if line.strip().startswith("--")})
    assert shown[0] == shown[1] and "--train_set_path" in shown[0] and "--adam_beta1" not in shown[0]


def test_arguments_can_be_pickled_and_copied():
    """transformers saves and copies them; their class is made of the script's, and has no name of its own."""
    import copy
    import pickle

    from reward_modeling.training.arguments import arguments_of

    arguments = arguments_of(rm.ScriptArguments)(use_cpu=True, report_to="none", max_length=77)
    for again in (pickle.loads(pickle.dumps(arguments)), copy.deepcopy(arguments)):
        assert (
            type(again) is type(arguments) and again.max_length == 77 and vars(again).keys() == vars(arguments).keys()
        )


@pytest.mark.parametrize(
    "script,argv,words,most",
    [
        ("eval_bench_mark.py", ["--help"], "--subsets", 1800),
        ("eval_bench_mark.py", ["--benchmark", "x"], "unknown flag --benchmark; did you mean --benchmarks?", 1800),
        ("eval_bench_mark.py", ["--compare", "x", "y"], "--compare x: expected a folder", 2300),  # with matplotlib
        ("data_prep/lint.py", ["--help"], "--strict", 1800),
        ("data_prep/shp.py", ["--help"], "--dataset_path", 1800),
    ],
)
def test_other_scripts_answer_without_torch(script, argv, words, most):
    """Those that read rows have imported `datasets` by then, and with it pandas."""
    modules, said = imported_by(script, *argv)
    assert words in said and "torch" not in modules and len(modules) < most
    assert ("matplotlib" in modules) is ("--compare" in argv)


def test_flags_are_read_as_transformers_reads_them():
    """But that a switch may stand without its value, and lists of one text without brackets."""
    from transformers import HfArgumentParser, TrainingArguments

    from reward_modeling.common.arguments import ScriptArgumentParser

    ours, theirs = (
        {option: action for action in parser._actions for option in action.option_strings}
        for parser in (ScriptArgumentParser(TrainingArguments, show_all=True), HfArgumentParser(TrainingArguments))
    )
    assert ours.keys() - theirs.keys() == {"--help_all"} and not theirs.keys() - ours.keys()
    for option, expected in theirs.items():
        found = ours[option]
        assert found.dest == expected.dest and found.help == expected.help
        assert found.default == expected.default or expected.default is None
        assert list(found.choices or ()) == list(expected.choices or ())
        if found.nargs != expected.nargs:
            assert (found.type is not str and found.nargs == "?") or option in SEVERAL


SEVERAL = ("--report_to", "--report-to", "--optim_target_modules", "--optim-target-modules")
