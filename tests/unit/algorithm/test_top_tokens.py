import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from losses import gradient, on_policy
from objectives import marked, random_tokens

from dapo_lightning.algorithm.tokens import AllTokens
from dapo_lightning.algorithm.top_tokens import TopTokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.step.host import PolicyHost


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.2, [False, False, True, False, False]), (0.21, [True, False, True, False, False]), (1.0, [True] * 5)],
)
def test_by_hand(share, expected):
    entropies = torch.tensor([0.7, 0.1, 0.9, 0.0, 0.3])
    tokens = AllTokens(torch.arange(5), entropies, entropies, entropies, entropies)
    assert TopTokens(share).marks(tokens)["entropy/top"].tolist() == expected


def test_the_others_have_neither_objective_nor_gradient():
    for seed in range(5):
        tokens = marked(TopTokens(0.2), random_tokens(seed, rows=9))
        objective = (tokens.logps_BT - tokens.old_logps_BT).exp() * tokens.advantages_BT
        found = TopTokens(0.2)(objective, tokens)
        top, mask = tokens.marks["entropy/top"], tokens.mask_BT
        threshold = torch.quantile(tokens.entropies_BT[mask].detach(), 0.8)  # TRL's get_high_entropy_mask
        assert torch.equal(top, mask & (tokens.entropies_BT >= threshold))
        (ours,) = torch.autograd.grad(found.values_BT[mask].sum(), tokens.logps_BT)
        assert torch.equal(ours != 0, top & (objective != 0))
        assert found.metrics["entropy/top_fraction"].reduce(mask).value == pytest.approx(
            (top.sum() / mask.sum()).item()
        )


def test_the_denominator_counts_all_tokens_and_no_cut_changes_the_gradient():
    options, model = algorithm(entropy=TopTokens(0.3)), tiny(seed=1).model
    batch = mini_batch([make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [1, -1, -1])], options)
    assert sum(row.weights.item() * row.trajectory.num_tokens for row in batch.rows) == pytest.approx(1.0)
    rows = PolicyHost(tiny(seed=1), 0.8, 1000, True).marked(on_policy(batch.rows), options, Ranks())
    whole, _, metrics = gradient(model, rows, options)
    assert metrics["entropy/top_fraction"].total == -(-batch.num_tokens * 3 // 10)
    cut, _, _ = gradient(model, rows, options, 15)
    torch.testing.assert_close(cut, whole, atol=1e-5 * whole.abs().max().item(), rtol=0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match=r"entropy\.share="):
        TopTokens(share)
