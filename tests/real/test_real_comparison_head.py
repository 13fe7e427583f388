"""A published language model as a pairwise model, before training: what it says of A and B, with its own tokenizer."""

import pytest
import torch
from real.published import SMOLLM2, smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward_modeling.data.pair_texts import COMPARISON, check_opening
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.comparison_head import comparison_head
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.tokenizer import load_tokenizer

PAIRS = [
    ("How do I boil an egg?", "Seven minutes in boiling water.", "Eggs are boiled."),
    ("What is 3 + 4?", "7", "About nine, I'd say."),
    ("Wo liegt Paris?", "An der Seine, im Norden Frankreichs.", "パリはフランスの首都です。"),
]


def test_it_is_the_softmax_over_a_and_b(seen):
    """Within 1e-5, in float32, tied embeddings; without the generation prompt, the negative control, it is not."""
    folder = str(smollm2())
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    check_opening(tokenizer)
    model = load_reward_model(
        folder, config, tokenizer, initial_head=lambda: comparison_head(folder, config, tokenizer)
    ).eval()
    assert config.tie_word_embeddings
    plain, own = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    tokens = [own.encode(word, add_special_tokens=False)[0] for word in ("A", "B")]
    largest, without = 0.0, 0.0
    for question, *answers in PAIRS:
        for first, second in (answers, answers[::-1]):
            prompt, said = (
                [{"role": "user", "content": question}],
                [[{"role": "assistant", "content": a}] for a in (first, second)],
            )
            ids = own("".join(COMPARISON.pieces(prompt, said, {}, tokenizer)), add_special_tokens=False)["input_ids"]
            text = f"[CONTEXT] \n\n<turn> user\n {question}\n [RESPONSE A] {first} [RESPONSE B] {second} \n"
            messages = [{"role": "user", "content": text}]
            assert ids == own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            with torch.no_grad():
                probability = torch.sigmoid(model(torch.tensor([ids])).logits[0, 0]).item()
                expected = plain(torch.tensor([ids])).logits[0, -1, tokens].softmax(dim=0)[0].item()
                shorter = own.apply_chat_template(messages, return_dict=False)
                other = plain(torch.tensor([shorter])).logits[0, -1, tokens].softmax(dim=0)[0].item()
            largest, without = max(largest, abs(probability - expected)), max(without, abs(probability - other))
    assert largest < 1e-5 and without > 1e-2
    seen(f"{SMOLLM2}, as a pairwise model", f"P(A) within {largest:.0e} of the language model's before training")
    assert probability == pytest.approx(expected, abs=1e-5)
