"""Flags, a YAML file below them, and mistakes that end in one clear message."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import PATH
from reward_modeling.common.paths import expand_home, split_list


@dataclass
class Arguments:
    model_name: str = field(default="tiny", metadata={"help": "A model."})
    learning_rate: float = 1e-5
    max_length: int = 4096
    num_proc: int | None = None
    bf16: bool | None = None
    packing: bool = True
    overwrite: bool = False
    save_strategy: str = "epoch"
    eval_set_path: str | None = None
    label_names: list[str] | None = None
    report_to: None | str | list[str] = "wandb"  # noqa: RUF036 (as in rm.py)
    options: dict | str | None = None

    def __post_init__(self):
        if self.max_length < 1:
            raise ValueError("max_length is below 1")


@pytest.fixture
def parse(tmp_path):
    """parse(flags, yaml=text): the arguments, and those that were given."""

    def parse(*argv: str, yaml: str | None = None):
        if yaml is not None:
            (tmp_path / "run.yaml").write_text(yaml)
            argv = ("--config", str(tmp_path / "run.yaml"), *argv)
        arguments, given = parse_script_arguments(Arguments, argv)
        given.pop("config", None)
        return arguments, given

    return parse


def problem_of(parse, *argv, **options) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv, **options)
    return str(caught.value)


# --- values -------------------------------------------------------------------------------------------------


def test_nothing_given_is_all_defaults(parse):
    assert parse() == (Arguments(), {})


def test_flags_have_their_types_and_are_given(parse):
    arguments, given = parse("--learning_rate", "3e-4", "--num_proc=2", "--overwrite", "--eval_set_path", "e.jsonl")
    assert arguments == Arguments(learning_rate=3e-4, num_proc=2, overwrite=True, eval_set_path="e.jsonl")
    assert given == {"learning_rate": 3e-4, "num_proc": 2, "overwrite": True, "eval_set_path": "e.jsonl"}


def test_a_flag_with_its_default_is_given_all_the_same(parse):
    assert parse("--max-length", "4096")[1] == {"max_length": 4096}


def test_yaml_gives_values_and_flags_win(parse):
    yaml = "learning_rate: 1e-3\nmax_length: 100\nmodel_name: google/gemma-2b-it\n"
    arguments, given = parse("--max_length", "200", yaml=yaml)
    assert arguments == Arguments(learning_rate=1e-3, max_length=200, model_name="google/gemma-2b-it")
    assert given == {"learning_rate": 1e-3, "max_length": 200, "model_name": "google/gemma-2b-it"}


def test_config_with_an_equals_sign(tmp_path):
    (tmp_path / "a.yaml").write_text("max_length: 7")
    arguments, given = parse_script_arguments(Arguments, [f"--config={tmp_path / 'a.yaml'}"])
    assert arguments.max_length == 7
    assert given == {"config": str(tmp_path / "a.yaml"), "max_length": 7}


@pytest.mark.parametrize("default_on", ["packing", "overwrite", "bf16"])
@pytest.mark.parametrize("written,value", [("true", True), ("false", False), ("True", True), ("yes", True)])
def test_yaml_booleans(parse, default_on, written, value):
    """Also for a flag that is on by default, which has a --no_ twin with the same destination."""
    arguments, given = parse(yaml=f"{default_on}: {written}\n")
    assert getattr(arguments, default_on) is value
    assert given == {default_on: value}


def test_the_no_twin_of_a_flag_wins_over_yaml(parse):
    arguments, given = parse("--no_packing", yaml="packing: true")
    assert arguments.packing is False
    assert given == {"packing": False}


@pytest.mark.parametrize("word", ["no", "off", "on", "yes"])
def test_the_word_no_stays_a_word(parse, word):
    """save_strategy: no, as transformers' documentation writes it; YAML 1.1 reads False there."""
    assert parse(yaml=f"save_strategy: {word}\n")[0].save_strategy == word


def test_yaml_lists(parse):
    arguments, given = parse(yaml="report_to: [wandb, tensorboard]\nlabel_names:\n  - a\n  - b\n")
    assert arguments == Arguments(report_to=["wandb", "tensorboard"], label_names=["a", "b"])
    assert given == {"report_to": ["wandb", "tensorboard"], "label_names": ["a", "b"]}


def test_one_value_for_text_or_list_stays_a_text(parse):
    assert parse("--report_to", "none")[0].report_to == "none"
    assert parse(yaml="report_to: none")[0].report_to == "none"
    assert parse("--report_to", "wandb", "tensorboard")[0].report_to == ["wandb", "tensorboard"]
    assert parse("--label_names", "a")[0].label_names == ["a"]


def test_yaml_null_leaves_the_default(parse):
    arguments, given = parse(yaml="eval_set_path: null\nmax_length:\nnum_proc: ~\n")
    assert (arguments, given) == (Arguments(), {})


def test_yaml_mappings_arrive_as_json(parse):
    assert parse(yaml="options: {min_lr: 0.1, layers: [1, 2]}")[0].options == '{"min_lr": 0.1, "layers": [1, 2]}'


def test_negative_numbers_and_spaces_in_yaml(parse):
    assert parse(yaml="learning_rate: -0.5\nmodel_name: my models/a b\n")[0] == Arguments(
        learning_rate=-0.5, model_name="my models/a b"
    )


# --- mistakes -----------------------------------------------------------------------------------------------


def test_unknown_flag_with_a_suggestion(parse):
    assert problem_of(parse, "--max_lenght", "3") == "unknown flag --max_lenght; did you mean --max_length?"
    assert problem_of(parse, "--max_lenght=3") == "unknown flag --max_lenght; did you mean --max_length?"


def test_names_that_other_tools_have(parse):
    assert problem_of(parse, "--lr", "3") == "unknown flag --lr; did you mean --learning_rate?"
    assert (
        problem_of(parse, "--model_name_or_path=a") == "unknown flag --model_name_or_path; did you mean --model_name?"
    )


def test_a_file_of_flags_without_its_flag(parse):
    assert problem_of(parse, "run.yaml").endswith("is passed as --config run.yaml")


def test_unknown_flag_without_anything_like_it(parse):
    assert problem_of(parse, "--zzz") == "unknown flag --zzz"


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--max_len", "--max_length"),
        ("--max-lenght", "--max-length"),
        ("--init_head", None),
        ("--loss_margin", None),
        ("--rate_of_learning", None),
    ],
)
def test_a_flag_that_only_looks_a_little_like_another_is_not_offered(parse, flag, hint):
    assert problem_of(parse, flag, "3") == f"unknown flag {flag}" + (f"; did you mean {hint}?" if hint else "")


def test_no_abbreviations(parse):
    assert problem_of(parse, "--overwr").startswith("unknown flag --overwr")


def test_all_unknown_flags_together(parse):
    assert problem_of(parse, "--lerning_rate", "1", "--zzz", "2").splitlines() == [
        "unknown flag --lerning_rate; did you mean --learning_rate?",
        "unknown flag --zzz",
    ]


def test_unknown_yaml_key_names_the_file(parse, tmp_path):
    found = problem_of(parse, yaml="max_lenght: 3\nzzz: 1\n")
    assert found.splitlines() == [
        f"{tmp_path / 'run.yaml'}: unknown key 'max_lenght'; did you mean max_length?",
        f"{tmp_path / 'run.yaml'}: unknown key 'zzz'",
    ]


@pytest.mark.parametrize(
    "argv,yaml",
    [
        (["--max_length", "long"], None),
        ([], "max_length: long"),
    ],
)
def test_wrong_type_names_flag_and_value(parse, argv, yaml):
    found = problem_of(parse, *argv, yaml=yaml)
    assert "--max_length" in found and "invalid int value: 'long'" in found
    assert "--help" in found


def test_wrong_boolean(parse):
    assert "maybe" in problem_of(parse, "--packing", "maybe")
    assert "maybe" in problem_of(parse, yaml="packing: maybe")


def test_a_flag_without_its_value(parse):
    assert "--max_length/--max-length: expected one argument" in problem_of(parse, "--max_length")
    assert "--report_to/--report-to: expected at least one argument" in problem_of(parse, "--report_to")


def test_a_boolean_that_may_be_unset_is_on_without_a_value(parse):
    assert parse("--bf16")[0].bf16 is True
    assert parse("--bf16", "false")[0].bf16 is False
    assert parse()[0].bf16 is None


def test_a_stray_word(parse):
    assert problem_of(parse, "stray") == "expected flags, found 'stray'"


def test_a_glob_that_the_shell_has_spelt_out(parse):
    found = problem_of(parse, "--num_proc", "2", "--eval_set_path", *(f"{number}.jsonl" for number in range(6)))
    assert found.startswith("--eval_set_path: expected one value, found '1.jsonl', '2.jsonl', '3.jsonl' and 2 more ")
    assert "a glob in quotes" in found


def test_a_value_that_the_dataclass_refuses(parse):
    assert problem_of(parse, "--max_length", "0") == "arguments: max_length is below 1"


def test_missing_yaml_file(parse, tmp_path):
    path = tmp_path / "none.yaml"
    assert problem_of(parse, "--config", str(path)) == (
        f"--config {path}: expected a readable YAML file (No such file or directory)"
    )


def test_config_without_a_file(parse):
    assert problem_of(parse, "--config") == "--config: expected a YAML file, found nothing"


@pytest.mark.parametrize(
    "text,found", [("- a\n- b\n", "found a list"), ("just words", "found a text"), ("", "found an empty file")]
)
def test_yaml_that_is_no_mapping(parse, text, found):
    problem = problem_of(parse, yaml=text)
    assert "expected a mapping of flags to values" in problem and found in problem


def test_broken_yaml_says_where(parse):
    problem = problem_of(parse, yaml="max_length: 1\n  learning_rate: [2\n")
    assert "expected YAML" in problem and "line 2" in problem


@pytest.mark.parametrize("flag", ["--hub_token", "--hub-token"])
def test_a_command_line_can_be_shown_without_its_tokens(flag):
    argv = ["rm.py", flag, "hf_a", f"{flag}=hf_b", "--model_name", "hf_token", "--seed=3"]
    kept = ["rm.py", flag, "(not kept)", f"{flag}=(not kept)", "--model_name", "hf_token", "--seed=3"]
    assert without_tokens(argv) == kept


# --- flags and keys that are there twice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv,expected",
    [
        (
            ["--max_length", "1", "--max_length", "2"],
            "--max_length: expected it once, found it twice. Pass one of them.",
        ),
        (
            ["--max_length=1", "--max-length", "2"],
            "--max_length: expected it once, found --max_length and --max-length.",
        ),
        (["--bf16"] * 3, "--bf16: expected it once, found it 3 times."),
        (
            ["--report_to", "wandb", "--report_to", "tensorboard"],
            "--report_to: expected it once, found it twice. Several values go behind one flag: --report_to a b.",
        ),
    ],
)
def test_a_flag_that_is_there_twice(parse, argv, expected):
    assert problem_of(parse, *argv).startswith(expected)


def test_a_flag_beside_its_key_in_the_file_is_no_repetition(parse):
    assert parse("--max_length", "2", yaml="max_length: 1")[0].max_length == 2


def test_a_key_that_is_there_twice(parse):
    found = problem_of(parse, yaml="max_length: 1\nnum_proc: 3\nmax_length: 2\n")
    assert "expected each key once, found max_length in line 1 and again in line 3" in found
    assert "max_length: [a, b]" in found


# --- home -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["~", "~/a", "x,~/a", "a=~/b,c=~/d", "a, ~/b", "~/data/*.jsonl"])
def test_home_wherever_a_path_begins(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(text) == text.replace("~", "/home/me")


@pytest.mark.parametrize("text", ["a~", "data/~b", "a/b~c,d~", "~nobody-here/a", "org/name:train", ""])
def test_other_tildes_stay(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(text) == text


@dataclass
class Paths:
    path: Annotated[str, PATH] = "~/default"
    paths: Annotated[None | str | list[str], PATH] = None  # noqa: RUF036
    words: str = "~/words"


def test_flags_that_are_paths_and_those_that_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("paths: [~/a, b, x=~/c]\nwords: ~/words\n")
    arguments, given = parse_script_arguments(Paths, ["--config=~/run.yaml"])
    assert arguments == Paths(f"{tmp_path}/default", [f"{tmp_path}/a", "b", f"x={tmp_path}/c"], "~/words")
    assert given["paths"] == arguments.paths and given["words"] == "~/words"


def test_a_comma_in_the_name_of_a_file(tmp_path):
    assert split_list("a, b,") == ["a", "b"] and split_list("a") == ["a"]
    both = str(tmp_path / "a,b")
    assert split_list(both) == [str(tmp_path / "a"), "b"]
    (tmp_path / "a,b").touch()
    assert split_list(both) == [both]
