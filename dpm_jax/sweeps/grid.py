"""A grid of flags and seeds as jobs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from dpm_jax.runs import config as configs
from dpm_jax.runs.experiment import OWN as NAMES
from dpm_jax.runs.experiment import Experiment, find
from dpm_jax.sweeps.jobs import Job

__all__ = ["NAMES", "jobs", "lists"]

_SECONDS = 60.0  # of a run, for the bar: nothing is known of it
_LONGEST = 200  # bytes of a name: file systems take 255


def lists(flag: str, given: Sequence[str]) -> dict[str, list[str]]:
    """["T=20", "40", "width=8"] -> {"T": ["20", "40"], "width": ["8"]}.

    Raises:
        ValueError: naming the flag, for values before any name, and names given twice.
    """
    found: dict[str, list[str]] = {}
    for part in given:
        name, equals, value = part.partition("=")
        if not equals and not found:
            raise ValueError(f"{flag}: expected NAME=VALUE,..., got {part!r}")
        if equals and name in found:
            raise ValueError(f"{flag}: expected each name once, got {name!r} twice")
        if equals:
            found[name] = []
        found[list(found)[-1]].append(value if equals else part)
    return found


def jobs(
    name: str,
    preset: str | None,
    seeds: Sequence[str],
    vary: Mapping[str, Sequence[str]],
    fixed: Mapping[str, Sequence[str]],
) -> list[Job]:
    """A job for every seed and combination of values.

    Raises:
        ValueError: naming the flag, for what the experiment does not have or cannot be.
    """
    experiment = find(name)
    chosen = preset or experiment.preset
    if (
        not seeds
        or not all(seed.isdecimal() for seed in seeds)
        or len(set(map(int, seeds))) < len(seeds)
    ):
        raise ValueError(f"seeds: expected whole numbers, each once, got {','.join(seeds)!r}")
    several = next((n for n, values in fixed.items() if len(values) != 1), None)
    if several or set(fixed) & set(vary):
        twice = several or next(iter(set(fixed) & set(vary)))
        raise ValueError(f"set: expected one value for {twice}, which --vary may give several")
    grid = [[(n, _typed("vary", experiment, n, v)) for v in values] for n, values in vary.items()]
    for points in grid:
        for n, v in points:
            if points.count((n, v)) > 1:
                raise ValueError(f"vary: expected each value of {n} once, got {v} twice")
    same = {n: _typed("set", experiment, n, values[0]) for n, values in fixed.items()}
    found = []
    for point in itertools.product(*grid):
        of = _name(",".join(f"{n}={v}" for n, v in point) or "base")
        for seed in map(int, seeds):
            flags = {"seed": seed, **same, **dict(point)}
            configs.check(configs.configure(experiment, chosen, None, flags), experiment)
            found.append(Job(f"{of}-{seed}", name, chosen, flags, _SECONDS))
    return found


def _name(of: str) -> str:
    """Values as a name of a directory; where that needs other letters, or fewer, with a digest."""
    plain = "".join(c if c.isprintable() and c != "/" else "_" for c in of)
    short = plain.encode()[:_LONGEST].decode(errors="ignore")
    if short == of:
        return of
    return f"{short}-{hashlib.sha256(of.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _typed(flag: str, experiment: Experiment, name: str, value: str) -> Any:
    """The value as the flag of that name has it."""
    known = configs.flags_of(experiment)
    if name not in known or name == "seed":
        raise ValueError(f"{flag}: expected a flag of {experiment.name}.py, got {name!r}")
    kind = known[name].kind
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return kind(value) if kind in (int, float) else value
    except (ValueError, KeyError) as error:
        raise ValueError(f"{flag}: expected {kind.__name__} for {name}, got {value!r}") from error
