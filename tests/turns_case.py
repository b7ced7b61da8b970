"""What one of two processes does before the other, and fails at; a program of its own."""

import os
import sys
import time
from pathlib import Path

from dpm_jax import hosts


def fail(text):
    raise ValueError(text)


def late(seconds):
    time.sleep(seconds)


def prepared():
    """Made by whoever comes first; says by whom."""
    path = Path(sys.argv[1]) / "made"
    if not path.exists():
        late(0.5)
        path.write_text(f"by process {number}")
    return path.read_text()


def set_up(where):
    """As an experiment: something of its own, what is done in turn, something of its own again."""
    if where == f"before in {number}":
        fail(where)
    found = hosts.in_turn(lambda: fail(where) if where == f"in turn in {number}" else prepared())
    if where == f"after in {number}":
        fail(where)
    return found


def outcome(function, *args):
    try:
        return hosts.together(function, *args)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    number, of = int(os.environ["PROCESS_ID"]), int(os.environ["NUM_PROCESSES"])
    hosts.join(hosts.Cluster(os.environ["COORDINATOR"], of, number, None, 60, 20, wait_timeout=3))
    places = [f"{where} in {i}" for where in ("before", "in turn", "after") for i in range(of)]
    found = {where: outcome(set_up, where) for where in ("nowhere", *places)}
    found["late"] = outcome(lambda: None) if number else late(5)
    print("RESULT", found, flush=True)
    hosts.exit_now(0)
