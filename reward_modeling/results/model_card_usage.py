"""How to use a saved reward model, as its card says it. The Python of these texts is run by a test."""

import json

from reward_modeling.results.run import Results

CONVERSATION = """\
conversation = [
    {"role": "user", "content": "How do I brew green tea?"},
    {"role": "assistant", "content": "Heat the water to eighty degrees, and let it draw for two minutes."},
]"""
TEXT = """\
conversation = "A whole text, with its prompt and its answer, as in the training data."
"""

TRANSFORMERS = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

{conversation}
tokenizer = AutoTokenizer.from_pretrained({quoted})
model = AutoModelForSequenceClassification.from_pretrained({quoted}, dtype="auto").eval()
{inputs}
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()"""

PEFT = """\
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

{conversation}
tokenizer = AutoTokenizer.from_pretrained({quoted})
model = AutoPeftModelForSequenceClassification.from_pretrained({quoted}, num_labels=1).eval()
model.config.pad_token_id = tokenizer.pad_token_id  # that of the model under the adapter may be EOS, or none
{inputs}
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()"""

PIPELINE = """\
from transformers import pipeline

{conversation}
score = pipeline("text-classification", model={quoted})
{text}
reward = score(text, {options}function_to_apply="none")[0]["score"]"""

SCORER = """\
from reward_modeling.scoring import RewardScorer

{conversation}
scorer = RewardScorer.from_pretrained({quoted})
reward = scorer.score([conversation])[0]"""

TRL = """\
from reward_modeling.scoring import RewardScorer

scorer = RewardScorer.from_pretrained({quoted})


def reward_function(prompts, completions, **kwargs):
    return scorer.score([prompt + completion for prompt, completion in zip(prompts, completions)])


# trainer = GRPOTrainer(..., reward_funcs=reward_function)"""

BY_NAME = """
Prompts and completions are lists of messages there. Given `reward_funcs={quoted}`, TRL loads the model by itself.
Neither was run under TRL where this card was written."""

INPUTS = 'inputs = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)'
INPUTS_OF_TEXT = 'inputs = tokenizer(conversation + tokenizer.eos_token, return_tensors="pt")'

SERVERS = """\
### Served

None of these servers was run where this card was written. `config.json` carries what they ask for: the class, one
label, the pad token, and `"problem_type": "regression"`, which keeps rewards out of a sigmoid.

vLLM, which takes any `*ForSequenceClassification`; the reward is `data[0].probs[0]` of the answer:

```sh
vllm serve {name} --runner pooling
curl http://localhost:8000/classify -H "Content-Type: application/json" -d '{{"model": "{name}",
  "messages": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}],
  "use_activation": false}}'
```

SGLang, which names Llama, Gemma-2, Qwen2 and Qwen3 among its classifiers (this one is a `{class_name}`). Send token
ids: a text that the chat template has rendered would get a second BOS. The reward is `embedding[0]` of the answer:

```sh
python -m sglang.launch_server --model-path {name} --is-embedding --port 30000
curl http://localhost:30000/classify -H "Content-Type: application/json" -d '{{"input_ids": [[2, 106, 1645]]}}'
```

text-embeddings-inference serves classifiers of encoders (BERT, RoBERTa, ModernBERT and others); those of decoders such
as Gemma, Llama, Mistral or Qwen its version 1.9 refuses. It writes the outer marks by itself, so send what the chat
template renders without the first `[CLS]` and the last `[SEP]` (or what the tokenizer calls them): with them, or as a
pair of texts, a conversation gets another reward. The reward is `score` of the answer:

```sh
text-embeddings-router --model-id {name} --port 8080
curl http://localhost:8080/predict -H "Content-Type: application/json" -d '{{"inputs": "question[SEP]answer",
  "raw_scores": true}}'
```"""

OF_AN_ADAPTER = """\
`pipeline` and servers want a whole model, which `python -m reward_modeling.scoring.merge_adapter {name} NEW_FOLDER`
makes."""


def usage(results: Results, *, name: str, adapter: bool) -> str:
    """The section of a card that says how to use the model.

    Args:
        results: of the run; of conversations or of plain texts.
        name: Hub id or folder.
        adapter: whether there is an adapter, and not a whole model.
    """
    texts = not results.conversations
    parts = {
        "name": name,
        "quoted": json.dumps(name, ensure_ascii=False),
        "class_name": results.run["class"],
        "conversation": TEXT if texts else CONVERSATION,
        "inputs": INPUTS_OF_TEXT if texts else INPUTS,
        "options": "" if texts else "add_special_tokens=False, ",
        "text": "text = conversation + score.tokenizer.eos_token"
        if texts
        else "text = score.tokenizer.apply_chat_template(conversation, tokenize=False)",
    }
    sections = [
        "## Use",
        "The reward is the raw logit at the last token. The chat template writes BOS where the model wants one: add no "
        "special tokens to what it has rendered.",
        _python("transformers", PEFT if adapter else TRANSFORMERS, parts),
        OF_AN_ADAPTER.format(**parts) if adapter else _python("`pipeline`", PIPELINE, parts),
        _python("With the toolkit that trained it, in batches that compute each prompt once", SCORER, parts),
    ]
    if not texts:
        sections.append(_python("As a reward function of TRL", TRL, parts) + "\n" + BY_NAME.format(**parts))
    if results.statistics is not None:
        sections.append(_statistics(adapter))
    return "\n\n".join(sections + ([] if adapter else [SERVERS.format(**parts)]))


def _python(title: str, code: str, parts: dict[str, str]) -> str:
    return f"### {title}\n\n```python\n{code.format(**parts)}\n```"


def _statistics(adapter: bool) -> str:
    where = "`reward_statistics.json`" if adapter else "`config.json`"
    return (
        f"`reward_mean` and `reward_std` in {where} are those of the held-out rewards. Nothing applies them unasked; "
        "`RewardScorer.from_pretrained(..., normalize=True)` subtracts the one and divides by the other."
    )
