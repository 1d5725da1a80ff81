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
#include <sys/mman.h>
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

TEST_F_TIMEOUT(bad_disk, hibernation_fails_with_its_errno_and_thaws_the_others, af_secs(90))
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

TEST_F_TIMEOUT(bad_disk, suspend_goes_on_without_it_and_warns, af_secs(90))
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

TEST_F_TIMEOUT(bad_disk, hibernation_works_again_when_the_disk_does, af_secs(90))
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

TEST_F_TIMEOUT(injected, nth_failure_fails_hibernation_and_thaws_the_others, af_secs(180))
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

TEST_F_TIMEOUT(injected, suspend_goes_on_and_warns, af_secs(90))
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
TEST_F_TIMEOUT(injected, no_errno_is_taken_for_something_else, af_secs(180))
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

TEST_F_TIMEOUT(dead, shut_down_filesystem_keeps_nothing_from_working, af_secs(120))
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

TEST_F_TIMEOUT(dead, unplugged_disk_keeps_nothing_from_working, af_secs(120))
{
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "dead", NULL, self->dir));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, make_dirty(self->dir, "dirty", 4));
	ASSERT_EQ(0, af_disk_unplug(&self->under));
	expect_both_work(_metadata, self, variant);
}

/* The journal or log aborts at the first write, which may be the freeze's. */
TEST_F_TIMEOUT(dead, disk_that_fails_all_io_keeps_nothing_from_working, af_secs(120))
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

/* --- memory that runs out --------------------------------------------------- */

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define ALLOCATIONS	400	/* at most, of a transition */

FIXTURE(no_memory) {
	struct af_disk disk, loop;
	char dir[2][128];
	dev_t dev[2];
	struct af_klog log;
	struct af_events ev;
};

FIXTURE_SETUP(no_memory)
{
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_TRACE | AF_EXT4);
	struct af_disk_opts o = { .mb = 48 };
	char file[192];

	if (!why && (access(FAILSLAB, F_OK) || access("/proc/self/fail-nth", F_OK)))
		why = "needs CONFIG_FAILSLAB and CONFIG_FAULT_INJECTION_DEBUG_FS";
	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "lower", &o));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "lower", NULL, self->dir[0]));
	snprintf(file, sizeof(file), "%s/image", self->dir[0]);
	ASSERT_EQ(0, af_file_create(file, 16 << 20));
	ASSERT_EQ(0, af_loop_attach(&self->loop, file));
	ASSERT_EQ(0, af_mkfs("ext4", self->loop.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->loop.node, "upper", NULL, self->dir[1]));
	ASSERT_EQ(0, af_mount_dev(self->dir[0], &self->dev[0]));
	ASSERT_EQ(0, af_mount_dev(self->dir[1], &self->dev[1]));
	ASSERT_EQ(0, af_set(FAILSLAB "ignore-gfp-wait", "N"));
	ASSERT_EQ(0, af_set(FAILSLAB "verbose", "0"));
	ASSERT_EQ(0, af_set("/sys/power/pm_test", "freezer"));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(no_memory)
{
	af_cleanup();
}

/* What became of the write, and whether it got as far as that allocation. */
struct starved {
	const char *state;
	unsigned int nth;
	int error;
	bool reached;
};

static struct starved *starved;

static __attribute__((constructor)) void starved_init(void)
{
	starved = mmap(NULL, sizeof(*starved), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (starved == MAP_FAILED)
		abort();
}

static int do_starved(void *arg)
{
	struct starved *s = arg;
	int state = open("/sys/power/state", O_WRONLY | O_CLOEXEC);
	int nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	char buf[16] = "";
	int len = snprintf(buf, sizeof(buf), "%u", s->nth);

	if (state < 0 || nth < 0 || write(nth, buf, len) != len)
		return 1;
	s->error = write(state, s->state, strlen(s->state)) < 0 ?
			 -errno : 0;
	if (pread(nth, buf, sizeof(buf) - 1, 0) <= 0)
		return 1;
	s->reached = !atoi(buf);
	return write(nth, "0", 1) != 1;
}

/*
 * Each allocation of the task that suspends fails once: it says so, or all is
 * frozen none the less.  And nothing is left behind.
 */
TEST_F_TIMEOUT(no_memory, at_any_step_fails_the_transition_or_makes_no_difference,
	       af_secs(400))
{
	static const char * const states[] = { "mem", "disk" };
	unsigned int i, fs, failed;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		starved->state = states[i];
		failed = 0;
		for (starved->nth = 1; starved->nth < ALLOCATIONS; starved->nth++) {
			ASSERT_EQ(0, af_events_arm());
			ASSERT_EQ(0, af_bounded(30, do_starved, starved));
			ASSERT_EQ(0, af_events_read(&self->ev, 20));
			for (fs = 0; !starved->error && fs < 2; fs++)
				EXPECT_NE(NULL, af_event_freeze(&self->ev, self->dev[fs]));
			if (starved->error) {
				EXPECT_EQ(-ENOMEM, starved->error);
				failed++;
			}
			for (fs = 0; fs < 2; fs++) {
				EXPECT_TRUE(becomes_unfrozen(self->dir[fs], 5000));
				EXPECT_EQ(0, af_writable(self->dir[fs], 10));
			}
			EXPECT_EQ(NULL, af_klog_splat(&self->log));
			if (!__test_passed(_metadata)) {
				TH_LOG("%s, allocation %u", states[i], starved->nth);
				return;
			}
			if (!starved->reached)
				break;
		}
		EXPECT_FALSE(starved->reached);
		/* the buffer of the write for one */
		EXPECT_NE(0U, failed);
		af_log("%s: %u allocations, %u fail it", states[i],
		       starved->nth - 1, failed);
	}
}

TEST_HARNESS_MAIN
