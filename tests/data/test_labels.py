"""What a pair's row says beside its texts: read, checked, turned round where the second answer is the likelier one."""

import json

import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.data.labels import TURNED, VOTES, share_of_votes
from reward_modeling.data.preferences import standardise_row
from reward_modeling.data.read_options import read_options
from reward_modeling.data.row_forms import RowDropped

PAIR = {"prompt": "How far is the moon?", "chosen": "Far.", "rejected": "Near."}
PANDA = "prompt=instruction+input,chosen=response1,rejected=response2,preferred=annotator1+annotator2+annotator3"


def labels_of(row: dict, *options: str) -> tuple:
    standard = standardise_row({**PAIR, **row}, "x:1", read_options(*options) if options else read_options(None, None))
    assert standard["reason"] == "", standard["excerpt"]
    return tuple(standard[name] for name in ("chosen_probability", "strength", "weight"))


def answer(standard: dict, side: str) -> str:
    return json.loads(standard[side])[0]["content"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, (None, None, None)),
        ({"chosen_probability": 0.7, "weight": 2}, (0.7, None, 2.0)),
        ({"chosen_probability": "0.7", "strength": "3"}, (0.7, 3.0, None)),  # a table of text
        ({"chosen_probability": 0.5}, (0.5, None, None)),
        ({"chosen_probability": 1}, (1.0, None, None)),
        ({"strength": 0}, (0.5, 0.0, None)),  # nobody is better: a tie
        ({"strength": 0, "chosen_probability": 1.0}, (1.0, 0.0, None)),
        ({"chosen_probability": "", "weight": None}, (None, None, None)),
    ],
)
def test_labels_are_numbers_or_none(row, expected):
    assert labels_of(row) == expected


def test_an_unlikely_answer_is_the_rejected_one():
    """The same pair with its answers exchanged: the loss of both is equal (see tests/objectives)."""
    row = {**PAIR, "chosen_probability": 0.25, "margin": 1.5, "chosen_score": 3, "rejected_score": 1, "strength": 2}
    found, other = standardise_row(row, "x:1"), {**row, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    other |= {"chosen_probability": 0.75, "margin": -1.5, "chosen_score": 1, "rejected_score": 3}
    expected = standardise_row(other, "x:1")
    assert found["form"] == TURNED and answer(found, "chosen") == "Near."
    assert found | {"form": ""} == expected


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"chosen_probability": 1.2}, "label_out_of_range", "chosen_probability 1.2: expected 0 to 1"),
        ({"weight": -1}, "label_out_of_range", "weight -1: expected at least 0"),
        ({"strength": -2}, "label_out_of_range", "strength -2: expected at least 0"),
        ({"weight": 0}, "zero_weight", ""),
        ({"strength": "much"}, "wrong_type", "strength is a text"),
        ({"chosen_probability": float("nan")}, "nan_margin", ""),
    ],
)
def test_a_wrong_label_drops_the_row_by_name(row, reason, words):
    found = standardise_row({**PAIR, **row}, "x:1")
    assert found["reason"] == reason and words in found["excerpt"]


# --- votes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "share"),
    [([1, 1, 0], 5 / 6), ([2, 2, 2], 0.0), (1, 1.0), ("0", 0.5), ([1, None, 2], 0.5), ("[1, 2]", 0.5)],
)
def test_votes_are_shares(votes, share):
    assert share_of_votes(votes) == pytest.approx(share)


def test_whole_numbers_with_a_point_are_votes():
    """As tables with empty cells have them."""
    assert share_of_votes(["1.0", "2.0", 1.0]) == pytest.approx(2 / 3)
    assert share_of_votes(["0.0"], ("0.0", "1.0", "2.0")) == 1.0


@pytest.mark.parametrize("nothing", [None, "", [], float("nan")])
def test_a_row_without_a_vote_has_no_label(nothing):
    """The order of the two answers says nothing."""
    columns = "chosen=a,rejected=b,preferred=label"
    row = {"prompt": "q", "a": "x", "b": "y", "label": nothing}
    assert standardise_row(row, "x:1", read_options(columns, None))["reason"] == "no_score"
    known = standardise_row({**row, "chosen_probability": 0.7}, "x:1", read_options(columns, None))
    assert known["reason"] == "" and known["chosen_probability"] == 0.7


def test_nearly_a_tie_is_one():
    assert labels_of({"chosen_probability": 0.5 + 1e-9})[0] == labels_of({"chosen_probability": 0.5 - 1e-9})[0] == 0.5


def test_a_vote_that_is_not_known_is_named():
    with pytest.raises(RowDropped, match="label_out_of_range") as dropped:
        share_of_votes([1, 3])
    assert dropped.value.detail.startswith("preferred '3': expected 1 for the first answer")


def test_three_annotators_of_one_pair():
    row = {"instruction": "Say", "input": "hi", "response1": "Hi.", "response2": "No."}
    votes = {f"annotator{number}": vote for number, vote in enumerate((2, 2, 0), start=1)}
    found = standardise_row({**row, **votes}, "x:1", read_options(PANDA, None))
    assert found["chosen_probability"] == pytest.approx(5 / 6) and found["form"] == VOTES[-1]
    assert (answer(found, "chosen"), answer(found, "rejected")) == ("No.", "Hi.")
    assert found["unread"] == ""


def test_the_values_of_a_label_can_be_named():
    """As auto-j has them: 0 and 1 are the answers, 2 is neither."""
    columns = "chosen=response 1,rejected=response 2,preferred=label"
    row = {"prompt": "q", "response 1": "a", "response 2": "b"}
    for label, probability, chosen in ((0, 1.0, "a"), (1, 1.0, "b"), (2, 0.5, "a")):
        found = standardise_row({**row, "label": label}, "x:1", read_options(columns, None, preferred_values="0,1,2"))
        assert (found["chosen_probability"], answer(found, "chosen")) == (probability, chosen)


def test_a_column_of_that_name_is_read_when_it_is_asked_for():
    """Whatever else `preferred` may mean, it says which answer: the run stops and names it."""
    row = {**PAIR, "preferred": "the first"}
    found = standardise_row(row, "x:1")
    assert found["reason"] == "" and found["unread"] == '["preferred"]' and "preferred" in found["excerpt"]
    asked = standardise_row(row, "x:1", read_options("preferred=preferred", None))
    assert asked["reason"] == "label_out_of_range"


@pytest.mark.parametrize("values", ["1,2", "1,1,0", "1,2,0,3"])
def test_three_different_values(values):
    with pytest.raises(UserError, match="--preferred_values: expected three different values"):
        read_options("preferred=label", None, preferred_values=values)


def test_values_of_a_column_that_nobody_reads():
    with pytest.raises(UserError, match="expected a column that is read as preferred"):
        read_options(None, None, preferred_values="1,2,0")
