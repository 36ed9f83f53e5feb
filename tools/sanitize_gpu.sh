#!/bin/bash
# Runs the GPU's tests of every op and a short training of the small model under compute-sanitizer: memcheck (with its
# leak check), initcheck and racecheck, many processes at a time; and, without it, in memory that begins as NaN ("poison").
#
#     tools/sanitize_gpu.sh BUILD_DIR [SECONDS]      from the repository's root; logs go to BUILD_DIR/sanitizer
#
# Ends with a line for each job and a summary for each tool. Fails where an error is in a kernel of ours, where memory
# is not given back, or where a program fails or does not end in time (420 seconds for all unless told otherwise).
# racecheck looks at our own kernels only (named flame::...): cuBLASLt's and cuDNN's would take hours.
# compute-sanitizer is looked for in PATH and /usr/local/cuda/bin; COMPUTE_SANITIZER may name it. Its initcheck does not
# see all that libraries' kernels write by bulk copies, as those for f16 and bf16 do, and takes it for unwritten (13.0 and
# 13.2 do so): such work is left to poison. Its racecheck ends in an error of its own in some programs that use cuDNN;
# those are counted apart.
set -u

build=${1:?usage: tools/sanitize_gpu.sh BUILD_DIR [SECONDS]}
deadline=$(($(date +%s) + ${2:-420}))
bin=$build/bin
logs=$build/sanitizer
at_once=$(nproc --all)
sanitizer=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
[ -x "$sanitizer" ] || { echo "there is no compute-sanitizer at $sanitizer; it comes with CUDA's toolkit"; exit 2; }

rm -rf "$logs"
mkdir -p "$logs/pictures"
cp examples/blueprint/b[eu]*.* "$logs/pictures"

# Plans are not searched for, which would launch thousands of the libraries' kernels.
# Kernels that wait for others to end say nothing to these tools.
export FLAME_EARLY_LAUNCHES=off ERI_PLAN_CACHE=off ERI_GEMM_SEARCH=off OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
declare -A options=([memcheck]="" [initcheck]="" [racecheck]="--kernel-name kns=flame --racecheck-num-workers 2")
# Every buffer an allocation of the driver's, so that its bounds, its first write and its end are seen; captured work,
# which may not allocate, runs in FLAME's own memory.
each=FLAME_CUDA_MALLOC=1
own=ERI_PLAN_CACHE=off
captured='*Replay*:*Graph*:*MayBeFirstMet*:*ScalesLosses*'
poison=FLAME_CUDA_POISON=1
every_kernel='*.EqualsTheCpu/*:*.RoundsToStorageOnly/*:*.TakesUnalignedInputs/*:Fused.*'
by_cudnn='*.RoundsToStorageOnly/conv2d*:*.TakesUnalignedInputs/conv2d*:*.RoundsToStorageOnly/attention*'

jobs_left=()
# job TOOL MEMORY NAME PROGRAM ARGUMENTS...
job() { jobs_left+=("$(printf '%q ' "$@")"); }
# shards COUNT TOOL MEMORY NAME PROGRAM ARGUMENTS...
shards() {
  local count=$1 i
  shift
  for ((i = 0; i < count; ++i)); do
    job "$1" "$2 GTEST_TOTAL_SHARDS=$count GTEST_SHARD_INDEX=$i" "$3-$((i + 1))of$count" "${@:4}"
  done
}
# train TOOL MEMORY NAME ARGUMENTS...
train() {
  job "$1" "$2" "$3" eri train --model models/eri-tiny.safetensors --train_data_dir "$logs/pictures" --resolution 128 \
    --network_dim 4 --network_alpha 4 --max_train_steps 4 --device cuda --deterministic --save_state false \
    --output_dir "$logs/$3" "${@:4}"
}

# The longest first.
shards 5 racecheck $own ops ops_cuda_test --gtest_filter="$every_kernel:-$by_cudnn"
job racecheck $own ops-by-cudnn ops_cuda_test --gtest_filter="$by_cudnn"
shards 3 racecheck $own cross-attention cross_attention_cuda_test --gtest_filter="-*MayBeCut*:*Repeats*"
train racecheck $each train-plain --cuda_graph false
train memcheck $each train-plain --cuda_graph false
train memcheck $each train-plain-f32 --cuda_graph false --mixed_precision no
train memcheck $own train-captured
for tool in memcheck racecheck; do
  train $tool $each train-text-and-convolutions --cuda_graph false --text_encoder_lr 1e-4 --conv_dim 2
done
train initcheck $each train-plain-f32 --cuda_graph false --mixed_precision no
job memcheck $each cross-attention cross_attention_cuda_test --gtest_filter="-$captured"
job initcheck $each cross-attention cross_attention_cuda_test --gtest_filter="-$captured"
shards 3 memcheck $each ops ops_cuda_test --gtest_filter="-$captured"
shards 2 initcheck $each ops ops_cuda_test --gtest_filter="$every_kernel:-$by_cudnn"
shards 2 memcheck $own ops-captured ops_cuda_test --gtest_filter="$captured"
for tool in memcheck initcheck; do job $tool $each optimizer optimizer_cuda_test --gtest_filter="-$captured"; done
for name in TakesAnyRank TakesAnyNumberOfTokens TakesAdaptersThatDiffer WithoutAdapters GivesTheText; do
  job memcheck $each "fused-unet-$name" fused_unet_cuda_test --gtest_filter="*.$name*"
  job racecheck $own "fused-unet-$name" fused_unet_cuda_test --gtest_filter="*.$name*"
done
for tool in memcheck initcheck; do
  job $tool $each every-optimizer every_optimizer_cuda_test --gtest_filter="-$captured"
done
shards 5 racecheck $own every-optimizer every_optimizer_cuda_test --gtest_filter="-$captured"
for name in fused_unet train optimizer every_optimizer cross_attention vae; do job poison $poison "$name" "${name}_cuda_test"; done
shards 2 poison $poison ops ops_cuda_test
job racecheck $own optimizer optimizer_cuda_test

# run_job PORT TOOL MEMORY NAME PROGRAM ARGUMENTS...; the log ends with the exit status, 124 for out of time.
run_job() {
  local port=$1 tool=$2 memory=$3 name=$4 program=$5 begin left
  shift 5
  begin=$(date +%s)
  left=$((deadline > begin ? deadline - begin : 1))
  local under=""
  if [ "$tool" != poison ]; then under="$sanitizer --tool $tool --port $port --print-limit 1000 ${options[$tool]}"; fi
  if [[ $tool == memcheck && $memory == "$each"* ]]; then under+=" --leak-check full"; fi
  # shellcheck disable=SC2086  # variables and options, one a word
  env $memory timeout -k 5 "$left" $under "$bin/$program" "$@" >"$logs/$tool-$name.log" 2>&1
  echo "exit status $? after $(($(date +%s) - begin)) s" >>"$logs/$tool-$name.log"
}

port=50000  # each its own, and some behind it
for line in "${jobs_left[@]}"; do
  declare -a arguments="($line)"
  run_job "$port" "${arguments[@]}" &
  port=$((port + 20))
  while (($(jobs -rp | wc -l) >= at_once)); do wait -n; done
done
wait

# Of one log: errors in kernels of ours or of none, in the libraries' kernels, bytes that were not given back, and those
# that a library keeps to the program's end (cuDNN, once: 25 KB that cudnnDestroy leaves).
count_errors() {
  awk '/^========= (Invalid|Misaligned|Uninitialized|Error:|Warning:|Program hit|Host API|Unused)/ { at = $0; pending = 1 }
       pending && /^=========     at / { at = at $0 }
       pending && /^========= *$/ { if (at ~ / at / && at !~ /flame::/) ++others; else ++ours; pending = 0 }
       /^========= Leaked / { bytes = $3; gsub(",", "", bytes); leak = bytes; from = "" }
       leak && /Host Frame:/ { from = from $0 }
       leak && /^========= *$/ { if (from ~ /libcudnn|libcublas/) kept += leak; else leaked += leak; leak = 0 }
       END { print ours + pending + 0, others + 0, leaked + leak + 0, kept + 0 }' "$1"
}

failed=0
for tool in memcheck initcheck racecheck poison; do
  ours=0 others=0 leaked=0 kept=0 unfinished=0 gave_up=0 jobs=0
  for log in "$logs/$tool"-*.log; do
    read -r a b c d <<<"$(count_errors "$log")"
    status=$(sed -n 's/^exit status \([0-9]*\) after.*/\1/p' "$log" | tail -1)
    said=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|LEAK SUMMARY|tests? from .* ran|  PASSED  |FAILED TEST' "$log" | sed 's/^=* *//' | paste -sd ';')
    printf '%-10s %-28s status %3s %6s  %s\n' "$tool" "$(basename "$log" .log | sed "s/^$tool-//")" "$status" \
      "$(sed -n 's/^exit status .* after \(.*\)/\1/p' "$log" | tail -1)" "${said:-no summary}"
    ours=$((ours + a)) others=$((others + b)) leaked=$((leaked + c)) kept=$((kept > d ? kept : d)) jobs=$((jobs + 1))
    if grep -q 'Internal Sanitizer Error' "$log"; then
      gave_up=$((gave_up + 1))
    elif [ "$status" != 0 ] || ! grep -qE 'SUMMARY|  PASSED  ' "$log"; then
      unfinished=$((unfinished + 1))
    fi
  done
  echo "$tool: $ours errors in kernels of ours, $others in those of cuBLASLt and cuDNN, $leaked bytes not given back" \
    "($kept a process kept by them), $unfinished of $jobs jobs failed or did not end; in $gave_up the tool gave up"
  if ((ours + leaked + unfinished > 0)); then failed=1; fi
done
exit $failed
