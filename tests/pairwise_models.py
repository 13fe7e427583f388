"""Tiny pairwise models, and what plain transformers says of the comparisons that they read: the obvious reference.

The text is written out here once more, so that a change of ours would be seen.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.models.pairwise_format import pairwise_values
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

ROWS = learnable_preferences(24, seed=3)
STYLES = {  # each with a trap
    "gemma": "gemma",  # BOS by template and tokenizer
    "gemma2": "gemma",  # a window shorter than a row, soft cap
    "llama": "llama3",  # no pad token
    "qwen2": "chatml",  # no BOS
    "mistral": "mistral",  # pad is EOS, no generation prompt
    "nemotron": "llama3",  # cannot be packed
    "gpt2": "chatml",  # nor does its class read rewards at given tokens
}


def save_pairwise(folder: Path, family: str, *, entry: object = ...) -> Path:
    """A random pairwise model.

    Args:
        entry: "pairwise" of its config.json; None leaves it out.
    """
    style = TOKENIZER_STYLES[STYLES[family]]
    if family in ("mistral", "gpt2"):
        style = style | {"pad": style["eos"]}
    answers = [[row[side][-1]["content"] for side in ("chosen", "rejected")] for row in ROWS]
    texts = [pair_text(row["chosen"][:-1], *of_row) for row, of_row in zip(ROWS, answers, strict=True)]
    tokenizer = train_tokenizer(texts, 420, **style)
    config = _config(family, tokenizer)
    for name, value in pairwise_values().items() if entry is ... else ():
        setattr(config, name, value)
    if entry not in (..., None):
        config.pairwise = entry
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, tokenizer):
    ids = token_ids(tokenizer)
    if family == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}
        return AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), num_labels=1, **sizes, **ids)
    if family == "nemotron":
        llama = tiny_config("llama", len(tokenizer)).to_dict()
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        sizes = {name: llama[name] for name in (*names, "initializer_range")}
        return AutoConfig.for_model("nemotron", vocab_size=len(tokenizer), num_labels=1, **sizes, **ids)
    return tiny_config(family, len(tokenizer), num_labels=1, **ids)


def edit_config(path: Path, **changes: object) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def pair_text(prompt: Sequence[dict], a: str, b: str) -> str:
    """The message that a pairwise model reads, as its format's authors write it."""
    turns = "".join(f"\n<turn> {message['role']}\n {message['content']}" for message in prompt)
    return f"[CONTEXT] \n{turns}\n [RESPONSE A] {a} [RESPONSE B] {b} \n"


def take_out_the_liking(path: Path) -> Path:
    """Let the model's verdicts depend on the answers: a random one mostly likes the same place of all pairs.

    The head loses the part that reads what the last hidden states of all comparisons have in common.
    """
    plain = PlainPairs(path)
    rows = [[row["chosen"][:-1], *(row[side][-1]["content"] for side in ("chosen", "rejected"))] for row in ROWS]
    hidden = plain.hidden([plain.ids(*order) for p, a, b in rows for order in ((p, a, b), (p, b, a))]).mean(dim=0)
    weight = plain.model.score.weight.data
    weight -= (weight @ hidden)[:, None] * hidden / (hidden @ hidden)
    weight *= 1 / plain.logits([plain.ids(*row) for row in rows]).std()
    plain.model.save_pretrained(path)
    return path


class PlainPairs:
    """One padded batch in plain transformers: eager attention, the last token of each row, the head by hand."""

    def __init__(self, path: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        self.model = AutoModelForSequenceClassification.from_pretrained(path, **options).eval()

    def ids(self, prompt: Sequence[dict], a: str, b: str, *, ask: bool = True) -> list[int]:
        question = [{"role": "user", "content": pair_text(prompt, a, b)}]
        options = {"add_generation_prompt": ask, "tokenize": True, "return_dict": True}
        return self.tokenizer.apply_chat_template(question, **options)["input_ids"]

    def hidden(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """`(rows, hidden size)`: the last hidden state of each row's last token."""
        of_rows = [torch.tensor(ids) for ids in rows]
        ids = pad_sequence(of_rows, batch_first=True, padding_value=0)
        mask = pad_sequence([torch.ones_like(row) for row in of_rows], batch_first=True)
        with torch.no_grad():
            states = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in of_rows])]

    def logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """`(rows,)`"""
        with torch.no_grad():
            return self.model.score(self.hidden(rows))[:, 0]

    def orders(self, comparisons: Sequence[tuple[Sequence[dict], str, str]]) -> list[tuple[float, float]]:
        """Of each comparison the logit with `a` first, and that with `b` first."""
        rows = [ids for prompt, a, b in comparisons for ids in (self.ids(prompt, a, b), self.ids(prompt, b, a))]
        logits = self.logits(rows).tolist()
        return list(zip(logits[::2], logits[1::2], strict=True))
