"""What a port of a network needs: parameters, tables, data, and values of ours to be checked by."""

import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from dpm_jax.core.model import Model
from dpm_jax.likelihood import bound
from dpm_jax.runs.config import training_options
from dpm_jax.runs.experiment import Config, Problem

_NETWORKS = ("mlp", "bump_dense", "multiscale_conv", "unet")
_DRAWS = ("mnist", "cifar10", "swiss_roll")  # experiments whose batches the port draws too
_GROUPS, _EACH = 4, 2  # of the examples that are compared


class Checks(NamedTuple):
    """Our values at given inputs, of parameters that are random everywhere."""

    xt: np.ndarray  # (B, *event)
    t: np.ndarray  # (G,)
    mean: np.ndarray  # (B, *event), of the reverse kernel
    variance: np.ndarray
    x0: np.ndarray
    noise: np.ndarray
    terms: np.ndarray  # (B,) of K at these noises


class Port(NamedTuple):
    """A network as arrays and names."""

    network: SimpleNamespace  # the fields of the flax module, and "kind", its class
    parameters: dict[str, np.ndarray]  # by path
    event: tuple[int, ...]
    schedule: tuple[np.ndarray, ...]  # β, log ᾱ and the t of the network, (T+1,) each
    readout: tuple[str, str]  # mean and variance
    skip: Any  # images.law.LinearSkip of NumPy arrays, or None
    x0_range: tuple[float, float] | None
    law: np.ndarray  # of t
    weights: np.ndarray | None  # of the terms at t
    rows: np.ndarray
    mean: float | None  # grey levels; None where rows are examples
    scale: float
    flip: bool
    options: dict[str, Any]  # of training
    bfloat16: bool
    checks: Checks


def has_port(config: Config) -> bool:
    """Whether there is a port of the network of these flags, and of its training."""
    plain = config["schedule"] != "learned" and config["last_step"] == "fixed"
    of = config["experiment"] in _DRAWS and config["network"] in _NETWORKS
    return of and plain and config["num_t"] != 0


def port(config: Config, problem: Problem, params: Any) -> Port:
    """All of it, for a Gaussian model with a fixed schedule and a fixed last step."""
    model, images = problem.model, problem.images
    chain = model.chain(params, clamped=False)
    law, weights = bound.time_law(chain), None
    if config["objective"] == "v":
        assert model.family.v_weights is not None
        law, weights = model.family.v_weights(chain.schedule, config["median_noise"])
    random = _randomised(params)
    paths = traverse_util.flatten_dict(random["network"]["params"], sep="/")
    return Port(
        _fields(model.parts["network"]),
        {path: np.asarray(value) for path, value in paths.items()},
        model.event_shape,
        schedule(model, params),
        readout=(config["readout"], config["variance"]),
        skip=_skip(problem) if config["readout"] == "skip" else None,
        x0_range=model.x0_range,
        law=np.asarray(law),
        weights=None if weights is None else np.asarray(weights),
        rows=np.asarray(problem.data),
        mean=None if images is None else images.mean,
        scale=1.0 if images is None else images.scale,
        flip=bool(config.get("flip")),
        options=dataclasses.asdict(training_options(config)),
        bfloat16=bool(config.get("bfloat16")),
        checks=_checks(model, random),
    )


def schedule(model: Model, params: Any, steps: int | None = None) -> tuple[np.ndarray, ...]:
    """β, log ᾱ and the t of the network, of the chain respaced to so many steps."""
    found = model.chain(params, steps).schedule
    return tuple(np.asarray(value) for value in found)


def _fields(network: Any) -> SimpleNamespace:
    fields = (f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name"))
    values = {name: getattr(network, name) for name in fields}
    values["dtype"] = None  # of JAX; the port has its own
    return SimpleNamespace(kind=type(network).__name__, **values)


def _skip(problem: Problem) -> SimpleNamespace:
    return SimpleNamespace(**{name: np.asarray(v) for name, v in problem.fitted.items()})


def _randomised(params: Any) -> Any:
    """Parameters none of which is 0, as many are at the start."""
    rng = np.random.default_rng(0)

    def one(p):
        size = 0.1 if p.ndim < 2 else 0.5 / np.prod(p.shape[:-1]) ** 0.5
        return np.asarray(p) + (size * rng.normal(size=p.shape)).astype(p.dtype)

    return jax.tree.map(one, params)


def _checks(model: Model, params: Any) -> Checks:
    """In full float32, whatever the device does by default."""
    rng = np.random.default_rng(1)
    T, num = model.chain(params).T, _GROUPS * _EACH
    t = np.linspace(max(2, T // 20), T, _GROUPS).astype(np.int32)
    x0, xt = (rng.normal(size=(num, *model.event_shape)).astype(np.float32) for _ in range(2))
    keys = jax.random.split(jax.random.key(2), num)

    @jax.jit
    def values(params, keys, x0, xt, t):
        chain = model.chain(params, clamped=False)
        kernel = jax.vmap(chain.reverse)(xt, t)
        terms = jax.vmap(lambda k, x, t: bound.term(k, chain, x, t))(keys, x0, t)
        noise = jax.vmap(lambda k, x: jax.random.normal(k, x.shape, x.dtype))(keys, x0)
        return kernel.mean + kernel.low, kernel.variance, noise, terms

    with jax.default_matmul_precision("highest"):
        found = values(params, keys, x0, xt, np.repeat(t, _EACH))
    mean, variance, noise, terms = (np.asarray(value) for value in found)
    return Checks(xt, t, mean, variance, x0, noise, terms)
