"""A trained run as an object: configuration, model, parameters, data, report; load and save."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpm_jax import hosts, likelihood
from dpm_jax.core.family import checked
from dpm_jax.core.model import Model
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Evaluation, LogLikelihood, Rows
from dpm_jax.runs import identity, parts, places
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config, Experiment, Problem, find
from dpm_jax.training.checkpoint import CheckpointError, Checkpoints


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run."""

    workdir: Path
    config: Config  # every flag by name; of a model of your own: options and model
    problem: Problem  # model and data
    params: Any  # what is evaluated and sampled: the moving average (EMA)
    step: int  # of training, at which these parameters stand
    experiment: Experiment | None = None  # None: a model of your own

    @property
    def model(self) -> Model:
        """The model; `model.chain(params)` is the chain."""
        return self.problem.model

    @property
    def data(self) -> Any:
        """The training data as the run saw them (images: integers; a Stream); None: not kept."""
        return self.problem.data

    @property
    def test(self) -> Any:
        """The rows held out for K; None where not kept."""
        return self.problem.test

    @property
    def report(self) -> dict[str, Any] | None:
        """report.json; None where the run has none yet, ValueError where it does not read."""
        path = self.workdir / "report.json"
        return workdirs.read(path) if path.exists() else None

    def __str__(self) -> str:
        what = "a model of its own" if self.experiment is None else self.experiment.name
        preset = f", preset {self.config['preset']}" if self.config.get("preset") else ""
        steps = f"{self.step} training steps" if self.step else "saved"
        return f"{hosts.shown(str(self.workdir))}: {what}{preset}, {steps}"

    def rows(self, data: Any) -> tuple[np.ndarray, Callable | None]:
        """Data of the user's as rows, and what makes examples of them, scaled as the run's.

        Args:
            data: (n, *event), or one event. Images of integers are grey levels; all else is in the
                units of the model. None: the run's own test set.

        Raises:
            ValueError: for another shape, type or range than the run's.
        """
        if data is None:
            if self.test is None:
                raise ValueError("data: expected an array, since this run keeps no test set")
            return self.test, self.problem.prepare
        if np.ma.is_masked(data):
            raise ValueError("data: expected an array of numbers, got one with masked values")
        data = _shaped(np.asarray(data), self.model.event_shape)
        if self.problem.images is not None and data.dtype.kind in "iu":
            levels = self.problem.images.levels
            return dequantisation.check_rows("data", data, levels), self.problem.prepare
        if self.problem.images is not None and callable(self.model.last_step):
            raise ValueError(
                f"data: expected integers, whose probability this run has, got {data.dtype}"
            )
        data = checked(self.model.family, self.model.event_shape, "data", data, many=True)
        if self.problem.images is not None:
            images = self.problem.images
            dequantisation.check_units("data", data, images.mean, images.scale, images.levels)
        return data.astype(np.float32), None

    def evaluate(
        self,
        data: Any = None,
        passes: int | None = None,
        steps: int | None = None,
        rows: Rows = Rows(),
    ) -> Evaluation:
        """K (eq. 14) of data, ± a standard error, in nats per example.

        Args:
            data: as in `rows`; None: the run's own test set, as report.json has it.
            passes: as in `likelihood.evaluate`; None: as the run does, 0: the exact sum over all t.
            steps: respace the chain to so many steps.
            rows: seed, chunks and progress; `prepare` is the run's.

        Raises:
            ValueError: as `rows` and `likelihood.evaluate`.
        """
        found, prepare = self.rows(data)
        if data is None:
            found = found[: self.config.get("num_eval")]
        passes = self.config.get("passes") if passes is None else passes or None
        rows = rows._replace(prepare=prepare)
        return likelihood.evaluate(self.model, self.params, found, passes, steps, rows)

    def log_p(
        self, data: Any = None, num: int = 64, steps: int | None = None, rows: Rows = Rows()
    ) -> LogLikelihood:
        """log p (eq. 9) of data from `num` trajectories of each example; arguments as above.

        In the better order (`proposal.default`), as evaluate.py has it.
        """
        found, prepare = self.rows(data)
        of = (steps, rows._replace(prepare=prepare))
        order = likelihood.proposal.default(self.model.chain(self.params))
        works = likelihood.evaluate_works(self.model, self.params, found, num, *of, order)
        return likelihood.summarise(works)


def load(
    workdir: str | Path,
    model: Model | None = None,
    other_data: bool = False,
    data: bool = True,
    **given,
) -> Run:
    """The run in a work directory.

    Args:
        workdir: directory of the run.
        model: of a run of `fit` or `save` some part of whose model is not the library's.
        other_data: take data that are not those of the run, in its scaling.
        data: False: of images no data set is read, and `.data` and `.test` are None; model,
            samples, and K and log p of arrays work without.
        given: values for flags that say where data are or what is measured (dataset, image_dir,
            data_dir, manual_dir, num_eval, ...).

    Raises:
        ValueError: for a directory that holds no run, no checkpoint, or another version's; for data
            that are not those of the run, naming what differs.
        CheckpointError: where every checkpoint is damaged.
    """
    workdir = places.local(workdir or "")
    path, held = workdir / "config.json", workdirs.read_config(workdir)
    if "model" in held:
        return _load_own(workdir, held, model)
    try:
        experiment = find(str(held.get("experiment")))
    except ValueError as error:
        raise ValueError(f"workdir: {path}: {error}") from error
    config = workdirs.configuration(experiment, held, given, path)
    setup = experiment.setup if data else experiment.without_data or experiment.setup
    with _checkpoints(workdir) as checkpoints:
        problem = hosts.together(setup, config)
        if setup is experiment.setup and not other_data:
            hosts.together(_check_data, workdir, problem, config)
        params, step = _restore(checkpoints, problem.model, config)
    return Run(workdir, config, problem, params, step, experiment)


def save(workdir: str | Path, model: Model, params: Any) -> Run:
    """Keep a model built by hand and its parameters in a new directory; `load` reads them again.

    Raises:
        ValueError: for a directory that holds another run, or parameters of another shape than the
            model's.
        CheckpointError: for one that already holds parameters: nothing is overwritten.
    """
    config = {"experiment": None, "model": parts.encode(model)}
    place = hosts.together(workdirs.claim, places.local(workdir), config, False)
    if not _alike(params, jax.eval_shape(model.init, jax.random.key(0))):
        raise ValueError("params: expected those of the model, as model.init makes them")
    with (
        workdirs.locked(place),
        contextlib.closing(Checkpoints(place / "checkpoints")) as checkpoints,
    ):
        workdirs.claim(place, config, write=True)
        checkpoints.save(0, {"params": params})
    places.bring(place)
    return Run(place, config, Problem(model=model), params, 0)


def _alike(params: Any, like: Any) -> bool:
    (ours, own), (theirs, other) = jax.tree.flatten(params), jax.tree.flatten(like)
    return str(own) == str(other) and all(np.shape(a) == b.shape for a, b in zip(ours, theirs))


def starting_point(
    path: str, model: Model, workdir: Path
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What config.json says of the run that another starts from; and its parameters (EMA).

    Args:
        path: directory of the run to start from.
        model: of the run that starts.
        workdir: its directory; where it has a checkpoint already, that run is not read again.

    Raises:
        ValueError: where there is no run or no checkpoint, or of another architecture: names a
            leaf that differs.
    """
    own = workdir / "config.json"
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        if checkpoints.steps() and own.is_file():
            held = workdirs.read(own)
            return {name: held.get(name) for name in workdirs.INIT_FROM}, None
    try:
        start = places.local(path)
        config = workdirs.read_config(start)
        with _checkpoints(start) as checkpoints:
            like = jax.eval_shape(model.init, jax.random.key(0))
            found = checkpoints.restore(like, part(config))
            assert found is not None  # `_checkpoints` saw one
            digest = checkpoints.digest(found[0])
    except (ValueError, CheckpointError) as error:
        raise ValueError(f"init_from: {str(error).removeprefix('workdir: ')}") from error
    return dict(zip(workdirs.INIT_FROM, (found[0], digest))), found[1]


def _check_data(workdir: Path, problem: Problem, config: Config) -> None:
    """Refuse data that are not those of the run."""
    places = [name for name in workdirs.PLACES_OF_DATA if name in config]
    advice = "say where the same data are"
    advice += f" ({', '.join(places)})" if places else ""
    advice += ", or other_data to measure these"
    identity.check(identity.kept(workdir), identity.of(problem, config), workdir, advice)


def _load_own(workdir: Path, held: Config, model: Model | None) -> Run:
    """A run of `fit`, or what `save` kept."""
    try:
        model = parts.decode(held["model"]) if model is None else model
    except ValueError as error:
        raise ValueError(f"{error} ({workdir / 'config.json'})") from error
    with _checkpoints(workdir) as checkpoints:
        params, step = _restore(checkpoints, model, held)
    return Run(workdir, held, Problem(model=model), params, step)


@contextlib.contextmanager
def _checkpoints(workdir: Path) -> Iterator[Checkpoints]:
    """The checkpoints of a run; ValueError where there are none."""
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as found:
        if not found.steps():
            raise ValueError(f"workdir: {workdir} holds no checkpoint: train the run first")
        yield found


def _restore(checkpoints: Checkpoints, model: Model, config: Config) -> tuple[Any, int]:
    """Parameters and step of the newest; ValueError for another family's, or another model's."""
    try:
        found = checkpoints.restore(jax.eval_shape(model.init, jax.random.key(0)), part(config))
    except ValueError as error:
        raise ValueError(f"workdir: {error}") from error
    assert found is not None  # `_checkpoints` saw one
    return found[1], found[0]


def part(config: Config) -> str:
    """Under which name a run's checkpoints hold what is evaluated: "params" of `save`."""
    return "ema" if "num_steps" in config else "params"


def _shaped(data: np.ndarray, event: tuple[int, ...]) -> np.ndarray:
    """(n, *event) of an array that may lack the first axis, or the last of one colour."""
    if event and event[-1] == 1 and data.shape[-len(event) :] != event:
        data = data[..., None]
    data = data[None] if data.shape == event else data
    if data.shape[1:] != event or not len(data) or data.dtype.kind not in "biuf":
        got = f"{data.dtype} of shape {data.shape}"
        raise ValueError(f"data: expected numbers of shape {('n', *event)}, got {got}")
    return data
