"""The README keeps its word: the example runs, the equation table is true, CI runs its command."""

import doctest
import importlib
import re
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_example_trains_and_bounds_a_laplace_law():
    (example,) = [block for block in _blocks("python") if "training.fit" in block]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 15
    names = {}
    exec(example, names)
    assert names["x"].shape == (1000, 3)
    result = names["evaluation"].evaluate(names["m"], names["state"].ema, names["data"][:2000])
    # Entropy of a unit-variance Laplace: 1 + log(2 b), b = 1/sqrt(2). K may not pass −h(X_1), which
    # is at most −h(X_0) = −3 (1 + log √2) here, and a fair network comes near it.
    truth = -3 * (1 + np.log(np.sqrt(2)))
    assert truth - 0.3 < result.K < truth + 4 * result.K_error
    K, L_null = names["model"].log_likelihood_bound(
        names["m"], names["state"].ema, jax.random.key(2), names["data"][:10]
    )
    assert K.shape == L_null.shape == (10,)
    the_posterior_examples(names)


def the_posterior_examples(names):
    """What README does with that model: posteriors of independent Laplace variables."""
    inpainting, tilting = [block for block in _blocks("python") if "tilt = " in block]
    for block in (inpainting, tilting):
        assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(inpainting, names)
    found = names["found"]
    assert (np.asarray(found.x[:, :2]) == [1, -0.5]).all()
    assert abs(found.mean[2]) < 0.25 and abs(found.variance[2] - 1) < 0.4
    assert abs(found.log_z - (-np.log(2) - np.sqrt(2) * 1.5)) < 0.5
    exec(tilting, names)
    x = np.asarray(names["x"])
    # A Laplace variable tilted by exp(x/2) has the mean 1/(2 − 1/4) = 0.57; to first order 0.5.
    assert x.shape == (1000, 3) and 0.2 < x.mean() < 0.8


def test_every_equation_of_the_table_is_named_by_its_function():
    rows = re.findall(r"^\| ((?:eq|Sec|App|Table).*?) \| (.*?) \|$", README, re.M)
    assert len(rows) >= 12
    for paper, functions in rows:
        for dotted in re.findall(r"`([\w.]+)`", functions):
            module, name = dotted.rsplit(".", 1)
            function = getattr(importlib.import_module(f"dpm_jax.{module}"), name)
            text = function.__doc__
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
