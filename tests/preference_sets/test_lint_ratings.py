"""The linter on rows of ratings: every figure by hand or against a slow reference, and what it finds."""

import json
import random
from itertools import combinations

import numpy as np
import pytest
from runs import write_rows
from scipy.stats import spearmanr
from test_data_prep_answers import HELPSTEER_FEATURES, HELPSTEER_ROWS, write
from test_rated_sets import run_script

from data_prep import helpsteer
from data_prep import lint as lint_script
from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.lint.ratings import lint_ratings, longer_higher, rated_summary_text, spearman

pytestmark = pytest.mark.usefixtures("own_cache")


def row(prompt, response, **ratings):
    return {"prompt": prompt, "response": response, **ratings}


ROWS = [
    row("A", "long answer", good=3, calm=1),
    row("A", "short", good=1, calm=1),
    row("A", "middling", good=3, calm=1),
    row("A", " short ", good=2, calm=1),  # stands there before, with another rating
    row("B", "one", good=1, calm=1),
    row("B", "two", good=2, calm=1),
    row("B", "two", good=2),  # stands there before; the other rating is not known
    row("B", "", good=2),
]


def test_figures_by_hand(tmp_path):
    summary = lint_ratings(str(write_rows(tmp_path / "rows.jsonl", ROWS)), ("good", "calm"))
    assert (summary["answers"], summary["prompts"], summary["rows"]["rows_read"]) == (7, 2, 8)
    good, calm = summary["attributes"]["good"], summary["attributes"]["calm"]
    assert {
        name: good[name] for name in ("rated", "low", "high", "mean", "different", "most_frequent", "its_share")
    } == {
        "rated": 7,
        "low": 1.0,
        "high": 3.0,
        "mean": 2.0,
        "different": 3,
        "most_frequent": 2.0,
        "its_share": 3 / 7,
    }
    assert (calm["rated"], calm["different"], calm["its_share"], calm["length_spearman"]) == (6, 1, 1.0, None)
    # A: long over short and short again, middling over both; short against itself: as long. B: one against two twice
    longer = good["longer_higher"]
    assert (longer["rows"], longer["right"], longer["ties"]) == (7, 4 + 3 * 0.5, 3)
    assert calm["longer_higher"]["rows"] == 0
    again, differently = summary["repeated"]["again"], summary["repeated"]["differently"]
    assert (again["answers"], again["first"].endswith(":4")) == (2, True)
    assert (differently["answers"], differently["first"].endswith(":4")) == (1, True)
    found = {finding["check"]: finding["level"] for finding in summary["findings"]}
    assert found == {"constant": "serious", "repeated": "serious", "rated_differently": "serious", "dropped": "serious"}
    shown = rated_summary_text(summary)
    assert "SERIOUS: All ratings of calm are 1: rm_regression.py has nothing" in " ".join(shown.split())
    assert "8 rows read, 7 answers, 2 prompts (at most 4 answers of a prompt)" in shown
    assert "SERIOUS: All ratings of calm are 1: rm_regression.py has nothing to learn of them." in " ".join(
        shown.split()
    )


@pytest.mark.parametrize("seed", range(3))
def test_against_slow_references(seed):
    draw = random.Random(seed)
    count = 120
    ratings, lengths = (np.array([draw.randrange(4) for _ in range(count)], dtype=float) for _ in range(2))
    prompts = np.array([draw.randrange(30) for _ in range(count)])
    assert spearman(ratings, lengths) == pytest.approx(spearmanr(ratings, lengths).statistic, abs=1e-12)
    right = ties = rows = 0
    for one, other in combinations(range(count), 2):
        if prompts[one] == prompts[other] and ratings[one] != ratings[other]:
            rows += 1
            higher, lower = (one, other) if ratings[one] > ratings[other] else (other, one)
            ties += lengths[higher] == lengths[lower]
            right += 0.5 if lengths[higher] == lengths[lower] else lengths[higher] > lengths[lower]
    found = longer_higher(ratings, lengths, prompts)
    assert (found["rows"], found["right"], found["ties"]) == (rows, right, ties)
    assert rows > 100


def test_length_and_attributes_with_each_other(tmp_path):
    rows = [row(f"q{n}", "x" * (n + 1), longish=n, other=-n, noise=(n * 37) % 100) for n in range(100)]
    summary = lint_ratings(str(write_rows(tmp_path / "rows.jsonl", rows)), ("longish", "other", "noise"))
    strongest = summary["correlations"][0]
    assert (strongest["attributes"], strongest["answers"]) == (["longish", "other"], 100)
    assert strongest["spearman"] == pytest.approx(-1.0, abs=1e-12)
    of_length = [finding["message"] for finding in summary["findings"] if finding["check"] == "length"]
    assert [message.split()[2] for message in of_length] == ["longish", "other"]
    assert {finding["level"] for finding in summary["findings"]} == {"warning"}


def test_benchmarks(tmp_path):
    benchmark = write_rows(tmp_path / "bench.jsonl", [{"prompt": "a!"}, {"prompt": "other"}])
    path = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    summary = lint_ratings(path, ("good",), benchmarks=str(benchmark))
    (entry,) = summary["overlap"]
    assert (entry["prompts_found"], entry["answers"], entry["exact"]) == (1, 4, {"prompts": 1, "answers": 4})
    (finding,) = [finding for finding in summary["findings"] if finding["check"] == "overlap"]
    assert finding["message"] == "1 prompts of bench.jsonl are in the set, with 4 answers."


# --- the script -------------------------------------------------------------------------------------------------


def lint(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["data_prep/lint.py", *map(str, argv)])
    lint_script.main()


def test_a_folder_of_data_prep_needs_no_names(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "train.parquet", HELPSTEER_ROWS, HELPSTEER_FEATURES)
    run_script(helpsteer, monkeypatch, dataset_path=path, output_path=tmp_path / "set", rows="ratings")
    lint(monkeypatch, tmp_path / "set", "--output_path", tmp_path / "report")
    assert "11 rows read, 11 answers, 4 prompts" in capsys.readouterr().out
    summary = json.loads((tmp_path / "report" / "lint.json").read_text())
    assert list(summary["attributes"]) == list(helpsteer.ATTRIBUTES)
    with pytest.raises(UserError, match=r"expected no report there, found lint.json"):
        lint(monkeypatch, tmp_path / "set", "--output_path", tmp_path / "report")
    with pytest.raises(SystemExit) as caught:
        lint(monkeypatch, tmp_path / "set", "--output_path", tmp_path / "report", "--overwrite", "--strict")
    assert caught.value.code == 1  # coherence is 4 everywhere


def test_ratings_off_the_scale_of_the_manifest(tmp_path, monkeypatch, capsys):
    path, folder = write(tmp_path / "train.parquet", HELPSTEER_ROWS, HELPSTEER_FEATURES), tmp_path / "set"
    run_script(helpsteer, monkeypatch, dataset_path=path, output_path=folder, rows="ratings", format="jsonl")

    def of_scales():
        lint(monkeypatch, folder, "--output_path", tmp_path / "report", "--overwrite")
        summary = json.loads((tmp_path / "report" / "lint.json").read_text())
        return {one["level"]: one["message"] for one in summary["findings"] if one["check"] in ("off_scale", "narrow")}

    # verbosity is 1 and 3: half of the scale, which is no finding
    assert of_scales() == {}
    file = folder / "train-00000-of-00001.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"helpfulness": 0.0', '"helpfulness": -1.0'))
    assert of_scales()["serious"] == (
        "2 of 11 ratings of helpfulness are beyond 0 to 4, the scale that manifest.json says: they go from -1 to 4. "
        "Write the folder anew."
    )
    file.write_text(text.replace('"verbosity": 3.0', '"verbosity": 2.0'))
    assert of_scales() == {
        "warning": "Ratings of verbosity go from 1 to 2, which is less than half of 0 to 4, the scale that "
        "manifest.json says."
    }
    capsys.readouterr()


def test_a_file_needs_them(tmp_path, monkeypatch, capsys):
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(UserError, match=r"Of rows of ratings name the columns: --attributes NAME,NAME."):
        lint(monkeypatch, path, "--output_path", tmp_path / "report")
    lint(monkeypatch, path, "--output_path", tmp_path / "report", "--attributes", "good, calm")
    assert "8 rows read, 7 answers" in capsys.readouterr().out
    with pytest.raises(UserError, match="--tokenizer: expected with pairs, found rows of ratings"):
        lint(monkeypatch, path, "--output_path", tmp_path / "other", "--attributes", "good", "--tokenizer", "x")
    with pytest.raises(UserError, match="--attributes: expected each attribute once, found good twice"):
        lint_script.ScriptArguments(path="x", attributes="good,good")
