"""Figure 5: a square hole in held-out photographs, filled the paper's way and by ours; its seam.

Ours takes two steps. The network goes on learning from the known part of the very photograph, crops
beside the hole; a network of many photographs fills it with something between them all. Then
replacement with jumps (RePaint) draws the hole, given a window around it: beyond that the network
hardly looks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import posterior, replacement, sampling, training
from dpm_jax.images import seam
from dpm_jax.runs import images
from dpm_jax.runs.bars import bar
from dpm_jax.runs.config import training_options
from dpm_jax.runs.experiment import Config, Row

_SLOWER = 0.25  # learning rate of the few steps more, in units of the run's


def fill(config: Config, problem, params) -> tuple[dict, dict, list[Row]]:
    """Columns of 8 bits, facts and rows: photograph, hole, the paper's way, ours for two seeds."""
    seed, hole = config["seed"], middle(config["view"], config["hole"])
    x0 = problem.prepare(jax.random.key(seed + 9), jnp.asarray(problem.images.whole))
    noise = jax.random.normal(jax.random.key(seed + 10), x0.shape)
    filled = {"photograph": x0, "paper": _drawn(config, problem, [params] * len(x0), False, x0, 0)}
    each = [_adapted(config, problem, params, one) for one in bar(problem.images.whole, "adapt")]
    for i, name in enumerate(("ours", "ours_again")):
        filled[name] = _drawn(config, problem, each, True, x0, i)
    facts, rows = _seams(config, problem, filled)
    titles = ("photograph", "the paper's way", f"ours, seed {seed}", f"ours, seed {seed + 1}")
    columns = {"photograph": x0, "its hole": x0.at[hole].set(noise[hole])}
    columns |= {title: filled[name] for title, name in zip(titles, filled)}
    return {name: images.to_8bit(problem, x) for name, x in columns.items()}, facts, rows


def middle(side: int, size: int):
    """Where the middle square of images (n, side, side, C) is, as an index."""
    low = (side - size) // 2
    return np.s_[:, low : low + size, low : low + size]


def _drawn(config: Config, problem, each, ours: bool, x0, seed: int):
    """x0 with draws in its hole, by the parameters of each, one photograph after the other."""
    window, T = min(config["window"], config["view"]), config["T"]
    part, hole = middle(config["view"], window), middle(window, config["hole"])
    known = np.ones((window, window, x0.shape[-1]), bool)
    known[hole[1:]] = False
    model, steps = problem.images.enlarge(known.shape), min(config["hole_steps"], T)

    @jax.jit
    def draw(params, key, y):
        chain = model.chain(params, steps if steps < T else None)
        if ours:
            jump = min(config["jump"], steps)
            return replacement.sample(key, chain, known, y, config["repeats"], jump)
        return sampling.sample(key, posterior.tilted(chain, posterior.inpaint(chain, known, y)))

    keys = jax.random.split(jax.random.key(config["seed"] + seed + 11), len(x0))
    of = bar(list(zip(each, keys, x0[part])), f"inpaint, {'ours' if ours else 'paper'}")
    return x0.at[part].set(jnp.stack([draw(*one) for one in of]))


def _adapted(config: Config, problem, params, photograph: np.ndarray):
    """The parameters after --adapt steps more, on crops of a photograph (view, view, C)."""
    view, hole, steps = config["view"], config["hole"], config["adapt"]
    divisor = 2 ** (config["scales"] - 1)
    side = min(config["size"], (view - hole) // 2 // divisor * divisor)
    if not steps or side < 2 * divisor:
        return params

    def draw(key, rows, n):
        key_crops, key_noise = jax.random.split(key)
        crops = jax.vmap(lambda k: beside(k, rows, hole, side))(jax.random.split(key_crops, n))
        return problem.prepare(key_noise, crops)

    model = problem.images.enlarge((side, side, photograph.shape[-1]))
    options = dataclasses.replace(
        training_options(config),
        num_steps=steps,
        learning_rate=_SLOWER * config["learning_rate"],
        warmup=min(10, steps - 1),
        ema_decay=max(0.0, 1 - 5 / steps),
    )
    state = training.initial_state(model, options, params=params)
    return training.fit(model, photograph, options, draw, state, progress=False).ema


def beside(key, rows, hole: int, side: int):
    """A crop of `side` pixels of a photograph (view, view, C) that is all beside its middle hole.

    Args:
        key: a typed key.
        rows: the photograph.
        hole: side of the hole, pixels.
        side: at most (view − hole)/2.
    """
    view, low = rows.shape[0], (rows.shape[0] - hole) // 2
    key_strip, key_near, key_along = jax.random.split(key, 3)
    strip = jax.random.randint(key_strip, (), 0, 4)  # above, below, left, right
    near = jax.random.randint(key_near, (), 0, low - side + 1) + (strip % 2) * (low + hole)
    along = jax.random.randint(key_along, (), 0, view - side + 1)
    top, left = jnp.where(strip < 2, near, along), jnp.where(strip < 2, along, near)
    return jax.lax.dynamic_slice(
        rows, (top, left, jnp.zeros_like(top)), (side, side, rows.shape[2])
    )


def _seams(config: Config, problem, filled):
    """How the squares sit in their photographs: z among those of intact ones, facts and rows."""
    hole, size = middle(config["view"], config["hole"]), config["hole"]
    facts: dict[str, Any] = {
        f"figure5_sd_inside_{name}": float(np.std(x[hole])) for name, x in filled.items()
    }
    try:
        among = seam.intact(problem.images.intact, size)
        low = hole[1].start
        found = {
            name: seam.Seam(*zip(*(seam.measure(one, low, low, size) for one in np.asarray(x))))
            for name, x in filled.items()
        }
    except ValueError as error:  # too little room, in the photographs or in --view
        return facts | {"seam_note": f"not measured: {error}"}, []
    for name, each in found.items():
        z = seam.scores(each, among)
        facts[f"figure5_seam_{name}"] = {key: list(map(float, v)) for key, v in z._asdict().items()}
        facts[f"figure5_within_{name}"] = int(seam.within(z).sum())
    n = len(filled["photograph"])
    within = {name: f"{facts[f'figure5_within_{name}']} of {n}" for name in filled}
    most = within.pop("photograph")
    names = dict(zip(within, ("the paper's way", "ours", "ours, the next seed")))
    return facts, [
        (f"Figure 5, squares among intact ones, {names[k]}", "–", v, most, "")
        for k, v in within.items()
    ]
