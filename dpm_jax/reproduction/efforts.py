"""Which runs the paper takes: its rows, for both presets, at three efforts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax.runs.experiment import find
from dpm_jax.runs.presets import FILLS
from dpm_jax.sweeps.jobs import Job

EFFORTS = ("minutes", "hours", "accelerator")
ROWS = (
    "swiss_roll", "heartbeat", "bark", "dead_leaves", "cifar10", "mnist", "jarzynski",
    "binary_mnist",  # which the paper has not
)  # fmt: skip
# What else --only takes, by the rows it is made of.
GROUPS = {
    "table1": ROWS[:5],
    "table2": ("dead_leaves", "mnist"),
    "figure1": ("swiss_roll",),
    "figure2": ("heartbeat",),
    "figure3": ("cifar10",),
    "figure4": ("dead_leaves",),
    "figure5": ("bark",),
    "figure_app1": ("mnist",),
}
DATA_FLAGS = {
    "mnist": "manual_dir",
    "cifar10": "manual_dir",
    "bark": "image_dir",
    "binary_mnist": "manual_dir",
}  # row -> its flag
_FOLDERS = {"binary_mnist": "mnist"}  # row -> its folder, where that has another name


class Plan(NamedTuple):
    """Runs of one row: seeds 0, 1, ... of a preset."""

    row: str
    preset: str
    seeds: int
    seconds: float  # of one core, each
    flags: Mapping[str, Any] = {}
    variant: str = ""  # in the name, where a preset runs with other flags too


# K of integers. Its figures would be those of the density again.
_LOSSLESS = {"last_step": "discretized", "beta_1": 1.2e-4, "figures": False}
# 2 CPU cores, 45 minutes. Image networks get part of their steps, and figures fewer draws.
_IMAGES = {"num_eval": 500, "passes": 4, "num_samples": 36}
_SHORT = {**_IMAGES, "baseline_patches": 5000}
_MCGSM = {"baselines": "dct,blocks,causal,mcgsm"}
_FEW_STEPS = {"num_steps": 1600}
_FEW_BITS = {"width": 16, "num_steps": 1400, "ema_decay": 0.99, "num_eval": 2000}
MINUTES = (
    Plan("swiss_roll", "paper", 3, 95),
    Plan("swiss_roll", "best", 3, 75),
    Plan("swiss_roll", "best", 1, 75, {"beta_1": 3e-6}, "_3e-6"),
    Plan("heartbeat", "paper", 3, 120, {"num_steps": 2000}),
    Plan("heartbeat", "best", 3, 55),
    Plan("bark", "paper", 1, 240, {**_SHORT, "num_steps": 800, "sample_steps": 100, "adapt": 100}),
    Plan("bark", "best", 1, 380, {**_SHORT, "num_steps": 1000, "sample_steps": 100, "adapt": 100}),
    Plan("dead_leaves", "paper", 1, 300, {**_SHORT, **_MCGSM, "num_steps": 2000}),
    Plan(
        "dead_leaves", "best", 1, 450, {**_SHORT, **_MCGSM, "num_steps": 2400, "sample_steps": 500}
    ),
    Plan("cifar10", "paper", 1, 200, {**_SHORT, "num_steps": 2000}),
    Plan("cifar10", "best", 1, 340, {**_SHORT, **_FEW_STEPS}),
    Plan("cifar10", "best", 1, 300, {**_SHORT, **_LOSSLESS, **_FEW_STEPS}, "_lossless"),
    Plan("mnist", "paper", 1, 420, {"num_eval": 2000, "num_steps": 3000, "num_samples": 10_000}),
    Plan("mnist", "best", 1, 700, {"num_eval": 2000, "num_steps": 2500}),
    Plan("jarzynski", "", 1, 25),
    Plan("binary_mnist", "best", 1, 450, _FEW_BITS),
)
# 2 CPU cores, a night (about seven hours by these seconds): what the presets say.
HOURS = (
    Plan("swiss_roll", "paper", 3, 95),
    Plan("swiss_roll", "best", 3, 75),
    Plan("swiss_roll", "best", 3, 75, {"beta_1": 3e-6}, "_3e-6"),
    Plan("heartbeat", "paper", 3, 420),
    Plan("heartbeat", "best", 3, 55),
    Plan("bark", "paper", 3, 2000),
    Plan("bark", "best", 3, 1000),
    Plan("dead_leaves", "paper", 3, 900, _MCGSM),
    Plan("dead_leaves", "best", 3, 1500, _MCGSM),
    Plan("cifar10", "paper", 3, 600),
    Plan("cifar10", "best", 3, 2900),
    Plan("cifar10", "best", 3, 2800, _LOSSLESS, "_lossless"),
    Plan("mnist", "paper", 3, 500),
    Plan("mnist", "best", 3, 2500),
    Plan("jarzynski", "", 1, 25),
    Plan("binary_mnist", "best", 3, 1600),
)
_OF = {"minutes": MINUTES, "hours": HOURS, "accelerator": HOURS}


def rows(only: Iterable[str]) -> tuple[str, ...]:
    """The rows that --only names, in the order of the paper; ValueError for an unknown name."""
    known = (*ROWS, *GROUPS)
    names = list(only)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"only: expected some of {', '.join(known)}, got {got}")
    chosen = {row for name in names for row in GROUPS.get(name, (name,))}
    return tuple(row for row in ROWS if row in chosen)


def jobs(effort: str, data: Mapping[str, str]) -> list[Job]:
    """The runs of an effort, row by row in the order of the paper.

    Args:
        effort: of EFFORTS.
        data: row -> folder with its original files; rows without one take tensorflow-datasets.
    """
    found = []
    for row in ROWS:
        for plan in (_filling(plan, effort) for plan in _OF[effort] if plan.row == row):
            place = {DATA_FLAGS[row]: data[row]} if row in data else {}
            for seed in range(plan.seeds):
                of = "-".join(part for part in (f"{plan.preset}{plan.variant}", str(seed)) if part)
                name = f"{row}-{of}" if plan.preset else row
                drawn = plan.preset and not seed and plan.flags.get("figures", True)
                learned = {"learned": True} if drawn else {}
                flags = {"seed": seed, **plan.flags, **learned, **place}
                found.append(Job(name, row, plan.preset, flags, plan.seconds))
    return found


def _filling(plan: Plan, effort: str) -> Plan:
    """On a GPU or TPU preset best gives way to the one that fills it, of seeds 0 to 2."""
    if effort != "accelerator" or plan.preset != "best" or FILLS not in find(plan.row).presets:
        return plan
    return plan._replace(preset=FILLS, seeds=3)


def data_folders(root: str | None) -> dict[str, str]:
    """row -> its folder, of those that a folder with mnist/, cifar10/ and bark/ has.

    Args:
        root: of them; None: by the environment.

    Raises:
        ValueError: where it, or that of the environment, is no folder.
    """
    chosen = root or os.environ.get("DPM_DATA")
    if not chosen:
        return {}
    place = Path(os.path.expanduser(chosen)).absolute()
    if not place.is_dir():
        of = "" if root else ", of $DPM_DATA"
        raise ValueError(f"data_root: expected a folder, got {chosen}{of}")
    folders = {row: place / _FOLDERS.get(row, row) for row in DATA_FLAGS}
    return {row: str(folder) for row, folder in folders.items() if folder.is_dir()}


def missing(job: Job) -> str:
    """Why a job cannot be made, where flags already say it; else ""."""
    if job.experiment == "bark" and "image_dir" not in job.flags:
        return "no photographs: --data_root has no folder bark"
    return ""
