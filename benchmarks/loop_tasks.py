"""Tasks of best_of_n_loop.py whose truth a program checks, and a tiny policy for one of them."""

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import TEXTS
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

# Plain nouns, none of which is another with an s.
_NOUNS = """river lamp garden winter bridge piano cloud apple market train window kitchen forest letter mirror island
candle teacher ocean clock bread mountain horse guitar paper rabbit storm village bottle school basket dragon engine
feather hammer jacket ladder lemon needle orchard pencil pillow prince rocket saddle spider sugar temple ticket tiger
tower valley violin wagon wizard"""


@dataclass(frozen=True)
class Task:
    """`is_right(prompt, answer)` is asked of answers that the policy has ended by itself; the others are wrong."""

    prompts: Callable[[], list[str]]  # all there are, in a fixed order
    is_right: Callable[[str, str], bool]
    max_new_tokens: int


def two_words_prompts() -> list[str]:
    return [
        f'Write one short sentence with the words "{one}" and "{other}".'
        for one, other in itertools.combinations(_NOUNS.split(), 2)
    ]


def has_both_words(prompt: str, answer: str) -> bool:
    """In one line; a plural in s counts."""
    one_line = "\n" not in answer.strip()
    words = re.findall(r'"(\w+)"', prompt)
    return one_line and all(re.search(rf"\b{word}s?\b", answer, re.IGNORECASE) for word in words)


def questions() -> list[str]:
    parts = itertools.product(*(TEXTS[name] for name in ("openings", "tasks", "occasions")))
    return [f"{opening} {task} {occasion}?" for opening, task, occasion in parts]


def is_kind_and_offers_more(_prompt: str, answer: str) -> bool:
    return any(text in answer for text in TEXTS["kind"]) and any(text in answer for text in TEXTS["offer"])


TASKS = {
    "two_words": Task(two_words_prompts, has_both_words, 32),
    "kind": Task(questions, is_kind_and_offers_more, 40),
}


# --- the tiny policy, which says one kind or rude thing and offers more or not ---------------------------------------

TINY_STEPS, TINY_ROWS, TINY_RATE = 250, 32, 3e-3
IGNORED = -100


def build_tiny_policy(folder: Path, seed: int) -> None:
    """A Llama of two layers, trained from nothing on made-up answers, of which a quarter are right. Half a minute."""
    rng = random.Random(seed)
    rows = [(question, tiny_answer(rng)) for question in rng.sample(questions(), 1000)]
    texts = [text for row in rows for text in row]
    tokenizer = train_tokenizer(texts, 1024, **TOKENIZER_STYLES["llama3"])
    config = tiny_config("llama", len(tokenizer), initializer_range=0.02, **token_ids(tokenizer))
    untrained = build_tiny_checkpoint(folder.with_name("untrained"), tokenizer, config, seed)
    model = AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TINY_RATE)
    tokens = [conversation_tokens(tokenizer, question, answer) for question, answer in rows]
    for _ in range(TINY_STEPS):
        loss = language_loss(model, rng.sample(tokens, TINY_ROWS))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def tiny_answer(rng: random.Random) -> str:
    names = [rng.choice(("kind", "rude")), *rng.choice((("step",), ("vague",), ())), rng.choice(("offer", "dismissal"))]
    return " ".join(rng.choice(TEXTS[name]) for name in names)


def conversation_tokens(tokenizer, question: str, answer: str) -> tuple[list[int], int]:
    """All tokens, and how many are the prompt's."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    return tokenizer.apply_chat_template(messages, return_dict=False), len(prompt)


def language_loss(model, rows: list[tuple[list[int], int]]) -> torch.Tensor:
    """The mean over the tokens of the answers; padded to the right, where causal attention does not look."""
    longest = max(len(tokens) for tokens, _ in rows)
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows])
    labels = torch.full_like(ids, IGNORED)
    for row, (tokens, prompt) in enumerate(rows):
        labels[row, prompt : len(tokens)] = ids[row, prompt : len(tokens)]
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
