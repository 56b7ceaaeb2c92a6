"""Loggers whose packages are not installed; tests/slow/loggers runs them where they are."""

from importlib.util import find_spec

import pytest
from runs import ends_with

from dapo_lightning.policy.warm_start import WarmStart


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_the_command_that_installs_it_is_named_before_anything_is_loaded(name, monkeypatch, tmp_path):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WarmStart, "__call__", lambda *_: pytest.fail("it was not refused"))
    said = ends_with(monkeypatch, f"+logger={name}")
    assert said == f'error: the package {name} is missing: pip install "dapo-lightning[{name}]".'
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
