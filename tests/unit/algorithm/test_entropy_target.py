import pytest
import torch
from conftest import algorithm
from objectives import random_tokens
from runs import assert_same_weights, resume, run

from dapo_lightning.algorithm.entropy_target import EntropyTarget
from dapo_lightning.callbacks.metrics_file import read_metrics


def test_the_coefficient_follows_the_entropy_by_hand():
    option, seen = EntropyTarget(target=0.2, delta=0.25, maximum=0.5), []
    for entropy in (0.1, 0.2, 0.1, 0.3, 0.3, 0.3):
        option = option.adapted({"entropy": entropy, "entropy/coefficient": 0.0})
        seen.append((option.coefficient, option.is_low))
    assert seen == [(0.25, True), (0.5, True), (0.5, True), (0.25, False), (0.0, False), (0.0, False)]


def test_the_coefficient_stays_while_the_policy_is_not_trained():
    option = EntropyTarget(target=0.2, delta=0.25, coefficient=0.25, is_low=True)
    assert option.adapted({"entropy": 0.1}) == option.adapted({"entropy": 0.3}) == option


@pytest.mark.parametrize(("is_low", "applied"), [(True, 0.4), (False, 0.0)])
def test_the_bonus_is_applied_only_if_the_entropy_was_low(is_low, applied):
    tokens = random_tokens()
    found = EntropyTarget(0.2, 0.1, coefficient=0.4, is_low=is_low)(torch.ones_like(tokens.old_logps_BT), tokens)
    torch.testing.assert_close(found.values_BT, 1 + applied * tokens.entropies_BT)
    assert found.metrics["entropy/coefficient"].reduce(tokens.mask_BT).value == pytest.approx(applied)


def test_its_numbers_are_saved_and_loaded():
    options = algorithm(entropy=EntropyTarget(0.2, 0.1))
    later = options.adapted({"entropy": 0.1, "entropy/coefficient": 0.0})
    assert later.entropy.coefficient == 0.1 and later.clip is options.clip
    assert options.loaded(later.state_dict()) == later
    assert options.loaded({}) == options  # evaluated in a run without it
    assert algorithm().state_dict() == {} and algorithm().adapted({}) == algorithm().loaded({})


@pytest.mark.parametrize("bad", [{"target": 0}, {"delta": 0}, {"maximum": 0}, {"coefficient": 2}])
def test_bad_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=rf"entropy\.{next(iter(bad))}="):
        EntropyTarget(**{"target": 0.2, "delta": 0.1} | bad)


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path):
    chosen = ("entropy=target", "entropy.target=9", "entropy.delta=0.05", "schedule=cosine", "evaluation.every=9")
    whole = run(tmp_path / "whole", *chosen)
    rows = [row["entropy/coefficient"] for row in read_metrics(whole / "metrics.csv") if "entropy/coefficient" in row]
    assert rows == pytest.approx([0, 0.05, 0.1, 0.15])
    folder = tmp_path / "parts"
    run(folder, *chosen)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        if "000002" not in path.name:
            path.unlink()
    resume(folder)
    assert_same_weights(whole, folder)
    again = [row["entropy/coefficient"] for row in read_metrics(folder / "metrics.csv") if "entropy/coefficient" in row]
    assert again == rows
