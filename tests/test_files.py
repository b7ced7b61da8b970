"""Files are written whole or not at all, whatever ends the write."""

import json
import math
import os

import pytest

from dpm_jax import files


def test_write_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    files.write_json(path, {"K": 1.5})
    assert json.loads(path.read_text()) == {"K": 1.5}
    for bad in (math.nan, math.inf, object()):
        with pytest.raises((ValueError, TypeError)):
            files.write_json(path, {"K": bad})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"K": 2.5})
    assert json.loads(path.read_text()) == {"K": 1.5}
    monkeypatch.undo()
    files.write_json(str(path), {"K": 3.5})
    assert json.loads(path.read_text()) == {"K": 3.5}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    with pytest.raises(error), files.replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(error), files.replacing(str(path)):
        raise error  # before anything was written


def test_the_temporary_file_lies_beside_and_has_the_suffix(tmp_path):
    path = tmp_path / "figure.png"
    with files.replacing(path) as first, files.replacing(path) as second:
        assert first.parent == path.parent and first.suffix == ".png"
        assert len({first, second, path}) == 3  # two writers do not meet
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert not path.exists()
    assert path.read_bytes() == b"first"  # the last to end
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_absent_or_a_file_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("absent", "file"):
        with pytest.raises(OSError):
            files.write_json(tmp_path / folder / "x.json", {})
