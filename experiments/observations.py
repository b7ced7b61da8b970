"""What is observed of x^0: rows of the test set or of a file, a mask, noise."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MASKS = ("left_half", "right_half", "centre", "random")


class Observations(NamedTuple):
    """n problems that share mask and noise, in the units of the model."""

    y: np.ndarray  # (n, *event) what was seen; 0 where hidden
    known: np.ndarray  # (*event) bool
    noise: float  # 0 for inpainting
    truth: np.ndarray | None  # (n, *event); None for a file, of which the rest is not known


def observe(config: dict[str, Any], problem) -> Observations:
    """The problems that the flags name: test rows, hidden or made noisy here, or a file as it is.

    Raises:
        ValueError: naming the flag.
    """
    family, shape = problem.evaluated.family, problem.evaluated.event_shape
    inpaint = config["task"] == "inpaint"
    known = read_mask(config, shape) if inpaint else np.ones(shape, bool)
    noise = 0.0 if inpaint else _noise(config, family.name)
    if config["input"]:
        y = np.where(known, read_values(config["input"], shape, problem.facts), 0)
        try:
            family.observe(y, noise)  # for its check of the values
        except ValueError as error:
            raise ValueError(f"input: {config['input']} {error}") from error
        return Observations(y.astype(np.float32), known, noise, None)
    key_rows, key_noise = jax.random.split(jax.random.key(config["seed"]))
    rows = problem.test[: config["examples"]]
    rows = rows if problem.draw_test is None else problem.draw_test(key_rows, rows)
    truth = np.asarray(rows, np.float32)
    if inpaint:
        return Observations(np.where(known, truth, 0), known, noise, truth)
    # The channel is symmetric: y given x is drawn as x given y would be under a flat law.
    seen = family.sample(key_noise, family.observe(jnp.asarray(truth), noise))
    return Observations(np.asarray(seen), known, noise, truth)


def read_mask(config: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Where x^0 is known, (*event) bool, by the name of what is hidden or from a file."""
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
        raise ValueError(f"mask: expected one of {MASKS} or a file, got {name!r}")
    known = read_array(name, "mask") != 0
    if len(shape) == 3 and known.shape == shape[:2]:
        known = np.broadcast_to(known[..., None], shape)
    if known.shape != shape:
        raise ValueError(f"mask: expected shape {shape}, got {known.shape} in {name}")
    return known


def read_values(path: str, shape: tuple[int, ...], facts: dict[str, Any]) -> np.ndarray:
    """(n, *event) of a file in the units of the model; 8-bit grey levels are scaled as its data."""
    values = read_array(path, "input")
    if values.shape[-len(shape) :] != shape and len(shape) == 3 and shape[-1] == 1:
        values = values[..., None]
    if values.shape == shape:
        values = values[None]
    if values.shape[1:] != shape or not len(values):
        raise ValueError(f"input: expected shape {('n', *shape)}, got {values.shape} in {path}")
    if values.dtype == np.uint8 and "scale_levels" in facts:
        return (values + 0.5 - facts["mean_levels"]) / facts["scale_levels"]
    return np.asarray(values, np.float64)


def read_array(path: str, flag: str) -> np.ndarray:
    """The array of a .npy file or the pixels of an image."""
    file = Path(path).expanduser()
    try:
        if file.suffix == ".npy":
            return np.load(file)
        from PIL import Image

        with Image.open(file) as image:
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("L"))
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{flag}: expected a .npy file or an image, got {path}: {why}") from error


def _noise(config: dict[str, Any], family: str) -> float:
    noise = config["noise"]
    if noise is None:
        return 1.0 if family == "gaussian" else 0.1
    if not noise > 0 or (family == "binomial" and not noise < 1):
        what = "a variance above 0" if family == "gaussian" else "a probability inside (0, 1)"
        raise ValueError(f"noise: expected {what}, got {noise}")
    return float(noise)
