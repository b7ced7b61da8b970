"""Progress bars on the terminal of process 0."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from dpm_jax import hosts


def bar(iterable: Iterable | None, name: str, unit: str = "it", leave: bool = False, **more) -> Any:
    """A bar over `iterable`; it goes when that is done, unless `leave`."""
    silent = not hosts.first()
    return tqdm(iterable, desc=name, unit=unit, leave=leave, disable=silent, **more)


def batches(name: str):
    """A bar over batches, for `Rows.progress`."""
    return lambda found: bar(found, name, unit="batch")
