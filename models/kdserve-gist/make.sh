#!/bin/sh
# From what benchmarks/gpu/translation.py wrote to kdserve-gist.
#   sh models/kdserve-gist/make.sh PACK PIECES PAIRS OUT
# PACK is what it read, PIECES holds student-*.safetensors; PAIRS, a TSV with the columns language, source and target, is what the
# gate compares. OUT, a new folder, gets the student and the bundle.
set -eu
pack=$1 pieces=$2 pairs=$3 out=$4
mkdir "$out"
python benchmarks/gpu/assemble_translation.py "$pack" "$pieces" student "$out/kdserve-gist" --name kdserve-gist \
    --weak et lt th --source-tokens 80000
kdserve export "$out/kdserve-gist" --pairs "$pairs" --out "$out/bundle"
