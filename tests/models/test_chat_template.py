"""--chat_template: a template of the user's own, and files that are none."""

import pytest
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from transformers import AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.models.chat_template import fingerprint_of_template, set_chat_template
from reward_modeling.models.tokenizer import load_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(["question answer"], 300, **TOKENIZER_STYLES["gemma"]).save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_the_template_is_used_and_saved(folder, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)
    tokenizer = load_tokenizer(folder, str(file))
    assert tokenizer.chat_template == TEMPLATE
    assert fingerprint_of_template(tokenizer) != fingerprint_of_template(load_tokenizer(folder))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == TEMPLATE


@pytest.mark.parametrize(
    "text,words",
    [
        (None, r"none.jinja: expected a readable jinja file, found none \(No such file"),
        ("{% for m in messages %}\n{{ m.content }}\n{% endfo %}", r"own.jinja:3: expected a jinja template, .* parse"),
        ("{{ messages[9].content }}", "own.jinja: expected a template that writes a question and its answer"),
        ("{{ raise_exception('never') }}", r"fails on them \(TemplateError: never\)"),
        ("google/gemma-2b-it", "found no {{ }} or {% %} in it"),
    ],
)
def test_a_file_that_is_no_template(folder, tmp_path, text, words):
    file = tmp_path / ("none.jinja" if text is None else "own.jinja")
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        set_chat_template(AutoTokenizer.from_pretrained(folder), file)
    assert str(error.value).startswith(f"--chat_template {file}")
