// SPDX-License-Identifier: GPL-2.0
/*
 * Filesystems thaw after user tasks run again, and nobody waits for it.  The
 * thaw of ext4 writes its superblock, and after a resume its disk may need a
 * minute to spin up, or a task in userspace to be found again.  The next
 * transition does wait for an unfinished thaw, but no longer than for anything
 * else.
 */
#define _GNU_SOURCE
#include <linux/suspend_ioctls.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define DELAY_MS		1500
#define FREEZE_TIMEOUT_MS	1000
#define SLACK_MS		4000

/* A task that notes when it was last kept from running for long. */
struct ticker {
	long long gap_end_ms;
	long long gap_ms;
	long long last_ms;
};

static int tick(void *arg)
{
	struct ticker *t = arg;
	long long now;

	for (;;) {
		now = af_now_ms();
		if (t->last_ms && now - t->last_ms > DELAY_MS / 3) {
			set(t->gap_ms, now - t->last_ms);
			set(t->gap_end_ms, now);
		}
		set(t->last_ms, now);
		af_sleep_ms(5);
	}
	return 0;
}

FIXTURE(thaw) {
	struct af_disk under, disk, other;
	char dir[128], other_dir[128];
	struct af_klog log;
	struct ticker *ticker;
};

FIXTURE_SETUP(thaw)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_EXT4 | AF_SNAPSHOT);

	if (why)
		SKIP(return, "%s", why);
	self->ticker = mmap(NULL, sizeof(*self->ticker), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->ticker);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_disk_create(&self->under, "slow", NULL));
	ASSERT_EQ(0, af_dm_linear(&self->disk, "slow", &self->under));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "slow", "nobarrier", self->dir));
	ASSERT_EQ(0, af_disk_create(&self->other, "other", NULL));
	ASSERT_EQ(0, af_mkfs("ext4", self->other.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->other.node, "other", NULL, self->other_dir));
	ASSERT_EQ(0, af_writable(self->dir, 10));
	sync();
	ASSERT_LT(0, af_spawn(tick, self->ticker));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(thaw)
{
	af_cleanup();
}

/* A write takes DELAY_MS, so freezing takes that long, and thawing again. */
TEST_F_TIMEOUT(thaw, resume_does_not_wait_for_a_slow_disk, af_secs(120))
{
	/* two seconds with all tasks frozen, for the ticker to see */
	struct af_cycle c = { .deadline = 60, .delay = 2 };
	char table[256], dev[32];
	long long begin, end;
	int i;

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	snprintf(dev, sizeof(dev), "%u:%u 0", major(self->under.dev),
		 minor(self->under.dev));
	snprintf(table, sizeof(table), "0 %llu delay %s 0 %s %d %s 0",
		 (unsigned long long)self->disk.sectors, dev, dev, DELAY_MS, dev);
	ASSERT_EQ(0, af_dm_load(&self->disk, table));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, true));
	ASSERT_EQ(0, af_dm_resume(&self->disk));

	begin = af_now_ms();
	ASSERT_EQ(0, af_cycle(&c));
	end = begin + c.ms;
	/* it may be the last of all to run again */
	for (i = 0; i < 250 && !get(self->ticker->gap_ms); i++)
		af_sleep_ms(20);
	af_log("suspend took %ld ms, tasks stood still for %lld ms, and ran %lld ms before its end",
	       c.ms, get(self->ticker->gap_ms),
	       end - get(self->ticker->gap_end_ms));
	ASSERT_LT(0, get(self->ticker->gap_ms));
	EXPECT_LT(end - get(self->ticker->gap_end_ms), DELAY_MS / 2);
	/* what follows at once has to wait for the thaw, and then to freeze anew */
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	snprintf(table, sizeof(table), "0 %llu linear %s",
		 (unsigned long long)self->disk.sectors, dev);
	ASSERT_EQ(0, af_dm_load(&self->disk, table));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, true));
	ASSERT_EQ(0, af_dm_resume(&self->disk));
	EXPECT_EQ(0, af_writable(self->dir, 60));
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/*
 * The snapshot device lets its holder stop the disk in the middle, so that the
 * thaw finds a disk that does not answer at all.
 */
static void thaw_into_a_stopped_disk(struct __test_metadata *_metadata,
				     FIXTURE_DATA(thaw) * self)
{
	long long begin;
	bool frozen;
	int fd, ret;

	ASSERT_EQ(0, af_set("/sys/power/pm_test", "none"));
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u",
			    FREEZE_TIMEOUT_MS));
	fd = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, SNAPSHOT_FREEZE, 0));
	frozen = is_frozen(self->dir);
	ret = af_dm_suspend(&self->disk, false, false);
	begin = af_now_ms();
	ASSERT_EQ(0, ioctl(fd, SNAPSHOT_UNFREEZE, 0));
	EXPECT_GT(1000, af_now_ms() - begin);
	close(fd);
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(frozen);
}

TEST_F_TIMEOUT(thaw, dead_disk_holds_up_neither_tasks_nor_other_filesystems, af_secs(120))
{
	long long ticked;

	thaw_into_a_stopped_disk(_metadata, self);
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	ticked = get(self->ticker->last_ms);
	af_sleep_ms(200);
	EXPECT_LT(ticked, get(self->ticker->last_ms));

	ASSERT_EQ(0, af_dm_resume(&self->disk));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(thaw, next_suspend_is_not_held_up_by_one_that_never_ends, af_secs(120))
{
	struct af_cycle c = { .deadline = 20 };

	thaw_into_a_stopped_disk(_metadata, self);
	ASSERT_EQ(0, af_cycle(&c));
	af_log("suspend took %ld ms", c.ms);
	EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));

	ASSERT_EQ(0, af_dm_resume(&self->disk));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(thaw, next_hibernation_fails_in_time_behind_one_that_never_ends, af_secs(120))
{
	struct af_cycle c = { .state = "disk", .deadline = 20 };
	long long begin;

	thaw_into_a_stopped_disk(_metadata, self);
	begin = af_now_ms();
	EXPECT_NE(0, af_cycle(&c));
	ASSERT_GT(20000, af_now_ms() - begin)
		TH_LOG("hangs");
	af_log("hibernation took %ld ms and returned %d", c.ms, c.error);
	EXPECT_LT(c.ms, FREEZE_TIMEOUT_MS + SLACK_MS);
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));

	ASSERT_EQ(0, af_dm_resume(&self->disk));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
