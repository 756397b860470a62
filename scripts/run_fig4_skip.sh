#!/usr/bin/env bash
# Figure 4: skip connections kept, nine 0 or 1 with commas, from the highest resolution down.
set -euo pipefail
(($# == 6)) || { echo "usage: run_fig4_skip.sh SIZE OUTDIR PRECONDITIONING ARCHITECTURE EMBEDDING MASK" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" "fig4_$4" --out "$2" --set size="$1" --set precond="$3" --set arch="$4" --set embedding="$5" --set mask="$6"
