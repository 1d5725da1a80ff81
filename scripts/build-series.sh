#!/bin/sh
# usage: build-series.sh
#
# Builds $work/series, starting from the objects of the base where there are
# any.  (Never the other way round: the files that the series does not change
# are as old in both trees, but only those that it changes are newer.)
. "$(dirname "$0")/lib.sh"

mkdir -p "$RESULTS"
if [ ! -f "$series/$o/vmlinux" ] && [ -f "$base/$o/vmlinux" ]; then
	commit=$(git -C "$series" rev-parse HEAD)
	rm -rf "${series:?}/$o"
	cp -a --reflink=auto "$base/$o" "$series/$o"
	# what differs becomes newer than the objects
	git -C "$series" diff --name-only "$(cat "$work/base.commit")" "$commit" |
		(cd "$series" && xargs -r touch -c)
fi
step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"
