"""report.html of a run: from sample files, from a real run, and in a browser."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from pages import HOSTILE, Page, tables
from run_folders import SOURCES, read_json, sample_history, write_json, write_sample_run
from runs import ROOT, train, write_rows
from summaries import sample_summary

from reward_modeling.common.errors import UserError
from reward_modeling.display.page import PALETTE
from reward_modeling.display.plot_style import make_plot
from reward_modeling.display.plots import draw_steps
from reward_modeling.display.text import duration, percent, short_number
from reward_modeling.evaluation.report import write_report
from reward_modeling.results import report
from reward_modeling.results.curves import MOST_POINTS, draw_curves, log_curve
from reward_modeling.results.read_run import read_run
from reward_modeling.results.report import training_page, write_training_report
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.trainer import RewardTrainer

OPTIONAL = (
    "data_report.json",
    "evaluation.json",
    "preflight.txt",
    "run.json",
    "last_checkpoint/script_arguments.json",
    "last_checkpoint/verification.json",
)
POINTS = "step | Loss | Accuracy, percent | Margin | Learning rate | Gradient norm | Tokens per second"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sample_run(tmp_path_factory.mktemp("runs") / "gemma2b_rm")


@pytest.fixture(scope="module")
def page(folder) -> str:
    return write_training_report(folder).read_text(encoding="utf-8")


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def changed(folder: Path, name: str, **changes: object) -> None:
    write_json(folder / name, read_json(folder / name) | changes)


def words_of(text: str) -> str:
    """What a reader sees of a page, with single spaces."""
    return " ".join(" ".join(Page(text).texts).split())


def page_of(folder: Path) -> str:
    return training_page(read_run(folder))


# --- curves ---------------------------------------------------------------------------------------------------


def slow_curve(history: list[dict], name: str, per_point: int) -> list[tuple[float, float, float, float]]:
    """(step, mean, lowest, highest) of each point."""
    entries = [entry for entry in history if name in entry and math.isfinite(entry[name])]
    points = []
    for start in range(0, len(entries), per_point):
        some = entries[start : start + per_point]
        values = [entry[name] for entry in some]
        points.append((sum(e["step"] for e in some) / len(some), sum(values) / len(some), min(values), max(values)))
    return points


@pytest.mark.parametrize("logs", [1, 7, MOST_POINTS, MOST_POINTS + 1, 1000, 10_000])
def test_a_curve_has_few_points_and_hides_no_peak(logs):
    generator = np.random.default_rng(logs)
    history = [{"step": 10 * number, "loss": float(generator.normal())} for number in range(logs)]
    history[logs // 2]["loss"] = 1e6
    history.insert(0, {"step": 0, "eval_loss": 3.0})
    curve = log_curve(history, "loss")
    expected = slow_curve(history, "loss", curve.logs_per_point)
    assert len(curve.values) == len(expected) <= MOST_POINTS
    assert curve.logs_per_point == math.ceil(logs / MOST_POINTS)
    for found, wanted in zip(
        zip(curve.steps, curve.values, curve.lows, curve.highs, strict=True), expected, strict=True
    ):
        assert found == pytest.approx(wanted, rel=1e-12)
    assert max(curve.highs) == 1e6 and curve.has_band == (logs > MOST_POINTS)


def test_logs_that_are_no_numbers_are_counted_and_left_out():
    history = [{"step": step, "loss": value} for step, value in enumerate((1.0, math.nan, 2.0, math.inf, None))]
    curve = log_curve(history, "loss")
    assert (curve.values, curve.steps, curve.not_finite) == ([1.0, 2.0], [0.0, 2.0], 3)
    assert log_curve(history[1:2], "loss").values == []
    assert log_curve(history, "margin") is None


def test_a_logarithmic_axis_is_marked_with_numbers():
    """matplotlib would mark it with formulas, which an SVG of plain text shows as they are written."""
    curve = log_curve([{"step": step, "grad_norm": 10.0 ** (1 - step)} for step in range(5)], "grad_norm")
    drawn = make_plot("Gradient norm", "", draw_curves, {"training": curve}, may_be_logarithmic=True).svg
    texts = re.findall(r"<text[^>]*>(.*?)</text>", drawn)
    assert {"0.001", "0.01", "0.1", "1", "10"} <= set(texts) and "$" not in drawn


def test_the_interval_of_an_accuracy_is_its_band():
    history = [entry for entry in sample_history() if "eval_loss" in entry]
    curve = log_curve(history, "eval_accuracy")
    assert curve.lows == [entry["eval_accuracy_low"] for entry in history] and curve.has_band
    several = log_curve(history, "eval_accuracy", most=2)
    assert several.lows[0] == min(entry["eval_accuracy_low"] for entry in history[:3])
    del history[1]["eval_accuracy_low"]
    assert log_curve(history, "eval_accuracy").lows[1] == history[1]["eval_accuracy"]


# --- the page -------------------------------------------------------------------------------------------------


def test_the_page_shows_the_numbers_of_the_files(folder, page):
    evaluation, state = read_json(folder / "evaluation.json"), read_json(folder / "trainer_state.json")
    found = tables(page)
    shares = {row[0]: row[1:] for row in found[" | percent | 95% interval | rows | ties"]}
    accuracies = {"all pairs": evaluation["accuracy"], **evaluation["by_length"], **evaluation["by_source"]}
    accuracies["always the longer answer"] = evaluation["longer_wins"]
    assert set(SOURCES) < set(accuracies)
    for name, row in accuracies.items():
        assert shares[name] == [
            percent(row["value"]),
            f"{percent(row['low'])}-{percent(row['high'])}",
            f"{row['rows']:,}",
            f"{row['ties']:,}",
        ]
    counts = [tuple(map(int, row[2:])) for row in found["from | to | chosen | rejected"]]
    assert counts == list(zip(evaluation["rewards"]["chosen"], evaluation["rewards"]["rejected"], strict=True))
    assert [int(row[2]) for row in found["from | to | pairs"]] == evaluation["margins"]["counts"]
    evaluations = [entry for entry in state["log_history"] if "eval_loss" in entry]
    rows = found["step | epoch | accuracy, percent | 95% interval | loss | margin | reward_mean | reward_std"]
    assert [(int(row[0]), row[2], row[4]) for row in rows] == [
        (entry["step"], percent(entry["eval_accuracy"]), f"{entry['eval_loss']:.3g}") for entry in evaluations
    ]
    points = found[POINTS]
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    assert float(points[0][1]) == pytest.approx((logged[0]["loss"] + logged[1]["loss"]) / 2, rel=1e-3)
    assert len(points) == math.ceil(len(logged) / 2)


def test_the_page_says_what_was_trained_on_what(folder, page):
    texts = words_of(page)
    for words in (
        "google/gemma-2b-it: GemmaForSequenceClassification, 2.51B parameters, 19.6M of them trained; DeepSpeed ZeRO-3",
        "started 2026-11-24 21:07 UTC",
        "53,210 rows read, 52,000 kept (97.7%)",
        "chosen and rejected are the same text",
        "data/train-00001.parquet:812",
        "Anthropic/hh-rlhf",
        "parts after ' bread?<end_of_turn>",
        "off by 2.9e-06 at most, allowed are 1.1e-03, over 8 rows",
        "16,384 tokens, took 31.2 GiB",
        "84 min",
        "max_length",
    ):
        assert words in texts, words
    assert 'role="alert"' not in page  # nothing to warn of


def test_plots_share_no_ids_and_nothing_is_loaded(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.count("svg") == len(set(re.findall(r'aria-label="([^"]*)"', page))) == 6 + 1 + 3 + 2
    assert not re.search(r"https?://|@import|#[01][0-9a-f]0b0b", page)
    assert all(reference.startswith("#") for reference in found.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)


def test_the_page_has_every_colour_of_the_plots(page):
    by_day, _, by_night = page.partition("@media (prefers-color-scheme:dark)")
    for name, (light, dark) in PALETTE.items():
        assert f"--{name}:{light};" in by_day and f"--{name}:{dark};" in by_night
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert used <= set(PALETTE) and {"bar", "accent", "ink"} <= used


def test_the_same_files_give_the_same_bytes(copied, page):
    assert write_training_report(copied).read_text(encoding="utf-8") == page
    changed(copied, "trainer_state.json", global_step=199)
    assert page_of(copied) != page


def test_what_is_not_there_is_said(copied, page):
    for missing in OPTIONAL:
        (copied / missing).unlink()
    text = page_of(copied)
    for missing in OPTIONAL:
        name = Path(missing).name
        assert (f"No {name}" in text or f"no {missing}" in text or f"No {missing}" in text) and name not in page, name
    Page(text)


def test_a_run_that_was_just_begun(tmp_path):
    """After the evaluation at step 0 there is nothing else."""
    entry = {"step": 0, "epoch": 0, "eval_loss": 0.69, "eval_accuracy": 0.5}
    state = {"log_history": [entry], "global_step": 0, "max_steps": 100, "epoch": 0}
    write_json(tmp_path / "trainer_state.json", state)
    text = page_of(tmp_path)
    assert "had not ended when this page was made: step 0 of 100" in text
    assert "it is written when training is over" in text and "50.0%" in text
    write_json(tmp_path / "trainer_state.json", state | {"log_history": []})
    assert "Nothing was logged yet." in page_of(tmp_path)


def test_a_run_json_without_arguments_as_older_runs_wrote_it(copied):
    run = read_json(copied / "run.json")
    del run["arguments"]
    write_json(copied / "run.json", run)
    assert run["model_name"] in page_of(copied)


def test_speed_is_the_median_of_the_logs(copied):
    state = read_json(copied / "trainer_state.json")
    logs = [entry for entry in state["log_history"] if "tokens_per_second" in entry]
    for number, entry in enumerate(logs):
        entry["tokens_per_second"] = 5000.0 if number < len(logs) // 2 + 1 else 9.0
    write_json(copied / "trainer_state.json", state)
    assert "<b>5,000</b>" in page_of(copied)


def test_figures_of_an_earlier_run_are_not_shown(copied):
    """A run that was started again in its folder has not written an evaluation.json of its own."""
    value = percent(read_json(copied / "evaluation.json")["accuracy"]["value"])
    assert f"<b>{value}%</b>" in page_of(copied)
    state = read_json(copied / "trainer_state.json")
    state["log_history"] = [entry for entry in state["log_history"] if entry["step"] <= 80]
    write_json(copied / "trainer_state.json", state | {"global_step": 80})
    text = page_of(copied)
    assert "is of step 200, and so of an earlier run" in text and f"<b>{value}%</b>" not in text


def test_warnings(copied):
    evaluation = read_json(copied / "evaluation.json")
    changed(copied, "evaluation.json", longer_wins=evaluation["accuracy"])
    report = read_json(copied / "data_report.json")
    report["train"]["share_dropped"] = 0.0512
    write_json(copied / "data_report.json", report)
    changed(copied, "last_checkpoint/verification.json", passed=False, problems=["a reward is off"])
    alert = re.search(r'role="alert">(.*?)</div>', page_of(copied), re.DOTALL)[1]
    assert "is not clearly above that of always taking the longer answer" in alert
    assert "train: 5.1% of the rows were dropped" in alert
    assert "not the one that was trained" in alert and "a reward is off" in page_of(copied)


def test_an_accuracy_that_guessing_has_too_is_warned_of(copied):
    """Also where the longer answer is seldom right."""
    words = "is not clearly above guessing, 50%"
    assert words not in page_of(copied)
    evaluation = read_json(copied / "evaluation.json")
    longer = evaluation["longer_wins"] | {"value": 0.3, "low": 0.27, "high": 0.33}
    accuracy = evaluation["accuracy"] | {"value": 0.53, "low": 0.49, "high": 0.57}
    changed(copied, "evaluation.json", accuracy=accuracy, longer_wins=longer)
    assert words in page_of(copied) and "always taking the longer answer" not in page_of(copied)


def test_a_resumed_run_says_of_which_part_its_time_is(copied):
    """The Trainer's train_runtime is that of the process that ended the run."""
    words = "since the last start"
    assert words not in page_of(copied)
    changed(copied, "last_checkpoint/script_arguments.json", resume_from_checkpoint="True")
    assert words in page_of(copied)


def test_the_accuracy_so_far_has_its_interval(copied):
    (copied / "evaluation.json").unlink()
    entry = [one for one in read_json(copied / "trainer_state.json")["log_history"] if "eval_loss" in one][-1]
    low, high = (percent(entry[f"eval_accuracy_{end}"]) for end in ("low", "high"))
    assert f'<b>{percent(entry["eval_accuracy"])}%</b><span class="muted">95%: {low}-{high}' in page_of(copied)


def test_rewards_far_from_zero_fill_their_plot():
    """Only differences of rewards mean something: where they lie is chance."""
    counts = {"chosen": [1, 5], "rejected": [4, 2]}
    colors, words = {"rejected": "red", "chosen": "blue"}, {"xlabel": "reward", "ylabel": "answers"}
    edges = ([base, base + 0.1, base + 0.2] for base in (-0.1, 40.0))
    scales = [make_plot("Rewards", "", draw_steps, of_one, counts, colors, **words).svg for of_one in edges]
    ticks = [[float(text) for text in re.findall(r"<text[^>]*>\D?(\d+\.\d+)</text>", drawn)] for drawn in scales]
    assert min(ticks[1]) >= 39.9 and len(ticks[1]) >= 3 and "0.0" in scales[0]


def test_null_is_incomplete(copied):
    def emptied(value):
        if isinstance(value, dict):
            return {
                key: one if key in ("edges", "counts", "rows", "from", "to") else emptied(one)
                for key, one in value.items()
            }
        return [emptied(one) for one in value] if isinstance(value, list) else None

    evaluation = read_json(copied / "evaluation.json")
    empty = {key: emptied(value) if isinstance(value, dict) else value for key, value in evaluation.items()}
    empty |= {"rewards": evaluation["rewards"], "calibration_error": None, "loss": None}
    write_json(copied / "evaluation.json", empty)
    texts = Page(page_of(copied)).texts
    assert "incomplete" in texts and "None" not in " ".join(texts)


def test_hostile_texts_are_shown_and_do_nothing(copied, tmp_path):
    """Names of sources, rows, paths, arguments, a manifest, and the folder itself."""
    nasty = "<script>alert(1)</script>"
    evaluation = read_json(copied / "evaluation.json")
    sources = {nasty: evaluation["by_source"]["helpful"], HOSTILE: evaluation["by_source"]["orca"]}
    changed(copied, "evaluation.json", by_source=sources, data=nasty)
    report = read_json(copied / "data_report.json")
    report["train"] |= {"name": nasty, "notes": {nasty: 1}}
    report["train"]["dropped"]["overlong"] |= {"first_where": nasty, "first_excerpt": "\x1b[31m" + nasty}
    write_json(copied / "data_report.json", report)
    run = read_json(copied / "run.json")
    run["manifest"]["sources"][0] |= {"name": nasty, "licence": nasty, "dataset_path": nasty}
    write_json(copied / "run.json", run | {"model_name": nasty, "started": nasty, "engine": nasty, "dtype": nasty})
    changed(copied, "last_checkpoint/script_arguments.json", **{nasty: nasty})
    changed(copied, "last_checkpoint/verification.json", passed=False, problems=[nasty])
    (copied / "preflight.txt").write_text(nasty)
    renamed = copied.rename(tmp_path / "<b>run")
    text = page_of(renamed)
    found = Page(text)
    assert not {"script", "b>"} & set(found.tags) and "<script" not in text and "\x1b" not in text
    assert nasty in found.texts and HOSTILE in found.texts and "<b>run" in found.texts
    assert len(found.ids) == len(set(found.ids))


def test_words_for_numbers():
    assert [short_number(value) for value in (950, 12_345, 19_611_648, 2_506_174_464)] == [
        "950",
        "12,345",
        "19.6M",
        "2.51B",
    ]
    assert [duration(value) for value in (7.46, 99, 5025, 11_100)] == ["7.5 s", "99.0 s", "84 min", "3 h 05 min"]


def test_ten_thousand_logs_take_no_two_seconds(tmp_path):
    """0.9 s of the process's time here; the best of three, since a shared machine once made 2.3 s of it."""
    output = write_sample_run(tmp_path / "long", steps=10_000)
    seconds = []
    for _ in range(3):
        before = time.process_time()
        written = write_training_report(output)
        seconds.append(time.process_time() - before)
    assert min(seconds) < 2
    assert written.stat().st_size < 400_000
    assert "Each point is the mean of 67 logs in a row" in written.read_text()


# --- the command ----------------------------------------------------------------------------------------------


def command(output: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "reward_modeling.results.report", str(output)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_command_makes_the_page_again(copied, page):
    (copied / "report.html").unlink()
    done = command(copied)
    assert (done.returncode, done.stdout.strip()) == (0, str(copied / "report.html")), done.stderr
    assert (copied / "report.html").read_text(encoding="utf-8") == page
    refused = command(copied / "last_checkpoint")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "expected the output folder of a training run, found no trainer_state.json" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trainer_state.json", '{"log_history": [', "trainer_state.json: expected JSON, found it torn"),
        ("trainer_state.json", "[]", "expected a JSON object, found list"),
        ("trainer_state.json", "{}", "found no log_history, global_step, max_steps, epoch in it"),
        ("evaluation.json", "", "evaluation.json: expected JSON"),
    ],
)
def test_torn_files_are_named(copied, name, content, words):
    (copied / name).write_text(content)
    with pytest.raises(UserError) as caught:
        write_training_report(copied)
    assert words in str(caught.value)
    assert (copied / "report.html").is_file()  # the earlier page stays


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="found no such folder"):
        write_training_report(tmp_path / "nowhere")


# --- a real run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flags(gemma_folder, tmp_path_factory) -> dict[str, object]:
    rows = learnable_preferences(24, seed=1)
    for number, row in enumerate(rows):
        row["source"] = ("<script>one</script>", "two")[number % 2]
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "eval_size": 10,
        "eval_every_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
    }


def test_a_run_leaves_the_page_of_its_files(flags, tmp_path):
    run = train(flags, tmp_path / "output", pages=True)
    written = (run.output / "report.html").read_text(encoding="utf-8")
    assert written == page_of(run.output)
    assert "had not ended" not in written and "4 of 4" in written and "<script" not in written
    losses = tables(written)[
        "step | Loss | Accuracy, percent | Margin | Learning rate | Gradient norm | Tokens per second"
    ]
    assert [float(row[1]) for row in losses] == pytest.approx(run.losses(), rel=1e-3)


def test_a_page_that_cannot_be_made_costs_no_run_its_model(flags, tmp_path, monkeypatch, caplog):
    def fails(run):
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr(report, "training_page", fails)
    monkeypatch.setattr("reward_modeling.training.callbacks.SECONDS_BETWEEN_PAGES", 0)
    run = train(flags, tmp_path / "output", pages=True)
    assert (run.model / "model.safetensors").is_file() and not (run.output / "report.html").exists()
    said = [record.getMessage() for record in caplog.records if "report.html was not written" in record.getMessage()]
    assert len(said) == 2 + 1  # after two evaluations, and at the end
    assert "ZeroDivisionError: of the page" in said[0] and "python -m reward_modeling.results.report" in said[0]


def test_a_run_that_dies_has_left_a_page(flags, tmp_path, monkeypatch):
    """After its first evaluation; the same command then starts afresh, since there is no checkpoint."""

    training_step = RewardTrainer.training_step

    def dies(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr("reward_modeling.training.callbacks.SECONDS_BETWEEN_PAGES", 0)
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RewardTrainer, "training_step", dies)
        train(flags, output, pages=True)
    text = (output / "report.html").read_text(encoding="utf-8")
    assert "when this page was made: step 2 of 4" in text
    assert "GemmaForSequenceClassification" in text and "Arguments that decide what is learned" in text
    assert json.loads((output / "trainer_state.json").read_text())["log_history"][-1]["step"] == 2
    again = train(flags, output, pages=True, resume_from_checkpoint="true")
    assert "had not ended" not in (again.output / "report.html").read_text(encoding="utf-8")


# --- in a browser ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the system's package to render the pages")
def test_the_pages_in_a_browser(page, folder, tmp_path):
    """Wide and narrow, light and dark: nothing sticks out, no texts lie over each other, nothing is loaded."""
    longest = write_sample_run(tmp_path / "a-run-with-long-names", steps=10_000, sources={"s" * 200: 50, "x y": 3})
    write_report(sample_summary(), tmp_path / "evaluation.html")
    broken = tmp_path / "broken.html"
    broken.write_text(page.replace("<section>", '<section><div style="width:1300px">wide</div>', 1), encoding="utf-8")
    pages = [folder / "report.html", write_training_report(longest), tmp_path / "evaluation.html"]
    with Browser() as browser:
        for number, one in enumerate(pages):
            backgrounds, pictures = set(), set()
            for width in (360, 1200):
                for dark in (False, True):
                    picture = tmp_path / f"{number}-{width}-{dark}.png"
                    seen = browser.look(one, width=width, dark=dark, screenshot=picture)
                    assert seen.inner_width == width and seen.scroll_width <= width, (one, width)
                    assert (seen.sticking_out, seen.clashes) == ([], []), (one, width)
                    assert seen.requests == [one.resolve().as_uri()]
                    backgrounds.add(seen.background)
                    pictures.add(picture.read_bytes())
            assert backgrounds == {"rgb(255, 255, 255)", "rgb(20, 23, 28)"} and len(pictures) == 4
        seen = browser.look(broken, width=360, dark=False)  # the same questions, of a page that is too wide
        assert seen.scroll_width > 360 and seen.sticking_out
