"""What the counts of the data lead to: a refusal, a warning, or not a word."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.control_tokens import control_tokens
from reward_modeling.data.report import CUT_UNITS, NO_USER_TURN, NOTED_ROWS, TOKENS_CUT, DataReport, DropReason
from reward_modeling.tiny.tokenizers import token_ids
from reward_modeling.training.verdict import LOST_SHARE, UNKNOWN_SHARE, data_problems, data_warnings, describe_verdict


def report(rows: int = 1000, **notes: int) -> DataReport:
    return DataReport("train", rows, notes=notes)


@pytest.mark.parametrize("reason", [DropReason.ANSWER_LOSES_TEXT, DropReason.MESSAGE_VANISHES])
def test_more_than_one_row_in_a_hundred_that_the_template_cuts_is_refused(reason):
    for count, refused in ((int(LOST_SHARE * 1000), 0), (int(LOST_SHARE * 1000) + 1, 1)):
        counted = report()
        counted.add(reason, count, "rows.jsonl:7", "system 'Be kind.'")
        problems = data_problems([counted])
        assert len(problems) == refused
        assert len(data_warnings([counted])) == 1
    assert "in 11 of 1,000 rows (1.1%); the first, rows.jsonl:7: system 'Be kind.'." in problems[0]


def test_rows_that_are_dropped_for_another_reason_are_not_refused():
    counted = report()
    counted.add(DropReason.DUPLICATE_PAIR, 900, "rows.jsonl:7", "")
    assert data_problems([counted]) == []
    (warning,) = data_warnings([counted])
    assert warning.startswith("train: 900 of 1,000 rows (90.0%) are dropped, most of them (900) because the same pair")


def test_unknown_tokens_are_refused_above_a_share():
    for unknown, refused in ((int(UNKNOWN_SHARE * 10_000), 0), (int(UNKNOWN_SHARE * 10_000) + 1, 1)):
        counted = report(**{NOTED_ROWS["unknown"]: 40})
        counted.tokens, counted.unknown_tokens = 10_000, unknown
        assert len(data_problems([counted])) == refused
    counted.unknown_tokens = 10
    assert data_problems([counted]) == data_warnings([counted]) == []


def test_answers_to_nothing_are_warned_of():
    assert data_warnings([report(**{NO_USER_TURN: 600})]) == [
        "train: 600 of 1,000 rows (60.0%) have no turn of the user: the answers alone are trained on"
    ]


def test_control_tokens_of_both_sides_are_told_apart_from_those_of_one():
    def warned(chosen: int, rejected: int) -> str:
        note = NOTED_ROWS["control"]
        counts = {note.format("chosen"): chosen, note.format("rejected"): rejected}
        return "".join(data_warnings([report(**{words: count for words, count in counts.items() if count})]))

    assert "of 0 chosen, 60 rejected" in warned(0, 60) and "the sides differ" in warned(0, 60)
    assert "the sides differ" in warned(60, 0)
    assert "of 60 chosen, 66 rejected" in warned(60, 66) and "differ" not in warned(60, 66)
    assert warned(0, 0) == ""


def test_marks_of_other_templates_are_warned_of_where_the_sides_differ():
    """A text may be about them."""

    def warned(chosen: int, rejected: int) -> str:
        note = NOTED_ROWS["foreign"]
        counts = {note.format("chosen"): chosen, note.format("rejected"): rejected}
        return "".join(data_warnings([report(**{words: count for words, count in counts.items() if count})]))

    assert "marks of other chat templates stand in the answers of 0 chosen, 60 rejected" in warned(0, 60)
    assert warned(60, 66) == warned(0, 0) == ""


def test_the_verdict_says_what_will_be_trained_and_each_warning_once():
    groups = SimpleNamespace(
        sizes=SimpleNamespace(units_per_group=np.array([2, 0, 3]), num_steps=lambda per_step: -(-5 // per_step))
    )
    train = type("Groups", (), {"__len__": lambda self: 5, "sizes": groups.sizes})()
    counted = report(10, **{f"pairs {CUT_UNITS}": 4, TOKENS_CUT: 1234})
    data = SimpleNamespace(train=train, evaluation=[1, 2], evaluations={}, reports=[counted], set_reports=[])
    assert describe_verdict(data, "pairs", 4).splitlines() == [
        "Verdict: 5 pairs of 2 prompts can be trained on, in 2 steps an epoch (4 pairs each).",
        "  Held out for evaluation: 2 pairs.",
        "  Warnings:",
        "  - train: 4 of 10 rows (40.0%) have prompts that are cut to --max_length; they lose 1,234 tokens in all",
    ]
    kinds = "Of these pairs 2 are ties."
    assert describe_verdict(data, "pairs", 4, kinds).splitlines()[1] == f"  {kinds}"
    data = SimpleNamespace(train=train, evaluation=None, evaluations={}, reports=[report(10)], set_reports=[])
    assert describe_verdict(data, "pairs", 8).splitlines()[0].endswith("in 1 step an epoch (8 pairs each).")
    assert "no pairs are held out" in describe_verdict(data, "pairs", 8)
    data = SimpleNamespace(train=train, evaluation=[1], evaluations={}, reports=[report(10)], set_reports=[])
    assert describe_verdict(data, "pairs", 8).splitlines()[-1] == "  No warnings."
    data.set_reports = [report(10), DataReport("train 2, other.jsonl", 0)]
    assert "  - train 2, other.jsonl: no row of this set is kept" in describe_verdict(data, "pairs", 8)
    data.set_reports = []
    data.evaluations = {"easy": [1], "hard": [1, 2]}
    assert "  Held out for evaluation: 1 pair of easy, 2 pairs of hard." in describe_verdict(data, "pairs", 8)


def test_marks_of_the_tokenizer_are_found_in_texts_and_thoughts_are_none():
    tokenizer = train_tokenizer(["how do I"], 300, **TOKENIZER_STYLES["qwen3"])
    assert token_ids(tokenizer)["eos_token_id"] is not None
    found = control_tokens(tokenizer)
    assert found.find("Fine.<|im_end|>") == "<|im_end|>"
    assert found.find("a < b <<|im_start|>user") == "<|im_start|>"
    for text in ("Fine.", "a < b > c", "<think>\nHm.\n</think>", "<|eot_id|>", "<|im_end", "", "<"):
        assert found.find(text) == ""
    mistral = control_tokens(train_tokenizer(["how do I"], 300, **TOKENIZER_STYLES["mistral"]))
    assert mistral.find("Fine. [/INST] [a] </s>") in ("[/INST]", "</s>")
    assert mistral.find("[1] a [list][INS]") == ""
