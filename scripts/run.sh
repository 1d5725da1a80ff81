#!/bin/sh
# usage: run.sh
#
# "make run": the show with the unpatched base and with the series, and the
# table of both.
. "$(dirname "$0")/lib.sh"

sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
mkdir -p "$RESULTS"
step "$RESULTS/build-base.log" "building the base (10 minutes on 2 cores the first time)" \
	sh "$scripts/build.sh" "$base"
step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"
for k in base series; do
	say "the show: $k"
	sh "$scripts/show.sh" "$(image "$work/$k")" "$RESULTS/show-$k"
done
sh "$scripts/env.sh"

table()
{
	awk '
	FNR == 1 { k++ }
	{ v = $4; for (i = 5; i <= NF; i++) v = v " " $i; if ($3 != "ok") v = v " (!)"; cell[k, $1, $2] = v }
	END {
		split("suspend hibernate resume writes fsck unresumed", col)
		split("suspend|hibernate|resume|writes between|fsck|never resumed:", head, "|")
		split("||||freeze and thaw||fsck", head2, "|")
		split("base series", kernel)
		printf "%-5s %-7s", "", ""
		for (c = 1; c <= 6; c++) printf " %-17s", head[c]
		printf "\n%-5s %-7s", "", ""
		for (c = 1; c <= 6; c++) printf " %-17s", (c == 4 ? "freeze and thaw" : c == 6 ? "mount and fsck" : "")
		printf "\n"
		for (f = 1; f <= 2; f++) {
			fs = f == 1 ? "xfs" : "ext4"
			for (k = 1; k <= 2; k++) {
				printf "%-5s %-7s", fs, kernel[k]
				for (c = 1; c <= 6; c++) {
					v = cell[k, fs, col[c]]
					printf " %-17s", v == "" ? "no result (!)" : v
				}
				printf "\n"
			}
		}
	}' "$@"
}

for k in base series; do [ -s "$RESULTS/show-$k/cells" ] || echo >"$RESULTS/show-$k/cells"; done
echo
table "$RESULTS/show-base/cells" "$RESULTS/show-series/cells" | tee "$RESULTS/table.txt"
echo
echo "(!) is a failure; everything else about this run is in $RESULTS"
good=$(grep -c '^[a-z0-9]* [a-z]* ok ' "$RESULTS/show-series/cells" || :)
if [ "$good" -eq 12 ]; then
	echo "PASS: with the series xfs and ext4 came through suspend and hibernation, and wrote nothing in between"
else
	echo "FAIL: $good of 12 results of the series are good"
	exit 1
fi
