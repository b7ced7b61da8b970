"""Blocks of several contestants in turn, and their medians and ratios."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Run = Callable[[int], Mapping[str, float]]  # repeats -> {"wall": seconds, "cpu": seconds}
_MOST = 100_000  # repeats of a block


class Spread(NamedTuple):
    """Quartiles of a number over the rounds."""

    low: float
    median: float
    high: float

    def scaled(self, by: float) -> "Spread":
        """The same in another unit."""
        return Spread(*(value * by for value in self))


def spread(values: Sequence[float]) -> Spread:
    """The quartiles of some numbers."""
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def clock(backend: str) -> str:
    """Which time counts: "cpu" where one core has it all, "wall" of several or an accelerator.

    On a core of one's own the two are the same; on a shared one CPU time leaves the others out.
    """
    return "cpu" if backend == "cpu" and len(affinity()) == 1 else "wall"


def affinity() -> tuple[int, ...]:
    """The cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return tuple(sorted(known(0))) if known else tuple(range(os.cpu_count() or 1))


def load() -> float | None:
    """The machine's load, a mean over the last minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def contest(
    runs: Mapping[str, Run],
    seconds: float,
    rounds: int,
    which: str,
    once: Mapping[str, float] = {},
) -> dict[str, list[float]]:
    """Seconds of one repeat of each contestant, block by block, A B A B.

    The rounds are alternately forward and backward, so that no contestant always follows another.

    Args:
        runs: by name; each has run before, so that nothing is compiled here.
        seconds: for each of them over all rounds, about.
        rounds: blocks of each; three are enough where one repeat takes longer than `seconds`.
        which: "wall" or "cpu".
        once: seconds of one repeat, of those of whom it is known.

    Returns:
        By name, as many seconds as rounds.
    """
    if max(once.values(), default=0) > seconds:
        rounds = min(rounds, 3)
    repeats = {
        name: _repeats(run, seconds / rounds, which, once.get(name, 0))
        for name, run in runs.items()
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs) if turn % 2 == 0 else reversed(list(runs)):
            took = runs[name](repeats[name])[which]
            found[name].append(took / repeats[name])
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Peer time / ours, round by round: above 1 we are faster."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def _repeats(run: Run, seconds: float, which: str, once: float) -> int:
    """How many fill so many seconds, from runs that are long enough to tell."""
    if once > 0.2 * seconds:
        return max(1, round(seconds / once))
    num = 1
    while True:
        took = max(run(num)[which], 1e-7)
        if took > 0.2 * seconds or num >= _MOST:
            return min(max(1, round(num * seconds / took)), _MOST)
        num = min(_MOST, max(2 * num, int(0.5 * num * seconds / took)))
