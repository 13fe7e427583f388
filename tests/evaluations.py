"""Running eval_bench_mark.py in tests, and the rewards that plain transformers gives."""

import json
import sys
from pathlib import Path

import pytest
import torch
from runs import as_argv, without_pages
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import eval_bench_mark


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def flags(path: Path, files: dict[str, Path], tmp_path: Path, **changes: object) -> dict[str, object]:
    paths = {f"{name}_path": file for name, file in files.items()}
    record = tmp_path / "record.txt"
    return {"reward_name_or_path": path, "record_dir": record, "benchmarks": ",".join(files), **paths, **changes}


def evaluate(given: dict[str, object], *, pages: bool = False) -> Path:
    """In this process, without the report unless a test asks for its `pages`; returns the folder with the results."""
    run_evaluation(given, pages=pages)
    (folder,) = given["record_dir"].with_suffix("").iterdir()
    return folder


def run_evaluation(given: dict[str, object], *, pages: bool = False) -> None:
    """Where several models are evaluated, or into another folder."""
    with pytest.MonkeyPatch.context() as patch:
        if not pages:
            without_pages(patch)
        patch.setattr(sys, "argv", ["eval_bench_mark.py", *as_argv(given)])
        eval_bench_mark.main()


class PlainModel:
    """One conversation at a time in plain transformers: eager attention, the last token of the row."""

    def __init__(self, path: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.model.config.pad_token_id = None  # a single row has none, and a last EOS is a token like others

    def __call__(self, prompt: str | list[dict], answer: str) -> float:
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        conversation = [*before, {"role": "assistant", "content": answer}]
        ids = self.tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits.item()
