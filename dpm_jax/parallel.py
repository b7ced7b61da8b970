"""Data parallelism over the devices of all processes: the only file that names pmap and its axis.

A function written for one device takes its shard and calls `mean` where devices must agree;
`over_devices` runs it on every device of every process at once. Replicated arguments and results
carry no device axis, are the same in every process, and live on its own devices.

DPM_ENGINE=shard_map runs the same bodies under jax.shard_map; pmap, the default, needs less of the
host's time for a dispatch.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpm_jax import hosts

ENGINES = ("pmap", "shard_map")
_AXIS = "batch"


def count() -> int:
    """The devices of all processes."""
    return jax.device_count()


def engine() -> str:
    """What DPM_ENGINE says, or pmap.

    Raises:
        ValueError: for another name than those in ENGINES.
    """
    found = os.environ.get("DPM_ENGINE") or ENGINES[0]
    if found not in ENGINES:
        raise ValueError(f"DPM_ENGINE: expected one of {ENGINES}, got {found!r}")
    return found


def mean(tree):
    """Mean of a pytree over the devices; to be called inside a function given to `over_devices`."""
    # Over one device XLA would copy the tree all the same.
    return tree if count() == 1 else jax.lax.pmean(tree, _AXIS)


def device_key(key: jax.Array) -> jax.Array:
    """A key of this device's own; to be called inside a function given to `over_devices`."""
    return jax.random.fold_in(key, jax.lax.axis_index(_AXIS))


def shard(rows, n: int):
    """This device's n rows of those of its process (`my_rows`); to be called as `mean` is."""
    here = jax.lax.axis_index(_AXIS) % jax.local_device_count()
    return jax.lax.dynamic_slice_in_dim(rows, n * here, n)


def my_rows(batch: int) -> slice:
    """The rows of a batch that are those of this process."""
    n = batch // jax.process_count()
    return slice(n * jax.process_index(), n * (jax.process_index() + 1))


def replicate(tree):
    """A pytree put on every local device, placed as the results of `over_devices` are.

    A function fed with its own results then compiles once, and data are copied to the devices once
    and not at every call.
    """
    return jax.device_put(tree, NamedSharding(_mesh(jax.local_devices()), PartitionSpec()))


def over_devices(function: Callable, num_args: int, sharded: tuple[int, ...] = (), donate=()):
    """Compile `function` to run on every device of every process.

    Args:
        function: of `num_args` positional arguments, and pure. A result must be the same on all
            devices (made of replicated arguments and of `mean`), unless `sharded` is given: then
            results have a leading device axis, and come back whole in every process.
        num_args: number of its arguments.
        sharded: positions of arguments with a leading axis of all devices; all others are
            replicated.
        donate: positions of arguments, placed by `replicate`, whose memory the result may take.

    Returns:
        A function of the same arguments, to be called in every process.
    """
    here = jax.local_device_count()
    mine = slice(here * jax.process_index(), here * (jax.process_index() + 1))
    ids = np.arange(jax.device_count())[mine]

    def body(_, *args):  # pmap wants one sharded argument at least
        return function(*args)

    split = (True, *(i in sharded for i in range(num_args)))
    make = {"pmap": _by_pmap, "shard_map": _by_shard_map}[engine()]
    compiled = make(body, split, bool(sharded), tuple(i + 1 for i in donate))
    if not (sharded and hosts.many()):
        return lambda *args: compiled(ids, *args)

    def call(*args):
        own = [
            jax.tree.map(lambda x: x[mine], a) if i in sharded else a for i, a in enumerate(args)
        ]
        return hosts.gather(compiled(ids, *own))

    return call


def _by_pmap(body: Callable, split: tuple[bool, ...], split_result: bool, donate):
    return jax.pmap(
        body,
        axis_name=_AXIS,
        in_axes=tuple(0 if s else None for s in split),
        out_axes=0 if split_result else None,
        donate_argnums=donate,
    )


def _by_shard_map(body: Callable, split: tuple[bool, ...], split_result: bool, donate):
    mesh = _mesh([d for p in range(jax.process_count()) for d in jax.local_devices(p)])
    specs = tuple(PartitionSpec(_AXIS) if s else PartitionSpec() for s in split)
    result_spec = PartitionSpec(_AXIS) if split_result else PartitionSpec()

    def one_device(*args):  # as in pmap: no leading axis of one
        own = [jax.tree.map(lambda x: x[0], a) if s else a for a, s in zip(args, split)]
        found = body(*own)
        return jax.tree.map(lambda x: x[None], found) if split_result else found

    # Not checked: replicated parameters are constants to the gradient, which `mean` reduces.
    mapped = jax.shard_map(
        one_device, mesh=mesh, in_specs=specs, out_specs=result_spec, check_vma=False
    )
    compiled = jax.jit(mapped, donate_argnums=donate)

    def call(*args):
        whole = [_to_global(a, mesh, spec) for a, spec in zip(args, specs)]
        return _to_local(compiled(*whole), mesh, result_spec)

    return call


def _mesh(devices) -> Mesh:
    return Mesh(devices, (_AXIS,))


def _to_global(tree, mesh: Mesh, spec: PartitionSpec):
    """This process's arrays as parts of arrays over all processes."""
    if not hosts.many():
        return jax.device_put(tree, NamedSharding(mesh, spec))

    def one(x):
        if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):  # cannot be placed as it is
            return jax.random.wrap_key_data(
                one(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        return multihost_utils.host_local_array_to_global_array(x, mesh, spec)

    return jax.tree.map(one, tree)


def _to_local(tree, mesh: Mesh, spec: PartitionSpec):
    """The parts of global arrays that are this process's own."""
    if not hosts.many():
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, mesh, spec)


def check_batch(batch_size: int) -> int:
    """The batch of each device.

    Raises:
        ValueError: for a batch below 1 or one that the devices of all processes do not divide.
    """
    devices = jax.device_count()
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if batch_size % devices:
        of = f" of {jax.process_count()} processes" if hosts.many() else ""
        raise ValueError(
            f"batch_size: expected a multiple of the {devices} devices{of}, got {batch_size}"
        )
    return batch_size // devices
