"""The methods of posterior.py: which tilt, sampler and corrector, and how many network calls."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import particles, posterior, replacement, sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.model import Model, sample
from dpm_jax.likelihood import Rows, over_rows
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.particle_gibbs import effective
from dpm_jax.posterior.particles import Particles
from dpm_jax.runs.bars import batches, phase
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.noise_floor import examples
from dpm_jax.runs.observations import Observations, linear_of
from dpm_jax.runs.run import Run

R_T = {  # r(x^t) of each method; that of a filter is --twist
    "paper": "constant",
    "annealed": "annealed",
    "twisted": "noised",
    "dps": "dps",
    "pigdm": "pigdm",
    "mmps": "mmps",
    "particles": "",
    "gibbs": "",
    "replacement": "",
}
METHODS = tuple(R_T)
THROUGH = ("dps", "pigdm", "mmps")  # r(x^t) through the network
TWISTS = ("noised", "pigdm", "mmps")
CORRECTORS = ("none", "gibbs", "langevin")
STARTS = ("tilted", "observed")
EXACT = 1e-4  # variance that the known elements have where r(x^t) goes through the network
_MEASURED_ON = 64  # examples, of the error of x̂^0 by t
_PIXELS = 2**16  # of the samples in their place, where the run keeps no data
_SMALL = 64  # elements of an example, up to which "noised" is the twist of a filter


def plan(config: Config, run: Run) -> Config:
    """The flags with steps, repeats and particles as --calls, or else their defaults, have them.

    Without a corrector a draw takes one call of the network a step, so --calls is --steps. With
    one, by replacement and by gibbs the steps stay, and --calls decides how often each is taken.

    Raises:
        ValueError: naming the flag, for too few calls and for what this family does not have.
    """
    check(config, run)
    run.model.chain(run.params, config["steps"])  # a bad --steps ends here
    small = math.prod(run.model.event_shape) <= _SMALL
    T = run.model.chain(run.params).T
    more = {
        "twist": "noised" if small or not run.model.family.noise.additive else "mmps",
        "steps": run.config.get("sample_steps") or T,
        "repeats": 1 if config["corrector"] != "none" else 10,
        "sweeps": 10,
        "particles": 16,
    }
    planned = {**config, **{n: v for n, v in more.items() if config[n] is None}}
    if (calls := config["calls"]) is None:
        return planned
    if (counted := _counted(config)) is None:
        if not 2 <= calls <= T:
            raise ValueError(f"calls: expected 2..{T}, the steps of the chain, got {calls}")
        return planned | {"steps": calls}
    least = 2 if counted == "particles" else 1
    once, another = (count({**planned, counted: n}) for n in (least, least + 1))
    if calls < once:
        what = f"{once} or more with {planned['steps']} steps"
        raise ValueError(f"calls: expected {what} (or fewer --steps), got {calls}")
    return planned | {counted: least + (calls - once) // (another - once)}


def check(config: Config, run: Run) -> None:
    """ValueError, naming the flag, for a method that the family of the run does not have."""
    bits = not run.model.family.noise.additive
    for name, has in (("method", THROUGH), ("twist", THROUGH), ("corrector", ("langevin",))):
        if bits and config[name] in has:
            raise ValueError(f"{name}: expected one that bits have, got {config[name]!r}")


def _counted(config: Config) -> str | None:
    """The flag that says how often the steps of a draw are taken; None: each once."""
    if config["method"] == "gibbs":
        return "particles"
    repeated = config["method"] == "replacement" or config["corrector"] != "none"
    return "repeats" if repeated else None


def count(config: Config) -> int:
    """Network calls of a draw: of a filter those of a particle, of gibbs those of a sweep."""
    used, steps = _corrector(config), config["steps"]
    if used is not None:
        return used.calls(steps)
    return steps * config["particles"] if config["method"] == "gibbs" else steps


def _corrector(config: Config):
    """What follows each step; replacement is a tilt with one (replacement.py)."""
    if config["method"] == "replacement":
        return posterior.Gibbs(config["repeats"] - 1, config["jump"])
    if config["corrector"] == "gibbs":
        return posterior.Gibbs(config["repeats"], config["jump"])
    return posterior.Langevin(config["repeats"]) if config["corrector"] == "langevin" else None


def draw(config: Config, run: Run, seen: Observations) -> Particles:
    """Weighted draws for each problem: Particles of NumPy arrays (n, N, ...), on all devices.

    Raises:
        ValueError: naming the problem whose particles were all lost.
    """
    num, steps = config["num_samples"], config["steps"]
    filtered = config["method"] in ("particles", "gibbs")
    one = _filtered if filtered else _drawn
    y = seen.y if _plain(config, seen) else seen.measured
    y = y if filtered else np.repeat(y, num, axis=0)
    error = _errors(config, run, seen) if _r_t(config) == "pigdm" else None

    def kernel(params, rows, keys):
        chain = _chain(run.model, params, steps)

        def of_one(key, y):
            return one(config, seen, key, chain, lambda: _tilt(config, seen, chain, y, error), y)

        return jax.vmap(of_one)(keys, rows)

    per_device = max(1, run.problem.budget.lanes // (num if filtered else 1))
    rows = Rows(config["seed"] + 1, progress=batches("posterior"))
    parts = list(over_rows(kernel, run.params, y, per_device, rows, keyed=True))
    found: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    found = found if filtered else _unweighted(found.reshape(len(seen.y), num, *found.shape[1:]))
    if not seen.noise and not _plain(config, seen):  # the little noise that they had is taken off
        found = found._replace(x=np.where(seen.known, seen.y[:, None], found.x))
    return particles.check(found)


def _chain(model: Model, params, steps: int) -> Chain:
    chain = model.chain(params)
    return chain if steps == chain.T else model.chain(params, steps)


def _errors(config: Config, run: Run, seen: Observations) -> np.ndarray:
    """Mean square error of x̂^0 by t, on training examples or else samples of the model itself."""
    key, model, images = jax.random.key(config["seed"]), run.model, run.problem.images
    x0 = examples(run.problem, _MEASURED_ON)
    with phase("error of the denoiser by t"):
        if x0 is None:
            num = min(_MEASURED_ON, max(4, _PIXELS // math.prod(model.event_shape)))
            x0 = sample(model, run.params, key, num, config["steps"])
        if x0.shape[1:] != model.event_shape:  # of an --input larger than the training images
            assert images is not None and images.enlarge is not None
            model = images.enlarge(x0.shape[1:])

        A = seen.measurement if model is run.model else _smaller(config, x0.shape[1:])

        @jax.jit
        def measured(params, key, x0):
            return posterior.errors(key, _chain(model, params, config["steps"]), x0, A)

        return np.asarray(measured(run.params, key, jnp.asarray(x0, jnp.float32)))


def _smaller(config: Config, shape: tuple[int, ...]) -> Linear | None:
    """A of the task at the size of training images; None, for each element, where it has none."""
    try:
        return linear_of(config, shape)
    except ValueError:  # blocks or a blur that do not fit there, more projections than elements
        return None


def _filtered(config: Config, seen: Observations, key, chain: Chain, make, y) -> Particles:
    """The particles of one problem, or one draw of each sweep but the first; make: () -> tilt."""
    tilt, filters = make(), config["filters"]
    num, first = config["num_samples"], config["sweeps"]
    if config["method"] == "particles":
        return particles.sample(key, chain, tilt, num // filters, config["threshold"], filters)
    found = particles.gibbs(key, chain, tilt, config["particles"], first + num)
    even, unknown = jnp.full((num,), 1 / num), jnp.full((), jnp.nan)
    none = jnp.zeros((), jnp.int32)
    return Particles(
        found.x[first:], even, unknown, jnp.nanmean(effective(found.x[first:])), unknown, none,
        found.lost_t,
    )  # fmt: skip


def _drawn(config: Config, seen: Observations, key, chain: Chain, make, y):
    """One draw, without a weight; make: () -> tilt."""
    if config["method"] == "replacement":
        of = (jnp.asarray(seen.known), y, config["repeats"], config["jump"])
        return replacement.sample(key, chain, *of)
    tilt = make()
    if config["start"] == "observed":
        tilted = posterior.tilted(chain, tilt)._replace(prior=chain.family.observe(y, 0.0))
        return sampling.sample(key, tilted)
    return posterior.sample(key, chain, tilt, 1, _corrector(config))[0]


def _unweighted(x: np.ndarray) -> Particles:
    n, num = x.shape[:2]
    unknown, none = np.full(n, np.nan), np.zeros(n, int)
    of: tuple[Any, ...] = (x, np.full((n, num), 1 / num), *[unknown] * 3, none, none)
    return Particles(*of)


def _r_t(config: Config) -> str:
    return R_T[config["method"]] or config["twist"]


def _plain(config: Config, seen: Observations) -> bool:
    """Whether r is of single elements, in closed form: y has the event's shape."""
    return seen.A is None and _r_t(config) not in THROUGH


def _tilt(config: Config, seen: Observations, chain: Chain, y, error) -> posterior.Tilt:
    r_t = _r_t(config)
    if not _plain(config, seen):
        noise = seen.noise or config["noise"] or EXACT
        of = {"mmps": {"products": config["products"]}, "pigdm": {"error": error}}.get(r_t, {})
        return posterior.measure(chain, seen.measurement, y, noise, r_t, **of)
    if config["task"] == "inpaint":
        return posterior.inpaint(chain, seen.known, y, r_t)
    return posterior.denoise(chain, y, seen.noise, r_t)
