"""A kind of reward model that results/ does not know: its figures are shown as they are, under their own names."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from other_kind import LABELS, Ranked, RankedFlags, RankedReader
from pages import Page, tables
from runs import run_snippets, write_rows

from reward_modeling.data.examples import Example
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.display.text import number
from reward_modeling.results.catalog import KINDS
from reward_modeling.results.report import write_training_report
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.flags import RunFlags
from reward_modeling.training.job import run_job


@dataclass(frozen=True)
class PairsAsLists(RankedReader):
    """A pair of a file of preferences is a list of two answers."""

    def load_rows(self, path: str, num_proc: int, options):
        return load_preference_dataset(path, num_proc=num_proc)

    def read_row(self, row: dict) -> Example:
        return Example((row["chosen"], row["rejected"]), ((0, 1),), ((2.0,),))

    def read_positions(self, ids, prompt_length, piece_lengths):
        return [len(ids) - 1]


@dataclass
class Losses:
    """The held-out units: of each its loss."""

    losses: list[float]

    @property
    def not_finite(self) -> str | None:
        return None if all(map(math.isfinite, self.losses)) else "a loss is not finite"

    @property
    def rewards(self):
        return np.array(self.losses)

    def score_lines(self) -> Iterator[dict]:
        yield from ({"loss": loss} for loss in self.losses)


class Lists(Ranked):
    """Has a loss, a figure with an interval, and no reward."""

    best_metrics: ClassVar[dict[str, bool]] = {"loss": False}

    @property
    def reader(self) -> PairsAsLists:
        return PairsAsLists()

    def held_out(self, rows, groups) -> Losses:
        return Losses([loss for _, loss in sorted(rows)])

    def metrics(self, held_out: Losses) -> dict[str, float]:
        return {"loss": float(np.mean(held_out.losses)), "largest_loss": max(held_out.losses)}

    def evaluation(self, held_out: Losses) -> dict:
        low, middle, high = np.quantile(held_out.losses, [0.25, 0.5, 0.75]).tolist()
        figures = {"lists": len(held_out.losses), "median_loss": {"value": middle, "low": low, "high": high}}
        return self.metrics(held_out) | figures


@dataclass
class ScriptArguments(RankedFlags, RunFlags):
    temperature: float = 2.0


@pytest.fixture(scope="module")
def output(gemma_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    flags = {
        "model_name": gemma_folder,
        "train_set_path": write_rows(folder / "rows.jsonl", learnable_preferences(24, seed=1)),
        "output_path": folder / "output",
        "max_length": 256,
        "max_steps": 4,
        "pairs_per_step": 4,
        "eval_size": 8,
        "eval_every_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lists.py", *(f"--{name}={value}" for name, value in flags.items())])
        run_job(ScriptArguments, Lists)
    return folder / "output"


def test_it_is_known_by_no_name():
    assert Lists.kind == "" and Lists.kind not in KINDS


def test_its_run_is_saved_and_verified(output):
    about, evaluation = (json.loads((output / f"{name}.json").read_text()) for name in ("run", "evaluation"))
    assert (about["kind"], about["unit"], about["lists_per_step"]) == ("", "lists", 4)
    lines = [json.loads(line)["loss"] for line in (output / "eval_scores.jsonl").read_text().splitlines()]
    assert evaluation["lists"] == len(lines) and evaluation["loss"] == pytest.approx(np.mean(lines))
    assert json.loads((output / "last_checkpoint" / "verification.json").read_text())["passed"]
    assert "reward_mean" not in json.loads((output / "last_checkpoint" / "config.json").read_text())


def test_its_page_has_its_figures_and_what_it_logged(output):
    page, evaluation = (output / "report.html").read_text(), json.loads((output / "evaluation.json").read_text())
    found, text = tables(page), " ".join(Page(page).texts)
    median = evaluation["median_loss"]
    interval = f"{number(median['value'])} ({number(median['low'])} to {number(median['high'])})"
    for line in (["Median loss", interval], ["Loss", number(evaluation["loss"])], ["Lists", str(evaluation["lists"])]):
        assert line in found["figure | value"]
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    rows = found["step | epoch | Largest loss | Loss"]
    assert [row[2:] for row in rows] == [
        [number(entry["eval_largest_loss"]), number(entry["eval_loss"])] for entry in evaluations
    ]
    assert "4 lists a step" in text and "On held-out lists" in text and 'aria-label="Largest loss"' in page
    assert not any(word in text for word in ("chosen answer", "ccuracy", "Margin", "Spearman"))
    assert write_training_report(output).read_text() == page


def test_its_card_has_them_too_and_its_python_runs(output):
    folder = output / "last_checkpoint"
    card, evaluation = (folder / "README.md").read_text(), json.loads((output / "evaluation.json").read_text())
    assert f"| Largest loss | {number(evaluation['largest_loss'])} |" in card
    assert f"with {LABELS} labels" in card and "steps of 4 lists" in card
    assert not any(word in card for word in ("chosen", "accuracy", "Bradley", "Spearman"))
    transformers, piped = run_snippets(folder / "README.md")
    assert len(transformers["outputs"]) == LABELS
    outputs = [one["score"] for one in sorted(piped["outputs"], key=lambda one: one["label"])]
    assert torch.allclose(torch.tensor(outputs), torch.tensor(transformers["outputs"]), atol=1e-5)
