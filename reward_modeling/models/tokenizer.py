"""A tokenizer that is fit to score with: a pad token that is not EOS, and a template that ends its answers.

An encoder's tokenizer has no template: it gets the one that reward models on encoders are usually trained with.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from reward_modeling.common.errors import HUB_ERRORS, UserError, first_line
from reward_modeling.common.file_names import LAST_CHECKPOINT
from reward_modeling.models.chat_template import set_chat_template

logger = logging.getLogger(__name__)

# Tokens that published vocabularies hold for padding, or for nothing at all, in order of preference.
PAD_CANDIDATES = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|finetune_right_pad_id|>",
    "<|endoftext|>",
    "<|dummy_0|>",
    "<|reserved_special_token_0|>",
    "<unused0>",
)
NEW_PAD_TOKEN = "<pad>"
ANSWER = "answer"
# The function of transformers that gives a template the date, and its format.
DATE_CALL = r"""strftime_now\(\s*["']([^"']+)["']\s*\)"""
TEMPLATE_DATE = date(2024, 7, 26)  # Llama-3.2's own, where its template is given none
# Of an encoder: the texts of all messages, with the marks that the tokenizer itself puts around texts.
ENCODER_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"


def load_tokenizer(model_name: str, chat_template: str | None = None, **hub_options) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or a folder, with a pad token that is not EOS and right padding.

    Args:
        chat_template: the file of a chat template to take in the place of its own.

    Raises:
        UserError: nothing is found there, the tokenizer has no fast implementation, or the template cannot be read.
    """
    tokenizer = read_tokenizer(model_name, **hub_options)
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
        # transformers makes an empty tokenizer of the model's type where a folder has none
        raise UserError(
            f"--model_name {model_name}: expected a tokenizer (tokenizer.json), found a vocabulary of "
            f"{len(tokenizer)} special tokens alone. Copy the tokenizer's files beside the model."
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"--model_name {model_name}: expected a fast tokenizer (tokenizer.json), found "
            f"{type(tokenizer).__name__}. Convert it with transformers' convert_slow_tokenizer and save it."
        )
    tokenizer.padding_side = "right"
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    if is_for_encoder(tokenizer):
        set_up_for_encoder(tokenizer)
    set_pad_token(tokenizer)
    if tokenizer.chat_template is not None:
        fix_date(tokenizer)
        begin_with_bos(tokenizer)
        end_answers(tokenizer)
    return tokenizer


def read_tokenizer(model_name: str, **options) -> PreTrainedTokenizerBase:
    """The tokenizer as it is; a UserError where nothing is found."""
    try:
        return AutoTokenizer.from_pretrained(model_name, **options)
    except (*HUB_ERRORS, KeyError, TypeError, ImportError) as error:
        # A broken tokenizer.json raises the middle ones, and a vocabulary that a missing package would read the last.
        raise not_found(model_name, "a tokenizer", error) from error


def not_found(model_name: str, what: str, error: Exception) -> UserError:
    """One message for a model that is neither here nor to be had."""
    if Path(model_name, LAST_CHECKPOINT).is_dir():
        return UserError(
            f"--model_name {model_name}: expected {what}, found the output folder of a run. Its model is in "
            f"{Path(model_name, LAST_CHECKPOINT)}."
        )
    return UserError(
        f"--model_name {model_name}: expected {what} in a local folder or on the Hugging Face Hub, and could not "
        f"load one ({type(error).__name__}: {first_line(error)}).\n"
        "Check the spelling; for a gated model run `hf auth login`; without a connection pass a local folder."
    )


def is_for_encoder(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether plain texts stand between CLS and SEP, as in BERT."""
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        return False
    ids = tokenizer("a")["input_ids"]
    return (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def set_up_for_encoder(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let it write conversations: CLS, then every message ended in SEP.

    Of a question and its answer these are the tokens of a pair of texts, though all in one segment.
    """
    name_encoder_marks(tokenizer)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = ENCODER_TEMPLATE
        logger.warning(
            "Chat template: the tokenizer has none; now %r stands first, then every message, ended in %r.",
            *(tokenizer.bos_token, tokenizer.eos_token),
        )


def name_encoder_marks(tokenizer: PreTrainedTokenizerBase) -> None:
    """Call CLS and SEP also BOS and EOS, as RoBERTa and DeBERTa do.

    So CLS, where an encoder's score is read, is put in front of plain texts and is never cut, and SEP ends them.
    """
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token


def set_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a pad token that is neither EOS nor what ends an answer.

    The reward is read at the last token that is not pad: with pad = EOS that is a token inside the text. An
    existing token that no text uses is taken first; only then a new one is added, and the model's embeddings
    have to grow (`loading.load_reward_model` does it).
    """
    end = answer_ending(tokenizer) if tokenizer.chat_template is not None else []
    ends_answers, is_eos = tokenizer.pad_token_id in end, tokenizer.pad_token_id == tokenizer.eos_token_id
    if tokenizer.pad_token_id is not None and not is_eos and not ends_answers:
        return
    what = "EOS" if is_eos else "what the template ends an answer with"
    found = "none" if tokenizer.pad_token_id is None else f"{tokenizer.pad_token!r}, which is {what}"
    vocabulary = tokenizer.get_vocab()
    in_use = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token, *tokenizer.convert_ids_to_tokens(end)}
    for candidate in PAD_CANDIDATES:
        if candidate in vocabulary and candidate not in in_use and candidate not in str(tokenizer.chat_template):
            tokenizer.pad_token = candidate
            break
    else:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD_TOKEN})
    logger.warning("Pad token: the tokenizer has %s; now it is %r.", found, tokenizer.pad_token)


def answer_ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that the template writes after an assistant's message; [] if it writes nothing there."""
    ending = _render_exchange(tokenizer).rpartition(ANSWER)[2]
    return tokenizer(ending, add_special_tokens=False)["input_ids"]


def _render_exchange(tokenizer: PreTrainedTokenizerBase) -> str:
    """One question with one answer; a UserError where the template refuses even that."""
    conversation = [{"role": "user", "content": "question"}, {"role": "assistant", "content": ANSWER}]
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False)
    except TemplateError as error:
        raise UserError(
            "The chat template was expected to render one user message and one assistant message, and refuses: "
            f"{error}. Give the tokenizer a template for conversations (tokenizer.chat_template)."
        ) from error


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that no text merges with."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def fix_date(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a template that writes today's date write `TEMPLATE_DATE`, as Llama-3.2's does where it knows no date.

    The same conversation would have other tokens, and another reward, on the next day; and a resumed run, or one that
    finds its tokens in the cache, those of an earlier one.
    """
    before = tokenizer.chat_template
    edit_template(tokenizer, partial(re.sub, DATE_CALL, lambda call: repr(TEMPLATE_DATE.strftime(call[1]))))
    if tokenizer.chat_template != before:
        logger.warning("Chat template: it writes today's date; %s is now written there.", TEMPLATE_DATE.isoformat())


def begin_with_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the template write BOS where plain texts begin with it and the template leaves it to the tokenizer.

    A row is trained on with BOS either way. But those who render a conversation with the saved template tokenise it
    without special tokens, as servers do and transformers says: their rows would have none, and other rewards.
    """
    bos = tokenizer.bos_token
    if not leading_bos(tokenizer) or _render_exchange(tokenizer).startswith(bos):
        return
    edit_template(tokenizer, lambda template: "{{ bos_token }}" + template)
    logger.warning("Chat template: it does not begin with BOS; %r is now written there.", bos)


def edit_template(tokenizer: PreTrainedTokenizerBase, edit: Callable[[str], str]) -> None:
    """Of several templates with names, the one for plain conversations."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = template | {"default": edit(template["default"])}
    else:
        tokenizer.chat_template = edit(template)


def end_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the template end an answer in EOS where it does not end it in any special token.

    Without an end there is no token that says "this answer is complete", and the reward is read at whatever
    word comes last. The change is made in the template, so it is saved and every later user has it.
    """
    if special_ids(tokenizer) & set(answer_ending(tokenizer)) or tokenizer.eos_token is None:
        return
    ending = "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    edit_template(tokenizer, lambda template: template + ending)
    logger.warning("Chat template: it does not end an answer; %r is now written there.", tokenizer.eos_token)


def no_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"chat template: the rows are conversations and the tokenizer of {tokenizer.name_or_path} has none. "
        "Take the instruction-tuned checkpoint, or pass a template of your own: --chat_template FILE.jinja."
    )


def refuse_plain_texts(count: int, flag: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: there are plain texts, and the tokenizer has a chat template of its own: they would be scored without
            it, where all who use the model would render conversations with it.
    """
    if count and tokenizer.chat_template not in (None, ENCODER_TEMPLATE):
        raise UserError(
            f"{flag}: expected conversations, because the tokenizer has a chat template, found {count:,} plain texts "
            "(no prompt, and chosen and rejected are texts). They would be scored as they stand, without the template: "
            "no turn of a user's, no mark of who speaks. If the question is in another column, pass --columns "
            "prompt=NAME; if the texts are whole as they are, pass --plain_text true."
        )


def end_text(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A plain text with EOS at its end, once."""
    eos = tokenizer.eos_token or ""
    return text if text.endswith(eos) else text + eos


def leading_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos_token_id] if the tokenizer itself starts a text with it, else []."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokens of rendered texts: exactly one BOS in front where the tokenizer puts one there, whoever wrote it."""
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    bos = leading_bos(tokenizer)
    return [ids if not bos or ids[:1] == bos else bos + ids for ids in rows]


def cut_oldest(ids: Sequence[int], count: int, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """The tokens without the `count` oldest ones; BOS stays."""
    kept = 1 if len(ids) and ids[0] == tokenizer.bos_token_id else 0
    return ids[:kept] + ids[kept + count :]
