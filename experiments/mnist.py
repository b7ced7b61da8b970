"""MNIST: the paper's Figure App.1, and K in bits per image, per dim and 8-bit bits/dim.

    python experiments/mnist.py --workdir=runs/mnist --preset=best

Gaussian diffusion, T = 1000, of uniformly dequantised digits, scaled by one constant to variance 1.
Preset "paper" is the dense tanh network with bump readout (App. D.2) and the mean of the authors'
code; preset "best" a small U-Net conditioned on log-SNR. The paper reports no K for MNIST, only
Parzen windows. K depends on β_1, the noise floor: at 0.002 no model can pass K − L_null = 4.49
bits/dim (the entropy of the noise alone).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dpm_jax import later, runs, units
from dpm_jax.runs import binary, presets
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import numpy as np

    from dpm_jax import likelihood, training
    from dpm_jax.baselines import parzen
    from dpm_jax.data import images as data
    from dpm_jax.runs import images, plots
    from dpm_jax.runs.bars import batches, phase
    from dpm_jax.runs.image_table import measures

VALIDATION = 10_000  # the last training images: held out, as in Goodfellow et al. 2014
_TRIED = 2000  # samples by which numbers of steps are told apart, all of the same number
_SHARED = {
    "T": 1000,
    "beta_1": 2e-3,
    "schedule": "geometric",
    "final_ratio": 100.0,
    "network": "bump_dense",
    "width": 500,
    "depth": 3,
    "bottleneck": 512,
    "mixing": "middle",
    "readout": "code",
    "variance": "eq64",
    "bfloat16": False,
    "num_steps": 4000,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "warmup": 100,
    "num_t": 8,
    "log_every": 25,
    "checkpoint_every": 500,
    "sample_steps": 1000,
    "choose_steps": "",
    "num_samples": 10000,  # as Table 2 has them: Parzen windows depend on their number
    "num_eval": 10000,
    "passes": 4,
    "data_dir": "",
    "manual_dir": "",
}
_BEST = {
    # At the default 100, x^T still holds 0.1 x^0, and samples begun from N(0, I) lack 14 % of ink.
    "final_ratio": 1e4,
    "network": "unet",
    "width": 32,
    "depth": 2,
    "mixing": "all",
    "readout": "v",
    "variance": "posterior",
    "num_steps": 8500,
    "batch_size": 64,
    "optimizer": "muon",
    "weight_decay": 0.2,
    "learning_rate": 2e-3,
    "objective": "v",
    "median_noise": 0.8,  # Parzen windows lose at noises above it (BUILD_NOTES.md)
    "num_t": -1,
    "sample_steps": 50,
}
_ACCELERATOR = {
    "width": 64,
    "depth": 3,
    "bfloat16": True,
    "num_steps": 26_000,
    "batch_size": 256,
    "ema_decay": 0.9995,
    "log_every": 200,
    "checkpoint_every": 5000,
}
PRESETS = {
    "paper": _SHARED,
    "best": {**_SHARED, **_BEST},
    "accelerator": {**_SHARED, **_BEST, **_ACCELERATOR},
}


def make(config) -> images.ImageSet:
    """MNIST, its last training images held out."""
    found = data.load("mnist", config["data_dir"] or None, config["manual_dir"] or None)
    return images.ImageSet(
        found.train[:-VALIDATION],
        training.draw_rows,
        found.test,
        found.mean,
        found.scale,
        found.levels,
        {"paper_note": "reports Parzen windows alone for MNIST, no K"},
        validation=found.train[-VALIDATION:],
    )


def setup(config) -> runs.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    _choices(config)  # a bad flag ends here
    return images.setup(config, make, _budget(), event=(28, 28, 1))


def without_data(config) -> runs.Problem:
    """Of a run: its model and scaling alone."""
    return images.setup(config, images.kept, _budget())


def _budget() -> runs.Budget:
    return runs.Budget(examples=2, model_samples=2, lanes=256)


def figures(config, problem, params, folder: Path):
    """Figure App.1: true samples, not means; all are counted, the first 100 are shown."""
    config, facts, rows = _chosen(config, problem, params)
    n, steps = config["num_samples"], config["sample_steps"]
    samples = images.samples(config, problem.model, params, n)
    title = f"MNIST, samples of the model, {steps} steps"
    shown = images.to_8bit(problem, samples[:100])
    path = plots.image_grid(folder / "figure_app1.png", shown, 10, title)
    chain = likelihood.evaluate(
        problem.model,
        params,
        problem.test[: min(1000, config["num_eval"])],
        config["passes"],
        steps,
        likelihood.Rows(config["seed"] + 4, problem.prepare, progress=batches("sampled chain")),
    )
    bad = int((~np.isfinite(samples)).any(axis=(1, 2, 3)).sum())
    gain = units.bits(chain.K_minus_L_null) / problem.facts["dims"]
    facts |= {"samples": n, "non_finite_samples": bad, "sample_steps": steps}
    facts["sampled_chain_K_minus_L_null_bits_per_dim"] = gain
    rows += [("non finite samples", "–", f"{bad:g}", "–", "of all samples")]
    if bad == 0 and n > 1:
        parzen_facts, parzen_rows = _parzen(problem, samples)
        facts, rows = facts | parzen_facts, rows + parzen_rows
    return {"figure_app1": str(path)}, facts, rows


def _parzen(problem, samples):
    """Table 2: Parzen windows of the samples, and of as many training images ("perfect model")."""
    held_out, test = (_unit(rows + 0.5) for rows in (problem.validation, problem.test))
    training = problem.data[: len(samples)] + 0.5
    sources = {
        "parzen": ("Parzen windows", "317.0 ± 2.7", _levels(problem, samples)),
        "parzen_perfect_model": (
            "Parzen windows, training images as samples",
            "349.0 ± 3.3",
            training,
        ),
    }
    facts, rows = {"parzen_note": parzen.CAUTION}, []
    for key, (name, paper, points) in sources.items():
        with phase(name):
            found = parzen.evaluate(_unit(points), held_out, test)
        value, error = units.bits(found.log_likelihood), units.bits(found.error)
        facts |= {
            f"{key}_bits": value,
            f"{key}_standard_error_bits": error,
            f"{key}_nats": found.log_likelihood,
            f"{key}_width": found.width,
            f"{key}_width_at_edge": found.at_edge,
        }
        ours = units.number(value, error, 1)
        rows.append((f"{name} ({len(points)})", paper, ours, "–", "bits"))
    return facts, rows


def _chosen(config, problem, params):
    """The flags with the best of --choose_steps in --sample_steps; facts and rows of the choice.

    By Parzen windows of some samples each, of all as many, on held-out images: test images have no
    part in it.
    """
    tried, num = _choices(config), min(_TRIED, config["num_samples"])
    if len(tried) < 2:
        return config | {"sample_steps": (*tried, config["sample_steps"])[0]}, {}, []
    halves = _unit(problem.validation + 0.5).reshape(2, -1, 28 * 28)  # of widths and of values
    found = dict.fromkeys(tried)  # None: not finite
    for steps in tried:
        asked = config | {"sample_steps": steps}
        samples = images.samples(asked, problem.model, params, num)
        if np.isfinite(samples).all():
            value = parzen.evaluate(_unit(_levels(problem, samples)), *halves).log_likelihood
            found[steps] = units.bits(value)
    known = {steps: value for steps, value in found.items() if value is not None}
    best = max(known, key=known.__getitem__, default=config["sample_steps"])
    ours = f"{best}" if known else f"none, all give non finite samples: {best}"
    row = ("steps of the samples, chosen on held-out images", "–", ours, "–", f"of {tried}")
    facts = {"parzen_bits_held_out_by_steps": found, "parzen_samples_held_out": num}
    return config | {"sample_steps": best}, facts, [row]


def _choices(config) -> list[int]:
    """The numbers of steps in --choose_steps; ValueError, naming the flag."""
    named = [text.strip() for text in config["choose_steps"].split(",") if text.strip()]
    for text in named:
        if not text.isdecimal() or not 2 <= int(text) <= config["T"]:
            expected = f"expected whole numbers in 2..{config['T']}, divided by commas"
            raise ValueError(f"choose_steps: {expected}, got {config['choose_steps']!r}")
    found = sorted({int(text) for text in named})
    if len(found) > 1 and config["num_samples"] < 2:
        raise ValueError("num_samples: expected at least 2 to choose steps by, got 1")
    return found


def _levels(problem, samples):
    return samples * problem.images.scale + problem.images.mean


def _unit(levels) -> np.ndarray:
    """Grey levels as rows in [0, 1]; a level k is the interval k..k+1 of the dequantised image."""
    rows = np.asarray(levels, np.float32).reshape(len(levels), -1)
    return np.clip((rows - 0.5) / 255, 0, 1)


EXPERIMENT = runs.register(
    runs.Experiment(
        name="mnist",
        unit="bits/image",
        presets=PRESETS,
        helps={
            **presets.IMAGE_HELPS,
            "num_samples": Flag(
                int,
                "Samples drawn and counted; the first 100 are shown.",
                values="[1, inf)",
                bytes=28 * 28 * 4,
            ),
            "choose_steps": Flag(
                str,
                f"Numbers of steps of which Parzen windows of {_TRIED:,} samples on held-out images"
                " choose that of all samples, such as 25,50,100; nothing: --sample_steps.",
            ),
            "final_ratio": Flag(
                float,
                "(1−ᾱ_T)/ᾱ_T of the geometric schedule: how little of x^0 is left in x^T.",
                values="(0, inf)",
            ),
            "num_eval": Flag(int, "Examples for the final K.", values="[2, 10000]"),
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=partial(measures, per="dim"),
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
