"""What processes tell each other: failures, texts, and what one of them alone may read."""

import pickle
import socket
from collections.abc import Callable
from typing import Any

from dpm_jax import later
from dpm_jax.hosts.membership import Elsewhere, barrier, first, many, wait_timeout

with later.imports(globals()):
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

_BLOCK = 4096  # bytes; texts are sent in whole blocks, so that few programs are compiled
_PIECE = 2**26  # bytes sent at once
_TOLD = "_told_to_all"  # an error of process 0 that every process has heard of


def together(function: Callable, *args):
    """function(*args) in every process; where it fails in one it fails in all, by name.

    Calls may lie in each other: a process that fails before an inner call meets the others there.

    Args:
        function: what each process does for itself.
        args: its arguments.

    Raises:
        Elsewhere: where another process failed, or does not come within `wait_timeout` seconds;
            a ValueError or OSError of its own is raised by process 0 alone, any other, which is a
            bug, by each.
    """
    if not many():
        return function(*args)
    result, own = None, None
    try:
        result = function(*args)
    except Exception as error:
        if _is_known(error):  # by an inner call
            raise
        own = error
    barrier("together", wait_timeout())
    bug = own is not None and not isinstance(own, (ValueError, OSError))
    why = f"{type(own).__name__}: {own}" if bug else "" if own is None else str(own)
    said = texts(shown(f"{why or type(own).__name__}\n{socket.gethostname()}") if own else "")
    if not any(said):
        return result
    if own is not None and (bug or first()):
        setattr(own, _TOLD, True)
        raise own
    number = next(i for i, text in enumerate(said) if text)
    text, _, at = said[number].rpartition("\n")
    raise Elsewhere(text if number == 0 else f"{text} (process {number} on {at})")


_CALLED: dict[str, str] = {}


def call(path: Any, name: Any) -> None:
    """Let messages name a local path otherwise, as a copy by what it is a copy of."""
    _CALLED[str(path)] = str(name)


def shown(text: str) -> str:
    """A text with the names that `call` gave."""
    for path, name in _CALLED.items():
        text = text.replace(path, name)
    return text


def _is_known(error: BaseException | None) -> bool:
    """Whether every process has heard of an error, or of what caused it."""
    while error is not None:
        if isinstance(error, Elsewhere) or hasattr(error, _TOLD):
            return True
        error = error.__cause__
    return False


def on_first(function: Callable, *args):
    """function(*args) of process 0, in every process; where it fails, it fails in all.

    The result is pickled: NumPy arrays come through to the bit.
    """
    if not many():
        return function(*args)
    result = together(lambda: function(*args) if first() else None)
    sent = _bytes_of_first(pickle.dumps(result))
    return result if first() else pickle.loads(sent)


def in_turn(function: Callable, *args):
    """function(*args) in process 0, and once that is done in the others: what is kept on disk.

    Inside `together`, which says what fails in the others.

    Raises:
        Elsewhere: in the others, where process 0 fails or takes longer than `wait_timeout` seconds.
    """
    found = together(lambda: function(*args) if first() else None)
    return found if first() else function(*args)


def check_same(what: dict[str, Any]) -> None:
    """Refuse a run whose processes were not started alike.

    Args:
        what: values by name, such as flags and versions; the same are expected in every process.

    Raises:
        Elsewhere: in every process, naming what differs, and on which host.
    """
    if not many():
        return
    each = [dict(line.split("=", 1) for line in text.split("\n")) for text in texts(_lines(what))]
    for number, other in enumerate(each):
        differ = [k for k in {**each[0], **other} if each[0].get(k) != other.get(k)]
        if differ:
            k = differ[0]
            more = f"; {', '.join(differ[1:])} differ too" if differ[1:] else ""
            raise Elsewhere(
                f"{k}: expected the same in every process, got {each[0].get(k)} in process 0 and"
                f" {other.get(k)} in process {number} on {names()[number]}{more}"
            )


def _lines(what: dict[str, Any]) -> str:
    return "\n".join(f"{name}={value!r}".replace("\n", " ") for name, value in what.items())


def names() -> list[str]:
    """The name of the host of each process."""
    return texts(socket.gethostname())


def texts(text: str) -> list[str]:
    """The text that each process gives, in every process."""
    return [each.decode() for each in _gather_bytes(text.encode())]


def _gather_bytes(data: bytes) -> list[bytes]:
    if not many():
        return [data]
    sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32)).ravel()
    padded = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    found = multihost_utils.process_allgather(padded) if len(padded) else [padded] * len(sizes)
    return [row[:size].tobytes() for row, size in zip(found, sizes)]


def _bytes_of_first(data: bytes) -> bytes:
    """What process 0 gives. As bytes: sums with the zeros of others would lose the sign of −0.0."""

    def send(part: np.ndarray) -> np.ndarray:
        return np.asarray(multihost_utils.broadcast_one_to_all(part))

    size = int(send(np.frombuffer(np.int64(len(data)).tobytes(), np.uint8)).view(np.int64)[0])
    padded = np.zeros(-(-size // _BLOCK) * _BLOCK, np.uint8)
    if first():
        padded[:size] = np.frombuffer(data, np.uint8)
    parts = [send(padded[i : i + _PIECE]) for i in range(0, len(padded), _PIECE)]
    return np.concatenate(parts)[:size].tobytes()


def gather(tree):
    """Arrays (n, ...) of each process, joined along the first axis, in every process; NumPy."""
    return multihost_utils.process_allgather(jax.tree.map(np.asarray, tree), tiled=True)
