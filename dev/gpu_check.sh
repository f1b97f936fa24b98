#!/usr/bin/env bash
# All that can be checked and measured on one CUDA GPU, in about five minutes: the tests of
# tests/test_cuda.py, bench/gpu.py (speed, memory, profiles), and TRL next to ours where trl 1.10.0
# is installed.
#
#     dev/gpu_check.sh [FOLDER]        # results; default $OUT, else .cache/gpu_check
#
# PYTHON: the interpreter (default .venv/bin/python if it is there, else python3). CHECK_DEVICE=cpu
# tries the script on a CPU with tiny models. Ends with 0 if nothing failed; each part has a time limit,
# and what was found before it is kept.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-.cache/gpu_check}}
python=${PYTHON:-}
[[ -n $python ]] || { [[ -x .venv/bin/python ]] && python=.venv/bin/python || python=python3; }
python=$(command -v "$python")
device=${CHECK_DEVICE:-cuda}
mkdir -p "$out"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 CUDA_MODULE_LOADING=LAZY
started=$SECONDS failed=()

part() { # NAME SECONDS COMMAND...: run it, keep its output in NAME.log, remember whether it failed
    local name=$1 limit=$2 begun=$SECONDS code
    shift 2
    # SIGINT first, so that pytest still says what has failed.
    timeout -s INT -k 10 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    ((code == 0)) || failed+=("$name ($code)")
    echo "$name: exit code $code, $((SECONDS - begun)) s"
}

workers=0 small=() peers=(--questions 80 --repeats 5) limits=(110 130 105)
(($(nproc) >= 8)) && workers=6
if [[ $device == cpu ]]; then
    small=(--tiny --repeats 1 --seconds 60) peers=(--questions 10 --repeats 1 --tiny) limits=(600 300 600)
fi

OMP_NUM_THREADS=1 PICO_TEST_DEVICE=$device part tests "${limits[0]}" "$python" -m pytest \
    tests/test_cuda.py -n "$workers" -p no:cacheprovider --tb=short --durations=8 -q
tail -n 40 "$out/tests.log"
part bench "${limits[1]}" "$python" bench/gpu.py --device "$device" --output "$out" --seconds 100 \
    "${small[@]}"
grep -E ': (done|FAILED)' "$out/bench.log"
if "$python" -c 'import datasets, trl' 2>"$out/vs_trl.log"; then
    part vs_trl "${limits[2]}" "$python" bench/vs_trl.py --dataset random --device "$device" \
        --dtype bfloat16 --no_compile --peer_python "$python" --stages sft ppo generate dpo reward \
        --output "$out/vs_trl.json" "${peers[@]}"
    tail -n 40 "$out/vs_trl.log"
else
    echo "no TRL here: $(tail -n 1 "$out/vs_trl.log")"
fi
[[ -f $out/gpu.md ]] && cut -c 1-170 "$out/gpu.md"
echo "$((SECONDS - started)) s; failed: ${failed[*]:-nothing}"
((${#failed[@]} == 0))
