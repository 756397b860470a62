#!/usr/bin/env bash
# Figure 5: conditioning on random labels.
set -euo pipefail
(($# == 3)) || { echo "usage: run_fig5_random.sh SIZE CLASSES OUTDIR" >&2; exit 2; }
exec "$(dirname "$0")/reproduce.sh" fig5_classes --out "$3" --set size="$1" --set labels=random --set classes="$2"
