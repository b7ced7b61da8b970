"""Which elements of x^0 inpainting knows: masks by name, or from a file."""

from pathlib import Path

import numpy as np

from dpm_jax.runs.experiment import Config
from dpm_jax.runs.inputs import read_array

NAMES = ("left_half", "right_half", "centre", "random")


def read_mask(config: Config, shape: tuple[int, ...]) -> np.ndarray:
    """Where x^0 is known, (*event) bool, by the name of what is hidden or from a file.

    Raises:
        ValueError: naming the flag, also for a mask that hides nothing or everything.
    """
    known = np.asarray(_mask(config, shape))
    if known.all() or not known.any():
        hidden = f"{known.size - int(known.sum())} of {known.size} hidden"
        what = f"{config['mask']}: {hidden}"
        raise ValueError(f"mask: expected one that hides a part of {shape}, got {what}")
    return known


def _mask(config: Config, shape: tuple[int, ...]) -> np.ndarray:
    name = config["mask"]
    if name == "random":
        if not 0 < config["fraction"] < 1:
            raise ValueError(f"fraction: expected a number in (0, 1), got {config['fraction']}")
        space = shape[:2] if len(shape) == 3 else shape  # a pixel is hidden with all its colours
        order = np.random.default_rng(config["seed"]).permutation(int(np.prod(space)))
        known = (order >= round(config["fraction"] * order.size)).reshape(space)
        return np.broadcast_to(known[..., None], shape) if len(shape) == 3 else known
    width = shape[1] if len(shape) == 3 else shape[-1]
    column = np.broadcast_to(
        np.arange(width)[:, None] if len(shape) == 3 else np.arange(width), shape
    )
    if name in ("left_half", "right_half"):
        left = column < width // 2
        return ~left if name == "left_half" else left
    if name == "centre":
        middle = np.ones(shape, bool)
        for axis in range(min(2, len(shape))):
            place = np.arange(shape[axis]) + 0.5
            inside = abs(place - shape[axis] / 2) < shape[axis] / 4
            middle &= inside.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return ~middle
    if not Path(name).expanduser().is_file():
        raise ValueError(f"mask: expected one of {NAMES} or a file, got {name!r}")
    return _two_valued(read_array(name, "mask"), shape, name)


def _two_valued(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Where the values of a mask are not 0; ValueError unless they are 0 and one other."""
    if len(shape) == 3 and values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]  # a grey mask saved in colours
    found = np.unique(values)
    if not np.isfinite(found).all():
        raise ValueError(f"mask: expected 0 where hidden and one other value, got NaN in {name}")
    if len(found) > 2 or found[0] != 0:
        got = f"{len(found)} values from {found[0]} to {found[-1]}"
        if len(found) > 2:
            got += " (a JPEG or a smooth edge? save it as PNG, without antialiasing)"
        raise ValueError(f"mask: expected 0 where hidden and one other value, got {got} in {name}")
    known = values != 0
    if len(shape) == 3 and known.shape == shape[:2]:
        known = np.broadcast_to(known[..., None], shape)
    if known.shape != shape:
        raise ValueError(f"mask: expected shape {shape}, got {known.shape} in {name}")
    return known
