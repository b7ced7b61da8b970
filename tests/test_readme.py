"""The README keeps its word: the example runs, the equation table is true, CI runs its command."""

import doctest
import importlib
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def _named(dotted):
    """What README calls by this name below dpm_jax, as `from dpm_jax import ...` finds it."""
    found = importlib.import_module("dpm_jax")
    for part in dotted.split("."):
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What the examples leave behind: all of them, in their order, in one empty session."""
    names, before = {}, Path.cwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    try:
        for example in _blocks("python"):
            exec(example, names)
            plt.close("all")
        yield names
    finally:
        os.chdir(before)


def test_the_examples_model_two_moons(session):
    # Entropy of the moons by their own law: half circles of radius 1, uniform in angle, with noise.
    result = session["likelihood"].evaluate(session["m"], session["state"].ema, session["test"])
    assert str(result).startswith("K = −1.7")
    assert result.K_minus_L_null > 1.0  # an ellipse would have 0.19, a blob 0.455
    assert Path("moons.png").stat().st_size > 10_000
    log_p = session["log_p"]
    assert log_p.value > log_p.K and log_p.ess > 10


def test_the_network_of_ones_own_takes_the_events(session):
    mine = session["mine"]
    params = mine.init(jax.random.key(0))
    kernel = mine.chain(params).reverse(jnp.ones(2), jnp.asarray(3))
    assert kernel.mean.shape == kernel.variance.shape == (2,)


def test_the_run_comes_back(session):
    m, state, run = (session[name] for name in ("m", "state", "run"))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.ema, run.params)
    assert all(jax.tree.leaves(same))
    assert run.model.event_shape == m.event_shape


def test_the_posterior_examples(session):
    assert abs(session["found"].mean).max() < 1.0
    x = np.asarray(session["x"])
    assert x.shape == (1000, 2) and x.mean() > 0.1  # tilted by exp of half the sum


def test_every_equation_of_the_table_is_named_by_its_function():
    rows = re.findall(r"^\| ((?:eq|Sec|App|Table).*?) \| (.*?) \|$", README, re.M)
    assert len(rows) >= 12
    for paper, functions in rows:
        for dotted in re.findall(r"`([\w.]+)`", functions):
            text = _named(dotted).__doc__
            for part in re.findall(r"eq\. \d+|Sec\. [\d.]+\d|App\. B\.2|Table App\.1", paper):
                number = part.split()[-1]
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text), (dotted, part)


def test_ci_runs_the_test_command_of_the_readme():
    commands = [block.strip() for block in _blocks("sh")]
    assert len(commands) == 2
    assert "experiments/swiss_roll.py" in commands[0]
    assert commands[1].endswith("-m pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_worked_number_is_what_the_code_says():
    (block,) = _blocks("pycon")  # without its fence, which doctest would read as output
    test = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
    found = doctest.DocTestRunner().run(test)
    assert found.attempted == 2 and found.failed == 0
