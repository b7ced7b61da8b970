"""The configuration of a run: every flag by name, and what the library makes of it."""

import dataclasses
from pathlib import Path
from typing import Any

from dpm_jax.core import schedule
from dpm_jax.core.schedule import Schedule
from dpm_jax.runs.experiment import Config, Experiment
from dpm_jax.training import Options


class Invalid(Exception):
    """A flag, file or directory that the user can mend; printed without a traceback."""


HELP = {
    "seed": "Seed of data, parameters, training and evaluation.",
    "T": "Number of diffusion steps.",
    "beta_1": "First diffusion rate, inside (0, 1): the noise floor of K.",
    "schedule": "learned, or a fixed one: constant_fraction, geometric, linear, cosine.",
    "network": "Network by name: rbf, perceptron, mlp, residual_mlp, bump_dense, unet,"
    " multiscale_conv.",
    "width": "Units of a layer; of the unet: channels of its fine scale.",
    "depth": "Hidden layers; of the unet: residual blocks of each stage.",
    "readout": "Mean of the reverse kernel by name (dpm_jax/core/readout.py).",
    "variance": "Variance of the reverse kernel: eq64, between, posterior (Gaussian only).",
    "last_step": "fixed (App. B.2) or learned; of images also discretized: integers have a"
    " probability.",
    "num_steps": "Training steps.",
    "batch_size": "Examples a step, over all devices.",
    "learning_rate": "Of Adam; Muon takes ten times as much for matrices and convolutions.",
    "optimizer": "adam, or muon: along orthogonal matrices, fewer steps for convolutions.",
    "lr_schedule": "constant, cosine or linear, to 0 at the last step.",
    "warmup": "Steps of linear warm-up of the learning rate.",
    "weight_decay": "Of matrices and convolutions; Muon needs it where nothing normalises theirs.",
    "clip_norm": "Global norm at which gradients are clipped.",
    "ema_decay": "Of the moving average of parameters that is evaluated.",
    "objective": "bound (eq. 15), or v (its terms reweighted to the squared error of v).",
    "num_t": "Random t drawn a step and device; 0: the sum over all t, -1: one for each example.",
    "steps_per_dispatch": "Steps in one dispatch; 0: 1 for convolutions on CPU, else log_every.",
    "log_every": "Steps between rows of metrics.csv.",
    "checkpoint_every": "Steps between checkpoints.",
    "num_eval": "Examples for the final K.",
    "data_dir": "Where prepared data sets are kept (default: that of tensorflow-datasets).",
    "manual_dir": "Folder with the original files, for machines without a network.",
    "init_from": "Directory of a run whose parameters (EMA) this new one starts from.",
}


def configure(experiment: Experiment, preset: str, workdir: Any, given: Config) -> Config:
    """The preset with what was given put in; values of None are not given.

    Raises:
        ValueError: for an unknown preset, or a name that the experiment does not have.
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
    return with_init_from({**config, **defaults, **chosen})


def with_init_from(config: Config) -> Config:
    """The same with the whole path in "init_from", which only runs that start from another have."""
    start = config.pop("init_from", None)
    return config | ({"init_from": str(Path(start).expanduser().absolute())} if start else {})


def training_options(config: Config) -> Options:
    """The fields of training.Options among the flags."""
    fields = {field.name for field in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in config.items() if name in fields})


def make_schedule(config: Config) -> Schedule:
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


def name_flag(message: str, config: Config, experiment: Experiment | None = None) -> str:
    """Messages of the library begin with the argument; here it is the flag of that name."""
    argument, colon, rest = message.partition(":")
    flag = argument if experiment is None else experiment.flags.get(argument, argument)
    return f"--{flag}{colon}{rest}" if flag in config else message
