#!/usr/bin/env bash
# Figure 1(c, d): R_mem over training. DURATION is in millions of images for a set of 50,000, 20 epochs each.
set -euo pipefail
(($# == 3)) || { echo "usage: run_fig1_cd.sh SIZE OUTDIR DURATION" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig1_d --out "$2" --set size="$1" --set duration="$3"
