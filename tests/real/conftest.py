"""What the tests of published things share: rm.py on them in this process, and the table of what was seen."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from real.published import PUBLISHED, Published, test_id, tiny_model
from runs import as_argv, write_rows

import rm
from reward_modeling.training import job

SEEN = pytest.StashKey[list[tuple[str, str]]]()
# A question of two words alone, a second turn, letters outside English, spaces and line breaks inside.
TURNS = [
    (["Why rye?"], "It keeps.", "Ask the baker on the corner, if he is there."),
    (["Bonjour !", "Salut.", "Qu'est-ce que l'été ?"], "La saison chaude, de juin à août.", "Une saison."),
    (["List two:\n- one\n- two"], "- three\n- four", "No."),
    (["What is 3 + 4?"], "3 + 4 = 7", "About eight, I'd say; let me think of it again tomorrow."),
    (["Sing.", "La la.", "Once more, please."], "La la la.", "No more."),
    (["パンはどこですか。"], "机の上です。", "ありません。"),
    (["Write a greeting"], "Dear Ann,\n\nGood morning to you.", "Hi"),
    (["How long is a day?"], "Twenty-four hours.", "It depends on the day."),
]


def conversation(turns: list[str], answer: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate([*turns, answer])]


ROWS = [
    {"chosen": conversation(turns, chosen), "rejected": conversation(turns, rejected)}
    for turns, chosen, rejected in TURNS
]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)


def pytest_configure(config):
    config.stash[SEEN] = []


@pytest.fixture
def seen(pytestconfig) -> Callable[[str, str], None]:
    """Takes a line of the table that stands at the end of the run: what it was tried on, what was seen."""
    return lambda what, said: pytestconfig.stash[SEEN].append((what, said))


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[SEEN]:
        terminalreporter.section("what was seen")
        for what, said in config.stash[SEEN]:
            terminalreporter.write_line(f"| {what} | {said} |")


@pytest.fixture(scope="session")
def model_of(tmp_path_factory) -> Callable[[Published], Path]:
    """A tiny model with a published tokenizer, made when it is first asked for."""
    made: dict[int, Path] = {}
    names = {id(published): test_id(name) for name, published in PUBLISHED.items()}

    def get(published: Published) -> Path:
        if id(published) not in made:
            made[id(published)] = tiny_model(published, tmp_path_factory.mktemp(names[id(published)]) / "files")
        return made[id(published)]

    return get


@pytest.fixture(scope="session")
def flags(tmp_path_factory) -> dict[str, Any]:
    """Of a run of two steps that takes seconds."""
    return {
        "train_set_path": write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", ROWS),
        "eval_size": 0,
        "max_length": 256,
        "max_steps": 2,
        "pairs_per_step": 4,
        "learning_rate": 1e-3,
        "gradient_checkpointing": "false",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }


def preflight(given: dict[str, Any]) -> tuple[list[dict], str]:
    """The training groups that rm.py's preflight looked at, and what it printed; its UserError if it refuses."""
    looked_at = []
    run_preflight = job.run_preflight

    def keep_groups(groups, *args, **options):
        looked_at.append(groups)
        return run_preflight(groups, *args, **options)

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(screen):
        patch.setattr(job, "run_preflight", keep_groups)
        patch.setattr(sys, "argv", ["rm.py", *as_argv(given | {"output_path": "unused", "preflight_only": "true"})])
        rm.main()
    return [looked_at[0].groups[number] for number in range(len(looked_at[0].groups))], screen.getvalue()
