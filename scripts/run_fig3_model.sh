#!/usr/bin/env bash
# Figure 3: depth, width and embedding of the network.
set -euo pipefail
(($# == 5)) || { echo "usage: run_fig3_model.sh SIZE OUTDIR BLOCKS CHANNELS EMBEDDING" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig3_width --out "$2" --set size="$1" --set blocks="$3" --set channels="$4" --set embedding="$5"
