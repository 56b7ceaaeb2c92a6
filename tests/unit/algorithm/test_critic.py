import pytest
import torch

from dapo_lightning.algorithm.critic import ValueModel
from dapo_lightning.algorithm.tokens import ExplainedVariance

EVERYWHERE = torch.ones(1, 5, dtype=torch.bool)


def test_the_value_loss_and_its_gradient_at_the_edges_of_the_clip():
    """Old value 0, clip 0.2, return 1: a value above 0.2 has moved as far as it may. Away from the return, it is always
    pulled back."""
    values = torch.tensor([[-0.5, 0.1, 0.2, 0.3, 2.5]], requires_grad=True)
    found = ValueModel(1e-4, clip=0.2).loss(values, torch.zeros(1, 5), torch.ones(1, 5))
    torch.testing.assert_close(found.values_BT.detach(), torch.tensor([[1.5**2, 0.9**2, 0.8**2, 0.8**2, 1.5**2]]) / 2)
    found.values_BT.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[-1.5, -0.9, -0.8, 0.0, 1.5]]))
    assert found.metrics["critic/clip_fraction"].reduce(EVERYWHERE).value == pytest.approx(0.2)


def test_without_a_clip_the_gradient_is_the_error():
    values = torch.tensor([[-0.5, 0.1, 0.2, 0.3, 2.5]], requires_grad=True)
    found = ValueModel(1e-4).loss(values, torch.zeros(1, 5), torch.ones(1, 5))
    found.values_BT.sum().backward()
    torch.testing.assert_close(values.grad, values.detach() - 1)
    assert found.metrics["critic/clip_fraction"].reduce(EVERYWHERE).value == 0


def test_explained_variance_adds_up_over_parts_and_is_none_for_constant_returns():
    returns, values = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    whole = ExplainedVariance(values, returns).reduce(mask)
    parts = [ExplainedVariance(values[i : i + 2], returns[i : i + 2]).reduce(mask[i : i + 2]) for i in (0, 2)]
    expected = 1 - (returns - values)[mask].var(correction=0) / returns[mask].var(correction=0)
    assert whole.value == pytest.approx(float(expected), abs=1e-6)
    assert (parts[0] + parts[1]).value == pytest.approx(whole.value)
    assert ExplainedVariance(returns, returns).reduce(mask).value == 1
    assert ExplainedVariance(values, torch.ones(4, 6)).reduce(mask).value is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": 0.0}, "critic.learning_rate"),
        ({"clip": 0.0}, "critic.clip"),
        ({"pretraining_steps": -1}, "critic.pre"),
    ],
)
def test_numbers_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        ValueModel(**{"learning_rate": 1e-4, **options})
