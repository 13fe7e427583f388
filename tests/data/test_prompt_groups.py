"""Groups of tokens: exactly those of the whole conversations, for every style of tokenizer."""

import copy
import json

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data import prompt_groups
from reward_modeling.data.group_rows import GroupBuilder, TokenizeOptions
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import GROUP_FEATURES, report_groups, tokenize_and_group
from reward_modeling.data.rendered_rows import RowRenderer
from reward_modeling.data.report import NOTED_ROWS, DataReport, report_rows
from reward_modeling.data.truncation import MARK
from reward_modeling.models.tokenizer import is_for_encoder, set_up_for_encoder
from reward_modeling.objectives.bradley_terry import PairReader

CORPUS = ["How do I bake rye bread?", "Begin by setting a timer.\nThen wait, and wait again.", "user assistant " * 9]
LONG = TokenizeOptions(max_length=1000)
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield tmp_path / "cache" / "reward_modeling"
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def tokenizers():
    trained = {style: train_tokenizer(CORPUS, 400, **options) for style, options in TOKENIZER_STYLES.items()}
    for tokenizer in filter(is_for_encoder, trained.values()):  # as load_tokenizer does
        set_up_for_encoder(tokenizer)
    return trained


@pytest.fixture(params=TOKENIZER_STYLES)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def row(question: str, chosen: str, rejected: str, **extra) -> dict:
    return {"prompt": question, "chosen": chosen, "rejected": rejected, **extra}


def standard(*rows: dict) -> Dataset:
    standard_rows = [standardise_row(source, f"rows:{number}") for number, source in enumerate(rows, start=1)]
    return Dataset.from_list(standard_rows, features=STANDARD_FEATURES)


def grouped(tokenizer, *rows: dict, options: TokenizeOptions = LONG) -> list[dict]:
    return tokenize_and_group(standard(*rows), tokenizer, PairReader(), options).to_list()


def sequences(group: dict) -> list[list[int]]:
    return [group["prefix_ids"] + completion for completion in group["completion_ids"]]


def pairs(group: dict) -> list[tuple[int, int]]:
    return [tuple(unit) for unit in group["units"]]


def alone(tokenizer, question: str, answer: str) -> list[int]:
    """The whole conversation, rendered and tokenised by the template itself."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, return_dict=False)


def written_bos(tokenizer) -> list[int]:
    """Phi-3's tokenizer has a BOS that nothing writes."""
    return alone(tokenizer, "How?", "wait")[:1] if alone(tokenizer, "How?", "wait")[0] == tokenizer.bos_token_id else []


def test_a_group_has_the_tokens_of_its_whole_conversations(tokenizer):
    answers = ["Begin by baking.", "Begin", "wait"]
    (group,) = grouped(tokenizer, row("How?", *answers[:2]), row("How?", answers[2], answers[0]))
    assert set(group) == set(GROUP_FEATURES)
    assert sequences(group) == [alone(tokenizer, "How?", answer) for answer in answers]
    assert pairs(group) == [(0, 1), (2, 0)]
    assert group["prefix_length"] == len(group["prefix_ids"])
    assert group["completion_lengths"] == list(map(len, group["completion_ids"]))
    assert group["where"] == ["rows:1", "rows:2"]
    assert (group["truncated_units"], group["dropped_reason"]) == (0, [])


words = st.text(alphabet="abehiknrtw .\n?", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(question=words, answers=st.lists(words, min_size=2, max_size=5), style=st.sampled_from(list(TOKENIZER_STYLES)))
def test_random_texts_have_the_tokens_of_their_conversations(tokenizers, question, answers, style):
    tokenizer = tokenizers[style]
    rows = [standardise_row(row(question, answers[0], other), json.dumps(other)) for other in answers[1:]]
    rows = [each for each in rows if not each["reason"]]
    if not rows:
        return
    renderer = RowRenderer(tokenizer, PairReader())
    rows = renderer.render_rows(rows)
    renderer.tokenize([rows])
    group = GroupBuilder(tokenizer, PairReader(), LONG).build(rows)
    found = sequences(group)
    assert len({tuple(ids) for ids in found}) == len(found)
    assert len(group["units"]) + len(group["dropped_reason"]) == len(rows)
    for (chosen, rejected), other in zip(pairs(group), group["where"], strict=True):
        assert found[chosen] == alone(tokenizer, question, answers[0])
        assert found[rejected] == alone(tokenizer, question, json.loads(other))
        assert all(group["completion_ids"])


def test_exactly_one_bos_where_the_tokenizer_writes_one(tokenizer):
    (group,) = grouped(tokenizer, row("How?", "Begin", "wait"))
    for ids in sequences(group):
        places = [place for place, token_id in enumerate(ids) if token_id == tokenizer.bos_token_id]
        assert places == ([0] if written_bos(tokenizer) else [])


def test_a_bos_that_nothing_writes_is_not_written(tokenizers):
    """Phi-3's; the styles whose tokenizer or template writes one are checked above."""
    assert tokenizers["phi3"].bos_token is not None
    assert written_bos(tokenizers["phi3"]) == []
    assert all(written_bos(tokenizers[style]) for style in ("gemma", "llama3", "mistral", "bert", "deberta"))


def test_bos_is_added_where_only_the_tokenizer_writes_it():
    options = TOKENIZER_STYLES["gemma"]
    without = train_tokenizer(
        CORPUS, 400, **{**options, "chat_template": options["chat_template"].replace("{{ bos_token }}", "")}
    )
    (group,) = grouped(without, row("How?", "Begin", "wait"))
    for ids, answer in zip(sequences(group), ["Begin", "wait"], strict=True):
        assert ids == [without.bos_token_id, *alone(without, "How?", answer)]


def test_plain_texts_get_eos_once_and_bos_once(tokenizer):
    eos, bos = tokenizer.eos_token_id, written_bos(tokenizer)
    body = [tokenizer(text, add_special_tokens=False).input_ids for text in ("How to wait", "How to bake")]
    (group,) = grouped(tokenizer, {"chosen": "How to wait" + tokenizer.eos_token, "rejected": "How to bake"})
    assert sequences(group) == [bos + ids + [eos] for ids in body]


def test_identical_completions_are_stored_once_and_both_directions_kept(tokenizer):
    (group,) = grouped(tokenizer, row("How?", "a", "b"), row("How?", "b", "a"), row("How?", "a", "wait"))
    assert sequences(group) == [alone(tokenizer, "How?", answer) for answer in ("a", "b", "wait")]
    assert pairs(group) == [(0, 1), (1, 0), (0, 2)]


def test_texts_of_the_same_tokens_are_one_completion(tokenizers):
    (group,) = grouped(tokenizers["gemma"], row("How?", "a", "b"), row("How?", " a ", "wait"))
    assert len(group["completion_ids"]) == 3
    assert pairs(group) == [(0, 1), (0, 2)]


def test_every_completion_keeps_a_token_even_if_it_begins_another():
    bare = train_tokenizer(CORPUS, 400, chat_template="{% for m in messages %}{{ m.content + '\n' }}{% endfor %}")
    short, long = alone(bare, "How?", "wait"), alone(bare, "How?", "wait\nwait")
    assert long[: len(short)] == short
    (group,) = grouped(bare, row("How?", "wait\nwait", "wait"))
    assert group["prefix_ids"] == short[:-1]
    assert sequences(group) == [long, short]
    assert min(group["completion_lengths"]) == 1


def test_groups_follow_the_first_appearance_of_their_prompts(tokenizers):
    rows = [row(question, f"a{number}", "b") for number, question in enumerate("xyxzy", start=1)]
    found = [group["where"] for group in grouped(tokenizers["chatml"], *rows)]
    assert found == [["rows:1", "rows:3"], ["rows:2", "rows:5"], ["rows:4"]]


# --- length -------------------------------------------------------------------------------------------------

LONG_QUESTION = "How do I bake rye bread? " * 5


def cut_questions(question: str) -> list[str]:
    """Everything that cutting may make of a question."""
    return [MARK, *(f"{MARK} {question[start:]}" for start in range(1, len(question)))]


def test_truncation_cuts_the_same_beginning_of_the_question_for_every_completion(tokenizer):
    answers = ["Begin by setting a timer.", "wait", "bake"]
    rows = [row(LONG_QUESTION, answers[0], answers[1]), row(LONG_QUESTION, answers[1], answers[2])]
    full = [alone(tokenizer, LONG_QUESTION, answer) for answer in answers]
    max_length = max(map(len, full)) - 10
    (group,) = grouped(tokenizer, *rows, options=TokenizeOptions(max_length))
    whole_answers = [[alone(tokenizer, cut, answer) for answer in answers] for cut in cut_questions(LONG_QUESTION)]
    assert sequences(group) in whole_answers
    assert max_length - 12 < max(map(len, sequences(group))) <= max_length  # words are left out whole
    assert group["truncated_units"] == 2
    (whole,) = grouped(tokenizer, *rows, options=TokenizeOptions(max_length + 10))
    assert (sequences(whole), whole["truncated_units"]) == (full, 0)


def test_overlong_drop_drops_only_the_pairs_that_are_too_long(tokenizer):
    rows = [row(LONG_QUESTION, "Begin by setting a timer.", "wait"), row(LONG_QUESTION, "wait", "bake")]
    longest = len(alone(tokenizer, LONG_QUESTION, "Begin by setting a timer."))
    (group,) = grouped(tokenizer, *rows, options=TokenizeOptions(longest - 1, overlong="drop"))
    assert sequences(group) == [alone(tokenizer, LONG_QUESTION, answer) for answer in ("wait", "bake")]
    assert (group["dropped_reason"], group["dropped_where"]) == (["overlong"], ["rows:1"])
    assert group["truncated_units"] == 0


@pytest.mark.parametrize("overlong", ["truncate", "drop"])
def test_a_completion_that_is_too_long_alone_leaves_the_others_uncut(tokenizer, overlong):
    rows = [row("How?", "wait " * 150, "wait"), row("How?", "wait", "bake")]
    room = len(alone(tokenizer, "How?", "wait")) + 20
    (group,) = grouped(tokenizer, *rows, options=TokenizeOptions(room, overlong=overlong))
    assert group["dropped_reason"] == ["completion_too_long"]
    assert sequences(group) == [alone(tokenizer, "How?", answer) for answer in ("wait", "bake")]


def test_the_shortest_length_that_can_hold_the_answer(tokenizer):
    """The question may go but for its mark; one token less and the pair is dropped."""
    rows = [row(LONG_QUESTION, "Begin by setting a timer.", "wait")]
    shortest = [alone(tokenizer, MARK, answer) for answer in ("Begin by setting a timer.", "wait")]
    (group,) = grouped(tokenizer, *rows, options=TokenizeOptions(len(shortest[0])))
    assert sequences(group) == shortest
    (none,) = grouped(tokenizer, *rows, options=TokenizeOptions(len(shortest[0]) - 1))
    assert (none["dropped_reason"], none["units"]) == (["completion_too_long"], [])


# --- what is dropped ----------------------------------------------------------------------------------------


def test_reasons_reach_the_report_and_it_adds_up(tokenizers):
    source = [
        row("How?", "good", "bad"),
        row("How?", "good", "bad"),
        row("How?", "good", " good\n"),  # Gemma's template trims
        {"chosen": "", "rejected": "x"},
        {"prompt": [SYSTEM, {"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "b"},
        row("Who?", "x", "y"),
        row("How?", "bad", "good"),
    ]
    rows = standard(*source)
    groups = tokenize_and_group(rows, tokenizers["gemma"], PairReader(), LONG)
    report = report_rows("train", rows)
    report_groups(report, groups, "pairs")
    dropped = {reason: (found.count, found.first_where) for reason, found in report.dropped.items()}
    assert dropped == {
        "empty_reply": (1, "rows:4"),
        "duplicate_pair": (1, "rows:2"),
        "identical_tokens": (1, "rows:3"),
        "template_refuses": (1, "rows:5"),
    }
    assert report.dropped["template_refuses"].first_excerpt == "This template has no role system"
    assert "good" in report.dropped["duplicate_pair"].first_excerpt
    assert report.kept == len(PromptGroups(groups)) == 3
    assert report.notes["pairs whose prompt was cut to max_length"] == 0


def test_whitespace_is_kept_where_the_template_keeps_it(tokenizers):
    (group,) = grouped(tokenizers["chatml"], row("How?", "good", " good\n"))
    assert pairs(group) == [(0, 1)]


def test_no_usable_row_gives_no_group(tokenizers):
    rows = standard({"chosen": "", "rejected": "x"})
    groups = tokenize_and_group(rows, tokenizers["gemma"], PairReader(), LONG)
    report = report_rows("eval", rows)
    report_groups(report, groups, "pairs")
    assert (len(groups), len(PromptGroups(groups)), report.kept) == (0, 0, 0)


def test_marks_of_other_templates_are_counted_apart(tokenizers):
    """<|im_end|> is no token of a Gemma tokenizer; <end_of_turn> is."""
    rows = [row("q one", "a", "b<|im_end|>"), row("q two", "c [/INST]", "d"), row("q three", "e", "f<end_of_turn>")]
    rows += [row("q four", "x < y | z > w", "[1] and <b>")]
    source = standard(*rows)
    report = report_rows("train", source)
    report_groups(report, tokenize_and_group(source, tokenizers["gemma"], PairReader(), LONG), "pairs")
    found = {words: count for words, count in report.notes.items() if "marks" in words or "control" in words}
    assert found == {
        NOTED_ROWS["control"].format("rejected"): 1,
        NOTED_ROWS["foreign"].format("chosen"): 1,
        NOTED_ROWS["foreign"].format("rejected"): 1,
    }
    assert report.first_of_note[NOTED_ROWS["foreign"].format("rejected")] == "rows:1 '<|im_end|>'"


@pytest.mark.parametrize("lists", ["pairs", "plackett_luce"])
def test_two_orders_of_one_list_are_two_rows(tokenizers, lists):
    """Two people who do not agree; and the same order once."""
    answers, report = ["wait", "begin", "set a timer"], DataReport("train", 3)
    orders = ([1, 2, 3], [3, 2, 1], [1, 2, 3])
    rows = standard(*({"prompt": "bake", "completions": answers, "ranks": ranks} for ranks in orders))
    groups = tokenize_and_group(rows, tokenizers["gemma"], PairReader(lists=lists), LONG)
    (group,) = groups.to_list()
    if lists == "pairs":
        one, other = group["units"][:3], group["units"][3:]
        assert sorted(map(tuple, one)) == sorted((worse, better) for better, worse in other)
        assert group["weights"] == [1 / 3] * 6
    else:
        assert group["units"] == [[0, 1, 2]] * 2 and group["targets"] == [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
    report_groups(report, groups, "pairs")
    assert {reason: drop.count for reason, drop in report.dropped.items()} == {"duplicate_pair": 1}


@pytest.mark.parametrize("lists", ["pairs", "plackett_luce"])
def test_a_list_with_answers_of_the_same_tokens_is_dropped(tokenizers, lists):
    """One of them would be better than the other, whatever is learned."""
    answers = [[{"role": "assistant", "content": text}] for text in ("wait", "wait ", "begin")]
    rows = standard({"prompt": "bake", "completions": answers, "ranks": [1, 2, 3]})
    assert set(rows["reason"]) == {""}
    (group,) = tokenize_and_group(rows, tokenizers["gemma"], PairReader(lists=lists), LONG).to_list()
    assert group["units"] == [] and group["dropped_reason"] == ["identical_tokens"]


def test_margins(tokenizers):
    rows = [
        row("How?", "a", "b", margin=0.5, chosen_score=3, rejected_score=1.0),
        row("How?", "a", "c", chosen_score=1, rejected_score=2.5),
        row("How?", "a", "d"),
    ]
    for margin, expected in {"auto": [0.5, 0, 0], "scores": [2, -1.5, 0], "none": [0, 0, 0]}.items():
        (group,) = tokenize_and_group(standard(*rows), tokenizers["gemma"], PairReader(margin), LONG).to_list()
        assert group["targets"] == [[1.0, 1.0, value] for value in expected]


# --- cache and processes ------------------------------------------------------------------------------------


def test_the_cache_knows_rows_options_tokenizer_and_template(tokenizers, cache, monkeypatch):
    calls = []
    tokenize_batch = prompt_groups._tokenize_batch
    monkeypatch.setattr(prompt_groups, "_tokenize_batch", lambda *a, **k: calls.append(1) or tokenize_batch(*a, **k))
    gemma = tokenizers["gemma"]
    other_template = copy.deepcopy(gemma)
    other_template.chat_template = gemma.chat_template.replace("user", "human")
    other_eos = copy.deepcopy(gemma)
    other_eos.eos_token = "<end_of_turn>"
    rows, other_rows = standard(row("How?", "a", "b")), standard(row("How?", "a", "c"))
    changed = [
        (rows, gemma, PairReader(), LONG),
        (other_rows, gemma, PairReader(), LONG),
        (rows, gemma, PairReader(), TokenizeOptions(999)),
        (rows, gemma, PairReader(), TokenizeOptions(1000, overlong="drop")),
        (rows, gemma, PairReader(margin="none"), LONG),
        (rows, tokenizers["llama3"], PairReader(), LONG),
        (rows, other_template, PairReader(), LONG),
        (rows, other_eos, PairReader(), LONG),
    ]
    first = [tokenize_and_group(*arguments).to_list() for arguments in changed]
    assert len(calls) == len(list(cache.glob("groups-*.arrow"))) == len(changed)
    again = [tokenize_and_group(*arguments).to_list() for arguments in changed]
    assert again == first
    assert len(calls) == len(changed)
    assert first[0] != first[6]


def test_two_processes_give_the_groups_of_one(tokenizers, cache, monkeypatch):
    rng = np.random.default_rng(0)
    rows = standard(*(row(f"question {rng.integers(1500)}", f"good {number}", "bad") for number in range(4200)))
    one = tokenize_and_group(rows, tokenizers["gemma"], PairReader(), LONG, num_proc=1).to_list()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "two")
    two = tokenize_and_group(rows, tokenizers["gemma"], PairReader(), LONG, num_proc=2).to_list()
    assert two == one
    assert sum(len(group["units"]) for group in two) == 4200


def test_only_the_prompt_is_cut_whatever_the_answers_share(tokenizers):
    """Answers that begin alike are too long by themselves, alone and beside others."""
    tokenizer = tokenizers["gemma"]
    alike = row("Why?", "wait and " * 60 + "good", "wait and " * 60 + "bad")
    short = row("Why?", "yes", "no")
    for rows in ([alike], [alike, short]):
        group = grouped(tokenizer, *rows, options=TokenizeOptions(max_length=64))[0]
        assert group["dropped_reason"] == ["completion_too_long"]
        assert group["truncated_units"] == 0
        assert len(pairs(group)) == len(rows) - 1


def test_cut_pairs_of_several_groupings_add_up_in_one_report(tokenizers):
    """Training and held-out rows share a report: the second must not write over the first."""
    groups = tokenize_and_group(
        standard(row("why " * 60, "yes", "no")), tokenizers["gemma"], PairReader(), TokenizeOptions(max_length=40)
    )
    report = DataReport("train", 2)
    report_groups(report, groups, "pairs")
    report_groups(report, groups, "pairs")
    assert report.notes["pairs whose prompt was cut to max_length"] == 2


def test_a_system_message_that_is_too_long_by_itself_is_named(tokenizers):
    system = {"role": "system", "content": "wait and " * 60}
    prompt = [system, {"role": "user", "content": "How?"}]
    (group,) = grouped(tokenizers["chatml"], row(prompt, "Wait.", "Wait again."), options=TokenizeOptions(40))
    assert group["dropped_reason"] == ["completion_too_long"]
    assert group["dropped_excerpt"][0].startswith("the system message alone has ")
    (group,) = grouped(tokenizers["chatml"], row("How?", "wait " * 60, "Wait again."), options=TokenizeOptions(40))
    assert group["dropped_reason"] == ["completion_too_long"] and "alone" not in group["dropped_excerpt"][0]
