"""Who imports whom, what an import costs, and that everything public says what it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dpm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = (
    "tensorflow_datasets",
    "tensorflow",
    "orbax",
    "matplotlib",
    "flax",
    "optax",
    "tensorboardX",
    "absl",
    "scipy.optimize",
)
# Module -> the modules of dpm_jax it may import. Those not named here may import what they like.
ALLOWED = {
    "family": set(),
    "schedule": set(),
    "reporting": set(),
    "gaussian": {"family"},
    "binomial": {"family"},
    "discretized": {"family", "gaussian"},
    "bound": {"family", "schedule"},
    "sampling": {"family", "schedule"},
    "posterior": {"family", "schedule"},
    "particles": {"family", "schedule", "posterior"},
    "replacement": {"family", "schedule"},
    "likelihood": {"family", "schedule", "bound", "thermodynamics"},
    "thermodynamics": set(),
    "parzen": set(),
    "parallel": set(),
    "networks": {"networks"},
    "data": {"data"},
}


def modules():
    """(module or package below dpm_jax, file, syntax tree) of each file."""
    for file in FILES:
        relative = file.relative_to(PACKAGE)
        top = relative.parts[0] if len(relative.parts) > 1 else relative.stem
        yield top, file, ast.parse(file.read_text(encoding="utf-8"))


def imports(tree):
    """The modules of dpm_jax that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that this test can read them"
            parts = node.module.split(".")
            if parts == ["dpm_jax"]:
                found |= {name.name for name in node.names}
            elif parts[0] == "dpm_jax":
                found.add(parts[1])
        elif isinstance(node, ast.Import):
            for name in node.names:
                parts = name.name.split(".")
                if parts[0] == "dpm_jax":
                    found.add(parts[1] if len(parts) > 1 else "dpm_jax")
    return found


def docstrings(tree):
    """The string constants that are docstrings or stand alone."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def test_imports_point_one_way():
    seen = set()
    for top, file, tree in modules():
        seen.add(top)
        if top in ALLOWED:
            extra = imports(tree) - ALLOWED[top]
            assert not extra, f"{file.relative_to(ROOT)} imports {sorted(extra)}"
    assert {"family", "schedule", "bound", "sampling", "networks", "data"} <= seen


@pytest.mark.parametrize(
    "shared", ["bound", "sampling", "posterior", "particles", "replacement", "likelihood"]
)
def test_shared_code_names_neither_column(shared):
    path = PACKAGE / f"{shared}.py"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    columns = {"gaussian", "binomial", "Normal", "Bernoulli"}
    assert not columns & names
    # Shared code never looks inside the parameters, and never asks for the family's name.
    assert not {*columns, "variance", "logits", "name"} & attributes


def test_only_parallel_names_pmap_and_its_axis():
    collectives = {"pmap", "pmean", "psum", "all_gather", "axis_index", "shard_map"}
    for top, file, tree in modules():
        loose = docstrings(tree)
        for node in ast.walk(tree):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            axis = isinstance(node, ast.Constant) and node.value == "batch"
            if name in collectives or (axis and id(node) not in loose):
                place = f"{file.relative_to(ROOT)}:{node.lineno}"
                assert top == "parallel", f"{place} names {name or 'the axis'}"


def test_importing_the_package_costs_jax_alone():
    code = f"import dpm_jax, sys; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_all_names_what_the_package_imports():
    import dpm_jax

    assert sorted(dpm_jax.__all__) == dpm_jax.__all__
    assert all(hasattr(dpm_jax, name) for name in dpm_jax.__all__)


def public(body):
    """Public functions and classes of a module or class, and what classes hold."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_everything_public_has_a_docstring():
    missing = []
    for _, file, tree in modules():
        for node in (tree, *public(tree.body)):
            if not ast.get_docstring(node):
                missing.append(f"{file.relative_to(ROOT)}: {getattr(node, 'name', 'module')}")
    assert not missing, missing


def test_both_columns_have_the_same_functions_in_the_same_order():
    """Table App.1 can be read across: the fields of Family, in their order, in either file."""
    trees = {top: tree for top, _, tree in modules()}
    record = next(n for n in trees["family"].body if isinstance(n, ast.ClassDef))
    fields = [n.target.id for n in record.body if isinstance(n, ast.AnnAssign)]
    for column in ("gaussian", "binomial"):
        functions = [n.name for n in trees[column].body if isinstance(n, ast.FunctionDef)]
        public_functions = [name for name in functions if not name.startswith("_")]
        assert public_functions == [*fields[1:], "family"]
