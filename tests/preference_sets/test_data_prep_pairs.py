"""Sources that are pairs: rows in their published columns and types, with every trap, counted by hand."""

import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from data_prep import (
    capybara,
    helpsteer,
    helpsteer2,
    helpsteer3,
    hh_rlhf,
    orca,
    pku_saferlhf,
    shp,
    skywork,
    unified_feedback,
)
from reward_modeling.common.errors import UserError
from reward_modeling.data import preferences, sources
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.transcripts import parse_transcript, turns_of
from reward_modeling.preference_sets import source
from reward_modeling.preference_sets.source import _code_key, read_pairs
from reward_modeling.preference_sets.writing import run_source

SCRIPTS = (capybara, helpsteer3, hh_rlhf, orca, pku_saferlhf, shp, skywork, unified_feedback)
KINDS = ("parquet", "jsonl")
TEXT, NUMBER, COUNT, FLAG = Value("string"), Value("float64"), Value("int64"), Value("bool")
MESSAGES = List({"content": TEXT, "role": TEXT})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the cache of the person who runs it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def save(path, rows, features=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        Dataset.from_list(rows, features=features).to_parquet(str(path))
        return str(path)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def arguments_of(script, path, **options):
    return script.ScriptArguments(**{"dataset_path": path, "num_proc": 1, **options})


def build(script, path, **options):
    return script.build(arguments_of(script, path, **options))


def dropped(result):
    return {reason: rows.count for reason, rows in result.report.dropped.items()}


def said(messages):
    """A dialogue in short: "s: be brief | u: hello"."""
    return " | ".join(f"{message['role'][0]}: {message['content']}" for message in json.loads(messages))


def pairs_of(result):
    return [(said(row["prompt"]), said(row["chosen"]), said(row["rejected"])) for row in result.rows]


def scores_of(result):
    return list(zip(result.rows["chosen_score"][:], result.rows["rejected_score"][:], strict=True))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# --- HH-RLHF --------------------------------------------------------------------------------------------------

ASK = (
    "\n\nHuman: What is HH?\n\nAssistant: A set. Human: is a word in it.\nAssistant: too.\n\nHuman: And?\n\nAssistant:"
)
HH_FEATURES = Features({"chosen": TEXT, "rejected": TEXT})
HH_ROWS = [
    {"chosen": f"{ASK} Dialogues.\n\nWith blank lines.", "rejected": f"{ASK} No idea. "},  # kept
    {"chosen": f"{ASK} a\n\nAssistant: b", "rejected": f"{ASK} a"},  # one speaker twice, chosen
    {"chosen": f"{ASK} a", "rejected": "\n\nHuman: q\n\nHuman: q\n\nAssistant: a"},  # rejected; and another prompt
    {"chosen": f"{ASK} a", "rejected": f"{ASK.replace('And', 'But')} b"},  # another prompt
    {"chosen": f"{ASK} ", "rejected": f"{ASK} b"},  # no reply
    {"chosen": ASK, "rejected": f"{ASK.replace('And', 'But')} b"},  # no reply, and another prompt
    {"chosen": f"{ASK} a", "rejected": f"{ASK} b\n\nHuman: thanks"},  # the last turn is the person's
    {"chosen": f"{ASK} a", "rejected": "The words Human: and Assistant: alone make no transcript."},
    {"chosen": f"{ASK} a", "rejected": "\n\nAssistant: Hello!\n\nHuman: q"},  # nor does one that Human does not begin
    {"chosen": f"{ASK} same", "rejected": f"{ASK} same\n"},
    {"chosen": "\n\nHuman:\n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"},  # kept: nothing was asked
    {"chosen": None, "rejected": f"{ASK} b"},
]
HH_DROPPED = {
    "same_role_twice": 2,
    "prompts_differ": 1,
    "empty_reply": 2,
    "last_not_assistant": 1,
    "not_a_transcript": 2,
    "identical_text": 1,
    "wrong_type": 1,
}
HH_KEPT = [
    (
        "u: What is HH? | a: A set. Human: is a word in it.\nAssistant: too. | u: And?",
        "a: Dialogues.\n\nWith blank lines.",
        "a: No idea.",
    ),
    ("u: ", "a: a", "a: b"),
]


@pytest.mark.parametrize("name", ["hh.parquet", "hh.jsonl", "hh.jsonl.gz"])
def test_hh_rlhf(name, tmp_path):
    result = build(hh_rlhf, save(tmp_path / name, HH_ROWS, HH_FEATURES))
    assert dropped(result) == HH_DROPPED
    assert pairs_of(result) == HH_KEPT
    assert result.rows["source"][:] == ["hh_rlhf"] * 2  # a file does not say which subset it is
    assert result.report.notes == {"pairs": 2, "prompts": 2}
    assert result.report.dropped["same_role_twice"].first_excerpt == "assistant: 'b'"


def hh_row(question, reply="good"):
    return {
        "chosen": f"\n\nHuman: {question}\n\nAssistant: {reply}",
        "rejected": f"\n\nHuman: {question}\n\nAssistant: bad",
    }


def hh_clone(folder):
    save(folder / "helpful-base" / "train.jsonl.gz", HH_ROWS)
    save(folder / "helpful-base" / "test.jsonl.gz", [hh_row("a test question")])
    save(folder / "helpful-online" / "train.jsonl.gz", [hh_row("1"), hh_row("2", "bad"), hh_row("2")])
    save(folder / "harmless-base" / "train.jsonl.gz", [hh_row("3")])
    return folder


def test_subsets_of_a_clone_stand_one_after_the_other(tmp_path):
    clone = hh_clone(tmp_path / "hh-rlhf")
    result = build(hh_rlhf, str(clone), subsets="helpful-online,helpful-base")
    assert result.rows["source"][:] == ["hh_rlhf/helpful-online"] * 2 + ["hh_rlhf/helpful-base"] * 2
    assert pairs_of(result) == [("u: 1", "a: good", "a: bad"), ("u: 2", "a: good", "a: bad"), *HH_KEPT]
    assert dropped(result) == {**HH_DROPPED, "identical_text": 2}
    assert result.report.rows_read == 15
    assert result.report.notes == {
        "pairs of helpful-online": 2,
        "rows of helpful-online": 3,
        "pairs of helpful-base": 2,
        "rows of helpful-base": 12,
        "pairs": 4,
        "prompts": 4,
    }
    assert result.report.dropped["identical_text"].first_where == f"{clone}/helpful-online/train.jsonl.gz:2"
    assert result.options["subsets"] == "helpful-online,helpful-base"
    assert result.options["dataset_path"] == str(clone)


def test_one_subset_and_one_split(tmp_path):
    clone = hh_clone(tmp_path / "hh-rlhf")
    tests = build(hh_rlhf, str(clone), subsets="helpful-base", split="test")
    assert pairs_of(tests) == [("u: a test question", "a: good", "a: bad")]
    folder = build(hh_rlhf, str(clone / "helpful-base"))  # without the test file that lies beside it
    assert (folder.report.rows_read, folder.rows["source"][0]) == (12, "hh_rlhf/helpful-base")
    anything = build(hh_rlhf, f"{clone}/*/t*.jsonl.gz")
    assert (anything.report.rows_read, anything.rows["source"][0]) == (17, "hh_rlhf")
    with pytest.raises(
        UserError, match=r"hh_rlhf: expected a file of split train in .*helpful-rejection-sampled, found"
    ):
        build(hh_rlhf, str(clone))
    with pytest.raises(UserError, match=r"expected a file of split test in .*helpful-online, found train.jsonl.gz"):
        build(hh_rlhf, str(clone), subsets="helpful-online", split="test")


def test_turns_stand_as_they_are_until_they_are_merged():
    text = "Human: a\n\nHuman:\n\nAssistant: b Human: c\n\nAssistant:"
    assert turns_of(text) == [user("a"), user(""), assistant("b Human: c"), assistant("")]
    assert parse_transcript(text) == [user("a"), assistant("b Human: c")]
    assert turns_of("Human: a") is turns_of("Assistant: a") is turns_of("") is None


# --- SHP ------------------------------------------------------------------------------------------------------

SHP_FEATURES = Features(
    {
        "post_id": TEXT,
        "domain": TEXT,
        "upvote_ratio": NUMBER,
        "history": TEXT,
        "c_root_id_A": TEXT,
        "c_root_id_B": TEXT,
        "created_at_utc_A": COUNT,
        "created_at_utc_B": COUNT,
        "score_A": COUNT,
        "score_B": COUNT,
        "human_ref_A": TEXT,
        "human_ref_B": TEXT,
        "labels": COUNT,
        "seconds_difference": NUMBER,
        "score_ratio": NUMBER,
    }
)


def shp_row(post, label, scores, answers, history=None, ratio=None, domain="askculinary_train"):
    return {
        "post_id": post,
        "domain": domain,
        "upvote_ratio": 0.98,
        "history": history or f"Question of {post}?",
        "c_root_id_A": "h1",
        "c_root_id_B": "h2",
        "created_at_utc_A": 1_600_000_000,
        "created_at_utc_B": 1_600_000_100,
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": answers[0],
        "human_ref_B": answers[1],
        "labels": label,
        "seconds_difference": 100.0,
        "score_ratio": max(scores) / min(scores) if ratio is None else ratio,
    }


SHP_ROWS = [
    shp_row("p1", 1, (9, 3), ("nine", "three")),  # A is preferred
    shp_row("p1", 0, (3, 12), ("three", "twelve")),  # B is preferred
    *(shp_row("p1", 1, (8 + extra, 2), (f"answer {extra}", "two")) for extra in range(5)),  # 7 pairs of p1
    shp_row("p2", 1, (4, 2), ("four", "two")),  # the ratio is exactly 2
    shp_row("p2", 1, (3, 2), ("three", "two")),
    shp_row("p3", 0, (9, 3), ("worse", "better"), domain="explainlikeimfive_validation"),  # the label decides
    shp_row("p4", 1, (9, 3), ("x", "y"), history="Question of p3?"),  # another post with the same words
    shp_row("p5", 1, (9, 3), (" ", "y")),
    shp_row("p5", 1, (9, 3), ("y", "y")),
    shp_row("p5", 2, (9, 3), ("x", "y")),  # no label of this set
]
SHP_DROPPED = {"small_score_ratio": 2, "empty_reply": 1, "identical_text": 1, "wrong_type": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_shp(kind, tmp_path):
    path = save(tmp_path / f"shp.{kind}", SHP_ROWS, SHP_FEATURES)
    everything = build(shp, path, max_pairs_per_prompt=0)
    assert dropped(everything) == SHP_DROPPED
    assert pairs_of(everything)[:2] == [
        ("u: Question of p1?", "a: nine", "a: three"),
        ("u: Question of p1?", "a: twelve", "a: three"),
    ]
    assert pairs_of(everything)[-2] == ("u: Question of p3?", "a: better", "a: worse")
    assert scores_of(everything)[:2] == [(9.0, 3.0), (12.0, 3.0)]
    assert scores_of(everything)[-2] == (3.0, 9.0)
    assert everything.rows["source"][-2:] == ["shp/explainlikeimfive", "shp/askculinary"]
    assert everything.rows["margin"][:] == [None] * 9  # scores are no margin
    assert everything.report.notes == {"pairs": 9, "prompts": 2}

    five = build(shp, path)
    assert dropped(five) == {**SHP_DROPPED, "beyond_prompt_limit": 2}
    one = build(shp, path, max_pairs_per_prompt=1)
    assert dropped(one) == {**SHP_DROPPED, "beyond_prompt_limit": 6}
    assert [pair[0] for pair in pairs_of(one)] == ["u: Question of p1?", "u: Question of p3?", "u: Question of p3?"]

    assert dropped(build(shp, path, min_score_ratio=1.5, max_pairs_per_prompt=0))["small_score_ratio"] == 1
    assert "small_score_ratio" not in dropped(build(shp, path, min_score_ratio=0, max_pairs_per_prompt=0))
    # 9/3, 12/3 and 8/2 of p1, both of p2, one of p3 and of p4, two of p5
    assert dropped(build(shp, path, min_score_ratio=4))["small_score_ratio"] == 9


def test_the_draw_depends_on_the_seed_alone(tmp_path):
    shuffled = random.Random(0).sample(SHP_ROWS, len(SHP_ROWS))
    first = save(tmp_path / "a.parquet", SHP_ROWS, SHP_FEATURES)
    second = save(tmp_path / "b.parquet", shuffled, SHP_FEATURES)
    drawn = set(pairs_of(build(shp, first, max_pairs_per_prompt=1)))
    assert set(pairs_of(build(shp, second, max_pairs_per_prompt=1, num_proc=2))) == drawn
    others = [frozenset(pairs_of(build(shp, first, max_pairs_per_prompt=1, seed=seed))) for seed in range(8)]
    assert len(set(others)) > 1


# --- Capybara -------------------------------------------------------------------------------------------------

CAPYBARA_FEATURES = Features(
    {
        "source": TEXT,
        "conversation": List({"input": TEXT, "output": TEXT}),
        "original_response": TEXT,
        "generation_prompt": List(TEXT),
        "raw_generation_responses": List(TEXT),
        "new_generations": List(TEXT),
        "prompt": TEXT,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "rating_chosen": COUNT,
        "rating_rejected": COUNT,
        "chosen_model": TEXT,
        "rejected_model": TEXT,
    }
)
TURNS = [user("Hi"), assistant("Hello"), user("What is a capybara?")]


def capybara_row(ratings, chosen="A rodent.", rejected="A bird.", prompt=TURNS, source="Dove"):
    return {
        "source": source,
        "conversation": [{"input": "Hi", "output": "Hello"}, {"input": "What is a capybara?", "output": chosen}],
        "original_response": chosen,
        "generation_prompt": ["system", "Hi"],
        "raw_generation_responses": [rejected],
        "new_generations": [rejected],
        "prompt": "Hi\nHello\nWhat is a capybara?",  # one text, beside messages that hold the prompt
        "chosen": [*TURNS, assistant(chosen)],
        "rejected": [*prompt, assistant(rejected)],
        "rating_chosen": ratings[0],
        "rating_rejected": ratings[1],
        "chosen_model": "original",
        "rejected_model": "other",
    }


CAPYBARA_ROWS = [
    capybara_row((5, 2)),
    capybara_row((3, 1), source=None),
    capybara_row((4, 4)),
    capybara_row((5, 1), rejected="A rodent."),
    capybara_row((None, 1)),
    capybara_row((5, 1), prompt=TURNS[2:]),
]
CAPYBARA_DROPPED = {"equal_scores": 1, "identical_text": 1, "no_score": 1, "prompts_differ": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_capybara(kind, tmp_path):
    path = save(tmp_path / f"capybara.{kind}", CAPYBARA_ROWS, CAPYBARA_FEATURES)
    result = build(capybara, path)
    assert dropped(result) == CAPYBARA_DROPPED
    assert pairs_of(result) == [("u: Hi | a: Hello | u: What is a capybara?", "a: A rodent.", "a: A bird.")] * 2
    assert scores_of(result) == [(5.0, 2.0), (3.0, 1.0)]
    assert result.rows["source"][:] == ["capybara/Dove", "capybara"]
    good = build(capybara, path, min_chosen_rating=4)
    assert dropped(good) == {**CAPYBARA_DROPPED, "filtered": 1}
    assert dropped(build(capybara, path, min_chosen_rating=3)) == CAPYBARA_DROPPED
    everything = build(capybara, path, drop_equal_ratings=False)
    assert dropped(everything) == {"identical_text": 1, "prompts_differ": 1}
    assert scores_of(everything) == [(5.0, 2.0), (3.0, 1.0), (4.0, 4.0), (None, 1.0)]


# --- Orca -----------------------------------------------------------------------------------------------------

ORCA_FEATURES = Features(
    {
        "system": TEXT,
        "input": TEXT,
        "chosen": TEXT,
        "rejected": TEXT,
        "generations": List(TEXT),
        "order": List(TEXT),
        "labelling_model": TEXT,
        "labelling_prompt": MESSAGES,
        "raw_labelling_response": TEXT,
        "rating": List(NUMBER),
        "rationale": TEXT,
        "status": TEXT,
        "original_chosen": TEXT,
        "original_rejected": TEXT,
        "chosen_score": NUMBER,
        "in_gsm8k_train": FLAG,
    }
)


def orca_row(
    rating, status, chosen=("four"), rejected="five", turned=False, order=False, gsm8k=False, system="Be brief."
):
    """`order`: the answers were shown the other way round; `turned`: the original preference was the other."""
    originals = (rejected, chosen) if turned else (chosen, rejected)
    return {
        "system": system,
        "input": "2 + 2?",
        "chosen": chosen,
        "rejected": rejected,
        "generations": [rejected, chosen] if order else [chosen, rejected],
        "order": ["chosen", "rejected"] if order == turned else ["rejected", "chosen"],
        "labelling_model": "gpt-4-1106-preview",
        "labelling_prompt": [{"role": "system", "content": "Rate."}, user("2 + 2?")],
        "raw_labelling_response": "9\n3",
        "rating": rating,
        "rationale": "why",
        "status": status,
        "original_chosen": originals[0],
        "original_rejected": originals[1],
        "chosen_score": max(rating) if rating else None,
        "in_gsm8k_train": gsm8k,
    }


ORCA_ROWS = [
    orca_row([9.0, 3.0], "unchanged"),
    orca_row([2.0, 10.0], "unchanged", order=True, system=""),  # shown in the other order: chosen is the second
    orca_row([8.0, 7.0], "swapped", turned=True),  # the set has turned it round already
    orca_row([9.0, 9.0], "tie"),
    orca_row([9.0, 9.0], "unchanged"),
    orca_row([7.5, 3.0], "unchanged"),
    orca_row([9.0, 1.0], "unchanged", gsm8k=True, system=None),
    orca_row(None, "unchanged"),
    orca_row([9.0, 1.0], "unchanged", rejected="four"),
    {**orca_row([9.0, 1.0], "unchanged"), "generations": ["four ", "five"]},  # no telling which rating is whose
    {**orca_row([9.0, 1.0], "unchanged"), "chosen_score": 8.0},  # nor here
    {**orca_row([9.0, 1.0], "unchanged"), "rejected": None},
]
ORCA_DROPPED = {"equal_scores": 2, "filtered": 1, "no_score": 1, "identical_text": 1, "wrong_type": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_orca(kind, tmp_path):
    path = save(tmp_path / f"orca.{kind}", ORCA_ROWS, ORCA_FEATURES)
    result = build(orca, path)
    assert dropped(result) == ORCA_DROPPED
    assert [prompt for prompt, _, _ in pairs_of(result)] == [
        "s: Be brief. | u: 2 + 2?",
        "u: 2 + 2?",
        "s: Be brief. | u: 2 + 2?",
        "u: 2 + 2?",
        "s: Be brief. | u: 2 + 2?",
        "s: Be brief. | u: 2 + 2?",
    ]
    assert {pair[1:] for pair in pairs_of(result)} == {("a: four", "a: five")}
    assert scores_of(result) == [(9.0, 3.0), (10.0, 2.0), (8.0, 7.0), (9.0, 1.0), (9.0, None), (8.0, None)]
    assert set(result.rows["source"][:]) == {"orca"}


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"exclude_gsm8k": True}, {**ORCA_DROPPED, "filtered": 2}),
        ({"drop_ties": False}, ORCA_DROPPED),  # a tie has equal ratings
        ({"drop_equal_ratings": False}, {**ORCA_DROPPED, "equal_scores": 1}),
        ({"min_chosen_score": 0.0}, {"equal_scores": 2, "no_score": 1, "identical_text": 1, "wrong_type": 1}),
        ({"min_chosen_score": 9.0}, {**ORCA_DROPPED, "filtered": 3}),
        (
            {"drop_ties": False, "drop_equal_ratings": False, "min_chosen_score": 0.0},
            {"identical_text": 1, "wrong_type": 1},
        ),
    ],
)
def test_each_clause_of_orca(options, counts, tmp_path):
    assert dropped(build(orca, save(tmp_path / "orca.parquet", ORCA_ROWS, ORCA_FEATURES), **options)) == counts


# --- PKU-SafeRLHF ---------------------------------------------------------------------------------------------

PKU_FEATURES = Features(
    {
        "prompt": TEXT,
        "response_0": TEXT,
        "response_1": TEXT,
        "is_response_0_safe": FLAG,
        "is_response_1_safe": FLAG,
        "better_response_id": COUNT,
        "safer_response_id": COUNT,
    }
)


def pku_row(number, better, safer, answers=("nought", "one")):
    return {
        "prompt": f"question {number}",
        "response_0": answers[0],
        "response_1": answers[1],
        "is_response_0_safe": safer == 0,
        "is_response_1_safe": safer == 1,
        "better_response_id": better,
        "safer_response_id": safer,
    }


PKU_ROWS = [
    pku_row(1, 0, 0),
    pku_row(2, 0, 1),  # the labels disagree
    pku_row(3, 1, 0),
    pku_row(4, 1, None),
    pku_row(5, 0, 0, ("same", "same")),
    pku_row(6, 0, 0, ("", "one")),
    pku_row(7, 2, 2),
]
PKU_DROPPED = {"no_score": 1, "identical_text": 1, "empty_reply": 1, "wrong_type": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_pku_saferlhf(kind, tmp_path):
    path = save(tmp_path / f"pku.{kind}", PKU_ROWS, PKU_FEATURES)
    safer = build(pku_saferlhf, path)
    assert dropped(safer) == PKU_DROPPED
    assert [pair[1] for pair in pairs_of(safer)] == ["a: nought", "a: one", "a: nought"]
    better = build(pku_saferlhf, path, preference="better")
    assert dropped(better) == {name: 1 for name in PKU_DROPPED if name != "no_score"}
    assert [pair[1] for pair in pairs_of(better)] == ["a: nought", "a: nought", "a: one", "a: one"]
    assert pairs_of(better)[1] == ("u: question 2", "a: nought", "a: one")
    assert scores_of(safer) == [(None, None)] * 3
    assert safer.rows["source"][:] == ["pku_saferlhf"] * 3


def test_a_sample_of_pku(tmp_path):
    rows = [pku_row(number, 0, 0) for number in range(40)]
    path = save(tmp_path / "a.parquet", rows, PKU_FEATURES)
    shuffled = save(tmp_path / "b.jsonl", random.Random(1).sample(rows, 40))
    sample = build(pku_saferlhf, path, sample=10)
    assert dropped(sample) == {"not_sampled": 30}
    assert set(pairs_of(build(pku_saferlhf, shuffled, sample=10, num_proc=2))) == set(pairs_of(sample))
    assert set(pairs_of(build(pku_saferlhf, path, sample=10, seed=1))) != set(pairs_of(sample))
    assert dropped(build(pku_saferlhf, path, sample=150_000)) == {}


@pytest.mark.parametrize(
    ("options", "revision"),
    [
        ({}, "v0"),
        ({"revision": "main"}, "main"),
        ({"dataset_path": "PKU-Alignment/PKU-SafeRLHF:test"}, "v0"),
        ({"dataset_path": "PKU-Alignment/PKU-SafeRLHF-30K"}, None),
        ({"dataset_path": "pku.parquet"}, None),
    ],
)
def test_the_revision_of_pku(options, revision):
    assert pku_saferlhf.ScriptArguments(**options).revision == revision


# --- Unified-Feedback, Skywork, HelpSteer3 ------------------------------------------------------------------------

UNIFIED_FEATURES = Features(
    {
        "id": TEXT,
        "conv_A": MESSAGES,
        "conv_B": MESSAGES,
        "conv_A_rating": Value("float32"),
        "conv_B_rating": Value("float32"),
        "num_turns": COUNT,
        "source": TEXT,
    }
)


def unified_row(ratings, answers=("A", "B"), questions=("q", "q"), source="lmsys/chatbot_arena_conversations"):
    sides = [[user(question), assistant(answer)] for question, answer in zip(questions, answers, strict=True)]
    return {
        "id": "0",
        "conv_A": sides[0],
        "conv_B": sides[1],
        "conv_A_rating": ratings[0],
        "conv_B_rating": ratings[1],
        "num_turns": 2,
        "source": source,
    }


UNIFIED_ROWS = [
    unified_row((1.0, 0.0)),
    unified_row((0.0, 1.0)),
    unified_row((0.5, 0.5)),
    unified_row((0.0, 0.0)),
    unified_row((4.3333330, 4.3333335), source="openbmb/UltraFeedback"),
    unified_row((4.0, 4.5), source="openbmb/UltraFeedback"),
    unified_row((1.0, 0.0), answers=("A", "A")),
    unified_row((1.0, 0.0), questions=("q", "r")),
    unified_row((None, 1.0)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_unified_feedback(kind, tmp_path):
    result = build(unified_feedback, save(tmp_path / f"unified.{kind}", UNIFIED_ROWS, UNIFIED_FEATURES))
    assert dropped(result) == {"equal_scores": 3, "identical_text": 1, "prompts_differ": 1, "no_score": 1}
    assert pairs_of(result) == [("u: q", "a: A", "a: B"), ("u: q", "a: B", "a: A"), ("u: q", "a: B", "a: A")]
    assert scores_of(result) == [(1.0, 0.0), (1.0, 0.0), (4.5, 4.0)]
    assert result.rows["source"][-2:] == [
        "unified_feedback/lmsys/chatbot_arena_conversations",
        "unified_feedback/openbmb/UltraFeedback",
    ]


SKYWORK_FEATURES = Features({"chosen": MESSAGES, "rejected": MESSAGES, "source": TEXT})
SKYWORK_ROWS = [
    {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")], "source": "wildguard"},
    {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("a")], "source": "magpie_ultra"},
    {"chosen": [user("q"), assistant("a")], "rejected": [user("q")], "source": "magpie_ultra"},
    {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("")], "source": "offsetbias"},
    {"chosen": None, "rejected": [user("q"), assistant("")], "source": "offsetbias"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_skywork(kind, tmp_path):
    result = build(skywork, save(tmp_path / f"skywork.{kind}", SKYWORK_ROWS, SKYWORK_FEATURES))
    assert dropped(result) == {"identical_text": 1, "prompts_differ": 1, "empty_reply": 1, "no_chosen_or_rejected": 1}
    assert pairs_of(result) == [("u: Hi | a: Hello | u: What is a capybara?", "a: a", "a: b")]
    assert result.rows["source"][:] == ["skywork/wildguard"]


HELPSTEER3_FEATURES = Features(
    {
        "domain": TEXT,
        "language": TEXT,
        "context": MESSAGES,
        "response1": TEXT,
        "response2": TEXT,
        "overall_preference": COUNT,
        "individual_preference": List({"score": COUNT, "reasoning": TEXT}),
    }
)


def helpsteer3_row(preference, context=TURNS, answers=("one", "two"), domain="STEM"):
    return {
        "domain": domain,
        "language": "english",
        "context": context,
        "response1": answers[0],
        "response2": answers[1],
        "overall_preference": preference,
        "individual_preference": [{"score": preference, "reasoning": "why"}],
    }


HELPSTEER3_ROWS = [
    helpsteer3_row(-3),
    helpsteer3_row(1, domain="Code"),
    helpsteer3_row(2),
    helpsteer3_row(0),
    helpsteer3_row(None),
    helpsteer3_row(-4),
    helpsteer3_row(1, context=[]),
    helpsteer3_row(1, answers=("same", "same")),
    helpsteer3_row(1, answers=("one", "")),
]
HELPSTEER3_DROPPED = {"equal_scores": 1, "no_score": 1, "wrong_type": 2, "identical_text": 1, "empty_reply": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_helpsteer3(kind, tmp_path):
    path = save(tmp_path / f"helpsteer3.{kind}", HELPSTEER3_ROWS, HELPSTEER3_FEATURES)
    result = build(helpsteer3, path)
    assert dropped(result) == HELPSTEER3_DROPPED
    prompt = "u: Hi | a: Hello | u: What is a capybara?"
    assert pairs_of(result) == [(prompt, "a: one", "a: two"), *[(prompt, "a: two", "a: one")] * 2]
    assert scores_of(result) == [(3.0, 0.0), (1.0, 0.0), (2.0, 0.0)]
    assert result.rows["margin"][:] == [None] * 3
    assert result.rows["source"][:2] == ["helpsteer3/stem", "helpsteer3/code"]
    clear = build(helpsteer3, path, min_strength=2, write_margin=True)
    assert dropped(clear) == {"equal_scores": 1, "no_score": 1, "wrong_type": 1, "filtered": 4}
    assert clear.rows["margin"][:] == [3.0, 2.0]


# --- what all scripts have --------------------------------------------------------------------------------------

FIXTURES = {
    capybara: (CAPYBARA_ROWS, CAPYBARA_FEATURES),
    helpsteer3: (HELPSTEER3_ROWS, HELPSTEER3_FEATURES),
    hh_rlhf: (HH_ROWS, HH_FEATURES),
    orca: (ORCA_ROWS, ORCA_FEATURES),
    pku_saferlhf: (PKU_ROWS, PKU_FEATURES),
    shp: (SHP_ROWS, SHP_FEATURES),
    skywork: (SKYWORK_ROWS, SKYWORK_FEATURES),
    unified_feedback: (UNIFIED_ROWS, UNIFIED_FEATURES),
}
scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.SOURCE.name)


@scripts
def test_every_row_is_counted_once_and_in_any_order(script, tmp_path):
    rows, features = FIXTURES[script]
    result = build(script, save(tmp_path / "a.parquet", rows, features))
    assert result.report.rows_read == len(rows) == len(result.rows) + sum(dropped(result).values())
    shuffled = save(tmp_path / "b.jsonl", random.Random(2).sample(rows, len(rows)))
    again = build(script, shuffled)
    assert sorted(pairs_of(again)) == sorted(pairs_of(result))
    assert dropped(again) == dropped(result)


@scripts
def test_what_is_written_is_what_rm_takes(script, tmp_path, monkeypatch):
    rows, features = FIXTURES[script]
    path = save(tmp_path / "rows.parquet", rows, features)
    output = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["script", "--dataset_path", path, "--output_path", str(output), "--num_proc", "1"]
    )
    run_source(script.ScriptArguments, script.build)
    written, result = load_preference_dataset(str(output)), build(script, path)
    assert set(written["reason"][:]) == {""}
    for name in ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", "margin", "source"):
        assert written[name][:] == result.rows[name][:]


@scripts
def test_other_columns_are_named(script, tmp_path):
    required = script.SOURCE.columns.required
    for name in ("other.parquet", "other.jsonl"):
        path = save(tmp_path / name, [{"question": "q", "answer": "a"}] * 2)
        with pytest.raises(UserError) as caught:
            build(script, path)
        message = str(caught.value)
        assert message.startswith(
            f"{script.SOURCE.name}: expected columns {', '.join(required[:-1])} and {required[-1]}"
        )
        assert f"in {path}, found no row" in message
        assert "columns found: question, answer" in message
        assert message.endswith("The flag for the path is --dataset_path.")


@scripts
def test_a_row_of_json_without_a_column(script, tmp_path):
    rows, _ = FIXTURES[script]
    missing = script.SOURCE.columns.required[-1]
    torn = {name: value for name, value in rows[0].items() if name != missing}
    result = build(script, save(tmp_path / "torn.jsonl", [rows[0], torn, "no columns"]))
    assert dropped(result) == {"missing_column": 1, "wrong_type": 1}
    assert result.report.dropped["missing_column"].first_where.endswith("torn.jsonl:2")
    assert result.report.dropped["missing_column"].first_excerpt.startswith(f"no {missing}; columns: ")


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (hh_rlhf, {"subsets": "helpful-base,helpfull"}, "--subsets: expected some of helpful-base, "),
        (hh_rlhf, {"subsets": "helpful-base,helpful-base"}, "found 'helpful-base,helpful-base'"),
        (hh_rlhf, {"subsets": ""}, "found ''"),
        (shp, {"min_score_ratio": -1.0}, "--min_score_ratio: expected 0 or more, found -1.0"),
        (shp, {"min_score_ratio": float("nan")}, "--min_score_ratio: expected 0 or more, found nan"),
        (shp, {"max_pairs_per_prompt": -1}, "--max_pairs_per_prompt: expected 0 or more, found -1"),
        (capybara, {"min_chosen_rating": 6}, "--min_chosen_rating: expected 0 to 5, found 6"),
        (orca, {"min_chosen_score": float("inf")}, "--min_chosen_score: expected 0 or more, found inf"),
        (pku_saferlhf, {"preference": "safe"}, "--preference: expected one of safer, better, both, found 'safe'"),
        (pku_saferlhf, {"sample": 0}, "--sample: expected at least 1, found 0"),
        (unified_feedback, {"config_name": "nectar"}, "--config_name: expected one of all, Nectar, "),
        (helpsteer3, {"min_strength": -1}, "--min_strength: expected 0 to 3, found -1"),
    ],
)
def test_wrong_values_are_named_together(script, options, message):
    with pytest.raises(UserError) as caught:
        script.ScriptArguments(**options, format="csv")
    assert message in str(caught.value)
    assert "--format: expected one of parquet, jsonl, found 'csv'" in str(caught.value)


def test_what_is_asked_of_the_hub(monkeypatch):
    asked = []

    def from_hub(name, config=None, *, data_dir=None, revision=None, num_proc=None):
        asked.append((name, config, data_dir, revision))
        rows, features = FIXTURES[next(script for script in SCRIPTS if script.ScriptArguments().dataset_path == name)]
        return DatasetDict({split: Dataset.from_list(rows, features=features) for split in ("train", "test")})

    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda self, name, revision, timeout: None)
    monkeypatch.setattr(sources, "datasets", replace_load_dataset(from_hub))
    result = hh_rlhf.build(hh_rlhf.ScriptArguments(num_proc=1, revision="abc"))
    hh_asked = [("Anthropic/hh-rlhf", None, subset, "abc") for subset in hh_rlhf.SUBSETS[:3]]
    assert asked == hh_asked
    assert result.report.rows_read == 3 * len(HH_ROWS)
    assert result.report.dropped["identical_text"].first_where == "helpful-base: Anthropic/hh-rlhf row 9"
    for script in (pku_saferlhf, unified_feedback, helpsteer3, skywork):
        script.build(script.ScriptArguments(num_proc=1))
    assert asked[3:] == [
        ("PKU-Alignment/PKU-SafeRLHF", None, None, "v0"),
        ("llm-blender/Unified-Feedback", "all", None, None),
        ("nvidia/HelpSteer3", "preference", None, None),
        ("Skywork/Skywork-Reward-Preference-80K-v0.2", None, None, None),
    ]


def replace_load_dataset(load):
    """The module `datasets` as `sources` sees it, with another `load_dataset`: files are still read by the real one."""

    class Stand:
        config = datasets.config
        load_dataset = staticmethod(load)

    return Stand


def test_the_script_from_anywhere(tmp_path):
    script = Path(shp.__file__)
    (tmp_path / "shp.jsonl").write_text("")
    command = [sys.executable, str(script), "--dataset_path", "shp.jsonl", "--output_path", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "error: shp: expected rows in shp.jsonl, found none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_edited_script_reads_again(tmp_path):
    arguments = arguments_of(skywork, save(tmp_path / "rows.jsonl", SKYWORK_ROWS[:1]))
    script = tmp_path / "mine.py"
    for reply in ("first", "second"):
        script.write_text(f"def to_pair(row):\n    return dict(prompt='q', chosen='{reply}', rejected='no')\n")
        names = {"__name__": "mine"}
        exec(compile(script.read_text(), str(script), "exec"), names)
        assert pairs_of(read_pairs(arguments, skywork.SOURCE, names["to_pair"])) == [("u: q", f"a: {reply}", "a: no")]


def test_rows_of_other_code_are_not_served(monkeypatch):
    """Of every function that makes the rows, an edited file is another key; so are other flags, and other rules."""
    answers = partial(helpsteer.to_answers, attributes=("helpfulness",), read_prompt=helpsteer2.prompt_messages)
    key = _code_key(answers)
    for module in (helpsteer, helpsteer2):
        assert blake2b(Path(module.__file__).read_bytes(), digest_size=8).hexdigest() in key
    assert "0x" not in key  # no address in memory: the key of the next process is the same
    assert _code_key(partial(answers, attributes=("correctness",))) != key
    versions = []
    monkeypatch.setattr(source, "load_rows", lambda path, *, version, **options: versions.append(version) or 1 / 0)
    for raised in (False, True):
        monkeypatch.setattr(source.preferences, "CACHE_VERSION", preferences.CACHE_VERSION + raised)
        with pytest.raises(ZeroDivisionError):
            build(skywork, "rows.jsonl")
    assert versions[0] != versions[1]


def skywork_row(question):
    return {"chosen": [user(question), assistant("good")], "rejected": [user(question), assistant("bad")]}


@pytest.mark.parametrize(
    ("files", "split", "read"),
    [
        (("train.jsonl", "validation.jsonl", "README.md"), "train", ["train.jsonl"]),
        (("train.jsonl", "validation.jsonl"), "validation", ["validation.jsonl"]),
        (("train-0.jsonl", "train-1.jsonl.gz", "test-0.jsonl"), "train", ["train-0.jsonl", "train-1.jsonl.gz"]),
        (("mine.jsonl", "other.jsonl"), "mine", ["mine.jsonl"]),  # a split may have any name
        (("one.jsonl", "two.jsonl", "trainer.jsonl"), "train", ["one.jsonl", "trainer.jsonl", "two.jsonl"]),
    ],
)
@pytest.mark.parametrize("script", [skywork, hh_rlhf])
def test_the_files_of_a_split_alone(script, files, split, read, tmp_path):
    folder = tmp_path / "a [copy]"  # what a glob would take for a pattern
    row = skywork_row if script is skywork else hh_row
    for name in files:
        save(folder / name, [row(name)])
    result = build(script, str(folder), split=split)
    assert [prompt for prompt, _, _ in pairs_of(result)] == [f"u: {name}" for name in read]
    assert (result.options["split"], result.options["revision"]) == (split, None)


@pytest.mark.parametrize(
    ("files", "split", "found"),
    [
        (("test.jsonl", "dev-0.jsonl", "more.jsonl"), "train", "dev-0.jsonl, test.jsonl"),
        (("train.jsonl",), "test", "train.jsonl"),
        (("eval.jsonl", "val.jsonl", "validation-1.jsonl"), "train", "eval.jsonl, val.jsonl, validation-1.jsonl"),
        (("test.jsonl", "train.md"), "train", "test.jsonl"),  # train.md is no data
    ],
)
def test_files_of_other_splits_are_refused(files, split, found, tmp_path):
    for name in files:
        save(tmp_path / "set" / name, [skywork_row(name)])
    message = rf"skywork: expected a file of split {split} in .*set, found {found}\. Set --split to one that is there"
    with pytest.raises(UserError, match=message):
        build(skywork, str(tmp_path / "set"), split=split)


def test_saved_data_sets_have_their_splits(tmp_path):
    splits = {split: Dataset.from_list([skywork_row(split)]) for split in ("train", "test")}
    DatasetDict(splits).save_to_disk(tmp_path / "splits")
    splits["test"].save_to_disk(tmp_path / "test-alone")
    for path, split, prompt in (
        ("splits", "test", "test"),
        ("splits:test", "train", "test"),
        ("test-alone", "", "test"),
    ):
        result = build(skywork, str(tmp_path / path), split=split or "train")
        assert [asked for asked, _, _ in pairs_of(result)] == [f"u: {prompt}"]
        assert result.options["revision"] is None


def test_a_local_path_has_no_revision_and_a_file_no_split(tmp_path):
    path = save(tmp_path / "train.jsonl", [skywork_row("q")])
    for local in (path, str(tmp_path / "*.jsonl")):
        options = arguments_of(skywork, local, split="test", revision="main").options()
        assert (options["split"], options["revision"]) == (None, None)
    options = arguments_of(skywork, str(tmp_path), split="test", revision="main").options()
    assert (options["split"], options["revision"]) == ("test", None)
    for remote in ("org/name", "org/name:test"):
        options = arguments_of(skywork, remote, split="test", revision="main").options()
        assert (options["split"], options["revision"]) == ("test", "main")


HUGE = 10**400  # JSON knows it, float64 does not


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("script", "changes", "options", "reasons"),
    [
        (shp, {"labels": HUGE}, {}, {"wrong_type"}),
        (shp, {"score_A": HUGE}, {}, {"nan_margin"}),
        (shp, {"score_ratio": HUGE}, {}, {"small_score_ratio", None}),
        (capybara, {"rating_chosen": HUGE}, {}, {"nan_margin"}),
        (capybara, {"rating_chosen": HUGE, "rating_rejected": HUGE}, {"drop_equal_ratings": True}, {"equal_scores"}),
        (orca, {"rating": [HUGE, HUGE], "status": "rated"}, {"drop_equal_ratings": True}, {"equal_scores"}),
        (orca, {"chosen_score": HUGE, "status": "rated"}, {"min_chosen_score": 0.0}, {"nan_margin"}),
        (pku_saferlhf, {"safer_response_id": HUGE}, {}, {"wrong_type"}),
        (unified_feedback, {"conv_A_rating": HUGE}, {}, {"nan_margin"}),
        (helpsteer3, {"overall_preference": HUGE}, {}, {"wrong_type"}),
    ],
)
def test_integers_beyond_floats_are_counted(script, changes, options, reasons, sign, tmp_path):
    good = next(row for row in FIXTURES[script][0] if not dropped_alone(script, row, tmp_path))
    row = good | {
        name: [sign * one for one in value] if isinstance(value, list) else sign * value if value == HUGE else value
        for name, value in changes.items()
    }
    result = build(script, save(tmp_path / "huge.jsonl", [row]), **options)
    assert set(dropped(result)) or None in reasons
    assert set(dropped(result)) <= reasons


def dropped_alone(script, row, folder):
    return dropped(build(script, save(folder / "alone.jsonl", [row])))


def test_options_are_what_decides(tmp_path):
    arguments = arguments_of(shp, save(tmp_path / "shp.parquet", SHP_ROWS, SHP_FEATURES))
    options = shp.build(replace(arguments, output_path="elsewhere", format="jsonl")).options
    assert options == shp.build(arguments).options
    assert options["min_score_ratio"] == 2.0
    assert not options.keys() & {"output_path", "format", "num_proc", "overwrite"}
