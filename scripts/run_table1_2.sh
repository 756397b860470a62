#!/usr/bin/env bash
# Tables 1 and 2: batch size with its learning rate, weight decay.
set -euo pipefail
(($# == 5)) || { echo "usage: run_table1_2.sh SIZE OUTDIR BATCH LEARNING_RATE WEIGHT_DECAY" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" table1 --out "$2" --set size="$1" --set batch="$3" --set rate="$4" --set decay="$5"
