"""What TensorBoard shows beside the curves: the paper's figures as custom scalars, and a run as a row of HPARAMS."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped]

# Category -> chart -> tag, a regular expression. Each chart has one tag, because TensorBoard draws all lines of a run
# in one colour. TensorBoard merges the layouts of all runs.
FIGURES: dict[str, dict[str, str]] = {
    "Held-out accuracy (Table 1, Fig. 1, Fig. 6)": {
        "avg@k": r"validation/avg@\d+$",
        "pass@k": r"validation/pass@\d+$",
        "maj@k": r"validation/maj@\d+$",
        "avg@k of evaluation.sets": r"validation/(?!turn_\d+/)[\w-]+/avg@\d+$",
    },
    "Clip-Higher (Fig. 2, Fig. 3a)": {
        "entropy, nats per token": "entropy$",
        "share of tokens clipped from above": "clip/upper_fraction$",
        "share of tokens clipped from below": "clip/lower_fraction$",
        "mean probability of tokens clipped from above": "clip/upper_probability$",
    },
    "Dynamic sampling (Fig. 3b)": {
        "share of groups with all completions correct": "groups/all_correct$",
        "share of groups with all completions wrong": "groups/all_wrong$",
        "share of groups with both": "groups/useful$",
        "groups generated per group trained on": "sampling/generated_per_trained$",
        "sampling rounds": "sampling/rounds$",
    },
    "Token-level loss (Fig. 4)": {
        "entropy, nats per token": "entropy$",
        "mean completion length, tokens": "length/mean$",
    },
    "Overlong completions (Fig. 5)": {
        "share truncated": "length/truncated$",
        "share truncated, held-out": "validation/truncated$",
        "mean penalty": "overlong/penalty$",
        "entropy, nats per token": "entropy$",
    },
    "The full run (Fig. 7)": {
        "mean completion length, tokens": "length/mean$",
        "mean reward": "reward/mean$",
        "entropy, nats per token": "entropy$",
        "mean token probability": "probability$",
    },
    "Health": {
        "accuracy in training": "accuracy$",
        "gradient norm before clipping": "gradient/norm$",
        "gradient steps skipped": "gradient/skipped$",
        "mean ratio": "ratio/mean$",
        "largest ratio": "ratio/max$",
        "KL to the policy that sampled": "kl/old$",
        "gap between log-probs of sampling and training": "sampling/logp_gap$",
        "learning rate": "learning_rate$",
    },
    "Cost": {
        "seconds per step, generating": "seconds/generate$",
        "seconds per step, grading": "seconds/grade$",
        "seconds per step, waiting for other ranks": "seconds/wait$",
        "seconds per step, updating": "seconds/update$",
        "tokens generated per step": "tokens/generated$",
        "tokens trained on per step": "tokens/trained$",
        "peak memory, MB": "memory/peak_mb$",
    },
}

SHOWN = ("clip.upper", "experiment", "optimizer.lr", "policy", "seed")  # the columns that the tab shows at first
CHANGED_BY_RESUMING = ("num_steps",)  # TensorBoard would keep the first value that it reads
METRICS = ("avg@", "pass@", "maj@", "entropy", "truncated", "length")  # of an evaluation, in the order of the columns


def layout(metrics: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns the figures, and one more chart for each metric that no figure shows, in the format of SummaryWriter."""
    shown = [tag for charts in FIGURES.values() for tag in charts.values()]
    others = {name: f"{re.escape(name)}$" for name in sorted(metrics) if not any(re.match(tag, name) for tag in shown)}
    return {
        category: {chart: ["Multiline", [tag]] for chart, tag in charts.items()}
        for category, charts in {**FIGURES, "Other metrics": others}.items()
    }


def row(
    hyperparameters: Mapping[str, Any], numbers: Iterable[str], evaluation: Sequence[str]
) -> tuple[Summary, Summary]:
    """Returns the columns of the HPARAMS tab and the row of a run.

    Args:
        numbers: the names of all numeric hyperparameters of all options.
        evaluation: the tags of the metrics of an evaluation.
    """
    values = {name: value for name, value in hyperparameters.items() if name not in CHANGED_BY_RESUMING}
    return _columns(values, numbers, _metric_tags(evaluation)), _start(values)


def end() -> Summary:
    """Returns the mark of a run that is complete."""
    info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))


def _metric_tags(evaluation: Sequence[str]) -> list[str]:
    """Returns the tags of the metric columns, with pass@k only for the largest k."""
    found = [
        tag
        for kind in METRICS
        for tag in evaluation
        if tag.removeprefix("validation/").startswith(kind) and not tag.endswith("_ci95")
    ]
    passes = [tag for tag in found if "/pass@" in tag]
    return [tag for tag in found if tag not in passes[:-1]] + ["steps/dapo"]


def _columns(values: dict[str, Any], numbers_of_options: Iterable[str], tags: Iterable[str]) -> Summary:
    """Returns the columns of the HPARAMS tab. TensorBoard shows those at first that are marked as `differs`."""
    numbers = {name for name, value in values.items() if type(value) in (int, float)}.union(numbers_of_options)
    infos = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DATA_TYPE_FLOAT64 if name in numbers else api_pb2.DATA_TYPE_STRING,
            differs=name in SHOWN,
        )
        for name in sorted(numbers.union(values))
    ]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in tags]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
    return _summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _start(values: dict[str, Any]) -> Summary:
    """Returns the row of a run with its hyperparameters. Columns of options that it did not choose stay empty."""
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if type(value) in (int, float):
            start.hparams[name].number_value = value
        elif value is not None:
            start.hparams[name].string_value = str(value)
    return _summary(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))


def _summary(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary:
    made = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=made, tensor=metadata.NULL_TENSOR)])
