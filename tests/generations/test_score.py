"""score.py: the same rows with the rewards of plain transformers, whatever stops it and however many processes."""

import csv
import json
import logging
import os
import re
from dataclasses import fields

import pytest
from evaluations import PlainModel
from processes import fork
from published_gate import write_published_folder
from rating_models import NAMES, WEIGHTS, with_ratings
from runs import ROOT, as_argv
from safetensors.torch import load_file, save_file
from score_runs import (
    generations,
    make_config,
    make_model,
    make_tokenizer,
    read_lines,
    run_score,
    save_classifier,
    set_window,
    write_lines,
)

from reward_modeling.common.errors import UserError
from reward_modeling.generations import output_file, progress
from reward_modeling.generations.added_columns import ADDED
from reward_modeling.scoring import RewardScorer, ScoredConversation
from reward_modeling.scoring.readouts.base import columns_of_answers
from reward_modeling.scoring.readouts.gated import Gated
from reward_modeling.scoring.readouts.one_label import OneLabel
from reward_modeling.scoring.readouts.ratings import Quantiles, Ratings
from reward_modeling.scoring.readouts.steps import Steps

ROWS = generations()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def plain(model):
    return PlainModel(model)


@pytest.fixture
def rows(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "scored.jsonl"


def manifest(output):
    return json.loads(output.with_name(f"{output.name}.manifest.json").read_text())


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_get_the_rewards_of_plain_transformers(model, plain, rows, output, monkeypatch):
    set_window(monkeypatch, 16)  # several windows
    scored = read_lines(run_score(model, rows, output))
    assert [{name: row[name] for name in ROWS[0]} for row in scored] == ROWS
    assert all([*row] == [*ROWS[0], "rewards"] for row in scored)
    for row in scored:
        assert row["rewards"] == pytest.approx([plain(row["prompt"], answer) for answer in row["responses"]], abs=1e-4)
    assert len({reward for row in scored for reward in row["rewards"]}) > 25  # the negative control
    counts = manifest(output)["counts"]
    assert (counts["rows"], counts["scored"], counts["not_scored"]) == (24, 72, {})
    assert counts["forms"] == {"responses": 24}


@pytest.mark.parametrize("changes", [{"max_tokens_per_batch": 200}, {"batching": "padded"}])
def test_rewards_do_not_depend_on_the_batch(model, rows, output, tmp_path, changes):
    expected = read_lines(run_score(model, rows, output))
    found = read_lines(run_score(model, rows, tmp_path / "other.jsonl", **changes))
    for row, other in zip(found, expected, strict=True):
        assert row["rewards"] == pytest.approx(other["rewards"], abs=1e-5)


def shift_weights(path):
    """Let the weights begin at 8 bytes behind a multiple of 16: in a file that is mapped they are used from there."""
    tensors = load_file(path)
    for padding in range(16):
        save_file(tensors, path, metadata={"format": "pt", "padding": "x" * padding})
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") % 16 == 0:
                return
    raise AssertionError("no padding shifts them")


def test_two_processes_write_the_same_bytes(tmp_path, rows):
    path = make_model(tmp_path / "model", hidden_size=64)
    shift_weights(path / "model.safetensors")
    written = []
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for processes in (None, 1, 2):  # none is plain `python`
        output = tmp_path / f"{processes}.jsonl"
        flags = {"reward_name_or_path": path, "input": rows, "output": output}
        run = fork(ROOT / "score.py", as_argv(flags), tmp_path, environment=one_thread, processes=processes)
        assert f"on {processes or 1} x cpu" in run.stdout + run.stderr
        written.append((output.read_bytes(), manifest(output)))
    assert written[0] == written[1] == written[2]
    assert len(written[0][0].splitlines()) == len(ROWS)


def test_outputs_of_a_model_of_ratings(tmp_path, rows, output):
    tokenizer = make_tokenizer()
    path = save_classifier(tmp_path / "ratings", tokenizer, with_ratings(make_config(tokenizer)))
    scored = read_lines(run_score(path, rows, output))
    expected = RewardScorer.from_pretrained(path).score_named(
        [[*row["prompt"], {"role": "assistant", "content": text}] for row in ROWS for text in row["responses"]]
    )
    found = [(reward, of) for row in scored for reward, of in zip(row["rewards"], row["attributes"], strict=True)]
    for (reward, attributes), one in zip(found, expected, strict=True):
        assert reward == pytest.approx(one.reward, abs=1e-5)
        assert attributes == pytest.approx(one.attributes, abs=1e-4)
        assert list(attributes) == NAMES
    assert manifest(output)["run"]["model"]["reward_weights"] == WEIGHTS
    other = run_score(path, rows, tmp_path / "weights.jsonl", weights="verbosity=1")
    for row in read_lines(other):
        assert row["rewards"] == pytest.approx([of["verbosity"] for of in row["attributes"]], abs=1e-5)
    write_lines(rows, [*ROWS, {**ROWS[0], "attributes": "mine"}])
    with pytest.raises(UserError, match=r"without attributes, which is added to them, found it at .*rows.jsonl:25"):
        run_score(path, rows, tmp_path / "third.jsonl")
    assert not list(tmp_path.glob("third*"))  # before anything is scored


def test_gate_weights_of_a_mixture(tmp_path, rows, output):
    tokenizer = make_tokenizer()
    path = tmp_path / "gated"
    write_published_folder(path, tokenizer, make_config(tokenizer), objectives=3)
    write_lines(rows, [*ROWS[:4], {"text": "as it stands"}])
    scored = read_lines(run_score(path, rows, output, plain_text="true"))
    for row in scored[:4]:
        assert [*row] == [*ROWS[0], "rewards", *Gated.beside]
        assert len(row["attributes"]) == len(row["gate_weights"]) == len(row["rewards"])
        assert len({json.dumps(weights) for weights in row["gate_weights"]}) == 1  # one prompt, one gate
    assert scored[4]["not_scored"].startswith("it is not known where the prompt ends")


def test_normalized_rewards(tmp_path, rows, output):
    path = make_model(tmp_path / "model", reward_mean=0.25, reward_std=0.5)
    raw = read_lines(run_score(path, rows, output))
    for row, other in zip(read_lines(run_score(path, rows, tmp_path / "x.jsonl", normalize="true")), raw, strict=True):
        assert row["rewards"] == pytest.approx([(reward - 0.25) / 0.5 for reward in other["rewards"]], abs=1e-5)


# --- rows of every kind -----------------------------------------------------------------------------------------------

MIXED = [
    {"prompt": "Why?", "responses": ["Because.", None, "So.<|im_end|>", "Because."]},
    {"question": "no form"},
    {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}], "n": 1e400},
    {"prompt": "Why?", "chosen": "Because.", "rejected": "So.[/INST]"},
    {"messages": [{"role": "user", "content": "Why?"}]},
    {"prompt": "Why?", "responses": []},
    {"instruction": "Why?", "output": "Because.", "generator": "x", "dataset": "y"},
]


def test_rows_that_cannot_be_scored_keep_their_places(model, plain, rows, output, capsys):
    scored = read_lines(run_score(model, write_lines(rows, MIXED), output))
    because, so = plain("Why?", "Because."), plain("Why?", "So.<|im_end|>")
    first = scored[0]["rewards"]
    assert [first[0], first[2]] == pytest.approx([because, so], abs=1e-4)
    assert first[1] is None
    assert first[3] == first[0]
    for number, reason in {1: "no form", 4: "last message", 5: "no answer"}.items():
        assert scored[number]["rewards"] is None
        assert reason in scored[number]["not_scored"]
    assert [len(scored[number]["rewards"]) for number in (2, 3, 6)] == [1, 2, 1]
    assert "not_scored" not in scored[0] | scored[2]
    counts = manifest(output)["counts"]
    assert {name: (of["rows"], of["answers"]) for name, of in counts["not_scored"].items()} == {
        "no_answer": (1, 1),
        "no_form": (1, 0),
        "last_not_assistant": (1, 0),
    }
    assert (counts["rows"], counts["rows_scored"], counts["answers"], counts["scored"]) == (7, 4, 8, 7)
    screen = capsys.readouterr().out
    for words in ("7 rows, 8 answers: 7 scored in 4 rows", "<|im_end|>", "[/INST]", "equal answers", "rows.jsonl:2"):
        assert words in screen


def test_half_characters_do_not_stop_a_run(model, rows, output):
    write_lines(rows, [{"\ud800": 1}, {"prompt": "Why?", "completion": "So."}, {"messages": [{"role": "\ud800"}]}])
    scored = read_lines(run_score(model, rows, output))
    assert [row["rewards"] is None for row in scored] == [True, False, True]
    assert "\\ud800" in scored[0]["not_scored"]
    assert "\\ud800" in manifest(output)["counts"]["not_scored"]["no_form"]["detail"]


def test_a_template_that_refuses_costs_the_answer_its_reward(tmp_path, rows, output):
    path = make_model(tmp_path / "model")
    template = path / "chat_template.jinja"
    refusal = "{% if messages[-1]['content'] == 'No.' %}{{ raise_exception('not this') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    write_lines(rows, [{"prompt": "Why?", "responses": ["No.", "So."]}, {"prompt": "Why?", "completion": "No."}])
    partly, none = read_lines(run_score(path, rows, output))
    assert partly["rewards"][0] is None
    assert partly["rewards"][1] is not None
    assert none["rewards"] is None
    assert none["not_scored"] == "the chat template refuses it (not this; roles: user, assistant)"
    write_lines(rows, [{"prompt": "Why?", "completion": "No."}])
    with pytest.raises(UserError, match="expected rows that can be scored, found none among 1"):
        run_score(path, rows, tmp_path / "other.jsonl")
    assert not list(tmp_path.glob("other*"))


def test_plain_text_is_scored_as_it_stands(model, rows, output, tmp_path):
    write_lines(rows, [{"prompt": "<s>[INST] Why? [/INST]", "responses": [" So.", " No."]}, {"text": "whole"}])
    scored = read_lines(run_score(model, rows, output, plain_text="true"))
    texts = ["<s>[INST] Why? [/INST] So.", "<s>[INST] Why? [/INST] No.", "whole"]
    found = [reward for row in scored for reward in row["rewards"]]
    assert found == pytest.approx(RewardScorer.from_pretrained(model).score(texts), abs=1e-5)
    first, second = read_lines(run_score(model, rows, tmp_path / "chat.jsonl"))
    assert first["rewards"] != pytest.approx(found[:2], abs=1e-3)
    assert "--plain_text true" in second["not_scored"]


def test_answers_that_are_json_are_texts_but_in_a_table(model, plain, output, tmp_path):
    text = json.dumps([{"role": "user", "content": "Say so."}, {"role": "assistant", "content": "So."}])
    rows = write_lines(tmp_path / "rows.jsonl", [{"prompt": "Why?", "responses": [text, "So."]}])
    (row,) = read_lines(run_score(model, rows, output))
    assert row["rewards"] == pytest.approx([plain("Why?", text), plain("Why?", "So.")], abs=1e-4)
    assert manifest(output)["counts"]["notes"]["texts that hold messages as JSON, and are scored as texts"]["rows"] == 1
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["prompt", "responses"], [json.dumps([{"role": "user", "content": "Why?"}]), '["So."]']]
        )
    (row,) = read_lines(run_score(model, table, tmp_path / "table.jsonl"))
    assert row["rewards"] == pytest.approx([plain("Why?", "So.")], abs=1e-4)
    # as lists, so that who reads the output need not know that it was a table
    assert (row["prompt"], row["responses"]) == ([{"role": "user", "content": "Why?"}], ["So."])


def test_columns_questions_and_limit(model, plain, rows, output, tmp_path):
    write_lines(rows, [{"q": "Why?", "a": {"text": "So."}, "b": {"text": "No."}}] * 3)
    run_score(model, rows, output, columns="prompt=q,responses=a.text+b.text", limit=2)
    expected = [plain("Why?", "So."), plain("Why?", "No.")]
    assert [row["rewards"] for row in read_lines(output)] == [pytest.approx(expected, abs=1e-4)] * 2
    questions = write_lines(tmp_path / "question.jsonl", [{"question_id": "x", "turns": [{"content": "Why?"}]}])
    write_lines(rows, [{"question_id": "x", "model_id": "m", "choices": [{"index": 0, "turns": [{"content": "So."}]}]}])
    (row,) = read_lines(run_score(model, rows, tmp_path / "arena.jsonl", questions=questions))
    assert row["rewards"] == pytest.approx(expected[:1], abs=1e-4)


def test_an_infinite_reward_is_null(tmp_path, rows, output):
    path = make_model(tmp_path / "model", reward_mean=0.0, reward_std=5e-46)  # by which float32 overflows
    with pytest.raises(UserError, match="the reward is infinite or not a number"):
        run_score(path, rows, output, normalize="true")


def test_every_column_that_a_model_adds_is_known():
    assert {name for kind in (OneLabel, Ratings, Quantiles, Gated, Steps) for name in kind.beside} < {*ADDED}
    everything = ScoredConversation(0.5, {"a": 1.0}, {"a": 1.0}, {"a": (0.0, 1.0)}, [0.5])
    assert all(getattr(everything, field.name) for field in fields(everything))
    assert set(ADDED) == {*columns_of_answers([everything]), "reward_kind", "not_scored"}


def test_lines_say_how_far_it_is_where_nobody_looks_at_a_bar(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = iter((0.0, 10.0, 35.0, 40.0, 66.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    rows = progress.RowProgress(1_000, 200, speaks=True)
    rows.within(0.5, 100)  # too early
    rows.finish(350)
    rows.within(0.1, 100)
    rows.finish(310)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Scored 550 of 1,000 rows (55.0%): 10.0 rows/s, 0:00:45 left.",
        "Scored 860 of 1,000 rows (86.0%): 10.0 rows/s, 0:00:14 left.",
    ]


# --- going on ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def run_killed(model, rows, output, *, window, **changes):
    """A run that ends while it writes this window, of which a part is in the file."""
    append = output_file.Writer.append

    def torn(writer, lines, counts):
        torn.count += 1
        if torn.count > window:
            writer.file.write(lines[0].encode()[:20])
            writer.file.flush()
            raise Killed
        append(writer, lines, counts)

    torn.count = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_file.Writer, "append", torn)
        with pytest.raises(Killed):
            run_score(model, rows, output, **changes)


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("name", ["scored.jsonl", "scored.jsonl.gz"])
def test_a_killed_run_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch, name, window):
    set_window(monkeypatch, 16)
    rows = write_lines(tmp_path / "rows.jsonl", [*ROWS, *MIXED])
    whole = run_score(model, rows, tmp_path / f"whole-{name}")
    output = tmp_path / name
    run_killed(model, rows, output, window=window)
    assert not output.exists()
    run_score(model, rows, output, resume="true")
    assert output.read_bytes() == whole.read_bytes()
    assert manifest(output) == manifest(whole)
    assert not list(tmp_path.glob("*.partial*"))


def test_another_model_input_or_flag_does_not_go_on(model, rows, output, tmp_path, monkeypatch):
    set_window(monkeypatch, 16)
    run_killed(model, rows, output, window=1)
    other = make_model(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(UserError, match=r"- model, weights: \w+ then, \w+ now"):
        run_score(other, rows, output, resume="true")
    with pytest.raises(UserError, match=r"- flags, limit: None then, 20 now"):
        run_score(model, rows, output, resume="true", limit=20)
    with pytest.raises(UserError, match=r"- model, dtype: float32 then, bfloat16 now"):
        run_score(model, rows, output, resume="true", dtype="bfloat16")
    with pytest.raises(UserError, match="which an earlier run has begun"):
        run_score(model, rows, output)
    write_lines(rows, [*ROWS[1:], ROWS[0]])
    with pytest.raises(UserError, match=r"- input, fingerprint: \w+ then, \w+ now"):
        run_score(model, rows, output, resume="true")
    assert len(read_lines(run_score(model, rows, output, overwrite_output="true"))) == len(ROWS)


def test_a_finished_run_that_is_started_again_has_nothing_to_do(model, rows, output, caplog):
    caplog.set_level(logging.INFO)
    run_score(model, rows, output, resume="true")
    written = output.stat()
    run_score(model, rows, output, resume="true")
    assert output.stat() == written
    assert f"Finished already: {output}" in caplog.text
    with pytest.raises(UserError, match=r"- flags, limit: None then, 20 now"):
        run_score(model, rows, output, resume="true", limit=20)


def test_rewards_are_replaced_where_that_is_asked_for(model, rows, output, tmp_path):
    write_lines(rows, MIXED)
    first = run_score(model, rows, output)
    with pytest.raises(UserError, match=r"without rewards, which is added to them, found it at .*scored.jsonl:1"):
        run_score(model, first, tmp_path / "again.jsonl")
    again = run_score(model, first, tmp_path / "again.jsonl", overwrite_rewards="true")
    assert read_lines(again) == read_lines(first)
    with pytest.raises(UserError, match="expected a new file, found one"):
        run_score(model, rows, output)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_mistakes_are_found_before_the_model_is_loaded(rows, output, tmp_path):
    none = tmp_path / "no-model"
    for changes, message in (
        ({"input": tmp_path / "nothing.jsonl"}, "--input: expected an existing path"),
        (
            {"columns": "prompt=nowhere"},
            "--columns: expected a column nowhere in .* columns found: prompt, responses, id",
        ),
        ({"columns": "promt=id"}, "did you mean prompt"),
        ({"limit": 0, "max_length": 1}, "--max_length: expected at least 2, found 1\n--limit: expected at least 1"),
        ({"questions": tmp_path / "nothing.jsonl"}, "--questions: expected an existing path"),
        ({"output": rows, "overwrite_output": "true"}, "found it among those of --input"),
    ):
        with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
            run_score(none, **{"rows": rows, "output": output} | changes)
    write_lines(rows, [{"question": 1}])
    with pytest.raises(UserError, match=r"columns found: question\.\nRows may have prompt and responses"):
        run_score(none, rows, output)
    write_lines(rows, [{"data": ROWS, "version": 1}])
    with pytest.raises(UserError, match=r"found one object with rows in data\..*jq -c '\.data\[\]' FILE"):
        run_score(none, rows, output)
    rows.write_text("")
    with pytest.raises(UserError, match="it is empty"):
        run_score(none, rows, output)
    assert not list(tmp_path.glob("scored*"))


def test_messages_need_a_chat_template(tmp_path, rows, output):
    path = make_model(tmp_path / "model")
    template = path / "chat_template.jinja"
    kept = template.rename(tmp_path / "kept.jinja")
    with pytest.raises(UserError, match="--chat_template FILE; --plain_text true"):
        run_score(path, rows, output)
    run_score(path, rows, output, chat_template=kept)
    write_lines(rows, [{"prompt": "a", "responses": ["b"]}])
    run_score(path, rows, tmp_path / "plain.jsonl", plain_text="true")
