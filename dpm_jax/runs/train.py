"""Training in a work directory: progress bar, metrics.csv, TensorBoard events, signals."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from dpm_jax import hosts, training, units
from dpm_jax.runs import bars, identity, places
from dpm_jax.runs.config import Invalid
from dpm_jax.runs.experiment import Problem
from dpm_jax.runs.metrics import Board, MetricsFile
from dpm_jax.training.checkpoint import Checkpoints
from dpm_jax.training.watch import stop_asked


def train(
    problem: Problem, options: training.Options, workdir: Path, params: Any = None
) -> tuple[training.TrainState, dict[str, Any]]:
    """`training.fit` from the last checkpoint of a work directory: the final state, and facts.

    Args:
        problem: model and data.
        options: how to train.
        workdir: the directory, claimed and locked.
        params: where step 0 starts; None: `model.init`.

    Returns:
        The state; `seconds` of training, and the machines that it was `trained_on`.

    Raises:
        Invalid: for checkpoints of another model.
        KeyboardInterrupt: where a signal ended it early, with a checkpoint.
    """
    kept = Checkpoints(workdir / "checkpoints", after=lambda: places.bring_soon(workdir, now=True))
    hosts.at_exit(kept.settle)
    with contextlib.closing(kept) as checkpoints:
        try:
            with bars.phase("initial parameters, or the last checkpoint"):
                state = training.initial_state(problem.model, options, checkpoints, params)
        except ValueError as error:  # a checkpoint of another tree or shape
            raise Invalid(f"--workdir: {error}") from error
        metrics, step = MetricsFile(workdir / "metrics.csv", int(state.step)), int(state.step)
        bars.begin()
        bars.say(_beginning(problem, options, state, step))
        going_on = step < options.num_steps
        machines = identity.note_machine(workdir, step) if going_on else identity.machines(workdir)
        if going_on:
            _warn_of_devices(workdir, machines, step)
            state = _fit(problem, options, workdir, checkpoints, state, metrics)
        hosts.end_on_signal()
    places.bring(workdir)
    facts = {"seconds": metrics.seconds_at(int(state.step)), "trained_on": machines}
    return state, facts


def _beginning(problem: Problem, options: training.Options, state, step: int) -> str:
    """What is known of a run once its model and data are there."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shape = "×".join(map(str, problem.model.event_shape))
    device = jax.local_devices()[0].device_kind
    held = "no" if problem.test is None else f"{len(problem.test):,}"
    data = jax.tree.leaves(problem.data)[0]
    rows = f"{len(data):,}" if hasattr(data, "__len__") else "streamed"
    where = f"goes on at step {step:,}" if step else "step 0"
    return (
        f"{parameters:,} parameters; {rows} examples of {shape} to train, {held} held out;"
        f" {jax.device_count()} × {device}, JAX {jax.__version__}; {where} of {options.num_steps:,}"
    )


def _warn_of_devices(workdir: Path, machines: list[dict[str, Any]], step: int) -> None:
    if len(machines) > 1 and machines[-1]["from_step"] == step:
        was, now = ("{devices} {backend} device(s)".format(**each) for each in machines[-2:])
        if was != now:
            logging.warning(
                "%s: trained on %s up to step %d, on %s from here: K will not be that of a run on"
                " one machine, to the bit",
                hosts.shown(str(workdir)), was, step, now,
            )  # fmt: skip


def _fit(problem, options, workdir: Path, checkpoints, state, metrics: MetricsFile):
    start = int(state.step)
    with (
        contextlib.closing(Board(workdir / "tensorboard", metrics.rows)) as board,
        bars.bar(None, "train", "step", True, total=options.num_steps, initial=start) as shown,
        stop_asked() as asked,
    ):
        state = training.fit(
            problem.model,
            problem.data,
            options,
            problem.draw,
            state,
            checkpoints,
            _logger(workdir, metrics, board, shown, metrics.seconds_at(start)),
            _stop(shown, asked),
            shown,
        )
    if int(state.step) < options.num_steps:
        raise KeyboardInterrupt(f"saved at step {int(state.step)}; the same call resumes")
    return state


def _stop(shown, asked: Callable[[], bool]) -> Callable[[], bool]:
    """`asked`, which `training.fit` calls after each dispatch; the bar says what is waited for."""
    compiling = "compiling the step"
    shown.set_postfix_str(compiling)

    def stop() -> bool:
        if asked():
            shown.set_postfix_str("stopping: saves a checkpoint")
            return True
        if shown.postfix == compiling:
            shown.set_postfix_str("", refresh=False)
        return False

    return stop


def _logger(workdir: Path, metrics: MetricsFile, board: Board, shown, before: float):
    """on_log of `training.fit`: one row, the same to TensorBoard, and the bar."""
    begun = time.monotonic()

    def on_log(state: training.TrainState) -> None:
        step, K = int(state.step), units.bits(float(state.K))
        seconds = round(before + time.monotonic() - begun, 2)
        row = {"step": step, "seconds": seconds, "K_bits": K}
        row |= {"grad_norm": float(state.grad_norm), "skipped": int(state.skipped)}
        board.add(metrics.append(**row))
        shown.set_postfix_str(f"K = {K:.3f} bits", refresh=False)
        places.bring_soon(workdir)

    return on_log
