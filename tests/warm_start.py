"""Start programs without their imports: a process that has made them, and forks.

`python tools/train.py` imports for four seconds before it does what a test is about. Tests start it
here instead: a process that has imported all of hrpose, and runs nothing, forks one that takes the
descriptors, folder, environment and arguments that were asked for and runs the script as `__main__`,
in a session of its own. What the script sees differs from a start of its own in three things: its
imports are made (so tests start every program of tools/ once in the cold, too), /proc shows the
command line of this file, and sets of strings have the order that they have in its siblings.

    pytest -- socket --> server -- fork --> monitor -- fork --> the program
       ^                                       |                    |
       +-- pid, then exit status: a pipe ------+---- output: a pipe +
"""

from __future__ import annotations

import functools
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NUMBER = struct.Struct("i")
LARGEST_REQUEST = 1 << 20


# In the process that asks ------------------------------------------------------------------------


class Program:
    """A program that runs: as much of `subprocess.Popen` as tests need. Descriptors become ours."""

    def __init__(self, output: int, ended: int):
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115
        self.returncode: int | None = None
        self.ended = ended
        self.pid = self._number()

    def _number(self) -> int:
        content = os.read(self.ended, NUMBER.size)
        if not content:
            raise ChildProcessError("the warm interpreter ended; what it printed says why")
        return NUMBER.unpack(content)[0]

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the number of the signal that ended it."""
        if self.returncode is None:
            if not select.select([self.ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"program {self.pid}", timeout)
            self.returncode = self._number()
            os.close(self.ended)
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
            raise subprocess.TimeoutExpired(f"program {self.pid}", timeout)
        self.wait(timeout)
        self.stdout.close()
        return printed[0], None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def server() -> tuple[socket.socket, subprocess.Popen]:
    """This process's own warm interpreter, which ends when its socket is closed."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-u", __file__, str(its.fileno())],
        pass_fds=[its.fileno()],
        start_new_session=True,  # what ends a test by its terminal does not end this
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    its.close()
    return ours, process


def start(*words: object, cwd: Path, processes: int = 1, **environment: str) -> Program:
    """Run `python *words` as `subprocess.Popen` with one pipe for stdout and stderr would.

    processes: how many run it, with the ranks that torchrun would give them; a failure ends all
    """
    request = {
        "words": [str(word) for word in words],
        "cwd": str(cwd),
        "processes": processes,
        "environment": {**os.environ, **environment},
    }
    output, printed = os.pipe()
    ended, ends = os.pipe()
    socket.send_fds(server()[0], [json.dumps(request).encode()], [printed, ends])
    os.close(printed)
    os.close(ends)
    return Program(output, ended)


# In the warm interpreter -------------------------------------------------------------------------


def import_all() -> None:
    """What the programs import, at once or later; no thread may run when a process is forked."""
    import importlib
    import pkgutil

    sys.path[0] = str(ROOT / "lib")
    import scipy.optimize  # noqa: F401
    import torch._dynamo  # noqa: F401  by the first optimizer
    import torch.utils.data

    import hrpose.programs

    for module in pkgutil.iter_modules(hrpose.programs.__path__):
        importlib.import_module(f"hrpose.programs.{module.name}")
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would lose their locks"


def next_program(requests: socket.socket) -> dict[str, Any]:
    """Serve, for as long as somebody may ask; returns in every process that is to be a program."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, LARGEST_REQUEST, 2)
        if not message:
            sys.exit()
        monitor = os.fork()
        if monitor == 0 and (request := watch(requests, json.loads(message), *descriptors)):
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        while monitor_ended():
            pass


def monitor_ended() -> bool:
    """Whether one had ended, and is forgotten now."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def watch(requests: socket.socket, request: dict[str, Any], printed: int, ends: int):
    """Fork the program, in which this returns its request, and report how it ended."""
    requests.close()
    child = os.fork()
    if child:
        os.close(printed)
        os.write(ends, NUMBER.pack(status_of(child)))
        os._exit(0)
    os.setsid()
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.write(ends, NUMBER.pack(os.getpid()))
    os.close(printed)
    os.close(ends)
    return request if request["processes"] == 1 else launch(request)


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def launch(request: dict[str, Any]) -> dict[str, Any]:
    """Fork the ranks, in which this returns their requests; one that fails ends the others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    count = str(request["processes"])
    ranks = []
    for rank in range(request["processes"]):
        request["environment"] |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
        ranks.append(os.fork())
        if not ranks[-1]:
            return request
    failed = 0
    while ranks:
        ended, status = os.wait()
        ranks.remove(ended)
        if status and not failed:
            failed = 1
            for rank in ranks:
                os.kill(rank, signal.SIGTERM)
    os._exit(failed)


def become(request: dict[str, Any]) -> str:
    """Be as `python *words` finds itself; returns the script that is to run."""
    import numpy as np

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    np.random.seed()  # Python's own generator does so by itself
    random.seed()
    return sys.argv[0]


if __name__ == "__main__":
    import gc
    import runpy

    import_all()
    gc.collect()
    gc.freeze()
    # At the top level, where an exit, an interrupt and an error end the interpreter as ever.
    runpy.run_path(
        become(next_program(socket.socket(fileno=int(sys.argv[1])))), run_name="__main__"
    )
