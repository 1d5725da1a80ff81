#!/bin/sh
# usage: newest.sh
#
# Tries the series on the newest kernel source that Debian has (sid and
# experimental) and reports each hunk that does not apply.
. "$(dirname "$0")/lib.sh"
. "$scripts/archive.sh"

sh "$scripts/need.sh"
apt_update newest sid experimental
read -r package version <<END
$(newest_source)
END
[ -n "${package:-}" ] || die "found no linux-source-* in sid and experimental"
say "the newest is $package $version"
dir=$cache/newest/$version
if [ ! -f "$dir/done" ]; then
	rm -rf "$cache/newest"
	mkdir -p "$dir"
	fetch_deb "$package" "$version" "$dir"
	step "$dir/log" "unpacking it" unpack "$dir"/*.deb "$package" "$dir/linux"
	rm -f "$dir"/*.deb
	: >"$dir/done"
fi
cp -a --reflink=auto "$dir/linux" "$dir/try"
trap 'rm -rf "$dir/try"' EXIT
bad=0
for p in $(patches); do
	rc=0
	patch -d "$dir/try" -p1 -F0 -f -N -r - <"$top/$p" >"$dir/patch.log" 2>&1 || rc=$?
	if [ $rc -eq 0 ]; then
		echo "applies: $p"
	else
		bad=$((bad + 1))
		echo "FAILS:   $p"
		failed_hunks <"$dir/patch.log"
	fi
done
echo "$package $version: $(($(patches | wc -l) - bad)) patches apply, $bad do not"
[ $bad -eq 0 ]
