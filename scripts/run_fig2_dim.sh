#!/usr/bin/env bash
# Figure 2(a): resolution of the images.
set -euo pipefail
(($# == 4)) || { echo "usage: run_fig2_dim.sh SIZE RESOLUTION OUTDIR ATTENTION_RESOLUTION" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig2_dim --out "$3" --set size="$1" --set resolution="$2" --set attention="$4"
