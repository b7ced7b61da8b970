"""Who takes part: processes join, wait for each other, and end together."""

import atexit
import collections
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from dpm_jax import later

with later.imports(globals()):
    import jax
    from jax.experimental import multihost_utils


class Cluster(NamedTuple):
    """Where the processes of a run find each other; all None: by what JAX detects."""

    coordinator_address: str | None = None  # host:port of process 0
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] | None = None
    start_timeout: int = 300  # seconds within which all processes must have come
    peer_timeout: int = 60  # seconds after which one that died, or hangs, ends the others
    wait_timeout: int = 14400  # seconds that one may prepare or load data, say, as others wait


class Elsewhere(ValueError):
    """What another process found wrong; process 0 says it for all."""


DETECTED = Cluster()
_TOO_LATE = (
    "--start_timeout: {where}: not all processes came within {start_timeout} s, or two have one"
    " number (num_processes={num_processes}, coordinator_address={coordinator_address})"
)
_joined: Cluster | None = None


def join(cluster: Cluster = DETECTED) -> None:
    """Join the other processes of the run; before any other use of JAX (jax.distributed).

    Without addresses they are found as JAX does: SLURM, Open MPI, Kubernetes, Cloud TPU.

    Raises:
        ValueError: where nothing is detected; where this process cannot join, naming its host and
            the argument; for hosts with different numbers of devices.
    """
    global _joined
    number = "this process" if cluster.process_id is None else f"process {cluster.process_id}"
    where = f"{number} on {socket.gethostname()}"
    _check_address(cluster, where)
    # Where not all come in time jax.distributed aborts, and says it in another language.
    late = _TOO_LATE.format(where=where, **cluster._asdict())
    timer = threading.Timer(cluster.start_timeout, exit_now, (2, late))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            cluster.coordinator_address,
            cluster.num_processes,
            cluster.process_id,
            cluster.local_device_ids,
            initialization_timeout=cluster.start_timeout + 60,
            heartbeat_timeout_seconds=cluster.peer_timeout,
            # One that is done waits at `leave` for the others; this is for those that died there.
            shutdown_timeout_seconds=cluster.peer_timeout,
        )
    except Exception as error:
        raise ValueError(_why_not(error, cluster, where)) from error
    finally:
        timer.cancel()
    _joined = cluster
    with _stdout_to_stderr():  # on which gloo writes that it is connected
        _check_devices(where)
        multihost_utils.sync_global_devices("dpm_jax join")
    sys.excepthook = _end_for_all


def _check_devices(where: str) -> None:
    try:
        found = jax.devices()
    except Exception as error:  # JAX raises anything, AssertionError too
        wanted = os.environ.get("JAX_PLATFORMS")
        raise ValueError(
            f"JAX_PLATFORMS: {where}: expected platforms with devices on this machine, got"
            f" {wanted!r} ({error})"
        ) from error
    counts = collections.Counter(device.process_index for device in found)
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{counts[p]} in process {p}" for p in sorted(counts))
        raise ValueError(
            f"local_device_ids: expected as many devices in every process, got {got}"
            " (CUDA_VISIBLE_DEVICES and XLA_FLAGS say how many, too)"
        )


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What libraries write on the descriptor of standard output goes to that of errors."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def _end_for_all(*caught) -> None:
    """What ends a script in one process: its traceback, and no wait for those that still work."""
    sys.__excepthook__(*caught)
    if not leave(1):
        exit_now(1)


def _check_address(cluster: Cluster, where: str) -> None:
    """Refuse beforehand what jax.distributed would abort for, without a word of the flags."""
    host, _, port = (cluster.coordinator_address or "").rpartition(":")
    if not host or cluster.process_id is None:
        return
    if cluster.process_id == 0:
        try:
            with socket.create_server(("", int(port))):
                return
        except OSError as error:
            raise ValueError(
                f"process_id: {where}: port {port} is taken, by another process 0 or another"
                f" program ({error.strerror})"
            ) from error
    end = time.monotonic() + cluster.start_timeout
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"coordinator_address: {where}: no process 0 answers at"
                    f" {cluster.coordinator_address} within {cluster.start_timeout} s ({error})"
                ) from error
        time.sleep(0.1)


def _why_not(error: Exception, cluster: Cluster, where: str) -> str:
    text = " ".join(str(error).split())[:200]
    if cluster.coordinator_address is not None:
        return f"coordinator_address: {where} cannot join ({text})"
    return (
        "distributed: expected SLURM, Open MPI, Kubernetes or a TPU pod, got none that JAX detects"
        f" ({where}: {text}): give coordinator_address, num_processes and process_id"
    )


def end_on_signal() -> None:
    """Let SIGTERM end this process at once, where no loop of dispatches will ask for it.

    The handler of jax.distributed takes it for a notice, and does nothing else.
    """
    if many() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def joined() -> bool:
    """Whether jax.distributed is at work here; asked without importing JAX."""
    return "jax" in sys.modules and jax.distributed.is_initialized()


def many() -> bool:
    """Whether there are several processes, which jax.distributed joined."""
    if not joined():
        return False
    try:
        return jax.process_count() > 1
    except Exception:  # there are no devices here, as `join` says
        return False


def first() -> bool:
    """Whether this process is the one that writes."""
    return not many() or jax.process_index() == 0


def name() -> str:
    """This process, for messages."""
    return f"process {jax.process_index()} on {socket.gethostname()}"


_met = 0  # barriers passed: each has a name of its own


def barrier(what: str, timeout: float) -> None:
    """Until every process has come here; Elsewhere after `timeout` seconds."""
    global _met
    if not many():
        return
    from orbax.checkpoint import multihost  # here: orbax takes a second to import

    _met += 1
    everyone = set(range(jax.process_count()))
    try:
        multihost.sync_global_processes(
            f"dpm_jax {what} {_met}", timeout=max(1, int(timeout)), processes=everyone
        )
    except Exception as error:
        why = f"{name()} waited {timeout:.0f} s at most for the others ({what})"
        raise Elsewhere(f"wait_timeout: {why}: {' '.join(str(error).split())[:200]}") from error


def wait_timeout() -> int:
    """Seconds that a process waits for another that works, on data say."""
    return (_joined or DETECTED).wait_timeout


def peer_timeout() -> int:
    """Seconds after which a process that died, or hangs, ends the others."""
    return (_joined or DETECTED).peer_timeout


_last: list[tuple] = []


def at_exit(function: Callable, *args) -> None:
    """Call function(*args) when this process ends, also by `exit_now`."""
    atexit.register(function, *args)
    _last.append((function, *args))


def exit_now(code: int, line: str = "") -> None:
    """End this process at once, without waiting for others at the barrier of jax.distributed.

    Any thread may call it. The line is the last: no bar is drawn from here on.
    """
    if line:
        tqdm.get_lock().acquire(True, 1.0)  # for good; 1 s for each of its two halves
        os.write(2, f"\n{line}\n".encode())
    for function, *args in _last:
        function(*args)
    os._exit(code)


def leave(code: int) -> bool:
    """Wait for the other processes, so that none aborts those that still write.

    Returns:
        Whether all came; those that failed are waited for 10 seconds.
    """
    if not many():
        return True
    try:
        barrier("end", 10 if code not in (0, 130) else 24 * 3600)
    except ValueError:
        return False
    return True
