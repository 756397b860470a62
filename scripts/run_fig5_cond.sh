#!/usr/bin/env bash
# Figure 5: conditioning on the true labels.
set -euo pipefail
(($# == 2)) || { echo "usage: run_fig5_cond.sh SIZE OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig5_labels --out "$2" --set size="$1" --set labels=true
