"""Dead leaves: Table 1 row 4, Table 2 and Figure 4; the noise-floor curve beside baselines.

    python experiments/dead_leaves.py --workdir=runs/dead_leaves --preset=best

Discs of radii p(r) ∝ r^-3 on [2, 256] and uniform greys that cover each other, 256×256, sampled
exactly (data/dead_leaves.py). Trained on random patches of --size; the network is convolutional, so
Figure 4 is a whole image. The law has flat regions, hence no density: only K on x^{t0}, at a stated
noise, means anything, and every model is compared there, on the same images.
"""

from __future__ import annotations

from pathlib import Path

from dpm_jax import later, runs
from dpm_jax.runs import binary, presets
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import numpy as np

    from dpm_jax.data import dead_leaves, folders
    from dpm_jax.images import dequantisation
    from dpm_jax.runs import images, noise_floor, plots
    from dpm_jax.runs.image_table import measures

_SHARED = {
    **presets.IMAGES,
    "beta_1": 2e-3,
    "size": 32,
    "train_images": 1000,
    "dataset": "",
    "levels": 0,
    "baselines": "dct,blocks,causal",
}
_BEST = {
    **_SHARED,
    **presets.IMAGES_BEST,
    "depth": 8,  # which learn nothing with a warm-up of 100
    "warmup": 300,
    "batch_size": 16,
    "num_steps": 17_000,
}
PRESETS = {"paper": _SHARED, "best": _BEST}
_WHOLE = 256  # side of the generator's images


def make(config) -> images.ImageSet:
    """Whole images to crop from, and test patches of images of their own."""
    size = config["size"]
    held = np.zeros(0)  # where the generator makes the test patches
    if config["dataset"]:
        whole = dead_leaves.load(config["dataset"], config["levels"])
        held_out = max(1, len(whole) // 10)
        train, held = whole[:-held_out], whole[-held_out:]
        rng = np.random.default_rng(0)
        corners = rng.integers(0, np.array(held.shape[1:3]) - size + 1, (config["num_eval"], 2))
        cut = [held[i % held_out, y:, x:][:size, :size] for i, (y, x) in enumerate(corners)]
        test = np.stack(cut)
    else:
        train = dead_leaves.sample(config["train_images"], config["seed"], _WHOLE)
        # The process is stationary: a patch of its own is a patch of a new image.
        test = dead_leaves.sample(config["num_eval"], 10_000 + config["seed"], size)
    mean, scale = dequantisation.mean_and_scale(train)
    levels = dequantisation.check_levels(config["levels"], train, test)

    def draw(key, rows, n):
        return jax.vmap(lambda k: folders.crop(k, rows, size))(jax.random.split(key, n))

    facts = {"paper_note": "on images that are not public, of unknown noise"}
    paper = images.Paper(1.489, 3.536)
    return images.ImageSet(train, draw, test, mean, scale, levels, facts, held=held, paper=paper)


def setup(config) -> runs.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    return images.setup(config, make)


def without_data(config) -> runs.Problem:
    """Of a run: its model and scaling alone."""
    return images.setup(config, images.kept)


def figures(config, problem, params, folder):
    """Figure 4: a training image and samples of the same size; patches; the noise floor."""
    patches = images.samples(config, problem.model, params, config["num_samples"])
    shown = images.to_8bit(problem, patches)
    paths = {"samples": plots.image_grid(folder / "samples.png", shown, 8, "samples of the model")}
    curve, facts, rows, densities = noise_floor.measure(config, problem, params, folder)
    columns = _figure4(config, problem, params, densities)
    paths["figure4"] = plots.image_columns(folder / "figure4.png", columns, size=4.0)
    return {name: str(path) for name, path in (paths | curve).items()}, facts, rows


def _figure4(config, problem, params, densities):
    """A training image; a sample of the best causal density that was fitted; one of the model."""
    columns = {"training image": dequantisation.shown(problem.data[:1], problem.images.levels)}
    sides = problem.data.shape[1:3]
    if best := densities.get("mcgsm") or densities.get("causal"):
        whole = best.sample(best.model, sides, seed=config["seed"])
        columns[f"sample, {best.label}"] = images.to_8bit(problem, whole)
    model = problem.images.enlarge((*sides, 1))
    whole = images.samples(config, model, params, 1, seed=6)
    return columns | {f"sample, {config['sample_steps']} steps": images.to_8bit(problem, whole)}


EXPERIMENT = runs.register(
    runs.Experiment(
        name="dead_leaves",
        unit="bits/image",
        presets=PRESETS,
        helps={
            **presets.IMAGE_HELPS,
            **presets.LEVELS,
            "size": Flag(int, "Side of the patches that are trained on.", values=f"[8, {_WHOLE}]"),
            "train_images": Flag(
                int,
                "Images of 256×256 that the patches are cropped from.",
                values="[1, inf)",
                bytes=_WHOLE**2,
            ),
            "dataset": Flag(
                Path,
                "A .mat or .npy of dead leaves (the set of 2012) in the place of the generator.",
            ),
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=measures,
        flags={"path": "dataset"},
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
