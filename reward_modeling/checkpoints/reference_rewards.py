"""Rewards of a saved model as anybody reads them: by transformers (and peft, for an adapter), without this project.

`checkpoints/verification.py` starts it in a process of its own; by hand:

    echo '{"rows": [[2, 5, 7], [2, 9]]}' \
        | python -P reward_modeling/checkpoints/reference_rewards.py models/gemma2b_rm/last_checkpoint rewards.json
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

FIRST_CALLS = ("cos", "sin", "exp", "erf", "log", "log1p", "sqrt", "tanh")


def choose_device(model: PreTrainedModel) -> str:
    """The GPU where it has room: the training process may still fill it."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * size else "cpu"


def warm_up_mkl() -> None:
    """As in common/devices.py: what several threads call first together may be inaccurate (pytorch/pytorch#188792)."""
    for name in FIRST_CALLS:
        getattr(torch, name)(torch.full((1,), 0.5))


def class_of(path: str, options: dict) -> type:
    """By what its config.json says: a token classifier reads a token of each row, any other model whole rows."""
    architectures = AutoConfig.from_pretrained(path, **options).architectures or [""]
    is_of_tokens = architectures[0].endswith("ForTokenClassification")
    return AutoModelForTokenClassification if is_of_tokens else AutoModelForSequenceClassification


def load_model(
    folder: str, tokenizer: PreTrainedTokenizerBase, load_in_4bit: bool, num_labels: int, options: dict
) -> tuple:
    """A checkpoint, or the adapter in a folder on the model that it names; and the names of missing weights."""
    if not Path(folder, "adapter_config.json").is_file():
        model, info = class_of(folder, options).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options
        )
        return model, sorted(info["missing_keys"])
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(folder)
    if load_in_4bit:
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=config.modules_to_save,
        )
        options = options | {"quantization_config": four_bits, "device_map": {"": "cuda"}}
    is_of_tokens = config.task_type == "TOKEN_CLS"
    auto_class = AutoModelForTokenClassification if is_of_tokens else AutoModelForSequenceClassification
    model = auto_class.from_pretrained(
        config.base_model_name_or_path, revision=config.revision, num_labels=num_labels, dtype=torch.float32, **options
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id  # that of the model under the adapter may be another, or none
    model = PeftModel.from_pretrained(model, folder)
    saved = load_peft_weights(folder, device="cpu")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    return model, sorted(expected.keys() - saved.keys())


def reference_rewards(
    folder: str,
    rows: list[list[int]],
    rounded_by: str | None = None,
    dtype: str = "float32",
    load_in_4bit: bool = False,
    num_labels: int = 1,
    reads: list[list[int]] | None = None,
    progress: str | None = None,
    **options,
) -> dict:
    """Outputs of token id rows, padded together by the checkpoint's own tokenizer and each row alone.

    All outputs of a row stand together, then those of the next row. Of a token classifier these are the outputs at the
    tokens of the row that `reads` has, one after the other; no two rows are alike.

    They are computed in float32. With `rounded_by`, the padded rows are scored once more in `dtype`, which shows how
    far that moves this model's rewards: "autocast" keeps float32 weights, "weights" converts the whole model. The file
    `progress` grows by a byte for each row that is scored.

    Returns:
        `padded`, `alone` and, with `rounded_by`, `rounded`: one reward per row. `padded` is None where the tokenizer
        has no pad token, which every model of this project has. `missing_weights`: names that the checkpoint has
        nothing for; `device` and `model_class`.
    """
    warm_up_mkl()
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model, missing = load_model(folder, tokenizer, load_in_4bit, num_labels, options)
    device = "cuda" if load_in_4bit else choose_device(model)
    model.to(device).eval()

    def places_of(row: list[int], width: int) -> list[int]:
        first = width - len(row) if tokenizer.padding_side == "left" else 0
        return [first + place for place in reads[rows.index(row)]]

    @torch.no_grad()
    def score(batch: list[list[int]]) -> list[float]:
        if tokenizer.pad_token is None:
            inputs = {"input_ids": torch.tensor(batch, device=device)}
        else:
            inputs = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(device)
        logits = model(**inputs).logits.float()
        if reads is not None:  # (rows, tokens, labels)
            logits = torch.cat([of_row[places_of(row, len(of_row))] for of_row, row in zip(logits, batch, strict=True)])
        if progress is not None:
            with Path(progress).open("ab") as file:
                file.write(b"." * len(batch))
        return logits.flatten().tolist()

    answer = {
        "padded": None if tokenizer.pad_token is None else score(rows),
        "alone": [reward for row in rows for reward in score([row])],
        "missing_weights": missing,
        "device": device,
        "model_class": type(model).__name__,
    }
    if rounded_by is not None:
        if rounded_by == "weights":
            model.to(getattr(torch, dtype))
        with torch.autocast(device, getattr(torch, dtype), enabled=rounded_by == "autocast"):
            answer["rounded"] = score(rows)
    return answer


def main() -> None:
    folder, result = sys.argv[1:]
    try:
        answer = reference_rewards(folder, **json.load(sys.stdin))
    except Exception as error:  # the caller gets the message without having to find it in a traceback
        Path(result).write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}), encoding="utf-8")
        raise
    Path(result).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
