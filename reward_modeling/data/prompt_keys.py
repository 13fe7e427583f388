"""Prompts that are the same to the model have equal keys: ids in messages change nothing, nor does the order of keys.

`preferences` computes `prompt_key` from a row's JSON, without a tokenizer. Here it is computed anew, from what the
template writes before an answer, so that no prompt is held out under one spelling and trained on under another.
"""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.keys import mix_keys, text_key
from reward_modeling.data.preferences import read_column
from reward_modeling.data.rendering import TemplateRefuses, read_options, render_prompt

CACHE_VERSION = 1  # to be raised when a prompt gets another key than before
PROMPTS_PER_WORKER = 4000  # a worker process costs about as much as rendering this many


def key_by_template(rows: Dataset, tokenizer: PreTrainedTokenizerBase, num_proc: int = 1) -> Dataset:
    """The rows with `prompt_key` computed from what the template renders of their prompts; plain texts keep theirs.

    Every distinct prompt is rendered once, in parallel; the keys are cached on disk.
    """
    is_conversation = pc.and_(pc.equal(read_column(rows, "reason"), ""), pc.invert(read_column(rows, "is_text")))
    conversations = np.flatnonzero(is_conversation.to_numpy())
    if not len(conversations):
        return rows
    keys = read_column(rows, "prompt_key").to_numpy().copy()
    options = read_column(rows, "template_options").combine_chunks().dictionary_encode().indices.to_numpy()
    spellings = keys ^ mix_keys(options.astype(np.int64), seed=0).view(np.int64)
    _, first, inverse = np.unique(spellings[conversations], return_index=True, return_inverse=True)
    fingerprint = datasets.fingerprint.Hasher.hash(
        [CACHE_VERSION, rows._fingerprint, tokenizer.chat_template, tokenizer.special_tokens_map]
    )
    keys[conversations] = _keys_of(rows.select(conversations[first]), tokenizer, num_proc, fingerprint)[inverse]
    others = rows.remove_columns("prompt_key")
    return others.add_column("prompt_key", keys, new_fingerprint=f"keyed-{fingerprint}")


def _keys_of(
    prompts: Dataset, tokenizer: PreTrainedTokenizerBase, num_proc: int, fingerprint: str
) -> NDArray[np.int64]:
    cache_folder = Path(datasets.config.HF_DATASETS_CACHE) / "reward_modeling"
    cache_folder.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(num_proc, len(prompts) // PROMPTS_PER_WORKER))
    prompts = prompts.select_columns(["prompt", "template_options", "prompt_key"])
    keyed = prompts.map(
        _key_batch,
        batched=True,
        remove_columns=prompts.column_names,
        features=Features({"key": Value("int64")}),
        fn_kwargs={"tokenizer": tokenizer},
        num_proc=workers if workers > 1 else None,
        cache_file_name=str(cache_folder / f"prompts-{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc="Comparing prompts",
    )
    return read_column(keyed, "key").to_numpy()


def _key_batch(batch: dict[str, list], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    rows = zip(batch["prompt"], batch["template_options"], batch["prompt_key"], strict=True)
    return {"key": [_key(*row, tokenizer) for row in rows]}


def _key(prompt: str, template_options: str, key: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Of the messages without white space around them, which some templates trim; `key` where they are refused."""
    messages = json.loads(prompt)
    for message in messages:
        if isinstance(message.get("content"), str):
            message["content"] = message["content"].strip()
    try:
        return text_key(render_prompt(messages, read_options(template_options), tokenizer))
    except TemplateRefuses:
        return key
