#!/bin/sh
# usage: bench.sh [RUNS]
#
# How long freezing takes on the base, with the knob at 0 and at 1, and on the
# series: freeze_bench RUNS times each, one guest after the other and nothing
# else beside them.
. "$(dirname "$0")/lib.sh"

runs=${1:-10}
sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
step "$RESULTS/build-base.log" "building the base" sh "$scripts/build.sh" "$base"
step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"

one()		# NAME TREE ARG...
{
	dir=$RESULTS/$1 tree=$2
	shift 2
	APPEND='' GUESTS=1 sh "$scripts/tests.sh" "$(image "$tree")" "$dir" "freeze_bench $*" >&2 || exit 1
	printf '\n%s, freeze_bench %s\n' "${dir##*/}" "$*"
	sed -n 's/^  # \(.*:  .*\)/\1/p' "$dir"/freeze_bench*/ktap
	tail -n 1 "$dir"/freeze_bench*/ktap | grep '^ok' >/dev/null || die "freeze_bench failed: see $dir"
}

{
	one base-knob-0 "$base" freeze "$runs" 0
	one base-knob-1 "$base" freeze "$runs" 1
	one series "$series" freeze "$runs" 0
	one base-knob-1-order "$base" order "$runs" 1
	one series-order "$series" order "$runs" 0
} | tee "$RESULTS/bench.txt"
