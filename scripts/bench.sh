#!/bin/sh
# usage: bench.sh [RUNS]
#
# How long freezing takes on the base, with the knob at 0 and at 1, and on the
# series (freeze_bench, RUNS times each), and how long events of kernfs take
# (kernfs_bench): one guest after the other and nothing else beside them.  And
# what a write costs: how many instructions there are in the objects that have
# sb_start_write() inline, and how many of them are not the same.
. "$(dirname "$0")/lib.sh"

runs=${1:-10}
both

one()		# NAME TREE PROGRAM ARG...
{
	dir=$RESULTS/$1 tree=$2
	shift 2
	APPEND='' GUESTS=1 sh "$scripts/tests.sh" "$(image "$tree")" "$dir" "$*" >&2 || exit 1
	printf '\n%s, %s\n' "${dir##*/}" "$*"
	sed -n 's/^  # \(.*:  .*\)/\1/p' "$dir/$1"*/ktap
	tail -n 1 "$dir/$1"*/ktap | grep '^ok' >/dev/null || die "$1 failed: see $dir"
}

instructions()	# in object $1 of both trees; addresses and the offsets in structures do not count
{
	for t in base series; do
		eval "dir=\$$t/$o"
		objdump -d --no-show-raw-insn "$dir/$1" |
			sed -n 's/^ *[0-9a-f]*:\t//p' | sed -E 's/(0x)?[0-9a-f]{3,}//g' >"$RESULTS/$t.insns"
	done
	printf '%-24s %6d %6d %6d\n' "$1" "$(wc -l <"$RESULTS/base.insns")" "$(wc -l <"$RESULTS/series.insns")" \
		"$(diff "$RESULTS/base.insns" "$RESULTS/series.insns" | grep -c '^>')"
	rm -f "$RESULTS/base.insns" "$RESULTS/series.insns"
}

{
	printf '%-24s %6s %6s %6s\n' instructions base series differ
	for f in fs/read_write fs/aio io_uring/rw mm/filemap fs/iomap/buffered-io fs/ext4/file fs/xfs/xfs_file; do
		instructions $f.o
	done
	one base-knob-0 "$base" freeze_bench freeze "$runs" 0
	one base-knob-1 "$base" freeze_bench freeze "$runs" 1
	one series "$series" freeze_bench freeze "$runs" 0
	one base-knob-1-order "$base" freeze_bench order "$runs" 1
	one series-order "$series" freeze_bench order "$runs" 0
	one base-kernfs "$base" kernfs_bench
	one series-kernfs "$series" kernfs_bench
} | tee "$RESULTS/bench.txt"
