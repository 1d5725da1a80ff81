#!/bin/sh
# usage: mutants.sh [NAME...]
#
# Does each test fail when what it tests is missing?  mutants/NAME.patch takes
# a hunk of the series back; its text above the diff says which, and names what
# goes red in lines "Red: BINARY [ARG...]" (a test program and its arguments).
# Each is run on the base, on the mutant and on the series.  A mutant that
# stays green is a failure, and so is a series that does not.
. "$(dirname "$0")/lib.sh"

sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
step "$RESULTS/build-base.log" "building the base" sh "$scripts/build.sh" "$base"
step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"
read -r _ tip <"$work/applied"
out=$RESULTS/mutants
mkdir -p "$out"

[ $# -gt 0 ] || { cd "$top/mutants" && set -- *.patch && cd "$top"; }

stamps=$work/mutants
mkdir -p "$stamps"
tests=$(git -C "$series" rev-parse "$tip:tools/testing/selftests")
tree() { git -C "$scratch" rev-parse "$1^{tree}"; }

# verdict KIND TREE-ID TEST: red or green, kept for as long as nothing changes
stamp() { echo "$stamps/$(echo "$1 $2 $tests" | sha1sum | cut -c 1-20)"; }
verdict()
{
	f=$(stamp "$2" "$3")
	if [ ! -f "$f" ]; then
		case $1 in
		base)	on=$base ;;
		mutant)	on=$scratch ;;
		series)	on=$series ;;
		esac
		dir=$out/$m-$1
		APPEND='' MAX_SECS=150 sh "$scripts/tests.sh" "$on" "$dir" "$3" >"$dir.log" 2>&1 ||
			{ tail -n 20 "$dir.log" >&2; die "could not run $3 (see $dir.log)"; }
		sed -n -E 's/^not ok 1 .*/red/p; s/^ok 1 .*# SKIP.*/skip/p; s/^ok 1 .*/green/p' "$dir/tests.ktap" | head -n 1 >"$f"
	fi
	cat "$f"
}

: >"$RESULTS/mutants.txt"
for m; do
	m=${m%.patch}
	p=$top/mutants/$m.patch
	[ -f "$p" ] || die "no mutant $m (mutants/$m.patch)"
	sed -n 's/^Red: *//p' "$p" >"$out/red"
	[ -s "$out/red" ] || die "mutants/$m.patch has no line 'Red: ...'"
	say "mutant $m"
	git -C "$scratch" checkout -q -f --detach "$tip"
	git -C "$scratch" apply --index "$p" || die "mutants/$m.patch does not apply to the series"
	id=$(git -C "$scratch" write-tree)
	while read -r t; do
		[ -f "$(stamp "$id" "$t")" ] || { step "$out/$m-build.log" "  building it" sh "$scripts/build.sh" "$scratch"; break; }
	done <"$out/red"
	while read -r t <&3; do
		say "  $t"
		b=$(verdict base "$(tree "$(cat "$work/base.commit")")" "$t")
		s=$(verdict series "$(tree "$tip")" "$t")
		mu=$(verdict mutant "$id" "$t")
		v=''
		[ "$s" = green ] || v=" <- $s on the series"
		[ "$mu" = red ] || v="$v <- the mutant stays $mu"
		printf '%-26s %-76s %-6s %-6s %-6s%s\n' "$m" "$t" "$b" "$mu" "$s" "$v" | tee -a "$RESULTS/mutants.txt"
	done 3<"$out/red"
done
git -C "$scratch" checkout -q -f --detach "$tip"
printf '\n%-26s %-76s %-6s %-6s %-6s\n' mutant test base mutant series
cat "$RESULTS/mutants.txt"
n=$(grep -c '<-' "$RESULTS/mutants.txt" || :)
echo "$(($(wc -l <"$RESULTS/mutants.txt") - n)) passed, $n failed"
[ "$n" -eq 0 ]
