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
sh "$scripts/build-series.sh"
read -r _ tip <"$work/applied"
out=$RESULTS/mutants
mkdir -p "$out"

[ $# -gt 0 ] || { cd "$top/mutants" && set -- *.patch && cd "$top"; }
# verdicts DIR FILE: of the tests run in DIR, one a line
verdicts() { sed -n -E 's/^(ok|not ok) [0-9]+ .*/\1/p' "$1/tests.ktap" | sed 's/not ok/red/; s/^ok$/green/'; }

on()		# TREE DIR: the tests of $red there
{
	[ -f "$2/tests.ktap" ] || (
		set --  "$1" "$2"
		while read -r t; do set -- "$@" "$t"; done <"$out/red"
		APPEND='' MAX_SECS=300 sh "$scripts/tests.sh" "$@"
	) >"$2.log" 2>&1 || { tail -n 20 "$2.log" >&2; die "could not run the tests (see $2.log)"; }
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
	step "$out/$m-build.log" "  building it" sh "$scripts/build.sh" "$scratch"
	git -C "$scratch" reset -q
	for k in base mutant series; do
		say "  its tests on: $k"
		case $k in
		base)	on "$base" "$out/$m-base" ;;
		mutant)	on "$scratch" "$out/$m-mutant" ;;
		series)	on "$series" "$out/$m-series" ;;
		esac
		verdicts "$out/$m-$k" >"$out/$k"
	done
	paste -d '|' "$out/red" "$out/base" "$out/mutant" "$out/series" |
	while IFS='|' read -r t b mu s; do
		v=''
		[ "$s" = green ] || v=' <- red on the series'
		[ "$mu" = red ] || v="$v <- the mutant stays green"
		printf '%-28s %-70s %-6s %-6s %-6s%s\n' "$m" "$t" "$b" "$mu" "$s" "$v"
	done >>"$RESULTS/mutants.txt"
done
git -C "$scratch" checkout -q -f --detach "$tip"
printf '\n%-28s %-70s %-6s %-6s %-6s\n' mutant test base mutant series
cat "$RESULTS/mutants.txt"
n=$(grep -c '<-' "$RESULTS/mutants.txt" || :)
echo "$(($(wc -l <"$RESULTS/mutants.txt") - n)) passed, $n failed"
[ "$n" -eq 0 ]
