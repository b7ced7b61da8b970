"""Flags of the experiments: their definition, the configuration they make, what is built of it."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import flags

from dpm_jax import networks, schedule, training

FLAGS = flags.FLAGS


class Invalid(Exception):
    """A flag, file or directory that the user can mend; printed without a traceback."""


def define_flags(presets: dict[str, dict[str, Any]], **help_of: str) -> None:
    """Define the shared flags and the experiment's own (`help_of`); presets give their defaults."""
    flags.DEFINE_string(
        "workdir", None, "Directory of the run: checkpoints, metrics, figures, report."
    )
    flags.DEFINE_enum("preset", "paper", sorted(presets), "Default values of all other flags.")
    helps = {**_HELP, **help_of}
    for name, value in presets["paper"].items():
        per_preset = ", ".join(f"{p}: {presets[p][name]}" for p in sorted(presets))
        text = f"{helps[name]} ({per_preset})"
        if isinstance(value, bool):
            flags.DEFINE_boolean(name, None, text)
        elif isinstance(value, int):
            flags.DEFINE_integer(name, None, text)
        elif isinstance(value, float):
            flags.DEFINE_float(name, None, text)
        else:
            flags.DEFINE_string(name, None, text)
    for name in ("workdir", "preset", *presets["paper"]):  # what --help of the binary lists
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])


_HELP = {
    "seed": "Seed of data, parameters, training and evaluation.",
    "T": "Number of diffusion steps.",
    "beta_1": "First diffusion rate, inside (0, 1): the noise floor of K.",
    "schedule": "learned, or a fixed one: constant_fraction, geometric, linear, cosine.",
    "network": "Network by name: rbf, perceptron, mlp, residual_mlp, bump_dense, unet,"
    " multiscale_conv.",
    "width": "Units of a layer; of the unet: channels of its fine scale.",
    "depth": "Hidden layers; of the unet: residual blocks of each stage.",
    "readout": "Mean of the reverse kernel by name (dpm_jax/readout.py).",
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
}


def parse(argv: list[str]) -> list[str]:
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        print(f"{Path(argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    if len(rest) > 1:
        print(
            f"{Path(argv[0]).name}: unknown argument {rest[1]!r}: flags begin with --",
            file=sys.stderr,
        )
        sys.exit(2)
    return rest


def config_from_flags(experiment) -> dict[str, Any]:
    """The preset with the flags given on the command line put in."""
    config = {"experiment": experiment.name, "preset": FLAGS.preset, "workdir": FLAGS.workdir}
    for name, default in experiment.presets[FLAGS.preset].items():
        value = FLAGS[name].value
        config[name] = default if value is None else value
    return config


def training_options(config: dict[str, Any]) -> training.Options:
    """The fields of training.Options among the flags."""
    fields = {f.name for f in dataclasses.fields(training.Options)}
    values = {name: value for name, value in config.items() if name in fields}
    if values["num_t"] < -1:
        raise ValueError(f"num_t: expected at least -1, got {values['num_t']}")
    values["num_t"] = None if values["num_t"] == -1 else values["num_t"]
    return training.Options(**values)


def evaluation_size(config: dict[str, Any]) -> None:
    """ValueError unless num_eval can give a K."""
    if config["num_eval"] < 2:
        raise ValueError(f"num_eval: expected at least 2, got {config['num_eval']}")


def make_schedule(config: dict[str, Any]) -> schedule.Schedule:
    """The fixed schedule named by the flags; "learned" starts from the geometric one."""
    name = "geometric" if config["schedule"] == "learned" else config["schedule"]
    schedule.check_steps(config["T"])
    schedule.check_beta_1(config["beta_1"])
    if name == "geometric" and "final_ratio" in config:
        return schedule.geometric(config["T"], config["beta_1"], config["final_ratio"])
    return schedule.by_name(name, config["T"], config["beta_1"])


def make_network(config: dict[str, Any], outputs: int) -> Any:
    """The network named by the flags, with as many outputs as the readout needs."""
    T, width, depth = config["T"], config["width"], config["depth"]
    if width < 1 or depth < 1:
        name = "width" if width < 1 else "depth"
        raise ValueError(f"{name}: expected at least 1, got {config[name]}")
    dtype = jnp.bfloat16 if config.get("bfloat16") else None
    makers: dict[str, Callable[[], Any]] = {
        "rbf": lambda: networks.RBF(T, width, outputs),
        "perceptron": lambda: networks.SigmoidPerceptron(T, (width,) * depth, outputs),
        "bump_dense": lambda: networks.BumpDense(T, (width,) * depth, outputs=outputs),
        "mlp": lambda: networks.MLP(width, depth, config.get("octaves", 0), outputs),
        "residual_mlp": lambda: networks.ResidualMLP(width, depth, outputs),
        "unet": lambda: networks.UNet(
            (width, 2 * width), depth, config.get("bottleneck", 512), outputs, dtype
        ),
        "multiscale_conv": lambda: networks.MultiScaleConv(
            T=T,
            channels=width,
            layers=depth,
            num_scales=config.get("scales", 4),
            outputs=outputs,
            dense=(config["dense"],) * 2 if config.get("dense") else (),
            nonlinearity=config.get("nonlinearity", "softplus"),
            condition="t" if config["readout"] == "eq65" else "log_snr",
            dtype=dtype,
        ),
    }
    if config.get("octaves", 0) < 0:
        raise ValueError(f"octaves: expected at least 0, got {config['octaves']}")
    if config["network"] not in makers:
        raise ValueError(f"network: expected one of {sorted(makers)}, got {config['network']!r}")
    return makers[config["network"]]()


def name_flag(message: str, config: dict[str, Any]) -> str:
    """Messages of the library begin with the argument; here it is the flag of that name."""
    return f"--{message}" if message.split(":")[0] in config else message
