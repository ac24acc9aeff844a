"""The program that `telefabric run` starts: a child that shares its terminal, its process group and its fate.

The child has our standard input and standard error themselves. Its standard output is a pseudo-terminal when ours is a
terminal, else a pipe, so that the program prints as it would without us. It stays in our process group: what a terminal
sends (^C, ^Z, a change of its size) reaches it without us. What somebody sends to this process alone is passed on. When
the child stops, this process stops too, so that the shell sees a stopped job; when it ends, this process ends in the
same way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from telefabric.errors import EnvironmentProblem
from telefabric_workers.program import Ending, ending_of_status

_PASSED_ON = {
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH,
}  # fmt: skip
_WATCHED = {*_PASSED_ON, signal.SIGCHLD}
_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_OF_THE_KERNEL = 0x80
"""SI_KERNEL: a terminal sent the signal, to the whole group."""
_STOP_S = 0.02
"""A group that is continued gets its signals one after another: a child that is still stopped then was not."""
NOT_FOUND, NOT_STARTED = 127, 126
"""Exit codes of a shell."""


class NotStarted(EnvironmentProblem):
    """The program cannot be started."""

    def __init__(self, command: str, error: OSError) -> None:
        self.exit_code = NOT_FOUND if error.errno == errno.ENOENT else NOT_STARTED
        remedy = "check its name and PATH" if error.errno == errno.ENOENT else "check its rights and its first line"
        super().__init__(f"{command} cannot be started: {error.strerror}: {remedy}")


class Interrupted(Exception):
    """A signal that ends this process came before the program was started."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Signals wait until the child's watcher takes them; threads that begin meanwhile leave them to it."""

    def __enter__(self) -> Signals:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, nobody gets to know how a child ended
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


class Child:
    """The running program. Methods are for the main thread unless they say otherwise."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], signals: Signals) -> None:
        """Raises `NotStarted`, and `Interrupted`."""
        for number in _STOPPING & signal.sigpending():
            raise Interrupted(number)
        self.is_terminal = os.isatty(1)
        self.output, end = _terminal() if self.is_terminal else os.pipe()
        """Where to read what it prints."""
        self._modes = termios.tcgetattr(self.output) if self.is_terminal else []
        try:
            self.pid = os.posix_spawnp(
                command[0], list(command), dict(environ), file_actions=[(os.POSIX_SPAWN_DUP2, end, 1)],
                setsigmask=signals.before, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )  # fmt: skip
        except OSError as error:
            os.close(self.output)
            raise NotStarted(command[0], error) from None
        finally:
            os.close(end)

    def watch(self) -> int:
        """Until it ends; its exit code, or minus the number of the signal that ended it."""
        while True:
            told = signal.sigwaitinfo(_WATCHED)
            if told.si_signo == signal.SIGCHLD:
                code = self._look()
                if code is not None:
                    return code
            elif told.si_signo == signal.SIGWINCH and self.is_terminal:
                _copy_size(self.output)
                self.send(signal.SIGWINCH)  # which came from the terminal before the size was right
            elif told.si_code != _OF_THE_KERNEL:
                self.send(told.si_signo)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)  # nobody else waits for it: until `_look` the number is its own

    def copy_modes(self) -> None:
        """Before something is shown: modes that the program has given its terminal, such as to read single keys, become
        those of ours. How output is processed stays ours, for in the program's it is not at all. Any thread."""
        with suppress(termios.error):  # one of them has hung up
            modes = termios.tcgetattr(self.output) if self.is_terminal else []
            if modes != self._modes:
                self._modes = modes
                termios.tcsetattr(1, termios.TCSADRAIN, [modes[0], termios.tcgetattr(1)[1], *modes[2:]])

    def _look(self) -> int | None:
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_STOPPED:
            time.sleep(_STOP_S)
            if os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG) is not None:
                os.kill(os.getpid(), signal.SIGSTOP)
                self.send(signal.SIGCONT)  # somebody has continued us
            return None
        os.waitpid(self.pid, 0)
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def ending_of_code(code: int) -> Ending:
    """How a run ended whose program ended with this code; minus the number of a signal."""
    number = -code if code < 0 else code - 128  # as a shell says it of a program that it has started
    if number in _STOPPING:
        return Ending("cancelled", signal.Signals(number).name)
    if code < 0:
        return Ending("failed", f"killed by {_name(number)}")
    return ending_of_status(code)


def end_as(code: int) -> None:
    """End this process as the program ended."""
    sys.stdout.flush()
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left its own
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _terminal() -> tuple[int, int]:
    """A pseudo-terminal that changes no byte that is printed, else as ours: our end and the child's."""
    ours, theirs = os.openpty()
    modes = termios.tcgetattr(1)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    _copy_size(ours)
    return ours, theirs


def _copy_size(terminal: int) -> None:
    with suppress(OSError):  # ours has hung up
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
