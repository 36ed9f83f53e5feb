#!/usr/bin/env bash
# Teaches a small model a style from 24 pictures, and shows that it has learned it. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=build/release/bin
model=models/eri-tiny.safetensors
pictures=examples/blueprint
started=$SECONDS

say() { printf '\n%s\n\n' "$*"; }

draw() {
  "$bin/eri" sample --model "$model" --from_file examples/demo/prompts.txt --seed 1 \
    --steps 20 --cfg 2 --width 128 --height 128 "$@"
}

rm -rf demo
mkdir demo

say "1. How well does the base model know the blueprint style? Its error on the 24 pictures:"
"$bin/eri" evaluate --model "$model" --train_data_dir "$pictures" --resolution 128

say "2. It learns: a LoRA of rank 8, 300 steps. Each step's loss is in demo/lora-log.jsonl."
"$bin/eri" train "$pictures/blueprint.toml" --output_dir demo --output_name lora >/dev/null

say "3. The same error with the LoRA:"
"$bin/eri" evaluate --model "$model" --train_data_dir "$pictures" --resolution 128 --lora demo/lora.safetensors

say "4. It draws 12 things that are not among the 24, from the same noise without and with the LoRA."
draw --output demo/before
draw --output demo/after --lora demo/lora.safetensors

say "5. Has the style come? What counts is the share of pixels that are about as blue as a blueprint."
"$bin/blueprint_check" demo/before demo/after demo/sheet.png

say "6. Is the LoRA a file that other programs can load?"
"$bin/eri" verify demo/lora.safetensors --model "$model"

say "Done in $((SECONDS - started)) s. Look at demo/sheet.png: rows 1 and 3 are the base model's, rows 2 and 4 the LoRA's."
