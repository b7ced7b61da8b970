"""Jarzynski 1997: free energy from nonequilibrium work, the source of eq. 9.

    python experiments/jarzynski.py --workdir=runs/jarzynski

A Brownian particle in a harmonic trap that moves by --displacement while it stiffens, driven at
speeds over three decades, forward and in reverse, ΔF = ½ ln(k_B/k_A); and the same driving escorted
(--escort): maps carry the particle as the trap changes, which wastes less work at any speed
(Vaikuntanathan and Jarzynski 2008). Then the same equality for a ring of 32 states, all paths
summed: exact in float64 at every speed.

It printed, among others (seed 0, ΔF = 0.6931, 20,000 trajectories each way; 2 cores, 14 s):

    time   maps        ⟨W⟩ − ΔF         Jarzynski, 95 %      k̂        Bennett  its ESS      beyond
    0.1    none  45.263 ± 0.127           below 8.189    2.16  0.686 ± 0.242     28.0   100%, 99%
          carry   0.679 ± 0.013  0.699 in 0.689 … 0.708  −0.52  0.699 ± 0.004  15750.2      3%, 0%
    10     none   2.531 ± 0.017  0.690 in 0.475 … 0.768   0.57  0.681 ± 0.012   7646.1      2%, 6%
          carry   0.032 ± 0.002  0.692 in 0.689 … 0.696  −0.24  0.693 ± 0.001  19658.2      0%, 0%
    master equation: max |error| = 7.8e-16

A fast driving without maps gives a bound alone: k̂ says that the largest weights are not all drawn
yet, and Bennett's estimate rests on 28 of 20,000 works of a side. Carried with the trap only its
stiffening is dear; --escort=full takes each canonical law to the next, so that W = ΔF of every
trajectory, which is possible because that map is known; --escort=fitted finds maps on a pilot of
its own and needs to know neither, with --quartic for a trap where no such map is perfect.
"""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax import files, hosts, later
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs.config import HELP, name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.workdir import PLACES, claim, locked
from dpm_jax.training.options import MAX_SEED

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import thermodynamics
    from dpm_jax.runs import plots, work_report

_LEAST_STEPS, _STEPS_PER_TIME = 50, 20  # changes of the trap: in all, and a relaxation time
_PILOT = 1_000  # trajectories that maps are fitted on
_HIGHEST = 1e12  # k_B T: works that the squares of Bennett's and Crooks' fits hold
_STEEPEST = 1e4  # quartic over the square of a stiffness: beyond, rejection takes long
_RING_STEPS, _RING_STATES = (1, 10, 100, 1000), 32

FLAGS = {
    "workdir": Flag(Path, "Directory of the run: figure and report."),
    "seed": Flag(int, "Seed of all trajectories.", 0, f"[0, {MAX_SEED - 1}]"),
    "num_trajectories": Flag(
        int, "Trajectories of each direction and speed.", 20_000, "[2, inf)", bytes=64
    ),
    "displacement": Flag(float, "How far the trap moves.", 5.0),
    "stiffness_A": Flag(float, "Stiffness at the start, above 0.", 1.0, "(0, inf)"),
    "stiffness_B": Flag(float, "Stiffness at the end, above 0.", 4.0, "(0, inf)"),
    "quartic": Flag(float, "g >= 0 in the energy k u²/2 + g u⁴ of either trap.", 0.0, "[0, inf)"),
    "durations": Flag(
        list,
        "Switching times, in relaxation times of trap A.",
        ["0.1", "0.3", "1", "3", "10", "30", "100"],
    ),
    "escort": Flag(
        str,
        "Maps that carry the particle as the trap changes, beside the driving without any: carry"
        " moves it with the trap, full takes the harmonic law of each trap to the next, fitted is"
        f" found on {_PILOT:,} other trajectories.",
        "carry",
        ("none", "carry", "full", "fitted"),
    ),
    "pdf": HELP["pdf"]._replace(default=False),
}


class Driving(NamedTuple):
    """The traps of a driving."""

    centre: jax.Array  # (n+1,)
    stiffness: jax.Array  # (n+1,)
    dt: float  # between two changes


def execute(config: dict[str, Any]) -> str:
    """Drive the trap at each speed, sum the ring's paths, write figure and report; the tables.

    Raises:
        Invalid: for anything the user can mend, before any work.
    """
    with contextlib.ExitStack() as held:
        try:
            config = {"experiment": "jarzynski", **check(config)}
            speeds, num = len(config["durations"]), config["num_trajectories"]
            where = config["workdir"]
            bars.say(f"jarzynski: {num} trajectories each way at {speeds} speeds; into {where}")
            workdir = places.local(config["workdir"])
            hosts.together(_claim, workdir, config, held)
            bars.begin()
        except (ValueError, OSError) as error:
            raise Invalid(name_flag(error, config)) from error
        held.enter_context(plots.formats(config["pdf"]))
        return measure(config, workdir)


def _claim(workdir: Path, config: dict[str, Any], held: contextlib.ExitStack) -> None:
    claim(workdir, config, write=False)
    held.enter_context(locked(workdir))
    claim(workdir, config, write=True)


def measure(config: dict[str, Any], workdir: Path) -> str:
    """Figure and report.json into the directory, which is held; the tables."""
    delta_F, rows, works = free_energy(config), [], []
    for i, duration in enumerate(bars.bar(config["durations"], "drive", "speed", leave=True)):
        key = jax.random.fold_in(jax.random.key(config["seed"]), i)
        path = protocol(config, duration)
        plain, drawn = drive(config, path, key, None, delta_F)
        rows.append({"duration": duration} | plain)
        works.append([drawn])
        if (maps := escort(config, path, key)) is not None:
            escorted, drawn = drive(config, path, key, maps, delta_F)
            rows[-1] |= {"escorted": {"escort": config["escort"]} | escorted}
            works[-1].append(drawn)
    with bars.phase("ring of states"):
        ring = ring_moments()
    wrote = [workdir / "report.json", *plots.written(workdir / "figures" / "jarzynski.png")]
    with bars.phase("drawing the figure"):
        work_report.draw(wrote[1], rows, works, delta_F)
    content = {
        "experiment": "jarzynski",
        "free_energy_exact": delta_F,
        "drivings": rows,
        "ring": ring,
        "figures": {"jarzynski": str(wrote[1].relative_to(workdir))},
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "config": {name: value for name, value in config.items() if name not in PLACES},
    }
    files.write_json(wrote[0], content)
    places.bring(workdir)
    tables = (
        work_report.trap_table(config, rows, delta_F),
        "",
        work_report.ring_table(ring, _RING_STATES),
    )
    return "\n".join(["", *tables, "", *(f"wrote {path}" for path in wrote)])


def check(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its times as numbers; ValueError where a value makes no sense."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a directory for the run, got none")
    flags.check(config, FLAGS)
    try:
        durations = [float(d) for d in config["durations"]]
    except ValueError as error:
        raise ValueError(f"durations: expected numbers, got {config['durations']}") from error
    stiffness = config["stiffness_A"], config["stiffness_B"]
    highest = max(stiffness) * (config["displacement"] ** 2 + 1 / min(stiffness))
    if highest > _HIGHEST:
        got = f"a displacement of {config['displacement']:g} at {max(stiffness):g}"
        raise ValueError(f"displacement: expected energies up to {_HIGHEST:g} k_B T, got {got}")
    softer, quartic = min(stiffness), config["quartic"]
    most = min(_STEEPEST * softer**2, _HIGHEST / (abs(config["displacement"]) + softer**-0.5) ** 4)
    if quartic > most:
        raise ValueError(f"quartic: expected at most {most:.3g} with these traps, got {quartic:g}")
    if not durations or not all(0 < d < math.inf for d in durations):
        raise ValueError(f"durations: expected finite numbers above 0, got {durations}")
    for duration in durations:  # the trap's path is held whole
        flags.check_memory("durations", duration, 16 * _STEPS_PER_TIME * duration)
    return {**config, "durations": durations}


def free_energy(config: dict[str, Any]) -> float:
    """ΔF of the two traps; of harmonic ones ½ ln(k_B/k_A)."""
    ends, quartic = [config["stiffness_A"], config["stiffness_B"]], config["quartic"]
    if not quartic:
        return 0.5 * math.log(ends[1] / ends[0])
    with jax.enable_x64(True):
        first, last = thermodynamics.trap_free_energy(jnp.asarray(ends), jnp.asarray(quartic))
        return float(last - first)


def protocol(config: dict[str, Any], duration: float) -> Driving:
    """How the trap changes in a duration, in relaxation times 1/k_A."""
    steps = max(_LEAST_STEPS, math.ceil(_STEPS_PER_TIME * duration))
    done = jnp.linspace(0.0, 1.0, steps + 1)
    first, last = config["stiffness_A"], config["stiffness_B"]
    centre, stiffness = config["displacement"] * done, first + (last - first) * done
    return Driving(centre, stiffness, duration / first / steps)


def escort(config: dict[str, Any], path: Driving, key: jax.Array):
    """The maps that --escort names; None: none."""
    if config["escort"] == "none":
        return None
    if config["escort"] == "fitted":
        fit = functools.partial(thermodynamics.fitted_maps, num=_PILOT, quartic=_quartic(config))
        return jax.jit(fit)(jax.random.fold_in(key, 2 * config["num_trajectories"]), *path)
    full = config["escort"] == "full"
    return thermodynamics.carry(path.centre, path.stiffness if full else jnp.ones_like(path.centre))


def drive(config: dict[str, Any], path: Driving, key: jax.Array, maps, delta_F: float):
    """What work_report says of the works, ⟨W⟩ − ΔF exactly, and the works (M,) each way.

    Trajectories with maps and without have the same keys: what differs is the maps' doing.
    """
    work = functools.partial(thermodynamics.trap_work, quartic=_quartic(config))
    draw = jax.jit(jax.vmap(work, in_axes=(0, None, None, None, None)))
    keys = jax.random.split(key, (2, config["num_trajectories"]))
    centre, stiffness, dt = path
    forward = np.asarray(draw(keys[0], *path, maps))
    back = None if maps is None else maps.reversed()
    reverse = np.asarray(draw(keys[1], centre[::-1], stiffness[::-1], dt, back))
    exact = None
    if not config["quartic"]:
        exact = float(thermodynamics.trap_mean_work(*path, maps)) - delta_F
    return {"exact": exact} | work_report.measure(forward, reverse, delta_F), (forward, reverse)


def _quartic(config: dict[str, Any]):
    return jnp.float32(config["quartic"]) if config["quartic"] else None


def ring_moments() -> list[dict[str, float]]:
    """⟨W⟩ − ΔF and ⟨e^{−W}⟩e^{ΔF} − 1 on a ring whose well turns and deepens, in float64."""
    rows = []
    with jax.enable_x64(True):
        angle = jnp.linspace(0.0, 2 * jnp.pi, _RING_STATES, endpoint=False)
        for steps in _RING_STEPS:
            done = jnp.linspace(0.0, 1.0, steps + 1)[:, None]
            energy = (1 + 3 * done) * jnp.cos(angle[None, :] - 2.0 * done)
            delta_F = jnp.subtract(*thermodynamics.free_energy(energy[jnp.array([-1, 0])]))
            exponential, mean = thermodynamics.master_equation(energy)
            error = float(exponential * jnp.exp(delta_F) - 1)
            rows.append({"steps": steps, "dissipation": float(mean - delta_F), "error": error})
    return rows


if __name__ == "__main__":
    binary.run("jarzynski.py", FLAGS, execute, "the same command begins again", check=check)
