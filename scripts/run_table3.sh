#!/usr/bin/env bash
# Table 3: final decay of the average of the weights.
set -euo pipefail
(($# == 3)) || { echo "usage: run_table3.sh SIZE OUTDIR FINAL_EMA" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" table3 --out "$2" --set size="$1" --set ema="$3"
