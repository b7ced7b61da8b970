"""The tutorial runs from top to bottom, and what it says is what its cells compute."""

import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

NOTEBOOK = Path(__file__).resolve().parents[1] / "experiments" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What the cells leave behind: all of them, in their order, in one empty session."""
    names, before, drawn = {}, Path.cwd(), 0
    os.chdir(tmp_path_factory.mktemp("tutorial"))
    try:
        for cell in CODE:
            exec("".join(cell["source"]), names)
            drawn += len(plt.get_fignums())
            plt.close("all")
        assert not list(Path.cwd().iterdir())  # it writes nothing beside itself
        yield names | {"drawn": drawn}
    finally:
        os.chdir(before)


def within(estimate, truth):
    low, high = (float(end) for end in estimate.interval)
    return low <= truth <= high < np.inf


def test_k_is_below_its_ceiling_and_log_p_between(session):
    bound, ceiling, many = (session[name] for name in ("bound", "ceiling", "many"))
    assert ceiling - 0.3 < bound.K < ceiling + 2 * bound.K_error
    assert many.K < many.log_p < session["truth"] + 3 * many.trajectory_error
    log_p = session["log_p"]
    assert log_p.is_value and log_p.value > log_p.K


def test_the_sandwich_is_narrow_and_the_right_way_round(session):
    assert -0.01 < session["width"] < 0.1


def test_own_data_have_a_density_in_their_own_units(session):
    found, scale = session["own_log_p"], session["scale"]
    # A helix of radius 10 and pitch 6π with noise 1: uniform along 4π √109, normal across it.
    law = -np.log(4 * np.pi * np.sqrt(109)) - np.log(2 * np.pi * np.e)
    assert law - 1 < session["raw_log_p"] < law + 3 * found.error
    assert found.log_p - session["raw_log_p"] == pytest.approx(3 * np.log(scale))
    assert found.log_p > session["own_bound"].L_null


def test_an_r_of_ones_own_gives_the_posterior(session):
    found = session["found"]
    np.testing.assert_allclose(found.mean, session["expected"], atol=0.08)
    assert abs(float(found.log_z) - session["log_z"]) < 0.08 and found.ancestors > 100
    assert np.asarray(session["test"]).mean() < found.mean.mean() - 0.2  # r moved it


def test_one_estimator_finds_what_is_known_of_trap_and_chain(session):
    fast, slow = (session["driven"][time][1] for time in (1.0, 100.0))
    assert not fast.is_value and float(fast.low) < session["minus_delta_F"]
    assert slow.is_value and within(slow, session["minus_delta_F"])
    found = session["linear_log_p"]
    assert session["known"] - 0.3 > found.K and within(found, session["known"])


def test_the_network_and_the_experiment_of_ones_own(session):
    mine = session["mine"]
    kernel = mine.chain(mine.init(jax.random.key(0))).reverse(jnp.ones(2), jnp.asarray(3))
    assert kernel.mean.shape == kernel.variance.shape == (2,)
    run, again = session["run"], session["again"]
    assert run.experiment.name == "my_roll" and again.step == 100 and again.config["T"] == 20
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), run.params, again.params))


def test_the_outputs_kept_are_of_these_cells(session):
    """Numbers differ in the last digits from machine to machine; what is printed does not."""
    kept = [output for cell in CODE for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in kept) == session["drawn"] == 4
    text = "".join("".join(output.get("text", "")) for output in kept)
    shown = float(re.search(r"in bits: K = (-?[\d.]+)", text)[1])
    bound = session["bound"]
    assert abs(shown - session["units"].bits(bound.K)) < 5 * bound.K_error
    assert NOTEBOOK.stat().st_size < 400_000 and not re.search("Traceback|/tmp|/work", text)
