"""The tables and the report of an evaluation, from summaries of random rewards."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from reward_modeling.common.intervals import (
    accuracy_by_length,
    by_subset,
    calibration_error,
    calibration_table,
    estimate,
    longer_wins,
    pair_accuracy,
)
from reward_modeling.display.text import percent, shortened
from reward_modeling.evaluation.benchmarks.base import check_subsets
from reward_modeling.evaluation.benchmarks.preference_test_sets import PREFERENCE_TEST_SETS, prior_score
from reward_modeling.evaluation.benchmarks.rewardbench import REWARDBENCH, SECTIONS, SUBSET_ROWS, section_scores
from reward_modeling.evaluation.benchmarks.rewardbench2 import (
    REWARDBENCH2,
    REWARDBENCH2_ROWS,
    best_of_four_credit,
    rewardbench2_scores,
    ties_units,
)
from reward_modeling.evaluation.benchmarks.rm_bench import rm_bench_by_domain, rm_bench_scores, rm_bench_wins
from reward_modeling.evaluation.report import write_report
from reward_modeling.evaluation.tables import benchmark_table, summary_tables

HOSTILE = '<script>alert("x")</script>&$\\frac{1}{2}$ id="figure_1" #010b0b'


def _plain(value):
    """What json.dumps takes: no dataclass, no NaN."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _accuracy(found) -> dict:
    fields = dataclasses.asdict(found)
    return {"value": fields.pop("accuracy"), **fields}


def _estimates(found, rows: dict[str, int]) -> dict:
    return {name: {**dataclasses.asdict(one), "rows": rows[name]} for name, one in found.items()}


class Pairs:
    """Random rewards and lengths of pairs; a few rewards are rounded, so that there are ties."""

    def __init__(self, subset_rows: dict[str, int], seed: int):
        generator = np.random.default_rng(seed)
        self.names = [name for name, rows in subset_rows.items() for _ in range(rows)]
        skill = np.repeat(generator.uniform(0.2, 2.4, len(subset_rows)), list(subset_rows.values()))
        self.lengths = generator.integers(5, 60, (2, len(self.names)))
        self.rejected = generator.normal(size=len(self.names))
        longer = 0.02 * (self.lengths[0] - self.lengths[1])
        self.chosen = self.rejected + generator.normal(skill + longer, 1.4)
        self.chosen[:: len(self.names) // 12] = self.rejected[:: len(self.names) // 12]

    def subsets(self) -> dict:
        rewards = by_subset(self.names, np.stack([self.chosen, self.rejected], axis=1))
        return {name: _accuracy(pair_accuracy(*pair.T)) for name, pair in rewards.items()}

    def estimates(self, formula, rows: dict[str, int]) -> dict:
        return _estimates(estimate(formula, by_subset(self.names, self.chosen > self.rejected)), rows)

    def part(self, title: str, source: str, figures: dict, **others) -> dict:
        margins = self.chosen - self.rejected
        reach = 0.5 * math.ceil(2 * np.abs(margins).max())
        counts, edges = np.histogram(margins, bins=np.arange(-reach, reach + 0.25, 0.5))
        table = calibration_table(self.chosen, self.rejected)
        bins = [
            {**_accuracy(one.observed), "value_low": one.observed.low, "value_high": one.observed.high}
            | {"low": one.low, "high": one.high, "confidence": one.confidence}
            for one in table
        ]
        by_length = accuracy_by_length(self.chosen, self.rejected, *self.lengths)
        pairs = {
            "accuracy": _accuracy(pair_accuracy(self.chosen, self.rejected)),
            "longer_wins": _accuracy(longer_wins(*self.lengths)),
            "by_length": {name: _accuracy(one) for name, one in by_length.items()},
            "calibration_error": calibration_error(table),
            "calibration": bins,
            "margins": {
                "mean": float(margins.mean()),
                "median": float(np.median(margins)),
                "standard_deviation": float(margins.std()),
                "edges": edges.tolist(),
                "counts": counts.tolist(),
            },
        }
        heading = {
            "title": title,
            "sources": [source],
            "rows": len(self.names),
            "fingerprint": f"{len(self.names):016x}",
        }
        return {**heading, "warnings": [], "figures": figures, "subsets": self.subsets(), "pairs": pairs, **others}


def _rewardbench(missing: str) -> dict:
    rows = {name: count for name, count in SUBSET_ROWS.items() if name != missing}
    pairs = Pairs(rows, seed=1)
    figures = pairs.estimates(section_scores, REWARDBENCH.figure_rows(rows))
    sections = {section: list(names) for section, names in SECTIONS.items()}
    return pairs.part("RewardBench", "allenai/reward-bench:filtered", figures, sections=sections) | {
        "warnings": check_subsets(rows, REWARDBENCH)
    }


def _preference_test_sets() -> dict:
    rows = {name: count // 10 for name, count in PREFERENCE_TEST_SETS.subset_rows.items()}
    pairs = Pairs(rows, seed=2)
    figures = pairs.estimates(lambda means: {"Prior Sets": prior_score(means)}, PREFERENCE_TEST_SETS.figure_rows(rows))
    return pairs.part("Preference test sets", "allenai/preference-test-sets", figures)


def _rewardbench2() -> dict:
    generator = np.random.default_rng(3)
    ids = [f"{kind}:{number}" for number in range(51) for kind in ("ref", "tied")]
    right = [generator.normal(2, 1, 1 if one.startswith("ref") else 4) for one in ids]
    units = {"Ties": ties_units(ids, right, [generator.normal(size=5) for _ in ids])}
    for name, rows in REWARDBENCH2_ROWS.items():
        if name != "Ties":
            units[name] = best_of_four_credit(generator.normal([1.2, 0, 0, 0], 1, (rows, 4)))
    figures = _estimates(estimate(rewardbench2_scores, units), REWARDBENCH2.figure_rows(REWARDBENCH2_ROWS))
    return {
        "title": "RewardBench 2",
        "sources": ["allenai/reward-bench-2:test"],
        "rows": 1865,
        "fingerprint": "00ff" * 4,
        "warnings": [],
        "figures": figures,
        "subsets": {name: row for name, row in figures.items() if name != "overall"},
    }


def _rm_bench() -> dict:
    generator = np.random.default_rng(4)
    sizes = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
    domains = [name for name, rows in sizes.items() for _ in range(rows)]
    style = np.array([0.0, 0.7, 1.0])
    shape = (len(domains), 3)
    wins = rm_bench_wins(generator.normal(0.8 + style, 1, shape), generator.normal(style, 1, shape))
    matrices = rm_bench_by_domain(domains, wins)
    rows = {domain: len(one) for domain, one in matrices.items()}
    found = estimate(rm_bench_scores, matrices)
    matrix = {"all": wins, **matrices}
    return {
        "title": "RM-Bench",
        "sources": ["THU-KEG/RM-Bench"],
        "rows": len(domains),
        "fingerprint": "beef" * 4,
        "warnings": [],
        "figures": _estimates(found, {name: rows.get(name.split()[0], len(domains)) for name in found}),
        "subsets": {},
        "matrix": {name: one.mean(axis=0).tolist() for name, one in matrix.items()},
    }


def sample_summary() -> dict:
    """All five benchmarks with the published sizes (the preference test sets a tenth of them); hep-go is missing."""
    report = "pairs.jsonl: 804 rows read, 800 kept (99.5%)\n  dropped because     rows\n  identical answers      4"
    pairs = Pairs({"forum": 500, "code review": 300}, seed=5).part("Pairs", "pairs.jsonl", {}, data_report=report)
    benchmarks = {
        "rewardbench": _rewardbench(missing="hep-go"),
        "preference_test_sets": _preference_test_sets(),
        "rewardbench2": _rewardbench2(),
        "rm_bench": _rm_bench(),
        "pairs": pairs,
    }
    combined = {"overall with prior sets": {"value": None, "low": None, "high": None, "rows": 4536}}
    return _plain(
        {
            "model": {
                "name_or_path": "models/gemma2b_rm/last_checkpoint",
                "revision": None,
                "class": "GemmaForSequenceClassification",
                "dtype": "float32",
                "max_length": 4096,
                "batching": "shared_prefix",
            },
            "date": "2026-11-22T22:30:00+00:00",
            "arguments": {"model_name": "models/gemma2b_rm/last_checkpoint", "max_length": 4096, "device": None},
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "scoring": {
                "conversations": 31_970, "distinct": 30_800, "cut": 3, "cut_tokens": 120, "tokens": 8_812_000,
                "seconds": 61.24, "processes": 1,
            },
            "combined": combined,
            "benchmarks": benchmarks,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def summary() -> dict:
    return sample_summary()


@pytest.fixture(scope="module")
def page(summary, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(summary, path)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps tags, ids, references and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._keep(tag, attributes)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._keep(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def _keep(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
            if name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.references.append(value)


def _figures(summary: dict) -> list[tuple[str, dict]]:
    """Every named figure of every benchmark, and the combined ones."""
    parts = summary["benchmarks"].values()
    return [
        item
        for rows in (*(part[key] for part in parts for key in ("figures", "subsets")), summary["combined"])
        for item in rows.items()
    ]


def _hostile(summary: dict) -> dict:
    """The summary with a hostile text wherever one can come from outside."""
    worse = json.loads(json.dumps(summary))
    worse["model"]["name_or_path"] = worse["arguments"][HOSTILE] = worse["versions"]["torch"] = HOSTILE
    part = worse["benchmarks"]["pairs"]
    part["subsets"] = {HOSTILE: part["subsets"]["forum"], "\x1b[31mred\n" + "x" * 200: part["subsets"]["code review"]}
    part |= {"warnings": [HOSTILE], "sources": [HOSTILE], "data_report": HOSTILE, "title": HOSTILE}
    return worse


def _emptied(value):
    """Every number but the edges and counts of bins replaced by null."""
    if isinstance(value, dict):
        kept = ("edges", "counts", *(("low", "high") if "confidence" in value else ()))
        return {key: one if key in kept else _emptied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_emptied(one) for one in value]
    return value if isinstance(value, str) else None


def test_tables_show_every_figure_within_the_width(summary):
    text = summary_tables(summary)
    assert max(map(len, text.splitlines())) <= 100
    for name, row in _figures(summary):
        domain, _, level = name.partition(" ")
        assert name in text or (domain in text and level in text)
        assert percent(row["value"]) in text
    for name, part in summary["benchmarks"].items():
        own = benchmark_table(name, part)
        assert own.splitlines()[-1] in text and part["title"] in own


def test_warnings_come_first_and_overall_last_of_the_figures(summary):
    part = summary["benchmarks"]["rewardbench"]
    shuffled = {**part, "figures": {"overall": part["figures"]["overall"], **part["figures"]}}
    for text in (summary_tables(summary), benchmark_table("rewardbench", shuffled)):
        lines = text.splitlines()
        assert lines[0].startswith("WARNING: RewardBench: subset 'hep-go' (164 rows) is missing")
        places = [text.index(f"\n  {name} ") for name in ("Chat", "Chat Hard", "Safety", "Reasoning", "overall")]
        assert places == sorted(places)
        rule = next(place for place, line in enumerate(lines) if line.startswith("  ---"))
        assert lines[rule + 1].split() == ["overall", "incomplete", "2,821"]


def test_one_row_of_the_table_by_hand():
    row = {"value": 0.96, "low": 0.9352, "high": 0.97651, "rows": 1358, "ties": 2}
    whole = {"value": 0.5, "low": None, "high": None, "rows": 1358}
    part = {"title": "A", "sources": [], "rows": 1358, "warnings": [], "figures": {"Chat": whole, "overall": whole}}
    lines = benchmark_table(
        "rewardbench", {**part, "subsets": {"easy": row}, "sections": {"Chat": ["easy"]}}
    ).splitlines()
    assert lines == [
        "A: 1,358 rows",
        "           percent  95% interval   rows  ties",
        "  Chat        50.0    incomplete  1,358",
        "  -------------------------------------------",
        "  overall     50.0    incomplete  1,358",
        "",
        "  Chat",
        "    easy      96.0     93.5-97.7  1,358     2",
    ]


def test_names_from_outside_stay_on_their_line():
    assert shortened("a\n\x1b[31mb") == "a??[31mb"
    assert shortened("x" * 50 + "y" * 50, 9) == "xxxx…yyyy" and shortened("x" * 9, 9) == "x" * 9


def test_no_pairs_of_a_kind_is_no_gap_but_a_figure_without_rows_is(summary):
    part = json.loads(json.dumps(summary["benchmarks"]["rewardbench"]))
    nothing = {"value": None, "low": None, "high": None, "rows": 0}
    part["pairs"]["by_length"]["equal length"] = {**nothing, "right": 0, "ties": 0}
    part["figures"]["Safety"] = nothing
    text = benchmark_table("rewardbench", part)
    assert "equal length none (0)" in text
    assert re.search(r"Safety +incomplete +0\n", text)


def test_the_page_shows_every_figure(summary, page):
    texts = Page(page).texts
    for name, row in _figures(summary):
        assert name in texts
        assert percent(row["value"]) in texts
    for part in summary["benchmarks"].values():
        assert part["fingerprint"] in texts
        assert all(message in texts for message in part["warnings"])


def test_the_page_loads_nothing_and_fits_a_phone(page):
    found = Page(page)
    assert not re.search(r"https?://", page)
    assert all(reference.startswith("#") for reference in found.references)
    assert {reference[1:] for reference in found.references} <= set(found.ids)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert "@import" not in page and "@font-face" not in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert len(page.encode()) < 1_000_000


def test_plots_share_no_ids_and_have_a_title(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    plots = found.tags.count("svg")
    assert plots == (2 + 3) + (1 + 3) + 1 + 2 + (1 + 3)  # bars, and three of pairs, for each benchmark in turn
    assert page.count('role="img" aria-label="') == plots
    assert len(set(re.findall(r'aria-label="([^"]*)"', page))) == plots
    assert not re.search(r"#[01][0-9a-f]0b0b", page)  # no placeholder of a colour is left


def test_hostile_text_is_shown_and_does_nothing(summary, tmp_path):
    worse = _hostile(summary)
    write_report(worse, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Page(page)
    assert "<script" not in page and "script" not in found.tags
    assert len(found.ids) == len(set(found.ids))
    assert HOSTILE in found.texts
    assert max(map(len, benchmark_table("pairs", worse["benchmarks"]["pairs"]).splitlines())) <= 100
    assert "\x1b" not in summary_tables(worse)


def test_null_is_incomplete_everywhere(summary, tmp_path):
    empty = {**summary, "benchmarks": _emptied(summary["benchmarks"]), "combined": _emptied(summary["combined"])}
    text = summary_tables(empty)
    assert "None" not in text and "nan" not in text.lower()
    assert re.search(r"overall +incomplete", text)
    write_report(empty, tmp_path / "report.html")
    texts = Page((tmp_path / "report.html").read_text(encoding="utf-8")).texts
    assert texts.count("incomplete") > 100 and "nan" not in texts


def test_the_same_summary_gives_the_same_bytes(summary, page, tmp_path):
    write_report(json.loads(json.dumps(summary)), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("name", ["rewardbench", "preference_test_sets", "rewardbench2", "rm_bench", "pairs"])
def test_each_benchmark_can_stand_alone(summary, tmp_path, name):
    part = summary["benchmarks"][name]
    alone = {**summary, "benchmarks": {name: part}, "combined": {}}
    write_report(alone, tmp_path / "report.html")
    texts = Page((tmp_path / "report.html").read_text(encoding="utf-8")).texts
    assert part["title"] in texts and part["title"] in summary_tables(alone)
