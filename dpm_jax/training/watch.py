"""A loop of dispatches in several processes: they stop at one step, and none waits for the dead."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from dpm_jax import hosts

_SLOWER = 10  # times the longest dispatch before: beyond that another process hangs


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], None]]:
    """Watch over a loop of dispatches; yields what is to be called after each of them.

    A process that hangs without dying is not noticed by its heartbeat. Where a dispatch takes more
    than `hosts.peer_timeout` and ten times the longest before, this process says so and ends; the
    first dispatch compiles, and may take any time.
    """
    if not hosts.many():
        yield lambda: None
        return
    ended, beats = threading.Event(), [time.monotonic()]
    longest = float("inf")

    def beat() -> None:
        nonlocal longest
        beats.append(time.monotonic())
        took = beats[-1] - beats.pop(0)
        longest = took if longest == float("inf") else max(longest, took)

    def look() -> None:
        while not ended.wait(1.0):
            waited = time.monotonic() - beats[-1]
            if waited > max(hosts.peer_timeout(), _SLOWER * longest):
                hosts.exit_now(
                    1,
                    f"{hosts.name()}: no dispatch has ended for {waited:.0f} s (the longest before"
                    f" took {longest:.1f} s): another process hangs (--peer_timeout)",
                )

    thread = threading.Thread(target=look, name="dpm_jax watch", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end a loop of dispatches after the present one.

    Yields a function, to be called after each dispatch, that says whether one came; in all of
    several processes after the same dispatch, whichever of them got it. Alone, a second signal
    ends the program at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    def pass_on(number, frame):
        signal.raise_signal(signal.SIGTERM)

    try:
        if hosts.many():
            # The handler of SIGTERM is that of jax.distributed, which Python must not replace. It
            # counts the calls: one that is left out would never be reached.
            count = itertools.count()
            signal.signal(signal.SIGINT, pass_on)
            yield lambda: multihost_utils.reached_preemption_sync_point(next(count))
        else:
            for number in before:
                signal.signal(number, handle)
            yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            # None: a handler that Python did not set, and which has done its work.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
