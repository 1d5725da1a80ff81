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
[ -n "$KDIR" ] || ! dpkg --compare-versions "$version" lt "$VERSION" || say "(which is older than the base, $VERSION)"
dir=$cache/newest/$version
if [ ! -f "$dir/done" ]; then
	rm -rf "$cache/newest"
	mkdir -p "$dir"
	fetch_deb "$package" "$version" "$dir"
	step "$dir/log" "unpacking it" unpack "$dir"/*.deb "$package" "$dir/linux"
	rm -f "$dir"/*.deb
	: >"$dir/done"
fi
# a copy of the files that the series touches
rm -rf "$dir/try"
mkdir "$dir/try"
(cd "$top" && patches | xargs sed -n 's|^+++ b/||p') | sort -u | (cd "$dir/linux" && xargs ls -d 2>/dev/null || :) |
	(cd "$dir/linux" && cpio -pdm --quiet ../try)
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
