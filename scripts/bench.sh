#!/bin/sh
# usage: bench.sh [RUNS]
#
# How long freezing takes on the base, with the knob at 0 and at 1, and on the
# series (freeze_bench, RUNS times each), and how long events of kernfs take
# (kernfs_bench): one guest after the other and nothing else beside them.
. "$(dirname "$0")/lib.sh"

runs=${1:-10}
sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
step "$RESULTS/build-base.log" "building the base" sh "$scripts/build.sh" "$base"
step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"

one()		# NAME TREE PROGRAM ARG...
{
	dir=$RESULTS/$1 tree=$2
	shift 2
	APPEND='' GUESTS=1 sh "$scripts/tests.sh" "$(image "$tree")" "$dir" "$*" >&2 || exit 1
	printf '\n%s, %s\n' "${dir##*/}" "$*"
	sed -n 's/^  # \(.*:  .*\)/\1/p' "$dir/$1"*/ktap
	tail -n 1 "$dir/$1"*/ktap | grep '^ok' >/dev/null || die "$1 failed: see $dir"
}

{
	one base-knob-0 "$base" freeze_bench freeze "$runs" 0
	one base-knob-1 "$base" freeze_bench freeze "$runs" 1
	one series "$series" freeze_bench freeze "$runs" 0
	one base-knob-1-order "$base" freeze_bench order "$runs" 1
	one series-order "$series" freeze_bench order "$runs" 0
	one base-kernfs "$base" kernfs_bench
	one series-kernfs "$series" kernfs_bench
} | tee "$RESULTS/bench.txt"
