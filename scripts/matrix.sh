#!/bin/sh
# usage: matrix.sh [TEST...]
#
# What is tested of which filesystem, from the KTAP of the base and of the series
# side by side.  On the base each test has a guest of its own, since it may not
# survive it.
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || set -- quiet_test filesystems_test
both
out=$RESULTS/matrix
mkdir -p "$out"

say "the series"
sh "$scripts/tests.sh" "$(image "$series")" "$out/series" "$@" >"$out/series.log" 2>&1 ||
	die "could not run the tests on the series (see $out/series.log)"
# PROGRAM TEST VERDICT
for t; do
	sed -n -E -e 's/^  not ok [0-9]+ ([^ ]*).*/\1 fails/p' -e 's/^  ok [0-9]+ ([^ ]*) # SKIP.*/\1 skips/p' \
		-e 's/^  ok [0-9]+ ([^ ]*).*/\1 passes/p' "$out/series/$(name_of "$t")/ktap" | sed "s/^/${t%% *} /"
done >"$out/series.verdicts"
[ -s "$out/series.verdicts" ] || die "no test has a result: see $out/series"

say "the base, $(wc -l <"$out/series.verdicts") guests"
set --
while read -r program test _; do
	set -- "$@" "$program -r $test"
done <"$out/series.verdicts"
APPEND='' MAX_SECS=150 sh "$scripts/tests.sh" "$(image "$base")" "$out/base" "$@" \
	>"$out/base.log" 2>&1 || die "could not run the tests on the base (see $out/base.log)"

{
	printf '%-8s %-8s %s\n' base series test
	while read -r program test v; do
		b=$(sed -n -E -e 's/^  not ok .*/fails/p' -e 's/^  ok .*# SKIP.*/skips/p' -e 's/^  ok .*/passes/p' \
			"$out/base/$(name_of "$program -r $test")/ktap" | tail -n 1)
		printf '%-8s %-8s %s\n' "${b:-dies}" "$v" "$test"
	done <"$out/series.verdicts" | sort -b -k 3
} | tee "$RESULTS/matrix.txt"
! awk '$2 == "fails"' "$RESULTS/matrix.txt" | grep -q .
