"""gpu_throughput.py's scoring part: RewardScorer against padded passes of 8 and of 64 pairs, on rows as in RewardBench.

The rows are those of eval_throughput.py: subsets and lengths of RewardBench, in the order of the subsets. Seconds go
from conversations to rewards, chat template and tokenising included. All scorers use one model in memory.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from eval_throughput import SUBSETS, answers_of, generated, score_ours, score_pairs
from gpu_workloads import Shape, first_layer_alone, without_cudnn_where_it_fails
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.scoring.options import choose_max_tokens
from reward_modeling.scoring.plan import Batches
from reward_modeling.scoring.scorer import RewardScorer
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, train_tokenizer

PADDED_BATCHES = (8, 64)
VOCAB_SIZE = 8192
WARM_UP_ROWS = 64


class PaddedScorer:
    """What is scored together is padded to its longest text; the class's own forward, with its own attention."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def score(self, conversations: list) -> list[float]:
        texts = [self.tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
        inputs = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")  # BOS is there
        return self.model(**inputs.to(self.model.device)).logits[:, 0].tolist()


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """In bfloat16 on a GPU, as `RewardScorer.from_pretrained` loads it; its head in float32."""
    with torch.device(device):
        model = reward_model_class(type(shape.config))._from_config(
            shape.config,
            attn_implementation=SHARED_PREFIX,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
    model.score.float()
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def timed(score: Callable, scorer, rows: list[dict], **options) -> tuple[float, list]:
    score(scorer, rows[:WARM_UP_ROWS], **options)
    started = time.perf_counter()
    rewards = score(scorer, rows, **options)  # a list of numbers: the GPU has nothing left to do
    return time.perf_counter() - started, rewards


def score_rows(shape: Shape, num_rows: int, device: torch.device) -> dict[str, dict]:
    """Rows per second of each scorer, and how far its margins are from those of the padded one of 8."""
    rows = generated(SUBSETS, num_rows)
    texts = [text for row in rows[:: max(1, num_rows // 200)] for text in (row["prompt"], *answers_of(row))]
    tokenizer = train_tokenizer(
        texts, min(VOCAB_SIZE, shape.config.vocab_size), **TOKENIZER_STYLES["llama3"] | {"pad": "<pad>"}
    )
    torch.manual_seed(0)
    model = build_model(shape, tokenizer, device)
    max_tokens = choose_max_tokens(None, device)
    ours = RewardScorer(model, tokenizer, Batches(SHARED_PREFIX, max_tokens), max_length=4096)
    figures, margins = {}, {}
    seconds, rewards = timed(score_ours, ours, rows)
    figures["ours"] = {"seconds": seconds, "rows": num_rows, "tokens": ours.counts.tokens, "passes": ours.counts.passes}
    margins["ours"] = [chosen - rejected for chosen, rejected in rewards]
    model.set_attn_implementation("sdpa")
    padded = PaddedScorer(model, tokenizer)
    for batch in PADDED_BATCHES:
        name = f"padded, {batch} pairs"
        with first_layer_alone(model):
            without_cudnn_where_it_fails(partial(score_pairs, padded, rows, batch=batch))
        seconds, rewards = timed(score_pairs, padded, rows, batch=batch)
        cudnn = torch.backends.cuda.cudnn_sdp_enabled()
        figures[name] = {"seconds": seconds, "rows": num_rows, "cudnn_attention": cudnn}
        margins[name] = [chosen - rejected for chosen, rejected in rewards]
    reference = margins[f"padded, {PADDED_BATCHES[0]} pairs"]
    spread = statistics.pstdev(reference)
    for name, values in margins.items():
        off = [abs(a - b) for a, b in zip(values, reference, strict=True)]
        figures[name]["margins_off_by"] = statistics.fmean(off) / spread  # mean, in standard deviations of the margins
    return figures
