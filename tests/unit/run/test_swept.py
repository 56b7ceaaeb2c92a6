"""Values of a sweep that no job could use are refused before the first job starts."""

import os
import subprocess
import sys

import pytest

from dapo_lightning.run import cli
from dapo_lightning.run.errors import ConfigError

SWEEP = ["-m", "hydra.sweep.dir=x"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("num_steps=1,null", "num_steps=null: must be a whole number, at least 1"),
        ("num_steps=null", "num_steps=null: must be a whole number, at least 1"),
        ("seed=0,-1", "seed=-1: must be a whole number, at least 0"),
        ("evaluation.num_prompts=null,8,x", "evaluation.num_prompts=x: must be a whole number or null"),
        ("max_gradient_norm=inf,nan", "max_gradient_norm=nan: must be a finite number"),
        ("optimizer.lr=1e-3,null", "optimizer.lr=null: must be a number"),
        ("clip.upper=1.2,null", "clip.upper=null: must be a number"),
        ("clip.upper=-1,1.2", "clip.upper=-1: must be at least 0"),
        ("reward.marker=yes,null", "reward.marker=null: must be text"),
    ],
)
def test_values_of_the_wrong_kind(override, says):
    with pytest.raises(ConfigError, match=f"^{says}"):
        cli._checked_command([*SWEEP, "mode=train", override])


def test_other_values_are_left_to_the_jobs():
    given = [
        "clip.upper=1.2,0.28", "evaluation.num_prompts=null,8", "max_gradient_norm=inf,1", "mode=plan,train",
        "data.num_train='${num_steps}',10", "sampling=dynamic,static", "sampling.max_rounds=1,2", "stop=[],['a,b']",
        "policy.warm_start=null", "trainer.max_time=null", "reward.marker='\"a\"','b,c'", "num_steps=range(1,4)",
    ]  # fmt: skip
    assert cli._checked_command([*SWEEP, *given])[: len(given) + 2] == [*SWEEP, *given]


def test_a_key_of_another_class_is_left_to_the_jobs():
    given = ["optimizer._target_=transformers.Adafactor", "optimizer.lr=null,1e-3"]
    assert cli._checked_command([*SWEEP, *given])[: len(given) + 2] == [*SWEEP, *given]


WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, *others):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("LRU_CACHE_CAPACITY"))
sys.meta_path.insert(0, Watch())
sys.argv = ["train.py", "-m", "clip.upper=1.2,null"]
from dapo_lightning.run.cli import main
main()
"""


def test_libraries_are_prepared_before_a_check_imports_them():
    unset = ("OMP_WAIT_POLICY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, env=environment)
    assert "clip.upper=null: must be a number" in done.stderr
    assert done.stdout.split() == ["PASSIVE", "64"]
