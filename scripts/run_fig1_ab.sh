#!/usr/bin/env bash
# Figure 1(a, b): the closed-form optimum and an EDM trained on everything.
set -euo pipefail
exec "$(dirname "$0")/reproduce.sh" fig1_ab --all-levels --out "${1:-fig1_ab}"
