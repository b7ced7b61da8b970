"""Flags that have no part in a run: what reads them is not what other flags name.

The table is data, so that flags are refused without JAX; tests/test_flags.py holds it to what
networks and schedules really read.
"""

from collections.abc import Mapping
from typing import Any

_MULTISCALE = ("network", ("multiscale_conv",))
_WITH_LAYERS = ("bump_dense", "mlp", "multiscale_conv", "perceptron", "residual_mlp", "unet")
# flag -> the flag that says whether it is read, and the values with which it is
READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("scales", "dense", "pointwise", "bumps", "nonlinearity", "film"), _MULTISCALE),
    **dict.fromkeys(("bottleneck", "mixing"), ("network", ("unet",))),
    "octaves": ("network", ("mlp",)),
    "depth": ("network", _WITH_LAYERS),
    "final_ratio": ("schedule", ("geometric", "learned")),
    "variance": ("readout", ("eq65", "code", "x0", "v")),
    "median_noise": ("objective", ("v",)),
}


def unread(given: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Names of what was given that would change nothing.

    Args:
        given: flags that were given, by name; presets may name more.
        config: every flag of the run.
    """
    return [
        name
        for name, (by, values) in READ_WITH.items()
        if name in given and by in config and config[by] not in values
    ]


def check(given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse them: ValueError "name: expected ... with it, got ...", of the first."""
    for name in unread(given, config):
        by, values = READ_WITH[name]
        expected = f"{values[0]!r}" if len(values) == 1 else f"one of {list(values)}"
        got = f"got {config[by]!r}, which does not read it"
        raise ValueError(f"{name}: expected {by} {expected} with it, {got}")
