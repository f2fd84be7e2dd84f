#!/usr/bin/env bash
# The checks and figures that need a GPU, in at most six minutes, on a machine that need not have this project's environment:
#
#     benchmarks/device.sh prepare    in the project's environment, where there is a package index: fills .device/ (about 50 MiB)
#     benchmarks/device.sh            on the machine with the GPU, in the same folder, .device/ beside it
#
# The machine needs Python 3.11 or 3.12 with torch, torchvision, timm, numpy, pillow, pyarrow and safetensors; neither Ray,
# nor Hydra, nor OpenSlide, nor an index. `prepare` fetches what else the tests import (wheels at constraints.txt's versions,
# those of OpenSlide and libjpeg-turbo for DEVICE_PYTHON on x86-64 Linux), copies the golden vectors and a few tiles and weights
# from MHIM_GOLDEN_DIR and MHIM_SHARED_DATA, and paints a slide.
#
# Every part has a time limit of its own, and one that fails leaves the others. The last line is a JSON object; it, the log
# and the tests' report also lie in $OUT, or .device/out. Ends with 1 if a part failed or a test was not run.
#   PYTHON (python3; for prepare the environment's)   DEVICE_PYTHON (3.12)   DEVICE (cuda; cpu: everything small, to try the script itself)   DEVICE_WHEELS (.device/wheels)
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
carried=.device
most_mib=60

prepare() {
    set -e
    local golden=${MHIM_GOLDEN_DIR:-../shared/golden} shared=${MHIM_SHARED_DATA:-../shared/data}
    mkdir -p $carried/wheels $carried/golden $carried/data
    # the versions of constraints.txt; Python's own tags are the machine's, not ours
    local names='beartype|jaxtyping|wadler_lindig|pytest|pytest-timeout|iniconfig|pluggy|packaging|Pygments'
    rm -f $carried/wheels/*.whl
    grep -E "^($names)==" constraints.txt | xargs "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: \
        --python-version 3.12 --implementation py --abi none --platform any --dest $carried/wheels
    local compiled='openslide-bin|openslide-python|simplejpeg'
    grep -E "^($compiled)==" constraints.txt | xargs "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: \
        --python-version "${DEVICE_PYTHON:-3.12}" --dest $carried/wheels --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any
    PYTHONPATH=$PWD "$PYTHON" benchmarks/feed_encoder.py --paint $carried/painted.tiff
    cp "$golden"/*.npz $carried/golden/
    cp -r "$shared/tiles" "$shared/encoders" $carried/data/
    local mib=$(du -sm $carried | cut -f1)
    echo "$carried: $(ls $carried/wheels | wc -l) wheels, $(ls $carried/golden | wc -l) golden vectors, $mib MiB"
    [ "$mib" -le $most_mib ] || { echo "more than $most_mib MiB" >&2; exit 1; }
}

# part NAME SECONDS COMMAND…: one entry of the summary
part() {
    local name=$1 limit=$2 start=$SECONDS rc=0
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee -a "$out/log" || rc=${PIPESTATUS[0]}
    echo "{\"part\": \"$name\", \"rc\": $rc, \"seconds\": $((SECONDS - start))}" >>"$out/parts.jsonl"
}

if [ "${1:-}" = prepare ]; then
    prepare
    exit
fi

out=$(mkdir -p "${OUT:-$carried/out}" && cd "${OUT:-$carried/out}" && pwd)
rm -f "$out"/{log,parts.jsonl,tests.xml,train_step.json,draw_masks.json,encode_tiles.json,feed_encoder.json,device.json}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for wheel in "${DEVICE_WHEELS:-$carried/wheels}"/*.whl; do
    "$PYTHON" -m zipfile -e "$wheel" "$site" || exit 1  # these wheels need no more than that
done
export PYTHONPATH="$PWD:$site" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export MHIM_GOLDEN_DIR=${MHIM_GOLDEN_DIR:-$PWD/$carried/golden} MHIM_SHARED_DATA=${MHIM_SHARED_DATA:-$PWD/$carried/data}
# one workspace per stream: what deterministic sums of cuBLAS need, said before the first of them
export CUBLAS_WORKSPACE_CONFIG=:4096:8
if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "torch sees no CUDA device; DEVICE=cpu tries the script without one" >&2; exit 2; }
    chosen=(-m cuda)
    bags=(--instances 600 12000 50000 --seconds 1.0)
    masks=(--seconds 1.0 --aggregators abmil transmil)
    tiles=(--tiles 128 --seconds 1.5)
    fed=(--slides 24)
else
    chosen=(-m "not cuda" -k "devices or golden or pinned or philox")
    bags=(--instances 60 --seconds 0.1 --threads 1 --d-in 64)
    masks=(--shape 300 512 --d-in 64 --seconds 0.1)
    tiles=(--tiles 2 --seconds 0.1 --models vit_small_patch16_224 tf_efficientnet_lite0)
    fed=(--slides 1 --seconds 0.1 --models vit_tiny_patch16_224 --precisions float32)
    export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
fi

# -W default: the machine's torch may warn of things that ours does not; the log shows them
part tests 130 env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$PYTHON" -m pytest -q -p pytest_timeout -W default \
    --junitxml "$out/tests.xml" "${chosen[@]}" tests/mhim_core/train tests/mhim_core/mil/test_philox.py tests/mhim_core/embed/test_devices.py
part train_step 80 "$PYTHON" benchmarks/train_step.py --device "$DEVICE" "${bags[@]}" \
    --aggregators abmil transmil dsmil clam-sb clam-mb mean max --json "$out/train_step.json"
part draw_masks 25 "$PYTHON" benchmarks/draw_masks.py --device "$DEVICE" "${masks[@]}" --json "$out/draw_masks.json"
part encode_tiles 60 "$PYTHON" benchmarks/encode_tiles.py --device "$DEVICE" "${tiles[@]}" --json "$out/encode_tiles.json"
part feed_encoder 90 "$PYTHON" benchmarks/feed_encoder.py --device "$DEVICE" "${fed[@]}" \
    --slide $carried/painted.tiff --json "$out/feed_encoder.json"
"$PYTHON" benchmarks/device_summary.py "$out" "$DEVICE"
