#!/usr/bin/env bash
# What the Slurm files share:   slurm_run.sh GPUS_A_NODE RECIPE [options]      (from the checkout's root, inside a job)
set -uo pipefail

gpus=$1 recipe=$2
shift 2
run=""
for ((i = 1; i < $#; i++)); do
    [ "${!i}" = --train.run ] && next=$((i + 1)) && run=${!next}
done

# One launcher a node; it starts a process a GPU. SIGUSR1 reaches all of them: the trainings save, and the launcher is
# told to let it pass.
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500} PROCESSES=$((SLURM_NNODES * gpus))
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec accelerate launch \
    --config_file recipes/launch/ddp.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
    "$0" "$@"' "recipes/$recipe.py" "$@"
code=$?

# A run that was interrupted has left RUN/unfinished behind, and goes on from its last state.
if [ -n "$run" ] && [ -e "$run/unfinished" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
