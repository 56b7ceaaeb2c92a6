import pytest
import torch
from objectives import marked, metric, objective_and_gradient, of_loop, random_tokens

from dapo_lightning.algorithm.kl_cov import KlCov
from dapo_lightning.algorithm.tokens import AllTokens


def test_the_highest_covariances_are_penalised_by_hand():
    logps = torch.tensor([-1.0, -3.0, -1.0, -3.0])
    tokens = AllTokens(torch.arange(4), logps, logps, torch.zeros(4), torch.tensor([1.5, -1.0, 0.5, -1.5]))
    covariance = (tokens.logps_N - tokens.logps_N.mean()) * (tokens.advantages_N - tokens.advantages_N.mean())
    for share, count in ((0.0002, 1), (0.5, 2), (1.0, 4)):
        marks = KlCov(share).marks(tokens)["clip/covariance"]
        assert set(marks.nonzero()[:, 0].tolist()) == set(covariance.argsort(descending=True)[:count].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula_of_verl(seed):
    """-r A, plus coefficient * |log pi - log pi_old| for the highest covariances, as a loss; no clip."""
    option, tokens = KlCov(0.2, coefficient=0.7), random_tokens(seed, rows=9)
    high = marked(option, tokens).marks["clip/covariance"]
    plain = of_loop(lambda logp, old, advantage: torch.exp(logp - old) * advantage, tokens)
    penalised = of_loop(lambda logp, old, a: torch.exp(logp - old) * a - 0.7 * (logp - old).abs(), tokens)
    for ours, one, other in zip(objective_and_gradient(option, tokens), plain, penalised, strict=True):
        torch.testing.assert_close(ours, torch.where(high, other, one), atol=1e-12, rtol=1e-12)
    count = int(tokens.mask_BT.sum())
    assert metric(option, tokens, "clip/covariance_fraction") == pytest.approx(int(0.2 * count) / count)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"clip\.share=2"):
        KlCov(2)
    with pytest.raises(ValueError, match=r"clip\.coefficient=0"):
        KlCov(0.1, 0)
