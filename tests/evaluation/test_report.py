"""The tables and the report of an evaluation, from summaries of random rewards."""

import json
import re

import pytest
from pages import HOSTILE, Page
from summaries import sample_summary

from reward_modeling.display.text import percent, shorten
from reward_modeling.evaluation.report import summary_tables, warning_lines, write_report


def _tables(summary: dict, name: str, part: dict) -> str:
    """Of one benchmark alone."""
    return summary_tables({**summary, "benchmarks": {name: part}, "combined": {}})


@pytest.fixture(scope="module")
def summary() -> dict:
    return sample_summary()


@pytest.fixture(scope="module")
def page(summary, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(summary, path)
    return path.read_text(encoding="utf-8")


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
        own = _tables(summary, name, part)
        assert own.splitlines()[-1] in text and part["title"] in own


def test_warnings_stand_apart_and_overall_is_the_last_of_the_figures(summary):
    assert warning_lines(summary)[0].startswith("WARNING: RewardBench: missing: 'hep-go' (164 rows)")
    part = summary["benchmarks"]["rewardbench"]
    shuffled = {**part, "figures": {"overall": part["figures"]["overall"], **part["figures"]}}
    for text in (summary_tables(summary), _tables(summary, "rewardbench", shuffled)):
        lines = text.splitlines()
        assert "WARNING" not in text
        places = [text.index(f"\n  {name} ") for name in ("Chat", "Chat Hard", "Safety", "Reasoning", "overall")]
        assert places == sorted(places)
        rule = next(place for place, line in enumerate(lines) if line.startswith("  ---"))
        assert lines[rule + 1].split() == ["overall", "incomplete", "2,821"]


def test_one_row_of_the_table_by_hand(summary):
    row = {"value": 0.96, "low": 0.9352, "high": 0.97651, "rows": 1358, "ties": 2}
    whole = {"value": 0.5, "low": None, "high": None, "rows": 1358}
    part = {"title": "A", "sources": [], "rows": 1358, "warnings": [], "figures": {"Chat": whole, "overall": whole}}
    part |= {"subsets": {"easy": row}, "sections": {"Chat": ["easy"]}}
    lines = _tables(summary, "rewardbench", part).splitlines()
    assert lines[lines.index("A: 1,358 rows") :] == [
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
    assert shorten("a\n\x1b[31mb") == "a??[31mb"
    assert shorten("x" * 50 + "y" * 50, 9) == "xxxx…yyyy" and shorten("x" * 9, 9) == "x" * 9


def test_no_pairs_of_a_kind_is_no_gap_but_a_figure_without_rows_is(summary):
    part = json.loads(json.dumps(summary["benchmarks"]["rewardbench"]))
    nothing = {"value": None, "low": None, "high": None, "rows": 0}
    part["pairs"]["by_length"]["equal length"] = {**nothing, "right": 0, "ties": 0}
    part["figures"]["Safety"] = nothing
    text = _tables(summary, "rewardbench", part)
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
    assert max(map(len, _tables(worse, "pairs", worse["benchmarks"]["pairs"]).splitlines())) <= 100
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
