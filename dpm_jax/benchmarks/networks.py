"""The networks that are measured: each preset of each experiment, on data that are made here.

Swiss roll, heartbeat and dead leaves have generators. Where the others need files, random images
of the same shape and number of levels take their place: the time of a step is that of any pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpm_jax import later
from dpm_jax.runs import idle
from dpm_jax.runs.config import IN_BFLOAT16, configure
from dpm_jax.runs.experiment import Config, Problem, find

with later.imports(globals()):
    import numpy as np

NETWORKS = (  # in the order of importance
    "mnist/best",
    "cifar10/best",
    "mnist/paper",
    "swiss_roll/best",
    "heartbeat/best",
    "cifar10/paper",
    "swiss_roll/paper",
    "heartbeat/paper",
    "dead_leaves/best",
    "bark/best",
)
RANDOM = ("mnist", "cifar10", "bark")  # whose images are random here
_MADE = {"mnist": 12_000, "cifar10": 2_000, "bark": 12}  # of which mnist holds out 10,000


def flags(name: str, folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags, but for workdir, with which the binary of a network's experiment runs here.

    Args:
        name: experiment/preset.
        folder: where files of random images lie or are written.
        given: other values than the preset has, of the flags that the experiment knows; bfloat16
            is for the networks that compute in it, and what a network does not read is left out.
    """
    experiment, preset = name.split("/")
    known = find(experiment).presets[preset]
    found = {flag: value for flag, value in given.items() if flag in known}
    if known["network"] not in IN_BFLOAT16:
        found.pop("bfloat16", None)
    for flag in idle.unread(found, {**known, **found}):
        del found[flag]
    found |= {"mnist": _mnist, "cifar10": _cifar10, "bark": _bark}.get(experiment, _none)(folder)
    if experiment == "dead_leaves":
        found |= {"train_images": 20}
    return {"preset": preset, **found}


def problem(name: str, folder: Path, given: Mapping[str, Any] = {}) -> tuple[Config, Problem]:
    """Configuration and problem as the binary makes them.

    Raises:
        ValueError: for flags that the experiment refuses.
    """
    chosen = flags(name, folder, given)
    experiment = find(name.split("/")[0])
    config = configure(experiment, chosen.pop("preset"), None, chosen)
    return config, experiment.setup(config)


def images(seed: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Random images (N, H, W, C), uint8: smooth greys below a little noise, as photographs have."""
    rng = np.random.default_rng(seed)
    num, height, width, channels = shape
    coarse = rng.normal(size=(num, -(-height // 4), -(-width // 4), channels))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    levels = 120 + 50 * smooth + 10 * rng.normal(size=shape)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _none(folder: Path) -> dict[str, Any]:
    return {}


def _mnist(folder: Path) -> dict[str, Any]:
    place = folder / "mnist"
    if not place.exists():
        place.mkdir()
        for seed, (split, num) in enumerate((("train", _MADE["mnist"]), ("test", 1000))):
            np.save(place / f"{split}.npy", images(seed, (num, 28, 28, 1)))
    return {"manual_dir": str(place), "num_eval": 1000}


def _cifar10(folder: Path) -> dict[str, Any]:
    place = folder / "cifar10.npy"
    if not place.exists():
        np.save(folder / "cifar10_test.npy", images(1, (1000, 32, 32, 3)))
        np.save(place, images(0, (_MADE["cifar10"], 32, 32, 3)))
    return {"dataset": str(place)}


def _bark(folder: Path) -> dict[str, Any]:
    from PIL import Image

    place = folder / "bark"
    if not place.exists():
        place.mkdir()
        for i, photograph in enumerate(images(2, (_MADE["bark"], 320, 320, 1))):
            Image.fromarray(photograph[..., 0]).save(place / f"{i:02}.png")
    return {"image_dir": str(place)}
