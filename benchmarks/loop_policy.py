"""What best_of_n_loop.py does with a policy: sample answers from it, and train it with TRL.

python benchmarks/loop_policy.py dpo --policy MODEL --rows pairs.jsonl --output FOLDER --steps 30 --rate 1e-5
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

ROWS = 128  # answers that are sampled at once
TRL_VERSION = "trl_version.txt"  # beside a trained model


class Policy:
    """A language model that answers, computed in bfloat16 unless told otherwise."""

    def __init__(self, folder: str | Path, dtype: str):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.ends = end_tokens(self.model, self.tokenizer)

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[str], answers: int, *, max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[list[tuple[str, bool]]]:
        """Of each prompt its answers, and whether the policy ended them by itself within `max_new_tokens`."""
        set_seed(seed)
        at_once = max(1, ROWS // answers)
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            tokens = self._sample(some, answers, max_new_tokens, temperature)
            texts = [self._text(row) for row in tokens.tolist()]
            yield from (texts[start : start + answers] for start in range(0, len(texts), answers))

    def _sample(self, prompts: Sequence[str], answers: int, max_new_tokens: int, temperature: float) -> torch.Tensor:
        """`(prompts * answers, new tokens)`; a prompt is computed once for all its answers."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        # Shown by the attention mask and not by the token: SmolLM2 has one token for padding and for the end.
        pad = {"pad_token": self.tokenizer.pad_token or self.tokenizer.eos_token}
        self.tokenizer.add_special_tokens(pad)
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        begun = self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            logits_to_keep=1,
            use_cache=True,  # TRL's trainers save that there is none
        )
        cache = begun.past_key_values
        cache.batch_repeat_interleave(answers)
        made = self.model.generate(
            ids.repeat_interleave(answers, dim=0),
            attention_mask=mask.repeat_interleave(answers, dim=0),
            past_key_values=cache,
            use_cache=True,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return made[:, ids.shape[1] :]

    def _text(self, tokens: list[int]) -> tuple[str, bool]:
        """Up to the first token that ends a turn: what follows it is padding."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip(), end is not None


def end_tokens(model, tokenizer) -> set[int]:
    """Those that the model names, and the one that the chat template writes behind an answer."""
    named = model.generation_config.eos_token_id
    ends = set(named if isinstance(named, list) else [named]) - {None}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    after = tokenizer(whole[whole.rindex("b") + 1 :].strip(), add_special_tokens=False)["input_ids"]
    return ends | set(after[:1])


def train(arguments: argparse.Namespace) -> None:
    """A few steps of TRL's trainer with its defaults but for what a CPU needs, and the model that comes out."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    config, trainer = {"dpo": (DPOConfig, DPOTrainer), "sft": (SFTConfig, SFTTrainer)}[arguments.how]
    own = {"beta": arguments.beta, "precompute_ref_log_probs": True} if arguments.how == "dpo" else {}
    options = config(
        output_dir=arguments.output,
        max_steps=arguments.steps,
        learning_rate=arguments.rate,
        per_device_train_batch_size=arguments.rows_per_step,
        max_length=256,
        warmup_steps=0.1,
        bf16=arguments.bf16,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=arguments.seed,
        **own,
    )
    rows = load_dataset("json", data_files=str(arguments.rows), split="train")
    tokenizer = AutoTokenizer.from_pretrained(arguments.policy)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(arguments.policy, dtype=torch.float32)
    run = trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
    run.train()
    run.save_model(arguments.output)
    Path(arguments.output, TRL_VERSION).write_text(version("trl"))
    run.save_state()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("dpo", "sft"))
    parser.add_argument("--policy", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--rows_per_step", type=int, default=16)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
