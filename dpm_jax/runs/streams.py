"""Standard output and error of a binary, which may be full, closed, or know few characters."""

import contextlib
import os
import sys


class StandardOutputError(OSError):
    """Standard output does not take the text."""


def write(text: str) -> None:
    """The text on standard output, a line; StandardOutputError where that does not take it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StandardOutputError(error.errno, error.strerror) from error


def take_anything() -> None:
    """Characters that the terminal lacks are written as \\u escapes; no terminal takes all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def end(line: str) -> None:
    """The last line on standard error, if any; what neither takes is let go."""
    with contextlib.suppress(OSError):
        if line:
            print(line, file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # else the interpreter tries again, and says so
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
