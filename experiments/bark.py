"""Bark: Table 1 row 3 and Figure 5; any folder of photographs.

    python experiments/bark.py --workdir=runs/bark --preset=best --image_dir=DIR

T = 500. Trained on crops of the photographs in --image_dir (the paper: T01–T04 of the UIUC texture
database), whole files held out for testing. Figure 5 replaces the centre of held-out photographs by
noise and inpaints it, the paper's way and by ours (runs/hole.py), and measures how the squares sit
among intact ones (images/seam.py).
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

    from dpm_jax.data import folders, streaming
    from dpm_jax.runs import hole, identity, images, noise_floor, plots
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
    "window": 192,
    "adapt": 250,
    "hole_steps": 100,
    "repeats": 3,
    "jump": 10,
    "baselines": "dct,blocks,causal",
}
PRESETS = {
    "paper": _SHARED,
    "best": {**_SHARED, **presets.IMAGES_BEST, "batch_size": 16, "num_steps": 2000},
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
    intact = _intact(config, held)
    found = found._replace(whole=_views(config, intact), intact=intact, paper=paper)
    return found._replace(files=_digests(photos))


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
    paths, facts, rows = {"samples": plots.image_grid(folder / "samples.png", shown, 8)}, {}, []
    if not len(problem.images.whole):
        facts["figure5_note"] = "left out, no held-out photograph is as large as --view"
    else:
        columns, facts, rows = hole.fill(config, problem, params)
        paths["figure5"] = plots.image_columns(folder / "figure5.png", columns, size=3.0)
    curve, more, floors, _ = noise_floor.measure(config, problem, params, folder)
    return {name: str(path) for name, path in (paths | curve).items()}, facts | more, rows + floors


def _intact(config, held) -> list[np.ndarray]:
    """Up to sixteen held-out photographs, evenly spread, of --view pixels or more."""
    large = [i for i, size in enumerate(held.sizes) if min(size) >= config["view"]]
    return [held.photos[i, : held.sizes[i][0], : held.sizes[i][1]] for i in _spread(large, 16)]


def _views(config, photographs) -> np.ndarray:
    """The middle of up to four photographs: squares of --view pixels."""
    view, found = config["view"], []
    for photograph in _spread(photographs, 4):
        top, left = ((side - view) // 2 for side in photograph.shape[:2])
        found.append(photograph[top : top + view, left : left + view])
    return np.array(found)


def _spread(items: list, most: int) -> list:
    return items[:: -(-len(items) // most) or 1]


def _check_hole(config) -> None:
    divisor = max(4, 2 ** (config["scales"] - 1))
    for name in ("view", "window"):
        if config[name] % divisor:
            raise ValueError(f"{name}: expected a multiple of {divisor}, got {config[name]}")
    if not 0 < config["hole"] < config["view"]:
        raise ValueError(f"hole: expected 1..{config['view'] - 1}, got {config['hole']}")
    if config["window"] <= config["hole"]:
        expected = f"more than the {config['hole']} pixels of --hole"
        raise ValueError(f"window: expected {expected}, got {config['window']}")


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
            "window": Flag(
                int,
                "Side of the square around it that is computed, at most --view.",
                values=_SIDES,
            ),
            "adapt": Flag(
                int,
                "Steps of training on the rest of the photograph before its hole is filled.",
                values="[0, inf)",
            ),
            "hole_steps": Flag(
                int, "Steps of the chain that fills it, at most T.", values="[2, inf)"
            ),
            "repeats": Flag(int, "Times that replacement takes each step.", values="[1, inf)"),
            "jump": Flag(int, "Steps that it takes before it goes back.", values="[1, inf)"),
        },
        setup=setup,
        without_data=without_data,
        figures=figures,
        measures=measures,
    )
)

if __name__ == "__main__":
    binary.main(EXPERIMENT)
