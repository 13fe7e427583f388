"""The files that a run leaves, and what becomes of those that are there."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from scored import choose, manifest_of, random_rows, read_rows, report_of, write_rows

from reward_modeling.best_of_n.outputs import Outputs
from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import load_preference_dataset


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *flags: choose(monkeypatch, capsys, *flags)


def test_half_characters_are_written_nowhere_and_counted(run, tmp_path):
    half = "\ud83d"
    rows = [
        {"prompt": "0?", "responses": ["a", "b", f"c {half}"], "rewards": [1, 2, 3]},
        {"prompt": "1?", "responses": ["a", "b"], "rewards": [1, 2], "source": half},
        {"prompt": "2?", "responses": ["a", "b"], "rewards": [1, 2], "generator": f"m {half}"},
        {"prompt": f"3 {half}", "responses": ["a", "b"], "rewards": [1, 2]},
    ]
    output = tmp_path / "pairs.jsonl"
    run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", output)
    assert [row["chosen"][-1]["content"] for row in read_rows(output)] == ["b"]  # of the first row, without "c"
    report = report_of(output)
    counts = {name: entry["count"] for name, entry in report["dropped"].items()}
    assert counts == {"no_reward": 1, "not_writable": 2, "unreadable_row": 1}
    assert "half a character" in report["dropped"]["not_writable"]["first"]
    assert (list(report["models"]), report["selected"]["prompts"]) == ([f"m {half}"], 1)


def test_the_folder_of_an_output_is_a_data_set(run, tmp_path):
    """Manifest and report stand beside the rows, and are none."""
    folder = tmp_path / "data"
    source = write_rows(tmp_path / "in.jsonl", random_rows())
    run("--input", source, "--output", folder / "pairs.jsonl.gz")
    read = load_preference_dataset(str(folder), num_proc=1)
    assert set(read["reason"]) == {""} and len(read) == len(read_rows(folder / "pairs.jsonl.gz"))
    assert set(read["unread"]) == {""}
    again = tmp_path / "again"
    run("--input", source, "--output", again / "pairs.jsonl.gz")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }


def test_nothing_is_left_of_a_run_that_fails(run, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.jsonl", random_rows())
    folder = tmp_path / "out"
    with pytest.raises(UserError, match="Nothing was written"), monkeypatch.context() as patched:
        patched.setattr("reward_modeling.best_of_n.job.write_page", _full_disk)
        run("--input", source, "--output", folder / "pairs.jsonl")
    assert list(folder.iterdir()) == []
    run("--input", source, "--output", folder / "pairs.jsonl")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {f"pairs.jsonl{end}" for end in ("", ".manifest.json", ".report.json", ".report.html")}
    with pytest.raises(UserError, match=r"expected nothing of this name, found pairs.jsonl, .*--overwrite_output true"):
        run("--input", source, "--output", folder / "pairs.jsonl")
    with source.open("a") as file:
        file.write('{"prompt": "x')
    with pytest.raises(UserError, match=r"in.jsonl:41"):
        run("--input", source, "--output", folder / "pairs.jsonl", "--overwrite_output", "true")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_second_run_into_one_output_is_refused(run, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl", random_rows()), tmp_path / "out/pairs.jsonl"
    outputs = Outputs(output)
    outputs.make_folder()
    with outputs.held():
        begun = [path.name for path in output.parent.iterdir()]
        with pytest.raises(UserError, match="found that another run writes it"):
            run("--input", source, "--output", output)
        assert [path.name for path in output.parent.iterdir()] == begun
        run("--input", source, "--output", output.with_name("other.jsonl"))  # beside it there is room
    run("--input", source, "--output", output)
    assert not [path.name for path in output.parent.iterdir() if path.name.startswith(".")]
    with pytest.raises(UserError, match="expected nothing of this name"), outputs.held():
        pass  # it was written after the first look


def test_entries_of_runs_at_the_same_time_are_all_there(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for number in range(8):
            outputs = Outputs(tmp_path / f"set{number}.jsonl", has_dataset_info=True)
            pool.submit(outputs.add_dataset_info, {"file_name": outputs.rows.name})
    assert len(json.loads((tmp_path / "dataset_info.json").read_text())) == 8


def test_a_link_stays_and_what_it_leads_to_is_written(run, tmp_path):
    source, there = write_rows(tmp_path / "in.jsonl", random_rows()), tmp_path / "there"
    there.mkdir()
    (tmp_path / "pairs.jsonl").symlink_to(there / "real.jsonl")
    run("--input", source, "--output", tmp_path / "pairs.jsonl")
    run("--input", source, "--output", tmp_path / "pairs.jsonl", "--overwrite_output", "true")
    assert (tmp_path / "pairs.jsonl").is_symlink() and len(read_rows(there / "real.jsonl")) > 20
    assert [path.name for path in there.iterdir()] == ["real.jsonl"]
    info = there / "info.json"
    (tmp_path / "dataset_info.json").symlink_to(info)
    run("--input", source, "--output", tmp_path / "lf.jsonl", "--format", "llama_factory")
    assert (tmp_path / "dataset_info.json").is_symlink() and list(json.loads(info.read_text())) == ["lf"]


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_manifest_says_what_was_read_and_written(run, tmp_path):
    from hashlib import sha256

    source, output = write_rows(tmp_path / "in.jsonl", random_rows()), tmp_path / "pairs.jsonl"
    run("--input", source, "--output", output, "--choose", "max_random", "--seed", "3")
    manifest = manifest_of(output)
    assert manifest["inputs"][0]["sha256"] == sha256(source.read_bytes()).hexdigest()
    assert manifest["written"] == {
        "rows": len(read_rows(output)),
        "content_sha256": sha256(output.read_bytes()).hexdigest(),
    }
    assert (manifest["flags"]["choose"], manifest["flags"]["seed"], manifest["rows_read"]) == ("max_random", 3, 40)
    assert not {"input", "output"} & manifest["flags"].keys()


def test_the_entry_of_llama_factory_joins_those_that_are_there(run, tmp_path):
    source, info = write_rows(tmp_path / "in.jsonl", random_rows()), tmp_path / "data/dataset_info.json"
    info.parent.mkdir()
    info.write_text('{"alpaca": {"file_name": "alpaca.json"}}')
    flags = ("--input", source, "--format", "llama_factory")
    run(*flags, "--output", tmp_path / "data/pairs.jsonl")
    run(*flags, "--output", tmp_path / "data/best.jsonl", "--select", "best")
    entries = json.loads(info.read_text())
    assert list(entries) == ["alpaca", "pairs", "best"]
    assert entries["pairs"] == {
        "file_name": "pairs.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "system": "system",
            "tools": "tools",
            "chosen": "chosen",
            "rejected": "rejected",
        },
    }
    assert "ranking" not in entries["best"]
    for name in ("pairs", "best"):
        named = set(entries[name]["columns"].values())
        assert all(named <= row.keys() for row in read_rows(tmp_path / f"data/{name}.jsonl"))
    info.write_text('{"pairs": ')
    with pytest.raises(UserError, match=r"expected JSON in .*dataset_info.json"):
        run(*flags, "--output", tmp_path / "data/other.jsonl")
