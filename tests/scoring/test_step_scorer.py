"""Probabilities of steps against padded plain transformers, whatever is computed together."""

import doctest
import json
import math
from itertools import product

import pytest
from pairwise_models import save_pairwise
from step_models import (
    FAMILIES,
    PACKABLE,
    PROCESS,
    QUESTIONS,
    TEXTS,
    chains,
    largest_difference,
    plain_probabilities,
    process_of,
    save_process_model,
)
from tiny_families import tiny_config
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX
from reward_modeling.models.process_format import ProcessFormat
from reward_modeling.scoring import Chain, PairScorer, RewardScorer, StepScorer, Tokens, step_scorer
from reward_modeling.scoring import plan as plan_module
from reward_modeling.tiny.tokenizers import token_ids

TOLERANCE = 1e-5
WRONG = 1e-3  # what a mistake must move a probability by to be seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def get(family):
        if family not in made:
            path = tmp_path_factory.mktemp("process") / family
            made[family] = save_process_model(path, family, process=process_of(family))
        return made[family]

    return get


def load(path, **options) -> StepScorer:
    return StepScorer.from_pretrained(path, dtype="float32", device="cpu", **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_padded_transformers(folder, family):
    scorer, path = load(folder(family)), folder(family)
    found = scorer.score_many(chains())
    rows = scorer.tokenize(chains())
    for batch in (1, 7):
        assert largest_difference(found, plain_probabilities(path, rows, batch)) < TOLERANCE
    before = [Tokens(row.ids, reads=[place - 1 for place in row.reads]) for row in rows]
    assert largest_difference(found, plain_probabilities(path, before)) > WRONG


@pytest.mark.parametrize("family", PACKABLE)
def test_every_batching_gives_the_same(folder, family):
    reference = load(folder(family)).score_many(chains())
    for options in ({"batching": PACKED}, {"batching": PADDED}, {"max_tokens_per_batch": 90}):
        assert largest_difference(load(folder(family), **options).score_many(chains()), reference) < TOLERANCE
    alone = load(folder(family))
    assert largest_difference([alone.score(*chain) for chain in chains()], reference) < TOLERANCE


def test_equal_chains_get_equal_probabilities(folder):
    found, given = load(folder("qwen2")).score_many(chains()), chains()
    twice = next((a, b) for a in range(len(given)) for b in range(a) if given[a] == given[b])
    assert found[twice[0]] == found[twice[1]]


def test_a_tree_that_shares_too_much_is_seen(folder, monkeypatch):
    """The negative control of what is computed once: one token more would be another chain's."""
    path = folder("qwen2")
    reference = load(path).score_many(chains())
    shared_with_previous = plan_module.shared_with_previous

    def too_much(sequences, prefix_length):
        shared = shared_with_previous(sequences, prefix_length)
        lengths = [len(ids) - prefix_length for ids in sequences]
        return [each and min(each + 3, length - 1) for each, length in zip(shared, lengths, strict=True)]

    monkeypatch.setattr(plan_module, "shared_with_previous", too_much)
    assert largest_difference(load(path).score_many(chains()), reference) > WRONG


def test_steps_that_chains_share_are_computed_once(folder):
    scorer = load(folder("qwen2"), max_tokens_per_batch=4096)
    trunk = TEXTS * 5
    together = [(QUESTIONS[0], [*trunk, text]) for text in TEXTS]
    scorer.score_many(together)
    tree = scorer.counts.tokens
    rows = scorer.tokenize(together)
    one = len(rows[0].ids)
    assert tree < one + 6 * 40
    packed = load(folder("qwen2"), batching=PACKED)
    packed.score_many(together)
    assert packed.counts.tokens == sum(len(row.ids) for row in rows) > 5 * tree
    # a prompt that has two trunks: what two share of four is shared, too
    other = [(QUESTIONS[0], [*trunk[::-1], text]) for text in TEXTS]
    scorer.score_many(together + other)
    assert scorer.counts.tokens < 2 * tree


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
def test_no_token_reaches_from_a_step_into_its_separator(folder, family):
    """The text of each stretch of tokens is its step, whatever the tokenizer would make of both together."""
    scorer = load(folder(family))
    (row,) = scorer.tokenize([(QUESTIONS[0], TEXTS)])
    tokenizer = AutoTokenizer.from_pretrained(folder(family))
    ends = [*row.reads]
    for start, end, step in zip(ends, ends[1:], TEXTS[1:], strict=False):
        assert tokenizer.decode(row.ids[start + 1 : end + 1]).strip(" ") == f"{step}\n\n"
    assert ends[-1] == len(row.ids) - 1
    before = tokenizer.decode(row.ids[: ends[0] + 1])
    assert before.endswith(f"{TEXTS[0]}\n\n")
    assert QUESTIONS[0] in before


def test_without_a_separator_the_step_is_read_at_its_own_end(folder):
    scorer = load(folder("qwen2"), separator="")
    (row,) = scorer.tokenize([(QUESTIONS[0], TEXTS)])
    text = scorer.tokenizer.decode(row.ids[: row.reads[1] + 1])
    assert text.endswith(TEXTS[0] + TEXTS[1])
    found = scorer.score_many(chains())
    rows = scorer.tokenize(chains())
    assert largest_difference(found, plain_probabilities(folder("qwen2"), rows)) < TOLERANCE
    with pytest.raises(UserError, match="found none in step 1 of 2"):
        scorer.score(QUESTIONS[0], [TEXTS[0], ""])


def test_messages_and_texts_as_prompts_are_the_same(folder):
    scorer = load(folder("llama"))
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    assert scorer.score(QUESTIONS[0], TEXTS) == scorer.score(messages, TEXTS)
    assert scorer.score([{"role": "system", "content": "Think."}, *messages], TEXTS) != scorer.score(messages, TEXTS)


# --- too long -------------------------------------------------------------------------------------------------


def test_long_chains_lose_prompt_and_never_a_step(folder):
    scorer = load(folder("qwen2"), max_length=110)
    long = [{"role": "user", "content": "Please read all of this. " * 30 + QUESTIONS[0]}]
    given = [(long, TEXTS[:3]), (long, TEXTS[:2]), (QUESTIONS[1], TEXTS[:2])]
    found, counts = scorer.score_many(given), scorer.counts
    rows = scorer.tokenize(given)
    assert counts.cut == 2
    assert counts.cut_tokens > 100
    assert all(len(row.ids) <= 110 for row in rows)
    assert [len(row.reads) for row in rows] == [3, 2, 2]
    assert all(
        scorer.tokenizer.decode(row.ids).endswith(f"{TEXTS[n]}\n\n") for row, n in zip(rows, (2, 1, 1), strict=True)
    )
    # all chains of a prompt lose the same part of it
    assert rows[0].ids[: rows[0].reads[1] + 1] == rows[1].ids
    assert largest_difference(found, plain_probabilities(folder("qwen2"), rows)) < TOLERANCE


def test_steps_that_do_not_fit_are_not_scored_and_counted(folder, caplog):
    scorer = load(folder("qwen2"), max_length=80)
    given = [(QUESTIONS[0], TEXTS * 4), (QUESTIONS[0], TEXTS[:1]), (QUESTIONS[1], TEXTS[1:2])]
    found = scorer.score_many(given)
    assert scorer.counts.too_long == 1
    assert len(found[0]) == 24
    assert all(map(math.isnan, found[0]))
    alone = load(folder("qwen2")).score_many(given[1:])
    assert largest_difference(found[1:], alone) < TOLERANCE
    assert "1 of 3 answers are not scored" in caplog.text
    assert scorer.counts.not_finite == 0
    whole = [Chain([{"role": "user", "content": q}], s) for q, s in given]
    assert next(iter(scorer.stream(whole))) == (0, None)


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED, PADDED])
def test_where_no_answer_fits_nothing_is_computed(folder, batching):
    scorer = load(folder("qwen2"), max_length=80, batching=batching)
    found = scorer.score_many([(QUESTIONS[0], TEXTS * 4), (QUESTIONS[1], TEXTS * 5)])
    assert [len(steps) for steps in found] == [24, 30]
    assert all(math.isnan(one) for steps in found for one in steps)
    assert (scorer.counts.too_long, scorer.counts.scored, scorer.counts.passes) == (2, 0, 0)


# --- rewards --------------------------------------------------------------------------------------------------


def conversation(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("aggregation", ["min", "product", "last", "mean"])
def test_a_reward_scorer_gives_the_aggregate_and_the_steps(tmp_path, aggregation):
    path = save_process_model(tmp_path / "model", process={**PROCESS, "aggregation": aggregation})
    rewards = RewardScorer.from_pretrained(path, dtype="float32", device="cpu")
    answers = [conversation(question, "\n\n".join(steps)) for question, steps in chains()]
    scored = rewards.score_named(answers)
    expected = load(path).score_many(chains())
    assert [one.steps for one in scored] == expected
    assert [one.reward for one in scored] == [StepScorer.aggregate(steps)[aggregation] for steps in expected]
    assert rewards.score(answers) == [one.reward for one in scored]
    of_tokens = rewards.score_named(rewards.tokenize(answers))
    assert [one.steps for one in of_tokens] == expected


def test_an_outcome_model_reads_the_whole_answer_as_one_step(tmp_path):
    path = save_process_model(tmp_path / "model", process={**PROCESS, "separator": "", "outcome": True})
    rewards = RewardScorer.from_pretrained(path, dtype="float32", device="cpu")
    (scored,) = rewards.score_named([conversation(QUESTIONS[0], "\n\n".join(TEXTS))])
    scorer = load(path)
    assert scored.steps == [scored.reward] == scorer.score(QUESTIONS[0], ["\n\n".join(TEXTS)])
    several = (QUESTIONS[0], TEXTS[:2])
    words = "expected one step, the whole answer, since the model is an outcome model.* found 2"
    for refused in (scorer.score_many, scorer.tokenize):
        with pytest.raises(UserError, match=f"conversation 1: {words}"):
            refused([(QUESTIONS[0], TEXTS[:1]), several])
    with pytest.raises(UserError, match=words):
        list(scorer.stream([Chain([{"role": "user", "content": several[0]}], several[1])]))


def test_an_answer_is_split_at_separators(folder):
    scorer = load(folder("qwen2"))
    assert scorer.split("one\n\ntwo\n\n\n\nthree\n\n") == ["one", "two", "three"]
    assert scorer.split("one\ntwo") == ["one\ntwo"]
    assert scorer.split("") == [""]
    marked = load(folder("qwen2"), separator="<extra_0>")
    assert marked.split("one\n\ntwo") == ["one", "two"]
    assert marked.split("one\n\ntwo<extra_0>three<extra_0>") == ["one\n\ntwo", "three"]
    assert load(folder("qwen2"), separator="").split("one\n\ntwo") == ["one\n\n", "two"]


def test_a_blank_line_may_hold_white_space():
    process = ProcessFormat()
    assert process.split("one\r\n\r\ntwo\r\nof it\n \t\nthree\n\nfour \n  \n") == [
        "one",
        "two\r\nof it",
        "three",
        "four ",
    ]
    assert ProcessFormat("\n").split("one\r\ntwo\n \nthree") == ["one", "two", "three"]
    assert ProcessFormat("<extra_0>").split("one\n \ntwo") == ["one", "two"]
    assert ProcessFormat(" \n").split("one\r\ntwo \nthree") == ["one\r\ntwo", "three"]


@pytest.mark.parametrize("separator", ["\n", "\n\n", "\n\n\n", "b\n"])
def test_line_breaks_alone_part_steps_as_they_part_the_text(separator):
    for text in map("".join, product("ab\n", repeat=8)):
        between = separator if separator in text or separator.isspace() else "\n\n"
        expected = [part for part in text.split(between) if part.strip()] or [text]
        assert ProcessFormat(separator).split(text) == expected


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_work_and_give_the_same_bits(folder, processes):
    scorer = load(folder("llama"), max_tokens_per_batch=300)
    given = [Chain([{"role": "user", "content": question}], steps) for question, steps in chains()]
    whole = dict(scorer.stream(given))
    parts = [dict(scorer.stream(given, process_index=n, num_processes=processes)) for n in range(processes)]
    assert sum(map(len, parts)) == len(given)
    assert {index: steps for part in parts for index, steps in part.items()} == whole


# --- models of others, and mistakes ---------------------------------------------------------------------------


def test_a_model_of_trl_is_read_as_trl_writes_it(tmp_path):
    """BOS where there is one, the prompt as it is, then step and separator, each tokenised by itself."""
    path = save_process_model(tmp_path / "model", "llama", process=None)
    scorer = load(path, separator="\n")
    tokenizer = AutoTokenizer.from_pretrained(path)
    (row,) = scorer.tokenize([(QUESTIONS[0], TEXTS[:2])])
    options = {"add_special_tokens": False}
    newline = tokenizer("\n", **options)["input_ids"]
    steps = [tokenizer(step, **options)["input_ids"] + newline for step in TEXTS[:2]]
    prompt = [tokenizer.bos_token_id] + tokenizer(QUESTIONS[0], **options)["input_ids"]
    assert list(row.ids) == prompt + steps[0] + steps[1]
    assert list(row.reads) == [len(prompt + steps[0]) - 1, len(row.ids) - 1]
    with pytest.raises(UserError, match=r"nothing that says where a step ends. Pass the separator"):
        load(path)


def test_mistakes_are_one_message(folder, tmp_path):
    scorer = load(folder("qwen2"))
    for answers, words in (
        ([(QUESTIONS[0], [])], "at least one step"),
        ([(QUESTIONS[0], "one step")], "steps as a list of texts"),
        ([(QUESTIONS[0], ["one", 2])], "found in step 1 int '2'"),
        ([([], TEXTS)], "at least one message"),
        ([(QUESTIONS[0], TEXTS), (QUESTIONS[0], [TEXTS[0], ""])], "conversation 1: .* found none in step 1 of 2"),
        ([(QUESTIONS[0], [" \n", TEXTS[0]])], "found none in step 0 of 2"),
        ([([{"role": "narrator"}], TEXTS)], "role and content as texts"),
    ):
        with pytest.raises(UserError, match=words):
            scorer.score_many(answers)
    with pytest.raises(UserError, match="one for each of 1 answers, found 2"):
        scorer.score_many([(QUESTIONS[0], TEXTS)], template_options=[None, None])
    with pytest.raises(UserError, match="found none in step 0 of 1"):
        list(scorer.stream([Chain([{"role": "user", "content": "?"}], [""])]))
    rewards = RewardScorer.from_pretrained(folder("qwen2"), device="cpu")
    for given, words in (
        ("a plain text", "found a plain text"),
        ([{"role": "user", "content": "?"}], "end with a user's"),
        (conversation("?", " \n"), "expected an answer with at least one step"),
        (Tokens([1, 2, 3]), "the places from 0 to 2 where the steps end"),
    ):
        with pytest.raises(UserError, match=words):
            rewards.score([given])
    with pytest.raises(UserError, match="process model, whose rewards are made of probabilities"):
        RewardScorer.from_pretrained(folder("qwen2"), device="cpu", normalize=True)
    with pytest.raises(UserError, match="an aggregation of its steps"):
        RewardScorer.from_pretrained(folder("qwen2"), device="cpu", weights={"kindness": 1.0})
    with pytest.raises(UserError, match="did you mean product"):
        load(folder("qwen2"), aggregation="produkt")
    three = save_process_model(tmp_path / "three", num_labels=3)
    config = json.loads((three / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (three / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="with 3 labels"):
        load(three)


def test_a_reward_model_has_no_steps(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_process_model(tmp_path / "process"))
    config = tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "rewards")
    tokenizer.save_pretrained(tmp_path / "rewards")
    with pytest.raises(UserError, match="expected a process model"):
        load(tmp_path / "rewards")
    with pytest.raises(UserError, match="Use RewardScorer"):
        StepScorer(RewardScorer.from_pretrained(tmp_path / "rewards", device="cpu"))


def test_each_scorer_names_the_one_that_reads_a_model_of_another_kind(tmp_path):
    pairwise = save_pairwise(tmp_path / "pairwise", "qwen2")
    rewards = save_pairwise(tmp_path / "rewards", "qwen2", entry=None)
    process = save_process_model(tmp_path / "process")
    named = {  # None: it reads the model
        RewardScorer: (None, "PairScorer", None),
        PairScorer: ("RewardScorer", None, "StepScorer"),
        StepScorer: ("RewardScorer", "PairScorer", None),
    }
    for scorer, names in named.items():
        for path, name in zip((rewards, pairwise, process), names, strict=True):
            if name is None:
                scorer.from_pretrained(path, device="cpu")
                continue
            with pytest.raises(UserError) as caught:
                scorer.from_pretrained(path, device="cpu")
            said = str(caught.value)
            assert [other for other in ("RewardScorer", "PairScorer", "StepScorer") if other in said] == [name]


def test_aggregations_by_hand():
    found = StepScorer.aggregate([0.5, 0.25, 1.0])
    assert found == {"min": 0.25, "product": 0.125, "last": 1.0, "mean": 1.75 / 3}
    assert all(math.isnan(value) for value in StepScorer.aggregate([0.5, math.nan]).values())


def test_the_example_of_the_class_holds(folder):
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner()
    globs = {"path": folder("qwen2")}
    for test in finder.find(step_scorer.StepScorer, "StepScorer", globs=globs):
        runner.run(test)
    assert runner.summarize().failed == 0
