"""Do K and log p of images tell what is not of the test set? A run on images, and sets beside it.

    python experiments/outliers.py --workdir=experiments/weights/mnist_best --out=runs/outliers

Takes test images, the same ones rotated, mirrored, inverted, noisy, blurred, with their pixels
shuffled, blank and grey images, samples of the model, other images by --others; all but the samples
as grey levels that are dequantised as the run's own. Of each image K (eq. 14), log p (eq. 9) from
works of N particles that are resampled on their way, and L_null; of each score and set the area
under the curve (AUC) that it tells the set from the test images by. Samples bear the noise of the
fixed last step, and are set against test images to which that noise was added.

Log p of images is high where they are simple, whatever the model: the sets are there to show it.
The same command again measures what is missing, and draws the figure anew.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dpm_jax import files, hosts, later, runs
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs.config import HELP, check_at_most, name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.outliers import CHANGES
from dpm_jax.runs.workdir import PLACES_OF_DATA, read
from dpm_jax.training.options import MAX_SEED

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import likelihood
    from dpm_jax.core.model import at_once
    from dpm_jax.images.dequantisation import check_rows
    from dpm_jax.likelihood import Rows, bound, over_rows
    from dpm_jax.likelihood.proposal import checked, default
    from dpm_jax.runs import identity, images, outliers, plots, results
    from dpm_jax.runs import outlier_report as report
    from dpm_jax.runs.inputs import read_array

FLAGS = {
    "workdir": Flag(Path, "Directory of a trained run on images."),
    "out": Flag(Path, "Directory for outliers.json and outliers.png."),
    "examples": Flag(int, "Images of each set.", 20, "[2, inf)", bytes=64),
    "particles": Flag(int, "N of each work, resampled on their way.", 64, "[1, inf)", bytes=64),
    "works": Flag(
        int, "Works of each log p, whose spread says how well it is known.", 2, "[2, inf)"
    ),
    "passes": Flag(int, "Sums over all t for K, with a draw of x^t at each.", 4, "[2, inf)"),
    "sets": Flag(list, "Changes of the test images, as above; by default all."),
    "others": Flag(list, "More sets: .npy files of grey levels (n, H, W[, C]).", []),
    "lanes": Flag(int, "Particles a device holds at once, of all images.", values="[1, inf)"),
    "steps": Flag(
        int, "Respace the chain to so many steps: a model of its own.", values="[2, inf)"
    ),
    "seed": Flag(
        int,
        "Seed of the measurement; by default that of the run + 30.",
        values=f"[0, {MAX_SEED - 1}]",
    ),
    "experiment": Flag(Path, "Python file of an experiment of your own, which registers itself."),
    "dataset": Flag(Path, "The data of the run at another place (cifar10, dead_leaves)."),
    "image_dir": Flag(Path, "The photographs of the run at another place (bark)."),
    "data_dir": Flag(Path, "Where prepared data sets are kept."),
    "manual_dir": Flag(Path, "Folder with the original files, for machines without a network."),
    "pdf": HELP["pdf"]._replace(default=False),
}
_ASKED = ("examples", "particles", "works", "passes", "steps")
_TEST, _NOISED, _SAMPLES = "test", "noised as samples", "samples"


def execute(config: dict[str, Any]) -> str:
    """Measure what is missing, write outliers.json and its figure; the table as text.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    with plots.formats(config["pdf"]):
        return _execute(config)


def _execute(config: dict[str, Any]) -> str:
    try:
        check(config)
        if config["experiment"]:
            runs.import_file(config["experiment"])
        bars.say(f"outliers: by the run in {config['workdir']}; into {config['out']}")
        with bars.phase("loading run and data"):
            given = {name: config[name] for name in PLACES_OF_DATA}
            run = runs.load(config["workdir"], **given)
        seed = run.config.get("seed", 0) + 30 if config["seed"] is None else config["seed"]
        config = {**config, "seed": seed}
        levels = hosts.together(_levels, config, run)
        out = places.local(config["out"], "out")
        wrote = [out / "outliers.json", *plots.written(out / "outliers.png")]
        asked = hosts.together(_claim, config, run, levels, wrote)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    bars.begin()
    names = results.begin(wrote[0], asked, wrote[1:])
    sets, against = _sets(config, run, levels)
    content = {"settings": asked, "files": names, "backend": jax.default_backend()}
    content |= {"jax": jax.__version__, "sets": read(wrote[0]).get("sets") or {}}
    _measure(config, run, sets, content, wrote[0])
    found = {name: report.from_json(content["sets"][name]) for name in sets}
    files.write_json(wrote[0], content | report.content(found, against))
    shown = {name: images.to_8bit(run.problem, x0[:1])[0] for name, x0 in sets.items()}
    what = f"{run}: {config['examples']} images a set"
    report.draw(wrote[1], found, against, shown, what)
    places.bring(out)
    said = report.text(found, against)
    return "\n".join(["", said, "", *(f"wrote {file}" for file in wrote)])


def check(config: dict[str, Any]) -> None:
    """ValueError where a value makes no sense."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a trained run, got none")
    if not config["out"]:
        raise ValueError("out: expected a directory for the result, got none")
    flags.check(config, FLAGS, optional=True)
    unknown = [name for name in config["sets"] or [] if name not in CHANGES]
    if unknown:
        raise ValueError(f"sets: expected some of {', '.join(CHANGES)}, got {', '.join(unknown)}")


def _levels(config, run) -> dict[str, np.ndarray]:
    """Grey levels of every set of images, test images first; ValueError for bad flags."""
    if run.problem.images is None or run.test is None:
        raise ValueError(f"workdir: expected a run on images with a test set, got {run}")
    chain, n, seed = (
        run.model.chain(run.params, config["steps"]),
        config["examples"],
        config["seed"],
    )
    checked(likelihood.Proposal(default(chain), config["particles"]), chain)
    check_at_most(config, examples=len(run.test))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(run.test))
    found = {_TEST: _take(run.test, order[:n])}
    held_out = run.problem.validation
    if held_out is not None and len(held_out) >= n:
        found[report.REFERENCE] = _take(held_out, rng.permutation(len(held_out))[:n])
    elif len(order) >= 2 * n:
        found[report.REFERENCE] = _take(run.test, order[n : 2 * n])
    for name in CHANGES if config["sets"] is None else config["sets"]:
        changed = outliers.changed(name, found[_TEST], run.problem.images.levels, seed)
        if changed.shape == found[_TEST].shape:  # an oblong image has no quarter turn
            found[name] = changed
    return found | _others(config, run, rng, {*found, _NOISED, _SAMPLES})


def _take(rows, index: np.ndarray) -> np.ndarray:
    """Rows of an array that may be on disk, in rising order."""
    return np.asarray(rows[np.sort(index)])


def _others(config, run, rng, taken: set[str]) -> dict[str, np.ndarray]:
    """The sets of --others by the names of their files."""
    found, n = {}, config["examples"]
    for path in config["others"]:
        name = Path(path).stem
        if name in taken or name in found:
            raise ValueError(f"others: expected files of names of their own, got {name} twice")
        rows = read_array(path, "others")
        rows = check_rows("others", rows, run.problem.images.levels)
        rows = rows[..., None] if rows.shape[1:] == run.model.event_shape[:-1] else rows
        if rows.shape[1:] != run.model.event_shape or len(rows) < n:
            shape = (f"{n} or more", *run.model.event_shape)
            raise ValueError(f"others: expected shape {shape}, got {rows.shape} in {path}")
        found[name] = _take(rows, rng.permutation(len(rows))[:n])
    return found


def _claim(config, run, levels, wrote: list[Path]) -> dict[str, Any]:
    """What is asked; ValueError where the place holds anything but the answer to it."""
    asked = {name: config[name] for name in (*_ASKED, "seed")}
    asked |= {"run": identity.of_run(run.workdir), "train_steps": run.step}
    own = {name: rows for name, rows in levels.items() if name not in CHANGES}
    asked["data"] = {name: identity.digest(rows) for name, rows in own.items()}
    out = wrote[0].parent
    parent = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out: expected a directory to write into, got {parent}")
    results.check(wrote[0], asked, "out", wrote[1:])
    return asked


def _sets(config, run, levels) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """x^0 of every set, in the units of the model; what each but the test set is set against."""
    chain, key = run.model.chain(run.params, config["steps"]), jax.random.key(config["seed"])
    key_prepare, key_noise = jax.random.split(key)
    found = {}
    for i, (name, rows) in enumerate(levels.items()):
        rows = jnp.asarray(rows)
        found[name] = np.asarray(run.problem.prepare(jax.random.fold_in(key_prepare, i), rows))
    against = {name: _TEST for name in found if name != _TEST}
    asked = {"seed": config["seed"], "sample_steps": config["steps"]}
    samples = {_SAMPLES: images.samples(asked, run.model, run.params, config["examples"])}
    against[_SAMPLES] = _TEST
    if chain.last_step == "fixed":  # x^0 has the noise of the level where ᾱ = ᾱ_1² (up_down.py)
        family, level = chain.family, 2 * chain.schedule.log_alpha_bar[1]
        noised = family.sample(key_noise, family.marginal(jnp.asarray(found[_TEST]), level))
        samples = {_NOISED: np.asarray(noised)} | samples
        against |= {_NOISED: _TEST, _SAMPLES: _NOISED}
    first = {name: found.pop(name) for name in (_TEST, report.REFERENCE) if name in found}
    return first | samples | found, against


def _measure(config, run, sets, content: dict[str, Any], path: Path) -> None:
    """K and log p of every set that `content` lacks; written after each."""
    lanes = config["lanes"] or at_once(run.model, run.params, config["steps"], one_t=True)
    at_a_time = max(1, lanes // (config["particles"] * config["works"]))
    kernel = _kernel(run.model, config, default(run.model.chain(run.params, config["steps"])))
    for i, (name, x0) in enumerate(bars.bar(sets.items(), "measure", "set", leave=True)):
        if name in content["sets"]:
            continue
        begun, rows = time.monotonic(), Rows(config["seed"] + i, progress=bars.batches(name))
        parts = list(over_rows(kernel, run.params, x0, at_a_time, rows))
        found = outliers.measured(*(np.concatenate(part) for part in zip(*parts)))
        seconds = {"seconds": round(time.monotonic() - begun, 1)}
        content["sets"][name] = report.to_json(found) | seconds
        files.write_json(path, content)


def _kernel(model, config, order: str):
    """(params, x^0, key) -> works (eq. 9), K (eq. 14) of each pass, and L_null; nats."""
    of, steps = likelihood.Proposal(order, config["particles"]), config["steps"]
    works, passes = config["works"], config["passes"]

    def kernel(params, x0, key):
        chain = model.chain(params, steps)

        def one(key, x):
            key_walk, key_K = jax.random.split(key)
            walk = jax.vmap(lambda k: likelihood.forward_work(k, chain, x, of))
            found = jax.vmap(lambda k: bound.exact(k, chain, x))(jax.random.split(key_K, passes))
            return walk(jax.random.split(key_walk, works)), found.K, found.L_null[0]

        return jax.vmap(one)(jax.random.split(key, len(x0)), x0)

    return kernel


if __name__ == "__main__":
    binary.run("outliers.py", FLAGS, execute, "the same command goes on", check=check)
