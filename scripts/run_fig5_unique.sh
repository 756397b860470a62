#!/usr/bin/env bash
# Figure 5: a label for each image.
set -euo pipefail
(($# == 2)) || { echo "usage: run_fig5_unique.sh SIZE OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig5_unique --out "$2" --set size="$1"
