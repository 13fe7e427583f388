"""Every template of TRL through the preflight: a row is kept whole, or dropped and counted, or the run is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from real.conftest import ROWS, preflight
from real.fetch import all_licences, read_assets
from real.published import PUBLISHED, files_of
from runs import write_rows
from transformers import AutoTokenizer

from reward_modeling.common.errors import UserError

# The tokenizer that has a family's marks; where its licence is not taken, and for all other families, Qwen3's.
TOKENIZERS = {"llama3": "llama3_2", "gemma": "gemma3", "deepseek": "deepseek_v3", "qwen2_5": "qwen2_5"}
OTHERS = "qwen3"
# Of models that take images: their templates render lists of parts alone, and nothing of a text.
RENDER_PARTS_ALONE = ("idefics3", "llava_next", "smolvlm")
SYSTEM = {"role": "system", "content": "Answer as a baker would."}
THOUGHT = "<think>\nThe oven first.\n</think>\n\n"
MARKS = re.compile(r"</?think>")


def with_system(messages: list[dict]) -> list[dict]:
    return [SYSTEM, *messages]


def with_thought(messages: list[dict]) -> list[dict]:
    return [*messages[:-1], messages[-1] | {"content": THOUGHT + messages[-1]["content"]}]


KINDS = {"plain": list, "system": with_system, "thought": with_thought}


def templates() -> list[str]:
    """Names of TRL's templates; one made-up name where they cannot be had, so that the test says why."""
    try:
        return sorted(file.stem for file in files_of("trl").glob("*.jinja"))
    except pytest.skip.Exception:
        return ["none"]


def model_with(template: str, model_of, folder: Path) -> Path:
    """Config and tokenizer of the template's family, with the template; a preflight needs no weights."""
    family = next((name for start, name in TOKENIZERS.items() if template.startswith(start)), OTHERS)
    if not (read_assets()[PUBLISHED[family].asset].is_free or all_licences()):
        family = OTHERS
    folder.mkdir()
    for file in model_of(PUBLISHED[family]).glob("*.json"):
        shutil.copy(file, folder)
    shutil.copy(files_of("trl") / f"{template}.jinja", folder / "chat_template.jinja")
    if family == OTHERS:
        give_bos(folder / "tokenizer_config.json")
    return folder


def give_bos(path: Path) -> None:
    """Qwen3 has no BOS, and some templates of other families cannot be rendered without one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"bos_token": config["eos_token"]}), encoding="utf-8")


def pieces(messages: list[dict]) -> list[str]:
    """What has to stand in a text that holds these messages whole; a template may write a thought's marks anew."""
    return [piece.strip() for message in messages for piece in MARKS.split(message["content"]) if piece.strip()]


def assert_nothing_is_lost(groups: list[dict], rows: list[dict], tokenizer) -> None:
    """Each text of the groups holds all messages of one side of a row, and no two of them the same one's."""
    texts = [
        tokenizer.decode(group["prefix_ids"] + completion, clean_up_tokenization_spaces=False)
        for group in groups
        for completion in group["completion_ids"]
    ]
    sides = [row[side] for row in rows for side in ("chosen", "rejected")]
    whole = {
        number
        for number, messages in enumerate(sides)
        if any(all(piece in text for piece in pieces(messages)) for text in texts)
    }
    assert len(whole) == len(texts) == 2 * len(groups)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", templates())
def test_a_template_loses_nothing_in_silence(template, kind, model_of, flags, tmp_path, seen):
    rows = [{side: KINDS[kind](messages) for side, messages in row.items()} for row in ROWS]
    folder = model_with(template, model_of, tmp_path / "model")
    path = write_rows(tmp_path / "rows.jsonl", rows)
    # Some templates begin with a page of their own, which is not cut.
    given = flags | {"model_name": folder, "train_set_path": path, "max_length": 1024}
    try:
        groups, _ = preflight(given)
    except UserError as refusal:
        assert kind != "plain" or template.startswith(RENDER_PARTS_ALONE)
        said = " ".join(str(refusal).replace(str(tmp_path), "").split())
        seen(f"TRL's {template}, {kind}", f"refused: {said[:300]}")
        return
    assert not template.startswith(RENDER_PARTS_ALONE)
    assert_nothing_is_lost(groups, rows, AutoTokenizer.from_pretrained(folder))
    seen(f"TRL's {template}, {kind}", f"{len(groups)} of {len(rows)} rows, every message whole")
