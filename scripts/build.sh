#!/bin/sh
# usage: build.sh TREE [TARGET...]
#
# Configures and builds a kernel tree (bzImage, modules) into its directory of objects.
. "$(dirname "$0")/lib.sh"

tree=$1
shift
[ $# -gt 0 ] || set -- bzImage modules
cd "$tree"
# The base's objects are a start, when what differs is newer than they are.
# (Never the other way round, and never between two that both differ from it.)
if [ ! -d "$o" ] && [ "$tree" != "$base" ] && [ -f "$base/$o/vmlinux" ]; then
	rm -rf "$o.new"
	cp -a --reflink=auto "$base/$o" "$o.new"
	git diff --name-only "$(cat "$work/base.commit")" | xargs -r touch -c
	mv "$o.new" "$o"
fi
mkdir -p "$o"

kmake() { make O="$o" CC="ccache gcc" HOSTCC="ccache gcc" -j"$JOBS" "$@"; }

# The fragments are KCONFIG_ALLCONFIG, and kconfig drops what it cannot have
# without a word: hence the check of each line.  The guest has no modules but
# those of lib/ that tests load.
{
	cat "$top/config/base.config" ${FLAVOUR:+"$top/config/$FLAVOUR.config"}
	find "$top/tools-testing-selftests" -name config -exec cat {} + 2>/dev/null
} |
	sed -n 's/^\(CONFIG_[A-Z0-9_]*=[^ #]*\).*/\1/p' | sed '/_TEST_/!s/=m$/=y/' | sort -u >"$o/fragment.new"
if [ ! -f "$o/.config" ] || ! cmp -s "$o/fragment.new" "$o/fragment"; then
	rm -f "$o/fragment"
	KCONFIG_ALLCONFIG="$o/fragment.new" kmake allnoconfig
	while read -r want; do
		case $want in
		*=n)	! grep -q "^${want%n}" "$o/.config" ;;
		*)	grep -qxF "$want" "$o/.config" ;;
		esac || echo "$want"
	done <"$o/fragment.new" >"$o/dropped"
	[ ! -s "$o/dropped" ] || die "kconfig dropped wanted options (a dependency is missing in config/):" \
		"$(tr '\n' ' ' <"$o/dropped")"
	mv "$o/fragment.new" "$o/fragment"
fi
kmake "$@"
