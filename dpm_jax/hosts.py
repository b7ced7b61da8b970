"""Several processes as one program: they begin together, agree, hear of failures, and end together.

Every process runs the same code on its own devices (SPMD). What process 0 alone may do (read and
write the work directory) goes through `on_first`; what may fail on one host alone through
`together`. With one process every function here is the identity, and costs nothing.
"""

import os
import pickle
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_BLOCK = 4096  # bytes; texts are sent in whole blocks, so that few programs are compiled
_PIECE = 2**26  # bytes sent at once


class Elsewhere(ValueError):
    """What another process found wrong; process 0 says it for all."""


class Cluster(NamedTuple):
    """Where the processes of a run find each other; all None: by what JAX detects."""

    coordinator_address: str | None = None  # host:port of process 0
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] | None = None
    start_timeout: int = 300  # seconds within which all processes must have come
    peer_timeout: int = 60  # seconds after which one that died, or hangs, ends the others


DETECTED = Cluster()
_joined: Cluster | None = None


def join(cluster: Cluster = DETECTED) -> None:
    """Join the other processes of the run; before any other use of JAX (jax.distributed).

    Without addresses they are found as JAX does: SLURM, Open MPI, Kubernetes, Cloud TPU.

    Raises:
        ValueError: where nothing is detected; where this process cannot join, naming its host and
            the argument; for hosts with different numbers of devices.
    """
    global _joined
    where = f"process {cluster.process_id} on {socket.gethostname()}"
    try:
        jax.distributed.initialize(
            cluster.coordinator_address,
            cluster.num_processes,
            cluster.process_id,
            cluster.local_device_ids,
            initialization_timeout=cluster.start_timeout,
            heartbeat_timeout_seconds=cluster.peer_timeout,
            # One that is done waits at `leave` for the others; this is for those that died there.
            shutdown_timeout_seconds=cluster.peer_timeout,
        )
    except Exception as error:
        raise ValueError(_why_not(error, cluster, where)) from error
    _joined = cluster
    counts = [len(_devices_of(p)) for p in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise ValueError(
            f"local_device_ids: expected as many devices in every process, got {counts} by process"
        )


def _devices_of(process: int) -> list:
    return [device for device in jax.devices() if device.process_index == process]


def _why_not(error: Exception, cluster: Cluster, where: str) -> str:
    text = " ".join(str(error).split())
    if cluster.coordinator_address is None:
        return (
            "distributed: expected SLURM, Open MPI, Kubernetes or a TPU pod, got none that JAX"
            f" detects on {socket.gethostname()} ({text}): give coordinator_address, num_processes"
            " and process_id"
        )
    if "ALREADY_EXISTS" in text or "different incarnation" in text or "already" in text.lower():
        return f"process_id: {where}: another process has this number ({text[:200]})"
    return (
        f"coordinator_address: {where} found no process 0 at {cluster.coordinator_address} within"
        f" {cluster.start_timeout} s, or not all {cluster.num_processes} processes came"
        f" ({text[:200]})"
    )


def many() -> bool:
    """Whether there are several processes."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def name() -> str:
    """This process, for messages."""
    return f"process {jax.process_index()} on {socket.gethostname()}"


def together(function: Callable, *args, kinds: tuple[type[Exception], ...] = (ValueError, OSError)):
    """function(*args) in every process; where it fails in one it fails in all, by name.

    Args:
        function: what each process does for itself.
        args: its arguments.
        kinds: the errors that are expected; any other is a bug and ends this process alone.

    Raises:
        Elsewhere: in every process but those whose own error comes first.
    """
    if not many():
        return function(*args)
    result, own = None, None
    try:
        result = function(*args)
    except kinds as error:
        own = error
    said = texts("" if own is None else str(own) or type(own).__name__)
    if not any(said):
        return result
    if own is not None and first():
        raise own
    number = next(i for i, text in enumerate(said) if text)
    at = hosts()[number]
    raise Elsewhere(said[number] + ("" if number == 0 else f" (process {number} on {at})"))


def on_first(function: Callable, *args):
    """function(*args) of process 0, in every process; where it fails, it fails in all.

    The result is pickled: NumPy arrays come through to the bit.
    """
    if not many():
        return function(*args)
    result = together(lambda: function(*args) if first() else None, kinds=(Exception,))
    sent = _bytes_of_first(pickle.dumps(result))
    return result if first() else pickle.loads(sent)


def in_turn(function: Callable, *args, timeout: float = 3600.0):
    """function(*args) in process 0, and once that is done in the others: what is kept on disk.

    Raises:
        ValueError: in the others, where process 0 takes longer than `timeout` seconds.
    """
    if not many():
        return function(*args)

    def wait_and_do():
        if first():
            try:
                return function(*args)
            finally:
                barrier("in turn", timeout)
        barrier("in turn", timeout)
        return function(*args)

    return together(wait_and_do)


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
            raise Elsewhere(
                f"{k}: expected the same in every process, got {each[0].get(k)} in process 0 and"
                f" {other.get(k)} in process {number} on {hosts()[number]}"
            )


def _lines(what: dict[str, Any]) -> str:
    return "\n".join(f"{name}={value!r}".replace("\n", " ") for name, value in what.items())


def hosts() -> list[str]:
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


_met = 0  # barriers passed: each has a name of its own


def barrier(what: str, timeout: float) -> None:
    """Until every process has come here; ValueError after `timeout` seconds."""
    global _met
    if not many():
        return
    from orbax.checkpoint import multihost  # here: `import dpm_jax` costs JAX alone

    _met += 1
    everyone = set(range(jax.process_count()))
    try:
        multihost.sync_global_processes(
            f"dpm_jax {what} {_met}", timeout=max(1, int(timeout)), processes=everyone
        )
    except Exception as error:
        why = f"{name()} waited {timeout:.0f} s for the others ({what})"
        raise ValueError(f"peer_timeout: {why}: {' '.join(str(error).split())[:200]}") from error


def peer_timeout() -> int:
    """Seconds after which a process that died, or hangs, ends the others."""
    return (_joined or DETECTED).peer_timeout


def exit_now(code: int, line: str = "") -> None:
    """End this process at once, without waiting for others at the barrier of jax.distributed."""
    if line:
        os.write(2, f"\n{line}\n".encode())
    os._exit(code)


def leave(code: int) -> None:
    """Wait for the other processes, so that none aborts those that still write; then return.

    Where they do not come this process ends at once: after 10 seconds where it failed.
    """
    if _joined is None or not many():
        return
    try:
        barrier("end", 10 if code not in (0, 130) else 24 * 3600)
    except ValueError:
        exit_now(code or 1)
