"""Every family that transformers has a sequence classification for: trained, saved, reloaded and scored, or refused."""

import json
import shutil

import pytest
import torch
from engines import SHARDED_WEIGHTS, run_engine
from runs import Run, train, write_rows
from safetensors.torch import load_file, save_file
from tiny_classifiers import families, tiny_classifier_config
from tiny_families import TOKENIZER_STYLES, train_tokenizer
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from reward_modeling.checkpoints.reference_rewards import reference_rewards
from reward_modeling.common.errors import UserError
from reward_modeling.models.adapters import add_adapter, save_adapter
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.new_parts import new_modules, new_modules_of
from reward_modeling.models.stored_weights import stored_shapes
from reward_modeling.models.support import (
    NO_REWARDS,
    context_length,
    reads_the_last_place,
    why_no_rewards,
    why_not_checkpointed,
)
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.preferences import learnable_preferences

ROWS = learnable_preferences(40, seed=1)
TEXTS = [message["content"] for row in ROWS for message in row["chosen"]]
# One of each kind of new part: two layers, a pooler inside, layers outside, a name that others end in, a summary.
QUICK = ("roberta", "albert", "distilbert", "eurobert", "xlnet", "phimoe")
WORKING = [name for name in families() if name not in NO_REWARDS and not CONFIG_MAPPING[name]().is_encoder_decoder]
SHARED_BLOCKS = ("zamba", "zamba2")  # one set of weights in several layers
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "revision": None}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, **TOKENIZER_STYLES["bert"])


@pytest.fixture(scope="module")
def build(tokenizer, tmp_path_factory):
    """The folder of a tiny pretrained model of a family, with no head."""

    def folder_of(family: str) -> str:
        config = tiny_classifier_config(family, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        mappings = (MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING)
        model_class = next(mapping[type(config)] for mapping in mappings if type(config) in mapping)
        folder = tmp_path_factory.mktemp("models") / family
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model_class(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return folder_of


def two_steps(model, tokenizer, rows) -> list[float]:
    """Trains, and returns the rewards of the trained model."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    model.train()
    for _ in range(2):
        rewards = model(**batch).logits[:, 0]
        (rewards[1::2] - rewards[::2]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return model.eval()(**batch).logits[:, 0].tolist()


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in WORKING]
)
def test_what_is_saved_is_what_was_learned(family, adapter, build, tmp_path):
    """In plain transformers and peft, padded and alone, and by our scorer."""
    if adapter and family in SHARED_BLOCKS:
        pytest.skip("refused: see test_layers_that_share_their_weights_get_no_adapters")
    base = build(family)
    config, tokenizer = load_config(base), load_tokenizer(base)
    if reads_the_last_place(config):
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    model = load_reward_model(base, config, tokenizer)
    new = new_modules(model)
    before = {name: weight.clone() for part in new for name, weight in model.get_submodule(part).state_dict().items()}
    if adapter:
        model = add_adapter(model, model_name=base, **LORA)
    rows = [tokenizer(text)["input_ids"][:100] for text in TEXTS[:6]]
    rewards = two_steps(model, tokenizer, rows)
    inner = model.get_base_model() if adapter else model
    parts = [inner.get_submodule(part) for part in new]
    after = {name: w for part in parts for name, w in part.state_dict().items() if "original_module" not in name}
    assert before.keys() and any(
        not torch.equal(w, before[name.removeprefix("modules_to_save.default.")]) for name, w in after.items()
    )
    if adapter:
        save_adapter(model, str(tmp_path), write=True)
        saved = load_file(tmp_path / "adapter_model.safetensors")
        assert all(any(f"base_model.model.{part}." in name for name in saved) for part in new)
    else:
        model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = reference_rewards(str(tmp_path), rows)
    assert not plain["missing_weights"]
    assert plain["padded"] == pytest.approx(rewards, abs=1e-4)
    assert plain["alone"] == pytest.approx(rewards, abs=1e-4)
    scorer = RewardScorer.from_pretrained(tmp_path, dtype="float32")
    assert [scorer.score([TEXTS[0]])[0]] == pytest.approx(
        reference_rewards(str(tmp_path), [scorer.tokenize([TEXTS[0]])[0].ids])["alone"],
        abs=1e-4,
    )


@pytest.mark.parametrize("family", SHARED_BLOCKS)
def test_layers_that_share_their_weights_get_no_adapters(family, build):
    """Merged, one weight would get both."""
    base = build(family)
    model = load_reward_model(base, load_config(base), load_tokenizer(base))
    with pytest.raises(UserError, match="expected adapted layers with weights of their own"):
        add_adapter(model, model_name=base, **LORA)
    one_layer = {**LORA, "target_modules": "in_proj" if family == "zamba2" else "out_proj"}
    model = load_reward_model(base, load_config(base), load_tokenizer(base))
    assert add_adapter(model, model_name=base, **one_layer)


def test_a_part_that_stays_frozen_would_be_found(build, tmp_path):
    """Negative control: an adapter without one of two new layers scores something else, and is refused by us."""
    base = build("eurobert")
    model = add_adapter(load_reward_model(base, load_config(base), load_tokenizer(base)), model_name=base, **LORA)
    tokenizer = load_tokenizer(base)
    rows = [tokenizer(text)["input_ids"][:100] for text in TEXTS[:6]]
    rewards = two_steps(model, tokenizer, rows)
    save_adapter(model, str(tmp_path), write=True)
    tokenizer.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    save_file({n: w for n, w in saved.items() if ".model.dense." not in n}, tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["modules_to_save"] = ["classifier"]
    settings["exclude_modules"] = ["dense"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert reference_rewards(str(tmp_path), rows)["alone"] != pytest.approx(rewards, abs=1e-3)
    with pytest.raises(UserError, match=r"an adapter without dense\.weight of the language model"):
        RewardScorer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("llama", ["score"]),
        ("bert", ["bert.pooler", "classifier"]),
        ("albert", ["albert.pooler", "classifier"]),
        ("eurobert", ["dense", "classifier"]),
        ("xlm", ["sequence_summary"]),
        ("modernbert", ["classifier"]),  # whose head is that of masked words, too
    ],
)
def test_which_parts_are_new(family, parts):
    assert new_modules_of(tiny_classifier_config(family, 50, pad_token_id=0)) == parts


def test_every_family_is_tried_or_refused():
    """A family that a later transformers adds has to be looked at."""
    refused = [name for name in families() if why_no_rewards(CONFIG_MAPPING[name]()) is not None]
    assert set(families()) == set(WORKING) | set(refused)
    assert set(NO_REWARDS) < set(refused)


@pytest.mark.parametrize("family", ["fnet", "convbert"])
def test_a_family_whose_rewards_depend_on_padding_does(family, build):
    """Why it is refused."""
    config = AutoConfig.from_pretrained(build(family), num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
    alone = torch.arange(7, 16)[None]
    padded = torch.nn.functional.pad(alone, (0, 9))
    with torch.no_grad():
        difference = model(alone).logits - model(padded, attention_mask=(padded != 0).long()).logits
    assert difference.abs().item() > 1e-3


def flags(model, tmp_path, **changes):
    data = write_rows(tmp_path / "train.jsonl", ROWS) if changes.pop("data", False) else tmp_path / "no_such_file"
    return {
        **{"model_name": model, "train_set_path": data, "max_length": 100, "max_steps": 1, "pairs_per_step": 8},
        **{"eval_size": 0, "report_to": "none", "use_cpu": "true", "num_proc": 1, "verify_saved_model": "false"},
        **changes,
    }


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("mamba", "found mamba: transformers has no sequence classification for it"),
        ("fnet", "found fnet: its layers mix all tokens of a row"),
        ("canine", "found canine: it reads characters"),
        ("xmod", "found xmod: it wants to know the language"),
    ],
)
def test_a_family_without_rewards_is_refused_before_the_data_is_read(family, message, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        train(flags(tmp_path / "model", tmp_path), tmp_path / "output")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_quantised_weights_are_refused_by_name_before_the_data_is_read(method, tmp_path):
    config = tiny_classifier_config("llama", 50)
    config.quantization_config = {"quant_method": method, "bits": 4}
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=rf"found quantised ones \({method}\)") as caught:
        train(flags(tmp_path / "model", tmp_path), tmp_path / "output")
    assert "eager" not in str(caught.value)


def test_a_family_without_checkpointing_trains_without_it(build, tmp_path, caplog):
    assert why_not_checkpointed(load_config(build("xlnet"))) and not why_not_checkpointed(load_config(build("bert")))
    run = train(flags(build("xlnet"), tmp_path, data=True, verify_saved_model="true"), tmp_path / "output")
    assert "Gradient checkpointing: left out, since transformers has none for xlnet." in caplog.text
    assert json.loads((run.model / "verification.json").read_text())["passed"]


def test_a_length_of_minus_one_is_no_limit():
    assert context_length(tiny_classifier_config("xlnet", 50)) is None


# --- heads of other names -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "model"
    AutoModelForCausalLM.from_config(tiny_classifier_config("llama", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_head(folder, tmp_path, head: dict[str, torch.Tensor], *, as_bin: bool = False):
    copy = tmp_path / "with_head"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors") | head
    if as_bin:
        (copy / "model.safetensors").unlink()
        torch.save(weights, copy / "pytorch_model.bin")
    else:
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


HEAD = torch.linspace(-1, 1, 32)[None]


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize(
    "name", ["v_head.summary", "value_head", "rm_head", "reward_head", "regression", "model.v_head"]
)
def test_a_head_of_another_name_is_taken(name, as_bin, llama, tmp_path, caplog):
    head = {f"{name}.weight": HEAD, f"{name}.bias": torch.tensor([0.5])}
    folder = with_head(llama, tmp_path, head, as_bin=as_bin)
    run = train(flags(folder, tmp_path, data=True, learning_rate=0), tmp_path / "output")
    assert f"Score head: {name}.weight (1, 32) of the checkpoint is taken as score.weight." in caplog.text
    assert f"{name}.bias has no place" in caplog.text
    saved = load_file(run.model / "model.safetensors")
    assert torch.equal(saved["score.weight"], HEAD) and not any(name in key for key in saved)
    _, info = AutoModelForSequenceClassification.from_pretrained(run.model, output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"v_head.weight": HEAD, "rm_head.weight": HEAD}, "expected one head of shape .1, 32., found rm_head.weight"),
        ({"v_head.weight": torch.ones(2, 32)}, r"found v_head.weight \(2, 32\)"),
        ({"score.0.weight": torch.ones(32, 32), "score.2.weight": HEAD}, "expected one"),
        (
            {"net.0.weight": torch.ones(32, 32), "net.2.weight": HEAD},
            "a head of one layer, found net.2.weight",
        ),
    ],
)
def test_a_head_that_is_not_clear_stops_the_run_before_the_data_is_read(head, message, llama, tmp_path):
    head = {name: weight.clone() for name, weight in head.items()}
    with pytest.raises(UserError, match=message):
        train(flags(with_head(llama, tmp_path, head), tmp_path), tmp_path / "output")


def with_separate_head(folder, tmp_path, head: dict[str, torch.Tensor]):
    """As LLaMA-Factory writes it."""
    copy = with_head(folder, tmp_path, {})
    save_file({name: weight.clone() for name, weight in head.items()}, copy / "value_head.safetensors")
    return copy


def assert_head_was_taken(folder, tmp_path) -> None:
    run = train(flags(folder, tmp_path, data=True, learning_rate=0), tmp_path / "output")
    saved = load_file(run.model / "model.safetensors")
    assert torch.equal(saved["score.weight"], HEAD) and not any("v_head" in name for name in saved)
    _, info = AutoModelForSequenceClassification.from_pretrained(run.model, output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize("bias", [{}, {"v_head.summary.bias": torch.tensor([0.5])}], ids=["no_bias", "bias"])
def test_a_head_in_a_file_beside_the_model_is_taken(bias, llama, tmp_path, caplog):
    folder = with_separate_head(llama, tmp_path, {"v_head.summary.weight": HEAD, **bias})
    assert_head_was_taken(folder, tmp_path)
    assert "v_head.summary.weight (1, 32) of value_head.safetensors is taken as score.weight." in caplog.text
    assert "Score head: new" not in caplog.text
    assert ("v_head.summary.bias has no place" in caplog.text) == bool(bias)


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
def test_a_head_that_is_a_vector_is_taken(as_bin, llama, tmp_path, caplog):
    folder = with_head(llama, tmp_path, {"v_head.weight": HEAD[0].clone()}, as_bin=as_bin)
    assert_head_was_taken(folder, tmp_path)
    assert "v_head.weight (32,) of the checkpoint is taken as score.weight." in caplog.text
    assert "Score head: new" not in caplog.text


@pytest.mark.parametrize("separate", [False, True], ids=["vector", "file"])
def test_a_head_that_is_copied_brings_its_bias(separate, build, tmp_path):
    """To a family whose head has one."""
    weights = {"v_head.weight": HEAD if separate else HEAD[0].clone(), "v_head.bias": torch.tensor([0.5])}
    folder = str((with_separate_head if separate else with_head)(build("modernbert"), tmp_path, weights))
    model = load_reward_model(folder, load_config(folder), load_tokenizer(folder))
    assert torch.equal(model.classifier.weight, HEAD) and model.classifier.bias.item() == 0.5


@pytest.mark.parametrize("engine", SHARDED_WEIGHTS)
def test_a_head_is_copied_to_every_process(engine, llama, tmp_path):
    folder = with_separate_head(llama, tmp_path, {"v_head.summary.weight": HEAD})
    given = flags(folder, tmp_path, data=True, learning_rate=0)
    run_engine(engine, given, tmp_path / "output")
    assert torch.equal(load_file(tmp_path / "output/last_checkpoint/model.safetensors")["score.weight"], HEAD)
    assert Run(tmp_path / "output").losses() == pytest.approx(train(given, tmp_path / "alone").losses(), abs=1e-5)


def test_an_output_layer_of_one_row_is_taken(llama, tmp_path, caplog):
    folder = with_head(llama, tmp_path, {"lm_head.weight": HEAD.clone()})
    assert_head_was_taken(folder, tmp_path)
    assert "lm_head.weight (1, 32) of the checkpoint is taken as score.weight." in caplog.text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"v_head.summary.weight": torch.ones(3, 32)}, "v_head.summary.weight has 3 outputs"),
        ({"v_head.summary.weight": torch.ones(1, 16)}, r"found v_head.summary.weight \(1, 16\)"),
        ({"other": torch.ones(3)}, r"one head of shape \(1, 32\) in value_head.safetensors, found other"),
    ],
)
def test_a_head_beside_the_model_that_is_not_clear_stops_the_run(head, message, llama, tmp_path):
    with pytest.raises(UserError, match=message):
        train(flags(with_separate_head(llama, tmp_path, head), tmp_path), tmp_path / "output")


def test_a_head_both_in_the_model_and_beside_it_stops_the_run(llama, tmp_path):
    folder = with_head(llama, tmp_path, {"v_head.weight": HEAD.clone()})
    save_file({"v_head.weight": HEAD.clone()}, folder / "value_head.safetensors")
    with pytest.raises(UserError, match=r"expected one head, found v_head\.weight"):
        train(flags(folder, tmp_path), tmp_path / "output")


def test_a_pickled_head_beside_the_model_is_not_read(llama, tmp_path):
    folder = with_head(llama, tmp_path, {})
    (folder / "value_head.bin").write_bytes(b"whatever it is")
    with pytest.raises(UserError, match="Convert it to safetensors"):
        train(flags(folder, tmp_path), tmp_path / "output")


def test_a_file_beside_a_model_that_has_its_head_is_left_alone(llama, tmp_path, caplog):
    folder = with_head(llama, tmp_path, {"score.weight": HEAD.clone()})
    save_file({"v_head.weight": -HEAD}, folder / "value_head.safetensors")
    assert_head_was_taken(folder, tmp_path)
    assert "is taken as" not in caplog.text


def test_a_head_of_several_outputs_stops_the_run_and_says_how_many(llama, tmp_path):
    """As ArmoRM's, whose reward is what a gate makes of nineteen."""
    head = {
        "regression_layer.weight": torch.ones(19, 32),
        "gating.layers.0.weight": torch.ones(64, 32),
        "reward_transform_matrix": torch.eye(19),
    }
    with pytest.raises(UserError, match=r"a head with one output, found .*regression_layer.weight has 19 outputs"):
        train(flags(with_head(llama, tmp_path, head), tmp_path), tmp_path / "output")


def test_the_weight_of_a_norm_is_no_head(llama, tmp_path, caplog):
    folder = str(with_head(llama, tmp_path, {"reward_norm.weight": torch.ones(32)}))
    load_reward_model(folder, load_config(folder), load_tokenizer(folder))
    assert "Score head: new" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_broken_weights_are_one_message(name, llama, tmp_path):
    folder = with_head(llama, tmp_path, {"v_head.weight": HEAD.clone()}, as_bin=name.endswith(".bin"))
    assert "v_head.weight" in stored_shapes(str(folder))
    written = folder / name
    whole = written.read_bytes() if written.is_file() else b'{"weight_map": {}}'
    written.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="expected whole safetensors files, found a broken one"):
        stored_shapes(str(folder))


def test_one_output_of_a_head_of_two_layers_is_not_taken(build, tmp_path):
    folder = with_head(build("roberta"), tmp_path, {"v_head.weight": HEAD})
    with pytest.raises(UserError, match=r"expected the weights classifier\.dense.*found v_head\.weight"):
        train(flags(folder, tmp_path), tmp_path / "output")


@pytest.mark.parametrize("family", ["qwen2_moe", "roberta", "bert"])
def test_rows_that_are_no_heads_are_left_alone(family, build, tmp_path, caplog):
    """Gates of experts and the only kind of segment have one row, too."""
    folder = build(family)
    load_reward_model(folder, load_config(folder), load_tokenizer(folder))
    assert "of the checkpoint is taken as" not in caplog.text and "Score head: new" in caplog.text


# --- adapters and encoders from elsewhere ---------------------------------------------------------------------


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base(build, tmp_path):
    base = build("bert")
    tokenizer = load_tokenizer(base)
    model = add_adapter(load_reward_model(base, load_config(base), tokenizer), model_name=base, **LORA)
    save_adapter(model, str(tmp_path / "bare"), write=True)
    shutil.copytree(tmp_path / "bare", tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    conversations = [row["chosen"] for row in ROWS[:4]]
    found, expected = (RewardScorer.from_pretrained(tmp_path / name).score(conversations) for name in ("bare", "whole"))
    assert found == pytest.approx(expected, abs=1e-6)


def test_an_encoder_from_elsewhere_is_scored_as_it_would_be_trained(build, tmp_path):
    """A reward model without a chat template: CLS, then every message ended in SEP."""
    base = build("bert")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    expected = load_tokenizer(base).apply_chat_template(ROWS[0]["chosen"])["input_ids"]
    plain = reference_rewards(str(tmp_path), [expected])["alone"]
    assert RewardScorer.from_pretrained(tmp_path, dtype="float32").score([ROWS[0]["chosen"]]) == pytest.approx(plain)


def test_new_parts_in_bfloat16_without_autocast(build, tmp_path):
    """Nothing casts what an encoder hands to its head: an adapter leaves the head in the model's type."""
    given = {"use_peft": "true", "model_dtype": "bfloat16", "bf16": "false", "verify_saved_model": "true"}
    run = train(flags(build("distilbert"), tmp_path, data=True, **given), tmp_path / "output")
    assert json.loads((run.model / "verification.json").read_text())["passed"]
