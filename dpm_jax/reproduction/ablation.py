"""Which module matters: K of the paper's model with one thing changed, in pairs of one seed.

Runs of one seed share data, test examples and evaluation noise, so the change is taken seed by
seed: its mean over the pairs, and the standard error of that. In bits a dimension, above 0 where
the change is for the better; of images it is that of the code length (bits/dim), which a density
and a probability of integers share.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax import units
from dpm_jax.reproduction.efforts import DATA_FLAGS
from dpm_jax.reproduction.variants import EFFORTS, SEEDS, SUBJECTS, Subject, Variant
from dpm_jax.runs import workdir as workdirs
from dpm_jax.sweeps.jobs import Job, Outcome, outcome

SETTINGS = "ablation.json"
_DIMS = {"swiss_roll": 2, "heartbeat": 20}  # of what has no "dims" in its report
_BASE = Variant("", "the paper's model", {})
_HEADING = ("module", "change", "data", "ΔK, bits/dim", "K, bits/dim", "seeds", "told from none")
_NAMED = 3  # changes a data set that the paragraph names in each direction


class Effect(NamedTuple):
    """What one change does on one data set."""

    data: str
    module: str
    change: str
    delta: float  # bits a dimension, above 0: better than the base
    error: float  # its standard error over the pairs
    seeds: int
    K: float  # of the changed model, bits a dimension; of images minus the code length
    base: float  # of the base, the same seeds
    told: bool  # whether a 95 % interval (Student's t) leaves out 0


class Ablation(NamedTuple):
    """All of it, as far as runs were made."""

    effort: str
    effects: tuple[Effect, ...]  # by size
    failed: tuple[str, ...]  # changes without two pairs, and why
    paragraph: str


def jobs(effort: str, data: Mapping[str, str], only: Iterable[str] = ()) -> list[Job]:
    """The runs of an ablation; `data` and its folders as in `efforts.jobs`."""
    chosen = [subject for subject in SUBJECTS if not only or subject.data in only]
    return [
        _job(subject, variant, seed, effort, data)
        for subject in chosen
        for variant in (_BASE, *subject.variants)
        for seed in range(SEEDS[effort])
    ]


def _job(subject: Subject, variant: Variant, seed: int, effort: str, data) -> Job:
    at = EFFORTS.index(effort)
    flags = {"num_steps": subject.steps[at], **subject.base, **variant.flags}
    flags |= {"seed": seed, "figures": False}
    if subject.data in data:
        flags[DATA_FLAGS[subject.data]] = data[subject.data]
    changed = ",".join(f"{name}={value}" for name, value in variant.flags.items()) or "base"
    name = f"{subject.data}-{changed}-{seed}"
    return Job(name, subject.data, "paper", flags, subject.seconds[at] * variant.cost)


def read(root: Path) -> Ablation | None:
    """The ablation of a directory; None where there is none."""
    try:
        effort = workdirs.read(root / SETTINGS).get("effort")
    except ValueError:
        return None
    return of(root, effort) if effort in EFFORTS else None


def of(root: Path, effort: str) -> Ablation:
    """The ablation of a directory, as far as it came."""
    effects: list[Effect] = []
    failed: list[str] = []
    for subject in SUBJECTS:
        base = _outcomes(subject, _BASE, effort, root)
        for variant in subject.variants:
            found = _effect(subject, variant, base, _outcomes(subject, variant, effort, root))
            if isinstance(found, Effect):
                effects.append(found)
            else:
                failed.append(found)
    effects.sort(key=_size, reverse=True)
    return Ablation(effort, tuple(effects), tuple(failed), paragraph(effects, effort))


def _outcomes(subject: Subject, variant: Variant, effort: str, root: Path) -> list[Outcome]:
    seeds = range(SEEDS[effort])
    return [outcome(_job(subject, variant, seed, effort, {}), root) for seed in seeds]


def _effect(subject: Subject, variant: Variant, base, changed) -> Effect | str:
    pairs = [
        (value(a.report, subject.data), value(b.report, subject.data))
        for a, b in zip(base, changed)
        if a.report is not None and b.report is not None
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < len(pairs):
        return f"{subject.data}, {variant.module}, {variant.change}: K is not finite"
    if len(pairs) < 2:
        why = next((each.why for each in (*changed, *base) if each.why), "no two seeds")
        return f"{subject.data}, {variant.module}, {variant.change}: {why}"
    mean, error = units.mean_and_error([b - a for a, b in known])
    of_base, K = (statistics.fmean(each) for each in zip(*known))
    told = abs(mean) > error * _student(len(pairs) - 1)
    what = (subject.data, variant.module, variant.change)
    return Effect(*what, mean, error, len(pairs), K, of_base, told)


def value(report: Mapping[str, Any], data: str) -> float | None:
    """K in bits a dimension; of images minus the code length of a level in bits/dim.

    None where it is not finite.
    """
    code = [v for name, v in report.items() if name.startswith("bits_per_dim_")]
    found, dims = (code[0], -1) if code else (report["K_bits"], _DIMS.get(data))
    return None if found is None or dims is None else found / dims


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def paragraph(effects: list[Effect], effort: str) -> str:
    """What matters, in words that the numbers carry."""
    sets = [s.data for s in SUBJECTS if any(e.data == s.data for e in effects)]
    steps = {s.data: s.steps[EFFORTS.index(effort)] for s in SUBJECTS}
    told = {data: [e for e in effects if e.data == data and e.told] for data in sets}
    first = collections.Counter(max(found, key=_size).module for found in told.values() if found)
    sentences = [
        f"The largest effect is that of the {module} on {count} of {len(sets)} data sets."
        for module, count in first.most_common(1)
    ]
    for data, found in told.items():
        worse = sorted((e for e in found if e.delta < 0), key=lambda e: e.delta)
        better = sorted((e for e in found if e.delta > 0), key=lambda e: -e.delta)
        every = [e for e in effects if e.data == data]
        sentences.append(
            f"On {data} ({steps[data]:,} training steps, the base has"
            f" {units.number(every[0].base)} bits a dimension)"
            f" {_named('costs most', worse)}; {_named('gains most', better)};"
            f" {len(every) - len(found)} of {len(every)} changes are not told from none."
        )
    return " ".join(sentences)


def _size(effect: Effect) -> float:
    return abs(effect.delta)


def _named(verb: str, found: list[Effect]) -> str:
    if not found:
        return f"nothing {verb.split()[0]}"
    each = (f"{e.module}, {e.change} ({units.number(e.delta, e.error, 4)})" for e in found[:_NAMED])
    return f"what {verb} is {'; '.join(each)}"


def table(found: Ablation) -> list[tuple[str, ...]]:
    """The effects as rows of text, the heading first, ordered by size."""
    rows: list[tuple[str, ...]] = [_HEADING]
    for e in found.effects:
        sign = "+" if e.delta > 0 else ""
        rows.append((
            e.module, e.change, e.data, sign + units.number(e.delta, e.error, 4),
            units.number(e.K, digits=3), str(e.seeds), "yes" if e.told else "no",
        ))  # fmt: skip
    return rows
