#!/bin/sh
# Is a whole SDXL, at the size that people train and draw at, what diffusers, transformers and peft make of it on the same
# device? Prints a table and leaves it in WORK/full-size.json; fails where one figure is beyond its bound.
#
# usage: full_size_parity.sh [BIN [WORK [PYTHON]]]
#
# PYTHON needs torch, diffusers, transformers and peft. The environment may set DEVICE (cuda:0), GEOMETRY (a file; SDXL's),
# SIZE (1024), STEPS (20), FORWARD=1 (a prediction of the UNet in f32 alone, which a CPU with 16 GiB can do with SIZE=512), AS_IS=1 (half a minute more, of drawing that is not judged: tests/parity/README.md says why) and
# COMMIT, where git does not know it. `tools/gpu_report.py WORK/full-size.json` puts the table
# into docs/benchmarks.md. WORK gets 7 GB for the checkpoint, which is made if it is not there, and 1 GB of cases.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(realpath "${1:-$root/build/release/bin}")
work=$(realpath -m "${2:-$root/build/full-size}")
python=${3:-python3}
device=${DEVICE:-cuda:0}
geometry=$(realpath "${GEOMETRY:-$root/tests/parity/geometries/sdxl.json}")
checkpoint=$work/$(basename "$geometry" .json).safetensors

mkdir -p "$work"
rm -rf "$work/cases" "$work/about.json" "$work"/*.log

# The checkpoint is made while Python loads its libraries.
if [ ! -e "$checkpoint" ]; then
  "$bin/eri" synth "$geometry" 0 "$checkpoint" --dtype f16 &
fi
"$python" "$root/tests/reference/full_size.py" "$checkpoint" "$geometry" "$work/cases" --device "$device" \
  --size "${SIZE:-1024}" --steps "${STEPS:-20}" ${AS_IS:+--as_is} ${FORWARD:+--forward} || echo "full_size_parity.sh: the reference failed: cases will be missing" >&2
wait

# f32 and bf16 side by side. What fails or is missing shows in the table.
parity() (
  log=$work/$1.log
  shift
  cd "$work/cases"
  "$bin/parity" --geometries "$(dirname "$geometry")" --checkpoint "$checkpoint" --device "$device" "$@" >"$log" 2>&1
)
if [ -n "${FORWARD:-}" ]; then
  parity f32 unet || failed=1
  cat "$work/f32.log"
  exit ${failed:-0}
fi
parity f32 $(ls "$work/cases") &
parity bf16 --dtype bf16 text unet unet_loss vae_decode vae_encode || true
case $device in
  cuda*) parity fused --dtype bf16 --fused unet unet_loss || true ;;
esac
wait
"$python" "$root/tools/full_size_table.py" "$work"
