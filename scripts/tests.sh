#!/bin/sh
# usage: tests.sh BZIMAGE OUT [TEST...]
#
# Builds the selftests of $work/series, runs each in a guest of its own with
# that kernel (so that one which hangs takes no other with it), and writes
# OUT/tests.ktap.  TEST is the name of a binary, or "BINARY ARG..."; all when
# there is none.
#
# MAX_SECS limits the time of each (where hangs are what is expected), APPEND
# replaces what is added to the kernel's command line, TESTENV is what the tests
# find in their environment, GUESTS is how many run at a time.
. "$(dirname "$0")/lib.sh"

boot=$1 out=$2
shift 2
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

# the selftests as they are in the tree, and what the guest has besides
stamp=$(git -C "$series" rev-parse HEAD:tools/testing/selftests) || die "run make tree first"
if [ "$(cat "$bin/stamp" 2>/dev/null)" != "$stamp" ]; then
	step "$out/build.log" "building the selftests" build_tests
	echo "$stamp" >"$bin/stamp"
fi
gcc -O2 -Wall -Wextra -Werror -static -o "$work/init" "$top/guest/init.c"
sh "$scripts/initramfs.sh" tools "$work/tools.cpio" "$work/init"

slow=1
[ -z "$FLAVOUR" ] || { slow=3; export MEM=2G; }	# KASAN takes an eighth of it, and more
# Not all races that it reports are of what is tested, and each would be a panic.
[ "$FLAVOUR" != kcsan ] || : "${APPEND=}"
accel=$(sh "$scripts/accel.sh" "$boot")
[ $# -gt 0 ] || { eval "set -- $(sed 's/.*:\(.*\)/"\1"/' "$bin/kselftest-list.txt" | tr '\n' ' ')"; }

# One test: its part of the report goes to DIR/ktap
one()		# NUMBER OF TEST DIR
{
	n=$1 of=$2 t=$3 vm=$4
	name=${t%% *} id=${vm##*/}
	case $t in *' '*) args=${t#* } ;; *) args='' ;; esac
	dir=$(cd "$bin" && find . -name "$name" -type f)
	dir=${dir%/*}
	rm -rf "$vm"
	mkdir -p "$vm"
	say "test $n/$of: $t"
	if [ -z "$dir" ]; then
		echo "not ok $n $t # no such test" >"$vm/ktap"
		return
	fi
	secs=$(sed -n 's/^timeout=//p' "$bin/$dir/settings" 2>/dev/null)
	: "${secs:=45}"
	[ "$secs" -le "${MAX_SECS:-$secs}" ] || secs=$MAX_SECS
	secs=$((secs * slow))
	echo "$secs $name $args" >"$vm/list"
	# (of the same version and configuration: the modules suit all that is booted)
	find "$bin/$dir" "$series/$o/lib" -maxdepth 1 -type f \( -path "$bin/*" -o -name '*.ko' \) \
		-exec sh "$scripts/initramfs.sh" tests "$vm/initrd.tests" "$vm/list" {} +
	cat "$work/tools.cpio" "$vm/initrd.tests" >"$vm/initrd"
	truncate -s 1536M "$vm/swap.img"
	truncate -s 512M "$vm/xfs.img" "$vm/ext4.img"
	for try in 1 2; do
		rc=0
		ACCEL=$accel sh "$scripts/vm.sh" "$vm" $((secs + 60)) "$boot" "$vm/initrd" -d "$vm/swap.img,swap" \
			-d "$vm/xfs.img,scratch-xfs" -d "$vm/ext4.img,scratch-ext4" \
			-a "${APPEND-panic_on_warn=1} AF_SLOW=$slow ${TESTENV:-}" &
		guest=$!
		wait $guest || rc=$?
		# What dies before there is any user space says nothing about the
		# test.  (With KASAN, TCG's first interrupts sometimes do that.)
		[ $rc -eq 1 ] && [ $try -eq 1 ] && ! grep -q 'as init process' "$vm/console.log" || break
		say "  $t: the kernel did not boot, once more (see console-1.log of $id)"
		mv "$vm/console.log" "$vm/console-1.log"
	done
	rm -f "$vm/initrd" "$vm/initrd.tests" "$vm"/*.img "$vm/list"
	[ "$rc" -ne 2 ] || die "QEMU does not start: see $vm/qemu.txt"
	# the guest counts to one
	sed -n -e '/^  /p' -e '/^#/p' "$vm/result.ktap" | sed -e '/^# autofreeze guest/d' -e '/^ *$/d' >"$vm/ktap.new"
	v=''
	[ "$rc" -ne 0 ] || v=$(sed -n "s/^\(not ok\|ok\) 1 $name/\1 $n $id/p" "$vm/result.ktap")
	: "${v:=not ok $n $id # the guest died, see console.log of $id}"
	echo "$v" >>"$vm/ktap.new"
	mv "$vm/ktap.new" "$vm/ktap"
	case $v in ok*) ;; *) say "  $v"; sed -n 's/^  \(not ok .*\)/    \1/p' "$vm/result.ktap" ;; esac
}

# As many guests at a time as there are pairs of CPUs, and three at least: much
# of what the tests do is wait.  The n-th of the workers starts the next test
# that no other one has started.
case ${GUESTS:=$((JOBS / 2 > 3 ? JOBS / 2 : 3))} in *[!0-9]*|0) die "GUESTS=$GUESTS is no number" ;; esac
taken=$(mktemp -d "$out/taken.XXXXXX")
worker()
{
	trap 'kill $guest; exit 130' INT TERM
	i=0
	for test; do
		i=$((i + 1))
		! mkdir "$taken/$i" 2>/dev/null || one $i $# "$test" "$out/$(name_of "$test")"
	done
}
i=0 pids=''
trap 'kill $pids; rm -rf "$taken"; exit 130' INT TERM
while [ $i -lt "$GUESTS" ] && [ $i -lt $# ]; do
	worker "$@" &
	pids="$pids $!" i=$((i + 1))
done
rc=0
for p in $pids; do
	wait "$p" || rc=1
done
rm -rf "$taken"
[ $rc -eq 0 ] || exit 1
if [ "$FLAVOUR" = kcsan ]; then
	cat "$out"/*/console.log | sed -n 's/.*BUG: KCSAN: //p' | sort | uniq -c | sort -rn >"$out/races.txt"
	say "$(wc -l <"$out/races.txt") data races, see $out/races.txt"
fi

{
	echo "KTAP version 1"
	echo "1..$#"
	for t; do
		cat "$out/$(name_of "$t")/ktap"
	done
} >"$out/tests.ktap"
