"""From the arguments of a program to the values of its flags."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import flags

from dpm_jax.runs.config import Invalid
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.flags import Flag

_DEFINE: dict[type, Callable] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    Path: flags.DEFINE_string,
    list: flags.DEFINE_list,
}
_PARSED = {bool: "true or false", int: "a whole number", float: "a number"}


def _define(program: str, known: Mapping[str, Flag]) -> flags.FlagValues:
    found = flags.FlagValues()
    for name, flag in known.items():
        define = _DEFINE[flag.kind]
        define(name, flag.default, flag.help, flag_values=found, module_name=program)
    return found


def help_of(program: str, known: Mapping[str, Flag]) -> str:
    """The docstring of the program, and its flags."""
    about = sys.modules["__main__"].__doc__ or ""
    return f"{about}\nflags:\n{_define(program, known).get_help()}"


def parse(program: str, known: Mapping[str, Flag], argv: Sequence[str]) -> Config:
    """The values of all flags by name; arguments that are none, where "runs" is known, are its.

    Raises:
        Invalid: for an argument that is no flag, or has no value of its kind.
    """
    found = _define(program, known)
    try:
        rest = found([program, *argv])
    except flags.UnrecognizedFlagError as error:
        advice = str(error).partition("Did you mean: ")[2].rstrip(" ?")
        advice = f"; did you mean --{advice}?" if advice else ""
        raise Invalid(f"--{error.flagname}: expected a flag that --help lists{advice}") from error
    except (flags.Error, ValueError) as error:
        raise Invalid(_of_value(error, known)) from error
    values = {name: found[name].value for name in known}
    if len(rest) > 1 and "runs" in known:
        values["runs"] = [*(values["runs"] or ()), *rest[1:]]
    elif len(rest) > 1:
        raise Invalid(f"expected flags, which begin with --, got {rest[1]!r}")
    return values


def _of_value(error: Exception, known: Mapping[str, Flag]) -> str:
    """absl's message of a value that does not parse, in the form of all others."""
    told = re.match(r"flag --(\w+)=(.*)", str(error), re.DOTALL)
    if told is None or told[1] not in known:
        missing = re.fullmatch(r"Missing value for flag --?(\w+)", str(error))
        if missing:
            return f"--{missing[1]}: expected a value, got none"
        negated = re.fullmatch(r"--?no(\w+)=(.*) does not take an argument", str(error), re.DOTALL)
        if negated:
            return f"--no{negated[1]}: expected no value, got {negated[2]!r}"
        return f"--flagfile: expected a file of flags ({str(error).removeprefix('ERROR:: ')})"
    value = told[2].removesuffix(f": {error.__context__}")
    what = _PARSED.get(known[told[1]].kind, "another value")
    return f"--{told[1]}: expected {what}, got {value!r}"
