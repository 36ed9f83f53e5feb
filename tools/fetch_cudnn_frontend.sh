#!/usr/bin/env bash
# Puts cudnn-frontend's headers (MIT licence) from PyPI below the folder given, once, and prints where they are.
set -euo pipefail
folder=$1 version=1.32.0
if [ ! -f "$folder/include/cudnn_frontend.h" ]; then
  mkdir -p "$folder"
  {
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --dest "$folder" "nvidia-cudnn-frontend==$version"
    python3 -c 'import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(sys.argv[2], [n for n in wheel.namelist() if n.startswith("include/") or "LICENSE" in n])' \
      "$folder"/nvidia_cudnn_frontend-*.whl "$folder"
    rm "$folder"/*.whl
  } >&2
fi
echo "$folder/include"
