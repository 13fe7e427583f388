"""Signals end a script with one line, or at a time of its own. The scripts here need the standard library alone."""

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time

import pytest
from runs import ROOT

from reward_modeling.common.interruption import with_flag

HEAD = """
import hashlib, multiprocessing, os, signal, sys, time
from reward_modeling.common import errors
from reward_modeling.common.errors import run_script
from reward_modeling.common.interruption import finishes_first, run_child
"""
# The main thread does not come back to Python for minutes.
IN_C = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
AT_ONCE = f"""
def main():
    print("ready", flush=True)
    {IN_C}
run_script(main)
"""
FINISHES = """
def main():
    with finishes_first(lambda of: print("noted", of.name, flush=True), lambda of: "ended by " + of.name):
        print("ready", flush=True)
        for _ in range(int(sys.argv[1])):
            time.sleep(0.1)
    print("finished", flush=True)
run_script(main)
"""


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A script that has said that it is ready."""
    variables = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    variables = {name: value for name, value in variables.items() if not name.startswith("ACCELERATE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=variables | environment,
    )
    assert read_line(process) == "ready\n", process.stderr.read()
    return process


def read_line(process: subprocess.Popen) -> str:
    """No more than that: what `process.stdout` had read ahead would be missing from what `communicate` returns."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(process.stdout.fileno(), 1)):
        line += byte
    return line.decode()


def end_of(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        stdout, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()  # it would compute for an hour beside the tests that follow
        raise
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("of", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_one_line_at_once(of):
    """Also while the main thread is in a call that does not come back."""
    process = start(AT_ONCE)
    process.send_signal(of)
    assert end_of(process) == (128 + of, "", f"\nStopped by {of.name}.\n")


def test_without_it_there_is_a_traceback():
    """The negative control."""
    process = start("print('ready', flush=True); time.sleep(20)")
    process.send_signal(signal.SIGINT)
    assert "Traceback" in end_of(process)[2]


def test_one_process_of_several_speaks():
    process = start(AT_ONCE, RANK="1", WORLD_SIZE="2")
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, "", "")


def test_an_error_waits_for_the_signal_that_caused_it():
    """A process whose peer was told to end first fails in a collective before its own signal comes."""
    code = """
def main():
    print("ready", flush=True)
    raise RuntimeError("Connection closed by peer")
run_script(main)
"""
    process = start(code, RANK="1", WORLD_SIZE="2")
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (143, "", "")
    assert "Connection closed by peer" in end_of(start(code, RANK="1", WORLD_SIZE="2"))[2]


@pytest.mark.parametrize("of", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_what_has_to_be_finished_is_finished(of):
    process = start(FINISHES, "5")
    process.send_signal(of)
    assert end_of(process) == (0, f"noted {of.name}\nfinished\n", "")


def test_a_second_ctrl_c_ends_at_once():
    process = start(FINISHES, "200")
    for of in (signal.SIGINT, signal.SIGTERM):  # of which the second is none
        process.send_signal(of)
        assert read_line(process) == f"noted {of.name}\n"
    process.send_signal(signal.SIGINT)
    status, _, stderr = end_of(process)
    assert (status, stderr) == (130, "\nended by SIGINT\n")


def test_a_launcher_passes_one_ctrl_c_on():
    """What comes twice within a moment is one, under a launcher; the third is not."""
    process = start(FINISHES, "5", ACCELERATE_MIXED_PRECISION="no")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "noted SIGINT\n"
    assert end_of(process) == (0, "finished\n", "")
    process = start(FINISHES, "200", ACCELERATE_MIXED_PRECISION="no")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert end_of(process)[0] == 130


def test_what_nohup_ignores_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(FINISHES, "3")
    finally:
        signal.signal(signal.SIGHUP, previous)
    process.send_signal(signal.SIGHUP)
    assert end_of(process) == (0, "finished\n", "")


def test_no_worker_is_left_and_none_speaks():
    """A terminal sends Ctrl-C to forked workers too."""
    code = f"""
def work():
    {IN_C}
def main():
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    print("ready", flush=True)
    print(worker.pid, flush=True)
    worker.join()
run_script(main)
"""
    process = start(code)
    worker = int(read_line(process))
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, stderr = end_of(process)  # the end of what the worker holds open, too
    assert (status, stderr) == (130, "\nStopped by SIGINT.\n")


def test_a_child_is_out_of_reach_and_ends_with_its_parent():
    code = """
def main():
    print("ready", flush=True)
    child = "import os, sys, time; os.write(int(sys.argv[1]), b'x'); time.sleep(60)"
    run_child([sys.executable, "-c", child, sys.argv[1]], pass_fds=[int(sys.argv[1])])
run_script(main)
"""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code, str(writer)], pass_fds=[writer], cwd=ROOT, start_new_session=True
    )
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert os.read(reader, 1) == b""  # nobody has it open any more
    os.close(reader)


def test_a_terminal_that_hangs_up(tmp_path):
    """What is written to it afterwards fails, and costs no run its checkpoint."""
    code = (
        HEAD
        + f"""
import fcntl, termios
def main():
    hung_up = []
    with finishes_first(hung_up.append, str):
        print("ready", flush=True)
        while not hung_up:
            time.sleep(0.05)
        for _ in range(100):
            print("saving", flush=True)
    open({str(tmp_path / "saved")!r}, "w").close()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its end is told by SIGHUP
run_script(main)
"""
    )
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, cwd=ROOT, start_new_session=True
    )
    os.close(end)
    assert select.select([terminal], [], [], 20)[0] and b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rm.py --a 1", "rm.py --a 1 --resume true"),
        ("rm.py --resume x --a 1", "rm.py --a 1 --resume true"),
        ("rm.py --resume=x --a 1", "rm.py --a 1 --resume true"),
        ("rm.py --a 1 --resume", "rm.py --a 1 --resume true"),
        ("rm.py --a 'my file'", "rm.py --a 'my file' --resume true"),
    ],
)
def test_a_flag_of_a_command_is_replaced(before, after):
    assert with_flag(shlex.split(before), "resume", "true") == after


def test_a_helper_process_ends_without_its_interpreters_teardown():
    """training.job.exit_helper_process: what is written is flushed, and nothing that the teardown would run is run."""
    code = """
import atexit
from types import SimpleNamespace
from reward_modeling.training.job import exit_helper_process
print("ready", flush=True)
atexit.register(print, "torn down")
sys.stdout.write("flushed ")
exit_helper_process(SimpleNamespace(process_index=int(sys.argv[1])))
"""
    status, stdout, _ = end_of(start(code, "1"))
    assert (status, stdout) == (0, "flushed ")
    assert end_of(start(code, "0"))[1] == "flushed torn down\n"  # process 0 goes on to its own end


# --- nobody reads what is printed -----------------------------------------------------------------------------

PRINTS = """
def main():
    print("ready", flush=True)
    sys.stdin.read()
    %s
run_script(main)
"""


def without_reader(code: str) -> tuple[int, str]:
    """The status, and what is said on standard error, of a script whose output nobody reads after its first line."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT}
    options["env"] = os.environ | {"PYTHONUNBUFFERED": ""}
    with subprocess.Popen([sys.executable, "-c", HEAD + PRINTS % code], text=True, **options) as process:
        assert read_line(process) == "ready\n"
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read()
        return process.wait(timeout=60), said


@pytest.mark.parametrize(
    "code",
    ["print('x', flush=True)", "print('x' * 10**6)", "print('a line in a buffer')", "print('x'); sys.exit(0)"],
)
def test_a_script_whose_reader_has_left_ends_without_words(code):
    """As `script | head` does; a line that stands in Python's buffer fails when the interpreter ends."""
    assert without_reader(code) == (141, "")


def test_another_error_is_said_though_nobody_reads_the_output():
    status, said = without_reader("print('x'); raise ValueError('of the job')")
    assert status == 1 or status == 120  # of Python, which could not empty its buffer
    assert "ValueError: of the job" in said
    status, said = without_reader("raise errors.UserError('expected more')")
    assert "expected more" in said


def test_a_broken_pipe_of_the_job_is_an_error():
    process = start(PRINTS % "a, b = os.pipe(); os.close(a); os.write(b, b'x')")
    _, said = process.communicate("")
    assert process.returncode == 1
    assert "BrokenPipeError" in said
