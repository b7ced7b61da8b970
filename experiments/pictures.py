"""What the experiments on images share: presets, the model on its linear skip, samples, tables."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import common
import noise_floor
import settings
from dpm_jax import discretized, gaussian, linear_skip, model, readout, reporting
from dpm_jax.data import images

_FITTED_ON = 20_000  # patches of 32×32 for the Gaussian law of the linear skip
SHARED = {
    "seed": 0,
    "T": 1000,
    "beta_1": 6e-5,
    "schedule": "geometric",
    "final_ratio": 333.0,
    "network": "multiscale_conv",
    "width": 32,
    "depth": 4,
    "scales": 4,
    "nonlinearity": "softplus",
    "bottleneck": 0,
    "readout": "eq65",
    "variance": "eq64",
    "last_step": "fixed",
    "num_steps": 5000,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "optimizer": "adam",
    "lr_schedule": "cosine",
    "warmup": 100,
    "clip_norm": 1.0,
    "weight_decay": 0.0,
    "ema_decay": 0.999,
    "objective": "bound",
    "num_t": -1,
    "steps_per_dispatch": 0,
    "bfloat16": False,
    "log_every": 25,
    "checkpoint_every": 500,
    "sample_steps": 250,
    "num_samples": 64,
    "num_eval": 1000,
    "passes": 8,
    "baselines": "dct,blocks",
    "baseline_patches": 20_000,
    "data_dir": "",
    "manual_dir": "",
}
BEST = {
    "nonlinearity": "leaky_relu",
    "readout": "skip",
    "optimizer": "muon",
    "weight_decay": 0.2,
    "batch_size": 32,
}
HELPS = {
    **noise_floor.HELPS,
    "final_ratio": "(1−ᾱ_T)/ᾱ_T of the geometric schedule.",
    "scales": "Scales 2^k of the multi-scale layers; the image's sides must divide by the largest.",
    "nonlinearity": "Of the multi-scale layers: softplus (the paper) or leaky_relu (its code).",
    "bottleneck": "Units of the unet's dense layer over the whole image; 0: fully convolutional.",
    "bfloat16": "Compute inside the network in bfloat16; K, schedule and loss stay in float32.",
    "sample_steps": "Steps of the samples, at most T: the chain is respaced to them.",
    "num_samples": "Samples drawn for the figure.",
    "passes": "Stratified draws of t for each example of the final K.",
}


class Pictures(NamedTuple):
    """An image set as an experiment sees it."""

    data: np.ndarray  # what training.fit holds: images, or photographs to be cropped
    draw: Callable[..., Any]  # (key, train, n) -> (n, H, W, C) of the same integers
    test: np.ndarray  # (M, H, W, C) uint8 or uint16
    mean: float  # grey levels
    scale: float  # grey levels
    levels: int
    facts: dict[str, Any]
    whole: Any = ()  # (k, H, W, C): held-out images larger than those of the test set
    streams: bool = False  # each step reads its rows from disk


def setup(config: dict[str, Any], make: Callable[[dict[str, Any]], Pictures]) -> common.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    _check(config)
    steps = settings.make_schedule(config)
    pictures = make(config)
    event, mean, scale = pictures.test.shape[1:], pictures.mean, pictures.scale
    law = fit_law(pictures, config["seed"]) if config["readout"] == "skip" else None
    discrete = config["last_step"] == "discretized"
    bins = discretized.bins(pictures.levels, mean, scale) if discrete else None
    outputs = readout.by_name(
        gaussian.family(), config["readout"], config["variance"], skip=law
    ).outputs

    def build(shape=event, x0_range=None):
        """The model of images of this shape; convolutions alone serve every one."""
        skip = law if law is None or shape == event else linear_skip.resize(law, *shape[:2])
        return model.build(
            gaussian.family(),
            steps,
            settings.make_network(config, outputs),
            shape,
            config["readout"],
            config["variance"],
            config["last_step"],
            learn_schedule=config["schedule"] == "learned",
            x0_range=x0_range,
            skip=skip,
            bins=bins,
        )

    def dequantize(key, rows):
        """Integers as the model's data; without noise where K is the probability of integers."""
        if bins is not None:
            return discretized.centre(rows, bins)
        return images.dequantize(key, rows, mean, scale)

    def draw(key, rows, n):
        key_rows, key_noise = jax.random.split(key)
        return dequantize(key_noise, pictures.draw(key_rows, rows, n))

    def ceiling(seed, steps):
        """h(X_1) >= h(noise of the β_1 step): no density of x^1 is narrower than its noise."""
        if config["last_step"] != "fixed":
            return None
        return -0.5 * int(np.prod(event)) * math.log(2 * math.pi * math.e * config["beta_1"])

    data_range = images.data_range(mean, scale, pictures.levels)
    facts = {
        "ceiling_kind": "noise floor: minus the entropy of the noise of the beta_1 step",
        "dims": int(np.prod(event)),
        "pixels": int(np.prod(event[:2])),
        "mean_levels": mean,
        "scale_levels": scale,
        "levels": pictures.levels,
        "beta_1_noise_levels": scale * math.sqrt(config["beta_1"]),
        **pictures.facts,
    }
    return common.Problem(
        build(),
        build(x0_range=data_range),
        pictures.data,
        draw,
        pictures.test,
        dequantize,
        ceiling,
        facts,
        {"examples": 2, "model_samples": 2, "lanes": 64},
        enlarge=partial(build, x0_range=data_range),
        whole=pictures.whole,
        streams=pictures.streams,
    )


def fit_law(pictures: Pictures, seed: int) -> linear_skip.LinearSkip:
    """The Gaussian law in DCT × colour axes, of training images as the network will see them."""
    num = noise_floor.patches(_FITTED_ON, int(np.prod(pictures.test.shape[1:3])))
    rows = pictures.draw(jax.random.key(seed + 7), common.some_rows(pictures, num), num)

    def prepare(rows):
        return (np.asarray(rows, np.float64) + 0.5 - pictures.mean) / pictures.scale

    return linear_skip.fit(np.asarray(rows), prepare, 1 / (12 * pictures.scale**2))


def draw_rows(key, rows, n):
    """n rows of an image set, each equally often."""
    return rows[jax.random.randint(key, (n,), 0, rows.shape[0])]


def samples(config, problem, params, shape=None, num=None, seed=2) -> np.ndarray:
    """Samples of the model, of another size where `shape` is given; a few at a time."""
    evaluated = problem.evaluated if shape is None else problem.enlarge(shape)
    num = config["num_samples"] if num is None else num
    chunk = max(1, min(num, 65536 // int(np.prod(evaluated.event_shape[:2]))))
    draw = jax.jit(lambda p, key: model.sample(evaluated, p, key, chunk, config["sample_steps"]))
    root = jax.random.key(config["seed"] + seed)
    parts = [
        np.asarray(draw(params, jax.random.fold_in(root, i)))
        for i in tqdm(range(-(-num // chunk)), desc="sample", leave=False)
    ]
    return np.concatenate(parts)[:num]


def chain(built, params, steps: int):
    """The schedule of so many steps; the model's own where that is all of them."""
    return model.respaced(built, params, None if steps == built.schedule(params).T else steps)


def to_levels(problem, x) -> np.ndarray:
    """Images in the units of the model as 8 bits, for figures."""
    mean, scale, levels = (problem.facts[f"{n}levels"] for n in ("mean_", "scale_", ""))
    found = np.asarray(images.to_levels(jnp.asarray(x), mean, scale, levels))
    return (found // (levels // 256)).astype(np.uint8)


def measures(problem, result, ceiling):
    """K per pixel (all its colours) and the 8-bit bits/dim, which is lower the better."""
    bits, number, facts = reporting.bits, reporting.number, problem.facts
    pixels, dims, scale = facts["pixels"], facts["dims"], facts["scale_levels"]
    whole = problem.evaluated.last_step == "discretized"  # K is then a log probability of integers
    code, key = "8-bit code length", "bits_per_dim_8bit"
    if whole:
        code, key = "lossless code length", "bits_per_dim_lossless"

    def code_length(K):
        return -bits(K) / dims if whole else reporting.bits_per_dim_8bit(K, dims, scale)

    ours = {
        "K_bits_per_pixel": bits(result.K) / pixels,
        "K_minus_L_null_bits_per_pixel": bits(result.K_minus_L_null) / pixels,
        "K_minus_L_null_standard_error_bits_per_pixel": bits(result.K_minus_L_null_error) / pixels,
        key: code_length(result.K),
    }
    density = "log probability of the integers, per pixel" if whole else "K per pixel"
    error, gain_error = bits(result.K_error), bits(result.K_minus_L_null_error) / pixels
    most = [None, None]
    if ceiling is not None:
        most = [bits(ceiling) / pixels, bits(ceiling - result.L_null) / pixels]
    rows = [
        (density, "K_bits_per_pixel", error / pixels, "bits/pixel"),
        ("K − L_null per pixel", "K_minus_L_null_bits_per_pixel", gain_error, "bits/pixel"),
        (f"{code} (lower is better)", key, error / dims, "bits/dim"),
    ]
    return ours, [
        (name, "–", number(ours[key], e, 4), number(c, digits=4), unit)
        for (name, key, e, unit), c in zip(rows, [*most, None])
    ]


def _check(config: dict[str, Any]) -> None:
    noise_floor.names(config)
    for name, least in (("num_eval", 2), ("num_samples", 1), ("passes", 1), ("scales", 1)):
        if config[name] < least:
            raise ValueError(f"{name}: expected at least {least}, got {config[name]}")
    if not 2 <= config["sample_steps"] <= config["T"]:
        raise ValueError(f"sample_steps: expected 2..{config['T']}, got {config['sample_steps']}")
