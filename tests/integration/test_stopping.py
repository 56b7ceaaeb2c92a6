"""Runs that end before their last step: by Ctrl-C, by the time limit, by a held-out metric; and the best checkpoint."""

import json
import signal

import pytest
import torch
from runs import config, resume, run, weights

from dapo_lightning.callbacks.early_stopping import EarlyStopping
from dapo_lightning.callbacks.held_out import UnknownMetricError, held_out
from dapo_lightning.run.checks import check_options
from dapo_lightning.run.command import as_dict
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.folder import finished_result, read_config
from dapo_lightning.slurm.stop import SIGNALS, Stop
from dapo_lightning.utils.checkpoints import all_checkpoints, steps_done


def steps(folder):
    return [steps_done(path) for path in all_checkpoints(folder / "checkpoints")]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    try:
        stop = Stop(tmp_path)
        stop._is_listening = True
        stop._install_handlers()
        signal.raise_signal(signal.SIGINT)
        stop._install_handlers()  # as the next evaluation does
        assert stop.received == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)


def test_the_time_limit_ends_a_run_as_its_last_step_would(tmp_path):
    folder = run(tmp_path / "run", "num_steps=1000", "trainer.max_time=00:00:00:01", "callbacks.checkpoint.every=999",
                 "evaluation.every=999")  # fmt: skip
    summary, done = summary_of(folder), steps(folder)[-1]
    assert 0 < summary["dapo_steps"] == done < 1000 and str(done) in summary["evaluations"]
    assert summary["ended_early"] == "trainer.max_time=00:00:00:01" and weights(folder)
    assert finished_result(read_config(folder)) == summary["after"]["avg@2"]
    resume(folder, "trainer.max_time=null", f"num_steps={done + 1}")
    assert summary_of(folder)["dapo_steps"] == done + 1 and "ended_early" not in summary_of(folder)


BEST = ("callbacks.checkpoint.best=validation/entropy", "callbacks.checkpoint.keep=1", "evaluation.every=1")


def test_the_best_checkpoint_of_all_sessions_is_kept_and_exported(tmp_path):
    folder = run(
        tmp_path / "run", *BEST, "callbacks.checkpoint.export=best", "callbacks.checkpoint.every=3", "num_steps=2"
    )
    resume(folder, "num_steps=4")
    summary = summary_of(folder)
    values = {int(step): found["entropy"] for step, found in summary["evaluations"].items() if step != "0"}
    best = max(values, key=values.get)
    assert best < 4 and steps(folder) == [best, 4]
    assert summary["best"] == {"metric": "validation/entropy", "step": best} and summary["policy_step"] == best
    saved = torch.load(folder / f"checkpoints/step_{best:06d}.ckpt", weights_only=True)["state_dict"]
    exported = weights(folder)
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in exported.items())


def test_the_best_policy_is_not_exported_from_shards():
    composed = config("run_folder=x", "trainer=fsdp2", *BEST, "callbacks.checkpoint.export=best")
    with pytest.raises(ConfigError, match=r"export=best: with trainer=fsdp2, only the newest policy is exported"):
        check_options(as_dict(composed))


def test_an_unknown_metric_is_refused_after_the_first_evaluation(tmp_path):
    says = (
        r"callbacks.checkpoint.best=validation/avg@3: there is no such held-out metric; choose one of validation/avg@2,"
    )
    with pytest.raises(UnknownMetricError, match=says):
        run(tmp_path / "run", "callbacks.checkpoint.best=validation/avg@3")
    assert not steps(tmp_path / "run")


@pytest.mark.parametrize("metric", ["validation/avg@3", "accuracy", "avg@2"])
def test_held_out_metrics_are_named_as_in_the_logs(metric):
    evaluations = {0: {"avg@2": 0.5}, 2: {"avg@2": 0.7}}
    assert held_out(evaluations, "validation/avg@2", "x") == {0: 0.5, 2: 0.7}
    with pytest.raises(UnknownMetricError, match=rf"^x={metric}: .*; choose one of validation/avg@2\.$"):
        held_out(evaluations, metric, "x")


def test_a_metric_that_is_good_enough_ends_a_run(tmp_path):
    folder = run(tmp_path / "run", "callbacks.early_stopping.metric=validation/avg@2", "num_steps=1000",
                 "callbacks.early_stopping.threshold=0", "callbacks.checkpoint.every=999")  # fmt: skip
    summary = summary_of(folder)
    assert summary["dapo_steps"] == 2 and steps(folder) == [2] and weights(folder)
    assert summary["ended_early"].endswith("(threshold 0)") and finished_result(read_config(folder)) is not None


@pytest.mark.parametrize(
    ("mode", "values", "ends"),
    [
        ("max", [0.1, 0.2, 0.2], None),
        ("max", [0.1, 0.2, 0.2, 0.1], "since step 1 (0.2)"),
        ("min", [0.3, 0.2, 0.1], None),
        ("min", [0.1, 0.2, 0.3], "since step 0 (0.1)"),
    ],
)
def test_patience(mode, values, ends):
    reason = EarlyStopping("validation/x", mode, patience=2)._reason(dict(enumerate(values)))
    assert reason is None if ends is None else ends in reason


@pytest.mark.parametrize(
    "options",
    [{"metric": "validation/x"}, {"threshold": 1.0}, {"patience": 2}],
    ids=lambda options: next(iter(options)),
)
def test_a_metric_and_a_condition_belong_together(options):
    with pytest.raises(ValueError, match=r"a metric needs a threshold or patience"):
        EarlyStopping(**options)
