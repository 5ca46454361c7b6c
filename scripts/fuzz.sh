#!/usr/bin/env bash
# Gives every reader of files from strangers random changes of the inputs in Fuzz/Corpus; Fuzz/README.md says what must hold.
#
#     scripts/fuzz.sh [SECONDS [TARGET…]]     for each target; 20 seconds and all targets without
#
# The seed is the same each time: FUZZ_SEED, 1 without it. FUZZ_CORPUS names a folder that keeps the inputs found on the way
# from one run to the next. An input that shows a fault is kept in .build/fuzz/findings and named; the exit code is then 1.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
shift || true
[ $# -gt 0 ] || set -- json safetensors shard-index tokenizer adapter-config adapter checkpoint huffman

scratch=.build/fuzz
findings=$scratch/findings
# Of several -sanitize the compiler takes the last, and SwiftPM gives its own in any order: so both in one, behind SwiftPM's.
OPLORA_FUZZ=1 swift build -c release --sanitize fuzzer -Xswiftc -sanitize=fuzzer,address -Xcc -fsanitize=fuzzer,address \
    -Xswiftc -enable-testing --scratch-path "$scratch" --product Fuzz 2>&1 | { grep -v 'warning: Cannot export local symbol' || true; }
# In memory where there is such a place: some targets write each input to a file.
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$work"' EXIT
mkdir -p "$findings"

failed=0
for target in "$@"; do
    found=${FUZZ_CORPUS:-$work}/found-$target
    mkdir -p "$found" "$work/$target"
    # Large enough for every seed to grow. Some formats cannot be small.
    longest=4096
    case $target in checkpoint | tokenizer) longest=16384 ;; esac
    echo "fuzzing $target for $seconds s"
    # libFuzzer handles the signals, not the backtracer of Swift.
    if SWIFT_BACKTRACE=enable=no FUZZ_TARGET=$target FUZZ_FOLDER=$work/$target "$scratch/release/Fuzz" \
        "$found" "Fuzz/Corpus/$target" -dict=Fuzz/words.dict -seed="${FUZZ_SEED:-1}" -max_total_time="$seconds" -max_len=$longest \
        -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$findings/$target-" -print_final_stats=1 >"$work/log" 2>&1; then
        grep '^#[0-9]*[[:space:]]*DONE' "$work/log" | tail -n 1
        if grep -q 'Is the code instrumented' "$work/log"; then
            failed=1
            echo "fuzz.sh: $target is not instrumented for coverage" >&2
        fi
    else
        failed=1
        tail -n 60 "$work/log" >&2
        echo "fuzz.sh: $target has a fault; the input is $(sed -n 's/.*Test unit written to //p' "$work/log" | tail -n 1)" >&2
    fi
done
exit $failed
