"""The paper's ladder and the leave-one-outs: presets that differ by exactly what their names say."""

import pytest
from omegaconf import OmegaConf
from runs import config

LADDER = [
    ("ladder_0_grpo", None, "symmetric sample_level none static"),
    ("ladder_1_overlong_filter", "overlong", "symmetric sample_level filter static"),
    ("ladder_2_clip_higher", "clip", "higher sample_level filter static"),
    ("ladder_3_soft_punishment", "overlong", "higher sample_level punish static"),
    ("ladder_4_token_level", "loss", "higher token_level punish static"),
    ("ladder_5_dynamic_sampling", "sampling", "higher token_level punish dynamic"),
]
LEFT_OUT = [
    ("dapo_minus_clip_higher", "clip", "symmetric"),
    ("dapo_minus_token_level", "loss", "sample_level"),
    ("dapo_minus_soft_punishment", "overlong", "none"),
    ("dapo_minus_dynamic_sampling", "sampling", "static"),
]


def composed(*overrides):
    return OmegaConf.to_container(config(*overrides, "run_folder=x"), resolve=True)


def difference(one, other):
    return {key for key in one if one[key] != other[key]}


def test_each_rung_adds_exactly_its_technique():
    """Table 1 of the paper, from naive GRPO to DAPO."""
    steps = [composed(f"experiment={name}") for name, _, _ in LADDER]
    for (_, group, _), below, above in zip(LADDER[1:], steps[:-1], steps[1:], strict=True):
        assert difference(below, above) == {group}
    assert steps[0] == composed("experiment=grpo")
    assert steps[-1] == composed("experiment=dapo")


@pytest.mark.parametrize(("name", "group", "options"), LADDER)
def test_steps_are_what_the_paper_says(name, group, options):
    clip, loss, overlong, sampling = options.split()
    picked = (f"clip={clip}", f"loss={loss}", f"overlong={overlong}", f"sampling={sampling}")
    assert composed(f"experiment={name}") == composed(*picked)


@pytest.mark.parametrize(("name", "group", "option"), LEFT_OUT)
def test_leaving_one_out_changes_that_one(name, group, option):
    assert composed(f"experiment={name}") == composed(f"{group}={option}")
    assert difference(composed(f"experiment={name}"), composed("experiment=dapo")) == {group}
