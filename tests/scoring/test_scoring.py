"""Scores of whole lists against plain transformers, one conversation at a time."""

import doctest
import json
import random
import shutil
from pathlib import Path

import datasets
import peft
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tiny_families import CHAT_TEMPLATES, TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
from reward_modeling.data.truncation import PromptCutter, TextCutter
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.tokenizer import leading_bos
from reward_modeling.objectives.bradley_terry import PairReader
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring import checkpoint as checkpoint_module
from reward_modeling.scoring import options as options_module
from reward_modeling.scoring import windows as windows_module
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

TOLERANCE = 1e-4  # a tenth of what is promised
WRONG = 1e-3  # what a mistake must move rewards by to be seen
ROWS = learnable_preferences(30, seed=3)
FAMILIES = {  # each with a trap
    "gemma": "gemma",  # BOS by template and tokenizer
    "gemma2": "gemma",  # soft cap
    "llama": "llama3",  # no pad token
    "qwen2": "chatml",  # EOS within the template, no BOS
    "mistral": "mistral",  # pad is EOS, and the template ends in it; a window shorter than a row
    "nemotron": "llama3",  # cannot be packed
    "gpt2": "chatml",  # nor does its class read rewards at given tokens; pad is EOS
}
PACKABLE = ["gemma", "gemma2", "llama", "qwen2", "mistral"]


def family_tokenizer(family: str):
    style = TOKENIZER_STYLES[FAMILIES[family]]
    if family in ("mistral", "gpt2"):
        style = style | {"pad": style["eos"]}
    return train_tokenizer((row["chosen"][-1]["content"] for row in ROWS), 400, **style)


def family_config(family: str, tokenizer):
    ids = token_ids(tokenizer)
    if family == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}
        return AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), num_labels=1, **sizes, **ids)
    if family == "nemotron":
        llama = tiny_config("llama", len(tokenizer)).to_dict()
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        sizes = {name: llama[name] for name in (*names, "initializer_range")}
        return AutoConfig.for_model("nemotron", vocab_size=len(tokenizer), num_labels=1, **sizes, **ids)
    return tiny_config(family, len(tokenizer), num_labels=1, **ids)


def save_reward_model(folder: Path, tokenizer, config) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of a family, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            tokenizer = family_tokenizer(family)
            path = tmp_path_factory.mktemp("reward_models") / family
            made[family] = save_reward_model(path, tokenizer, family_config(family, tokenizer))
        return made[family]

    return get


def copy_of(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy"))


def edit_config(path: Path, **changes) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def conversations() -> list[list[dict]]:
    """With duplicates, several turns and shared prompts, in a random order."""
    both = [row[side] for row in ROWS for side in ("chosen", "rejected")]
    random.Random(0).shuffle(both)
    assert any(len(messages) > 2 for messages in both)
    assert len({str(messages) for messages in both}) < len(both)
    return both


def template_ids(tokenizer, messages: list[dict]) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]


def plain_rewards(path: Path, rows: list[list[int]], dtype=torch.float32, **config) -> list[float]:
    """Rewards of token rows, each alone, in transformers: eager attention, the last token."""
    options = {"attn_implementation": "eager", "dtype": dtype}
    model = AutoModelForSequenceClassification.from_pretrained(path, **options).eval()
    # A single row has no padding; where pad is EOS, transformers would take a last EOS for it.
    model.config.pad_token_id = None
    for name, value in config.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits.item() for ids in rows]


@pytest.fixture(scope="module")
def reference(folder):
    """Plain rewards of `conversations()` by a family's checkpoint, computed once."""
    made: dict[str, list[float]] = {}

    def get(family: str) -> list[float]:
        if family not in made:
            tokenizer = AutoTokenizer.from_pretrained(folder(family))
            made[family] = plain_rewards(folder(family), [template_ids(tokenizer, c) for c in conversations()])
        return made[family]

    return get


def largest_difference(first: list[float], second: list[float]) -> float:
    assert len(first) == len(second)
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


# ----------------------------------------------------------------------------------------------------------
# The same rewards
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [1, 700, 1_000_000])
def test_rewards_are_those_of_plain_transformers(folder, reference, family, max_tokens):
    scorer = RewardScorer.from_pretrained(folder(family), max_tokens_per_batch=max_tokens)
    assert scorer.batches.batching == (SHARED_PREFIX if family in PACKABLE else PADDED)
    rewards = scorer.score(conversations())
    assert largest_difference(rewards, reference(family)) < TOLERANCE
    assert scorer.counts.passes == 1 or max_tokens < 1_000_000 or family == "gpt2"


@pytest.mark.parametrize("batching", [PACKED, PADDED])
@pytest.mark.parametrize("family", PACKABLE)
def test_every_batching_gives_the_same(folder, reference, family, batching):
    scorer = RewardScorer.from_pretrained(folder(family), batching=batching, max_tokens_per_batch=3000)
    assert largest_difference(scorer.score(conversations()), reference(family)) < TOLERANCE


def test_soft_cap_is_kept_by_a_model_that_cannot_be_packed(folder, reference, monkeypatch):
    """And a negative control: without it the rewards are others."""
    for module in (options_module, checkpoint_module):
        monkeypatch.setattr(module, "why_not_packed", lambda config: "a test says so")
    scorer = RewardScorer.from_pretrained(folder("gemma2"))
    assert scorer.batches.batching == PADDED
    assert scorer.model.config._attn_implementation == "eager"
    assert largest_difference(scorer.score(conversations()), reference("gemma2")) < TOLERANCE
    for layer in scorer.model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert largest_difference(scorer.score(conversations()), reference("gemma2")) > WRONG


def test_a_conversation_alone_is_scored_as_among_others(folder):
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    together = scorer.score(conversations())
    alone = [reward for messages in conversations()[:10] for reward in scorer.score([messages])]
    assert largest_difference(alone, together[:10]) < TOLERANCE
    assert scorer.score([]) == []


def test_negative_control_doubled_bos_and_an_earlier_token(folder, reference):
    """What the official scorer's users get wrong is far beyond the tolerance."""
    tokenizer = AutoTokenizer.from_pretrained(folder("gemma"))
    doubled = [tokenizer(tokenizer.apply_chat_template(c, tokenize=False))["input_ids"] for c in conversations()]
    assert all(ids[:2] == [tokenizer.bos_token_id] * 2 for ids in doubled)
    assert largest_difference(plain_rewards(folder("gemma"), doubled), reference("gemma")) > WRONG
    tokenizer = AutoTokenizer.from_pretrained(folder("mistral"))
    rows = [template_ids(tokenizer, messages) for messages in conversations()]
    assert all(ids[-1] == tokenizer.pad_token_id for ids in rows)
    earlier = plain_rewards(folder("mistral"), rows, pad_token_id=tokenizer.pad_token_id)
    assert largest_difference(earlier, reference("mistral")) > WRONG


def test_one_bos_where_only_the_tokenizer_writes_it(folder, tmp_path):
    """As in training: the text as the template writes it, tokenised as the tokenizer does it."""
    path = copy_of(folder("llama"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    tokenizer.save_pretrained(path)
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations()]
    rows = tokenizer(texts)["input_ids"]
    assert all(ids.count(tokenizer.bos_token_id) == 1 for ids in rows)
    rewards = RewardScorer.from_pretrained(path).score(conversations())
    assert largest_difference(rewards, plain_rewards(path, rows)) < TOLERANCE


def test_a_template_that_does_not_end_answers_is_left_as_it_is(folder, tmp_path):
    """Training adds EOS there, and saves it in the template; a checkpoint without it was trained without it."""
    path = copy_of(folder("qwen2"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATES["chatml"].replace("<|im_end|>", "")
    tokenizer.save_pretrained(path)
    rows = [template_ids(tokenizer, messages) for messages in conversations()]
    assert not any(tokenizer.eos_token_id in ids for ids in rows)
    rewards = RewardScorer.from_pretrained(path).score(conversations())
    assert largest_difference(rewards, plain_rewards(path, rows)) < TOLERANCE


def test_docstring_example(folder):
    """The proof in the docstring, run."""
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(RewardScorer, "RewardScorer", globs={"path": str(folder("gemma"))})
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0
    assert results.attempted > 8


# ----------------------------------------------------------------------------------------------------------
# bfloat16
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma", "gemma2", "llama", "mistral", "nemotron"])
def test_bfloat16_rewards_depend_on_the_batch_less_than_on_rounding(folder, reference, family):
    def scores(max_tokens: int, batching: str) -> torch.Tensor:
        options = {"dtype": "bfloat16", "max_tokens_per_batch": max_tokens, "batching": batching}
        return torch.tensor(RewardScorer.from_pretrained(folder(family), **options).score(conversations()))

    batchings = [SHARED_PREFIX, PACKED, PADDED] if family in PACKABLE else [PADDED]
    all_scores = torch.stack([scores(tokens, b) for b in batchings for tokens in (1, 700, 1_000_000)])
    spread = (all_scores.max(dim=0).values - all_scores.min(dim=0).values).max().item()
    rounding = (scores(1, PADDED) - torch.tensor(reference(family))).abs().max().item()
    print(f"bfloat16 {family}: spread over batches {spread:.4f}, rounding of rows alone {rounding:.4f}")
    assert 0 < rounding < 0.5
    assert spread <= rounding


def test_head_is_float32_and_as_it_was_saved_in_bfloat16(folder):
    scorer = RewardScorer.from_pretrained(folder("gemma"), dtype=torch.bfloat16)
    saved = load_file(folder("gemma") / "model.safetensors")["score.weight"]
    assert scorer.model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert torch.equal(scorer.model.score.weight, saved)
    assert not torch.equal(saved, saved.bfloat16().float())
    rewards = scorer.score(conversations())
    assert any(torch.tensor(reward).bfloat16().item() != reward for reward in rewards)


# ----------------------------------------------------------------------------------------------------------
# Computed once, in order, on any number of processes
# ----------------------------------------------------------------------------------------------------------


def test_equal_conversations_and_prompts_are_computed_once(folder):
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    both = conversations()
    rewards = scorer.score(both)
    distinct = {str(messages): reward for messages, reward in zip(both, rewards, strict=True)}
    assert scorer.counts.conversations == len(both)
    assert scorer.counts.scored == len(distinct)
    assert all(distinct[str(messages)] == reward for messages, reward in zip(both, rewards, strict=True))
    packed = RewardScorer.from_pretrained(folder("gemma"), batching=PACKED)
    packed.score(both)
    assert scorer.counts.tokens < packed.counts.tokens
    assert packed.counts.tokens == sum(len(template_ids(scorer.tokenizer, json.loads(c))) for c in _distinct(both))


def _distinct(both: list[list[dict]]) -> set[str]:
    return {json.dumps(messages) for messages in both}


def test_rm_bench_takes_at_least_four_and_a_half_times_fewer_tokens(folder):
    """Nine pairs from six answers, against padding eight rows in file order, chosen and rejected."""
    generator = random.Random(0)
    words = ROWS[0]["chosen"][-1]["content"].split()
    rows = []
    for _ in range(20):
        question = {"role": "user", "content": " ".join(generator.choices(words, k=120))}
        answers = [
            [question, {"role": "assistant", "content": " ".join(generator.choices(words, k=length))}]
            for length in (40, 80, 110) * 2
        ]
        rows += [side for chosen in answers[:3] for rejected in answers[3:] for side in (chosen, rejected)]
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    scorer.score(rows)
    lengths = [len(template_ids(scorer.tokenizer, messages)) for messages in rows]
    padded = sum(8 * max(lengths[start : start + 8]) for start in range(0, len(lengths), 8))
    assert padded / scorer.counts.tokens > 4.5


def test_padded_rows_of_like_length_go_together(folder):
    scorer = RewardScorer.from_pretrained(folder("nemotron"), max_tokens_per_batch=2000)
    scorer.score(conversations())
    rows = sum(len(template_ids(scorer.tokenizer, json.loads(c))) for c in _distinct(conversations()))
    assert scorer.counts.tokens < 1.05 * rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_work_and_give_the_same(folder, monkeypatch, num_processes, dtype):
    monkeypatch.setattr(windows_module, "WINDOW", 37)
    scorer = RewardScorer.from_pretrained(folder("gemma"), dtype=dtype)
    alone = list(scorer.stream(conversations()))
    assert [index for index, _ in alone] == list(range(len(conversations())))
    parts = []
    for process in range(num_processes):
        part = list(scorer.stream(iter(conversations()), process_index=process, num_processes=num_processes))
        assert part == sorted(part)
        assert len(part) > len(alone) / num_processes / 2
        assert scorer.counts.conversations == len(alone)
        parts += part
    assert sorted(parts) == alone  # bit for bit


def test_a_stream_reads_a_window_at_a_time(folder, reference, monkeypatch):
    monkeypatch.setattr(windows_module, "WINDOW", 20)
    read, done = [], []

    def lazily():
        for messages in conversations():
            read.append(messages)
            yield messages

    scorer = RewardScorer.from_pretrained(folder("gemma"))
    rewards = []
    for index, reward in scorer.stream(lazily(), progress=done.append):
        # a window goes on to the end of a prompt, to twice its size at most, and one more shows that it has ended
        assert len(read) <= index + 2 * 20 + 1
        rewards.append(reward)
    assert largest_difference(rewards, reference("gemma")) < TOLERANCE
    assert sum(done) == len(read) == len(conversations())


def test_scores_do_not_need_one_window(folder, reference, monkeypatch):
    monkeypatch.setattr(windows_module, "WINDOW", 5)
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    assert largest_difference(scorer.score(conversations(), progress=True), reference("gemma")) < TOLERANCE


# ----------------------------------------------------------------------------------------------------------
# Length
# ----------------------------------------------------------------------------------------------------------


def cut_together(tokenizer, longest: int) -> dict[str, list[int]]:
    """The tokens of `conversations()` as training cuts them, by their JSON: all answers of a prompt alike."""
    answers: dict[str, dict[str, list[dict]]] = {}
    for messages in conversations():
        answers.setdefault(json.dumps(messages[:-1]), {})[json.dumps(messages)] = messages[-1:]
    cut = {}
    for prompt, of_prompt in answers.items():
        whole = {key: template_ids(tokenizer, json.loads(key)) for key in of_prompt}
        if any(len(ids) > longest for ids in whole.values()):
            found = PromptCutter(json.loads(prompt), {}, longest, tokenizer).cut(list(of_prompt.values()))
            whole = dict(zip(of_prompt, found.ids, strict=True))
        cut |= whole
    return cut


@pytest.mark.parametrize("family", ["gemma", "qwen2"])
def test_longer_conversations_are_cut_by_their_prompts(folder, family, caplog):
    tokenizer = AutoTokenizer.from_pretrained(folder(family))
    rows = [template_ids(tokenizer, messages) for messages in conversations()]
    longest = sorted(map(len, rows))[2 * len(rows) // 3]
    cut = cut_together(tokenizer, longest)
    cut = [cut[json.dumps(messages)] for messages in conversations()]
    assert longest - 12 < max(map(len, cut)) <= longest
    scorer = RewardScorer.from_pretrained(folder(family), max_length=longest)
    rewards = scorer.score(conversations())
    assert largest_difference(rewards, plain_rewards(folder(family), cut)) < TOLERANCE
    assert scorer.counts.cut == sum(len(ids) > len(short) for ids, short in zip(rows, cut, strict=True)) > 0
    assert scorer.counts.cut_tokens == sum(map(len, rows)) - sum(map(len, cut))
    assert f"{scorer.counts.cut} of {len(rows)} conversations lost the beginning of their prompts" in caplog.text
    oldest = [ids if len(ids) <= longest else ids[:1] + ids[len(ids) - longest + 1 :] for ids in rows]
    assert largest_difference(rewards, plain_rewards(folder(family), oldest)) > WRONG  # a negative control


def odd_lengths(system: bool) -> list[dict]:
    """Pairs of three prompts with up to four turns, some prompts with several pairs, and one long question."""
    pairs = []
    for number in range(6):
        questions = [f"Question {place} of {number}: {ROWS[place]['chosen'][0]['content']}" for place in range(4)]
        turns = [
            {"role": role, "content": words}
            for question in questions[number % 3 :]
            for role, words in (("user", question), ("assistant", ROWS[number]["rejected"][-1]["content"][:80]))
        ][:-1]
        if number == 5:
            turns = [{"role": "user", "content": " ".join(questions * 3)}]
        head = [{"role": "system", "content": "Answer in one line."}] if system else []
        for place in range(1 + number % 2):
            sides = {side: ROWS[number + place][side][-1]["content"] for side in ("chosen", "rejected")}
            pairs.append({"prompt": head + turns, **sides})
    return pairs


MERGING = (
    "{{ bos_token }}{% for m in messages %}{% if loop.first or m.role != messages[loop.index0 - 1].role %}"
    "{{ '<start_of_turn>' + m.role + '\n' }}{% else %}{{ '\n' }}{% endif %}{{ m.content }}"
    "{% if loop.last or m.role != messages[loop.index0 + 1].role %}{{ '<end_of_turn>\n' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("family", "template", "system"),
    [
        ("gemma", None, False),
        ("gemma", "gemma3", True),
        ("gemma", MERGING, True),
        ("llama", None, True),
        ("qwen2", None, True),
        ("qwen2", "qwen25", False),
        ("llama", "mistral", False),
        ("qwen2", "texts", False),
        ("gemma", "texts", False),
    ],
)
def test_training_and_scoring_cut_alike(folder, family, template, system, tmp_path, monkeypatch):
    """The same reward for the same pair and max_length: that of the tokens that are trained on, in transformers."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = copy_of(folder(family), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if template not in (None, "texts"):
        tokenizer.chat_template = CHAT_TEMPLATES.get(template, template)
        tokenizer.save_pretrained(path)
    pairs = odd_lengths(system)
    if template == "texts":
        for pair in pairs:
            before = " ".join(message["content"] for message in pair.pop("prompt"))
            pair |= {side: f"{before} | {words}" for side, words in pair.items()}
    made = [standardise_row(pair, str(number)) for number, pair in enumerate(pairs)]
    rows = Dataset.from_list(made, features=STANDARD_FEATURES)
    longest = 240
    groups = tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(longest)).to_list()
    assert not any(group["dropped_reason"] for group in groups)
    assert sum(group["truncated_units"] for group in groups) > 4
    trained: dict[tuple[int, str], list[int]] = {}
    for group in groups:
        for where, unit in zip(group["where"], group["units"], strict=True):
            for side, number in zip(("chosen", "rejected"), unit, strict=True):
                trained[int(where), side] = group["prefix_ids"] + group["completion_ids"][number]
    scored = {
        key: pairs[key[0]][key[1]]
        if template == "texts"
        else [*pairs[key[0]]["prompt"], {"role": "assistant", "content": pairs[key[0]][key[1]]}]
        for key in trained
    }
    expected = plain_rewards(path, list(trained.values()))
    for batching in (PADDED, "auto"):
        scorer = RewardScorer.from_pretrained(path, max_length=longest, batching=batching)
        assert largest_difference(scorer.score(list(scored.values())), expected) < TOLERANCE
    # a negative control: each by itself without its oldest tokens, as it was once scored
    whole = [one.ids for one in RewardScorer.from_pretrained(path).tokenize(list(scored.values()))]
    bos = len(leading_bos(tokenizer))
    oldest = [ids[:bos] + ids[bos:][-(longest - bos) :] for ids in whole]
    assert largest_difference(plain_rewards(path, oldest), expected) > WRONG


def test_an_answer_that_is_too_long_alone_is_scored_all_the_same(folder):
    long = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "wait and wait " * 60}]
    short = [long[0], {"role": "assistant", "content": "wait"}]
    scorer = RewardScorer.from_pretrained(folder("gemma"), max_length=60)
    rewards = scorer.score([long, short])
    whole = template_ids(scorer.tokenizer, short)
    expected = plain_rewards(
        folder("gemma"), [TextCutter(60, scorer.tokenizer).cut(template_ids(scorer.tokenizer, long)), whole]
    )
    assert largest_difference(rewards, expected) < TOLERANCE
    assert scorer.counts.cut == 1


def test_max_length_is_the_context_unless_given(folder):
    assert RewardScorer.from_pretrained(folder("gemma")).reader.max_length == 1024
    for wrong in (1025, 1, 0):
        with pytest.raises(UserError, match=f"max_length: expected 2 to 1024.*found {wrong}"):
            RewardScorer.from_pretrained(folder("gemma"), max_length=wrong)


# ----------------------------------------------------------------------------------------------------------
# What is refused
# ----------------------------------------------------------------------------------------------------------


def test_language_model_is_refused(tmp_path):
    tokenizer = family_tokenizer("gemma")
    path = build_tiny_checkpoint(tmp_path, tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer)))
    with pytest.raises(UserError, match=r"found architectures.*GemmaForCausalLM.*train one with rm.py"):
        RewardScorer.from_pretrained(path)
    edit_config(path, architectures=["GemmaForSequenceClassification"], id2label={"0": "x"}, label2id={"x": 0})
    with pytest.raises(UserError, match=r"found no score.weight among its weights"):
        RewardScorer.from_pretrained(path)


def test_lost_head_is_refused(folder, tmp_path):
    path = copy_of(folder("nemotron"), tmp_path)
    weights = load_file(path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"found no score.weight among its weights"):
        RewardScorer.from_pretrained(path)


def test_several_labels_without_weights_are_refused(folder, tmp_path):
    path = edit_config(copy_of(folder("gemma"), tmp_path), id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(UserError, match=r"found 2 labels \(a, b\) and no reward_weights .* weights=\{\"a\": 1.0\}"):
        RewardScorer.from_pretrained(path)


def test_missing_template_and_unknown_path_are_refused(folder, tmp_path):
    path = copy_of(folder("gemma"), tmp_path)
    (path / "chat_template.jinja").unlink()
    scorer = RewardScorer.from_pretrained(path)  # for plain texts it is good enough
    with pytest.raises(UserError, match="chat template, found none"):
        scorer.score([[USER, ANSWER]])
    assert scorer.score(["a text"]) == RewardScorer.from_pretrained(folder("gemma")).score(["a text"])
    with pytest.raises(UserError, match="expected a model in a local folder or on the Hugging Face Hub") as caught:
        RewardScorer.from_pretrained(tmp_path / "nothing")
    assert "--model_name" not in str(caught.value)
    with pytest.raises(UserError, match="expected a model"):
        RewardScorer.from_pretrained("nobody/nothing-of-that-name")


def test_options_that_do_not_fit_are_refused(folder):
    with pytest.raises(UserError, match="dtype: expected float32, bfloat16 or float16, found 'int8'"):
        RewardScorer.from_pretrained(folder("gemma"), dtype="int8")
    assert RewardScorer.from_pretrained(folder("gemma"), dtype="bf16").dtype_name == "bfloat16"
    with pytest.raises(UserError, match=r"nemotron.*Pass 'padded' or 'auto'"):
        RewardScorer.from_pretrained(folder("nemotron"), batching=SHARED_PREFIX)
    with pytest.raises(UserError, match="batching: expected auto"):
        RewardScorer.from_pretrained(folder("gemma"), batching="fast")


@pytest.mark.parametrize("family", ["gemma", "qwen2", "gpt2"])
def test_plain_texts_are_scored_as_training_reads_them(folder, family):
    """One BOS where the tokenizer has one, EOS at the end once; what texts begin with is computed once."""
    scorer = RewardScorer.from_pretrained(folder(family))
    beginning = "There is a blue chair beside the window. " * 8
    texts = [beginning + end for end in ("We had soup.", "Tuesday.", "We had soup.", "")] + ["short"]
    texts.append(texts[0] + scorer.tokenizer.eos_token)  # the same text, ended already
    ids = [scorer.tokenizer(text.removesuffix(scorer.tokenizer.eos_token))["input_ids"] for text in texts]
    ids = [row + [scorer.tokenizer.eos_token_id] * (row[-1] != scorer.tokenizer.eos_token_id) for row in ids]
    rewards = scorer.score(texts)
    assert largest_difference(rewards, plain_rewards(folder(family), ids)) < TOLERANCE
    assert rewards[0] == rewards[2] == rewards[5]
    assert scorer.counts.scored == 4
    if family != "gpt2":
        assert scorer.counts.tokens < sum(len(row) for row in (ids[0], ids[1], ids[3], ids[4]))
    with pytest.raises(UserError, match=r"found one text. Pass \[text\]"):
        scorer.score("a text")


USER, ANSWER = {"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "conversation 2: expected at least one message, found none"),
        (" ", "conversation 2: expected a list of messages.*found str ' '"),
        ({"a": 1}, "conversation 2: expected a list of messages.*found dict"),
        ([USER, {"role": "assistant"}], "conversation 2, message 1: expected role and content as texts"),
        ([USER, {"role": "assistant", "content": None}], "conversation 2, message 1: expected role and content"),
        ([USER, USER, ANSWER], "conversation 2: the chat template refuses it.*alternate.*user, user, assistant"),
    ],
)
def test_wrong_conversations_are_named(folder, wrong, message):
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    rows = [[USER, ANSWER], [ANSWER | {"role": "user"}, ANSWER], wrong]
    with pytest.raises(UserError, match=message):
        scorer.score(rows)
    with pytest.raises(UserError, match=message):
        list(scorer.stream(rows))


def test_rewards_that_are_not_numbers_are_counted(folder, tmp_path, caplog):
    path = copy_of(folder("gemma"), tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["score.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    scorer = RewardScorer.from_pretrained(path)
    scorer.score([[USER, ANSWER]] * 2)
    assert scorer.counts.not_finite == 2
    assert "2 rewards are infinite or not a number" in caplog.text


# ----------------------------------------------------------------------------------------------------------
# Other ways to save a model
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sharded", "pytorch"])
def test_head_is_found_in_shards_and_in_pytorch_files(folder, reference, tmp_path, how):
    path = copy_of(folder("llama"), tmp_path)
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    if how == "sharded":
        names = sorted(weights)
        for number, part in enumerate((names[:3], names[3:])):
            save_file({name: weights[name] for name in part}, path / f"part-{number}.safetensors", {"format": "pt"})
        index = {name: f"part-{int(place >= 3)}.safetensors" for place, name in enumerate(names)}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    else:
        torch.save(weights, path / "pytorch_model.bin")
    assert largest_difference(RewardScorer.from_pretrained(path).score(conversations()), reference("llama")) < TOLERANCE


@pytest.fixture
def language_model(tmp_path) -> Path:
    tokenizer = family_tokenizer("gemma")
    config = tiny_config("gemma", len(tokenizer), **token_ids(tokenizer))
    return build_tiny_checkpoint(tmp_path / "language_model", tokenizer, config)


def save_adapter(base: Path, path: Path, task_type: str, auto_class) -> torch.nn.Module:
    model = auto_class.from_pretrained(base, num_labels=1)
    options = {"task_type": task_type, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = peft.get_peft_model(model, peft.LoraConfig(**options))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(base).save_pretrained(path)
    return model.eval()


def test_adapter_with_its_head(language_model, tmp_path):
    adapter = tmp_path / "adapter"
    model = save_adapter(language_model, adapter, "SEQ_CLS", AutoModelForSequenceClassification)
    scorer = RewardScorer.from_pretrained(adapter)
    assert scorer.batches.batching == SHARED_PREFIX
    with torch.no_grad():
        rows = [torch.tensor([template_ids(scorer.tokenizer, messages)]) for messages in conversations()]
        alone = [model(input_ids=ids).logits.item() for ids in rows]
    assert largest_difference(scorer.score(conversations()), alone) < TOLERANCE


def test_adapter_without_a_head_is_refused(language_model, tmp_path):
    from transformers import AutoModelForCausalLM

    save_adapter(language_model, tmp_path / "adapter", "CAUSAL_LM", AutoModelForCausalLM)
    with pytest.raises(UserError, match=r"an adapter without score.weight of the language model"):
        RewardScorer.from_pretrained(tmp_path / "adapter")
