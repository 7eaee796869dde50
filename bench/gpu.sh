#!/usr/bin/env bash
# Builds kernomics for the GPU of this machine, runs the tests that need it, then the benchmarks.
#
#   bench/gpu.sh --out DIR [--seconds N] [--skip-tests] [--dry-run]
#
# Needs torch, numpy, pybind11, scikit-build-core, cmake, ninja, nvcc, pytest and hypothesis, and
# downloads nothing. All of it ends within N seconds (default 520). DIR receives build.log,
# tests.log, bench.log, txfm_step.log and the results; a short table is printed last. Ends with an
# error when the build, a test, a benchmark or the comparison with the committed results failed.
# --dry-run goes the same way without a GPU: with the package that is installed, it collects the
# tests and runs the smallest case of each benchmark on the CPU, recording nothing.
set -euo pipefail

out= seconds=520 tests=yes dry=
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --skip-tests) tests=no; shift ;;
    --dry-run) dry=yes; shift ;;
    *) echo "unknown argument $1" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { echo "usage: bench/gpu.sh --out DIR [--seconds N] [--skip-tests] [--dry-run]" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONUNBUFFERED=1
left() { echo $((SECONDS < seconds ? seconds - SECONDS : 1)); }

build() {
  # The toolkit's usual place, where it is not on the PATH.
  command -v nvcc >/dev/null || export PATH="$PATH:/usr/local/cuda/bin"
  # 9.0 → 90-real, 12.0 → 120-real: code for this GPU alone builds fastest.
  architecture=$("$python" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())')
  echo "building for $architecture"
  "$python" -m pip install --no-build-isolation --no-deps --no-index --quiet --target "$scratch/site" \
    -Cbuild-dir="$scratch/build" -Ccmake.define.KERNOMICS_CUDA=ON \
    -Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$architecture" . >"$out/build.log" 2>&1 ||
    { tail -n 40 "$out/build.log"; exit 1; }
  export PYTHONPATH="$scratch/site"
}
[ -n "$dry" ] || build
"$python" -c 'import json; from kernomics.ops import build_info; print(json.dumps(build_info()))' |
  tee -a "$out/build.log"
echo "built after $SECONDS s"

failed=
if [ "$tests" = yes ]; then
  # The addopts leave out --strict-config, for pytest-timeout's option is unknown where that is not
  # installed. The tests of data, models and reports need packages that a GPU machine may lack; the
  # emulated kernels are for machines without one.
  timeout "$(left)" "$python" -m pytest -o addopts=--import-mode=importlib \
    -W "ignore:Unknown config option:pytest.PytestConfigWarning" -q --maxfail=20 \
    tests/ops tests/test_native.py -m "${dry:+gpu and }not slow" ${dry:+--collect-only} \
    --ignore-glob="*/test_*emulat*.py" >"$out/tests.log" 2>&1 || failed=" tests"
  grep -E "^(FAILED|ERROR)|passed|failed|collected" "$out/tests.log" | tail -n 20 || tail -n 5 "$out/tests.log"
  echo "tested after $SECONDS s"
fi

how=(--device cuda --record --out "$out")
[ -z "$dry" ] || how=(--device cpu --smoke)
: >"$out/bench.log"
files=(bench/ops/*.py)
for i in "${!files[@]}"; do
  op=$(basename "${files[$i]}" .py)
  share=$(($(left) / (${#files[@]} + 2 - i)))  # an even share of what is left, two for TxFM's step
  timeout "$((share > 1 ? share : 1))" "$python" -m "bench.ops.$op" "${how[@]}" >>"$out/bench.log" 2>&1 || failed="$failed ${files[$i]}"
done

# In a folder of its own: what is beside the op benchmarks' results is compared with theirs.
on=(--device cuda --precision bf16)
[ -z "$dry" ] || on=(--device cpu --smoke --ways eager kernomics)
step() {
  timeout "$(left)" "$python" -m bench.txfm.step "${on[@]}" "$@" \
    --out "$out/systems/txfm_step.jsonl" >>"$out/txfm_step.log" 2>>"$out/bench.log"
}
: >"$out/txfm_step.log"
step --search-seconds 8 || failed="$failed bench/txfm/step.py"
# Compiling takes about a minute.
if [ -z "$dry" ] && [ "$(left)" -gt 100 ]; then
  step --ways eager compiled --case B --search-seconds 0 || failed="$failed bench/txfm/step.py"
fi

for results in "$out"/*.jsonl; do
  [ -e "$results" ] || continue
  "$python" -m bench.check "$results" || failed="$failed comparison"
  "$python" -m bench.table --show "$results"
done
cat "$out/txfm_step.log"
if [ -n "$failed" ]; then
  grep -A 15 Traceback "$out/bench.log" | tail -n 30 || true
  echo "FAILED:$failed"
  exit 1
fi
echo "all done after $SECONDS s"
