"""Networks by name, from one flat configuration."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dpm_jax.networks.dense import MLP, ResidualMLP
from dpm_jax.networks.multiscale_conv import MultiScaleConv
from dpm_jax.networks.paper import RBF, BumpDense, SigmoidPerceptron
from dpm_jax.networks.unet import UNet

_MAKERS = {
    "rbf": lambda c, outputs: RBF(c["T"], c["width"], outputs),
    "perceptron": lambda c, outputs: SigmoidPerceptron(c["T"], _layers(c), outputs),
    "bump_dense": lambda c, outputs: BumpDense(c["T"], _layers(c), outputs=outputs),
    "mlp": lambda c, outputs: MLP(c["width"], c["depth"], c.get("octaves", 0), outputs),
    "residual_mlp": lambda c, outputs: ResidualMLP(c["width"], c["depth"], outputs),
    "unet": lambda c, outputs: UNet(
        (c["width"], 2 * c["width"]),
        c["depth"],
        c.get("bottleneck", 512),
        outputs,
        _dtype(c),
        c.get("remat", False),
        c.get("mixing", "middle"),
    ),
    "multiscale_conv": lambda c, outputs: MultiScaleConv(
        T=c["T"],
        channels=c["width"],
        layers=c["depth"],
        num_scales=c.get("scales", 4),
        outputs=outputs,
        dense=(c["dense"],) * 2 if c.get("dense") else (),
        pointwise=(32,) * c.get("pointwise", 2),
        nonlinearity=c.get("nonlinearity", "softplus"),
        condition=_bumps(c),
        dtype=_dtype(c),
        remat=c.get("remat", False),
        film=c.get("film", False),
    ),
}
NAMES = tuple(sorted(_MAKERS))
IN_BFLOAT16 = ("multiscale_conv", "unet")  # those that can compute in it


def by_name(config: Mapping[str, Any], outputs: int) -> Any:
    """The network that config["network"] names, with as many outputs as the readout needs.

    Args:
        config: T, width (units of a layer, channels), depth (layers, blocks of a stage), readout;
            octaves, bottleneck, mixing, scales, dense, pointwise, bumps, nonlinearity, film,
            bfloat16 and remat where the network has them.
        outputs: raw outputs for each element.

    Raises:
        ValueError: for an unknown name, a size below 1, or bfloat16 of a network that has none.
    """
    for name, least in (("width", 1), ("depth", 1), ("octaves", 0)):
        if config.get(name, least) < least:
            raise ValueError(f"{name}: expected at least {least}, got {config[name]}")
    if config["network"] not in _MAKERS:
        raise ValueError(f"network: expected one of {list(NAMES)}, got {config['network']!r}")
    if config.get("bfloat16") and config["network"] not in IN_BFLOAT16:
        expected = f"expected a network of {list(IN_BFLOAT16)}"
        raise ValueError(f"bfloat16: {expected}, got {config['network']!r}")
    return _MAKERS[config["network"]](config, outputs)


def _layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    return (config["width"],) * config["depth"]


def _bumps(config: Mapping[str, Any]) -> str:
    named = config.get("bumps", "auto")
    of_readout = "t" if config["readout"] == "eq65" else "log_snr"
    return of_readout if named == "auto" else named


def _dtype(config: Mapping[str, Any]):
    return jnp.bfloat16 if config.get("bfloat16") else None
