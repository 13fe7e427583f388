"""A pad token that is not EOS, and templates that end their answers."""

import json
import logging
from datetime import date

import pytest
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from transformers import AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.models.tokenizer import (
    PAD_CANDIDATES,
    answer_ending,
    end_answers,
    is_for_encoder,
    load_tokenizer,
    set_pad_token,
)

CORPUS = ["How do I bake rye bread?\n\nBegin.\n\nAnd wait.\n\n", "user assistant question answer\n\n"]
BARE_TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
TURNS = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Begin."}]


def styled(style: str = "gemma", **overrides):
    return train_tokenizer(CORPUS, 400, **(TOKENIZER_STYLES[style] | overrides))


def saved(tokenizer, tmp_path) -> str:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


# --- pad token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["gemma", "chatml"])
def test_a_good_pad_token_stays(style):
    tokenizer = styled(style)
    size = len(tokenizer)
    set_pad_token(tokenizer)
    assert tokenizer.pad_token == TOKENIZER_STYLES[style]["pad"]
    assert len(tokenizer) == size


@pytest.mark.parametrize("style", ["llama3", "mistral"])
def test_without_a_pad_token_a_new_one_is_added(style, caplog):
    tokenizer = styled(style)
    size = len(tokenizer)
    with caplog.at_level(logging.WARNING):
        set_pad_token(tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", size)
    assert len(tokenizer) == size + 1
    assert tokenizer("a<pad>b", add_special_tokens=False).input_ids.count(size) == 1
    assert "the tokenizer has none; now it is '<pad>'" in caplog.text


def test_pad_that_is_eos_is_replaced(caplog):
    tokenizer = styled(pad="<eos>")
    size = len(tokenizer)
    with caplog.at_level(logging.WARNING):
        set_pad_token(tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", size)
    assert tokenizer.eos_token == "<eos>"
    assert "'<eos>', which is EOS" in caplog.text


@pytest.mark.parametrize(("style", "pad"), [("chatml", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("phi3", "<|end|>")])
def test_pad_that_ends_an_answer_is_replaced(style, pad, caplog):
    """Where it is EOS, and where it is not: the last token of a conversation would be taken for padding."""
    tokenizer = styled(style, pad=pad)
    set_pad_token(tokenizer)
    assert tokenizer.pad_token not in (pad, tokenizer.eos_token)
    assert tokenizer.pad_token_id not in tokenizer.apply_chat_template(TURNS)["input_ids"]
    assert f"the tokenizer has '{pad}', which is " in caplog.text


@pytest.mark.parametrize("pad", [None, "<eos>"])
@pytest.mark.parametrize("candidate", PAD_CANDIDATES)
def test_an_existing_unused_token_is_taken_before_a_new_one(pad, candidate):
    tokenizer = styled(pad=pad, control_tokens=("<start_of_turn>", "<end_of_turn>", candidate))
    size, place = len(tokenizer), tokenizer.convert_tokens_to_ids(candidate)
    set_pad_token(tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (candidate, place)
    assert len(tokenizer) == size


def test_the_first_candidate_wins():
    tokenizer = styled(pad=None, control_tokens=("<unused0>", "[PAD]", "<|endoftext|>"))
    set_pad_token(tokenizer)
    assert tokenizer.pad_token == "[PAD]"


def test_a_candidate_that_is_in_use_is_passed_over():
    """As EOS, as BOS, or as a mark of the template."""
    tokenizer = styled(
        eos="<|endoftext|>",
        bos="[PAD]",
        pad=None,
        control_tokens=("<|pad|>", "<unused0>"),
        chat_template=BARE_TEMPLATE + "<|pad|>",
        bos_by_post_processor=False,
    )
    set_pad_token(tokenizer)
    assert tokenizer.pad_token == "<unused0>"


def test_a_new_pad_token_is_saved_with_the_tokenizer(tmp_path):
    tokenizer = load_tokenizer(saved(styled("llama3"), tmp_path))
    again = load_tokenizer(saved(tokenizer, tmp_path))
    assert again.pad_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert len(again) == len(tokenizer)


# --- the end of an answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "style,ending",
    [
        ("gemma", ["<end_of_turn>", "Ċ"]),
        ("chatml", ["<|im_end|>", "Ċ"]),
        ("llama3", ["<|eot_id|>"]),
        ("mistral", ["</s>"]),
        ("phi3", ["<|end|>", "\n", "<|endoftext|>"]),
    ],
)
def test_what_each_template_writes_after_an_answer(style, ending):
    tokenizer = styled(style)
    assert tokenizer.convert_ids_to_tokens(answer_ending(tokenizer)) == ending
    template = tokenizer.chat_template
    end_answers(tokenizer)
    assert tokenizer.chat_template == template


def test_a_template_without_an_end_gets_eos(caplog):
    tokenizer = styled(chat_template=BARE_TEMPLATE)
    assert answer_ending(tokenizer) == tokenizer("\n", add_special_tokens=False).input_ids
    with caplog.at_level(logging.WARNING):
        end_answers(tokenizer)
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == "user: How?\nassistant: Begin.\n<eos>"
    assert answer_ending(tokenizer)[-1] == tokenizer.eos_token_id
    assert "'<eos>' is now written there" in caplog.text
    prompt = tokenizer.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "user: How?\n"


def test_a_template_that_writes_the_date_of_today(tmp_path, caplog):
    """As Llama-3.2's: the date stands in the system turn, unless one is passed."""
    dated = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = 'none' %}{%- endif %}"
        "{%- endif %}{{ bos_token + 'Today: ' + date_string + '. ' }}"
        "{%- for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{%- endfor %}"
    )
    tokenizer = styled(chat_template=dated)
    today = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert today.startswith(f"<bos>Today: {date.today():%d %b %Y}. user: How?")
    with caplog.at_level(logging.WARNING):
        loaded = load_tokenizer(saved(tokenizer, tmp_path))
    assert "2024-07-26 is now written there" in caplog.text
    fixed = loaded.apply_chat_template(TURNS, tokenize=False)
    assert fixed == today.replace(f"{date.today():%d %b %Y}", "26 Jul 2024")
    # and once saved, anybody's tokenizer writes it, and nothing is left to change
    loaded.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").apply_chat_template(TURNS, tokenize=False) == fixed
    again = load_tokenizer(str(tmp_path / "again"))
    assert again.chat_template == loaded.chat_template


def test_a_template_is_ended_once():
    tokenizer = styled(chat_template=BARE_TEMPLATE)
    end_answers(tokenizer)
    template = tokenizer.chat_template
    end_answers(tokenizer)
    assert tokenizer.chat_template == template


def test_a_template_that_writes_nothing_after_an_answer():
    tokenizer = styled(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert answer_ending(tokenizer) == []
    end_answers(tokenizer)
    assert answer_ending(tokenizer) == [tokenizer.eos_token_id]


def test_a_template_that_refuses_everything():
    tokenizer = styled(chat_template="{{ raise_exception('no, thank you') }}")
    with pytest.raises(UserError, match="refuses: no, thank you"):
        answer_ending(tokenizer)


# --- encoders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["bert", "deberta"])
def test_an_encoder_gets_a_template_of_its_own_marks(style, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(saved(styled(style), tmp_path))
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == "[CLS]How?[SEP]Begin.[SEP]"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("[CLS]", "[SEP]", "[PAD]")
    assert answer_ending(tokenizer) == [tokenizer.sep_token_id]
    assert "now '[CLS]' stands first, then every message, ended in '[SEP]'" in caplog.text
    again = load_tokenizer(saved(tokenizer, tmp_path))
    assert again.apply_chat_template(TURNS)["input_ids"] == tokenizer.apply_chat_template(TURNS)["input_ids"]
    assert again("How?").input_ids == tokenizer("How?").input_ids == styled(style)("How?").input_ids


def test_an_encoder_keeps_a_template_that_it_has(tmp_path):
    template = "{{ cls_token }}{% for m in messages %}{{ m.role + ' ' + m.content }}{% endfor %}{{ sep_token }}"
    assert load_tokenizer(saved(styled("bert", chat_template=template), tmp_path)).chat_template == template


@pytest.mark.parametrize("style", ["gemma", "chatml", "llama3", "mistral", "phi3"])
def test_no_other_tokenizer_is_taken_for_an_encoders(style):
    assert not is_for_encoder(styled(style, chat_template=None))


# --- loading ------------------------------------------------------------------------------------------------


def test_load_pads_on_the_right_and_ends_answers(tmp_path):
    tokenizer = styled("mistral", chat_template=BARE_TEMPLATE)
    tokenizer.padding_side = "left"
    loaded = load_tokenizer(saved(tokenizer, tmp_path))
    assert loaded.padding_side == "right"
    assert loaded.pad_token == "<pad>"
    assert answer_ending(loaded)[-1] == loaded.eos_token_id


def test_load_without_a_template(tmp_path):
    assert load_tokenizer(saved(styled(chat_template=None), tmp_path)).chat_template is None


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-organisation/no-such-model"])
def test_unknown_path_or_id_is_one_clear_message(name):
    with pytest.raises(UserError) as caught:
        load_tokenizer(name)
    assert str(caught.value).startswith(f"--model_name {name}: expected a tokenizer in a local folder or on")
    assert "Check the spelling" in str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="expected a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_broken_tokenizer_file(tmp_path):
    folder = saved(styled(), tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match="expected a tokenizer"):
        load_tokenizer(folder)


def test_a_vocabulary_that_needs_a_package_that_is_not_there(tmp_path):
    """Mistral's Tekken file alone: transformers reads it with a package of Mistral's."""
    config = {"pattern": "x", "version": "v3", "num_vocab_tokens": 1, "default_vocab_size": 1}
    content = {"config": config | {"default_num_special_tokens": 0}, "vocab": []}
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected a tokenizer"):
        load_tokenizer(str(tmp_path))
