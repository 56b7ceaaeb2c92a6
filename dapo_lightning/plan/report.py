"""A plan as text. A GB is 10^9 bytes, as on datasheets."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.plan.advice import Change
from dapo_lightning.plan.assessment import Assessment
from dapo_lightning.utils.table import table


def text(current: Assessment, advice: Sequence[Change], advised: Assessment | None) -> str:
    """Returns memory, work, verdict and advice."""
    parts = [_title(current), _memory(current), _work(current), _verdict(current)]
    if advised is not None:
        totals, usable = advised.totals, advised.cluster.usable_bytes
        peak = max(totals, key=totals.__getitem__)
        parts += [
            "It fits with all of these changes, each of which is necessary:",
            table(("change", "affects"), [(change.override, change.affects) for change in advice]),
            f"The peak is then {_gb(totals[peak])} of {_gb(usable)} GB ({peak}); {_step(advised)}",
        ]
    elif not current.fits:
        parts.append("No change that was tried makes it fit: use a smaller model or policy=lora.")
    return "\n\n".join(parts)


def _title(current: Assessment) -> str:
    sizes, cluster, train = current.sizes, current.cluster, current.job.train
    tied = ", LM head tied to the embeddings" if sizes.is_tied else ""
    placement = "sharded (FSDP2)" if current.job.sharded else "whole on each rank"
    ranks_per_node = min(cluster.num_accelerators, cluster.node_size)
    return (
        f"{sizes.parameters / 1e9:.3f} billion weights in {sizes.num_layers} layers{tied}, {placement}, on "
        f"{cluster.num_accelerators} x {cluster.accelerator.name}: {_gb(cluster.accelerator.memory_bytes)} GB each, of "
        f"which {_gb(cluster.usable_bytes)} are usable.\n"
        f"Each rank samples {train.num_completions} completions for each of {train.num_groups} prompts of "
        f"{train.prompt_tokens} tokens; a completion has at most {train.max_new_tokens} tokens and "
        f"{train.mean_tokens:g} on average.\n"
        f"Loading takes {_gb(current.loading_bytes)} GB of host memory per rank, "
        f"{_gb(current.loading_bytes * ranks_per_node)} GB per node."
    )


def _memory(current: Assessment) -> str:
    names = dict.fromkeys(name for items in current.phases.values() for name in items)
    rows = [(name, *(_gb(items.get(name, 0.0)) for items in current.phases.values())) for name in names]
    rows.append(("total", *map(_gb, current.totals.values())))
    return table(("GB per rank, at the peak of", *current.phases), rows)


def _work(current: Assessment) -> str:
    rows = []
    for part in current.work:
        numbers = (part.flops / 1e12, part.bytes / 1e12, (part.exchanged + part.shared) / 1e12)
        all_ranks = current.cluster.num_accelerators * part.flops / 1e15
        seconds = duration(part.seconds(current.job, current.cluster))
        rows.append((part.name, *(f"{number:.4g}" for number in (*numbers, all_ranks)), seconds))
    header = ("a DAPO step, per rank", "TFLOP", "TB read", "TB exchanged", "PFLOP on all ranks", "minimum time")
    return table(header, rows)


def _verdict(current: Assessment) -> str:
    if current.fits:
        return f"It fits; {_step(current)}"
    usable, reasons = current.cluster.usable_bytes, list(current.obstacles)
    missing = [f"{_gb(total - usable)} ({phase})" for phase, total in current.totals.items() if total > usable]
    if missing:
        reasons.append(f"GB missing on each rank: {', '.join(missing)}.")
    return "\n".join(["It does not fit.", *reasons])


def _step(current: Assessment) -> str:
    return f"a step takes at least {duration(current.seconds)}."


def duration(seconds: float) -> str:
    """Returns a duration in a suitable unit."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def _gb(num_bytes: float) -> str:
    billions = num_bytes / 1e9
    return f"{billions:,.0f}" if billions >= 100 else f"{billions:.3g}"
