#!/bin/sh
# usage: accel.sh BZIMAGE
#
# Prints kvm when a guest really boots with it, else tcg: there are machines
# with a /dev/kvm on which it aborts, or prints nothing for ever.
. "$(dirname "$0")/lib.sh"

[ -z "${ACCEL:-}" ] || { echo "$ACCEL"; exit; }
read -r id </proc/sys/kernel/random/boot_id
if ! grep -qs "^$id " "$cache/accel"; then
	accel=tcg
	if [ -w /dev/kvm ]; then
		dir=$(mktemp -d)
		gcc -O2 -static -o "$dir/init" "$top/guest/init.c"
		: >"$dir/list"
		sh "$scripts/initramfs.sh" tools "$dir/a" "$dir/init"
		sh "$scripts/initramfs.sh" tests "$dir/b" "$dir/list"
		cat "$dir/a" "$dir/b" >"$dir/initrd"
		! ACCEL=kvm sh "$scripts/vm.sh" "$dir/vm" 20 "$1" "$dir/initrd" || accel=kvm
		rm -rf "$dir"
	fi
	echo "$id $accel" >"$cache/accel"
fi
sed -n "s/^$id //p" "$cache/accel"
