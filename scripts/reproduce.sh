#!/usr/bin/env bash
# Starts `diffmem reproduce ARGUMENTS` on the processes that the environment describes:
#   inside torchrun (LOCAL_RANK is set)        this process is one of them;
#   MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK one of WORLD_SIZE nodes, each with NPROC_PER_NODE processes (default 1);
#   otherwise                                  NPROC_PER_NODE processes on this machine (default: one for each GPU).
set -euo pipefail
python=${PYTHON:-$(command -v python || command -v python3)}
if [[ -n ${LOCAL_RANK:-} ]]; then
  exec "$python" -m diffmem reproduce "$@"
elif [[ -n ${MASTER_ADDR:-} ]]; then
  exec "$python" -m torch.distributed.run --nproc_per_node "${NPROC_PER_NODE:-1}" --nnodes "${WORLD_SIZE:?number of nodes}" \
    --node_rank "${RANK:?number of this node}" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:?}" \
    -m diffmem reproduce "$@"
fi
gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
processes=${NPROC_PER_NODE:-$((gpus > 1 ? gpus : 1))}
if ((processes > 1)); then
  exec "$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" -m diffmem reproduce "$@"
fi
exec "$python" -m diffmem reproduce "$@"
