import itertools
from statistics import fmean

import pytest
from conftest import make_group

from dapo_lightning.metrics import GroupRecord, completion_metrics, evaluation_metrics, majority_correct, pass_at_k
from dapo_lightning.study.summary import table


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 2), (5, 2, 3), (6, 0, 2), (6, 6, 1), (8, 5, 4)])
def test_pass_at_k_is_the_mean_over_all_subsets(n, c, k):
    subsets = itertools.combinations([True] * c + [False] * (n - c), k)
    assert pass_at_k(n, c, k) == pytest.approx(fmean(any(subset) for subset in subsets))


def test_pass_at_k_needs_k_completions():
    with pytest.raises(ValueError, match="pass@8"):
        pass_at_k(4, 2, 8)


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [(["3", "3", "4"], "3", 1.0), (["3", "3", "4"], "4", 0.0), (["3", "4"], "4", 0.5), ([None, None, "4"], "4", 1.0),
     ([None, None], "4", 0.0)],
)  # fmt: skip
def test_majority(answers, right, expected):
    assert majority_correct(answers, [answer == right for answer in answers]) == expected


def test_means_are_over_completions_and_over_tokens():
    groups = [make_group(0, [1.0, -1.0], [2, 6], [False, True]), make_group(1, [1.0, 1.0], [4, 4])]
    records = [GroupRecord.of(group, [0.0, -0.5]) for group in groups]
    metrics = completion_metrics(records)
    assert metrics["accuracy"] == 0.75
    assert metrics["reward/mean"] == pytest.approx((1 - 1.5 + 1 + 0.5) / 4)
    assert metrics["overlong/penalty"] == -0.25
    assert (metrics["length/mean"], metrics["length/min"], metrics["length/max"]) == (4.0, 2.0, 6.0)
    assert metrics["length/truncated"] == 0.25
    tokens = [float(x) for group in groups for c in group.completions for x in c.entropies]
    assert metrics["entropy"] == pytest.approx(fmean(tokens), rel=1e-5)


def test_an_interval_needs_two_prompts():
    records = [GroupRecord.of(make_group(number, [1.0, -1.0]), [0.0, 0.0]) for number in (0, 1)]
    assert not [name for name in evaluation_metrics(records[:1]) if "ci95" in name]
    names = [name for name in evaluation_metrics(records) if "ci95" in name]
    assert names == ["avg@2_ci95", "pass@2_ci95"]


@pytest.mark.parametrize("swap", [False, True])
def test_what_one_evaluation_lacks_is_a_dash_in_the_table(swap):
    """No completion had an answer to vote with, or a single prompt was evaluated."""
    columns = [{"avg@2": 0.5, "length": 3.0}, {"avg@2": 1.0, "maj@2": 0.25, "length": 2.0, "avg@2_ci95": 0.125}]
    cells = [["0.500", "1.000 ± 0.125"], ["-", "0.250"], ["3.000", "2.000"]]
    lines = table(columns[::-1] if swap else columns)
    expected = [row[::-1] if swap else row for row in cells]
    assert [[line[22:38].strip(), line[38:].strip()] for line in lines] == expected
    assert [line.split()[0] for line in lines] == ["avg@2", "maj@2", "length"]
