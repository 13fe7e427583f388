"""Ctrl-C, and the signals by which schedulers and terminals end a process: one line, and no traceback.

    with ends_at_once():                          # run_script has it around every script
        with finishes_first(on_signal, words):    # training: `on_signal` makes a note, and the step goes to its end
            ...

A thread answers, not Python's handler: that one waits for the main thread, which may be in a kernel or in a collective
that never returns.
"""

import ctypes
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Looked at before transformers sets variables of accelerate's itself.
LAUNCHED = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
# A terminal sends Ctrl-C to the launcher and to its processes, and the launcher sends it to them once more.
SECONDS_TO_PASS_ON = 2.0
AFTER_A_LAUNCHER = 2  # of one Ctrl-C
PR_SET_PDEATHSIG = 1  # prctl(2)
SETTLE = b"\0"  # to the thread that answers: no signal has this number
SECONDS_FOR_A_SIGNAL = 1.0  # that another process has got and this one not yet


@dataclass(frozen=True)
class Response:
    """What the process does at a signal."""

    words: Callable[[signal.Signals], str]  # its last ones, where it ends at once
    note: Callable[[signal.Signals], None] | None = None  # or what it does instead, for all but a second Ctrl-C


class Watch:
    """The signals of this process, from the first block that asks for them to the end of the last."""

    def __init__(self):
        self.responses: list[Response] = []
        self.children: set[subprocess.Popen] = set()
        self.presses: list[float] = []  # when SIGINT came
        self.previous: dict[signal.Signals, object] = {}
        self.pid = os.getpid()
        self.settled = threading.Event()
        self.forking = threading.local()  # its `mask`: the signals that were blocked before

    @contextmanager
    def responding(self, response: Response) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's alone
            return
        self.responses.append(response)
        if len(self.responses) == 1:
            self._begin()
        try:
            yield
        finally:
            if len(self.responses) == 1:
                self._end()
            else:
                self._settle()
            self.responses.pop()

    def _begin(self) -> None:
        self.pid, self.presses = os.getpid(), []
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        # What is ignored stays so: SIGHUP under nohup, SIGINT of a job that a script has put into the background.
        self.previous = {of: signal.getsignal(of) for of in SIGNALS if signal.getsignal(of) is not signal.SIG_IGN}
        self.wakeup = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        for of in self.previous:
            signal.signal(of, self._receive)
        threading.Thread(target=self._answer_all, args=(self.reader,), name="signals", daemon=True).start()

    def _end(self) -> None:
        signal.set_wakeup_fd(self.wakeup)
        for of, handler in self.previous.items():
            signal.signal(of, handler)
        self.writer.close()  # at which the thread ends

    def _settle(self) -> None:
        """Wait for the thread: what has come in this block may not be answered by the one around it."""
        self.settled.clear()
        with suppress(BlockingIOError):  # many have come
            self.writer.send(SETTLE)
        self.settled.wait(SECONDS_FOR_A_SIGNAL)

    def _receive(self, number: int, _frame: object) -> None:
        """In the main thread, once it has come back to Python."""
        leave_terminal_that_hung_up()
        note = self.responses[-1].note
        if note is not None:
            note(signal.Signals(number))

    def _answer_all(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(16):
                for number in numbers:
                    if number in self.previous:
                        self._answer(signal.Signals(number))
                    elif number == SETTLE[0]:
                        self.settled.set()

    def _answer(self, of: signal.Signals) -> None:
        """In the thread, whatever the main thread is about."""
        leave_terminal_that_hung_up()
        response = next(reversed(self.responses), None)
        if response is None:  # the last block has ended meanwhile
            return
        if response.note is None or (of == signal.SIGINT and self._is_second_press()):
            self.end(of, response.words(of))

    def _is_second_press(self) -> bool:
        self.presses.append(time.monotonic())
        passed_on = LAUNCHED and self.presses[-1] - self.presses[0] < SECONDS_TO_PASS_ON
        return len(self.presses) > (AFTER_A_LAUNCHER if passed_on else 1)

    def end(self, of: signal.Signals, words: str) -> None:
        """Say it once for all processes, and end without a teardown, in which other threads would print tracebacks."""
        if os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # nobody reads it any more
                os.write(2, f"\n{words}\n".encode())
        for module in ("multiprocessing", "multiprocess"):  # the second is that of `datasets`
            if module in sys.modules:
                for child in sys.modules[module].active_children():
                    child.kill()
        for child in list(self.children):
            child.kill()
        os._exit(128 + of)

    def before_fork(self) -> None:
        """Block the signals: one that came to the child before `leave_to_parent` would be answered by the parent."""
        self.forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.forking.mask)

    def leave_to_parent(self) -> None:
        """In a forked child, which the parent ends: a terminal's Ctrl-C comes to both."""
        if self.responses and self.pid != os.getpid():
            signal.set_wakeup_fd(-1)
            for of in self.previous:
                signal.signal(of, signal.SIG_DFL if of == signal.SIGTERM else signal.SIG_IGN)
            self.responses = []
        self.after_fork()


def leave_terminal_that_hung_up() -> None:
    """Write to nowhere what would go to a terminal that is gone: each write to it is an error, a progress bar's too."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


_watch = Watch()
os.register_at_fork(before=_watch.before_fork, after_in_parent=_watch.after_fork, after_in_child=_watch.leave_to_parent)


def ends_at_once(words: Callable[[signal.Signals], str] | None = None):
    """A block in which a signal ends the process with one line and status 128 + its number."""
    return _watch.responding(Response(words or (lambda of: f"Stopped by {of.name}.")))


def finishes_first(note: Callable[[signal.Signals], None], words: Callable[[signal.Signals], str]):
    """A block in which a signal calls `note` in the main thread; a second Ctrl-C ends the process, with `words`."""
    return _watch.responding(Response(words, note))


def end_with_launcher() -> None:
    """Let Linux send SIGTERM when the launcher ends: accelerate's launcher of one process does not pass it on.

    Not where a person has started the process, who may leave it running on purpose (nohup).
    """
    if LAUNCHED and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_for_a_signal() -> None:
    """Of several processes, before an error becomes a traceback: what another one that was told to end has caused."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        time.sleep(SECONDS_FOR_A_SIGNAL)


def leave(status: int) -> NoReturn:
    """End a process that has nothing left to do, without the teardown of its interpreter.

    In that teardown torch's threads of gloo abort the process now and then ("terminate called without an active
    exception"), the process group having been destroyed or not. The launcher would take this for a failure, and kill
    process 0 while it verifies the model.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_child(command: Sequence[str], *, timeout: float | None = None, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` with what it writes captured, out of the reach of Ctrl-C; it ends where this process does.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    given = options.pop("input", None)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, start_new_session=True, **pipes, **options) as process:
        _watch.children.add(process)
        try:
            stdout, stderr = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            _watch.children.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _typed_command() -> list[str]:
    if LAUNCHED:
        with suppress(OSError):
            parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if any(Path(token).name == Path(sys.argv[0]).name for token in parent):
                return parent
    return sys.orig_argv


# The command that started this run: that of the launcher where there is one, which may end before its processes do.
# With secrets: see without_tokens.
TYPED_COMMAND = _typed_command()


def with_flag(command: Sequence[str], flag: str, value: str) -> str:
    """The command as text for a shell, with this value of the flag in the place of any other."""
    kept, skip = [], False
    for token in command:
        name = token.partition("=")[0].replace("-", "_")
        is_flag = name == f"--{flag}".replace("-", "_")
        if not is_flag and not (skip and not token.startswith("--")):
            kept.append(token)
        skip = is_flag and "=" not in token
    return shlex.join([*kept, f"--{flag}", value])
