"""rm.py with several sets: each evaluation set under its name, the first decides; home; templates."""

import json
import sys

import pytest
from processes import fork
from runs import ROOT, as_argv, same_weights, train, write_rows

import rm
from reward_modeling.common.errors import UserError
from reward_modeling.tiny.preferences import learnable_preferences

ROWS = learnable_preferences(40, seed=1)
EASY = learnable_preferences(8, seed=3)
# Learning makes these worse: the better answer is called the rejected one.
TURNED = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in learnable_preferences(8, seed=4)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("data")
    sets = {"train": ROWS, "easy": EASY, "turned": TURNED}
    return {name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}


@pytest.fixture(scope="module")
def base(gemma_folder, files) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": files["train"],
        "max_length": 256,
        "max_steps": 4,
        "pairs_per_step": 16,
        "learning_rate": 3e-3,
        "eval_every_steps": 1,
        "save_every_steps": 1,
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def named(base, files, tmp_path_factory):
    sets = f"turned={files['turned']},easy={files['easy']}"
    output = tmp_path_factory.mktemp("named") / "output"
    return train(
        base, output, pages=True, eval_set_path=sets, metric_for_best_model="loss", load_best_model_at_end="true"
    )


@pytest.fixture(scope="module")
def single(base, files, tmp_path_factory):
    return train(base, tmp_path_factory.mktemp("single") / "output", eval_set_path=files["easy"])


def evaluations(run) -> list[dict]:
    return [entry for entry in run.history if "eval_loss" in entry]


def test_each_set_is_logged_under_its_name(named, single):
    for entry, alone in zip(evaluations(named)[:4], evaluations(single)[:4], strict=True):
        for figure in ("loss", "accuracy", "accuracy_low", "accuracy_high", "pairs", "margin", "accuracy_question"):
            assert entry[f"eval_easy_{figure}"] == alone[f"eval_{figure}"]
            assert entry[f"eval_{figure}"] == entry[f"eval_turned_{figure}"]
        assert not any(name.startswith("eval_easy") for name in alone)
    assert evaluations(named)[-1]["eval_easy_accuracy"] > 0.7 > 0.3 > evaluations(named)[-1]["eval_turned_accuracy"]


def test_the_first_set_decides_which_model_is_best(named):
    """On its answers every step is worse than the one before; on the other set the last is the best."""
    turned, easy = ([entry[f"eval_{name}_loss"] for entry in evaluations(named)] for name in ("turned", "easy"))
    best = min(range(4), key=turned.__getitem__)
    assert best != min(range(4), key=easy.__getitem__)
    assert named.state["best_global_step"] == evaluations(named)[best]["step"]
    assert same_weights(named.model, named.output / f"checkpoint-{named.state['best_global_step']}")


def test_the_files_of_the_run_have_each_set(named, files):
    evaluation = json.loads((named.output / "evaluation.json").read_text())
    assert evaluation["set"] == "turned" and list(evaluation["sets"]) == ["turned", "easy"]
    for name, figures in evaluation["sets"].items():
        logged = next(entry for entry in evaluations(named) if entry["step"] == evaluation["step"])
        assert figures["accuracy"]["value"] == logged[f"eval_{name}_accuracy"]
        assert figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"]
        assert figures["data"] == f"{name}={files[name]}"
    assert evaluation["sets"]["turned"] == {key: evaluation[key] for key in evaluation["sets"]["turned"]}
    lines = [json.loads(line) for line in (named.output / "eval_scores.jsonl").read_text().splitlines()]
    counts = {name: sum(line["set"] == name for line in lines) for name in ("turned", "easy")}
    assert counts == {name: figures["pairs"] for name, figures in evaluation["sets"].items()}
    report = json.loads((named.output / "data_report.json").read_text())
    assert list(report) == ["train", "eval turned", "eval easy"]
    card, page = (named.model / "README.md").read_text(), (named.output / "report.html").read_text()
    assert "evaluation set: easy" in card and "evaluation set: turned" in card
    assert "Each evaluation set" in page and "<td>easy" in page.replace("<th>", "<td>")


def test_one_set_without_a_name_is_as_before(single):
    evaluation = json.loads((single.output / "evaluation.json").read_text())
    assert "set" not in evaluation and "sets" not in evaluation
    assert "set" not in json.loads((single.output / "eval_scores.jsonl").read_text().splitlines()[0])


def test_a_name_that_figures_have_is_refused_before_anything_is_loaded(base, files, tmp_path):
    with pytest.raises(UserError, match="'loss' begins as figures do"):
        train(base, tmp_path / "output", eval_set_path=f"loss={files['easy']},b={files['turned']}")


def test_two_processes_evaluate_each_set_as_one_does(base, files, tmp_path, single):
    sets = f"turned={files['turned']},easy={files['easy']}"
    flags = base | {"eval_set_path": sets, "output_path": tmp_path / "output"}
    fork(ROOT / "rm.py", as_argv(flags), tmp_path, processes=2)
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    found = [entry["eval_easy_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert found == pytest.approx([entry["eval_loss"] for entry in evaluations(single)], abs=1e-5)


# --- a resume ---------------------------------------------------------------------------------------------------


def test_other_sets_are_named_as_the_cause_of_other_data(base, single, files):
    sets = [f"{files['train']},{files['turned']}", "--max_train_samples"]
    with pytest.raises(
        UserError, match=f"train_set_path: {files['train']} in the checkpoint, now .'{files['train']}', '.*turned.jsonl"
    ):
        train(base, single.output, resume_from_checkpoint="true", train_set_path=sets[0], max_steps=6)
    with pytest.raises(UserError, match="max_train_samples: None in the checkpoint, now 20"):
        train(base, single.output, resume_from_checkpoint="true", max_train_samples=20, max_steps=6)


# --- home and templates -------------------------------------------------------------------------------------------


def test_home_is_one_folder_for_all_that_a_run_writes_and_reads(base, files, tmp_path, monkeypatch):
    """`--output_path=~/runs/a`, which no shell expands: the checkpoint is found again, and nothing is named `~`."""
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    home.mkdir()
    (home / "rows.jsonl").write_bytes(files["train"].read_bytes())
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    flags = base | {"train_set_path": "~/rows.jsonl", "output_path": "~/runs/a", "eval_size": 4, "logging_steps": 1}
    for steps, resume in ((1, "false"), (2, "true")):
        argv = flags | {"max_steps": steps, "resume_from_checkpoint": resume}
        monkeypatch.setattr(sys, "argv", ["rm.py", *as_argv(argv)])
        rm.main()
    assert sorted(path.name for path in (home / "runs" / "a").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert not list(work.iterdir())
    state = json.loads((home / "runs" / "a" / "checkpoint-2" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2]


def test_a_chat_template_of_ones_own_is_saved_and_another_one_refused(base, files, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    run = train(base, tmp_path / "output", chat_template=template, max_steps=1, eval_size=4)
    assert (run.model / "chat_template.jinja").read_text() == template.read_text()
    assert "[assistant]" in (run.output / "preflight.txt").read_text()
    resume = {"resume_from_checkpoint": "true", "max_steps": 2, "eval_size": 4}
    with pytest.raises(UserError, match=r"chat_template: .*own.jinja in the checkpoint, now None"):
        train(base, run.output, **resume)
    template.write_text(template.read_text() + "{% if add_generation_prompt %}[assistant]{% endif %}")
    with pytest.raises(UserError, match="chat_template: the tokenizer's template was another one"):
        train(base, run.output, chat_template=template, **resume)
