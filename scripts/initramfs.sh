#!/bin/sh
# usage: initramfs.sh tools OUT INIT
#        initramfs.sh tests OUT LIST [FILE...]
#
# "tools" makes the part that every guest has: init, busybox and the programs
# that make and check filesystems.  "tests" makes the part to append to it: the
# list of tests and the files of /tests.  Neither is compressed: unpacking is
# what takes time under TCG.
set -eu

die() { echo "initramfs: $*" >&2; exit 1; }

# put FILE DIR: the file, and the libraries it is linked with where it wants them
put()
{
	mkdir -p "$dir/$2"
	cp -L "$1" "$dir/$2/"
	# shellcheck disable=SC2013  # one path a word: ldd gives no others
	for lib in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
		[ -e "$dir$lib" ] && continue
		mkdir -p "$dir$(dirname "$lib")"
		cp -L "$lib" "$dir$lib"
	done
}

pack() { (cd "$dir" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$out.new" && mv "$out.new" "$out"; }

[ $# -ge 3 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
what=$1 out=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
PATH=$PATH:/usr/sbin:/sbin

case $what in
tools)
	for d in bin sbin dev proc sys tmp run mnt tests etc usr/bin; do mkdir -p "$dir/$d"; done
	cp "$3" "$dir/init"
	busybox=$(command -v busybox) || die "no busybox"
	cp -L "$busybox" "$dir/bin/busybox"
	for a in $("$busybox" --list); do
		[ "$a" = busybox ] || ln -sf busybox "$dir/bin/$a"
	done
	# xfs_repair(8), xfs_db(8) and the rest win over what busybox has of their kind
	for p in mke2fs e2fsck dumpe2fs debugfs tune2fs mkfs.xfs xfs_repair xfs_db xfs_io mkfs.btrfs btrfs mkfs.f2fs fsck.f2fs \
		mkfs.nilfs2 mkfs.jfs jfs_fsck mkfs.vfat fsck.vfat mkfs.exfat fsck.exfat mkfs.udf mkfs.minix fsck.minix mkfs.gfs2 \
		mkfs.ntfs mkfs.ocfs2 fsck.ocfs2 dmsetup; do
		f=$(command -v "$p") || continue
		rm -f "$dir/bin/$p"
		put "$f" sbin
	done
	# nothing is linked with this one, but btrfs(8) cancels threads
	f=$(gcc -print-file-name=libgcc_s.so.1) && [ ! -f "$f" ] || put "$f" lib
	for t in 2 3 4; do ln -sf mke2fs "$dir/sbin/mkfs.ext$t"; rm -f "$dir/bin/mkfs.ext$t"; done
	cp /etc/mke2fs.conf "$dir/etc/" 2>/dev/null || :
	: >"$dir/etc/mtab"
	;;
tests)
	mkdir -p "$dir/tests"
	cp "$3" "$dir/tests.list"
	shift 3
	for f; do
		case $f in
		*.ko)	# what modprobe(8) looks for
			d=lib/modules/$(tr '\0' '\n' <"$f" | sed -n 's/^vermagic=\([^ ]*\) .*/\1/p')
			put "$f" "$d"
			echo "${f##*/}:" >>"$dir/$d/modules.dep" ;;
		*)	put "$f" tests ;;
		esac
	done
	;;
*)	die "unknown: $what" ;;
esac
pack
