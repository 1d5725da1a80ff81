#!/bin/sh
# usage: vm.sh DIR SECONDS BZIMAGE INITRD [-a CMDLINE] [-d FILE,SERIAL]...
#
# One run of the guest, of at most SECONDS.  DIR gets console.log, result.ktap
# and qemu.txt (what was run).  The exit code is 0 when the guest has said that
# it is done (whatever the tests in it found), 1 when it has not, 2 when QEMU
# did not start.  MEM, CPUS, ACCEL and QEMU come from the environment.
set -eu

[ $# -ge 4 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
dir=$1 secs=$2 kernel=$3 initrd=$4
shift 4
append='' disks=''
while getopts a:d: o; do
	case $o in
	a) append=$OPTARG ;;
	d) disks="$disks $OPTARG" ;;
	*) exit 2 ;;
	esac
done
: "${QEMU:=qemu-system-x86_64}" "${MEM:=1G}" "${CPUS:=2}" "${ACCEL:=tcg}"
mkdir -p "$dir"

# pc, not q35: there the firmware forgets the power management registers in a
# suspend to RAM, and the machine can neither sleep again nor be powered off
set -- -machine pc -accel "$ACCEL" -cpu max -m "$MEM" -smp "$CPUS" -nodefaults -display none -no-reboot \
	-serial "file:$dir/console.log" -serial "file:$dir/result.ktap" \
	-kernel "$kernel" -initrd "$initrd"
for d in $disks; do
	f=${d%,*} s=${d##*,}
	set -- "$@" -drive "if=none,id=$s,format=raw,cache=unsafe,file=$f" \
		-device "virtio-blk-pci,drive=$s,serial=$s"
done
# no_timer_check: on a busy host TCG is too slow for the test of the timer
set -- "$@" -append "console=ttyS0 no_console_suspend no_timer_check panic=-1 oops=panic softlockup_panic=1 $append"

{ "$QEMU" --version | head -n 1; echo "$QEMU $*"; } >"$dir/qemu.txt"
: >"$dir/console.log"; : >"$dir/result.ktap"
rc=0
timeout -k 5 "$secs" "$QEMU" "$@" </dev/null >>"$dir/qemu.txt" 2>&1 &
qemu=$!
trap 'kill $qemu; exit 130' INT TERM
# A guest that hangs before it has any user space, as happens with TCG now and
# then, is not worth to be waited for.
(
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		sleep 10
		grep -q 'as init process' "$dir/console.log" && exit
		kill -0 $qemu 2>/dev/null || exit
	done
	kill $qemu
) >/dev/null 2>&1 9>&- &
wait $qemu || rc=$?
[ $rc -eq 0 ] || echo "exit code $rc" >>"$dir/qemu.txt"
grep -q '^# autofreeze guest: done' "$dir/result.ktap" && exit 0
[ -s "$dir/console.log" ] && exit 1
exit 2
