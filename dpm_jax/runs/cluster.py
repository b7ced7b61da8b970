"""The flags by which a binary becomes one of several processes."""

import warnings

from absl import logging

from dpm_jax import hosts
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.flags import Flag

FLAGS = {
    "distributed": Flag(
        bool,
        "Run as one of several processes, which JAX finds: SLURM, Open MPI, Kubernetes, TPU pods.",
        False,
    ),
    "coordinator_address": Flag(
        str, "HOST:PORT of process 0, the same for all processes, where JAX does not find it."
    ),
    "num_processes": Flag(int, "Processes of the run.", values="[1, inf)"),
    "process_id": Flag(int, "Number of this process, from 0.", values="[0, inf)"),
    "local_device_ids": Flag(
        list, "Accelerators of this host that this process takes; all, or as the cluster says."
    ),
    "start_timeout": Flag(
        int, "Seconds within which all processes must have come.", 300, "[1, 86400]"
    ),
    "peer_timeout": Flag(
        int, "Seconds after which a process that died, or hangs, ends the others.", 60, "[2, 86400]"
    ),
    "wait_timeout": Flag(
        int,
        "Seconds that the others wait for one that downloads, prepares or reads data.",
        14400,
        "[2, 864000]",
    ),
}
_TOLD = ("coordinator_address", "num_processes", "process_id")


def take(given: Config) -> hosts.Cluster | None:
    """Take these flags out of `given`: where the other processes are; None where there are none.

    Raises:
        ValueError: for flags that say only a part of it.
    """
    flags = {name: given.pop(name) for name in FLAGS}
    told = {name: flags[name] for name in _TOLD}
    missing = [name for name, value in told.items() if value is None]
    if not flags.pop("distributed"):
        if len(missing) == len(told) and flags["local_device_ids"] is None:
            return None
        if missing:
            raise ValueError(f"{missing[0]}: expected a value, as other processes' flags are given")
    number, of = told["process_id"], told["num_processes"]
    if number is not None and of is not None and number >= of:
        raise ValueError(f"process_id: expected a number below num_processes = {of}, got {number}")
    address = told["coordinator_address"]
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"coordinator_address: expected HOST:PORT, got {address!r}")
    return hosts.Cluster(**{**flags, "local_device_ids": _ids(flags["local_device_ids"])})


def join(cluster: hosts.Cluster) -> None:
    """Join the other processes; ValueError as `hosts.join`."""
    hosts.join(cluster)
    if not hosts.first():  # process 0 speaks for all
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)


def _ids(given: list[str] | None) -> list[int] | None:
    if given is None:
        return None
    if not all(each.isdecimal() for each in given):
        raise ValueError(f"local_device_ids: expected numbers as in 0,1, got {','.join(given)}")
    return [int(each) for each in given]
