"""The directory of a sweep: claimed by one question, so that another never mixes with it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpm_jax import files
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.flags import Flag

FLAGS = {
    "workdir": Flag(Path, "Directory of runs, logs and what is made of them."),
    "workers": Flag(int, "Runs at a time; 0: one for each GPU, or core.", 0, "[0, 1024]"),
}
FORMAT = 1  # of the directory; another version's is refused


def check(workdir: str | None) -> None:
    """ValueError where no directory is given."""
    if not workdir:
        raise ValueError("workdir: expected a directory for the runs, got none")


def claim(
    workdir: str | Path, name: str, settings: dict[str, Any], wrote: Sequence[str] = ()
) -> Path:
    """The directory, which is new or this very sweep's.

    Args:
        workdir: the directory.
        name: of its JSON file of settings.
        settings: what makes it this sweep and no other.
        wrote: names of what the sweep writes beside runs and logs.

    Raises:
        ValueError: for a directory of another sweep, version or owner, or that cannot be written.
    """
    root = Path(workdir).expanduser().absolute()
    wanted = {"format": FORMAT, **settings}
    path = root / name
    inner = [p.relative_to(root) for of in ("runs", "logs") for p in (root / of).glob("*")]
    workdirs.check_writable(root, name, "runs", "logs", *wrote, *map(str, inner))
    if path.exists():
        held = workdirs.read(path)
        differ = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
        if differ:
            what = ", ".join(f"{k} = {held.get(k)} there, {wanted.get(k)} here" for k in differ)
            raise ValueError(f"workdir: {root} holds another sweep ({what}); choose another place")
        return root
    for taken in ("runs", "logs", *wrote):
        if os.path.lexists(root / taken):
            raise ValueError(f"workdir: {root} holds {taken} but no {name}: not overwritten")
    root.mkdir(parents=True, exist_ok=True)
    files.write_json(path, wanted)
    return root
