#!/bin/bash
# Trains for long, and begins and ends often, on a GPU: all of endurance_cuda_test, each test a process of its own at the
# same time, with the full model on a synthetic checkpoint that is made where there is none.
#
#     tools/endure_gpu.sh BUILD_DIR [CHECKPOINT]      from the repository's root; fails if anything grows or is left
set -u

build=${1:?usage: tools/endure_gpu.sh BUILD_DIR [CHECKPOINT]}
export ERI_FULL_MODEL=${2:-$build/sdxl-synthetic.safetensors} OMP_WAIT_POLICY=passive
program=$build/bin/endurance_cuda_test
logs=$build/endurance

rm -rf "$logs"
mkdir -p "$logs"
[ -e "$ERI_FULL_MODEL" ] || "$build/bin/eri" synth sdxl 0 "$ERI_FULL_MODEL" --dtype f16 || exit
for name in $("$program" --gtest_list_tests | sed -n 's/^  //p'); do
  { "$program" --gtest_filter="*.$name" >"$logs/$name.log" 2>&1 || echo "$name" >>"$logs/failed"; } &
done
wait
grep -h -E '^[0-9]+ (steps|cycles):|Failure|SKIPPED|PASSED|FAILED|OK \]' "$logs"/*.log
[ ! -e "$logs/failed" ] || { echo "failed: $(paste -sd ' ' "$logs/failed"); see $logs"; exit 1; }
