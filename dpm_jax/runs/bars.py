"""What a person sees on the terminal while a run works: bars, phases, and what it will do.

All of it comes from process 0, on standard error. On a terminal every bar and phase has a clock
that goes on while the main thread computes, and is gone when it ends; elsewhere a phase that took
long leaves one line.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from dpm_jax import hosts

_TICK, _LONG = 0.5, 1.0  # seconds
# Lines that wait for `begin` where there is no terminal: a run that is refused says only why.
_held: list[str] | None = None


class _Bar(tqdm):
    """A bar whose clock goes on between two updates, where it is on a terminal."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self._ended, self._clock = threading.Event(), None
        if not self.disable and self.fp.isatty():
            self._clock = threading.Thread(target=self._tick, name="dpm_jax bar", daemon=True)
            self._clock.start()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            self.refresh()

    def close(self) -> None:
        clock, self._clock = getattr(self, "_clock", None), None
        if clock is not None:  # before the line is cleared
            self._ended.set()
            clock.join()
        super().close()


def bar(iterable: Iterable | None, name: str, unit: str = "it", leave: bool = False, **more) -> Any:
    """A bar over `iterable`; it goes when that is done, unless `leave`."""
    silent = not hosts.first()
    return _Bar(iterable, desc=name, unit=unit, leave=leave, disable=silent, **more)


def batches(name: str):
    """A bar over batches, for `Rows.progress`."""
    return lambda found: bar(found, name, unit="batch")


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Show what the body does, and for how long already."""
    begun, on_terminal = time.monotonic(), sys.stderr.isatty()
    if on_terminal:
        with bar(None, name, bar_format="{desc}: {elapsed}"):
            yield
        return
    yield
    seconds = time.monotonic() - begun
    if seconds > _LONG:
        say(f"{name}: {seconds:.1f} s")


def say(line: str) -> None:
    """One line among the bars; for no terminal it is held until `begin`."""
    if not hosts.first():
        return
    if _held is None or sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        _held.append(line)


def hold() -> None:
    """Hold lines that are for no terminal from here on, since all may still be refused."""
    global _held
    _held = []


def begin() -> None:
    """Nothing will be refused any more: say what was held, and all else at once."""
    global _held
    held, _held = _held or [], None
    for line in held:
        say(line)
