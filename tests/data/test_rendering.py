"""What templates leave out is found, what they write in another way is no loss, and no error of theirs gets through."""

import pytest
from datasets import Dataset
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.losses import NOTHING_LOST, find_losses, unwritten_tools
from reward_modeling.data.preferences import STANDARD_FEATURES, split_by_prompt, standardise_row
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.prompt_keys import key_by_template
from reward_modeling.data.rendering import TemplateRefuses, check_template, opened_turn, render, render_prompt
from reward_modeling.data.report import NOTED_ROWS, report_rows
from reward_modeling.objectives.bradley_terry import PairReader

CORPUS = ["How do I mend a kettle?", "First unplug it.\nThen wait."]
# Habits of published templates, in the fewest words that have them.
TURN = "{{ '<|im_start|>' + m.role + '\n' }}%s{{ '<|im_end|>\n' }}"
PRINTS_AFTER_THOUGHT = "{% for m in messages %}" + TURN % "{{ m.content.split('</think>')[-1] }}" + "{% endfor %}"
DROPS_EARLIER_THOUGHTS = (
    "{% for m in messages %}"
    + TURN % "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip('\n') }}"
    + "{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}" + TURN % "{{ m.content }}" + "{% endfor %}"
SYSTEM_WITH_LAST_QUESTION = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content %}{% else %}"
    "{{ '[' + (ns.system if m.role == 'user' and loop.last else '') + m.content + ']' }}{% endif %}{% endfor %}"
)
SYSTEM_IN_FRONT = (
    "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}" + TURN % "{{ m.content }}" + "{% endfor %}"
)
WRITES_JSON = "{% for m in messages %}{{ m.role + ': ' + m.content | tojson }}{% endfor %}"
TRIMS_LINES = (
    "{% for m in messages %}{% for line in m.content.split('\n') %}{{ line | trim + '\n' }}{% endfor %}{% endfor %}"
)
TOOLS = "{% for m in messages %}" + TURN % "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}"
TOOLS += "{% endfor %}"
ALWAYS_OPENS = CHAT_TEMPLATES["llama3"].replace("{%- if add_generation_prompt %}", "").replace("{% endif %}", "")


pytestmark = pytest.mark.usefixtures("own_cache")


def with_template(template: str, style: str = "chatml"):
    return train_tokenizer(CORPUS, 400, **(TOKENIZER_STYLES[style] | {"chat_template": template}))


def talk(*contents: str, system: str | None = None, **answer) -> list[dict]:
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)
    ]
    messages[-1] |= answer
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def losses(template: str, messages: list[dict]):
    return find_losses(messages, render(messages, {}, with_template(template)))


# --- what is lost ---------------------------------------------------------------------------------------------


def test_an_answer_of_which_only_the_end_is_printed():
    lost = losses(PRINTS_AFTER_THOUGHT, talk("How?", "Let me see. </think> Unplug it."))
    assert lost == ("'Let me see. </think> Unplug it.'", "", 0)
    assert losses(CHAT_TEMPLATES["chatml"], talk("How?", "Let me see. </think> Unplug it.")) == NOTHING_LOST


def test_a_thought_without_words_is_no_loss():
    assert losses(PRINTS_AFTER_THOUGHT, talk("How?", "<think>\n\n</think>\n\nUnplug it.")) == NOTHING_LOST
    assert losses(PRINTS_AFTER_THOUGHT, talk("How?", "Unplug it.")) == NOTHING_LOST


def test_thoughts_of_earlier_turns_are_counted_and_those_of_the_last_turn_are_lost():
    thought = "<think>\nIt may be hot.\n</think>\n\nUnplug it."
    messages = talk("How?", thought, "And then?", thought, "Thanks. What now?", thought)
    assert losses(DROPS_EARLIER_THOUGHTS, messages) == ("", "", 2)
    assert losses(PRINTS_AFTER_THOUGHT, messages).answer.startswith("'<think> It may be hot.")


@pytest.mark.parametrize("template", [DROPS_SYSTEM, SYSTEM_WITH_LAST_QUESTION])
def test_a_system_message_that_vanishes(template):
    messages = talk("How do I mend a kettle?", "Unplug it.", system="Answer as a pirate.")
    assert losses(template, messages) == ("", "system 'Answer as a pirate.'", 0)


def test_a_vanished_message_whose_words_stand_in_another():
    lost = losses(DROPS_SYSTEM, talk("kettle or pan?", "Unplug it.", system="kettle"))
    assert lost == ("", "system 'kettle'", 0)


@pytest.mark.parametrize("template", [SYSTEM_IN_FRONT, WRITES_JSON, TRIMS_LINES, *CHAT_TEMPLATES.values()])
def test_what_is_only_written_in_another_way_is_all_there(template):
    hard = '  "Quoted"\n\n   and é\\n indented,\twith a tab \n'
    later = [*talk(hard, "same"), {"role": "system", "content": "Be brief."}, *talk("same", "same")]
    for messages in (talk(hard, "same", "same", hard), talk("same", hard, system="Be brief."), later):
        try:
            text = render(messages, {}, with_template(template))
        except TemplateRefuses:
            continue
        assert find_losses(messages, text) == NOTHING_LOST
        # and a negative control: any of these left out is missed
        for number, message in enumerate(messages):
            if message["role"] != "system" or message["content"] not in text:
                other = {**message, "content": message["content"] + " not there"}
                assert find_losses([*messages[:number], other, *messages[number + 1 :]], text) != NOTHING_LOST


def test_tool_calls_and_reasoning_beside_the_content():
    call = {"tool_calls": [{"function": {"name": "look_up", "arguments": {}}}]}
    messages = talk("How?", "", "", "Unplug it.")
    messages[1] |= call
    assert losses(TOOLS, messages) == NOTHING_LOST
    assert losses(CHAT_TEMPLATES["chatml"], messages).message == "assistant's tool call 'look_up'"
    assert losses(CHAT_TEMPLATES["chatml"], talk("How?", "", **call)).answer == "assistant's tool call 'look_up'"
    thinks = talk("How?", "Unplug it.", reasoning_content="It may be hot.")
    assert losses(CHAT_TEMPLATES["chatml"], thinks).answer == "thought 'It may be hot.'"
    assert losses(CHAT_TEMPLATES["chatml"], [*thinks, *talk("And?", "Wait.")]) == ("", "", 1)


def test_tools_that_are_not_written():
    options = {"tools": [{"type": "function", "function": {"name": "look_up"}}]}
    assert unwritten_tools(options, "You may call look_up.") == []
    assert unwritten_tools(options, "You may call nothing.") == ["look_up"]
    assert unwritten_tools({}, "") == []
    short = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert unwritten_tools(short, "a question of fun") == ["f"]
    assert unwritten_tools(short, '{"name": "f"}') == []


# --- errors of templates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('Only one question') }}", "Only one question"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[0].name.first }}", "UndefinedError"),
        ("{{ {}['a'].b }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].missing | tojson }}", "TypeError"),
        ("{% for", "TemplateSyntaxError"),
    ],
)
def test_any_error_of_a_template_is_a_refusal_with_its_words(template, words):
    with pytest.raises(TemplateRefuses, match=words):
        render(talk("How?", "So."), {}, with_template(template))


def standard(*rows: dict) -> Dataset:
    made = [standardise_row(row, f"rows:{number}") for number, row in enumerate(rows, start=1)]
    return Dataset.from_list(made, features=STANDARD_FEATURES)


def pair(prompt: object, chosen: str = "Unplug it.", rejected: str = "No idea.") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_losses_and_errors_on_single_rows_are_counted_drops():
    failing = PRINTS_AFTER_THOUGHT.replace(
        "{% for", "{{ messages[0].content[0] + 1 if 'crash' in messages[0].content }}{% for"
    )
    tokenizer = with_template(failing)
    rows = standard(
        pair("How?"),
        pair("How do you crash?"),
        pair("How?", "Hm. </think> Unplug it.", "Well. </think> Unplug it."),
        pair(talk("How?", "So. </think> Wait.", "And?")),
    )
    report = report_rows("train", rows)
    report_groups(report, tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(500)), "pairs")
    found = {reason: (dropped.count, dropped.first_where) for reason, dropped in report.dropped.items()}
    assert found == {"template_refuses": (1, "rows:2"), "answer_loses_text": (1, "rows:3")}
    assert report.dropped["template_refuses"].first_excerpt.startswith("TypeError: ")
    assert report.notes[NOTED_ROWS["thoughts"]] == 1
    assert report.first_of_note[NOTED_ROWS["thoughts"]] == "rows:4"


def test_a_template_that_always_opens_another_turn_is_refused_by_name():
    tokenizer = with_template(ALWAYS_OPENS, "llama3")
    assert opened_turn(tokenizer).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    with pytest.raises(UserError, match=r"add_generation_prompt"):
        check_template(tokenizer)
    for style, options in TOKENIZER_STYLES.items():
        if options.get("chat_template"):
            assert opened_turn(with_template(options["chat_template"], style)) == "", style
    words = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert opened_turn(with_template(words)) == ""
    assert opened_turn(with_template(words + "assistant: ")) == "\nassistant: "
    # as setting up the tokenizer leaves it: EOS behind the turn that is opened
    assert opened_turn(with_template(words + "assistant: {{ eos_token }}")) == "\nassistant: "
    assert opened_turn(with_template(words + "{{ eos_token }}")) == ""


# --- keys of prompts ------------------------------------------------------------------------------------------


def keys(tokenizer, *rows: dict) -> list[int]:
    return list(key_by_template(standard(*rows), tokenizer)["prompt_key"])


def test_what_the_template_does_not_write_makes_no_other_prompt():
    question = {"role": "user", "content": "How?"}
    spellings = [
        pair([{**question, "id": 7}]),
        pair([{"id": 8, "content": "How?", "role": "user"}]),
        pair([question]),
        pair("How?"),
        pair("How?\n"),
    ]
    whole, other = with_template(CHAT_TEMPLATES["chatml"]), pair("Why?")
    assert len(set(keys(whole, *spellings))) == 1
    assert len(set(keys(whole, *spellings, other))) == 2
    rows = standard(*spellings)
    assert len(set(rows["prompt_key"])) > 1  # what it mends
    system = [pair(talk("How?", system=words)) for words in ("Be kind.", "Be rude.")]
    assert len(set(keys(whole, *system))) == 2
    assert len(set(keys(with_template(SYSTEM_WITH_LAST_QUESTION), *system))) == 1


def test_plain_texts_and_refused_prompts_keep_their_keys():
    tokenizer = with_template("{{ raise_exception('never') }}")
    rows = standard({"chosen": "a", "rejected": "b"}, pair("How?"), {"chosen": "", "rejected": "x"})
    assert key_by_template(rows, tokenizer)["prompt_key"] == rows["prompt_key"]


def test_no_question_is_held_out_under_one_id_and_trained_on_under_another():
    rows = standard(
        *(
            pair([{"role": "user", "content": f"How is {number // 3}?", "id": number}], f"So {number}.")
            for number in range(90)
        )
    )
    tokenizer = with_template(CHAT_TEMPLATES["chatml"])

    def questions(part: Dataset) -> set[str]:
        return {prompt.partition('"id"')[0] for prompt in part["prompt"]}

    for keyed, shared in ((rows, True), (key_by_template(rows, tokenizer), False)):
        train, held_out = split_by_prompt(keyed, 9, seed=0)
        assert len(held_out) == 9
        assert bool(questions(train) & questions(held_out)) is shared
    groups = tokenize_and_group(key_by_template(rows, tokenizer), tokenizer, PairReader(), TokenizeOptions(500))
    assert len(groups) == 30


def test_prompts_that_differ_in_white_space_alone_share_no_prefix_that_is_not_theirs():
    tokenizer = with_template(CHAT_TEMPLATES["chatml"])
    rows = key_by_template(standard(pair("How?", "a", "b"), pair("How? ", "c", "d")), tokenizer)
    assert len(set(rows["prompt_key"])) == 1
    groups = tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(500)).to_list()
    texts = [[tokenizer.decode(group["prefix_ids"] + ids) for ids in group["completion_ids"]] for group in groups]
    assert [["How?<" in text for text in of_group] for of_group in texts] == [[True, True], [False, False]]


def test_a_prompt_is_what_stands_before_an_answer():
    tokenizer = with_template(CHAT_TEMPLATES["qwen3"], "qwen3")
    text = render([*talk("How?"), {"role": "assistant", "content": "So."}], {}, tokenizer)
    before = render_prompt(talk("How?"), {}, tokenizer)
    assert text.startswith(before + "So.")
    assert before.endswith("<think>\n\n</think>\n\n")
