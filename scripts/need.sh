#!/bin/sh
# usage: need.sh
#
# Are the programs here that the rest calls?  As root, what is missing is
# installed, with the command shown first; else the command is what is said.
. "$(dirname "$0")/lib.sh"

missing()
{
	# program or file:package
	for x in gcc:gcc make:make bc:bc bison:bison flex:flex perl:perl gawk:gawk python3:python3 patch:patch xz:xz-utils \
		git:git ccache:ccache cpio:cpio rsync:rsync quilt:quilt busybox:busybox-static \
		qemu-system-x86_64:qemu-system-x86 mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs e2fsck:e2fsprogs dmsetup:dmsetup \
		mkfs.f2fs:f2fs-tools mkfs.nilfs2:nilfs-tools mkfs.jfs:jfsutils mkfs.vfat:dosfstools mkfs.exfat:exfatprogs \
		mkfs.udf:udftools mkfs.gfs2:gfs2-utils mkfs.ntfs:ntfs-3g mkfs.ocfs2:ocfs2-tools \
		shellcheck:shellcheck sparse:sparse codespell:codespell flock:util-linux \
		/usr/include/libelf.h:libelf-dev \
		/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring; do
		case $x in
		/*)	[ -e "${x%:*}" ] ;;
		*)	command -v "${x%:*}" >/dev/null ;;
		esac || echo "${x#*:}"
	done
	# the other busybox is linked with libraries, and not for a guest without
	! command -v busybox >/dev/null || ! ldd "$(command -v busybox)" >/dev/null 2>&1 || echo busybox-static
	# libc for static binaries
	[ -e "$(gcc -print-file-name=libc.a 2>/dev/null)" ] || echo libc6-dev
}

[ "$(uname -m)" = x86_64 ] || die "this needs an x86_64 machine, and this is $(uname -m)"
if list=$(missing | sort -u | tr '\n' ' ') && [ -n "$list" ]; then
	cmd="apt-get install -y --no-install-recommends $list"
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		echo "missing packages: $cmd"
		log=$(mktemp)
		# shellcheck disable=SC2086
		{ apt-get update && DEBIAN_FRONTEND=noninteractive $cmd; } >"$log" 2>&1 ||
			{ tail -n 5 "$log" >&2; die "could not install them (no network?); run: $cmd"; }
		rm -f "$log"
	else
		die "missing packages; as root run: $cmd"
	fi
	list=$(missing | tr '\n' ' ')
	[ -z "$list" ] || die "still missing after installing: $list"
fi
v=$("${QEMU:-qemu-system-x86_64}" --version | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p')
[ "${v:-0}" -ge 6 ] || die "QEMU ${v:-?} is too old: 6.0 or later is needed (Debian 12 has 7.2; or set QEMU=)"
