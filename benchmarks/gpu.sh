#!/usr/bin/env bash
# Everything that is measured on a GPU:   bash benchmarks/gpu.sh [--rehearse] [STAGE ...]
#
#   tests      kernels and a whole step against the CPU's
#   operator   registers, spills and block sizes of SBLU's kernels; 512 views beside their floor; every form
#   stem       the fold, encoders, steps of pre-training and fine-tuning, either stem in turns; where their time goes
#   compiled   the step of pre-training through torch.compile
#   loader     decoding and loading beside the step of `base`
#   tiny       the same of `tiny` in large batches
#   embedding  clips a second from decoded sound
#
# Without names, all of them in this order. A stage has its own time limit and writes OUT/NAME_gpu.json as it goes; one
# that fails is named, and the next one runs. --rehearse runs the same programs at the smallest sizes on any machine.
# Nothing has to be installed but the dependencies. Variables: OUT (benchmarks/results), PYTHON (python3), CORPUS (a
# folder, or clips.csv of shards; the recordings of the demo), COMMIT (where there is no git), LIMIT (seconds a stage).
set -u
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3} corpus=${CORPUS:-src/aape/data/demo}
rehearse=
if [ "${1:-}" = --rehearse ]; then
    rehearse=--rehearse OUT=${OUT:-$(mktemp -d)}
    shift
fi
export OUT=${OUT:-benchmarks/results}
mkdir -p "$OUT"
if [ -f "$corpus" ]; then # those clips whose shards are there
    folder=$(dirname "$corpus")
    while IFS= read -r line; do
        [ "${line%%,*}" = shard ] || [ -e "$folder/${line%%,*}" ] && echo "$line"
    done <"$corpus" >"$folder/there.csv"
    corpus=$folder/there.csv
fi
[ $# -gt 0 ] || set -- tests operator stem compiled loader tiny embedding

tests() {
    local marks=(-m gpu)
    local files=(tests/ops/test_sblu_triton.py tests/ops/test_sblu_dispatch.py tests/commands/test_pretrain_gpu.py)
    [ -z "$rehearse" ] || marks=(-m "not gpu" -k "float32-1e-05-63-1-16-16-bilateral or host_wait or eager-63-bilateral")
    [ -n "$rehearse" ] || ! $python -c "import xdist" 2>/dev/null || marks+=(-n 8) # the compiler runs on the CPU
    TRITON_INTERPRET=${rehearse:+1} $python -m pytest "${marks[@]}" -o filterwarnings= -p no:cacheprovider "${files[@]}"
}
operator() { TRITON_INTERPRET=${rehearse:+1} $python benchmarks/operator_speed.py $rehearse; }
stem() { $python benchmarks/stem_speed.py $rehearse; }
compiled() { $python benchmarks/stem_speed.py --compiled $rehearse; }
loader() { pretraining pretraining --model base --clips 32 --views 16 --seconds 6; }
tiny() { pretraining pretraining_tiny --model tiny --clips 256 --views 4 --seconds 3; }
pretraining() {
    local name=$1 options=("${@:2}" --workers 0 8 "$(nproc)" --turns 3)
    [ -z "$rehearse" ] || options=(--model nano --clips 2 --views 2 --seconds 1 --workers 0 --batches 1 --turns 1)
    $python benchmarks/pretraining_speed.py --data "$corpus" --name "$name" "${options[@]}"
}
embedding() { $python benchmarks/embedding_speed.py - ${rehearse:---turns 3} ${rehearse:+--turns 1}; }

export -f tests operator stem compiled loader tiny pretraining embedding
export python corpus rehearse
failed=
for stage; do
    start=$SECONDS
    timeout "${LIMIT:-170}" bash -c "$stage"
    status=$?
    [ $status -eq 0 ] || failed+=" $stage($status)"
    echo "== $stage: exit $status, $((SECONDS - start)) s"
done
[ -n "$rehearse" ] || $python benchmarks/table.py
echo "in $OUT: $(cd "$OUT" && echo *.json)"
[ -z "$failed" ] || { echo "failed (124: out of time):$failed"; exit 1; }
