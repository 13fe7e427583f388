"""Comparisons as text and as tokens: RLHFlow's question, whole answers, marks that cannot be mistaken."""

import json
import re
import string

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.composing import composed_ids
from reward_modeling.data.pair_texts import COMPARISON, check_opening, comparison
from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.report import CUT_UNITS, NOTED_ROWS, DataReport, report_rows
from reward_modeling.data.truncation import MARK
from reward_modeling.objectives.pairwise_reader import PairwiseReader

pytestmark = pytest.mark.usefixtures("own_cache")
CORPUS = [
    "[CONTEXT] <turn> user assistant system [RESPONSE A] First wait. [RESPONSE B] Then? ABC \\ [...] \n",
    "How? " * 9,
    string.printable,
]
STYLES = {name: options for name, options in TOKENIZER_STYLES.items() if options.get("chat_template")}
ESCAPED = NOTED_ROWS["escaped"]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def tokenizers():
    return {name: train_tokenizer(CORPUS, 450, **options) for name, options in STYLES.items()}


def standard(*rows: dict) -> Dataset:
    standard_rows = [standardise_row(source, f"rows:{number}") for number, source in enumerate(rows, start=1)]
    return Dataset.from_list(standard_rows, features=STANDARD_FEATURES)


def grouped(tokenizer, *rows: dict, max_length: int = 2000, reader=PairwiseReader()) -> tuple[list[dict], DataReport]:  # noqa: B008
    groups = tokenize_and_group(standard(*rows), tokenizer, reader, TokenizeOptions(max_length))
    report = report_rows("train", standard(*rows))
    report_groups(report, groups, reader.unit)
    return groups.to_list(), report


def texts(tokenizer, group: dict) -> list[str]:
    return [tokenizer.decode(group["prefix_ids"] + ids) for ids in group["completion_ids"]]


# --- the text -------------------------------------------------------------------------------------------------------


def test_the_question_is_upstreams():
    """As transformers renders the template in which RLHFlow's own code writes a context: it trims line breaks after
    blocks, so that there are fewer of them than the template seems to have."""
    prompt = [user("How do I boil an egg?"), *said("In water."), user("How long?")]
    assert comparison(prompt, said("Seven minutes."), said("Long. ")) == (
        "[CONTEXT] \n\n<turn> user\n How do I boil an egg?\n<turn> assistant\n In water.\n<turn> user\n How long?\n"
        " [RESPONSE A] Seven minutes. [RESPONSE B] Long.  \n"
    )


def test_roles_have_their_names():
    tools = [{"role": "system", "content": "Be brief."}, user("Time?")]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    answer = [call, {"role": "tool", "content": "12:00"}, *said("Noon.")]
    assert comparison(tools, answer, said("No idea.")) == (
        "[CONTEXT] \n\n<turn> system\n Be brief.\n<turn> user\n Time?\n"
        ' [RESPONSE A] [{"function": {"name": "clock", "arguments": {}}}]\n<turn> tool\n 12:00\n<turn> assistant'
        "\n Noon. [RESPONSE B] No idea. \n"
    )


MARKS = ("[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]", "<turn> ", "\\", "[", "<", "a", "\n", " ", "]")
odd_texts = st.lists(st.sampled_from(MARKS), max_size=8).map("".join)


def parsed(text: str) -> tuple[str, str, str]:
    """The context and both answers of a question, without what was escaped: by its marks alone."""
    found = re.fullmatch(r"\[CONTEXT\] (.*) \[RESPONSE A\] (.*) \[RESPONSE B\] (.*) \n", text, flags=re.DOTALL)
    mark = re.compile(r"([\[<])\\(\\*(?:(?:CONTEXT|RESPONSE [AB])\]|turn> ))")
    return tuple(mark.sub(r"\1\2", part) for part in found.groups())


@given(odd_texts, odd_texts, odd_texts)
def test_marks_in_texts_cannot_be_mistaken(question, first, second):
    text = comparison([user(question)], said(first), said(second))
    assert parsed(text) == (f"\n\n<turn> user\n {question}\n", first, second)
    assert all(text.count(mark) == 1 for mark in MARKS[:4])


def test_marks_are_counted_once_a_row(tokenizers):
    row = {"prompt": "How?", "chosen": "Say [RESPONSE B] and [RESPONSE A].", "rejected": "Wait."}
    plain = {"prompt": "And then?", "chosen": "[RESPONSE C] First wait.", "rejected": "Then?"}
    (group, other), report = grouped(tokenizers["gemma"], row, plain)
    assert report.notes[ESCAPED] == 1 and "[RESPONSE B]" in report.first_of_note[ESCAPED]
    for text in texts(tokenizers["gemma"], group):
        assert text.count("[RESPONSE B]") == text.count("[RESPONSE A]") == 1
        assert "Say [\\RESPONSE B] and [\\RESPONSE A]." in text
    assert "[RESPONSE C] First wait." in texts(tokenizers["gemma"], other)[0]


# --- the row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_both_orders_in_the_chat_template_with_its_generation_prompt(style, tokenizers):
    tokenizer = tokenizers[style]
    system = {"role": "system", "content": "Be brief."}
    prompt = [system, user("How?"), *said("Wait."), user("And then?")]
    (group,), report = grouped(tokenizer, {"prompt": prompt, "chosen": "First wait.", "rejected": "Then?"})
    (unit,), (targets,) = group["units"], group["targets"]
    assert targets == [1.0, len("First wait."), len("Then?")]
    orders = [("First wait.", "Then?"), ("Then?", "First wait.")]
    for number, (first, second) in zip(unit, orders, strict=True):
        question = [user(comparison(prompt, said(first), said(second)))]
        expected = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
        assert group["prefix_ids"] + group["completion_ids"][number] == expected
        assert group["read_positions"][number] == [len(expected) - 1]
        if style not in ("mistral",):  # its template writes nothing there
            without = tokenizer.apply_chat_template(question, return_dict=False)
            assert without != expected  # the negative control
    shared = tokenizer.decode(group["prefix_ids"])
    assert "<turn> system\n Be brief.\n<turn> user\n How?" in shared and "RESPONSE A]" in shared
    assert report.dropped == {}


def test_templates_that_always_open_an_answer_and_those_that_never_do(tokenizers):
    tokenizer = train_tokenizer(CORPUS, 450, **STYLES["llama3"])
    check_opening(tokenizer)
    opening = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    plain = (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content"
        " + '<|eot_id|>' }}{% endfor %}"
    )
    tokenizer.chat_template = f"{plain}{{{{ {opening!r} }}}}"  # as early templates of Llama-3
    check_opening(tokenizer)
    (group,), _ = grouped(tokenizer, {"prompt": "How?", "chosen": "Wait.", "rejected": "Then?"})
    assert all(text.endswith(opening) and text.count(opening) == 1 for text in texts(tokenizer, group))
    tokenizer.chat_template = plain
    with pytest.raises(UserError, match=r"found that it writes '<\|start_header_id\|>assistant"):
        check_opening(tokenizer)
    for style in STYLES.values():
        check_opening(train_tokenizer(CORPUS, 450, **style))


def test_a_list_gives_its_pairs_and_shares_what_they_begin_with(tokenizers):
    answers = [f"{word} wait, and wait again, and wait." for word in ("First", "Then", "How", "And")]
    row = {"prompt": "How do I wait?", "completions": answers, "ranks": [2, 1, 3, 3], "weight": 2.0}
    (group,), _ = grouped(tokenizers["llama3"], row)
    orders = []
    for text in texts(tokenizers["llama3"], group):
        found = re.search(r"\[RESPONSE A\] (\w+).*\[RESPONSE B\] (\w+)", text)
        orders.append(found.groups())
    ranks = {"First": 2, "Then": 1, "How": 3, "And": 3}
    pairs = [tuple(orders[number] for number in unit) for unit in group["units"]]
    assert len(orders) == len(set(orders)) == 10  # five pairs of different ranks
    for (better, worse), backwards in pairs:
        assert ranks[better] < ranks[worse] and backwards == (worse, better)
    assert group["weights"] == pytest.approx([0.4] * 5) and group["shares"] == pytest.approx([0.2] * 5)
    assert sum(shared > 0 for shared in group["shared_lengths"]) == 10 - 4  # the first answer, of all but one order
    alone = [
        tuple(
            composed_ids(
                [COMPARISON.pieces([user("How do I wait?")], [said(a), said(b)], {}, tokenizers["llama3"])],
                tokenizers["llama3"],
            )[0]
        )
        for a in answers
        for b in answers
    ]
    assert {tuple(group["prefix_ids"] + ids) for ids in group["completion_ids"]} <= set(alone)


def test_soft_labels_ties_and_weights(tokenizers):
    rows = [
        {"prompt": "How?", "chosen": "Wait.", "rejected": "Then?", "chosen_probability": 0.2, "weight": 3},
        {"prompt": "How?", "chosen": "First.", "rejected": "Then?", "chosen_probability": 0.5},
    ]
    (group,), _ = grouped(tokenizers["gemma"], *rows)
    assert [targets[0] for targets in group["targets"]] == pytest.approx([0.8, 0.5])
    assert group["weights"] == [3.0, 1.0]
    first = [texts(tokenizers["gemma"], group)[unit[0]] for unit in group["units"]]
    assert "[RESPONSE A] Then? [RESPONSE B] Wait." in first[0]  # turned round: chosen is the likelier one
    (group,), report = grouped(tokenizers["gemma"], *rows, reader=PairwiseReader(ties="drop"))
    assert len(group["units"]) == 1 and report.dropped["tie"].count == 1


def test_answers_that_differ_in_white_space_at_their_ends_are_the_same(tokenizers):
    """A template that trims messages makes them one for rm.py; inside a question they stand as they are."""
    rows = [
        {"prompt": "How?", "chosen": "Wait.", "rejected": "Wait. \n"},
        {"prompt": "How?", "chosen": "Wait. First.", "rejected": "Wait.\nFirst."},  # the control: other words
    ]
    (group,), report = grouped(tokenizers["gemma"], *rows)
    assert len(group["units"]) == 1 and report.dropped["identical_text"].count == 1
    assert report.dropped["identical_text"].first_where == "rows:1"


# --- too long -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_too_long_rows_lose_context_and_never_an_answer(style, tokenizers):
    tokenizer = tokenizers[style]
    turns = [user("First wait, and wait again."), *said("And then wait, and wait again.")] * 4
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, *turns, user("How do I wait?")],
        "chosen": "First wait, wait, wait and then wait again. END",
        "rejected": "Then wait, wait, wait and wait, wait. ALSO END",
    }
    whole = len(grouped(tokenizer, row)[0][0]["completion_ids"][0]) + len(grouped(tokenizer, row)[0][0]["prefix_ids"])
    (group,), report = grouped(tokenizer, row, max_length=whole - 30)
    for text in texts(tokenizer, group):
        squeezed = "".join(text.split())
        assert all("".join(row[side].split()) in squeezed for side in ("chosen", "rejected"))
        assert "Bebrief." in squeezed and "HowdoIwait?" in squeezed and squeezed.count("Firstwait,andwaitagain.") < 4
        assert "[CONTEXT]" in squeezed
    longest = max(len(group["prefix_ids"]) + len(ids) for ids in group["completion_ids"])
    assert longest <= whole - 30 and report.notes[f"pairs {CUT_UNITS}"] == 1
    least, _ = grouped(tokenizer, row, max_length=whole - 30)
    # where the last question itself is cut it says so
    question = {**row, "prompt": "wait, and wait again, " * 20 + "How do I wait?"}
    shorter = max(len(ids) for ids in least[0]["completion_ids"]) + 80
    (group,), _ = grouped(tokenizer, question, max_length=shorter)
    assert all(MARK in text and "END" in text for text in texts(tokenizer, group))


def test_answers_that_do_not_fit_are_dropped_and_counted(tokenizers):
    row = {"prompt": "How do I wait?", "chosen": "wait and " * 40, "rejected": "Then?"}
    fine = {"prompt": "How do I wait?", "chosen": "First wait.", "rejected": "Then?"}
    groups, report = grouped(tokenizers["gemma"], row, fine, max_length=100)
    assert (
        report.dropped["completion_too_long"].count == 1
        and report.dropped["completion_too_long"].first_where == "rows:1"
    )
    assert [group["where"] for group in groups] == [["rows:2"]]


def test_bad_rows_are_counted(tokenizers):
    rows = [
        {"prompt": "How?", "chosen": "Wait.", "rejected": "Wait."},
        {"prompt": "How?", "chosen": "", "rejected": "Wait."},
        {"prompt": "How?", "chosen": "Wait."},
        {"prompt": "How?", "chosen": "Wait.", "rejected": 3},
        {"prompt": "How?", "chosen": "Wait.", "rejected": "Then?", "chosen_probability": 2},
        {"prompt": "How?", "chosen": "Then?", "rejected": "Wait."},
        {"prompt": "How?", "chosen": "Then?", "rejected": "Wait."},
    ]
    groups, report = grouped(tokenizers["gemma"], *rows)
    assert report.kept == 1 and sum(len(group["units"]) for group in groups) == 1
    assert {reason: of.count for reason, of in report.dropped.items()} == {
        **{"identical_text": 1, "empty_reply": 1, "no_chosen_or_rejected": 1, "wrong_type": 1},
        **{"label_out_of_range": 1, "duplicate_pair": 1},
    }


def test_templates_of_the_tests():
    assert set(CHAT_TEMPLATES) >= {"gemma", "llama3", "chatml", "qwen25", "qwen3", "mistral", "phi3"}
    assert json.dumps(comparison([], said("a"), said("b"))) == json.dumps(
        "[CONTEXT] \n\n [RESPONSE A] a [RESPONSE B] b \n"
    )
