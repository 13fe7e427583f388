"""Several sets in one run: which of them a flag names, the counts of each, a part of the prompts."""

from pathlib import Path

import datasets
import pytest
from runs import write_rows
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import kept_rows, load_preference_dataset, read_column, sample_by_prompt
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.set_paths import check_revision, evaluation_paths, set_paths
from reward_modeling.data.sources import hub_name
from reward_modeling.objectives.bradley_terry import PairReader
from reward_modeling.tiny.preferences import learnable_preferences

ROWS = learnable_preferences(60, seed=7)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tokenizer():
    texts = [message["content"] for row in ROWS for message in row["chosen"]]
    return train_tokenizer(texts, 400, **TOKENIZER_STYLES["gemma"])


@pytest.fixture
def files(tmp_path):
    """Three sets; the second repeats two pairs of the first and has a row without an answer."""
    empty = ROWS[30] | {"chosen": [*ROWS[30]["chosen"][:-1], {"role": "assistant", "content": " "}]}
    parts = {"a": ROWS[:20], "b": [*ROWS[20:35], *ROWS[3:5], empty], "c": ROWS[35:]}
    return {name: str(write_rows(tmp_path / f"{name}.jsonl", rows)) for name, rows in parts.items()}


def prepare(train, evaluation, tokenizer, **changes):
    options = {"eval_size": 0, "seed": 3, "num_proc": 1} | changes
    return prepare_pairs(train, evaluation, tokenizer, PairReader(), TokenizeOptions(256), **options)


def counts(report) -> tuple[int, int, dict[str, int]]:
    return report.rows_read, report.kept, {reason: rows.count for reason, rows in report.dropped.items()}


# --- which sets -----------------------------------------------------------------------------------------------


def test_the_sets_that_a_flag_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x,y.jsonl").touch()
    assert set_paths("a.jsonl") == ["a.jsonl"]
    assert set_paths("a.jsonl,org/b:train") == set_paths(["a.jsonl", "org/b:train"]) == ["a.jsonl", "org/b:train"]
    assert set_paths("x,y.jsonl") == ["x,y.jsonl"] and set_paths("x,*.jsonl") == ["x,*.jsonl"]
    assert evaluation_paths(None) == {} and evaluation_paths("a,b") == {"": ["a", "b"]}
    assert evaluation_paths("easy=a,hard=b:test") == {"easy": ["a"], "hard": ["b:test"]}
    assert evaluation_paths(["easy=a", "hard=b"]) == {"easy": ["a"], "hard": ["b"]}
    (tmp_path / "k=v").touch()
    assert evaluation_paths("k=v") == {"": ["k=v"]}  # it is there


@pytest.mark.parametrize(
    "given,words",
    [
        (["easy=a", "b"], "some have a name, and some have none"),
        ("easy=,hard=b", "easy has no path"),
        ("e y=a,b=c", "'e y' is no name"),
        ("a=b,a=c", "a is there twice"),
        ("accuracy=b", "'accuracy' begins as figures do"),
    ],
)
def test_names_that_are_none(given, words):
    with pytest.raises(UserError, match=f"--eval_set_path: expected one set, or name=path .*{words}"):
        evaluation_paths(given)


def test_a_configuration_and_a_revision_of_the_hub(tmp_path):
    assert hub_name("a/b") == ("a/b", None, None) and hub_name("a/b:train") == ("a/b", None, "train")
    assert hub_name("a/b:config:train") == ("a/b", "config", "train") and hub_name("a/b:c:d:e") is None
    check_revision("v1", ["a/b:train", "a/b:test"])
    check_revision(None, ["a/b", "c/d"])
    for paths in (["a/b", "c/d"], [str(write_rows(tmp_path / "a.jsonl", ROWS[:1]))]):
        with pytest.raises(UserError, match="--dataset_revision v1: expected one data set of the Hub"):
            check_revision("v1", paths)


def test_configuration_and_revision_reach_the_hub(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options["revision"]))
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS[:3])})

    monkeypatch.setattr("reward_modeling.data.sources.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_preference_dataset("a/b:easy:test", ReadOptions(revision="v1"))) == 3
    assert asked == [(("a/b", "easy"), "v1")]


# --- several sets ---------------------------------------------------------------------------------------------


def test_several_sets_are_their_rows_one_after_the_other(files, tokenizer, tmp_path):
    several = prepare([files["a"], files["b"]], None, tokenizer)
    lines = "".join(Path(files[name]).read_text() for name in "ab")
    (tmp_path / "both.jsonl").write_text(lines)
    once = prepare(str(tmp_path / "both.jsonl"), None, tokenizer)
    columns = ("prefix_ids", "completion_ids", "units", "targets")
    assert all(several.train.groups[name] == once.train.groups[name] for name in columns)
    assert counts(several.reports[0]) == counts(once.reports[0])
    assert len(once.all_reports) == 1


def test_each_set_has_its_counts(files, tokenizer):
    total, first, second = prepare(f"{files['a']},{files['b']}", None, tokenizer).all_reports
    assert (first.name, second.name) == (f"train 1, {files['a']}", f"train 2, {files['b']}")
    assert counts(first) == (20, 20, {})
    assert counts(second) == (18, 15, {"empty_reply": 1, "duplicate_pair": 2})
    assert counts(total) == (38, 35, {"empty_reply": 1, "duplicate_pair": 2})


def test_one_file_twice_is_a_set_of_duplicates(files, tokenizer):
    both = prepare([files["a"]] * 2, None, tokenizer).set_reports
    assert [counts(report) for report in both] == [(20, 20, {}), (20, 0, {"duplicate_pair": 20})]


def test_evaluation_sets_with_names(files, tokenizer):
    data = prepare(files["a"], f"easy={files['b']},hard={files['c']}", tokenizer)
    assert list(data.evaluations) == ["easy", "hard"] and data.evaluation is data.evaluations["easy"]
    assert [report.name for report in data.reports] == ["train", "eval easy", "eval hard"]
    assert data.reports[1].notes["rows whose prompt is also trained on"] >= 2
    one = prepare(files["a"], files["b"], tokenizer)
    assert one.evaluations == {} and [report.name for report in one.reports] == ["train", "eval"]
    assert one.evaluation.groups["completion_ids"] == data.evaluation.groups["completion_ids"]
    with pytest.raises(UserError, match=r"hard=.*no row is left to evaluate on"):
        blank = write_rows(Path(files["a"]).with_name("blank.jsonl"), [{"prompt": "a", "chosen": "b", "rejected": " "}])
        prepare(files["a"], f"easy={files['b']},hard={blank}", tokenizer)


# --- a part ---------------------------------------------------------------------------------------------------


def test_a_sample_is_of_whole_prompts_and_does_not_depend_on_the_order(files):
    rows = load_preference_dataset(files["a"])
    rows = datasets.concatenate_datasets([rows, rows.select(range(10))])  # prompts with one row, and with two
    sample, left_out = sample_by_prompt(rows, 12, seed=1)
    keys = read_column(sample, "prompt_key").to_pylist()
    assert len(sample) == len(rows) - left_out <= 12
    assert all(keys.count(key) == read_column(rows, "prompt_key").to_pylist().count(key) for key in keys)
    reordered, _ = sample_by_prompt(rows.select(range(len(rows) - 1, -1, -1)), 12, seed=1)
    assert sorted(keys) == sorted(read_column(reordered, "prompt_key").to_pylist())
    other, _ = sample_by_prompt(rows, 12, seed=2)
    assert sorted(keys) != sorted(read_column(other, "prompt_key").to_pylist())
    assert len(kept_rows(sample_by_prompt(rows, 1000, seed=1)[0])) == len(rows)


def test_a_part_of_the_training_set_beside_the_same_held_out_rows(files, tokenizer):
    whole, part = (
        prepare([files["a"], files["c"]], None, tokenizer, eval_size=4, max_train_samples=most) for most in (None, 10)
    )
    assert 5 < len(part.train) <= 10 < 100 < len(whole.train)  # the next prompt has more rows than there is room for
    assert part.evaluation.groups["completion_ids"] == whole.evaluation.groups["completion_ids"]
    kept = whole.reports[0].kept - len(whole.evaluation)
    assert part.reports[0].notes["pairs left out by --max_train_samples"] == kept - len(part.train)
    units = {str(ids) for ids in whole.train.groups["completion_ids"]}
    assert {str(ids) for ids in part.train.groups["completion_ids"]} <= units
    twice = write_rows(
        Path(files["a"]).with_name("twice.jsonl"),
        [ROWS[0] | {"rejected": [*ROWS[0]["rejected"][:-1], {"role": "assistant", "content": text}]} for text in "xy"],
    )
    with pytest.raises(UserError, match="--max_train_samples 1: expected at least as many as one prompt has"):
        prepare(str(twice), None, tokenizer, max_train_samples=1)
