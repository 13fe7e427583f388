"""Steps as text and as tokens: no token reaches from a step into its separator, and scores are read where steps end."""

import json
from itertools import accumulate

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from reward_modeling.common.errors import UserError
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.composing import tokenize_pieces
from reward_modeling.data.planning import PACKED, SHARED_PREFIX, Chunk, GroupSizes
from reward_modeling.data.preferences import NO_OPTIONS
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.rendering import render_prompt
from reward_modeling.data.report import CUT_UNITS, DataReport, report_rows
from reward_modeling.data.step_rows import STEP_FEATURES, step_row
from reward_modeling.data.step_texts import StepComposer
from reward_modeling.data.truncation import MARK
from reward_modeling.models.process_format import last_places
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.objectives.step_reader import StepReader

pytestmark = pytest.mark.usefixtures("own_cache")
STEPS = ["First add.", "The sum is 12.", "So 4"]
QUESTION = "What is 3 plus 9, divided by three?"
PROMPT = [{"role": "user", "content": QUESTION}]
# what a step and a separator have between them is often one token here
CORPUS = [".\n\n" * 9, ".. " * 9, f"{QUESTION} " * 9, "\n\n".join(STEPS * 9), " ки ки ки 4 ки", "[...] <step>"]
STYLES = {name: TOKENIZER_STYLES[name] for name in ("gemma", "llama3", "chatml", "mistral")}
ALL = [*STYLES, "llama2"]
SEPARATORS = ["\n\n", "\n", " ки", ".", "<step>"]


@pytest.fixture(scope="module")
def tokenizers():
    return {name: train_tokenizer(CORPUS, 420, **options) for name, options in STYLES.items()} | {"llama2": spaced()}


def spaced():
    """SentencePiece as Llama 2 has it: a space before every text, which its decoder takes away again."""
    tokenizer = train_tokenizer(CORPUS, 420, **STYLES["mistral"])
    space = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.backend_tokenizer.normalizer = space
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "isolated")
    written = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(written)
    return tokenizer


def pieces_of(tokenizer, steps, separator: str) -> tuple[list[str], list[list[int]]]:
    pieces = StepComposer(separator).pieces(PROMPT, steps, {}, tokenizer)
    return pieces, tokenize_pieces([pieces], tokenizer)[0]


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("style", ["gemma", "llama3", "chatml"])
def test_with_bytes_each_step_and_separator_is_tokenised_by_itself(tokenizers, style, separator):
    tokenizer = tokenizers[style]

    def alone(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    _, ids = pieces_of(tokenizer, STEPS, separator)
    expected = [alone(text) for step in STEPS for text in (step, separator)]
    assert ids == [token_ids([render_prompt(PROMPT, {}, tokenizer)], tokenizer)[0], *expected]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_sentencepiece_puts_no_space_before_a_step_that_has_none(tokenizers, separator):
    tokenizer = tokenizers["llama2"]
    alone = tokenizer("First add.", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")  # the control: by itself it has one
    pieces, ids = pieces_of(tokenizer, STEPS, separator)
    for text, of_text in zip(pieces[1:], ids[1:], strict=True):
        written = "".join(tokenizer.convert_ids_to_tokens(of_text)).replace("<0x0A>", "\n")
        assert written == text.replace(" ", "▁")


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("style", ALL)
def test_scores_are_read_at_the_last_token_of_each_separator(tokenizers, style, separator):
    tokenizer = tokenizers[style]
    pieces, ids = pieces_of(tokenizer, STEPS, separator)
    whole, lengths = [token for of in ids for token in of], list(map(len, ids))
    reads = StepReader(separator=separator).read_positions(whole, lambda: 0, lengths)
    assert reads == last_places(lengths, separator)
    texts = ["".join(pieces[: 1 + 2 * number]) for number in (1, 2, 3)]
    said = [tokenizer.decode(whole[: read + 1], clean_up_tokenization_spaces=False) for read in reads]
    assert [text.endswith(f"{step}{separator}") for text, step in zip(said, STEPS, strict=True)] == [True] * 3
    before = [tokenizer.decode(whole[:read], clean_up_tokenization_spaces=False) for read in reads]
    assert not any(text.endswith(f"{step}{separator}") for text, step in zip(before, STEPS, strict=True))
    assert reads[-1] == len(whole) - 1
    assert ["".join(pieces).startswith(text) for text in texts] == [True] * 3


def test_in_the_text_as_a_whole_tokens_would_reach_over_the_end_of_a_step(tokenizers):
    """The control: why pieces are tokenised one by one."""
    tokenizer = tokenizers["chatml"]
    pieces, ids = pieces_of(tokenizer, STEPS[:2], ".")
    whole = tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    assert len(whole) < sum(map(len, ids))
    ends = set(accumulate(map(len, tokenizer.batch_decode([[each] for each in whole]))))
    assert len(pieces[0] + pieces[1]) not in ends  # one token is the step's last point and the separator


def test_without_a_separator_the_last_token_of_a_step_is_read(tokenizers):
    tokenizer = tokenizers["llama3"]
    pieces, ids = pieces_of(tokenizer, ["First add.\n\n", "So 4"], "")
    assert pieces[1:] == ["First add.\n\n", "So 4"]
    lengths = list(map(len, ids))
    whole = [token for of in ids for token in of]
    reads = StepReader(separator="").read_positions(whole, lambda: 0, lengths)
    assert reads == [sum(lengths[:2]) - 1, sum(lengths) - 1]


def test_white_space_around_a_step_is_none_of_it(tokenizers):
    tokenizer = tokenizers["gemma"]
    spaced = [f"\n {step}\n\n    " for step in STEPS]
    assert pieces_of(tokenizer, spaced, "\n\n") == pieces_of(tokenizer, STEPS, "\n\n")
    assert pieces_of(tokenizer, spaced, "") != pieces_of(tokenizer, STEPS, "")


def test_without_chat_the_prompt_stands_as_it_is_behind_bos(tokenizers):
    """TRL's form."""
    for style, bos in (("gemma", 1), ("chatml", 0)):
        tokenizer = tokenizers[style]
        composer = StepComposer("\n", chat=False)
        pieces = composer.pieces(PROMPT, STEPS, {}, tokenizer)
        assert pieces == [QUESTION, STEPS[0], "\n", STEPS[1], "\n", STEPS[2], "\n"]
        ids = tokenize_pieces([pieces], tokenizer)[0]
        expected = [tokenizer.bos_token_id] * bos + tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
        assert ids[0] == expected
        assert not composer.uses_template and StepComposer().uses_template


# --- groups -----------------------------------------------------------------------------------------------------------


def standard(*rows: dict) -> Dataset:
    return Dataset.from_list(
        [step_row(row, f"rows:{number}", NO_OPTIONS, None) for number, row in enumerate(rows, start=1)],
        features=STEP_FEATURES,
    )


def grouped(tokenizer, *rows: dict, max_length: int = 4000, reader=StepReader()) -> tuple[list[dict], DataReport]:  # noqa: B008
    loaded = standard(*rows)
    groups = tokenize_and_group(loaded, tokenizer, reader, TokenizeOptions(max_length))
    report = report_rows("train", loaded)
    report_groups(report, groups, reader.unit)
    return groups.to_list(), report


def chain_row(steps, labels, prompt=QUESTION) -> dict:
    return {"prompt": prompt, "completions": list(steps), "labels": list(labels)}


def whole_rows(group: dict) -> list[list[int]]:
    return [group["prefix_ids"] + ids for ids in group["completion_ids"]]


def texts_read(tokenizer, group: dict) -> list[list[str]]:
    """Of each chain the whole text up to where it is read."""
    return [
        [tokenizer.decode(ids[: read + 1], clean_up_tokenization_spaces=False) for read in reads]
        for ids, reads in zip(whole_rows(group), group["read_positions"], strict=True)
    ]


LONG = "Once upon a time " * 30


@pytest.mark.parametrize("style", ALL)
def test_over_long_rows_lose_their_prompt_and_no_step(tokenizers, style):
    tokenizer = tokenizers[style]
    row = chain_row(STEPS, (1, 0, 1), LONG + QUESTION)
    (group,), report = grouped(tokenizer, row, chain_row(STEPS[:2], (1, 1), LONG + QUESTION), max_length=140)
    assert report.kept == 2 and report.notes[f"solutions {CUT_UNITS}"] == 2
    assert max(map(len, whole_rows(group))) <= 140
    for texts in texts_read(tokenizer, group):
        assert MARK in texts[-1] and QUESTION in texts[-1]
        assert all(text.endswith(f"{step}\n\n") for text, step in zip(texts, STEPS, strict=False))
    assert sorted(map(len, group["read_positions"])) == [2, 3]
    (whole,), _ = grouped(tokenizer, row)  # the control
    assert MARK not in texts_read(tokenizer, whole)[0][-1] and len(whole_rows(whole)[0]) > 140


def test_steps_that_are_too_long_by_themselves_are_dropped(tokenizers):
    rows = chain_row([LONG, "So 4"], (1, 0)), chain_row(STEPS, (1, 1, 1))
    (group,), report = grouped(tokenizers["chatml"], *rows, max_length=140)
    assert report.dropped["completion_too_long"].first_where == "rows:1" and report.kept == 1
    assert group["where"] == ["rows:2"]


def test_the_same_solution_with_the_same_labels_is_read_once(tokenizers):
    row = chain_row(STEPS, (1, None, 0))
    (group,), report = grouped(tokenizers["chatml"], row, row, chain_row(STEPS, (1, 0.5, 0)))
    assert report.dropped["duplicate_pair"].count == 1
    assert np.array_equal(group["targets"], [[1, np.nan, 0], [1, 0.5, 0]], equal_nan=True)
    assert len(group["completion_ids"]) == 1 and group["units"] == [[0], [0]] and group["weights"] == [2, 3]


TREE = {
    "prompt": QUESTION,
    "steps": [
        {"text": "First we add what is there to be added.", "label": 1},
        [
            {"text": "Twelve is the sum of them all, then.", "label": 1, "chosen": True},
            {"text": "More is the sum of them all, so 13.", "label": 0},
        ],
        [
            {"text": "Divided by three that is 4.", "label": 1},
            {"text": "Divided by three that is 5.", "label": 0},
            {"text": "Nobody can divide that by three.", "label": 0.25},
        ],
    ],
}


@pytest.mark.parametrize("style", ALL)
def test_a_tree_is_computed_once(tokenizers, style):
    tokenizer = tokenizers[style]
    (group,), _ = grouped(tokenizer, TREE)
    rows = whole_rows(group)
    assert len(rows) == 4
    distinct = {tuple(row[: end + 1]) for row in rows for end in range(len(row))}  # one for each token of a trie
    sizes = GroupSizes.from_rows([group])
    tokens = {batching: sizes.chunk(batching, 0, 0, 4).tokens for batching in (SHARED_PREFIX, PACKED)}
    assert tokens[PACKED] == sum(map(len, rows))
    # a token or so that two alternatives happen to begin with is not worth a span
    assert len(distinct) <= tokens[SHARED_PREFIX] < len(distinct) + 8 * len(rows)
    batch = MicroBatchCollator(SHARED_PREFIX, 0)([Chunk(0, 0, 4, 0)], {0: group})
    assert batch["model_inputs"]["input_ids"].numel() == tokens[SHARED_PREFIX]
    # each step of the tree is read once, though chains share some
    assert len(batch["model_inputs"]["read_positions"]) == 6
    assert sum(map(len, group["read_positions"])) == 2 + 3 * 3


def test_each_step_of_a_tree_counts_once(tokenizers):
    tokenizer = tokenizers["chatml"]
    (group,), _ = grouped(tokenizer, TREE)
    by_text: dict[str, list[float]] = {}
    reads = texts_read(tokenizer, group)
    for (number,), targets, weight in zip(group["units"], group["targets"], group["weights"], strict=True):
        known = [target for target in targets if target == target]
        assert weight == len(known) > 0
        for text, target in zip(reads[number], targets, strict=True):
            by_text.setdefault(text, []).extend([target] * (target == target))
    last = {text.removesuffix("\n\n")[-3:]: labels for text, labels in by_text.items()}
    assert last == {"ed.": [1], "en.": [1], "13.": [0], " 4.": [1], " 5.": [0], "ee.": [0.25]}
    assert sum(group["weights"]) == 6


@pytest.mark.parametrize("style", ALL)
def test_a_tree_reads_what_rows_of_its_chains_read(tokenizers, style):
    """The reference: one row for each alternative, in which shared steps are trained again and again."""
    tokenizer = tokenizers[style]
    (tree,), _ = grouped(tokenizer, TREE)
    first, (right, wrong), last = TREE["steps"]
    chains = [[first, wrong], *([first, right, end] for end in last)]
    rows = [chain_row([step["text"] for step in chain], [step["label"] for step in chain]) for chain in chains]
    (alone,), _ = grouped(tokenizer, *rows)
    for name in ("prefix_ids", "completion_ids", "read_positions", "shared_lengths"):
        assert tree[name] == alone[name]
    assert sum(alone["weights"]) == 2 + 3 * 3 and sum(tree["weights"]) == 6
    # without labels of its own beginning each target of the tree is one of the row
    for numbers, targets in zip(tree["units"], tree["targets"], strict=True):
        whole = alone["targets"][alone["units"].index(numbers)]
        assert all(target == other for target, other in zip(targets, whole, strict=True) if target == target)


WORDS = st.text(alphabet="ab .\n\u00e4", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(WORDS, min_size=1, max_size=5), separator=st.sampled_from(["\n\n", ".", "", "ab", "<step>"]))
def test_pieces_are_the_whole_text_whatever_is_said(tokenizers, steps, separator):
    for style in ("gemma", "llama3", "chatml"):
        tokenizer = tokenizers[style]
        pieces, ids = pieces_of(tokenizer, steps, separator)
        for text, of_text in zip(pieces[1:], ids[1:], strict=True):
            assert tokenizer.decode(of_text, clean_up_tokenization_spaces=False) == text


def test_a_tokenizer_without_a_template_does_where_none_is_used(tmp_path):
    options = {name: value for name, value in STYLES["chatml"].items() if name != "chat_template"}
    tokenizer = train_tokenizer(CORPUS, 420, **options)
    path = tmp_path / "rows.jsonl"
    rows = [chain_row(STEPS, (1, 0, 1), f"{QUESTION} {number}") for number in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"eval_size": 0, "seed": 0, "num_proc": 1}
    prepared = prepare_pairs(
        str(path), None, tokenizer, StepReader(separator="\n", chat=False), TokenizeOptions(200), **settings
    )
    assert len(prepared.train) == 8
    with pytest.raises(UserError, match="chat template"):
        prepare_pairs(str(path), None, tokenizer, StepReader(), TokenizeOptions(200), **settings)
