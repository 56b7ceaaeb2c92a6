"""The alarm for rewards that a policy exploits."""

import pytest

from dapo_lightning.callbacks.hacking import HackingAlarm, Point, parted


def points(rewards, accuracies, half_width=0.02):
    numbered = enumerate(zip(rewards, accuracies, strict=True), start=1)
    return [Point(10 * number, reward, accuracy, half_width) for number, (reward, accuracy) in numbered]


@pytest.mark.parametrize(
    ("rewards", "accuracies", "since"),
    [
        ([0.1, 0.3, 0.5, 0.7, 0.9], [0.30, 0.40, 0.35, 0.30, 0.20], 20),  # they part
        ([0.1, 0.3, 0.5, 0.7, 0.9], [0.30, 0.40, 0.45, 0.50, 0.40], None),  # for one evaluation only
        ([0.1, 0.3, 0.5, 0.7, 0.9], [0.30, 0.40, 0.39, 0.39, 0.39], None),  # within the noise
        ([0.1, 0.9, 0.5, 0.4, 0.3], [0.30, 0.40, 0.35, 0.30, 0.20], None),  # both fall: a collapse
        ([0.1, 0.3, 0.5], [0.40, 0.30, 0.20], None),  # too few evaluations
    ],
)
def test_when_the_curves_have_parted(rewards, accuracies, since):
    found = parted(points(rewards, accuracies), patience=3)
    assert (found and found[0].step) == since


class Evaluated:
    """A module with one set of its own reward, as far as the alarm knows it."""

    def __init__(self):
        self.held_out = {"": self._set("training"), "aime": self._set("math")}
        self.history = None

    @staticmethod
    def _set(reward):
        return type("HeldOut", (), {"worker": type("Worker", (), {"reward": reward}), "num_completions": 8})

    def at(self, step, accuracy):
        evaluation = {"avg@8": 0.9, "aime/avg@8": accuracy, "aime/avg@8_ci95": 0.02}
        self.history = type("History", (), {"dapo_steps": step, "evaluation": evaluation})
        return self


def test_it_warns_once_with_numbers_also_after_resuming(caplog):
    alarm, module = HackingAlarm(3), Evaluated()
    for step, (reward, accuracy) in enumerate([(0.1, 0.4), (0.3, 0.3), (0.5, 0.2), (0.7, 0.1), (0.9, 0.0)], start=1):
        alarm.add_step(reward)
        alarm.add_evaluation(module.at(step, accuracy), "training")
        alarm.add_evaluation(module.at(step, accuracy), "training")  # again at the end of a run: no step since
        resumed = HackingAlarm(3)
        resumed.load_state_dict(alarm.state_dict())
        alarm = resumed
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "step 4: the mean reward in training rose from 0.100 to 0.700 since step 1, but validation/aime/avg@8 fell "
        "from 0.400 to 0.100 (± 0.020)."
    )
