"""A real SLURM of one node on this machine, without systemd, without accounting; nothing outside its folder changes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
SlurmdPort={next_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
MaxArraySize=3
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
MinJobAge=86400
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """`cpus` may be more than there are. Use as a context: SLURM runs inside, and its programs find it."""

    def __init__(self, folder: Path, cpus: int = 8, port: int = 36917):
        self.folder, self.cpus = folder, cpus
        host = subprocess.check_output(["hostname", "-s"], text=True).strip()
        self.config = CONFIG.format(folder=folder, host=host, cpus=cpus, port=port, next_port=port + 1)

    def __enter__(self) -> Cluster:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(self.config)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        names = {name: f"--{name}={self.folder}/munge" for name in ("socket", "pid-file", "log-file", "seed-file")}
        subprocess.run(["munged", "--force", f"--key-file={key}", *(f"{flag}.{name.split('-')[0]}"
                        for name, flag in names.items())], check=True)  # fmt: skip
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-c"], check=True)
        deadline = time.time() + 20
        while self("sinfo", "--noheader", "--format=%T") != "idle":
            assert time.time() < deadline, (self.folder / "slurmctld.log").read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("slurmd", "slurmctld", "munge"):
            pid = self.folder / f"{name}.pid"
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)
        del os.environ["SLURM_CONF"]

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def states(self) -> dict[str, str]:
        """Of all jobs, also ended ones."""
        return dict(line.split() for line in self("squeue", "-hart", "all", "-o", "%i %T").splitlines())
