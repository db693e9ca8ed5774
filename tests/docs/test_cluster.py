"""The scripts of the page on clusters, run with other numbers and without a cluster.

`srun` and `scontrol` are stand-ins; torchrun, the signal and the training are real.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

PAGE = "docs/cluster.md"
TINY = (
    "--data digits --device cpu --set tokenizer.encoder.layers=1 tokenizer.stage1.layers=1 "
    "stage1.phases.main.steps={steps} stage1.phases.main.warmup_steps=6 stage1.loop.checkpoint_every=10"
)


@pytest.fixture
def cluster(tmp_path):
    """Stand-ins for SLURM's programs on one machine; requeued jobs are recorded in a file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "srun": 'shift\nSLURM_NODEID=0 exec "$@"\n',
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$*" >> {tmp_path}/queue; fi\n',
    }
    for name, text in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}")
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "one", "SLURM_NNODES": "1", "JOB_COMPLETION_INDEX": "0"}
    return tmp_path, {**os.environ, **slurm, "PATH": path}


def replaced(script, changes):
    for old, new in changes.items():
        assert old in script, f"the script no longer contains {old!r}"
        script = script.replace(old, new)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert ":29500" in script
    return script.replace(":29500", f":{port}")


@pytest.fixture(params=["slurm", "kubernetes"])
def script(request, block_of, cluster):
    """The script of a scheduler for two small processes on this machine: steps -> its text."""
    recipe = "--preset alitok-256 --data {}imagenet.tar"

    def text(steps):
        tiny = TINY.format(steps=steps)
        if request.param == "slurm":
            changes = {
                "--nproc-per-node 8": "--nproc-per-node 2",
                recipe.format(""): tiny,
                "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
            }
            return replaced(block_of(PAGE, "--signal=B:TERM"), changes)
        _, job = yaml.safe_load_all(block_of(PAGE, "kind: Job"))
        changes = {
            "--nnodes 4 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 2",
            recipe.format("/data/"): tiny,
            "stage1-0.alitok": "127.0.0.1",
            "/runs/": "runs/",
        }
        return replaced(job["spec"]["template"]["spec"]["containers"][0]["args"][0], changes)

    return request.param, text


def started(command, cluster, checkpoint):
    """A process in the cluster's folder, once `checkpoint` exists there or it has ended."""
    folder, environment = cluster
    job = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 240
    while not (folder / checkpoint).exists() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    return job


@pytest.mark.slow
def test_a_stopped_job_saves_and_is_requeued_and_a_finished_one_is_not(script, cluster):
    scheduler, text = script
    folder, environment = cluster
    environment["OMP_NUM_THREADS"] = "1"
    checkpoints, done = "runs/imagenet/stage1/checkpoints", folder / "runs/imagenet/done/stage1.json"
    job = started(["bash", "-c", text(4000)], cluster, f"{checkpoints}/step-00000010")
    job.send_signal(signal.SIGTERM)
    output = job.communicate(timeout=60)[0]
    assert job.returncode == (0 if scheduler == "slurm" else 1), output
    newest = max(path.name for path in (folder / checkpoints).glob("step-*"))
    assert "Stopped" in output
    assert f"at step {int(newest.removeprefix('step-'))} of 4000" in output
    assert not done.exists()
    queue = folder / "queue"
    assert queue.exists() == (scheduler == "slurm")
    if scheduler == "slurm":
        assert queue.read_text() == "requeue 7\n"

    # Steps are part of the recipe, so a second run shows the end.
    (folder / "runs/imagenet").rename(folder / "stopped")
    queue.unlink(missing_ok=True)
    job = started(["bash", "-c", text(20)], cluster, done)
    output = job.communicate(timeout=240)[0]
    assert job.returncode == 0, output
    assert done.exists()
    assert not queue.exists()
    assert not list(folder.glob("launcher-*"))


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill(cluster):
    """`--max-restarts`, as on the page: all processes resume from the newest checkpoint."""
    folder, environment = cluster
    environment |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    words = ["torchrun", "--nproc-per-node", "2", "--max-restarts", "1", "--standalone", "-m", "alitok", "train"]
    words += ["stage1", "--out", "run", *TINY.format(steps=400).split()]
    run = started(words, cluster, "run/stage1/checkpoints/step-00000010")
    below = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(below[1]), signal.SIGKILL)
    output = run.communicate(timeout=400)[0]
    assert run.returncode == 0, output
    assert (folder / "run/done/stage1.json").exists()
