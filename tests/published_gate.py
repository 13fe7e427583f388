"""ArmoRM's class, written by hand after its published description, to hold our readers and writers against.

It shares nothing with `reward_modeling.models.gated_model`: it computes a row at a time, finds the gate's place by
looking for the tokens of the pattern, and the last token by the pad token, as the description says.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoModel

LLAMA3, GEMMA2 = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<end_of_turn>\n<start_of_turn>model\n"


class PublishedModel:
    """Reads a folder in the published layout.

    Args:
        pattern: the tokens between a question and its answer.
    """

    def __init__(self, folder: Path, pattern: list[int]):
        self.config = json.loads((folder / "config.json").read_text())
        self.pattern = pattern
        weights = load_file(folder / "model.safetensors")
        self.weights = {name: weights.pop(name) for name in list(weights) if not name.startswith("model.")}
        config = AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        self.model = AutoModel.from_config(config, dtype=torch.float32).eval()
        self.model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})

    def expected_names(self) -> set[str]:
        layers = range(self.config["gating_n_hidden"] + 1)
        of_gate = {f"gating.layers.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        return {"regression_layer.weight", "reward_transform_matrix", "gating.logit_scale"} | of_gate

    def find_pattern(self, ids: list[int]) -> int:
        for start in range(len(ids) - len(self.pattern), -1, -1):
            if ids[start : start + len(self.pattern)] == self.pattern:
                return start
        raise ValueError("Token pattern not found in the list.")

    @torch.no_grad()
    def __call__(self, ids: list[int]) -> dict[str, torch.Tensor]:
        pad = self.config["pad_token_id"]
        hidden = self.model(torch.tensor([ids])).last_hidden_state[0]
        length = len(ids)
        while pad is not None and ids[length - 1] == pad:
            length -= 1
        hidden_state, prompt_embedding = hidden[length - 1], hidden[self.find_pattern(ids)]
        rewards = self.weights["regression_layer.weight"] @ hidden_state
        x = prompt_embedding
        last = self.config["gating_n_hidden"]
        for number in range(last + 1):
            x = functional.linear(
                x, self.weights[f"gating.layers.{number}.weight"], self.weights[f"gating.layers.{number}.bias"]
            )
            x = functional.relu(x) if number < last else x
        gating = torch.softmax(x / self.config["gating_temperature"], dim=0) * self.weights["gating.logit_scale"][0]
        score = (gating * (rewards @ self.weights["reward_transform_matrix"])).sum()
        found = {"rewards": rewards, "gating_output": gating, "score": score, "logits": score}
        return found | {"hidden_state": hidden_state, "prompt_embedding": prompt_embedding}


def write_published_folder(folder: Path, tokenizer, config, *, objectives: int, seed: int = 0, **settings) -> Path:
    """A random model in the published layout, by the names of the description: none of our model classes is used.

    Rewards are about as large as those of ratings that were scaled to 0..1.
    """
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    settings = {"gating_temperature": 10, "gating_hidden_dim": 32, "gating_n_hidden": 3} | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = AutoModel.from_config(config, dtype=torch.float32)
    weights = {f"model.{name}": weight for name, weight in decoder.state_dict().items()}

    def draw(*shape: int, deviation: float = 0.5) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * deviation

    hidden = config.hidden_size
    weights |= {
        "regression_layer.weight": draw(objectives, hidden, deviation=0.05),
        "gating.logit_scale": torch.tensor([1.7]),
    }
    matrix = torch.eye(objectives)
    matrix[objectives // 2] -= torch.rand(objectives, generator=generator)
    weights["reward_transform_matrix"] = matrix
    sizes = [hidden, *[settings["gating_hidden_dim"]] * settings["gating_n_hidden"], objectives]
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        weights[f"gating.layers.{number}.weight"] = draw(after, before)
        weights[f"gating.layers.{number}.bias"] = draw(after)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    family = {"llama": "Llama", "gemma2": "Gemma2", "gemma": "Gemma", "qwen2": "Qwen2"}[config.model_type]
    name = f"{family}ForRewardModelWithGating"
    written = config.to_dict() | settings
    written |= {"architectures": [name], "num_objectives": objectives, "id2label": {"0": "LABEL_0"}}
    written |= {"label2id": {"LABEL_0": 0}, "dtype": "float32"}
    written |= {"auto_map": {"AutoModelForSequenceClassification": f"modeling_custom.{name}"}}
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "modeling_custom.py").write_text("raise RuntimeError('code of a repository was run')\n")
    tokenizer.save_pretrained(folder)
    return folder
