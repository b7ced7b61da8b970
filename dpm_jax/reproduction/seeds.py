"""Runs that differ in their seed alone: their mean, its error, and what error it is."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dpm_jax import units
from dpm_jax.reproduction.document import Code, Link, Row, Text
from dpm_jax.runs.workdir import MEASURES, MOVABLE, PLACES
from dpm_jax.sweeps.jobs import Outcome

NOT_ASKED = "not among the runs asked for"
# Flags that say where files lie and how much is measured, not what is trained.
_UNSEEN = ("seed", *PLACES, *MOVABLE, *MEASURES)


class Group(NamedTuple):
    """Runs of one row, preset and flags, by rising seed; none: it was not asked for."""

    experiment: str
    preset: str
    name: str
    outcomes: tuple[Outcome, ...] = ()

    @property
    def done(self) -> list[Outcome]:
        """Those that ended."""
        return [each for each in self.outcomes if each.report is not None]

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        """report.json of those that ended."""
        return [each.report for each in self.outcomes if each.report is not None]

    @property
    def why(self) -> str:
        """Why none ended."""
        return "; ".join(dict.fromkeys(o.why for o in self.outcomes)) or NOT_ASKED


class Value(NamedTuple):
    """A mean over seeds with its error."""

    mean: float | None
    error: float | None
    over: str  # what the error is over

    def __str__(self) -> str:
        return shown(self.mean, self.error)


def gather(outcomes: Sequence[Outcome]) -> list[Group]:
    """The runs by row, preset and flags, in their order."""
    found: dict[str, list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(_stem(each), []).append(each)
    return [
        Group(runs[0].job.experiment, runs[0].job.preset, name, tuple(sorted(runs, key=seed)))
        for name, runs in found.items()
    ]


def of(groups: Sequence[Group], experiment: str, presets: Sequence[str]) -> list[Group]:
    """The groups of a row; where it has fewer presets than `presets`, those without runs too."""
    found = [group for group in groups if group.experiment == experiment]
    have = {group.preset for group in found}
    lacking = [name for name in presets if name not in have] if len(have) < len(presets) else []
    found += [Group(experiment, name, f"{experiment}-{name}") for name in lacking]
    order = [*presets, *(group.preset for group in found)]
    return sorted(found, key=lambda group: order.index(group.preset))


def seed(outcome: Outcome) -> int:
    """The seed of a run."""
    return int(outcome.job.flags.get("seed", 0))


def anchor(outcome: Outcome) -> str:
    """Where the page has the command of a run."""
    return "run-" + re.sub(r"[^\w.-]", "-", outcome.job.name)


def label(group: Group) -> Text:
    """The preset, and the flags in which the runs differ from it."""
    words = f"ours, preset {group.preset}" if group.preset else "ours"
    flags = group.outcomes[0].job.flags if group.outcomes else {}
    differ = [Code(f"{n}={v}") for n, v in flags.items() if n not in _UNSEEN]
    spaced = [part for code in differ for part in (" ", code)]
    return (words + ",", *spaced) if differ else words


def links(group: Group) -> Text:
    """The seeds, each leading to its command; those that did not end are named."""
    parts: list[str | Link] = []
    for each in group.outcomes:
        parts += [", " if parts else "", Link(str(seed(each)), anchor(each))]
        parts += [] if each.report is not None else [" (not made)"]
    return tuple(parts)


def value(reports: Sequence[Mapping], get: Callable, error: Callable | None = None) -> Value:
    """The mean of a number of reports with the larger of two errors: over seeds, over examples.

    Two seeds may agree by luck far better than the examples allow that each was measured on.

    Args:
        reports: of runs that ended, one at least.
        get: report -> number, None where it is not finite.
        error: report -> its standard error over examples, None where it is unknown.
    """
    numbers = [get(report) for report in reports]
    if any(number is None for number in numbers):
        return Value(None, None, "not finite")
    mean, n = statistics.fmean(numbers), len(numbers)
    own = [None if error is None else error(report) for report in reports]
    known = [each for each in own if each is not None]
    over_examples = math.sqrt(sum(each**2 for each in known) / len(known)) if known else None
    examples = f"{reports[0].get('examples', 0):,} examples"
    if n == 1:
        return Value(mean, over_examples, examples if known else "error unknown")
    _, over_seeds = units.mean_and_error(numbers)
    if over_examples is not None and over_examples > over_seeds:
        return Value(mean, over_examples, examples)
    return Value(mean, over_seeds, f"{n} seeds")


def shown(value: float | None, error: float | None = None) -> str:
    """A number for a table, with two digits of its error; digits that say nothing are left out."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error) or error <= 0:
        digits = max(0, 3 - max(0, math.floor(math.log10(abs(value) or 1))))
        return f"{value:.{min(digits, 3)}f}".replace("-", "−")
    digits = min(5, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def missing(name: Text, why: str) -> Row:
    """A row that stands where numbers would, and says why there are none."""
    return Row((name, ("not made: ", Code(why))), "missing")


def _stem(outcome: Outcome) -> str:
    return outcome.job.name.removesuffix(f"-{outcome.job.flags.get('seed', '')}")
