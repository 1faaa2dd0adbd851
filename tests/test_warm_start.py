"""A program that starts warm is, but for its imports, one that was started by itself."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import warm_start
from commands import QUICKSTART, ROOT, SMALL, begin, read_until

pytestmark = pytest.mark.slow  # the warm interpreter has its imports to make

SCRIPT = """
import atexit, json, multiprocessing, os, sys, threading, time
atexit.register(print, "the end")
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "name": __name__, "file": __file__,
    "environment": {k: v for k, v in os.environ.items() if k.isupper()},
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
        script = tmp_path / f"script_{len(list(tmp_path.iterdir()))}.py"
        script.write_text(text + ending)
        return warm_start.start(script, *arguments, cwd=tmp_path, **more)

    return warm


def facts(printed):
    """What the script found."""
    return json.loads(next(line for line in printed.splitlines() if line[0] == "{"))


def test_it_finds_itself_as_if_started_by_python(start, tmp_path):
    warm = start("", "--a b", 7, ASKED="for", PATH="here").communicate(timeout=60)[0]
    cold = subprocess.run(
        [sys.executable, tmp_path / "script_0.py", "--a b", "7"],
        cwd=tmp_path,
        env={**os.environ, "ASKED": "for", "PATH": "here"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    as_lines = [printed.splitlines() for printed in (warm, cold)]
    found, expected = facts(warm), facts(cold)
    # Imports, of cv2 and torch too, add to the environment.
    assert found.pop("environment").items() >= expected.pop("environment").items()
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
    show = "import numpy as np; print(random.random(), np.random.rand())\n"
    spoiled = start(show, text=spoil).communicate(timeout=60)[0]
    clean = start("import random\n" + show).communicate(timeout=60)[0]
    found = facts(clean)
    assert not found["parent"] and "MARK" not in found["environment"] and found["cwd"] != "/"
    assert not set(spoiled.split()) & set(clean.split())  # nor are the same numbers drawn


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


def test_what_it_starts_by_its_executable_starts_warm_if_it_is_a_program(start):
    program = start(
        text="import os, subprocess, sys\n"
        f"tool = {str(ROOT / 'tools' / 'train.py')!r}\n"
        "for words in (['-u', tool, '--help'], ['-c', 'import sys; sys.exit(5)'],\n"
        "              ['-c', 'import os; os.kill(os.getpid(), 15)'], [tool]):\n"
        "    print(subprocess.run([sys.executable, *words]).returncode)\n",
        COLUMNS="80",
    )
    printed = program.communicate(timeout=60)[0]
    assert "usage: train.py" in printed
    assert re.findall(r"^-?\d+$", printed, re.MULTILINE) == ["0", "5", "-15", "2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_python_that_is_signalled_hands_it_on(scenes, tmp_path, number):
    """Killed, it takes the program with it, as if it were the program."""
    words = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path]
    asked = begin(warm_start.interpreter().python, ROOT / "tools" / "train.py", *words)
    read_until(asked, "learning rate")
    asked.send_signal(number)
    printed = asked.communicate(timeout=60)[0]  # of the program too
    assert asked.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number], printed
    assert ("stopped by SIGTERM" in printed) == (number == signal.SIGTERM)


def test_a_program_that_nobody_waits_for_is_ended(start):
    program = start(text=LONG)
    assert program.stdout.readline() == "begun\n"
    program.connection.socket.close()
    assert program.stdout.read() == ""  # all that could print has ended


def test_the_warm_interpreter_ends_when_nobody_can_ask_it():
    ours, its = socket.socketpair()
    ours.close()
    with its, socket.socket(socket.AF_UNIX) as listener, pytest.raises(SystemExit):
        warm_start.next_program(listener, its)
