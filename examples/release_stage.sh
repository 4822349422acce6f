#!/usr/bin/env bash
# A stage of a release pipeline: build, gate, compare with the last release, bundle, publish.
#
#   examples/release_stage.sh MODEL VERSION [RELEASES]
#
#   MODEL      a checkpoint, or torchvision:NAME or timm:NAME
#   VERSION    the version of the release, such as v1.4.0
#   RELEASES   the directory of all releases; ./releases by default
#
# Settings, with their defaults:
#
#   BUILD_FLAGS="--fp16"                        what to build: see deployfold build --help
#   GATE_FLAGS="--max-diff-of onnxruntime=0.1"  limits that the build must keep; a build with
#                                               --no-measure misses them
#   COMPARE_FLAGS=""                            how much worse than the last release it may be
#   LABELS=""                                   a file with the names of the classes
#
# The script may run again, after a failure or twice. A published version of the same model and
# settings is verified and stays as it is. With another model or other settings the script refuses,
# since a release does not change. Nothing appears under RELEASES/VERSION before all steps passed.
#
# Exit codes are deployfold's (deployfold --help): 7 is a missed limit or a regression, 9 refused
# INT8, 10 a damaged bundle, 2 wrong usage or a version that exists already.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
model=$1 version=$2 releases=${3:-releases}
read -ra build_flags <<<"${BUILD_FLAGS---fp16}"
read -ra gate_flags <<<"${GATE_FLAGS---max-diff-of onnxruntime=0.1}"
read -ra compare_flags <<<"${COMPARE_FLAGS-}"
labels=()
if [ -n "${LABELS-}" ]; then labels=(--labels "$LABELS"); fi

case $version in
    '' | .* | */* | latest) echo "'$version' is not a version." >&2; exit 2 ;;
esac

# One hash of everything that decides the release: checkpoint, settings, version of deployfold.
inputs=$({
    deployfold --version
    if [ -f "$model" ]; then sha256sum <"$model"; else echo "$model"; fi
    if [ -n "${LABELS-}" ]; then sha256sum <"$LABELS"; fi
    printf '%s\n' "${build_flags[@]}" "${gate_flags[@]}"
} | sha256sum | cut -d' ' -f1)

release=$releases/$version
if [ -d "$release" ]; then
    if [ "$(cat "$release/inputs.sha256")" != "$inputs" ]; then
        echo "$version is published already, with another model or other settings." >&2
        exit 2
    fi
    deployfold bundle verify "$release/model.tar.zst"
    echo "$version is published already."
    exit 0
fi

mkdir -p "$releases"
work=$(mktemp -d "$releases/.tmp-$version-XXXXXX")
trap 'rm -rf "$work"' EXIT

step() { echo "== $1" >&2; }

step "build and gate"
code=0
deployfold build "$model" -o "$work/build" "${build_flags[@]}" "${gate_flags[@]}" || code=$?
# A build leaves its report also when it fails: keep the report for the search for the cause.
if [ -f "$work/build/report.json" ]; then
    cp "$work/build/report.json" "$releases/last-attempt.json"
fi
case $code in
    0) ;;
    7) echo "The build misses a limit: $version is not published." >&2; exit 7 ;;
    9) echo "INT8 does not keep its accuracy: $version is not published." >&2; exit 9 ;;
    *) exit "$code" ;;
esac

if [ -f "$releases/latest" ]; then
    last=$(cat "$releases/latest")
    step "compare with $last"
    deployfold compare "$releases/$last/report.json" "$work/build" \
        --markdown "$work/compare.md" ${compare_flags[@]+"${compare_flags[@]}"} || code=$?
    if [ "$code" -ne 0 ] && [ -f "$work/compare.md" ]; then
        cp "$work/compare.md" "$releases/last-attempt.md"
    fi
    case $code in
        0) ;;
        7) echo "The build is worse than $last: $version is not published." >&2; exit 7 ;;
        *) exit "$code" ;;
    esac
fi

step "bundle"
deployfold bundle "$work/build" -o "$work/model.tar.zst" ${labels[@]+"${labels[@]}"}
deployfold bundle verify "$work/model.tar.zst" >/dev/null

step "publish"
cp "$work/build/report.json" "$work/build/report.md" "$work/"
printf '%s\n' "$inputs" >"$work/inputs.sha256"
(cd "$work" && sha256sum model.tar.zst >model.tar.zst.sha256)
rm -rf "$work/build"
chmod 755 "$work"
# A rename, so that readers see the whole release or nothing.
mv "$work" "$release"
printf '%s\n' "$version" >"$releases/.tmp-latest" && mv "$releases/.tmp-latest" "$releases/latest"
rm -f "$releases/last-attempt.json" "$releases/last-attempt.md"
echo "Published $release"
