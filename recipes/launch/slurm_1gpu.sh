#!/usr/bin/env bash
# 1 GPU on 1 node:   sbatch recipes/launch/slurm_1gpu.sh generator --data.manifest manifest.jsonl --train.run runs/a
#SBATCH --job-name=audiogen
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=USR1@300
exec bash recipes/launch/slurm_run.sh "$@"
