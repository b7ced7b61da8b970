"""Binary heartbeat: Table 1, row 2, and Figure 2 of Sohl-Dickstein et al. 2015.

    python experiments/heartbeat.py --workdir=runs/heartbeat

Binomial diffusion of sequences of 20 bits with a 1 every 5th bin, ρ = 0.2, T = 2000, perceptron
20-50-50-50 of sigmoid units with a readout for each t (App. D.1). The truth is log2(1/5) = −2.322
bits; the ceiling printed is K at the exact best factorised reverse kernel (Bayes over the five
sequences), which the paper's network could reach at best.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dpm_jax import later, runs, units
from dpm_jax.runs import binary
from dpm_jax.runs.config import make_schedule
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import binomial, likelihood, model, sampling
    from dpm_jax.data import heartbeat
    from dpm_jax.exact import heartbeat as exact
    from dpm_jax.networks import registry
    from dpm_jax.runs import plots

_SHARED = {
    "rate": 0.2,
    "T": 2000,
    "beta_1": 5e-4,  # 1/T, the first rate of the constant-fraction schedule
    "schedule": "constant_fraction",
    "network": "perceptron",
    "width": 50,
    "depth": 3,
    "readout": "x0",
    "num_steps": 8000,
    "batch_size": 8,
    "learning_rate": 3e-2,
    "ema_decay": 0.99,
    "num_t": 0,
    "log_every": 25,
    "checkpoint_every": 500,
    "num_eval": 2000,
}
_BEST = {
    "beta_1": 1e-6,
    "network": "mlp",
    "width": 128,
    "depth": 2,
    "num_steps": 12000,
    "batch_size": 1024,
    "learning_rate": 2e-3,
    "ema_decay": 0.999,
    "num_t": -1,
    "log_every": 250,
    "checkpoint_every": 1000,
}
PRESETS = {"paper": _SHARED, "best": {**_SHARED, **_BEST}}
LENGTH = 20


def setup(config) -> runs.Problem:
    """The model, the data and what is known exactly for these flags."""
    if config["T"] < 4:
        raise ValueError(f"T: expected at least 4 (Figure 2 shows four of them), got {config['T']}")
    rate, last_step = config["rate"], config["last_step"]
    family, schedule = binomial.family(rate), make_schedule(config)
    if config["schedule"] == "learned":
        raise ValueError("schedule: expected a fixed one for bits (Sec. 2.4.1), got 'learned'")
    build = partial(model.build, family, schedule, event_shape=(LENGTH,), last_step=last_step)
    built = build(network=registry.by_name(config, 1), readout=config["readout"])
    best = build(network=exact.BayesNetwork(schedule.log_alpha_bar, rate), readout="x0")
    key_train, key_test = jax.random.split(jax.random.key(config["seed"] + 5))
    test = heartbeat.sample(key_test, config["num_eval"])

    def ceiling(seed: int, steps: int | None) -> float:
        rows = likelihood.Rows(seed)
        return likelihood.evaluate(best, {"network": {}}, test, steps=steps, rows=rows).K

    known = runs.Exact(
        ceiling=ceiling,
        entropies=partial(exact.entropies, rate=rate),
        points=lambda key, n: (heartbeat.sequences(LENGTH), np.zeros(5), True),
        log_p=partial(exact.log_likelihood, family, schedule, last_step),
        compare=exact.compare,
    )
    facts = {
        "true_bits": float(-np.log2(5)),
        "negative_entropy_X1_bits": units.bits(-exact.entropy_x1(float(schedule.beta[1]), rate)),
        "rate": rate,
        "ceiling_kind": "K of the exact best factorised kernel, on the same examples and noise",
    }
    return runs.Problem(
        model=built,
        data=heartbeat.sample(key_train, 10_000),
        test=test,
        facts=facts,
        budget=runs.Budget(examples=100, model_samples=50, lanes=8192),
        exact=known,
    )


def figures(config, problem, params, folder: Path):
    """Figure 2, and the share of 10,000 samples that are one of the five sequences."""
    chain = problem.model.chain(params)
    every = chain.T // 4
    walk = jax.jit(jax.vmap(lambda k: sampling.reverse_trajectory(k, chain, every)))
    states = np.asarray(walk(jax.random.split(jax.random.key(config["seed"] + 2), 10_000)))
    valid = float(np.mean(heartbeat.is_valid(jnp.asarray(states[:, 0]))))
    kept = [4, 2, 1, 0]
    times, shown = [k * every for k in kept], [states[:25, k] for k in kept]
    path = draw(folder / "figure2.png", np.asarray(problem.test[:25]), shown, times)
    error = (valid * (1 - valid) / len(states)) ** 0.5
    row = ("valid samples", "–", units.number(valid, error, 4), "–", "of all samples")
    facts = {"samples": len(states), "valid_samples": valid, "valid_samples_error": error}
    return {"figure2": str(path)}, facts, [row]


def draw(path: Path, data, states, times) -> Path:
    """Figure 2: sequences of the data, and the reverse trajectory from x^T to samples x^0.

    Args:
        path: of the PNG.
        data: (n, length) of 0/1.
        states: list of (n, length), the same n trajectories at falling t.
        times: the t of the states.
    """
    panels = [("data", data)] + [(f"model, t = {t}", s) for t, s in zip(times, states)]
    figure, axes = plots.plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 3.4))
    for axis, (title, bits) in zip(axes, panels):
        axis.imshow(1 - bits, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
    axes[0].set_ylabel("one sequence a row")
    axes[0].set_xlabel("time bin")
    return plots.save(figure, path)


def measures(problem, result, ceiling):
    """The truth and −H(X_1), as rows of the table."""
    number, facts = units.number, problem.facts
    rows = [
        ("true log2(1/5)", "–", "–", number(facts["true_bits"]), "bits/seq"),
        ("−H(X_1)", "–", "–", number(facts["negative_entropy_X1_bits"]), "bits/seq"),
    ]
    return {}, rows


EXPERIMENT = runs.register(
    runs.Experiment(
        name="heartbeat",
        unit="bits/seq",
        presets=PRESETS,
        helps={
            "rate": Flag(float, "Stationary rate ρ of the bits, inside (0, 1).", values="(0, 1)")
        },
        setup=setup,
        figures=figures,
        measures=measures,
        paper_K_bits=-2.414,
        paper_gain_bits=12.024,
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
