"""Posteriors of a trained run (Sec. 2.5): what is hidden, noisy, or measured as y = A x^0 + ε.

    python experiments/posterior.py --workdir=runs/mnist --task=super_resolution --method=mmps

Reads its configuration from the run. Measures rows of the test set, or takes a file as it is; draws
from p~(x^0) ∝ p(x^0) r(x^0); writes figure, draws, mean, spread and numbers into
DIR/posterior/TASK_METHOD (or --out). Methods:

* paper       r(x^t) = r(x^0) (eq. 23): biased, since eq. 22 normalises a factor of eq. 21 away
* annealed    r(x^t) = r(x^0)^((T−t)/T): less biased
* twisted     r(x^t) = E[r(x^0) given x^t] under π
* dps, pigdm, mmps  r(x^t) of the network's own x̂^0, of no variance, its measured one (by default
              of images), or Tweedie's
* particles   that factor kept as the weights of a particle filter: exact as --num_samples grows
* gibbs       filters in turn, each given a trajectory of the one before: exact as --sweeps grow
* replacement (inpaint) the known part noised as the data are, each step taken --repeats times

--compare=mmps,mmps+gibbs,paper asks several on the same problems and makes one table of them.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax import files, hosts, later, runs
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs.config import check_at_most, name_flag
from dpm_jax.runs.posterior_flags import FLAGS, check, methods
from dpm_jax.runs.workdir import PLACES_OF_DATA, check_writable

with later.imports(globals()):
    from dpm_jax.runs import draws, identity, observations, plots, results
    from dpm_jax.runs import posterior_compare as comparison
    from dpm_jax.runs import posterior_figures as figures
    from dpm_jax.runs import posterior_report as report

_HELD = (
    "task", "method", "input", "mask", "fraction", "noise", "start", "repeats", "threshold", "seed",
)  # fmt: skip
# Flags that older results lack, and what they did.
_ADDED = {
    "filters": 1, "twist": "noised", "corrector": "none", "jump": 1, "sweeps": 10, "particles": 16,
    "products": None, "factor": 2, "sigma": 2.0, "num_measurements": None, "clean": False,
    "crop": None,
}  # fmt: skip


# What is the same of all methods in a comparison.
_OF_ALL = (
    "task", "input", "mask", "fraction", "noise", "seed", "num_samples", "train_steps", "problems",
    "run", "factor", "sigma", "num_measurements", "clean", "crop", "other_data", "data",
)  # fmt: skip


class Question(NamedTuple):
    """What is asked of one method, and where the answer goes."""

    config: dict[str, Any]
    out: Path
    held: dict[str, Any]  # what it is, for posterior.json


def execute(config) -> str:
    """Draw, measure, write; the report as text.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    with plots.formats(config["pdf"]):
        return _execute(config)


def _execute(config) -> str:
    try:
        check(config)
        if config["experiment"]:
            runs.import_file(config["experiment"])
        given = {name: config[name] for name in PLACES_OF_DATA}
        asked_for = config["method"] or config["compare"]
        named = ", ".join(methods(config)) if asked_for else "the method of its size"
        bars.say(f"posterior: {config['task']} by {named}, run in {config['workdir']}")
        with bars.phase("loading run and data"):
            more = {"other_data": config["other_data"], "data": not config["input"]}
            run = runs.load(config["workdir"], **more, **given)
        config = _chosen(config, run)
        run, seen, asked, whole = hosts.together(_ask, config, run)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    bars.begin()
    if whole is not None:
        results.begin(whole.out / "compare.json", whole.held, _compared(whole.out)[1:])
    said = [_answer(config, run, seen, question) for question in asked.values()]
    if whole is not None:
        wrote = _compared(whole.out)
        said = [
            comparison.write(wrote, run, seen, whole.held, {n: q.out for n, q in asked.items()})
        ]
    places.bring(run.workdir)
    places.bring((whole or next(iter(asked.values()))).out)
    return "\n".join(said)


def _chosen(config, run) -> dict[str, Any]:
    """The flags with the method that serves the size: of images particles keep one ancestor."""
    if config["method"]:
        return config
    image = math.prod(run.model.event_shape) > 64 and run.model.family.noise.additive
    method = "pigdm" if image and config["filters"] == 1 else "particles"
    config = config if config["compare"] else {**config, "method": method}
    check(config)
    return config


def _answer(config, run, seen, question: Question) -> str:
    """Draw by one method, measure and write; of a comparison only what is not there already."""
    wrote, asked = _files(question.out), question.config
    if config["compare"] and comparison.finished(wrote):
        return ""
    begun = time.monotonic()
    try:
        found = draws.draw(asked, run, seen)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    seconds = time.monotonic() - begun
    with bars.phase("measuring the draws"):
        content = report.content(run, seen, found, question.held)
    content |= {"calls": draws.count(asked), "seconds": seconds}
    content["files"] = results.begin(wrote[0], question.held, wrote[1:])
    with bars.phase("drawing the figure"):
        figures.draw(wrote[2], run, seen, found, f"{asked['task']}, {asked['method']}")
    figures.save_arrays(wrote[1], seen, found)
    files.write_json(wrote[0], content)
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in wrote)])


def _ask(config, run):
    """The run, at the size of --input; what is observed; the question to each method, and of all.

    Raises:
        ValueError: for bad flags, and where a folder holds anything else than the answers.
    """
    if run.test is not None and not config["input"]:
        check_at_most(config, examples=len(run.test))
    run = observations.sized(config, run)
    config = _defaults(config, run)
    num = config["num_samples"]
    if num % config["filters"] or num < 2 * config["filters"]:
        got = f"{config['filters']} for {num}"
        raise ValueError(f"filters: expected a divisor of --num_samples below it, got {got}")
    flags.check_memory("num_samples", num, 8.0 * num * math.prod(run.model.event_shape))
    of_each = {name: draws.plan(_of(config, name), run) for name in methods(config)}
    seen = observations.observe(config, run)
    base = places.local(config["out"], "out") if config["out"] else None
    asked = {}
    for name, of in of_each.items():
        where = base / name if base and config["compare"] else base
        asked[name] = Question(of, where or _inside(run, config, name), _held(of, run, seen))
        _claim(_files(asked[name].out), asked[name].held)
    if not config["compare"]:
        return run, seen, asked, None
    held = {n: v for n, v in asked[name].held.items() if n in _OF_ALL} | {"methods": list(asked)}
    whole = Question(config, base or _inside(run, config, "compare"), held)
    _claim(_compared(whole.out), held)
    return run, seen, asked, whole


def _of(config, name: str) -> dict[str, Any]:
    """The flags of one method; what another one alone takes is at its default."""
    method, _, corrector = name.partition("+")
    one = {**config, "method": method, "corrector": corrector or "none"}
    return one if method == "particles" else {**one, "filters": 1}


def _inside(run, config, name: str) -> Path:
    """The folder of the run that a result goes into; no link may lead elsewhere."""
    place = f"posterior/{config['task']}_{name}"
    check_writable(run.workdir, place)
    return run.workdir / place


def _held(config, run, seen) -> dict[str, Any]:
    """What the question is."""
    held = {name: config[name] for name in _HELD}
    T = run.model.chain(run.params).T
    held |= {"steps": None if config["steps"] == T else config["steps"]}
    held |= {"num_samples": config["num_samples"], "train_steps": run.step}
    held |= {"problems": len(seen.y), "run": identity.of_run(run.workdir)}
    held |= {name: config[name] for name, was in _ADDED.items() if config[name] != was}
    if config["other_data"]:
        held["other_data"] = config["dataset"] or config["image_dir"] or "in the same place"
    held["data"] = {"y": identity.digest(seen.y), "known": identity.digest(seen.known)}
    return held


def _defaults(config, run) -> dict[str, Any]:
    """What was not given: as many draws as the size of an example allows."""
    small = math.prod(run.model.event_shape) <= 64
    given = {name: value for name, value in config.items() if value is not None}
    defaults: dict[str, Any] = {"num_samples": 4096 if small else 16}
    defaults["examples"] = None if config["input"] else 8  # of a file all
    defaults |= {"mask": "left_half" if config["task"] == "inpaint" else None}
    defaults |= {"seed": run.config.get("seed", 0) + 20}
    return {**config, **defaults, **given}


def _claim(wrote: list[Path], held: dict[str, Any]) -> None:
    """Only the same question may be asked again in the same folder: nothing else is replaced."""
    out = wrote[0].parent
    parent = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out: expected a directory to write into, got {parent}")
    there = [] if not out.exists() else [p for p in out.iterdir() if not files.is_unfinished(p)]
    results.check(wrote[0], held, "out", wrote[1:], there)


def _files(out: Path) -> list[Path]:
    """What is written: numbers, arrays, figure."""
    return [out / "posterior.json", out / "posterior.npz", *plots.written(out / "posterior.png")]


def _compared(out: Path) -> list[Path]:
    """The same of a comparison: numbers, figure."""
    return [out / "compare.json", *plots.written(out / "compare.png")]


if __name__ == "__main__":
    binary.run("posterior.py", FLAGS, execute, check=check)
