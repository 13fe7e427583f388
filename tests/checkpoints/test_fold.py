"""A model of ratings folded into one label: rewards, files, what is refused, and what goes on from it."""

import hashlib
import json
import sys
import tracemalloc
from pathlib import Path

import peft
import pytest
import torch
from rating_models import NAMES, RANGES, SAVED, WEIGHTS, save_classifier, with_ratings
from runs import train, write_rows
from safetensors.torch import load_file, save_file
from tiny_classifiers import tiny_classifier_config
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm_regression
from reward_modeling.checkpoints import fold as fold_module
from reward_modeling.checkpoints.fold import fold_model
from reward_modeling.checkpoints.folded_outputs import compare_outputs
from reward_modeling.common.errors import UserError
from reward_modeling.models.checkpoint_config import load_config, read_config
from reward_modeling.models.new_parts import output_layers
from reward_modeling.models.rating_outputs import RatingOutputs
from reward_modeling.models.reward_normalization import write_adapter_statistics
from reward_modeling.models.rewritten_weights import copy_with
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.merge_adapter import merge_adapter
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

ROWS = learnable_preferences(12, seed=3)
CONVERSATIONS = [row[side] for row in ROWS for side in ("chosen", "rejected")]
STYLES = {"gemma": "gemma", "llama": "llama3", "qwen2": "chatml", "gpt2": "chatml", "bert": "bert", "roberta": "bert"}
# float32 sums of a few hundred products: a mistake moves rewards by a thousand times that, see the negative control
TOLERANCE = 1e-5
WRONG = 1e-2


def tokenizer_of(family: str):
    style = "gemma" if STYLES[family] == "bert" else STYLES[family]
    style = TOKENIZER_STYLES[style]
    return train_tokenizer([message["content"] for messages in CONVERSATIONS for message in messages], 400, **style)


def ratings_model(path: Path, family: str = "gemma", names: list[str] | None = None, **options) -> Path:
    tokenizer = tokenizer_of(family)
    ids = token_ids(tokenizer)
    classic = family in ("gpt2", "bert", "roberta")
    config = (
        tiny_classifier_config(family, len(tokenizer), **ids) if classic else tiny_config(family, len(tokenizer), **ids)
    )
    saved = {name: options.pop(name) for name in ("quantile_levels", "reward_mean", "reward_std") if name in options}
    return save_classifier(path, tokenizer, with_ratings(config, names, **saved), **options)


def outputs_of(path: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`(conversations, labels)` in plain transformers, each conversation alone, in float64."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()
    model.config.pad_token_id = -1
    tokenizer = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        rows = [tokenizer.apply_chat_template(c, return_tensors="pt", return_dict=True) for c in CONVERSATIONS]
        return torch.cat([model(input_ids=row["input_ids"][:, -100:]).logits for row in rows]).double()


def weighted(outputs: torch.Tensor, weights: dict[str, float]) -> torch.Tensor:
    return outputs @ torch.tensor([weights.get(name, 0.0) for name in NAMES], dtype=torch.float64)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def all_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


# --- the same rewards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", STYLES)
def test_rewards_are_the_weighted_sums(family, dtype, tmp_path):
    source, folded = ratings_model(tmp_path / "source", family, dtype=dtype), tmp_path / "folded"
    before = hashes(source)
    fold_model(source, folded, verify=False)
    assert hashes(source) == before
    expected, found = weighted(outputs_of(source), WEIGHTS), outputs_of(folded)[:, 0]
    assert expected.std() > WRONG
    assert (found - expected).abs().max() < TOLERANCE
    # the negative control: the rows in another order
    assert (found - weighted(outputs_of(source)[:, [1, 0, 2]], WEIGHTS)).abs().max() > WRONG


@pytest.mark.parametrize("family", ["gemma", "roberta"])
def test_only_the_head_is_another(family, tmp_path):
    source, folded = ratings_model(tmp_path / "source", family, dtype=torch.bfloat16), tmp_path / "folded"
    fold_model(source, folded, {"helpfulness": 1.0}, verify=False)
    before, after = all_weights(source), all_weights(folded)
    head = {"gemma": ["score.weight"], "roberta": ["classifier.out_proj.weight", "classifier.out_proj.bias"]}[family]
    assert before.keys() == after.keys()
    assert sorted(output_layers(read_config(str(source)))) == sorted(head)
    for name, value in after.items():
        if name in head:
            assert value.dtype == torch.float32 and torch.equal(value, before[name][:1].float())
        else:
            assert value.dtype == before[name].dtype and torch.equal(value, before[name])


def test_sharded_files_stay_as_they_are_but_one(tmp_path):
    source = ratings_model(tmp_path / "source", "llama", max_shard_size="60KB")
    files = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(files) > 2
    fold_model(source, tmp_path / "folded", verify=False)
    before, after = hashes(source), hashes(tmp_path / "folded")
    assert [name for name in files if before[name] != after[name]] == [
        json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]["score.weight"]
    ]
    found = outputs_of(tmp_path / "folded")[:, 0]
    assert (found - weighted(outputs_of(source), WEIGHTS)).abs().max() < TOLERANCE
    index = json.loads((tmp_path / "folded" / "model.safetensors.index.json").read_text())
    whole = sum(value.numel() * value.element_size() for value in all_weights(tmp_path / "folded").values())
    assert index["metadata"]["total_size"] == whole


def test_the_scorer_gives_the_same_of_both(tmp_path):
    source = ratings_model(tmp_path / "source")
    weights = {"correctness": 2.0, "verbosity": -0.5}
    fold_model(source, tmp_path / "folded", weights, verify=False)
    expected = RewardScorer.from_pretrained(source, weights=weights).score(CONVERSATIONS)
    scorer = RewardScorer.from_pretrained(tmp_path / "folded")
    assert scorer.score(CONVERSATIONS) == pytest.approx(expected, abs=TOLERANCE)
    assert scorer.readout.reward_weights is None
    bfloat16 = {"dtype": "bfloat16"}  # the head stays in float32
    expected = RewardScorer.from_pretrained(source, weights=weights, **bfloat16).score(CONVERSATIONS)
    assert RewardScorer.from_pretrained(tmp_path / "folded", **bfloat16).score(CONVERSATIONS) == pytest.approx(
        expected, abs=TOLERANCE
    )


def test_quantiles_and_one_rating_are_folded(tmp_path):
    levels = [0.25, 0.5, 0.75]
    names = [f"{name}@{level:.2f}" for name in NAMES for level in levels]
    source = ratings_model(tmp_path / "quantiles", names=names, quantile_levels=levels)
    fold_model(source, tmp_path / "folded", verify=False)
    means = outputs_of(source).reshape(-1, len(NAMES), len(levels)).mean(dim=2)
    assert (outputs_of(tmp_path / "folded")[:, 0] - weighted(means, WEIGHTS)).abs().max() < TOLERANCE
    one = ratings_model(tmp_path / "one", names=["helpfulness"])
    fold_model(one, tmp_path / "half", {"helpfulness": 0.5}, verify=False)
    assert torch.allclose(outputs_of(tmp_path / "half"), outputs_of(one) / 2, atol=TOLERANCE)


# --- what is written ------------------------------------------------------------------------------------------


def test_what_the_folder_has(tmp_path):
    source = ratings_model(tmp_path / "source", reward_mean=0.5, reward_std=0.25)
    for name in ("optimizer.pt", "verification.json", "README.md"):
        (source / name).write_text("of the run")
    fold_model(source, tmp_path / "folded")
    found = json.loads((tmp_path / "folded" / "config.json").read_text())
    expected = json.loads((source / "config.json").read_text())
    for name in SAVED:
        del expected[name]
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    assert found == expected | labels
    assert found["problem_type"] == "regression" and found["reward_mean"] == 0.5
    names = {path.name for path in (tmp_path / "folded").iterdir()}
    ours = {"README.md", "folding.json", "contents.json", "verification.json"}
    assert names == {path.name for path in source.iterdir()} - {"optimizer.pt"} | ours
    assert (tmp_path / "folded" / "verification.json").read_text() != "of the run"
    record = json.loads((tmp_path / "folded" / "folding.json").read_text())
    assert record["reward_weights"] == WEIGHTS and record["label_ranges"] == RANGES and record["source"] == "source"
    assert record["verification"]["largest_difference"] < TOLERANCE
    card = (tmp_path / "folded" / "README.md").read_text()
    assert "| correctness | 0.8 | 1 to 10 |" in card and str(source) not in card
    assert f"--protocol vllm --reward_name_or_path {tmp_path / 'folded'}" in card and "<!-- served equal -->" in card
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "folded" / name).read_bytes() == (source / name).read_bytes()


def test_a_model_without_a_pad_token_is_compared_all_the_same(tmp_path):
    source = ratings_model(tmp_path / "source", "llama")
    assert AutoTokenizer.from_pretrained(source).pad_token is None
    fold_model(source, tmp_path / "folded")
    record = json.loads((tmp_path / "folded" / "folding.json").read_text())
    assert record["verification"]["largest_difference"] < TOLERANCE


def test_statistics_of_other_rewards_are_left_out(tmp_path):
    source = ratings_model(tmp_path / "source", reward_mean=0.5, reward_std=0.25)
    fold_model(source, tmp_path / "folded", {"helpfulness": 1.0}, verify=False)
    assert not {"reward_mean", "reward_std"} & json.loads((tmp_path / "folded" / "config.json").read_text()).keys()


def test_the_python_of_the_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ratings_model(tmp_path / "source")
    fold_model(Path("source"), Path("folded"), verify=False)
    code = Path("folded/README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code, names)
    assert len(names["scorer"].score(CONVERSATIONS)) == len(CONVERSATIONS)


def test_a_wrong_head_is_found_and_nothing_is_left(tmp_path, monkeypatch):
    source = ratings_model(tmp_path / "source")
    right = fold_module._folded_head

    def wrong(*arguments):
        return {name: value * 1.01 for name, value in right(*arguments).items()}

    monkeypatch.setattr(fold_module, "_folded_head", wrong)
    with pytest.raises(UserError, match=r"within 1\.\de-04 of the weighted sums"):
        fold_model(source, tmp_path / "folded")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_check_finds_a_model_that_lacks_its_head(tmp_path):
    source = ratings_model(tmp_path / "source")
    fold_model(source, tmp_path / "folded", verify=False)
    weights = load_file(tmp_path / "folded" / "model.safetensors")
    weights.pop("score.weight")
    save_file(weights, tmp_path / "folded" / "model.safetensors", {"format": "pt"})
    outputs = RatingOutputs.of_config("source", read_config(str(source)))
    with pytest.raises(UserError, match=r"plain transformers loads .* it has no score.weight"):
        compare_outputs(source, tmp_path / "folded", outputs)


# --- files of weights -----------------------------------------------------------------------------------------


def test_a_file_is_copied_with_other_values(tmp_path):
    """Types of every width, odd sizes, an empty tensor and a scalar; what the library reads is what was there."""
    torch.manual_seed(0)
    weights = {
        "head": torch.randn(3, 5).bfloat16(),
        "odd": torch.randn(7).bfloat16(),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "long": torch.arange(4),
        "float": torch.randn(2, 3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
    }
    save_file(weights, tmp_path / "old.safetensors", {"format": "pt"})
    new = torch.randn(1, 5)
    growth = copy_with(tmp_path / "old.safetensors", tmp_path / "new.safetensors", {"head": new})
    assert growth == 1 * 5 * 4 - 3 * 5 * 2
    found = load_file(tmp_path / "new.safetensors")
    assert found.keys() == weights.keys()
    for name, value in found.items():
        wanted = new if name == "head" else weights[name]
        assert value.dtype == wanted.dtype and torch.equal(value, wanted)


def test_a_file_does_not_have_to_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("reward_modeling.models.rewritten_weights.PART", 2**16)
    weights = {"head": torch.randn(3, 8), "large": torch.randn(2**22)}  # 16 MiB
    save_file(weights, tmp_path / "old.safetensors", {"format": "pt"})
    tracemalloc.start()
    copy_with(tmp_path / "old.safetensors", tmp_path / "new.safetensors", {"head": torch.randn(1, 8)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_torn_file_is_not_copied_as_if_it_were_whole(tmp_path):
    save_file({"head": torch.randn(3, 8), "x": torch.randn(999)}, tmp_path / "old.safetensors", {"format": "pt"})
    whole = (tmp_path / "old.safetensors").read_bytes()
    (tmp_path / "old.safetensors").write_bytes(whole[:-40])
    with pytest.raises(EOFError, match="ends before its last tensor"):
        copy_with(tmp_path / "old.safetensors", tmp_path / "new.safetensors", {"head": torch.randn(1, 8)})


# --- refused --------------------------------------------------------------------------------------------------


def adapter_of_ratings(tmp_path: Path) -> Path:
    tokenizer = tokenizer_of("gemma")
    base = build_tiny_checkpoint(
        tmp_path / "base", tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer))
    )
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(NAMES))
    options = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    peft.get_peft_model(model, peft.LoraConfig(**options)).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    write_adapter_statistics(tmp_path / "adapter", SAVED)
    return tmp_path / "adapter"


def test_an_adapter_is_merged_first(tmp_path):
    adapter = adapter_of_ratings(tmp_path)
    with pytest.raises(UserError, match=r"found an adapter. Merge it first: python -m .*merge_adapter .*adapter NEW"):
        fold_model(adapter, tmp_path / "folded")
    merge_adapter(adapter, tmp_path / "merged")
    fold_model(tmp_path / "merged", tmp_path / "folded", verify=False)
    expected = RewardScorer.from_pretrained(adapter).score(CONVERSATIONS)
    assert RewardScorer.from_pretrained(tmp_path / "folded").score(CONVERSATIONS) == pytest.approx(expected, abs=1e-4)


def test_nothing_is_written_over(tmp_path):
    source = ratings_model(tmp_path / "source")
    (tmp_path / "folded").mkdir()
    (tmp_path / "folded" / "mine").write_text("mine")
    with pytest.raises(UserError, match="expected a new or an empty folder, found something in it"):
        fold_model(source, tmp_path / "folded")
    assert hashes(tmp_path / "folded").keys() == {"mine"}
    before = hashes(source)
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        fold_model(source, source)
    assert hashes(source) == before


def test_what_cannot_be_folded(tmp_path):
    source = ratings_model(tmp_path / "source")
    with pytest.raises(UserError, match="'helpfull'; did you mean helpfulness"):
        fold_model(source, tmp_path / "folded", {"helpfull": 1.0})
    with pytest.raises(UserError, match="expected the folder of a model of ratings, found none"):
        fold_model(tmp_path / "nothing", tmp_path / "folded")
    fold_model(source, tmp_path / "folded", verify=False)
    with pytest.raises(UserError, match="found one label, which is what folding makes"):
        fold_model(tmp_path / "folded", tmp_path / "again")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"expected safetensors files, found pytorch_model.bin"):
        fold_model(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# --- the command, and what goes on from it --------------------------------------------------------------------


def run_script(*argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rm_regression.py", *map(str, argv)])
        rm_regression.main()


def test_a_model_of_ratings_is_folded_before_rm_goes_on_from_it(tmp_path):
    source = ratings_model(tmp_path / "source")
    with pytest.raises(
        UserError, match=r"found a classifier with 3 labels. Fold it .* rm_regression.py --fold .*source"
    ):
        load_config(str(source))


def test_the_command(tmp_path, capsys):
    source = ratings_model(tmp_path / "source")
    run_script("--fold", source, "--weights", "helpfulness=0.65,verbosity=-0.4", "--output_path", tmp_path / "folded")
    assert f"Folded: {tmp_path / 'folded'}" in capsys.readouterr().out
    expected = weighted(outputs_of(source), {"helpfulness": 0.65, "verbosity": -0.4})
    assert (outputs_of(tmp_path / "folded")[:, 0] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "argv,words",
    [
        (
            ["--fold", "model", "--output_path", "x", "--learning_rate", "1"],
            "trains nothing: unknown flag --learning_rate",
        ),
        (["--fold", "model"], "expected a folder of a model, and --output_path beside it"),
        (["--fold", "model", "--output_path", "x", "--weights", "helpfulness"], "each name once with a finite number"),
    ],
)
def test_commands_that_are_wrong(argv, words):
    with pytest.raises(UserError, match=words):
        run_script(*argv)


def test_fold_is_no_flag_of_a_run(tmp_path):
    (tmp_path / "run.yaml").write_text("fold: model\nattributes: helpfulness\n")
    with pytest.raises(UserError, match="--fold: expected on the command line"):
        run_script("--config", tmp_path / "run.yaml", "--output_path", tmp_path / "out", "--use_cpu", "true")


def pair_flags(tmp_path: Path) -> dict[str, object]:
    rows = [row | {"strength": 1 + number % 3} for number, row in enumerate(learnable_preferences(24, seed=1))]
    return {
        "train_set_path": write_rows(tmp_path / "train.jsonl", rows),
        "loss": "scaled",
        "eval_size": 4,
        "max_length": 256,
        "pairs_per_step": 16,
        "max_steps": 1,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }


def test_scaled_bradley_terry_goes_on_from_the_head(tmp_path):
    """A step so small that float32 does not see it leaves the head as it was; an ordinary one moves it a little."""
    source = ratings_model(tmp_path / "source")
    fold_model(source, tmp_path / "folded", {"helpfulness": 1.0}, verify=False)
    head = load_file(tmp_path / "folded" / "model.safetensors")["score.weight"]
    flags = pair_flags(tmp_path) | {"model_name": tmp_path / "folded"}
    still = train(flags | {"learning_rate": 1e-30, "weight_decay": 0.0}, tmp_path / "still")
    assert torch.equal(load_file(still.model / "model.safetensors")["score.weight"], head)
    config = json.loads((still.model / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0"} and not SAVED.keys() & config.keys()
    moved = train(flags | {"learning_rate": 1e-4}, tmp_path / "moved")
    difference = (load_file(moved.model / "model.safetensors")["score.weight"] - head).abs().max()
    assert 0 < difference <= 1.01e-4  # Adam's first step
