"""Jarzynski 1997: free energy from nonequilibrium work, the source of eq. 9.

    python experiments/jarzynski.py --workdir=runs/jarzynski

A Brownian particle in a harmonic trap that moves by --displacement while it stiffens, driven at
speeds over three decades, forward and in reverse. ΔF = ½ ln(k_B/k_A) is known. Then the same
equality for a ring of 32 states, all paths summed: exact in float64 at every speed.

It printed, among others (seed 0, ΔF = 0.6931, 20,000 trajectories each way; 2 cores, 13 to 17 s):

    time        ⟨W⟩ − ΔF      Jarzynski      ESS        Bennett          slope
    0.1   45.263 ± 0.127  5.194 ± 0.529      3.6  0.686 ± 0.242  1.045 ± 0.097
    3      8.344 ± 0.034  1.132 ± 0.171     34.2  0.708 ± 0.031  1.006 ± 0.015
    100    0.256 ± 0.005  0.690 ± 0.006  12049.9  0.692 ± 0.004  1.007 ± 0.016
    master equation: max |error| = 7.8e-16

The error of a fast Jarzynski estimate is itself too small; the table says where M cannot suffice.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from dpm_jax import plots, reporting, thermodynamics

FLAGS = flags.FLAGS
PROGRAM = "jarzynski.py"
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "num_trajectories": 20_000,
    "displacement": 5.0,
    "stiffness_A": 1.0,
    "stiffness_B": 4.0,
    "durations": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
}
_LEAST_STEPS, _STEPS_PER_TIME = 50, 20  # changes of the trap: in all, and a relaxation time
_RING_STEPS, _RING_STATES = (1, 10, 100, 1000), 32


class Invalid(Exception):
    """A flag or directory that the user can mend; printed without a traceback."""


def execute(config: dict[str, Any]) -> str:
    """Drive the trap at each speed, sum the ring's paths, write figure and report; the tables.

    Raises:
        Invalid: for anything the user can mend, before any work.
    """
    workdir = _claim(check(config), config)
    delta_F = 0.5 * math.log(config["stiffness_B"] / config["stiffness_A"])
    rows, works = [], []
    for i, duration in enumerate(tqdm(config["durations"], desc="drive", unit="speed")):
        key = jax.random.fold_in(jax.random.key(config["seed"]), i)
        forward, reverse, mean = drive(config, duration, key)
        works.append((duration, forward, reverse))
        known = {"duration": duration, "exact": mean - delta_F}
        rows.append(known | measure(forward, reverse, delta_F))
    ring = ring_moments()
    figure = _draw(rows, works, delta_F, workdir / "figures" / "jarzynski.png")
    content = {
        "experiment": "jarzynski",
        "free_energy_exact": delta_F,
        "drivings": rows,
        "ring": ring,
        "figures": {"jarzynski": str(figure.relative_to(workdir))},
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "config": _identity(config),
    }
    reporting.write_json(workdir / "report.json", content)
    wrote = [f"wrote {path}" for path in (workdir / "report.json", figure)]
    return "\n".join(["", _trap_table(config, rows, delta_F), "", _ring_table(ring), "", *wrote])


def check(config: dict[str, Any]) -> Path:
    """The work directory; Invalid that begins with the flag, where a value makes no sense."""
    if not config["workdir"]:
        raise Invalid("--workdir: expected a directory for the run, got none")
    if not 0 <= config["seed"] < 2**32:
        raise Invalid(f"--seed: expected 0..2^32 − 1, got {config['seed']}")
    if config["num_trajectories"] < 2:
        raise Invalid(f"--num_trajectories: expected at least 2, got {config['num_trajectories']}")
    if not math.isfinite(config["displacement"]):
        raise Invalid(f"--displacement: expected a finite number, got {config['displacement']}")
    for name in ("stiffness_A", "stiffness_B"):
        if not 0 < config[name] < math.inf:
            raise Invalid(f"--{name}: expected a finite number above 0, got {config[name]}")
    durations = config["durations"]
    if not durations or not all(0 < d < math.inf for d in durations):
        raise Invalid(f"--durations: expected finite numbers above 0, got {list(durations)}")
    return Path(config["workdir"]).expanduser()


def drive(config: dict[str, Any], duration: float, key: jax.Array):
    """Works (M,) forward and in reverse, and ⟨W⟩ exactly; duration in relaxation times 1/k_A."""
    steps = max(_LEAST_STEPS, math.ceil(_STEPS_PER_TIME * duration))
    done = jnp.linspace(0.0, 1.0, steps + 1)
    first, last = config["stiffness_A"], config["stiffness_B"]
    centre, stiffness = config["displacement"] * done, first + (last - first) * done
    dt = duration / first / steps
    draw = jax.jit(jax.vmap(thermodynamics.trap_work, in_axes=(0, None, None, None)))
    keys = jax.random.split(key, (2, config["num_trajectories"]))
    forward = draw(keys[0], centre, stiffness, dt)
    reverse = draw(keys[1], centre[::-1], stiffness[::-1], dt)
    mean = float(thermodynamics.trap_mean_work(centre, stiffness, dt))
    return np.asarray(forward), np.asarray(reverse), mean


def measure(forward: np.ndarray, reverse: np.ndarray, delta_F: float) -> dict[str, Any]:
    """What the works of one speed say of ΔF, for report, table and figure; None where unknown."""
    there, back = map(thermodynamics.jarzynski, (jnp.asarray(forward), jnp.asarray(reverse)))
    bennett = thermodynamics.bennett(forward, reverse)
    crossing = thermodynamics.crooks(forward, reverse)
    numbers = {
        "dissipation": -float(there.K) - delta_F,
        "dissipation_error": float(there.K_error),
        "jarzynski": -float(there.value),
        "jarzynski_error": float(there.error),
        "jarzynski_jackknife": float(there.jackknife),
        "ess": float(there.ess),
        "dissipation_reverse": -float(back.K) + delta_F,
        "jarzynski_reverse": float(back.value),
        "jarzynski_reverse_error": float(back.error),
        "ess_reverse": float(back.ess),
        "bennett": bennett.value,
        "bennett_error": bennett.error,
        "bennett_ess": bennett.ess,
        "crossing": crossing.value,
        "crossing_error": crossing.error,
        "slope": crossing.slope,
        "slope_error": crossing.slope_error,
    }
    warning = {"warning": _warning(numbers, len(forward))}
    return {name: reporting.or_null(value) for name, value in numbers.items()} | warning


def _warning(numbers: dict[str, float], M: int) -> str:
    """What must not be read as a value with an error.

    ⟨e^{−W}⟩ rests on the reverses of typical reverse trajectories: one forward trajectory in e^D,
    with D the dissipation of the reverse process (Jarzynski 2006, Phys. Rev. E 73, 046105). With
    fewer than that, ESS may well be above 2.
    """
    if numbers["bennett_ess"] < 2:
        return "no overlap: ΔF unknown"
    if numbers["ess"] < 2:
        return "ESS < 2: a bound in the mean"
    return "M < e^D: a bound in the mean" if math.log(M) < numbers["dissipation_reverse"] else ""


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


def _draw(rows: list[dict[str, Any]], works: list, delta_F: float, path: Path) -> Path:
    """The figure; histograms of the slowest, the middle and the fastest driving."""
    order = np.argsort([row["duration"] for row in rows])
    names = [name for name in rows[0] if name != "warning"]
    sweep = {name: np.array([rows[i][name] for i in order], np.float64) for name in names}
    shown = [works[order[i]] for i in (-1, len(order) // 2, 0)]
    return plots.jarzynski(path, sweep, shown, delta_F)


def _trap_table(config: dict[str, Any], rows: list[dict[str, Any]], delta_F: float) -> str:
    heading = ("time", "⟨W⟩ − ΔF", "exact", "Jarzynski", "jackknife", "ESS", "Bennett")
    table: list[tuple[str, ...]] = [(*heading, "crossing", "slope", "")]
    number = reporting.number
    for n in rows:
        row = [f"{n['duration']:g}", number(n["dissipation"], n["dissipation_error"])]
        row += [number(n["exact"]), number(n["jarzynski"], n["jarzynski_error"])]
        row += [number(n["jarzynski_jackknife"]), number(n["ess"], digits=1)]
        row += [number(n[x], n[f"{x}_error"]) for x in ("bennett", "crossing", "slope")]
        table.append((*row, n["warning"]))
    title = (
        f"jarzynski, exact ΔF = {delta_F:.4f} k_B T, {config['num_trajectories']} trajectories"
        f" each way, seed {config['seed']}; estimates of ΔF ± one standard error"
    )
    return f"{title}\n{reporting.table(table)}"


def _ring_table(ring: list[dict[str, float]]) -> str:
    rows: list[tuple[str, ...]] = [("steps", "⟨W⟩ − ΔF", "⟨e^−W⟩e^ΔF − 1")]
    rows += [(str(r["steps"]), f"{r['dissipation']:.5f}", f"{r['error']:.1e}") for r in ring]
    worst = max(abs(r["error"]) for r in ring)
    title = f"master equation, ring of {_RING_STATES} states, float64: max |error| = {worst:.1e}"
    return f"{title}\n{reporting.table(rows)}"


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes it this run, as JSON holds it: all but the place."""
    values = {"experiment": "jarzynski", **{name: config[name] for name in DEFAULTS}}
    return values | {"durations": list(config["durations"])}


def _claim(workdir: Path, config: dict[str, Any]) -> Path:
    """Put config.json into `workdir`, unless another run or somebody's files are there."""
    path, wanted = workdir / "config.json", _identity(config)
    try:
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != wanted:
                raise Invalid(f"--workdir: {workdir} holds another run; choose another directory")
            return workdir
        for name in ("checkpoints", "metrics.csv", "report.json", "figures", "tensorboard"):
            if (workdir / name).exists():
                raise Invalid(f"--workdir: {workdir} holds {name} but no config.json")
        workdir.mkdir(parents=True, exist_ok=True)
        reporting.write_json(path, wanted)
    except ValueError as error:
        raise Invalid(f"--workdir: {path} does not read: {error}") from error
    except OSError as error:
        raise Invalid(f"--workdir: cannot write into {workdir} ({error.strerror})") from error
    return workdir


def define_flags() -> None:
    """The flags of the binary; their names are the keys of the configuration."""
    flags.DEFINE_string("workdir", None, "Directory of the run: figure and report.")
    for define, name, text in (
        (flags.DEFINE_integer, "seed", "Seed of all trajectories."),
        (flags.DEFINE_integer, "num_trajectories", "Trajectories of each direction and speed."),
        (flags.DEFINE_float, "displacement", "How far the trap moves."),
        (flags.DEFINE_float, "stiffness_A", "Stiffness at the start, above 0."),
        (flags.DEFINE_float, "stiffness_B", "Stiffness at the end, above 0."),
    ):
        define(name, DEFAULTS[name], text)
    times = [f"{d:g}" for d in DEFAULTS["durations"]]
    flags.DEFINE_list("durations", times, "Switching times, in relaxation times of trap A.")


def config_from_flags() -> dict[str, Any]:
    """The configuration that `execute` takes.

    Raises:
        Invalid: where a switching time is no number.
    """
    config = {name: FLAGS[name].value for name in ("workdir", *DEFAULTS)}
    try:
        config["durations"] = tuple(float(d) for d in FLAGS.durations)
    except ValueError as error:
        raise Invalid(f"--durations: expected numbers, got {FLAGS.durations}") from error
    return config


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        sys.exit(_refuse(error))
    if len(rest) > 1:
        sys.exit(_refuse(f"unknown argument {rest[1]!r}: flags begin with --"))
    return rest


def _refuse(message) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return 2


def main(_) -> int:
    """Read the flags, run, print."""
    logging.set_verbosity(logging.WARNING)
    logging.use_python_logging(quiet=True)
    try:
        report = execute(config_from_flags())
    except Invalid as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; the same command begins again", file=sys.stderr)
        return 130
    print(report)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=_parse_flags)
