"""The methods that mixture.py sets side by side: draws of p(x^0 | y), and log Z~ where one has it.

All take the same chain and the same number of network calls a draw; each is compiled once for a
shape and serves every problem of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from dpm_jax import later
from dpm_jax.runs import bars

with later.imports(globals()):
    import jax
    import jax.numpy as jnp

    from dpm_jax import (
        gaussian,
        model,
        networks,
        particles,
        posterior,
        sampling,
        schedule,
        training,
    )
    from dpm_jax.baselines import inverse
    from dpm_jax.core.chain import Chain
    from dpm_jax.core.schedule import Schedule
    from dpm_jax.exact import mixture
    from dpm_jax.posterior.linear import Linear

STEPS_OF_DPS = ("0.1", "0.3", "1", "3")  # of which the table has the best in each cell
FILTER = 16  # particles of one of the small filters
MOST_T = 100  # beyond it calls go into particles, correctors and sweeps
OTHERS = ("dps", "ddrm", "mcgdiff")  # kinds that are not ours
LABELS = {
    "floor": "two exact draws (floor)",
    "prior": "exact draws of the prior",
    **{f"dps_{step}": f"DPS, step {step}" for step in STEPS_OF_DPS},
    "tilt_dps": "tilt dps (S = R)",
    "tilt_pigdm": "tilt pigdm (ΠGDM)",
    "tilt_mmps": "tilt mmps",
    "gibbs_mmps": "tilt mmps, Gibbs",
    "langevin_mmps": "tilt mmps, Langevin",
    "ddrm": "DDRM, our own",
    "mcgdiff": "MCGdiff, our own",
    "particles_noised": "particles, noised",
    "particles_pigdm": "particles, pigdm",
    "particles_mmps": "particles, mmps",
    "pooled_mmps": f"filters of {FILTER}, mmps",
    "particle_gibbs": f"particle Gibbs of {FILTER}, mmps",
}
METHODS = tuple(LABELS)
EXACT = ("floor", "prior")  # take no chain
LONG = "long_mmps"  # particles, four times as many: nearly exact for the model that they are of


class Asked(NamedTuple):
    """What of a method is asked for."""

    method: str  # one of METHODS that is not of EXACT
    calls: int  # network calls of a draw
    num: int  # draws


class Task(NamedTuple):
    """What a method draws from, and with what effort."""

    chain: Chain
    A: Linear
    y: Any
    noise: Any
    num: int  # draws
    more: int  # network calls of a draw, over T


def plan(name: str, calls: int) -> tuple[int, int]:
    """T and how many times as many calls a draw takes: T · more is `calls`, rounded down.

    Of particles half goes into their number, beyond MOST_T steps all: of 1,024 that were resampled
    some hundred ancestors are left, and more steps make no more of them.
    """
    kind = name.partition("_")[0]
    if kind == "long":
        T, more = plan("particles", calls)
        return T, 4 * more
    T = calls
    if kind in ("gibbs", "langevin", "particle", "particles", "pooled"):
        T = max(calls // 2, 2)
    T = T if kind in ("dps", "ddrm", "tilt") else min(T, MOST_T)
    return T, max(calls // T, 1)


def measured(of: mixture.Problem) -> Linear:
    """A of a problem, of z = `turned` x, by its singular values, which may be traced."""
    left, singular = jnp.asarray(of.left), jnp.asarray(of.singular)
    rows = mixture.turned(jnp.asarray(of.rows))
    return Linear(
        apply=lambda x: left @ (singular * (rows @ x)),
        shape=rows.shape[1:],
        out=left.shape[:1],
        singular=singular,
        rows=lambda x: rows @ x,
        back=lambda z: rows.T @ z,
        seen=lambda y: left.T @ y,
        spread=lambda d: rows**2 @ jnp.broadcast_to(d, rows.shape[1:]),
    )


def steps(name: str, dim: int, T: int) -> Schedule:
    """Noise for one of METHODS: from where all is one mode's to where nothing is left of x^0.

    What others do needs noise as low as that of y.
    """
    if name.partition("_")[0] in OTHERS:
        return schedule.geometric(T, 1e-4, 1e6)
    first = dim / 800  # (1−ᾱ_1)/ᾱ_1: modes of x^1 lie ten standard deviations apart or more
    return schedule.geometric(T, first / (1 + first), 125.0 * dim)


def exact_chain(of: mixture.Problem, params: Any, name: str, T: int) -> Chain:
    """The chain of the exact denoiser; it has no parameters."""
    dim, others = of.rows.shape[1], name.partition("_")[0] in OTHERS
    return mixture.chain(of.mixture, steps(name, dim, T), dim, one_variance=others)


class Network(NamedTuple):
    """A model of the data in the place of the exact denoiser."""

    model: Any
    chain_of: Callable  # (problem, params, name, T) -> chain; one object, as `draw` asks for


def network(dim: int) -> Network:
    """A perceptron that says v, and a variance; its chains have up to MOST_T steps."""
    noise = schedule.geometric(MOST_T, 1e-4, 125.0 * dim)
    net = networks.MLP(width=256, depth=3, outputs=2)
    made = model.build(gaussian.family(), noise, net, (dim,), "v", "between")

    def chain_of(of: mixture.Problem, params: Any, name: str, T: int) -> Chain:
        return made.chain(params, None if T == MOST_T else T)

    return Network(made, chain_of)


def train(of: Any, data: Any, steps: int, seed: int) -> Any:
    """Parameters of a `Network`'s model trained on data (n, dim), with a bar."""
    options = training.Options(
        num_steps=steps, batch_size=256, learning_rate=2e-3, objective="v", seed=seed
    )
    with bars.bar(None, "train", "step", total=steps) as shown:
        return training.fit(of, data, options, progress=shown).ema


def draw(key, of: mixture.Problem, params: Any, asked: Asked, make: Callable) -> tuple[Any, Any]:
    """Draws (num, d), scaled, and log Z~ or NaN.

    Args:
        key: typed PRNG key.
        of: the problem.
        params: of the denoiser.
        asked: method, network calls of a draw, number of draws.
        make: (problem, params, name, T) -> chain; one object for all problems, by which what is
            compiled is kept.
    """
    return _compiled()(key, of, params, asked=asked, make=make)


@lru_cache(maxsize=1)
def _compiled():
    @partial(jax.jit, static_argnames=("asked", "make"))
    def run(key, of, params, asked, make):
        T, more = plan(asked.method, asked.calls)
        y, noise = jnp.asarray(of.y), jnp.asarray(of.noise)
        chain = make(of, params, asked.method, T)
        task = Task(chain, measured(of), y, noise, asked.num, more)
        kind, _, of_kind = asked.method.partition("_")
        z, log_z = _KINDS[kind](key, task, of_kind)
        return mixture.turned(z), jnp.asarray(jnp.nan if log_z is None else log_z)

    return run


def thinned(key, x, weight, num: int):
    """`num` draws of equal weight of weighted ones: systematic resampling to another number."""
    ends = jnp.cumsum(weight)
    points = (jnp.arange(num, dtype=ends.dtype) + jax.random.uniform(key)) / num
    return x[jnp.minimum(jnp.searchsorted(ends / ends[-1], points), len(x) - 1)]


def _tilt(task: Task, r_t: str):
    return posterior.measure(task.chain, task.A, task.y, task.noise, r_t)


def _alone(corrector, key, task: Task, r_t: str):
    used = None if corrector is None else corrector(task.more)
    return posterior.sample(key, task.chain, _tilt(task, r_t), task.num, used), None


def _weighted(filters: bool, key, task: Task, r_t: str):
    key_run, key_thin = jax.random.split(key)
    num = task.num * task.more
    shape = {"num": FILTER, "filters": num // FILTER} if filters else {"num": num}
    found = particles.sample(key_run, task.chain, _tilt(task, r_t), **shape)
    return thinned(key_thin, found.x, found.weight, task.num), found.log_z


def _particle_gibbs(key, task: Task, _: str):
    """Chains of small filters, a sweep each; of the second half of the sweeps each draw counts."""
    chains, tilt = max(task.num // FILTER, 1), _tilt(task, "mmps")

    def one(key):
        return particles.gibbs(key, task.chain, tilt, FILTER, task.more).x[task.more // 2 :]

    key_run, key_thin = jax.random.split(key)
    x = jax.vmap(one)(jax.random.split(key_run, chains)).reshape(-1, *task.chain.shape)
    return thinned(key_thin, x, jnp.ones(len(x), x.dtype), task.num), None


def _chain_draws(chain: Chain, key, num: int):
    return jax.vmap(lambda key: sampling.sample(key, chain))(jax.random.split(key, num))


def _dps(key, task: Task, step: str):
    used = inverse.dps(task.chain, task.A, task.y, float(step))
    return _chain_draws(used, key, task.num), None


def _ddrm(key, task: Task, _: str):
    turned, back = inverse.turned(task.chain, task.A)
    used = inverse.ddrm(turned, inverse.seen(task.A, task.y, task.noise))
    return jax.vmap(back)(_chain_draws(used, key, task.num)), None


def _mcgdiff(key, task: Task, _: str):
    key_run, key_thin = jax.random.split(key)
    turned, back = inverse.turned(task.chain, task.A)
    of = inverse.seen(task.A, task.y, task.noise)
    z, log_w, log_z = inverse.mcgdiff(key_run, turned, of, task.num * task.more)
    return jax.vmap(back)(thinned(key_thin, z, jnp.exp(log_w), task.num)), log_z


_KINDS: dict[str, Callable] = {
    "dps": _dps,
    "ddrm": _ddrm,
    "mcgdiff": _mcgdiff,
    "tilt": partial(_alone, None),
    "gibbs": partial(_alone, lambda more: posterior.Gibbs(repeats=more - 1)),
    "langevin": partial(_alone, lambda more: posterior.Langevin(repeats=more - 1)),
    "particles": partial(_weighted, False),
    "long": partial(_weighted, False),
    "pooled": partial(_weighted, True),
    "particle": _particle_gibbs,
}
