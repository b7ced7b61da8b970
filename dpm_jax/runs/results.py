"""Results beside a run, of evaluate.py and posterior.py: renewed by the same question alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpm_jax import files
from dpm_jax.runs import identity
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config


def check(path: Path, asked: Config, flag: str, beside: Iterable[Path]) -> None:
    """Refuse a place that holds anything but this program's answer to the same question.

    Args:
        path: of the JSON file, in which "settings" are what was asked.
        asked: the same of now; of its "data", digests by name, those that differ are named.
        flag: that chose the place, for messages.
        beside: other files that are written with it.

    Raises:
        ValueError: naming what lies there, and what differs.
    """
    if not path.exists() and not path.is_symlink():
        there = [other for other in beside if other.exists() or other.is_symlink()]
        if there:
            raise ValueError(f"{flag}: {there[0]} exists, without {path.name}: not overwritten")
        return
    try:
        held = workdirs.read(path).get("settings")
    except ValueError as error:
        raise ValueError(str(error).replace("workdir:", f"{flag}:", 1)) from error
    if not isinstance(held, dict):
        raise ValueError(f"{flag}: {path} does not say what it is of: not overwritten")
    what = ", ".join(_differences(held, asked))
    if what:
        raise ValueError(f"{flag}: {path} holds another result ({what}); choose another place")


def begin(path: Path, asked: Config) -> None:
    """From here on the place is this program's; a result that is there stays until its renewal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        files.write_json(path, {"settings": asked, "unfinished": True})


def _differences(there: dict[str, Any], here: Config) -> list[str]:
    names = [n for n in {**there, **here} if n != "data" and there.get(n) != here.get(n)]
    found = [f"{n} = {there.get(n)} there, {here.get(n)} here" for n in names]
    known = there.get("data")
    for part, data in here["data"].items():
        digest = known.get(part) if isinstance(known, dict) else None
        found += identity.differences(part, digest, data)
    return found
