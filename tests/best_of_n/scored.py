"""Scored rows, and best_of_n.py run on them in this process."""

import gzip
import json
import random
from pathlib import Path

import best_of_n


def write_rows(path: Path, rows) -> Path:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def read_rows(path: Path) -> list[dict]:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def random_rows(count=40, seed=0):
    """Prompts with two to six answers, of which some have equal rewards, some are equal, empty or without a reward."""
    random_numbers = random.Random(seed)
    rows = []
    for number in range(count):
        lengths = [random_numbers.randint(1, 9) for _ in range(2 + number % 5)]
        answers = [f"{'word ' * length}{random_numbers.randint(0, 4)}" for length in lengths]
        rewards = [float(random_numbers.randint(-3, 3)) for _ in answers]
        if number % 7 == 0:
            answers[0] = " "
        if number % 5 == 0:
            rewards[-1] = None
        right = [answer.endswith("1") for answer in answers]
        finals = [answer[-1] for answer in answers]
        rows.append(
            {
                "prompt": f"Question {number}?",
                "responses": answers,
                "rewards": rewards,
                "is_correct": right,
                "final": finals,
            }
        )
    return rows


def choose(monkeypatch, capsys, *flags) -> str:
    """Run the script; what it says on the screen."""
    monkeypatch.setattr("sys.argv", ["best_of_n.py", *map(str, flags)])
    capsys.readouterr()
    best_of_n.main()
    return capsys.readouterr().out


def report_of(output: Path) -> dict:
    return json.loads(output.with_name(output.name + ".report.json").read_text())


def manifest_of(output: Path) -> dict:
    return json.loads(output.with_name(output.name + ".manifest.json").read_text())
