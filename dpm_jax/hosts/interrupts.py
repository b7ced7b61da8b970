"""Ctrl-C is answered within a second, also where the main thread computes outside of Python.

Python runs the handler of a signal between two of its own instructions, and XLA compiles for
minutes in one. So a thread waits for the signal too, and ends the process where nobody else does.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from dpm_jax.hosts.membership import exit_now

_PATIENCE = 0.5  # seconds that the main thread has
_loops = 0  # that save what they have before they end


@contextlib.contextmanager
def answered(line: str) -> Iterator[Callable[[], bool]]:
    """Meanwhile SIGINT ends this process within a second, with `line` and exit code 130.

    KeyboardInterrupt comes first, as ever. A loop inside `finishing` ends in its own time, unless a
    second SIGINT comes. Where one came this lasts beyond the body, until the process has ended.
    One that comes while JAX collects garbage is lost to Python, which has no traceback of it then.

    Yields:
        A function that says whether the line is still to be said, and by the caller.
    """
    mine = threading.Lock()

    def to_say() -> bool:
        return mine.acquire(blocking=False)

    if threading.current_thread() is not threading.main_thread():
        yield to_say
        return
    out, into = os.pipe()
    os.set_blocking(into, False)
    before, came = signal.set_wakeup_fd(into, warn_on_full_buffer=False), threading.Event()
    work = (out, came, lambda: exit_now(130, line if to_say() else ""))
    tell = sys.unraisablehook
    sys.unraisablehook = lambda of: None if of.exc_type is KeyboardInterrupt else tell(of)
    threading.Thread(target=_watch, args=work, name="dpm_jax SIGINT", daemon=True).start()
    try:
        yield to_say
    finally:
        if not came.is_set():
            sys.unraisablehook = tell
            signal.set_wakeup_fd(before)
            os.close(into)  # which ends the thread


def _watch(out: int, came: threading.Event, end: Callable[[], None]) -> None:
    while number := os.read(out, 1):
        if number[0] == signal.SIGINT:
            again = came.is_set()
            came.set()
            time.sleep(_PATIENCE)
            if again or not _loops:
                end()
    os.close(out)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Meanwhile SIGINT raises nothing, and KeyboardInterrupt comes at the end, for imports.

    A module in C may abort the process where an exception comes while it is imported, and what was
    imported by half cannot be imported again. Where this lasts, `answered` ends the process.
    """
    before, came = signal.getsignal(signal.SIGINT), list[int]()
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Meanwhile the main thread answers SIGINT in its own time: it saves what it has."""
    global _loops
    _loops += 1
    try:
        yield
    finally:
        _loops -= 1
