"""`recipe=paper_32b`: the paper's hyper-parameters, and the table of them in docs/learn/paper.md."""

import re

import pytest
from omegaconf import OmegaConf
from runs import ROOT, config

from dapo_lightning.run.checks import check


@pytest.fixture(scope="module")
def composed():
    return config("recipe=paper_32b", "run_folder=x")


def test_it_is_dapo_with_what_section_4_1_says(composed):
    check(OmegaConf.to_container(composed, resolve=True))
    dapo = config("experiment=dapo", "run_folder=x")
    for group in ("clip", "loss", "sampling", "advantage", "kl", "correction"):
        assert composed[group] == dapo[group]
    assert composed.policy.name == "Qwen/Qwen2.5-32B" and "DAPO-Math-17k" in composed.data.train_path
    assert composed.policy.end_tokens == ["<|im_end|>"]  # or a base model's turns would not end
    completions = composed.num_prompts_per_step * composed.num_completions_per_prompt
    assert completions // composed.num_gradient_steps == 512
    assert composed.overlong.max_tokens - composed.overlong.cache_tokens == 16384


def test_the_table_of_the_page_says_the_same(composed):
    """Every row of the table whose key is code: its value is that of the configuration."""
    page = (ROOT / "docs/learn/paper.md").read_text()
    rows = re.findall(r"^\|[^|]*\|[^|]*\| `([a-z0-9_.]+)=([^`]+)`", page, re.MULTILINE)
    assert len(rows) >= 20
    for key, value in rows:
        assert str(OmegaConf.select(composed, key)) == value.replace("null", "None"), key


def test_what_is_given_on_the_command_line_holds():
    composed = config("recipe=paper_32b", "num_steps=7", "overlong=none", "policy.name=other", "run_folder=x")
    assert composed.num_steps == 7 and composed.policy.name == "other"
    assert list(composed.overlong) == ["_target_"] and composed.overlong._target_.endswith("NoOverlong")
