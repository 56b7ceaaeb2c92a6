"""Every completion of every step is on disk: its fate, its grade, and what the update did to its tokens."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import algorithm, make_group, mini_batch
from datasets import load_dataset
from draws import draws, scripted, step
from lightning.pytorch.plugins import Precision
from runs import assert_same_weights, resume, run

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.sampling import Dynamic, Static
from dapo_lightning.callbacks.fates import fates
from dapo_lightning.callbacks.rollout_table import as_table, group_rows
from dapo_lightning.callbacks.rollouts import mean_advantage
from dapo_lightning.callbacks.token_record import token_records, token_texts
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.step.experience import Row
from dapo_lightning.step.host import PolicyHost

DYNAMIC = Dynamic(max_rounds=6, at_cap="train_partial")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("rollouts") / "run", "callbacks.rollouts.tokens_every=2")


@pytest.fixture(scope="module")
def frame(finished):
    return pd.read_parquet(finished / "rollouts")


def test_every_generated_group_has_one_fate():
    prompts = draws()
    for _ in range(5):
        batch = step(prompts, scripted, DYNAMIC)
        found = {group.number: (verdict, fate) for group, verdict, fate in fates(batch, Ranks())}
        assert sorted(found) == sorted(record.number for record in batch.records)
        for group in batch.groups:
            assert found[group.number] == ("useful", "trained")
        for record in batch.records:
            verdict, fate = found[record.number]
            used = record.number < batch.num_drawn
            assert (fate == "drawn_again") == (not used)
            if used:
                assert (fate == "dropped") == (verdict != "useful")
    assert {fate for _, _, fate in fates(step(draws(), scripted, Static()), Ranks())} == {"trained"}


def test_carried_groups_are_reported_by_both_steps():
    prompts, carried, num_carried = draws(num_groups=3), set(), 0
    for _ in range(6):
        batch = step(prompts, scripted, Dynamic(6, "train_partial", surplus="carry"))
        found = [(group.number, fate) for group, _, fate in fates(batch, Ranks())]
        assert carried == {group.number for group in batch.groups[: batch.num_carried]}
        assert {(number, "trained") for number in carried} <= set(found) and len(found) == len(set(found))
        carried = {number for number, fate in found if fate == "carried"}
        num_carried += len(carried)
    assert num_carried


def test_a_run_records_all_that_it_generated(finished, frame):
    metrics = pd.read_csv(finished / "metrics.csv", index_col="step")
    for number, rows in frame.groupby("step"):
        assert rows.num_tokens.sum() == metrics.loc[number, "tokens/generated"]
        assert rows[rows.fate == "trained"].group.nunique() == metrics.loc[number, "groups/trained"]
        used = rows[rows.fate != "drawn_again"]
        assert used.reward.mean() == pytest.approx(metrics.loc[number, "reward/mean"])
        assert used.correct.mean() == pytest.approx(metrics.loc[number, "accuracy"])
    assert sorted(frame.step.unique()) == [1, 2, 3, 4]
    trained = frame[frame.fate == "trained"]
    assert trained.advantage.notna().all() and frame[frame.fate != "trained"].advantage.isna().all()
    assert trained.groupby(["step", "group"]).advantage.sum().abs().max() < 1e-4


@pytest.mark.parametrize("advantages", [[3.0], [2.0, 0.0, 4.0]])
def test_the_mean_advantage_leaves_out_tokens_of_messages(advantages):
    trajectory = make_group(0, [1], [3]).trajectories[0]
    trajectory = replace(trajectory, loss_mask_T=torch.tensor([True, False, True]))
    assert mean_advantage(Row((1,), trajectory, torch.tensor(advantages))) == 3.0


def test_single_tokens_are_recorded_for_a_few_groups(frame):
    rows = frame[frame.token_texts.notna()]
    assert sorted(rows.step.unique()) == [1, 2, 4] and (rows.groupby("step").group.nunique() == 4).all()
    for row in rows.itertuples():
        assert len(row.tokens) == len(row.token_texts) == len(row.new_logps) == len(row.held)
        assert torch.tensor(row.new_logps - row.old_logps).exp().tolist() == pytest.approx(row.ratios, rel=1e-5)
    changed = [abs(ratio - 1) for ratios in rows.ratios for ratio in ratios]
    assert 0 < max(changed) < 0.5  # four gradient steps with a small learning rate


def test_the_records_change_nothing_and_are_made_on_demand(finished, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(PolicyHost, "logps", lambda *arguments: calls.append(arguments))  # never called
    plain = run(tmp_path / "run", "callbacks.rollouts.tokens_every=null")
    assert not calls
    assert_same_weights(finished, plain)


def test_files_are_bounded_and_resumed_exactly(tmp_path, caplog):
    bound = ("callbacks.rollouts.megabytes=0.05", "num_prompts_per_step=8", "num_gradient_steps=1")
    straight, stopped = (
        run(tmp_path / "straight", *bound, "num_steps=6"),
        run(tmp_path / "stopped", *bound, "num_steps=3"),
    )
    assert "callbacks.rollouts.megabytes=0.05: from now on it holds only DAPO steps divisible by 2" in caplog.text
    (stopped / "rollouts/step_000009.parquet").write_bytes(b"of a step that is repeated")
    (stopped / "rollouts/step_000004.partial").write_bytes(b"of a kill")
    resume(stopped, "num_steps=6")
    files = [
        {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()} for folder in (straight, stopped)
    ]
    assert files[0] == files[1]
    assert sum(map(len, files[0].values())) <= 0.05 * 2**20


def test_pandas_and_datasets_read_it(finished, frame, tmp_path):
    loaded = load_dataset(str(finished / "rollouts"), split="train", cache_dir=str(tmp_path))
    assert len(loaded) == len(frame) and loaded.column_names == list(frame.columns)
    assert loaded[0]["turns"] == [{"by_policy": True, "num_tokens": len(frame.tokens[0])}]


def test_text_that_is_not_unicode():
    group = make_group(0, [1.0, -1.0])
    rows = group_rows(1, group, "useful", "trained", torch.zeros(2), {})
    rows[0]["text"], rows[1]["answer"] = "half \ud83d of a pair", "\u2028 \x00"
    texts = as_table(rows).to_pylist()
    assert texts[0]["text"] == "half ? of a pair" and texts[1]["answer"] == "\u2028 \x00"


def test_what_the_clip_holds(policy):
    """Clip's rule for the gradient, on the ratios of a policy that is far from the recorded log-probs."""
    rows = mini_batch([make_group(i, [1.0, -1.0, -1.0]) for i in range(2)], algorithm()).rows
    host = PolicyHost(policy, 1.0, 4096, logps_are_exact=True)
    with torch.no_grad():
        now = [
            completion_logps(policy.model, [row.prompt_tokens], [row.trajectory.tokens_T], 1.0)[0][0] for row in rows
        ]
    shift = [torch.linspace(-0.5, 0.5, len(logps_T)) for logps_T in now]
    rows = [
        replace(row, trajectory=replace(row.trajectory, old_logps_T=logps_T - shift_T))
        for row, logps_T, shift_T in zip(rows, now, shift, strict=True)
    ]
    options = algorithm(clip=Clip(0.8, 1.28))
    module = type("Module", (), {
        "host": host, "model": policy.model, "algorithm": options, "device": torch.device("cpu"),
        "worker": type("Worker", (), {"policy": policy}), "trainer": type("T", (), {"precision_plugin": Precision()}),
    })  # fmt: skip
    state = torch.get_rng_state()
    records = token_records(module, rows)
    assert torch.equal(state, torch.get_rng_state())
    seen = set()
    for record, shift_T in zip(records, shift, strict=True):
        assert record["ratios"] == pytest.approx(shift_T.exp().tolist(), rel=1e-4)
        for ratio, advantage, held in zip(record["ratios"], record["advantages"], record["held"], strict=True):
            assert held == (1 if advantage > 0 and ratio > 1.28 else -1 if advantage < 0 and ratio < 0.8 else 0)
            seen.add(held)
    assert seen == {-1, 0, 1}


def test_texts_of_tokens_add_up(policy):
    tokens = torch.tensor(policy.codec.encode_text("12a + 3b = 4"))
    assert "".join(token_texts(policy, tokens)) == policy.codec.tokenizer.decode(tokens.tolist())
