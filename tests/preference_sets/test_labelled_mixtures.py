"""Rows with labels, and lists of ranked answers, on their way through a mixture: unharmed, one record each, counted."""

import json
import math
import random
import re
from itertools import combinations

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import train, write_rows
from test_data_prep_answers import ULTRAFEEDBACK_FEATURES, ULTRAFEEDBACK_ROWS, write

from data_prep import build_mixture
from data_prep import lint as lint_script
from reward_modeling.common.errors import UserError
from reward_modeling.data.labels import NUMBERS
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.preference_sets.arguments import FileArguments
from reward_modeling.preference_sets.comparisons import read_comparisons
from reward_modeling.preference_sets.lint import summary
from reward_modeling.preference_sets.lint.report import lint_page
from reward_modeling.preference_sets.lint.summary import lint
from reward_modeling.preference_sets.lint.tables import summary_text
from reward_modeling.preference_sets.manifest import manifest_table
from reward_modeling.preference_sets.mixing import contradictions, duplicates
from reward_modeling.preference_sets.mixture import read_mixture
from reward_modeling.preference_sets.pair_table import PairTable
from reward_modeling.preference_sets.source import PreferenceSource, limit_pairs_per_prompt, read_file
from reward_modeling.preference_sets.writing import write_source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pair(prompt, chosen, rejected, **others):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **others}


def ranked(prompt, ranks, **others):
    """A list of the answers A, B, C and so on."""
    return {"prompt": prompt, "completions": list("ABCDEFGHI"[: len(ranks)]), "ranks": ranks, **others}


def build(tmp_path, *files, output="out", **options):
    sources = [f"path: {write_rows(tmp_path / f'{output}-{name}.jsonl', rows)}" for name, rows in files]
    mixture = tmp_path / f"{output}.yaml"
    mixture.write_text(
        "sources:\n"
        + "".join(f"  - {{{source}, name: {name}}}\n" for source, (name, _) in zip(sources, files, strict=True))
    )
    defaults = {"num_proc": 1, "format": "jsonl"}
    arguments = build_mixture.ScriptArguments(str(mixture), str(tmp_path / output), **defaults | options)
    return build_mixture.build(arguments)


def standard(path):
    """The standard rows at a path without where they stand, sorted."""
    rows = load_preference_dataset(str(path), num_proc=1).to_list()
    assert all(not row["reason"] for row in rows)
    rows = [{name: value for name, value in row.items() if name not in ("where", "form", "unread")} for row in rows]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def lines(folder):
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
RICH = [
    pair("hard", "yes", "no", source="s"),
    pair("soft", "yes", "no", source="s", chosen_probability=0.7),
    pair("turned", "yes", "no", source="s", chosen_probability=0.25, margin=-2.0, chosen_score=1, rejected_score=3),
    pair("tie", "one", "two", source="s", chosen_probability=0.5),
    pair("no strength", "one", "two", source="s", strength=0),
    pair("strong", "yes", "no", source="s", strength=3, weight=0.1),
    ranked("list", [1, 3, 2, 3], source="s"),
    ranked("weighted list", [2, 1, 2, 4, 5, 6, 7, 8, 9], source="s", weight=2.5),
    ranked(SYSTEM, [4, 3, 2, 1], source="s", chat_template_kwargs={"enable_thinking": False}),
    {"prompt": "scores", "completions": ["worst", 'b "]', "c\n"], "scores": [-1.5, 2, 7], "source": "s"},
    {"prompt": "two are left", "completions": ["x", "y", "z"], "scores": [1, None, 3], "source": "s"},
    {"completions": [[{"role": "assistant", "content": text}] for text in "abc"], "ranks": [1, 2, 3], "source": "s"},
]


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_what_is_written_reads_as_what_was_read(tmp_path, file_format):
    manifest = build(tmp_path, ("s", RICH), format=file_format)
    assert manifest["pairs"] == len(RICH)
    before, after = standard(tmp_path / "out-s.jsonl"), standard(tmp_path / "out")
    assert before == after
    assert sum(len(row["ranks"]) for row in after) == 4 + 9 + 4 + 3 + 3
    # None of it is equal by chance: every column has more than one value.
    for name in ("prompt", "answers", "ranks", "template_options", *NUMBERS):
        assert len({json.dumps(row[name]) for row in after}) > 1


def test_the_content_is_the_same_in_both_formats(tmp_path):
    both = [build(tmp_path, ("s", RICH), format=name, output=name)["written"]["train"] for name in ("jsonl", "parquet")]
    assert both[0]["content_sha256"] == both[1]["content_sha256"]
    table = pq.read_table(next((tmp_path / "parquet").glob("*.parquet")))
    there = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    options = [{name: value for name, value in row.items() if value is not None} for row in lines(tmp_path / "jsonl")]
    assert there == options
    assert str(table.schema.field("ranks").type) == "list<element: int32>"


def test_a_list_is_one_record_and_a_pair_is_as_it_was(tmp_path):
    build(tmp_path, ("s", [ranked("p", [2, 1, 3]), pair("q", "yes", "no", weight=2)]))
    of_list, of_pair = sorted(lines(tmp_path / "out"), key=len, reverse=True)
    question, *answers = (
        [{"role": role, "content": text}] for role, text in zip(["user"] + ["assistant"] * 3, "pABC", strict=True)
    )
    assert of_list == {"prompt": question, "completions": answers, "ranks": [2, 1, 3], "source": "s", "weight": None}
    assert list(of_pair) == ["chosen", "rejected", "source", "weight"] and of_pair["weight"] == 2


def test_only_lists_have_no_columns_of_pairs(tmp_path):
    build(tmp_path, ("s", [ranked("p", [2, 1, 3]), ranked("q", [1, 1, 2])]), format="parquet")
    assert pq.read_table(next((tmp_path / "out").glob("*.parquet"))).column_names == [
        "prompt",
        "completions",
        "ranks",
        "source",
    ]
    assert len(standard(tmp_path / "out")) == 2


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_lists_of_plain_texts(tmp_path, file_format):
    rows = [{"completions": ['a "b"', "c]", "d\\"], "ranks": [1, 2, 2]}, {"chosen": "e", "rejected": "f", "weight": 3}]
    build(tmp_path, ("s", [row | {"source": "s"} for row in rows]), format=file_format)
    after = standard(tmp_path / "out")
    assert after == standard(tmp_path / "out-s.jsonl")
    assert [row["is_text"] for row in after] == [True, True]


def test_lists_of_plain_texts_beside_conversations(tmp_path):
    texts = {"completions": ["a", "b", "c"], "ranks": [1, 2, 2], "source": "s"}
    rows = [texts, ranked("p", [1, 2, 3], source="s"), pair("q", "yes", "no", source="s")]
    build(tmp_path, ("s", rows))
    assert standard(tmp_path / "out") == standard(tmp_path / "out-s.jsonl")
    with pytest.raises(UserError, match="expected either conversations or plain texts"):
        build(tmp_path, ("s", rows), output="parquet", format="parquet")


def test_messages_with_other_keys_are_named_in_lists_too(tmp_path):
    row = ranked("p", [1, 2, 3])
    row["completions"] = [[{"role": "assistant", "content": text, "name": "Ann"}] for text in "ABC"]
    build(tmp_path, ("s", [ranked("q", [1, 2, 3]), row]))
    assert standard(tmp_path / "out") == [one | {"source": "s"} for one in standard(tmp_path / "out-s.jsonl")]
    with pytest.raises(UserError, match=r"found name at \S+s.jsonl:2. Pass --format jsonl."):
        build(tmp_path, ("s", [ranked("q", [1, 2, 3]), row]), output="parquet", format="parquet")


def test_bytes_of_a_row_are_those_of_its_texts(tmp_path):
    rows = load_preference_dataset(str(write_rows(tmp_path / "rows.jsonl", RICH)), num_proc=1)
    kept = rows.select([11, 7, 0, 6])  # batches are cut anywhere
    sizes = [
        sum(
            len(text.encode())
            for text in (row["prompt"], row["prompt"], row["chosen"], row["rejected"], *row["answers"])
        )
        for row in kept
    ]
    assert PairTable([("s", kept)]).bytes_of_rows().tolist() == sizes


def test_a_script_writes_lists_and_labels(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", RICH)
    arguments = FileArguments(str(path), output_path=str(tmp_path / "out"), num_proc=1)
    write_source(read_file(arguments, PreferenceSource("s", None, licence="x")), arguments)
    assert standard(tmp_path / "out") == standard(path)


# --- what repeats, what contradicts -------------------------------------------------------------------------------


def dropped(manifest):
    """Of each source, how many rows of the mixture's go for which reason."""
    return [
        {reason: one["rows"] for reason, one in source["mixed"]["dropped"].items()} for source in manifest["sources"]
    ]


def test_a_tie_and_a_soft_label_turned_round_say_the_same(tmp_path):
    first = [
        pair("tie", "A", "B", chosen_probability=0.5),
        pair("soft", "A", "B", chosen_probability=0.7),
        pair("both", "A", "B"),
    ]
    second = [
        pair("tie", "B", "A", strength=0),
        pair("soft", "B", "A", chosen_probability=0.3),
        pair("both", "A", "B", chosen_probability=0.5),  # a tie contradicts no preference, and does not repeat it
    ]
    manifest = build(tmp_path, ("first", first), ("second", second))
    assert dropped(manifest) == [{}, {"duplicate_pair": 2}]
    assert sorted(row["chosen_probability"] or 1 for row in lines(tmp_path / "out")) == [0.5, 0.5, 0.7, 1]


def test_soft_labels_that_prefer_the_other_answer_contradict(tmp_path):
    rows = [
        pair("p", "A", "B", chosen_probability=0.7),
        pair("p", "A", "B", chosen_probability=0.4),
        pair("q", "A", "B"),
    ]
    manifest = build(tmp_path, ("s", rows))
    assert dropped(manifest) == [{"contradiction": 2}]
    assert manifest["pairs"] == 1


def test_a_pair_that_a_list_has_or_contradicts_goes_and_the_list_stays(tmp_path):
    pairs = [pair("p", "A", "B"), pair("p", "C", "A"), pair("p", "A", "D"), pair("other", "A", "B")]
    pairs += [pair("p", "B", "C", chosen_probability=0.5), pair("p", "A", "B", chosen_probability=0.5)]
    manifest = build(tmp_path, ("pairs", pairs), ("lists", [ranked("p", [1, 2, 2])]))
    assert dropped(manifest) == [
        {"duplicate_pair": 2, "contradiction": 1},
        {},
    ]  # A over B and the tie of B and C; C over A
    assert sum("ranks" in row for row in lines(tmp_path / "out")) == 1
    assert manifest["pairs"] == 4


def test_the_pairs_of_a_script_are_in_its_lists(tmp_path):
    path = tmp_path / "ultrafeedback.parquet"
    write(path, ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES)
    mixture = tmp_path / "mixture.yaml"
    source = "{script: ultrafeedback, name: %s, options: {pairs: %s, dataset_path: " + str(path) + "}}"
    sources = [source % (name, how) for name, how in (("pairs", "all_pairs"), ("lists", "lists"))]
    mixture.write_text("sources:\n" + "".join(f"  - {source}\n" for source in sources))
    manifest = build_mixture.build(
        build_mixture.ScriptArguments(str(mixture), str(tmp_path / "out"), format="jsonl", num_proc=1)
    )
    pairs, lists = manifest["sources"]
    in_lists = sum("ranks" in row for row in lines(tmp_path / "out"))
    assert in_lists == lists["mixed"]["labels"]["lists"] > 0
    # Two prompts have two answers: their lists are pairs, of which those of the first source stay.
    assert (pairs["pairs"], pairs["mixed"]["pairs"]) == (15, 2)  # 9 of A, 4 of B, one each of C and F
    assert dropped(manifest) == [{"duplicate_pair": 13}, {"duplicate_pair": 2}]
    assert lists["mixed"]["pairs"] == in_lists == 2


@pytest.mark.parametrize(
    ("ranks", "other", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], {"duplicate_pair": 1}),
        ([1, 2, 3], [10, 20, 30], {"duplicate_pair": 1}),
        ([1, 2, 2], [1, 2, 3], {}),  # the second prefers B, the first does not: no repetition
        ([1, 2, 3], [1, 3, 2], {}),  # two people who agree in part
        ([1, 2, 3], [3, 2, 1], {"contradiction": 2}),
        ([1, 2, 2], [2, 1, 1], {"contradiction": 2}),
    ],
)
def test_two_lists_of_the_same_answers(tmp_path, ranks, other, expected):
    shuffled = {"prompt": "p", "completions": ["C", "A", "B"], "ranks": [other[2], other[0], other[1]]}
    manifest = build(tmp_path, ("s", [ranked("p", ranks), shuffled, ranked("q", [1, 2, 3])]))
    assert dropped(manifest) == [expected]


def preferences_of(row):
    """What a row says of two answers each, as {(answers, which of them is better, 0.5 for a tie)}."""
    if "ranks" in row:
        found = zip(row["completions"], row["ranks"], strict=True)
        two = combinations(sorted(found), 2)
        return {(row["prompt"], a, b, 0.5 if i == j else float(i < j)) for (a, i), (b, j) in two}
    a, b = sorted((row["chosen"], row["rejected"]))
    better = 0.5 if row.get("chosen_probability") == 0.5 else float(row["chosen"] == a)
    return {(row["prompt"], a, b, better)}


def random_row(draw):
    prompt, answers = f"p{draw.randrange(12)}", draw.sample("ABCD", draw.choice([2, 2, 2, 3, 4]))
    if len(answers) == 2:
        return pair(prompt, *answers, **draw.choice([{}, {}, {"chosen_probability": 0.5}, {"chosen_probability": 0.8}]))
    ranks = [draw.randrange(1, 4) for _ in answers]
    return {"prompt": prompt, "completions": answers, "ranks": ranks if len(set(ranks)) > 1 else [1, *ranks[1:-1], 4]}


def test_what_is_dropped_against_the_slow_way(tmp_path):
    draw = random.Random(0)
    rows = [random_row(draw) for _ in range(150)]
    loaded = load_preference_dataset(str(write_rows(tmp_path / "rows.jsonl", rows)), num_proc=1)
    table = PairTable([("a", loaded.select(range(90))), ("b", loaded.select(range(90, 150)))])
    said = read_comparisons(table)
    everything, of_rows = np.ones(len(rows), dtype=bool), list(map(preferences_of, rows))
    # Lists come first, the longest at the head; then the earlier part; then labels, and what is written first.
    keys = [
        (-len(mine), place >= 90, row.get("chosen_probability", math.inf), said.written[place], place)
        for place, (mine, row) in enumerate(zip(of_rows, rows, strict=True))
    ]
    for within_parts in (False, True):
        repeated = duplicates(table, said, everything, within_parts=within_parts)
        for place, mine in enumerate(of_rows):
            others = [n for n in range(len(rows)) if not within_parts or (n >= 90) == (place >= 90)]
            before = set().union(*(of_rows[n] for n in others if keys[n] < keys[place]))
            assert repeated[place] == (mine <= before), rows[place]
        assert repeated.sum() > 20 and any("ranks" in rows[place] for place in np.flatnonzero(repeated))
    opposed = contradictions(said, everything)
    everything_said = set().union(*of_rows)
    for place, mine in enumerate(of_rows):
        strict = {(*two, 1 - better) for *two, better in mine if better != 0.5}
        assert opposed[place] == bool(strict and strict <= everything_said), rows[place]
    assert opposed.sum() > 20 and any("ranks" in rows[place] for place in np.flatnonzero(opposed))


# --- drawing, splitting, looking up -------------------------------------------------------------------------------


def shuffled_rows(seed):
    """`RICH` and the same again, in another order of rows and of the answers of lists, and with the ties turned."""
    draw = random.Random(seed)
    rows = [dict(row) for row in (*RICH, *RICH)]
    for row in rows[::2] if seed else []:
        if "ranks" in row:
            order = draw.sample(range(len(row["ranks"])), len(row["ranks"]))
            row |= {name: [row[name][place] for place in order] for name in ("completions", "ranks")}
        if row.get("chosen_probability") == 0.5:
            row |= {"chosen": row["rejected"], "rejected": row["chosen"]}
    return draw.sample(rows, len(rows))


def test_order_of_rows_and_of_answers_changes_nothing(tmp_path):
    rows = shuffled_rows(1)
    first = build(tmp_path, ("s", rows), output="first", seed=3)
    again = build(tmp_path, ("s", rows[::-1]), output="again", seed=3)
    other = build(tmp_path, ("s", rows), output="other", seed=4)
    contents = [manifest["written"]["train"]["content_sha256"] for manifest in (first, again, other)]
    assert contents[0] == contents[1] != contents[2]
    assert first["pairs"] == len(RICH) and dropped(first) == [{"duplicate_pair": len(RICH)}]
    prints = [manifest["sources"][0]["fingerprint"] for manifest in (first, again)]
    assert prints[0] == prints[1]


def test_a_tie_turned_round_has_the_same_fingerprint(tmp_path):
    rows = [pair("p", *answers, chosen_probability=0.5) for answers in ("AB", "BA")]
    one, two = (build(tmp_path, ("s", [row]), output=f"out{n}")["sources"][0] for n, row in enumerate(rows))
    assert one["fingerprint"] == two["fingerprint"]


@pytest.mark.parametrize(
    ("name", "value"), [("chosen_probability", 0.8), ("strength", 2), ("weight", 2), ("ranks", [1, 3, 2])]
)
def test_the_fingerprint_knows_every_label(tmp_path, name, value):
    row = ranked("p", [1, 2, 3]) if name == "ranks" else pair("p", "A", "B", chosen_probability=0.7)
    one, two = (
        build(tmp_path, ("s", [some]), output=f"out{len(some)}{n}") for n, some in enumerate((row, row | {name: value}))
    )
    assert one["sources"][0]["fingerprint"] != two["sources"][0]["fingerprint"]
    assert one["written"]["train"]["content_sha256"] != two["written"]["train"]["content_sha256"]


def test_what_the_manifest_counts(tmp_path):
    manifest = build(tmp_path, ("s", RICH), ("plain", [pair("hard", "yes", "no"), pair("q", "yes", "no")]))
    rich, plain = manifest["sources"]
    counts = {"lists": 5, "answers_in_lists": 23, "ties": 2, "soft_labels": 2, "strengths": 2, "weights": 2}
    assert rich["labels"] == rich["mixed"]["labels"] == counts
    assert rich["read"]["notes"]["rows read from pairs whose chosen_probability is below 0.5, turned round"] == 1
    assert plain["labels"] == plain["mixed"]["labels"] == {}
    assert (rich["pairs"], rich["mixed"]["pairs"], plain["mixed"]["pairs"]) == (12, 12, 1)
    shown = manifest_table(manifest)
    assert "s: 5 lists of ranked answers, 23 answers in lists, 2 ties, 2 rows with a chosen_probability" in shown
    assert "plain: 0" not in shown


def test_a_limit_and_a_weight_count_a_list_once(tmp_path):
    rows = [ranked(f"p{n}", [1, 2, 3, 4]) if n % 2 else pair(f"p{n}", "A", "B") for n in range(40)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    for given, expected in (("limit: 10", 10), ("weight: 0.25", 10), ("limit: 100", 40)):
        mixture = tmp_path / "mixture.yaml"
        mixture.write_text(f"sources:\n  - {{path: {path}, {given}}}\n")
        arguments = build_mixture.ScriptArguments(
            str(mixture), str(tmp_path / given[:5]), format="jsonl", num_proc=1, overwrite=True
        )
        manifest = build_mixture.build(arguments)
        assert manifest["pairs"] == expected
        assert 0 < manifest["sources"][0]["mixed"]["labels"]["lists"] < expected


def test_a_limit_per_prompt_counts_a_list_once(tmp_path):
    rows = [ranked("p", [1, 2, 3]), *(pair("p", "A", f"B{n}") for n in range(5)), ranked("q", [1, 2, 3, 4])]
    arguments = FileArguments(str(write_rows(tmp_path / "rows.jsonl", rows)), num_proc=1)
    limited = limit_pairs_per_prompt(read_file(arguments, PreferenceSource("s", None, licence="x")), 2, seed=0)
    assert limited.report.notes["pairs"] == len(limited.rows) == 3
    assert limited.report.dropped["beyond_prompt_limit"].count == 4


def test_a_prompt_is_held_out_with_all_its_lists_and_pairs(tmp_path):
    rows = [row for n in range(40) for row in (ranked(f"p{n}", [1, 2, 3]), pair(f"p{n}", "A", "D", weight=2))]
    manifest = build(tmp_path, ("s", rows), test_size=20, format="parquet")
    assert [part["pairs"] for part in manifest["written"].values()] == [60, 20]
    train, test = (standard(folder) for folder in (tmp_path / "out", tmp_path / "out" / "test"))
    prompts = [{row["prompt"] for row in part} for part in (train, test)]
    assert (len(prompts[0]), len(prompts[1])) == (30, 10) and not prompts[0] & prompts[1]
    assert [len(row["ranks"]) for row in test].count(3) == 10


def test_lists_are_decontaminated_by_their_prompt(tmp_path):
    long = " ".join(f"word{n}" for n in range(20))
    rows = [ranked("Who are you?", [1, 2, 3]), ranked(f"Say: {long}", [1, 2, 3]), ranked("Other", [1, 2, 3])]
    benchmark = write_rows(tmp_path / "benchmark.jsonl", [{"prompt": "who are you"}, {"prompt": f"{long} please"}])
    manifest = build(tmp_path, ("s", rows), decontaminate=str(benchmark))
    assert dropped(manifest) == [{"in_benchmark": 2}]
    (entry,) = manifest["decontamination"]
    assert entry["exact"] == entry["13_words"] == {"prompts": 1, "pairs": 1}
    (row,) = lines(tmp_path / "out")
    assert row["prompt"][0]["content"] == "Other"


def test_lists_are_benchmarks_too(tmp_path):
    benchmark = write_rows(tmp_path / "benchmark.jsonl", [ranked("Who are you?", [1, 2, 3])])
    manifest = build(
        tmp_path, ("s", [pair("who are you", "A", "B"), pair("p", "A", "B")]), decontaminate=str(benchmark)
    )
    assert dropped(manifest) == [{"in_benchmark": 1}]


def test_a_mixture_with_lists_and_labels_is_trained_on(tmp_path, gemma_folder):
    """Rows of each kind from files of their own, their test set evaluated, and every row counted."""
    kinds = ("lists", "soft", "ties")
    rows = {kind: [] for kind in kinds}
    for n in range(8):
        rows["lists"].append(ranked(f"list {n}", [2, 1, 3, 3], weight=2))
        rows["soft"].append(pair(f"soft {n}", "a good answer", "bad", chosen_probability=0.8, strength=n % 3 + 1))
        rows["ties"].append(pair(f"tie {n}", "one", "two", chosen_probability=0.5))
    build(tmp_path, *rows.items(), test_size=6, format="parquet")
    flags = {
        "model_name": gemma_folder,
        "train_set_path": tmp_path / "out",
        "eval_set_path": tmp_path / "out" / "test",
        "loss": "scaled",
        "max_length": 64,
        "max_steps": 2,
        "pairs_per_step": 8,
        "report_to": "none",
        "use_cpu": "true",
    }
    run = train(flags, tmp_path / "model")
    assert run.state["global_step"] == 2
    report = json.loads((tmp_path / "model" / "data_report.json").read_text())
    assert (report["train"]["kept"], report["eval"]["kept"]) == (18, 6)
    parts = [standard(folder) for folder in (tmp_path / "out", tmp_path / "out" / "test")]
    for part, notes in zip(parts, (report["train"]["notes"], report["eval"]["notes"]), strict=True):
        answers = sum(len(row["answers"]) for row in part)
        assert notes["answers in lists of more than two"] == answers > 0
        assert notes["rows that are ties"] == sum(row["chosen_probability"] == 0.5 for row in part) > 0


def test_votes_are_an_option_of_a_source(tmp_path):
    rows = [
        {"instruction": "p", "response1": "A", "response2": "B", "a1": "first", "a2": "first", "a3": "tie"},
        {"instruction": "q", "response1": "A", "response2": "B", "a1": "second", "a2": "second", "a3": "second"},
    ]
    columns = "prompt=instruction,chosen=response1,rejected=response2,preferred=a1+a2+a3"
    mixture = tmp_path / "mixture.yaml"
    options = f'options: {{columns: "{columns}", preferred_values: "first,second,tie"}}'
    mixture.write_text(f"sources:\n  - path: {write_rows(tmp_path / 'rows.jsonl', rows)}\n    {options}\n")
    build_mixture.build(build_mixture.ScriptArguments(str(mixture), str(tmp_path / "out"), format="jsonl", num_proc=1))
    found = {
        row["chosen"][0]["content"]: (row["chosen"][1]["content"], row["chosen_probability"])
        for row in lines(tmp_path / "out")
    }
    assert found == {"p": ("A", pytest.approx(5 / 6)), "q": ("B", 1.0)}
    mixture.write_text(mixture.read_text().replace("first,second,tie", "first,second"))
    with pytest.raises(UserError, match="--preferred_values: expected three different values"):
        read_mixture(str(mixture))


# --- the linter -----------------------------------------------------------------------------------------------------


@pytest.fixture
def linted(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "SAMPLES", 100)  # every pair is there to be read
    rows = [
        *RICH,
        pair("tie", "two", "one", chosen_probability=0.5),  # the tie again, turned round
        pair("soft", "no", "yes"),  # the opposite of a soft label
        {**ranked("list", [1, 3, 2, 3]), "completions": list("ABDC"), "ranks": [1, 3, 3, 2]},  # the list again
        ranked("list", [1, 3, 2]),  # its ends are those of the list before, but it is another one
        pair("scored tie", "a", "b", chosen_probability=0.5, chosen_score=1, rejected_score=1),
        pair("long tie", "a", "b" * 50, chosen_probability=0.5, chosen_score=1, rejected_score=2),
    ]
    return lint(str(write_rows(tmp_path / "rows.jsonl", rows)))


def test_the_linter_counts_labels(linted, tmp_path):
    labels = linted["labels"]
    counts = {name: part["rows"] for name, part in labels.items() if name != "numbers"}
    assert counts == {"lists": 7, "lists_with_ties": 3, "ties": 5, "soft": 2, "strength": 2, "weight": 2}
    assert labels["lists"]["first"].endswith("rows.jsonl:7") and labels["ties"]["first"].endswith("rows.jsonl:4")
    numbers = labels["numbers"]
    assert (numbers["answers"]["min"], numbers["answers"]["max"], numbers["answers"]["rows"]) == (3, 9, 7)
    assert numbers["answers"]["mean"] == pytest.approx(30 / 7)
    assert (numbers["chosen_probability"]["rows"], numbers["chosen_probability"]["max"]) == (7, 0.75)
    assert (numbers["strength"]["max"], numbers["weight"]["min"]) == (3, 0.1)
    parts = {
        name: (linted[name]["pairs"], linted[name]["first"].rpartition(":")[2])
        for name in ("duplicates", "contradictions")
    }
    assert parts == {"duplicates": (2, "13"), "contradictions": (2, "2")}


def test_ties_prefer_nothing(linted):
    scores, characters = linted["scores"], linted["rules"]["characters"]
    assert (scores["pairs"], scores["equal"], scores["rejected_higher"]) == (3, 0, 0)
    assert characters["accuracy"]["rows"] == linted["rows"]["kept"] - 5
    assert not {finding["check"] for finding in linted["findings"]} & {"equal_scores", "rejected_higher"}


def test_the_linter_says_what_of_a_list_it_looks_at(linted):
    shown, page = summary_text(linted), lint_page(linted)
    for words in (
        "18 rows read, 18 kept (7 of them lists of ranked answers)",
        "Do the pairs agree with each other; of a list: its best and its worst answer",
        "ties left out; of a list: its best and its worst answer",
    ):
        assert words in shown
    assert re.search(r"lists with equal ranks +3 ", shown) and re.search(r"answers of a list +4\.29 +3 ", shown)
    assert "best of 9" in page and "one of a tie" in page and "strength 3, weight 0.1" in page


def test_a_set_of_pairs_alone_reads_as_before(tmp_path):
    found = lint(str(write_rows(tmp_path / "rows.jsonl", [pair("p", "yes", "no"), pair("q", "yes", "no")])))
    shown = summary_text(found)
    assert "2 rows read, 2 kept, 2 prompts" in shown and "one half" not in shown and "of a list" not in shown


def test_the_script_of_the_linter_reads_votes(tmp_path, monkeypatch):
    rows = [{"prompt": "p", "chosen": "A", "rejected": "B", "vote": vote} for vote in ("A", "tie")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ["--columns", "preferred=vote", "--preferred_values", "A,B,tie", "--num_proc", "1"]
    monkeypatch.setattr("sys.argv", ["data_prep/lint.py", str(path), *flags, "--output_path", str(tmp_path / "report")])
    lint_script.main()
    assert json.loads((tmp_path / "report" / "lint.json").read_text())["labels"]["ties"]["rows"] == 1
