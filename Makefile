# Filesystems that freeze themselves: one command for each thing to do.
#
# To override on the command line or from the environment:
# a git tree of the kernel to use instead of BASE (a worktree of it)
KDIR ?=
# debug: with lockdep, KASAN and DEBUG_ATOMIC_SLEEP; kcsan: with that
FLAVOUR ?=
# check, smoke, mutants: only these
TESTS ?=
# what smoke runs
SMOKE ?= owner_test quiet_test
# tree, patches: the git tree to work on
TREE ?= $(CURDIR)/linux
JOBS ?= $(shell nproc)
# at a time; else one for two CPUs, and three at least
GUESTS ?=
# kvm or tcg; else a probe decides
ACCEL ?=
QEMU ?= qemu-system-x86_64
# From the environment, too: RESULTS, the folder of the run (results/TIME), and
# XDG_CACHE_HOME, where trees and objects are kept.

export KDIR FLAVOUR JOBS GUESTS ACCEL QEMU
export AF_START := $(shell date +%s)
unexport MAKEFLAGS MAKELEVEL
run := sh scripts

help:	## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16
run:	## xfs and ext4 under load through suspend and hibernation: base beside series
	@$(run)/run.sh
check:	## lint, build, selftests in QEMU, the show; last line "N passed, N failed"
	@$(run)/check.sh check $(TESTS)
full:	## check, with 300 random stacks of devices and with cycles and storms of 500 suspends
	@TESTENV='AF_STACKS=300 AF_CYCLES=500' $(run)/check.sh check
smoke:	## a few tests, in two minutes once everything is built
	@$(run)/check.sh smoke $(or $(TESTS),$(SMOKE))
bisect:	## does each prefix of the series build, boot and pass (FROM=0006: from there on)
	@$(run)/bisect.sh
mutants:	## does each test fail when a hunk is taken back
	@$(run)/mutants.sh $(TESTS)
bench:	## how long freezing and kernfs events take, base beside series
	@$(run)/bench.sh $(RUNS)
matrix:	## what is tested of which filesystem, base beside series
	@$(run)/matrix.sh $(TESTS)
lint:	## checkpatch, sparse, W=1, kernel-doc, round trip, and more
	@$(run)/base.sh && $(run)/apply.sh && $(run)/lint.sh
newest:	## does the series apply to the newest kernel that Debian has
	@$(run)/newest.sh
tree:	## the series as git commits in TREE
	@$(run)/base.sh && $(run)/apply.sh && $(run)/patches.sh tree $(TREE)
patches:	## the commits of TREE as patches
	@$(run)/base.sh && $(run)/patches.sh export $(TREE) $(CURDIR)
doctor:	## installs what is missing (as root), or says what to install
	@$(run)/need.sh
clean:	## removes what is cached
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/autofreeze"
	$(if $(KDIR),git -C $(KDIR) worktree prune)

.PHONY: help run check full smoke bisect mutants bench matrix lint newest tree patches doctor clean
