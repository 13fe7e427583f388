"""eval_bench_mark.py --compare: folders of evaluations that never ran, from random rewards."""

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from browser import CHROMIUM, Browser
from datasets import Dataset
from pages import HOSTILE, Page, tables
from runs import as_argv

import eval_bench_mark
from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import estimate_difference, wilson_interval
from reward_modeling.display.text import percent
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.preference_test_sets import OVERALL_WITH_PRIOR, PRIOR_SETS, TEST_SET_ROWS
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, SUBSET_WEIGHTS, section_scores
from reward_modeling.evaluation.benchmarks.rewardbench2 import REWARDBENCH2_ROWS
from reward_modeling.evaluation.benchmarks.rows import EVALUATION_FEATURES, UNFILLED
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.evaluation.comparison import compare, paired_differences
from reward_modeling.evaluation.comparison_report import comparison_page, comparison_tables
from reward_modeling.evaluation.evaluations import read_evaluations
from reward_modeling.evaluation.files import append_scores, read_scores
from reward_modeling.evaluation.summary import combined_figures, summarise

ROWS_PER_SUBSET = 4
DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")


# --- evaluations ----------------------------------------------------------------------------------------------


def benchmark_rows(benchmark: str) -> list[tuple[str, str, int, int]]:
    """(id, subset, number of right answers, number of wrong ones) of each row."""
    if benchmark == "rm_bench":
        return [(f"{domain}_{row}", domain, 3, 3) for row in range(5) for domain in DOMAINS]
    if benchmark == "rewardbench2":
        rows = [(f"{name}{row}", name, 1, 3) for name in REWARDBENCH2_ROWS if name != "Ties" for row in range(6)]
        ties = [(f"{kind}:{row}", "Ties", right, 3) for row in range(5) for kind, right in (("ref", 1), ("tied", 3))]
        return rows + ties
    subsets = {"rewardbench": SUBSET_WEIGHTS, "preference_test_sets": TEST_SET_ROWS, "pairs": ("forum", "accuracy")}
    return [(f"{name}{row}", name, 1, 1) for name in subsets[benchmark] for row in range(ROWS_PER_SUBSET)]


def data_of(benchmark: str, changed: str = "") -> BenchmarkRows:
    """`changed` makes it other data, of the same ids."""
    columns = {name: [] for name in EVALUATION_FEATURES}
    for place, (row_id, subset, right, wrong) in enumerate(benchmark_rows(benchmark)):
        sides = (("chosen", right), ("rejected", wrong))
        answers = {side: [json.dumps(f"{side} {number}{changed}") for number in range(n)] for side, n in sides}
        row = {**UNFILLED, "where": f"file:{place + 1}", "id": json.dumps(row_id), "subset": subset, "prompt": '"?"'}
        row |= {**answers, "prompt_key": place}
        for name, values in columns.items():
            values.append(row[name])
    table = pa.table(columns, schema=EVALUATION_FEATURES.arrow_schema)
    return BenchmarkRows(benchmark, (f"{benchmark}.jsonl",), Dataset(table))


def rows_of(benchmark: str, seed: int, skill: float, refused: dict[int, str] | None = None) -> list[ScoredRow]:
    """Random rewards; what a row is like is the same for every seed, so that models agree more than by chance."""
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    rows = []
    for place, (row_id, subset, right, wrong) in enumerate(benchmark_rows(benchmark)):
        values = own.normal(size=right + wrong) + shared.normal(size=right + wrong)
        values[:right] += skill
        reason = (refused or {}).get(place, "")
        values = np.full(right + wrong, math.nan) if reason else values.round(1)
        rows.append(ScoredRow(row_id, subset, values[:right], values[right:], f"file:{place + 1}", reason))
    return rows


def write_evaluation(
    folder: Path,
    seed: int,
    skill: float = 1.0,
    *,
    benchmarks: tuple[str, ...] = ("rewardbench", "preference_test_sets", "rewardbench2", "rm_bench", "pairs"),
    changed: str = "",
    refused: dict[int, str] | None = None,
    legacy: bool = False,
    cut: int = 0,
    **model: object,
) -> Path:
    """What eval_bench_mark.py writes, by its own functions."""
    folder.mkdir(parents=True)
    rows = {name: rows_of(name, seed, skill, refused) for name in benchmarks}
    parts = {}
    for name in benchmarks:
        append_scores(folder / "scores.jsonl", name, rows[name])
        parts[name] = summarise(data_of(name, changed), rows[name], legacy_xstest_weights=legacy)
    described = {"name_or_path": f"models/{folder.name}", "revision": None, "class": "GemmaForSequenceClassification"}
    described |= {"dtype": "float32", "max_length": 4096, "batching": "shared_prefix"}
    summary = {
        "model": described | model,
        "date": "2026-11-22T22:30:00+00:00",
        "arguments": {"legacy_xstest_weights": legacy},
        "versions": {},
        "scoring": {"cut": cut},
        "combined": combined_figures(rows, legacy_xstest_weights=legacy),
        "benchmarks": parts,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory) -> list[Path]:
    """Three models: B is better than A, C was scored in another type."""
    root = tmp_path_factory.mktemp("evaluations")
    a, b = write_evaluation(root / "a", 1, 0.7), write_evaluation(root / "b", 2, 1.4)
    return [a, b, write_evaluation(root / "c", 3, 0.9, dtype="bfloat16")]


@pytest.fixture(scope="module")
def comparison(evaluations) -> dict:
    return compared(*evaluations)


def compared(*folders: Path) -> dict:
    return compare(read_evaluations([str(folder) for folder in folders]))


def entries_of(comparison: dict):
    """(benchmark, kind, name, letter, entry) of every entry."""
    parts = comparison["benchmarks"] | ({"combined": comparison["combined"]} if comparison["combined"] else {})
    for benchmark, part in parts.items():
        for kind in ("figures", "subsets"):
            for name, entries in part.get(kind, {}).items():
                for letter, entry in entries.items():
                    yield benchmark, kind, name, letter, entry


# --- the paired interval --------------------------------------------------------------------------------------


def drawn_differences(subsets: dict[str, np.ndarray], draws: int, seed: int) -> np.ndarray:
    """RewardBench's overall of the second model less the first's, row by row drawn with a loop.

    Args:
        subsets: `(rows, 2)` verdicts of each.
    """
    chance, found = np.random.default_rng(seed), []
    for _ in range(draws):
        means = {}
        for name, verdicts in subsets.items():
            rows = [verdicts[chance.integers(len(verdicts))] for _ in range(len(verdicts))]
            means[name] = np.mean(rows, axis=0)
        sides = [section_scores({name: mean[side] for name, mean in means.items()})["overall"] for side in (0, 1)]
        found.append(sides[1] - sides[0])
    return np.array(found)


def test_the_paired_interval_is_that_of_rows_drawn_together():
    """Against a loop; intervals of rows drawn apart are another thing, and wider where models agree."""
    generator = np.random.default_rng(0)
    subsets, apart = {}, {}
    for name in SUBSET_WEIGHTS:
        first = generator.random(30) < 0.7
        both = np.stack([first, np.where(generator.random(30) < 0.1, ~first, first)], axis=1)
        subsets[name] = both
        apart[name] = np.stack([first, generator.permutation(both[:, 1])], axis=1)
    first, other = ({name: values[:, side] for name, values in subsets.items()} for side in (0, 1))
    found = estimate_difference(section_scores, first, other)["overall"]
    low, high = np.quantile(drawn_differences(subsets, 1500, seed=1), [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.12 * width) and found.high == pytest.approx(high, abs=0.12 * width)
    shuffled = {name: values[:, 1] for name, values in apart.items()}
    wider = estimate_difference(section_scores, first, shuffled)["overall"]
    assert wider.value == pytest.approx(found.value) and wider.high - wider.low > 1.5 * width
    mirrored = estimate_difference(section_scores, other, first)["overall"]
    ends = (-found.high, -found.low)
    assert mirrored.value == -found.value and (mirrored.low, mirrored.high) == pytest.approx(ends, abs=0.12 * width)


def test_of_pairs_with_one_subset_it_is_nearly_that_of_the_normal_distribution():
    """sqrt((b + c - (b - c)^2 / n)) / n, from the pairs on which the two differ (McNemar's)."""
    first = np.array([True] * 700 + [True] * 60 + [False] * 110 + [False] * 130)
    other = np.array([True] * 700 + [False] * 60 + [True] * 110 + [False] * 130)
    found = estimate_difference(lambda means: {"share": means["x"]}, {"x": first}, {"x": other})["share"]
    error = math.sqrt(60 + 110 - 50**2 / 1000) / 1000
    assert found.value == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - 1.96 * error, 0.05 + 1.96 * error), abs=0.002)


# --- figures --------------------------------------------------------------------------------------------------


def in_summary(summary: dict, benchmark: str, kind: str, name: str) -> dict:
    """The entry that a comparison should have taken."""
    if benchmark == "combined":
        return summary["combined"][name]
    part = summary["benchmarks"][benchmark]
    return part["pairs"]["accuracy"] if (benchmark, kind) == ("pairs", "figures") else part[kind][name]


def test_every_figure_is_that_of_its_summary_and_every_difference_that_of_the_two(evaluations, comparison):
    texts = [(folder / "summary.json").read_text() for folder in evaluations]
    summaries = dict(zip("ABC", map(json.loads, texts), strict=True))
    seen = dict.fromkeys("ABC", 0)
    for benchmark, kind, name, letter, entry in entries_of(comparison):
        first, own = (in_summary(summaries[one], benchmark, kind, name) for one in ("A", letter))
        assert {key: own[key] for key in ("value", "low", "high", "rows")}.items() <= entry.items()
        seen[letter] += 1
        if letter == "A":
            assert entry["difference"] is None
            continue
        difference = entry["difference"]
        assert difference["value"] == pytest.approx(own["value"] - first["value"], abs=1e-9)
        assert -1 <= difference["low"] <= difference["value"] <= difference["high"] <= 1
        assert difference["low"] < difference["high"]
    # figures and subsets of RewardBench, the test sets, RewardBench 2, RM-Bench and pairs, and the one over two of them
    assert set(seen.values()) == {(5 + 23) + (1 + 9) + 7 + 21 + (1 + 2) + 1}


def test_marks_and_warnings(comparison):
    assert comparison["benchmarks"]["rm_bench"]["run_otherwise"] == ["C"]
    assert any("dtype differs (A, B: float32; C: bfloat16)" in message for message in comparison["warnings"])
    assert any("marked *, since not run as A was: C" in message for message in comparison["warnings"])
    assert not any("†" in message for message in comparison["warnings"])


def test_other_data_is_marked_and_never_compared(evaluations, tmp_path):
    """The same ids with other texts, and other weights: there is no difference, and the mark stands everywhere."""
    other = write_evaluation(tmp_path / "other", 4, changed=" ")
    legacy = write_evaluation(tmp_path / "legacy", 5, legacy=True, benchmarks=COMBINED.parts)
    found = compared(evaluations[0], other, legacy)
    for benchmark, _, _, letter, entry in entries_of(found):
        differs = letter == "B" or (letter == "C" and benchmark in ("rewardbench", "combined"))
        assert (entry["difference"] is None) == (letter == "A" or differs)
    assert found["combined"]["incomparable"].keys() == {"B", "C"}
    messages = " ".join(found["warnings"])
    assert "RewardBench: B has other data than A (92 rows, fingerprint" in messages
    assert "RewardBench: C has other weights of the xstest subsets than A" in messages
    assert "Preference test sets: C has" not in messages and "RM-Bench: not evaluated for C" in messages
    rows = [row for name, rows in tables(comparison_page(found)).items() if "difference" in name for row in rows]
    assert rows and all(("†" in row[2]) == (row[4] == "") for row in rows if row[1] == "B")
    assert comparison_tables(found).count("†") > 20


def test_of_a_part_of_a_benchmark_the_screen_shows_the_subsets(comparison):
    """Without them it would show no number at all."""
    assert "llmbar-natural" not in comparison_tables(comparison)
    of_a_part = copy.deepcopy(comparison)
    figures = of_a_part["benchmarks"]["rewardbench"]["figures"]
    for entry in (entry for entries in figures.values() for entry in entries.values()):
        entry.update(value=None, low=None, high=None, difference=None)
    subsets = of_a_part["benchmarks"]["rewardbench"]["subsets"]
    for entry in subsets["mt-bench-easy"].values():
        entry.update(value=None, low=None, high=None, difference=None)
    text = comparison_tables(of_a_part)
    assert f"{100 * subsets['llmbar-natural']['A']['value']:.1f}" in text.split("llmbar-natural")[1].splitlines()[0]
    assert "mt-bench-easy" not in text.split("RewardBench: ")[-1]


def test_differences_are_over_the_rows_that_both_have(evaluations, tmp_path):
    """Pairs of one's own have a score whatever was refused; a subset of RewardBench that lacks rows has none."""
    lacking = write_evaluation(tmp_path / "lacking", 6, refused={0: "refused"}, benchmarks=("rewardbench", "pairs"))
    comparison = compared(evaluations[0], lacking)
    found = comparison["benchmarks"]
    first, other = (read_scores(folder / "scores.jsonl")["pairs"] for folder in (evaluations[0], lacking))
    verdicts = [np.array([row.chosen[0] > row.rejected[0] for row in rows])[1:] for rows in (first, other)]
    difference = found["pairs"]["figures"]["accuracy"]["B"]["difference"]
    assert difference["rows"] == len(first) - 1
    assert difference["value"] == pytest.approx(verdicts[1].mean() - verdicts[0].mean())
    incomplete = found["rewardbench"]["figures"]
    assert incomplete["Chat"]["B"]["value"] is None and incomplete["Chat"]["B"]["difference"] is None
    assert incomplete["Safety"]["B"]["difference"]["low"] is not None
    assert any(
        "differences are over the 7 that both have" in one for one in compared(evaluations[0], lacking)["warnings"]
    )


def test_without_rows_there_is_no_interval(evaluations, tmp_path):
    alone = Path(shutil.copytree(evaluations[1], tmp_path / "alone"))
    (alone / "scores.jsonl").unlink()
    found = compared(evaluations[0], alone)
    for *_, letter, entry in entries_of(found):
        if letter == "B":
            assert entry["difference"]["value"] is not None and entry["difference"]["low"] is None
    assert any("no paired intervals with B, which has no scores.jsonl" in message for message in found["warnings"])
    assert (
        "not paired" in comparison_tables(found)
        and "better" not in comparison_tables(found).split("Differences are")[0]
    )


def test_the_first_model_that_has_a_benchmark_is_what_others_are_compared_with(evaluations, tmp_path):
    pairs = write_evaluation(tmp_path / "pairs", 8, benchmarks=("pairs",))
    found = compared(pairs, *evaluations[:2])
    assert found["benchmarks"]["rm_bench"]["reference"] == "B"
    assert found["benchmarks"]["pairs"]["reference"] == "A"
    (entry,) = (rows["C"] for name, rows in found["benchmarks"]["rm_bench"]["figures"].items() if name == "overall")
    assert (
        entry["difference"]
        == compared(*evaluations[:2])["benchmarks"]["rm_bench"]["figures"]["overall"]["B"]["difference"]
    )


def test_models_that_agree_on_every_row_still_have_an_interval(evaluations, tmp_path):
    twin = Path(shutil.copytree(evaluations[0], tmp_path / "twin"))
    for benchmark, kind, name, letter, entry in entries_of(compared(evaluations[0], twin)):
        if letter == "B":
            difference = entry["difference"]
            bound = wilson_interval(0, difference["rows"])[1]
            assert (difference["low"], difference["value"], difference["high"]) == (-bound, 0, bound), (
                benchmark,
                kind,
                name,
            )


def test_a_difference_is_over_the_rows_behind_its_figure(comparison):
    """Wilson's bound is of these rows: over all rows of the benchmark it would be far too narrow for a section."""
    rows = {}
    for benchmark, kind, name, letter, entry in entries_of(comparison):
        if letter == "B":
            rows[benchmark, name] = entry["difference"]["rows"]
            assert entry["difference"]["rows"] == entry["rows"], (benchmark, kind, name)
    assert rows["rewardbench", "Safety"] == ROWS_PER_SUBSET * len(SECTIONS["Safety"])
    assert rows["rewardbench2", "Ties"] == 10 and rows["rm_bench", "chat hard"] == 5 and rows["rm_bench", "hard"] == 25
    together = len(SUBSET_WEIGHTS) + len(PRIOR_SETS)
    assert rows["combined", OVERALL_WITH_PRIOR] == ROWS_PER_SUBSET * together


def test_a_difference_of_ties_beyond_one_is_in_its_interval():
    rewards = {"ref:1": np.array([2.0]), "tied:1": np.array([1.0, 1.0])}
    right, wrong = (
        [ScoredRow(row_id, "Ties", sign * own, np.zeros(1)) for row_id, own in rewards.items()] for sign in (1, -1)
    )
    difference = paired_differences(BENCHMARKS["rewardbench2"], wrong, right)["figures"]["Ties"]
    assert difference["low"] < difference["value"] == pytest.approx(1.02) and difference["high"] >= difference["value"]


def test_rows_of_another_evaluation_are_found(evaluations, tmp_path):
    """A scores.jsonl that does not belong to its summary would give intervals of something else."""
    mixed = Path(shutil.copytree(evaluations[1], tmp_path / "mixed"))
    shutil.copy(evaluations[2] / "scores.jsonl", mixed)
    with pytest.raises(UserError, match=r"expected each scores.jsonl to give the figures of the"):
        compared(evaluations[0], mixed)
    lines = (evaluations[1] / "scores.jsonl").read_text().splitlines(keepends=True)
    (mixed / "scores.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=r"expected the 92 rows of RewardBench that summary.json counts, found 91"):
        compared(evaluations[0], mixed)
    (mixed / "scores.jsonl").write_text("".join([*lines[:3], '{"benchmark": "rewardbench", "id"']))
    with pytest.raises(UserError, match=r"scores.jsonl:4: expected an object with benchmark, id, subset"):
        compared(evaluations[0], mixed)


# --- table and page -------------------------------------------------------------------------------------------


def test_the_table_shows_figures_differences_and_warnings(comparison):
    text = comparison_tables(comparison)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("WARNING: dtype differs")
    entry = comparison["benchmarks"]["rewardbench"]["figures"]["overall"]["B"]
    difference = entry["difference"]
    line = next(line for line in text.partition("  overall")[2].splitlines()[1:] if line.split()[0] == "B")
    value, low, high = (f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high"))
    verdict = ["better"] if difference["low"] > 0 else ["worse"] if difference["high"] < 0 else []
    interval = f"{percent(entry['low'])}-{percent(entry['high'])}"
    assert line.split() == ["B", percent(entry["value"]), interval, value, low, "to", high, *verdict, "92"]


def test_the_page_shows_every_number(comparison):
    rows = {}
    for head, lines in tables(comparison_page(comparison)).items():
        assert head == " |  | percent | 95% interval | difference | 95% interval |  | rows"
        name = None
        for line in lines:
            name = line[0] or name
            rows.setdefault((name, line[1]), []).append(line[2:])
    for *_, name, letter, entry in entries_of(comparison):
        mark = "*" if letter == "C" else ""
        expected = [percent(entry["value"]) + mark, f"{percent(entry['low'])}-{percent(entry['high'])}"]
        if (difference := entry["difference"]) is not None:
            ends = [f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high")]
            verdict = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else ""
            expected += [ends[0], f"{ends[1]} to {ends[2]}", verdict]
        else:
            expected += ["", "", ""]
        assert [*expected, f"{entry['rows']:,}"] in rows[name, letter]


def test_the_same_evaluations_give_the_same_bytes(evaluations, comparison):
    again = compared(*evaluations)
    assert json.dumps(again) == json.dumps(comparison)
    assert comparison_page(json.loads(json.dumps(again))) == comparison_page(comparison)


def test_hostile_names_are_shown_and_do_nothing(comparison):
    worse = json.loads(json.dumps(comparison))
    worse["models"][0] |= {"name_or_path": HOSTILE, "folder": HOSTILE, "class": "\x1b[31m", "revision": HOSTILE}
    worse["warnings"] = [HOSTILE]
    part = worse["benchmarks"]["pairs"]
    part |= {"title": HOSTILE, "sources": [HOSTILE], "subsets": {HOSTILE: part["subsets"]["forum"]}}
    text = comparison_page(worse)
    found = Page(text)
    assert "script" not in found.tags and "<script" not in text and "\x1b" not in text + comparison_tables(worse)
    assert HOSTILE in found.texts and len(found.ids) == len(set(found.ids))
    assert not any(character in text for character in ("#0a0b0b", "#070b0b"))


# --- the command ----------------------------------------------------------------------------------------------


def run_compare(folders: list[Path], **flags: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval_bench_mark.py", "--compare", *map(str, folders), *as_argv(flags)])
        eval_bench_mark.main()


def test_the_command(evaluations, comparison, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for folder in evaluations for path in folder.iterdir()}
    run_compare(evaluations)
    folder = tmp_path / "bench_mark_comparison"
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.html", "comparison.json"]
    assert json.loads((folder / "comparison.json").read_text()) == comparison
    assert (folder / "comparison.html").read_text(encoding="utf-8") == comparison_page(comparison)
    assert comparison_tables(comparison) in capsys.readouterr().out
    with pytest.raises(UserError, match=r"expected no earlier comparison, found comparison.json, comparison.html"):
        run_compare(evaluations)
    run_compare(evaluations[:2], overwrite_output_dir="true")
    assert len(json.loads((folder / "comparison.json").read_text())["models"]) == 2
    run_compare(evaluations, output_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "comparison.html").is_file()
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.setenv("RANK", "1")  # of a launch of several processes, one does it
    run_compare(evaluations)


def test_mistakes_are_said_together(evaluations, tmp_path):
    good = evaluations[0]
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text("{")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "summary.json").write_text("{}")
    folders = [good, good, tmp_path / "none", tmp_path / "torn", tmp_path / "else", good.parent, good / "summary.json"]
    with pytest.raises(UserError) as caught:
        run_compare(folders, output_dir=tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert [line.rpartition("found ")[2] for line in lines] == [
        "it again",
        "no such folder",
        "that its summary.json is torn",
        "that its summary.json is not one of eval_bench_mark.py",
        "no summary.json in it; its a, b, c has one",
        "a file",
    ]
    assert all(str(folder) in line for folder, line in zip(folders[1:], lines, strict=True))
    for number in (1, 9):
        with pytest.raises(UserError, match=f"expected 2 to 8 folders, found {number}"):
            run_compare([good] * number, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [{"benchmarks": "rewardbench"}, {"reward_name_or_path": "x", "max_length": 5}, {"record_dir": "r.txt"}]
)
def test_flags_of_an_evaluation_are_refused(evaluations, flags):
    with pytest.raises(UserError) as caught:
        run_compare(evaluations, **flags)
    assert f"found {', '.join(f'--{name}' for name in flags)}." in str(caught.value)


# --- in a browser ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the system's package to render the pages")
def test_eight_models_in_a_browser(evaluations, tmp_path):
    """As many as there may be, one of them of other data, with long names."""
    long = "organisation-with-a-long-name/" + "model" * 30
    others = [write_evaluation(tmp_path / f"m{seed}", seed, name_or_path=long) for seed in range(10, 14)]
    others.append(write_evaluation(tmp_path / "other", 20, changed="!"))
    page = tmp_path / "comparison.html"
    page.write_text(comparison_page(compared(*evaluations, *others)), encoding="utf-8")
    with Browser() as browser:
        for width, dark in ((360, False), (360, True), (1200, False), (1200, True)):
            seen = browser.look(page, width=width, dark=dark)
            assert seen.inner_width == width and seen.scroll_width <= width
            assert (seen.sticking_out, seen.clashes) == ([], [])
            assert seen.requests == [page.resolve().as_uri()]
