"""A program that starts warm is, but for its imports, one that was started by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import warm_start

pytestmark = pytest.mark.slow  # the warm interpreter has its imports to make

SCRIPT = """
import atexit, json, multiprocessing, os, sys, threading, time
atexit.register(print, "the end")
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "name": __name__, "file": __file__,
    "environment": {k: v for k, v in os.environ.items() if k.isupper() and k != "OPENCV_LOG_LEVEL"},
    "session": os.getsid(0) == os.getpid(), "descriptors": len(os.listdir("/proc/self/fd")),
    "threads": threading.active_count(), "main": sys.modules["__main__"].__file__,
    "handler": repr(__import__("signal").getsignal(2)), "parent": hasattr(sys, "mark"),
}))
print("an error", file=sys.stderr)
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
"""


@pytest.fixture
def start(tmp_path):
    """A function (ending, *arguments) that starts the script with this ending."""

    def warm(ending="", *arguments, text=SCRIPT, **more):
        (tmp_path / "script.py").write_text(text + ending)
        return warm_start.start(tmp_path / "script.py", *arguments, cwd=tmp_path, **more)

    return warm


def test_it_finds_itself_as_if_started_by_python(start, tmp_path):
    warm = start("", "--a b", 7, ASKED="for", PATH="here").communicate(timeout=60)[0]
    cold = subprocess.run(
        [sys.executable, tmp_path / "script.py", "--a b", "7"],
        cwd=tmp_path,
        env={**os.environ, "ASKED": "for", "PATH": "here"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    as_lines = [printed.splitlines() for printed in (warm, cold)]
    found, expected = (
        json.loads(next(line for line in lines if line[0] == "{")) for lines in as_lines
    )
    assert found == expected
    for lines in as_lines:  # the error's pipe is the same one; threads are waited for
        assert [line for line in lines if line[0] != "{"] == ["an error", "a thread", "the end"]


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a message')", 1),
        ("raise KeyError('a message')", 1),
        ("raise KeyboardInterrupt('a message')", -signal.SIGINT),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("os._exit(4)", 4),
    ],
)
def test_it_ends_with_the_status_of_any_process(start, ending, status):
    program = start(ending)
    printed = program.communicate(timeout=60)[0]
    assert program.returncode == program.wait() == program.poll() == status
    assert ("a message" in printed) == ("a message" in ending)
    if status not in (4, -signal.SIGTERM):
        assert "the end" in printed and "a thread" in printed


LONG = "import sys, time; print('begun'); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_no_other(start, number):
    one, other = start(text=LONG), start(text=LONG)
    for each in (one, other):
        assert each.stdout.readline() == "begun\n"
        assert each.poll() is None and os.getsid(each.pid) == each.pid
        with pytest.raises(subprocess.TimeoutExpired):
            each.wait(timeout=0.01)
    os.kill(one.pid, number)
    assert one.wait(timeout=20) == -number
    assert other.poll() is None
    os.killpg(other.pid, signal.SIGKILL)
    other.communicate(timeout=20)
    assert other.returncode == -signal.SIGKILL
    other.kill()  # what has ended needs no signal


def test_it_leaves_nothing_to_the_next(start):
    spoil = "import os, sys, random; sys.mark = 1; os.environ['MARK'] = 'x'; os.chdir('/')\n"
    show = "import numpy as np; print(random.random(), np.random.rand(), hasattr(sys, 'torch'))\n"
    spoiled, clean = (
        start(text=text) for text in (spoil + show, SCRIPT + "import random\n" + show)
    )
    one, other = (each.communicate(timeout=60)[0] for each in (spoiled, clean))
    found = json.loads(next(line for line in other.splitlines() if line[0] == "{"))
    assert not found["parent"] and "MARK" not in found["environment"] and found["cwd"] != "/"
    drawn = one.split()[:2]
    assert not set(drawn) & set(other.split())  # nor do siblings draw the same numbers


def test_its_output_is_read_as_it_comes_and_until_its_own_processes_end(start):
    program = start(
        text="import os, time; print('first'); time.sleep(0.3)\n"
        "if os.fork():\n    os._exit(0)\n"
        "time.sleep(0.5); print('last')"
    )
    assert program.stdout.readline() == "first\n"
    assert program.wait(timeout=20) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        start(text=LONG).communicate(timeout=0.2)
    assert program.communicate(timeout=20)[0] == "last\n"


RANKS = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
numbers = torch.tensor([1 + dist.get_rank()])
dist.all_reduce(numbers)
print(f"{os.environ['LOCAL_RANK']} of {os.environ['LOCAL_WORLD_SIZE']}: {numbers.item()}")
dist.destroy_process_group()
"""


def test_several_are_the_ranks_that_torchrun_would_start(start):
    program = start(text=RANKS, processes=2)
    lines = program.communicate(timeout=60)[0].splitlines()
    assert sorted(lines) == ["0 of 2: 3", "1 of 2: 3"] and program.returncode == 0


def test_a_rank_that_fails_ends_the_others(start):
    begun = time.monotonic()
    program = start(text="import os, time\nassert os.environ['RANK'] == '1'\n" + LONG, processes=2)
    assert "AssertionError" in program.communicate(timeout=60)[0]
    assert program.returncode == 1 and time.monotonic() - begun < 50


def test_the_warm_interpreter_ends_when_nobody_can_ask_it():
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with its, pytest.raises(SystemExit):
        warm_start.next_program(its)
