"""The linter against sets made by hand, whose every number was counted by hand."""

import itertools
import json
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import lint as lint_script
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.intervals import wilson_interval
from reward_modeling.preference_sets.lint.findings import LEVELS, LIMITS, findings
from reward_modeling.preference_sets.lint.pair_checks import (
    counted,
    distribution,
    length_histogram,
    preference_graph,
    single_rule,
    strong_components,
)
from reward_modeling.preference_sets.lint.report import check_output, lint_page, write_output
from reward_modeling.preference_sets.lint.summary import RULES, lint
from reward_modeling.preference_sets.lint.tables import summary_text
from reward_modeling.preference_sets.lint.text_measures import ending, is_refusal, measure

ROOT = Path(__file__).parents[2]
HOSTILE = '</pre></div><script>alert("x")</script><img src=x onerror=alert(1)>&amp;\u202e"\' $\\frac{1}{2}$'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pair(prompt, chosen, rejected, **extra):
    asked = [{"role": "user", "content": prompt}]
    sides = {"chosen": chosen, "rejected": rejected}
    return {side: [*asked, {"role": "assistant", "content": text}] for side, text in sides.items()} | extra


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lint_rows(tmp_path, rows, **options):
    return lint(write(tmp_path / "pairs.jsonl", rows), **options)


def found(summary):
    return {(one["check"], one["level"]) for one in summary["findings"]}


# --- texts --------------------------------------------------------------------------------------------------------


def test_measures_of_a_text_by_hand():
    text = "# Plan\n\n1. **One** and `x`?\n- two!\n```\n# no heading\n- no item\n```\nDone 42."
    assert measure(text) == {
        "characters": 74,
        "words": 18,
        "lines": 9,
        "headings": 1,
        "items": 2,
        "bold": 1,
        "code": 2,
        "digits": 3,
        "questions": 1,
        "exclamations": 1,
        "refusal": 0,
        "unfinished": 0,
        "cut": 0,
        "marks": 0,
    }


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("#hashtag\n####### seven", {"headings": 0}),
        ("## Two\n  ### Three", {"headings": 2}),
        ("-5 degrees\n- 5 degrees\n* a\n+ b\n\t\u2022 c\n12) d\n2024. Was good\n3.14 is pi", {"items": 5}),
        ("**a** **b**\n**not\nthis** 2**3", {"bold": 2}),
        ("__init__ is bold here", {"bold": 1}),
        ("`a` and ``b`` and `c\nd`", {"code": 1}),
        ("```\ncode", {"code": 1, "cut": 1}),
    ],
)
def test_markdown(text, marks):
    measured = measure(text)
    assert {name: measured[name] for name in marks} == marks


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Fine.<|im_end|>", 1),
        ("Fine.</s><s>[INST] And? [/INST]", 4),
        ("<start_of_turn>user\nHow?<end_of_turn>\n<eos>", 3),
        ("<\uff5cAssistant\uff5c>Fine.<\uff5cend\u2581of\u2581sentence\uff5c>", 2),
        ("<<SYS>>\nBe kind.\n<</SYS>>", 2),
        ("[CLS] a [SEP] b", 2),
        ("a <b>bold</b> word, x < y | z > 0, [a list][0], <s>struck</s>", 2),
        ("if a <| b |> c: [INSTANCE] <start> <p>", 0),
    ],
)
def test_marks_of_chat_templates(text, count):
    assert measure(text)["marks"] == count


def marked(tmp_path, chosen: int, rejected: int, of: int = 200):
    rows = [
        pair(
            f"Question {number}?",
            f"One answer to {number}." + "<|im_end|>" * (number < chosen),
            f"Another answer to {number}." + "<|im_end|>" * (of - rejected <= number),
        )
        for number in range(of)
    ]
    summary = lint_rows(tmp_path, rows)
    return {(check, level) for check, level in found(summary) if check.startswith("marks")}, summary


def test_marks_on_one_side_are_serious_and_even_ones_a_note(tmp_path):
    serious, summary = marked(tmp_path, 0, 70)
    assert serious == {("marks", "note"), ("marks_of_a_side", "serious")}
    assert summary["replies"]["rejected"]["first_marks"].endswith(":131")
    first = summary["findings"][0]
    assert first["check"] == "marks_of_a_side"
    assert "Of 70 pairs" in first["message"] and "0.0% prefer it" in first["message"]
    assert ("marks_of_a_side", "serious") in marked(tmp_path, 70, 0)[0]
    assert marked(tmp_path, 70, 66)[0] == {("marks", "note")}
    assert marked(tmp_path, 0, 2)[0] == {("marks", "note")}  # two coins that fall alike
    assert marked(tmp_path, 0, 0)[0] == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The moon is far away from us, and the sun is farther.", (False, False)),
        ("Paris", (False, False)),  # short
        ("The moon is far away from us and the sun is farther", (True, False)),
        ("The moon is far away from us and the sun, which is farther,", (True, True)),
        ("The moon is far away from us and the sun is even farther than the", (True, True)),
        ("These planets are known to everybody:\n- Mars\n- Venus", (False, False)),
        ("| planet | distance |\n|---|---|\n| Mars and its moons | far |", (False, False)),
        ("You will find all of it on this page: https://example.org/moon", (False, False)),
        ("He said it was far away, and that is \u201cvery far indeed\u201d", (False, False)),
        ("That was all that there is to say about it.\n----------", (False, False)),
        ("Here is the code that you asked for:\n```python\nprint(1)\n```", (False, False)),
        ("Here is the code that you asked for:\n```python\nprint(1)", (True, True)),
        ("   ", (False, False)),
    ],
)
def test_endings(text, expected):
    assert ending(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m afraid I cannot\nassist you there.", True),
        ("As an AI language model, I don't have opinions.", True),
        ("I must respectfully decline.", True),
        ("I'm unable to provide that.", True),
        ("I am not comfortable with this.", True),
        ('"I Can\'t Tell You Why" is a song by the Eagles.', False),
        ("I can't believe how far away the moon is!", False),
        ("Sure! I can help with that.", False),
        ("They could not help.", False),
        ("x" * 300 + " I cannot help with that.", False),  # not the opening
    ],
)
def test_refusals(text, expected):
    assert is_refusal(text) is expected


# --- numbers --------------------------------------------------------------------------------------------------------


def test_distribution_and_groups_by_hand():
    figures = distribution([4, 1, 3, 2])
    quantiles = {"p1": 1, "p5": 1, "p25": 1, "median": 2, "p75": 3, "p95": 4, "p99": 4}
    assert figures == {"rows": 4, "mean": 2.5, "min": 1, **quantiles, "max": 4}
    assert distribution([])["median"] is None
    assert counted([1, 1, 2, 5, 9], (1, 3, 5)) == {"1": 2, "2-3": 1, "4-5": 1, "6+": 1}
    assert counted([], (1, 3)) == {"1": 0, "2-3": 0, "4+": 0}


def test_histogram_counts_everything_once():
    columns = [np.array([0, 1, 7, 7, 4000]), np.array([3]), np.array([], dtype=int)]
    histogram = length_histogram(columns)
    edges = np.array(histogram["edges"])
    assert (np.diff(edges) > 0).all() and edges[0] == 0 and edges[-1] == 4001
    assert [sum(counts) for counts in histogram["counts"]] == [5, 1, 0]
    assert length_histogram([np.array([], dtype=int)])["counts"] == [[]]
    assert sum(length_histogram([np.array([0, 0])])["counts"][0]) == 2


def test_rule_by_hand():
    rule = single_rule([3, 1, 1, 5, 2], [1, 2, 4, 5, 9])  # greater wins 1, smaller 3, one tie
    greater, accuracy = rule["greater_preferred"], rule["accuracy"]
    assert (greater["right"], greater["rows"]) == (1, 4)
    assert (greater["low"], greater["high"]) == wilson_interval(1, 4)
    assert (accuracy["right"], accuracy["rows"], accuracy["ties"]) == (3.5, 5, 1)
    assert rule["takes"] == "smaller"
    assert single_rule([], [])["accuracy"]["value"] is None


def graph_of(pairs, prompts=None):
    better, worse = (np.array([one[side] for one in pairs], dtype=np.int64) for side in (0, 1))
    return preference_graph(np.array(prompts or [7] * len(pairs), dtype=np.int64), better, worse)


@pytest.mark.parametrize(
    ("pairs", "repeated", "contradicted", "in_cycle", "knots"),
    [
        ([(1, 2), (2, 3), (1, 3)], "000", "000", "000", ()),
        ([(1, 2), (2, 3), (3, 1)], "000", "000", "111", (3,)),
        ([(1, 2), (2, 1), (1, 2)], "001", "111", "000", ()),
        ([(1, 2), (2, 1), (2, 3), (3, 2)], "0000", "1111", "0000", ()),  # a tree of contradictions
        ([(1, 2), (2, 1), (2, 3), (3, 1)], "0000", "1100", "1111", (3,)),
        ([(1, 2), (2, 3), (3, 4), (4, 1), (1, 5), (1, 1)], "000000", "000000", "111100", (4,)),
        ([(1, 2), (2, 3), (3, 1), (3, 4), (4, 5), (5, 6), (6, 4)], "0000000", "0000000", "1110111", (3, 3)),
        ([], "", "", "", ()),
    ],
)
def test_graph_by_hand(pairs, repeated, contradicted, in_cycle, knots):
    graph = graph_of(pairs)
    masks = (graph.repeated, graph.contradicted, graph.in_cycle)
    assert tuple("".join(map(str, mask.astype(int))) for mask in masks) == (repeated, contradicted, in_cycle)
    assert graph.components == knots
    assert graph.same_reply.tolist() == [one == other for one, other in pairs]


def test_prompts_are_graphs_of_their_own():
    circle = [(1, 2), (2, 3), (3, 1)]
    assert graph_of(circle, [1, 1, 2]).components == ()
    graph = graph_of(circle + circle, [1, 1, 1, 2, 2, 2])
    assert graph.components == (3, 3) and not graph.repeated.any()
    assert graph.replies_of_prompt.tolist() == [2] * 6


def brute_force(pairs):
    """Contradictions, and the pairs inside components with a simple circle of three or more, by trying them all."""
    edges = {(one, other) for one, other in pairs if one != other}
    nodes = sorted({node for edge in edges for node in edge})
    reach = {node: {node} for node in nodes}
    for _ in nodes:
        for one, other in edges:
            for node in nodes:
                if one in reach[node]:
                    reach[node].add(other)
    component = {node: frozenset(other for other in reach[node] if node in reach[other]) for node in nodes}
    circles = [
        circle
        for length in range(3, len(nodes) + 1)
        for circle in itertools.permutations(nodes, length)
        if circle[0] == min(circle) and all(edge in edges for edge in zip(circle, circle[1:] + circle[:1], strict=True))
    ]
    knots = {component[circle[0]] for circle in circles}
    both = {frozenset(edge) for edge in edges if edge[::-1] in edges}
    inside = [one != other and component[one] == component[other] in knots for one, other in pairs]
    return len(both), inside, tuple(sorted(map(len, knots), reverse=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=16))
def test_cycles_against_brute_force(pairs):
    contradictions, inside, knots = brute_force(pairs)
    graph = graph_of(pairs)
    assert graph.contradictions == contradictions
    assert graph.in_cycle.tolist() == inside
    assert graph.components == knots


def test_long_chains_are_followed_without_recursion():
    chain = np.arange(20_000)
    labels = strong_components(chain[:-1], chain[1:], len(chain))
    assert len(set(labels.tolist())) == len(chain)
    labels = strong_components(chain, np.roll(chain, -1), len(chain))
    assert len(set(labels.tolist())) == 1


# --- whole sets -------------------------------------------------------------------------------------------------------

A, B, C = "The moon.", "The sun, of course!", "- Mars\n- Venus"
HAND_MADE = [
    pair("Q1", A, B, source="x", chosen_score=2, rejected_score=1),
    pair("Q1", A, B, source="x", chosen_score=2, rejected_score=2),  # a duplicate with equal scores
    pair("Q1", B, A, source="x", chosen_score=1, rejected_score=2),  # contradicts both, scores swapped
    pair("Q2", A, B, source="y", margin=0.5),
    pair("Q2", B, C, source="y", margin=-0.5),
    pair("Q2", C, A, source="y"),  # a circle
    pair("Q3", A, f" {A}\n"),  # the same reply
    pair("Q4", "I can't help with that.", C, source="x"),
    {"chosen": "plain", "rejected": "plainer"},
    {"chosen": "\n\nHuman: Q1\n\nAssistant: yes", "rejected": "\n\nHuman: Q1\n\nAssistant: no, never"},
    {"chosen": "\n\nHuman: Q1\n\nAssistant: yes", "rejected": "\n\nHuman: other\n\nAssistant: no"},
    pair("Q5", A, A),  # dropped: the same text
    pair("Q5", A, " "),  # dropped: empty
    {"chosen": pair("Q5", A, B)["chosen"], "rejected": pair("Q6", A, B)["rejected"]},  # dropped: prompts differ
]


@pytest.fixture
def summary(tmp_path):
    return lint_rows(tmp_path, HAND_MADE)


def test_rows_and_prompts_by_hand(summary):
    assert (summary["rows"]["rows_read"], summary["rows"]["kept"]) == (14, 10)
    dropped = {reason: one["count"] for reason, one in summary["rows"]["dropped"].items()}
    assert dropped == {"empty_reply": 1, "prompts_differ": 2, "identical_text": 1}
    kinds = {name: count for name, count in summary["kinds"].items() if not name.startswith("first")}
    assert kinds == {"conversations": 8, "plain_texts": 1, "transcripts": 1}
    prompts = summary["prompts"]
    assert (prompts["distinct"], prompts["pairs_without"]) == (5, 1)  # a transcript's Q1 has no system message
    assert {name: count for name, count in prompts["prompts_by_pairs"].items() if count} == {"1": 3, "3": 2}
    assert prompts["largest"]["pairs"] == 3
    assert summary["turns"]["pairs_by_turns"]["1"] == summary["turns"]["rows"] == 9


def test_consistency_by_hand(summary, tmp_path):
    file = f"{tmp_path}/pairs.jsonl"
    assert summary["duplicates"] == {"pairs": 1, "prompts": 1, "first": f"{file}:2"}
    assert summary["same_reply"] == {"pairs": 1, "prompts": 1, "first": f"{file}:7"}
    assert summary["contradictions"] == {"pairs": 3, "prompts": 1, "first": f"{file}:1", "replies_both_ways": 1}
    circle = {"pairs": 3, "prompts": 1, "first": f"{file}:4", "knots": 1, "replies": 3, "largest": 3}
    assert summary["cycles"] == circle
    scores = summary["scores"]
    assert (scores["pairs"], scores["equal"], scores["rejected_higher"]) == (3, 1, 1)
    assert (scores["first_equal"], scores["first_rejected_higher"]) == (f"{file}:2", f"{file}:3")
    assert (scores["margins"], scores["negative_margins"], scores["first_negative_margin"]) == (2, 1, f"{file}:5")


def test_rules_and_replies_by_hand(summary):
    # Characters: A 9, B 19, C 14, the refusal 23. Longer wins: B>A, B>C, C>A, refusal>C; loses: A>B thrice, and the
    # plain texts and the transcript.
    longer = summary["rules"]["characters"]["greater_preferred"]
    assert (longer["right"], longer["rows"]) == (4, 9)
    assert (longer["low"], longer["high"]) == wilson_interval(4, 9)
    # Markdown: only C has some: loses to B and to the refusal, wins over A.
    markdown = summary["rules"]["markdown"]["greater_preferred"]
    assert (markdown["right"], markdown["rows"]) == (1, 3)
    assert summary["rules"]["markdown"]["accuracy"]["right"] == 2 + 7 / 2
    assert summary["rules"]["markdown"]["takes"] == "smaller"
    refusal = summary["rules"]["refusal"]["greater_preferred"]
    assert (refusal["right"], refusal["rows"]) == (1, 1)
    chosen, rejected = (summary["replies"][side] for side in ("chosen", "rejected"))
    assert (chosen["refusal"]["right"], rejected["refusal"]["right"]) == (1, 0)
    assert (chosen["markdown"]["right"], rejected["markdown"]["right"]) == (1, 2)
    # A stands under Q1, Q2 and Q3, B under Q1 and Q2, C under Q2 and Q4.
    elsewhere = summary["rules"]["prompts it answers"]["greater_preferred"]
    assert (elsewhere["right"], elsewhere["rows"]) == (3, 6)


def test_sources_by_hand(summary):
    sources = summary["sources"]
    listed = {one["source"]: (one["pairs"], one["longer_preferred"]["rows"]) for one in sources["listed"]}
    assert listed == {None: (3, 2), "x": (4, 4), "y": (3, 3)}
    assert [one["source"] for one in sources["listed"]] == ["x", None, "y"]
    assert sum(one["share"] for one in sources["listed"]) == pytest.approx(1)
    assert sources["listed"][2]["mean_characters"] == pytest.approx(14)


def test_many_sources_are_summed_up(tmp_path):
    rows = [pair(f"Q{number}", A, B, source=f"s{number:02d}") for number in range(60)]
    summary = lint_rows(tmp_path, [*rows, pair("Q", A, B, source="s59")])
    sources = summary["sources"]
    assert (sources["distinct"], len(sources["listed"]), sources["pairs_of_others"]) == (60, 50, 10)
    assert (sources["listed"][0]["source"], sources["listed"][0]["pairs"]) == ("s59", 2)
    assert "(50 others)" in summary_text(summary) and "(10 others)" in lint_page(summary)


def test_findings_of_the_hand_made_set(summary):
    assert found(summary) == {
        ("dropped", "serious"),
        ("duplicates", "warning"),
        ("same_reply", "serious"),
        ("contradictions", "serious"),
        ("cycles", "serious"),
        ("equal_scores", "serious"),
        ("rejected_higher", "serious"),
        ("negative_margin", "serious"),
        ("plain_texts", "note"),
    }
    levels = [one["level"] for one in summary["findings"]]
    assert levels == sorted(levels, key=LEVELS.index)
    for one in summary["findings"]:
        assert one["value"] > one["limit"] == getattr(LIMITS[one["check"]], one["level"])


def random_rows(count, seed):
    """Two answers of random words to each of `count` prompts, either of them preferred."""
    rng = random.Random(seed)
    vocabulary = ["moon", "sun", "Mars", "far", "away", "very", "planet", "7", "star"]

    def reply():
        return " ".join(rng.choices(vocabulary, k=rng.randint(5, 60))) + "."

    return [pair(f"question {number}", reply(), reply(), source="random") for number in range(count)]


def test_clean_random_set_has_no_findings(tmp_path):
    assert lint_rows(tmp_path, random_rows(1000, seed=0))["findings"] == []


def test_set_sorted_by_length_is_named(tmp_path):
    rows = random_rows(300, seed=1)
    for row in rows:
        if len(row["chosen"][-1]["content"]) < len(row["rejected"][-1]["content"]):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    summary = lint_rows(tmp_path, rows)
    first = summary["findings"][0]
    assert (first["check"], first["level"]) == ("rule", "serious")
    assert "Taking the longer reply is right in" in first["message"]
    assert {check for check, _ in found(summary)} == {"rule"}
    assert "SERIOUS: Taking the longer reply" in summary_text(summary)


@pytest.mark.parametrize("takes", ["greater", "smaller"])
def test_every_rule_has_words_of_its_own(summary, takes):
    high = {"value": 0.9, "low": 0.85, "high": 0.95}
    rules = {
        name: rule | {"takes": takes, "accuracy": rule["accuracy"] | high} for name, rule in summary["rules"].items()
    }
    messages = {one["message"] for one in findings(summary | {"rules": rules}) if one["check"] == "rule"}
    assert set(rules) == {*RULES, "prompts it answers"} and len(messages) == len(rules)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_order_of_rows_and_workers_change_nothing(tmp_path, num_proc, monkeypatch):
    monkeypatch.setattr("reward_modeling.preference_sets.lint.text_measures.ROWS_PER_WORKER", 2)
    monkeypatch.setattr("reward_modeling.preference_sets.lint.text_measures.ROWS_PER_PART", 23)
    rows = random_rows(40, seed=2) + HAND_MADE
    random.Random(3).shuffle(rows)
    (tmp_path / "other").mkdir()
    expected = lint_rows(tmp_path, random_rows(40, seed=2) + HAND_MADE, seed=5)
    shuffled = lint_rows(tmp_path / "other", rows, seed=5, num_proc=num_proc)

    def without_places(value):
        if isinstance(value, dict):
            places = ("where", "path", "excerpt")
            return {key: without_places(one) for key, one in value.items() if not key.startswith(("first", *places))}
        return [without_places(one) for one in value] if isinstance(value, list) else value

    expected, shuffled = without_places(expected), without_places(shuffled)
    assert expected.pop("samples")[0]["chosen"] == shuffled.pop("samples")[0]["chosen"]
    expected["rows"].pop("name"), shuffled["rows"].pop("name")
    assert json.loads(json.dumps(expected)) == json.loads(json.dumps(shuffled))


def test_random_pairs_follow_the_seed(tmp_path):
    path = write(tmp_path / "pairs.jsonl", random_rows(50, seed=4))
    drawn = [[one["where"] for one in lint(path, seed=seed)["samples"]] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10


def test_set_without_a_usable_row(tmp_path):
    summary = lint_rows(tmp_path, [pair("Q", A, A)])
    assert found(summary) == {("dropped", "serious")}
    assert json.loads(json.dumps(summary, allow_nan=False)) == json.loads(json.dumps(summary))
    assert "0 kept" in summary_text(summary) and "</html>" in lint_page(summary)


def test_tokens_of_all_pairs_and_of_a_sample(tmp_path, gemma_folder):
    from reward_modeling.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(gemma_folder)
    rows = random_rows(30, seed=6)
    tokens = lint_rows(tmp_path, rows, tokenizer=gemma_folder)["lengths"]["tokens"]
    lengths = [len(tokenizer(row["chosen"][-1]["content"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert (tokens["pairs"], tokens["of"]) == (30, 30)
    assert tokens["chosen"]["mean"] == pytest.approx(np.mean(lengths)) and tokens["chosen"]["max"] == max(lengths)
    sample = lint_rows(tmp_path, rows, tokenizer=gemma_folder, token_rows=7)
    assert sample["lengths"]["tokens"]["pairs"] == sample["lengths"]["tokens"]["prompt"]["rows"] == 7
    assert "Lengths in tokens of 7 random pairs" in summary_text(sample)
    conversations = [tokenizer.apply_chat_template(row["chosen"])["input_ids"] for row in rows]
    others = [tokenizer.apply_chat_template(row["rejected"])["input_ids"] for row in rows]
    whole = [max(len(one), len(other)) for one, other in zip(conversations, others, strict=True)]
    assert tokens["refused"] == 0 and tokens["rendered"]["max"] == max(whole)
    assert tokens["rendered"]["mean"] == pytest.approx(np.mean(whole))
    template = tmp_path / "user_alone.jinja"  # it writes no answer
    template.write_text(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    lossy = lint_rows(tmp_path, rows, tokenizer=gemma_folder, chat_template=str(template))
    assert lossy["lengths"]["tokens"]["refused"] == 30
    assert "Tokens of whole conversations" in summary_text(sample)
    assert "Tokens of whole conversations" not in summary_text(lossy)
    with pytest.raises(UserError, match="--tokenizer nowhere"):
        lint_rows(tmp_path, rows, tokenizer="nowhere")


def test_overlap_with_benchmarks_by_hand(tmp_path):
    run = "one two three four five six seven eight nine ten eleven twelve thirteen"
    benchmark = [pair("What is the Moon?", A, B), pair(f"So: {run}", A, B), pair("And the sun?", A, B)]
    path = write(tmp_path / "held_out.jsonl", benchmark)
    rows = [
        pair("what is the moon", A, C),
        pair("what is the moon", B, C),
        pair(f"{run} or so", A, B),
        pair("No", A, B),
    ]
    summary = lint_rows(tmp_path, [*rows, pair("And the sun?", A, A)], benchmarks=f"mine={path}")  # the last is dropped
    (part,) = summary["overlap"]
    assert (part["benchmark"], part["prompts"], part["prompts_found"], part["pairs"]) == ("mine", 3, 2, 3)
    assert (part["exact"], part["13_words"]) == ({"prompts": 1, "pairs": 2}, {"prompts": 1, "pairs": 1})
    assert part["first"].endswith("pairs.jsonl:1")
    assert ("overlap", "serious") in found(summary)
    assert "2 prompts here (3 pairs) are in mine, which has 3" in " ".join(summary_text(summary).split())
    clean = lint_rows(tmp_path, random_rows(100, seed=8), benchmarks=f"mine={path}")
    assert clean["overlap"][0]["pairs"] == 0 and clean["findings"] == []
    with pytest.raises(UserError, match="--benchmarks mine=nowhere"):
        lint_rows(tmp_path, rows, benchmarks="mine=nowhere.jsonl")


# --- output -------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, text):
        self.texts.append(text)


def test_control_characters_and_a_report_beside_the_data(tmp_path):
    """HTML cannot hold them; and a folder with a report in it is still a folder of data."""
    data = tmp_path / "data"
    data.mkdir()
    write(data / "pairs.jsonl", [pair(f"q{n}", f"\x00\x1b[31m {n}", "b") for n in range(5)])
    write_output(lint(str(data)), data)
    text = (data / "lint.html").read_text()
    assert not any(ord(character) < 32 and character not in "\n\t" for character in text)
    assert lint(str(data))["rows"]["rows_read"] == 5


def test_hostile_texts_are_escaped(tmp_path):
    rows = [pair(f"{HOSTILE} {number}", f"{HOSTILE} a", f"{HOSTILE} b", source=HOSTILE) for number in range(60)]
    rows += [pair("plain", "a", "b", source="other"), pair(HOSTILE, " ", HOSTILE)]
    summary = lint_rows(tmp_path, rows)
    text = lint_page(summary)
    parsed = Tags(text)
    assert not {"script", "img", "iframe", "link"} & set(parsed.tags)
    assert not any(name.startswith("on") or name in ("src",) for name in parsed.attributes)
    assert f"{HOSTILE} a" in parsed.texts and HOSTILE in "".join(parsed.texts)
    assert "http" not in text.replace("http://www.w3.org", "")  # nothing is fetched
    assert all(line.isprintable() for line in summary_text(summary).splitlines())


def test_page_and_json_are_the_same_bytes_twice(tmp_path):
    summary = lint_rows(tmp_path, HAND_MADE)
    for name in ("one", "two"):
        write_output(summary, tmp_path / name)
    for file in ("lint.json", "lint.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one" / "lint.json").read_text()) == json.loads(json.dumps(summary))
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["lint.html", "lint.json"]


def test_an_existing_report_is_kept_unless_asked(tmp_path):
    check_output(tmp_path / "new" / "folder", overwrite=False)
    (tmp_path / "lint.json").write_text("mine")
    with pytest.raises(UserError, match=r"found lint\.json"):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="expected a folder"):
        check_output(tmp_path / "lint.json", overwrite=True)


def keys_of(value):
    """The keys of a summary; {} where keys are names from the data."""
    if not isinstance(value, dict):
        return None
    return {key: keys_of(one) for key, one in value.items()}


FIGURE = dict.fromkeys(("value", "rows", "right", "ties", "low", "high"))
QUANTILES = dict.fromkeys(("rows", "mean", "min", "p1", "p5", "p25", "median", "p75", "p95", "p99", "max"))
PART = dict.fromkeys(("pairs", "prompts", "first"))


def test_keys_of_the_summary_stay(summary):
    """Other programs read lint.json: a key that goes or is renamed needs another `SUMMARY_FORMAT`."""
    keys = keys_of(summary)
    assert summary["format"] == 2
    assert list(keys) == [
        "format", "path", "seed", "rows", "kinds", "prompts", "turns", "lengths", "duplicates", "same_reply",
        "contradictions", "cycles", "scores", "labels", "replies", "rules", "sources", "overlap", "samples", "findings",
    ]  # fmt: skip
    assert set(keys["rows"]) == {"name", "rows_read", "dropped", "notes", "kept", "share_dropped"}
    assert keys["prompts"]["pairs_per_prompt"] == QUANTILES
    assert set(keys["prompts"]) == {
        "distinct", "pairs_without", "pairs_with_system", "pairs_per_prompt", "prompts_by_pairs", "largest",
    }  # fmt: skip
    assert keys["turns"] == QUANTILES | {"pairs_by_turns": dict.fromkeys(("1", "2", "3", "4-5", "6-10", "11+"))}
    assert keys["lengths"]["tokens"] is None
    characters = keys["lengths"]["characters"]
    assert all(characters[name] == QUANTILES for name in ("prompt", "chosen", "rejected"))
    assert characters["histogram"] == {"edges": None, "counts": dict.fromkeys(("prompt", "chosen", "rejected"))}
    assert keys["duplicates"] == keys["same_reply"] == PART
    assert keys["contradictions"] == PART | {"replies_both_ways": None}
    assert keys["cycles"] == PART | dict.fromkeys(("knots", "replies", "largest"))
    rule = {"greater_preferred": FIGURE, "accuracy": FIGURE, "takes": None}
    assert set(keys["rules"]) == {*RULES, "prompts it answers"} and all(one == rule for one in keys["rules"].values())
    labels = ("lists", "lists_with_ties", "ties", "soft", "strength", "weight")
    numbers = ("answers", "chosen_probability", "strength", "weight")
    row = dict.fromkeys(("rows", "first"))
    assert keys["labels"] == dict.fromkeys(labels, row) | {"numbers": dict.fromkeys(numbers, QUANTILES)}
    side = dict.fromkeys(("unfinished", "cut", "refusal", "markdown", "marks"), FIGURE) | {
        "first_cut": None,
        "first_marks": None,
    }
    assert keys["replies"] == {"chosen": side, "rejected": side}
    assert set(keys["sources"]) == {"distinct", "listed", "pairs_of_others"}
    assert set(summary["findings"][0]) == {"check", "level", "value", "limit", "figure", "message", "first"}
    assert set(summary["samples"][0]) == {
        "where", "source", "chosen_score", "rejected_score", "margin", "chosen_probability", "strength", "weight",
        "answers", "prompt", "chosen", "rejected",
    }  # fmt: skip


# --- the script -----------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Runs the script's main in this process; returns its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data_prep/lint.py", *arguments])
        try:
            run_script(lint_script.main)
        except SystemExit as ended:
            return ended.code, capsys.readouterr()
        return 0, capsys.readouterr()

    return run


def test_strict_decides_the_status(tmp_path, script):
    bad = write(tmp_path / "bad.jsonl", HAND_MADE)
    status, printed = script(bad)
    assert status == 0
    assert "SERIOUS: 3 pairs of 1 prompt are contradicted" in printed.out
    assert sorted(file.name for file in (tmp_path / "lint" / "bad").iterdir()) == ["lint.html", "lint.json"]
    assert script(bad, "--strict", "--overwrite") == (1, printed)
    good = write(tmp_path / "good.jsonl", random_rows(100, seed=7))
    status, printed = script("--path", good, "--strict", "--output_path", "out")
    assert status == 0 and "Findings: none." in printed.out
    status, printed = script(good, "--output_path", "out")
    assert status == 2 and "found lint.json and lint.html" in printed.err


def test_mistakes_of_the_users(tmp_path, script):
    status, printed = script("--seed", "-1", "--token_rows", "-1")
    assert status == 2
    for said in ("expected the path", "--seed: expected at least 0", "--token_rows: expected at least 0"):
        assert said in printed.err
    status, printed = script("nowhere.jsonl")
    assert status == 2 and "nowhere.jsonl" in printed.err
    assert not (tmp_path / "lint").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b/pairs.jsonl.gz", "pairs"), ("org/name:train", "name-train"), ("data/*.parquet", "data"), ("..", "data")],
)
def test_name_of_the_report(path, name, script):
    assert lint_script.name_of(path) == name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("a.jsonl --seed 1", "--path a.jsonl --seed 1"),
        ("--strict a.jsonl", "--strict --path a.jsonl"),
        ("--strict true a.jsonl", "--strict true --path a.jsonl"),
        ("--seed 1 a.jsonl --overwrite", "--seed 1 --path a.jsonl --overwrite"),
        ("--seed=1 a.jsonl", "--seed=1 --path a.jsonl"),
        ("--path a.jsonl", "--path a.jsonl"),
        ("--help", "--help"),
    ],
)
def test_path_needs_no_flag(given, meant, script):
    assert " ".join(lint_script.with_path_flag(given.split())) == meant


def test_script_as_a_process(tmp_path):
    bad = write(tmp_path / "bad.jsonl", HAND_MADE)
    command = [sys.executable, str(ROOT / "data_prep" / "lint.py"), bad, "--strict", "--num_proc", "1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "SERIOUS" in ended.stdout and (tmp_path / "lint" / "bad" / "lint.html").is_file()
