"""Sources that are prompts with scored answers: every trap in fixtures of the published columns, counted by hand."""

import json
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import fmean

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from data_prep import helpsteer, helpsteer2, nectar, ultrafeedback
from reward_modeling.common.errors import UserError
from reward_modeling.data.keys import mix_keys, text_key
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.report import DataReport
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets import answer_pairs
from reward_modeling.preference_sets.answer_choice import PAIR_CHOICES, choose_pairs, score_levels
from reward_modeling.preference_sets.answer_pairs import ANSWER_CHOICES, pairs_from_answers
from reward_modeling.preference_sets.source import (
    ANSWER_FEATURES,
    PAIR_FEATURES,
    PreferenceSource,
    SourceRows,
    limit_pairs_per_prompt,
    sample_pairs,
)
from reward_modeling.preference_sets.writing import run_source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def triples(pairs):
    """(prompt, chosen, rejected) as texts, in the order of the rows."""
    return [
        tuple(json.loads(row[name])[-1]["content"] for name in ("prompt", "chosen", "rejected")) for row in pairs.rows
    ]


def drops(pairs):
    return {reason: rows.count for reason, rows in pairs.report.dropped.items()}


# --- pairs of answers -----------------------------------------------------------------------------------------


def answers_of(rows):
    """`rows`: (prompt, answers, scores) or (prompt, answers, scores, source)."""
    table = [
        {
            "where": f"row {place}",
            "prompt": (prompt := json.dumps([{"role": "user", "content": row[0]}])),
            "answers": list(row[1]),
            "scores": list(row[2]),
            "source": row[3] if len(row) > 3 else "made",
            "group_key": text_key(prompt),
            "reason": "",
            "excerpt": "",
        }
        for place, row in enumerate(rows)
    ]
    report = DataReport("made", len(table))
    columns = {name: [row[name] for row in table] for name in ANSWER_FEATURES}
    dataset = Dataset.from_dict(columns, features=ANSWER_FEATURES)
    return SourceRows(PreferenceSource("made", Columns(), licence="none"), dataset, report, {})


def random_rows(seed, prompts=150):
    """Few scores, some of them a hair apart, none, not a number; few texts; prompts over several rows."""
    draw = random.Random(seed)
    rows = []
    for prompt in range(prompts):
        count = draw.choice([0, 1, 2, 3, 4, 4, 4, 6, 9])
        texts = [draw.choice(["", " \n", *(f"answer {n}" for n in range(8))]) for _ in range(count)]
        scores = [
            draw.choice([None, float("nan"), 1.0, 2.0, 7 / 3, 8 / 3, 3.0, 3.0 + 5e-7, 3.0 + 9e-7, 3.0 - 4e-7, 4.5])
            for _ in range(count)
        ]
        cut = draw.randint(0, count)
        rows.append((f"prompt {prompt}", texts[:cut], scores[:cut]))
        if cut < count:
            rows.append((f"prompt {prompt}", texts[cut:], scores[cut:]))
    draw.shuffle(rows)
    return rows


def reference_groups(rows):
    """Prompt -> {answer: level}, the slow and obvious way: joining equal scores until nothing changes."""
    scores = {}
    for prompt, texts, values in rows:
        for text, value in zip(texts, values, strict=True):
            if value is not None and value == value and text.strip():
                scores.setdefault(prompt, {}).setdefault(text, []).append(value)
    groups = {}
    for prompt, found in scores.items():
        means = {text: fmean(values) for text, values in found.items()}
        classes = [{text} for text in means]
        while joined := next(
            (
                (a, b)
                for a, b in combinations(classes, 2)
                if any(abs(means[x] - means[y]) <= 1e-6 for x in a for y in b)
            ),
            None,
        ):
            classes = [c for c in classes if c not in joined] + [joined[0] | joined[1]]
        groups[prompt] = sorted(classes, key=lambda c: -means[min(c)])
    return groups


@pytest.mark.parametrize("seed", range(4))
def test_every_way_of_choosing_against_brute_force(seed):
    rows = random_rows(seed)
    groups = reference_groups(rows)
    found = {how: triples(pairs_from_answers(answers_of(rows), how, seed)) for how in PAIR_CHOICES}
    by_prompt = {how: {} for how in PAIR_CHOICES}
    for how, pairs in found.items():
        assert len(set(pairs)) == len(pairs)
        for prompt, chosen, rejected in pairs:
            by_prompt[how].setdefault(prompt, set()).add((chosen, rejected))
    decided = {prompt: classes for prompt, classes in groups.items() if len(classes) > 1}
    assert len(decided) > 50
    assert all(set(pairs) == set(decided) for pairs in by_prompt.values())
    for prompt, classes in decided.items():
        every = {(x, y) for better, worse in combinations(classes, 2) for x in better for y in worse}
        assert by_prompt["all_pairs"][prompt] == every
        distinct = by_prompt["distinct_scores"][prompt]
        drawn = {text for pair in distinct for text in pair}
        assert [len(drawn & answers) for answers in classes] == [1] * len(classes)
        assert distinct == {pair for pair in every if set(pair) <= drawn}
        ((best, other),) = by_prompt["best_vs_random"][prompt]
        assert best in classes[0]
        assert any(other in lower for lower in classes[1:])
        # the draw is the smallest hash of seed, prompt and answer
        drawn_from = {text: hashed(prompt, text, seed) for answers in classes for text in answers}
        assert best == min(classes[0], key=drawn_from.get)
        assert other == min(set().union(*classes[1:]), key=drawn_from.get)


def hashed(prompt, text, seed):
    key = text_key(json.dumps([{"role": "user", "content": prompt}]), text)
    return mix_keys(np.array([key]), seed)[0]


@pytest.mark.parametrize("how", ANSWER_CHOICES)
def test_neither_the_order_of_rows_nor_workers_change_the_pairs(how, monkeypatch):
    rows = random_rows(7, prompts=60)
    expected = pairs_from_answers(answers_of(rows), how, 3)
    shuffled = []
    draw = random.Random(0)
    for prompt, texts, scores in rows:
        both = list(zip(texts, scores, strict=True))
        draw.shuffle(both)
        shuffled.append((prompt, [text for text, _ in both], [score for _, score in both]))
    draw.shuffle(shuffled)
    monkeypatch.setattr(answer_pairs, "ROWS_PER_WORKER", 1)
    found = pairs_from_answers(answers_of(shuffled), how, 3, num_proc=2)
    columns = [name for name in PAIR_FEATURES if name != "where"]
    both = (sorted(pairs.rows.select_columns(columns).to_list(), key=str) for pairs in (found, expected))
    assert next(both) == next(both)
    assert found.report.notes == expected.report.notes
    assert drops(found) == drops(expected)
    parallel = pairs_from_answers(answers_of(rows), how, 3, num_proc=2)
    assert parallel.rows.to_list() == expected.rows.to_list()  # with equal input, in the same order too


def test_the_seed_decides_what_is_drawn_and_every_answer_has_its_chance():
    rows = [(f"prompt {n}", ["best", "a", "b", "c"], [5.0, 1.0, 1.0, 2.0]) for n in range(600)]
    first, second = (triples(pairs_from_answers(answers_of(rows), "best_vs_random", seed)) for seed in (0, 1))
    assert first != second
    for pairs in (first, second):
        counts = [sum(rejected == text for _, _, rejected in pairs) for text in "abc"]
        assert sum(counts) == 600
        assert all(150 < count < 250 for count in counts)  # 200 expected, standard deviation 11.5


def test_a_chain_of_nearly_equal_scores_is_one_score():
    assert score_levels([]) == []
    assert score_levels([3.0 + 1.6e-6, 3.0 + 8e-7, 3.0]) == [0, 0, 0]
    assert score_levels([3.00001, 3.0, -2.0]) == [0, -1, -2]
    assert choose_pairs([0, 0, 0], [3, 1, 2], "all_pairs") == []
    assert choose_pairs([0], [1], "best_vs_random") == []
    assert choose_pairs([], [], "distinct_scores") == []
    assert choose_pairs([0, 0, -1, -1, -2], [5, 4, 3, 2, 1], "best_vs_random") == [(1, 4)]
    assert choose_pairs([0, 0, -1, -1, -2], [5, 4, 3, 2, 1], "distinct_scores") == [(1, 3), (1, 4), (3, 4)]
    assert len(choose_pairs([0, 0, -1, -1, -2], [5, 4, 3, 2, 1], "all_pairs")) == 8


def test_a_text_given_twice_is_one_answer_with_the_mean():
    rows = [("capital?", ["Paris", "Paris ", "Lyon", "Nice"], [5.0, 2.0, 4.0, 1.0])]
    pairs = pairs_from_answers(answers_of(rows), "all_pairs", 0, write_margin=True)
    # otherwise Paris would be better than Lyon, and worse
    assert triples(pairs) == [
        ("capital?", "Lyon", "Paris"),
        ("capital?", "Lyon", "Nice"),
        ("capital?", "Paris", "Nice"),
    ]
    assert pairs.rows["margin"][:] == [0.5, 3.0, 2.5]
    assert pairs.rows["chosen_score"][:] == [4.0, 4.0, 3.5]
    assert pairs.report.notes["answers that repeat another"] == 1
    without = pairs_from_answers(answers_of(rows), "all_pairs", 0)
    assert without.rows["margin"][:] == [None] * 3
    assert without.rows["group_key"][:] == [answers_of(rows).rows[0]["group_key"]] * 3


def test_each_row_is_kept_or_has_the_first_reason_that_holds():
    rows = [
        ("a", ["good"], [3.0]),
        ("b", ["only one"], [3.0]),
        ("a", ["bad"], [1.0]),
        ("a", ["unknown"], [None]),
        ("a", ["  "], [2.0]),
        ("a", ["  ", "infinite"], [2.0, float("inf")]),
        ("a", ["as bad"], [1.0]),
        ("c", [], []),
        ("d", ["one", "two"], [None, float("nan")]),
        ("d", ["one", "two"], [1.0, 1.0]),
    ]
    pairs = pairs_from_answers(answers_of(rows), "distinct_scores", 0)
    assert len(pairs.rows) == 1
    assert drops(pairs) == {"too_few_answers": 3, "no_score": 2, "empty_reply": 2, "not_sampled": 1}
    assert pairs.report.kept == 2
    assert pairs.report.dropped["too_few_answers"].first_where == "row 1"
    assert pairs.report.dropped["too_few_answers"].first_excerpt.startswith("scores 3.0: [{")
    assert pairs.report.notes == {
        "prompts read": 4,
        "answers": 12,
        "answers without a score": 4,
        "empty answers": 2,
        "answers that repeat another": 0,
        "prompts without two different scores": 3,
        "pairs": 1,
        "prompts": 1,
    }


@pytest.mark.parametrize("how", ANSWER_CHOICES)
def test_a_row_without_answers_was_not_drawn_from(how):
    rows = [("a", ["good", "bad"], [3.0, 1.0]), ("a", [], [])]
    pairs = pairs_from_answers(answers_of(rows), how, 0)
    assert len(pairs.rows) == 1
    assert drops(pairs) == {"too_few_answers": 1}


def test_a_full_disk_is_said(monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    answers = answers_of([("a", ["good", "bad"], [3.0, 1.0])])
    monkeypatch.setattr(answer_pairs.Dataset, "map", full)
    with pytest.raises(UserError, match=r"cannot write the cache folder .*No space left on device.*Make room"):
        pairs_from_answers(answers, "all_pairs", 0)


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_integers_beyond_floats_are_no_scores(huge, tmp_path):
    two = {"prompt": "\n\nHuman: q\n\nAssistant: ", "source": []}
    ranked_rows = [{**two, "answers": [{"answer": "a", "rank": huge}, {"answer": "b", "rank": 1}]}]
    rated_rows = [{"prompt": "q", "response": "a", "helpfulness": huge, "correctness": 1}]
    feedback = [instruction("q", completion("a", huge, huge), completion("b", 1.0))]
    for script, rows, options in (
        (nectar, ranked_rows, {}),
        (helpsteer, rated_rows, {}),
        (ultrafeedback, feedback, {}),
        (ultrafeedback, feedback, {"score": "overall"}),
    ):
        pairs = build(script, write(tmp_path / "huge.jsonl", rows, None), **options)
        assert len(pairs.rows) == 0
        assert pairs.report.notes["answers without a score"] == 1


def test_what_is_no_prompt_is_counted():
    answers = answers_of([("a", ["good", "bad"], [2.0, 1.0])])
    broken = answers.rows.map(lambda row: {"prompt": '[{"role": "user"}]'}, features=ANSWER_FEATURES)
    pairs = pairs_from_answers(SourceRows(answers.source, broken, answers.report, {}), "all_pairs", 0)
    assert len(pairs.rows) == 0
    assert pairs.rows.features == PAIR_FEATURES
    assert drops(pairs) == {"wrong_type": 1}
    assert answers.report.dropped == {}  # the report of the answers is left as it was


def test_no_answers_are_no_pairs():
    pairs = pairs_from_answers(answers_of([]), "all_pairs", 0)
    assert len(pairs.rows) == 0
    assert pairs.rows.features == PAIR_FEATURES
    assert pairs.report.notes["answers"] == 0
    with pytest.raises(ValueError, match="expected one of best_vs_random"):
        pairs_from_answers(answers_of([]), "best", 0)


def test_fewer_pairs_are_counted_as_pairs_not_as_rows():
    answers = answers_of([("a", "vwxyz", [1.0, 2.0, 3.0, 4.0, 5.0]), ("b", "yz", [1.0, 2.0])])
    limited = limit_pairs_per_prompt(pairs_from_answers(answers, "all_pairs", 0), 3, 0)
    assert len(limited.rows) == 4
    assert limited.report.kept == 2  # rows of the source
    assert limited.report.notes["pairs left out: more pairs of a prompt than wanted"] == 7
    assert limited.report.notes["pairs"] == 4
    sampled = sample_pairs(limited, 1, 0)
    assert sampled.report.notes["pairs left out: not in the random sample"] == 3


# --- UltraFeedback --------------------------------------------------------------------------------------------

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
PLAIN_ASPECT = {"Rating": Value("string"), "Rationale": Value("string")}
TYPED_ASPECT = {**PLAIN_ASPECT, "Rationale For Rating": Value("string"), "Type": List(Value("string"))}
ULTRAFEEDBACK_FEATURES = Features(
    {
        "source": Value("string"),
        "instruction": Value("string"),
        "models": List(Value("string")),
        "completions": List(
            {
                "annotations": {
                    "helpfulness": TYPED_ASPECT,
                    "honesty": PLAIN_ASPECT,
                    "instruction_following": PLAIN_ASPECT,
                    "truthfulness": TYPED_ASPECT,
                },
                "critique": Value("string"),
                "custom_system_prompt": Value("string"),
                "fine-grained_score": Value("float64"),
                "model": Value("string"),
                "overall_score": Value("float64"),
                "principle": Value("string"),
                "response": Value("string"),
            }
        ),
        "correct_answers": List(Value("string")),
        "incorrect_answers": List(Value("string")),
    }
)


def completion(response, fine_grained, overall=5.0, ratings=("N/A",) * 4):
    annotations = {}
    for aspect, rating in zip(ASPECTS, ratings, strict=True):
        annotations[aspect] = {"Rating": rating, "Rationale": "because"}
        if aspect in ("truthfulness", "helpfulness"):
            annotations[aspect] |= {"Rationale For Rating": "because", "Type": ["1", "None"]}
    return {
        "annotations": annotations,
        "critique": "Well done.",
        "custom_system_prompt": f"You are asked for principle {len(response or '')}.",
        "fine-grained_score": fine_grained,
        "model": "alpaca-7b",
        "overall_score": overall,
        "principle": "honesty",
        "response": response,
    }


def instruction(text, *completions, source="flan_v2_cot"):
    return {
        "source": source,
        "instruction": text,
        "models": ["alpaca-7b"] * len(completions),
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


ULTRAFEEDBACK_ROWS = [
    instruction("A", completion("a1", 4.25), completion("a2", 4.25), completion("a3", 3.0), completion("a4", 1.5)),
    # two means of thirds, each written in two ways
    instruction("B", *(completion(f"b{x}", x) for x in (13 / 3, 4.3333333, 11 / 3, 3.6666667))),
    instruction(
        "C",
        completion("not rated", None),
        completion("mean of the ratings", None, ratings=("5", "N/A", "4", "3")),
        completion("low", 2.0),
    ),
    instruction("D", completion("d1", 2.5), completion("d2", 2.5), completion("d3", 2.5), source="evol_instruct"),
    instruction("E", completion("e1", None), completion("e2", None)),
    instruction("F", completion("Paris", 5.0), completion("Paris", 3.0), completion("Lyon", 3.5), completion("", 1.0)),
    instruction("A", completion("a5", 2.0), source="evol_instruct"),
    instruction("G"),
    instruction("H", completion("alone", 4.0)),
]
ULTRAFEEDBACK_NOTES = {
    "prompts read": 8,
    "answers": 22,
    "answers without a score": 3,
    "empty answers": 1,
    "answers that repeat another": 1,
    "prompts without two different scores": 4,
    "pairs": 9,
    "prompts": 4,
}


def write(path, rows, features):
    if path.suffix == ".parquet":
        Dataset.from_list(rows, features=features).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def build(script, path, **options):
    return script.build(script.ScriptArguments(dataset_path=str(path), num_proc=1, **options))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_ultrafeedback(tmp_path, suffix):
    path = write(tmp_path / f"train{suffix}", ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES)
    pairs = build(ultrafeedback, path)  # distinct_scores, fine_grained
    found = triples(pairs)
    assert [prompt for prompt, _, _ in found] == ["A"] * 6 + ["B", "C", "F"]
    drawn = "a1" if "a1" in {chosen for _, chosen, _ in found} else "a2"
    assert found[:6] == [("A", x, y) for x, y in combinations([drawn, "a3", "a5", "a4"], 2)]
    assert found[7:] == [("C", "mean of the ratings", "low"), ("F", "Paris", "Lyon")]
    assert pairs.rows["chosen_score"][7:] == [4.0, 4.0]
    assert pairs.rows["margin"][:] == [None] * 9
    assert pairs.report.notes == ULTRAFEEDBACK_NOTES
    assert drops(pairs) == {"too_few_answers": 3, "no_score": 1}
    assert pairs.rows["source"][:3] == ["ultrafeedback/flan_v2_cot"] * 3
    assert pairs.rows["source"][5] == "ultrafeedback/evol_instruct"  # the chosen answer's
    assert pairs.options["pairs"] == "distinct_scores"
    places = [where.replace(path, "") for where in pairs.rows[1]["where"].split(", ")]
    assert places == ([" row 0", " row 6"] if suffix == ".parquet" else [":1", ":7"])
    # what the models were told is not in the prompt
    assert json.loads(pairs.rows[0]["prompt"]) == [{"role": "user", "content": "A"}]
    everything = build(ultrafeedback, path, pairs="all_pairs")
    assert everything.report.notes == {**ULTRAFEEDBACK_NOTES, "pairs": 9 + 4 + 1 + 1}
    best = build(ultrafeedback, path, pairs="best_vs_random", write_margin=True)
    assert best.report.notes == {**ULTRAFEEDBACK_NOTES, "pairs": 4}
    assert best.rows["margin"][2:] == [2.0, 0.5]


def test_ultrafeedback_overall_score(tmp_path):
    rows = [
        instruction("A", completion("ten", 1.75, overall=10.0), completion("seven", 4.5, overall=7.0)),
        instruction("B", completion("ten", 4.75, overall=10.0), completion("five", 3.0, overall=5.0)),
        instruction("C", completion("ten", None, overall=10.0), completion("none", 3.0, overall=None)),
    ]
    path = write(tmp_path / "train.jsonl", rows, None)
    trusted = build(ultrafeedback, path, score="overall")
    assert triples(trusted) == [("A", "ten", "seven"), ("B", "ten", "five")]
    assert trusted.report.notes["answers without a score"] == 1
    doubted = build(ultrafeedback, path, score="overall", drop_doubtful_tens=True)
    assert triples(doubted) == [("B", "ten", "five")]
    assert doubted.report.notes["answers without a score"] == 2
    assert triples(build(ultrafeedback, path)) == [("A", "seven", "ten"), ("B", "ten", "five")]
    with pytest.raises(UserError, match="--drop_doubtful_tens: expected with --score overall"):
        ultrafeedback.ScriptArguments(drop_doubtful_tens=True)


def test_ultrafeedback_rows_of_other_types(tmp_path):
    good = instruction("A", completion("good", 4.0), completion(None, 3.0), completion("bad", 2.0))
    rows = [
        good,
        {**good, "completions": "none"},
        {**good, "instruction": None},
        {"instruction": "A"},
        instruction("B", {**completion("x", 1.0), "fine-grained_score": "4"}, completion("y", 2.0)),
        instruction("B", {**completion("x", 1.0), "response": ["x"]}, completion("y", 2.0)),
        instruction("B", completion("\ud800", 1.0), completion("y", 2.0)),
        {**good, "source": "\ud800"},
        "text",
    ]
    pairs = build(ultrafeedback, write(tmp_path / "train.jsonl", rows, None))
    assert triples(pairs) == [("A", "good", "bad")]
    assert drops(pairs) == {"wrong_type": 7, "missing_column": 1}
    assert pairs.report.notes["empty answers"] == 1
    assert "completions: expected a list of completions, found 'none'" in str(pairs.report.dropped["wrong_type"])


# --- HelpSteer and HelpSteer2 ---------------------------------------------------------------------------------

HELPSTEER_FEATURES = Features(
    {
        "prompt": Value("string"),
        "response": Value("string"),
        **{name: Value("int32") for name in helpsteer.ATTRIBUTES},
    }
)


def rated(prompt, response, helpfulness, correctness, coherence=4, complexity=2, verbosity=1):
    values = (helpfulness, correctness, coherence, complexity, verbosity)
    return {"prompt": prompt, "response": response, **dict(zip(helpsteer.ATTRIBUTES, values, strict=True))}


HELPSTEER_ROWS = [
    rated("A", "a1", 4, 4),
    rated("A", "a2", 4, 3, verbosity=3),
    rated("B", "b1", 2, 2),
    rated("A", "a3", 3, 4),  # as good as a2
    rated("A", "a4", 0, 1),
    rated("B", "b2", 1, 3),  # as good as b1 on the mean
    rated("A ", "another prompt", 4, 4),
    rated("C", "c1", 4, None),
    rated("C", "c2", 1, 1),
    rated("D", "same", 3, 3),
    rated("D", "same", 1, 1),
    rated("D", "other", 0, 0),
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_helpsteer(tmp_path, suffix):
    path = write(tmp_path / f"train{suffix}", HELPSTEER_ROWS, HELPSTEER_FEATURES)
    pairs = build(helpsteer, path)
    found = triples(pairs)
    drawn = "a2" if "a2" in {chosen for _, chosen, _ in found} else "a3"
    assert found == [("A", "a1", drawn), ("A", "a1", "a4"), ("A", drawn, "a4"), ("D", "same", "other")]
    assert pairs.rows["chosen_score"][:] == [4.0, 4.0, 3.5, 2.0]
    assert pairs.rows["rejected_score"][:] == [3.5, 0.5, 0.5, 0.0]
    assert pairs.rows["source"][:] == ["helpsteer"] * 4
    # b1, b2, the other prompt, c2; c1; one of a2 and a3
    assert drops(pairs) == {"too_few_answers": 4, "no_score": 1, "not_sampled": 1}
    assert pairs.report.dropped["no_score"].first_excerpt == "correctness is missing"
    notes = pairs.report.notes
    assert (notes["prompts read"], notes["answers"], notes["answers that repeat another"]) == (5, 11, 1)
    assert notes["prompts without two different scores"] == 3
    assert len(build(helpsteer, path, pairs="all_pairs").rows) == 5 + 1
    assert len(build(helpsteer, path, pairs="best_vs_random").rows) == 2
    by_helpfulness = build(helpsteer, path, score="helpfulness", pairs="all_pairs")
    assert len(by_helpfulness.rows) == 5 + 1 + 1 + 1  # A: 4, 4, 3, 0; B: 2, 1; C: 4, 1; D
    by_length = build(helpsteer, path, score="verbosity", pairs="all_pairs")
    assert triples(by_length) == [("A", "a2", worse) for worse in ("a1", "a3", "a4")]


def test_helpsteer_mistakes(tmp_path):
    for score in ("helpfulness,honesty", "", "helpfulness,helpfulness"):
        with pytest.raises(UserError, match="--score: expected some of helpfulness"):
            helpsteer.ScriptArguments(score=score)
    with pytest.raises(UserError, match=r"--pairs: expected one of best_vs_random.*found 'best'"):
        helpsteer.ScriptArguments(pairs="best")
    rows = [{"prompt": "A", "response": "a", "helpfulness": 1}, {"prompt": "A", "response": "b", "helpfulness": 2}]
    path = write(tmp_path / "train.parquet", rows, None)
    assert triples(build(helpsteer, path, score="helpfulness")) == [("A", "b", "a")]
    with pytest.raises(
        UserError, match=r"expected columns prompt, response, helpfulness and correctness in .*--dataset"
    ):
        build(helpsteer, path)


def test_attributes_in_any_order_are_the_same_score():
    scores = ("correctness, helpfulness", "helpfulness,correctness")
    first, second = (helpsteer.ScriptArguments(score=score) for score in scores)
    assert first.attributes == second.attributes == ("helpfulness", "correctness")


DIALOGUE = "Hello!\n<extra_id_1>Assistant\nHi. What is\n\nit?\n<extra_id_1>User\nSay <extra_id_1>User to me."


HELPSTEER2_ROWS = [
    rated("A", "a1", 4, 4),
    rated("A", "a2", 2, 3),
    rated(DIALOGUE, "d1", 1, 0),
    rated(DIALOGUE, "d2", 4, 3),
    rated("Hello!\n<extra_id_1>User\nHello?", "twice the user", 4, 4),
    rated("Hello!\n<extra_id_1>Assistant\n<extra_id_1>User\nHello?", "nothing was said", 4, 4),
    rated("Hello!\n<extra_id_1>Assistant\nHi.", "two answers", 4, 4),
    rated("B", "b1", 2, 2),
    rated("B", "b2", 2, 2),
]


def test_helpsteer2(tmp_path):
    pairs = build(helpsteer2, write(tmp_path / "train.parquet", HELPSTEER2_ROWS, HELPSTEER_FEATURES))
    assert [(chosen, rejected) for _, chosen, rejected in triples(pairs)] == [("a1", "a2"), ("d2", "d1")]
    assert json.loads(pairs.rows[1]["prompt"]) == [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi. What is\n\nit?"},
        {"role": "user", "content": "Say <extra_id_1>User to me."},
    ]
    assert pairs.rows["source"][:] == ["helpsteer2"] * 2
    assert drops(pairs) == {"same_role_twice": 3, "too_few_answers": 2}


# --- Nectar ---------------------------------------------------------------------------------------------------

NECTAR_FEATURES = Features(
    {
        "prompt": Value("string"),
        "answers": List({"answer": Value("string"), "model": Value("string"), "rank": Value("float64")}),
        "turns": Value("int64"),
        "num_responses": Value("int64"),
        "source": List(Value("string")),
        "good_natured": Value("bool"),
    }
)


def ranked(prompt, *answers, source=("lmsys-chat-1m",)):
    return {
        "prompt": prompt,
        "answers": [{"answer": text, "model": "gpt-4", "rank": rank} for text, rank in answers],
        "turns": 1,
        "num_responses": len(answers),
        "source": list(source),
        "good_natured": True,
    }


SEVEN = [(f"answer {rank}", float(rank)) for rank in range(1, 8)]
NECTAR_ROWS = [
    ranked("\n\nHuman: Hello! Is it Human: or Assistant:?\n\nAssistant: ", *SEVEN),
    ranked(
        "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant: ",
        ("best", 1.0),
        ("worst", 2.0),
        source=("sharegpt", "ultrachat"),
    ),
    ranked("\n\nHuman: Tied\n\nAssistant: ", ("x", 1.0), ("y", 1.0), source=()),
    ranked("\n\nHuman: Unranked\n\nAssistant: ", ("x", None), ("y", None)),
    ranked("Say something.", *SEVEN),
    ranked("\n\nHuman: Go on\n\nAssistant: Once upon a time", *SEVEN),
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_nectar(tmp_path, suffix):
    path = write(tmp_path / f"rlaif{suffix}", NECTAR_ROWS, NECTAR_FEATURES)
    pairs = build(nectar, path)  # best_vs_random
    assert [chosen for _, chosen, _ in triples(pairs)] == ["answer 1", "best"]
    assert pairs.rows["chosen_score"][:] == [-1.0, -1.0]
    assert pairs.rows["rejected_score"][1] == -2.0
    assert pairs.rows["source"][:] == ["nectar/lmsys-chat-1m", "nectar/sharegpt+ultrachat"]
    assert triples(pairs)[0][0] == "Hello! Is it Human: or Assistant:?"
    assert json.loads(pairs.rows[1]["prompt"]) == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    assert drops(pairs) == {"too_few_answers": 1, "no_score": 1, "not_a_transcript": 1, "same_role_twice": 1}
    assert len(build(nectar, path, pairs="all_pairs").rows) == 21 + 1


def test_nectar_rows_of_other_types(tmp_path):
    prompt = "\n\nHuman: Hello!\n\nAssistant: "
    rows = [
        ranked(prompt, ("good", 1), ("bad", 2)),
        {**ranked(prompt), "answers": None},
        {**ranked(prompt), "prompt": 3},
        ranked(prompt, ("good", "1"), ("bad", "2")),
        {"prompt": prompt},
    ]
    pairs = build(nectar, write(tmp_path / "rlaif.jsonl", rows, None))
    assert triples(pairs) == [("Hello!", "good", "bad")]
    assert drops(pairs) == {"wrong_type": 3, "missing_column": 1}


# --- from flags to files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "rows", "features", "pairs"),
    [
        (ultrafeedback, ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES, 9),
        (helpsteer, HELPSTEER_ROWS, HELPSTEER_FEATURES, 4),
        (nectar, NECTAR_ROWS, NECTAR_FEATURES, 2),
    ],
)
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_what_a_script_writes_is_what_training_reads(
    script, rows, features, pairs, file_format, tmp_path, monkeypatch, capsys
):
    path = write(tmp_path / "train.parquet", rows, features)
    output = tmp_path / "pairs"
    flags = ["--dataset_path", path, "--output_path", str(output), "--format", file_format, "--num_proc", "1"]
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    run_source(script.ScriptArguments, script.build)
    assert f"{script.SOURCE.name}: {pairs} pairs" in capsys.readouterr().out
    written = load_preference_dataset(str(output))
    made = build(script, path)
    columns = ["prompt", "chosen", "rejected", "chosen_score", "rejected_score", "source", "margin", "reason"]
    assert written.select_columns(columns).to_list() == made.rows.select_columns(columns).to_list()
    manifest = json.loads((output / "manifest.json").read_text())
    (source,) = manifest["sources"]
    assert source["read"]["rows"] == len(rows)
    assert source["read"]["notes"]["answers"] == made.report.notes["answers"]


def test_a_script_runs_from_anywhere(tmp_path):
    rows = [rated(DIALOGUE, "d1", 1, 0), rated("A", "a1", 4, 4), rated(DIALOGUE, "d2", 4, 3), rated("A", "a2", 0, 1)]
    path = write(tmp_path / "train.jsonl", rows, HELPSTEER_FEATURES)
    script = Path(__file__).parents[2] / "data_prep" / "helpsteer2.py"

    def run(*flags):
        command = [sys.executable, str(script), "--dataset_path", path, "--output_path", "out", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    written = load_preference_dataset(str(tmp_path / "out"))
    assert [json.loads(chosen)[0]["content"] for chosen in written["chosen"]] == ["d2", "a1"]
    mistaken = run("--pairs", "best", "--score", "charm")
    assert mistaken.returncode == 2
    assert "Traceback" not in mistaken.stderr
    assert "--pairs: expected one of" in mistaken.stderr
    assert "--score: expected some of" in mistaken.stderr
