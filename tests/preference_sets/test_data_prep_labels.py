"""What sources say beyond a preference: strengths, ties, annotators' shares, two labels, and votes in other columns."""

import sys

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from test_data_prep_answers import HELPSTEER_FEATURES, rated
from test_data_prep_pairs import (
    FIXTURES,
    HELPSTEER3_FEATURES,
    KINDS,
    PKU_FEATURES,
    PKU_ROWS,
    TEXT,
    build,
    dropped,
    helpsteer3_row,
    pairs_of,
    pku_row,
    replace_load_dataset,
    save,
)

from data_prep import helpsteer2, helpsteer3, lint, pku_saferlhf
from reward_modeling.common.errors import UserError
from reward_modeling.data import sources
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.preference_sets.arguments import FileArguments, source_arguments
from reward_modeling.preference_sets.source import PreferenceSource, read_file
from reward_modeling.preference_sets.writing import run_source

LABELS = ("chosen_probability", "strength", "weight", "margin")


pytestmark = pytest.mark.usefixtures("own_cache")


def answers(result):
    """(chosen, rejected) as texts."""
    return [tuple(text.removeprefix("a: ") for text in pair[1:]) for pair in pairs_of(result)]


# --- HelpSteer2-Preference -------------------------------------------------------------------------------------------

COUNT = Value("int64")
PREFERENCE_FEATURES = Features(
    {
        "split": TEXT,
        "prompt": TEXT,
        "response_1": TEXT,
        "response_2": TEXT,
        "preference_strength": COUNT,
        "preference_statement": TEXT,
        "preference_elaboration": TEXT,
        "all_preferences_unprocessed": List({"strength": COUNT, "statement": TEXT}),
    }
)


def compared(prompt, strength, split="train", texts=("one", "two")):
    return {
        "split": split,
        "prompt": prompt,
        "response_1": texts[0],
        "response_2": texts[1],
        "preference_strength": strength,
        "preference_statement": "One is better than the other.",
        "preference_elaboration": "It is shorter.",
        "all_preferences_unprocessed": [{"strength": strength, "statement": "Better."}],
    }


PREFERENCE_ROWS = [
    compared("a", -3),
    compared("b", 1),
    compared("c", 0),
    compared("d", 2, split="val"),
    compared("Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nAnd?", -1),
    compared("Hi\n<extra_id_1>User\nAgain", 2),
    compared("e", 4),
    compared("f", None),
    compared("g", 2, texts=("same", "same")),
    compared("h", 0, texts=("one", "")),
]
PREFERENCE_DROPPED = {
    "filtered": 1,
    "same_role_twice": 1,
    "wrong_type": 1,
    "no_score": 1,
    "identical_text": 1,
    "empty_reply": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_helpsteer2_preferences(kind, tmp_path):
    path = save(tmp_path / f"preference.{kind}", PREFERENCE_ROWS, PREFERENCE_FEATURES)
    result = build(helpsteer2, path, preference=True)
    assert dropped(result) == PREFERENCE_DROPPED
    assert result.report.rows_read == len(PREFERENCE_ROWS)
    assert answers(result) == [("one", "two"), ("two", "one"), ("one", "two"), ("one", "two")]
    assert pairs_of(result)[3][0] == "u: Hi | a: Hello | u: And?"
    assert result.rows["strength"][:] == [3.0, 1.0, 0.0, 1.0]
    assert result.rows["chosen_probability"][:] == [None, None, 0.5, None]
    assert result.rows["margin"][:] == [None] * 4
    assert result.rows["source"][:] == ["helpsteer2"] * 4
    with_margins = build(helpsteer2, path, preference=True, write_margin=True)
    assert with_margins.rows["margin"][:] == [3.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("split", "prompts"), [("train", ["u: a"]), ("validation", ["u: b", "u: c"]), ("val", ["u: b"])]
)
def test_the_rows_say_which_split_they_are_of(split, prompts, tmp_path):
    rows = [compared("a", 1), compared("b", 1, split="val"), compared("c", 1, split="validation")]
    result = build(helpsteer2, save(tmp_path / "preference.jsonl", rows), preference=True, split=split)
    assert [pair[0] for pair in pairs_of(result)] == prompts
    assert dropped(result) == {"filtered": 3 - len(prompts)}
    assert result.options["split"] == split  # it decides which pairs there are, in a file too


def test_a_clone_has_ratings_and_preferences(tmp_path):
    clone = tmp_path / "HelpSteer2"
    save(clone / "train.jsonl.gz", [rated("rated", "good", 4, 4), rated("rated", "bad", 1, 1)])
    save(clone / "validation.jsonl.gz", [rated("held out", "good", 4, 4), rated("held out", "bad", 1, 1)])
    save(clone / "preference" / "preference.jsonl.gz", [compared("compared", 1), compared("later", 1, split="val")])
    assert [pair[0] for pair in pairs_of(build(helpsteer2, str(clone)))] == ["u: rated"]
    preferences = build(helpsteer2, str(clone), preference=True)
    assert [pair[0] for pair in pairs_of(preferences)] == ["u: compared"]
    assert preferences.options["dataset_path"] == str(clone)
    later = build(helpsteer2, str(clone), preference=True, split="validation")
    assert [pair[0] for pair in pairs_of(later)] == ["u: later"]


def test_the_hub_is_asked_for_the_folder_of_preferences(monkeypatch):
    asked = []

    def from_hub(name, config=None, *, data_dir=None, revision=None, num_proc=None):
        asked.append((name, config, data_dir, revision))
        return DatasetDict({"train": Dataset.from_list(PREFERENCE_ROWS, features=PREFERENCE_FEATURES)})

    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda self, name, revision, timeout: None)
    monkeypatch.setattr(sources, "datasets", replace_load_dataset(from_hub))
    arguments = helpsteer2.ScriptArguments(num_proc=1, preference=True, split="validation", revision="abc")
    result = helpsteer2.build(arguments)  # of the Hub's one split, the rows of ours
    assert asked == [("nvidia/HelpSteer2", None, "preference", "abc")]
    assert [pair[0] for pair in pairs_of(result)] == ["u: d"]
    assert result.options["revision"] == "abc"


def test_preferences_are_not_chosen_by_ratings(tmp_path):
    with pytest.raises(
        UserError, match=r"--preference: expected without --rows, --pairs and --score.*--score helpfulness"
    ):
        helpsteer2.ScriptArguments(preference=True, score="helpfulness")
    with pytest.raises(UserError, match="found --pairs all_pairs"):
        helpsteer2.ScriptArguments(preference=True, pairs="all_pairs")
    path = save(tmp_path / "train.parquet", [rated("q", "a", 4, 4)] * 2, HELPSTEER_FEATURES)
    with pytest.raises(UserError, match="helpsteer2: expected columns prompt, response_1, response_2 and preference_"):
        build(helpsteer2, path, preference=True)


# --- HelpSteer3: shares of annotators --------------------------------------------------------------------------------


def annotated(overall, *scores):
    row = helpsteer3_row(overall)
    return row | {"individual_preference": [{"score": score, "reasoning": "why"} for score in scores]}


# overall preference, the annotators' scores: chosen, its share
SHARES = [
    (annotated(-3, -3, -3, -2), "one", 1.0),
    (annotated(-1, -2, -1, 0), "one", 2.5 / 3),
    (annotated(1, 2, 1, -1), "two", 2 / 3),
    (annotated(2, 2), "two", 1.0),
    (annotated(1, None, 1, 0), "two", 0.75),  # who says nothing is no annotator
    (annotated(0, 0, 0), "one", 0.5),
    (annotated(0, 1, 0, 0), "two", 2 / 3),  # no preference over all; one more for the second than for the first
]
NO_SHARES = [annotated(1), annotated(1, None), annotated(1, 5), annotated(1, 1) | {"individual_preference": None}]


@pytest.mark.parametrize("kind", KINDS)
def test_helpsteer3_shares_of_annotators(kind, tmp_path):
    rows = [row for row, _, _ in SHARES] + NO_SHARES
    path = save(tmp_path / f"helpsteer3.{kind}", rows, HELPSTEER3_FEATURES)
    soft = build(helpsteer3, path, min_strength=0, soft_labels=True)
    assert [chosen for chosen, _ in answers(soft)] == [chosen for _, chosen, _ in SHARES]
    assert soft.rows["chosen_probability"][:] == pytest.approx([share for _, _, share in SHARES], abs=1e-12)
    assert soft.rows["strength"][:] == [3.0, 1.0, 1.0, 2.0, 1.0, 0.0, 0.0]
    assert dropped(soft) == {"no_score": 2, "wrong_type": 2}
    clear = build(helpsteer3, path, soft_labels=True)
    assert dropped(clear) == {"equal_scores": 2, "no_score": 2, "wrong_type": 2}
    assert clear.rows["chosen_probability"][:] == soft.rows["chosen_probability"][:5]


def test_helpsteer3_ties_and_strengths(tmp_path):
    rows = [annotated(overall, *scores) for overall, *scores in [(-3, 1), (0, 1), (2, -1)]]
    path = save(tmp_path / "helpsteer3.parquet", rows, HELPSTEER3_FEATURES)
    hard = build(helpsteer3, path)  # as ever, what the set says over all: no tie, no share
    assert answers(hard) == [("one", "two"), ("two", "one")]
    assert hard.rows["chosen_probability"][:] == [None, None]
    assert hard.rows["strength"][:] == [3.0, 2.0]
    ties = build(helpsteer3, path, min_strength=0)
    assert answers(ties) == [("one", "two"), ("one", "two"), ("two", "one")]
    assert ties.rows["chosen_probability"][:] == [None, 0.5, None]
    assert ties.rows["strength"][:] == [3.0, 0.0, 2.0]


def test_helpsteer3_without_annotators(tmp_path):
    row = helpsteer3_row(1)
    del row["individual_preference"]
    path = save(tmp_path / "helpsteer3.parquet", [row])
    assert len(build(helpsteer3, path).rows) == 1
    with pytest.raises(UserError, match="overall_preference and individual_preference"):
        build(helpsteer3, path, soft_labels=True)


# --- PKU-SafeRLHF: two labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "disagreeing"),
    [
        (0.5, [("one", 0.5), ("nought", 0.5)]),
        (0.75, [("one", 0.75), ("nought", 0.75)]),
        (0, [("nought", 1), ("one", 1)]),
    ],
)
def test_both_labels_of_pku(weight, disagreeing, tmp_path):
    path = save(tmp_path / "pku.parquet", PKU_ROWS, PKU_FEATURES)
    both = build(pku_saferlhf, path, preference="both", safer_weight=weight)
    # row 1 agrees; rows 2 and 3 do not, row 4 has one label alone
    assert dropped(both) == {"no_score": 1, "identical_text": 1, "empty_reply": 1, "wrong_type": 1}
    chosen = [pair[0] for pair in answers(both)]
    assert list(zip(chosen, both.rows["chosen_probability"][:], strict=True)) == [("nought", None), *disagreeing]
    assert set(both.rows["form"][:]) == {""}  # none is turned round while it is read


def test_two_labels_weigh_as_one_pair_for_each(tmp_path):
    """The soft label says the same as the safer label's pair and the better label's, weighted."""
    path = save(tmp_path / "pku.jsonl", [pku_row(1, better=0, safer=1)])
    (row,) = build(pku_saferlhf, path, preference="both", safer_weight=0.3).rows
    (safer,), (better,) = (build(pku_saferlhf, path, preference=label).rows for label in ("safer", "better"))
    weights = {safer["chosen"]: 0.3, better["chosen"]: 0.7}
    assert row["chosen_probability"] == pytest.approx(weights[row["chosen"]])
    assert 1 - row["chosen_probability"] == pytest.approx(weights[row["rejected"]])


def test_a_weight_is_for_both_labels_alone():
    with pytest.raises(
        UserError, match="--safer_weight: expected with --preference both alone, found --preference saf"
    ):
        pku_saferlhf.ScriptArguments(safer_weight=0.7)
    with pytest.raises(UserError, match=r"--safer_weight: expected 0 to 1, found 1\.2"):
        pku_saferlhf.ScriptArguments(preference="both", safer_weight=1.2)


# --- from flags to files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "rows", "features", "flags"),
    [
        (helpsteer2, PREFERENCE_ROWS, PREFERENCE_FEATURES, ["--preference"]),
        (helpsteer3, *FIXTURES[helpsteer3], ["--min_strength", "0", "--soft_labels", "true", "--write_margin", "true"]),
        (pku_saferlhf, *FIXTURES[pku_saferlhf], ["--preference", "both", "--safer_weight", "0.8"]),
    ],
)
@pytest.mark.parametrize("file_format", KINDS)
def test_labels_are_written_as_rm_reads_them(script, rows, features, flags, file_format, tmp_path, monkeypatch):
    output = tmp_path / "out"
    path = save(tmp_path / "rows.parquet", rows, features)
    argv = ["script", "--dataset_path", path, "--output_path", str(output), "--num_proc", "1", "--format", file_format]
    monkeypatch.setattr(sys, "argv", [*argv, *flags])
    made = []

    def keep(arguments):
        made.append(script.build(arguments))
        return made[0]

    run_source(script.ScriptArguments, keep)
    written = load_preference_dataset(str(output))
    assert set(written["reason"][:]) == {""}
    assert any(value is not None for value in written["chosen_probability"][:])
    for name in ("prompt", "chosen", "rejected", *LABELS):
        assert written[name][:] == made[0].rows[name][:]


# --- votes in other columns ------------------------------------------------------------------------------------------

# auto-j: 0 the first, 1 the second, 2 neither
AUTO_J = [
    {"scenario": "chit", "label": label, "prompt": f"q{label}", "response 1": "one", "response 2": "two"}
    for label in (0, 1, 2)
]
AUTO_J_FLAGS = {
    "columns": "chosen=response 1,rejected=response 2,preferred=label",
    "preferred_values": "0,1,2",
    "ignore_columns": "scenario",
}
# PandaLM: three annotators, each 1, 2, or 0 for neither
PANDALM = [
    {
        "idx": place,
        "motivation_app": "Notion",
        "instruction": "Translate.",
        "input": f"text {place}",
        "response1": "one",
        "response2": "two",
        **{f"annotator{number + 1}": vote for number, vote in enumerate(votes)},
    }
    for place, votes in enumerate([(1, 1, 1), (2, 2, 0), (0, 0, 1), (1, 2, 0)])
]
PANDALM_FLAGS = {
    "columns": "prompt=instruction+input,chosen=response1,rejected=response2,"
    "preferred=annotator1+annotator2+annotator3",
    "ignore_columns": "idx,motivation_app",
}
VOTED = [
    (AUTO_J, AUTO_J_FLAGS, [("one", 1.0), ("two", 1.0), ("one", 0.5)]),
    (PANDALM, PANDALM_FLAGS, [("one", 1.0), ("two", 2.5 / 3), ("one", 2 / 3), ("one", 0.5)]),
]


@pytest.mark.parametrize(("rows", "flags", "expected"), VOTED, ids=["auto-j", "PandaLM"])
@pytest.mark.parametrize("kind", KINDS)
def test_votes_in_a_file_of_a_mixture(rows, flags, expected, kind, tmp_path):
    path = save(tmp_path / f"votes.{kind}", rows)
    arguments = source_arguments(None, flags)  # as a mixture's options give them
    assert isinstance(arguments, FileArguments)
    arguments.dataset_path, arguments.num_proc = path, 1
    result = read_file(arguments, PreferenceSource("votes", sources.Columns(), "none"))
    assert dropped(result) == {}
    chosen = [pair[0] for pair in answers(result)]
    assert chosen == [text for text, _ in expected]
    assert result.rows["chosen_probability"][:] == pytest.approx([share for _, share in expected])
    assert result.options["preferred_values"] == flags.get("preferred_values")
    if rows is PANDALM:
        assert pairs_of(result)[0][0] == "u: Translate.\ntext 0"


def test_the_linter_reads_votes(tmp_path, monkeypatch, capsys):
    rows = [row | {"label": label} for row, label in zip(AUTO_J, ("A", "B", "tie"), strict=True)]
    flags = {**AUTO_J_FLAGS, "preferred_values": "A,B,tie", "output_path": str(tmp_path / "lint")}
    argv = ["data_prep/lint.py", save(tmp_path / "votes.jsonl", rows)]
    argv += [word for name, value in flags.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", argv)
    lint.main()
    assert "3 rows read, 3 kept" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [word.replace("A,B,tie", "A,B") for word in argv])
    with pytest.raises(UserError, match="--preferred_values: expected three different values"):
        lint.main()


def test_votes_of_another_meaning_are_counted(tmp_path):
    arguments = source_arguments(None, {**AUTO_J_FLAGS, "preferred_values": "A,B,tie"})
    arguments.dataset_path, arguments.num_proc = save(tmp_path / "votes.jsonl", AUTO_J), 1
    result = read_file(arguments, PreferenceSource("votes", sources.Columns(), "none"))
    assert dropped(result) == {"label_out_of_range": 3}
    with pytest.raises(UserError, match="--preferred_values: expected three different values"):
        source_arguments(None, {**AUTO_J_FLAGS, "preferred_values": "1,2"})
    with pytest.raises(UserError, match="--preferred_values: expected a column that is read as preferred"):
        source_arguments(None, {"preferred_values": "0,1,2"})
