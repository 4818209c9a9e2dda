#!/usr/bin/env bash
# 64 GPUs on 8 nodes:   sbatch recipes/launch/slurm_64gpu.sh generator --data.manifest manifest.jsonl --train.run runs/a
#SBATCH --job-name=audiogen
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=USR1@300
exec bash recipes/launch/slurm_run.sh "$@"
