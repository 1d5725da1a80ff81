#!/bin/sh
# usage: apply.sh
#
# Applies the series to the base with git am and checks the result out in
# $work/series.  $work/applied: a checksum of the patches, and the commit.
. "$(dirname "$0")/lib.sh"
. "$scripts/archive.sh"
lock

failed()	# $1: the patch that git am refused
{
	git -C "$scratch" am --abort 2>/dev/null || :
	git -C "$scratch" am --quit 2>/dev/null || :
	git -C "$scratch" reset -q --hard
	echo "error: $1 does not apply to ${KDIR:-$PACKAGE $VERSION}:" >&2
	# as strict as git am: no fuzz
	patch -d "$scratch" -p1 -F0 -f -N --dry-run -r - <"$top/$1" 2>&1 |
		failed_hunks >&2
	if [ -n "$KDIR" ]; then
		for t in series scratch base; do git -C "$KDIR" worktree remove --force "$work/$t"; done
		rm -rf "$work"
	else
		git -C "$scratch" checkout -q -f --detach "$(cat "$work/base.commit")"
		# a base that the archive has moved on to is of no use then
		rm -f "$cache"/moved-*
	fi
	exit 1
}

for p in $(patches); do
	[ -f "$top/$p" ] || die "the file series names $p, which does not exist"
done
sum=$(cd "$top" && { cat "$work/base.commit"; patches | xargs -r cat; } | sha256sum | cut -d ' ' -f 1)
read -r had commit 2>/dev/null <"$work/applied" || had=''
if [ "$had" != "$sum" ]; then
	say "applying the series ($(patches | wc -l) patches)"
	git -C "$scratch" checkout -q -f --detach "$(cat "$work/base.commit")"
	for p in $(patches); do
		git -C "$scratch" am -q --committer-date-is-author-date "$top/$p" >"$work/log/am" 2>&1 || failed "$p"
	done
	commit=$(git -C "$scratch" rev-parse HEAD)
	echo "$sum $commit" >"$work/applied"
fi
[ "$(git -C "$series" rev-parse HEAD)" = "$commit" ] || git -C "$series" checkout -q -f --detach "$commit"
