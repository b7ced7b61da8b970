"""A function of rows over a whole data set: on all devices, in chunks of constant memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import parallel, units
from dpm_jax.core.family import Array, checked, numbers
from dpm_jax.core.model import Model

Prepare = Callable[[Array, Array], Array]  # key, rows -> examples, e.g. dequantisation
Progress = Callable[[Iterable[int]], Iterable[int]]


class Rows(NamedTuple):
    """How the rows of a data set are gone through."""

    seed: int = 0  # of x^t, and of `prepare`
    prepare: Prepare | None = None  # None: rows are examples as they are
    at_once: int | None = None  # examples, or trajectories, that a device holds; None: a default
    progress: Progress = iter  # wraps the iteration over batches, e.g. in a progress bar

    def examples(self, key: Array, rows: Array) -> Array:
        """The examples that these rows are."""
        return rows if self.prepare is None else numbers("prepare", self.prepare(key, rows))


def check_rows(model: Model, data: Any, rows: Rows) -> Any:
    """The data as rows; with `prepare`, of which the shape and the first examples are checked.

    Raises:
        TypeError: for data, or examples, that are no array of real numbers.
        ValueError: for no rows, examples of another shape than the model's, or values that its
            family cannot have.
    """
    family, shape = model.family, model.event_shape
    numbers("data", data[:1] if getattr(data, "shape", ()) else data)
    data = data if hasattr(data, "shape") else np.asarray(data)
    if not data.shape:
        raise ValueError(f"data: expected rows, got {data.dtype} of shape ()")
    check_counts(data=len(data))
    if rows.prepare is None:
        return checked(family, shape, "data", data, many=True)
    first = rows.prepare(jax.random.key(rows.seed), jnp.asarray(np.asarray(data[:2])))
    checked(family, shape, "prepare", first, many=True)
    return data


class Groups:
    """Rows of a data set in groups of `size`; the last is filled with the last row."""

    def __init__(self, data, size: int):
        self.data, self.size = data, size
        self.shape = (len(self), size, *data.shape[1:])

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        rows = np.minimum(index[:, None] * self.size + np.arange(self.size), len(self.data) - 1)
        return np.asarray(self.data[rows.ravel()]).reshape(len(index), *self.shape[1:])


def over_rows(
    kernel: Callable[[Any, Array, Array], Any],
    params,
    data,
    per_device: int,
    rows: Rows,
    keyed: bool = False,
) -> Iterator[Any]:
    """kernel(params, rows, key) -> (rows, ...) over all data and devices; float64, batch by batch.

    With `keyed` there is a key for each row, by its number, whatever the devices: (rows,) keys.

    What the kernel returns may be a pytree of such arrays. The last batch is padded with the last
    row, and cut again.
    """
    run = compiled(kernel)
    for chunk, keys, kept in batches(data, per_device, rows, keyed):
        yield joined(run(params, chunk, keys), kept)


def batches(
    data, per_device: int, rows: Rows, keyed: bool = False
) -> Iterator[tuple[Array, Array, int]]:
    """Rows (devices, per device, ...), keys, and how many of the rows are not padding."""
    n, devices = len(data), parallel.count()
    per_device = min(per_device, -(-n // devices))
    batch, key = per_device * devices, jax.random.key(rows.seed)
    for start in rows.progress(range(0, n, batch)):
        index = np.minimum(np.arange(start, start + batch), n - 1)
        chunk = jnp.asarray(np.asarray(data[index])).reshape(devices, per_device, *data.shape[1:])
        number = index.reshape(devices, per_device) if keyed else np.arange(devices)
        yield chunk, _keys(key, start, jnp.asarray(number)), min(batch, n - start)


@jax.jit
def _keys(key: Array, start: Array, number: Array) -> Array:
    """A key for each row by its number (devices, rows), or for each device by its batch."""
    if number.ndim == 1:
        return jax.random.split(jax.random.fold_in(key, start), len(number))
    return jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(number)


_KEPT: dict[tuple, tuple] = {}  # the last kernels compiled, with what they close over
_MOST_KEPT = 32


def compiled(kernel: Callable, num_args: int = 3) -> Callable:
    """`kernel` on all devices, all but its first argument split over them.

    Of a kernel with the code and the closure of one of the last it is the function made for that
    one, so that a second `evaluate` of the same model compiles nothing.
    """
    held = [cell.cell_contents for cell in kernel.__closure__ or ()]
    held = [value.prepare if isinstance(value, Rows) else value for value in held]
    key = (kernel.__code__, *(v if _plain(v) else id(v) for v in held))
    if key not in _KEPT:
        while len(_KEPT) >= _MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
        # What is held is kept alive, so that no other object takes its id.
        _KEPT[key] = held, parallel.over_devices(kernel, num_args, tuple(range(1, num_args)))
    return _KEPT[key][1]


def _plain(value: Any) -> bool:
    """Whether a value is told from others by what it is, not by its place in memory."""
    if isinstance(value, tuple):  # records of such values too, as a Proposal is
        return all(map(_plain, value))
    return isinstance(value, (int, float, str, type(None)))


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values; NaN (unknown) for fewer than two."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, by which a standard error makes a 95 % interval."""
    from scipy import special  # here: SciPy is slow to import

    return float(special.stdtrit(degrees, 0.975)) if degrees > 0 else float("nan")


def check_counts(**counts: int | None) -> None:
    """ValueError naming the first that is below 1, or no whole number; None is no count."""
    for name, count in counts.items():
        if count is not None:
            units.whole(name, count)


def joined(values: Any, kept: int) -> Any:
    """A pytree of (devices, per device, ...) -> the first rows of all, float64."""

    def one(leaf: Array) -> np.ndarray:
        return np.asarray(leaf, np.float64).reshape(-1, *leaf.shape[2:])[:kept]

    return jax.tree.map(one, values)
