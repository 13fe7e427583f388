"""Mixtures: what goes in, what is dropped and counted, what is written, and what a kill leaves. Counted by hand."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import ROOT, train, write_rows
from test_data_prep_answers import HELPSTEER_FEATURES, HELPSTEER_ROWS, ULTRAFEEDBACK_FEATURES, ULTRAFEEDBACK_ROWS, write
from test_data_prep_pairs import FIXTURES, unified_row

from data_prep import build_mixture
from reward_modeling.common.errors import UserError
from reward_modeling.data.keys import draw_prompts
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.preference_sets import writing
from reward_modeling.preference_sets.benchmark_prompts import plain_text, read_named_prompts, words_of
from reward_modeling.preference_sets.comparisons import read_comparisons
from reward_modeling.preference_sets.decontamination import find_overlap, index_prompts
from reward_modeling.preference_sets.mixing import contradictions, duplicates, not_sampled
from reward_modeling.preference_sets.mixture import known_mixtures, read_mixture
from reward_modeling.preference_sets.pair_table import PairTable
from reward_modeling.preference_sets.row_lines import json_lines, written_columns
from reward_modeling.preference_sets.writing import new_output, write_pairs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pair(prompt, chosen, rejected, **others):
    sides = {"chosen": chosen, "rejected": rejected}
    messages = {
        side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for side, answer in sides.items()
    }
    return messages | others


def said(row):
    """(prompt, chosen, rejected) as texts."""
    return tuple(row[side][place]["content"] for side, place in (("chosen", 0), ("chosen", -1), ("rejected", -1)))


def written(folder):
    """The rows of a folder of JSON lines."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def bytes_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def yaml_file(path, text):
    path.write_text(text)
    return str(path)


def build(tmp_path, sources, output="out", **flags):
    """Build a mixture of such sources; returns the manifest."""
    mixture = yaml_file(tmp_path / "mixed.yaml", "name: mixed\nsources:\n" + "".join(f"  - {one}\n" for one in sources))
    flags = {"mixture": mixture, "output_path": str(tmp_path / output), "format": "jsonl", "num_proc": 1} | flags
    return build_mixture.build(build_mixture.ScriptArguments(**flags))


def table_of(tmp_path, *parts):
    """A PairTable of rows that `load_preference_dataset` reads."""
    loaded = []
    for number, rows in enumerate(parts):
        path = write_rows(tmp_path / f"part{number}-{len(list(tmp_path.iterdir()))}.jsonl", rows)
        loaded.append((f"part{number}", load_preference_dataset(str(path), num_proc=1)))
    return PairTable(loaded)


# --- what a mixture says ----------------------------------------------------------------------------------------


def test_every_shipped_mixture_is_valid():
    sources = ("hh_rlhf", "shp", "ultrafeedback", "helpsteer", "capybara", "orca")
    assert known_mixtures() == [*(f"mixture{number}" for number in range(1, 6)), "ratings"]
    names = {name: tuple(source.label for source in read_mixture(name).sources) for name in known_mixtures()}
    assert names == {
        "mixture1": sources,
        "mixture2": sources,
        "mixture3": (*sources, "pku_saferlhf"),
        "mixture4": (*sources, "pku_saferlhf"),
        "mixture5": ("unified_feedback",),
        "ratings": ("helpsteer", "ultrafeedback"),
    }
    published = {"mixture1": 0, "mixture2": 0}
    for name in published:
        for source in read_mixture(name).sources:
            module = sys.modules[f"data_prep.{source.script}"]
            published[name] += module.SOURCE.published[source.mixture]
    assert published == {"mixture1": 256_429, "mixture2": 528_032}


WRONG = """
nme: x
seed: -1
sources:
  - script: shpp
  - {script: shp, options: {min_score_rato: 3}}
  - {script: shp, options: {min_score_ratio: abc}}
  - {script: shp, options: {output_path: x, max_pairs_per_prompt: -1}}
  - {script: helpsteer, options: {pairs: best}}
  - {script: shp, path: x}
  - {script: shp, weight: 2, limit: 1.5, wieght: 1}
  - 7
"""


def test_all_mistakes_of_a_mixture_are_named(tmp_path):
    file = yaml_file(tmp_path / "wrong.yaml", WRONG)
    with pytest.raises(UserError) as caught:
        read_mixture(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    expected = [
        "unknown key 'nme'; did you mean name?",
        "seed: expected a whole number from 0 to 4294967295, found -1",
        "source 1 (shpp): script: expected one of armorm_ratings, capybara, helpsteer, ",
        "source 2 (shp): unknown option 'min_score_rato'; did you mean min_score_ratio?",
        "source 3 (shp): argument --min_score_ratio/--min-score-ratio: invalid float value: 'abc'. "
        "All flags: python data_prep/shp.py --help",
        "source 4 (shp): option output_path: expected where build_mixture.py takes it, as --output_path, found here",
        "source 5 (helpsteer): --pairs: expected one of best_vs_random, distinct_scores, all_pairs, lists, found "
        "'best'",
        "source 6 (shp): expected either script or path, found script and path",
        "source 7 (shp): unknown key 'wieght'; did you mean weight?",
        "source 7 (shp): weight: expected a share from 0 to 1, found 2; limit takes a number of pairs",
        "source 7 (shp): limit: expected a whole number of pairs, at least 1, found 1.5",
        "source 8: expected script or path and its settings, found 7",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{file}: {start}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- shp\n", "mixture2.yaml, with name, description, seed, include, sources, found a list"),
        ("a: [\n", "expected YAML, found it broken in line"),
        ("name: x\n", "sources: expected a list with a script or a path in each entry, found []"),
        ("include: mixed\n", "expected mixtures that end somewhere, found that it includes itself"),
        ("include: mixture22\n", "which is neither, seen from"),
        ("sources: [{script: shp, options: [1]}]\n", "options: expected names with values, found [1]"),
        ("sources: [{path: 7}]\n", "path: expected text, found 7"),
    ],
)
def test_what_is_no_mixture(text, message, tmp_path):
    yaml_file(tmp_path / "mixed.yaml", text)
    (tmp_path / "mixed").write_text(text)
    with pytest.raises(UserError) as caught:
        read_mixture(str(tmp_path / "mixed.yaml") if "itself" not in message else str(tmp_path / "mixed"))
    assert message in str(caught.value)


def test_a_list_of_an_option_is_what_commas_make_of_it(tmp_path):
    file = yaml_file(
        tmp_path / "a.yaml", "sources: [{script: hh_rlhf, options: {subsets: [helpful-base, harmless-base]}}]"
    )
    (source,) = read_mixture(file).sources
    assert source.mixture == "a"
    with pytest.raises(UserError, match="--subsets: expected some of"):
        read_mixture(yaml_file(tmp_path / "b.yaml", "sources: [{script: hh_rlhf, options: {subsets: [helpful]}}]"))


def test_paths_are_checked_when_the_mixture_is_read(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [pair("p", "a", "b")])
    entries = ["nope.jsonl", "org/nope.jsonl", "./org/name", "/no/where", f"{tmp_path}/*.parquet"]
    entries += [str(path), f"{tmp_path}/*.jsonl", "org/name", "org/name:train", str(tmp_path)]
    sources = "".join(f"  - {{path: '{one}', name: s{number}}}\n" for number, one in enumerate(entries))
    sources += "  - {script: shp, options: {dataset_path: copies/shp.parquet}}\n"
    with pytest.raises(UserError) as caught:
        read_mixture(yaml_file(tmp_path / "wrong.yaml", f"sources:\n{sources}"))
    lines = [line.partition("wrong.yaml: ")[2] for line in str(caught.value).splitlines()]
    starts = [f"source {number} ({one}): path: expected " for number, one in enumerate(entries[:5], 1)]
    assert len(lines) == 6
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert lines[5].startswith("source 11 (shp): option dataset_path: expected an existing path or a Hub id")
    with pytest.raises(UserError, match="--source_paths: rows: expected an existing path or a Hub id"):
        build(tmp_path, [f"path: {path}"], source_paths="rows=nope.jsonl")


def test_two_sources_of_one_name(tmp_path):
    sources = "sources: [{script: shp}, {script: shp, options: {min_score_ratio: 3}}]"
    with pytest.raises(UserError, match="expected a name for each, found 2 named shp"):
        read_mixture(yaml_file(tmp_path / "a.yaml", sources))
    with pytest.raises(UserError, match="found 2 named hh_rlhf"):
        read_mixture(yaml_file(tmp_path / "b.yaml", "include: mixture1\nsources: [{script: hh_rlhf}]"))
    named = sources.replace("}}", "}, name: shp_3}")
    assert [one.label for one in read_mixture(yaml_file(tmp_path / "c.yaml", named)).sources] == ["shp", "shp_3"]


def test_wrong_flags_are_named_together(tmp_path):
    with pytest.raises(UserError) as caught:
        build_mixture.ScriptArguments(format="csv", seed=-1, num_proc=0, test_size=1.5)
    flags = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert flags == ["--seed", "--format", "--num_proc", "--test_size"]
    path = write_rows(tmp_path / "rows.jsonl", [pair("p", "a", "b")])
    with pytest.raises(UserError) as caught:
        build(tmp_path, [f"path: {path}"], source_paths="row=x,rows=")
    assert str(caught.value).splitlines() == [
        "--source_paths: unknown source 'row'; did you mean rows?",
        "--source_paths: expected name=path with commas between, found 'rows'",
    ]


# --- which pairs stay -------------------------------------------------------------------------------------------

FIRST = [
    pair("p1", "A", "B"),  # kept: the first of four
    pair("p1", "A", "B"),  # a duplicate in its own source
    pair("p1", "B", "C"),
    pair("p2", "A", "B", source="mine", margin=1.5),  # contradicted by the other source
    pair("p3", "A", "B"),  # its own source has both
    pair("p3", "B", "A"),
    pair("p3", "A", "B"),  # a duplicate first, and not counted as a contradiction too
    pair("p4", "A", "A"),  # no pair at all
]
SECOND = [
    pair("p1", "A", "B", chosen_score=2, rejected_score=1),  # a duplicate of the first source's
    pair("p2", "B", "A"),
    pair("p1 ", "A", "B"),  # another prompt: there is a space
    *(pair(f"q{number}", "yes", "no") for number in range(10)),
]


def test_duplicates_and_contradictions(tmp_path):
    write_rows(tmp_path / "first.jsonl", FIRST)
    write_rows(tmp_path / "second.jsonl", SECOND)
    manifest = build(tmp_path, [f"path: {tmp_path}/first.jsonl", f"path: {tmp_path}/second.jsonl"])
    first, second = manifest["sources"]
    assert (first["read"]["rows"], first["pairs"], first["mixed"]["pairs"]) == (8, 7, 2)
    assert {reason: found["rows"] for reason, found in first["read"]["dropped"].items()} == {"identical_text": 1}
    counts = [{reason: one["rows"] for reason, one in source["mixed"]["dropped"].items()} for source in (first, second)]
    assert counts == [{"duplicate_pair": 2, "contradiction": 3}, {"duplicate_pair": 1, "contradiction": 1}]
    assert first["mixed"]["dropped"]["duplicate_pair"]["first"] == f"{tmp_path}/first.jsonl:2"
    assert second["mixed"]["dropped"]["contradiction"]["first"] == f"{tmp_path}/second.jsonl:2"
    assert (second["pairs"], second["mixed"]["pairs"], second["mixed"]["prompts"]) == (13, 11, 11)
    assert first["pairs_per_prompt"] == {"1": 1, "3": 2}
    assert first["mixed"]["pairs_per_prompt"] == {"2": 1}
    rows = written(tmp_path / "out")
    assert sorted(map(said, rows)) == sorted(
        [("p1", "A", "B"), ("p1", "B", "C"), ("p1 ", "A", "B"), *((f"q{n}", "yes", "no") for n in range(10))]
    )
    # no pair that has a margin or scores is left, so no column says so; a row without a source has its file's name
    assert all(set(row) == {"chosen", "rejected", "source"} for row in rows)
    assert {row["source"] for row in rows} == {"first", "second"}
    assert [said(row) for row in rows] != sorted(map(said, rows))


def test_of_equal_pairs_the_same_is_kept_in_any_order(tmp_path):
    rows = [pair("p", "A", "B", source=name, chosen_score=score) for name in "cab" for score in (None, 3, 2)]
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        path = write_rows(tmp_path / f"rows{seed}.jsonl", shuffled)
        build(tmp_path, [f"{{path: {path}, name: one}}"], output=f"out{seed}")
        (row,) = written(tmp_path / f"out{seed}")
        assert (row["source"], row["chosen_score"]) == ("a", 2)


def test_what_is_dropped_against_the_slow_way(tmp_path):
    draw = random.Random(0)
    parts = [[pair(f"p{draw.randrange(6)}", *draw.sample("ABCD", 2)) for _ in range(60)] for _ in range(3)]
    rows = [said(row) for part in parts for row in part]
    table = table_of(tmp_path, *parts)
    comparisons = read_comparisons(table)
    repeated = duplicates(table, comparisons, among=np.ones(len(rows), dtype=bool))
    within = duplicates(table, comparisons, among=np.arange(len(rows)) >= 30, within_parts=True)
    opposed = contradictions(comparisons, among=~repeated)
    for place, (prompt, chosen, rejected) in enumerate(rows):
        before = (prompt, chosen, rejected) in rows[:place]
        assert repeated[place] == before
        assert within[place] == (place >= 30 and rows[place] in rows[max(30, place // 60 * 60) : place])
        assert opposed[place] == (not before and (prompt, rejected, chosen) in rows)
    assert repeated.sum() > 50 and opposed.sum() > 20


def test_no_pair_goes_for_one_that_is_not_sampled(tmp_path):
    rows = [pair(f"p{number}", "yes", "no") for number in range(100)]
    paths = {
        "A": write_rows(tmp_path / "A.jsonl", rows),
        "B": write_rows(tmp_path / "B.jsonl", rows[::-1]),
        "C": write_rows(tmp_path / "C.jsonl", [pair(f"p{number}", "no", "yes") for number in range(100)]),
    }

    def counts(output, *entries):
        found = build(tmp_path, [f"{{path: {paths[name]}, {entry}}}" for name, entry in entries], output=output)
        dropped = [{key: one["rows"] for key, one in part["mixed"]["dropped"].items()} for part in found["sources"]]
        return [part["mixed"]["pairs"] for part in found["sources"]], dropped

    assert counts("AB", ("A", "weight: 0.1"), ("B", "weight: 1")) == (
        [10, 90],
        [{"not_sampled": 90}, {"duplicate_pair": 10}],
    )
    assert sorted(map(said, written(tmp_path / "AB"))) == sorted(map(said, rows))
    assert counts("AC", ("A", "weight: 1"), ("C", "weight: 0")) == ([100, 0], [{}, {"not_sampled": 100}])
    # of one in ten that contradicts, both sides go; and a limit may end up with fewer
    assert counts("CA", ("A", "weight: 1"), ("C", "limit: 10")) == (
        [90, 0],
        [{"contradiction": 10}, {"contradiction": 10, "not_sampled": 90}],
    )
    assert counts("limits", ("A", "limit: 30"), ("B", "limit: 30"))[0] == [30, 0]


def many_rows(number, seed=1):
    draw = random.Random(seed)
    return [
        pair(f"p{draw.randrange(number // 4)}", *draw.sample("ABCDEF", 2), chosen_score=draw.randrange(3))
        for _ in range(number)
    ]


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_nothing_depends_on_the_order_of_rows_or_on_workers(file_format, tmp_path):
    rows, draw, found = many_rows(3000), random.Random(2), []
    benchmark = write_rows(tmp_path / "benchmark.jsonl", [{"prompt": f"P{number}!"} for number in range(40)])
    for number, workers in enumerate((1, 1, 2)):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        path = write_rows(folder / "rows.jsonl", rows if number == 0 else draw.sample(rows, len(rows)))
        sources = [f"{{path: {path}, weight: 0.5}}", f"{{path: {path}, name: again, limit: 100}}"]
        flags = {"num_proc": workers, "test_size": 0.2, "format": file_format, "decontaminate": str(benchmark)}
        found.append(build(folder, sources, **flags))
    first = found[0]
    assert first["pairs"] > 500
    for other in found[1:]:
        assert other["written"] == first["written"]  # the sha256 of every file
        assert other["decontamination"] == first["decontamination"]
        assert [one["fingerprint"] for one in other["sources"]] == [one["fingerprint"] for one in first["sources"]]
    another = build(tmp_path / "run0", sources, **flags, output="seeded", seed=1)
    # not equal: which contradictions are sampled depends on the seed
    assert abs(another["pairs"] - first["pairs"]) < 50
    assert another["written"] != first["written"]


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_building_twice_gives_the_same_bytes(file_format, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "ROWS_PER_SHARD", 400)
    monkeypatch.setattr(writing, "ROWS_PER_BATCH", 150)
    path = write_rows(tmp_path / "rows.jsonl", many_rows(2000))
    for output in ("one", "two"):
        build(tmp_path, [f"path: {path}"], output=output, test_size=100, format=file_format)
    files = bytes_of(tmp_path / "one")
    assert files == bytes_of(tmp_path / "two")
    manifest = json.loads(files["manifest.json"])
    shards = [f"train-{number:05d}-of-00004.{file_format}" for number in range(4)]
    assert list(files) == ["manifest.json", f"test/test-00000-of-00001.{file_format}", *shards]
    assert list(manifest["written"]["train"]["files"]) == shards
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(tmp_path / "one") not in files["manifest.json"].decode()


def test_the_content_has_one_sha256_in_any_format(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", many_rows(500))
    parquet = build(tmp_path, [f"path: {path}"], output="parquet", format="parquet")
    lines = build(tmp_path, [f"path: {path}"], output="jsonl")
    content = lines["written"]["train"]["content_sha256"]
    assert parquet["written"]["train"]["content_sha256"] == content
    assert list(lines["written"]["train"]["files"].values()) == [content]  # one file: its lines are the content
    rows = [load_preference_dataset(str(tmp_path / name), num_proc=1) for name in ("parquet", "jsonl")]
    columns = ["prompt", "chosen", "rejected", "source", "chosen_score", "rejected_score", "margin", "reason"]
    assert rows[0].select_columns(columns).to_list() == rows[1].select_columns(columns).to_list()


def test_no_prompt_is_on_both_sides(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", many_rows(2000))
    manifest = build(tmp_path, [f"path: {path}"], test_size=150)
    train_rows, test_rows = written(tmp_path / "out"), written(tmp_path / "out" / "test")
    assert manifest["pairs"] == len(train_rows) + len(test_rows)
    assert 140 < len(test_rows) <= 150
    assert not {said(row)[0] for row in train_rows} & {said(row)[0] for row in test_rows}
    # what rm.py reads of the folder is the training set alone
    assert len(load_preference_dataset(str(tmp_path / "out"), num_proc=1)) == len(train_rows)
    share = build(tmp_path, [f"path: {path}"], test_size=0.1, output="share")
    assert 0.09 < share["written"]["test"]["pairs"] / share["pairs"] <= 0.1
    for size in (5000, 1e-9):
        with pytest.raises(UserError, match=f"--test_size {size:g}: expected pairs on both sides"):
            build(tmp_path, [f"path: {path}"], test_size=size, output="never")
    assert not (tmp_path / "never").exists()


def transcript(prompt, answer):
    return f"\n\nHuman: {prompt}\n\nAssistant: {answer}"


def test_no_prompt_of_a_transcript_is_on_both_sides(tmp_path):
    texts = [
        {"chosen": transcript(f"p{n % 10}", n), "rejected": transcript(f"p{n % 10}", f"not {n}")} for n in range(60)
    ]
    plain = [{"chosen": f"p{n}", "rejected": f"not p{n}"} for n in range(5)]
    path = write_rows(tmp_path / "texts.jsonl", texts)
    messages = write_rows(tmp_path / "messages.jsonl", [pair(f"p{n}", "yes", "no") for n in range(10)])
    table = table_of(tmp_path, [*texts, *plain], [pair(f"p{n}", "yes", "no") for n in range(10)])
    keys = table.numbers("prompt_key")
    assert len(set(keys)) == 15
    assert all(len(set(keys[[*range(n, 60, 10), 65 + n]])) == 1 for n in range(10))  # as a text and as messages
    for seed in range(5):
        build(tmp_path, [f"path: {path}", f"path: {messages}"], test_size=30, seed=seed, output=f"out{seed}")
        sides = []
        for folder in (tmp_path / f"out{seed}", tmp_path / f"out{seed}" / "test"):
            chosen = [row["chosen"] for row in written(folder)]
            sides.append({one[0]["content"] for one in chosen})
        assert sides[0] | sides[1] == {f"p{n}" for n in range(10)}
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_weights_and_limits(tmp_path):
    paths = []
    for part in range(3):
        rows = [pair(f"{part} {number}", "a", "b") for number in range(1001)]
        paths.append(write_rows(tmp_path / f"part{part}.jsonl", rows))
    entries = ["weight: 0.25", "limit: 100", "weight: 0.5, limit: 10000"]
    sources = [f"{{path: {path}, {entry}}}" for path, entry in zip(paths, entries, strict=True)]
    manifest = build(tmp_path, sources)
    assert [one["mixed"]["pairs"] for one in manifest["sources"]] == [250, 100, 500]
    left_out = [one["mixed"]["dropped"]["not_sampled"]["rows"] for one in manifest["sources"]]
    assert left_out == [751, 901, 501]
    # a sample is not what would have stood first: the sources are mixed all along
    parts = [int(said(row)[0][0]) for row in written(tmp_path / "out")]
    halves = [parts[:425].count(part) for part in range(3)]
    assert all(abs(count - half) < 45 for count, half in zip(halves, (125, 50, 250), strict=True))


def test_a_larger_sample_holds_a_smaller_one():
    keys, among = np.arange(1000) * 2**40, np.ones(1000, dtype=bool)
    parts = np.zeros(1000, dtype=np.int64)
    small, large = (~not_sampled(parts, keys, among, [(weight, None)], 0) for weight in (0.1, 0.2))
    assert (small.sum(), large.sum()) == (100, 200)
    assert not (small & ~large).any()


def test_a_prompt_with_more_pairs_than_asked_for_is_not_tested():
    prompts = np.array([7] * 50 + list(range(100, 120)))
    for seed in range(20):
        assert draw_prompts(prompts, 10, seed).sum() == 10
        assert not draw_prompts(prompts, 10, seed)[:50].any()


def test_no_pair_is_left(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [pair("p", "A", "B"), pair("p", "B", "A")])
    with pytest.raises(UserError, match=r"found none that is left.*\n(.*\n)+.*the opposite pair is there too +2"):
        build(tmp_path, [f"path: {path}"])
    assert not (tmp_path / "out").exists()


# --- benchmarks -------------------------------------------------------------------------------------------------

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_decontamination_by_hand(tmp_path):
    conversation = pair("Then and now?", "a", "b")
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, ask."}]
    for side in ("chosen", "rejected"):
        conversation[side] = [*turns, *conversation[side]]
    system = pair("What is 2+2?", "four", "five")
    for side in ("chosen", "rejected"):
        system[side] = [{"role": "system", "content": "Be brief."}, *system[side]]
    rows = [
        pair("what's  up", "a", "b"),  # exact
        pair("\u201cWhat\u2019s up?!\u201d", "c", "d"),  # exact, other quotes
        pair("What s up", "c", "d"),  # another text
        pair("what's up there", "a", "b"),  # short and longer: not found
        system,  # exact: what the system says does not count
        pair(f"Please say: {LONG.upper()}!", "a", "b"),  # 13 words
        pair(LONG.replace("seven", "7"), "a", "b"),  # never 13 in a row
        conversation,  # exact, with all turns
        pair("Then and now?", "a", "b"),  # one of its turns alone: not found
        pair("?!", "a", "b"),  # nothing is left of it: nothing is equal to it
        pair("What is 2-2?", "a", "b"),  # another symbol
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    first = write_rows(
        tmp_path / "first.jsonl",
        [{"prompt": "What\u2019s up?"}, {"prompt": "...what is 2+2"}, {"prompt": "!?"}, {"prompt": f"{LONG} fifteen"}],
    )
    second = write_rows(
        tmp_path / "second.jsonl", [pair("WHATS UP", "x", "y"), pair("What's\tup", "x", "y"), conversation]
    )
    manifest = build(tmp_path, [f"path: {path}"], decontaminate=f"{first},other={second}")
    found = {one["benchmark"]: one for one in manifest["decontamination"]}
    assert list(found) == ["first.jsonl", "other"]
    assert (found["first.jsonl"]["prompts"], found["other"]["prompts"]) == (3, 3)
    assert found["first.jsonl"]["exact"] == {"prompts": 3, "pairs": 3}
    assert found["first.jsonl"]["13_words"] == {"prompts": 1, "pairs": 1}
    assert found["other"]["exact"] == {"prompts": 3, "pairs": 3}
    assert found["other"]["13_words"] == {"prompts": 0, "pairs": 0}
    (run,) = [one for one in found["first.jsonl"]["examples"] if one["kind"] == "13_words"]
    assert run == {"kind": "13_words", "words": LONG.removesuffix(" fourteen"), "where": f"{first}:4"}
    assert {one["where"] for one in found["other"]["examples"]} == {f"{second}:2", f"{second}:3"}
    assert manifest["sources"][0]["mixed"]["dropped"]["in_benchmark"]["rows"] == 5
    kept = {said(row)[0] for row in written(tmp_path / "out")}
    assert kept == {"What s up", "What is 2-2?", "what's up there", LONG.replace("seven", "7"), "Then and now?", "?!"}


def test_what_is_equal():
    equal = [("What is 2+2?", " what IS\u00a02+2"), ("\u201cC++\u201d", "c++."), ("Ｗｈｙ？", "why")]  # noqa: RUF001
    for one, other in equal:
        assert plain_text(one) == plain_text(other)
    different = [("What is 2+2?", "What is 2-2?"), ("C++", "C#"), ("f(x)", "fx"), ("कि", "की"), ("f(1)", "f(1")]
    for one, other in different:
        assert plain_text(one) != plain_text(other)
    assert plain_text("?!") == plain_text("\u2026") == ""
    assert words_of("कि और की") == ["कि", "और", "की"]
    assert words_of("ที่นี่") == ["ที่นี่"]
    assert words_of("what's_up e\u0301te\u0301") == ["what", "s", "up", "été"]


def test_files_of_plain_transcripts_name_prompts(tmp_path):
    rows = [
        {"chosen": transcript("Who are you?", "A"), "rejected": transcript("Who are you?", "B")},
        {"chosen": transcript("And why?", ""), "rejected": transcript("And why?", "B")},
        {"chosen": "plain", "rejected": "text"},
    ]
    path = write_rows(tmp_path / "hh.jsonl", rows)
    (found,) = read_named_prompts(str(path), num_proc=1)
    assert found.texts == ["who are you"]  # an answer of no words is dropped
    mine = write_rows(tmp_path / "mine.jsonl", [pair("who are you", "a", "b"), pair("who am I", "a", "b")])
    manifest = build(tmp_path, [f"path: {mine}"], decontaminate=str(path))
    assert manifest["decontamination"][0]["exact"] == {"prompts": 1, "pairs": 1}
    assert manifest["decontamination"][0]["examples"][0]["where"] == f"{path}:1"


@pytest.mark.parametrize("seed", range(3))
def test_overlap_against_the_slow_way(seed, tmp_path):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdef", k=draw.randrange(1, 20))) for _ in range(40)]
    spliced = [" ".join([*draw.choices("abcdef", k=4), *text.split()[:15], "z"]) for text in texts[::2]]
    prompts = [*texts[1::2], *spliced, *(" ".join(draw.choices("abcdef", k=15)) for _ in range(60))]
    benchmark = write_rows(tmp_path / "benchmark.jsonl", [{"prompt": text} for text in texts])
    rows = [pair(prompt, "x", "y") for prompt in [*prompts, *prompts]]
    loaded = load_preference_dataset(str(write_rows(tmp_path / "rows.jsonl", rows)), num_proc=1)
    parts = [loaded.select(range(50)), loaded.select(range(50, len(rows)))]
    index = index_prompts(read_named_prompts(str(benchmark)))
    overlap = find_overlap(datasets.concatenate_datasets(parts), index)

    def runs(text):
        words = words_of(text)
        return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}

    known = set().union(*map(runs, texts))
    assert overlap.exact.tolist() == [int(prompt in texts) for prompt in [*prompts, *prompts]]
    assert overlap.runs.tolist() == [int(bool(runs(prompt) & known)) for prompt in [*prompts, *prompts]]
    assert 10 < overlap.runs.sum() < len(rows) - 50


def test_benchmarks_from_local_copies(tmp_path):
    rewardbench = tmp_path / "rb.jsonl"
    row = {"prompt": "Who are you?", "chosen": "a", "rejected": "b", "subset": "alpacaeval-easy", "id": 1}
    write_rows(rewardbench, [row])
    (found,) = read_named_prompts(f"rewardbench={rewardbench}", num_proc=1)
    assert (found.name, found.texts) == ("rewardbench", ["who are you"])
    for flag, message in {
        f"{tmp_path}/none.jsonl": "expected an existing path or a Hub id",
        "mine=": "expected a path, found none",
        f"x={write_rows(tmp_path / 'other.jsonl', [{'text': 'a'}])}": "expected preference rows, or rows with a prompt",
        str(write_rows(tmp_path / "blank.jsonl", [{"prompt": "?"}])): "expected prompts, found none in",
    }.items():
        with pytest.raises(UserError, match="--decontaminate") as caught:
            read_named_prompts(flag, num_proc=1)
        assert message in str(caught.value)


def test_plain_texts_are_looked_up_where_they_are_transcripts(tmp_path):
    rows = [
        {"chosen": "\n\nHuman: Hello?\n\nAssistant: yes", "rejected": "\n\nHuman: Hello?\n\nAssistant: no"},
        {"chosen": "Hello?", "rejected": "Hello!"},
    ]
    benchmark = write_rows(tmp_path / "benchmark.jsonl", [{"prompt": "hello"}])
    manifest = build(tmp_path, [f"path: {write_rows(tmp_path / 'rows.jsonl', rows)}"], decontaminate=str(benchmark))
    assert manifest["decontamination"][0]["exact"] == {"prompts": 1, "pairs": 1}
    assert [row["chosen"] for row in written(tmp_path / "out")] == ["Hello?"]


# --- what is written --------------------------------------------------------------------------------------------

ODD_TEXTS = ["", " ", "]", "[][", '"', "\\", "\\u0041", "\n\t\r", "\0", "\u2028", "é", "😀", "\U0010ffff", "\x7f", ", "]


def test_lines_are_what_json_says_and_parquet_holds_the_same(tmp_path):
    rows = [
        pair(prompt, f"{answer}a", f"{answer}b", source=prompt, chosen_score=score, margin=score)
        for prompt in ODD_TEXTS
        for answer in ODD_TEXTS
        for score in (None, 1, -0.1, 1e-300, 123456789012345680.0)
    ]
    no_prompt = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows += [no_prompt | {"source": "s", "chosen_score": 0.5, "margin": 0.5}]
    table = table_of(tmp_path, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    columns = written_columns(table, order)
    assert columns == ["chosen", "rejected", "source", "chosen_score", "margin"]
    lines = json_lines(table.take(order), columns).to_pybytes().decode().split("\n")
    assert lines.pop() == ""
    for line, place in zip(lines, order, strict=True):
        row = {name: rows[place].get(name) for name in columns}
        assert json.loads(line) == row
        assert list(json.loads(line)) == list(row)
        as_floats = row | {name: None if row[name] is None else float(row[name]) for name in columns[3:]}
        if row["chosen_score"] not in (1e-300, 123456789012345680.0):  # Python writes these another way
            assert line == json.dumps(as_floats, ensure_ascii=False)
    write_pairs(table, order, tmp_path / "out", "train", "parquet", columns)
    read = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet").to_pylist()
    assert read == [json.loads(line) for line in lines]


def test_messages_with_other_keys_are_for_json_lines(tmp_path):
    row = pair("p", "a", "b")
    row["chosen"][0]["name"] = row["rejected"][0]["name"] = "Ann"
    path = write_rows(tmp_path / "rows.jsonl", [pair("q", "a", "b"), row])
    build(tmp_path, [f"path: {path}"])
    assert sorted(len(row["chosen"][0]) for row in written(tmp_path / "out")) == [2, 3]
    with pytest.raises(UserError, match=rf"found name at {path}:2. Pass --format jsonl."):
        build(tmp_path, [f"path: {path}"], output="parquet", format="parquet")
    assert sorted(path.name for path in tmp_path.glob("*parquet*")) == []


def test_plain_texts(tmp_path):
    texts = write_rows(tmp_path / "texts.jsonl", [{"chosen": 'a "b"\n', "rejected": "c"}])
    both = [f"path: {texts}", f"path: {write_rows(tmp_path / 'messages.jsonl', [pair('p', 'a', 'b')])}"]
    build(tmp_path, both[:1], output="texts", format="parquet")
    table = pq.read_table(tmp_path / "texts" / "train-00000-of-00001.parquet")
    assert table.to_pylist() == [{"chosen": 'a "b"\n', "rejected": "c", "source": "texts"}]
    with pytest.raises(UserError, match="expected either conversations or plain texts"):
        build(tmp_path, both, output="both", format="parquet")
    build(tmp_path, both, output="both")
    assert len(written(tmp_path / "both")) == 2


def test_batches_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(writing, "BYTES_PER_BATCH", 100)
    monkeypatch.setattr(writing, "ROWS_PER_BATCH", 3)
    sizes = np.array([40, 60, 1, 500, 500, 10, 10, 10, 10])
    assert writing._cuts(sizes) == [2, 3, 4, 5, 8]
    assert writing._cuts(sizes[:1]) == writing._cuts(sizes[:0]) == []


# --- a folder, whole or not at all ------------------------------------------------------------------------------


def test_what_is_there_is_replaced_when_asked(tmp_path):
    sources = [f"path: {write_rows(tmp_path / 'rows.jsonl', many_rows(200))}"]
    build(tmp_path, sources, test_size=10)
    before = bytes_of(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: expected a new or an empty folder, found manifest.json, test, train-"):
        build(tmp_path, sources, seed=1)
    assert bytes_of(tmp_path / "out") == before
    build(tmp_path, sources, seed=1, overwrite=True, format="parquet")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "train-00000-of-00001.parquet",
    ]
    assert not list(tmp_path.glob(".out*"))


def test_what_is_not_ours_is_not_replaced(tmp_path):
    sources = [f"path: {write_rows(tmp_path / 'rows.jsonl', many_rows(200))}"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"expected an earlier output, .* found thesis.tex in it"):
        build(tmp_path, sources, overwrite=True)
    (tmp_path / "file").write_text("")
    for output in ("file", "file/below"):
        with pytest.raises(UserError, match="expected a folder, found the file"):
            build(tmp_path, sources, output=output, overwrite=True)
    (tmp_path / "empty").mkdir()
    build(tmp_path, sources, output="empty")
    assert (tmp_path / "empty" / "manifest.json").is_file()


def test_an_error_leaves_nothing_and_what_was_there(tmp_path):
    for overwrite in (False, True):
        with pytest.raises(ZeroDivisionError), new_output(tmp_path / "out", overwrite) as folder:
            (folder / "train-0").write_text("half")
            1 / 0  # noqa: B018
        assert [path.name for path in tmp_path.iterdir()] == (["out"] if overwrite else [])
        if not overwrite:
            with new_output(tmp_path / "out", False) as folder:
                (folder / "manifest.json").write_text("whole")
    assert (tmp_path / "out" / "manifest.json").read_text() == "whole"


def test_a_full_disk_is_a_message(tmp_path):
    message = r"room for the pairs, found \[OSError: .*\]. Nothing was written"
    with pytest.raises(UserError, match=message), new_output(tmp_path / "out", False):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_two_runs_at_once(tmp_path):
    message = "expected a folder that no other run writes to"
    with (
        new_output(tmp_path / "out", False),
        pytest.raises(UserError, match=message),
        new_output(tmp_path / "out", True),
    ):
        raise AssertionError
    assert (tmp_path / "out").is_dir()


def test_a_run_that_was_killed_between_the_renames(tmp_path):
    with new_output(tmp_path / "out", False) as folder:
        (folder / "manifest.json").write_text("old")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(UserError, match=r"found manifest.json in it"), new_output(tmp_path / "out", False):
        raise AssertionError
    assert (tmp_path / "out" / "manifest.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_build_leaves_what_was_there(overwrite, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", many_rows(12_000))
    yaml_file(tmp_path / "mixed.yaml", f"sources: [{{path: {path}}}]")
    command = [
        sys.executable,
        str(ROOT / "data_prep" / "build_mixture.py"),
        "--mixture",
        "mixed.yaml",
        "--num_proc",
        "1",
    ]
    command += ["--output_path", "out", *["--overwrite"] * overwrite]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    if overwrite:
        with new_output(tmp_path / "out", False) as folder:
            (folder / "manifest.json").write_text("old")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    scratch, deadline = tmp_path / ".out.unfinished", time.monotonic() + 120
    while not list(scratch.glob("train-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert scratch.is_dir()
    assert bytes_of(tmp_path / "out") == ({"manifest.json": b"old"} if overwrite else {})
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob(".out*"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(load_preference_dataset(str(tmp_path / "out"), num_proc=1)) == manifest["pairs"] > 5_000


# --- into training ----------------------------------------------------------------------------------------------


def test_a_mixture_is_trained_on_and_its_test_set_evaluated(tmp_path, gemma_folder):
    path = write_rows(tmp_path / "rows.jsonl", [pair(f"p{n}", "a good answer", "bad") for n in range(24)])
    build(tmp_path, [f"path: {path}"], test_size=4, format="parquet")
    flags = {
        "model_name": gemma_folder,
        "train_set_path": tmp_path / "out",
        "eval_set_path": tmp_path / "out" / "test",
        "max_length": 64,
        "max_steps": 1,
        "pairs_per_step": 4,
        "report_to": "none",
        "use_cpu": "true",
    }
    run = train(flags, tmp_path / "model")
    assert run.state["global_step"] == 1
    report = json.loads((tmp_path / "model" / "data_report.json").read_text())
    assert (report["train"]["kept"], report["eval"]["kept"]) == (20, 4)


MISTAKE = [sys.executable, str(ROOT / "data_prep" / "build_mixture.py"), "--mixture", "mixture22", "--output_path", "x"]


def test_a_mistake_is_a_message(tmp_path):
    done = subprocess.run(MISTAKE, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "mixture: expected a YAML file or one of mixture1, mixture2," in done.stderr
    assert "did you mean mixture2?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# --- the five mixtures, of the fixtures of all scripts ----------------------------------------------------------


def fixture_paths(folder):
    """Name of a source -> a local copy with every trap of the Hub's."""
    fixtures = {script.SOURCE.name: rows for script, rows in FIXTURES.items()}
    fixtures |= {
        "ultrafeedback": (ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES),
        "helpsteer": (HELPSTEER_ROWS, HELPSTEER_FEATURES),
    }
    # its other pairs are all of one question, and contradict each other
    rows, features = fixtures["unified_feedback"]
    fixtures["unified_feedback"] = ([*rows, unified_row((1, 0), ("C", "D"))], features)
    return {name: write(folder / f"{name}.parquet", *fixture) for name, fixture in fixtures.items()}


@pytest.mark.parametrize("name", [f"mixture{number}" for number in range(1, 6)])
def test_the_five_mixtures(name, tmp_path, capsys, monkeypatch):
    mixture, paths = read_mixture(name), fixture_paths(tmp_path)
    copies = ",".join(f"{source.label}={paths[source.label]}" for source in mixture.sources)
    flags = ["--mixture", name, "--output_path", str(tmp_path / "out"), "--source_paths", copies, "--num_proc", "1"]
    monkeypatch.setattr(sys, "argv", ["build_mixture.py", *flags])
    build_mixture.main()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [source["name"] for source in manifest["sources"]] == [source.label for source in mixture.sources]
    for source, entry in zip(mixture.sources, manifest["sources"], strict=True):
        module = sys.modules[f"data_prep.{source.script}"]
        alone = module.build(
            module.ScriptArguments(**{**source.options, "dataset_path": paths[source.label], "num_proc": 1})
        )
        assert entry["read"]["rows"] == alone.report.rows_read
        assert entry["pairs"] == len(alone.rows) > 0
        dropped = sum(one["rows"] for one in entry["mixed"]["dropped"].values())
        assert entry["mixed"]["pairs"] == entry["pairs"] - dropped
        published = module.SOURCE.published.get(source.mixture)
        counts = {"pairs": published, "difference": entry["pairs"] - (published or 0)}
        assert entry["published"] == ({} if published is None else {source.mixture: counts})
        assert entry["licence"] == module.SOURCE.licence
    assert manifest["pairs"] == sum(entry["mixed"]["pairs"] for entry in manifest["sources"])
    rows = load_preference_dataset(str(tmp_path / "out"), num_proc=1)
    assert (len(rows), set(rows["reason"][:])) == (manifest["pairs"], {""})
    shown = capsys.readouterr().out
    assert f"{name}: {manifest['pairs']} pairs" in shown
    for entry in manifest["sources"]:
        for mixture_name, one in entry["published"].items():
            assert f"published in {mixture_name}" in shown
            assert f"{one['pairs']:,} ({one['difference']:+,})" in shown
