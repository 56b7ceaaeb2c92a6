"""Random tokens, and options of the objective evaluated on them in float64."""

import math
from dataclasses import replace

import torch

from dapo_lightning.algorithm.ratio import TokenRatio
from dapo_lightning.algorithm.tokens import AllTokens, Tokens


def one_token(ratio, advantage, old_probability=0.25):
    """A single token whose probability has changed by a ratio."""
    old = torch.tensor([[math.log(old_probability)]], dtype=torch.float64)
    logps = (old + math.log(ratio)).requires_grad_()
    return Tokens(logps, old, old, torch.tensor([[advantage]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool))


def random_tokens(seed=0, spread=0.6, rows=5, longest=7):
    """Rows of unequal length with one advantage each, some of them negative and one 0."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    mask_BT = torch.arange(longest) < torch.randint(1, longest + 1, (rows, 1), generator=generator)
    old_BT = torch.where(mask_BT, -3 * uniform(rows, longest) - 0.02, 0.0)
    logps_BT = torch.where(mask_BT, old_BT + spread * (2 * uniform(rows, longest) - 1), -1.0).clamp(max=-1e-3)
    advantages_B1 = 3 * uniform(rows, 1) - 1.5
    advantages_B1[0] = 0
    sampled_BT = torch.where(mask_BT, old_BT + spread * (2 * uniform(rows, longest) - 1), 0.0)
    entropies_BT = (2 * uniform(rows, longest)).requires_grad_()
    return Tokens(
        logps_BT.requires_grad_(), old_BT, sampled_BT, advantages_B1, mask_BT, logps_BT.detach() - 0.1, entropies_BT
    )


def marked(option, tokens):
    """The tokens with what the option marks on them when they are the whole mini-batch."""
    mask_BT = tokens.mask_BT
    whole = AllTokens(
        ids_N=torch.arange(int(mask_BT.sum())) % 7,
        logps_N=tokens.logps_BT.detach()[mask_BT],
        old_logps_N=tokens.old_logps_BT[mask_BT],
        entropies_N=tokens.entropies_BT.detach()[mask_BT],
        advantages_N=tokens.advantages_BT.expand(mask_BT.shape)[mask_BT],
    )
    zeros = torch.zeros(mask_BT.shape, dtype=torch.bool)
    return replace(tokens, marks={n: zeros.masked_scatter(mask_BT, v) for n, v in option.marks(whole).items()})


def objective_and_gradient(clip, tokens, ratio=None):
    """The objective of each token in the loss, and the gradient of its sum by the log-probs; 0 elsewhere."""
    tokens = marked(clip, tokens) if hasattr(clip, "marks") else tokens
    values_BT = clip((ratio or TokenRatio())(tokens), tokens).values_BT.where(tokens.mask_BT, 0.0)
    (gradient_BT,) = torch.autograd.grad(values_BT.sum(), tokens.logps_BT)
    return values_BT.detach(), gradient_BT


def of_loop(function, tokens):
    """The same for `function(logp, old, advantage) -> objective`, one token after another."""
    values, gradients = torch.zeros_like(tokens.old_logps_BT), torch.zeros_like(tokens.old_logps_BT)
    for b, t in tokens.mask_BT.nonzero().tolist():
        logp = tokens.logps_BT[b, t].detach().clone().requires_grad_()
        value = function(logp, tokens.old_logps_BT[b, t], tokens.advantages_BT[b, 0])
        values[b, t] = value.detach()
        if value.requires_grad:
            (gradients[b, t],) = torch.autograd.grad(value, logp)
    return values, gradients


def assert_is_the_loop(clip, function, seeds=range(5), spread=0.6):
    """The option is the obvious loop, in value and gradient, to 1e-12 in float64."""
    for seed in seeds:
        tokens = random_tokens(seed, spread)
        for ours, theirs in zip(objective_and_gradient(clip, tokens), of_loop(function, tokens), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def metric(clip, tokens, name, ratio=None):
    """The value of a metric of an option."""
    tokens = marked(clip, tokens) if hasattr(clip, "marks") else tokens
    return clip((ratio or TokenRatio())(tokens), tokens).metrics[name].reduce(tokens.mask_BT).value
