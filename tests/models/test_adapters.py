"""LoRA: what is trained and saved, on every engine; merged checkpoints; what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from engines import EVERY_ENGINE, run_engine
from evaluations import evaluate, flags, read_lines
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification
from runs import Run, plain_rewards, run_snippets, train, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.merge_adapter import merge_adapter, merge_in_another_process
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer
from reward_modeling.training import job

STEPS = 6
# ZeRO-2 holds whole weights as DDP does, and its optimizer as ZeRO-3 does.
ENGINES = [parameter for parameter in EVERY_ENGINE if parameter.values[0] != "zero2"]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(40, seed=5)


@pytest.fixture(scope="module")
def llama(rows, tmp_path_factory) -> str:
    """Without a pad token: the embeddings grow, beside an adapter that leaves them out."""
    tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **TOKENIZER_STYLES["llama3"])
    folder = tmp_path_factory.mktemp("models") / "llama"
    build_tiny_checkpoint(folder, tokenizer, tiny_config("llama", len(tokenizer), **token_ids(tokenizer)))
    return str(folder)


@pytest.fixture(scope="module")
def base(llama, rows, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": llama,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "use_peft": "true",
        "lora_r": 8,
        "max_length": 256,
        "max_steps": STEPS,
        "pairs_per_step": 8,
        "learning_rate": 1e-2,
        "eval_size": 10,
        "logging_steps": 1,
        "save_every_steps": 3,
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    verified = {"verify_saved_model": "true", "merge_adapter": "true"}
    return train(base | verified, tmp_path_factory.mktemp("alone") / "output")


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("engines")

    class Runs(dict):
        def __missing__(self, engine: str) -> Run:
            run_engine(engine, base | {"verify_saved_model": "true"}, folder / engine / "output")
            self[engine] = Run(folder / engine / "output")
            return self[engine]

    return Runs()


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "adapter_model.safetensors")


# --- what is trained ----------------------------------------------------------------------------------------


def test_the_adapter_and_the_head_are_trained_and_saved_and_nothing_else(base, alone, tmp_path):
    untrained = train(base | {"learning_rate": 0.0, "weight_decay": 0.0}, tmp_path / "output")
    saved, before = adapter_of(alone), adapter_of(untrained)
    layers = 2 * ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(saved) == 2 * len(layers) + 1  # A and B of each, and the head
    assert saved["base_model.model.score.weight"].shape == (1, 64)
    changed = {name for name, weight in saved.items() if not torch.equal(weight, before[name])}
    assert changed == set(saved)
    weights = alone.trainer.model.get_base_model().state_dict()
    pretrained = load_file(f"{base['model_name']}/model.safetensors")
    for name in pretrained:
        if name.startswith("model.layers."):
            kept = name.replace("_proj.weight", "_proj.base_layer.weight")
            assert torch.equal(weights[kept], pretrained[name]), name


def test_named_layers_alone(base, tmp_path):
    run = train(base | {"lora_target_modules": "q_proj, v_proj", "max_steps": 1}, tmp_path / "output")
    names = {name.split(".")[-3] for name in adapter_of(run) if "lora" in name}
    assert names == {"q_proj", "v_proj"}


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": "false"}, {"batching": "padded"}])
def test_checkpointing_and_packing_change_nothing(changes, base, alone, tmp_path):
    """Frozen embeddings, as everybody knows, are where checkpointed adapters lose their gradients."""
    run = train(base | changes, tmp_path / "output")
    assert run.losses() == pytest.approx(alone.losses(), abs=1e-5)
    for name, weight in adapter_of(alone).items():
        assert torch.allclose(adapter_of(run)[name], weight, atol=1e-3), name  # AdamW divides small by small


def test_bfloat16_weights_under_a_float32_adapter(base, tmp_path):
    given = base | {"model_dtype": "bfloat16", "bf16": "true", "max_steps": 2}
    run = train(given, tmp_path / "output", merge_adapter="true", verify_saved_model="true")
    assert {weight.dtype for weight in adapter_of(run).values()} == {torch.float32}
    for folder in ("last_checkpoint", "merged_checkpoint"):
        assert json.loads((run.output / folder / "verification.json").read_text())["passed"]


# --- what is saved ------------------------------------------------------------------------------------------


def test_merged_and_adapter_score_alike(alone, rows, llama):
    """In plain transformers, in peft, by our scorer and in memory; not what the model scores without the adapter."""
    conversations = [row[side] for row in rows[:6] for side in ("chosen", "rejected")]
    merged = plain_rewards(alone.output / "merged_checkpoint", conversations, together=True)
    scored = RewardScorer.from_pretrained(str(alone.model)).score(conversations)
    assert scored == pytest.approx(merged, abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(alone.model)
    model = AutoPeftModelForSequenceClassification.from_pretrained(alone.model, num_labels=1).eval()
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    inputs = [tokenizer(text, add_special_tokens=False, return_tensors="pt") for text in texts]
    with torch.no_grad():
        by_peft = [model(**row).logits.item() for row in inputs]
        with model.disable_adapter():
            without = [model(**row).logits.item() for row in inputs]
    assert by_peft == pytest.approx(merged, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(without, merged, strict=True)) > 0.1
    assert not (alone.output / "merged_checkpoint" / "adapter_config.json").exists()
    assert json.loads((alone.output / "merged_checkpoint" / "config.json").read_text())["pad_token_id"] is not None


def test_the_benchmark_takes_the_adapter_as_it_is(alone, rows, tmp_path):
    pairs = write_rows(tmp_path / "pairs.jsonl", rows[:20])
    scores = []
    for name in ("last_checkpoint", "merged_checkpoint"):
        (tmp_path / name).mkdir()
        folder = evaluate(flags(alone.output / name, {"pairs": pairs}, tmp_path / name))
        lines = read_lines(folder / "scores.jsonl")
        scores.append([line[side] for line in lines for side in ("chosen_reward", "rejected_reward")])
    assert len(scores[0]) == 40
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_an_adapter_carries_the_statistics_of_its_rewards(alone, rows, tmp_path):
    """In a file of its own, and in the config of whatever it is merged into, now or later."""
    merged, by_hand = alone.output / "merged_checkpoint", tmp_path / "by_hand"
    evaluation = json.loads((alone.output / "evaluation.json").read_text())
    expected = {name: evaluation[name] for name in ("reward_mean", "reward_std")}
    assert json.loads((alone.model / "reward_statistics.json").read_text()) == expected
    merge_adapter(alone.model, by_hand)
    for folder in (merged, by_hand):
        config = json.loads((folder / "config.json").read_text())
        assert {name: config[name] for name in expected} == expected
    conversations = [row["chosen"] for row in rows[:4]]
    raw = RewardScorer.from_pretrained(alone.model).score(conversations)
    wanted = [(reward - expected["reward_mean"]) / expected["reward_std"] for reward in raw]
    for folder in (alone.model, merged):
        assert RewardScorer.from_pretrained(folder, normalize=True).score(conversations) == pytest.approx(
            wanted, abs=1e-3
        )


def test_the_cards_of_an_adapter_and_of_what_it_is_merged_into(alone):
    conversation = run_snippets(alone.model / "README.md")[0]["conversation"]
    (expected,) = plain_rewards(alone.output / "merged_checkpoint", [conversation], together=False)
    for folder, library, names in ((alone.model, "peft", 3), (alone.output / "merged_checkpoint", "transformers", 4)):
        card = ModelCard.load(folder / "README.md")
        assert card.data.to_dict()["library_name"] == library
        found = run_snippets(folder / "README.md")
        assert len(found) == names
        rewards = [namespace["reward"] for namespace in found if "reward" in namespace]
        assert rewards == pytest.approx([expected] * (names - 1), abs=1e-3)
        contents = json.loads((folder / "contents.json").read_text())
        assert "README.md" in contents and all(
            (folder / name).stat().st_size == entry["bytes"] for name, entry in contents.items()
        )
        figures = f"of its {sum(weight.numel() for weight in alone.trainer.model.parameters()):,} weights were trained"
        assert figures in (folder / "README.md").read_text()


def test_the_card_of_an_adapter_on_a_model_that_pads_with_eos(base, rows, tmp_path):
    """In peft the model comes with its own pad token: a row that ends in it was read somewhere before its end."""
    style = TOKENIZER_STYLES["llama3"] | {"pad": TOKENIZER_STYLES["llama3"]["eos"]}
    tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **style)
    config = tiny_config("llama", len(tokenizer), **token_ids(tokenizer))
    folder = build_tiny_checkpoint(tmp_path / "llama", tokenizer, config)
    assert config.pad_token_id == config.eos_token_id
    run = train(base | {"model_name": folder, "merge_adapter": "true", "max_steps": 1}, tmp_path / "output")
    found = run_snippets(run.model / "README.md")
    conversation = found[0]["conversation"]
    rewards = [namespace["reward"] for namespace in found if "reward" in namespace]
    assert len(rewards) == 2
    expected = plain_rewards(run.output / "merged_checkpoint", [conversation], together=False)
    assert rewards == pytest.approx(2 * expected, abs=1e-4)


def test_merging_by_hand(alone, tmp_path):
    merge_adapter(alone.model, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    expected = load_file(alone.output / "merged_checkpoint" / "model.safetensors")
    # the row of the new pad token is drawn anew, and no reward depends on it
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(merged.pop(embeddings)[:-1], expected.pop(embeddings)[:-1])
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())
    with pytest.raises(UserError, match="expected nothing there yet"):
        merge_adapter(alone.model, tmp_path / "merged")
    with pytest.raises(UserError, match="expected the folder of an adapter"):
        merge_adapter(tmp_path / "merged", tmp_path / "again")
    with pytest.raises(UserError, match="expected a folder that can be written"):
        merge_adapter(alone.model, Path("/proc/nowhere/merged"))


def test_the_head_of_a_reward_model_goes_on_under_an_adapter(base, alone, tmp_path):
    given = base | {"model_name": alone.output / "merged_checkpoint", "learning_rate": 0.0, "max_steps": 1}
    run = train(given, tmp_path / "output")
    head = "base_model.model.score.weight"
    assert torch.equal(adapter_of(run)[head], adapter_of(alone)[head])


# --- engines and resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_the_same_adapter(engine, alone, runs):
    run = runs[engine]
    assert run.losses() == pytest.approx(alone.losses(), abs=1e-5)
    saved, expected = adapter_of(run), adapter_of(alone)
    assert saved.keys() == expected.keys()
    largest = max(weight.abs().max().item() for weight in expected.values())
    for name, weight in expected.items():
        assert (saved[name] - weight).abs().max().item() <= 1e-3 * largest, name
    assert json.loads((run.model / "verification.json").read_text())["passed"]


def test_resume_on_one_process_is_bit_equal(base, alone, tmp_path):
    output = stopped_at_step_3(alone, tmp_path)
    run = train(base | {"resume_from_checkpoint": "true"}, output)
    assert run.losses() == alone.losses()
    assert all(torch.equal(weight, adapter_of(alone)[name]) for name, weight in adapter_of(run).items())


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_resume_on_sharded_engines_is_bit_equal(engine, base, runs, tmp_path):
    output = stopped_at_step_3(runs[engine], tmp_path)
    run_engine(engine, base | {"resume_from_checkpoint": "true"}, output)
    assert Run(output).losses() == runs[engine].losses()
    assert all(torch.equal(weight, adapter_of(runs[engine])[name]) for name, weight in adapter_of(Run(output)).items())


def stopped_at_step_3(run: Run, folder):
    output = folder / "output"
    shutil.copytree(run.output, output)
    for name in ("checkpoint-6", "last_checkpoint", "merged_checkpoint"):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "trainer_state.json").unlink()
    return output


def test_another_adapter_is_not_the_same_run(base, alone, tmp_path):
    output = stopped_at_step_3(alone, tmp_path)
    with pytest.raises(UserError, match="lora_r: 8 in the checkpoint, now 4"):
        train(base | {"resume_from_checkpoint": "true", "lora_r": 4}, output)


def test_fsdp_cuts_a_model_with_an_adapter_layer_by_layer(base, tmp_path):
    """In one piece, each process would hold the whole model in a forward pass."""
    script = tmp_path / "lists_pieces.py"
    script.write_text(
        "import rm\n"
        "from torch.distributed.fsdp import FSDPModule\n"
        "from reward_modeling.training import job\n"
        "def list_pieces(trainer, results):\n"
        "    modules = trainer.model.named_modules()\n"
        "    print('pieces:', *(name for name, module in modules if isinstance(module, FSDPModule)))\n"
        "    return save(trainer, results)\n"
        "save, job.save_final_model = job.save_final_model, list_pieces\n"
        "rm.main()\n"
    )
    process = run_engine("fsdp2", base | {"max_steps": 1}, tmp_path / "output", script=script)
    pieces = next(line for line in process.stdout.splitlines() if line.startswith("pieces:")).split()
    layers = [name.removeprefix("base_model.model.model.") for name in pieces if "layers" in name]
    assert layers == ["layers.0", "layers.1"]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_peft": "false"}, "--lora_r: expected --use_peft true"),
        ({"use_peft": "false", "lora_r": 16, "merge_adapter": "true"}, "--merge_adapter: expected --use_peft true"),
        ({"lora_r": 0}, "--lora_r: expected at least 1, found 0"),
        ({"lora_dropout": 1.0}, "--lora_dropout: expected 0 or more and below 1"),
        ({"lora_target_modules": "q_proj,qproj"}, r"separated by commas .*q_proj.* found 'qproj'"),
        ({"lora_target_modules": "all-linear,q_proj"}, "expected all-linear alone, or .* found 'all-linear'"),
        ({"lora_target_modules": "q_proj,score"}, "but its head, .* found 'score'"),
        ({"lora_target_modules": "cross_attn.q_proj"}, "found 'cross_attn.q_proj'"),
        ({"load_in_4bit": "true"}, "--load_in_4bit: expected a CUDA GPU"),
        ({"use_liger_kernel": "true"}, "--use_liger_kernel: expected false, found true"),
    ],
)
def test_wrong_flags(changes, message, base, tmp_path):
    with pytest.raises(UserError, match=message):
        train(base | changes, tmp_path / "output")


def test_an_adapter_is_no_model_to_train(base, alone, tmp_path):
    with pytest.raises(UserError, match="expected a model, found an adapter"):
        train(base | {"model_name": alone.model}, tmp_path / "output")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.score.weight", "could not load and score it .*score.weight"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "1 weights are missing, such as .*q_proj"),
    ],
)
def test_a_lost_weight_is_found_out(name, message, base, tmp_path, monkeypatch):
    """By the proof of the saved model: an adapter without its head, or without a part, would score something else."""
    save_final_model = job.save_final_model

    def lose(trainer, given):
        folder = save_final_model(trainer, given)
        weights = load_file(folder / "adapter_model.safetensors")
        del weights[name]
        save_file(weights, folder / "adapter_model.safetensors")
        return folder

    monkeypatch.setattr(job, "save_final_model", lose)
    with pytest.raises(UserError, match=message):
        train(base | {"max_steps": 1, "verify_saved_model": "true"}, tmp_path / "output")


def test_a_merge_that_fails_leaves_the_adapter(base, alone, tmp_path):
    """The model under it has gone: the message says where the adapter is, and what to do."""
    lost = shutil.copytree(alone.model, tmp_path / "last_checkpoint")
    config = json.loads((lost / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/nowhere/model"}
    (lost / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the adapter is whole, in .*/nowhere/model.*Try again by hand"):
        merge_in_another_process(lost, tmp_path / "merged_checkpoint")
    assert not list(tmp_path.glob("*merged*"))
