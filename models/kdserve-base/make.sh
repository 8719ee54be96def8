#!/bin/sh
# From multilingual-e5-small to kdserve-base, without training. Of each file about 10,000 lines, spread over all of it,
# decide which tokens stay: thin languages count in full.
#   sh models/kdserve-base/make.sh DATA OUT
# DATA is laid out as for the recipes; OUT, a new folder, gets texts.tsv, the trimmed teacher and the bundle.
set -eu
data=$1 out=$2
mkdir "$out"
for language in ar be bg ca cs da de el eo es et fa fi fr gl he hi hr hu id it ja ko lt mk ms nb nl pl pt ro ru sk sl \
    sr sv th tr uk vi zh; do
    for kind in parallel parallel-docs passages; do
        file="$data/$kind/$language-en.tsv.gz"
        test -f "$file" || continue
        step=$(($(zcat "$file" | wc -l) / 10000 + 1))
        zcat "$file" | awk -F '\t' -v language=$language -v step=$step '
            NR % step == 0 && $3 != "multi30k" && $3 != "wmt-news" { print language "\t" $2; print "en\t" $1 }'
    done
done | sort -u > "$out/texts.tsv"
kdserve trim multilingual-e5-small --texts "$out/texts.tsv" --min-count 3 --out "$out/kdserve-base"
kdserve export "$out/kdserve-base" --out "$out/bundle"
