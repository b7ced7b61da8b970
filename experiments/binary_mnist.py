"""Binarised MNIST in nats: the binomial column of Table App.1 on images of bits.

    python experiments/binary_mnist.py --workdir=runs/binary_mnist

The paper has no binary images; others report them in nats per image, between 79 and 90 (table
below). A pixel is 1 with probability level/255, drawn once ("fixed", as Larochelle's file, which
this draw is not bit for bit) or each time an image is trained on ("dynamic"); the test images are
always one fixed draw. train.npy and test.npy of 0 and 1 in --manual_dir are taken as they are.
K (eq. 14) is a bound on a log probability: −K is to be compared with their bounds and values.
"""

from __future__ import annotations

from pathlib import Path

from dpm_jax import later, runs, units
from dpm_jax.runs import binary, presets
from dpm_jax.runs.config import check_at_most, make_schedule
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import numpy as np

    from dpm_jax import binomial, model, training
    from dpm_jax.data import bits
    from dpm_jax.data import images as data
    from dpm_jax.networks import registry
    from dpm_jax.runs import identity, images, plots

VALIDATION = 10_000  # the last training images: held out, as by Larochelle
_SEEDS = (0, 1)  # of the fixed bits of training and test images
_SHAPE = (28, 28, 1)
_BEST = {
    "binarise": "dynamic",
    "rate": 0.0,
    "T": 1000,
    "beta_1": 1e-6,  # of which the fixed last step costs 0.006 nats
    "schedule": "cosine",
    "network": "unet",
    "width": 32,
    "depth": 2,
    "bottleneck": 256,
    "mixing": "coarse",
    "readout": "bayes",
    "bfloat16": False,
    "num_steps": 13_000,
    "batch_size": 32,
    "optimizer": "muon",
    "weight_decay": 0.2,
    "learning_rate": 2e-3,
    "warmup": 100,
    "log_every": 25,
    "checkpoint_every": 500,
    "sample_steps": 250,
    "num_samples": 100,
    "num_eval": 10_000,
    "passes": 4,
    "data_dir": "",
    "manual_dir": "",
}
_ACCELERATOR = {
    "width": 64,
    "depth": 3,
    "bottleneck": 512,
    "mixing": "middle",  # as it was measured
    "bfloat16": True,
    "num_steps": 10_000,
    "batch_size": 256,
    "ema_decay": 0.9995,
    "log_every": 200,
    "checkpoint_every": 5000,
    "sample_steps": 1000,
}
PRESETS = {"best": _BEST, "accelerator": {**_BEST, **_ACCELERATOR}}
LITERATURE = (  # nats, of 10,000 test images
    runs.Reported("NADE (Larochelle & Murray 2011)", "88.33", "exact", "fixed"),
    runs.Reported("MADE, 32 masks (Germain 2015)", "86.64", "exact", "fixed"),
    runs.Reported("DARN (Gregor 2014)", "84.13", "estimate", "fixed"),
    runs.Reported("IWAE, 2 layers, 50 samples (Burda 2015)", "82.90", "estimate", "dynamic"),
    runs.Reported("PixelCNN (van den Oord 2016)", "81.30", "exact", "fixed"),
    runs.Reported("DRAW (Gregor 2015)", "80.97", "bound", "fixed"),
    runs.Reported("PixelRNN, 7 diagonal BiLSTM (van den Oord 2016)", "79.20", "exact", "fixed"),
    runs.Reported("VLAE (Chen 2017)", "79.03", "estimate", "fixed"),
)


def setup(config) -> runs.Problem:
    """The model, and the bits for these flags."""
    check_at_most(config, sample_steps=config["T"])
    _model(config, config["rate"] or 0.5)  # a bad flag ends here
    found = data.load("mnist", config["data_dir"] or None, config["manual_dir"] or None)
    if found.train.shape[1:] != _SHAPE or len(found.train) <= VALIDATION:
        expected = f"more than {VALIDATION} training images of {_SHAPE}"
        raise ValueError(f"manual_dir: expected {expected}, got {found.train.shape}")
    white = bits.white(found.train)
    kept, test = (bits.fixed(x, seed, white) for x, seed in zip((found.train, found.test), _SEEDS))
    dynamic, rate = config["binarise"] == "dynamic", _rate(config)
    if rate is None:
        rate = bits.rate(found.train[:-VALIDATION], white)

    def draw(key, rows, n):
        key_rows, key_bits = jax.random.split(key)
        chosen = training.draw_rows(key_rows, rows, n)
        return bits.drawn(key_bits, chosen, white if dynamic else 1)

    return runs.Problem(
        model=_model(config, rate),
        data=(found.train if dynamic else kept)[:-VALIDATION],
        draw=draw,
        test=test,
        validation=kept[-VALIDATION:],
        facts={"dims": 28 * 28, "mean_rate": float(np.mean(rate))},
        budget=runs.Budget(examples=2, model_samples=2, lanes=256),
        fitted={} if config["rate"] else {"rate": rate},
    )


def without_data(config) -> runs.Problem:
    """Of a run: its model alone."""
    rate = _rate(config)
    if rate is None:
        raise ValueError(f"workdir: {config['workdir']} holds no data.npz: it takes the data")
    return runs.Problem(model=_model(config, rate))


def _rate(config):
    """ρ of the flags, or of the run, where it began already; None where it is the data's."""
    return config["rate"] or identity.kept_arrays(config.get("workdir")).get("rate")


def _model(config, rate):
    if config["schedule"] == "learned":
        raise ValueError("schedule: expected a fixed one for bits (Sec. 2.4.1), got 'learned'")
    family = binomial.family(rate)
    read = family.readout(config["readout"])
    network = registry.by_name(config, read.outputs)
    schedule, last = make_schedule(config), config["last_step"]
    return model.build(family, schedule, network, _SHAPE, read, last_step=last)


def figures(config, problem, params, folder: Path):
    """Samples beside as many test images."""
    n = config["num_samples"]
    drawn = images.samples(config, problem.model, params, n)
    ours, theirs = (255 * np.asarray(x[:100]).astype(np.uint8) for x in (drawn, problem.test))
    title = f"Binarised MNIST, samples of the model, {config['sample_steps']} steps"
    paths = {
        "samples": plots.image_grid(folder / "samples.png", ours, 10, title),
        "test": plots.image_grid(folder / "test.png", theirs, 10, "Binarised MNIST, test images"),
    }
    ink = float(drawn.mean()), float(problem.test.mean())
    row = ("share of 1, samples | test", "–", f"{ink[0]:.4f} | {ink[1]:.4f}", "–", "of all pixels")
    facts = {"samples": n, "share_of_ones": ink[0], "share_of_ones_test": ink[1]}
    return {name: str(path) for name, path in paths.items()}, facts, [row]


def measures(problem, result, ceiling):
    """−K in nats, lower is better, and what others report."""
    ours = units.number(-result.K, result.K_error, 2)
    rows = [("−K, at least −log p (lower is better)", "–", ours, "–", "nats/image")]
    rows += [(f"{of.name}, {of.data}", str(of), "–", "–", "nats/image") for of in LITERATURE]
    facts = {"K_nats": result.K, "K_standard_error_nats": result.K_error}
    return facts, rows


EXPERIMENT = runs.register(
    runs.Experiment(
        name="binary_mnist",
        unit="bits/image",
        presets=PRESETS,
        helps={
            **presets.IMAGE_HELPS,
            "binarise": Flag(
                str,
                "Bits of the training images: dynamic (a new draw each time) or fixed (one draw).",
                values=("dynamic", "fixed"),
            ),
            "rate": Flag(
                float,
                "Stationary rate ρ of the bits; 0: of each pixel, its mean over the training set.",
                values="[0, 1)",
            ),
            "num_eval": Flag(int, "Examples for the final K.", values="[2, 10000]"),
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=measures,
        literature=LITERATURE,
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
