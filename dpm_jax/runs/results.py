"""Results beside a run, of evaluate.py and posterior.py: renewed by the same question alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpm_jax import files
from dpm_jax.runs import identity
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config


def check(
    path: Path, asked: Config, flag: str, beside: Sequence[Path], there: Sequence[Path] = ()
) -> None:
    """Refuse a place that holds anything but this program's answer to the same question.

    Args:
        path: of the JSON file, in which "settings" are what was asked.
        asked: the same of now; of its "data", digests by name, those that differ are named.
        flag: that chose the place, for messages.
        beside: other files that are written with it.
        there: more that may not lie there without it.

    Raises:
        ValueError: naming what lies there, and what differs.
    """
    if not _lies(path):
        found = [other for other in (*beside, *there) if _lies(other)]
        if found:
            raise ValueError(f"{flag}: {found[0]} exists, without {path.name}: not overwritten")
        return
    try:
        content = workdirs.read(path)
    except ValueError as error:
        raise ValueError(str(error).replace("workdir:", f"{flag}:", 1)) from error
    held = content.get("settings")
    if not isinstance(held, dict):
        raise ValueError(f"{flag}: {path} does not say what it is of: not overwritten")
    what = ", ".join(_differences(held, asked))
    if what:
        raise ValueError(f"{flag}: {path} holds another result ({what}); choose another place")
    optional = [p for p in beside if p.suffix == ".pdf"]  # a result may have been without
    foreign = [p for p in optional if _lies(p) and p.name not in _named(content)]
    if foreign:
        raise ValueError(f"{flag}: {foreign[0]} exists, not of {path.name}: not overwritten")


def begin(path: Path, asked: Config, beside: Sequence[Path]) -> list[str]:
    """From here on the place is this program's; a result that is there stays until its renewal.

    Returns:
        The names of all files that lie, or will lie, beside the result: its "files".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = workdirs.read(path) if path.exists() else {"settings": asked, "unfinished": True}
    names = sorted({*_named(held), *(file.name for file in beside)})
    if names != held.get("files"):
        files.write_json(path, held | {"files": names})
    return names


def _named(content: dict[str, Any]) -> list[str]:
    """What a result says was written beside it."""
    names = content.get("files")
    return [str(name) for name in names] if isinstance(names, list) else []


def _lies(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _differences(there: dict[str, Any], here: Config) -> list[str]:
    names = [n for n in {**there, **here} if n != "data" and there.get(n) != here.get(n)]
    found = [f"{n} = {there.get(n)} there, {here.get(n)} here" for n in names]
    known = there.get("data")
    for part, data in here["data"].items():
        digest = known.get(part) if isinstance(known, dict) else None
        found += identity.differences(part, digest, data)
    return found
