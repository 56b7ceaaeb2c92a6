"""Whole runs: what they leave behind, what they train on, how they fail."""

import csv
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from runs import assert_same_weights, resume, run, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from dapo_lightning.algorithm.sampling import SamplingError
from dapo_lightning.callbacks.metrics_file import MetricsFile, read_metrics
from dapo_lightning.policy.tiny import TinyPolicy
from dapo_lightning.reward import RewardError
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.run import build
from dapo_lightning.step import module
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.utils.checkpoints import latest

LOGGED = """
    reward/mean reward/std accuracy groups/useful groups/all_correct groups/all_wrong groups/kept groups/carried
    sampling/rounds sampling/keep_rate
    sampling/generated_per_trained length/mean length/min length/max length/truncated overlong/penalty entropy
    probability
    clip/upper_fraction clip/lower_fraction ratio/mean ratio/max kl/old gradient/norm learning_rate steps/dapo
    steps/gradient seconds/generate seconds/grade seconds/update tokens_per_second/generate tokens_per_second/grade
    seconds/wait tokens_per_second/update memory/peak_mb sampling/logp_gap
    sampling/logp_gap_max sampling/kl sampling/effective_size loss
""".split()


CODEC = TinyPolicy.codec


def end_with(patch, *tokens):
    patch.setattr(TinyPolicy, "codec", lambda self: replace(CODEC(self), end_tokens=tokens))


@pytest.fixture(scope="module", autouse=True)
def many_end_tokens():
    """A policy with random weights hardly ever ends; with a fifth of its tokens ending a completion, lengths vary."""
    with pytest.MonkeyPatch.context() as patch:
        end_with(patch, *range(1, 40))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "finished")


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_everything(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["dapo_steps"] == 4 and summary["gradient_steps"] == 8 and summary["skipped_steps"] == 0
    for when in ("before", "after"):
        assert {"avg@2", "pass@2", "length", "entropy"} <= set(summary[when])
    assert {"generate", "grade", "update", "evaluate", "load"} <= set(summary["seconds"])
    assert summary["tokens"]["generated"] >= summary["tokens"]["trained"] > 0
    assert summary["peak_memory_mb"] > 0 and summary["choices"]["clip"] == "higher"
    assert OmegaConf.load(finished / "config.yaml").clip.upper == 1.28
    assert (finished / "curves.png").stat().st_size > 10_000
    assert list(summary["evaluations"]) == ["0", "2", "4"]


def test_every_metric_is_logged_to_csv_and_tensorboard(finished):
    steps = [row for row in rows(finished) if row["step"] != "0"]
    assert [row["step"] for row in steps] == ["1", "2", "3", "4"]
    for name in LOGGED:
        assert all(math.isfinite(float(row[name])) for row in steps), name
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert set(LOGGED) <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("accuracy")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/avg@2")] == [0, 2, 4]
    assert [event.value for event in events.Scalars("steps/gradient")] == [2, 4, 6, 8]
    assert any("completions" in tag for tag in events.Tags()["tensors"])


def test_what_a_step_does_not_measure_is_not_repeated_from_the_step_before(tmp_path, monkeypatch):
    measured = iter([{"sometimes": 1.0}, {}, {"sometimes": 3.0}, {}])
    original = module.step_metrics
    monkeypatch.setattr(module, "step_metrics", lambda *given: original(*given) | next(measured))
    found = rows(run(tmp_path / "run"))
    assert [(row["step"], row["sometimes"]) for row in found if row["sometimes"]] == [("1", "1.0"), ("3", "3.0")]


def test_callbacks_and_loggers_can_be_switched_off(finished, tmp_path, capfd):
    names = ("progress", "checkpoint", "completions", "rollouts", "evaluation", "health")
    off = ["logger.tensorboard=null", "logger.csv=null", *(f"callbacks.{name}=null" for name in names)]
    folder = run(tmp_path / "run", *off)
    kept = {"config.yaml", "policy", "summary.json", "report.html"}
    assert {path.name for path in folder.iterdir() if path.name != ".lock"} == kept
    assert "step/s" not in capfd.readouterr().err
    assert_same_weights(finished, folder)


def test_a_run_without_tensorboard_can_be_resumed(finished, tmp_path):
    folder = run(tmp_path / "run", "logger.tensorboard=null", "num_steps=2")
    resume(folder, "num_steps=4")
    assert_same_weights(finished, folder)


def test_held_out_prompts_are_not_sampled_in_inference_mode(tmp_path, monkeypatch):
    """What FSDP2 gathers there for the first time could not be trained with."""
    seen, step = [], DAPOModule.validation_step

    def watched(*arguments):
        seen.append(torch.is_inference_mode_enabled())
        return step(*arguments)

    monkeypatch.setattr(DAPOModule, "validation_step", watched)
    run(tmp_path / "run", "num_steps=1")
    assert len(seen) == 2 and not any(seen)


def test_the_exported_policy_loads_and_is_the_trained_one(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "policy")
    tokenizer = AutoTokenizer.from_pretrained(finished / "policy")
    assert tokenizer.decode(tokenizer("1b+2=")["input_ids"]) == "1b+2="
    saved = torch.load(latest(finished / "checkpoints"), weights_only=True)["state_dict"]
    assert torch.equal(model.state_dict()["model.norm.weight"], saved["model.model.norm.weight"])
    assert not any("reference" in name for name in saved)
    start = tiny(seed=0).model.state_dict()
    assert any(not torch.equal(start[name], tensor) for name, tensor in model.state_dict().items())


def test_same_config_and_seed_same_run(finished, tmp_path):
    again = run(tmp_path / "again")
    assert_same_weights(finished, again)
    assert not torch.equal(
        weights(finished)["lm_head.weight"], weights(run(tmp_path / "c", "seed=1"))["lm_head.weight"]
    )


def test_evaluation_does_not_disturb_training(finished, tmp_path):
    assert_same_weights(finished, run(tmp_path / "other", "evaluation.every=1", "evaluation.num_completions=3"))


def test_micro_batches_do_not_change_the_run(finished, tmp_path):
    one, other = weights(finished), weights(run(tmp_path / "other", "micro_batch_tokens=100000"))
    for name in one:  # 8 Adam steps of at most 1e-3; a wrong denominator would show at that order
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [["experiment=grpo"], ["experiment=reinforce_clip"], ["clip=symmetric"], ["clip=none"],
     ["loss=token_level_per_prompt"],
     ["loss=sample_level"], ["loss=blend"], ["overlong=none"], ["overlong=filter"], ["overlong=punish_and_filter"],
     ["sampling=static"], ["advantage=mean_centered"], ["advantage=leave_one_out"], ["kl=k3"], ["rollout=transformers"],
     ["top_p=0.8", "temperature=0.7"], ["loss=token_level", "clip.upper=1.28"]],
    ids=" ".join,
)  # fmt: skip
def test_every_toggle_runs_on_its_own(overrides, tmp_path):
    folder = run(tmp_path / "run", *overrides, "num_steps=2", "evaluation.every=2")
    last = rows(folder)[-1]
    assert float(last["sampling/logp_gap"]) < 1e-4  # also with top_p < 1: the recorded log-probs are the policy's
    if overrides == ["kl=k3"]:
        assert float(last["kl/reference"]) > 0


def test_the_reference_runs_once_in_a_step_however_many_passes_there_are(tmp_path, monkeypatch):
    numbers, logps = [], PolicyHost.logps

    def counted(self, model, rows):
        numbers.append(len(rows))
        return logps(self, model, rows)

    monkeypatch.setattr(PolicyHost, "logps", counted)
    overrides = ("kl=k3", "num_epochs=2", "num_steps=1", "sampling=static", "callbacks.rollouts=null")
    folder = run(tmp_path / "run", *overrides, "num_prompts_per_step=4", "num_completions_per_prompt=3")
    assert numbers == [12]  # the log-probs of sampling serve as old ones
    assert float(rows(folder)[-1]["kl/reference"]) > 0


def test_toggles_without_a_say_leave_the_first_gradient_alone(tmp_path):
    """Clipping cannot matter where the ratio is 1; the rest must."""

    def norm(*overrides):
        once = ("num_steps=1", "num_gradient_steps=1", "num_prompts_per_step=4", "evaluation.every=1")
        folder = run(tmp_path / "".join(overrides).replace("=", "_"), *once, *overrides)
        return float(rows(folder)[-1]["gradient/norm"])

    base = norm()
    for same in ("clip=symmetric", "clip=none"):
        assert norm(same) == pytest.approx(base, rel=1e-5)
    for different in ("loss=sample_level", "loss=token_level_per_prompt", "overlong=none", "advantage=mean_centered"):
        assert abs(norm(different) - base) > 1e-4 * base, different


def test_each_rollout_comes_from_the_weights_of_the_step_before(tmp_path, monkeypatch):
    def fingerprint(model):
        return float(sum(parameter.detach().double().sum() for parameter in model.parameters()))

    sampled, after = [], []

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            after.append(fingerprint(pl_module.model))
            sample = pl_module.sample
            pl_module.sample = lambda prompts: sampled.append(fingerprint(pl_module.model)) or sample(prompts)

        def on_train_batch_end(self, trainer, pl_module, *_):
            after.append(fingerprint(pl_module.model))

    original = build.build_trainer

    def watched(*arguments):
        trainer = original(*arguments)
        trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(build, "build_trainer", watched)
    run(tmp_path / "run", "sampling=static")
    assert sampled == after[:-1] and len(set(after)) == 5
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # it plans anew for every shape


@pytest.mark.parametrize("experiment", ["dapo", "grpo"])
def test_a_policy_with_random_weights_learns(tmp_path, experiment):
    folder = run(
        tmp_path / "run", f"experiment={experiment}", "reward.path=rewards.starts_low", "num_steps=25",
        "max_new_tokens=4",
        "num_prompts_per_step=8", "num_completions_per_prompt=16", "optimizer.lr=1e-2", "overlong=none",
        "evaluation.every=25", "evaluation.num_completions=16", "callbacks.checkpoint.every=100",
    )  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["before"]["avg@16"] < 0.45 and summary["after"]["avg@16"] > 0.9


@pytest.mark.parametrize("sampling", ["static", "dynamic"])  # the keep rule alone would hide a group of NaNs
def test_a_reward_that_is_not_finite_skips_the_step(tmp_path, sampling):
    folder = run(tmp_path / "run", "reward.path=rewards.nan_in_the_third_of_training", f"sampling={sampling}")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["skipped_steps"] == 1 and summary["dapo_steps"] == 4 and summary["gradient_steps"] == 6
    assert [row["gradient/skipped"] for row in rows(folder) if row["gradient/skipped"]].count("1.0") == 1
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_too_many_skipped_steps_end_the_run_with_a_message(tmp_path):
    with pytest.raises(NotFiniteError, match=r"5 gradient steps in a row.*reward of arithmetic.*optimizer\.lr"):
        run(tmp_path / "run", "reward.path=rewards.always_infinite", "sampling=static", "num_steps=9")


def test_a_loss_that_is_not_finite_is_skipped_and_weights_stay_finite(tmp_path, monkeypatch):
    original, calls = module.surrogate_loss, []

    def poisoned(*arguments, **options):
        loss, sums = original(*arguments, **options)
        calls.append(0)
        return (loss * float("nan") if len(calls) == 2 else loss), sums

    monkeypatch.setattr(module, "surrogate_loss", poisoned)
    folder = run(tmp_path / "run", "sampling=static")
    assert json.loads((folder / "summary.json").read_text())["skipped_steps"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_a_failing_reward_saves_completed_work_and_can_be_resumed(tmp_path, monkeypatch):
    overrides = [
        "reward.path=rewards.fails_after_a_while",
        "reward.allow=[FAILS_AFTER]",
        "sampling=static",
        "callbacks.checkpoint.every=100",
    ]
    straight = run(tmp_path / "straight", *overrides)
    monkeypatch.setenv("FAILS_AFTER", str(8 + 4 + 4 + 8))
    with pytest.raises(RewardError, match=r"a DAPO step: none of 16 completions.*first arithmetic.*judge is out"):
        run(tmp_path / "broken", *overrides)
    assert latest(tmp_path / "broken" / "checkpoints").name == "step_000002.ckpt"
    monkeypatch.delenv("FAILS_AFTER")
    resume(tmp_path / "broken")
    assert_same_weights(straight, tmp_path / "broken")


def test_an_interrupted_evaluation_is_made_when_the_run_goes_on(tmp_path, monkeypatch):
    """No held-out prompt can be graded in the evaluation after step 2."""
    overrides = ["reward.path=rewards.fails_after_a_while", "reward.allow=[FAILS_AFTER]",
                 "sampling=static", "num_steps=6", "data.num_validation=70",
                 "evaluation.num_prompts=70"]  # fmt: skip
    straight = run(tmp_path / "straight", *overrides)
    monkeypatch.setenv("FAILS_AFTER", str(70 + 4 + 4))
    with pytest.raises(RewardError, match=r"evaluation: none of 140 completions"):
        run(tmp_path / "broken", *overrides)
    monkeypatch.delenv("FAILS_AFTER")
    resume(tmp_path / "broken")
    assert_same_weights(straight, tmp_path / "broken")
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("straight", "broken"))
    assert one["evaluations"] == other["evaluations"]
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("straight", "broken")]
    assert [row["validation/avg@2"] for row in rows[0] if "validation/avg@2" in row] == [
        row["validation/avg@2"] for row in rows[1] if "validation/avg@2" in row
    ]


def test_steps_in_which_everything_is_masked_are_skipped(tmp_path, monkeypatch):
    end_with(monkeypatch, 1_000_000)  # nothing ever ends
    folder = run(tmp_path / "run", "overlong=filter", "reward.path=rewards.coin", "num_steps=2")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gradient_steps"] == 0 and summary["skipped_steps"] == 4
    assert summary["after"]["truncated"] == 1.0
    assert_same_weights_as_start(folder)


def test_a_finished_run_can_be_given_more_steps(finished, tmp_path):
    folder = run(tmp_path / "short", "num_steps=2")
    resume(folder, "num_steps=4")
    assert_same_weights(finished, folder)
    assert list(json.loads((folder / "summary.json").read_text())["evaluations"])[-1] == "4"


def test_collapse_is_told_while_the_run_goes_on(tmp_path, caplog):
    run(tmp_path / "run", "callbacks.health.min_entropy_share=10")
    assert sum("entropy collapsed" in record.message for record in caplog.records) == 1


def test_exhausted_sampling_is_an_error_or_a_warning_as_asked(tmp_path, caplog):
    hopeless = ["reward.path=rewards.never", "sampling.max_rounds=2", "num_steps=1", "evaluation.every=1"]
    with pytest.raises(SamplingError, match=r"sampling\.max_rounds"):
        run(tmp_path / "error", *hopeless, "sampling.at_cap=error")
    folder = run(tmp_path / "partial", *hopeless, "sampling.at_cap=train_partial")
    assert any("training on the groups that were found" in record.message for record in caplog.records)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gradient_steps"] == 0 and summary["dapo_steps"] == 1
    assert_same_weights_as_start(folder)


def assert_same_weights_as_start(folder):
    start = tiny(seed=0).model.state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(folder).items())


def test_a_reward_that_hangs_costs_its_completions_only_and_is_counted(tmp_path):
    folder = run(tmp_path / "run", "reward.path=rewards.hangs_sometimes", "reward.seconds=0.2", "sampling=static",
                 "num_steps=2", "num_prompts_per_step=16")  # fmt: skip
    assert sum(float(row.get("grading/timeout") or 0) for row in rows(folder)) > 0
    assert all(float(row["grading/error"] or 0) == 0 for row in rows(folder))
    assert json.loads((folder / "summary.json").read_text())["dapo_steps"] == 2


def test_completions_on_which_the_reward_raises_end_the_first_step_or_are_counted_and_told_once(tmp_path, caplog):
    raises = ("reward.path=rewards.raises_on_seven", "sampling=static", "num_steps=2")
    with pytest.raises(RewardError, match=r"^step 1: .*on \d+ of 64 .*: ValueError: a seven.*reward\.on_error=wrong"):
        run(tmp_path / "stops", *raises, "num_prompts_per_step=16")
    caplog.clear()
    folder = run(tmp_path / "run", *raises, "reward.on_error=wrong")
    (told,) = [record.message for record in caplog.records if "could not be graded" in record.message]
    says = r"\d+ of 16 completions could not be graded: \d+ error \(first arith.*: ValueError: a seven"
    assert re.match(rf"evaluation: {says}", told)
    assert sum(float(row.get("grading/error") or 0) for row in rows(folder)) > 0
    lines = (folder / "evaluation.jsonl").read_text().splitlines()
    failed = [c for line in lines for c in json.loads(line)["completions"] if c["failure"]]
    assert {(c["failure"], c["detail"], c["correct"]) for c in failed} == {("error", "ValueError: a seven", False)}


def test_a_policy_that_is_not_asked_for_answers_is_told_of_it(tmp_path, caplog):
    run(tmp_path / "run", "reward=exact", "reward.marker='####'", "num_steps=1", "sampling.max_rounds=1",
        "sampling.at_cap=train_partial")  # fmt: skip
    told = [record.message for record in caplog.records]
    assert any(re.match(r"no answer found in 16 of 16 completions.*the text after the last '####'.*system_prompt", text)
               for text in told)  # fmt: skip
    assert any(re.match(r"none of the 1 DAPO steps had a gradient step.*0 of 4 groups", text) for text in told)


def test_rewards_beyond_float32_are_named(tmp_path, caplog):
    with pytest.raises(NotFiniteError, match=r"reward of arithmetic.* is not finite as a float32 \(.*1e\+300"):
        run(tmp_path / "run", "reward.path=rewards.too_large", "sampling=static", "num_steps=9")


def test_a_finished_step_is_saved_even_if_its_logger_fails(tmp_path, monkeypatch):
    overrides = ["sampling=static", "callbacks.checkpoint.every=100"]
    straight = run(tmp_path / "straight", *overrides)

    def full_disk(logger, metrics, step, original=MetricsFile.log_metrics):
        if step == 3 and "loss" in metrics:
            raise OSError("No space left on device")
        original(logger, metrics, step)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "log_metrics", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "broken", *overrides)
    assert latest(tmp_path / "broken" / "checkpoints").name == "step_000003.ckpt"
    resume(tmp_path / "broken")
    assert_same_weights(straight, tmp_path / "broken")
