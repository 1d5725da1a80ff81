#!/bin/sh
# usage: base.sh
#
# Makes sure that the worktrees of the base exist: from Debian's source package
# (BASE), or as worktrees of the user's own KDIR.  $work/base.commit names it.
. "$(dirname "$0")/lib.sh"
. "$scripts/archive.sh"

lock

import()	# DEB DIR: as a git repository of one commit, always the same
{
	unpack "$1" "$PACKAGE" "$2" || return 1
	cd "$2" || return 1
	git init -q -b base .
	git add -f -A
	GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z' \
		git commit -q -m "$PACKAGE"
}

space()		# $1 GiB, or say so
{
	free=$(df -k --output=avail "$cache" | tail -n 1)
	[ "$free" -ge $(($1 * 1048576)) ] ||
		die "$cache needs $1 GiB, $((free / 1048576)) are free; make space or set XDG_CACHE_HOME"
}

worktree()	# another one, and as old as the objects that may be copied into it
{
	git -C "$repo" worktree prune
	rm -rf "$1"
	git -C "$repo" worktree add -q --detach "$1" "$(cat "$work/base.commit")" || return 1
	(cd "$1" && git ls-files -z | xargs -0 touch -h -d 2000-01-01 && git update-index -q --refresh) || return 1
}

mkdir -p "$cache"
[ -n "$SHA256" ] || [ -n "$KDIR" ] || echo "warning: using $VERSION in place of the version in BASE" >&2
if [ -n "$KDIR" ]; then
	repo=$KDIR
	if [ ! -f "$work/base.commit" ]; then
		space 8
		mkdir -p "$work"
		git -C "$KDIR" rev-parse HEAD >"$work/base.commit"
		[ -z "$(git -C "$KDIR" status --porcelain -uno 2>/dev/null | head -n 1)" ] ||
			say "note: KDIR has changes that are not committed; its last commit is used"
	fi
	[ -e "$base/.git" ] || step "$work/log/base" "checking out $KDIR into a worktree" worktree "$base"
else
	repo=$base
	if [ ! -f "$work/base.commit" ]; then
		space 12
		deb=$cache/deb/${PACKAGE}_${VERSION}_all.deb
		if [ ! -f "$deb" ]; then
			say "fetching $PACKAGE $VERSION from $SUITE"
			apt_update base "$SUITE"
			have=$(versions "$PACKAGE")
			if echo "$have" | grep -qxF "$VERSION"; then
				fetch_deb "$PACKAGE" "$VERSION" "$cache/deb"
			elif [ -n "$have" ]; then
				new=$(echo "$have" | head -n 1)
				echo "warning: the archive has no $PACKAGE $VERSION any more; $new is used as long as the series applies" >&2
				echo "$new" >"$cache/moved-$VERSION"
				exec "$0" "$@"
			else
				die "$SUITE has no $PACKAGE any more. Run 'make newest' to see what the newest kernel needs," \
					"edit BASE, or use a tree of your own with KDIR=/path/to/linux"
			fi
		fi
		if [ -n "$SHA256" ] && ! echo "$SHA256  $deb" | sha256sum -c --status; then
			rm -f "$deb"
			die "$(basename "$deb") is not the file that BASE names (sha256); it was removed, try again"
		fi
		mkdir -p "$work"
		step "$work/log/base" "unpacking $(basename "$deb")" import "$deb" "$base"
		git -C "$base" rev-parse HEAD >"$work/base.commit.new"
		mv "$work/base.commit.new" "$work/base.commit"
		rm -f "$deb"
	fi
fi
for t in series scratch; do
	[ -e "$work/$t/.git" ] || step "$work/log/$t" "making the worktree $t" worktree "$work/$t"
done
