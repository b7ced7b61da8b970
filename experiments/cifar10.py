"""CIFAR-10: Table 1 row 5 and Figure 3; or any image set by name, file or folder of files.

    python experiments/cifar10.py --workdir=runs/cifar10 --preset=best

K in bits/pixel (of three colours, unit-variance data) as the paper has it, and 8-bit bits/dim. The
paper's 5.4 bits/pixel is 4.20 bits/dim, at a β_1 that it does not state; K depends on β_1, whose
noise in grey levels is scale · √β_1: 0.5 at 6e-5, 0.15 at 5.5e-6.
"""

import jax
import numpy as np

import common
import noise_floor
import pictures
import settings
from dpm_jax import plots, posterior, sampling
from dpm_jax.data import images

_SHARED = {**pictures.SHARED, "dense": 128, "flip": True, "dataset": "cifar10", "memory_gib": 4.0}
PRESETS = {
    "paper": _SHARED,
    "best": {**_SHARED, **pictures.BEST, "num_steps": 5000, "beta_1": 5.5e-6},
}
_NOT_THE_PAPERS: dict[str, str | None] = {"paper_K_bits": None, "paper_K_minus_L_null_bits": None}
_SHOWN = 8  # images in a row of Figure 3


def make(config) -> pictures.Pictures:
    """The set named by --dataset, mirrored at random in training."""
    if not 0 <= config["memory_gib"] < np.inf:
        raise ValueError(f"memory_gib: expected at least 0, got {config['memory_gib']}")
    data = images.load(config["dataset"], config["data_dir"] or None, config["manual_dir"] or None)

    streams = data.train.nbytes > config["memory_gib"] * 2**30

    def draw(key, rows, n):
        key_rows, key_flip = jax.random.split(key)
        chosen = rows if streams else pictures.draw_rows(key_rows, rows, n)
        if not config["flip"]:
            return chosen
        mirrored = jax.random.bernoulli(key_flip, 0.5, (len(chosen), 1, 1, 1))
        return jax.numpy.where(mirrored, chosen[:, :, ::-1], chosen)

    test = data.test[: max(config["num_eval"], _SHOWN)]
    facts: dict[str, str | None] = {
        "paper_note": "5.4 ± 0.2 bits/pixel at an unstated beta_1, 4.20 bits/dim"
    }
    if config["dataset"] != "cifar10" or config["last_step"] == "discretized":
        facts = {"dataset": config["dataset"], **_NOT_THE_PAPERS}
    return pictures.Pictures(
        data.train, draw, test, data.mean, data.scale, data.levels, facts, streams=streams
    )


def setup(config) -> common.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    return pictures.setup(config, make)


def figures(config, problem, params, folder):
    """Figure 3: held-out images, noised with variance 1, denoised (paper's way), samples."""
    found = pictures.samples(config, problem, params)
    paths = {"samples": plots.image_grid(folder / "samples.png", _show(problem, found), 8)}
    key_draw, key_noise, key = jax.random.split(jax.random.key(config["seed"] + 8), 3)
    x0 = problem.draw_test(key_draw, jax.numpy.asarray(problem.test[:_SHOWN]))
    y = x0 + jax.random.normal(key_noise, x0.shape)
    denoised = jax.jit(lambda p, y: _denoise(problem, p, key, y, config["sample_steps"]))(params, y)
    columns = {
        "a  holdout": _show(problem, x0),
        "b  noised, variance 1": _show(problem, y),
        "c  denoised, one draw": _show(problem, denoised),
        "d  samples": _show(problem, found[:_SHOWN]),
    }
    n = min(len(images) for images in columns.values())
    columns = {name: images[:n] for name, images in columns.items()}
    paths["figure3"] = plots.image_columns(folder / "figure3.png", columns, size=1.5)
    error = lambda x: float(np.sqrt(np.mean((np.asarray(x) - np.asarray(x0)) ** 2)))  # noqa: E731
    facts = {"figure3_rmse_noised": error(y), "figure3_rmse_denoised": error(denoised)}
    curve, more, rows = noise_floor.measure(config, problem, params, folder)
    return {name: str(path) for name, path in (paths | curve).items()}, facts | more, rows


def _denoise(problem, params, key, y, steps: int):
    """One draw of the posterior by the paper's kernels, for each noisy image (n, H, W, C)."""
    model = problem.evaluated
    chain = pictures.chain(model, params, steps)
    reverse, family = model.reverse(params, chain), model.family

    def one(key, y):
        tilt = posterior.denoise(family, chain, y, 1.0)
        begin = posterior.start(family, tilt, chain, y.shape)
        kernel = posterior.tilted(reverse, tilt)
        return sampling.sample(key, family, chain, kernel, y.shape, begin)

    return jax.vmap(one)(jax.random.split(key, len(y)), y)


def _show(problem, x) -> np.ndarray:
    return pictures.to_levels(problem, x)


EXPERIMENT = common.Experiment(
    "cifar10",
    "bits/image",
    PRESETS,
    5.4 * 1024,
    11.5 * 1024,
    setup,
    figures,
    pictures.measures,
)

if __name__ == "__main__":
    settings.define_flags(
        PRESETS,
        **pictures.HELPS,
        dense="Units of the dense whole-image pathway of multiscale_conv; 0: none.",
        flip="Mirror training images at random.",
        dataset="Name of a tensorflow-datasets set of images, or a .npy file of images: x_test.npy"
        " beside x.npy is then the test set, or else its last tenth.",
        memory_gib="Of a larger .npy file each step reads its images from disk.",
    )
    common.run(EXPERIMENT)
