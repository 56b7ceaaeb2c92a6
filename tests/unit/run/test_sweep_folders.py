"""Folders of a sweep's jobs: names that need no quotes, and jobs that are found again."""

import pytest
from runs import config

from dapo_lightning.run import cli
from dapo_lightning.run.command import as_dict, record_origin, run_id
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.refuse import launcher_as_written, parse
from dapo_lightning.run.sweep_folders import fixed_keys, folder_name


def name(swept, fixed=(), sweep="nowhere"):
    joined = "+".join(sorted(swept)).replace("=", "-")
    return folder_name(joined, [*fixed, *swept], str(sweep))


def test_names_hold_what_is_swept():
    assert name(["clip.upper=1.2", "seed=0"]) == "clip.upper-1.2+seed-0"
    assert name([]) == "run"
    fixed = name(["seed=0"], ["num_steps=4", "policy.name=a/b"])
    assert fixed.startswith("seed-0-") and len(fixed) == len("seed-0-") + 8
    assert fixed != name(["seed=0"], ["num_steps=5", "policy.name=a/b"])


def test_names_differ_and_fit_the_file_system():
    texts = ["a/b", "a_b", "a" * 300 + "b", "a" * 300 + "c", "\u5b57" * 150, "\u5b57" * 151, "$(x)", "a b"]
    names = [name([f"+note={text}"]) for text in texts]
    assert len(set(names)) == len(texts) and max(len(one.encode()) for one in names) <= 200
    for one in names:
        (override,) = parse([f"policy.name=outputs/a/{one}/policy"])  # without quotes
        assert override.value() == f"outputs/a/{one}/policy"


def test_a_job_of_another_sweep_is_found(tmp_path):
    jobs = [["clip.upper=1.2"], ["seed=0"]], [["seed=0"], ["clip.upper=1.2"]], [["clip.upper=1.2", "seed=0"], []]
    for swept, fixed in jobs:
        sweep = tmp_path / "".join(swept)
        sweep.mkdir()
        (sweep / name(swept, fixed, sweep)).mkdir()
        assert len({name(*other, sweep) for other in jobs}) == 1  # type: ignore[call-arg]
        assert name(["clip.upper=1.3"], ["seed=0"], sweep) != name(swept, fixed, sweep)


def test_the_command_says_what_is_not_swept():
    arguments = ["-m", "seed=0,1", "+trainer.x=3", "experiment=dapo", "hydra.sweep.dir=x"]
    assert cli._checked_command(["-m", "seed=0,1", "experiment=dapo", "hydra.sweep.dir=x"])[-1] == (
        "hydra.job.config.override_dirname.exclude_keys=[experiment]"
    )
    assert fixed_keys(parse(arguments[1:])).endswith("=[experiment,trainer.x]")


@pytest.mark.parametrize(
    ("given", "value"),
    [("partition=a,b", "a,b"), ("exclude=node[1-4]", "node[1-4]"), ("constraint=a&b", "a&b"), ("gres=gpu:2", "gpu:2"),
     ("partition='a,b'", "a,b"), ("setup=[a,b]", ["a", "b"]), ("partition=a", "a")],
)  # fmt: skip
def test_options_of_slurm_are_written_as_for_sbatch(given, value):
    (override,) = parse(launcher_as_written([f"hydra.launcher.{given}"]))
    found = override.value()
    assert getattr(found, "text", found) == value and not override.is_sweep_override()
    assert launcher_as_written(["seed=0,1"]) == ["seed=0,1"]


def test_overrides_that_hold_a_dollar_are_kept_as_given():
    given = [r"policy.system_prompt=Answer as \${y}.", "policy=hub", "policy.name=a"]
    recorded = as_dict(record_origin(config(*given)))
    assert recorded["overrides"] == given
    assert recorded["policy"]["system_prompt"] == "Answer as ${y}."


def test_the_id_of_a_run_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_id("a") == run_id(str(tmp_path / "a")) != run_id("b")
    assert run_id("a").isalnum() and len(run_id("a")) == 16


@pytest.mark.parametrize("folder", ["file", "file/sweep"])
def test_a_file_in_the_way_of_a_sweep_is_refused(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"hydra.sweep.dir={tmp_path / folder}: {tmp_path}/file is a file"):
        cli._checked_command(["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / folder}"])
