"""Run folders that a disk, a copy or an editor has damaged: intact parts are used, and damaged parts are reported."""

import json
import logging
import resource
import shutil
import signal
import zipfile

import pytest
import torch
import yaml
from runs import SMALL, assert_same_weights, config, ends_with, resume, run

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO, NotSavedError
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.run.command import load_evaluated, load_resumed
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.step.checkpoint import WeightsError
from dapo_lightning.study.files import read_metrics as study_metrics
from dapo_lightning.utils.changes import read_changes
from dapo_lightning.utils.checkpoints import all_checkpoints, damage, latest, newest_whole

OWN = [o for o in SMALL if not o.startswith("reward")]  # reward=exact, which needs no code of the user


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return run(tmp_path_factory.mktemp("damaged") / "original", *OWN, "reward=exact", "callbacks.checkpoint.keep=3")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def flip(path, share=0.5):
    """Flips a bit in the values of the file's longest tensor, and not in the gaps between the tensors."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        longest = archive.read(max(archive.infolist(), key=lambda record: record.file_size))
    content[content.find(longest) + int(share * len(longest))] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_used(original, folder, caplog, position):
    newest = latest(folder / "checkpoints")
    flip(newest, position)
    assert torch.load(newest, weights_only=True)["history"]["dapo_steps"] == 4  # torch does not notice it
    with caplog.at_level(logging.WARNING):
        resume(folder)
    said = [record.message for record in caplog.records if "is damaged" in record.message]
    assert len(said) == 1 and newest.name in said[0] and "continues from" in said[0] and "000003" in said[0]
    assert_same_weights(original, folder)
    assert damage(newest) is None and len(all_checkpoints(folder / "checkpoints")) == 3


@pytest.mark.parametrize("content", [b"", bytes(5000), b"PK cut"])
def test_what_is_no_checkpoint_is_passed_over(folder, content):
    checkpoints = folder / "checkpoints"
    latest(checkpoints).write_bytes(content)
    (checkpoints / "step_latest.ckpt").write_bytes(b"")
    (checkpoints / "step_000009.ckpt").mkdir()
    shutil.copy(checkpoints / "step_000003.ckpt", checkpoints / "step_000003 (copy).ckpt")
    found, damaged = newest_whole(checkpoints)
    assert found.name == "step_000003.ckpt" and len(damaged) == 1 and "step_000004.ckpt is damaged" in damaged[0]


def test_numbers_are_compared_as_numbers(tmp_path):
    for number in ("999999", "1000000"):
        (tmp_path / f"step_{number}.ckpt").touch()
    assert latest(tmp_path).name == "step_1000000.ckpt"


def test_if_none_is_whole_it_is_said(folder, monkeypatch):
    for path in all_checkpoints(folder / "checkpoints"):
        flip(path)
    assert "and there is no other checkpoint" in ends_with(monkeypatch, f"resume={folder}")


def test_a_renamed_checkpoint_is_not_believed(folder):
    latest(folder / "checkpoints").rename(folder / "checkpoints/step_000005.ckpt")
    with pytest.raises(ConfigError, match="contains 4 DAPO steps, so it was renamed"):
        resume(folder, "num_steps=6")


def test_a_setting_that_was_edited_is_refused(folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.01"))
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.001 and is 0\.01"):
        resume(folder, "num_steps=5")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_configuration_that_is_cut_short(folder, share):
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ConfigError, match=r"config\.yaml (is truncated|cannot be read)"):
        load_resumed(config(f"resume={folder}"))


def test_metrics_that_are_damaged(folder):
    whole = (folder / "metrics.csv").read_text()
    lines = whole.splitlines()
    half = lines[-1][: len(lines[-1]) // 2]
    (folder / "metrics.csv").write_text("\n".join([*lines[:2], "x,y", "\0" * 40, *lines[2:-1], half]))
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == [0, 1, 2, 3]
    assert not any(key is None for row in read_metrics(folder / "metrics.csv") for key in row)


@pytest.mark.parametrize("damage", ['"', '"x', "7" * 200_000])  # a quote that is never closed, and a huge cell
def test_a_damaged_line_does_not_spoil_those_after_it(folder, damage):
    first, *lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join([first, lines[0], f"{damage}\n", *lines[1:]]))
    anomalies = []
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == [0, 1, 2, 3, 4]
    assert [*study_metrics(folder, anomalies).index] == [0, 1, 2, 3, 4]
    assert anomalies == ["metrics.csv is damaged: 1 line(s) left out"]


def test_damaged_records_of_changes_are_left_out(folder):
    change = {"step": 2, "key": "optimizer.lr", "old": 1, "new": 2}
    (folder / "changes.jsonl").write_text(f"{json.dumps(change)}\n[1]\n{'[' * 100_000}\n\0\0\n{{}}\n")
    assert read_changes(folder) == [change]


@pytest.mark.parametrize("name", ["metrics.csv", ".lock", "train.log"])
def test_a_folder_in_the_place_of_a_file(folder, name, monkeypatch):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    said = ends_with(monkeypatch, f"resume={folder}", "num_steps=5")
    assert "Is a directory" in said and str(folder / name) in said and "epair" in said


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, caplog):
    """The loss and its gradient are finite; it is the step of the optimizer that is not."""
    with pytest.raises(NotFiniteError, match=r"weights after DAPO step \d are not finite"):
        run(tmp_path / "run", "optimizer.lr=3e38", "optimizer.weight_decay=1e10", "num_gradient_steps=1")
    saved = all_checkpoints(tmp_path / "run/checkpoints")
    assert all(value.isfinite().all() for path in saved for value in torch.load(path)["state_dict"].values())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loops": {}}, "loops.fit_loop"),
        ({"optimizer_states": []}, "optimizer_states.0"),
        ({"lr_schedulers": [{}]}, "lr_schedulers.0.lr_lambdas"),
        ({"history": {"dapo_steps": 4}}, "history.gradient_steps"),
        ({"state_dict": None}, "state_dict"),
        ({"algorithm": None}, "algorithm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_without_one_of_its_parts(folder, changes, named):
    path = latest(folder / "checkpoints")
    torch.save(torch.load(path, weights_only=True) | changes, path)
    with pytest.raises(ConfigError, match=rf"not a checkpoint of this version: {named} is missing or damaged"):
        resume(folder, "num_steps=5")


def test_interrupted_while_the_curves_are_drawn(folder, monkeypatch):
    """The summary marks a run as finished, so it is written last."""
    for name in ("summary.json", "curves.png"):
        (folder / name).unlink(missing_ok=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("matplotlib.figure.Figure.savefig", interrupted)
        resume(folder)
    assert not {"summary.json", "curves.png", "curves.partial"} & {path.name for path in folder.iterdir()}
    resume(folder)
    assert (folder / "summary.json").is_file() and (folder / "curves.png").is_file()


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_weights_that_are_not_finite_are_not_loaded(folder):
    path = latest(folder / "checkpoints")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.lm_head.weight"][0, 0] = float("nan")
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"weights of the checkpoint are not finite \(model\."):
        resume(folder, "num_steps=5")


@pytest.mark.parametrize(
    "other", [torch.zeros(3, 3), torch.zeros(1).expand(10**7, 10**7), "text"], ids=["other", "huge", "text"]
)
def test_weights_of_another_shape_are_not_loaded(folder, other):
    """One of them would take 400 TB."""
    path = latest(folder / "checkpoints")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.lm_head.weight"] = other
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"holds other weights .* model\.lm_head\.weight"):
        resume(folder, "num_steps=5")


def test_a_checkpoint_that_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(NotSavedError, match=r"contains objects of pathlib\.PosixPath"):
        AtomicCheckpointIO().save_checkpoint({"path": tmp_path}, tmp_path / "step_000001.ckpt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotSavedError, match=r"could not be saved: Parent directory .* does not exist\. Earlier"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "gone" / "step_000001.ckpt")


def test_a_checkpoint_that_cannot_be_written_to_its_end(tmp_path):
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(NotSavedError, match=r"could not be saved: not all of it could be written"):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(9999)}, tmp_path / "step_000001.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_evaluated(folder):
    flip(latest(folder / "checkpoints"))
    given = config("mode=evaluate", f"checkpoint={latest(folder / 'checkpoints')}", f"run_folder={folder}/x")
    with pytest.raises(ConfigError, match="is damaged"):
        load_evaluated(given)


def test_killed_before_the_first_checkpoint(folder, original, caplog):
    """The same command starts again; resume says so."""
    shutil.rmtree(folder / "checkpoints")
    (folder / "summary.json").unlink()
    with pytest.raises(ConfigError, match="ended before its first checkpoint"):
        load_resumed(config(f"resume={folder}"))
    run(folder, *OWN, "reward=exact", "callbacks.checkpoint.keep=3")
    assert "it starts again" in caplog.text
    assert_same_weights(folder, original)
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == list(range(5))
    with pytest.raises(ConfigError, match="already holds a run: continue it with resume="):
        run(folder, *OWN, "reward=exact")


def test_a_folder_named_like_an_override(original, tmp_path, monkeypatch):
    """`=`, `,`, blanks, quotes and `${` are written as they are."""
    folder = tmp_path / "a=1,b c'd"
    shutil.copytree(original, folder)
    assert ends_with(monkeypatch, f"resume={folder}", "num_steps=5") == ""
    assert latest(folder / "checkpoints").name == "step_000005.ckpt"
    literal = tmp_path / "e${oc.env:HOME}"
    folder.rename(literal)
    of_evaluation = f"hydra.run.dir={tmp_path}/evaluated"
    assert ends_with(monkeypatch, "mode=evaluate", f"checkpoint={literal}", of_evaluation) == ""
    assert yaml.safe_load((tmp_path / "evaluated/config.yaml").read_text())["checkpoint"].startswith(str(literal))
