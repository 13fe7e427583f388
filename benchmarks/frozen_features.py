"""The mixture of objectives' first stage: features of answers, and ridge regression at 500,000 of them.

ridge   Generated features on disk, labels of ArmoRM's 19 objectives: seven sources of its sizes, each of which rates
        its own objectives and no others. With --missing a share of these ratings is left out too, so that no two
        objectives rate the same answers. Then what `rm_regression.py --freeze_backbone true` does with them: a fit of
        every objective, and outputs of all answers, which are debiased. Each hidden size in a process of its own,
        whose peak of resident memory is what the kernel says (VmHWM).
pass    A small Llama over prompts with four answers: one shared-prefix pass against transformers one row at a time.

    python benchmarks/frozen_features.py ridge --hidden_sizes 1024 2048 --folder /tmp
    python benchmarks/frozen_features.py pass
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

# Answers of ArmoRM's sources, in thousands (from memory of its description), and the objectives that each rates.
SOURCES = (
    (35, range(0, 5)),  # HelpSteer
    (240, range(5, 10)),  # UltraFeedback
    (30, range(10, 11)),  # BeaverTails
    (200, range(11, 12)),  # Prometheus
    (14, range(12, 13)),  # Argilla-Capybara
    (13, range(13, 14)),  # Argilla-OpenOrca
    (50, range(14, 19)),  # CodeUltraFeedback
)
OBJECTIVES, VERBOSITY = 19, 4
NOISE = 0.5  # of a label, where the objective has a standard deviation of 1
SIGNALS = 64  # directions of the features that objectives are made of; the others are noise
BLOCK = 10_000  # answers that are generated at once
LLAMA = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": 8192, "pad_token_id": 0,
}  # fmt: skip
PROMPTS, PROMPT_TOKENS, ANSWERS_EACH, ANSWER_TOKENS = 200, (40, 300), 4, (20, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ridge", "pass", "fit_once"])
    parser.add_argument("--answers", type=int, default=500_000)
    parser.add_argument("--hidden_sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--missing", type=float, default=0.0, help="share of a source's own ratings that are missing")
    parser.add_argument("--folder", type=Path, help="where features are written, 4 bytes x hidden size each")
    args = parser.parse_args()
    if args.what == "pass":
        print(json.dumps(time_pass(), indent=2))
    elif args.what == "fit_once":
        print(json.dumps(fit_once(args.folder)))
    else:
        for hidden in args.hidden_sizes:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                write_features(Path(folder), args.answers, hidden, args.missing)
                command = [sys.executable, __file__, "fit_once", "--folder", folder]
                process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                about = {"answers": args.answers, "hidden_size": hidden, "missing": args.missing}
                print(json.dumps(about | json.loads(process.stdout), indent=2), flush=True)


# --- ridge --------------------------------------------------------------------------------------------------------


def write_features(folder: Path, answers: int, hidden: int, missing: float) -> None:
    """answers.npy, labels.npy (NaN where not rated), prompt_of.npy (two answers each) and lengths.npy."""
    rng = np.random.default_rng(0)
    mixing = (rng.normal(size=(SIGNALS, hidden)) / np.sqrt(SIGNALS)).astype(np.float32)
    weights = (rng.normal(size=(OBJECTIVES, SIGNALS)) / np.sqrt(SIGNALS)).astype(np.float32)
    weights[:VERBOSITY] += 0.6 * weights[VERBOSITY]  # what is wordy is called helpful
    labels = np.full((answers, OBJECTIVES), np.nan, dtype=np.float32)
    lengths = np.zeros(answers, dtype=np.int64)
    sizes = np.array([size for size, _ in SOURCES])
    source = rng.choice(len(SOURCES), size=(answers + 1) // 2, p=sizes / sizes.sum()).repeat(2)[:answers]
    rated = np.array([[place in of for place in range(OBJECTIVES)] for _, of in SOURCES])
    with (folder / "answers.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (answers, hidden)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, answers, BLOCK):
            rows = slice(first, min(answers, first + BLOCK))
            count = rows.stop - first
            signals = rng.standard_normal((count, SIGNALS), dtype=np.float32)
            block = signals @ mixing + 0.3 * rng.standard_normal((count, hidden), dtype=np.float32)
            block.astype(np.float32, copy=False).tofile(file)
            outputs = signals @ weights.T
            known = rated[source[rows]] & (rng.random(outputs.shape) >= missing)
            labels[rows] = np.where(known, outputs + NOISE * rng.standard_normal(outputs.shape), np.nan)
            lengths[rows] = np.exp(5 + 0.5 * outputs[:, VERBOSITY])
    np.save(folder / "labels.npy", labels)
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "prompt_of.npy", np.arange(answers) // 2)


def fit_once(folder: Path) -> dict[str, float]:
    """Seconds of each part, and the peak of this process's memory."""
    from reward_modeling.frozen_backbone.features import blocks_of
    from reward_modeling.frozen_backbone.ridge import fit_ridge, predict
    from reward_modeling.frozen_backbone.verbosity import debias

    figures = {"mib_before": peak_mib()}

    labels, prompt_of, lengths = (np.load(folder / f"{name}.npy") for name in ("labels", "prompt_of", "lengths"))

    def blocks():
        return blocks_of(np.load(folder / "answers.npy", mmap_mode="r"), np.arange(len(labels)))

    started = time.perf_counter()
    fit = fit_ridge(blocks, labels, prompt_of, seed=0)
    figures["fit_s"] = round(time.perf_counter() - started, 1)
    started = time.perf_counter()
    outputs = predict(blocks(), fit.weights)
    figures["predict_s"] = round(time.perf_counter() - started, 1)
    started = time.perf_counter()
    debiasing = debias(outputs, VERBOSITY, lengths, prompts=prompt_of)
    figures["debias_s"] = round(time.perf_counter() - started, 1)
    return figures | {
        "peak_gib": round(peak_mib() / 1024, 2),
        "rated": int((~np.isnan(labels)).sum()),
        "share_explained": round(float(1 - (fit.errors.min(axis=1) / fit.error_of_mean).mean()), 3),
        "length_correlation": [round(of[0]["value"], 3) for of in (debiasing.before, debiasing.after)],
    }


def peak_mib() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(fields["VmHWM"].split()[0]) / 1024)


# --- the pass -----------------------------------------------------------------------------------------------------


def time_pass() -> dict[str, float]:
    """Tokens of whole rows a second: a shared prompt counts once for each of its answers, on both sides."""
    import torch
    from transformers import AutoModel, LlamaConfig

    from reward_modeling.frozen_backbone.feature_cache import cached_features
    from reward_modeling.frozen_backbone.feature_pass import FeaturePass
    from reward_modeling.models.attention import register_shared_prefix_attention
    from reward_modeling.models.reward_model import reward_model_class

    register_shared_prefix_attention()
    torch.manual_seed(0)
    config = LlamaConfig(**LLAMA, num_labels=1)
    model = reward_model_class(LlamaConfig)._from_config(config, attn_implementation="shared_prefix").eval()
    plain = AutoModel.from_config(LlamaConfig(**LLAMA)).eval()
    plain.load_state_dict(model.model.state_dict())
    groups = generated_groups()
    rows = [group["prefix_ids"] + ids for group in groups.groups for ids in group["completion_ids"]]
    tokens = sum(map(len, rows))
    with tempfile.TemporaryDirectory() as cache:
        how = FeaturePass("shared_prefix", 0, 1024)
        started = time.perf_counter()
        features = cached_features(groups, model, how, Path(cache), ("rating",))
        seconds = time.perf_counter() - started
        answers = features.answers(np.arange(len(features)))
    started = time.perf_counter()
    with torch.inference_mode():
        alone = np.stack([plain(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in rows])
    seconds_alone = time.perf_counter() - started
    return {
        "rows": len(rows),
        "row_tokens": tokens,
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_second_row_by_row": round(tokens / seconds_alone),
        "times_as_fast": round(seconds_alone / seconds, 2),
        "largest_difference": float(np.abs(answers - alone).max()),
        "cpus": os.cpu_count(),
    }


def generated_groups():
    """Prompts with four answers each, in the form of prepared data."""
    from datasets import Dataset

    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.prompt_groups import GROUP_FEATURES

    rng = np.random.default_rng(0)
    rows = []
    for number in range(PROMPTS):
        prefix = rng.integers(3, LLAMA["vocab_size"], rng.integers(*PROMPT_TOKENS)).tolist()
        answers = [
            rng.integers(3, LLAMA["vocab_size"], rng.integers(*ANSWER_TOKENS)).tolist() for _ in range(ANSWERS_EACH)
        ]
        nothing = {name: [] for name in GROUP_FEATURES if name.startswith(("dropped", "noted"))}
        rows.append(
            nothing
            | {
                "prefix_ids": prefix,
                "completion_ids": answers,
                "prefix_length": len(prefix),
                "completion_lengths": list(map(len, answers)),
                "shared_lengths": [0] * ANSWERS_EACH,
                "characters": list(map(len, answers)),
                "read_positions": [[len(prefix) - 1, len(prefix) + len(ids) - 1] for ids in answers],
                "units": [[place] for place in range(ANSWERS_EACH)],
                "targets": [[0.5]] * ANSWERS_EACH,
                "weights": [1.0] * ANSWERS_EACH,
                "shares": [1.0] * ANSWERS_EACH,
                "sources": [None] * ANSWERS_EACH,
                "where": [f"{number}"] * ANSWERS_EACH,
                "truncated_units": 0,
                "unknown_tokens": [0] * ANSWERS_EACH,
            }
        )
    return PromptGroups(Dataset.from_list(rows, features=GROUP_FEATURES))


if __name__ == "__main__":
    main()
