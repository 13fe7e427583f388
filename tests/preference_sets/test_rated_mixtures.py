"""Mixtures of sets that rate their answers: what is joined, what stays apart, what is left out. Counted by hand."""

import math
import random
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import write_rows
from test_data_prep_answers import HELPSTEER_FEATURES, ULTRAFEEDBACK_FEATURES, completion, instruction, rated, write
from test_mixtures import pair
from test_rated_sets import written

from data_prep import armorm_ratings, build_mixture
from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.mixture import read_mixture
from reward_modeling.preference_sets.rated_manifest import rated_manifest_table
from reward_modeling.preference_sets.rated_mixing import join_answers, prompts_left_out

pytestmark = pytest.mark.usefixtures("own_cache")

HELPSTEER = [rated("A", "a1", 4, 4), rated("A", "a2", 2, 3), rated("B", "b1", 1, 1), rated("C", "c1", 3, 3)]
ULTRAFEEDBACK = [
    instruction("A", completion("a1", 4.0, overall=8.0), completion("a3", 4.0, overall=7.0)),
    instruction("D", completion("d1", 4.0, overall=3.0)),
]
OWN = [
    {"prompt": "A", "response": " a1\n", "helpfulness": 4, "kindness": 1},  # agrees with HelpSteer
    {"prompt": "A", "response": "a2", "helpfulness": 1, "kindness": 3},  # does not
    {"prompt": "E", "response": "e1", "kindness": 5},
]


def build(tmp_path, sources, output="out", **flags):
    """Build a mixture of such sources; returns the manifest."""
    mixture = tmp_path / f"{output}.yaml"
    mixture.write_text("name: rated\nsources:\n" + "".join(f"  - {one}\n" for one in sources))
    flags = {"mixture": str(mixture), "output_path": str(tmp_path / output), "format": "jsonl", "num_proc": 1} | flags
    return build_mixture.build(build_mixture.ScriptArguments(**flags))


FILES = {"helpsteer": "helpsteer.parquet", "ultrafeedback": "uf.parquet"}


@pytest.fixture
def three(tmp_path):
    """HelpSteer, UltraFeedback and a file, as entries of a mixture."""
    helpsteer = write(tmp_path / FILES["helpsteer"], HELPSTEER, HELPSTEER_FEATURES)
    ultrafeedback = write(tmp_path / FILES["ultrafeedback"], ULTRAFEEDBACK, ULTRAFEEDBACK_FEATURES)
    own = write_rows(tmp_path / "own.jsonl", OWN)
    return [
        f"{{script: helpsteer, options: {{rows: ratings, dataset_path: {helpsteer}}}}}",
        "{script: ultrafeedback, options: "
        f"{{rows: ratings, attribute_prefix: ultrafeedback-, dataset_path: {ultrafeedback}}}}}",
        f"{{path: {own}, options: {{attributes: 'helpfulness, kindness'}}}}",
    ]


def answers_in(folder):
    """(prompt, answer) -> the rows that have it: source and the ratings that there are."""
    found = {}
    for row in written(folder):
        *_, prompt, answer = (message["content"].strip() for message in row.pop("messages"))
        known = {name: value for name, value in row.items() if value is not None}
        found.setdefault((prompt, answer), []).append(known)
    return {key: sorted(rows, key=str) for key, rows in found.items()}


FIVE = {"coherence": 4, "complexity": 2, "verbosity": 1}


def test_attributes_are_united_and_answers_joined(three, tmp_path):
    manifest = build(tmp_path, three)
    overall = "ultrafeedback-overall_score"
    flan = {"source": "ultrafeedback/flan_v2_cot"}
    a1 = {"source": "helpsteer", "helpfulness": 4, "correctness": 4, **FIVE, overall: 8, "kindness": 1}
    assert answers_in(tmp_path / "out") == {
        ("A", "a1"): [a1],
        ("A", "a2"): [
            {"source": "helpsteer", "helpfulness": 2, "correctness": 3, **FIVE},
            {"source": "own", "helpfulness": 1, "kindness": 3},
        ],
        ("A", "a3"): [{**flan, overall: 7}],
        ("B", "b1"): [{"source": "helpsteer", "helpfulness": 1, "correctness": 1, **FIVE}],
        ("C", "c1"): [{"source": "helpsteer", "helpfulness": 3, "correctness": 3, **FIVE}],
        ("D", "d1"): [{**flan, overall: 3}],
        ("E", "e1"): [{"source": "own", "kindness": 5}],
    }
    # every row has every column
    names = ["helpfulness", "correctness", "coherence", "complexity", "verbosity", overall, "kindness"]
    assert {tuple(row) for row in written(tmp_path / "out")} == {("messages", "source", *names)}
    assert (manifest["rows"], manifest["answers"]) == ("ratings", 8)
    mixed = {source["name"]: source["mixed"] for source in manifest["sources"]}
    assert {name: part["answers"] for name, part in mixed.items()} == {"helpsteer": 4, "ultrafeedback": 2, "own": 2}
    assert {name: {reason: one["rows"] for reason, one in part["dropped"].items()} for name, part in mixed.items()} == {
        "helpsteer": {},
        "ultrafeedback": {"joined": 1},
        "own": {"joined": 1},
    }
    differently = "answers that an earlier source rates differently"
    assert {name: part["noted"] for name, part in mixed.items()} == {
        "helpsteer": {differently: 0},
        "ultrafeedback": {differently: 0},
        "own": {differently: 1},
    }
    assert mixed["helpsteer"]["rated"] == {**dict.fromkeys(names[:5], 4), overall: 1, "kindness": 1}
    assert {name: entry["rated"] for name, entry in manifest["attributes"].items()} == dict(
        zip(names, [5, 4, 4, 4, 4, 3, 3], strict=True)
    )
    scales = {name: entry["scale"] for name, entry in manifest["attributes"].items()}
    # own does not say its scale of helpfulness
    assert scales == {names[0]: None, **{key: [0.0, 4.0] for key in names[1:5]}, overall: [1.0, 10.0], "kindness": None}
    shown = rated_manifest_table(manifest)
    assert "helpfulness: helpsteer 1 to 4 (mean 2.500), own 1 to 4 (mean 2.500, scale not known)" in shown
    assert (
        "WARNING: helpfulness: the scale is 0 to 4 in helpsteer, and not known of own (ratings from 1 to 4)." in shown
    )
    assert shown.count("WARNING") == 1 and "another scale" not in shown
    assert "own: answers that an earlier source rates differently 1" in shown
    assert "an earlier source has the answer, and takes its ratings  1" in shown


def test_the_shipped_mixture_has_objectives_of_armorm(three, tmp_path):
    paths = ",".join(f"{name}={tmp_path / file}" for name, file in FILES.items())
    flags = {"mixture": "ratings", "source_paths": paths, "output_path": str(tmp_path / "out"), "num_proc": 1}
    manifest = build_mixture.build(build_mixture.ScriptArguments(**flags))
    rated_on = armorm_ratings.ATTRIBUTES[:10]
    names = [name for name in rated_on if not name.startswith("ultrafeedback") or name.endswith("overall_score")]
    assert list(manifest["attributes"]) == names  # the fixture's aspects are all "N/A"
    assert list(manifest["sources"][1]["attributes"]) == list(rated_on[5:])
    assert manifest["answers"] == 6  # one answer is in both


def test_the_first_source_has_the_row(three, tmp_path):
    build(tmp_path, three[::-1])
    rows = answers_in(tmp_path / "out")
    assert rows[("A", "a1")][0]["source"] == "own"
    assert len(rows[("A", "a1")]) == 1


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_nothing_depends_on_order_format_or_workers(three, file_format, tmp_path):
    rows = [rated(f"q{n % 40}", f"a{n % 7}", n % 5, (n // 3) % 5, verbosity=n % 3) for n in range(400)]
    found = []
    for number, order in enumerate(([*range(400)], random.Random(0).sample(range(400), 400))):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        path = write(folder / "train.jsonl", [rows[place] for place in order], None)
        sources = [f"{{script: helpsteer, options: {{rows: ratings, dataset_path: {path}}}}}", *three[1:]]
        flags = {"num_proc": number + 1, "format": file_format, "test_size": 30}
        found.append(build(tmp_path, sources, output=f"out{number}", **flags))
    first, other = found
    assert other["written"] == first["written"]  # the sha256 of every file
    assert other["attributes"] == first["attributes"]
    assert [one["fingerprint"] for one in other["sources"]] == [one["fingerprint"] for one in first["sources"]]
    if file_format == "parquet":
        lines = build(tmp_path, sources, output="lines", test_size=30)
        content = {split: part["content_sha256"] for split, part in lines["written"].items()}
        assert content == {split: part["content_sha256"] for split, part in first["written"].items()}
        table = pq.read_table(tmp_path / "out0" / "train-00000-of-00001.parquet")
        assert table.to_pylist() == written(tmp_path / "lines")
    another = build(tmp_path, sources, output="seeded", seed=1, format=file_format, test_size=30)
    assert another["written"] != first["written"]
    changed = [{**rows[0], "helpfulness": 4 - rows[0]["helpfulness"]}, *rows[1:]]
    path = write(tmp_path / "changed.jsonl", changed, None)
    sources[0] = f"{{script: helpsteer, options: {{rows: ratings, dataset_path: {path}}}}}"
    assert build(tmp_path, sources, output="changed")["sources"][0]["fingerprint"] != first["sources"][0]["fingerprint"]


def test_no_prompt_is_on_both_sides(tmp_path):
    rows = [rated(f"question {n % 50}", f"answer {n}", n % 5, n % 5) for n in range(300)]
    path = write(tmp_path / "train.jsonl", rows, None)
    manifest = build(
        tmp_path, [f"{{script: helpsteer, options: {{rows: ratings, dataset_path: {path}}}}}"], test_size=60
    )
    train, test = (
        {row["messages"][0]["content"] for row in written(folder)}
        for folder in (tmp_path / "out", tmp_path / "out" / "test")
    )
    assert not train & test and len(train | test) == 50
    assert manifest["written"]["test"]["answers"] == 60 and manifest["written"]["train"]["answers"] == 240


def test_limit_and_weight_take_whole_prompts(tmp_path):
    rows = [rated(f"question {n % 50}", f"answer {n}", n % 5, n % 5) for n in range(200)]
    path = write(tmp_path / "train.jsonl", rows, None)
    source = f"script: helpsteer, options: {{rows: ratings, dataset_path: {path}}}"
    for share, most in (("limit: 41", 40), ("weight: 0.25", 48), ("weight: 0.25, limit: 8", 8)):
        manifest = build(tmp_path, [f"{{{source}, {share}}}"], output=share.replace(": ", "").replace(", ", ""))
        (mixed,) = [one["mixed"] for one in manifest["sources"]]
        assert mixed["answers"] == most
        assert mixed["answers_per_prompt"] == {"4": most // 4}
        assert mixed["dropped"]["not_sampled"]["rows"] == 200 - most


def test_prompts_of_benchmarks_go(three, tmp_path):
    benchmark = write_rows(tmp_path / "bench.jsonl", [{"prompt": "a"}, {"prompt": "E!"}, {"prompt": "other"}])
    manifest = build(tmp_path, three, decontaminate=str(benchmark))
    assert {prompt for prompt, _ in answers_in(tmp_path / "out")} == {"B", "C", "D"}
    dropped = [source["mixed"]["dropped"]["in_benchmark"]["rows"] for source in manifest["sources"]]
    assert dropped == [2, 2, 3]
    (entry,) = manifest["decontamination"]
    assert entry["exact"] == {"prompts": 2, "answers": 7}
    assert entry["examples"][0]["words"] in ("a", "e")


def test_a_folder_of_ratings_says_what_it_is(three, tmp_path):
    """Its manifest names the attributes and their scales."""
    build(tmp_path, three, output="first")
    new = write(tmp_path / "new.jsonl", [rated("Z", "z1", 0, 0)], None)
    helpsteer = f"{{script: helpsteer, options: {{rows: ratings, dataset_path: {new}}}}}"
    manifest = build(tmp_path, [f"path: {tmp_path / 'first'}", helpsteer], output="second")
    rows, before = answers_in(tmp_path / "second"), answers_in(tmp_path / "first")
    assert rows.pop(("Z", "z1")) == [{"source": "helpsteer", "helpfulness": 0, "correctness": 0, **FIVE}]
    # one source: an answer that stands in it twice is one, with the mean
    assert rows.pop(("A", "a2"))[0]["helpfulness"] == 1.5
    assert rows == {key: value for key, value in before.items() if key != ("A", "a2")}
    assert manifest["attributes"]["kindness"]["scale"] is None
    assert manifest["attributes"]["ultrafeedback-overall_score"]["scale"] == [1.0, 10.0]
    chosen = f"{{path: {tmp_path / 'first'}, name: some, options: {{attributes: kindness, attribute_prefix: own-}}}}"
    assert list(build(tmp_path, [chosen], output="third")["attributes"]) == ["own-kindness"]


# --- mistakes ---------------------------------------------------------------------------------------------------


def test_attributes_of_one_name_on_different_scales(three, tmp_path):
    sources = [three[0], three[1].replace("attribute_prefix: ultrafeedback-, ", "")]
    message = (
        "helpfulness: expected one scale in all sources, found 0 to 4 in helpsteer and 1 to 5 in ultrafeedback. "
        r"Keep them apart, as in the options of ultrafeedback: \{attribute_prefix: ultrafeedback-\}"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path, sources)
    assert not (tmp_path / "out").exists()


def of_own(tmp_path, *ratings, options="attributes: helpfulness", name="own"):
    """A file with such ratings of helpfulness, as an entry of a mixture."""
    rows = [{"prompt": f"o{n}", "response": "o", "helpfulness": rating} for n, rating in enumerate(ratings)]
    return f"{{path: {write_rows(tmp_path / f'{name}.jsonl', rows)}, options: {{{options}}}}}"


def test_ratings_beyond_the_scale_of_another_source(three, tmp_path):
    message = (
        "helpfulness: expected one scale in all sources, found 0 to 4 in helpsteer and ratings from 0 to 97.5 in own, "
        r"whose scale is not known. Keep them apart, as in the options of own: \{attribute_prefix: own-\}"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path, [three[0], of_own(tmp_path, 0, 97.5)])
    assert not (tmp_path / "out").exists()
    apart = of_own(tmp_path, 0, 97.5, options="attributes: helpfulness, attribute_prefix: own-")
    manifest = build(tmp_path, [three[0], apart])
    found = {name: manifest["attributes"][name]["scale"] for name in ("helpfulness", "own-helpfulness")}
    assert found == {"helpfulness": [0.0, 4.0], "own-helpfulness": None}
    assert "WARNING" not in rated_manifest_table(manifest)


def test_ratings_that_take_little_of_the_scale_of_another_source(tmp_path):
    """As those of ArmoRM's set, from 0.1 to 0.9, beside the same ratings from 0 to 4."""
    rows = write(tmp_path / "helpsteer.jsonl", HELPSTEER, None)
    helpsteer = f"{{script: helpsteer, options: {{rows: ratings, attribute_prefix: helpsteer-, dataset_path: {rows}}}}}"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    merged = [
        {"messages": [messages[0], {**messages[1], "content": f"{n}"}], "helpsteer-helpfulness": rating}
        for n, rating in enumerate((0.1, 0.9))
    ]
    merged = f"{{script: armorm_ratings, options: {{dataset_path: {write_rows(tmp_path / 'merged.jsonl', merged)}}}}}"
    manifest = build(tmp_path, [merged, helpsteer])
    assert manifest["attributes"]["helpsteer-helpfulness"]["scale"] is None
    assert manifest["attributes"]["helpsteer-correctness"]["scale"] == [0.0, 4.0]
    (warning,) = [line for line in rated_manifest_table(manifest).splitlines() if "WARNING" in line]
    assert warning == (
        "WARNING: helpsteer-helpfulness: the scale is 0 to 4 in helpsteer, and not known of armorm_ratings (ratings "
        "from 0.1 to 0.9). So that of the mixture is not known. Ratings of armorm_ratings take less than half of 0 to "
        "4: they look like ratings on another scale. If they are, keep them apart, as in the options of helpsteer: "
        "{attribute_prefix: own-helpsteer-}."
    )


def test_a_folder_that_is_not_on_its_scale(three, tmp_path):
    build(tmp_path, three[:1], output="first")
    file = tmp_path / "first" / "train-00000-of-00001.jsonl"
    file.write_text(file.read_text().replace('"helpfulness": 4.0', '"helpfulness": 40.0'))
    message = (
        "first: helpfulness: expected ratings from 0 to 4, the scale that manifest.json says, found 1 to 40. "
        "Write the folder anew"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path, [f"path: {tmp_path / 'first'}"], output="second")


def test_an_attribute_that_no_row_of_a_file_has(three, tmp_path):
    own = three[2].replace("helpfulness, kindness", "helpfulness, kindnes")
    message = (
        r"own: attributes: expected ratings of each, found none of kindnes; did you mean kindness\? Columns that are "
        r"not read: kindness\. Leave them out"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path, [three[0], own])
    # nothing can be used of such a file, beside a source that has answers
    with pytest.raises(UserError, match=r"own: attributes: expected ratings of each, found none of honesty"):
        build(tmp_path, [three[0], three[2].replace("'helpfulness, kindness'", "honesty")])
    rows = [{"prompt": "p", "response": "r", "ratings": {"calm": 1, "kind": 2}}]
    inner = f"{{path: {write_rows(tmp_path / 'inner.jsonl', rows)}, options: {{attributes: 'calm, kid'}}}}"
    with pytest.raises(UserError, match=r"found none of kid; did you mean kind\? Columns that are not read: kind\."):
        build(tmp_path, [inner])


@pytest.mark.parametrize(
    ("prefix", "name", "column"), [("res", "ponse", "response"), ("sou", "rce", "source"), ("to", "ols", "tools")]
)
def test_a_prefix_that_makes_the_name_of_another_column(prefix, name, column, tmp_path):
    path = write_rows(tmp_path / "own.jsonl", [{"prompt": "p", "response": "r", name: 1}])
    own = f"{{path: {path}, options: {{attributes: {name}, attribute_prefix: {prefix}}}}}"
    with pytest.raises(UserError, match=f"attribute_prefix '{prefix}': .* {name} becomes {column}, a column that is"):
        build(tmp_path, [own])


def test_pairs_and_ratings_do_not_mix(three, tmp_path):
    path = write_rows(tmp_path / "pairs.jsonl", [pair("p", "a", "b")])
    prefixed = f"{{path: {path}, options: {{attribute_prefix: own-}}}}"
    with pytest.raises(UserError, match="pairs: attribute_prefix: expected with ratings, found pairs"):
        build(tmp_path, [prefixed])
    with pytest.raises(UserError) as caught:
        build(tmp_path, [*three, f"path: {path}"])
    assert str(caught.value) == (
        "rated: expected either pairs, which rm.py reads, or ratings, which rm_regression.py reads, found ratings of "
        "helpsteer, ultrafeedback, own and pairs of pairs. Make two mixtures, or write ratings where a script can: "
        "options: {rows: ratings}"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{script: shp, options: {rows: ratings}}", "option rows: expected with a set that has pairs and ratings"),
        ("{script: helpsteer, options: {rows: rating}}", "--rows: expected one of pairs, ratings, found 'rating'"),
        ("{path: org/own, options: {attributes: ' ,'}}", "attributes: expected the columns of ratings, found none"),
        ("{path: org/own, options: {attributes: 'a,prompt'}}", "attributes: expected columns of ratings, found prompt"),
        (
            "{path: org/own, options: {attributes: a, attribute_prefix: 'x,'}}",
            "attribute_prefix: .* found a comma in 'x,'",
        ),
        ("{path: org/own, options: {attributes: a, attribute_prefix: 'x='}}", "attribute_prefix: .* found = in 'x='"),
        (
            "{script: helpsteer, options: {rows: ratings, attribute_prefix: ' a,='}}",
            "--attribute_prefix: .* found a comma and = and white space at its beginning",
        ),
        ("{path: org/own, options: {attributes: 'a,b,a'}}", "attributes: expected each attribute once, found a twice"),
    ],
)
def test_wrong_options(source, message, tmp_path):
    (tmp_path / "wrong.yaml").write_text(f"sources: [{source}]\n")
    with pytest.raises(UserError, match=message):
        read_mixture(str(tmp_path / "wrong.yaml"))


def test_a_file_that_has_no_such_rows(tmp_path):
    path = write_rows(tmp_path / "pairs.jsonl", [pair("p", "a", "b")])
    with pytest.raises(
        UserError, match=r"expected columns prompt and response in .*accepted rows: messages, or prompt"
    ):
        build(tmp_path, [f"{{path: {path}, options: {{attributes: kindness}}}}"])
    path = write_rows(tmp_path / "own.jsonl", OWN)
    with pytest.raises(UserError, match=r"Of rows of ratings name the columns: options: \{attributes: NAME\}"):
        build(tmp_path, [f"path: {path}"])
    with pytest.raises(UserError, match=r"(?s)own: attributes: .* found none of honesty\..*its numbers: helpfulness"):
        build(tmp_path, [f"{{path: {path}, options: {{attributes: honesty}}}}"])
    (tmp_path / "folder").mkdir()
    write_rows(tmp_path / "folder" / "train.jsonl", OWN)
    (tmp_path / "folder" / "manifest.json").write_text('{"rows": "ratings"}')
    with pytest.raises(UserError, match=r"manifest.json: expected what data_prep wrote, found it broken"):
        build(tmp_path, [f"path: {tmp_path / 'folder'}"])


# --- references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_joining_against_brute_force(seed):
    draw = random.Random(seed)
    count = 150
    keys = np.array([draw.randrange(40) for _ in range(count)])
    values = np.array([[draw.choice([math.nan, math.nan, 1.0, 2.0]) for _ in range(4)] for _ in range(count)])
    among = np.array([draw.random() < 0.8 for _ in range(count)])
    joined_values, joined, apart = join_answers(keys, values, among)
    heads = {}
    expected, was_joined, was_apart = [dict(enumerate(row)) for row in values.tolist()], set(), set()
    for row in np.flatnonzero(among):
        known = {place: value for place, value in enumerate(values[row].tolist()) if not math.isnan(value)}
        for head in heads.setdefault(int(keys[row]), []):
            has = {place: value for place, value in expected[head].items() if not math.isnan(value)}
            if all(has.get(place, value) == value for place, value in known.items()):
                expected[head] |= known
                was_joined.add(int(row))
                break
        else:
            if heads[int(keys[row])]:
                was_apart.add(int(row))
            heads[int(keys[row])].append(int(row))
    assert set(np.flatnonzero(joined)) == was_joined and len(was_joined) > 15
    assert set(np.flatnonzero(apart)) == was_apart and len(was_apart) > 15
    kept = among & ~joined
    np.testing.assert_array_equal(joined_values[kept], [[*expected[row].values()] for row in np.flatnonzero(kept)])
    np.testing.assert_array_equal(joined_values[~kept], values[~kept])


def test_a_seed_draws_other_prompts():
    parts, prompts = np.zeros(400, dtype=np.int64), np.arange(400) % 100
    among = np.ones(400, dtype=bool)
    drawn = [np.flatnonzero(~prompts_left_out(parts, prompts, among, [(1.0, 40)], seed)) for seed in (0, 1, 2)]
    assert all(len(one) == 40 and len(set(prompts[one])) == 10 for one in drawn)
    assert all((one != other).any() for one, other in pairwise(drawn))
