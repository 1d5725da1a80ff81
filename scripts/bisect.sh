#!/bin/sh
# usage: bisect.sh [objects]
#
# Is every prefix of the series fit to be the end of a bisection?  For each: the
# files that its last patch touches build without a new warning (W=1), the
# kernel builds, boots, and passes the tests that it should: those that lines
# "# passes: BINARY [ARG...]" above a patch in the file series name, from there
# on to the end; after a patch of one filesystem alone, those of them that mount
# it, and one more.  "objects" leaves it at the first of these, which is what
# fits into make check.
#
# FROM is how the name of the patch begins before which all are left out.
#
# Each result is kept under the tree's id, or the kernel's, and that of what it
# was tested with.
. "$(dirname "$0")/lib.sh"
only=${1:-}
: "${FROM:=}"

sh "$scripts/need.sh"
lock
sh "$scripts/base.sh"
sh "$scripts/apply.sh"
read -r _ tip <"$work/applied"
stamps=$work/bisect
out=$RESULTS/bisect
mkdir -p "$stamps" "$out"
config=$({
	cat "$top/config/base.config" ${FLAVOUR:+"$top/config/$FLAVOUR.config"}
	find "$top/tools-testing-selftests" -name config | sort | xargs cat
} | cksum | cut -d ' ' -f 1)$FLAVOUR
setup=$(cat "$top/guest/init.c" "$scripts/tests.sh" | cksum | cut -d ' ' -f 1)

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

# The tests that should pass with the first $1 patches: a whole program stands
# for parts of it
wanted()
{
	awk -v n="$1" '/^# passes: / { new[++k] = substr($0, 11); next }
		/^#|^[[:space:]]*$/ { next }
		{ last = k; if (++i == n) exit }
		END {
			for (k = 1; k <= last; k++) if (split(new[k], w, " ") == 1) whole[new[k]] = 1
			for (k = 1; k <= last; k++) {
				split(new[k], w, " ")
				if (!seen[new[k]]++ && (new[k] == w[1] || !whole[w[1]])) print new[k]
			}
		}' "$top/series"
}

# Leaves of the tests on stdin those that what commit $1 touches may matter for
concerned()
{
	fs=$(git -C "$scratch" diff --name-only "$1^" "$1" | sed -E 's,^fs/([a-z0-9]+)/.*,\1,' | sort -u)
	case $fs in
	btrfs|ecryptfs|exfat|ext2|f2fs|jfs|minix|nilfs2|ntfs3|ubifs|udf) ;;
	fat)	fs=vfat ;;
	*)	cat; return ;;	# other things, or what all tests are made of
	esac
	mounts=" $(git -C "$series" grep -l "\"$fs\"" "$tip" -- 'tools/testing/selftests/*_test.c' |
		sed 's,.*/\(.*\).c,\1,' | tr '\n' ' ')"
	while read -r t; do
		case $mounts in *" ${t%% *} "*) ;; *) continue ;; esac
		case $t in *' '*"$fs"*) ;; *' '*) continue ;; esac
		echo "$t"
	done
	echo "owner_test -v ext4"
}

# What the tests on stdin are made of: not of other tests
sources()
{
	sed 's/ .*//' | sort -u >"$out/programs"
	# shellcheck disable=SC2046
	git -C "$series" ls-tree -r "$tip" tools/testing/selftests/kselftest_harness.h $(cd "$top/tools-testing-selftests" &&
		printf 'tools/testing/selftests/%s ' */*) |
		awk -F/ -v list="$out/programs" '
			BEGIN { while ((getline p <list) > 0) wanted[p ".c"] = 1 }
			$NF !~ /_(test|bench)\.c$/ || wanted[$NF]' | cksum | cut -d ' ' -f 1
}

# The tests of the list FILE with the kernel BZIMAGE: $out/N.results
boots()		# BZIMAGE N FILE
{
	eval "set -- \"$1\" $2 $(sed 's/.*/"&"/' "$3" | tr '\n' ' ')"
	boot=$1 dir=$out/$2 results=$out/$2.results
	shift 2
	APPEND='' MAX_SECS=150 sh "$scripts/tests.sh" "$boot" "$dir" "$@" || return 1
	for t; do
		tail -n 1 "$dir/$(name_of "$t")/ktap"
	done >"$results"
}

n=0 bad=0
count=$(git -C "$scratch" rev-list --count "$(cat "$work/base.commit")..$tip")
{ echo "KTAP version 1"; echo "1..$count"; } >"$RESULTS/bisect.ktap"

# The tests of one prefix run while the next one is built
running=''
trap '[ -z "$running" ] || kill $running 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM
finish()
{
	[ -n "$was" ] || return 0
	text="objects only"
	if [ -n "$running" ]; then
		wait "$running" || why="the tests did not run, see $was.log"
		running=''
		rm -f "$out/$was.bzImage"
	elif [ -n "$stamp" ]; then
		cp "$stamp" "$out/$was.results"
	fi
	if [ -z "$only" ] && [ -z "$why" ]; then
		r=$out/$was.results
		text="$(grep -c '^ok' "$r" || :) of $(wc -l <"$r") tests pass"
		if grep -qv '^ok' "$r"; then
			why="fails $(sed -n 's/^not ok [0-9]* //p' "$r" | tr '\n' ' ')"
		elif [ ! -f "$stamp" ]; then
			cp "$r" "$stamp"
		fi
	fi
	[ -z "$why" ] && v=ok || { v="not ok" bad=1 text=$why; }
	echo "$v ${was#0} $name: $text" | tee -a "$RESULTS/bisect.ktap"
}

was=''
for c in $(git -C "$scratch" rev-list --reverse "$(cat "$work/base.commit")..$tip"); do
	n=$((n + 1)) new_why=''
	new_name=$(patches | sed -n "${n}p")
	case $new_name in "$FROM"*) FROM='' ;; esac
	if [ -n "$FROM" ]; then
		echo "ok $n $new_name # SKIP before $FROM" >>"$RESULTS/bisect.ktap"
		continue
	fi
	tree=$(git -C "$scratch" rev-parse --short=12 "$c^{tree}")
	id=$(printf %02d $n)
	w1=$stamps/$tree-$(git -C "$scratch" rev-parse --short=12 "$c^^{tree}")-$config.w1
	if [ ! -f "$w1" ]; then
		say "bisect $n/$count: objects of $new_name"
		objects "$c" >"$out/$id-w1.log" 2>&1 && : >"$w1" ||
			new_why="new warnings or errors, see $id-w1.log"
	fi
	new_stamp=''
	if [ -z "$only" ] && [ -z "$new_why" ]; then
		wanted $n | concerned "$c" >"$out/$id.wanted"
		known=$stamps/$tree-$config.image sum=''
		# what changes nothing in the kernel has been tested
		stamp_of() { echo "$stamps/$(echo "$1" | cat - "$out/$id.wanted" | sha1sum | cut -c 1-20)-$setup-$tests.results"; }
		tests=$(sources <"$out/$id.wanted")
		[ ! -f "$known" ] || read -r sum <"$known"
		if [ -z "$sum" ] || [ ! -f "$(stamp_of "$sum")" ]; then
			say "bisect $n/$count: kernel and $(wc -l <"$out/$id.wanted") tests of $new_name"
			git -C "$scratch" checkout -q -f --detach "$c"
			if sh "$scripts/build.sh" "$scratch" >"$out/$id-build.log" 2>&1; then
				cp "$(image "$scratch")" "$out/$id.bzImage"
				sum=$(sha1sum <"$out/$id.bzImage" | cut -d ' ' -f 1)
				echo "$sum" >"$known"
			else
				new_why="does not build, see $id-build.log"
			fi
		fi
		[ -n "$new_why" ] || new_stamp=$(stamp_of "$sum")
	fi
	finish
	was=$id name=$new_name why=$new_why stamp=$new_stamp
	[ -n "$stamp" ] || continue
	if [ -f "$stamp" ]; then
		rm -f "$out/$id.bzImage"
	else
		boots "$out/$id.bzImage" "$id" "$out/$id.wanted" >"$out/$id.log" 2>&1 &
		running=$!
	fi
done
finish
exit $bad
