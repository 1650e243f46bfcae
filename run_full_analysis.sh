#!/usr/bin/env bash
# The whole analysis of Gemma 2 2B with Gemma Scope's residual SAEs (16k features) at all 26 layers; downloads what is not cached.
# Further flags go to `sfc run` (./run_full_analysis.sh --help): --layers 8-10, or local folders with --model_name and --sae_source.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
output="$root/outputs/full_analysis"

status=0
"$root/sfc" run --model_name gemma-2-2b --sae_source gemma-scope-2b-pt-res-16k --output_dir "$output" "$@" || status=$?
if [ "$status" -ne 1 ] || [ -e "$output/run.json" ]; then exit "$status"; fi
# Only where files are missing: the same flags without a network say whether it is something else.
reason="$(HF_HUB_OFFLINE=1 "$root/sfc" estimate --model_name gemma-2-2b --sae_source gemma-scope-2b-pt-res-16k "$@" 2>&1 >/dev/null | tail -n 1)" || true
case "$reason" in "sfc: hub file "*) ;; *) exit "$status" ;; esac

l0=(105 102 141 59 124 68 70 69 71 73 77 80 82 84 84 78 78 77 74 73 71 70 72 75 73 116)
cat >&2 <<'TEXT'

If the model (10.5 GB) or its SAEs (7.9 GB) could not be had:

1. With a network: accept the licence at https://huggingface.co/google/gemma-2-2b, make a token there, and
     HF_TOKEN=hf_... ./run_full_analysis.sh          # resumes
   On another machine: ./sfc pull gemma-2-2b gemma-scope-2b-pt-res-16k, then copy ~/.cache/huggingface/hub to the same place here.

2. With files from elsewhere: put these of google/gemma-2-2b into a folder gemma-2-2b
     config.json  tokenizer.json  tokenizer_config.json  model.safetensors.index.json
     model-00001-of-00003.safetensors  model-00002-of-00003.safetensors  model-00003-of-00003.safetensors
   and these of google/gemma-scope-2b-pt-res, with their folders, into a folder gemma-scope
TEXT
for i in {0..12}; do
  printf '     %-46s  %s\n' "layer_$i/width_16k/average_l0_${l0[i]}/params.npz" \
    "layer_$((i + 13))/width_16k/average_l0_${l0[i + 13]}/params.npz" >&2
done
cat >&2 <<'TEXT'
   and
     ./run_full_analysis.sh --model_name ./gemma-2-2b --sae_source ./gemma-scope
TEXT
exit "$status"
