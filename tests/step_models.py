"""Process models of tiny families, chains of steps, and the probabilities that plain transformers gives these."""

import random
from pathlib import Path

import torch
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForTokenClassification

from reward_modeling.data.conversations import Tokens
from reward_modeling.models.tokenizer import set_up_for_encoder
from reward_modeling.tiny.tokenizers import token_ids

TEXTS = [
    "First add the two numbers to each other.",
    "The sum is 12, which is even.",
    "Then divide it by three.",
    "So the answer is 4.",
    "Nobody knows what comes next here.",
    "Multiply both sides by the same number, and subtract what is left.",
]
QUESTIONS = [f"What is {first} plus {second}, divided by three?" for first in (3, 5, 7) for second in (9, 11)]
FAMILIES = {  # each with a trap
    "gemma2": "gemma",  # BOS by template and tokenizer; soft cap, windows
    "llama": "llama3",  # no pad token
    "qwen2": "chatml",  # EOS within the template, no BOS
    "mistral": "mistral",  # SentencePiece's spaces; a window shorter than a row
    "gpt2": "chatml",  # its class gives the logits of all tokens
    "bert": "bert",  # an encoder: its tokens see the steps after them
}
PACKABLE = ["gemma2", "llama", "qwen2", "mistral"]
PROCESS = {"separator": "\n\n", "chat": True, "outcome": False, "aggregation": "min"}


def tokenizer_of(family: str):
    style = TOKENIZER_STYLES[FAMILIES[family]]
    tokenizer = train_tokenizer([*TEXTS, *QUESTIONS, "\n\n"], 400, **style)
    if family == "bert":
        set_up_for_encoder(tokenizer)
    return tokenizer


def process_of(family: str) -> dict:
    """An encoder's tokenizer knows no line breaks."""
    return {**PROCESS, "separator": "[SEP]"} if family == "bert" else PROCESS


def save_process_model(folder: Path, family: str = "qwen2", *, process: dict | None = PROCESS, **settings) -> Path:
    """As plain transformers saves it; `process` None leaves out what rm_process.py says of it."""
    tokenizer = tokenizer_of(family)
    ids = token_ids(tokenizer)
    if family == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}
        config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), **sizes, **ids)
    else:
        config = tiny_config(family, len(tokenizer), **ids)
    config.update({"num_labels": 2, **settings})
    config.id2label, config.label2id = {0: "wrong", 1: "right"}, {"wrong": 0, "right": 1}
    if process is not None:
        config.process = process
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
    # a head that is sure of something
    head = model.classifier if family in ("gpt2", "bert") else model.score
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head.weight.normal_(std=0.3)
        head.bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chains(count: int = 24, seed: int = 0) -> list[tuple[str, list[str]]]:
    """(prompt, steps) in a random order: some equal, some that go on from another, some that turn off half way."""
    draw = random.Random(seed)
    made = []
    for question in QUESTIONS[: max(1, count // 4)]:
        trunk = [draw.choice(TEXTS) for _ in range(5)]
        made += [
            (question, trunk),
            (question, trunk[:2]),
            (question, [*trunk[:3], *draw.sample(TEXTS, 2)]),
            (question, [*trunk[:1], *draw.sample(TEXTS, 1)]),
        ]
    made.append(made[0])
    draw.shuffle(made)
    return made


def plain_probabilities(path: Path, rows: list[Tokens], batch: int = 1) -> list[list[float]]:
    """P(right) where rows are read, in transformers: eager attention, rows padded on the right, `batch` at a time."""
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    model = AutoModelForTokenClassification.from_pretrained(path, **options).eval()
    found = []
    for start in range(0, len(rows), batch):
        of_batch = rows[start : start + batch]
        ids = [torch.tensor(list(row.ids)) for row in of_batch]
        inputs = pad_sequence(ids, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        with torch.no_grad():
            right = model(input_ids=inputs, attention_mask=mask).logits.softmax(dim=-1)[..., 1]
        found += [right[number, list(row.reads)].tolist() for number, row in enumerate(of_batch)]
    return found


def largest_difference(found: list[list[float]], expected: list[list[float]]) -> float:
    assert list(map(len, found)) == list(map(len, expected))
    pairs = zip(found, expected, strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
