"""The configuration of a run: every flag by name, and what the library makes of it.

Names that flags take stand here, as the library has them, so that flags are read without JAX;
tests/test_flags.py holds them equal.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpm_jax import later
from dpm_jax.runs import flags, idle, places
from dpm_jax.runs.experiment import Config, Experiment
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.presets import FILLS
from dpm_jax.training.options import MAX_SEED, MEDIAN_NOISE, OBJECTIVES, Options, check_values

with later.imports(globals()):
    from dpm_jax.core import schedule

SCHEDULES = ("learned", "constant_fraction", "geometric", "linear", "cosine")
NETWORKS = ("bump_dense", "mlp", "multiscale_conv", "perceptron", "rbf", "residual_mlp", "unet")
IN_BFLOAT16 = ("multiscale_conv", "unet")
READOUTS = ("eq65", "code", "x0", "v", "sigmoid", "step", "bayes", "skip")
VARIANCES = ("eq64", "between", "posterior")


class Invalid(Exception):
    """A flag, file or directory that the user can mend; printed without a traceback."""


_COUNT, _SIZE, _RATE = "[1, inf)", "[0, inf)", "(0, inf)"
HELP = {
    "seed": Flag(
        int,
        "Seed of data, parameters, training and evaluation.",
        values=f"[0, {MAX_SEED - 1}]",
    ),
    "T": Flag(int, "Number of diffusion steps.", values="[2, inf)", bytes=64),
    "beta_1": Flag(
        float, "First diffusion rate, inside (0, 1): the noise floor of K.", values="(0, 1)"
    ),
    "schedule": Flag(
        str,
        "learned, or a fixed one: constant_fraction, geometric, linear, cosine.",
        values=SCHEDULES,
    ),
    "network": Flag(str, f"Network by name: {', '.join(NETWORKS)}.", values=NETWORKS),
    "width": Flag(
        int, "Units of a layer; of the unet: channels of its fine scale.", values=_COUNT, bytes=16
    ),
    "depth": Flag(
        int, "Hidden layers; of the unet: residual blocks of each stage.", values="[1, 1000]"
    ),
    "readout": Flag(
        str, "Mean of the reverse kernel by name (dpm_jax/core/readout.py).", values=READOUTS
    ),
    "variance": Flag(
        str,
        "Variance of the reverse kernel: eq64, between, posterior (Gaussian only).",
        values=VARIANCES,
    ),
    "last_step": Flag(
        str,
        "fixed (App. B.2) or learned; of images also discretized: integers have a probability.",
        values=("fixed", "learned", "discretized"),
    ),
    "num_steps": Flag(int, "Training steps.", values=_COUNT),
    "batch_size": Flag(int, "Examples a step, over all devices.", values=_COUNT, bytes=16),
    "learning_rate": Flag(
        float,
        "Of Adam; Muon takes ten times as much for convolutions (matrices where there are none).",
        values=_RATE,
    ),
    "optimizer": Flag(
        str,
        "adam, or muon: along orthogonal matrices, fewer steps for convolutions.",
        values=("adam", "muon"),
    ),
    "lr_schedule": Flag(
        str,
        "constant, cosine or linear, to 0 at the last step.",
        values=("constant", "cosine", "linear"),
    ),
    "warmup": Flag(int, "Steps of linear warm-up of the learning rate.", values=_SIZE),
    "weight_decay": Flag(
        float,
        "Of convolutions (matrices where there are none); Muon needs it where nothing normalises.",
        values=_SIZE,
    ),
    "clip_norm": Flag(float, "Global norm at which gradients are clipped.", values=_RATE),
    "ema_decay": Flag(
        float, "Of the moving average of parameters that is evaluated.", values="[0, 1)"
    ),
    "objective": Flag(
        str,
        "bound (eq. 15), or v (its terms reweighted to the squared error of v).",
        values=OBJECTIVES,
    ),
    "median_noise": Flag(
        float,
        "Of objective v: noise 1−ᾱ below which half of the t are drawn.",
        values=str([*MEDIAN_NOISE]),
    ),
    "num_t": Flag(
        int,
        "Random t drawn a step and device; 0: the sum over all t, -1: one for each example.",
        values="[-1, inf)",
    ),
    "microbatches": Flag(
        int,
        "Parts that a device takes its batch in, where all of it does not fit into its memory.",
        values=_COUNT,
    ),
    "remat": Flag(
        bool,
        "Compute blocks of convolutions, and the sum over all t, again for the gradient: a third"
        " more work, less memory.",
    ),
    "steps_per_dispatch": Flag(
        int,
        "Steps in one dispatch, fewer where they take over 2 s; 0: 1 for convolutions on CPU, else"
        " log_every.",
        values=_SIZE,
    ),
    "log_every": Flag(int, "Steps between rows of metrics.csv.", values=_COUNT),
    "checkpoint_every": Flag(int, "Steps between checkpoints.", values=_COUNT),
    "num_eval": Flag(int, "Examples for the final K.", values="[2, inf)", bytes=64),
    "figures": Flag(bool, "Samples, figures and what they measure; without: K alone."),
    "learned": Flag(bool, "Pictures of what was learned too: β_t, f_μ and f_Σ (or f_b), bumps."),
    "data_dir": Flag(
        Path, "Where prepared data sets are kept (default: that of tensorflow-datasets)."
    ),
    "manual_dir": Flag(Path, "Folder with the original files, for machines without a network."),
    "pdf": Flag(bool, "Write each figure as PDF too, beside its PNG."),
    "init_from": Flag(Path, "Directory of a run whose parameters (EMA) this new one starts from."),
}


def flags_of(experiment: Experiment) -> dict[str, Flag]:
    """The flags of an experiment by name; their defaults are those of the presets."""
    helps: Mapping[str, str | Flag] = {**HELP, **experiment.helps}
    found = {}
    for name, value in experiment.presets[experiment.preset].items():
        known = helps.get(name, "")
        found[name] = known if isinstance(known, Flag) else Flag(type(value), known)
    return found


def check(config: Config, experiment: Experiment) -> None:
    """ValueError naming the first flag of a run that has a value it cannot have."""
    flags.check(config, {"workdir": Flag(Path, ""), "init_from": HELP["init_from"]}, optional=True)
    flags.check(config, flags_of(experiment))
    check_values(training_options(config))


def configure(experiment: Experiment, preset: str, workdir: Any, given: Config) -> Config:
    """The preset with what was given put in; values of None are not given.

    Raises:
        ValueError: for an unknown preset, a name that the experiment does not have, or a flag that
            would change nothing.
    """
    if preset not in experiment.presets:
        known = sorted(experiment.presets)
        raise ValueError(f"preset: expected one of {known}, got {preset!r}")
    defaults = experiment.presets[preset]
    unknown = [name for name in given if name not in (*defaults, "init_from")]
    if unknown:
        raise ValueError(f"{unknown[0]}: expected one of {sorted(defaults)}")
    chosen = {name: value for name, value in given.items() if value is not None}
    place = None if workdir is None else str(workdir)
    config = {"experiment": experiment.name, "preset": preset, "workdir": place}
    config |= {**defaults, **chosen}
    idle.check(chosen, config)
    return with_init_from(config)


def with_init_from(config: Config) -> Config:
    """The same with the whole path in "init_from", which only runs that start from another have."""
    start = config.pop("init_from", None)
    if start and not places.is_url(start):
        start = str(Path(start).expanduser().absolute())
    return config | ({"init_from": str(start)} if start else {})


def plan(experiment: Experiment, config: Config) -> str:
    """What will be done, as far as flags say it."""
    preset = experiment.presets[config["preset"]]
    differ = [f"{name}={v}" for name, v in config.items() if preset.get(name, v) != v]
    changed = f" with {', '.join(differ)}" if differ else ""
    return (
        f"{experiment.name}, preset {config['preset']}{changed}: {config['num_steps']:,} training"
        f" steps of {config['batch_size']:,} examples, then K of {config['num_eval']:,} held out,"
        f" and figures; into {config['workdir']}"
    )


def too_much(experiment: Experiment, config: Config) -> str:
    """What is said before a preset that fills a GPU or TPU trains on a CPU; "" where it is little.

    Convolutions take about width² · depth of arithmetic an example, so that flags which make a
    test of it small are no reason to speak.
    """
    if config["preset"] != FILLS or "best" not in experiment.presets:
        return ""
    sizes = ("width", "width", "depth", "batch_size", "num_steps")
    asked, best = (
        math.prod(of.get(name, 1) for name in sizes) for of in (config, experiment.presets["best"])
    )
    if asked <= best:
        return ""
    return (
        f"--preset={FILLS} is made to fill a GPU or TPU, and JAX has found none: on this CPU it is"
        f" about {asked / best:,.0f} times the work of --preset=best; the bar tells the time left"
    )


def training_options(config: Config) -> Options:
    """The fields of training.Options among the flags."""
    fields = {field.name for field in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in config.items() if name in fields})


def make_schedule(config: Config) -> schedule.Schedule:
    """The fixed schedule named by the flags; "learned" starts from the geometric one."""
    name = "geometric" if config["schedule"] == "learned" else config["schedule"]
    schedule.check_steps(config["T"])
    schedule.check_beta_1(config["beta_1"])
    if name == "geometric" and "final_ratio" in config:
        return schedule.geometric(config["T"], config["beta_1"], config["final_ratio"])
    return schedule.by_name(name, config["T"], config["beta_1"])


def check_at_least(config: Config, **least: int) -> None:
    """ValueError naming the first flag whose value lies below its least; None passes."""
    for name, bound in least.items():
        value = config[name]
        if value is not None and value < bound:
            raise ValueError(f"{name}: expected at least {bound}, got {value}")


def check_at_most(config: Config, **most: int) -> None:
    """ValueError naming the first flag whose value lies above its most; None passes."""
    for name, bound in most.items():
        value = config[name]
        if value is not None and value > bound:
            raise ValueError(f"{name}: expected at most {bound}, got {value}")


def name_flag(error: str | Exception, config: Config, experiment: Experiment | None = None) -> str:
    """What went wrong, begun with its flag.

    Messages of the library begin with the argument; here it is the flag of that name, or the one
    whose path the message quotes.
    """
    file = error.filename if isinstance(error, OSError) else None
    message = str(error)
    if isinstance(error, OSError) and file is not None:
        message = f"cannot use {file}: {error.strerror}"
    argument, colon, rest = message.partition(":")
    flag = argument if experiment is None else experiment.flags.get(argument, argument)
    if flag in config:
        return f"--{flag}{colon}{rest}"
    quoted = flag_of_path(message if file is None else str(file), config)
    return f"--{quoted}: {message}" if quoted else message


def flag_of_path(text: str, config: Config) -> str | None:
    """The flag whose path a text is or quotes, the longest of them; None for none."""
    found = {}
    for name, value in config.items():
        if isinstance(value, str) and len(value) > 1:
            forms = {value, os.path.expanduser(value)}  # a path that no user has stays as it is
            named = "/" in value or "." in value
            if any(text == f or f"{f}/" in text or (named and f in text) for f in forms):
                found[name] = len(value)
    return max(found, key=lambda name: found[name], default=None)
