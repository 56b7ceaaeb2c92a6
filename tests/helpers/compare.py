"""Runs that must be equal up to rounding."""

import json

import pytest
from conftest import tiny
from runs import weights


def assert_the_same(one, other):
    """Sums are in another order; Adam turns relative differences of tiny gradients into absolute ones of its step."""
    ours, theirs = weights(one), weights(other)
    moved = max(float((ours[name] - start).abs().max()) for name, start in tiny(seed=0).model.state_dict().items())
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert apart < 0.01 * moved, (apart, moved)
    for name in ("before", "after", "tokens", "gradient_steps", "useful_group_share"):
        numbers = [json.loads((folder / "summary.json").read_text())[name] for folder in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4), name
