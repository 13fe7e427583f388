"""score.py with a process model: the probabilities of steps, and rows that have none."""

import json
import os
import re

import pytest
from processes import fork
from runs import ROOT, as_argv
from score_runs import read_lines, run_score, write_lines
from step_models import PROCESS, QUESTIONS, TEXTS, process_of, save_process_model

from reward_modeling.common.errors import UserError
from reward_modeling.generations import windows
from reward_modeling.generations.forms.sides import STEP_LISTS
from reward_modeling.scoring import StepScorer

BLANK_LINE = "\n\n"
ROWS = [
    {"prompt": question, "responses": [BLANK_LINE.join(TEXTS[number : number + 1 + place]) for place in range(3)]}
    for number, question in enumerate(QUESTIONS[:3])
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_process_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "scored.jsonl"


def manifest(output):
    return json.loads(output.with_name(f"{output.name}.manifest.json").read_text())


def score(model, rows, output, **changes):
    path = write_lines(output.with_name(f"rows-{output.name}"), rows)
    return read_lines(run_score(model, path, output, **changes))


def test_steps_are_those_of_the_scorer_and_the_reward_their_least(model, output):
    scorer = StepScorer.from_pretrained(model)
    for row in score(model, ROWS, output):
        assert [*row] == [*ROWS[0], "rewards", "steps"]
        steps = scorer.score_many([(row["prompt"], answer.split(BLANK_LINE)) for answer in row["responses"]])
        assert [len(of) for of in row["steps"]] == [1, 2, 3]
        for of, expected, reward in zip(row["steps"], steps, row["rewards"], strict=True):
            assert of == pytest.approx(expected, abs=1e-5)
            assert reward == min(of)
    assert manifest(output)["run"]["model"]["process"] == PROCESS


def test_an_answer_that_does_not_fit_has_a_reason_of_its_own(model, output, capsys):
    long = BLANK_LINE.join(TEXTS * 10)
    rows = [{"prompt": "Why?", "responses": ["So.", long]}, {"prompt": "Why?", "completion": long}]
    partly, none = score(model, rows, output, max_length=100)
    assert partly["rewards"][1] is partly["steps"][1] is None
    assert partly["rewards"][0] == min(partly["steps"][0])
    assert none["rewards"] is None
    assert none["not_scored"] == "it does not fit into max_length, whatever is cut of the prompt"
    counts = manifest(output)["counts"]
    assert {name: (of["rows"], of["answers"]) for name, of in counts["not_scored"].items()} == {"too_long": (1, 2)}
    assert counts["scored"] == 1
    assert "1 row and 2 answers" in capsys.readouterr().out


def test_windows_in_which_no_answer_fits(model, output, monkeypatch):
    """And a file without any other row, of which no output is left."""
    monkeypatch.setattr(windows, "WINDOW", 1)
    long = {"prompt": "Why?", "responses": [BLANK_LINE.join(TEXTS * 10)]}
    first, second, third = score(model, [long, ROWS[0], {**long, "prompt": "How?"}], output, max_length=100)
    assert None not in second["rewards"]
    assert first["rewards"] is third["rewards"] is None
    assert manifest(output)["counts"]["not_scored"]["too_long"]["answers"] == 2
    alone = output.with_name("alone.jsonl")
    with pytest.raises(UserError, match=r"found none among 1(.|\n)*it does not fit into max_length"):
        score(model, [long], alone, max_length=100)
    assert not alone.exists()


def test_two_processes_write_the_same_bytes(model, tmp_path):
    """Also of answers that do not fit, which one process alone gives back."""
    long = BLANK_LINE.join(TEXTS * 10)
    rows = write_lines(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "Why?", "responses": ["So.", long]}, *ROWS])
    written = []
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for processes in (None, 2):
        output = tmp_path / f"{processes}.jsonl"
        flags = {"reward_name_or_path": model, "input": rows, "output": output, "max_length": 100}
        flags |= {"max_tokens_per_batch": 150}
        fork(ROOT / "score.py", as_argv(flags), tmp_path, environment=one_thread, processes=processes)
        written.append((output.read_bytes(), manifest(output)))
    assert written[0] == written[1]
    assert written[0][1]["counts"]["not_scored"]["too_long"]["answers"] == 1


def test_a_long_prompt_is_cut_and_counted(model, output):
    prompt = " ".join(TEXTS * 10)
    (row,) = score(model, [{"prompt": prompt, "responses": ["So.", "No."]}], output, max_length=100)
    assert None not in row["rewards"]
    assert manifest(output)["counts"]["cut"] == 2


def test_an_answer_without_steps_has_none(model, output):
    """White space says nothing; blank parts between steps are left out."""
    rows = [{"prompt": "Why?", "responses": ["So.", "\n\n \n\n", "", "\n\nSo.\n\n\n\nYes.\n\n"]}]
    (row,) = score(model, rows, output)
    assert [steps and len(steps) for steps in row["steps"]] == [1, None, None, 2]
    assert manifest(output)["counts"]["not_scored"]["no_step"]["answers"] == 2


def test_without_a_separator_a_step_needs_a_token(tmp_path, output):
    path = save_process_model(tmp_path / "model", process=PROCESS | {"separator": ""})
    (row,) = score(path, [{"prompt": "Why?", "responses": ["So.\n\nYes.", "So."]}], output)
    assert [len(steps) for steps in row["steps"]] == [2, 1]
    assert manifest(output)["counts"]["not_scored"] == {}


def test_lists_of_steps_are_steps_whatever_stands_in_them(model, tmp_path, output):
    """A text is split at the model's separator; a list is not, and is one step of an outcome model."""
    lists = [["First.", "So.\n\nYes."], ["No."]]
    rows = [
        {"prompt": "Why?", "responses": lists},
        {"prompt": "Why?", "completion": lists[0]},
        {"prompt": "Why?", "responses": [BLANK_LINE.join(of) for of in lists]},
        {"prompt": "Why?", "responses": [["So.", " "], lists[1]]},
    ]
    scored = score(model, rows, output)
    first, second = StepScorer.from_pretrained(model).score_many([("Why?", of) for of in lists])
    assert scored[0]["steps"] == [pytest.approx(first, abs=1e-5), pytest.approx(second, abs=1e-5)]
    assert scored[1]["steps"] == [pytest.approx(first, abs=1e-5)]
    assert [len(steps) for steps in scored[2]["steps"]] == [3, 1]
    assert scored[3]["steps"] == [None, pytest.approx(second, abs=1e-5)]
    counts = manifest(output)["counts"]
    assert counts["not_scored"]["no_step"]["detail"] == "step 1 is empty"
    assert counts["notes"][STEP_LISTS]["rows"] == 3
    outcome = save_process_model(tmp_path / "orm", process=PROCESS | {"outcome": True, "separator": ""})
    whole = score(outcome, rows[:3], tmp_path / "orm.jsonl")
    assert whole[0]["steps"] == whole[2]["steps"] == [[reward] for reward in whole[0]["rewards"]]


def test_an_outcome_model_has_one_step(tmp_path, output):
    path = save_process_model(tmp_path / "model", process=PROCESS | {"outcome": True, "separator": ""})
    for row in score(path, ROWS, output):
        assert row["steps"] == [[reward] for reward in row["rewards"]]


@pytest.mark.parametrize("family", ["gemma2", "bert"])
def test_other_families(tmp_path, output, family):
    path = save_process_model(tmp_path / "model", family, process=process_of(family))
    for row in score(path, ROWS, output):
        assert [len(steps) for steps in row["steps"]] == [1, 2, 3]


def test_a_model_that_writes_prompts_as_they_are_needs_no_template(tmp_path, output):
    path = save_process_model(tmp_path / "model", process=PROCESS | {"chat": False, "separator": "\n"})
    (path / "chat_template.jinja").unlink()
    rows = [{"prompt": "Why?", "responses": ["So.\nYes.", "No."]}]
    (row,) = score(path, rows, output)
    expected = StepScorer.from_pretrained(path).score("Why?", ["So.", "Yes."])
    assert row["steps"][0] == pytest.approx(expected, abs=1e-5)


def test_rows_of_steps_for_training_are_pointed_out(model, output, capsys):
    score(model, [{"prompt": "Why?", "completions": ["First.", "So."], "labels": [True, False]}], output)
    screen = capsys.readouterr().out
    assert "which may be the steps of one answer" in screen
    assert "Give the steps of one answer as `completion`" in screen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plain_text": "true"}, "--plain_text: expected .* a process model"),
        ({"normalize": "true"}, "--normalize: expected .* a process model"),
        ({"weights": "a=1"}, "weights: expected a model with named outputs"),
    ],
)
def test_flags_that_a_process_model_has_no_use_for(model, output, changes, words):
    with pytest.raises(UserError, match=words) as error:
        score(model, ROWS, output, **changes)
    assert re.sub(r"\s", " ", str(error.value)) == str(error.value)


def test_a_model_of_others_has_to_be_told_where_steps_end(tmp_path, output, caplog):
    """As TRL saves one; the message names the flag."""
    path = save_process_model(tmp_path / "model", process=None)
    rows = [{"prompt": "Why?", "responses": ["So.\nYes.", "No."]}]
    with pytest.raises(UserError, match=r"nothing that says where a step ends.*--step_separator '\\n'"):
        score(path, rows, output)
    caplog.set_level("INFO")
    (row,) = score(path, rows, output, step_separator="\\n")
    expected = StepScorer.from_pretrained(path, separator="\n").score("Why?", ["So.", "Yes."])
    assert row["steps"][0] == pytest.approx(expected, abs=1e-5)
    told = {"separator": "\n", "chat": False, "outcome": False, "aggregation": "min"}
    assert manifest(output)["run"]["model"]["process"] == told
    assert "Steps: each ends in '\\n'" in caplog.text and "the prompt stands as it is" in caplog.text
    (chat,) = score(path, rows, tmp_path / "chat.jsonl", step_separator="\\n", prompt_format="chat")
    expected = StepScorer.from_pretrained(path, separator="\n", chat=True).score("Why?", ["So.", "Yes."])
    assert chat["steps"][0] == pytest.approx(expected, abs=1e-5)
    assert chat["steps"] != row["steps"]


def test_flags_of_steps_that_say_nothing_of_the_model(model, output):
    with pytest.raises(UserError, match="--step_separator: expected a text that stands out"):
        score(model, ROWS, output, step_separator=" ")
    with pytest.raises(UserError, match=r"--prompt_format: expected one of chat, plain, found 'plan'; did you mean"):
        score(model, ROWS, output, prompt_format="plan")
