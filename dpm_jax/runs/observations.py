"""What posterior.py asks: what is seen of x^0, by task, of test rows or of a file."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core.family import Noise
from dpm_jax.core.model import Model
from dpm_jax.posterior import linear
from dpm_jax.posterior.linear import Linear
from dpm_jax.runs import masks
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.inputs import read_values, size_of
from dpm_jax.runs.run import Run

TASKS = ("inpaint", "denoise", "super_resolution", "deblur", "colourise", "project")
NOISE = 1e-3  # default variance of the noise of a linear measurement, in units of the data's
_MOST = 1e8  # variance of the noise: beyond it float32 has no squares


class Observations(NamedTuple):
    """n problems that share measurement and noise, in the units of the model."""

    y: np.ndarray  # (n, *out); of inpaint and denoise (n, *event), 0 where hidden
    known: np.ndarray  # (*event) bool, elements that y shows one by one; of a linear A none
    noise: float  # variance, or the probability that a bit is flipped; 0 for inpainting
    truth: np.ndarray | None  # (n, *event); None for a file, of which the rest is not known
    A: Linear | None = None  # of y = A x^0 + ε, where that is not the known elements

    @property
    def measurement(self) -> Linear:
        """A of y = A x^0 + ε, of every task."""
        return linear.mask(self.known) if self.A is None else self.A

    @property
    def measured(self) -> np.ndarray:
        """y as `measurement` has it, (n, *out)."""
        return self.y[:, self.known] if self.A is None else self.y

    @property
    def sought(self) -> np.ndarray:
        """(*event) bool: the elements that are to be found."""
        return np.ones_like(self.known) if self.noise else ~self.known

    @property
    def shown(self) -> np.ndarray:
        """(n, *event): y where it is of the event's shape, else A⁺ y, the least x with A x = y."""
        if self.A is None or self.A.out == self.A.shape:
            return self.y
        A = self.A
        return np.asarray(jax.vmap(lambda y: A.back(A.seen(y) / A.singular))(jnp.asarray(self.y)))


def sized(config: Config, run: Run) -> Run:
    """The run with its model for the images of --input, where they are of another size than its.

    Raises:
        ValueError: for a size that its network does not serve.
    """
    scaling, event = run.problem.images, run.model.event_shape
    if not config["input"] or scaling is None or scaling.enlarge is None:
        return run
    check(config, run)
    if config["clean"] or (A := linear_of(config, event)) is None:
        shape = size_of(config["input"], event, config["crop"])
    else:
        found = size_of(config["input"], A.out, config["crop"])
        times = [side // own for side, own in zip(event, A.out)]
        shape = tuple(n * by for n, by in zip(found, times)) + event[len(found) :]
    if shape == event:
        return run
    lanes = max(1, run.problem.budget.lanes * math.prod(event) // math.prod(shape))
    budget = dataclasses.replace(run.problem.budget, lanes=lanes)
    problem = dataclasses.replace(run.problem, model=_enlarged(run, shape), budget=budget)
    return dataclasses.replace(run, problem=problem)


def _enlarged(run: Run, shape: tuple[int, ...]) -> Model:
    assert run.problem.images is not None and run.problem.images.enlarge is not None
    own, got = run.model.event_shape, f"images of {shape}, made by --input"
    try:
        model = run.problem.images.enlarge(shape)
    except ValueError as error:
        raise ValueError(
            f"input: expected sides that the network takes, got {got}: {error}"
        ) from error
    needed = jax.eval_shape(model.init, jax.random.key(0))
    held = jax.tree.map(jnp.shape, run.params)
    if jax.tree.map(jnp.shape, needed) != held:
        raise ValueError(f"input: expected images of {own}, which its network is for, got {got}")
    return model


def observe(config: Config, run: Run) -> Observations:
    """The problems that the flags name: test rows, measured here, or a file as it is.

    Raises:
        ValueError: naming the flag.
    """
    check(config, run)
    family, shape, task = run.model.family, run.model.event_shape, config["task"]
    noise = 0.0 if task == "inpaint" else _noise(config, family.noise)
    known = np.full(shape, task == "denoise")
    known = masks.read_mask(config, shape) if task == "inpaint" else known
    seen = Observations(np.zeros(()), known, noise, None, linear_of(config, shape))
    if config["input"] and not config["clean"]:
        return seen._replace(y=_from_file(config, run, seen))
    return _measured(config, run, seen)


def _from_file(config: Config, run: Run, seen: Observations) -> np.ndarray:
    """y of --input, nothing added to it."""
    event = seen.A is None
    shape, known = (run.model.event_shape, seen.known) if event else (seen.measurement.out, True)
    of = (config["input"], shape, run.problem.images, known, seen.noise, config["crop"])
    return _possible(config, run, read_values(*of)[: config["examples"]], seen.noise)


def _measured(config: Config, run: Run, seen: Observations) -> Observations:
    """Test rows, or --input of --clean, with what is measured of them."""
    family, key = run.model.family, jax.random.key(config["seed"])
    key_rows, key_noise = jax.random.split(key)
    if config["input"]:
        of = (config["input"], run.model.event_shape, run.problem.images)
        rows = read_values(*of, crop=config["crop"])[: config["examples"]]
        truth = _possible(config, run, rows, 0.0)
    elif run.test is None:
        raise ValueError("input: expected a file, since this run keeps no test set")
    else:
        rows, prepare = run.test[: config["examples"]], run.problem.prepare
        truth = np.asarray(rows if prepare is None else prepare(key_rows, rows), np.float32)
    if not seen.noise:
        return seen._replace(y=np.where(seen.known, truth, 0), truth=truth)
    exact = truth if seen.A is None else jax.vmap(seen.A.apply)(jnp.asarray(truth))
    # The channel is symmetric: y given x is drawn as x given y would be under a flat law.
    y = family.sample(key_noise, family.observe(jnp.asarray(exact), seen.noise))
    return seen._replace(y=np.asarray(y), truth=truth)


def _possible(config: Config, run: Run, x: np.ndarray, noise: float) -> np.ndarray:
    """x of --input, float32, where the family can have it."""
    try:
        run.model.family.observe(x, noise)  # for its check of the values
    except ValueError as error:
        why = str(error).removeprefix("y: ")
        raise ValueError(f"input: {config['input']}: {why}") from error
    return x.astype(np.float32)


def check(config: Config, run: Run) -> None:
    """ValueError, naming the flag, for a task that the run's examples do not have."""
    shape, task, size = run.model.event_shape, config["task"], math.prod(run.model.event_shape)
    if not run.model.family.noise.additive and task not in TASKS[:2]:
        raise ValueError(f"task: expected inpaint or denoise of bits, got {task!r}")
    if task == "colourise" and (len(shape) != 3 or shape[-1] == 1):
        raise ValueError(f"task: colourise is for images in colour, got a run of shape {shape}")
    num = config["num_measurements"]
    if task == "project" and not 0 < (_num(config, shape)) < size:
        raise ValueError(f"num_measurements: expected 1..{size - 1}, got {num}")


def _num(config: Config, shape: tuple[int, ...]) -> int:
    """Measurements of a random projection; without --num_measurements a quarter of the elements."""
    given = config["num_measurements"]
    return max(1, math.prod(shape) // 4) if given is None else given


def linear_of(config: Config, shape: tuple[int, ...]) -> Linear | None:
    """A of the task; None where single elements are seen."""

    def projection() -> Linear:
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        return linear.projection(key, shape, _num(config, shape))

    makers = {
        "super_resolution": lambda: linear.block_mean(shape, config["factor"]),
        "deblur": lambda: linear.blur(shape, config["sigma"]),
        "colourise": lambda: linear.channels(shape),
        "project": projection,
    }
    return makers[config["task"]]() if config["task"] in makers else None


def _noise(config: Config, kind: Noise) -> float:
    default = kind.default if config["task"] == "denoise" else NOISE
    noise = default if config["noise"] is None else config["noise"]
    most = min(kind.most, _MOST)
    if not 0 < noise < most:
        raise ValueError(f"noise: expected a {kind.name} in (0, {most:g}), got {noise}")
    return float(noise)
