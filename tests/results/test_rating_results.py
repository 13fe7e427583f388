"""What a run on ratings leaves: its figures against ones written out from eval_scores.jsonl, its card and its page."""

import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from browser import CHROMIUM, Browser
from pages import Page, tables
from runs import Run, run_snippets, train, write_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm_regression
from reward_modeling.display.text import number, percent
from reward_modeling.objectives.held_out_ratings import EvaluatedRatings, rating_figures
from reward_modeling.objectives.rating_bins import output_bins
from reward_modeling.objectives.regression import Regression
from reward_modeling.results.catalog import kind_of
from reward_modeling.results.rating_warnings import FEW_RATED
from reward_modeling.results.ratings import RatingResults
from reward_modeling.results.read_run import read_run
from reward_modeling.results.report import training_page, write_training_report
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.ratings import RANGES, rated_world
from reward_modeling.training.tracking import log_results

# Not in the order of the alphabet, in which transformers writes config.json.
ATTRIBUTES = ("verbosity", "kindness", "usefulness")
WEIGHTS = {"verbosity": 0.0, "kindness": 0.25, "usefulness": 0.75}
GREATEST = {name: high for name, (_, high) in RANGES.items()}
PNG = b"\x89PNG\r\n"
STEPS = 24


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return rated_world((90, 1, 1), seed=3)[0]


@pytest.fixture(scope="module")
def flags(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "ratings.jsonl", rows),
        "attributes": ",".join(ATTRIBUTES),
        "weights": ",".join(f"{name}={weight}" for name, weight in WEIGHTS.items() if weight),
        "max_length": 256,
        "max_steps": STEPS,
        "pairs_per_step": 16,
        "learning_rate": 3e-3,
        "eval_size": 60,
        "eval_every_steps": 8,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


def train_ratings(flags: dict, output: Path, **changes: object) -> Run:
    return train(flags, output, pages=True, main=rm_regression.main, **changes)


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "output"
    changes = {"verify_saved_model": "true", "report_to": "tensorboard", "save_strategy": "steps"}
    return train_ratings(flags, folder, **changes, save_every_steps=8, load_best_model_at_end="true")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "eval_scores.jsonl").read_text().splitlines()]


def row_of(line: dict, rows: list[dict]) -> dict:
    return rows[int(line["where"].rpartition(":")[2]) - 1]


# --- the figures, written out -------------------------------------------------------------------------------------


def written_ranks(values: list[float]) -> list[float]:
    """How many are smaller, and half of those that are equal."""
    return [sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values]


def written_figures(lines: list[dict], rows: list[dict], name: str) -> dict[str, float]:
    """Each point estimate of one attribute, by loops over the lines of eval_scores.jsonl."""
    rated = [line for line in lines if line["ratings"][name] is not None]
    outputs, ratings = ([line[what][name] for line in rated] for what in ("outputs", "ratings"))
    lengths = [len(row_of(line, rows)["messages"][-1]["content"]) for line in rated]
    mean = sum(ratings) / len(ratings)
    by_prompt = defaultdict(list)
    for place, line in enumerate(rated):
        by_prompt[row_of(line, rows)["messages"][0]["content"]].append(place)
    right, longer, pairs = 0, 0.0, 0
    for places in by_prompt.values():
        for better in places:
            for worse in places:
                if ratings[better] > ratings[worse]:
                    pairs += 1
                    right += outputs[better] > outputs[worse]
                    longer += (lengths[better] > lengths[worse]) + 0.5 * (lengths[better] == lengths[worse])
    return {
        "rows": len(rated),
        "squared_error": sum((o - r) ** 2 for o, r in zip(outputs, ratings, strict=True)) / len(rated),
        "mean_label_squared_error": sum((r - mean) ** 2 for r in ratings) / len(rated),
        "pearson": np.corrcoef(outputs, ratings)[0, 1],
        "spearman": np.corrcoef(written_ranks(outputs), written_ranks(ratings))[0, 1],
        "length_spearman": np.corrcoef(written_ranks(lengths), written_ranks(ratings))[0, 1],
        "pair_accuracy": right / pairs,
        "longer_wins": longer / pairs,
        "pairs": pairs,
    }


def test_every_figure_is_that_of_the_scores(run, rows):
    evaluation, lines = read(run.output / "evaluation.json"), lines_of(run.output)
    assert evaluation["answers"] == len(lines) > 10 and list(evaluation["attributes"]) == list(ATTRIBUTES)
    assert any(None in line["ratings"].values() for line in lines)
    for name, of in evaluation["attributes"].items():
        written = written_figures(lines, rows, name)
        assert of["rows"] == written.pop("rows") and of["pair_accuracy"]["rows"] == written.pop("pairs") > 1
        for figure, value in written.items():
            assert of[figure]["value"] == pytest.approx(value, abs=1e-9), (name, figure)
            assert of[figure]["low"] <= value <= of[figure]["high"]
        # negative control: of another attribute they are others
        other = written_figures(lines, rows, ATTRIBUTES[ATTRIBUTES.index(name) - 1])
        assert of["spearman"]["value"] != pytest.approx(other["spearman"], abs=1e-3)
    for figure in ("spearman", "pair_accuracy"):
        values = [of[figure]["value"] for of in evaluation["attributes"].values()]
        assert evaluation[figure] == pytest.approx(np.mean(values))
    rewards = [line["reward"] for line in lines]
    assert (evaluation["reward_mean"], evaluation["reward_std"]) == pytest.approx((np.mean(rewards), np.std(rewards)))


def plain_logits(folder: Path, conversations: list[list[dict]]) -> torch.Tensor:
    """As any user of transformers reads them, each conversation alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = [tokenizer.apply_chat_template(one, return_tensors="pt", return_dict=True) for one in conversations]
    with torch.no_grad():
        return torch.cat([model(**one).logits for one in inputs])


def test_outputs_in_the_files_are_those_of_the_saved_model(run, rows):
    """Also where the weights are those of an earlier step than the last."""
    lines = lines_of(run.output)
    logits = plain_logits(run.model, [row_of(line, rows)["messages"] for line in lines])
    for place, name in enumerate(ATTRIBUTES):
        outputs = [line["outputs"][name] for line in lines]
        assert outputs == pytest.approx((GREATEST[name] * logits[:, place]).tolist(), abs=1e-4)
        assert [line["ratings"][name] for line in lines] == [row_of(line, rows)[name] for line in lines]
    weights = torch.tensor([WEIGHTS[name] for name in ATTRIBUTES])
    assert [line["reward"] for line in lines] == pytest.approx((logits @ weights).tolist(), abs=1e-4)
    evaluation, about = read(run.output / "evaluation.json"), read(run.output / "run.json")
    assert evaluation["step"] == about["step_of_weights"] == run.state["best_global_step"]
    assert read(run.model / "verification.json")["passed"]


def test_run_json_says_of_which_kind_it_is(run):
    about, config = read(run.output / "run.json"), read(run.model / "config.json")
    assert (about["kind"], about["unit"], about["answers_per_step"]) == ("ratings", "answers", 16)
    assert about["label_ranges"] == config["label_ranges"] == {name: [0, GREATEST[name]] for name in ATTRIBUTES}
    assert about["reward_weights"] == config["reward_weights"] == WEIGHTS
    assert about["answers"] == len(run.trainer.train_dataset)
    assert list(about["label_ranges"]) == list(ATTRIBUTES)


# --- the mean rating by output ------------------------------------------------------------------------------------


def test_bins_hold_every_answer_once_with_the_means_of_theirs():
    generator = np.random.default_rng(0)
    outputs = np.round(generator.normal(size=230), 2)
    ratings, prompts = np.round(outputs + generator.normal(size=230)), np.arange(230) // 2
    bins = output_bins(outputs, ratings, prompts)
    assert len(bins) == 10 and sum(one["rows"] for one in bins) == 230
    order, start = np.argsort(outputs, kind="stable"), 0
    for one in bins:
        inside = order[start : start + one["rows"]]
        assert (one["output"], one["rating"]) == pytest.approx((outputs[inside].mean(), ratings[inside].mean()))
        assert one["low"] < one["rating"] < one["high"]
        start += one["rows"]
        assert start == 230 or outputs[order[start]] > outputs[inside].max()  # equal outputs are together


def test_intervals_of_bins_are_those_of_draws_of_prompts():
    """Four answers to a prompt that agree say as much as one; taken for four, they make it half as wide."""
    generator = np.random.default_rng(1)
    of_prompt = generator.normal(size=100)
    ratings, prompts = np.repeat(of_prompt, 4), np.repeat(np.arange(100), 4)
    (one,) = output_bins(np.zeros(400), ratings, prompts)
    draws = of_prompt[generator.integers(100, size=(4000, 100))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (one["low"], one["high"]) == pytest.approx((low, high), abs=0.03)
    (alone,) = output_bins(np.zeros(400), ratings, np.arange(400))
    assert alone["high"] - alone["low"] == pytest.approx((one["high"] - one["low"]) / 2, rel=0.02)


def test_bins_of_few_answers():
    assert output_bins(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)) == []
    (one,) = output_bins(np.array([2.0]), np.array([3.0]), np.zeros(1, dtype=int))
    assert one == {"output": 2.0, "rating": 3.0, "low": 3.0, "high": 3.0, "rows": 1}
    (same,) = output_bins(np.full(40, 1.5), np.arange(40.0), np.arange(40))
    assert (same["output"], same["rating"], same["rows"]) == (1.5, 19.5, 40)


# --- the card -----------------------------------------------------------------------------------------------------


def markdown_rows(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]


def assert_has_figures(rows: list[list[str]], evaluation: dict) -> None:
    """A line of errors and a line of pairs for each attribute."""
    for name, of in evaluation["attributes"].items():
        error, spearman, pairs = (of[key] for key in ("squared_error", "spearman", "pair_accuracy"))
        mean, pearson, length = (of[key]["value"] for key in ("mean_label_squared_error", "pearson", "length_spearman"))
        ends = [f"{number(row['low'])} to {number(row['high'])}" for row in (error, spearman)]
        line = [name, f"{of['rows']}", number(error["value"]), ends[0], number(mean), number(pearson)]
        assert [*line, number(spearman["value"]), ends[1], number(length)] in rows
        ends = f"{percent(pairs['low'])}-{percent(pairs['high'])}"
        longer = percent(of["longer_wins"]["value"])
        assert [name, f"{pairs['rows']}", percent(pairs["value"]), ends, f"{pairs['ties']}", longer] in rows


def test_the_card_has_the_figures(run):
    card, evaluation = (run.model / "README.md").read_text(), read(run.output / "evaluation.json")
    rows = markdown_rows(card)
    assert_has_figures(rows, evaluation)
    assert all([name, f"0 to {GREATEST[name]}", f"{WEIGHTS[name]:.4g}"] in rows for name in ATTRIBUTES)
    assert f"ratings is **{number(evaluation['spearman'])}**" in card
    assert f"higher output in **{percent(evaluation['pair_accuracy'])}%**" in card
    assert "with 3 labels" in card and "rated answers, by the mean squared error" in card
    answers = len(run.trainer.train_dataset)
    assert f"training set has {answers} answers over" in card and "steps of 16 answers" in card
    plots = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert plots == list(RatingResults.card_plots)
    assert all((run.model / name).read_bytes().startswith(PNG) for name in plots)
    assert "- ratings\n" in card and "Bradley" not in card and "chosen" not in card and "margin" not in card


def test_the_python_of_the_card_gives_the_named_outputs(run):
    transformers, pipeline, scorer, trl = run_snippets(run.model / "README.md")
    conversation = transformers["conversation"]
    (logits,) = plain_logits(run.model, [conversation]).tolist()
    expected = dict(zip(ATTRIBUTES, logits, strict=True))
    reward = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert transformers["outputs"] == pytest.approx(expected, abs=1e-5)
    assert pipeline["outputs"] == pytest.approx(expected, abs=1e-5)
    ratings = {name: GREATEST[name] * value for name, value in expected.items()}
    assert transformers["ratings"] == pytest.approx(ratings, abs=1e-4)
    assert scorer["ratings"] == pytest.approx(ratings, abs=1e-4)
    assert [of["reward"] for of in (transformers, scorer)] == pytest.approx([reward] * 2, abs=1e-4)
    assert trl["reward_function"]([conversation[:1]], [conversation[1:]]) == pytest.approx([reward], abs=1e-4)
    # negative control: an output under the name of another
    assert transformers["outputs"] != pytest.approx(dict(zip(sorted(ATTRIBUTES), logits, strict=True)), abs=1e-3)


def test_the_command_of_the_card_folds_the_model(run, tmp_path, monkeypatch):
    card = (run.model / "README.md").read_text()
    (command,) = re.findall(r"`python (rm_regression.py --fold .*?) NEW_FOLDER`", card)
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path / "folded")])
    rm_regression.main()
    transformers, *_ = run_snippets(run.model / "README.md")
    (logits,) = plain_logits(tmp_path / "folded", [transformers["conversation"]]).tolist()
    assert logits == pytest.approx([transformers["reward"]], abs=1e-4)


def test_cards_of_an_adapter_and_of_what_it_is_merged_into(flags, rows, tmp_path):
    changes = {"use_peft": "true", "lora_r": 4, "merge_adapter": "true", "verify_saved_model": "true", "max_steps": 4}
    run = train_ratings(flags, tmp_path / "output", **changes, eval_every_steps=4)
    merged = run.output / "merged_checkpoint"
    (of_adapter, of_scorer, _) = run_snippets(run.model / "README.md")
    of_merged, piped, *_ = run_snippets(merged / "README.md")
    (logits,) = plain_logits(merged, [of_adapter["conversation"]]).tolist()
    expected = dict(zip(ATTRIBUTES, logits, strict=True))
    for namespace in (of_adapter, of_merged, piped):
        assert namespace["outputs"] == pytest.approx(expected, abs=1e-4)
    reward = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert [of["reward"] for of in (of_adapter, of_scorer)] == pytest.approx([reward] * 2, abs=1e-4)
    assert of_adapter["ratings"] == pytest.approx(of_merged["ratings"], abs=1e-4)
    cards = [(folder / "README.md").read_text() for folder in (run.model, merged)]
    for card, place in zip(cards, ("reward_statistics.json", "config.json"), strict=True):
        assert_has_figures(markdown_rows(card), read(run.output / "evaluation.json"))
        assert f"`{place}` has" in card
    assert "A LoRA adapter" in cards[0] and "A LoRA adapter" not in cards[1]
    for folder in (run.model, merged):
        assert read(folder / "verification.json")["passed"]
        assert read(folder / "contents.json").keys() >= {"README.md", *RatingResults.card_plots}
    (statistics,) = (read(run.model / "reward_statistics.json"),)
    assert statistics["reward_mean"] == pytest.approx(read(merged / "config.json")["reward_mean"])


def test_quantiles_and_their_intervals(flags, rows, tmp_path):
    run = train_ratings(flags, tmp_path / "output", loss="quantile", max_steps=8)
    card, page = (run.model / "README.md").read_text(), (run.output / "report.html").read_text()
    evaluation = read(run.output / "evaluation.json")
    assert_has_figures(markdown_rows(card), evaluation)
    for name, of in evaluation["attributes"].items():
        inside, width = of["interval"]["coverage"], of["interval"]["width"]["value"]
        ends = f"{percent(inside['low'])}-{percent(inside['high'])}"
        line = [name, percent(inside["value"]), ends, "90.0", number(width), percent(of["interval"]["crossed"])]
        assert line in markdown_rows(card) and line in [row for of in tables(page).values() for row in of]
    transformers, piped, scorer, _ = run_snippets(run.model / "README.md")
    (logits,) = plain_logits(run.model, [transformers["conversation"]])
    expected = dict(zip(ATTRIBUTES, logits.reshape(3, 19).mean(dim=1).tolist(), strict=True))
    assert transformers["outputs"] == pytest.approx(expected, abs=1e-5)
    assert len(piped["quantiles"]) == 57 and "kindness@0.95" in piped["quantiles"]
    assert scorer["reward"] == pytest.approx(transformers["reward"], abs=1e-4)
    assert scorer["ratings"] == pytest.approx(transformers["ratings"], abs=1e-4)
    assert "with 57 labels" in card and "the pinball loss of quantiles" in card


# --- the page -----------------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_files_and_has_their_figures(run):
    written, evaluation = (run.output / "report.html").read_text(), read(run.output / "evaluation.json")
    assert written == training_page(read_run(run.output))
    found = Page(written)
    assert len(found.ids) == len(set(found.ids)) and "script" not in found.tags
    labels = re.findall(r'aria-label="([^"]*)"', written)
    # loss, Spearman, pairs, errors twice, Spearman by attribute, three of every run; then bars and bins
    assert found.tags.count("svg") == len(set(labels)) == 6 + 3 + 2 + len(ATTRIBUTES)
    rows = [row for of in tables(written).values() for row in of]
    assert_has_figures(rows, evaluation)
    for of in evaluation["attributes"].values():
        for one in of["by_output"]:
            ends = f"{number(one['low'])} to {number(one['high'])}"
            assert [number(one["output"]), number(one["rating"]), ends, f"{one['rows']}"] in rows
    assert f"<b>{number(evaluation['spearman'])}</b>" in written
    assert f"<b>{percent(evaluation['pair_accuracy'])}%</b>" in written
    assert "16 answers a step" in written and "On held-out answers" in written


def test_the_page_has_what_was_logged(run):
    found = tables((run.output / "report.html").read_text())
    errors = [f"Error in training: {name}" for name in ATTRIBUTES]
    head = " | ".join(["step", "Loss", *errors, "Learning rate", "Gradient norm", "Tokens per second"])
    logged = [entry for entry in run.history if "loss" in entry]
    assert len(found[head]) == len(logged)
    for cells, entry in zip(found[head], logged, strict=True):
        values = [entry["loss"], *(entry[f"error_{name}"] for name in ATTRIBUTES)]
        assert [float(cell) for cell in cells[1:5]] == pytest.approx(values, rel=1e-3)
    head = " | ".join(["step", "epoch", "loss", "Spearman", "percent of pairs right"])
    evaluations = [entry for entry in run.history if "eval_loss" in entry]
    cells = found[" | ".join([head, *(f"Spearman: {name}" for name in ATTRIBUTES)])]
    assert len(cells) == len(evaluations) == STEPS // 8
    for row, entry in zip(cells, evaluations, strict=True):
        means = [number(entry["eval_loss"]), number(entry["eval_spearman"]), percent(entry["eval_pair_accuracy"])]
        assert row[2:] == [*means, *(number(entry[f"eval_spearman_{name}"]) for name in ATTRIBUTES)]


def test_the_page_while_a_run_goes_on(run, tmp_path):
    """After its first evaluation: run.json is that of the start, and there is no evaluation.json."""
    state, about = read(run.output / "trainer_state.json"), read(run.output / "run.json")
    state["log_history"] = [entry for entry in state["log_history"] if entry["step"] <= 8]
    (tmp_path / "trainer_state.json").write_text(json.dumps(state | {"global_step": 8}))
    started = {name: value for name, value in about.items() if name not in ("label_ranges", "reward_weights")}
    (tmp_path / "run.json").write_text(json.dumps(started | {"steps": None, "seconds": None}))
    page = write_training_report(tmp_path).read_text()
    first = next(entry for entry in state["log_history"] if "eval_loss" in entry)
    assert f"step 8 of {STEPS}" in page and f"<b>{number(first['eval_spearman'])}</b>" in page
    (tmp_path / "run.json").unlink()  # whose kind nobody knows then
    Page(training_page(read_run(tmp_path)))


def test_a_run_without_evaluation(flags, tmp_path):
    given = {name: value for name, value in flags.items() if name != "eval_every_steps"}
    run = train_ratings(given, tmp_path / "output", eval_size=0, max_steps=2)
    card, page = (run.model / "README.md").read_text(), (run.output / "report.html").read_text()
    assert "no rows were held out" in card and "nothing was held out" in page
    assert not (run.output / "evaluation.json").exists() and not list(run.model.glob("*.png"))
    assert "Error in training" in page and "reward_mean" not in read(run.model / "config.json")


def test_evaluation_sets_with_names(flags, rows, tmp_path):
    for name, some in (("easy", rows[:40]), ("hard", rows[40:70])):
        write_rows(tmp_path / f"{name}.jsonl", some)
    sets = f"easy={tmp_path}/easy.jsonl,hard={tmp_path}/hard.jsonl"
    given = {name: value for name, value in flags.items() if name != "eval_size"}
    run = train_ratings(given, tmp_path / "output", eval_set_path=sets, max_steps=4, eval_every_steps=4)
    evaluation = read(run.output / "evaluation.json")
    assert evaluation["set"] == "easy" and list(evaluation["sets"]) == ["easy", "hard"]
    lines = lines_of(run.output)
    card, page = (run.model / "README.md").read_text(), (run.output / "report.html").read_text()
    page_rows = [row for of in tables(page).values() for row in of]
    for name, some in (("easy", rows[:40]), ("hard", rows[40:70])):
        of_set = [line for line in lines if line["set"] == name]
        assert len(of_set) == len(some)
        each = [written_figures(of_set, some, attribute)["spearman"] for attribute in ATTRIBUTES]
        figures = evaluation["sets"][name]
        means = [number(figures["loss"]), number(np.mean(each)), percent(figures["pair_accuracy"])]
        line = [name, f"{len(some)}", *means, *map(number, each)]
        assert line in markdown_rows(card) and line in page_rows


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the system's package to render the pages")
def test_the_page_of_many_attributes_in_a_browser(run, tmp_path):
    """19 of them with long names: nothing sticks out, and no texts lie over each other."""
    names = [f"a-long-name-of-attribute_{number}" for number in range(19)]
    held_out = sample_ratings(names)
    evaluation = {"step": STEPS, "epoch": 1.0, "data": "a file", **rating_figures(held_out)}
    state = read(run.output / "trainer_state.json")
    for entry in state["log_history"]:
        starts = ("error_",) if "loss" in entry else ("eval_error_", "eval_spearman_") if "eval_loss" in entry else ()
        entry |= {f"{start}{name}": 0.1 + place / 100 for start in starts for place, name in enumerate(names)}
    for name, content in {"evaluation": evaluation, "trainer_state": state}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "run.json").write_text((run.output / "run.json").read_text())
    page = write_training_report(tmp_path)
    with Browser() as browser:
        for width in (360, 1200):
            seen = browser.look(page, width=width, dark=False)
            assert (seen.sticking_out, seen.clashes, seen.scroll_width <= width) == ([], [], True)


# --- warnings -----------------------------------------------------------------------------------------------------


def sample_ratings(names: list[str], answers: int = 240, noise: float = 0.5) -> EvaluatedRatings:
    """Of a model that is right but for some noise; two answers to a prompt, whose length says nothing."""
    generator = np.random.default_rng(0)
    ratings = np.round(generator.uniform(0, 4, size=(answers, len(names))))
    outputs = ratings + noise * generator.normal(size=ratings.shape)
    columns = {"outputs": outputs, "ratings": ratings, "ranges": np.tile([0.0, 4.0], (len(names), 1))}
    columns |= {"losses": np.ones(answers), "rewards": outputs.mean(axis=1), "prompts": np.arange(answers) // 2}
    columns |= {"answers": np.arange(answers) % 2, "lengths": generator.uniform(20, 400, size=answers)}
    where = [f"a:{number}" for number in range(answers)]
    return EvaluatedRatings(where, tuple(names), others=np.zeros((answers, 0)), **columns)


def warnings_of(held_out: EvaluatedRatings) -> list[str]:
    return list(RatingResults("answers").warnings(rating_figures(held_out)))


def test_nothing_is_warned_of_where_all_is_well():
    assert warnings_of(sample_ratings(["good", "better"])) == []


def changed_sample(change) -> list[str]:
    """The warnings of a sample whose second attribute was changed."""
    held_out = sample_ratings(["good", "bad"])
    change(held_out, held_out.outputs[:, 1], held_out.ratings[:, 1])
    return warnings_of(held_out)


def test_an_attribute_that_says_no_more_than_the_mean():
    (warning,) = changed_sample(lambda _, outputs, ratings: np.copyto(outputs, outputs + 5))
    assert "not clearly below that of always saying the mean: bad, " in warning and "good" not in warning


def test_an_attribute_that_length_predicts_better():
    """In either direction."""
    for sign in (1, -1):
        (warning,) = changed_sample(lambda of, _, ratings, s=sign: np.copyto(of.lengths, 200 + s * 40 * ratings))
        assert "not clearly above that of the answer's length alone: bad, " in warning and "good" not in warning


def test_few_rated_answers():
    def forget(of, outputs, ratings):
        ratings[FEW_RATED - 1 :] = np.nan

    (warning,) = changed_sample(forget)
    assert warning == f"Few held-out answers have a rating: bad, {FEW_RATED - 1} of 240"


def test_an_attribute_without_ratings():
    (warning,) = changed_sample(lambda _, outputs, ratings: ratings.fill(np.nan))
    assert warning == "Few held-out answers have a rating: bad, 0 of 240"


def test_ratings_and_outputs_that_are_all_the_same():
    (warning,) = changed_sample(lambda _, outputs, ratings: ratings.fill(0.1))
    assert warning.startswith("All held-out ratings are the same") and warning.endswith(": bad")
    constant, _ = changed_sample(lambda _, outputs, ratings: outputs.fill(2.0))
    assert constant == "The model gives all held-out answers the same output: bad"


def test_intervals_that_hold_too_few_ratings():
    evaluation = rating_figures(sample_ratings(["good", "bad"]))
    for name, high in (("good", 0.93), ("bad", 0.85)):
        coverage = {"value": high - 0.05, "low": high - 0.1, "high": high, "rows": 240, "right": 200, "ties": 0}
        evaluation["attributes"][name]["interval"] = {"nominal": 0.9, "coverage": coverage}
    (warning,) = RatingResults("answers").warnings(evaluation)
    assert warning.endswith("fewer ratings than was meant: bad, 80.0% (75.0-85.0) instead of 90.0%")


# --- trackers -----------------------------------------------------------------------------------------------------


def test_tensorboard_has_the_figures_of_each_attribute(run):
    (folder,) = (run.output / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for entry in run.history:
        for name in (f"eval_spearman_{ATTRIBUTES[0]}", "eval_pair_accuracy"):
            if name in entry:
                logged = {event.step: event.value for event in events.Scalars(name.replace("eval_", "eval/", 1))}
                assert logged[entry["step"]] == pytest.approx(entry[name], rel=1e-6)
    assert f"train/error_{ATTRIBUTES[0]}" in events.Tags()["scalars"]


def test_wandb_gets_the_shares_of_pairs_of_each_attribute(run, monkeypatch):
    tables, summary = {}, {}
    monkeypatch.setattr(wandb, "run", SimpleNamespace(config={}, log=tables.update, summary=summary))
    monkeypatch.setattr(wandb.run, "config", SimpleNamespace(update=lambda content, **options: None))
    evaluation = read(run.output / "evaluation.json")
    results = SimpleNamespace(run=read(run.output / "run.json"), evaluation=evaluation)
    log_results(results, Regression(SimpleNamespace(attributes=",".join(ATTRIBUTES), label_ranges=None, weights=None)))
    rows = {row[0]: row[1:] for row in tables["final/held_out"].data}
    for name, of in evaluation["attributes"].items():
        for row, figure in ((name, "pair_accuracy"), (f"{name}, always the longer answer", "longer_wins")):
            assert rows[row] == [of[figure][key] for key in ("value", "low", "high", "rows")]
    assert summary["final/spearman"] == evaluation["spearman"]
    assert summary["final/accuracy, kindness"] == evaluation["attributes"]["kindness"]["pair_accuracy"]["value"]


# --- the rest -----------------------------------------------------------------------------------------------------


def test_a_run_of_an_earlier_version_is_one_of_pairs():
    assert type(kind_of({"pairs": 3})).__name__ == "PairResults" and kind_of({"pairs": 3}).unit == "pairs"
    assert type(kind_of(None, {"attributes": {}})).__name__ == "ResultsKind"


def test_the_scorer_normalizes_by_the_held_out_rewards(run, rows):
    evaluation = read(run.output / "evaluation.json")
    conversations = [row["messages"] for row in rows[:4]]
    raw = RewardScorer.from_pretrained(run.model).score(conversations)
    normalized = RewardScorer.from_pretrained(run.model, normalize=True).score(conversations)
    mean, std = evaluation["reward_mean"], evaluation["reward_std"]
    assert math.isfinite(std) and normalized == pytest.approx([(one - mean) / std for one in raw], abs=1e-4)
