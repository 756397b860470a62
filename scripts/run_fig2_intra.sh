#!/usr/bin/env bash
# Figure 2(c): share ALPHA of ImageNet dogs among CIFAR-10 dogs.
set -euo pipefail
(($# == 3)) || { echo "usage: run_fig2_intra.sh SIZE ALPHA OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig2_intra --out "$3" --set size="$1" --set alpha="$2"
