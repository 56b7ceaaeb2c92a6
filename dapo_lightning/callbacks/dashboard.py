"""TensorBoard laid out after the paper: its figures as custom scalars, a run as a row of the HPARAMS tab."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped]

# Category -> chart -> tag, a regular expression. One tag a chart: TensorBoard gives all lines of a run one colour.
# The same for all runs, as TensorBoard merges the layouts it finds.
FIGURES: dict[str, dict[str, str]] = {
    "Held-out accuracy (Table 1, Fig. 1, Fig. 6)": {
        "avg@k": r"validation/avg@\d+$",
        "pass@k": r"validation/pass@\d+$",
        "maj@k": r"validation/maj@\d+$",
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

SHOWN = ("clip.upper", "experiment", "optimizer.lr", "policy", "seed")  # the tab shows five unasked
# TensorBoard takes the columns from one run: each must also name what only the options of others have.
NUMBERS_OF_OPTIONS = (
    "advantage.epsilon",
    "clip.lower",
    "clip.upper",
    "correction.cap",
    "kl.coefficient",
    "loss.token_weight",
    "overlong.cache_tokens",
    "overlong.max_tokens",
    "sampling.max_oversampling",
    "sampling.max_rounds",
)
CHANGED_BY_RESUMING = ("num_steps",)  # TensorBoard keeps the first value it reads: steps/dapo tells how far a run is
METRICS = ("avg@", "pass@", "maj@", "entropy", "truncated", "length")  # of an evaluation, in the order of the columns


class Dashboard(L.Callback):
    """Writes the layout and the run's row, whose metrics are the latest scalars, after the first evaluation of each
    process; and after that of the last step, that the run is done. (Not before, should it fail: TensorBoard keeps the
    first it reads, and a failed run may be resumed.)
    """

    def __init__(self) -> None:
        self._begun = self._ended = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        steps, evaluations = pl_module.history.dapo_steps, pl_module.history.evaluations
        begins, ends = not self._begun, not self._ended and steps == pl_module.hparams.get("num_steps")
        values = {name: value for name, value in pl_module.hparams.items() if name not in CHANGED_BY_RESUMING}
        summaries = [_columns(values, _metric_tags(evaluations[steps])), _start(values)] if begins else []
        summaries += [_end()] if ends else []
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                if begins:
                    logger.experiment.add_custom_scalars(_layout())
                for summary in summaries:  # SummaryWriter.add_hparams would make a run of its own
                    logger.experiment._get_file_writer().add_summary(summary, 0)  # a step that resuming never purges
                logger.experiment.flush()
        self._begun, self._ended = True, self._ended or ends


def _layout() -> dict[str, dict[str, list[Any]]]:
    """As SummaryWriter takes it."""
    return {
        category: {chart: ["Multiline", [tag]] for chart, tag in charts.items()} for category, charts in FIGURES.items()
    }


def _metric_tags(evaluation: Iterable[str]) -> list[str]:
    """Tags of the metric columns; of pass@k only that of the largest k."""
    found = [name for kind in METRICS for name in evaluation if name.startswith(kind) and not name.endswith("_ci95")]
    passes = [name for name in found if name.startswith("pass@")]
    return [f"validation/{name}" for name in found if name not in passes[:-1]] + ["steps/dapo"]


def _columns(values: dict[str, Any], tags: Iterable[str]) -> Summary:
    """The columns of the HPARAMS tab; those that are said to differ are shown unasked."""
    numbers = {name for name, value in values.items() if _is_number(value)}.union(NUMBERS_OF_OPTIONS)
    infos = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DATA_TYPE_FLOAT64 if name in numbers else api_pb2.DATA_TYPE_STRING,
            differs=name in SHOWN,
        )
        for name in sorted({*values, *NUMBERS_OF_OPTIONS})
    ]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in tags]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
    return _summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _start(values: dict[str, Any]) -> Summary:
    """The row of a run, with its hyperparameters; options that are not chosen stay empty."""
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if _is_number(value):
            start.hparams[name].number_value = value
        elif value is not None:
            start.hparams[name].string_value = str(value)
    return _summary(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))


def _end() -> Summary:
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))


def _summary(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary:
    made = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=made, tensor=metadata.NULL_TENSOR)])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
