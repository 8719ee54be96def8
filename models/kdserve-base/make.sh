#!/bin/sh
# From multilingual-e5-small to kdserve-base, without training. Of each file about 10,000 lines, spread over all of it,
# decide which tokens stay: thin languages count in full. 64 of them, and of passages, say where each language lies.
#   sh models/kdserve-base/make.sh DATA OUT
# DATA is laid out as for the recipes; OUT, a new folder, gets texts.tsv, pairs.tsv, the students and the bundles.
set -eu
data=$1 out=$2
mkdir "$out"
for language in ar be bg ca cs da de el eo es et fa fi fr gl he hi hr hu id it ja ko lt mk ms nb nl pl pt ro ru sk sl \
    sr sv th tr uk vi zh; do
    for kind in parallel parallel-docs passages; do
        file="$data/$kind/$language-en.tsv.gz"
        test -f "$file" || continue
        lines=$(zcat "$file" | wc -l)
        zcat "$file" | awk -F '\t' -v language=$language -v step=$((lines / 10000 + 1)) '
            NR % step == 0 && $3 != "multi30k" && $3 != "wmt-news" { print language "\t" $2; print "en\t" $1 }'
        test $kind = parallel-docs || zcat "$file" | awk -F '\t' -v language=$language -v step=$((lines / 64 + 1)) '
            NR % step == 0 && $3 != "multi30k" && $3 != "wmt-news" { print language "\t" $2 "\t" $1 }' >> "$out/pairs.tsv"
    done
done | sort -u > "$out/texts.tsv"
kdserve trim multilingual-e5-small --texts "$out/texts.tsv" --min-count 3 --out "$out/trimmed"
kdserve export "$out/trimmed" --out "$out/trimmed-bundle"
kdserve neutralise "$out/trimmed" --bundle "$out/trimmed-bundle" --pairs "$out/pairs.tsv" --out "$out/kdserve-base"
kdserve export "$out/kdserve-base" --out "$out/bundle"
