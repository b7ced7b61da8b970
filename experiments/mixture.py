"""Posteriors that are known: 25 Gaussian modes under random linear measurements, all methods.

    python experiments/mixture.py --workdir=runs/mixture

The benchmark of Cardoso et al. 2023 (MCGdiff, arXiv 2308.07983): y = A x^0 + ε of a mixture in
d = 8, 80, 800 dimensions, d_y = 1, 2, 4, with the exact denoiser, so that what is off is the
method's. Draws of each method are set beside exact draws by the sliced Wasserstein distance, and
log Z~ beside its exact value; the floor is what two exact draws have. `--denoiser=trained` trains a
network on draws of the mixture instead, and tells apart what is the network's and what the
method's by a long run.

The same command again measures what is missing: a run may be cut off, and more --seeds, --dims,
--measurements, --methods or --calls may be asked of the same directory.
"""

from __future__ import annotations

import contextlib
import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpm_jax import files, hosts, later, units
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.config import HELP, name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.mixture_methods import EXACT, LONG, METHODS, plan
from dpm_jax.training.options import MAX_SEED

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax.exact import mixture
    from dpm_jax.runs import mixture_methods, plots
    from dpm_jax.runs import mixture_report as report

CURVE = ("tilt_mmps", "gibbs_mmps", "langevin_mmps", "particles_mmps", "particle_gibbs")
FLAGS = {
    "workdir": Flag(Path, "Directory of the run: mixture.json and figures."),
    "dims": Flag(list, "Dimensions d, even numbers.", ["8", "80", "800"]),
    "measurements": Flag(
        list, "Numbers of measurements d_y; d/4 and the like too.", ["1", "2", "4"]
    ),
    "seeds": Flag(int, "Problems of each cell.", 20, "[1, 10000]"),
    "seed": Flag(int, "Seed of the first.", 0, f"[0, {MAX_SEED - 10_001}]"),
    "draws": Flag(int, "Draws of each method.", 1024, "[16, inf)", bytes=4096),
    "calls": Flag(int, "Network calls a draw.", 100, "[2, 100000]"),
    "methods": Flag(list, f"Some of {', '.join(METHODS)}.", list(METHODS)),
    "curve": Flag(
        list,
        "Numbers of calls for the curve of the first cell; none: no curve.",
        ["25", "50", "100", "200", "400", "1000"],
    ),
    "curve_seeds": Flag(int, "Problems of each point of it, at most.", 10, "[1, 10000]"),
    "denoiser": Flag(str, "exact or trained.", "exact", ("exact", "trained")),
    "train_steps": Flag(int, "Steps of training of each network.", 8000, "[1, inf)"),
    "pdf": HELP["pdf"]._replace(default=False),
}
_RUN = ("denoiser", "draws", "train_steps")  # what may not change in a directory
_FLOORS = 4  # pairs of exact draws, of which the floor is the mean
_EXACT_DRAWS = ("target", *EXACT)  # each by a generator of its own
_EXAMPLES = 100_000  # to train on
_FILE = "mixture.json"


def execute(config: dict[str, Any]) -> str:
    """Measure what is missing, write mixture.json and figures; the tables.

    Raises:
        Invalid: for anything the user can mend, before any work.
    """
    with contextlib.ExitStack() as held:
        try:
            config = check(config)
            place = places.local(config["workdir"])
            hosts.together(_claim, place, config, held)
            entries = _kept(place)
            jobs = _jobs(config, entries)
            bars.say(f"mixture: {len(jobs)} problems to measure; into {config['workdir']}")
            bars.begin()
        except (ValueError, OSError) as error:
            raise Invalid(name_flag(error, config)) from error
        held.enter_context(plots.formats(config["pdf"]))
        for problem, todo in bars.bar(jobs, "measure", "problem", leave=True):
            entries += measure(config, problem, todo)
            _write(place, config, entries)
        return _finish(config, place, entries)


def _claim(place: Path, config: dict[str, Any], held: contextlib.ExitStack) -> None:
    wanted = {"experiment": "mixture", **{name: config[name] for name in _RUN}}
    workdirs.claim(place, wanted, write=False)
    held.enter_context(workdirs.locked(place))
    workdirs.claim(place, wanted, write=True)


def _kept(place: Path) -> list[dict[str, Any]]:
    path = place / _FILE
    entries = workdirs.read(path).get("entries") if path.exists() else []
    if not isinstance(entries, list):
        raise ValueError(f"workdir: {path} holds no entries")
    return entries


def check(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its numbers as such; ValueError where a value makes no sense."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a directory for the run, got none")
    flags.check(config, FLAGS)
    unknown = [name for name in config["methods"] if name not in METHODS]
    if unknown or not config["methods"]:
        known = ", ".join(METHODS)
        got = ", ".join(unknown) or "none"
        raise ValueError(f"methods: expected some of {known}, got {got}")
    dims = [_whole("dims", d, 2, 10**6) for d in config["dims"]]
    if not dims or any(d % 2 for d in dims):
        raise ValueError(f"dims: expected even numbers, got {', '.join(config['dims']) or 'none'}")
    cells = [(d, _measurements(text, d)) for d in dims for text in config["measurements"]]
    if not cells:
        raise ValueError("measurements: expected numbers, got none")
    flags.check_memory("dims", max(dims), 64.0 * max(dims) * config["draws"])
    curve = [_whole("curve", c, 2, 10**5) for c in config["curve"]]
    return {**config, "cells": sorted(set(cells)), "curve_calls": curve}


def _measurements(text: str, dim: int) -> int:
    """A number, or d/k."""
    if text.startswith("d/"):
        return _whole("measurements", str(dim // _whole("measurements", text[2:], 1, dim)), 1, dim)
    return _whole("measurements", text, 1, dim)


def _whole(flag: str, text: Any, least: int, most: int) -> int:
    if not str(text).isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{flag}: expected whole numbers in {least}..{most}, got {text!r}")
    return int(text)


def _jobs(config: dict[str, Any], entries: list[dict[str, Any]]):
    """(dim, measurements, seed) and the (method, calls) that it lacks, seed by seed."""
    names = ("dim", "measurements", "seed", "method", "calls")
    done = {tuple(e[name] for name in names) for e in entries}
    jobs = []
    for seed in range(config["seed"], config["seed"] + config["seeds"]):
        for cell in config["cells"]:
            asked = [(method, config["calls"]) for method in config["methods"]]
            if cell == config["cells"][0] and seed - config["seed"] < config["curve_seeds"]:
                on_curve = [m for m in CURVE if m in config["methods"]]
                asked += [(m, calls) for calls in config["curve_calls"] for m in on_curve]
            todo = [each for each in dict.fromkeys(asked) if (*cell, seed, *each) not in done]
            if todo:
                jobs.append(((*cell, seed), todo))
    return jobs


def measure(config: dict[str, Any], problem: tuple[int, int, int], todo) -> list[dict[str, Any]]:
    """One problem by several methods: an entry for each."""
    dim, measurements, seed = problem
    of, num = mixture.problem(seed, dim, measurements), config["draws"]
    make, params = _denoiser(config, seed, dim)
    key = jax.random.fold_in(jax.random.key(seed), dim * 1000 + measurements)

    def run(method: str, calls: int):
        asked = mixture_methods.Asked(method, calls, num)
        x, log_z = mixture_methods.draw(key, of, params, asked, make)
        return np.asarray(x)[None], float(log_z)

    target, long = _exact(of, problem, "target", num), None
    if config["denoiser"] == "trained":
        long = run(LONG, config["calls"])
    found = []
    for method, calls in todo:
        begun = time.monotonic()
        exact = method in EXACT
        draws = (_exact(of, problem, method, num), math.nan) if exact else run(method, calls)
        own = dict(zip(("dim", "measurements", "seed"), problem), method=method, calls=calls)
        same = exact or plan(method, calls)[0] == plan(LONG, config["calls"])[0]
        own |= _distances(of, draws, target, long if same else None)
        found.append(own | {"seconds": round(time.monotonic() - begun, 2)})
    return found


def _exact(of, problem: tuple[int, int, int], name: str, num: int) -> np.ndarray:
    """Exact draws (count, num, dim): what methods are compared with, the floor's, the prior's."""
    dim, measurements, seed = problem
    rng = np.random.default_rng([seed, dim, measurements, _EXACT_DRAWS.index(name)])
    if name == "prior":
        return mixture.prior(rng, of.mixture, dim, num)[None]
    count = _FLOORS if name == "floor" else 1
    return np.stack([mixture.posterior(rng, of, num) for _ in range(count)])


def _distances(of, draws, target: np.ndarray, long) -> dict[str, Any]:
    """What an entry says of draws (count, num, dim) and log Z~: distances in original units."""

    def distance(xs: np.ndarray, y: np.ndarray) -> float | None:
        """The mean over xs; None of draws that are not finite."""
        key, to = jax.random.key(0), jnp.asarray(y, jnp.float32)
        each = [mixture.sliced_wasserstein(key, jnp.asarray(x, jnp.float32), to) for x in xs]
        return units.or_null(float(of.mixture.scale * np.mean(each)))

    x, log_z = draws
    lost = int(np.sum(~np.isfinite(x).all(axis=-1)))
    told: dict[str, Any] = {"sw": distance(x, target[0]), "lost": lost}
    told["log_z_error"] = units.or_null(log_z - float(of.log_z))
    if long is not None:
        told["sw_model"] = distance(x, long[0][0])
        told["log_z_model"] = units.or_null(log_z - long[1])
    return told


def _denoiser(config: dict[str, Any], seed: int, dim: int):
    """(problem, params, name, T) -> chain, and its parameters."""
    if config["denoiser"] == "exact":
        return mixture_methods.exact_chain, None
    return _network(dim).chain_of, _trained(config["train_steps"], seed, dim)


@lru_cache(maxsize=4)
def _network(dim: int):
    """The model of the trained denoiser, with one function that makes chains of it."""
    return mixture_methods.network(dim)


@lru_cache(maxsize=1)
def _trained(steps: int, seed: int, dim: int):
    """Parameters, by training on draws of the mixture of this seed."""
    rng = np.random.default_rng([seed, dim, len(_EXACT_DRAWS)])
    of = mixture.problem(seed, dim, 1).mixture
    data = np.asarray(mixture.turned(jnp.asarray(mixture.prior(rng, of, dim, _EXAMPLES), float)))
    return mixture_methods.train(_network(dim).model, data, steps, seed)


def _write(place: Path, config: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    content = {
        "experiment": "mixture",
        "settings": {name: config[name] for name in _RUN},
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "entries": entries,
    }
    files.write_json(place / _FILE, content)


def _finish(config: dict[str, Any], place: Path, entries: list[dict[str, Any]]) -> str:
    """Figures, and the text that is printed."""
    folder, calls = place / "figures", config["calls"]
    seeds = range(config["seed"], config["seed"] + config["seeds"])
    cells = config["cells"]
    own = [e for e in entries if e["seed"] in seeds and e["method"] in config["methods"]]
    own = [e for e in own if (e["dim"], e["measurements"]) in cells]
    wrote = [place / _FILE]
    with bars.phase("drawing the figures"):
        wrote += plots.written(report.draw_cells(folder / "cells.png", own, calls))
        if config["curve_calls"]:
            curve = [e for e in own if e["calls"] in config["curve_calls"]]
            curve = [e for e in curve if e["seed"] < config["seed"] + config["curve_seeds"]]
            path = report.draw_calls(folder / "calls.png", own, curve, cells[0], CURVE)
            wrote += plots.written(path)
    places.bring(place)
    return "\n".join(["", report.tables(own, calls), "", *(f"wrote {path}" for path in wrote)])


if __name__ == "__main__":
    binary.run("mixture.py", FLAGS, execute, "the same command goes on", check=check)
