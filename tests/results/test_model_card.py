"""What a finished run says of its model: files, configuration and card, against the saved weights themselves."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from runs import Run, plain_rewards, run_snippets, sigterm_in_step, train, write_rows
from tiny_classifiers import tiny_classifier_config
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from tokenizers import processors
from transformers import AutoConfig, AutoTokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.results.model_card import base_name, model_card
from reward_modeling.results.run import Results
from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.verification_card import with_lines
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids as token_ids_of
from reward_modeling.training import job
from reward_modeling.training.trainer import RewardTrainer

LAST = 6  # steps
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(40, seed=1)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": LAST,
        "pairs_per_step": 8,
        "learning_rate": 5e-3,  # so high that the loss is best before the last step
        "eval_size": 10,
        "eval_every_steps": 1,
        "save_every_steps": 1,
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def found(base, tmp_path_factory) -> tuple[Run, Results]:
    """A run that ends with an earlier model than it evaluated last, and what it told the card."""
    told = []
    write_model_card = job.write_model_card
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "write_model_card", lambda *a, **o: (told.append(a[1]), write_model_card(*a, **o)))
        run = train(base, tmp_path_factory.mktemp("run") / "output", pages=True, load_best_model_at_end="true")
    assert 1 < run.state["best_global_step"] < LAST
    return run, told[0]


@pytest.fixture(scope="module")
def run(found) -> Run:
    return found[0]


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "eval_scores.jsonl").read_text().splitlines()]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- the figures are of the saved weights ---------------------------------------------------------------------


def test_rewards_in_the_files_are_those_of_the_saved_model(run, rows):
    lines = lines_of(run.output)
    written = [rows[int(line["where"].rpartition(":")[2]) - 1] for line in lines]
    for side in ("chosen", "rejected"):
        expected = plain_rewards(run.model, [row[side] for row in written], together=True)
        last = plain_rewards(run.output / f"checkpoint-{LAST}", [row[side] for row in written], together=True)
        rewards = [line[f"{side}_reward"] for line in lines]
        assert rewards == pytest.approx(expected, abs=1e-4)
        assert rewards != pytest.approx(last, abs=1e-2)  # of the weights that were evaluated last
    assert [line["source"] for line in lines] == [row["source"] for row in written]


def test_evaluation_is_that_of_the_best_step(run):
    evaluation = read(run.output / "evaluation.json")
    best = run.state["best_global_step"]
    entry = next(entry for entry in run.history if entry["step"] == best and "eval_loss" in entry)
    assert (evaluation["step"], evaluation["epoch"]) == (best, entry["epoch"])
    for name in ("loss", "reward_mean", "reward_std", "calibration_error", "pairs"):
        assert evaluation[name] == pytest.approx(entry[f"eval_{name}"], abs=1e-6)
    for name, key in (("accuracy", "value"), ("accuracy_low", "low"), ("accuracy_high", "high")):
        assert evaluation["accuracy"][key] == pytest.approx(entry[f"eval_{name}"])
    assert evaluation["longer_wins"]["value"] == entry["eval_longer_wins"]
    lines = lines_of(run.output)
    assert evaluation["pairs"] == len(lines)
    assert evaluation["margins"]["mean"] == pytest.approx(sum(line["margin"] for line in lines) / len(lines))
    # no second evaluation is logged: the log has one for each step
    assert [entry["step"] for entry in run.history if "eval_loss" in entry] == list(range(1, LAST + 1))


def test_run_json(run, base):
    content = read(run.output / "run.json")
    assert content["num_parameters"] == sum(w.numel() for w in run.trainer.model.parameters())
    assert content["trained_parameters"] == content["num_parameters"]
    assert (content["steps"], content["pairs_per_step"]) == (LAST, base["pairs_per_step"])
    assert (content["class"], content["engine"], content["dtype"]) == (
        "GemmaForSequenceClassification",
        "single",
        "float32",
    )
    assert content["pairs"] == len(run.trainer.train_dataset)
    assert content["versions"]["torch"] == torch.__version__
    assert content["seconds"] > 0 and content["started"].endswith("+00:00")
    assert "One pair as the model sees it" in (run.output / "preflight.txt").read_text()


def test_figures_of_an_earlier_end_are_not_left(run, base, tmp_path):
    """A run that goes on has another model in the end: until then there are no figures of one."""
    output = tmp_path / "output"
    train(base, output, max_steps=2)
    assert (output / "evaluation.json").is_file()
    with sigterm_in_step(3), pytest.raises(SystemExit):
        train(base, output, max_steps=4, resume_from_checkpoint="true")
    for name in ("evaluation.json", "eval_scores.jsonl"):
        assert not (output / name).exists()
    content = read(output / "run.json")
    assert content["class"] == "GemmaForSequenceClassification"
    assert content["steps"] is content["step_of_weights"] is content["epoch_of_weights"] is content["seconds"] is None


# --- mean and standard deviation of the rewards ---------------------------------------------------------------


def test_statistics_in_the_configuration(run, rows):
    config = AutoConfig.from_pretrained(run.model)
    rewards = torch.tensor([line[f"{side}_reward"] for line in lines_of(run.output) for side in ("chosen", "rejected")])
    assert config.reward_mean == pytest.approx(rewards.mean().item(), abs=1e-4)
    assert config.reward_std == pytest.approx(rewards.std(correction=0).item(), abs=1e-4)
    conversations = [row["chosen"] for row in rows[:6]]
    raw = RewardScorer.from_pretrained(run.model).score(conversations)
    assert raw == pytest.approx(plain_rewards(run.model, conversations, together=True), abs=1e-4)
    normalized = RewardScorer.from_pretrained(run.model, normalize=True).score(conversations)
    assert normalized == pytest.approx([(r - config.reward_mean) / config.reward_std for r in raw], abs=1e-4)
    for checkpoint in run.output.glob("checkpoint-*"):
        assert "reward_mean" not in read(checkpoint / "config.json")


def test_statistics_of_another_model_are_not_handed_on(run, base, tmp_path):
    again = train(base, tmp_path / "output", model_name=run.model, eval_size=0, max_steps=1)
    for folder in (again.model, again.output / "checkpoint-1"):
        assert not {"reward_mean", "reward_std"} & read(folder / "config.json").keys()
    assert not (again.output / "evaluation.json").exists() and not (again.output / "eval_scores.jsonl").exists()
    assert "no rows were held out" in (again.model / "README.md").read_text()
    assert not list(again.model.glob("*.png"))
    with pytest.raises(UserError, match="normalize: expected reward_mean and reward_std"):
        RewardScorer.from_pretrained(again.model, normalize=True)


# --- the card -------------------------------------------------------------------------------------------------


def test_the_python_of_the_card_gives_the_rewards(run):
    transformers, pipeline, scorer, trl = run_snippets(run.model / "README.md")
    (expected,) = plain_rewards(run.model, [transformers["conversation"]], together=False)
    for namespace in (transformers, pipeline, scorer):
        assert namespace["conversation"] == transformers["conversation"]
        assert namespace["reward"] == pytest.approx(expected, abs=1e-4)
    prompt, answer = transformers["conversation"][:1], transformers["conversation"][1:]
    other = [{"role": "assistant", "content": "Nobody cares."}]
    rewards = trl["reward_function"](prompts=[prompt, prompt], completions=[other, answer], step=3)
    assert rewards == pytest.approx(
        plain_rewards(run.model, [prompt + other, prompt + answer], together=True), abs=1e-4
    )


def test_the_python_of_a_card_of_plain_texts(base, rows, tmp_path):
    texts = [{side: row[side][-1]["content"] for side in ("chosen", "rejected")} for row in rows[:40]]
    path = write_rows(tmp_path / "texts.jsonl", texts)
    run = train(base, tmp_path / "output", train_set_path=path, plain_text="true", max_steps=1)
    transformers, pipeline, scorer = run_snippets(run.model / "README.md")
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    ids = transformers["inputs"]["input_ids"][0].tolist()
    assert (ids[0], ids[-1], ids.count(tokenizer.bos_token_id)) == (tokenizer.bos_token_id, tokenizer.eos_token_id, 1)
    for namespace in (pipeline, scorer):
        assert namespace["reward"] == pytest.approx(transformers["reward"], abs=1e-4)


# How a tokenizer writes plain texts by itself: what it puts around them, and which of that is BOS and EOS.
WRITERS = {
    "EOS alone, as T5": ("gemma", {"single": "$A <eos>"}, "gemma"),
    "BOS and EOS, as Llama's add_eos_token": ("gemma", {"single": "<bos> $A <eos>"}, "gemma"),
    "a prefix, as GLM": ("gemma", {"single": "<start_of_turn> $A"}, "gemma"),
    "nothing": ("gemma", {"single": "$A"}, "gemma"),
    "BOS, and words that begin with a space": ("mistral", {}, "gemma"),
    "CLS and SEP": ("bert", {}, "bert"),
    "CLS and SEP that are BOS and EOS": ("deberta", {}, "bert"),
    "CLS and SEP, in ALBERT": ("bert", {}, "albert"),
    "marks at the end, in XLNet, which is padded on the left": (
        "gemma",
        {"single": "$A <end_of_turn> <start_of_turn>"},
        "xlnet",
    ),
}


def writer(style: str, change: dict, texts: list[str]):
    tokenizer = train_tokenizer(texts, 512, **TOKENIZER_STYLES[style] | {"chat_template": None})
    if change:
        single = change["single"]
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in single.split() if token != "$A"]
        processor = processors.TemplateProcessing(single=single, special_tokens=special)
        tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


@pytest.mark.parametrize("name", WRITERS)
def test_the_python_of_a_card_gives_plain_texts_the_tokens_of_training(name, base, rows, tmp_path):
    """Whatever the tokenizer writes by itself: its SEP or EOS stood twice in what the card computed."""
    style, change, family = WRITERS[name]
    texts = [{side: row[side][-1]["content"] for side in ("chosen", "rejected")} for row in rows]
    tokenizer = writer(style, change, [text for row in texts for text in row.values()])
    build_config = tiny_config if family in ("gemma", "bert") else tiny_classifier_config
    config = build_config(family, len(tokenizer), **token_ids_of(tokenizer))
    model = build_tiny_checkpoint(tmp_path / "model", tokenizer, config)
    changes = {"model_name": model, "train_set_path": write_rows(tmp_path / "texts.jsonl", texts)}
    changes |= {"max_steps": 1, "max_length": 128}
    run = train(base, tmp_path / "output", **changes)
    found = run_snippets(run.model / "README.md")
    assert len(found) == 3  # transformers, pipeline, RewardScorer
    scorer = found[-1]["scorer"]
    reader = scorer.reader
    ids = scorer.tokenize([found[0]["conversation"]])[0].ids
    assert found[0]["inputs"]["input_ids"][0].tolist() == ids
    trained = run.trainer.train_dataset.groups[0]
    row = trained["prefix_ids"] + trained["completion_ids"][0]
    assert ids[-1] == row[-1] and (ids[0] == row[0]) is (row[0] in reader.tokenizer.all_special_ids)
    for namespace in found:
        assert namespace["reward"] == pytest.approx(found[-1]["reward"], abs=1e-4)
    # negative control: what the card said before, where the tokenizer ends a text by itself
    if "EOS" in name or "SEP" in name:
        twice = reader.tokenizer(found[0]["conversation"] + reader.tokenizer.eos_token)["input_ids"]
        assert twice[-2:] == ids[-1:] * 2 and twice != ids


def test_a_card_names_a_base_without_its_place_on_a_disk(run, base):
    card = (run.model / "README.md").read_text()
    assert "made of `gemma`" in card and '| model_name | `"gemma"` |' in card
    folder = Path(base["model_name"])
    assert str(folder) not in card
    assert base_name(str(folder)) == "gemma" and base_name("google/gemma-2b-it") == "google/gemma-2b-it"


def test_a_base_is_called_as_its_config_says(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "google/gemma-2b-it"}))
    assert base_name(str(tmp_path)) == "google/gemma-2b-it"
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "/home/me/gemma"}))
    assert base_name(str(tmp_path)) == tmp_path.name


def test_what_the_card_tells(run, base):
    card, evaluation = (run.model / "README.md").read_text(), read(run.output / "evaluation.json")
    shown = [evaluation["accuracy"], *evaluation["by_length"].values(), *evaluation["by_source"].values()]
    for entry in shown:
        if entry["rows"]:
            low, high = (f"{100 * entry[end]:.1f}" for end in ("low", "high"))
            assert f"| {100 * entry['value']:.1f} | {low}-{high} | {entry['rows']} |" in card
    report = read(run.output / "data_report.json")["train"]
    assert f"{report['rows_read']} rows read, {report['kept']} kept" in card
    assert f"| learning_rate | `{base['learning_rate']}` |" in card and "| seed | `42` |" in card
    trained, best = read(run.output / "run.json"), run.state["best_global_step"]  # the rest of the epoch was not seen
    assert (trained["steps"], trained["step_of_weights"]) == (LAST, best)
    assert f"{LAST} steps of {base['pairs_per_step']} pairs; the weights are those after step {best}" in card
    epochs = best / math.ceil(trained["pairs"] / base["pairs_per_step"])
    assert f"over {trained['prompts']} prompts. The saved weights saw {epochs:.2f} epochs of it." in card
    plots = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert len(plots) == 3 and all((run.model / name).read_bytes().startswith(PNG) for name in plots)
    contents = read(run.model / "contents.json")
    assert contents.keys() >= {"README.md", *plots}
    assert not contents.keys() & {"verification.json"}


def test_the_block_for_the_hub(found):
    """Of names that the Hub knows, and of none other: it refuses a card with a path in the place of a model."""
    run, results = found
    data = ModelCard.load(run.model / "README.md").data.to_dict()
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "rlhf", "preference-data"],
    }
    changes = {"run": results.run | {"model_name": "google/gemma-2b-it"}, "train_sets": ["org/preferences:train"]}
    published = replace(results, **changes)
    data = ModelCard(
        model_card(published, name="me/reward", adapter=True, tokenizer=run.trainer.processing_class)
    ).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("google/gemma-2b-it", "adapter")
    assert (data["datasets"], data["library_name"]) == (["org/preferences"], "peft")
    assert "lora" in data["tags"]


def test_the_card_says_how_to_serve_the_model_and_to_compare_what_is_served(run):
    """make test-serving runs these commands; here it is what they say, and that a line gets its place."""
    card = (run.model / "README.md").read_text()
    assert "None of these was run where this card was written." in card
    vllm = "`python -m vllm.entrypoints.openai.api_server "
    vllm += f"--model {run.model} --runner pooling --dtype float32 --host 127.0.0.1`"
    assert vllm in card
    assert f"`python serve.py --reward_name_or_path {run.model}`" in card
    compare = "python score.py --verify_server http://127.0.0.1:8000 --protocol vllm"
    assert f"\n    {compare} --reward_name_or_path {run.model}\n" in card
    assert "Served equal" not in card
    with_a_line = with_lines(card, ["- Served equal on a day"])
    assert with_a_line.replace("- Served equal on a day\n", "") == card
    assert with_a_line.index("- Served equal") < with_a_line.index("## Training data")


def test_a_card_of_a_mixture(found):
    """Its sources with licences and counts, and text from outside that breaks no table."""
    run, results = found
    sources = [
        {"name": "a|b", "dataset_path": "org/first", "licence": "MIT", "pairs": 12345, "prompts": 99},
        {"name": "<script>", "dataset_path": None, "licence": "", "pairs": 1, "prompts": 1},
    ]
    changed = replace(results, run=results.run | {"manifest": {"name": "mine", "sources": sources}})
    card = model_card(changed, name="me/reward", adapter=False, tokenizer=run.trainer.processing_class)
    assert "| a\\|b | 12,345 | 99 | MIT | org/first |" in card
    assert "| &lt;script> | 1 | 1 | not stated |  |" in card
    assert ModelCard(card).data.to_dict()["datasets"] == ["org/first"]


def test_a_model_without_finite_rewards_is_saved_all_the_same(base, tmp_path, monkeypatch):
    """Its weights may be worth something; its figures are none, and so is nothing written of them."""
    compute_loss = RewardTrainer.compute_loss

    def overflows(trainer, model, inputs, return_outputs=False, **kwargs):
        result = compute_loss(trainer, model, inputs, return_outputs, **kwargs)
        if return_outputs:
            logits, _ = result[1]
            logits[:1] = torch.inf
        return result

    monkeypatch.setattr(RewardTrainer, "compute_loss", overflows)
    run = train(base, tmp_path / "output", max_steps=1)
    assert "reward_mean" not in read(run.model / "config.json")
    assert not (run.output / "evaluation.json").exists() and (run.output / "run.json").is_file()
