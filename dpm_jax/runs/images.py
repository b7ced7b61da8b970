"""What the experiments on images share: the model on its linear skip, samples, tables."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import training
from dpm_jax.core import gaussian, sampling
from dpm_jax.core import model as models
from dpm_jax.core.chain import Chain
from dpm_jax.core.readout import Readout
from dpm_jax.images import dequantisation, kernel, law
from dpm_jax.images.resize import resize
from dpm_jax.likelihood import Rows, discretized
from dpm_jax.likelihood.rows import over_rows
from dpm_jax.networks import registry
from dpm_jax.runs import identity, noise_floor
from dpm_jax.runs.bars import batches, phase
from dpm_jax.runs.config import make_schedule
from dpm_jax.runs.experiment import Budget, Config, Exact, ImageScale, Problem

_FITTED_ON = 20_000  # patches of 32×32 for the Gaussian law of the linear skip


class Paper(NamedTuple):
    """What the paper reports of an image set, in bits a pixel of all its colours."""

    K: float
    gain: float  # K − L_null
    error: float | None = None  # ± of both, where it has one


class ImageSet(NamedTuple):
    """An image set as an experiment sees it."""

    data: Any  # for training.fit: images, or photographs to be cropped; or a Stream of examples
    draw: Callable[..., Any]  # (key, train, n) -> (n, H, W, C) of the same integers
    test: np.ndarray  # (M, H, W, C) of the type of `levels`
    mean: float  # grey levels
    scale: float  # grey levels
    levels: int
    facts: dict[str, Any]
    whole: Any = ()  # (k, H, W, C): held-out images larger than those of the test set
    intact: Any = ()  # (H, W, C) each: whole held-out photographs
    validation: Any = None  # held out of training and test
    held: Any = None  # what test rows are of, where that is not `test`; (): a generator's
    files: dict[str, dict] | None = None  # of photographs: train_files, test_files, digests by name
    paper: Paper | None = None  # of this very kind of images

    @property
    def event(self) -> tuple[int, ...]:
        """(H, W, C) of one image."""
        return self.test.shape[1:]


def setup(
    config: Config,
    make: Callable[[Config], ImageSet],
    budget: Budget = Budget(examples=2, model_samples=2, lanes=64),
    event: tuple[int, ...] | None = None,
) -> Problem:
    """The model, the data and the noise-floor ceiling for these flags.

    Args:
        config: every flag by name.
        make: loads the images.
        budget: of evaluate.py and posterior.py.
        event: (H, W, C) where it is known beforehand: a network that does not take it is then
            refused before anything is loaded.

    Raises:
        ValueError: naming the flag.
    """
    _check(config)
    schedule = make_schedule(config)
    if event is not None and config["readout"] != "skip":  # which is fitted to the images
        read = gaussian.family().readout(config["readout"], config["variance"])
        network = registry.by_name(config, read.outputs)
        models.build(gaussian.family(), schedule, network, event, read)
    images = make(config)
    if images.event[-1] not in (1, 3):
        raise ValueError(f"dataset: expected images of 1 or 3 colours, got {images.event}")
    known = identity.of_images(images)  # before what the run keeps is put in
    images = identity.in_kept_scaling(config, images)
    skip = None if config["readout"] != "skip" else _law(config, images)
    prepare = _preparation(config, images)
    build = _builder(config, images, skip)

    def draw(key, rows, n):
        key_rows, key_noise = jax.random.split(key)
        return prepare(key_noise, images.draw(key_rows, rows, n))

    of = {"mean": images.mean, "scale": images.scale, "levels": images.levels}
    scaling = ImageScale(**of, enlarge=build, whole=images.whole, intact=images.intact)
    return Problem(
        model=build(images.event),
        data=images.data,
        draw=draw,
        test=images.test if len(images.test) else None,
        prepare=prepare,
        validation=images.validation,
        facts=_facts(config, images),
        budget=budget,
        exact=Exact(ceiling=lambda seed, steps: _ceiling(config, images)),
        images=scaling,
        identity=known,
        fitted={} if skip is None else skip._asdict(),
    )


def kept(config: Config) -> ImageSet:
    """The scaling alone of the images of a run, without an image: for `Experiment.without_data`.

    Raises:
        ValueError: for a directory that does not say what its images were.
    """
    held, workdir = identity.kept(config["workdir"]), config["workdir"]
    needs = {"data.json": held, "data.npz": identity.kept_arrays(workdir)}
    if config["readout"] != "skip":
        del needs["data.npz"]
    missing = [name for name, found in needs.items() if not found]
    if missing:
        raise ValueError(f"workdir: {workdir} holds no {missing[0]}: it takes the data of the run")
    none = np.empty((0, *held["shape"]), dequantisation.type_of(held["levels"]))
    of = {"mean": held["mean"], "scale": held["scale"], "levels": held["levels"]}
    return ImageSet(data=None, draw=training.draw_rows, test=none, facts={}, **of)


def _law(config: Config, images: ImageSet) -> law.LinearSkip:
    """The law of the run, where it began already; else of these images."""
    kept = identity.kept_arrays(config.get("workdir"))
    if not kept:
        with phase("fitting the Gaussian law"):
            return fit_law(images, config["seed"])
    return law.LinearSkip(**{name: jnp.asarray(value) for name, value in kept.items()})


def _builder(
    config: Config, images: ImageSet, skip: law.LinearSkip | None
) -> Callable[..., models.Model]:
    """shape -> the model of images of this shape; convolutions alone serve every one."""
    schedule, family = make_schedule(config), gaussian.family()
    last_step = config["last_step"]
    if last_step == "discretized":
        last_step = discretized.last_step(_bins(images))

    def read(shape: tuple[int, ...]) -> Readout:
        if skip is None:
            return family.readout(config["readout"], config["variance"])
        return kernel.readout(skip if shape == images.event else resize(skip, *shape[:2]))

    def build(shape: tuple[int, ...]) -> models.Model:
        of = read(tuple(shape))
        return models.build(
            family,
            schedule,
            registry.by_name(config, of.outputs),
            shape,
            of,
            last_step=last_step,
            learn_schedule=config["schedule"] == "learned",
            x0_range=dequantisation.data_range(images.mean, images.scale, images.levels),
        )

    return build


def _preparation(config: Config, images: ImageSet) -> Callable:
    """(key, rows) -> examples; without noise where K is the probability of integers."""
    if config["last_step"] == "discretized":
        bins = _bins(images)
        return lambda key, rows: discretized.centre(rows, bins)
    return partial(_dequantize, mean=images.mean, scale=images.scale)


def _dequantize(key, rows, mean: float, scale: float):
    return dequantisation.dequantize(key, rows, mean, scale)


def _bins(images: ImageSet) -> discretized.Bins:
    return discretized.bins(images.levels, images.mean, images.scale)


def _ceiling(config: Config, images: ImageSet) -> float | None:
    """h(X_1) >= h(noise of the β_1 step): no density of x^1 is narrower than its noise."""
    if config["last_step"] != "fixed":
        return None
    return -0.5 * math.prod(images.event) * math.log(2 * math.pi * math.e * config["beta_1"])


def _facts(config: Config, images: ImageSet) -> dict[str, Any]:
    return {
        "ceiling_kind": "noise floor: minus the entropy of the noise of the beta_1 step",
        "dims": math.prod(images.event),
        "pixels": math.prod(images.event[:2]),
        "mean_levels": images.mean,
        "scale_levels": images.scale,
        "levels": images.levels,
        "beta_1_noise_levels": images.scale * math.sqrt(config["beta_1"]),
        **_of_paper(config, images),
        **images.facts,
    }


def _of_paper(config: Config, images: ImageSet) -> dict[str, float | None]:
    """The paper's numbers in bits an image, for report.json; a density's, not of integers."""
    known = images.paper if config["last_step"] != "discretized" else None
    pixels = math.prod(images.event[:2])
    bits = [None if v is None else v * pixels for v in known or (None,) * 3]
    return dict(zip(("paper_K_bits", "paper_K_minus_L_null_bits", "paper_error_bits"), bits))


def fit_law(images: ImageSet, seed: int) -> law.LinearSkip:
    """The Gaussian law in DCT × colour axes, of training images as the network will see them."""
    num = noise_floor.patches(_FITTED_ON, math.prod(images.event[:2]))
    rows = images.draw(jax.random.key(seed + 7), noise_floor.some_rows(images, num), num)

    def prepare(rows):
        return (np.asarray(rows, np.float64) + 0.5 - images.mean) / images.scale

    return law.fit(np.asarray(rows), prepare, 1 / (12 * images.scale**2))


def samples(config: Config, model: models.Model, params, num: int, seed: int = 2) -> np.ndarray:
    """`num` samples of the model in --sample_steps, on all devices, a few at a time.

    Each has a key of its own, by its number: any number of devices gives the same.
    """
    steps = config["sample_steps"]

    def draw(params, rows, keys):
        chain = model.chain(params, steps)
        return jax.vmap(lambda key: sampling.sample(key, chain))(keys)

    rows = Rows(config["seed"] + seed, progress=batches(f"sample, {steps} steps"))
    most = models.at_once(model, params, steps, one_t=True)
    parts = over_rows(draw, params, np.arange(num), most, rows, keyed=True)
    return np.concatenate(list(parts)).astype(np.float32)


def sampled_chain(config: Config, model: models.Model, params) -> Chain:
    """The chain of --sample_steps; the model's own where that is all of them."""
    steps = config["sample_steps"]
    return model.chain(params, None if steps == config["T"] else steps)


def scale_of(problem: Problem) -> ImageScale:
    """How grey levels became the units of this problem's model."""
    if problem.images is None:
        raise TypeError("problem: expected one of images")
    return problem.images


def to_8bit(problem: Problem, x) -> np.ndarray:
    """Images in the units of the model as 8 bits, for figures."""
    images = scale_of(problem)
    found = dequantisation.to_levels(jnp.asarray(x), images.mean, images.scale, images.levels)
    return dequantisation.shown(found, images.levels)


def _check(config: Config) -> None:
    if "baselines" in config:
        noise_floor.names(config)
    if not 2 <= config["sample_steps"] <= config["T"]:
        raise ValueError(f"sample_steps: expected 2..{config['T']}, got {config['sample_steps']}")
