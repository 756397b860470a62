#!/usr/bin/env bash
# Figure 5: EDM on 50,000 images with a label for each.
set -euo pipefail
(($# == 1)) || { echo "usage: run_fig5_edm.sh OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig5_edm --out "$1"
