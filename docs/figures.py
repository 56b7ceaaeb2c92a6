"""Draws the figure of each technique by calling its functions, so that a figure shows what the code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dapo_lightning.algorithm.advantage import GroupNormalized, LeaveOneOut, MeanCentered
from dapo_lightning.algorithm.cispo import Cispo
from dapo_lightning.algorithm.clip import Clip, NoClip
from dapo_lightning.algorithm.correction import NoCorrection, Truncated
from dapo_lightning.algorithm.dual import DualClip
from dapo_lightning.algorithm.kl import k3
from dapo_lightning.algorithm.loss import Blend, SampleLevel, TokenLevel
from dapo_lightning.algorithm.overlong import NoOverlong, Punish
from dapo_lightning.algorithm.ratio import TokenRatio
from dapo_lightning.algorithm.sampling import Dynamic
from dapo_lightning.algorithm.sapo import Sapo
from dapo_lightning.algorithm.tokens import CountedTokens, Tokens
from dapo_lightning.types import Completion, Grade, Group, Prompt, Trajectory

FIGURES: dict[str, Callable[[], Figure]] = {}


def figure(function: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a figure under the name of the function that draws it."""
    FIGURES[function.__name__] = function
    return function


def draw_figures(folder: Path) -> list[Path]:
    """Draws every registered figure into the folder, as SVG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "docs", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        for name, draw in FIGURES.items():
            paths.append(folder / f"{name}.svg")
            draw().savefig(paths[-1], metadata={"Date": None})
    return paths


@figure
def ratio() -> Figure:
    """The ratio of one token by the difference of its log-probs."""
    drawing, (axes,) = _axes(1)
    difference_T = torch.linspace(-30, 30, 241)
    axes.semilogy(difference_T, TokenRatio()(_tokens(logps_T=difference_T))[0])
    axes.set(xlabel="log-prob, new - old", ylabel="ratio")
    return drawing


@figure
def clip() -> Figure:
    """The objective of one token by its ratio, for a positive and a negative advantage."""
    drawing, (positive, negative) = _axes(2)
    ratio_T = torch.linspace(0.5, 1.6, 221)
    options = {"clip=higher": Clip(0.8, 1.28), "clip=symmetric": Clip(0.8, 1.2), "clip=none": NoClip()}
    for axes, advantage in ((positive, 1.0), (negative, -1.0)):
        for (name, option), style in zip(options.items(), ("-", "--", ":"), strict=True):
            tokens = _tokens(logps_T=ratio_T.log(), advantage=advantage)
            axes.plot(ratio_T, option(ratio_T[None], tokens).values_BT[0], style, label=name)
        axes.set(xlabel="ratio", ylabel="objective", title=f"advantage {advantage:+.0f}")
    positive.legend()
    return drawing


@figure
def clips() -> Figure:
    """The weight of the gradient of one token's log-prob by its ratio, divided by its advantage."""
    drawing, (positive, negative) = _axes(2)
    ratio_T = torch.linspace(0.5, 4.0, 281)
    options = {
        "clip=higher": Clip(0.8, 1.28),
        "clip=dual": DualClip(0.8, 1.28, 3.0),
        "clip=cispo, 2": Cispo(0.0, 2.0),
        "clip=sapo": Sapo(1.0, 1.05),
    }
    for axes, advantage in ((positive, 1.0), (negative, -1.0)):
        for (name, option), style in zip(options.items(), ("-", "--", "-.", ":"), strict=True):
            tokens = _tokens(logps_T=ratio_T.log().requires_grad_(), advantage=advantage)
            objective_BT = option(TokenRatio()(tokens), tokens).values_BT
            (slope_BT,) = torch.autograd.grad(objective_BT.sum(), tokens.logps_BT)
            axes.plot(ratio_T, slope_BT[0] / advantage, style, label=name)
        axes.set(xlabel="ratio", ylabel="gradient / advantage", title=f"advantage {advantage:+.0f}")
    positive.legend()
    return drawing


@figure
def loss() -> Figure:
    """What one completion and one of its tokens weigh, by the length of the completion; fifteen others have 100."""
    drawing, (token, completion) = _axes(2)
    lengths = torch.arange(1, 401, 3)
    options = {
        "loss=sample_level": SampleLevel(),
        "loss=blend, 0.5": Blend(0.5),
        "loss=token_level": TokenLevel(),
    }
    for (name, option), style in zip(options.items(), ("-", "--", "-."), strict=True):
        weight = torch.stack([option.weights(_counted([int(n), *[100] * 15]))[0, 0] for n in lengths])
        token.plot(lengths, weight * 1000, style, label=name)
        completion.plot(lengths, weight * lengths, style, label=name)
    token.set(xlabel="tokens of the completion", ylabel="weight of a token, 1/1000", ylim=(0, 3))
    completion.set(xlabel="tokens of the completion", ylabel="weight of the completion")
    token.legend()
    return drawing


@figure
def overlong() -> Figure:
    """The penalty by length, with the paper's limits."""
    drawing, (axes,) = _axes(1, width=6)
    lengths = torch.arange(12000, 22001, 50)
    punish = Punish(max_tokens=20480, cache_tokens=4096)
    axes.plot(lengths, punish.penalty(lengths), label="overlong=punish")
    axes.plot(lengths, NoOverlong().penalty(lengths), "--", label="overlong=none")
    axes.set(xlabel="tokens of the completion", ylabel="added to the reward")
    axes.legend()
    return drawing


@figure
def sampling() -> Figure:
    """The probability that a group is kept, by the probability that a completion is correct."""
    drawing, (axes,) = _axes(1, width=6)
    option, accuracy = Dynamic(max_rounds=1, at_cap="train_partial"), torch.linspace(0, 1, 201)
    for size, style in ((4, ":"), (8, "--"), (16, "-")):
        kept = sum(
            comb(size, correct) * accuracy**correct * (1 - accuracy) ** (size - correct)
            for correct in range(size + 1)
            if option.verdict(_group(correct, size)).keep
        )
        axes.plot(accuracy, kept, style, label=f"G = {size}")
    axes.set(xlabel="probability that a completion is correct", ylabel="probability that the group is kept")
    axes.legend()
    return drawing


@figure
def advantage() -> Figure:
    """The advantage of a correct and of a wrong completion, by how many of sixteen are correct."""
    drawing, (correct, wrong) = _axes(2)
    numbers = torch.arange(1, 16)
    rewards_PG = torch.where(torch.arange(16) < numbers[:, None], 1.0, -1.0)
    groups = [_group(int(number), 16) for number in numbers]
    options = {"group_normalized": GroupNormalized(), "leave_one_out": LeaveOneOut(), "mean_centered": MeanCentered()}
    for (name, option), style in zip(options.items(), ("o-", "s--", "^:"), strict=True):
        advantages_PG = option(rewards_PG, groups)[..., 0]
        correct.plot(numbers, advantages_PG[:, 0], style, markersize=3, label=f"advantage={name}")
        wrong.plot(numbers, advantages_PG[:, -1], style, markersize=3)
    for axes, title in ((correct, "correct, reward +1"), (wrong, "wrong, reward -1")):
        axes.set(xlabel="correct completions of 16", ylabel="advantage", title=title)
    correct.legend(fontsize=8)
    return drawing


@figure
def kl() -> Figure:
    """The estimate of the divergence by the difference of log-probs."""
    drawing, (axes,) = _axes(1)
    difference_T = torch.linspace(-3, 2, 201)
    axes.plot(difference_T, k3(difference_T, torch.zeros(())))
    axes.set(xlabel="log-prob, reference - policy", ylabel="penalty / coefficient")
    return drawing


@figure
def correction() -> Figure:
    """The weight of a token by the difference of its log-probs."""
    drawing, (axes,) = _axes(1, width=6)
    difference_T = torch.linspace(-2, 2, 201)
    tokens = _tokens(logps_T=difference_T, old_logps_T=difference_T)
    for name, option, style in (("truncated, cap 2", Truncated(2.0), "-"), ("none", NoCorrection(), "--")):
        axes.plot(difference_T, option(tokens).values_BT[0], style, label=f"correction={name}")
    axes.set(xlabel="log-prob, trainer - sampler", ylabel="weight")
    axes.legend()
    return drawing


def _axes(columns: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    drawing = Figure(figsize=(width * columns, 3.2), layout="constrained")
    return drawing, [drawing.add_subplot(1, columns, i + 1) for i in range(columns)]


def _tokens(logps_T: Tensor, old_logps_T: Tensor | None = None, advantage: float = 1.0) -> Tokens:
    """One row of tokens whose other log-probs are 0."""
    zeros_BT = torch.zeros_like(logps_T)[None]
    return Tokens(
        logps_BT=logps_T[None],
        old_logps_BT=zeros_BT if old_logps_T is None else old_logps_T[None],
        sampled_logps_BT=zeros_BT,
        advantages_BT=torch.full((1, 1), advantage),
        mask_BT=torch.ones_like(zeros_BT, dtype=torch.bool),
    )


def _counted(lengths: Sequence[int]) -> CountedTokens:
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return CountedTokens(mask_BT, torch.zeros(len(lengths), dtype=torch.long), torch.zeros(mask_BT.shape))


def _group(num_correct: int, size: int) -> Group:
    token_T = torch.zeros(1)
    trajectory = Trajectory.of(Completion(token_T.long(), token_T, token_T, truncated=False), policy_step=0)
    grades = tuple(Grade(1.0 if i < num_correct else -1.0, correct=i < num_correct) for i in range(size))
    return Group(0, Prompt("", "", ""), (0,), (trajectory,) * size, ("",) * size, grades)
