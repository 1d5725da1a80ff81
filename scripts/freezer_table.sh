#!/bin/sh
# Compare the freezer users below fs/ of a kernel tree with the table in
# Documentation/power/freezing-of-tasks.rst, or in the file given second.
#
# Prints for each directory the types with FS_POWER_FREEZE and the number of
# freezer calls by kind, then the differences. The table is the list-table after
# the label ".. _fs-freezer-users:". Its first column is the directory below
# fs/ ("." for fs/ itself); the third one begins with "freezer" where a kernel
# thread or workqueue remains freezable. Exit status: 0 the same, 1 different,
# 2 usage.
set -eu

tree=${1:?usage: freezer_table.sh TREE [FILE]}
doc=${2:-$tree/Documentation/power/freezing-of-tasks.rst}
[ -d "$tree/fs" ] && [ -r "$doc" ] || exit 2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Where the freezer applies to kernel threads, and where to user tasks only
kt='set_freezable\(|try_to_freeze\(|wait_event_freezable[a-z_]*\(|kthread_freezable_should_stop\(|WQ_FREEZABLE|system_freezable_[a-z_]*wq'
ut='freezing\(|TASK_FREEZABLE[_A-Z]*'

cd "$tree/fs"
# DIRECTORY WHAT, once for each; comments and autofreeze itself do not count
grep -rnoE --include='*.c' "$kt|$ut|FS_POWER_FREEZE" . |
	while IFS=: read -r file line what; do
		case $file in ./autofreeze.c|./freeze_graph.c) continue ;; esac
		sed -n "${line}p" "$file" | grep -qE '^[[:space:]]*(/?\*|//)|/\*.*'"${what%(}" && continue
		dir=$(dirname "$file")
		# In fs/ itself the flag is asked for, not set
		[ "$dir" = . ] && [ "$what" = FS_POWER_FREEZE ] && continue
		echo "${dir#./} ${what%(}"
	done | sort | uniq -c | awk '{ print $2, $3, $1 }' >"$tmp/facts"
cat "$tmp/facts"

# DIRECTORY flag or DIRECTORY freezer, from the tree and from the table
awk '$2 == "FS_POWER_FREEZE" { print $1, "flag"; next }
	$2 !~ /^(freezing$|try_to_freeze$|TASK_FREEZABLE)/ { print $1, "freezer" }' \
	"$tmp/facts" | sort -u >"$tmp/tree"
awk '/^\.\. _fs-freezer-users:/ { on = 1; next }
	on && /^[^ \t.]/ { exit }
	on && /^ +\* - / { sub(/^ +\* - /, ""); dir = $1; n = 1; next }
	on && /^ +- / { if (++n == 3) { sub(/^ +- /, "");
		print dir, (/^freezer/ ? "freezer" : "flag") } }' "$doc" |
	grep -v '^Directory ' | sort -u >"$tmp/table"
comm -23 "$tmp/tree" "$tmp/table" | sed 's/^/not in the table: /' >"$tmp/diff"
comm -13 "$tmp/tree" "$tmp/table" | sed 's/^/not in the tree: /' >>"$tmp/diff"
awk '{ n[$1]++ } END { for (d in n) if (n[d] > 1) print "both: " d }' "$tmp/tree" >>"$tmp/diff"
cat "$tmp/diff" >&2
[ ! -s "$tmp/diff" ]
