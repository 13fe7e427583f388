"""Rewards of a pairwise model: chosen by within a row, and never beside those of another one."""

import json
import random

import pytest
from scored import choose, manifest_of, read_rows, report_of, write_rows

from reward_modeling.common.errors import UserError
from reward_modeling.generations.added_columns import WIN_PROBABILITY
from reward_modeling.scoring.ranking import round_robin_scores


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *flags: choose(monkeypatch, capsys, *flags)


def won_rows(count: int = 12, sizes=(2, 3, 4), seed: int = 0) -> list[dict]:
    """Rows with the scores of random comparisons."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        answers = [f"{'word ' * draw.randint(1, 6)}{place}" for place in range(sizes[number % len(sizes)])]
        pairs = {(one, other): draw.random() for other in range(len(answers)) for one in range(other)}
        rows.append(
            {
                "prompt": f"Question {number}?",
                "responses": answers,
                "rewards": round_robin_scores(len(answers), pairs),
                "reward_kind": WIN_PROBABILITY,
            }
        )
    return rows


def best_and_worst(row) -> tuple[str, str]:
    order = sorted(range(len(row["rewards"])), key=row["rewards"].__getitem__)
    return row["responses"][order[-1]], row["responses"][order[0]]


def test_choices_are_within_a_row(run, tmp_path):
    rows = won_rows()
    given = write_rows(tmp_path / "in.jsonl", rows)
    words = run("--input", given, "--output", tmp_path / "pairs.jsonl")
    found = [
        (row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in read_rows(tmp_path / "pairs.jsonl")
    ]
    assert found == [best_and_worst(row) for row in rows]
    run("--input", given, "--output", tmp_path / "best.jsonl", "--select", "best")
    assert [row["messages"][-1]["content"] for row in read_rows(tmp_path / "best.jsonl")] == [
        best_and_worst(row)[0] for row in rows
    ]
    run("--input", given, "--output", tmp_path / "top.jsonl", "--select", "top_k", "--top_k", "2")
    assert [row["messages"][-1]["content"] for row in read_rows(tmp_path / "top.jsonl")][::2] == [
        best_and_worst(row)[0] for row in rows
    ]
    text = " ".join(words.split())
    assert "The greatest of n win probabilities (rewards)" in text
    assert "In each row it is 0.5 on average" in text
    assert "Rows have 2 to 4 answers with a reward" in text
    assert "mean reward" not in text
    assert report_of(tmp_path / "pairs.jsonl")["curve"][0]["reward"]["value"] == pytest.approx(0.5)
    assert manifest_of(tmp_path / "pairs.jsonl")["reward_kind"] == WIN_PROBABILITY
    assert {row["score_kind"] for row in read_rows(tmp_path / "pairs.jsonl")} == {WIN_PROBABILITY}
    assert not any("reward_kind" in row for row in read_rows(tmp_path / "pairs.jsonl"))
    assert "rm.py with --loss_margin scores would subtract the differences, from 0 to 1, as margins" in text
    page = (tmp_path / "pairs.jsonl.report.html").read_text()
    assert "Win probability of one answer" in page
    assert "Reward of one answer" not in page


def test_other_rewards_are_not_called_so(run, tmp_path):
    rows = [{key: value for key, value in row.items() if key != "reward_kind"} for row in won_rows()]
    words = run("--input", write_rows(tmp_path / "in.jsonl", rows), "--output", tmp_path / "pairs.jsonl")
    assert "win probab" not in words
    assert "reward_kind" not in manifest_of(tmp_path / "pairs.jsonl")
    assert not any("score_kind" in row for row in read_rows(tmp_path / "pairs.jsonl"))


def test_a_prompt_with_several_rows_is_dropped_and_counted(run, tmp_path):
    """Their answers had other opponents. The same answers in two rows had not."""
    rows = won_rows(4, sizes=(3,))
    again = {**rows[0], "responses": ["other 1", "other 2"], "rewards": [0.9, 0.1]}
    turned = {**rows[1], "responses": rows[1]["responses"][::-1], "rewards": rows[1]["rewards"][::-1]}
    alone = {**rows[2], "responses": ["one more"], "rewards": None, "not_scored": "there is no other answer"}
    given = write_rows(tmp_path / "in.jsonl", [*rows, again, turned, alone])
    words = run("--input", given, "--output", tmp_path / "pairs.jsonl")
    report = report_of(tmp_path / "pairs.jsonl")
    assert report["dropped"]["several_rows"] == {"unit": "prompts", "count": 1, "first": f"{given}:1"}
    assert report["prompts"] == 4
    assert [row["chosen"][0]["content"] for row in read_rows(tmp_path / "pairs.jsonl")] == [
        f"Question {number}?" for number in (1, 2, 3)
    ]
    assert "its win probabilities are of several rows with different answers" in words
    # of rewards that compare, the best of both rows is taken
    plain = [{key: value for key, value in row.items() if key != "reward_kind"} for row in [*rows, again]]
    run("--input", write_rows(tmp_path / "plain.jsonl", plain), "--output", tmp_path / "plain-pairs.jsonl")
    assert read_rows(tmp_path / "plain-pairs.jsonl")[0]["chosen"][-1]["content"] == "other 1"


def test_what_needs_rewards_of_several_rows_is_refused(run, tmp_path):
    first, second = (write_rows(tmp_path / f"{name}.jsonl", won_rows(3, seed=name)) for name in (1, 2))
    output = ("--output", tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match=r"--mix: expected rewards that compare between rows.*into one row"):
        run("--mix", f"a={first},b={second}", *output)
    plain = [{key: value for key, value in row.items() if key != "reward_kind"} for row in won_rows(2)]
    other = write_rows(tmp_path / "plain.jsonl", plain)
    with pytest.raises(UserError, match=rf"expected rewards of one kind.* in 3 rows, the first at {first}:1, .* in 2"):
        run("--input", f"{first},{other}", *output)
    with pytest.raises(UserError, match=r"--min_gap: expected at most 1, because .* win probabilities, found 1\.5"):
        run("--input", first, "--min_gap", "1.5", *output)
    assert not list(tmp_path.glob("pairs*"))


def test_margins_of_win_probabilities_get_a_warning(run, tmp_path):
    given = write_rows(tmp_path / "in.jsonl", won_rows())
    words = run("--input", given, "--output", tmp_path / "a.jsonl", "--write_margin", "true")
    assert "WARNING: --write_margin: margins are differences of win probabilities" in words
    assert "WARNING" not in run("--input", given, "--output", tmp_path / "b.jsonl")


def test_another_column_is_no_win_probability(run, tmp_path):
    rows = [row | {"mine": [float(len(answer)) for answer in row["responses"]]} for row in won_rows()]
    given = write_rows(tmp_path / "in.jsonl", rows)
    words = run("--input", given, "--output", tmp_path / "a.jsonl", "--reward_column", "mine", "--min_gap", "2")
    assert "win probab" not in words
    assert json.loads((tmp_path / "a.jsonl.report.json").read_text())["columns"]["reward_kind"] is None
