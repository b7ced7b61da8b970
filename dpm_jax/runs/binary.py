"""The one entry point of all binaries: flags in, text out, and every failure in one line."""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from logging import ERROR
from pathlib import Path
from typing import NoReturn

from absl import logging

from dpm_jax import hosts, later
from dpm_jax.runs import arguments, bars, cluster, compilation, streams
from dpm_jax.runs import config as configs
from dpm_jax.runs import flags as values
from dpm_jax.runs.config import HELP, Invalid, configure, flag_of_path, flags_of
from dpm_jax.runs.experiment import Config, Experiment
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax

    from dpm_jax import training
    from dpm_jax.runs import execution
    from dpm_jax.training import checkpoint

_BUG, _INVALID, _INTERRUPTED, _DEAD_PIPE = 1, 2, 130, 141  # exit codes; 128 + signal


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> NoReturn:
    """Run an experiment from the command line: its presets are the defaults of its flags."""

    def whole(given: Config) -> Config:
        more = {name: v for name, v in given.items() if name not in ("preset", "workdir")}
        return configure(experiment, given["preset"], given["workdir"], more)

    def execute(given: Config) -> str:
        return execution.execute(experiment, whole(given))[1]

    def check(given: Config) -> None:
        if not given["workdir"]:
            raise ValueError("workdir: expected a directory for the run, got none")
        config = whole(given)
        configs.check(config, experiment)
        bars.say(configs.plan(experiment, config))

    known = _with_presets(experiment)
    run(f"{experiment.name}.py", known, execute, "the same command resumes the run", argv, check)


def run(
    program: str,
    known: Mapping[str, Flag],
    execute: Callable[[Config], str],
    if_interrupted: str = "",
    argv: Sequence[str] | None = None,
    check: Callable[[Config], object] = lambda given: None,
) -> NoReturn:
    """Parse the flags, print what `execute` makes of them, and exit.

    Exit codes: 0; 2 for what the user can mend, told in one line on standard error; 130 after
    Ctrl-C; 141 where nobody reads the output any more; 1 for a bug, told with its traceback.

    Args:
        program: name of the binary, with which its messages begin.
        known: its flags by name.
        execute: values of all flags -> the text to print.
        if_interrupted: what to say after Ctrl-C.
        argv: the arguments; None: those of the process.
        check: ValueError, named by its flag, for values that can be refused without JAX.
    """
    _run(program, known, execute, if_interrupted, argv, check, devices=True)


def direct(
    program: str,
    known: Mapping[str, Flag],
    execute: Callable[[Config], str],
    if_interrupted: str = "",
    argv: Sequence[str] | None = None,
    check: Callable[[Config], object] = lambda given: None,
) -> NoReturn:
    """The same of a program that uses no devices, though processes that it starts may.

    JAX is not started, --compilation_cache is that of these processes, and other arguments than
    flags are the values of a flag "runs", where it has one. SIGTERM, which ends a job of a cluster,
    is answered as Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _run(program, known, execute, if_interrupted, argv, check, devices=False)


def _run(program: str, known, execute, if_interrupted: str, argv, check, devices: bool) -> NoReturn:
    streams.take_anything()
    after = f"; {if_interrupted}" if if_interrupted else ""
    interrupted = f"{program}: interrupted{after}"
    with hosts.answered(interrupted) as to_say:
        code, line = _ended(program, known, execute, argv, check, devices)
        if code == _INTERRUPTED:
            line = f"\n{interrupted}" if to_say() else ""
        _leave(code, line)


def _ended(program: str, known, execute, argv, check, devices: bool) -> tuple[int, str]:
    """Exit code and last line of a program, once it has done its work or failed."""
    given: Config = {}
    known = {**known, **(cluster.FLAGS if devices else {}), **compilation.FLAGS}
    try:
        argv = sys.argv[1:] if argv is None else argv
        if {"--help", "-help", "--helpfull", "-h"} & set(argv):
            streams.write(arguments.help_of(program, known))
        else:
            with hosts.unbroken():
                given |= arguments.parse(program, known, argv)
                logging.set_verbosity(logging.WARNING)
                bars.hold()
                _check(given, known, check, devices)
                _keep_memory()
            logging.get_absl_logger().addFilter(_is_no_error)
            if devices and "num_steps" not in known:  # nothing will train
                hosts.end_on_signal()
            text = execute(dict(given))
            if hosts.first():
                streams.write(hosts.shown(text))
        return 0, ""
    except KeyboardInterrupt:
        return _INTERRUPTED, ""
    except BrokenPipeError:
        return _DEAD_PIPE, ""
    except Exception as error:
        return _told(program, error, given)


def _told(program: str, error: Exception, given: Config) -> tuple[int, str]:
    """Exit code and last line; the traceback of what nobody expected goes before it."""
    why = _mendable(error, given)
    if why is not None:
        return _INVALID, f"{program}: {hosts.shown(' '.join(why.split()))}"
    if hosts.many() and isinstance(error, jax.errors.JaxRuntimeError):
        why = " ".join(str(error).split())[:200]
        return _BUG, f"{program}: {hosts.name()}: another process died or hangs ({why})"
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    what = f"{type(error).__name__}, a bug of dpm_jax {execution.version()}"
    return _BUG, f"{program}: {what}: please report it with the command and the lines above"


def _mendable(error: BaseException, given: Config) -> str | None:
    """What the user can do about an error, in one line; None for a bug."""
    if isinstance(error, (Invalid, *_trouble())):
        return str(error)
    text = str(error)
    found: BaseException | None = error
    while found is not None:
        full = next((f for f in _FULL if f in str(found)), None)
        if full or (isinstance(found, OSError) and found.errno is not None):
            return _of_system(found, full, given)
        found = found.__cause__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "bad_alloc" in text:
        return f"out of memory ({text or 'MemoryError'}): expected smaller sizes or batches"
    return None


def _trouble() -> tuple[type[Exception], ...]:
    """What training raises that the user can mend; nothing where it was not imported."""
    if "jax" not in sys.modules:
        return ()
    return training.Diverged, checkpoint.CheckpointError


_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def _of_system(error: BaseException, full: str | None, given: Config) -> str:
    """What the system refused, named by the flag whose path it is."""
    file = getattr(error, "filename", None)
    why = full or getattr(error, "strerror", None) or str(error)
    if file is None and isinstance(error, streams.StandardOutputError):
        return f"cannot write standard output: {why}"
    flag = flag_of_path(str(file), given) if file is not None else None
    place = given.get("out") or given.get("workdir")
    flag = flag or ("out" if given.get("out") else "workdir")
    return f"--{flag}: cannot write or read {place if file is None else file}: {why}"


def _check(given: Config, known: Mapping[str, Flag], check: Callable, devices: bool) -> None:
    """Refuse bad values; then join other processes, open the compilation cache, find devices."""
    try:
        values.check(given, known, optional=True)
        if not devices:
            kept = given.pop("compilation_cache")
            if kept is not None:
                os.environ["JAX_COMPILATION_CACHE_DIR"] = kept
            check(dict(given))
            return
        others, cache = cluster.take(given), given.pop("compilation_cache")
        check(dict(given))
        with bars.phase("starting JAX"), hosts.unbroken():
            if others is not None:
                cluster.join(others)
            compilation.use(cache)
            execution.check_alike(given)
            _check_devices()
    except ValueError as error:
        of = "" if str(error).startswith("JAX_") else "--"  # of the environment
        raise Invalid(f"{of}{error}") from error


def _check_devices() -> None:
    """The devices that the environment asks for."""
    try:
        jax.local_devices()
    except Exception as error:  # JAX raises anything, AssertionError too
        wanted = os.environ.get("JAX_PLATFORMS")
        why = f" ({error})" if str(error) else ""
        raise Invalid(
            f"JAX_PLATFORMS: expected platforms with devices on this machine, got {wanted!r}{why}"
        ) from error


def _with_presets(experiment: Experiment) -> dict[str, Flag]:
    """The flags of an experiment, without defaults: what is not given comes from the preset."""
    names = sorted(experiment.presets)
    found = {
        "workdir": Flag(Path, "Directory of the run: checkpoints, metrics, figures, report."),
        "preset": Flag(
            str,
            f"Defaults of all other flags: {', '.join(names)}.",
            experiment.preset,
            tuple(names),
        ),
    }
    for name, flag in flags_of(experiment).items():
        per_preset = ", ".join(f"{p}: {experiment.presets[p][name]}" for p in names)
        found[name] = flag._replace(help=f"{flag.help} ({per_preset})")
    found["init_from"] = HELP["init_from"]
    return found


def _is_no_error(record) -> bool:
    """Orbax logs the tracebacks of errors that it also raises."""
    return record.levelno < ERROR


def _leave(code: int, line: str) -> NoReturn:
    """Say the last line and exit; what a dead pipe or a full disk did not take is let go.

    What every process was refused for, process 0 says alone.
    """
    speaks = code == _BUG or hosts.first()
    streams.end(line if speaks else "")
    lost = hosts.joined() and not hosts.many()  # joined, and has no devices
    if lost or not hosts.leave(code):
        streams.end("" if speaks else line)
        hosts.exit_now(code or _BUG)
    sys.exit(code)


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
