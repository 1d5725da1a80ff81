#!/bin/sh
# usage: env.sh
#
# What a run was made with, into its folder.
. "$(dirname "$0")/lib.sh"

mkdir -p "$RESULTS"
cp "$series/$o/.config" "$RESULTS/config"
{
	echo "base: ${KDIR:-$PACKAGE $VERSION} $(cat "$work/base.commit")"
	echo "series: $(cut -d ' ' -f 2 "$work/applied")"
	echo "repository: $(git -C "$top" describe --always --dirty 2>/dev/null || echo unknown)"
	gcc --version | head -n 1
	ld --version | head -n 1
	"${QEMU:-qemu-system-x86_64}" --version | head -n 1
	echo "accelerator: $(cut -d ' ' -f 2 "$cache/accel" 2>/dev/null || echo "${ACCEL:-}")"
	for t in mkfs.xfs mkfs.ext4; do "$t" -V 2>&1 | head -n 1; done
	echo "host: $(uname -r), $(nproc) CPUs, $(. /etc/os-release && echo "$PRETTY_NAME")"
	echo "seconds: $(($(date +%s) - AF_START))"
} >"$RESULTS/env.txt"
