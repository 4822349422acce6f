#!/usr/bin/env bash
# Package a model for an edge device in one file, and try the file as the device will.
#
#   examples/package_edge_device.sh MODEL TARGET [OUTPUT]
#
#   MODEL     a checkpoint, or torchvision:NAME or timm:NAME
#   TARGET    the device's GPU, such as jetson-orin-nano (see deployfold targets)
#   OUTPUT    the bundle; MODEL-TARGET.tar.zst by default
#
# Settings, with their defaults:
#
#   BUILD_FLAGS="--fp16 --no-measure"    what to build: see deployfold build --help
#   PICTURE=""                           a picture to try the bundle on
#   LABELS=""                            a file with the names of the classes
#   PYTHON="python3"                     a Python with numpy, Pillow and onnxruntime, as on the
#                                        device; deployfold, torch and onnx are not needed
#
# If no compiler here builds for the GPU (a Jetson, an H100), the bundle holds the lowered ONNX and
# the kit for deployfold finish on the device.
#
# Exit codes are deployfold's (deployfold --help); 8 is a bundle whose outputs differ from those of
# the original.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
model=$1 target=$2
name=$(basename "${model#*:}")
name=${name%.*}
output=${3:-$name-$target.tar.zst}
read -ra build_flags <<<"${BUILD_FLAGS---fp16 --no-measure}"
labels=()
if [ -n "${LABELS-}" ]; then labels=(--labels "$LABELS"); fi
python=${PYTHON:-python3}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build for $target" >&2
deployfold build "$model" --target "$target" -o "$work/$name" "${build_flags[@]}"

echo "== bundle" >&2
deployfold bundle "$work/$name" -o "$output" ${labels[@]+"${labels[@]}"}

echo "== try the bundle as the device will" >&2
deployfold bundle unpack "$output" "$work/device" >/dev/null
"$python" "$work/device/run.py"
if [ -n "${PICTURE-}" ]; then
    "$python" "$work/device/run.py" "$PICTURE"
fi

echo
echo "On the device:"
echo "  deployfold bundle unpack $(basename "$output") $name    # or: tar --zstd -xf"
if [ -f "$work/device/finish.json" ]; then
    echo "  deployfold finish $name    # builds and measures the engine for its GPU"
fi
echo "  python3 $name/run.py       # checks it against the original's outputs"
