"""The diagnosis as one page of text."""

from __future__ import annotations

from collections.abc import Iterator

from dapo_lightning.doctor.examination import Diagnosis
from dapo_lightning.doctor.references import References
from dapo_lightning.doctor.sample import Sample
from dapo_lightning.doctor.visible import visible
from dapo_lightning.plan.report import duration

_ROWS, _WIDTH, _BAR, _END = 3, 118, 40, 48


def as_text(diagnosis: Diagnosis, page: str) -> str:
    """Returns the page.

    Args:
        page: the file that shows everything.
    """
    return "\n" + "\n".join(_lines(diagnosis, page)) + "\n"


def facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Returns what was measured, by name."""
    numbers, references, sample, expected = (
        diagnosis.num_prompts, diagnosis.references, diagnosis.sample, diagnosis.forecast,
    )  # fmt: skip
    found = [
        ("prompts", ", ".join(f"{number:,} {split}" for split, number in numbers.items())),
        (
            "prompt length",
            f"{diagnosis.lengths['mean']:.0f} tokens on average, the longest {diagnosis.lengths['longest']}",
        ),
        ("references", _references(references)),
    ]
    for name, of_set in diagnosis.references_of_sets.items():
        found.append((f"set {name}", _references(of_set)))
    if sample:
        found += [
            ("sample", f"{sample.num_completions} completions for each of {sample.num_prompts} train prompts"),
            ("accuracy", f"{sample.accuracy:.1%} right, {sample.useful:.0%} of the prompts with right and wrong ones"),
            ("no answer", "the reward reads none" if sample.no_answer is None else f"{sample.no_answer:.1%}"),
            ("not graded", f"{sample.not_graded:.1%}"),
            ("lengths", "mean {:.0f}, median {:.0f}, 90 % {:.0f}, 99 % {:.0f} tokens".format(
                sample.mean_length, *sample.percentiles)),
            ("truncated", f"{sample.truncated:.1%}"),
            ("soft punishment", f"would hit {sample.punished:.1%} of the right completions, and take "
                                f"{-sample.penalty:.2f} from right ones on average"),
        ]  # fmt: skip
    if expected:
        found += [
            ("a DAPO step", f"{expected.rounds:.1f} rounds of sampling, {expected.groups:.0f} groups, "
                            f"{expected.tokens:,.0f} tokens generated"),
            ("short batches", f"{expected.short:.0%} of the steps"),
            ("on this machine", f"{duration(expected.tokens / expected.sampled_per_second)} to sample a step, at "
                                f"{expected.sampled_per_second:,.0f} tokens per second"),
            ("by mode=plan", f"at least {expected.planned} for the whole step" if expected.planned
                             else "this model is not planned"),
        ]  # fmt: skip
    return found


def bars(sample: Sample) -> list[tuple[str, int]]:
    """Returns the histogram of pass rates: right completions of a prompt, and the number of such prompts."""
    return [(f"{right}/{sample.num_completions}", count) for right, count in enumerate(sample.pass_rates)]


def verdict(diagnosis: Diagnosis) -> str:
    """Returns the result in a few words."""
    number = len(diagnosis.findings)
    return "nothing was found" if not number else f"{number} finding{'s' * (number > 1)}"


def _references(references: References) -> str:
    if not references.num_graded:
        return "none was graded"
    stages = ", ".join(f"{stage} {count:,}" for stage, count in references.stages.items())
    right = f"{references.num_right:,} of {references.num_graded:,} grade themselves right"
    return f"{right} ({stages})" if stages else right


def _lines(diagnosis: Diagnosis, page: str) -> Iterator[str]:
    yield from (f"{name:<17}{fact}" for name, fact in facts(diagnosis))
    if diagnosis.sample:
        yield "\nright completions of a prompt, and number of prompts"
        counts = bars(diagnosis.sample)
        most = max(count for _, count in counts)
        yield from (f"{label:>7}  {'█' * round(_BAR * count / most):<{_BAR}} {count}" for label, count in counts)
    if diagnosis.near_misses:
        yield "\nwrong answers that look most like right ones (read them: is the reward mistaken?)"
        for miss in diagnosis.near_misses[:10]:
            answer = "no answer" if miss.answer is None else repr(miss.answer)
            end = ", cut off" if miss.cut_off else ""
            yield _short(f"  {miss.source}: {answer} for {miss.reference!r}{end}, in {_end_of(miss.text)}")
    yield f"\n{verdict(diagnosis)}"
    for finding in diagnosis.findings:
        yield f"- {visible(finding.sentence)} [{finding.kind}]"
        yield from (_short(f"    {row}") for row in finding.rows[:_ROWS])
        if len(finding.rows) > _ROWS:
            yield f"    and {len(finding.rows) - _ROWS:,} more"
    yield f"\neverything        {page}"


def _end_of(text: str) -> str:
    return repr(text if len(text) <= _END else f"…{text[-_END:]}")


def _short(line: str) -> str:
    line = visible(line).replace("\n", "⏎")
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
