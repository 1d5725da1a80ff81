#!/bin/sh
# usage: show.sh BZIMAGE OUT
#
# The show with one kernel: OUT/cells has the results (see guest/show.c), in
# OUT/{live,resumed,cut} are the logs of the three virtual machines.
. "$(dirname "$0")/lib.sh"

boot=$1 out=$2
rm -rf "$out"
mkdir -p "$out"
trap 'rm -f "$out"/*.img "$out"/*.cpio "$out"/init "$out"/show' EXIT
trap 'exit 130' INT TERM

gcc -O2 -Wall -Wextra -static -o "$out/init" "$top/guest/init.c"
gcc -O2 -Wall -Wextra -static -o "$out/show" "$top/guest/show.c"
sh "$scripts/initramfs.sh" tools "$out/tools.cpio" "$out/init"
for what in live cut; do
	echo "120 show $what" >"$out/list"
	sh "$scripts/initramfs.sh" tests "$out/tests.cpio" "$out/list" "$out/show"
	cat "$out/tools.cpio" "$out/tests.cpio" >"$out/$what.cpio"
done
rm -f "$out/list"
for d in swap xfs ext4; do truncate -s 768M "$out/$d.img"; done
ACCEL=$(sh "$scripts/accel.sh" "$boot")
MEM=512M	# what is to be saved and restored
export ACCEL MEM

vm() { d=$out/$1; shift; sh "$scripts/vm.sh" "$d" 150 "$boot" "$@" || :; }
cells() { sed -n 's/^  cell //p' "$out/$1/result.ktap" >>"$out/cells"; }

say "  write load, suspend to RAM, wake, hibernate, power off"
vm live "$out/live.cpio" -d "$out/swap.img,swap" -d "$out/xfs.img,xfs" -d "$out/ext4.img,ext4"
cells live
if tail -n 3 "$out/live/console.log" | grep -q 'reboot: Power down\|Power off\|System halted'; then
	for d in xfs ext4; do cp --sparse=always "$out/$d.img" "$out/cut-$d.img"; done
	say "  a second machine resumes the image, verifies, fsck"
	vm resumed "$out/live.cpio" -a af.resume \
		-d "$out/swap.img,swap" -d "$out/xfs.img,xfs" -d "$out/ext4.img,ext4"
	cells resumed
	say "  a third one mounts what a user finds who never resumes"
	vm cut "$out/cut.cpio" -d "$out/cut-xfs.img,xfs" -d "$out/cut-ext4.img,ext4"
	cells cut
fi
