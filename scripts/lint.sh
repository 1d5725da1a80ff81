#!/bin/sh
# usage: lint.sh [CHECK...]
#
# Everything that can be said about the series without running it, as KTAP in
# $RESULTS/lint.ktap; what each check printed is in $RESULTS/lint/.
# shellcheck disable=SC2317,SC2086  # the checks are called by their names
. "$(dirname "$0")/lib.sh"

all="shellcheck series_lists_each_patch from_and_trailers checkpatch round_trip selftests_are_in_the_series
am_and_quiltimport_agree no_freezer_left never_neither freezer_table no_debian_context maintainers_applies mutants_apply kernel_doc
no_new_warnings"
touched() { git -C "$series" diff --name-only --diff-filter=d "$(cat "$work/base.commit")" HEAD -- "$@"; }
# without line numbers, to compare
normal() { sed -n -E 's/^(\.\.\/)?([^: ]+):[0-9]+(:[0-9]+)?:/\2:/p' "$1" | grep -E 'warning|error|Warning' |
	grep -v 'bad constant expression' | sort | uniq -c; }

shellcheck() { (cd "$top" && command shellcheck -x scripts/*.sh .ci/run); }

series_lists_each_patch()
{
	{ patches | sort; patches | sort | uniq -d; } >"$out/listed"
	(cd "$top" && find fixes . -maxdepth 1 -name '[0-9]*.patch' 2>/dev/null | sed 's|^\./||' | sort) >"$out/there"
	diff "$out/listed" "$out/there" || return 1
	for n in 0001-fs-add-autofreeze 0002-xfs-drop-kthread-freezer 0003-ext4-drop-kthread-freezer \
		0004-kernfs-reclaim-wq; do
		grep -qx "$n.patch" "$out/listed" || { echo "$n.patch is missing"; return 1; }
	done
}

from_and_trailers()
{
	bad=0
	for p in $(patches); do
		grep -q "^From: $GIT_AUTHOR_NAME <$GIT_AUTHOR_EMAIL>$" "$top/$p" || { echo "$p: From:"; bad=1; }
		grep -q '^Assisted-by: ' "$top/$p" || { echo "$p: no Assisted-by:"; bad=1; }
		! grep -q '^Signed-off-by: ' "$top/$p" || { echo "$p: Signed-off-by:"; bad=1; }
	done
	return $bad
}

# Not asked about: MAINTAINERS (it has MAINTAINERS.diff), and commits that a
# message names (the base has no history to look them up in).  Accepted are:
# in include/trace/, the style of TRACE_EVENT(); in hibernate.c, the goto labels
# that the file has; in jfs and f2fs, the style of the lines around; filp is no typo; in freezer.h, the errno of a stub that the file has; in the
# selftests, advice for the kernel, since userspace has no such macros.
checkpatch()
{
	accepted='^include/trace/.*:(OPEN_ENDED_LINE|PARENTHESIS_ALIGNMENT):
^fs/f2fs/.*:(PARENTHESIS_ALIGNMENT|WAITQUEUE_ACTIVE):
^fs/jfs/.*:(CAMELCASE|ASSIGN_IN_IF|INDENTED_LABEL|AVOID_EXTERNS|FUNCTION_ARGUMENTS|EMBEDDED_FUNCTION_NAME):
^kernel/power/hibernate.c:.*:CAMELCASE:
^include/linux/freezer.h:.*:ENOSYS:
^[^|]*:TYPO_SPELLING: .(iput|filp|msdos).
^Use of uninitialized value .typo_fix
^tools/testing/selftests/.*:(ARRAY_SIZE|PREFER_DEFINED_ATTRIBUTE_MACRO|VOLATILE|ENOSYS|SPACING|COMPLEX_MACRO|MULTIPLE_ASSIGNMENTS):'
	mkdir -p "$work/checkpatch"
	for p in $(patches); do
		done=$work/checkpatch/$(sha1sum <"$top/$p" | cut -d ' ' -f 1)
		[ -f "$done" ] || (cd "$series" && GIT_DIR=/nonexistent perl scripts/checkpatch.pl --strict --no-signoff \
			--codespell --codespellfile /usr/lib/python3/dist-packages/codespell_lib/data/dictionary.txt \
			--no-summary --terse --showfile --show-types --ignore FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID \
			"$top/$p") >"$done.new" 2>&1 || :
		[ -f "$done" ] || mv "$done.new" "$done"
		sed "s|^|$p: |" "$done"
	done >"$out/checkpatch.all"
	! sed 's/^[^ ]*: //' "$out/checkpatch.all" | paste -d '|' - "$out/checkpatch.all" |
		grep -vE "$accepted" | cut -d '|' -f 2- | grep .
}

# once COMMAND...: what takes long, and was seen to pass with the same files
once()
{
	id=$({ cat "$work/applied" "$scripts"/*.sh; (cd "$top" && find series cover-letter.txt tools-testing-selftests -type f |
		sort | xargs sha1sum); } | sha1sum | cut -c 1-20)
	[ ! -f "$work/log/$1-$id" ] || return 0
	"$@" || return 1
	: >"$work/log/$1-$id"
}

round_trip() { once trip; }
trip() { sh "$scripts/patches.sh" check; }

selftests_are_in_the_series()
{
	bad=0
	for d in "$top"/tools-testing-selftests/*/*/; do
		d=${d#"$top/tools-testing-selftests/"}
		(cd "$top" && git ls-files -c -o --exclude-standard "tools-testing-selftests/$d") | sort -u |
		while read -r f; do
			[ ! -f "$top/$f" ] || echo "$(git hash-object --no-filters "$top/$f")	${f#tools-testing-selftests/}"
		done >"$out/selftests.repository"
		git -C "$series" ls-tree -r HEAD "tools/testing/selftests/$d" |
			sed -E 's|^[0-9]+ blob ([0-9a-f]+)\ttools/testing/selftests/|\1\t|' >"$out/selftests.series"
		diff -u "$out/selftests.repository" "$out/selftests.series" || bad=1
	done
	[ $bad -eq 0 ] || echo "make patches brings them into the series"
	return $bad
}

am_and_quiltimport_agree() { once quiltimport; }
quiltimport()
{
	[ -n "$(patches)" ] || return 0
	git -C "$scratch" checkout -q -f --detach "$(cat "$work/base.commit")" || return 1
	(cd "$scratch" && git quiltimport --patches "$top" --series "$top/series") >"$out/quiltimport.log" 2>&1 ||
		{ tail -n 5 "$out/quiltimport.log"; return 1; }
	[ "$(git -C "$scratch" rev-parse 'HEAD^{tree}')" = "$(git -C "$series" rev-parse 'HEAD^{tree}')" ]
}

# freezing() in ioctls is no freezer of kernel threads, but for user tasks.
no_freezer_left()
{
	! git -C "$series" grep -nE 'set_freezable|try_to_freeze|WQ_FREEZABLE|_freezable' -- \
		fs/xfs fs/ext4 fs/jbd2 fs/btrfs fs/ecryptfs fs/f2fs fs/jfs fs/nilfs2 fs/ocfs2 fs/ubifs
}

# At no commit a filesystem has neither the flag nor the freezer that it had.
# (The thread of eCryptfs only opens files that exist.  That of jbd2 has the freezer
# for ocfs2.)
never_neither()
{
	_base=$(cat "$work/base.commit") _rc=0
	has_either()
	{
		git -C "$series" grep -lE "$1" "$2" -- 'fs/*.c' |
			sed "s|^$2:||; s|/[^/]*$||; s|^fs/ocfs2$|fs/jbd2|" | sort -u
	}
	has_either 'set_freezable\(|WQ_FREEZABLE' "$_base" | grep -v '^fs/ecryptfs$' >"$out/had"
	for _c in $(git -C "$series" rev-list "$_base..HEAD"); do
		has_either 'set_freezable\(|WQ_FREEZABLE|FS_POWER_FREEZE' "$_c" >"$out/has"
		comm -23 "$out/had" "$out/has" | sed "s/^/neither at $_c: /" | grep . && _rc=1
	done
	return $_rc
}

# The table in the documentation says what the tree says.
freezer_table() { sh "$scripts/freezer_table.sh" "$series"; }

no_debian_context() { ! (cd "$top" && patches | xargs -r grep -nF 'MODULE_SOFTDEP("pre: crypto-crc32c")'); }

maintainers_applies() { [ ! -f "$top/MAINTAINERS.diff" ] || git -C "$series" apply --check "$top/MAINTAINERS.diff"; }

mutants_apply()
{
	bad=0
	for m in "$top"/mutants/*.patch; do
		git -C "$series" apply --check "$m" || { echo "${m##*/} does not apply to the series"; bad=1; }
	done
	return $bad
}

kernel_doc()
{
	doc=scripts/kernel-doc
	[ -x "$series/$doc" ] || doc=tools/docs/kernel-doc
	for k in base series; do
		touched '*.c' '*.h' | (cd "$work/$k" && xargs -r ls 2>/dev/null | xargs -r "./$doc" -Wall -none) >"$out/kernel-doc.$k.log" 2>&1
		sed -E 's/:[0-9]+//' "$out/kernel-doc.$k.log" | sort >"$out/kernel-doc.$k"
	done
	! comm -13 "$out/kernel-doc.base" "$out/kernel-doc.series" | grep .
}

# W=1 and sparse, over the objects that the configuration has of what the
# series touches; the base's own warnings are not ours.  (sparse 0.6.4 does not
# know __typeof_unqual__, which the base takes from gcc, and finds a "bad constant
# expression" in each module_param() and its like.)
no_new_warnings()
{
	objs=$(touched '*.c' | sed 's/c$/o/' | (cd "$series/$o" && xargs -r ls 2>/dev/null))
	[ -n "$objs" ] || return 0
	for k in base series; do
		echo "$objs" | sed 's/o$/c/' | (cd "$work/$k" && xargs ls 2>/dev/null) | sed 's/c$/o/' >"$out/objs.$k"
		id=$(git -C "$work/$k" rev-parse HEAD | cat - "$out/objs.$k" "$top/config/base.config" | cksum | tr ' ' -)
		if [ ! -f "$work/log/w1-$k-$id" ]; then
			rm -f "$work/log/w1-$k-"*
			# shellcheck disable=SC2046
			AF_OBJECTS=o-w1 sh "$scripts/build.sh" "$work/$k" W=1 C=2 \
				CHECK="sparse -D__typeof_unqual__=__typeof__" $(cat "$out/objs.$k") >"$out/w1.$k.log" 2>&1 ||
				{ tail -n 20 "$out/w1.$k.log"; return 1; }
			cp "$out/w1.$k.log" "$work/log/w1-$k-$id"
		fi
		normal "$work/log/w1-$k-$id" >"$out/w1.$k"
	done
	! comm -13 "$out/w1.base" "$out/w1.series" | grep .
}

out=$RESULTS/lint
mkdir -p "$out"
[ $# -gt 0 ] || eval "set -- $(echo "$all" | tr '\n' ' ')"
n=0 bad=0
{ echo "KTAP version 1"; echo "1..$#"; } >"$RESULTS/lint.ktap"
for t; do
	n=$((n + 1)) rc=0
	say "lint: $t"
	("$t") >"$out/$t.log" 2>&1 || rc=$?
	if [ $rc -eq 0 ]; then
		echo "ok $n $t"
	else
		bad=1
		tail -n 20 "$out/$t.log" >&2
		tail -n 20 "$out/$t.log" | sed 's/^/# /'
		echo "not ok $n $t"
	fi >>"$RESULTS/lint.ktap"
done
exit $bad
