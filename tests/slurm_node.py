"""A SLURM cluster of one node on this machine, from Debian's packages: munge, slurmctld, slurmd.

``missing()`` names the programs that are not there; ``Cluster(folder)`` is started and ended as a context, and its
daemons belong to this process.  Keys, sockets, logs and state lie in ``folder``, ports are free ones.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
ReturnToService=2
MinJobAge=600
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def path() -> str:
    """Where the programs may lie."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> list[str]:
    """Programs that are not installed, and what else keeps a cluster from starting."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=path()) is None]
    return absent or ([] if os.geteuid() == 0 else ["the rights of root, which slurmd wants"])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """The three daemons; ``environment`` is what the commands of SLURM need."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{path()}"}

    def __enter__(self) -> "Cluster":
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        # Snakemake takes SLURM's variables away inside of a job, the one that says where the configuration lies too.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = {"controller": free_port(), "daemon": free_port()}
        names = {"folder": self.folder, "host": socket.gethostname().partition(".")[0], "user": "root"}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**names, **ports))
        files = {"key-file": key, "socket": self.folder / "munge.socket", "seed-file": self.folder / "munge.seed"}
        files |= {"pid-file": self.folder / "munge.pid", "log-file": self.folder / "munge.log"}
        self._start("munged", "--foreground", "--force", *(f"--{option}={file}" for option, file in files.items()))
        self.wait(lambda: (self.folder / "munge.socket").exists())
        self.start_controller()
        self._start("slurmd", "-D")
        self.wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))
        return self

    def start_controller(self) -> None:
        """Start slurmctld; a second one goes on from the state of the first."""
        self._start("slurmctld", "-D")

    def kill_controller(self) -> None:
        """kill -9."""
        self.daemons["slurmctld"].kill()
        self.daemons["slurmctld"].wait()

    def _start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen([shutil.which(name, path=path()), *options], stdout=log, stderr=log,
                                                  env={**os.environ, **self.environment})  # fmt: skip

    def ask(self, *words: str) -> str:
        """What a command of SLURM prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout

    def wait(self, found, seconds: float = 90.0) -> None:
        """Until ``found()``; raises TimeoutError with the logs' last lines."""
        end = time.monotonic() + seconds
        while not found():
            if time.monotonic() > end:
                logs = [file.read_text()[-500:] for file in [*self.folder.glob("*.log"), *self.folder.glob("*.out")]]
                raise TimeoutError("\n".join(logs))
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--me")
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
