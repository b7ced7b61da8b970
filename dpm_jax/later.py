"""Imports that wait for their first use, so that flags are answered without JAX.

    with later.imports(globals()):
        import jax
        from dpm_jax import sampling

In the `__init__` of a package names are then imported when they are asked for (PEP 562). Elsewhere
they are stand-ins until an attribute of them is read or they are called: modules and functions, so
no classes for `isinstance`. What a module hands on while it is read is imported by its own name,
`from a.b import f`: to read `b.f` would import b. Type checkers and readers see the imports as they
are written.
"""

import builtins
import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

_one = threading.RLock()  # two threads would each put back what the other had put there


class _Later:
    """What an import statement binds: a module, or a name of one."""

    def __init__(self, names: dict[str, Any], path: str):
        self._names, self._path, self._waits = names, path, True

    def _found(self) -> Any:
        found = _import(self._path)
        self._names.update({name: found for name, v in self._names.items() if v is self})
        return found

    def __getattr__(self, name: str) -> Any:
        if self._waits:  # of the import statement: `from a import b`, `import a.b as c`
            return _Later(self._names, f"{self._path}.{name}")
        return getattr(self._found(), name)

    def __call__(self, *args, **more) -> Any:
        return self._found()(*args, **more)


@contextlib.contextmanager
def imports(names: dict[str, Any]) -> Iterator[None]:
    """Let the import statements of the body wait; those that others run meanwhile do not.

    Args:
        names: the `globals()` of the module.
    """

    def wait(name, names_of=None, locals_of=None, fromlist=(), level=0):
        if names_of is not names:
            return usual(name, names_of, locals_of, fromlist, level)
        return _Later(names, name if fromlist else name.partition(".")[0])

    with _one:
        usual = builtins.__import__
        builtins.__import__ = wait
        try:
            yield
        finally:
            builtins.__import__ = usual
    waiting = {name: value for name, value in names.items() if isinstance(value, _Later)}
    for value in waiting.values():
        value._waits = False
    if "__path__" in names:
        _ask(names, {name: value._path for name, value in waiting.items()})


def _ask(names: dict[str, Any], paths: dict[str, str]) -> None:
    """Take the names out of a package, and let it import each when it is asked for it."""
    for name in paths:
        del names[name]

    def ask(name: str) -> Any:
        if name not in paths:
            raise AttributeError(f"module {names['__name__']!r} has no attribute {name!r}")
        names[name] = _import(paths[name])
        return names[name]

    names["__getattr__"], names["__dir__"] = ask, lambda: sorted({*names, *paths})


def _import(path: str) -> Any:
    """The module of that path, or the name of the module before its last dot."""
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
    return getattr(importlib.import_module(module), name)
