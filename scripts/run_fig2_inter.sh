#!/usr/bin/env bash
# Figure 2(b): number of classes.
set -euo pipefail
(($# == 3)) || { echo "usage: run_fig2_inter.sh SIZE CLASSES OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig2_inter --out "$3" --set size="$1" --set classes="$2"
