"""The one entry point of all binaries: flags in, text out, and every failure in one line."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

from dpm_jax.runs import execution
from dpm_jax.runs.config import HELP, Invalid, configure
from dpm_jax.runs.experiment import Config, Experiment
from dpm_jax.training import Diverged
from dpm_jax.training.checkpoint import CheckpointError


class Flag(NamedTuple):
    """A flag of a binary."""

    kind: type  # bool, int, float, str, or list (of texts, divided by commas)
    help: str
    default: Any = None


_DEFINE: dict[type, Callable] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}


def main(experiment: Experiment) -> None:
    """Run an experiment from the command line: its presets are the defaults of its flags."""

    def execute(given: Config) -> str:
        preset, workdir = given.pop("preset"), given.pop("workdir")
        try:
            config = configure(experiment, preset, workdir, given)
        except ValueError as error:
            raise Invalid(f"--{error}") from error
        return execution.execute(experiment, config)[1]

    run(f"{experiment.name}.py", _flags_of(experiment), execute, "the same command resumes the run")


def run(
    program: str,
    known: Mapping[str, Flag],
    execute: Callable[[Config], str],
    if_interrupted: str = "",
) -> None:
    """Define the flags, parse, print what `execute` makes of them, and exit.

    Args:
        program: name of the binary, with which its messages begin.
        known: its flags by name.
        execute: values of all flags -> the text to print.
        if_interrupted: what to say after Ctrl-C.
    """
    for name, flag in known.items():
        _DEFINE[flag.kind](name, flag.default, flag.help)
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    _keep_memory()

    def refuse(message: object) -> NoReturn:
        print(f"{program}: {message}", file=sys.stderr)
        sys.exit(2)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            refuse(error)
        if len(rest) > 1:
            refuse(f"unknown argument {rest[1]!r}: flags begin with --")
        return rest

    def body(_) -> None:
        logging.set_verbosity(logging.WARNING)
        logging.use_python_logging(quiet=True)
        try:
            print(execute({name: flags.FLAGS[name].value for name in known}))
        except (Invalid, Diverged, CheckpointError) as error:
            refuse(error)
        except KeyboardInterrupt:
            after = f"; {if_interrupted}" if if_interrupted else ""
            print(f"\n{program}: interrupted{after}", file=sys.stderr)
            sys.exit(130)

    app.run(body, flags_parser=parse)


def _flags_of(experiment: Experiment) -> dict[str, Flag]:
    helps = {**HELP, **experiment.helps}
    names = sorted(experiment.presets)
    found = {
        "workdir": Flag(str, "Directory of the run: checkpoints, metrics, figures, report."),
        "preset": Flag(str, f"Defaults of all other flags: {', '.join(names)}.", "paper"),
    }
    for name, value in experiment.presets["paper"].items():
        per_preset = ", ".join(f"{p}: {experiment.presets[p][name]}" for p in names)
        found[name] = Flag(type(value), f"{helps[name]} ({per_preset})")
    found["init_from"] = Flag(str, helps["init_from"])
    return found


def _keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc.

    XLA on CPU allocates its temporaries at every dispatch. Given back to the system and taken
    again, page by page, they cost a fifth of a training step of a U-Net.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)
