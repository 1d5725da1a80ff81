#!/bin/sh
# usage: mutants.sh [NAME...]
#
# Does each test fail when what it tests is missing?  mutants/NAME.patch takes
# a hunk of the series back; its text above the diff says which, and names what
# goes red in lines "Red: BINARY [ARG...]" (a test program and its arguments).
# Each is run on the base, on the mutant and on the series.  A mutant that
# stays green is a failure, and so is a series that does not.
. "$(dirname "$0")/lib.sh"

both
read -r _ tip <"$work/applied"
out=$RESULTS/mutants
mkdir -p "$out"

[ $# -gt 0 ] || { cd "$top/mutants" && set -- *.patch && cd "$top"; }

stamps=$work/mutants
mkdir -p "$stamps"
tests=$(git -C "$series" rev-parse "$tip:tools/testing/selftests")
tree() { git -C "$scratch" rev-parse "$1^{tree}"; }

# The verdict on a test, red, green or skip, is kept for as long as neither the
# tree KIND-ID nor the tests change.
stamp() { echo "$stamps/$(echo "$1 $2 $tests" | sha1sum | cut -c 1-20)"; }	# TREE-ID TEST

# Run those tests of the list FILE that have no verdict yet
verdicts()	# BZIMAGE TREE-ID DIR FILE
{
	boot=$1 id=$2 dir=$3 file=$4
	set --
	while read -r t; do
		[ -f "$(stamp "$id" "$t")" ] || set -- "$@" "$t"
	done <"$file"
	[ $# -gt 0 ] || return 0
	APPEND='' MAX_SECS=150 sh "$scripts/tests.sh" "$boot" "$dir" "$@" >"$dir.log" 2>&1 ||
		{ tail -n 20 "$dir.log" >&2; echo "error: could not run the tests (see $dir.log)" >&2; return 1; }
	for t; do
		sed -n -E 's/^not ok [0-9]+ .*/red/p; s/^ok .*# SKIP.*/skip/p; s/^ok [0-9]+ .*/green/p' \
			"$dir/$(name_of "$t")/ktap" | tail -n 1 >"$(stamp "$id" "$t")"
	done
}

base_id=$(tree "$(cat "$work/base.commit")") series_id=$(tree "$tip")
for m; do
	p=$top/mutants/${m%.patch}.patch
	[ -f "$p" ] || die "no mutant ${m%.patch} ($p)"
	sed -n 's/^Red: *//p' "$p" >"$out/${m%.patch}.red"
	[ -s "$out/${m%.patch}.red" ] || die "$p has no line 'Red: ...'"
	cat "$out/${m%.patch}.red"
done | sort -u >"$out/red"
[ -s "$out/red" ] || exit 1
say "$# mutants, $(wc -l <"$out/red") tests"
say "the tests on the base"
verdicts "$(image "$base")" "$base_id" "$out/base" "$out/red"
say "the tests on the series"
verdicts "$(image "$series")" "$series_id" "$out/series" "$out/red"

# The tests of one mutant run while the next one is built
running=''
trap '[ -z "$running" ] || kill $running 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM
finish()
{
	[ -n "$running" ] || return 0
	wait "$running" || die "no verdict on mutant $was"
	rm -f "$out/$was.bzImage"
	while read -r t; do
		b=$(cat "$(stamp "$base_id" "$t")") s=$(cat "$(stamp "$series_id" "$t")") mu=$(cat "$(stamp "$was_id" "$t")")
		v=''
		# what should not be is run again the next time
		[ "$s" = green ] || { v=" <- $s on the series"; rm -f "$(stamp "$series_id" "$t")"; }
		[ "$mu" = red ] || { v="$v <- the mutant stays $mu"; rm -f "$(stamp "$was_id" "$t")"; }
		printf '%-26s %-76s %-6s %-6s %-6s%s\n' "$was" "$t" "$b" "$mu" "$s" "$v" | tee -a "$RESULTS/mutants.txt"
	done <"$out/$was.red"
	running=''
}

: >"$RESULTS/mutants.txt"
for m; do
	m=${m%.patch}
	git -C "$scratch" checkout -q -f --detach "$tip"
	git -C "$scratch" apply --index "$top/mutants/$m.patch" || die "mutants/$m.patch does not apply to the series"
	id=$(git -C "$scratch" write-tree) new=''
	while read -r t; do
		[ -f "$(stamp "$id" "$t")" ] || new=1
	done <"$out/$m.red"
	if [ -n "$new" ]; then
		step "$out/$m-build.log" "mutant $m" sh "$scripts/build.sh" "$scratch"
		cp "$(image "$scratch")" "$out/$m.bzImage"
	fi
	finish
	verdicts "$out/$m.bzImage" "$id" "$out/$m" "$out/$m.red" &
	running=$! was=$m was_id=$id
done
finish
git -C "$scratch" checkout -q -f --detach "$tip"
printf '\n%-26s %-76s %-6s %-6s %-6s\n' mutant test base mutant series
cat "$RESULTS/mutants.txt"
n=$(grep -c '<-' "$RESULTS/mutants.txt" || :)
echo "$(($(wc -l <"$RESULTS/mutants.txt") - n)) passed, $n failed"
[ "$n" -eq 0 ]
