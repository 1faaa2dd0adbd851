"""Many clients at once of a running tools/serve.py: python tests/page_load.py PHOTO PID [PORT]

Prints how often each status came, how fast, and the memory of the process PID (Linux).
"""

import collections
import http.client
import sys
import threading
import time
from pathlib import Path


def resident(pid):
    """MB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def load(port, body, clients, seconds):
    """Counts of (status, Retry-After); an exception counts under its name."""
    counts, until = collections.Counter(), time.monotonic() + seconds

    def client():
        while time.monotonic() < until:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/api/poses", body)
                answer = connection.getresponse()
                answer.read()
                connection.close()
                outcome = answer.status, answer.headers["Retry-After"]
            except OSError as error:
                outcome = type(error).__name__, None
            counts[outcome] += 1
            time.sleep(0.1 * (outcome[0] == 503))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main(photo, pid, port=8000):
    body = Path(photo).read_bytes()
    load(int(port), body, 100, 5)
    for _ in range(4):
        counts = load(int(port), body, 100, 15)
        print(f"{resident(pid):.0f} MB", dict(counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
