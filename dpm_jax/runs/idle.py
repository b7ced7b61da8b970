"""Flags that have no part in a run: what reads them is not what other flags name.

The table is data, so that flags are refused without JAX; tests/test_flags.py holds it to what
networks and schedules really read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_MULTISCALE = ("multiscale_conv",)
_OF_MULTISCALE = ("scales", "dense", "pointwise", "bumps", "nonlinearity", "film")
_WITH_LAYERS = ("bump_dense", "mlp", "multiscale_conv", "perceptron", "residual_mlp", "unet")
_UNITS = range(1, 2**31)  # of a layer that is there
# Flag, the flag that says whether it is read, and the values with which it is.
READ_WITH: tuple[tuple[str, str, Sequence[Any]], ...] = (
    *((name, "network", _MULTISCALE) for name in _OF_MULTISCALE),
    ("bottleneck", "network", ("unet",)),
    ("mixing", "network", ("unet",)),
    ("mixing", "bottleneck", _UNITS),
    ("octaves", "network", ("mlp",)),
    ("depth", "network", _WITH_LAYERS),
    ("final_ratio", "schedule", ("geometric", "learned")),
    ("variance", "readout", ("eq65", "code", "x0", "v")),
    ("median_noise", "objective", ("v",)),
)


def unread(given: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Names of what was given that would change nothing.

    Args:
        given: flags that were given, by name; presets may name more.
        config: every flag of the run.
    """
    return list(dict.fromkeys(name for name, _, _ in _rows(given, config)))


def check(given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse them: ValueError "name: expected ... with it, got ...", of the first."""
    for name, by, values in _rows(given, config):
        if isinstance(values, range):
            expected = f"at least {values.start}"
        else:
            expected = f"{values[0]!r}" if len(values) == 1 else f"one of {list(values)}"
        got = f"got {config[by]!r}, which does not read it"
        raise ValueError(f"{name}: expected {by} {expected} with it, {got}")


def _rows(given: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple]:
    """Rows of the table that speak against what was given."""
    return [
        (name, by, values)
        for name, by, values in READ_WITH
        if name in given and by in config and config[by] not in values
    ]
