"""Real processes of score.py that are killed, told to end, and go on; and what they hold in memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairwise_models import save_pairwise
from processes import fork, places_of
from runs import ROOT, as_argv
from score_runs import make_model, read_lines, write_lines

pytestmark = pytest.mark.slow

ROWS = 7_000  # of one short answer: several windows
PAIRWISE_ROWS = 600  # each of 12 orders
SECONDS_TO_BEGIN = 120
WORDS = ("salt", "water", "green", "tea", "river", "stone", "light", "paper")


def words(number: int, count: int) -> str:
    return " ".join(WORDS[(number >> (3 * place)) % 8] for place in range(count))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, rows, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("kills")
    rows = [{"prompt": words(number // 3, 5), "completion": words(number, 6), "id": number} for number in range(ROWS)]
    flags = {"reward_name_or_path": make_model(folder / "model"), "input": write_lines(folder / "rows.jsonl", rows)}
    whole = folder / "whole.jsonl"
    fork(ROOT / "score.py", as_argv(flags | {"output": whole}), folder, environment=one_thread())
    assert [row["id"] for row in read_lines(whole)] == list(range(ROWS))
    return flags, whole


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def rows_done(output: Path) -> int:
    try:
        return json.loads(output.with_name(f"{output.name}.partial.state").read_text())["progress"]["rows"]
    except OSError:
        return 0


@contextmanager
def running(flags: dict, output: Path, processes: int, launcher: Sequence[str] = ()):
    """score.py in processes of its own, when the first window of the output counts."""
    command = [sys.executable, *launcher, str(ROOT / "score.py"), *as_argv(flags | {"output": output})]
    places = places_of(processes) if processes > 1 else [{}]
    log = output.with_suffix(".log")
    with log.open("w") as out:
        ranks = [subprocess.Popen(command, env=one_thread() | place, stdout=out, stderr=out) for place in places]
    try:
        deadline = time.monotonic() + SECONDS_TO_BEGIN
        while not rows_done(output):
            assert ranks[0].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield ranks, log
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_after_kill_9_the_output_is_byte_for_byte_the_same(made, tmp_path, before, after):
    flags, whole = made
    output = tmp_path / "scored.jsonl"
    kill_and_go_on(flags, output, ROWS, before, after)
    assert output.read_bytes() == whole.read_bytes()


def kill_and_go_on(flags: dict, output: Path, rows: int, before: int, after: int) -> None:
    """A run on some processes, of which the first is killed after a window, and one on others that goes on."""
    with running(flags, output, before) as (ranks, _):
        ranks[0].send_signal(signal.SIGKILL)
        ranks[0].wait()
    assert not output.exists()
    assert 0 < rows_done(output) < rows
    processes = None if after == 1 else after
    go_on = as_argv(flags | {"output": output, "resume": "true"})
    process = fork(ROOT / "score.py", go_on, output.parent, environment=one_thread(), processes=processes)
    assert re.search(r"Going on behind [\d,]+ rows", process.stderr)


def test_after_kill_9_a_pairwise_model_goes_on_to_the_same_bytes(tmp_path):
    model = save_pairwise(tmp_path / "model", "qwen2")
    rows = [
        {"prompt": words(number, 4), "responses": [words(number + place, 5) for place in range(4)], "id": number}
        for number in range(PAIRWISE_ROWS)
    ]
    flags = {"reward_name_or_path": model, "input": write_lines(tmp_path / "rows.jsonl", rows)}
    whole, output = tmp_path / "whole.jsonl", tmp_path / "scored.jsonl"
    fork(ROOT / "score.py", as_argv(flags | {"output": whole}), tmp_path, environment=one_thread())
    kill_and_go_on(flags, output, PAIRWISE_ROWS, 2, 1)
    assert output.read_bytes() == whole.read_bytes()
    assert [row["id"] for row in read_lines(whole)] == list(range(PAIRWISE_ROWS))


def test_a_run_that_is_told_to_end_says_how_to_go_on(made, tmp_path):
    flags, _ = made
    output = tmp_path / "scored.jsonl"
    with running(flags, output, 1) as (ranks, log):
        ranks[0].send_signal(signal.SIGTERM)
        assert ranks[0].wait(60) == 128 + signal.SIGTERM
    said = log.read_text()
    assert f"Stopped by SIGTERM. What is scored is in {output}.partial. To go on:" in said
    assert "--resume true" in said
    assert "Traceback" not in said


def test_a_run_ends_with_its_launcher(made, tmp_path):
    """accelerate's launcher of one process does not pass SIGTERM on."""
    flags, _ = made
    output = tmp_path / "scored.jsonl"
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    with running(flags, output, 1, launcher) as (ranks, log):
        ranks[0].send_signal(signal.SIGTERM)
        ranks[0].wait(60)
        deadline = time.monotonic() + 30
        while "Stopped by SIGTERM" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert f"Stopped by SIGTERM. What is scored is in {output}.partial." in log.read_text()
    assert not output.exists()


def test_a_mistake_that_all_processes_find_is_said_once(made, tmp_path):
    flags, _ = made
    process = fork(
        ROOT / "score.py",
        as_argv(flags | {"output": tmp_path / "x.jsonl", "columns": "prompt=nowhere"}),
        tmp_path,
        environment=one_thread(),
        processes=2,
        status=2,
    )
    assert process.stderr.count("expected a column nowhere") == 1


READ_AND_WRITE = """
import sys
from pathlib import Path
from reward_modeling.generations.counts import Counts
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.input_rows import stream_rows
from reward_modeling.generations.output_file import OutputFile, Progress
from reward_modeling.generations.scored_rows import line_of
from reward_modeling.generations.windows import read_row, windows_of
from reward_modeling.scoring import ScoredConversation

output, counts, reader = OutputFile(sys.argv[2]), Counts(), RowReader()
with output.writing(Progress(), {}) as writer:
    for window in windows_of(read_row(row, reader) for row in stream_rows([Path(sys.argv[1])])):
        lines = []
        for row in window:
            scored = {place: ScoredConversation(0.5) for place, _ in row.to_score()}
            lines.append(line_of(row, scored, counts, overwrite=False))
        writer.append(lines, counts.as_json())
status = Path("/proc/self/status").read_text()
print(counts.rows, status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, name):
    """Reading and writing alone, with rewards that are made up here: ten times the rows, and no more at the peak."""
    used = {}
    for count in (3_000, 30_000):
        rows = [{"prompt": words(n, 8), "responses": [words(n, 60), words(n + 1, 60)], "id": n} for n in range(count)]
        path = tmp_path / f"{count}-{name}"
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1_000)
        else:
            write_lines(path, rows)
        command = [sys.executable, "-c", READ_AND_WRITE, str(path), str(tmp_path / f"{count}.jsonl")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        written, used[count] = map(int, done.stdout.split())
        assert written == count
    assert used[30_000] < used[3_000] + 8_000  # kB, of 22,000 kB of rows more
