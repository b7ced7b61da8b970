"""Data parallelism: the only file that names pmap and its axis.

A function written for one device takes its shard and calls `mean` where devices must agree;
`over_devices` runs it on all local devices at once. Replicated arguments and results carry no
device axis.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_AXIS = "batch"


def mean(tree):
    """Mean of a pytree over the devices; to be called inside a function given to `over_devices`."""
    return jax.lax.pmean(tree, _AXIS)


def device_key(key: jax.Array) -> jax.Array:
    """A key of this device's own; to be called inside a function given to `over_devices`."""
    return jax.random.fold_in(key, jax.lax.axis_index(_AXIS))


def shard(rows, n: int):
    """This device's n rows of those of all; to be called in a function given to `over_devices`."""
    return jax.lax.dynamic_slice_in_dim(rows, n * jax.lax.axis_index(_AXIS), n)


def replicate(tree):
    """A pytree put on every local device, placed as the results of `over_devices` are.

    A function fed with its own results then compiles once, and data are copied to the devices once
    and not at every call.
    """
    mesh = jax.sharding.Mesh(jax.local_devices(), (_AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def over_devices(function: Callable, num_args: int, sharded: tuple[int, ...] = (), donate=()):
    """Compile `function` to run on every local device.

    Args:
        function: of `num_args` positional arguments, and pure. A result must be the same on all
            devices (made of replicated arguments and of `mean`), unless `sharded` is given: then
            results are sharded too.
        num_args: number of its arguments.
        sharded: positions of arguments with a leading device axis; all others are replicated.
        donate: positions of arguments whose memory the result may take.

    Returns:
        A function of the same arguments.
    """
    ids = jnp.arange(jax.local_device_count())
    axes = tuple(0 if i in sharded else None for i in range(num_args))

    def body(_, *args):
        return function(*args)

    compiled = jax.pmap(
        body,
        axis_name=_AXIS,
        in_axes=(0, *axes),
        out_axes=0 if sharded else None,
        donate_argnums=tuple(i + 1 for i in donate),
    )
    return lambda *args: compiled(ids, *args)


def check_batch(batch_size: int) -> int:
    """The batch of each device.

    Raises:
        ValueError: for a batch below 1 or one that the local devices do not divide.
    """
    devices = jax.local_device_count()
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if batch_size % devices:
        raise ValueError(
            f"batch_size: expected a multiple of the {devices} devices, got {batch_size}"
        )
    return batch_size // devices
