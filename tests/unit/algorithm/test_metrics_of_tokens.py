"""Metrics of tokens: the same value however the tokens are divided into micro-batches."""

import pytest
import torch

from dapo_lightning.algorithm.tokens import EffectiveSize, Max, Mean

MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (Mean, [[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]], 3.0),
        (Max, [[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]], 6.0),
        (EffectiveSize, [[0.0, 0.0, 9.0], [0.0, 9.0, 9.0]], 1.0),
        (EffectiveSize, [[2.0, 2.0, 9.0], [2.0, 9.0, 9.0]], 1.0),
        # weights 1, 1 and 2: (1 + 1 + 2)^2 / (3 (1 + 1 + 4))
        (EffectiveSize, [[0.0, 0.0, 9.0], [0.6931471805599453, 9.0, 9.0]], 16 / 18),
    ],
)
def test_value_of_the_whole_and_of_the_sum_of_parts(kind, values, expected):
    values = torch.tensor(values)
    assert kind(values).reduce(MASK).value == pytest.approx(expected)
    parts = [kind(values[row : row + 1]).reduce(MASK[row : row + 1]) for row in (0, 1)]
    assert (parts[0] + parts[1]).value == pytest.approx(expected)
