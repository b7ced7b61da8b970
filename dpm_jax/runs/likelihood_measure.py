"""What evaluate.py measures of a run: K, works, sandwich, Σ p, and the figure of their losses."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax import likelihood
from dpm_jax.likelihood import Evaluation, Losses, Rows
from dpm_jax.runs import bars, plots
from dpm_jax.runs import likelihood_report as report
from dpm_jax.runs.config import Invalid
from dpm_jax.runs.effort import Effort
from dpm_jax.runs.run import Run

_PROFILED = 16  # trajectories of an example for the figure
_EXAMPLES = 2  # images for the figure


class Measure(NamedTuple):
    """How a run is measured."""

    run: Run
    effort: Effort
    steps: int | None
    seed: int

    def rows(self, offset: int, name: str) -> Rows:
        """How rows are gone through, under a bar of this name."""
        more = {"at_once": self.effort.lanes, "progress": bars.batches(name)}
        return Rows(self.seed + offset, **more)

    def K(self, rows) -> Evaluation:
        """K (eq. 14) of the run's rows."""
        of = self.rows(0, "K")._replace(at_once=None)
        found = self.run.evaluate(rows, steps=self.steps, rows=of)
        _check("K", np.asarray([found.K]))
        return found

    def log_p(self, bound: Evaluation, x0: np.ndarray) -> report.Measured:
        """log p (eq. 9) of these examples for each M."""
        run, counts = self.run, self.effort.counts
        of = (self.steps, self.rows(2, "log p"), self.effort.proposal)
        works = likelihood.evaluate_works(run.model, run.params, x0, counts[-1], *of)
        _check("log p", works)
        with bars.phase("log p of the works"):
            return report.Measured(bound, [likelihood.summarise(works, num) for num in counts])

    def of_the_run(self, found: report.Measured, x0: np.ndarray) -> report.Measured:
        """What is measured besides of the run's own test set: sandwich, Σ p, the truth."""
        run, effort, exact, steps = self.run, self.effort, self.run.problem.exact, self.steps
        num, points, proposal = effort.counts[-1], 10 * effort.examples, effort.proposal
        of = (effort.model_samples, num, steps, self.rows(3, "sandwich"), proposal)
        pairs = likelihood.evaluate_sandwich(run.model, run.params, *of)
        _check("the sandwich", pairs)
        rows = self.rows(5, "Σ p")
        return found._replace(
            pairs=pairs,
            total=report.normalisation(run, num, points, steps, rows, proposal),
            truth=None if exact.log_p is None else np.asarray(exact.log_p(x0), np.float64),
            ceiling=exact.ceiling(self.seed, steps),
        )

    def draw(self, x0: np.ndarray, path: Path) -> None:
        """The figure: where K is lost, between the entropies of eq. 24."""
        run, rows = self.run, self.rows(4, "profile")
        schedule = run.model.chain(run.params).schedule
        lanes = min(self.effort.lanes, max(_PROFILED, 4_000_000 // schedule.T))  # it holds every t
        rows = rows._replace(at_once=lanes)
        x0 = x0 if run.problem.images is None else x0[:_EXAMPLES]
        of = (x0, _PROFILED, self.steps, rows)
        found = likelihood.evaluate_dissipation(run.model, run.params, *of)
        entropies = run.problem.exact.entropies
        exact = None if entropies is None or self.steps is not None else entropies(schedule)
        plots.dissipation(path, found, x0[0].size, exact, self.losses(x0))

    def losses(self, x0: np.ndarray) -> Losses | None:
        """What is lost in vain by level; None of bits, whose kernels have no score."""
        if not self.run.model.family.noise.additive:
            return None
        of = (x0, _PROFILED, self.steps, self.rows(6, "losses"))
        return likelihood.evaluate_losses(self.run.model, self.run.params, *of)


def _check(name: str, values: np.ndarray) -> None:
    """Refuse to tell numbers of a network that gives none."""
    broken = np.isnan(values.reshape(len(values), -1)).any(axis=1)
    if broken.any():
        raise Invalid(
            f"--workdir: expected a network that gives numbers, got NaN in {name} of"
            f" {broken.sum()} of {len(values)}"
        )
