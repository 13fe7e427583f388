"""Benchmarks added to a model's folder, some of their subsets alone, and a chat template of the user's own."""

import json
import random
from pathlib import Path

import pytest
import torch
from evaluations import PlainModel, evaluate, flags, read_lines
from runs import write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification

from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.quickstart import rewardbench_like_rows
from reward_modeling.tiny.tokenizers import token_ids

ROWS = learnable_preferences(30, seed=5)
ANSWERS = sorted({row[side][-1]["content"] for row in ROWS for side in ("chosen", "rejected")})


def save_model(folder: Path, seed: int = 0) -> Path:
    tokenizer = train_tokenizer(ANSWERS, 400, **TOKENIZER_STYLES["chatml"])
    config = tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rewards = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    rewards.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("rewards") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("benchmarks")
    rows = rewardbench_like_rows(2, seed=2, unlike=[])
    random.Random(0).shuffle(rows)
    return {
        "rewardbench": write_rows(folder / "rewardbench.jsonl", rows),
        "pairs": write_rows(folder / "pairs.jsonl", ROWS),
    }


def read(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def part_without_time(folder: Path, name: str) -> dict:
    part = read(folder)["benchmarks"][name]
    return part | {"scoring": {key: value for key, value in part["scoring"].items() if key != "seconds"}}


def test_benchmarks_one_by_one_are_those_at_once(model, files, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = evaluate(flags(model, files, tmp_path / "whole"))
    evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path))
    added = evaluate(flags(model, {"rewardbench": files["rewardbench"]}, tmp_path))
    assert (added / "scores.jsonl").read_bytes() == (whole / "scores.jsonl").read_bytes()
    assert list(read(added)["benchmarks"]) == ["rewardbench", "pairs"]
    for name in files:
        assert part_without_time(added, name) == part_without_time(whole, name)
    counts = ("conversations", "distinct", "tokens", "cut")
    assert all(read(added)["scoring"][name] == read(whole)["scoring"][name] for name in counts)
    arguments = read(added)["arguments"]
    assert arguments["pairs_path"] == str(files["pairs"]) and arguments["benchmarks"] == ["rewardbench", "pairs"]
    lines = (tmp_path / "record.txt").read_text().splitlines()
    assert sum(line.startswith("pairs\t") for line in lines) == sum(line.startswith("Chat\t") for line in lines) == 1


def test_a_benchmark_that_is_there_is_replaced_alone(model, files, tmp_path):
    folder = evaluate(flags(model, files, tmp_path))
    before = part_without_time(folder, "rewardbench")
    fewer = write_rows(tmp_path / "fewer.jsonl", ROWS[:10])
    with pytest.raises(UserError, match=r"no earlier evaluation of pairs, found one.*--overwrite_output_dir true"):
        evaluate(flags(model, {"pairs": fewer}, tmp_path))
    evaluate(flags(model, {"pairs": fewer}, tmp_path, overwrite_output_dir="true"))
    assert read(folder)["benchmarks"]["pairs"]["rows"] == 10
    assert part_without_time(folder, "rewardbench") == before
    assert sum(line["benchmark"] == "pairs" for line in read_lines(folder / "scores.jsonl")) == 10


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"max_length": 100}, "max_length"),
        ({"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
        ({"chat_template": "other"}, "chat_template"),
        ({"legacy_xstest_weights": "true"}, "--legacy_xstest_weights false"),
    ],
)
def test_other_settings_are_not_mixed(changes, words, model, files, tmp_path):
    evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path))
    if "chat_template" in changes:
        changes = {"chat_template": tmp_path / "other.jinja"}
        changes["chat_template"].write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "record").glob("*/*"))
    with pytest.raises(UserError, match=f"the same model, scored in the same way.*{words}"):
        evaluate(flags(model, {"rewardbench": files["rewardbench"]}, tmp_path, **changes))
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "record").glob("*/*")) == before
    evaluate(flags(model, {"rewardbench": files["rewardbench"]}, tmp_path))  # without it, it is added


def test_another_model_in_the_same_folder_is_refused(model, files, tmp_path):
    own = save_model(tmp_path / "models" / "model")
    given = flags(own, {"pairs": files["pairs"]}, tmp_path)
    evaluate(given)
    save_model(own, seed=1)  # trained again, in its place
    new = flags(own, {"rewardbench": files["rewardbench"]}, tmp_path)
    with pytest.raises(UserError, match="other weights"):
        evaluate(new)
    elsewhere = save_model(tmp_path / "elsewhere" / "models" / "model")
    with pytest.raises(UserError, match=r"with name_or_path .*models/model, not .*elsewhere"):
        evaluate(new | {"reward_name_or_path": elsewhere})
    evaluate(flags(own, files, tmp_path, overwrite_output_dir="true"))  # nothing of the other model stays


# --- subsets --------------------------------------------------------------------------------------------------


def test_some_subsets_alone(model, files, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = evaluate(flags(model, {"rewardbench": files["rewardbench"]}, tmp_path / "whole"))
    names = [*SECTIONS["Chat"], "hep-go"]
    some = flags(model, {"rewardbench": files["rewardbench"]}, tmp_path, subsets=",".join(names))
    part, complete = (read(folder)["benchmarks"]["rewardbench"] for folder in (evaluate(some), whole))
    assert part["rows"] == 2 * len(names) and "incomplete: only alpacaeval-easy" in part["title"]
    assert part["figures"]["Chat"] == complete["figures"]["Chat"]
    assert all(part["figures"][name]["value"] is None for name in ("Chat Hard", "Safety", "Reasoning", "overall"))
    assert part["subsets"] == {name: complete["subsets"][name] for name in part["subsets"]}
    assert part["subsets"].keys() == set(names)
    record = dict(line.split("\t") for line in (tmp_path / "record.txt").read_text().splitlines())
    assert record["only subsets"] == ", ".join(names) and record["Reasoning"] == "incomplete"
    assert float(record["rewardbench/hep-go"]) == complete["subsets"]["hep-go"]["value"]
    whole_record = (tmp_path / "whole" / "record.txt").read_text()
    assert "rewardbench/" not in whole_record and "only subsets" not in whole_record


def test_subsets_that_were_scored_are_in_the_record_of_an_incomplete_section(model, files, tmp_path):
    rows = [row for row in read_lines(files["rewardbench"]) if row["subset"] != "hep-go"]
    lacking = write_rows(tmp_path / "lacking.jsonl", rows)
    evaluate(flags(model, {"rewardbench": lacking}, tmp_path))
    record = dict(line.split("\t") for line in (tmp_path / "record.txt").read_text().splitlines())
    assert record["Reasoning"] == "incomplete" and record["Chat"] != "incomplete"
    assert {"rewardbench/hep-cpp", "rewardbench/math-prm"} <= record.keys() and "rewardbench/hep-go" not in record


def test_a_subset_that_no_benchmark_has(model, files, tmp_path):
    with pytest.raises(UserError, match=r"--subsets: expected subsets of rewardbench, pairs .*\n.*did you mean hep-go"):
        evaluate(flags(model, files, tmp_path, subsets="hep-goo,hep-go"))


def test_a_benchmark_with_none_of_the_subsets_is_left_out(model, files, tmp_path, caplog):
    assert list(read(evaluate(flags(model, files, tmp_path, subsets="hep-go")))["benchmarks"]) == ["rewardbench"]
    assert "Left out is pairs, which has none of the subsets." in caplog.text


# --- the chat template ----------------------------------------------------------------------------------------


def test_the_given_chat_template_is_the_one_that_is_scored_with(model, files, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}")
    (tmp_path / "own").mkdir()
    own = evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path, chat_template=template))
    usual = evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path / "own"))
    plain = PlainModel(model)
    rewards = {}
    for name, text in (("usual", None), ("own", template.read_text())):
        plain.tokenizer.chat_template = text or plain.tokenizer.chat_template
        rewards[name] = plain(ROWS[0]["chosen"][:-1], ROWS[0]["chosen"][-1]["content"])
    assert read_lines(own / "scores.jsonl")[0]["chosen_reward"] == pytest.approx(rewards["own"], abs=1e-4)
    assert read_lines(usual / "scores.jsonl")[0]["chosen_reward"] == pytest.approx(rewards["usual"], abs=1e-4)
    assert abs(rewards["own"] - rewards["usual"]) > 1e-3
