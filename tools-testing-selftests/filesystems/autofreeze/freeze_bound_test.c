// SPDX-License-Identifier: GPL-2.0
/*
 * Freezing filesystems is bounded.  When a freeze makes no progress for
 * pm_freeze_timeout it is broken off: suspend to RAM goes on without that
 * filesystem and says so, hibernation fails.  A wakeup event ends it at once.
 * Slow progress is progress.  Whatever happens, nothing stays half-frozen: all
 * other filesystems can be used right after, and the stuck one as soon as its
 * disk works again.
 *
 * A disk that never answers is a dm device suspended without freezing what is
 * on it and without waiting for I/O: it queues everything until it is resumed.
 * On a kernel without the bound the transition hangs until then.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define FREEZE_TIMEOUT_MS	1000
/* Slow machines thaw, print and schedule slowly; still far below a hang. */
#define SLACK_MS		4000
/* A wakeup has to end the freeze within 100 ms; the rest is for the thaw. */
#define WAKEUP_SLACK_MS		1000

FIXTURE(stuck) {
	struct af_disk under, disk, other;
	char dir[128], other_dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(stuck) {
	const char *fs;
	unsigned int needs;
	const char *opts;
};

FIXTURE_VARIANT_ADD(stuck, xfs) { .fs = "xfs", .needs = AF_XFS };
/* without barriers, syncing a clean filesystem sends nothing to its disk */
FIXTURE_VARIANT_ADD(stuck, ext4) {
	.fs = "ext4", .needs = AF_EXT4, .opts = "nobarrier",
};

FIXTURE_SETUP(stuck)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", FREEZE_TIMEOUT_MS));
	/* one to be frozen before the stuck one, so that it has to be thawed */
	ASSERT_EQ(0, af_disk_create(&self->under, "stuck", NULL));
	ASSERT_EQ(0, af_dm_linear(&self->disk, "stuck", &self->under));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "stuck",
			      variant->opts, self->dir));
	ASSERT_EQ(0, af_disk_create(&self->other, "other", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->other.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->other.node, "other", NULL,
			      self->other_dir));
	ASSERT_EQ(0, af_writable(self->dir, 10));
	/* so clean that the sync before a hibernation has nothing to write */
	ASSERT_EQ(0, af_fifreeze(self->dir));
	ASSERT_EQ(0, af_fithaw(self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(stuck)
{
	af_cleanup();
}

/* After a transition that was broken off, and with the disk still stuck. */
static void expect_usable(struct __test_metadata *_metadata,
			  FIXTURE_DATA(stuck) * self)
{
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* Once the disk works again, so does all the rest, as often as one likes. */
static void expect_recovery(struct __test_metadata *_metadata,
			    FIXTURE_DATA(stuck) * self,
			    const FIXTURE_VARIANT(stuck) * variant)
{
	struct af_cycle c = { .state = "disk" };

	ASSERT_EQ(0, af_dm_resume(&self->disk));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 10000));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(0, af_cycle(&c));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	EXPECT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck(variant->fs, self->disk.node, NULL));
}

TEST_F_TIMEOUT(stuck, write_back_that_never_ends_does_not_hold_up_suspend, af_secs(120))
{
	struct af_cycle c = { .deadline = 20 };
	int i;

	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, false));
	/* the second time finds the first freeze still waiting for the disk */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, af_cycle(&c))
			TH_LOG("cycle %d", i);
		af_log("suspend took %ld ms", c.ms);
		EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
		EXPECT_TRUE(freeze_failure_named(&self->log, variant->fs, &self->disk));
		expect_usable(_metadata, self);
		af_klog_end(&self->log);
		ASSERT_EQ(0, af_klog_mark(&self->log));
	}
	expect_recovery(_metadata, self, variant);
}

TEST_F_TIMEOUT(stuck, freeze_fs_that_never_ends_fails_hibernation_in_time, af_secs(120))
{
	struct af_cycle c = { .state = "disk", .deadline = 20 };
	struct af_cycle again = { .deadline = 20 };
	long long begin;
	int ret;

	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, false));
	begin = af_now_ms();
	ret = af_cycle(&c);
	af_log("hibernation took %ld ms and returned %d", c.ms, ret);
	ASSERT_LT(af_now_ms() - begin, 20000)
		TH_LOG("hangs");
	EXPECT_NE(0, ret);
	EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
	EXPECT_TRUE(freeze_failure_named(&self->log, variant->fs, &self->disk));
	expect_usable(_metadata, self);
	/*
	 * The second time finds the first freeze still waiting for the disk.
	 * Not by hibernation: that begins with sync(2), which waits as well.
	 */
	ASSERT_EQ(0, af_cycle(&again));
	af_log("suspend took %ld ms", again.ms);
	EXPECT_LT(again.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
	expect_usable(_metadata, self);
	expect_recovery(_metadata, self, variant);
}

TEST_F_TIMEOUT(stuck, wakeup_ends_a_stuck_write_back_at_once, af_secs(120))
{
	struct af_cycle c = { .deadline = 20 };
	long long late;
	struct wakeup w = { 0 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, false));
	ASSERT_EQ(0, wakeup_arm(&w, 1000));
	EXPECT_EQ(-EBUSY, af_cycle(&c));
	late = af_now_ms() - w.at_ms;
	wakeup_end(&w);
	af_log("returned %lld ms after the event", late);
	ASSERT_LE(0, late)
		TH_LOG("it did not wait for the stuck filesystem at all");
	ASSERT_GT(WAKEUP_SLACK_MS, late);
	expect_usable(_metadata, self);
	expect_recovery(_metadata, self, variant);
}

TEST_F_TIMEOUT(stuck, wakeup_ends_a_stuck_freeze_fs_at_once, af_secs(120))
{
	struct af_cycle c = { .state = "disk", .deadline = 20 };
	long long late;
	struct wakeup w = { 0 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, false));
	ASSERT_EQ(0, wakeup_arm(&w, 1000));
	EXPECT_GT(0, af_cycle(&c));
	late = af_now_ms() - w.at_ms;
	wakeup_end(&w);
	af_log("returned %lld ms after the event", late);
	ASSERT_LE(0, late)
		TH_LOG("it did not wait for the stuck filesystem at all");
	ASSERT_GT(WAKEUP_SLACK_MS, late);
	expect_usable(_metadata, self);
	expect_recovery(_metadata, self, variant);
}

/* --- slow is not stuck ------------------------------------------------------- */

#define SLOW_MBPS	12
#define SLOW_DIRTY_MB	36	/* 3 s of it */

FIXTURE(slow) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(slow) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(slow, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(slow, ext4) { .fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(slow)
{
	const struct af_disk_opts opts = { .mbps = SLOW_MBPS };
	const char *why = af_setup(AF_NULL_BLK | variant->needs);
	char path[128];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_disk_create(&self->disk, "slow", &opts));
	/* null_blk never starts a request larger than what one tick allows */
	snprintf(path, sizeof(path), "/sys/block/%s/queue/max_sectors_kb",
		 self->disk.name);
	ASSERT_EQ(0, af_write(path, "64"));
	snprintf(path, sizeof(path), "/sys/block/%s/queue/discard_max_bytes",
		 self->disk.name);
	ASSERT_EQ(0, af_write(path, "0"));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "slow", NULL, self->dir));
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", SLOW_DIRTY_MB));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(slow)
{
	af_cleanup();
}

TEST_F_TIMEOUT(slow, write_back_longer_than_the_timeout_is_no_failure, af_secs(120))
{
	struct af_cycle c = { .deadline = 60 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", FREEZE_TIMEOUT_MS));
	EXPECT_EQ(0, af_cycle(&c));
	af_log("suspend took %ld ms", c.ms);
	/* else everything was clean in time and nothing has been shown */
	EXPECT_LT(FREEZE_TIMEOUT_MS, c.ms);
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

TEST_F_TIMEOUT(slow, wakeup_ends_a_long_write_back_at_once, af_secs(120))
{
	struct af_cycle c = { .deadline = 60 };
	struct disk_io before, after;
	long long late;
	struct wakeup w = { 0 };

	before = disk_io(&self->disk);
	ASSERT_EQ(0, wakeup_arm(&w, 1000));
	EXPECT_EQ(-EBUSY, af_cycle(&c));
	late = af_now_ms() - w.at_ms;
	wakeup_end(&w);
	after = disk_io(&self->disk);
	af_log("returned %lld ms after the event, %llu MB written",
	       late, (after.sectors - before.sectors) >> 11);
	ASSERT_LE(0, late);
	EXPECT_GT(WAKEUP_SLACK_MS, late);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	/* not with fsync: that waits for all the rest */
	EXPECT_EQ(0, make_dirty(self->dir, "more", 1));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* --- a filesystem on a file of a filesystem that is mounted later ------------ */

FIXTURE(inverted) {
	struct af_disk low, first, loop, top;
	char low_dir[128], top_dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(inverted) {
	const char *low_fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(inverted, ext4_on_xfs) { .low_fs = "xfs", .needs = AF_EXT4 | AF_XFS };
FIXTURE_VARIANT_ADD(inverted, ext4_on_ext4) { .low_fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(inverted)
{
	const struct af_disk_opts small = { .mb = 32 };
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_LOOP | variant->needs);
	char file[160], table[128];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", FREEZE_TIMEOUT_MS));

	ASSERT_EQ(0, af_disk_create(&self->low, "low", NULL));
	ASSERT_EQ(0, af_disk_create(&self->first, "first", &small));
	ASSERT_EQ(0, af_dm_linear(&self->top, "top", &self->first));
	ASSERT_EQ(0, af_mkfs("ext4", self->top.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->top.node, "top", NULL, self->top_dir));

	ASSERT_EQ(0, af_mkfs(variant->low_fs, self->low.node, NULL));
	ASSERT_EQ(0, af_mount(variant->low_fs, self->low.node, "low", NULL,
			      self->low_dir));
	/* move the upper one to a file on the lower one while it is frozen */
	ASSERT_EQ(0, af_dm_suspend(&self->top, true, true));
	snprintf(file, sizeof(file), "%s/image", self->low_dir);
	ASSERT_EQ(0, af_run(60, "dd if=%s of=%s bs=1M conv=fsync",
			    self->first.node, file));
	ASSERT_EQ(0, af_loop_attach(&self->loop, file));
	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
		 (unsigned long long)self->top.sectors, major(self->loop.dev),
		 minor(self->loop.dev));
	ASSERT_EQ(0, af_dm_load(&self->top, table));
	ASSERT_EQ(0, af_dm_resume(&self->top));
	ASSERT_EQ(0, af_writable(self->top_dir, 10));
	ASSERT_EQ(0, make_dirty(self->top_dir, "dirty", 2));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

/* What was made last stands below here, too. */
FIXTURE_TEARDOWN_PARENT(inverted)
{
	if (!af_umount(self->top_dir))
		af_dm_remove(&self->top);
	af_cleanup();
}

/*
 * The lower filesystem freezes first, since it is younger, and then the upper
 * one cannot write.  Without the order of what stands on what, the best that
 * can happen is an end to it.
 */
TEST_F_TIMEOUT(inverted, suspend_returns_and_both_can_be_used, af_secs(120))
{
	struct af_cycle c = { .deadline = 20 };
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, af_cycle(&c));
		af_log("suspend took %ld ms", c.ms);
		EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
		EXPECT_TRUE(becomes_unfrozen(self->low_dir, 10000));
		EXPECT_TRUE(becomes_unfrozen(self->top_dir, 10000));
		EXPECT_EQ(0, af_writable(self->low_dir, 10));
		EXPECT_EQ(0, af_writable(self->top_dir, 10));
		EXPECT_EQ(NULL, af_klog_splat(&self->log));
		EXPECT_EQ(0, make_dirty(self->top_dir, "dirty", 2));
	}
}

TEST_F_TIMEOUT(inverted, hibernation_returns_and_both_can_be_used, af_secs(120))
{
	struct af_cycle c = { .state = "disk", .deadline = 20 };
	long long begin;
	int i;

	for (i = 0; i < 2; i++) {
		begin = af_now_ms();
		af_cycle(&c);
		ASSERT_LT(af_now_ms() - begin, af_secs(20) * 1000);
		af_log("hibernation took %ld ms and returned %d", c.ms, c.error);
		/* if it works, memory for the image takes time as well */
		if (c.error)
			EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
		EXPECT_TRUE(becomes_unfrozen(self->low_dir, 10000));
		EXPECT_TRUE(becomes_unfrozen(self->top_dir, 10000));
		EXPECT_EQ(0, af_writable(self->low_dir, 10));
		EXPECT_EQ(0, af_writable(self->top_dir, 10));
		EXPECT_EQ(NULL, af_klog_splat(&self->log));
		EXPECT_EQ(0, make_dirty(self->top_dir, "dirty", 2));
	}
}

TEST_HARNESS_MAIN
