"""The files under recipes/launch/ are what accelerate, bash and Kubernetes take; the Slurm files do what they say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

LAUNCH = Path(__file__).parents[1] / "recipes" / "launch"
TOOLS = {
    # It tells first: who reads its nodes stops after one, which ends it.
    "scontrol": '#!/bin/sh\necho "scontrol $*" >> "$TOLD"\n[ "$1" = show ] && echo node1 && echo node2\n',
    "srun": '#!/bin/sh\nshift\n[ "$SRUN_CPUS_PER_TASK" = 64 ] || exit 3\nexport SLURM_NODEID=1\nexec "$@"\n',
    "accelerate": '#!/bin/sh\nprintf "%s\\n" "$@" "patience $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > "$ASKED"\n'
                  '[ -z "$SAVES" ] || mkdir -p "$SAVES"\nexit 1\n',
}


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert str(config.distributed_type).endswith({"ddp": "MULTI_GPU"}.get(name, name.upper()))
    if name == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2


class Job:
    """A Slurm job of so many GPUs with stand-ins for Slurm and accelerate; call it as often as the job is started."""

    def __init__(self, folder: Path, gpus: int, nodes: int) -> None:
        for name, text in TOOLS.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.folder, self.gpus, self.run = folder, gpus, folder / "runs" / "a"
        self.run.mkdir(parents=True)
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder / "told"), "ASKED": str(folder / "asked"),
            "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": str(nodes), "SLURM_GPUS_ON_NODE": str(gpus // nodes),
            "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64",
        }

    def __call__(self) -> tuple[list[str], bool, str]:
        """-> (accelerate's words, whether the job was put back into the queue, what was said)."""
        (self.folder / "told").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", LAUNCH / f"slurm_{self.gpus}gpu.sh", "generator", "--data.manifest", "a b.jsonl", "--train.run",
             self.run], env=self.environment, capture_output=True, text=True,
        )
        assert done.returncode == 1, done.stderr
        asked = (self.folder / "asked").read_text().splitlines()
        return asked, "scontrol requeue 7" in (self.folder / "told").read_text(), done.stderr


@pytest.mark.parametrize("gpus, nodes", [(1, 1), (8, 1), (64, 8), (64, 4)])
@pytest.mark.parametrize("unfinished", [False, True])
def test_a_slurm_file_starts_every_process_and_asks_for_another_go(gpus, nodes, unfinished, tmp_path):
    job = Job(tmp_path, gpus, nodes)
    if unfinished:
        (job.run / "unfinished").touch()
    asked, queued, _ = job()
    assert asked[0] == "launch" and (LAUNCH.parents[1] / asked[asked.index("--config_file") + 1]).is_file()
    options = {name: asked[asked.index(name) + 1] for name in asked if name.startswith("--")}
    assert options["--num_processes"] == str(gpus) and options["--num_machines"] == str(nodes)
    assert options["--machine_rank"] == "1" and options["--main_process_ip"] == "node1"
    assert options["--main_process_port"] == "20007" and "patience 280" in asked
    assert asked[-6:-1] == ["recipes/generator.py", "--data.manifest", "a b.jsonl", "--train.run", str(job.run)]
    assert queued == unfinished


def test_a_slurm_job_that_comes_no_further_is_tried_once_more_and_then_left(tmp_path):
    job = Job(tmp_path, 8, 1)
    (job.run / "unfinished").touch()
    assert [job()[1] for _ in range(4)] == [True, False, True, False]  # the third is submitted anew
    _, queued, said = job()
    assert queued and "no further" not in said
    job.environment["SAVES"] = str(job.run / "states" / "step_00000100")
    assert job()[1]  # it has come further
    _, queued, _ = job()  # not now, for the first time since
    assert queued
    _, queued, said = job()
    assert not queued and "goes on from step_00000100" in said


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_a_kubernetes_file_asks_for_its_gpus(gpus):
    documents = list(yaml.safe_load_all((LAUNCH / f"kubernetes_{gpus}gpu.yaml").read_text()))
    job = next(document for document in documents if document["kind"] == "Job")["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    pods = job.get("completions", 1)
    assert pods * container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    words = " ".join(container["command"] + container.get("args", []))
    assert f"--num_processes {gpus}" in words and "recipes/launch/ddp.yaml" in words
    (patience,) = (int(value["value"]) for value in container["env"] if "SHUTDOWN" in value["name"])
    assert 30 < patience < pod["terminationGracePeriodSeconds"]
    assert pod["restartPolicy"] == "OnFailure" and job["backoffLimit"] >= 100
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
