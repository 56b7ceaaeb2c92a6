import itertools
from dataclasses import dataclass, replace
from statistics import fmean

import pytest
from conftest import make_group

from dapo_lightning.algorithm.overlong import Punish
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.reward import Reward
from dapo_lightning.reward.exact import Exact
from dapo_lightning.reward.math import Math
from dapo_lightning.reward.weighted import Weighted
from dapo_lightning.step.metrics import (
    answer_metrics,
    completion_metrics,
    evaluation_metrics,
    grading_metrics,
    majority_correct,
    pass_at_k,
)
from dapo_lightning.types import Grade, Prompt


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


def test_the_majority_is_of_answers_not_of_spellings():
    spellings = [r"\boxed{1/2}", r"\boxed{\frac12}", "Answer: 0.5", r"\boxed{3}", r"\boxed{3}"]
    prompt = Prompt("?", "1/2", "test:0")
    grades = Math(1, 60.0, 1000)([prompt] * 5, spellings)
    assert majority_correct([grade.answer for grade in grades], [grade.correct for grade in grades]) == 0.0
    metrics = evaluation_metrics([record_of(grades)], Exact("#"))
    assert metrics["maj@5"] == 1.0
    exact = Exact("#")([Prompt("?", "0.5", "test:0")] * 3, ["#1/2", "#1/2 ", "#0.5"])
    assert (
        evaluation_metrics([record_of(exact)], Exact("#"))["maj@3"] == 0.0
    )  # it compares strings, and so it counts them
    weighted = Weighted({"a": 1.0}, "a", a=Scripted(grades))([prompt] * 5, spellings)
    assert evaluation_metrics([record_of(weighted)], Exact("#"))["maj@5"] == 1.0


@dataclass(frozen=True)
class Scripted(Reward):
    grades: list

    def submit(self, prompts, completions):
        return lambda: self.grades


def record_of(grades):
    return GroupRecord.of(replace(make_group(0, [1.0] * len(grades)), grades=tuple(grades)))


def test_not_graded_are_those_that_grading_failed_on_not_wrong_answers():
    texts = [r"\boxed{1+}", rf"\boxed{{{'1' * 501}}}", "no answer", "y" * 60, r"\boxed{x+1}"]
    careless = r"\\boxed\{(.*)\}|(?:y+)+z"  # matches in exponential time
    grades = Math(1, 1.5, 1000, careless)([Prompt("?", "x+1", "test:0")] * 5, texts)
    assert [grade.failure for grade in grades] == [None, None, None, "timeout", None]
    records = [record_of(grades)]
    assert evaluation_metrics(records, Exact("#"))["not_graded"] == 0.2
    counted = {"timeout": 1.0, "memory": 0.0, "crash": 0.0, "error": 0.0}
    assert grading_metrics(records) == {f"grading/{reason}": count for reason, count in counted.items()}


def test_programs_are_counted_by_what_became_of_them():
    kinds = ["passed", "wrong", "wrong", None]
    counted = grading_metrics([record_of([Grade(0.0, correct=False, kind=kind) for kind in kinds])])
    assert (counted["programs/passed"], counted["programs/wrong"], counted["programs/timeout"]) == (1.0, 2.0, 0.0)


def test_answers_are_counted_by_the_stage_that_decided():
    reward = Math(1, 60.0, 1000)
    texts = ["no answer", r"\boxed{x+1}", r"\boxed{1+x}", r"\boxed{x+}", rf"\boxed{{{'1' * 501}}}", ""]
    found = answer_metrics([record_of(reward([Prompt("?", "x+1", "test:0")] * 6, texts))], reward)
    shares = {"no_answer": 2, "stage_string": 1, "stage_number": 0, "stage_symbolic": 1, "stage_too_long": 1}
    assert found == {f"reward/{name}": count / 6 for name, count in (shares | {"unparsed": 1}).items()}
    parts = Weighted({"math": 1.0, "a": 1.0}, "math", math=reward, a=Scripted([]))
    assert answer_metrics([record_of([Grade(0.0, correct=False)])], parts).keys() == found.keys()
    assert answer_metrics([record_of([Grade(0.0, correct=False)])], Scripted([])) == {}  # it reads no answers
    failed = [Grade(0.0, False, failure="timeout"), Grade(0.0, False), Grade(1.0, True, "1")]
    assert answer_metrics([record_of(failed)], Exact("#")) == {"reward/no_answer": pytest.approx(1 / 3)}


def test_means_are_over_completions_and_over_tokens():
    groups = [make_group(0, [1.0, -1.0], [2, 6], [False, True]), make_group(1, [1.0, 1.0], [4, 4])]
    records = [GroupRecord.of(group) for group in groups]
    metrics = completion_metrics(records, Punish(max_tokens=6, cache_tokens=4))
    assert metrics["accuracy"] == 0.75
    assert metrics["reward/mean"] == pytest.approx((1 - 2 + 0.5 + 0.5) / 4)
    assert metrics["overlong/penalty"] == -0.5  # of 2, 6, 4 and 4 tokens: 0, -1, -0.5, -0.5
    assert (metrics["length/mean"], metrics["length/min"], metrics["length/max"]) == (4.0, 2.0, 6.0)
    assert metrics["length/truncated"] == 0.25
    tokens = [float(x) for group in groups for t in group.trajectories for x in t.entropies_T]
    assert metrics["entropy"] == pytest.approx(fmean(tokens), rel=1e-5)


def test_an_interval_needs_two_prompts():
    records = [GroupRecord.of(make_group(number, [1.0, -1.0])) for number in (0, 1)]
    assert not [name for name in evaluation_metrics(records[:1], Exact("#")) if "ci95" in name]
    names = [name for name in evaluation_metrics(records, Exact("#")) if "ci95" in name]
    assert names == ["avg@2_ci95", "pass@2_ci95"]
