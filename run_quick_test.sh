#!/usr/bin/env bash
# The whole analysis on the embedded model: subject-verb agreement in 16 cases, effects of the features of all its SAEs, rankings and a report.
# Installs and builds what is missing. Further flags go to `sfc run` (./run_quick_test.sh --help).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "$root/sfc" run --output_dir "$root/outputs/quick_test" --force "$@"
