"""What a run on labelled pairs, ties and ranked lists leaves behind: log, run.json, report and model card."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from runs import Run, train, write_rows

from reward_modeling.objectives.ties import rao_kupper_tie
from reward_modeling.tiny.preferences import learnable_preferences


def labelled_rows() -> list[dict]:
    """Pairs of which every third is a tie and every fifth weighs 2; the answers of every other prompt are a list."""
    by_prompt: dict[str, list[dict]] = {}
    for row in learnable_preferences(40, seed=1):
        by_prompt.setdefault(json.dumps(row["chosen"][:-1]), []).append(row)
    found = []
    for number, rows in enumerate(by_prompt.values()):
        prompt = rows[0]["chosen"][:-1]
        pairs = [[row[side][-1]["content"] for side in ("chosen", "rejected")] for row in rows]
        answers = list(dict.fromkeys(text for pair in pairs for text in pair))
        if number % 2 and len(answers) > 2:
            found.append({"prompt": prompt, "completions": answers, "ranks": list(range(1, len(answers) + 1))})
            continue
        for chosen, rejected in pairs:
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            row |= {"chosen_probability": 0.5 if len(found) % 3 == 0 else 0.9}
            found.append(row | ({"weight": 2} if len(found) % 5 == 0 else {}))
    return found


@pytest.fixture(scope="module")
def run(gemma_folder, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("labels")
    given = {
        "model_name": gemma_folder,
        "train_set_path": write_rows(folder / "rows.jsonl", labelled_rows()),
        "ties": "rao_kupper",
        "list_loss": "plackett_luce",
        "max_length": 256,
        "max_steps": 4,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "eval_every_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "show": 3,
    }
    return train(given, folder / "run", pages=True, verify_saved_model="false")


def config_of(run: Run) -> dict:
    return json.loads((run.output / "last_checkpoint" / "config.json").read_text())


def test_the_threshold_is_in_the_log_the_configuration_and_run_json(run):
    logged = [entry["tie_threshold"] for entry in run.trainer.state.log_history if "tie_threshold" in entry]
    assert len(logged) >= 4 and all(1 < value < 3 for value in logged) and len(set(logged)) == len(logged)
    about = json.loads((run.output / "run.json").read_text())
    assert about["tie_model"] == config_of(run)["tie_model"] == "rao_kupper"
    assert about["tie_threshold"] == config_of(run)["tie_threshold"] == run.trainer.objective.threshold.value
    assert {"loss", "ties", "tie_threshold", "list_loss", "list_weight", "tie_learning_rate"} <= about[
        "arguments"
    ].keys()
    lists, ties = map(int, re.findall(r"\d+", about["kinds"]))
    assert lists > 3 and ties > 3 and about["pairs"] > lists + ties


def test_the_report_shows_ties_and_lists(run):
    page = (run.output / "report.html").read_text()
    for words in ("Threshold of ties", "rows that are no ties", "probability of a tie by the model", "ranked answers"):
        assert words in page, words
    preflight = (run.output / "preflight.txt").read_text()
    assert "One list as the model sees it" in preflight and "rank 1" in preflight
    assert "are whole lists of ranked answers and" in preflight


def test_the_model_card_says_how_likely_a_tie_is(run):
    card = (run.output / "last_checkpoint" / "README.md").read_text()
    evaluation = json.loads((run.output / "evaluation.json").read_text())
    assert f"On {evaluation['accuracy']['rows']} pairs" in card and evaluation["ties"]["pairs"] > 0
    assert "- ties: " in card and "are whole lists of ranked answers" in card
    (threshold,) = re.findall(r"in `config.json`, ([\d.]+) \(`rao_kupper`\)", card)
    assert float(threshold) == pytest.approx(config_of(run)["tie_threshold"], rel=1e-3)
    (formula,) = re.findall(r"difference d of their rewards: (.*), where t", card)
    python = (
        formula.replace("²", "**2").replace("exp", "math.exp").replace(") (", ") * (").replace("t math", "t * math")
    )
    t, d = 1.7, 0.6
    expected = rao_kupper_tie(torch.tensor([d], dtype=torch.float64), torch.tensor(t, dtype=torch.float64)).item()
    assert eval(python, {"math": math, "t": t, "d": d}) == pytest.approx(expected)


def test_every_held_out_pair_is_in_the_scores_with_its_probability(run):
    lines = [json.loads(line) for line in Path(run.output / "eval_scores.jsonl").read_text().splitlines()]
    evaluation = json.loads((run.output / "evaluation.json").read_text())
    assert len(lines) == evaluation["pairs"]
    assert sum(line["chosen_probability"] == 0.5 for line in lines) == evaluation["ties"]["pairs"]
