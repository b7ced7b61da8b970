"""Binary heartbeat: Table 1, row 2, and Figure 2 of Sohl-Dickstein et al. 2015.

    python experiments/heartbeat.py --workdir=runs/heartbeat

Binomial diffusion of sequences of 20 bits with a 1 every 5th bin, ρ = 0.2, T = 2000, perceptron
20-50-50-50 of sigmoid units with a readout for each t (App. D.1). The truth is log2(1/5) = −2.322
bits; the ceiling printed is K at the exact best factorised reverse kernel (Bayes over the five
sequences), which the paper's network could reach at best.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import entr

import common
import settings
from dpm_jax import binomial, evaluation, model, plots, reporting, sampling
from dpm_jax.data import heartbeat

_SHARED = {
    "seed": 0,
    "rate": 0.2,
    "T": 2000,
    "beta_1": 5e-4,  # 1/T, the first rate of the constant-fraction schedule
    "schedule": "constant_fraction",
    "network": "perceptron",
    "width": 50,
    "depth": 3,
    "readout": "x0",
    "last_step": "fixed",
    "num_steps": 8000,
    "batch_size": 8,
    "learning_rate": 3e-2,
    "lr_schedule": "cosine",
    "warmup": 0,
    "clip_norm": 1.0,
    "ema_decay": 0.99,
    "objective": "bound",
    "num_t": 0,
    "steps_per_dispatch": 0,
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


class BayesNetwork:
    """The exact logits of P(x^0 | x^t) in place of a trained network: what K can reach."""

    def __init__(self, log_alpha_bar, rate: float):
        self.log_alpha_bar, self.rate = log_alpha_bar, rate

    def init(self, key, x, t, log_snr):
        """No parameters."""
        return {}

    def apply(self, variables, x, t, log_snr):
        """Raw outputs (length, 1)."""
        return heartbeat.bit_logits(x, self.log_alpha_bar[t], self.rate)[:, None]


def setup(config) -> common.Problem:
    """The model, the data and the ceiling for these flags."""
    if config["T"] < 4:
        raise ValueError(f"T: expected at least 4 (Figure 2 shows four of them), got {config['T']}")
    family = binomial.family(config["rate"])
    steps = settings.make_schedule(config)
    if config["schedule"] == "learned":
        raise ValueError("schedule: expected a fixed one for bits (Sec. 2.4.1), got 'learned'")
    last_step = config["last_step"]
    built = model.build(
        family,
        steps,
        settings.make_network(config, 1),
        (LENGTH,),
        config["readout"],
        last_step=last_step,
    )
    key_train, key_test = jax.random.split(jax.random.key(config["seed"] + 5))
    test = heartbeat.sample(key_test, config["num_eval"])
    exact = BayesNetwork(steps.log_alpha_bar, config["rate"])
    best = model.build(family, steps, exact, (LENGTH,), "x0", last_step=last_step)
    facts = {
        "true_bits": float(-np.log2(5)),
        "negative_entropy_X1_bits": reporting.bits(
            -heartbeat.entropy_x1(float(steps.beta[1]), config["rate"])
        ),
        "rate": config["rate"],
        "ceiling_kind": "K of the exact best factorised kernel, on the same examples and noise",
    }

    def ceiling(seed, steps):
        """K of the exact best factorised kernel, on the same examples and with the same noise."""
        return evaluation.evaluate(best, {"network": {}}, test, seed=seed, steps=steps).K

    train = heartbeat.sample(key_train, 10_000)
    return common.Problem(
        built,
        built,
        train,
        None,
        test,
        None,
        ceiling,
        facts,
        {"examples": 100, "model_samples": 50, "lanes": 8192},
        entropy=lambda schedule: _entropies(schedule, config["rate"]),
        points=lambda key, n: (heartbeat.sequences(LENGTH), np.zeros(5), True),
        log_p=lambda x: _log_p(family, steps, last_step, x),
        compare=_compare,
    )


def _compare(y, known, noise: float, x, weight) -> dict[str, float]:
    """How many draws are sequences of the data, and the share of each against its posterior."""
    sequences = heartbeat.sequences(LENGTH)
    wrong = np.sum((np.asarray(sequences) != y) & known, axis=1)
    exact = noise**wrong * (1 - noise) ** (known.sum() - wrong)
    exact = exact / max(exact.sum(), 1e-300)  # all 0 where no sequence explains what was seen
    is_one = np.all(x[:, None, :] == np.asarray(sequences)[None], axis=2)
    share = weight @ is_one
    found = {"valid": float(share.sum()), "consistent_phases": int((exact > 0).sum())}
    distance = 0.5 * (np.abs(share - exact).sum() + 1 - share.sum())  # invalid draws count
    found["total_variation"] = float(distance) if exact.any() else 1.0
    found |= {f"phase_{i}": float(v) for i, v in enumerate(share)}
    return found | {f"phase_{i}_exact": float(v) for i, v in enumerate(exact)}


def _log_p(family, steps, last_step: str, x):
    """log p (n,) nats of sequences (n, length) if all kernels were exact.

    The fixed last step blurs x^1 once more: p(x^0) is then the law of the data noised by β_1 twice.
    """
    log_alpha_bar = 2 * steps.log_alpha_bar[1] if last_step == "fixed" else jnp.zeros(())
    laws = family.marginal(heartbeat.sequences(LENGTH), log_alpha_bar)
    each = jax.vmap(jax.vmap(family.log_prob, (0, None)), (None, 0))(laws, jnp.asarray(x))
    return jax.nn.logsumexp(each, axis=1) - np.log(5)


def _entropies(schedule, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 24 exactly: lower bound, H_q(X^{t-1}|X^t), upper bound, (T+1,) nats each; 0 at t = 0.

    H(X^{t-1}|X^t) = H(X^t|X^{t-1}) + H(X^{t-1}) − H(X^t), and the same given X^0.
    """

    def bits(probability):
        return entr(probability) + entr(1 - probability)

    beta, noise = np.asarray(schedule.beta, np.float64), np.asarray(schedule.noise, np.float64)
    one = (0.2 * (1 - noise) + rate * noise)[:-1]  # P(a bit of x^{t-1} is 1)
    kept, raised = 1 - beta[1:] + rate * beta[1:], rate * beta[1:]
    upper = LENGTH * (one * bits(kept) + (1 - one) * bits(raised))
    joint = np.array([heartbeat.entropy_x1(v, rate) for v in noise])
    beat, rest = bits(1 - noise + rate * noise), bits(rate * noise)
    given_x0 = LENGTH * (0.2 * beat + 0.8 * rest)
    values = (upper - np.diff(given_x0), upper - np.diff(joint), upper)
    lower, true, upper = (np.concatenate([[0.0], v]) for v in values)
    return lower, true, upper


def figures(config, problem, params, folder):
    """Figure 2, and the share of 10,000 samples that are one of the five sequences."""
    schedule = problem.model.schedule(params)
    reverse = problem.model.reverse(params, schedule)
    family, every = problem.model.family, schedule.T // 4
    walk = jax.jit(
        jax.vmap(
            lambda k: sampling.reverse_trajectory(k, family, schedule, reverse, (LENGTH,), every)
        )
    )
    states = np.asarray(walk(jax.random.split(jax.random.key(config["seed"] + 2), 10_000)))
    valid = float(np.mean(heartbeat.is_valid(jnp.asarray(states[:, 0]))))
    kept = [4, 2, 1, 0]
    times = [k * every for k in kept]
    shown = [states[:25, k] for k in kept]
    path = plots.heartbeat(folder / "figure2.png", np.asarray(problem.test[:25]), shown, times)
    row = ("valid samples", "–", f"{valid:g}", "–", "of all samples")
    return {"figure2": str(path)}, {"samples": len(states), "valid_samples": valid}, [row]


def measures(problem, result, ceiling):
    """The truth and −H(X_1), as rows of the table."""
    number, facts = reporting.number, problem.facts
    rows = [
        ("true log2(1/5)", "–", "–", number(facts["true_bits"]), "bits/seq"),
        ("−H(X_1)", "–", "–", number(facts["negative_entropy_X1_bits"]), "bits/seq"),
    ]
    return {}, rows


EXPERIMENT = common.Experiment(
    "heartbeat", "bits/seq", PRESETS, -2.414, 12.024, setup, figures, measures
)

if __name__ == "__main__":
    settings.define_flags(
        PRESETS,
        rate="Stationary rate ρ of the bits, inside (0, 1).",
    )
    common.run(EXPERIMENT)
