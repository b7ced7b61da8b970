"""A model as JSON: what of it is the library's own is named, so that `load` can build it again."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpm_jax import networks
from dpm_jax.core import binomial, gaussian
from dpm_jax.core import model as models
from dpm_jax.core.model import Model
from dpm_jax.core.schedule import Schedule

_FAMILIES = {"gaussian": gaussian.family, "binomial": binomial.family}
_NETWORKS: dict[str, Any] = {
    name: found
    for name in networks.__all__
    if isinstance(found := getattr(networks, name), type)  # a function is no network
}
_BY_VALUE = ("variance", "learn_schedule")


def encode(model: Model) -> dict[str, Any]:
    """The arguments of `model.build` as JSON; a part that is not the library's by what it is.

    Such a part is {"own": its name}: `decode` cannot make it again.
    """
    parts = model.parts
    found = {name: parts[name] for name in _BY_VALUE}
    found["event_shape"] = list(model.event_shape)
    found["x0_range"] = None if model.x0_range is None else [float(v) for v in model.x0_range]
    found["schedule"] = {k: _numbers(v) for k, v in parts["schedule"]._asdict().items()}
    found["family"] = _family(model.family)
    found["network"] = _network(parts["network"])
    for name in ("readout", "last_step"):
        value = parts[name]
        found[name] = value if isinstance(value, str) else _own(value)
    return found


def decode(content: dict[str, Any]) -> Model:
    """The model again.

    Raises:
        ValueError: naming the part that is only named there, or for content that does not read.
    """
    if not isinstance(content, dict):
        raise ValueError(f"model: does not read: expected an object, got {content!r}")
    own = [f"{n} = {v['own']}" for n, v in content.items() if isinstance(v, dict) and "own" in v]
    if own:
        raise ValueError(
            f"model: expected the model itself, since config.json cannot hold {', '.join(own)}"
        )
    try:
        family = content["family"]
        arguments = {k: jnp.asarray(v) for k, v in family["arguments"].items()}
        schedule = content["schedule"]
        return models.build(
            family=_FAMILIES[family["name"]](**arguments),
            schedule=Schedule(
                beta=_floats(schedule["beta"]),
                log_alpha_bar=_floats(schedule["log_alpha_bar"]),
                network_t=jnp.asarray(schedule["network_t"], jnp.int32),
            ),
            network=_make_network(content["network"]),
            event_shape=tuple(content["event_shape"]),
            readout=content["readout"],
            last_step=content["last_step"],
            x0_range=content["x0_range"] and tuple(content["x0_range"]),
            **{name: content[name] for name in _BY_VALUE},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model: does not read: {error!r}") from error


def _own(value: Any) -> dict[str, str]:
    value = value.func if isinstance(value, functools.partial) else value
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    return {"own": f"{kind.__module__}.{kind.__qualname__}"}


def _family(family) -> dict[str, Any]:
    if family.name not in _FAMILIES or family.kl not in (gaussian.kl, binomial.kl):
        return {"own": family.name}
    arguments = {k: np.asarray(v).tolist() for k, v in family.arguments.items()}
    return {"name": family.name, "arguments": arguments}


def _network(network: Any) -> dict[str, Any]:
    name = type(network).__name__
    if _NETWORKS.get(name) is not type(network):
        return _own(network)
    fields = [f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name")]
    values = {field: getattr(network, field) for field in fields}
    values = {field: list(v) if isinstance(v, tuple) else v for field, v in values.items()}
    if values.get("dtype") is not None:
        values["dtype"] = jnp.dtype(values["dtype"]).name
    return {"name": name, "arguments": values}


def _make_network(content: dict[str, Any]) -> Any:
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["arguments"].items()
    }
    if arguments.get("dtype") is not None:
        arguments["dtype"] = jnp.dtype(arguments["dtype"])
    return _NETWORKS[content["name"]](**arguments)


def _numbers(values) -> list:
    """Numbers that JSON holds to the last bit; infinities as texts."""
    values = np.asarray(values)
    exact = values.tolist() if values.dtype.kind == "i" else values.astype(np.float64).tolist()
    return [v if np.isfinite(v) else str(v) for v in exact]


def _floats(values: list):
    return jnp.asarray([float(v) for v in values], jnp.result_type(float))
