"""A real SLURM of one node with two stand-in GPUs, from Debian's packages, which is stopped by its pid files.

    python tests/cluster/slurm.py start FOLDER
    python tests/cluster/slurm.py stop FOLDER

It needs root, and refuses where a SLURM is configured already. slurm.conf lies in /etc/slurm while it runs, for what
else names it is taken away from a job's steps.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ETC = Path("/etc/slurm")
# Device files that are always there stand for GPUs; SLURM never opens them.
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
DAEMONS = ("slurmd", "slurmctld")
SETTINGS = {
    "ClusterName": "test",
    "SlurmUser": "root",
    "AuthType": "auth/munge",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "MpiDefault": "none",
    # A job's memory is looked at each second, and a job that has more than it asked for is ended: there are no cgroups.
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "1",
    "JobAcctGatherParams": "OverMemoryKill",
    "AccountingStorageType": "accounting_storage/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SchedulerParameters": "bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
    # The node may claim more cores than there are.
    "SlurmdParameters": "config_overrides",
    "ReturnToService": "2",
    "DefMemPerCPU": "500",
    # Ended jobs can be looked at to the end of the tests.
    "MinJobAge": "3600",
    "KillWait": "5",
    "GresTypes": "gpu",
}


def start(folder):
    """Install what is missing, start the daemons, and wait until the node is idle."""
    folder = Path(folder).resolve()
    if os.geteuid():
        sys.exit("A cluster for tests is started by root.")
    if (ETC / "slurm.conf").exists():
        sys.exit(f"{ETC}/slurm.conf: a SLURM is configured here. Stop it, or take a machine of its own.")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        subprocess.run(["apt-get", "update", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=environment)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ETC.mkdir(exist_ok=True)
    # What is stopped by this folder is its own, and no other's.
    (folder / "slurm.started").touch()
    (ETC / "slurm.conf").write_text(_settings(folder))
    (ETC / "gres.conf").write_text(GPUS)
    # What each job was given, which only it sees.
    prolog = folder / "prolog"
    prolog.write_text(f'#!/bin/sh\necho "$SLURM_JOB_ID $CUDA_VISIBLE_DEVICES" >> {folder}/devices\n')
    prolog.chmod(0o755)
    if subprocess.run(["munge", "--no-input"], capture_output=True).returncode:
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge"], check=True)
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
        (folder / "munged.started").touch()
    for daemon in ("slurmctld", "slurmd"):
        subprocess.run([daemon], check=True)
    for _ in range(120):
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.25)
    sys.exit(f"the node is not idle: {told.stdout}{told.stderr}")


def _settings(folder):
    host = socket.gethostname().partition(".")[0]
    own = {f"{name}PidFile": folder / f"{name.lower()}.pid" for name in ("Slurmctld", "Slurmd")}
    own |= {f"{name}LogFile": folder / f"{name.lower()}.log" for name in ("Slurmctld", "Slurmd")}
    own |= {f"{name}Port": _free_port() for name in ("Slurmctld", "Slurmd")}
    own |= {"SlurmctldHost": f"{host}(127.0.0.1)", "TaskProlog": folder / "prolog"}
    own |= {"StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool"}
    lines = [f"{name}={value}" for name, value in (SETTINGS | own).items()]
    node = f"NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2"
    return "\n".join([*lines, node, f"PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE", ""])


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def stop(folder):
    """End the daemons, and take away the configuration: while it is there, whatever asks SLURM waits for it."""
    folder = Path(folder).resolve()
    if not (folder / "slurm.started").exists():
        return
    subprocess.run(["scancel", "--user", "root"], capture_output=True)
    for daemon in DAEMONS:
        pid = folder / f"{daemon}.pid"
        if pid.exists():
            _end(int(pid.read_text()))
    for name in ("slurm.conf", "gres.conf"):
        (ETC / name).unlink(missing_ok=True)
    if (folder / "munged.started").exists():
        _end(int(Path("/run/munge/munged.pid").read_text()))


def _end(pid):
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(40):
            if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            os.kill(pid, number)
            time.sleep(0.25)


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]](sys.argv[2])
