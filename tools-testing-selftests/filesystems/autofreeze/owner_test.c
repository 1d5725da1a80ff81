// SPDX-License-Identifier: GPL-2.0
/*
 * A freeze belongs to who made it.  What userspace or device mapper froze is
 * frozen after a suspend as it was before, without a warning, and one thaw ends
 * it.  What the kernel froze for a suspend cannot be thawed by userspace.
 *
 * The one task that runs while everything is frozen is the one that hibernates
 * through /dev/snapshot, so that one tries.
 */
#define _GNU_SOURCE
#include <linux/suspend_ioctls.h>
#include <sys/ioctl.h>

#include "kselftest_harness.h"
#include "af_fail.h"

FIXTURE(owner) {
	struct af_disk disk;
	struct af_disk dm;
	char dir[128];
	char other[128];
	struct af_klog log;
	/* what the snapshot task saw */
	bool frozen, still, sysrq, nested;
	int thaw, nests;
};

FIXTURE_VARIANT(owner) {
	unsigned int needs;
	const char *fs;
};

FIXTURE_VARIANT_ADD(owner, xfs) {
	.needs = AF_XFS, .fs = "xfs",
};

FIXTURE_VARIANT_ADD(owner, ext4) {
	.needs = AF_EXT4, .fs = "ext4",
};

FIXTURE_SETUP(owner)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afowner", NULL));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "afowner-dm", &self->disk));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->dm.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->dm.node, "mnt", NULL,
			      self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(owner)
{
	EXPECT_EQ(0, af_cleanup());
}

/* Is it frozen?  A writer says so: it must wait, and go on with the thaw. */
static pid_t start_blocked_writer(struct __test_metadata *_metadata, char *dir)
{
	pid_t pid = af_spawn(af_writer, dir);

	EXPECT_GT(pid, 0);
	af_sleep_ms(700);
	EXPECT_EQ('D', af_task_state(pid));
	return pid;
}

static void suspend_and_check(struct __test_metadata *_metadata,
			      FIXTURE_DATA(owner) *self, const char *knob)
{
	const char *splat;

	ASSERT_EQ(0, af_set(AF_KNOB, "%s", knob));
	ASSERT_EQ(0, af_suspend(0));
	splat = af_klog_splat(&self->log);
	EXPECT_EQ(NULL, splat) {
		TH_LOG("knob %s: %s", knob, splat);
	}
}

TEST_F_TIMEOUT(owner, userspace_freeze_survives_suspend, af_secs(90))
{
	pid_t pid;

	ASSERT_EQ(0, af_fifreeze(self->dir));
	/* with the knob at 0 a kernel may never have frozen it itself */
	suspend_and_check(_metadata, self, "0");
	suspend_and_check(_metadata, self, "1");
	suspend_and_check(_metadata, self, "0");

	pid = start_blocked_writer(_metadata, self->dir);
	EXPECT_EQ(-EBUSY, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EINVAL, af_fithaw(self->dir));
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

/* A writer that waits for the userspace freeze is frozen with it, and thawed. */
TEST_F_TIMEOUT(owner, suspend_succeeds_with_writers_waiting_for_userspace, af_secs(90))
{
	pid_t pid;

	ASSERT_EQ(0, af_fifreeze(self->dir));
	pid = start_blocked_writer(_metadata, self->dir);
	suspend_and_check(_metadata, self, "0");
	suspend_and_check(_metadata, self, "1");
	EXPECT_EQ('D', af_task_state(pid));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

TEST_F_TIMEOUT(owner, device_mapper_freeze_survives_suspend, af_secs(90))
{
	pid_t pid;

	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	suspend_and_check(_metadata, self, "0");
	suspend_and_check(_metadata, self, "1");
	pid = start_blocked_writer(_metadata, self->dir);
	EXPECT_EQ(0, af_dm_resume(&self->dm));
	af_sleep_ms(300);
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

/* Both at once: the filesystem is frozen until the last of them lets go. */
TEST_F_TIMEOUT(owner, freezes_of_userspace_and_device_mapper_nest, af_secs(90))
{
	pid_t pid;

	ASSERT_EQ(0, af_fifreeze(self->dir));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	suspend_and_check(_metadata, self, "0");
	suspend_and_check(_metadata, self, "1");
	pid = start_blocked_writer(_metadata, self->dir);
	EXPECT_EQ(0, af_dm_resume(&self->dm));
	af_sleep_ms(300);
	EXPECT_EQ('D', af_task_state(pid));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

TEST_F_TIMEOUT(owner, suspend_thaws_what_it_froze_and_nothing_else, af_secs(90))
{
	struct af_disk disk;
	pid_t pid;

	ASSERT_EQ(0, af_disk_create(&disk, "afother", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, disk.node, "other", NULL,
			      self->other));
	ASSERT_EQ(0, af_fifreeze(self->other));
	suspend_and_check(_metadata, self, "1");
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(-EINVAL, af_fithaw(self->dir));
	pid = start_blocked_writer(_metadata, self->other);
	EXPECT_EQ(0, af_fithaw(self->other));
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
}

static int thaw_from_inside(void *arg)
{
	FIXTURE_DATA(owner) *self = arg;
	int snap, sysrq;

	sysrq = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	if (snap < 0 || ioctl(snap, SNAPSHOT_FREEZE, 0))
		return -errno;
	self->frozen = is_frozen(self->dir);
	self->thaw = af_fithaw(self->dir);
	self->still = is_frozen(self->dir);
	/* "Emergency Thaw" */
	if (sysrq >= 0 && write(sysrq, "j", 1) == 1)
		af_sleep_ms(500);
	self->sysrq = is_frozen(self->dir);
	/* its own freeze comes on top, and goes */
	self->nests = af_fifreeze(self->dir) ?: af_fithaw(self->dir);
	self->nested = is_frozen(self->dir);
	if (ioctl(snap, SNAPSHOT_UNFREEZE, 0))
		return -errno;
	close(snap);
	return 0;
}

TEST_F_TIMEOUT(owner, userspace_cannot_thaw_the_kernels_freeze, af_secs(90))
{
	if (access("/dev/snapshot", W_OK))
		SKIP(return, "needs CONFIG_HIBERNATION_SNAPSHOT_DEV");
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));

	ASSERT_EQ(0, af_bounded(40, thaw_from_inside, self));
	EXPECT_TRUE(self->frozen);
	EXPECT_EQ(-EINVAL, self->thaw);
	EXPECT_TRUE(self->still);
	EXPECT_TRUE(self->sysrq);
	EXPECT_EQ(0, self->nests);
	EXPECT_TRUE(self->nested);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
