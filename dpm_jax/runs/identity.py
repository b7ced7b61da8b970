"""What a run keeps of its data: digest, counts, split by name, scaling; a change is named.

data.json holds it from the start of the training on, data.npz the arrays that were fitted to the
data. Integers are known by the SHA-256 of their bytes, all of them, also where they are on disk;
floats, which another backend may round otherwise, by a random projection of all of them.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpm_jax import files
from dpm_jax.data.streaming import Stream
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config, Problem

_FILE, _ARRAYS = "data.json", "data.npz"
_CHUNK = 2**22  # elements read at once
_ROUNDING = 2e-5  # of a projection, in units of the data's root mean square


def digest(data: Any) -> dict[str, Any]:
    """What tells data from other data, as JSON; {} for None.

    Args:
        data: an array, memory-mapped or not; a pytree of arrays; a `streaming.Stream`.
    """
    if isinstance(data, Stream):
        data = data.source
        paths = [data] if isinstance(data, (str, Path)) else data
        if not isinstance(data, np.ndarray):
            return {"files": {str(path): _file(path) for path in paths}}
    leaves = jax.tree.leaves(data)
    if len(leaves) != 1:
        return {"arrays": [digest(leaf) for leaf in leaves]} if leaves else {}
    x = leaves[0] if isinstance(leaves[0], np.ndarray) else np.asarray(leaves[0])
    found = {"rows": len(x) if x.ndim else 1, "shape": list(x.shape[1:]), "dtype": str(x.dtype)}
    return found | (_of_floats(x) if x.dtype.kind == "f" else {"sha256": _of_bytes(x)})


def of(problem: Problem, config: Config) -> dict[str, Any]:
    """data.json of a problem: what it says of its data itself, or digests of its arrays."""
    known = dict(problem.identity)
    if not known:  # the test set may depend on --num_eval
        known = {"test": digest(problem.test), "num_eval": config.get("num_eval")}
    for name, data in (("train", problem.data), ("validation", problem.validation)):
        if name not in known:
            known[name] = digest(data)
    return known


def of_run(workdir: Path) -> str:
    """What tells a run from others: the digest of the flags that define it, as it has them.

    Flags that came with a later version have no part: results beside the run stay its results.
    """
    held = workdirs.read_config(workdir)
    defining = {name: v for name, v in held.items() if name not in workdirs.FREE}
    return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:16]


def of_images(images) -> dict[str, Any]:
    """The same of an `images.ImageSet`: digests of all its images, and its scaling."""
    found: dict[str, Any] = {"mean": images.mean, "scale": images.scale, "levels": images.levels}
    found |= {"shape": list(images.event)}
    if images.files is not None:  # of photographs each has its own
        return {**found, "train": None, **images.files}
    held = images.test if images.held is None else images.held
    return {**found, "test": digest(held) if len(held) else None}


def in_kept_scaling(config: Config, images):
    """The images in the scaling of the run, where it began already.

    Raises:
        ValueError: for images of another shape or number of levels than the run's.
    """
    held = kept(config.get("workdir"))
    if held.get("mean") is None:
        return images
    kinds = [(held["shape"], held["levels"]), (list(images.event), images.levels)]
    if kinds[0] != kinds[1]:
        there, here = (f"{shape} of {levels} levels" for shape, levels in kinds)
        raise ValueError(f"workdir: {config['workdir']} is of images {there}, got {here}")
    return images._replace(mean=held["mean"], scale=held["scale"])


def kept_split(config: Config, names: list[str]) -> float | list[str]:
    """`test` of `folders.read`: what the run trained on is never held out for its test.

    Where the folder has files that the run was trained on, all others are held out, those of the
    run and new ones; else a tenth, as where there is no run yet.
    """
    trained = kept(config.get("workdir")).get("train_files") or {}
    if not any(name in trained for name in names):
        return 0.1
    others = [name for name in names if name not in trained]
    if not others:
        raise ValueError("image_dir: expected the held-out files too, got only those trained on")
    return others


def kept(workdir: str | Path | None) -> dict[str, Any]:
    """data.json of a run that began to train; {} where there is none."""
    folder = Path(workdir or "").expanduser()
    path = folder / _FILE
    return workdirs.read(path) if workdir and path.is_file() and workdirs.began(folder) else {}


def kept_arrays(workdir: str | Path | None) -> dict[str, np.ndarray]:
    """data.npz of such a run; {} where there is none, ValueError where it does not read."""
    path = Path(workdir or "").expanduser() / _ARRAYS
    if not kept(workdir) or not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file) as found:
            return dict(found)
    except Exception as error:  # a damaged file makes np.load raise anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"workdir: {path} does not read: {why}") from error


def keep(workdir: Path, found: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write data.npz and data.json of a run that begins; what a run holds already stays."""
    held = kept(workdir)
    if arrays and not kept_arrays(workdir):
        with files.replacing(workdir / _ARRAYS) as temporary:
            named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez(temporary, **named)
    elif not held:
        (workdir / _ARRAYS).unlink(missing_ok=True)  # of a run that never began
    wanted = {**found, **{name: value for name, value in held.items() if value is not None}}
    if wanted != held or not (workdir / _FILE).exists():
        files.write_json(workdir / _FILE, wanted)


def note_machine(workdir: Path, step: int) -> list[dict[str, Any]]:
    """Write into data.json on what the training goes on from `step`; all of them up to now."""
    here = {"devices": jax.device_count(), "processes": jax.process_count()}
    here |= {"backend": jax.default_backend(), "jax": jax.__version__}
    held = machines(workdir)
    past = [each for each in held if each["from_step"] < step]
    if not past or {name: past[-1].get(name) for name in here} != here:
        past.append({"from_step": step, **here})
    if past != held:
        path = workdir / _FILE
        content = workdirs.read(path) if path.is_file() else {}
        files.write_json(path, {**content, "trained_on": past})
    return past


def machines(workdir: Path) -> list[dict[str, Any]]:
    """What `note_machine` wrote."""
    path = workdir / _FILE
    return workdirs.read(path).get("trained_on", []) if path.is_file() else []


def check(held: Mapping[str, Any], found: Mapping[str, Any], where: Path, advice: str) -> None:
    """Refuse data other than a run's: ValueError that names each difference.

    Args:
        held: data.json of the run; {} passes.
        found: the same of the data that are there now.
        where: directory of the run.
        advice: what to do about it.
    """
    parts = ["train", "validation", "train_files", "test_files"]
    if held.get("num_eval") == found.get("num_eval"):
        parts.append("test")
    what = [text for part in parts for text in differences(part, held.get(part), found.get(part))]
    if what:
        for name in ("mean", "scale", "levels"):
            if held.get(name) != found.get(name):
                what.append(f"{name} {held.get(name):.6g} there, {found.get(name):.6g} here")
        raise ValueError(f"workdir: {where} is of other data ({'; '.join(what)}): {advice}")


def differences(part: str, there: Any, here: Any) -> Iterator[str]:
    """In what digests of one part of the data differ, in words; nothing where none was kept."""
    if not there or same(there, here):
        return
    if part.endswith("_files"):
        there, here = (value or {} for value in (there, here))
        changed = [name for name in there if name in here and there[name] != here[name]]
        for verb, names in (
            ("more", [name for name in here if name not in there]),
            ("missing", [name for name in there if name not in here]),
            ("changed", changed),
        ):
            if names:
                tail = ", ..." if len(names) > 5 else ""
                yield f"{part.replace('_', ' ')} {verb}: {', '.join(names[:5])}{tail}"
        return
    for name in ("rows", "shape", "dtype"):
        if (here or {}).get(name) != there.get(name):
            yield f"{part}: {name} {there.get(name)} there, {(here or {}).get(name)} here"
            return
    keys = [name for name in ("sha256", "projection") if name in there]
    what = ", ".join(f"{k} {_short(there[k])} there, {_short(here[k])} here" for k in keys)
    yield f"{part}: other content" + (f", {what}" if what else "")


def _short(value: Any) -> str:
    return f"{value[:8]}…" if isinstance(value, str) else f"{value:.6g}"


def same(there: Any, here: Any) -> bool:
    """Whether two digests are of the same data, but for the rounding of another backend."""
    if isinstance(there, dict) and isinstance(here, dict) and "projection" in there:
        exact = [{**of, "projection": 0, "rms": 0} for of in (there, here)]
        far = [abs(there[k] - here.get(k, math.inf)) for k in ("projection", "rms")]
        return exact[0] == exact[1] and max(far) <= _ROUNDING * there["rms"]
    if isinstance(there, dict) and isinstance(here, dict) and "arrays" in there:
        pairs = list(zip(there["arrays"], here.get("arrays", [])))
        return len(pairs) == len(there["arrays"]) and all(same(*pair) for pair in pairs)
    return there == here


def _parts(x: np.ndarray) -> Iterator[np.ndarray]:
    """All elements in their order, some at a time."""
    rows = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x) if x.ndim else 1, rows):
        yield np.ascontiguousarray(x[start : start + rows] if x.ndim else x)


def _of_bytes(x: np.ndarray) -> str:
    found = hashlib.sha256()
    for part in _parts(x):
        found.update(part.data if part.dtype.kind in "biu" else part.tobytes())
    return found.hexdigest()


def _of_floats(x: np.ndarray) -> dict[str, float]:
    # This generator's draws never change, those of default_rng may.
    weights, total, square = np.random.RandomState(0), 0.0, 0.0
    for part in _parts(x):
        flat = part.ravel().astype(np.float64)
        total += float(flat @ weights.standard_normal(flat.size))
        square += float(flat @ flat)
    size = max(1, x.size)
    numbers = {"projection": total / math.sqrt(size), "rms": math.sqrt(square / size)}
    return {name: value if math.isfinite(value) else -1.0 for name, value in numbers.items()}


def _file(path: Any) -> str | None:
    """SHA-256 of a file; None for an item that is no file."""
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None
    return files.sha256(Path(path))
