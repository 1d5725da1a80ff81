// SPDX-License-Identifier: GPL-2.0
/*
 * What images memory is all or nothing: when one filesystem cannot be frozen, a
 * hibernation fails with that filesystem's errno, the log names it, everything
 * that the transition froze is thawed, and what userspace froze stays frozen.
 * Suspend to RAM images nothing: it leaves that filesystem out, says so, and
 * sleeps.  A filesystem that cannot write any more, because it was shut down or
 * its disk was pulled out, keeps neither from working.
 *
 * Errors come from a disk that starts to fail below a filesystem that has no
 * journal to abort, or are injected by fail_function.  All transitions are
 * pm_test=freezer, which freezes just as the real one does.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <linux/types.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define GOINGDOWN_NOLOGFLUSH	0x2
#define IOC_GOINGDOWN		_IOR('X', 125, __u32)	/* xfs and ext4 have it */

#define WAKEALARM	"/sys/class/rtc/rtc0/wakealarm"
#define INJECTED	(-ENOSPC)
#define FILESYSTEMS	4
#define USER_FROZEN	2	/* index of the one that userspace has frozen */

static int hibernate(void)
{
	struct af_cycle c = { .state = "disk" };

	return af_cycle(&c);
}

static int suspend(void)
{
	struct af_cycle c = { .state = "mem" };

	return af_cycle(&c);
}

/* --- a disk that fails below a live filesystem ------------------------------ */

FIXTURE(bad_disk) {
	struct af_disk disk[FILESYSTEMS], dm;
	char dir[FILESYSTEMS][128];
	struct af_klog log;
	int victim;
};

FIXTURE_VARIANT(bad_disk) {
	const char *others;
	unsigned int needs;
	const char *opts;
};

/* Without barriers, the first thing to fail is the superblock in ->freeze_fs. */
FIXTURE_VARIANT_ADD(bad_disk, fails_in_freeze_fs_among_ext4) {
	.others = "ext4", .needs = AF_EXT4, .opts = "nobarrier",
};

/* With barriers it is the flush at the end of ->sync_fs. */
FIXTURE_VARIANT_ADD(bad_disk, fails_in_sync_among_xfs) {
	.others = "xfs", .needs = AF_EXT4 | AF_XFS, .opts = "barrier",
};

FIXTURE_SETUP(bad_disk)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | variant->needs);
	char name[16], table[64];
	int i;

	if (why)
		SKIP(return, "%s", why);
	self->victim = 1;
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	for (i = 0; i < FILESYSTEMS; i++) {
		struct af_disk *d = &self->disk[i];
		const char *fs = variant->others;

		snprintf(name, sizeof(name), "bad%d", i);
		ASSERT_EQ(0, af_disk_create(d, name, NULL));
		if (i == self->victim) {
			ASSERT_EQ(0, af_dm_linear(&self->dm, "bad", d));
			d = &self->dm;
			fs = "ext4";
			ASSERT_EQ(0, af_mkfs(fs, d->node, "-O ^has_journal"));
			ASSERT_EQ(0, af_mount(fs, d->node, name, variant->opts, self->dir[i]));
			continue;
		}
		ASSERT_EQ(0, af_mkfs(fs, d->node, NULL));
		ASSERT_EQ(0, af_mount(fs, d->node, name, NULL, self->dir[i]));
	}
	ASSERT_EQ(0, af_writable(self->dir[self->victim], 10));
	sync();
	ASSERT_EQ(0, af_fifreeze(self->dir[USER_FROZEN]));
	snprintf(table, sizeof(table), "0 %llu error",
		 (unsigned long long)self->dm.sectors);
	ASSERT_EQ(0, af_dm_load(&self->dm, table));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, false, true));
	ASSERT_EQ(0, af_dm_resume(&self->dm));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(bad_disk)
{
	af_cleanup();
}

static void expect_only_the_user_freeze_is_left(struct __test_metadata *_metadata,
						char (*dirs)[128])
{
	int i;

	for (i = 0; i < FILESYSTEMS; i++) {
		if (i == USER_FROZEN)
			continue;
		EXPECT_TRUE(becomes_unfrozen(dirs[i], 5000))
			TH_LOG("%s stays frozen", dirs[i]);
	}
	EXPECT_TRUE(is_frozen(dirs[USER_FROZEN]));
	EXPECT_EQ(-EBUSY, af_fifreeze(dirs[USER_FROZEN]));
	EXPECT_EQ(0, af_fithaw(dirs[USER_FROZEN]));
	EXPECT_EQ(0, af_writable(dirs[USER_FROZEN], 10));
}

TEST_F_TIMEOUT(bad_disk, hibernation_fails_with_its_errno_and_thaws_the_others, 90)
{
	int i;

	EXPECT_EQ(-EIO, hibernate());
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &self->dm));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	expect_only_the_user_freeze_is_left(_metadata, self->dir);
	for (i = 0; i < FILESYSTEMS; i++)
		if (i != self->victim)
			EXPECT_EQ(0, af_writable(self->dir[i], 10));
}

TEST_F_TIMEOUT(bad_disk, suspend_goes_on_without_it_and_warns, 90)
{
	struct af_cycle sleep = { .state = "mem", .wake = 3 };
	int i;

	EXPECT_EQ(0, suspend());
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &self->dm));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	expect_only_the_user_freeze_is_left(_metadata, self->dir);
	for (i = 0; i < FILESYSTEMS; i++)
		if (i != self->victim)
			EXPECT_EQ(0, af_writable(self->dir[i], 10));

	/* and not only as far as pm_test goes */
	if (access(WAKEALARM, W_OK))
		return;
	EXPECT_EQ(0, af_cycle(&sleep));
	EXPECT_LT(0, sleep.slept_ms);
	/* when it did not sleep, the alarm is still to come */
	af_write(WAKEALARM, "0");
}

TEST_F_TIMEOUT(bad_disk, hibernation_works_again_when_the_disk_does, 90)
{
	char table[128];

	EXPECT_EQ(-EIO, hibernate());
	snprintf(table, sizeof(table), "0 %llu linear %s 0",
		 (unsigned long long)self->dm.sectors,
		 self->disk[self->victim].node);
	ASSERT_EQ(0, af_dm_load(&self->dm, table));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, false, true));
	ASSERT_EQ(0, af_dm_resume(&self->dm));
	EXPECT_EQ(0, af_writable(self->dir[self->victim], 10));
	EXPECT_EQ(0, hibernate());
	EXPECT_TRUE(becomes_unfrozen(self->dir[self->victim], 5000));
	EXPECT_EQ(0, af_writable(self->dir[self->victim], 10));
}

/* --- injected errors -------------------------------------------------------- */

FIXTURE(injected) {
	struct af_disk disk[FILESYSTEMS];
	char dir[FILESYSTEMS][128];
};

FIXTURE_VARIANT(injected) {
	const char *fs;
	unsigned int needs;
	const char *func;
};

FIXTURE_VARIANT_ADD(injected, ext4_sync) {
	.fs = "ext4", .needs = AF_EXT4, .func = "sb_freeze_sync",
};

FIXTURE_VARIANT_ADD(injected, ext4_freeze_fs) {
	.fs = "ext4", .needs = AF_EXT4, .func = "sb_freeze_fs",
};

FIXTURE_VARIANT_ADD(injected, xfs_sync) {
	.fs = "xfs", .needs = AF_XFS, .func = "sb_freeze_sync",
};

FIXTURE_VARIANT_ADD(injected, xfs_freeze_fs) {
	.fs = "xfs", .needs = AF_XFS, .func = "sb_freeze_fs",
};

FIXTURE_SETUP(injected)
{
	const char *why = af_setup(AF_NULL_BLK | AF_FAIL_FUNC | variant->needs);
	char name[16];
	int i;

	if (!why && inject_error(variant->func, INJECTED, 1))
		why = "this kernel has no such point of error injection";
	inject_nothing();
	if (why)
		SKIP(return, "%s", why);
	for (i = 0; i < FILESYSTEMS; i++) {
		snprintf(name, sizeof(name), "inj%d", i);
		ASSERT_EQ(0, af_disk_create(&self->disk[i], name, NULL));
		ASSERT_EQ(0, af_mkfs(variant->fs, self->disk[i].node, NULL));
		ASSERT_EQ(0, af_mount(variant->fs, self->disk[i].node, name,
				      NULL, self->dir[i]));
	}
}

FIXTURE_TEARDOWN_PARENT(injected)
{
	inject_nothing();
	af_cleanup();
}

/* How many of the fixture's filesystems the log since @k says have failed. */
static int count_named(struct af_klog *k, const char *fs, struct af_disk *disks)
{
	int i, n = 0;

	for (i = 0; i < FILESYSTEMS; i++)
		n += freeze_failure_named(k, fs, &disks[i]);
	return n;
}

TEST_F_TIMEOUT(injected, nth_failure_fails_hibernation_and_thaws_the_others, 180)
{
	unsigned int nth;
	struct af_klog log;

	for (nth = 1; nth < FILESYSTEMS; nth++) {
		/* one less to freeze here: which one is not frozen anew varies */
		ASSERT_EQ(0, af_fifreeze(self->dir[USER_FROZEN]));
		ASSERT_EQ(0, af_klog_mark(&log));
		ASSERT_EQ(0, inject_error(variant->func, INJECTED, nth));
		EXPECT_EQ(INJECTED, hibernate())
			TH_LOG("failure number %u", nth);
		inject_nothing();
		EXPECT_EQ(1, count_named(&log, variant->fs, self->disk));
		EXPECT_EQ(NULL, af_klog_splat(&log));
		af_klog_end(&log);
		expect_only_the_user_freeze_is_left(_metadata, self->dir);
	}
	EXPECT_EQ(0, hibernate());
}

TEST_F_TIMEOUT(injected, suspend_goes_on_and_warns, 90)
{
	struct af_klog log;
	int i;

	ASSERT_EQ(0, af_fifreeze(self->dir[USER_FROZEN]));
	ASSERT_EQ(0, af_klog_mark(&log));
	ASSERT_EQ(0, inject_error(variant->func, INJECTED, 2));
	EXPECT_EQ(0, suspend());
	inject_nothing();
	/* the second call and all after it fail, each has its line */
	EXPECT_LE(1, count_named(&log, variant->fs, self->disk));
	EXPECT_EQ(NULL, af_klog_splat(&log));
	af_klog_end(&log);
	expect_only_the_user_freeze_is_left(_metadata, self->dir);
	for (i = 0; i < FILESYSTEMS; i++)
		EXPECT_EQ(0, af_writable(self->dir[i], 10));
}

/*
 * Drivers return what they like.  An errno by which the kernel might tell
 * itself something else is still the failure of a filesystem.
 */
TEST_F_TIMEOUT(injected, no_errno_is_taken_for_something_else, 180)
{
	static const int errors[] = {
		-ESHUTDOWN, -ETIMEDOUT, -EAGAIN, -EINTR, -EBUSY, -EROFS,
	};
	struct af_klog log;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		ASSERT_EQ(0, af_klog_mark(&log));
		ASSERT_EQ(0, inject_error(variant->func, errors[i], 1));
		EXPECT_EQ(errors[i], hibernate());
		EXPECT_EQ(1, count_named(&log, variant->fs, self->disk));
		inject_nothing();
		EXPECT_EQ(0, af_writable(self->dir[0], 10));
		af_klog_end(&log);
	}
}

/* --- filesystems that cannot write any more --------------------------------- */

FIXTURE(dead) {
	struct af_disk under, disk, other;
	char dir[128], other_dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(dead) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(dead, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(dead, ext4) { .fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(dead)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->other, "other", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->other.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->other.node, "other", NULL,
			      self->other_dir));
	ASSERT_EQ(0, af_disk_create(&self->under, "dead", NULL));
	self->disk = self->under;
}

FIXTURE_TEARDOWN_PARENT(dead)
{
	af_cleanup();
}

static void expect_both_work(struct __test_metadata *_metadata,
			     FIXTURE_DATA(dead) * self,
			     const FIXTURE_VARIANT(dead) * variant)
{
	ASSERT_EQ(0, af_klog_mark(&self->log));
	EXPECT_EQ(0, suspend());
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, hibernate());
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	/* the second attempt finds what the first one left behind */
	EXPECT_EQ(0, hibernate());
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_FALSE(freeze_failure_named(&self->log, variant->fs,
					  &self->disk));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	EXPECT_EQ(0, af_umount(self->dir));
}

TEST_F_TIMEOUT(dead, shut_down_filesystem_keeps_nothing_from_working, 120)
{
	__u32 how = GOINGDOWN_NOLOGFLUSH;
	int fd;

	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "dead", NULL, self->dir));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	fd = open(self->dir, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, IOC_GOINGDOWN, &how));
	close(fd);
	expect_both_work(_metadata, self, variant);
}

TEST_F_TIMEOUT(dead, unplugged_disk_keeps_nothing_from_working, 120)
{
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "dead", NULL, self->dir));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	ASSERT_EQ(0, af_disk_unplug(&self->under));
	expect_both_work(_metadata, self, variant);
}

/* The journal or log aborts at the first write, which may be the freeze's. */
TEST_F_TIMEOUT(dead, disk_that_fails_all_io_keeps_nothing_from_working, 120)
{
	char table[64];

	ASSERT_EQ(0, af_dm_linear(&self->disk, "dead", &self->under));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "dead", NULL, self->dir));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	snprintf(table, sizeof(table), "0 %llu error",
		 (unsigned long long)self->disk.sectors);
	ASSERT_EQ(0, af_dm_load(&self->disk, table));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, false));
	ASSERT_EQ(0, af_dm_resume(&self->disk));
	expect_both_work(_metadata, self, variant);
}

TEST_HARNESS_MAIN
