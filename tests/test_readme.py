"""The README keeps its word: the example runs, the equation table is true, CI runs its command."""

import doctest
import importlib
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt

from dpm_jax.exact import swiss_roll as exact

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


def test_the_ten_lines_model_the_roll(session):
    m, state, test = (session[name] for name in ("m", "state", "test"))
    result = session["likelihood"].evaluate(m, state.ema, test)
    most = exact.ceiling(beta_1=1e-3, noise=0.5, last_step="fixed")
    assert most - 0.2 < result.K < most + 3 * result.K_error
    block = next(block for block in _blocks("python") if "likelihood.estimate" in block)
    assert (
        sum("import" not in line and line[:1] not in ("", "#") for line in block.split("\n")) <= 10
    )
    estimate = session["likelihood"].estimate
    log_p = estimate(jax.random.key(1), m.chain(state.ema), test[0], num=256)
    assert log_p.is_value and log_p.value > log_p.K and log_p.ess > 25
    assert Path("roll.png").stat().st_size > 10_000


def test_the_numbers_shown_are_those_printed(session):
    """But for the last digits, which are the machine's."""
    m, state, test = (session[name] for name in ("m", "state", "test"))
    shown = float(re.search(r"# K = −([\d.]+) ±", README)[1])
    found = session["likelihood"].evaluate(m, state.ema, test)
    assert abs(found.K + shown) < 3 * found.K_error


def test_trained_weights_load_where_the_package_is(session):
    run = session["run"]
    assert run.experiment.name == "swiss_roll" and run.report["K_bits"] < 0
    assert run.log_p(run.test[:20], num=256).examples == 20


def test_the_run_comes_back(session):
    m, state, run = (session[name] for name in ("m", "state", "mine_again"))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.ema, run.params)
    assert all(jax.tree.leaves(same))
    assert run.model.event_shape == m.event_shape


def test_the_posterior_keeps_what_is_known(session):
    found = session["found"]
    np.testing.assert_allclose(found.mean[0], 0.5, atol=1e-6)
    assert found.variance[0] < 1e-12 < found.variance[1] and found.ancestors > 30


def test_a_digit_classifier_guides(session, dpm_data, monkeypatch):
    """Judged by other digits, which the classifier never saw: a tenth of the model's are threes."""
    if not (dpm_data / "mnist").is_dir():
        pytest.skip(f"no mnist in {dpm_data}")
    monkeypatch.setenv("DPM_DATA", str(dpm_data))
    names = dict(session)
    (example,) = _blocks("python mnist")
    exec(example, names)
    right = names["y"][6000 + np.array(names["nearest"])] == 3
    assert names["threes"].shape == (16, 28, 28, 1) and right.mean() > 0.45


def test_pictures_and_links_are_there():
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)|src=\"([^\"]+)\"", README)
    places = {one or other for one, other in links}
    assert any(place.endswith(".png") for place in places)
    missing = [place for place in places if not (ROOT / place).exists()]
    assert not missing
    pictures = list((ROOT / "experiments" / "pictures").glob("*"))
    assert {f"experiments/pictures/{path.name}" for path in pictures} <= places
    assert sum(path.stat().st_size for path in pictures) < 600_000


def test_contents_name_headings():
    headings = re.findall(r"^## (.+)$", README, re.M)
    named = {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= named


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
