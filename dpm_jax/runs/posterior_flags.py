"""The flags of posterior.py: what it asks, of which task and by which method.

Names stand here as draws.py and observations.py have them, so that flags are read without JAX.
"""

from pathlib import Path

from dpm_jax.runs import flags
from dpm_jax.runs.config import HELP
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.flags import Flag
from dpm_jax.training.options import MAX_SEED

TASKS = ("inpaint", "denoise", "super_resolution", "deblur", "colourise", "project")
METHODS = (
    "paper", "annealed", "twisted", "dps", "pigdm", "mmps", "particles", "gibbs", "replacement",
)  # fmt: skip
TILTS = METHODS[:6]  # which a corrector may follow
CORRECTORS = ("none", "gibbs", "langevin")
_COUNT = "[1, inf)"
FLAGS = {
    "workdir": Flag(Path, "Directory of a trained run."),
    "task": Flag(str, f"{', '.join(TASKS)}; of bits the first two.", "inpaint", TASKS),
    "method": Flag(
        str,
        f"{', '.join(METHODS)}; by default particles, of images pigdm.",
        values=METHODS,
    ),
    "compare": Flag(
        list, "Several methods on the same problems, each with a corrector or not: mmps,mmps+gibbs."
    ),
    "calls": Flag(
        int,
        "Network calls of a draw. With a corrector and by replacement each of the --steps is taken"
        " as often as they allow, by gibbs with as many --particles; by all other methods they are"
        " the --steps.",
        values="[2, inf)",
    ),
    "steps": Flag(
        int,
        "Respace the chain to so many steps; by default as the run samples.",
        values="[2, inf)",
    ),
    "corrector": Flag(
        str,
        "After each step of a tilt: gibbs (forward and back again) or langevin.",
        "none",
        ("none", "gibbs", "langevin"),
    ),
    "repeats": Flag(
        int,
        "replacement: times that each step is taken (10); corrections of a step (1).",
        values=_COUNT,
    ),
    "jump": Flag(int, "replacement, --corrector=gibbs: steps that they go back.", 1, _COUNT),
    "sweeps": Flag(
        int, "gibbs: sweeps before the first that counts; each is one draw.", 10, _COUNT
    ),
    "particles": Flag(int, "gibbs: particles of a sweep (16).", values="[2, inf)"),
    "twist": Flag(
        str,
        "particles, gibbs: r(x^t) of the filter: noised (default of small examples), pigdm or mmps"
        " (of large ones).",
        values=("noised", "pigdm", "mmps"),
    ),
    "products": Flag(
        int,
        "mmps: vector products of a step; by default all of few measurements, of many 1.",
        values=_COUNT,
    ),
    "start": Flag(
        str, "Law of x^T: tilted (π r) or observed (at y itself).", "tilted", ("tilted", "observed")
    ),
    "threshold": Flag(float, "Particles: resample below this part of all, in ESS.", 0.8, "[0, 1]"),
    "filters": Flag(
        int,
        "Particles: independent filters that share --num_samples; 25 or more for an interval of"
        " log Z~.",
        1,
        values=_COUNT,
    ),
    "factor": Flag(
        int, "super_resolution: side of the blocks whose means are seen.", 2, "[2, inf)"
    ),
    "sigma": Flag(float, "deblur: s.d. of the blur in pixels.", 2.0, "(0, inf)"),
    "num_measurements": Flag(
        int, "project: random projections; by default a quarter of the elements.", values=_COUNT
    ),
    "noise": Flag(
        float,
        "Variance of the noise of y in units of the model's data: 1 of denoise, 1e-3 of others"
        " (inpaint: of the known part in dps, pigdm and mmps, 1e-4); of bits the probability that"
        " one is flipped (0.1).",
    ),
    "input": Flag(
        Path,
        "File (.npy, .png) that was observed, in the place of rows of the test set: images of 8"
        " bits are grey levels, all else in the units of the model. Nothing is added to it, and the"
        " images of the run are not read. Of any size that the network serves.",
    ),
    "clean": Flag(bool, "--input is x^0 itself, and is measured as test rows are.", False),
    "crop": Flag(int, "Take the middle square of so many pixels of --input.", values=_COUNT),
    "mask": Flag(
        Path,
        "What inpainting fills: left_half (default), right_half, centre, random; or a file (.npy,"
        " .png) of the example's shape, 0 where hidden.",
    ),
    "fraction": Flag(float, "Part that --mask=random hides.", 0.5, "(0, 1)"),
    "out": Flag(Path, "Folder of the result; by default DIR/posterior/TASK_METHOD."),
    "experiment": Flag(Path, "Python file of an experiment of your own, which registers itself."),
    "dataset": Flag(Path, "The data of the run at another place (cifar10, dead_leaves)."),
    "image_dir": Flag(Path, "The photographs of the run at another place (bark)."),
    "other_data": Flag(
        bool, "Take test rows of data that are not those of the run, in its scaling.", False
    ),
    "data_dir": Flag(Path, "Where prepared data sets are kept."),
    "manual_dir": Flag(Path, "Folder with the original files, for machines without a network."),
    "num_samples": Flag(
        int,
        "Draws (particles) for each problem; 4096 for small examples, 16 for images.",
        values="[2, inf)",
        bytes=32,
    ),
    "examples": Flag(int, "Problems, the first rows of the test set; 8.", values=_COUNT, bytes=64),
    "seed": Flag(
        int,
        "Seed of noise, mask and draws; by default that of the run + 20.",
        values=f"[0, {MAX_SEED - 1}]",
    ),
    "pdf": HELP["pdf"]._replace(default=False),
}


def methods(config: Config) -> list[str]:
    """METHOD or METHOD+CORRECTOR, of each that is asked."""
    if config["compare"]:
        return list(config["compare"])
    corrector = "" if config["corrector"] == "none" else f"+{config['corrector']}"
    return [(config["method"] or "particles") + corrector]


def check(config: Config) -> None:
    """Flags that need no run to be refused."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a trained run, got none")
    flags.check(config, FLAGS, optional=True)
    if config["task"] != "inpaint" and config["mask"] is not None:
        raise ValueError(
            f"mask: expected none with --task={config['task']}, got {config['mask']!r}"
        )
    for name in ("clean", "crop"):
        if config[name] and not config["input"]:
            raise ValueError(f"{name}: expected --input with it, got none")
    if config["task"] == "project" and config["input"] and not config["clean"]:
        raise ValueError("input: expected --clean with --task=project, which draws its own A")
    for name in ("repeats", "particles"):
        if config["calls"] and config[name]:
            raise ValueError(f"{name}: expected none with --calls, which decides them")
    if config["compare"] and config["method"]:
        raise ValueError(f"method: expected none with --compare, got {config['method']!r}")
    flag = "compare" if config["compare"] else "method"
    for name in methods(config):
        _check_method(config, name, flag)


def _check_method(config: Config, name: str, flag: str) -> None:
    task, (method, _, corrector) = config["task"], name.partition("+")
    if method not in METHODS or corrector not in ("", *CORRECTORS[1:]):
        known = f"one of {', '.join(METHODS)}, or with a corrector as mmps+gibbs"
        raise ValueError(f"{flag}: expected {known}, got {name!r}")
    if corrector and method not in TILTS and (config["method"] or config["compare"]):
        raise ValueError(f"corrector: expected none with --method={method}, got {corrector!r}")
    if method == "replacement" and task != "inpaint":
        raise ValueError(f"{flag}: replacement is for --task=inpaint")
    if config["start"] == "observed" and (task != "denoise" or name not in ("paper", "annealed")):
        raise ValueError("start: observed is for --task=denoise with --method=paper or annealed")
    if flag == "method" and method != "particles" and config["filters"] != 1:
        raise ValueError(f"filters: expected 1 with --method={method}, got {config['filters']}")
