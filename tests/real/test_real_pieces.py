"""What pairwise and process models read, on published tokenizers and templates: the question, the steps, their ends."""

from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from real.published import PUBLISHED, tokenizer_folder
from transformers import AutoTokenizer

from reward_modeling.data.composing import composed_ids, tokenize_pieces
from reward_modeling.data.pair_texts import COMPARISON, check_opening
from reward_modeling.data.step_texts import StepComposer
from reward_modeling.models.comparison_head import answer_tokens
from reward_modeling.models.process_format import last_places
from reward_modeling.models.tokenizer import load_tokenizer, token_ids

DECODERS = {name: of for name, of in PUBLISHED.items() if of.refused != "chat template" and of.model_type != "bert"}
TEMPLATES = {file.stem: file for file in sorted(Path(__file__).parents[1].glob("chat_templates/*.jinja"))}
PAIRS = [
    ("How do I boil an egg?", "Seven minutes in boiling water.", "Eggs are boiled."),
    ("Wo liegt Paris?", "An der Seine,\n\nim Norden Frankreichs.", "パリはフランスの首都です。"),
    ("What is A + B?", "```python\nprint('A')\n```", "  B "),
]
STEPS = ["Let x = 3.", "So 2x = 6, and 6 - 1 = 5!", "Ответ: ", r"\boxed{5}", "四 \n"]
SEPARATORS = ["\n\n", "\n", " ки\n", "<extra_0>", ".", "###"]
PROMPT = [{"role": "user", "content": "What is 2x - 1 for x = 3?"}]


@pytest.fixture(params=DECODERS, ids=lambda name: name.replace(" ", "_").replace(",", ""))
def loaded(request, tmp_path):
    return request.param, load_tokenizer(str(tokenizer_folder(DECODERS[request.param], tmp_path / "tokenizer")))


def written_by_hand(question: str, first: str, second: str) -> str:
    """As RLHFlow's authors write it."""
    return f"[CONTEXT] \n\n<turn> user\n {question}\n [RESPONSE A] {first} [RESPONSE B] {second} \n"


def check_questions(tokenizer) -> int:
    """Both orders have the ids of the tokenizer's own template over a message that is written by hand, and these end
    where an answer begins; the number of rows."""
    rows = [(q, *order) for q, a, b in PAIRS for order in ((a, b), (b, a))]
    for question, first, second in rows:
        message = {"role": "user", "content": written_by_hand(question, first, second)}
        answers = [[{"role": "assistant", "content": text}] for text in (first, second)]
        pieces = COMPARISON.pieces([{"role": "user", "content": question}], answers, {}, tokenizer)
        (ids,) = composed_ids([pieces], tokenizer)
        asked = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
        assert ids == asked
        answered = [message, {"role": "assistant", "content": "A"}]
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
        begun = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        assert whole.startswith(begun)
        # Qwen3 writes an empty thought before every last answer
        behind = whole.removeprefix(begun).replace("<think>", "").replace("</think>", "")
        assert behind.strip().startswith("A"), behind
    return len(rows)


def test_a_question_is_what_the_template_writes_up_to_the_answer(loaded, seen):
    name, tokenizer = loaded
    check_opening(tokenizer)
    number = check_questions(tokenizer)
    first, second = answer_tokens(tokenizer)
    assert tokenizer.convert_ids_to_tokens([first, second]) in (["A", "B"], ["▁A", "▁B"])
    seen(f"{name}, questions", f"{number} rows are the template's own; A and B are tokens {first} and {second}")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_in_the_templates_of_the_tests(template, tmp_path, seen):
    """On SmolLM2's tokenizer, which writes their marks as it writes words."""
    folder = tokenizer_folder(PUBLISHED["smollm2"], tmp_path / "tokenizer")
    tokenizer = load_tokenizer(str(folder), str(TEMPLATES[template]))
    check_opening(tokenizer)
    seen(f"{template}.jinja, questions", f"{check_questions(tokenizer)} rows are the template's own")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_no_token_reaches_from_a_step_into_its_separator(loaded, separator, seen):
    """Wherever a piece ends, the tokens so far say the pieces so far, no more and no less."""
    name, tokenizer = loaded
    pieces = StepComposer(separator).pieces(PROMPT, STEPS, {}, tokenizer)
    (ids,) = tokenize_pieces([pieces], tokenizer)
    assert ids[0] == token_ids([pieces[0]], tokenizer)[0]
    flat = [token for piece in ids[1:] for token in piece]
    ends = list(accumulate(map(len, ids[1:])))
    texts = list(accumulate(pieces[1:]))
    for end, text in zip(ends, texts, strict=True):
        assert tokenizer.decode(flat[:end], clean_up_tokenization_spaces=False) == text
    assert all(one < other for one, other in pairwise([0, *ends]))
    read = [place - len(ids[0]) for place in last_places([len(piece) for piece in ids], separator)]
    assert read == [end - 1 for end in ends[1::2]]
    # a step has the same tokens whatever follows, and whatever the separator is
    alone = StepComposer(separator).pieces(PROMPT, STEPS[:2], {}, tokenizer)
    assert tokenize_pieces([alone], tokenizer)[0] == ids[: len(alone)]
    together = tokenizer(texts[-1], add_special_tokens=False)["input_ids"]
    merged = together != flat
    words = "other tokens than the whole answer at once" if merged else "the tokens of the whole answer at once"
    seen(f"{name}, steps behind {separator!r}", f"{len(STEPS)} steps, {words}")


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "deepseek_v3"])
def test_a_whole_answer_at_once_would_merge_them(name, tmp_path):
    """The negative control: a stop and a blank line, or a line break and the next one, are one token."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(DECODERS[name], tmp_path / "tokenizer"))
    step, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("So 4.", "So 4.\n\nThen 5."))
    line = tokenizer("So 4.\n", add_special_tokens=False)["input_ids"]
    assert whole[: len(step)] != step or whole[: len(line)] != line
