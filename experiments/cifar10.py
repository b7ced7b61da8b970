"""CIFAR-10: Table 1 row 5 and Figure 3; or any image set by name, file or folder of files.

    python experiments/cifar10.py --workdir=runs/cifar10 --preset=best

K in bits/pixel (of three colours, unit-variance data) as the paper has it, and 8-bit bits/dim. The
paper's 5.4 bits/pixel is 4.20 bits/dim, at a β_1 that it does not state; K depends on β_1, whose
noise in grey levels is scale · √β_1: 0.5 at 6e-5, 0.15 at 5.5e-6.
"""

from __future__ import annotations

from pathlib import Path

from dpm_jax import later, runs
from dpm_jax.runs import binary, presets
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import posterior, sampling, training
    from dpm_jax.data import images as data
    from dpm_jax.data.streaming import Stream
    from dpm_jax.runs import images, noise_floor, plots
    from dpm_jax.runs.image_table import measures

_SHARED = {
    **presets.IMAGES,
    "num_steps": 10_000,
    "dense": 128,
    "flip": True,
    "dataset": "cifar10",
    "levels": 0,
    "memory_gib": 4.0,
}
_BEST = {
    **_SHARED,
    **presets.IMAGES_BEST,
    "depth": 6,
    "warmup": 500,  # six layers need a long one
    "num_steps": 19_000,
    "beta_1": 5.5e-6,
}
PRESETS = {"paper": _SHARED, "best": _BEST, "accelerator": {**_BEST, **presets.ACCELERATOR}}
LITERATURE = (  # bits/dim; VDM without augmentation, DDPM with mirrored images
    runs.Reported("DDPM (Ho 2020)", "3.70", "bound", "8-bit integers"),
    runs.Reported("PixelCNN++ (Salimans 2017)", "2.92", "exact", "8-bit integers"),
    runs.Reported("VDM (Kingma 2021)", "2.65", "bound", "8-bit integers"),
)
_SHOWN = 8  # images in a row of Figure 3


def make(config) -> images.ImageSet:
    """The set named by --dataset, mirrored at random in training."""
    found = data.load(
        config["dataset"],
        config["data_dir"] or None,
        config["manual_dir"] or None,
        config["levels"],
        config["memory_gib"],
    )
    streams = found.train.nbytes > config["memory_gib"] * 2**30
    train = Stream(found.train) if streams else found.train

    def draw(key, rows, n):
        key_rows, key_flip = jax.random.split(key)
        chosen = rows if streams else training.draw_rows(key_rows, rows, n)
        if not config["flip"]:
            return chosen
        mirrored = jax.random.bernoulli(key_flip, 0.5, (len(chosen), 1, 1, 1))
        return jnp.where(mirrored, chosen[:, :, ::-1], chosen)

    facts = {"paper_note": "at an unstated beta_1; 5.4 bits/pixel are 4.20 bits/dim"}
    paper: images.Paper | None = images.Paper(5.4, 11.5, 0.2)
    if config["dataset"] != "cifar10" or config["last_step"] == "discretized":
        facts, paper = {"dataset": config["dataset"]}, None
    test = found.test[: max(config["num_eval"], _SHOWN)]
    scaling = found.mean, found.scale, found.levels
    return images.ImageSet(train, draw, test, *scaling, facts, held=found.test, paper=paper)


def setup(config) -> runs.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    return images.setup(config, make)


def without_data(config) -> runs.Problem:
    """Of a run: its model and scaling alone."""
    return images.setup(config, images.kept)


def figures(config, problem, params, folder):
    """Figure 3: held-out images, noised with variance 1, denoised (paper's way), samples."""
    found = images.samples(config, problem.model, params, config["num_samples"])
    shown = images.to_8bit(problem, found)
    paths = {"samples": plots.image_grid(folder / "samples.png", shown, 8)}
    key_rows, key_noise, key = jax.random.split(jax.random.key(config["seed"] + 8), 3)
    x0 = problem.prepare(key_rows, jnp.asarray(problem.test[:_SHOWN]))
    y = x0 + jax.random.normal(key_noise, x0.shape)
    denoised = jax.jit(lambda p, y: _denoise(config, problem, p, key, y))(params, y)
    rows = {
        "a  holdout": x0,
        "b  noised, variance 1": y,
        "c  denoised, one draw": denoised,
        "d  samples": found[:_SHOWN],
    }
    n = min(len(x) for x in rows.values())
    columns = {name: images.to_8bit(problem, x[:n]) for name, x in rows.items()}
    paths["figure3"] = plots.image_columns(folder / "figure3.png", columns, size=1.5)

    def error(x) -> float:
        return float(np.sqrt(np.mean((np.asarray(x) - np.asarray(x0)) ** 2)))

    facts = {"figure3_rmse_noised": error(y), "figure3_rmse_denoised": error(denoised)}
    curve, more, rows, _ = noise_floor.measure(config, problem, params, folder)
    return {name: str(path) for name, path in (paths | curve).items()}, facts | more, rows


def _denoise(config, problem, params, key, y):
    """One draw of the posterior by the paper's kernels, for each noisy image (n, H, W, C)."""
    chain = images.sampled_chain(config, problem.model, params)

    def one(key, y):
        return sampling.sample(key, posterior.tilted(chain, posterior.denoise(chain, y, 1.0)))

    return jax.vmap(one)(jax.random.split(key, len(y)), y)


EXPERIMENT = runs.register(
    runs.Experiment(
        name="cifar10",
        unit="bits/image",
        presets=PRESETS,
        helps={
            **presets.IMAGE_HELPS,
            **presets.LEVELS,
            "dense": Flag(
                int,
                "Units of the dense whole-image pathway of multiscale_conv; 0: none.",
                values="[0, inf)",
                bytes=16,
            ),
            "flip": Flag(bool, "Mirror training images at random."),
            "dataset": Flag(
                Path,
                "Name of a tensorflow-datasets set of images, or a .npy file of images:"
                " x_test.npy beside x.npy is then the test set, or else its last tenth.",
            ),
            **presets.MEMORY,
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=measures,
        paper_K_bits=5.4 * 1024,
        paper_gain_bits=11.5 * 1024,
        paper_error_bits=0.2 * 1024,
        literature=LITERATURE,
        flags={"name": "dataset"},
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
