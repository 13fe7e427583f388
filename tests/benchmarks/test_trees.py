"""benchmarks/trees.py: all ways to compute a tree take the same step, and one that does not is found out."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tree_rows  # noqa: E402
import trees  # noqa: E402
from trees import PADDED_ROWS, PROMPTS_ONCE, ROWS, TREE  # noqa: E402

SMALL = ["--answers", "3", "--words", "20", "12", "--drawn", "2", "--row_tokens", "400", "--repeats", "1"]
SAME = ["Add two to both sides of the equation.", "So x is five."]


@pytest.fixture(autouse=True)
def small(own_cache, monkeypatch):
    monkeypatch.setattr(trees, "SIZES", trees.SIZES | {"hidden_size": 64, "num_hidden_layers": 2})


def run(monkeypatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", ["trees.py", *SMALL, *map(str, flags)])
    trees.main()


def published(tmp_path) -> list[object]:
    """Rows in the forms of the published ones."""
    chains = [[*SAME, "6."], [*SAME, "7."], ["No idea what it is.", "8."]]
    processes = [{"question": "What is x?", "modified_process": steps, "error_steps": [2]} for steps in chains]
    solutions = [f"{' '.join(SAME)} It is {end}\nA: {end}" for end in range(4)]
    outcome = {"question": "What is x?"} | {
        name: {"solution": text, "is_correct": text.endswith("1")}
        for name, text in zip(tree_rows.SOLUTIONS, solutions, strict=True)
    }
    flags = []
    for name, rows in (("prmbench", processes), ("gsm8k", [outcome])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags += [f"--{name}", path]
    return flags


def test_all_ways_take_the_same_step(tmp_path, monkeypatch, capsys):
    """The script itself refuses other losses or gradients; trees take the fewest tokens, rows as many as they have."""
    run(monkeypatch, *published(tmp_path), "--output", tmp_path / "trees.json")
    assert "| pairwise, 3 answers | tree |" in capsys.readouterr().out
    cases = {case["case"]: case for case in json.loads((tmp_path / "trees.json").read_text())}
    assert set(cases) == {"pairwise, 3 answers", "alternatives at each step", "PRMBench", "GSM8K, four solutions"}
    for case in cases.values():
        tokens, timed = ({way: of[name][0] for way, of in case["ways"].items()} for name in ("tokens", "timed_tokens"))
        assert tokens[TREE] <= tokens[PROMPTS_ONCE] < tokens[ROWS] == tokens[PADDED_ROWS]
        assert timed[TREE] <= timed[PROMPTS_ONCE] < timed[ROWS] <= timed[PADDED_ROWS]
        assert all(of["seconds"][0] > 0 and len(of["ratios"]) == 1 for of in case["ways"].values())
    for name in ("pairwise, 3 answers", "alternatives at each step", "PRMBench"):
        assert cases[name]["ways"][TREE]["tokens"][0] < cases[name]["ways"][PROMPTS_ONCE]["tokens"][0]


def test_a_tree_that_computes_something_else_is_refused(monkeypatch, tmp_path):
    """One token of a shared beginning is another one in the second chain: a row reads it, a tree does not."""
    groups_of = tree_rows.Case.groups

    def spoilt(case, *args):
        groups = groups_of(case, *args)
        for group in groups:
            for ids, shared in zip(group["completion_ids"], group["shared_lengths"], strict=True):
                if shared:
                    ids[0] = (ids[0] + 1) % 100
        return groups

    monkeypatch.setattr(tree_rows.Case, "groups", spoilt)
    with pytest.raises(RuntimeError, match=r"alternatives.*expected the losses and gradients of padded rows"):
        run(monkeypatch, "--answers")


def test_some_groups_are_the_first_that_fit():
    def group(length: int) -> dict:
        return {"prefix_ids": [1] * length, "completion_ids": [[2]], "units": [[0]]}

    groups = [group(length) for length in (50, 20, 30, 9)]
    assert [len(each["prefix_ids"]) for each in trees.some_groups(groups, 40)] == [20, 9]
    assert [len(each["prefix_ids"]) for each in trees.some_groups(groups, 5)] == [9]
