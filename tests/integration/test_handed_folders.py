"""Run folders that come from somebody else: their content cannot run code, write to other folders or reveal secrets,
unless the command repeats it."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from runs import SMALL, ends_with, run

from dapo_lightning.run import cli

OWN = [o for o in SMALL if not o.startswith("reward")]  # reward=exact, which the config tree has


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handed") / "original"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *OWN, "num_steps=1", f"run_folder={folder}"])
        cli.main()
    return folder


@pytest.fixture
def handed(original, tmp_path, monkeypatch):
    """Returns a copy of the run in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(original, tmp_path / "handed")


def edit(folder: Path, **changes) -> None:
    """Sets dotted keys of config.yaml, written with two underscores for a dot."""
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *groups, name = key.split("__")
        node = content
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


class Canary:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("open('canary', 'w').close()",)


TOUCH = {"_target_": "dapo_lightning.slurm.job._run", "_args_": ["touch", "canary"]}
RESUME, EVALUATE = ["resume=handed", "num_steps=2"], ["mode=evaluate", "checkpoint=handed"]


@pytest.mark.parametrize("command", [RESUME, EVALUATE], ids=["resume", "evaluate"])
def test_a_checkpoint_with_code(handed, monkeypatch, command):
    (path,) = (handed / "checkpoints").iterdir()
    torch.save(torch.load(path, weights_only=True) | {"callbacks": {"x": Canary()}}, path)
    said = ends_with(monkeypatch, *command)
    assert "Only plain values and tensors are loaded" in said and "\n" not in said
    assert not Path("canary").exists()


FOLDERS = {
    "an object of another module": {"logger__x": TOUCH},
    "an object in a list": {"trainer__plugins": [TOUCH]},
    "another optimizer": {"optimizer___target_": "builtins.exec"},
    "a reward by its path": {
        "reward___target_": "dapo_lightning.reward.function.Function",
        "reward__path": "os.system",
    },
    "a reward that may do everything": {"reward__allow": ["everything"]},
    "programs that are not isolated": {
        "reward": {
            "_target_": "dapo_lightning.reward.code.Code",
            "num_workers": 1,
            "seconds": 2.0,
            "megabytes": 128,
            "sandbox": "none",
        },
    },
    "arguments of vLLM": {
        "rollout": {"_target_": "dapo_lightning.rollout.vllm.Vllm", "engine_args": {"worker_cls": "handed.evil.X"}},
    },
    "code of a model": {"policy__trust_remote_code": True},
    "data that is sent to a server": {
        "logger__wandb": {"_target_": "dapo_lightning.callbacks.wandb.WeightsAndBiases", "offline": False}
    },
    "a file elsewhere": {"callbacks__completions__path": "canary"},
    "a file above": {"logger__csv__path": "handed/../canary"},
    "tags of YAML": None,
}


@pytest.mark.parametrize("changes", FOLDERS.values(), ids=FOLDERS)
def test_a_configuration_with_code(handed, monkeypatch, changes):
    if changes is None:
        path = handed / "config.yaml"
        path.write_text(path.read_text() + "x: !!python/object/apply:os.system ['touch canary']\n")
    else:
        edit(handed, **changes)
    said = ends_with(monkeypatch, *RESUME)
    assert ("refers to code, or to files outside" if changes else "cannot be read") in said and "\n" not in said
    assert not Path("canary").exists()


def test_objects_that_only_other_types_of_yaml_hold(handed, monkeypatch):
    options = f"{{x: !!pairs [y: {{_target_: {TOUCH['_target_']}, _args_: [touch, canary]}}]}}"
    target = "{_target_: dapo_lightning.data.reasoning_gym.ReasoningGym, task: chain_sum, num_train: 4, seed: 0,"
    edit(handed, data="DATA")
    path = handed / "config.yaml"
    path.write_text(path.read_text().replace("DATA", f"{target} num_validation: 4, options: {options}}}"))
    assert "data.options.x.0 that is not a plain value" in ends_with(monkeypatch, *RESUME)
    assert not Path("canary").exists()


EVIL = {"_target_": "dapo_lightning.reward.function.Function", "path": "handed.evil.f", "num_workers": 1, "seconds": 9}
EVIL |= {"megabytes": 500}
WEIGHTED = {"_target_": "dapo_lightning.reward.weighted.Weighted", "weights": {"a": 1.0}, "correctness": "a"}


def test_nothing_is_interpolated_after_it_was_checked(handed, monkeypatch):
    """Neither a path that leads out of the folder then, nor an object that stands in another place."""
    edit(handed, choices__up="../", callbacks__evaluation__path=f"{handed}/${{choices.up}}canary")
    assert ends_with(monkeypatch, *RESUME) == ""
    assert not Path("canary").exists() and (handed / "${choices.up}canary").is_file()
    (handed / "evil.py").write_text("open('canary', 'w')\ndef f(completions): return [0.0] * len(completions)\n")
    edit(handed, choices__evil=EVIL, reward=WEIGHTED | {"a": "${choices.evil}"})
    said = ends_with(monkeypatch, "resume=handed", "num_steps=3")
    assert "reward.a=${choices.evil}: must be an object with a _target_." in said
    assert not Path("canary").exists()


def test_overrides_that_refer_to_an_object_in_another_place(handed, monkeypatch):
    (handed / "evil.py").write_text("open('canary', 'w')\ndef f(completions): return [0.0] * len(completions)\n")
    evil = ", ".join(f"{key}: {value}" for key, value in EVIL.items())
    edit(handed, overrides=[*OWN, f"+plan.x={{{evil}}}", "reward=weighted", "reward.function=${plan.x}"])
    assert "refers to code, or to files outside its folder (reward.function.path)" in ends_with(monkeypatch, *EVALUATE)
    assert not Path("canary").exists()


def test_files_that_become_a_thousand_times_larger_in_memory(handed, monkeypatch):
    path = handed / "config.yaml"
    whole = path.read_text()
    path.write_text(f"{whole}x0: &x0 [1, 1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 40)))
    for command in (RESUME, EVALUATE):
        assert "has the alias *x0" in ends_with(monkeypatch, *command)
    path.write_text(whole + "#" * 10**6)
    assert "and no run writes more than 1,000,000" in ends_with(monkeypatch, *RESUME)
    path.write_text(whole)
    references = [f"policy.x{n}=${{policy.x{n - 1}}}${{policy.x{n - 1}}}" for n in range(1, 40)]
    edit(handed, overrides=[*OWN, "+policy.x0=text", *(f"+{text}" for text in references)])
    assert "refer to other keys 78 times" in ends_with(monkeypatch, *EVALUATE)
    (checkpoint,) = (handed / "checkpoints").iterdir()
    with zipfile.ZipFile(checkpoint) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    path.write_text(whole)
    for command in (RESUME, EVALUATE):
        assert "data.pkl is compressed, and runs never compress checkpoints" in ends_with(monkeypatch, *command)


@pytest.mark.parametrize(
    "name", ["rollouts/step_000001.parquet", "metrics.partial", "policy/config.json", ".lock", "tensorboard"]
)
def test_links_that_lead_to_files_of_the_user(handed, monkeypatch, name):
    mine = Path("mine")
    mine.write_text("precious")
    path = handed / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(mine.absolute())
    said = ends_with(monkeypatch, *RESUME)
    assert f"{name} is a link" in said and "\n" not in said
    assert mine.read_text() == "precious"


OVERRIDES = {
    "an object": ("+logger.x={_target_: dapo_lightning.slurm.job._run, _args_: [touch, canary]}", "refers to code"),
    "a reward": ("reward=function", "refers to code"),
    "a file": ("callbacks.rollouts.folder=canary", "refers to code"),
    "the environment": ("run_folder=${oc.env:SECRET}", "is not accepted from a run folder"),
    "an option beside the tree": ("recipe=../../handed/evil", "is not accepted from a run folder"),
    "a group beside the tree": ("+../handed=evil", "is not accepted from a run folder"),
    "Hydra": ("hydra.searchpath=[file:///tmp]", "is not accepted from a run folder"),
}


@pytest.mark.parametrize(("override", "says"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides_with_code(handed, monkeypatch, override, says):
    monkeypatch.setenv("SECRET", "s3cret")
    more = ["reward.path=os.system"] if override == "reward=function" else []
    edit(handed, overrides=[*OWN, override, *more])
    said = ends_with(monkeypatch, *EVALUATE)
    assert says in said and "\n" not in said and "s3cret" not in said
    assert not Path("canary").exists()


def test_the_environment_is_not_written_out(handed, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    edit(handed, reward__marker="${oc.env:SECRET}", reward__wrong=-2.0)
    assert "reward.marker. This is not accepted" in ends_with(monkeypatch, *RESUME)
    texts = [path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()]
    assert not any(b"s3cret" in text for text in texts)


def test_the_users_own_code_runs_if_the_command_names_it(tmp_path, monkeypatch):
    """The message can be pasted, for resuming and for evaluating."""
    folder = run(tmp_path / "run", "num_steps=1")
    edit(folder, overrides=[*SMALL])
    for command in ([f"resume={folder}", "num_steps=2"], ["mode=evaluate", f"checkpoint={folder}"]):
        said = ends_with(monkeypatch, *command)
        assert said.endswith("If you trust them, add reward=function reward.path=rewards.even_length.")
    named = ["reward=function", "reward.path=rewards.even_length"]
    assert "add reward=function" in ends_with(monkeypatch, f"resume={folder}", named[0], "reward.path=rewards.coin")
    assert ends_with(monkeypatch, f"resume={folder}", "num_steps=2", *named) == ""
