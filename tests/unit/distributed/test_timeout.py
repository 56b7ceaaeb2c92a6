"""`trainer.timeout_minutes` is the limit of the process group, with every strategy."""

import socket

import pytest
import torch
import torch.distributed as dist
from runs import config

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.trainer import build_trainer


@pytest.mark.parametrize("option", ["ddp", "ddp_cpu", "fsdp2", "slurm", "slurm_fsdp2"])
def test_the_timeout_reaches_the_process_group(option, tmp_path, monkeypatch):
    if option.startswith("slurm"):
        for name, value in {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "JOB_NAME": "job", "JOB_ID": 7}.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        for name in ("PROCID", "LOCALID", "NODEID"):
            monkeypatch.setenv(f"SLURM_{name}", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
    overrides = [f"trainer={option}", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.timeout_minutes=7"]
    strategy = build_trainer(config(f"run_folder={tmp_path}", *overrides), checkpoint=None).strategy
    # What setup_environment calls.
    set_up = getattr(strategy, "_setup_distributed", None) or strategy.setup_distributed  # type: ignore[attr-defined]
    set_up()
    try:
        group = dist.distributed_c10d._get_default_group()
        assert group._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 7 * 60
    finally:
        dist.destroy_process_group()


def test_a_strategy_without_a_timeout_is_named(tmp_path):
    overrides = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=auto"]
    with pytest.raises(ConfigError, match="SingleDeviceStrategy has no timeout"):
        build_trainer(config(f"run_folder={tmp_path}", *overrides), checkpoint=None)
