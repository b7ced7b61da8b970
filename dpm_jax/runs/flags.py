"""What a flag is: its type, its help, the values it takes; and one check of them all."""

import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LARGEST = {int: 2**31 - 1, float: float(2**127)}  # what the types of the device hold
LEAST = float(2**-126)  # above 0
_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
    list: ((list, tuple), "texts, divided by commas"),
    Path: (str, "a path"),
}


class Flag(NamedTuple):
    """A flag of a binary."""

    kind: type  # bool, int, float, str, Path (a text) or list (of texts, divided by commas)
    help: str
    default: Any = None
    values: str | tuple[str, ...] = ""  # an interval, "[0, 1)" or "(0, inf)"; or names to choose of
    bytes: int = 0  # of memory that each unit of a number takes at the very least


def check(given: Mapping[str, Any], known: Mapping[str, Flag], optional: bool = False) -> None:
    """Refuse values that no flag may have, before anything is made of them.

    Args:
        given: values by name.
        known: the flags by name; those that are not in `given` are passed over.
        optional: whether None stands for "not given".

    Raises:
        ValueError: "name: expected ..., got ...", of the first.
    """
    for name, flag in known.items():
        if name in given and not (optional and given[name] is None):
            _check_value(name, given[name], flag)


def check_memory(name: str, value: Any, need: float, free: float | None = None) -> None:
    """ValueError where so many bytes are more than are free; None: than this machine has left."""
    free = available_memory() if free is None else free
    if need > free:
        raise ValueError(
            f"{name}: expected a size that fits into the {_size(free)} of free memory, got {value},"
            f" which takes {_size(need)} or more"
        )


def available_memory() -> float:
    """Bytes that programs can still take, without swapping, as the system has it; else infinity."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            told = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(told["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return math.inf


def _check_value(name: str, value: Any, flag: Flag) -> None:
    kind, what = _KINDS[flag.kind]
    if not isinstance(value, kind) or (isinstance(value, bool) and flag.kind is not bool):
        raise ValueError(f"{name}: expected {what}, got {value!r}")
    if isinstance(flag.values, tuple):
        if value not in flag.values:
            raise ValueError(f"{name}: expected one of {', '.join(flag.values)}, got {value!r}")
    elif flag.kind in LARGEST:
        _check_number(name, value, flag)
    elif flag.kind is Path:
        _check_path(name, str(value))


def _check_number(name: str, value: Any, flag: Flag) -> None:
    most = LARGEST[flag.kind]
    wanted = flag.values or "(-inf, inf)"
    assert isinstance(wanted, str)
    low, high = (float(part) for part in wanted[1:-1].split(","))
    above = value > low or (value == low and wanted[0] == "[")
    below = value < high or (value == high and wanted[-1] == "]")
    if not (above and below):  # NaN too
        raise ValueError(f"{name}: expected {_told(flag, wanted)}, got {value}")
    if abs(value) > most:
        raise ValueError(f"{name}: expected at most {most:g}, got {value}")
    if 0 < abs(value) < LEAST:
        raise ValueError(f"{name}: expected {LEAST:.3g} or more in size, got {value}")
    if flag.bytes:
        check_memory(name, value, float(value) * flag.bytes)


def _told(flag: Flag, wanted: str) -> str:
    """An interval in words."""
    low, high = wanted[1:-1].split(", ")
    if flag.kind is int:
        return f"at least {low}" if high == "inf" else f"{low}..{high}"
    if high == "inf":
        more = {"(-inf": "", "[0": " of at least 0", "(0": " above 0"}
        return f"a finite number{more.get(wanted[0] + low, f' in {wanted}')}"
    return f"a number in {wanted}"


def _check_path(name: str, value: str) -> None:
    if "\0" in value:
        raise ValueError(f"{name}: expected a path, got {value!r}")
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: expected a path, got {value!r}: no such user") from error


def _size(count: float) -> str:
    return f"{count / 2**30:.3g} GiB"
