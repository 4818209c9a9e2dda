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
    "srun": '#!/bin/sh\nshift\nexport SLURM_NODEID=1\nexec "$@"\n',
    "accelerate": '#!/bin/sh\nprintf "%s\\n" "$@" > "$ASKED"\nexit 1\n',
}


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert str(config.distributed_type).endswith({"ddp": "MULTI_GPU"}.get(name, name.upper()))
    if name == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("gpus", [1, 8, 64])
@pytest.mark.parametrize("unfinished", [False, True])
def test_a_slurm_file_starts_every_process_and_asks_for_another_go(gpus, unfinished, tmp_path):
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    if unfinished:
        (run / "unfinished").touch()
    nodes = max(1, gpus // 8)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(tmp_path / "told"), "ASKED": str(tmp_path / "asked"),
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": str(nodes), "SLURM_JOB_ID": "7",
    }
    done = subprocess.run(
        ["bash", LAUNCH / f"slurm_{gpus}gpu.sh", "generator", "--data.manifest", "a b.jsonl", "--train.run", run],
        env=environment, capture_output=True, text=True,
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    assert done.returncode == 1, done.stderr
    assert asked[0] == "launch" and (LAUNCH.parents[1] / asked[asked.index("--config_file") + 1]).is_file()
    options = {name: asked[asked.index(name) + 1] for name in asked if name.startswith("--")}
    assert options["--num_processes"] == str(gpus) and options["--num_machines"] == str(nodes)
    assert options["--machine_rank"] == "1" and options["--main_process_ip"] == "node1"
    assert asked[-5:] == ["recipes/generator.py", "--data.manifest", "a b.jsonl", "--train.run", str(run)]
    assert ("scontrol requeue 7" in (tmp_path / "told").read_text()) == unfinished


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
    assert pod["restartPolicy"] == "OnFailure" and job["backoffLimit"] >= 100
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
