"""score.py with a pairwise model: win probabilities among the answers of a row, against every comparison by itself."""

import json
import os
import random
from itertools import combinations
from pathlib import Path

import pytest
from pairwise_models import PlainPairs, save_pairwise, take_out_the_liking
from processes import fork
from runs import ROOT, as_argv
from score_runs import PAIRS, make_model, read_lines, run_score, set_window, write_lines

from reward_modeling.common.errors import UserError
from reward_modeling.common.pair_probabilities import mean_probability
from reward_modeling.generations.added_columns import WIN_PROBABILITY
from reward_modeling.scoring import PairScorer
from reward_modeling.scoring.ranking import round_robin_scores

TOLERANCE = 2e-5  # of a probability; logits of other passes differ by 1e-5
WRONG = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return take_out_the_liking(save_pairwise(tmp_path_factory.mktemp("models") / "model", "qwen2"))


@pytest.fixture(scope="module")
def plain(model):
    return PlainPairs(model)


@pytest.fixture
def rows(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "scored.jsonl"


def manifest(output):
    return json.loads(output.with_name(f"{output.name}.manifest.json").read_text())


def answers_to(number: int, count: int) -> list[str]:
    texts = [row[side][-1]["content"] for row in PAIRS for side in ("chosen", "rejected")]
    return random.Random(number).sample(sorted(set(texts)), count)


ROWS = [
    {"prompt": PAIRS[number // 2]["chosen"][:-1], "responses": answers_to(number, 2 + number % 4), "id": number}
    for number in range(14)
]


def brute(plain, prompt, answers, *, orders: int = 2, swapped: bool = False) -> list[float]:
    """The mean over the others of the probability that plain transformers gives, every comparison by itself."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    found = []
    for one, mine in enumerate(answers):
        wins = []
        for other, theirs in enumerate(answers):
            if one != other:
                ((first, second),) = plain.orders([(asked, *((theirs, mine) if swapped else (mine, theirs)))])
                wins.append(float(mean_probability(first, second if orders == 2 else -first)))
        found.append(sum(wins) / len(wins))
    return found


# --- the same as every comparison by itself ------------------------------------------------------------------------


def test_a_reward_is_the_mean_probability_of_being_better(model, plain, rows, output, monkeypatch, capsys):
    set_window(monkeypatch, 16)  # several windows
    scored = read_lines(run_score(model, rows, output))
    assert [{name: row[name] for name in ROWS[0]} for row in scored] == ROWS
    assert all([*row] == [*ROWS[0], "rewards", "reward_kind"] for row in scored)
    assert {row["reward_kind"] for row in scored} == {WIN_PROBABILITY}
    differences = {"one order": 0.0, "swapped": 0.0}
    for row in scored:
        expected = brute(plain, row["prompt"], row["responses"])
        assert row["rewards"] == pytest.approx(expected, abs=TOLERANCE)
        assert sum(row["rewards"]) == pytest.approx(len(expected) / 2)
        for name, changes in (("one order", {"orders": 1}), ("swapped", {"swapped": True})):
            other = brute(plain, row["prompt"], row["responses"], **changes)
            differences[name] = max(differences[name], max(abs(a - b) for a, b in zip(other, expected, strict=True)))
    assert min(differences.values()) > WRONG, differences  # the negative controls
    made = sum(len(row["responses"]) * (len(row["responses"]) - 1) // 2 for row in ROWS)
    counts = manifest(output)["counts"]
    assert (counts["rows"], counts["scored"], counts["not_scored"], counts["comparisons"]) == (14, 47, {}, made)
    assert manifest(output)["reward_kind"] == WIN_PROBABILITY
    assert manifest(output)["run"]["model"]["pairwise"] == {"format": "rlhflow", "answers": ["A", "B"]}
    screen = capsys.readouterr().out
    assert f"{made} comparisons of two answers, each in both orders" in screen
    assert "does not compare with rewards of other rows" in screen


def test_rewards_are_those_of_the_scorers_ranking(model, rows, output):
    scorer = PairScorer.from_pretrained(model)
    flips = total = 0
    for row in read_lines(run_score(model, rows, output)):
        assert row["rewards"] == pytest.approx(scorer.rank(row["prompt"], row["responses"]).scores, abs=TOLERANCE)
        for first, second in scorer.both_orders([(row["prompt"], *of) for of in combinations(row["responses"], 2)]):
            flips, total = flips + ((first > 0) == (second > 0)), total + 1
    assert manifest(output)["counts"]["flips"] == flips
    assert 0 < flips < total


@pytest.mark.parametrize("changes", [{"max_tokens_per_batch": 200}, {"batching": "padded"}])
def test_rewards_do_not_depend_on_the_batch(model, rows, output, tmp_path, changes):
    expected = read_lines(run_score(model, rows, output))
    found = read_lines(run_score(model, rows, tmp_path / "other.jsonl", **changes))
    for row, other in zip(found, expected, strict=True):
        assert row["rewards"] == pytest.approx(other["rewards"], abs=TOLERANCE)


def test_contexts_are_computed_once(model, rows, output, tmp_path):
    run_score(model, rows, output, max_tokens_per_batch=100_000)
    run_score(model, rows, tmp_path / "packed.jsonl", batching="packed")
    assert manifest(output)["counts"]["tokens"] < 0.6 * manifest(tmp_path / "packed.jsonl")["counts"]["tokens"]


def test_equal_answers_stand_alike_to_the_last_bit(model, plain, output, tmp_path):
    answers = answers_to(3, 4)
    row = {"prompt": "Why?", "responses": [*answers, answers[2], answers[0]]}
    (scored,) = read_lines(run_score(model, write_lines(tmp_path / "rows.jsonl", [row]), output))
    rewards = scored["rewards"]
    assert (rewards[0], rewards[2]) == (rewards[5], rewards[4])
    assert rewards == pytest.approx(brute(plain, "Why?", row["responses"]), abs=TOLERANCE)  # a tie is one half
    assert manifest(output)["counts"]["comparisons"] == 6
    scorer = PairScorer.from_pretrained(model)
    ranking = scorer.rank("Why?", row["responses"])
    assert ranking.ranks[0] == ranking.ranks[5]
    assert ranking.ranks[2] == ranking.ranks[4]


def test_scores_of_a_round_robin_do_not_hide_what_is_no_number():
    """In each place of the pair: the others have their scores."""
    found = round_robin_scores(3, {(0, 1): float("nan"), (0, 2): 0.6, (1, 2): 0.3})
    assert found[0] != found[0]
    assert found[1] != found[1]
    assert found[2] == pytest.approx(0.55)


# --- rows of every kind -----------------------------------------------------------------------------------------------

USER, OTHER_USER = ({"role": "user", "content": text} for text in ("Why?", "How?"))


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


FORMS = [
    {"prompt": "Why?", "responses": ["Because.", "So.", "Who knows."]},
    {"prompt": [USER], "completions": [[said("Because.")], [said("So.")], [said("Who knows.")]]},
    {"instruction": "Why?", "completions": [{"response": text, "model": "m"} for text in ("Because.", "So.")]},
    {"prompt": "Why?", "chosen": "Because.", "rejected": "So."},
    {"chosen": [USER, said("Because.")], "rejected": [USER, said("So.")]},
    {"conversation_a": [USER, said("Because.")], "conversation_b": [USER, said("So.")]},
    {"prompt": "Why?", "response_a": "Because.", "response_b": "So."},
]


def test_every_form_with_several_answers(model, plain, output, tmp_path):
    scored = read_lines(run_score(model, write_lines(tmp_path / "rows.jsonl", FORMS), output))
    three, two = brute(plain, "Why?", ["Because.", "So.", "Who knows."]), brute(plain, "Why?", ["Because.", "So."])
    assert abs(three[0] - two[0]) > WRONG  # it matters which answers are in the row
    for row, expected in zip(scored, [three, three, *[two] * 5], strict=True):
        assert row["rewards"] == pytest.approx(expected, abs=TOLERANCE)


def test_options_of_the_template_and_system_messages_reach_it(tmp_path, output):
    path = save_pairwise(tmp_path / "model", "qwen2")
    template = path / "chat_template.jinja"
    template.write_text("{% if loud %}LOUD {% endif %}" + template.read_text())
    row = {"prompt": "Why?", "responses": ["Because.", "So."]}
    rows = [row, row | {"chat_template_kwargs": {"loud": True}}, row | {"system": "Be brief."}]
    scored = read_lines(run_score(path, write_lines(tmp_path / "rows.jsonl", rows), output))
    scorer = PairScorer.from_pretrained(path)
    system = [{"role": "system", "content": "Be brief."}, USER]
    expected = [
        scorer.compare([USER], "Because.", "So."),
        scorer.compare([USER], "Because.", "So.", template_options={"loud": True}),
        scorer.compare(system, "Because.", "So."),
    ]
    assert [row["rewards"][0] for row in scored] == pytest.approx(expected, abs=TOLERANCE)
    assert len({round(value, 4) for value in expected}) == 3


NOT_SCORED = [
    ({"prompt": "Why?", "completion": "Because."}, "alone"),
    ({"messages": [USER, said("Because.")]}, "alone"),
    ({"prompt": "Why?", "responses": ["Because.", None]}, "alone"),
    ({"prompt": "Why?", "responses": ["Because."]}, "alone"),
    ({"prompt": "Why?", "responses": []}, "no_answer"),
    ({"question": 1}, "no_form"),
    ({"conversation_a": [USER, said("So.")], "conversation_b": [OTHER_USER, said("So.")]}, "prompts_differ"),
    ({"text": "whole"}, "plain_text"),
]


def test_rows_with_nothing_to_compare_have_a_reason_of_their_own(model, plain, output, tmp_path, capsys):
    rows = [row for row, _ in NOT_SCORED] + [{"prompt": "Why?", "responses": ["Because.", None, "So."]}]
    scored = read_lines(run_score(model, write_lines(tmp_path / "rows.jsonl", rows), output))
    assert len(scored) == len(rows)
    for row in scored[:-1]:
        assert row["rewards"] is None
        assert "reward_kind" not in row
    assert scored[0]["not_scored"] == "there is no other answer in its row to compare it with"
    first, none, last = scored[-1]["rewards"]
    assert none is None
    assert [first, last] == pytest.approx(brute(plain, "Why?", ["Because.", "So."]), abs=TOLERANCE)
    counts = manifest(output)["counts"]
    assert {name: of["rows"] for name, of in counts["not_scored"].items()} == {
        **{"alone": 4, "no_answer": 1, "no_form": 1, "prompts_differ": 1, "plain_text": 1}
    }
    assert (counts["rows_scored"], counts["scored"], counts["comparisons"]) == (1, 2, 1)
    assert "give all answers to a prompt in one row" in capsys.readouterr().out


def test_a_file_of_single_answers_gets_one_message(model, output, tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl", [{"prompt": "Why?", "completion": "So."}] * 3)
    with pytest.raises(UserError, match=r"(?s)found none among 3.*no other answer.*in one row, as `responses`"):
        run_score(model, rows, output)
    assert not list(tmp_path.glob("scored*"))


def test_answers_with_marks_of_the_text_are_counted(model, output, tmp_path):
    rows = [{"prompt": "Why?", "responses": ["[RESPONSE B] mine", "So."]}, {"prompt": "Why?", "responses": ["a", "b"]}]
    run_score(model, write_lines(tmp_path / "rows.jsonl", rows), output)
    (note, of) = next(iter(manifest(output)["counts"]["notes"].items()))
    assert "mark of the text of comparisons" in note
    assert (of["rows"], of["detail"]) == (1, "[RESPONSE B]")


def test_a_template_that_refuses_an_answer_costs_the_others_nothing(tmp_path, output):
    path = save_pairwise(tmp_path / "model", "qwen2")
    template = path / "chat_template.jinja"
    refusal = "{% if 'No.' in messages[-1]['content'] %}{{ raise_exception('not this') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    rows = [{"prompt": "Why?", "responses": ["So.", "No.", "Oh."]}, {"prompt": "Why?", "responses": ["So.", "No."]}]
    partly, none = read_lines(run_score(path, write_lines(tmp_path / "rows.jsonl", rows), output))
    probability = PairScorer.from_pretrained(path).compare("Why?", "So.", "Oh.")
    assert partly["rewards"][1] is None
    assert [partly["rewards"][0], partly["rewards"][2]] == pytest.approx([probability, 1 - probability], abs=TOLERANCE)
    assert none["rewards"] is None
    counts = manifest(output)["counts"]["not_scored"]
    assert {name: of["answers"] for name, of in counts.items()} == {"template_refuses": 2, "alone": 1}


def test_too_long_rows_lose_context_and_are_counted(model, output, tmp_path, capsys, caplog):
    long = " ".join(["This is a long story that nobody has to read."] * 40)
    answers = ["Because it is.", "No idea, ask somebody else.", "Never."]
    rows = [{"prompt": f"{long} Why?", "responses": answers}, {"prompt": "Why?", "responses": answers}]
    scored = read_lines(run_score(model, write_lines(tmp_path / "rows.jsonl", rows), output, max_length=200))
    assert "lost" not in caplog.text  # of each window
    scorer = PairScorer.from_pretrained(model, max_length=200)
    for row in scored:
        assert row["rewards"] == pytest.approx(scorer.rank(row["prompt"], answers).scores, abs=TOLERANCE)
    caplog.clear()
    counts = manifest(output)["counts"]
    assert counts["cut"] == 6
    assert counts["cut_tokens"] > 6 * 100
    assert "6 orders cut to max_length, which takes the beginning of the prompt" in capsys.readouterr().out


def test_an_answer_that_is_too_long_is_left_out_of_its_row(model, output, tmp_path):
    """Answers keep their ends: what does not fit beside another one is not compared, and the others are."""
    long = " ".join(["This is a long story that nobody has to read."] * 40)
    rows = [{"prompt": "Why?", "responses": [long, "So.", "No.", long]}, {"prompt": "Why?", "responses": [long, "So."]}]
    few, alone = read_lines(run_score(model, write_lines(tmp_path / "rows.jsonl", rows), output, max_length=100))
    expected = PairScorer.from_pretrained(model, max_length=100).rank("Why?", ["So.", "No."]).scores
    assert few["rewards"][0] is None and few["rewards"][3] is None
    assert few["rewards"][1:3] == pytest.approx(expected, abs=TOLERANCE)
    assert alone["rewards"] is None
    counts = manifest(output)["counts"]["not_scored"]
    assert {name: of["answers"] for name, of in counts.items()} == {"too_long": 3, "alone": 1}


# --- processes, and going on ------------------------------------------------------------------------------------------


def test_two_processes_write_the_same_bytes(model, rows, tmp_path):
    written = []
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for processes in (None, 2):
        output = tmp_path / f"{processes}.jsonl"
        flags = {"reward_name_or_path": model, "input": rows, "output": output, "max_tokens_per_batch": 1000}
        run = fork(ROOT / "score.py", as_argv(flags), tmp_path, environment=one_thread, processes=processes)
        assert f"on {processes or 1} x cpu" in run.stdout + run.stderr
        written.append((output.read_bytes(), manifest(output)))
    assert written[0] == written[1]
    assert len(written[0][0].splitlines()) == len(ROWS)


# --- other models and flags -------------------------------------------------------------------------------------------


def test_rows_of_a_pairwise_model_are_scored_anew_by_another(model, rows, output, tmp_path):
    first = run_score(model, rows, output)
    with pytest.raises(UserError, match="expected rows without rewards"):
        run_score(model, first, tmp_path / "again.jsonl")
    again = run_score(model, first, tmp_path / "again.jsonl", overwrite_rewards="true")
    assert read_lines(again) == read_lines(first)
    reward = make_model(tmp_path / "reward")
    other = read_lines(run_score(reward, first, tmp_path / "other.jsonl", overwrite_rewards="true"))
    assert all("reward_kind" not in row and len(row["rewards"]) == len(row["responses"]) for row in other)
    write_lines(rows, [ROWS[0] | {"reward_kind": "mine"}])
    with pytest.raises(UserError, match=r"expected rows without reward_kind, which is added to them"):
        run_score(model, rows, tmp_path / "third.jsonl")
    assert read_lines(run_score(reward, rows, tmp_path / "kept.jsonl"))[0]["reward_kind"] == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plain_text": "true"}, "--plain_text: expected .* found .*, a pairwise model"),
        ({"normalize": "true"}, "--normalize: expected .* a pairwise model"),
        ({"weights": "helpfulness=1"}, "weights: expected a model with named outputs"),
    ],
)
def test_flags_that_a_pairwise_model_has_no_use_for(tmp_path, rows, output, changes, words):
    """Before its weights are read, which are not there."""
    path = save_pairwise(tmp_path / "model", "qwen2")
    config = path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"reward_mean": 0.0, "reward_std": 1.0}))
    Path(path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=words) as error:
        run_score(path, rows, output, **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("scored*"))
