#!/bin/sh
# usage: tests.sh TREE OUT [TEST...]
#
# Builds the selftests of $work/series, runs each in a guest of its own with the
# kernel of TREE (so that one which hangs takes no other with it), and writes
# OUT/tests.ktap.  TEST is the name of a binary, or "BINARY ARG..."; all when
# there is none.
#
# MAX_SECS limits the time of each (where hangs are what is expected), APPEND
# replaces what is added to the kernel's command line.
. "$(dirname "$0")/lib.sh"

tree=$1 out=$2
shift 2
boot=$tree/$o/arch/x86/boot/bzImage
bin=$work/tests
mkdir -p "$out"

build_tests()
{
	make -C "$series" O="$o" CC="ccache gcc" -j"$JOBS" headers
	rm -rf "$bin"
	# shellcheck disable=SC2046
	make -C "$series/tools/testing/selftests" O="$series/$o" -j"$JOBS" FORCE_TARGETS=1 USERLDFLAGS=-static \
		TARGETS="$(cd "$top/tools-testing-selftests" && echo */*)" INSTALL_PATH="$bin" install
}

# the selftests as they are in the tree; and what the guest has besides
stamp=$(git -C "$series" rev-parse HEAD:tools/testing/selftests) || die "run make tree first"
if [ "$(cat "$bin/stamp" 2>/dev/null)" != "$stamp" ]; then
	step "$out/build.log" "building the selftests" build_tests
	echo "$stamp" >"$bin/stamp"
fi
gcc -O2 -Wall -Wextra -Werror -static -o "$work/init" "$top/guest/init.c"
sh "$scripts/initramfs.sh" tools "$work/tools.cpio" "$work/init"

[ -z "$FLAVOUR" ] || export MEM=2G	# KASAN takes an eighth, and more
accel=$(sh "$scripts/accel.sh" "$boot")
[ $# -gt 0 ] || { eval "set -- $(sed 's/.*:\(.*\)/"\1"/' "$bin/kselftest-list.txt" | tr '\n' ' ')"; }

{ echo "KTAP version 1"; echo "1..$#"; } >"$out/tests.ktap"
n=0
for t; do
	n=$((n + 1))
	name=${t%% *}
	case $t in *' '*) args=${t#* } ;; *) args='' ;; esac
	dir=$(sed -n "s/^\(.*\):$name\$/\1/p" "$bin/kselftest-list.txt")
	id=$(echo "$t" | tr -c 'A-Za-z0-9_.\n' '-')
	vm=$out/$id
	say "test $n/$#: $t"
	if [ -z "$dir" ]; then
		echo "not ok $n $t # no such test" >>"$out/tests.ktap"
		continue
	fi
	secs=$(sed -n 's/^timeout=//p' "$bin/$dir/settings" 2>/dev/null)
	: "${secs:=45}"
	[ "$secs" -le "${MAX_SECS:-$secs}" ] || secs=$MAX_SECS
	mkdir -p "$vm"
	echo "$secs $name $args" >"$vm/list"
	find "$bin/$dir" -maxdepth 1 -type f -exec sh "$scripts/initramfs.sh" tests "$vm/initrd.tests" "$vm/list" {} +
	cat "$work/tools.cpio" "$vm/initrd.tests" >"$vm/initrd"
	truncate -s 1536M "$vm/swap.img"
	truncate -s 512M "$vm/xfs.img" "$vm/ext4.img"
	rc=0
	ACCEL=$accel sh "$scripts/vm.sh" "$vm" $((secs + 60)) "$boot" "$vm/initrd" -d "$vm/swap.img,swap" \
		-d "$vm/xfs.img,scratch-xfs" -d "$vm/ext4.img,scratch-ext4" \
		-a "${APPEND-panic_on_warn=1}" || rc=$?
	rm -f "$vm/initrd" "$vm/initrd.tests" "$vm"/*.img "$vm/list"
	[ $rc -ne 2 ] || die "QEMU does not start: see $vm/qemu.txt"
	# the guest counts to one
	sed -n -e '/^  /p' -e '/^#/p' "$vm/result.ktap" | sed '/^# autofreeze guest/d' >>"$out/tests.ktap"
	echo >>"$out/tests.ktap"
	if [ $rc -eq 0 ]; then
		v=$(sed -n "s/^\(not ok\|ok\) 1 $name/\1 $n $id/p" "$vm/result.ktap")
	else
		v="not ok $n $id # the guest died, see console.log of $id"
	fi
	echo "$v" >>"$out/tests.ktap"
	case $v in ok*) ;; *) say "  $v"; sed -n 's/^  \(not ok .*\)/    \1/p' "$vm/result.ktap" ;; esac
done
sed -i '/^$/d' "$out/tests.ktap"
