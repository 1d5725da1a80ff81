#!/bin/sh
# usage: bisect.sh [objects]
#
# Is every prefix of the series fit to be the end of a bisection?  For each: the
# files that its last patch touches build without a new warning (W=1), the
# kernel builds, boots, and passes the tests that it should.  A test should pass
# from the first prefix on that passes it: what passed once has to pass in
# each prefix after it.  "objects" leaves it at the first of these, which is
# what fits into make check.
#
# Each result is kept under the tree's id and that of what it was tested with.
. "$(dirname "$0")/lib.sh"
only=${1:-}

sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
read -r _ tip <"$work/applied"
stamps=$work/bisect
out=$RESULTS/bisect
mkdir -p "$stamps" "$out"
setup=$(cat "$top/config/base.config" "$top/guest/init.c" "$scripts/tests.sh" | cksum | cut -d ' ' -f 1)
tests=$(git -C "$series" rev-parse --short=12 "$tip:tools/testing/selftests")

warnings()	# of the log $1, without line numbers
{
	sed -n -E 's/^(\.\.\/)?([^: ]+):[0-9]+(:[0-9]+)?: (warning.*)/\2: \4/p' "$1" | sort -u
}

# W=1 over the objects of what commit $1 touches, as they are in commit $2
w1()
{
	# shellcheck disable=SC2046
	set -- "$2" $(git -C "$scratch" diff --name-only --diff-filter=d "$1^" "$1" -- '*.c' | sed 's/c$/o/' |
		while read -r f; do
			[ ! -e "$series/$o/$f" ] || ! git -C "$scratch" cat-file -e "$2:${f%o}c" 2>/dev/null || echo "$f"
		done)
	git -C "$scratch" checkout -q -f --detach "$1" || return 1
	shift
	[ $# -gt 0 ] || return 0
	AF_OBJECTS=o-w1 sh "$scripts/build.sh" "$scratch" W=1 "$@"
}

objects()
{
	w1 "$1" "$1" >"$out/new.log" 2>&1 || { tail -n 20 "$out/new.log"; return 1; }
	warnings "$out/new.log" >"$out/new"
	[ -s "$out/new" ] || return 0
	# what was there before is not this patch's
	w1 "$1" "$1^" >"$out/old.log" 2>&1 || { tail -n 20 "$out/old.log"; return 1; }
	warnings "$out/old.log" >"$out/old"
	! comm -13 "$out/old" "$out/new" | grep .
}

# whole kernel, all tests: the results as lines "ok NAME" and "not ok NAME"
boots()
{
	git -C "$scratch" checkout -q -f --detach "$1"
	sh "$scripts/build.sh" "$scratch" || return 1
	APPEND='' MAX_SECS=300 sh "$scripts/tests.sh" "$scratch" "$out/$2" || return 1
	sed -n -E 's/^  (ok|not ok) [0-9]+ (.*)/\1 \2/p' "$out/$2/tests.ktap" | grep -v '# SKIP' | sort >"$3"
}

n=0 bad=0
count=$(git -C "$scratch" rev-list --count "$(cat "$work/base.commit")..$tip")
{ echo "KTAP version 1"; echo "1..$count"; } >"$RESULTS/bisect.ktap"
: >"$out/passed"
for c in $(git -C "$scratch" rev-list --reverse "$(cat "$work/base.commit")..$tip"); do
	n=$((n + 1)) why=''
	name=$(patches | sed -n "${n}p")
	tree=$(git -C "$scratch" rev-parse --short=12 "$c^{tree}")
	id=$(printf %02d $n)
	stamp=$stamps/$tree-$(git -C "$scratch" rev-parse --short=12 "$c^^{tree}")-$setup.w1
	if [ ! -f "$stamp" ]; then
		say "bisect $n/$count: objects of $name"
		objects "$c" >"$out/$id-w1.log" 2>&1 && : >"$stamp" ||
			why="new warnings or errors, see $id-w1.log"
	fi
	stamp=$stamps/$tree-$setup-$tests.results
	if [ -z "$only" ] && [ -z "$why" ] && [ ! -f "$stamp" ]; then
		say "bisect $n/$count: kernel and tests of $name"
		if boots "$c" "$id" "$out/results" >"$out/$id.log" 2>&1; then
			cp "$out/results" "$stamp"
		else
			why="does not build, see $id.log"
		fi
	fi
	if [ -f "$stamp" ]; then
		cp "$stamp" "$out/$id.results"
		grep -q '^ok' "$stamp" || why="boots no guest"
		lost=$(sed -n 's/^not ok //p' "$stamp" | sed 's/ #.*//' | grep -xF -f "$out/passed" | head -n 3 | tr '\n' ' ')
		[ -z "$lost" ] || why="fails what passed before: $lost"
		sed -n 's/^ok //p' "$stamp" | sort -u - "$out/passed" -o "$out/passed"
		text="$(grep -c '^ok' "$stamp" || :) of $(wc -l <"$stamp") tests pass"
	else
		text="objects only"
	fi
	[ -z "$why" ] && v=ok || { v="not ok" bad=1 text=$why; }
	echo "$v $n $name: $text" | tee -a "$RESULTS/bisect.ktap"
done
exit $bad
