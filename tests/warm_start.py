"""Start programs without their imports: a process that has made them, and forks.

`python tools/train.py` imports for four seconds before it does what a test is about. Tests start it
here instead: a warm interpreter that has imported all of hrpose, and runs nothing, forks a process
that takes the descriptors, folder, environment and arguments that were asked for, and runs the
script as `__main__` in a session of its own. What it starts by `sys.executable`, as torchrun and
ablate do, starts warm as well. To the script, this differs from a start of its own in four things:
the imports are made (so the programs of tools/ start once in the cold, too), `sys.executable` is
this file, /proc shows its command line, and sets of strings have the order that they have in
siblings.

    who asks: pytest, or this file as `python`
      |  a connection: words, folder, environment, descriptors 0 to 2; back: pid, then exit status
    warm interpreter -- fork --> monitor -- fork --> the program, killed if the connection is closed
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

NUMBER = struct.Struct("i")
LARGEST_REQUEST = 1 << 20
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


# Those who ask -----------------------------------------------------------------------------------


class Connection:
    """To a program that runs. Closed, by an exit or a kill too, it ends the program."""

    def __init__(self, path: str, words: list[str], cwd: str, environment, descriptors):
        request = {"words": words, "cwd": cwd, "environment": dict(environment)}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        socket.send_fds(self.socket, [json.dumps(request).encode()], descriptors)
        self.pid = self.number()

    def number(self) -> int:
        content = self.socket.recv(NUMBER.size)
        if not content:
            raise ChildProcessError("the warm interpreter ended; what it printed says why")
        return NUMBER.unpack(content)[0]


class Program:
    """A program that runs: as much of `subprocess.Popen` as tests need."""

    def __init__(self, connection: Connection, output: int):
        self.connection, self.pid = connection, connection.pid
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the number of the signal that ended it."""
        if self.returncode is None:
            if not select.select([self.connection.socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"program {self.pid}", timeout or 0)
            self.returncode = self.connection.number()
            self.connection.socket.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it and its own processes print until they have all ended."""
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if not printed:
            raise subprocess.TimeoutExpired(f"program {self.pid}", timeout or 0)
        self.wait(timeout)
        self.stdout.close()
        return printed[0], None

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class WarmInterpreter:
    """Lives as long as the process that made it."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hrpose_warm_")
        self.path = str(Path(self.folder.name, "socket"))
        self.python = Path(self.folder.name, "python")
        self.python.write_text(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
            f"import warm_start\nwarm_start.python({self.path!r}, {sys.executable!r})\n"
        )
        self.python.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.path)
        listener.listen(64)
        self.alive, its_end = socket.socketpair()
        passed = [listener.fileno(), its_end.fileno()]
        self.process = subprocess.Popen(
            [sys.executable, "-u", __file__, *map(str, passed), str(self.python)],
            pass_fds=passed,
            start_new_session=True,  # what ends a test by its terminal does not end this
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        listener.close()
        its_end.close()


interpreter = functools.cache(WarmInterpreter)


def start(*words: object, cwd: Path, **environment: str) -> Program:
    """Run `python *words` as `subprocess.Popen` with one pipe for stdout and stderr would."""
    output, printed = os.pipe()
    descriptors = [sys.__stdin__.fileno(), printed, printed]
    asked = ([str(word) for word in words], str(cwd), os.environ | environment, descriptors)
    connection = Connection(interpreter().path, *asked)
    os.close(printed)
    return Program(connection, output)


def python(path: str, cold: str) -> None:
    """Be a `python` that starts our scripts and torchrun warm, and all else as ever."""
    words = [word for word in sys.argv[1:] if word != "-u"]
    if not starts_warm(words):
        os.execv(cold, [cold, *sys.argv[1:]])
    connection = Connection(path, words, os.getcwd(), os.environ, [0, 1, 2])
    for number in FORWARDED:
        signal.signal(number, functools.partial(forward, connection.pid))
    status = connection.number()
    if -status in FORWARDED:
        signal.signal(-status, signal.SIG_DFL)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def forward(pid: int, number: int, frame: object) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def starts_warm(words: list[str]) -> bool:
    script = Path(*words[:1]).resolve()
    ours = script.suffix == ".py" and Path(__file__).resolve().parents[1] in script.parents
    return ours or words[:2] == ["-m", "torch.distributed.run"]


# The warm interpreter ----------------------------------------------------------------------------


def import_all() -> dict[str, str]:
    """What the programs import, at once or later; returns what that adds to the environment."""
    import importlib
    import multiprocessing.spawn  # noqa: F401  while sys.executable is the interpreter itself
    import pkgutil

    before = dict(os.environ)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
    import hrpose.programs

    for module in pkgutil.iter_modules(hrpose.programs.__path__):
        importlib.import_module(f"hrpose.programs.{module.name}")
    import scipy.optimize  # noqa: F401
    import torch._dynamo  # noqa: F401  by the first optimizer
    import torch.distributed.launcher.api  # noqa: F401  by torchrun

    del sys.path[0]  # `main` replaces the next, the folder of this file
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would lose their locks"
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def next_program(listener: socket.socket, alive: socket.socket) -> dict[str, Any]:
    """Serve, for as long as anybody may ask; returns in every process that is to be a program."""
    while True:
        if alive in select.select([listener, alive], [], [])[0]:
            sys.exit()
        connection, _ = listener.accept()
        message, descriptors, *_ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
        if message and not os.fork():
            listener.close()
            alive.close()
            if child := os.fork():
                watch(child, connection, descriptors)
            take(connection, descriptors)
            return json.loads(message)
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):  # monitors that have ended are forgotten
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def watch(child: int, connection: socket.socket, descriptors: list[int]) -> None:
    """Be the monitor of a program until it ends."""
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.send(NUMBER.pack(status))
    os._exit(0)


def take(connection: socket.socket, descriptors: list[int]) -> None:
    """Have a session and descriptors of one's own, and say so."""
    os.setsid()
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    connection.send(NUMBER.pack(os.getpid()))
    connection.close()


def become(request: dict[str, Any], environment: dict[str, str], executable: str) -> list[str]:
    """Be as `python *words` finds itself; returns the words."""
    import numpy as np

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(environment | request["environment"])
    sys.executable = executable
    np.random.seed()  # Python's own generator does so by itself
    return request["words"]


def main() -> tuple[Any, str]:
    """Serve; returns, in a program, what runs it and what it is."""
    import gc
    import runpy

    listener, alive = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    environment = import_all()
    gc.collect()
    gc.freeze()
    words = become(next_program(listener, alive), environment, sys.argv[3])
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        return functools.partial(runpy.run_module, alter_sys=True), words[1]
    sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
    return runpy.run_path, words[0]


if __name__ == "__main__":
    run, program = main()
    # At the top level, where an exit, an interrupt and an error end the interpreter as ever.
    run(program, run_name="__main__")
