"""A plan as text for people. GB are 10^9 bytes, as on datasheets."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.plan.advice import Change
from dapo_lightning.plan.assessment import Assessment

AFFECTS = {
    "memory": "memory and speed only",
    "rounding": "the rounding too",
    "hardware": "another cluster",
    "evaluation": "what is evaluated",
    "training": "what is trained",
}


def text(stands: Assessment, advice: Sequence[Change], changed: Assessment | None) -> str:
    """Memory, work, verdict, and what to change."""
    parts = [_title(stands), _memory(stands), _work(stands), _verdict(stands)]
    if changed is not None:
        rows = [(change.override, AFFECTS[change.affects]) for change in advice]
        peak = changed.peak
        parts += [
            "It fits with all of these, and not with fewer:",
            table(("change", "changes"), rows),
            f"The most is then needed by {peak.name}, {_gb(peak.total)} of {_gb(changed.cluster.usable_bytes)} GB; "
            f"a step takes {duration(sum(changed.seconds().values()))} at least.",
        ]
    elif not stands.fits:
        parts.append("No change that was tried makes it fit: take a smaller model, or policy=lora.")
    return "\n\n".join(parts)


def _title(stands: Assessment) -> str:
    sizes, cluster, chip = stands.sizes, stands.cluster, stands.cluster.accelerator
    tied = ", LM head tied to the embeddings" if sizes.is_tied else ""
    how = "sharded (FSDP2)" if stands.job.sharded else "whole on each rank"
    train = stands.job.train
    return (
        f"{sizes.parameters / 1e9:.3f} billion weights in {sizes.num_layers} layers{tied}, {how}, on "
        f"{cluster.num_accelerators} x {chip.name}: {_gb(chip.memory_bytes)} GB each, "
        f"{_gb(cluster.usable_bytes)} of them usable.\n"
        f"Each rank samples {train.num_completions} completions for each of {train.num_groups} prompts of "
        f"{train.prompt_tokens} tokens: at most {train.max_new_tokens} tokens, {train.mean_tokens:g} on average.\n"
        f"Loading takes {_gb(stands.loading_bytes)} GB of the host's memory per rank, "
        f"{_gb(stands.loading_bytes * min(cluster.num_accelerators, cluster.node_size))} GB per node."
    )


def _memory(stands: Assessment) -> str:
    names = list(dict.fromkeys(name for phase in stands.phases for name in phase.items))
    rows = [(name, *(_gb(phase.items.get(name, 0.0)) for phase in stands.phases)) for name in names]
    rows.append(("total", *(_gb(phase.total) for phase in stands.phases)))
    return table(("GB per rank, at the peak of", *(phase.name for phase in stands.phases)), rows)


def _work(stands: Assessment) -> str:
    ranks = stands.cluster.num_accelerators
    rows = [
        (
            part.name,
            f"{part.flops / 1e12:.4g}",
            f"{part.bytes / 1e12:.4g}",
            f"{part.exchanged / 1e12:.4g}",
            f"{ranks * part.flops / 1e15:.4g}",
            duration(part.seconds(stands.job, stands.cluster)),
        )
        for part in stands.work
    ]
    header = ("a DAPO step, per rank", "TFLOP", "TB read", "TB exchanged", "PFLOP of all ranks", "takes at least")
    return table(header, rows)


def _verdict(stands: Assessment) -> str:
    if stands.fits:
        return f"It fits. A step takes {duration(sum(stands.seconds().values()))} at least."
    usable, reasons = stands.cluster.usable_bytes, list(stands.obstacles)
    lacking = [phase for phase in stands.phases if phase.total > usable]
    if lacking:
        lacks = ", ".join(f"{_gb(phase.total - usable)} ({phase.name})" for phase in lacking)
        reasons.append(f"GB that each rank lacks: {lacks}.")
    return "\n".join(["It does not fit.", *reasons])


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned markdown: the first column to the left, all others to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def _gb(num_bytes: float) -> str:
    billions = num_bytes / 1e9
    return f"{billions:,.0f}" if billions >= 100 else f"{billions:.3g}"
