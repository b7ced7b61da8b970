"""What posterior.py asks: what is observed of x^0, test rows or a file, mask, noise; its draws."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import particles, posterior, replacement, sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Noise
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Rows, over_rows
from dpm_jax.posterior.particles import Particles
from dpm_jax.runs.bars import batches
from dpm_jax.runs.experiment import Config, ImageScale
from dpm_jax.runs.run import Run

TASKS = ("inpaint", "denoise")
METHODS = {"paper": "constant", "annealed": "annealed", "particles": "noised", "replacement": ""}
STARTS = ("tilted", "observed")
MASKS = ("left_half", "right_half", "centre", "random")


class Observations(NamedTuple):
    """n problems that share mask and noise, in the units of the model."""

    y: np.ndarray  # (n, *event) what was seen; 0 where hidden
    known: np.ndarray  # (*event) bool
    noise: float  # 0 for inpainting
    truth: np.ndarray | None  # (n, *event); None for a file, of which the rest is not known


def observe(config: Config, run: Run) -> Observations:
    """The problems that the flags name: test rows, hidden or made noisy here, or a file as it is.

    Raises:
        ValueError: naming the flag.
    """
    family, shape = run.model.family, run.model.event_shape
    inpaint = config["task"] == "inpaint"
    known = read_mask(config, shape) if inpaint else np.ones(shape, bool)
    noise = 0.0 if inpaint else _noise(config, family.noise)
    if config["input"]:
        scaling = run.problem.images
        y = read_values(config["input"], shape, scaling, known, noise)[: config["examples"]]
        try:
            family.observe(y, noise)  # for its check of the values
        except ValueError as error:
            raise ValueError(
                f"input: {config['input']}: {str(error).removeprefix('y: ')}"
            ) from error
        return Observations(y.astype(np.float32), known, noise, None)
    if run.test is None:
        raise ValueError("input: expected a file, since this run keeps no test set")
    key_rows, key_noise = jax.random.split(jax.random.key(config["seed"]))
    rows, prepare = run.test[: config["examples"]], run.problem.prepare
    truth = np.asarray(rows if prepare is None else prepare(key_rows, rows), np.float32)
    if inpaint:
        return Observations(np.where(known, truth, 0), known, noise, truth)
    # The channel is symmetric: y given x is drawn as x given y would be under a flat law.
    seen = family.sample(key_noise, family.observe(jnp.asarray(truth), noise))
    return Observations(np.asarray(seen), known, noise, truth)


def draw(config: Config, run: Run, seen: Observations) -> Particles:
    """Weighted draws for each problem: Particles of NumPy arrays (n, N, ...), on all devices.

    Raises:
        ValueError: naming the problem whose particles were all lost.
    """
    num = config["num_samples"]
    one = _weighted if config["method"] == "particles" else _unweighted

    def kernel(params, rows, key):
        chain = run.model.chain(params, config["steps"])
        each = jax.vmap(lambda k, y: one(config, seen, k, chain, y))
        return each(jax.random.split(key, len(rows)), rows)

    per_device = max(1, run.problem.budget.lanes // num)
    rows = Rows(config["seed"] + 1, progress=batches("posterior"))
    parts = over_rows(kernel, run.params, seen.y, per_device, rows)
    return particles.check(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def _weighted(config: Config, seen: Observations, key, chain: Chain, y) -> Particles:
    tilt, filters = _tilt(config, seen, chain, y), config["filters"]
    num = config["num_samples"] // filters
    return particles.sample(key, chain, tilt, num, config["threshold"], filters)


def _unweighted(config: Config, seen: Observations, key, chain: Chain, y) -> Particles:
    num = config["num_samples"]
    if config["method"] == "replacement":
        known = jnp.asarray(seen.known)

        def one(k):
            return replacement.sample(k, chain, known, y, config["repeats"])

    else:
        tilted = posterior.tilted(chain, _tilt(config, seen, chain, y))
        if config["start"] == "observed":
            tilted = tilted._replace(prior=chain.family.observe(y, 0.0))

        def one(k):
            return sampling.sample(k, tilted)

    x = jax.vmap(one)(jax.random.split(key, num))
    unknown, none = jnp.full((), jnp.nan), jnp.zeros((), jnp.int32)
    return Particles(x, jnp.full((num,), 1 / num), unknown, unknown, unknown, none, none)


def _tilt(config: Config, seen: Observations, chain: Chain, y) -> posterior.Tilt:
    r_t = METHODS[config["method"]]
    if config["task"] == "inpaint":
        return posterior.inpaint(chain, seen.known, y, r_t)
    return posterior.denoise(chain, y, seen.noise, r_t)


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
        raise ValueError(f"mask: expected one of {MASKS} or a file, got {name!r}")
    return _two_valued(read_array(name, "mask"), shape, name)


def _two_valued(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Where the values of a mask are not 0; ValueError unless they are 0 and one other."""
    if len(shape) == 3 and values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]  # a grey mask saved in colours
    found = np.unique(values)
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


def read_values(
    path: str,
    shape: tuple[int, ...],
    scaling: ImageScale | None,
    known: np.ndarray | bool = True,
    noise: float = 0.0,
) -> np.ndarray:
    """(n, *event) of a file in the units of the model, 0 where hidden.

    Integers of an image run are its grey levels, and are scaled as its data, to the middle of a
    level; all else is in the units of the model.

    Raises:
        ValueError: for another shape, and for levels or units that are not the run's.
    """
    values = read_array(path, "input")
    if values.shape[-len(shape) :] != shape and len(shape) == 3 and shape[-1] == 1:
        values = values[..., None]
    if values.shape == shape:
        values = values[None]
    if values.shape[1:] != shape or not len(values):
        raise ValueError(f"input: expected shape {('n', *shape)}, got {values.shape} in {path}")
    seen = np.where(known, values, np.zeros((), values.dtype))
    if scaling is None or not np.isfinite(seen).all():  # which the family refuses
        return np.asarray(seen, np.float64)
    of = (scaling.mean, scaling.scale, scaling.levels)
    if values.dtype.kind == "f":
        dequantisation.check_units("input", seen, *of, noise)
        return np.asarray(seen, np.float64)
    levels = dequantisation.check_rows("input", seen, scaling.levels)
    return np.where(known, (levels + 0.5 - scaling.mean) / scaling.scale, 0)


def read_array(path: str, flag: str) -> np.ndarray:
    """The numbers of a .npy file, or the pixels of an image as deep as the file has them.

    Raises:
        ValueError: for a file that does not read, holds no numbers, or an image with transparency
            or of several pages.
    """
    file = Path(path).expanduser()
    expected = f"{flag}: expected a .npy file or an image, got {path}"
    try:
        found = _load(file) if file.suffix == ".npy" else _pixels(file)
    except Exception as error:  # NumPy and Pillow raise anything for what is damaged
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{expected}: {why}") from error
    if found.dtype.kind not in "biuf" or not found.size:
        raise ValueError(f"{expected}: {found.dtype} of shape {found.shape}, no numbers")
    return found


def _load(file: Path) -> np.ndarray:
    found = np.load(file)
    if not isinstance(found, np.ndarray):
        raise ValueError("an archive of arrays; expected one array")
    return found


def _pixels(file: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    from dpm_jax.data import pictures

    with Image.open(file) as opened:
        pages = getattr(opened, "n_frames", 1)
        if pages > 1:
            raise ValueError(f"{pages} pages; expected one")
        if pictures.deep_colour(opened):
            raise ValueError("colours of 16 bits, of which 8 would be read; give a .npy file")
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise ValueError("transparency; expected an image without")
            image = image.convert("RGBA").convert("RGB")
        if image.mode in ("1", "L", "F") or image.mode[0] == "I":
            return np.asarray(image)
        pixels = np.asarray(image.convert("RGB"))
        grey = opened.mode not in ("RGB", "RGBA") and (pixels == pixels[..., :1]).all()
        return pixels[..., 0] if grey else pixels


def _noise(config: Config, kind: Noise) -> float:
    noise = kind.default if config["noise"] is None else config["noise"]
    if not 0 < noise < kind.most:
        raise ValueError(f"noise: expected a {kind.name} in (0, {kind.most:g}), got {noise}")
    return float(noise)
