#!/bin/sh
# usage: check.sh check|smoke [TEST...]
#
# "make check": lint, apply, build, the selftests in guests, the show, and what
# of the bisection fits.  "make smoke": apply, build and a few tests.  The last
# line is the verdict, whatever happens.
. "$(dirname "$0")/lib.sh"

what=$1
shift
mkdir -p "$RESULTS"

# The verdict, from all the KTAP files that there are by then
finish()
{
	rc=$?
	trap - EXIT
	for s in steps lint tests show bisect; do
		[ -s "$RESULTS/$s.ktap" ] || continue
		echo "$s"
	done >"$RESULTS/suites"
	{
		echo "KTAP version 1"
		echo "1..$(wc -l <"$RESULTS/suites")"
		n=0
		while read -r s; do
			n=$((n + 1)) v=ok
			! grep -q '^not ok' "$RESULTS/$s.ktap" || v="not ok"
			sed 's/^/  /' "$RESULTS/$s.ktap"
			echo "$v $n $s"
		done <"$RESULTS/suites"
	} >"$RESULTS/check.ktap"
	rm -f "$RESULTS/suites"
	sh "$scripts/env.sh" 2>/dev/null || :
	python3 "$base/tools/testing/kunit/kunit.py" parse --junit="$RESULTS/junit.xml" "$RESULTS/check.ktap" \
		>"$RESULTS/summary.txt" 2>&1 || :
	say "KTAP, JUnit, consoles and the rest are in $RESULTS"
	grep -E '^ *not ok ' "$RESULTS/check.ktap" | sed 's/^ *//' | head -n 40 || :
	counts=$(sed -n 's/.*Testing complete. Ran [0-9]* tests: //p' "$RESULTS/summary.txt" | tail -n 1)
	count() { echo "$counts" | tr ',' '\n' | sed -n "s/^ *$1: \([0-9]*\).*/\1/p" | grep . || echo 0; }
	passed=$(count passed) skipped=$(count skipped)
	failed=$(($(count failed) + $(count crashed) + $(count errors)))
	[ $rc -eq 0 ] || [ $failed -gt 0 ] || failed=1
	[ "$passed" -gt 0 ] || [ $failed -gt 0 ] || failed=1
	[ "$skipped" -eq 0 ] && skipped='' || skipped=", $skipped skipped"
	echo "$passed passed, $failed failed$skipped"
	[ $failed -eq 0 ]
	exit
}
trap finish EXIT
trap 'exit 130' INT TERM

steps='' n=0
# what everything after it needs: when it fails, the rest is not tried
must()		# NAME COMMAND...
{
	n=$((n + 1)) name=$1 rc=0
	shift
	"$@" || rc=$?
	[ $rc -eq 0 ] && steps="${steps}ok $n $name
" || steps="${steps}not ok $n $name
"
	{ echo "KTAP version 1"; echo "1..$n"; printf %s "$steps"; } >"$RESULTS/steps.ktap"
	[ $rc -eq 0 ] || exit 1
}

show()
{
	say "the show"
	sh "$scripts/show.sh" "$(image "$series")" "$RESULTS/show" || return 1
	{ echo "KTAP version 1"; echo "1..12"; } >"$RESULTS/show.ktap"
	i=0
	for fs in xfs ext4; do
		for c in suspend hibernate resume writes fsck unresumed; do
			i=$((i + 1))
			read -r v text <<-END
				$(sed -n "s/^$fs $c //p" "$RESULTS/show/cells" 2>/dev/null)
			END
			[ "$v" = ok ] && echo "ok $i $fs.$c: $text" || echo "not ok $i $fs.$c: ${text:-no result}"
		done
	done >>"$RESULTS/show.ktap"
}

must tools sh "$scripts/need.sh"
lock
must base sh "$scripts/base.sh"
must apply sh "$scripts/apply.sh"
must build step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"
if [ "$what" = smoke ]; then
	must selftests sh "$scripts/tests.sh" "$(image "$series")" "$RESULTS" "$@"
else
	sh "$scripts/lint.sh" || :
	must selftests sh "$scripts/tests.sh" "$(image "$series")" "$RESULTS" "$@"
	[ $# -gt 0 ] || must show show
	[ $# -gt 0 ] || sh "$scripts/bisect.sh" objects || :
fi
