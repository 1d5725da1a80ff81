#!/bin/sh
# usage: patches.sh tree TREE        the series as commits, to work on
#        patches.sh export TREE OUT  the commits of TREE as patches in OUT
#        patches.sh check            export gives what the repository has
#
# tools-testing-selftests/ is where the selftests are edited: the commit that
# brings them into the tree gets their contents from there at each export.
. "$(dirname "$0")/lib.sh"
selftests=tools-testing-selftests

commits()	# of the tree $1 since its base, oldest first
{
	_base=$(git -C "$base" rev-parse "$(cat "$work/base.commit")^{tree}")
	git -C "$1" log --format='%H %T %P' | awk -v base="$_base" '
		$2 == base { found = 1; exit }
		NF > 3 { bad = "a merge: " $1; exit }
		{ list[n++] = $1 }
		END {
			if (!found) { print bad ? bad : "no commit has the tree of the base" >"/dev/stderr"; exit 1 }
			while (n) print list[--n]
		}'
}

# The commits $@ of the tree $tree with the selftests of this repository
with_selftests()
{
	index=$(mktemp)
	parent=$(git -C "$tree" rev-parse "$1^")
	for c; do
		rm -f "$index"
		GIT_INDEX_FILE=$index git -C "$tree" read-tree "$c"
		for d in "$top/$selftests"/*/*/; do
			[ -d "$d" ] || continue
			d=${d#"$top/$selftests/"} d=${d%/}
			[ -n "$(git -C "$tree" ls-tree "$c" "tools/testing/selftests/$d/")" ] || continue
			GIT_INDEX_FILE=$index git -C "$tree" rm -q -r -f --cached "tools/testing/selftests/$d"
			git -C "$top" ls-files -c -o --exclude-standard "$selftests/$d" | sort -u |
			while read -r f; do
				[ -f "$top/$f" ] || continue
				mode=100644
				[ ! -x "$top/$f" ] || mode=100755
				echo "$mode $(git -C "$tree" hash-object -w --no-filters "$top/$f")	tools/testing/selftests/${f#"$selftests/"}"
			done | GIT_INDEX_FILE=$index git -C "$tree" update-index --index-info
		done
		t=$(GIT_INDEX_FILE=$index git -C "$tree" write-tree)
		if [ "$(git -C "$tree" rev-parse "$c^{tree}" "$c^" | xargs)" = "$t $parent" ]; then
			parent=$c
		else
			parent=$(git -C "$tree" log -1 --format=%B "$c" |
				GIT_AUTHOR_NAME=$(git -C "$tree" log -1 --format=%an "$c") \
				GIT_AUTHOR_EMAIL=$(git -C "$tree" log -1 --format=%ae "$c") \
				GIT_AUTHOR_DATE=$(git -C "$tree" log -1 --format=%ad --date=raw "$c") \
				GIT_COMMITTER_DATE=$(git -C "$tree" log -1 --format=%ad --date=raw "$c") \
				git -C "$tree" commit-tree "$t" -p "$parent")
		fi
		echo "$parent"
	done
	rm -f "$index"
}

# What is fixed before 0001 goes to fixes/, and each folder counts for itself.
# The comments in series stay with the patch that they precede.
export_to()	# $1: tree, $2: folder
{
	tree=$1 out=$2
	list=$(commits "$tree") || die "cannot tell what to export from $tree"
	mkdir -p "$out"
	: >"$out/names"
	if [ -n "$list" ]; then
		# shellcheck disable=SC2086
		list=$(with_selftests $list)
		dir='' n=0 first=''
		for c in $list; do
			: "${first:=$c}"
			case $(git -C "$tree" log -1 --format=%s "$c") in 'fs: add autofreeze') early=0 ;; esac
		done
		[ -z "${early:-}" ] || dir=fixes/
		for c in $list; do
			[ "$(git -C "$tree" log -1 --format=%s "$c")" != 'fs: add autofreeze' ] || dir='' n=0
			n=$((n + 1))
			mkdir -p "$out/$dir"
			p=$dir$(printf %04d $n)-$(git -C "$tree" log -1 --format=%f "$c" | cut -c 1-53).patch
			git -C "$tree" format-patch -1 -N --stdout --full-index --no-signature --zero-commit \
				--no-base "$c" >"$out/$p"
			echo "$p" >>"$out/names"
		done
	fi
	cat "$top/series" >"$out/series.old" 2>/dev/null || :
	awk 'function slug(p) { sub(/.*\//, "", p); sub(/^[0-9]+-/, "", p); return p }
		old && /^(#|[[:space:]]*$)/ { text = text $0 "\n"; next }
		old { head[slug($0)] = text; text = ""; next }
		{ printf "%s%s\n", head[slug($0)], $0 }
		END { printf "%s", text }' old=1 "$out/series.old" old=0 "$out/names" >"$out/series"
	# the cover letter's number of patches, and its end
	[ ! -f "$top/cover-letter.txt" ] || {
		sed -e "1s|0/[0-9]*|0/$(wc -l <"$out/names")|" -e '/^[^ ].* ([0-9]*):$/,$d' "$top/cover-letter.txt"
		[ -z "$list" ] || git -C "$tree" shortlog "$first^..$c"
		[ -z "$list" ] || git -C "$tree" diff --stat=80 "$first^" "$c"
	} >"$out/cover-letter.txt"
	rm -f "$out/names" "$out/series.old"
}

compare()	# is the export of tree $1 what the repository has?
{
	new=$(mktemp -d)
	trap 'rm -rf "$new"' EXIT
	export_to "$1" "$new"
	_rc=0
	for p in series cover-letter.txt $(cd "$new" && find . -name '*.patch' | sed 's|^\./||'); do
		cmp "$new/$p" "$top/$p" || _rc=1
	done
	for p in $(cd "$top" && find fixes [0-9]*.patch -name '*.patch' 2>/dev/null); do
		[ -f "$new/$p" ] || { echo "$p: would not be exported"; _rc=1; }
	done
	return $_rc
}

case ${1:-} in
tree)
	read -r _ commit <"$work/applied"
	if [ ! -e "$2" ]; then
		git -C "$base" worktree prune
		git -C "$base" worktree add -q --detach "$2" "$commit"
	elif [ "$(git -C "$2" rev-parse HEAD 2>/dev/null)" != "$commit" ]; then
		# not the same commits, but perhaps the same patches: then nothing is lost
		compare "$2" >/dev/null ||
			die "$2 exists and is not what the patches are: 'make patches' takes it over, removing it drops it"
		git -C "$2" checkout -q --detach "$commit"
	fi
	say "$2: the series as commits on top of the base; commit, rebase, then 'make patches' (Debian's .gitignore hides new files: git add -f)"
	;;
export)
	new=$(mktemp -d)
	trap 'rm -rf "$new"' EXIT
	git -C "$2" rev-parse -q --verify HEAD >/dev/null || die "$2 is no git tree: 'make tree' makes one"
	export_to "$2" "$new"
	(cd "$3" && rm -rf fixes [0-9][0-9][0-9][0-9]-*.patch)
	cp -R "$new/." "$3/"
	say "$(grep -c '\.patch$' "$3/series") patches in $3"
	;;
check)
	compare "$series"
	;;
*)	sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
