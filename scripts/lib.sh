# shellcheck shell=sh
# shellcheck disable=SC2034,SC2100  # what the others use
# Sourced by the other scripts: where things are, and how to say what happens.
#
# $cache/$key/{base,series,scratch} are git worktrees of the kernel: the base,
# the base with the series, and one for whatever else has to be looked at or
# built.  Objects are in a directory of each (o/, o-debug/): in a subdirectory
# of the source kbuild uses relative paths, so that the trees share ccache.
set -eu
umask 022
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

top=$(cd "$(dirname "$0")/.." && pwd)
scripts=$top/scripts
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/autofreeze
: "${KDIR:=}" "${FLAVOUR:=}" "${JOBS:=$(nproc)}" "${AF_START:=$(date +%s)}"
export AF_START

say() { printf '[%3d:%02d] %s\n' $((($(date +%s) - AF_START) / 60)) $((($(date +%s) - AF_START) % 60)) "$*"; }
die() { echo "error: $*" >&2; exit 1; }

# step LOG WHAT COMMAND...: a sign of life each minute, the log's tail on failure
step()
{
	_log=$1 _what=$2
	shift 2
	mkdir -p "$(dirname "$_log")"
	say "$_what"
	_t=$(date +%s) _rc=0
	"$@" >"$_log" 2>&1 </dev/null &
	_pid=$!
	trap 'kill $_pid 2>/dev/null; exit 130' INT TERM
	while kill -0 $_pid 2>/dev/null; do
		sleep 0.2
		_s=$(($(date +%s) - _t))
		[ $_s -ge 60 ] || continue
		_t=$(date +%s)
		say "  ... $(tail -n 1 "$_log" | cut -c 1-70)"
	done
	wait $_pid || _rc=$?
	trap - INT TERM
	[ $_rc -eq 0 ] && return 0
	tail -n 30 "$_log" >&2
	echo "error: failed: $_what (all of it is in $_log)" >&2
	return $_rc
}

# shellcheck source=BASE
[ -r "$top/BASE" ] && . "$top/BASE" || die "no file BASE in $top"
: "${PACKAGE:?missing in BASE}" "${VERSION:?missing in BASE}" "${SUITE:?missing in BASE}" "${SHA256:?missing in BASE}"

case $FLAVOUR in
'')	o=${AF_OBJECTS:-o} ;;
debug|kcsan) o=o-$FLAVOUR ;;
*)	die "FLAVOUR=$FLAVOUR: there are only debug and kcsan, and none" ;;
esac

# Nothing of the user's git configuration may change what patches look like, and
# none of his hooks may run; commits are the same wherever they are made.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME='Autofreeze developers' GIT_AUTHOR_EMAIL=autofreeze@example.org
export GIT_COMMITTER_NAME="$GIT_AUTHOR_NAME" GIT_COMMITTER_EMAIL="$GIT_AUTHOR_EMAIL"
export GIT_CONFIG_COUNT=8
export GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
export GIT_CONFIG_KEY_1=core.hooksPath GIT_CONFIG_VALUE_1=/dev/null
export GIT_CONFIG_KEY_2=commit.gpgSign GIT_CONFIG_VALUE_2=false
export GIT_CONFIG_KEY_3=gc.auto GIT_CONFIG_VALUE_3=0
export GIT_CONFIG_KEY_4=core.autocrlf GIT_CONFIG_VALUE_4=false
export GIT_CONFIG_KEY_5=advice.detachedHead GIT_CONFIG_VALUE_5=false
export GIT_CONFIG_KEY_6=diff.noprefix GIT_CONFIG_VALUE_6=false
export GIT_CONFIG_KEY_7=diff.mnemonicPrefix GIT_CONFIG_VALUE_7=false

export CCACHE_DIR="$cache/ccache" CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=8G
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_USER=autofreeze KBUILD_BUILD_HOST=autofreeze

if [ -n "$KDIR" ]; then
	KDIR=$(cd "$KDIR" 2>/dev/null && pwd) || die "KDIR: no such directory"
	[ -f "$KDIR/Kbuild" ] && [ -d "$KDIR/kernel/power" ] || die "KDIR=$KDIR is no kernel source tree"
	_head=$(git -C "$KDIR" rev-parse --verify -q HEAD) ||
		die "KDIR=$KDIR is no git tree (or has no commit): make it one with 'git init && git add -A && git commit'"
	key=kdir-$(echo "$KDIR" | cksum | cut -d ' ' -f 1)-$(echo "$_head" | cut -c 1-12)
elif [ -f "$cache/moved-$VERSION" ]; then
	# the archive has no $VERSION any more: see base.sh
	read -r VERSION <"$cache/moved-$VERSION"
	SHA256=
	key=$VERSION
else
	key=$VERSION
fi
work=$cache/$key
base=$work/base
series=$work/series
scratch=$work/scratch
image() { echo "$1/$o/arch/x86/boot/bzImage"; }	# of a tree
name_of() { echo "$1" | tr -c 'A-Za-z0-9_.\n' '-'; }	# of a test's folder

# the patches of the series, in order
patches() { [ ! -f "$top/series" ] || grep -v -e '^#' -e '^[[:space:]]*$' "$top/series" || :; }

# one run at a time: they share the trees
lock()
{
	[ -z "${AF_LOCKED:-}" ] || return 0
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock -n 9 || die "another run uses $cache; wait for it, or set XDG_CACHE_HOME to have one of your own"
	export AF_LOCKED=1
}

# The base and the series, built, for those who compare them
both()
{
	sh "$scripts/need.sh"
	lock
	sh "$scripts/base.sh"
	sh "$scripts/apply.sh"
	step "$RESULTS/build-base.log" "building the base" sh "$scripts/build.sh" "$base"
	step "$RESULTS/build-series.log" "building the series" sh "$scripts/build.sh" "$series"
}

# The folder of this run
: "${RESULTS:=$top/results/$(date +%Y%m%d-%H%M%S)${FLAVOUR:+-$FLAVOUR}}"
export RESULTS
