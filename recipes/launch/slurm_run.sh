#!/usr/bin/env bash
# What the Slurm files share:   slurm_run.sh RECIPE [options]      (from the checkout's root, inside a job)
#
# One launcher a node, which starts a process a GPU. Nodes and GPUs are those of the job, so they can be chosen anew:
#   sbatch --nodes=2 --gpus-per-node=4 recipes/launch/slurm_64gpu.sh generator ...
set -uo pipefail

recipe=$1
shift
run=""
for ((i = 1; i < $#; i++)); do
    [ "${!i}" = --train.run ] && next=$((i + 1)) && run=${!next}
done
gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE##*:}}
newest() { ls "$run/states" 2>/dev/null | sort | tail -n 1; }
before=$(newest)

# SIGUSR1 reaches every process of the job: the trainings save, and the launchers are told to let it pass. The port is
# the job's own, for two jobs may share a node. To save a large model may take longer than launchers wait by themselves.
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))} PROCESSES=$((SLURM_NNODES * gpus))
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280}
# Since Slurm 22.05 srun does not take the job's --cpus-per-task over: launchers and loaders would share one core.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec accelerate launch \
    --config_file recipes/launch/ddp.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
    "$0" "$@"' "recipes/$recipe.py" "$@"
code=$?

# A run that was interrupted has left RUN/unfinished behind, and goes on from its last state. One that came no further
# than its last state is tried once more, for nodes fail; then it has an error that waiting does not mend.
if [ -n "$run" ] && [ -e "$run/unfinished" ]; then
    if [ "$(newest)" != "$before" ]; then
        rm -f "$run/.standstill"
    elif [ -e "$run/.standstill" ]; then
        echo "audiogen: $run came no further twice; it is not put into the queue again. After the cause is mended," \
             "submit it anew: it goes on from ${before:-the start}" >&2
        rm -f "$run/.standstill"
        exit $code
    else
        touch "$run/.standstill"
    fi
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
