"""What Weights & Biases, Trackio and MLflow hold of real runs, read back from their files. Nothing is sent anywhere."""

import json
import math
import shutil
import sqlite3
import struct
from collections import defaultdict

import pandas as pd
import pytest
from runs import ends_with, own_reward, resume, run_interrupted

from dapo_lightning.callbacks.completions import COLUMNS
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.run.folder import read_config

pytestmark = pytest.mark.loggers

EVERY = "+logger=[wandb,trackio,mlflow]"


@pytest.fixture(scope="module", autouse=True)
def trackio_folder(tmp_path_factory):
    """Trackio reads the name of its folder when it is imported."""
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, trackio_folder):
    """A run that failed in its third step and was resumed."""
    folder = tmp_path_factory.mktemp("outputs") / "run"
    run_interrupted(folder, EVERY)
    assert Wandb(folder).exit_codes == [1] and MLflow(folder).statuses == ["FAILED"]
    resume(folder)
    return folder


class Wandb:
    """The offline runs in a folder."""

    def __init__(self, folder):
        self.runs, self.parameters, self.exit_codes = [], {}, []
        self.metrics, self.tables = defaultdict(dict), {}
        for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
            for record in self._records(path.read_bytes()):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    self.runs.append((record.run.run_id, record.run.project, record.run.run_group))
                elif kind == "config":
                    self.parameters |= {item.key: json.loads(item.value_json) for item in record.config.update}
                elif kind == "exit":
                    self.exit_codes.append(record.exit.exit_code)
                elif kind == "history":
                    row = {
                        item.key or "/".join(item.nested_key): json.loads(item.value_json)
                        for item in record.history.item
                    }
                    step = row.pop("trainer/global_step")
                    if table := row.get("completions/path"):
                        content = json.loads((path.parent / "files" / table).read_text())
                        assert content["columns"] == list(COLUMNS)
                        self.tables[step] = content["data"]
                    for name, value in row.items():
                        if not name.startswith(("_", "completions/")) and name != "epoch":
                            self.metrics[name][step] = value

    @staticmethod
    def _records(data):
        """The records of a file in the format of LevelDB's log."""
        from wandb.proto.wandb_internal_pb2 import Record

        at, content = 7, b""
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            content, at = content + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(content)
                content = b""


class Trackio:
    """The run of a folder in Trackio's database."""

    def __init__(self, folder, name):
        database = sqlite3.connect(folder / "dapo.db")
        rows = database.execute("select step, metrics from metrics where run_name = ? order by id", (name,)).fetchall()
        self.ids = {
            one for (one,) in database.execute("select distinct run_id from metrics where run_name = ?", (name,))
        }
        configs = database.execute("select config from configs where run_name = ?", (name,)).fetchall()
        self.parameters = json.loads(configs[0][0])
        self.metrics, self.tables = defaultdict(dict), {}
        for step, text in rows:
            for key, value in json.loads(text).items():
                if key == "completions":
                    assert list(value["_value"][0]) == list(COLUMNS)
                    self.tables[step] = [list(row.values()) for row in value["_value"]]
                elif key != "epoch":
                    self.metrics[key][step] = value


class MLflow:
    """The runs in the database of a folder."""

    def __init__(self, folder):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (experiment,) = client.search_experiments(filter_string="name = 'dapo'")
        runs = client.search_runs([experiment.experiment_id])
        self.statuses, self.ids = [one.info.status for one in runs], [one.info.run_id for one in runs]
        self.parameters = runs[0].data.params
        self.metrics = {
            name.replace("_at_", "@"): {m.step: m.value for m in client.get_metric_history(self.ids[0], name)}
            for name in runs[0].data.metrics
            if name != "epoch"
        }
        self.tables = {}
        for path in (folder / "mlflow" / self.ids[0] / "artifacts/completions").glob("*.json"):
            content = json.loads(path.read_text())
            assert content["columns"] == list(COLUMNS)
            self.tables[int(path.stem.removeprefix("step_"))] = content["data"]


def read(name, folder, trackio_folder):
    if name == "trackio":
        return Trackio(trackio_folder, read_config(folder)["logger"]["trackio"]["name"])
    return {"wandb": Wandb, "mlflow": MLflow}[name](folder)


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_resumed_run_holds_what_the_run_folder_holds(resumed, trackio_folder, name):
    found, rows = read(name, resumed, trackio_folder), read_metrics(resumed / "metrics.csv")
    expected = {key: {row["step"]: row[key] for row in rows if key in row} for key in set().union(*rows) - {"step"}}
    assert set(found.metrics) == set(expected) and len(expected) > 50
    for key, points in expected.items():
        assert found.metrics[key].keys() == points.keys(), key
        assert all(math.isclose(found.metrics[key][step], value, rel_tol=1e-6) for step, value in points.items()), key
    assert found.parameters["clip"] == "higher" and float(found.parameters["clip.upper"]) == 1.28

    assert set(found.tables) == {1, 2, 4}
    for step, table in found.tables.items():
        written = pd.read_parquet(resumed / f"rollouts/step_{step:06d}.parquet").query("fate == 'trained'")
        first = written[(written.completion < 2) & written.group.isin(sorted(written.group.unique())[:2])]
        first = first.sort_values(["group", "completion"])
        assert [row[1] for row in table] == first.text.tolist()
        assert [row[3] for row in table] == first.score.tolist()
        assert [row[4] for row in table] == first.num_tokens.tolist()


def test_a_resumed_run_is_one_run(resumed, trackio_folder):
    id = read_config(resumed)["logger"]["wandb"]["id"]
    wandb, mlflow = Wandb(resumed), MLflow(resumed)
    assert wandb.runs == [(id, "dapo", "dapo")] * 2  # two sessions; `wandb sync` joins runs with the same id
    assert wandb.exit_codes == [1, 0]
    assert len(mlflow.ids) == 1 and mlflow.statuses == ["FINISHED"]
    assert len(read("trackio", resumed, trackio_folder).ids) == 1


def test_the_command_resumes_it(resumed, tmp_path, monkeypatch, trackio_folder):
    """A moved run folder continues the same run; hardly a value is different, and no link keeps it from resuming."""
    before, moved = read("trackio", resumed, trackio_folder), tmp_path / "moved"
    shutil.copytree(resumed, moved, symlinks=True)
    assert ends_with(monkeypatch, f"resume={moved}", "num_steps=5", *own_reward(moved)) == ""
    assert {one for one, *_ in Wandb(moved).runs} == {one for one, *_ in Wandb(resumed).runs}
    assert MLflow(moved).ids == MLflow(resumed).ids
    after = read("trackio", moved, trackio_folder)
    assert after.ids == before.ids and set(after.metrics["accuracy"]) == {1, 2, 3, 4, 5}


def test_each_job_of_a_sweep_is_a_run(tmp_path, monkeypatch, trackio_folder):
    from runs import SMALL

    monkeypatch.chdir(tmp_path)
    small = [one for one in SMALL if not one.startswith("num_steps")]
    command = [
        "-m",
        *small,
        "num_steps=1",
        "seed=0,1",
        "logger=[csv,wandb,trackio,mlflow]",
        f"hydra.sweep.dir={tmp_path}",
    ]
    assert ends_with(monkeypatch, *command) == ""
    folders = [path.parent for path in tmp_path.glob("*/summary.json")]
    assert len(folders) == 2
    assert len({Wandb(folder).runs[0][0] for folder in folders}) == 2
    assert [len(Wandb(folder).runs) for folder in folders] == [1, 1]
    assert [Wandb(folder).exit_codes for folder in folders] == [[0], [0]]
    seeds = {float(read(name, folder, trackio_folder).parameters["seed"])
             for folder in folders for name in ("wandb", "trackio", "mlflow")}  # fmt: skip
    assert seeds == {0.0, 1.0}
    assert all(list(read_config(folder)["logger"]) == ["csv", "wandb", "trackio", "mlflow"] for folder in folders)
    assert all(read_config(folder)["choices"]["logger"] == "[csv,wandb,trackio,mlflow]" for folder in folders)
