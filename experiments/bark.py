"""Bark: Table 1 row 3 and Figure 5; any folder of photographs.

    python experiments/bark.py --workdir=runs/bark --preset=best --image_dir=DIR

T = 500. Trained on crops of the photographs in --image_dir (the paper: T01–T04 of the UIUC texture
database), whole files held out for testing. Figure 5 replaces the centre of a held-out photograph
by noise and inpaints it, the paper's way and by replacement with resampling.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dpm_jax import later, runs
from dpm_jax.runs import binary, presets
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpm_jax import posterior, replacement, sampling
    from dpm_jax.data import folders, streaming
    from dpm_jax.runs import identity, images, noise_floor, plots
    from dpm_jax.runs.bars import bar
    from dpm_jax.runs.image_table import measures

_SHARED = {
    **presets.IMAGES,
    "T": 500,
    "beta_1": 1e-3,
    "size": 64,
    "image_dir": "",
    "colour": False,
    "levels": 0,
    "memory_gib": 4.0,
    "view": 320,
    "hole": 100,
    "repeats": 5,
    "baselines": "dct,blocks,causal",
}
PRESETS = {
    "paper": _SHARED,
    "best": {**_SHARED, **presets.IMAGES_BEST, "batch_size": 16, "num_steps": 1500},
}


_SIDES = "[1, 65536]"  # pixels


def make(config) -> images.ImageSet:
    """Photographs to crop from, and crops of held-out files."""
    if not config["image_dir"]:
        raise ValueError("image_dir: expected a folder of photographs, got none")
    _check_hole(config)
    size = config["size"]
    split = identity.kept_split(config, folders.names(config["image_dir"]))
    of = (config["colour"], split, config["levels"], config["memory_gib"])
    photos = folders.read(config["image_dir"], size, *of)
    sizes = jnp.asarray(photos.train.sizes)
    streams = isinstance(photos.train.photos, streaming.Stream)

    def draw(key, rows, n):
        if streams:
            return rows  # are crops
        return jax.vmap(lambda k: folders.crop(k, rows, size, sizes))(jax.random.split(key, n))

    held = photos.test
    keys = jax.random.split(jax.random.key(10_000 + config["seed"]), config["num_eval"])
    test = jax.vmap(
        lambda k: folders.crop(k, jnp.asarray(held.photos), size, jnp.asarray(held.sizes))
    )(keys)
    facts = {
        "paper_note": "of grey photographs of bark, at unstated noise",
        "held_out_files": list(dict.fromkeys(held.files)),
        "skipped_files": len(photos.skipped),
        "left_out": list(photos.skipped),
        "converted": list(photos.notes),
    }
    found = images.ImageSet(
        photos.train.photos, draw, np.asarray(test), photos.mean, photos.scale, photos.levels, facts
    )
    paper = None if config["colour"] else images.Paper(-0.55, 1.5)
    return found._replace(whole=_views(config, held), files=_digests(photos), paper=paper)


def _digests(photos) -> dict[str, dict]:
    """Of each file by its name, for data.json: the split stays, and a change is named."""
    return {"train_files": _of_files(photos.train), "test_files": _of_files(photos.test)}


def _of_files(stack: folders.Stack) -> dict[str, str]:
    """SHA-256 of the pixels of each file; of several pages, of theirs in order."""
    pages: dict[str, list[str]] = {}
    for name, digest in zip(stack.files, stack.digests):
        pages.setdefault(name, []).append(digest)
    return {
        name: each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
        for name, each in pages.items()
    }


def setup(config) -> runs.Problem:
    """The model, the data and the noise-floor ceiling for these flags."""
    return images.setup(config, make)


def without_data(config) -> runs.Problem:
    """Of a run: its model and scaling alone."""
    return images.setup(config, images.kept)


def figures(config, problem, params, folder):
    """Figure 5: a held-out photograph, its centre gone, inpainted; and samples."""
    found = images.samples(config, problem.model, params, config["num_samples"])
    shown = images.to_8bit(problem, found)
    paths = {"samples": plots.image_grid(folder / "samples.png", shown, 8)}
    facts = {}
    if not len(problem.images.whole):
        facts["figure5_note"] = "left out, no held-out photograph is as large as --view"
    else:
        columns, facts = _figure5(config, problem, params)
        paths["figure5"] = plots.image_columns(folder / "figure5.png", columns, size=3.0)
    curve, more, rows, _ = noise_floor.measure(config, problem, params, folder)
    return {name: str(path) for name, path in (paths | curve).items()}, facts | more, rows


def _figure5(config, problem, params):
    view, hole = config["view"], config["hole"]
    x0 = problem.prepare(jax.random.key(config["seed"] + 9), jnp.asarray(problem.images.whole))
    known = np.ones(x0.shape[1:], bool)
    low = (view - hole) // 2
    known[low : low + hole, low : low + hole] = False
    model, known = problem.images.enlarge(known.shape), jnp.asarray(known)

    def paper(params, key, y):
        chain = images.sampled_chain(config, model, params)
        return sampling.sample(key, posterior.tilted(chain, posterior.inpaint(chain, known, y)))

    def replaced(params, key, y):
        chain = images.sampled_chain(config, model, params)
        return replacement.sample(key, chain, known, y, config["repeats"])

    noise = jax.random.normal(jax.random.key(config["seed"] + 10), x0.shape)
    columns = {"photograph": x0, "centre replaced by noise": jnp.where(known, x0, noise)}
    facts = {}
    for name, method in (("paper", paper), ("replacement", replaced)):
        run = jax.jit(method)
        keys = jax.random.split(jax.random.key(config["seed"] + 11), len(x0))
        pairs = bar(list(zip(keys, x0)), f"inpaint, {name}")
        columns[f"inpainted, {name}"] = jnp.stack(
            [jax.block_until_ready(run(params, k, y)) for k, y in pairs]
        )
        filled = np.asarray(columns[f"inpainted, {name}"])[:, ~np.asarray(known)]
        facts[f"figure5_sd_inside_{name}"] = float(filled.std())
    facts["figure5_sd_inside_photograph"] = float(np.asarray(x0)[:, ~np.asarray(known)].std())
    return {name: images.to_8bit(problem, x) for name, x in columns.items()}, facts


def _views(config, held) -> np.ndarray:
    """The middle of up to three held-out photographs: squares of --view pixels."""
    view = config["view"]
    large = [i for i, size in enumerate(held.sizes) if min(size) >= view]
    found = []
    for i in large[:: -(-len(large) // 3) or 1]:
        top, left = ((side - view) // 2 for side in held.sizes[i])
        found.append(held.photos[i, top : top + view, left : left + view])
    return (
        np.stack(found)
        if found
        else np.zeros((0, view, view, held.photos.shape[-1]), held.photos.dtype)
    )


def _check_hole(config) -> None:
    divisor = 2 ** (config["scales"] - 1)
    if config["view"] % max(4, divisor):
        raise ValueError(f"view: expected a multiple of {max(4, divisor)}, got {config['view']}")
    if not 0 < config["hole"] < config["view"]:
        raise ValueError(f"hole: expected 1..{config['view'] - 1}, got {config['hole']}")


EXPERIMENT = runs.register(
    runs.Experiment(
        name="bark",
        unit="bits/image",
        presets=PRESETS,
        helps={
            **presets.IMAGE_HELPS,
            **presets.LEVELS,
            **presets.MEMORY,
            "size": Flag(int, "Side of the crops that are trained on and tested.", values=_SIDES),
            "image_dir": Flag(Path, "Folder of photographs; a tenth of the files is held out."),
            "colour": Flag(bool, "Three colours instead of grey."),
            "view": Flag(
                int, "Side of the part of a photograph that Figure 5 shows.", values=_SIDES
            ),
            "hole": Flag(int, "Side of the square in it that is inpainted.", values=_SIDES),
            "repeats": Flag(int, "Times that replacement takes each step.", values="[1, inf)"),
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=measures,
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
