"""How the numbers of a page came about: effort, dates, machine and versions."""

import contextlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dpm_jax.benchmarks import machine
from dpm_jax.reproduction.document import Code, Text
from dpm_jax.sweeps.jobs import Outcome


def facts(folder: Path, done: Sequence[Outcome]) -> Iterator[Text]:
    """One line each."""
    yield "Effort: " + effort(folder)
    reports = [each.report or {} for each in done]
    if done:
        dates = [datetime.fromtimestamp(_written(each), UTC).date().isoformat() for each in done]
        minutes = sum(report.get("seconds") or 0 for report in reports) / 60
        yield f"Made: {_span(dates)}, {minutes:,.0f} minutes of training in all"
        devices = {f"{r.get('devices', 1)} × {r['backend']}" for r in reports if "backend" in r}
        versions = {str(r.get("jax", "of unknown version")) for r in reports}
        yield f"Devices of a run: {_listed(devices)}; JAX {_listed(versions)}"
    here = machine.facts()
    commit = revision()
    version = f"dpm_jax {here['dpm_jax'] or 'of unknown version'}"
    yield f"Page written on: {here['processor']}, {here['cores']} cores, Python {here['python']}"
    yield (version, ", commit ", Code(commit)) if commit else version


def effort(folder: Path) -> str:
    """What reproduction.json says was asked for."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        told = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
        return str(told.get("effort", "not recorded"))
    return "not recorded"


def revision() -> str:
    """The commit of this library, where it lies in a clone of its own; else ""."""
    here = Path(__file__).resolve().parent
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        asked = ["git", "-C", str(here), "rev-parse", "--show-prefix", "HEAD"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
        prefix, commit = told.stdout.split()
        # A library that is installed somewhere below another project is not of its commit.
        return commit[:12] if prefix == "dpm_jax/reproduction/" else ""
    return ""


def _written(outcome: Outcome) -> float:
    path = outcome.place / "report.json"
    return path.stat().st_mtime if path.exists() else 0.0


def _span(dates: Iterable[str]) -> str:
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names)))
