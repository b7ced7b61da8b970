"""The results as a table in Markdown, which reads as text too."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from dpm_jax.benchmarks.measure import SIZES

Entry = Mapping[str, Any]
_UNITS = {
    "train": "images/s",
    "sample": "samples/s",
    "K": "examples/s",
    "log_p": "examples/s",
    "particles": "filters/s",
}


def markdown(machine: Entry, results: Sequence[Entry]) -> str:
    """All of it: the machine, peaks, networks, measurements, and what was left out.

    Args:
        machine: facts by name.
        results: entries of `measure.run`.
    """
    parts = [
        "# dpm_jax, measured",
        ", ".join(f"{name} {_or_dash(value)}" for name, value in machine.items())
        + _devices(results),
        "Medians over interleaved rounds [quartiles]. Of peak: operations of products and"
        " convolutions (all that XLA counts) over those of the matrix product in the same rounds."
        " Ratios: peer time / ours, above 1 we are faster.",
        _section("peak", results, _PEAK),
        _section("network", results, _NETWORK),
        *(_section(kind, results, _columns(kind, results)) for kind in SIZES),
        _section("startup", results, _STARTUP),
        _section("growth", results, _GROWTH),
        _left_out(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _devices(results: Iterable[Entry]) -> str:
    """On what, and by which clock."""
    found = {f"; {e['devices']} × {e['device']}": None for e in results if "device" in e}
    found |= {f"; {e['time']} time": None for e in results if "time" in e}
    return "".join(found)


def _section(kind: str, results: Iterable[Entry], columns: Mapping[str, Callable]) -> str:
    rows = [e for e in results if e["kind"] == kind and "left_out" not in e]
    if not rows:
        return ""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[column(row) for column in columns.values()] for row in rows]
    return f"## {kind}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(kind: str, results: Iterable[Entry]) -> dict[str, Callable[[Entry], str]]:
    """Those of one kind; of peers only where there are any."""
    mine = [e for e in results if e["kind"] == kind]
    peers = dict.fromkeys(name for e in mine for name in e.get("ratio", {}))
    ms = "ms a step" if kind in ("train", "sample", "log_p", "particles") else "ms"
    found: dict[str, Callable[[Entry], str]] = {
        "network": lambda e: e["network"],
        SIZES[kind]: lambda e: str(e["size"]),
        ms: lambda e: number(e["ms"]),
        _UNITS[kind]: lambda e: _digits(e["per_second"][1]),
        "of peak (XLA)": _share,
    }
    found |= {f"{peer} / ours": partial(_ratio, peer) for peer in peers}
    return found | {
        "compile, s": lambda e: f"{e['compile_seconds']:.1f}",
        "memory, MiB": lambda e: _mebibytes(e["memory"]),
        "load": lambda e: _or_dash(e["load"]),
    }


def number(values: Sequence[float] | None) -> str:
    """A median and its quartiles; a dash for none."""
    if values is None:
        return "–"
    low, median, high = (_digits(value) for value in values)
    return median if low == median == high else f"{median} [{low}, {high}]"


def _digits(value: float) -> str:
    """Three digits, without an exponent from 0.001 on."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}" if places < 6 else f"{value:.2e}"


def _ratio(peer: str, entry: Entry) -> str:
    return number(entry.get("ratio", {}).get(peer))


def _share(entry: Entry) -> str:
    found = [entry.get(f"of_peak_{key}") for key in ("flop", "flop_xla")]
    by_hand, xla = (None if share is None else f"{share[1]:.1%}" for share in found)
    return _or_dash(by_hand) + (f" ({xla})" if xla else "")


def _port(entry: Entry) -> str:
    """Whether there is one, and how far it is off."""
    if "port_errors" in entry:
        return f"within {max(entry['port_errors'].values()):.0e}"
    return entry.get("port_left_out", "–")


def _started(seconds: Mapping[str, float]) -> str:
    return f"{seconds['wall']:.1f} ({seconds['cpu']:.1f})"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(_digits(value) for value in values)


def _mebibytes(size: float | None, places: int = 0) -> str:
    return "–" if size is None else f"{size / 2**20:.{places}f}"


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _rate(entry: Entry) -> str:
    unit = "GB/s" if entry["mode"] == "copy" else "GFLOP/s"
    return f"{number([value / 1e9 for value in entry['rate']])} {unit}"


def _left_out(results: Iterable[Entry]) -> str:
    lines = [
        f"- {' '.join(str(e[k]) for k in ('network', 'kind', 'mode', 'size') if k in e)}:"
        f" {e['left_out']}"
        for e in results
        if "left_out" in e
    ]
    return "## left out\n\n" + "\n".join(lines) if lines else ""


_PEAK: dict[str, Callable[[Entry], str]] = {
    "peak": lambda e: e["mode"],
    "rate": _rate,
    "load": lambda e: _or_dash(e["load"]),
}
_NETWORK: dict[str, Callable[[Entry], str]] = {
    "network": lambda e: e["network"],
    "parameters": lambda e: f"{e['parameters']:,}",
    "T": lambda e: str(e["T"]),
    "steps of samples": lambda e: str(e["sample_steps"]),
    "data": lambda e: "random images" if e["random_data"] else "its generator's",
    "port": _port,
    "set-up, s": lambda e: f"{e['setup_seconds']:.1f}",
}
_STARTUP: dict[str, Callable[[Entry], str]] = {
    "network": lambda e: e["network"],
    "first time, s (CPU)": lambda e: _started(e["first"]),
    "second time": lambda e: _started(e["second"]),
    "load": lambda e: _or_dash(e["load"]),
}
_GROWTH: dict[str, Callable[[Entry], str]] = {
    "network": lambda e: e["network"],
    "grows": lambda e: f"{e['of']} = {', '.join(str(v) for v in e['values'])}",
    "ms": lambda e: _listed(value * 1e3 for value in e["seconds"]),
    "memory of a run, MiB": lambda e: ", ".join(_mebibytes(size, 1) for size in e["memory"]),
    "load": lambda e: _or_dash(e["load"]),
}
