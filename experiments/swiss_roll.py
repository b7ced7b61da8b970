"""Swiss roll: Table 1, row 1, and Figure 1 of Sohl-Dickstein et al. 2015.

    python experiments/swiss_roll.py --workdir=runs/swiss_roll

Gaussian diffusion in 2-D, T = 40, normalised RBF network of 16 units with a readout for each t,
β_2..β_T learned (App. D.1). The paper reports K = 2.35 bits without the noise and the β_1 on which
any such number depends: K is bounded by −h(X_1), the ceiling printed beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dpm_jax import later, runs
from dpm_jax.runs import binary
from dpm_jax.runs.config import make_schedule
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import gaussian, model, sampling
    from dpm_jax.data import swiss_roll
    from dpm_jax.exact import swiss_roll as exact
    from dpm_jax.networks import registry
    from dpm_jax.runs import plots

_SHARED = {
    "noise": 0.0,
    "T": 40,
    "beta_1": 1e-3,
    "schedule": "learned",
    "network": "rbf",
    "width": 16,
    "depth": 1,
    "octaves": 0,
    "readout": "x0",
    "variance": "between",
    "num_steps": 60_000,
    "batch_size": 128,
    "learning_rate": 3e-2,
    "warmup": 500,
    "clip_norm": 10.0,
    "num_t": 0,
    "log_every": 250,
    "checkpoint_every": 2000,
    "num_eval": 10000,
}
_BEST = {
    "T": 1000,  # 200 cost 0.03 bits
    "schedule": "geometric",
    "network": "mlp",
    "width": 128,
    "depth": 3,
    "octaves": 6,
    "readout": "v",
    "num_steps": 30_000,
    "batch_size": 512,
    "learning_rate": 2e-3,
    "warmup": 0,
    "clip_norm": 1.0,
    "num_t": -1,
}
PRESETS = {"paper": _SHARED, "best": {**_SHARED, **_BEST}}


def setup(config) -> runs.Problem:
    """The model, the data and what is known exactly for these flags."""
    noise, last_step = config["noise"], config["last_step"]
    scale = float(swiss_roll.moments(noise)[1])
    family = gaussian.family()
    read = family.readout(config["readout"], config["variance"])
    built = model.build(
        family,
        make_schedule(config),
        registry.by_name(config, read.outputs),
        (2,),
        config["readout"],
        config["variance"],
        last_step,
        learn_schedule=config["schedule"] == "learned",
    )
    key_train, key_test = jax.random.split(jax.random.key(config["seed"] + 5))
    sample = jax.jit(swiss_roll.sample, static_argnums=(1, 2))
    law = {"beta_1": config["beta_1"], "noise": noise, "last_step": last_step}
    known = runs.Exact(
        ceiling=lambda seed, steps: exact.ceiling(**law),
        points=partial(exact.points, noise=noise),
        log_p=partial(exact.log_likelihood, **law) if exact.has_density(noise, last_step) else None,
        compare=partial(exact.compare, beta_1=config["beta_1"], roll_noise=noise),
    )
    facts = {
        "scale_raw": scale,
        "ceiling_kind": "-h(X_1) for this noise and beta_1, by quadrature",
        "paper_note": "states neither noise nor beta_1, on which K depends: of another setting",
    }
    return runs.Problem(
        model=built,
        data=sample(key_train, 100_000, noise),
        test=sample(key_test, config["num_eval"], noise),
        facts=facts,
        budget=runs.Budget(examples=1000, model_samples=1000, lanes=16384),
        exact=known,
    )


def figures(config, problem, params, folder: Path):
    """Figure 1: forward and reverse slices and drift at t = 0, T/2, T."""
    n, T = 2000, config["T"]
    times = (0, T // 2, T)
    axis = np.linspace(-2.6, 2.6, 15, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    x0 = np.asarray(problem.data)[:n]
    shown = jax.jit(partial(_shown, problem.model, times))
    slices, states, arrows = shown(params, jax.random.key(config["seed"] + 2), x0, grid)
    forward = [x0, *map(np.asarray, slices)]
    reverse = [np.asarray(states)[:, t] for t in times]
    drift = [(grid, np.asarray(arrow)) for arrow in arrows]
    path = draw(folder / "figure1.png", forward, reverse, drift, times, config["noise"])
    return {"figure1": str(path)}, {}, []


def _shown(built, times, params, key, x0, grid):
    """x^t of the data at `times` but 0, reverse trajectories, and f_μ(x, t) − x; one program."""
    key_forward, key_reverse = jax.random.split(key)
    chain, n = built.chain(params), len(x0)
    slices = []
    for t in times[1:]:
        keys = jax.random.split(jax.random.fold_in(key_forward, t), n)
        slices.append(jax.vmap(lambda k, x, t=t: sampling.noised(k, chain, x, t))(keys, x0))
    walk = jax.vmap(lambda k: sampling.reverse_trajectory(k, chain))
    means = [jax.vmap(chain.reverse, (0, None))(grid, jnp.int32(max(t, 1))).mean for t in times]
    return slices, walk(jax.random.split(key_reverse, n)), [mean - grid for mean in means]


def draw(path: Path, forward, reverse, drift, times, noise: float) -> Path:
    """Figure 1: forward slices, reverse slices and drift f_μ(x, t) − x, at t = 0, T/2, T.

    Args:
        path: of the PNG.
        forward, reverse: three arrays (n, 2), at t = 0, T/2, T.
        drift: three pairs (positions (m, 2), arrows (m, 2)), for steps out of t = 1, T/2, T.
        times: the three t of the slices, for the headings.
        noise: noise of the roll in the generator's units, for the heading.
    """
    figure, axes = plots.plt.subplots(
        3, 3, figsize=(9, 9.8), sharex=True, sharey=True, layout="constrained"
    )
    for column, t in enumerate(times):
        axes[0, column].scatter(*forward[column].T, s=1.5, color="tab:blue", linewidths=0)
        axes[1, column].scatter(*reverse[column].T, s=1.5, color="tab:red", linewidths=0)
        positions, arrows = drift[column]
        plots.quiver(axes[2, column], positions.T, arrows.T, r"$|f_\mu - x^t|$", "bottom")
        axes[0, column].set_title(f"t = {t}")
        axes[2, column].set_title(f"t = {max(t, 1)}")
    names = ("forward $q(x^t)$", "reverse $p(x^t)$", r"drift $f_\mu(x^t, t) - x^t$")
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name)
    for axis in axes.flat:
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    figure.suptitle(f"Swiss roll, noise {noise:g}")
    return plots.save(figure, path)


EXPERIMENT = runs.register(
    runs.Experiment(
        name="swiss_roll",
        unit="bits",
        presets=PRESETS,
        helps={
            "noise": Flag(
                float,
                "Noise of the roll in the generator's units (scikit-learn's), at least 0.",
                values="[0, inf)",
            ),
            "octaves": Flag(
                int,
                "Octaves of sines and cosines of x that the mlp sees beside x.",
                values="[0, 32]",
            ),
        },
        setup=setup,
        figures=figures,
        paper_K_bits=2.35,
        paper_gain_bits=6.45,
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
