"""Conversations are cut by turns: the system message, the last question's end and every answer stay."""

import pytest
from datasets import Dataset
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.rendering import render
from reward_modeling.data.report import TOKENS_CUT, report_rows
from reward_modeling.data.truncation import MARK, PromptCutter, TextCutter
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.objectives.bradley_terry import PairReader

CORPUS = [
    "How do I mend a kettle with little money?",
    "First unplug it.\nThen wait, and wait again. [...] user assistant",
]
SYSTEM = {"role": "system", "content": "Answer as a plumber."}
# Messages of one speaker become one turn of the rendering.
MERGES = (
    "{{ bos_token }}{% for m in messages %}{% if loop.first or m.role != messages[loop.index0 - 1].role %}"
    "{{ '<start_of_turn>' + m.role + '\n' }}{% else %}{{ '\n' }}{% endif %}{{ m.content }}"
    "{% if loop.last or m.role != messages[loop.index0 + 1].role %}{{ '<end_of_turn>\n' }}{% endif %}{% endfor %}"
)
STYLES = {name: options for name, options in TOKENIZER_STYLES.items() if options.get("chat_template")} | {
    "merging": TOKENIZER_STYLES["gemma"] | {"chat_template": MERGES}
}
WITH_SYSTEM = [name for name in STYLES if name not in ("gemma", "mistral")]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: train_tokenizer(CORPUS, 450, **options) for name, options in STYLES.items()}


def turns(count: int) -> list[dict]:
    """Questions and answers in turn; the last one is a question."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": f"Turn {number}: wait, and wait again."}
        for number in range(2 * count - 1)
    ]


def answer(words: str) -> list[dict]:
    return [{"role": "assistant", "content": words}]


def length(tokenizer, messages: list[dict]) -> int:
    return len(token_ids([render(messages, {}, tokenizer)], tokenizer)[0])


@pytest.mark.parametrize("name", STYLES)
def test_whole_turns_go_the_oldest_first_and_no_more_than_need_be(tokenizers, name):
    tokenizer = tokenizers[name]
    head = [SYSTEM] if name in WITH_SYSTEM else []
    answers = [answer("Wait."), answer("First unplug it, then wait."), answer("No.")]
    for kept in (1, 2, 4):
        expected = [*head, *turns(5)[2 * (5 - kept) :]]
        lengths = [length(tokenizer, expected + each) for each in answers]
        for room in (0, 3):
            cut = PromptCutter([*head, *turns(5)], {}, max(lengths) + room, tokenizer).cut(answers)
            assert cut.prompt == expected
            assert list(map(len, cut.ids)) == lengths
            assert cut.ids == token_ids([render(expected + each, {}, tokenizer) for each in answers], tokenizer)


@pytest.mark.parametrize("name", STYLES)
def test_of_the_last_question_the_beginning_goes_with_a_mark(tokenizers, name):
    tokenizer = tokenizers[name]
    head = [SYSTEM] if name in WITH_SYSTEM else []
    long = {"role": "user", "content": " ".join(f"word{number}" for number in range(80)) + " How do I mend it?"}
    answers = [answer("Wait."), answer("First unplug it, then wait.")]
    shortest = length(tokenizer, [*head, {**long, "content": MARK}, *answers[1]])
    for room in (0, 9, 40):
        cut = PromptCutter([*head, *turns(2)[:2], long], {}, shortest + room, tokenizer).cut(answers)
        *kept_head, question = cut.prompt
        assert kept_head == head
        assert question["content"] == MARK if not room else question["content"].startswith(f"{MARK} ")
        assert long["content"].endswith(question["content"].removeprefix(MARK))
        assert long["content"][: -len(question["content"].removeprefix(MARK)) or None].endswith(("", " "))
        assert shortest + room - 14 < max(map(len, cut.ids)) <= shortest + room
    assert PromptCutter([*head, long], {}, shortest - 1, tokenizer).cut(answers) is None
    assert PromptCutter([*head, long], {}, shortest - 1, tokenizer).fits(answers) == [True, False]


def test_messages_of_a_tool_in_the_last_turn_are_cut_after_the_question(tokenizers):
    tokenizer = tokenizers["chatml"]
    prompt = [
        {"role": "user", "content": "Read both pages. " * 4},
        {"role": "assistant", "content": "I will."},
        {"role": "tool", "content": "A page of words. " * 20 + "The end."},
    ]
    cut = PromptCutter(prompt, {}, 90, tokenizer).cut([answer("Done.")])
    assert [message["content"] for message in cut.prompt[:2]] == [MARK, MARK]
    assert cut.prompt[2]["content"].startswith(MARK) and cut.prompt[2]["content"].endswith("The end.")
    assert [message["role"] for message in cut.prompt] == ["user", "assistant", "tool"]
    assert len(cut.ids[0]) <= 90


def test_a_template_that_refuses_what_is_left_is_cut_at_the_next_turn(tokenizers):
    """Templates that want a conversation to begin in one way."""
    template = (
        "{% if 'Turn 2' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATES["chatml"]
    )
    tokenizer = train_tokenizer(CORPUS, 450, **(TOKENIZER_STYLES["chatml"] | {"chat_template": template}))
    room = length(tokenizers["chatml"], [*turns(4)[2:], *answer("Wait.")])
    assert PromptCutter(turns(4), {}, room, tokenizers["chatml"]).cut([answer("Wait.")]).prompt == turns(4)[2:]
    assert PromptCutter(turns(4), {}, room, tokenizer).cut([answer("Wait.")]).prompt == turns(4)[4:]


def test_plain_texts_lose_their_oldest_tokens_after_bos_for_a_mark(tokenizers):
    tokenizer = tokenizers["gemma"]
    mark = tokenizer(MARK, add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *range(100, 180)]
    assert 0 < len(mark) < 15
    cutter = TextCutter(60, tokenizer)
    assert cutter.cut(ids) == [tokenizer.bos_token_id, *mark, *range(121 + len(mark), 180)]
    assert cutter.cut(ids[1:]) == [*mark, *range(120 + len(mark), 180)]
    assert cutter.cut(ids[:60]) == ids[:60]
    assert TextCutter(6, tokenizer).cut(ids) == [tokenizer.bos_token_id, *range(175, 180)]  # no room for a mark
    no_signs = train_tokenizer(["wait a while"], 60, **TOKENIZER_STYLES["mistral"])
    assert TextCutter(60, no_signs).mark == []  # nor a mark that would be unknown


def test_of_plain_texts_only_what_they_share_is_cut(tokenizers):
    tokenizer = tokenizers["gemma"]
    begin = "How do I mend a kettle with little money? " * 6
    texts = [{"chosen": begin + "Wait, and wait again.", "rejected": begin + "No."}]
    texts.append({"chosen": "Wait. " * 60, "rejected": "No. " * 60})
    rows = [standardise_row(row, f"rows:{number}") for number, row in enumerate(texts, start=1)]
    rows = Dataset.from_list(rows, features=STANDARD_FEATURES)
    first, second = tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(70)).to_list()
    whole = token_ids([text + tokenizer.eos_token for text in texts[0].values()], tokenizer)
    found = [first["prefix_ids"] + ids for ids in first["completion_ids"]]
    assert found == [TextCutter(70, tokenizer).cut(ids) for ids in whole]
    assert second["dropped_reason"] == ["completion_too_long"]


def test_how_much_was_cut_is_in_the_report(tokenizers):
    tokenizer = tokenizers["llama3"]
    prompts = [turns(5), turns(1), turns(3)]
    sides = {"chosen": "Wait.", "rejected": "First unplug it, then wait."}
    rows = [standardise_row({"prompt": prompt, **sides}, f"rows:{place}") for place, prompt in enumerate(prompts)]
    rows = Dataset.from_list(rows, features=STANDARD_FEATURES)
    room = length(tokenizer, [*turns(3), *answer(sides["rejected"])])
    report = report_rows("train", rows)
    report_groups(report, tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(room)), "pairs")
    lost = length(tokenizer, turns(5)) - length(tokenizer, turns(5)[4:])
    assert report.notes["pairs whose prompt was cut to max_length"] == 1
    assert (report.notes[TOKENS_CUT], report.first_of_note[TOKENS_CUT]) == (2 * lost, "rows:0")
