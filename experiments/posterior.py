"""Posteriors of a trained run (Sec. 2.5): inpainting and denoising, the paper's way or exactly.

    python experiments/posterior.py --workdir=runs/swiss_roll --task=denoise --method=particles

Reads its configuration from the run. Takes rows of the test set and hides a part of them or makes
them noisy, or takes a file as it is; draws from p~(x^0) ∝ p(x^0) r(x^0); writes figure, draws,
mean, spread and numbers into DIR/posterior/TASK_METHOD (or --out). Methods:

* paper      r(x^t) = r(x^0) (eq. 23): biased, since eq. 22 normalises a factor of eq. 21 away
* annealed   r(x^t) = r(x^0)^((T−t)/T): less biased
* replacement  (inpaint) the known part noised as the data are, each step taken --repeats times
* particles  that factor kept as the weights of a particle filter: exact as --num_samples grows
"""

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import evaluate
import observations
import posterior_report as report
import settings
from dpm_jax import checkpoint, evaluation, particles, posterior, replacement, reporting, sampling
from dpm_jax.model import respaced
from dpm_jax.particles import Particles

PROGRAM = "posterior.py"
TASKS = ("inpaint", "denoise")
METHODS = {"paper": "constant", "annealed": "annealed", "particles": "noised", "replacement": ""}
STARTS = ("tilted", "observed")
_HELD = ("task", "method", "input", "mask", "fraction", "noise", "start", "repeats", "seed")


def execute(config: dict[str, Any]) -> str:
    """Draw, measure, write; the report as text.

    Raises:
        settings.Invalid: for anything the user can mend, before any long work.
    """
    _check(config)
    # Only what says where things are: --noise and others have namesakes among the flags of runs.
    places = ("workdir", "data_dir", "manual_dir", "steps", "examples")
    experiment, run, problem, state = evaluate.load({name: config[name] for name in places})
    config = _defaults(config, run, problem)
    out = Path(config["out"]).expanduser()
    try:
        seen = observations.observe(config, problem)
        held = {name: config[name] for name in _HELD}
        held |= {"steps": config["steps"], "num_samples": config["num_samples"]}
        held["train_steps"], held["problems"] = int(state.step), len(seen.y)
        _claim(out, held)
        found = draw(config, problem, state.ema, seen)
    except (ValueError, OSError) as error:
        raise settings.Invalid(settings.name_flag(str(error), config)) from error
    content = report.content(experiment, run, problem, seen, found, held)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "posterior.json", out / "posterior.npz", out / "posterior.png"]
    report.draw(files[2], problem, seen, found, config)
    report.save_arrays(files[1], seen, found)
    reporting.write_json(files[0], content)
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in files)])


def draw(config: dict[str, Any], problem, params, seen: observations.Observations) -> Particles:
    """Weighted draws for each problem: Particles of NumPy arrays (n, N, ...), on all devices."""
    model, num, known = problem.evaluated, config["num_samples"], jnp.asarray(seen.known)
    family, shape = model.family, model.event_shape

    def weighted(key, y, schedule, reverse) -> Particles:
        tilt = _tilt(config, family, schedule, seen, y)
        threshold = config["threshold"]
        return particles.sample(key, family, schedule, reverse, tilt, shape, num, threshold)

    def unweighted(key, y, schedule, reverse) -> Particles:
        if config["method"] == "replacement":
            one = lambda k: replacement.sample(  # noqa: E731
                k, family, schedule, reverse, known, y, config["repeats"]
            )
        else:
            tilt = _tilt(config, family, schedule, seen, y)
            begin = posterior.start(family, tilt, schedule, shape)
            if config["start"] == "observed":
                begin = family.observe(y, 0.0)
            kernel = posterior.tilted(reverse, tilt)
            one = lambda k: sampling.sample(k, family, schedule, kernel, shape, begin)  # noqa: E731
        x = jax.vmap(one)(jax.random.split(key, num))
        unknown, none = jnp.full((), jnp.nan), jnp.zeros((), jnp.int32)
        return Particles(x, jnp.full((num,), 1 / num), unknown, unknown, unknown, none, none)

    def kernel(params, rows, key):
        schedule = respaced(model, params, config["steps"])
        reverse = model.reverse(params, schedule)
        one = weighted if config["method"] == "particles" else unweighted
        each = jax.vmap(lambda k, y: one(k, y, schedule, reverse))
        return each(jax.random.split(key, len(rows)), rows)

    per_device = max(1, problem.effort["lanes"] // num)
    bar = lambda batches: tqdm(batches, desc="posterior", unit="batch", leave=False)  # noqa: E731
    parts = evaluation.over_rows(kernel, params, seen.y, config["seed"] + 1, per_device, bar)
    found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return particles.check(found)


def _tilt(config: dict[str, Any], family, schedule, seen, y) -> posterior.Tilt:
    how = METHODS[config["method"]]
    if config["task"] == "inpaint":
        return posterior.inpaint(family, schedule, seen.known, y, how)
    return posterior.denoise(family, schedule, y, seen.noise, how)


def _check(config: dict[str, Any]) -> None:
    """Flags that need no run to be refused."""
    for name, known in (("task", TASKS), ("method", METHODS), ("start", STARTS)):
        if config[name] not in known:
            raise settings.Invalid(
                f"--{name}: expected one of {', '.join(known)}, got {config[name]!r}"
            )
    for name, least in (("num_samples", 2), ("examples", 1), ("steps", 2), ("repeats", 1)):
        if config[name] is not None and config[name] < least:
            raise settings.Invalid(f"--{name}: expected at least {least}, got {config[name]}")
    if not 0 <= config["threshold"] <= 1:
        raise settings.Invalid(
            f"--threshold: expected a number in [0, 1], got {config['threshold']}"
        )
    if config["start"] == "observed" and (config["method"], config["task"]) not in (
        ("paper", "denoise"),
        ("annealed", "denoise"),
    ):
        raise settings.Invalid(
            "--start: observed is for --task=denoise with --method=paper or annealed"
        )
    if config["method"] == "replacement" and config["task"] != "inpaint":
        raise settings.Invalid("--method: replacement is for --task=inpaint")
    if config["task"] == "denoise" and config["mask"] is not None:
        raise settings.Invalid(f"--mask: expected none with --task=denoise, got {config['mask']!r}")


def _defaults(config, run, problem) -> dict[str, Any]:
    """What was not given: as many draws as the size of an example allows, the steps of the run."""
    small = int(np.prod(problem.evaluated.event_shape)) <= 64
    folder = Path(config["workdir"]) / "posterior" / f"{config['task']}_{config['method']}"
    steps = run.get("sample_steps") if config["steps"] is None else config["steps"]
    given = {name: value for name, value in config.items() if value is not None}
    defaults: dict[str, Any] = {"num_samples": 4096 if small else 16, "examples": 8, "repeats": 10}
    defaults |= {"mask": "left_half" if config["task"] == "inpaint" else None}
    defaults |= {"seed": run["seed"] + 20, "out": str(folder)}
    return {**config, **defaults, **given, "steps": None if steps == run["T"] else steps}


def _claim(out: Path, held: dict[str, Any]) -> None:
    """Only the same question may be asked again in the same folder: nothing else is replaced."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a directory, got the file {out}")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise ValueError(f"out: cannot write into {parent}")
    path = out / "posterior.json"
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"out: {out} holds files but no posterior.json: not overwritten")
        return
    there = report.read(path).get("settings", {})
    names = [n for n in held if there.get(n) != held[n]]
    if names:
        what = ", ".join(f"{n} = {there.get(n)} there, {held[n]} here" for n in names)
        raise ValueError(f"out: {out} holds another result ({what}); choose another directory")


def _main(_) -> int:
    logging.set_verbosity(logging.WARNING)
    logging.use_python_logging(quiet=True)
    values = flags.FLAGS
    names = ("workdir", "task", "method", "start", "threshold", *_STRINGS, *_INTEGERS, *_FLOATS)
    try:
        print(execute({name: values[name].value for name in names}))
    except (settings.Invalid, checkpoint.CheckpointError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


_STRINGS = {
    "input": "File (.npy, .png) that was observed, in the place of rows of the test set: images of"
    " 8 bits are grey levels, all else in the units of the model. Nothing is added to it.",
    "mask": "What inpainting fills: left_half (default), right_half, centre, random; or a file"
    " (.npy, .png) of the example's shape, 0 where hidden.",
    "out": "Folder of the result; by default DIR/posterior/TASK_METHOD.",
    "data_dir": "Where prepared data sets are kept.",
    "manual_dir": "Folder with the original files, for machines without a network.",
}
_INTEGERS = {
    "num_samples": "Draws (particles) for each problem; 4096 for small examples, 16 for images.",
    "examples": "Problems, the first rows of the test set; 8.",
    "repeats": "replacement: times that each step is taken (10).",
    "steps": "Respace the chain to so many steps; by default as the run samples.",
    "seed": "Seed of noise, mask and draws; by default that of the run + 20.",
}
_FLOATS = {
    "noise": "denoise: variance of the noise in units of the model's data (1), or the probability"
    " that a bit is flipped (0.1).",
    "fraction": "Part that --mask=random hides.",
}

if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of a trained run.")
    flags.DEFINE_string("task", "inpaint", "inpaint or denoise.")
    flags.DEFINE_string("method", "particles", "paper, annealed, particles or replacement.")
    flags.DEFINE_string("start", "tilted", "Law of x^T: tilted (π r) or observed (at y itself).")
    flags.DEFINE_float("threshold", 0.8, "Particles: resample below this part of all, in ESS.")
    for _name, _help in _STRINGS.items():
        flags.DEFINE_string(_name, None, _help)
    for _name, _help in _INTEGERS.items():
        flags.DEFINE_integer(_name, None, _help)
    for _name, _help in _FLOATS.items():
        flags.DEFINE_float(_name, 0.5 if _name == "fraction" else None, _help)
    app.run(lambda argv: sys.exit(_main(argv)), flags_parser=settings.parse)
