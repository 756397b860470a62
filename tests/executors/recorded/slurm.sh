#!/bin/bash

#SBATCH --job-name=study.TIME
#SBATCH --output=FOLDER/executor/parsl/000/submit_scripts/study.TIME.stdout
#SBATCH --error=FOLDER/executor/parsl/000/submit_scripts/study.TIME.stderr
#SBATCH --nodes=1
#SBATCH --time=240
#SBATCH --ntasks-per-node=1
#SBATCH --no-requeue
#SBATCH --constraint=a100
#SBATCH --partition=gpu
#SBATCH --account=proj42
#SBATCH --gpus-per-node=2
#SBATCH --mem=16g
#SBATCH --cpus-per-task=2

export PATH=BIN:"$PATH"
echo prepared
export DIFFMEM_ENDS=$(( $(date +%s) + 14400 ))
export PARSL_MEMORY_GB=16
export PARSL_CORES=2


export JOBNAME="study.TIME"

process_worker_pool.py  --max_workers_per_node=2 -a 127.0.0.1 -p 0 -c 0.001 -m None --poll 10 --port=PORT --cert_dir FOLDER/executor/parsl/000/diffmem/certificates --logdir=FOLDER/executor/parsl/000/diffmem --logconf=None --block_id=0 --hb_period=5  --hb_threshold=20 --drain_period=14070 --cpu-affinity none  --mpi-launcher=mpiexec --available-accelerators
