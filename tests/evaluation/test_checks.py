"""Rows that are scored although the chat template leaves something out of them: counted, named, and warned of last."""

import json
from pathlib import Path

import pytest
import torch
from evaluations import PlainModel, evaluate, flags, read_lines
from runs import write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification

from reward_modeling.evaluation.benchmarks.reading import read_benchmark
from reward_modeling.evaluation.checks import check_rows
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.tokenizers import token_ids

TURN = "<|im_start|>{{ m.role }}\n%s<|im_end|>\n"
WHOLE = "{% for m in messages %}" + TURN % "{{ m.content }}" + "{% endfor %}"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}" + TURN % "{{ m.content }}" + "{% endfor %}"
NO_THOUGHTS = WHOLE.replace("m.content", "m.content.split('</think>')[-1]")
ANSWER_LOST = "Pairs: the chat template leaves out a part of an answer in "
MESSAGE_LOST = "Pairs: the chat template leaves out a message in "
HINT = ". If the model was trained with another chat template, pass it as --chat_template"
SYSTEM = {"role": "system", "content": "Be brief."}
TOLERANCE = 1e-4


def make_model(folder: Path, template: str) -> Path:
    tokenizer = train_tokenizer(["How do I bake rye bread? First knead, then wait."], 300, **TOKENIZER_STYLES["chatml"])
    tokenizer.chat_template = template
    config = tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows() -> list[dict]:
    """Eight pairs, of which 3, 4 and 5 begin with a system message and 4 and 7 have a thought in one answer."""
    found = []
    for number in range(1, 9):
        prompt = [SYSTEM] * (number in (3, 4, 5)) + [{"role": "user", "content": f"Why {number}?"}]
        row = {"prompt": prompt, "chosen": f"It is {number}.", "rejected": f"No {number}."}
        side = {4: "rejected", 7: "chosen"}.get(number)
        found.append(row | ({side: f"<think>I add {number}.</think>{row[side]}"} if side else {}))
    return found


@pytest.mark.parametrize(
    ("template", "warning"),
    [
        (WHOLE, None),  # the negative control
        (
            NO_SYSTEM,
            MESSAGE_LOST + "3 of 8 rows (37.5%), which are scored without it; the first, {}:3: system 'Be brief.'",
        ),
        (
            NO_THOUGHTS,
            ANSWER_LOST + "2 of 8 rows (25.0%), which are scored without it; the first, {}:4: "
            "'<think>I add 4.</think>No 4.'",
        ),
    ],
    ids=["whole", "no_system", "no_thoughts"],
)
def test_pairs_that_lose_something_are_counted_and_scored_all_the_same(template, warning, tmp_path, capsys):
    path = make_model(tmp_path / "model", template)
    pairs = write_rows(tmp_path / "pairs.jsonl", rows())
    folder = evaluate(flags(path, {"pairs": pairs}, tmp_path))
    part = json.loads((folder / "summary.json").read_text())["benchmarks"]["pairs"]
    assert part["warnings"] == ([warning.format(pairs) + HINT] if warning else [])
    screen = capsys.readouterr().out
    assert ("WARNING: " in screen) == bool(warning)
    if warning:  # nothing comes after it
        assert "".join(screen.rpartition("WARNING: ")[2].split()) == "".join(part["warnings"][0].split())
    plain = PlainModel(path)
    for row, line in zip(rows(), read_lines(folder / "scores.jsonl"), strict=True):
        for side in ("chosen", "rejected"):
            assert line[f"{side}_reward"] == pytest.approx(plain(row["prompt"], row[side]), abs=TOLERANCE)
    assert part["pairs"]["accuracy"]["rows"] == 8


def test_a_public_benchmark_is_looked_at_too_and_refused_rows_are_no_losses(tmp_path):
    refuses = "{% if messages[0].content == 'Why 5?' %}{{ raise_exception('not this') }}{% endif %}"
    path = make_model(tmp_path / "model", refuses + NO_THOUGHTS)
    thought = "<think>Hm.</think>"
    shp = [{"prompt": f"Why {n}?", "chosen": f"{thought}Since {n}.", "rejected": f"No {n}."} for n in range(1, 8)]
    shp[0]["chosen"] = "Since 1."
    file = write_rows(tmp_path / "shp.jsonl", shp)
    folder = evaluate(flags(path, {"preference_test_sets": f"shp={file}"}, tmp_path))
    warnings = json.loads((folder / "summary.json").read_text())["benchmarks"]["preference_test_sets"]["warnings"]
    assert "1 of 7 rows of 'shp' were not scored" in warnings[0]
    assert (
        f"a part of an answer in 5 of 7 rows (71.4%), which are scored without it; the first, {file}:2: " in warnings[1]
    )
    assert not any("leaves out a message" in words for words in warnings)


def test_a_ranked_list_is_one_row_and_both_kinds_of_loss_are_told(tmp_path):
    """Three answers make three pairs; a row may lose a message and a part of an answer."""
    path = make_model(tmp_path / "model", NO_THOUGHTS.replace("in messages", "in messages if m.role != 'system'"))
    texts = ["One.", "<think>Hm.</think>Two.", "Three."]
    prompt = [SYSTEM, {"role": "user", "content": "Why?"}]
    lists = [
        {"prompt": prompt, "completions": texts, "ranks": [1, 2, 3]},
        {"prompt": "So?", "completions": ["A.", "B."], "ranks": [1, 2]},
    ]
    file = write_rows(tmp_path / "lists.jsonl", lists)
    folder = evaluate(flags(path, {"pairs": file}, tmp_path))
    answer, message = json.loads((folder / "summary.json").read_text())["benchmarks"]["pairs"]["warnings"]
    assert answer.startswith(ANSWER_LOST + "1 of 2 rows (50.0%)")
    assert message.startswith(MESSAGE_LOST + "1 of 2 rows (50.0%)")
    assert len(read_lines(folder / "scores.jsonl")) == 4


def test_thoughts_of_earlier_turns_and_plain_texts_are_no_losses(tmp_path, own_cache):
    """Templates leave out the former on purpose; the latter have no template, also where there is none."""
    earlier = "m.content.split('</think>')[-1] if not loop.last else m.content"
    reader = RewardScorer.from_pretrained(make_model(tmp_path / "model", WHOLE.replace("m.content", earlier))).reader
    turn = {"role": "assistant", "content": "<think>Hm.</think>It is."}
    prompt = [{"role": "user", "content": "Why?"}, turn, {"role": "user", "content": "Sure?"}]
    talk = {"prompt": prompt, "chosen": "<think>Hm, hm.</think>Yes, it is.", "rejected": "No."}
    texts = {"chosen": "It is.", "rejected": "It is not."}
    for name, row in (("talk", talk), ("texts", texts)):
        read = read_benchmark("pairs", str(write_rows(tmp_path / f"{name}.jsonl", [row])))
        assert check_rows(read.rows, reader) == ({}, {})
    # a negative control: the same answer under the template that leaves out all thoughts
    reader.tokenizer.chat_template = NO_THOUGHTS
    lost = check_rows(read_benchmark("pairs", str(tmp_path / "talk.jsonl")).rows, reader).losses
    assert list(lost) == [0] and lost[0].answer.startswith("'<think>Hm, hm.")


def test_an_answer_of_several_messages_loses_the_thought_of_the_first(tmp_path, own_cache):
    """It is a part of the answer, as in training, and no thought of an earlier turn."""
    reader = RewardScorer.from_pretrained(make_model(tmp_path / "model", NO_THOUGHTS)).reader
    look = {"role": "assistant", "content": "<think>I look.</think>One moment."}
    chosen = [look, {"role": "tool", "content": "5"}, {"role": "assistant", "content": "It is 5."}]
    rejected = [{"role": "assistant", "content": "No."}]
    row = {"prompt": [{"role": "user", "content": "Why?"}], "chosen": chosen, "rejected": rejected}
    rows = read_benchmark("pairs", str(write_rows(tmp_path / "pairs.jsonl", [row]))).rows
    assert check_rows(rows, reader).losses[0].answer == "'<think>I look.</think>One moment.'"
