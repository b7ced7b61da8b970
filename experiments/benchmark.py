"""How fast this library is on this machine, beside careful PyTorch ports where they are installed.

    python experiments/benchmark.py --out=DIR [--cores=1] [--compare=torch] [--only=train,sample]

Times what a user's run calls, for the network of each preset: training steps, ancestral sampling,
K, log p and particles, at several sizes; the peak of matrix products beside each of them, in turn,
block by block. Writes DIR/benchmark.json and DIR/benchmark.md after each number, so that a run that
is cut off leaves what it measured. No data set is needed: random images take its place.
"""

import importlib.util
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

# Where a GPU is shared with another process, PyTorch's or a worker's, none may take it all.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from dpm_jax import files
from dpm_jax.benchmarks import machine, measure, networks, table
from dpm_jax.runs import Invalid, bars, binary
from dpm_jax.runs.experiment import find
from dpm_jax.runs.flags import Flag

FLAGS = {
    "out": Flag(Path, "Directory for benchmark.json and benchmark.md; neither may exist."),
    "only": Flag(list, f"Kinds of measurement: {', '.join(measure.KINDS)}.", list(measure.KINDS)),
    "networks": Flag(
        list,
        f"Networks, an experiment or experiment/preset: {', '.join(networks.NETWORKS)}.",
        list(networks.NETWORKS),
    ),
    "seconds": Flag(float, "For each number, about.", 1.0, "(0, inf)"),
    "rounds": Flag(int, "Blocks of each contestant, in turn.", 5, "[2, 1000]"),
    "cores": Flag(int, "Pin to so many cores; without it all are used.", values="[1, inf)"),
    "batches": Flag(list, "Batches of training; by default the preset's and multiples of it."),
    "bfloat16": Flag(bool, "Compute inside the networks of images in bfloat16.", False),
    "compare": Flag(str, "torch: ports of the networks to PyTorch beside ours.", values=("torch",)),
    "seed": Flag(int, "Seed of parameters and data.", 0, "[0, 2147483639]"),
}
_FILES = ("benchmark.json", "benchmark.md")


def execute(config) -> str:
    """Measure, write both files after each number; the table as text.

    Raises:
        Invalid: for anything the user can mend, before any measurement.
    """
    try:
        chosen = _check(config)
    except ValueError as error:
        raise Invalid(f"--{error}") from error
    facts = machine.facts()
    results: list[dict[str, Any]] = []
    place = Path(config["out"])
    bars.begin()
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(config, chosen, Path(folder))
        bars.say(f"benchmark: {', '.join(plan.kinds)} of {', '.join(chosen)}; into {place}")
        with bars.bar(None, "benchmark", "group", True, total=plan.total) as shown:

            def tell(what: str, done: int) -> None:
                shown.set_postfix_str(what, refresh=False)
                shown.update(done)
                shown.refresh()

            for entry in measure.run(plan, tell):
                results.append(entry)
                _write(config, facts, results)
    wrote = "\n".join(f"wrote {place / name}" for name in _FILES)
    return f"{table.markdown(facts, results)}\n{wrote}"


def _plan(config, chosen: tuple[str, ...], folder: Path) -> measure.Plan:
    return measure.Plan(
        networks=chosen,
        kinds=tuple(kind for kind in measure.KINDS if kind in config["only"]),
        seconds=config["seconds"],
        rounds=config["rounds"],
        folder=folder,
        given={"bfloat16": config["bfloat16"], "seed": config["seed"]},
        batches=tuple(int(size) for size in config["batches"] or ()),
        compare=config["compare"] == "torch",
    )


def _write(config, facts: dict[str, Any], results: list[dict[str, Any]]) -> None:
    place = Path(config["out"])
    settings = {name: value for name, value in config.items() if name in FLAGS}
    content = {"machine": facts, "settings": settings, "results": results}
    files.write_json(place / _FILES[0], content)
    with files.replacing(place / _FILES[1]) as temporary:
        temporary.write_text(table.markdown(facts, results), encoding="utf-8")


def _check(config) -> tuple[str, ...]:
    """The networks that are asked for; ValueError naming the first flag that cannot be."""
    if not config["out"]:
        raise ValueError("out: expected a directory for the results, got none")
    unknown = [kind for kind in config["only"] if kind not in measure.KINDS]
    if unknown or not config["only"]:
        known = ", ".join(measure.KINDS)
        raise ValueError(f"only: expected some of {known}, got {', '.join(unknown) or 'none'}")
    chosen = _networks(config["networks"])
    if config["compare"] and importlib.util.find_spec("torch") is None:
        raise ValueError("compare: expected PyTorch, which pip install -e '.[benchmark]' installs")
    for size in config["batches"] or ():
        if not (size.isdecimal() and int(size) > 0):
            raise ValueError(f"batches: expected whole numbers above 0, got {size!r}")
    if config["cores"]:
        machine.pin(config["cores"])
    place = Path(config["out"]).expanduser()
    config["out"] = str(place)
    for name in _FILES:
        if (place / name).exists() or (place / name).is_symlink():
            raise ValueError(f"out: expected a directory without {name}, got {place}")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: cannot use {place}: {error.strerror}") from error
    return chosen


def _networks(asked: list[str]) -> tuple[str, ...]:
    """Those named, in the order of importance; other presets of the experiments after them."""
    known, more = networks.NETWORKS, []
    for name in asked or [""]:
        if not any(name in (each, each.split("/")[0]) for each in known):
            experiment, _, preset = name.partition("/")
            names = {each.split("/")[0] for each in known}
            if experiment not in names or preset not in find(experiment).presets:
                raise ValueError(f"networks: expected some of {', '.join(known)}, got {name!r}")
            more.append(name)
    return (*(n for n in known if n in asked or n.split("/")[0] in asked), *more)


if __name__ == "__main__":
    # As after Ctrl-C: the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    binary.run("benchmark.py", FLAGS, execute, check=_check)
