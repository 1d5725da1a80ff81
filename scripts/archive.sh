# shellcheck shell=sh disable=SC2154  # after lib.sh
# Sourced: kernel source packages from Debian's archive.
#
# An apt of our own: the archive's address is the one that the system uses for
# Debian itself, the suites are ours, and nothing of the system's is written to.

archive()	# its address, of whatever format apt's sources are
{
	codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	apt-get update --print-uris 2>/dev/null |
		sed -n "s|^'\(.*\)/dists/$codename/InRelease'.*|\1|p" | head -n 1
}

own_apt()	# apt-get|apt-cache ARG...
{
	_cmd=$1
	shift
	"$_cmd" -q -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache" \
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=2 \
		-o Debug::NoLocking=1 "$@"
}

apt_update()	# NAME SUITE...: the lists of these suites
{
	apt=$cache/apt-$1
	shift
	_uri=$(archive)
	[ -n "$_uri" ] || die "found no Debian archive in apt's sources (deb lines of this system's own suite)"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	for _suite; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $_uri $_suite main"
	done >"$apt/sources.list"
	if ! own_apt apt-get update >"$apt/log" 2>&1 || grep -q '^Err:' "$apt/log"; then
		tail -n 3 "$apt/log" >&2
		die "cannot get the lists of $* from $_uri: is there a network, and does this archive have these suites?"
	fi
}

versions()	# PACKAGE: those that there are, newest first
{
	own_apt apt-cache madison "$1" | awk '{ print $3 }' | sort -u -V -r
}

newest_source()	# "PACKAGE VERSION"
{
	own_apt apt-cache pkgnames linux-source- | grep -x 'linux-source-[0-9.]*' | while read -r _p; do
		versions "$_p" | sed "s/^/$_p /"
	done | sort -k 2 -V | tail -n 1
}

fetch_deb()	# PACKAGE VERSION DIR; apt checks it against the signed lists
{
	mkdir -p "$3"
	(cd "$3" && own_apt apt-get download "$1=$2") >"$apt/log" 2>&1 || {
		tail -n 3 "$apt/log" >&2
		die "could not download $1 $2: is there a network?"
	}
}

unpack()	# DEB PACKAGE DIR
{
	rm -rf "$3"
	mkdir -p "$3"
	dpkg-deb --fsys-tarfile "$1" | tar -x -O -f - "./usr/src/$2.tar.xz" |
		tar -x -J -C "$3" --strip-components=1 -f - || return 1
	[ -f "$3/Kbuild" ]
}

failed_hunks()	# of the output of patch: "  FILE: Hunk #N FAILED at LINE."
{
	awk '/^(checking|patching) file / { file = $3 }
		/FAILED at/ { print "  " file ": " $0 }
		/^can.t find file to patch|^No file to patch/ { missing = 1 }
		/^\|diff --git/ && missing { print "  " $4 ": no such file"; missing = 0 }'
}
