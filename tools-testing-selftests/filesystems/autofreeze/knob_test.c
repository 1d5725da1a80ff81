// SPDX-License-Identifier: GPL-2.0
/*
 * Filesystems with FS_POWER_FREEZE freeze in every transition.  The knob
 * /sys/power/freeze_filesystems is for the others: off, they are left alone;
 * on, they are frozen as well as that goes.  suspend.skip_fs_freeze is the way
 * out for suspend, and only for suspend.
 *
 * A clean filesystem, with nothing to sync or write back, sends its disk no
 * write but that of its freeze.  gfs2 has none then, but data that nobody else
 * writes back is written by its freeze.
 */
#define _GNU_SOURCE

#include "kselftest_harness.h"
#include "af_fail.h"

#define SKIP_FS_FREEZE	"/sys/module/suspend/parameters/skip_fs_freeze"

FIXTURE(knob) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(knob) {
	const char *fs;		/* the type to mount as */
	const char *mkfs;
	const char *opts;
	unsigned int needs;
	bool flagged;
};

FIXTURE_VARIANT_ADD(knob, xfs) {
	.fs = "xfs", .mkfs = "xfs", .needs = AF_XFS, .flagged = true,
};

FIXTURE_VARIANT_ADD(knob, ext4) {
	.fs = "ext4", .mkfs = "ext4", .needs = AF_EXT4, .flagged = true,
};

/* a type of its own, of the same code */
FIXTURE_VARIANT_ADD(knob, ext3) {
	.fs = "ext3", .mkfs = "ext3", .needs = AF_EXT4, .flagged = true,
};

/* a cluster would wait for the node that sleeps */
FIXTURE_VARIANT_ADD(knob, gfs2) {
	.fs = "gfs2", .mkfs = "gfs2", .opts = "commit=300", .needs = AF_GFS2,
	.flagged = false,
};

FIXTURE_SETUP(knob)
{
	const char *why = af_setup(AF_NULL_BLK | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_disk_create(&self->disk, "knob", NULL));
	ASSERT_EQ(0, af_mkfs(variant->mkfs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "knob", variant->opts, self->dir));
	ASSERT_EQ(0, af_writable(self->dir, 10));
	/* cleaner than sync, which leaves xfs something to write at the next one */
	ASSERT_EQ(0, af_fifreeze(self->dir));
	ASSERT_EQ(0, af_fithaw(self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(knob)
{
	inject_nothing();
	af_cleanup();
}

static int put_data(const char *dir)
{
	char path[192], buf[4096] = {};
	int fd, ret;

	snprintf(path, sizeof(path), "%s/data", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ret = write(fd, buf, sizeof(buf)) == sizeof(buf) ? 0 : -EIO;
	close(fd);
	return ret;
}

/* Does a transition freeze it?  1, 0 or -errno. */
static int freezes(struct af_disk *d, const char *dir, const char *state,
		   unsigned int knob, bool dirty)
{
	struct af_cycle c = { .state = state };
	struct disk_io before, after;
	int ret;

	ret = af_set(AF_KNOB, "%u", knob);
	if (!ret && dirty)
		ret = put_data(dir);
	if (ret)
		return ret;
	before = disk_io(d);
	ret = af_cycle(&c);
	if (ret)
		return ret;
	after = disk_io(d);
	if (!becomes_unfrozen(dir, 5000))
		return -EBUSY;
	af_log("%s, knob %u: %llu sectors written", state, knob,
	       after.sectors - before.sectors);
	return after.sectors != before.sectors;
}

TEST_F(knob, is_only_asked_for_filesystems_without_the_flag)
{
	EXPECT_EQ(variant->flagged, freezes(&self->disk, self->dir, "mem", 0, !variant->flagged));
	EXPECT_EQ(1, freezes(&self->disk, self->dir, "mem", 1, !variant->flagged));
	/* the sync before a hibernation writes what is dirty, always */
	if (!variant->flagged)
		return;
	EXPECT_EQ(1, freezes(&self->disk, self->dir, "disk", 0, false));
	EXPECT_EQ(1, freezes(&self->disk, self->dir, "disk", 1, false));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F(knob, skip_fs_freeze_is_for_suspend_only)
{
	if (access(SKIP_FS_FREEZE, W_OK))
		SKIP(return, "needs suspend.skip_fs_freeze");
	ASSERT_EQ(0, af_set(SKIP_FS_FREEZE, "1"));
	EXPECT_EQ(0, freezes(&self->disk, self->dir, "mem", 0, !variant->flagged));
	EXPECT_EQ(0, freezes(&self->disk, self->dir, "mem", 1, !variant->flagged));
	if (variant->flagged)
		EXPECT_EQ(1, freezes(&self->disk, self->dir, "disk", 0, false));
	ASSERT_EQ(0, af_set(SKIP_FS_FREEZE, "0"));
	EXPECT_EQ(variant->flagged, freezes(&self->disk, self->dir, "mem", 0, !variant->flagged));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* All or nothing holds for those with the flag, the rest is best effort. */
TEST_F(knob, error_of_a_filesystem_fails_hibernation_only_with_the_flag)
{
	struct af_cycle c = { .state = "disk" };

	if (inject_error("sb_freeze_fs", -ENOSPC, 1))
		SKIP(return, "this kernel has no such point of error injection");
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	EXPECT_EQ(variant->flagged ? -ENOSPC : 0, af_cycle(&c));
	inject_nothing();
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
