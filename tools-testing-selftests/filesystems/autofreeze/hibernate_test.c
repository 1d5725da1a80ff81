// SPDX-License-Identifier: GPL-2.0
/*
 * Whatever makes an image of memory freezes filesystems, all of them or it
 * fails: hibernation by the kernel, the snapshot device, on which userspace
 * hibernates, and the jump into another kernel by kexec that comes back.
 *
 * The task that holds the snapshot device is the one that is not frozen, so it
 * can look around in the middle of it; it must not write to any filesystem or
 * wait for another task there.
 */
#define _GNU_SOURCE
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <linux/suspend_ioctls.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "kselftest_harness.h"
#include "af_fail.h"
#include "load.h"

#define DIRTY_MB	4

/* --- the snapshot device ----------------------------------------------------- */

FIXTURE(snapshot) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
	int fd;
};

FIXTURE_VARIANT(snapshot) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(snapshot, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(snapshot, ext4) { .fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(snapshot)
{
	const char *why = af_setup(AF_NULL_BLK | AF_SNAPSHOT | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set("/sys/power/pm_test", "none"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "snap", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "snap", NULL, self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
	self->fd = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN_PARENT(snapshot)
{
	af_cleanup();
}

TEST_F_TIMEOUT(snapshot, device_freezes_and_thaws_filesystems, af_secs(60))
{
	bool frozen;

	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_FREEZE, 0));
	frozen = is_frozen(self->dir);
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_UNFREEZE, 0));
	EXPECT_TRUE(frozen);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));

	/* and again: nothing is left of the first time */
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_FREEZE, 0));
	frozen = is_frozen(self->dir);
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_UNFREEZE, 0));
	EXPECT_TRUE(frozen);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(snapshot, closing_the_device_thaws_filesystems, af_secs(60))
{
	bool frozen;

	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_FREEZE, 0));
	frozen = is_frozen(self->dir);
	close(self->fd);
	EXPECT_TRUE(frozen);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/*
 * What a task leaves behind may have to be removed from a frozen filesystem,
 * here a file without a name that was opened after the snapshot device.
 */
static int freeze_and_exit(void *dir)
{
	int snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (snap < 0 || fd < 0 || write(fd, "data", 4) != 4 || fsync(fd))
		return -errno;
	return ioctl(snap, SNAPSHOT_FREEZE, 0) ? -errno : 0;
}

TEST_F_TIMEOUT(snapshot, holder_that_exits_thaws_filesystems, af_secs(60))
{
	close(self->fd);
	EXPECT_EQ(0, af_bounded(20, freeze_and_exit, self->dir));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(snapshot, thaw_by_userspace_in_between_is_refused, af_secs(60))
{
	int thaw;
	bool frozen;

	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_FREEZE, 0));
	thaw = af_fithaw(self->dir);
	frozen = is_frozen(self->dir);
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_UNFREEZE, 0));
	EXPECT_GT(0, thaw);
	EXPECT_TRUE(frozen);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(snapshot, nothing_is_written_until_it_lets_go, af_secs(90))
{
	struct disk_io frozen, image, later;
	int in_suspend = 0, err, pid, i;

	/* whoever writes back would like to do so all the time */
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "1"));
	for (i = 0; i < 2; i++) {
		pid = af_spawn(af_writer, self->dir);
		ASSERT_LT(0, pid);
	}
	af_sleep_ms(500);
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_FREEZE, 0));
	frozen = disk_io(&self->disk);
	/* kernel threads run on until the image is made */
	af_sleep_ms(1500);
	err = ioctl(self->fd, SNAPSHOT_CREATE_IMAGE, &in_suspend) ? -errno : 0;
	image = disk_io(&self->disk);
	/* all in all longer than the interval in which a journal commits */
	af_sleep_ms(4500);
	later = disk_io(&self->disk);
	ioctl(self->fd, SNAPSHOT_FREE, 0);
	ASSERT_EQ(0, ioctl(self->fd, SNAPSHOT_UNFREEZE, 0));
	EXPECT_EQ(0, err);
	EXPECT_EQ(1, in_suspend);
	EXPECT_EQ(0, image.sectors - frozen.sectors);
	EXPECT_EQ(0, later.sectors - image.sectors);
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* --- a disk that fails, below a filesystem without a journal to abort -------- */

FIXTURE(bad) {
	struct af_disk under, disk, other;
	char dir[128], other_dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(bad)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_EXT4);
	char table[64];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->under, "under", NULL));
	ASSERT_EQ(0, af_dm_linear(&self->disk, "bad", &self->under));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, "-O ^has_journal"));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "bad", "nobarrier", self->dir));
	ASSERT_EQ(0, af_disk_create(&self->other, "other", NULL));
	ASSERT_EQ(0, af_mkfs("ext4", self->other.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->other.node, "other", NULL, self->other_dir));
	ASSERT_EQ(0, af_writable(self->dir, 10));
	sync();
	snprintf(table, sizeof(table), "0 %llu error",
		 (unsigned long long)self->disk.sectors);
	ASSERT_EQ(0, af_dm_load(&self->disk, table));
	ASSERT_EQ(0, af_dm_suspend(&self->disk, false, true));
	ASSERT_EQ(0, af_dm_resume(&self->disk));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(bad)
{
	af_cleanup();
}

TEST_F_TIMEOUT(bad, snapshot_device_fails_with_the_errno_and_thaws_the_others, af_secs(60))
{
	int fd, err;

	if (access("/dev/snapshot", W_OK))
		SKIP(return, "needs CONFIG_HIBERNATION_SNAPSHOT_DEV");
	fd = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	err = ioctl(fd, SNAPSHOT_FREEZE, 0) ? -errno : 0;
	if (!err)
		ioctl(fd, SNAPSHOT_UNFREEZE, 0);
	EXPECT_EQ(-EIO, err);
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &self->disk));
	/* all tasks run again, without an ioctl that says so */
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	close(fd);
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* --- kexec and back ---------------------------------------------------------- */

/*
 * Load an "image" of one instruction that returns to this kernel.  The page is
 * exchanged with what is at that address and back again, so any RAM will do.
 */
static int load_return(void)
{
#ifdef __x86_64__
	static const unsigned char ret[] = { 0xc3 };
	struct kexec_segment seg = {
		.buf = ret, .bufsz = sizeof(ret),
		.mem = (void *)0x400000, .memsz = 4096,
	};

	if (syscall(__NR_kexec_load, (unsigned long)seg.mem, 1UL, &seg,
		    (unsigned long)KEXEC_PRESERVE_CONTEXT))
		return -errno;
	return 0;
#else
	return -EOPNOTSUPP;
#endif
}

static void unload(void)
{
#ifdef __NR_kexec_load
	syscall(__NR_kexec_load, 0UL, 0UL, NULL, 0UL);
#endif
}

static int jump(void *unused)
{
	/* reboot(2) with KEXEC, if it returns at all */
	if (syscall(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
		    LINUX_REBOOT_CMD_KEXEC, NULL) < 0)
		return -errno;
	return 0;
}

FIXTURE(kexec) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_VARIANT(kexec) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(kexec, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(kexec, ext4) { .fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(kexec)
{
	const char *why = af_setup(AF_NULL_BLK | variant->needs);
	int ret;

	if (why)
		SKIP(return, "%s", why);
	ret = load_return();
	if (ret)
		SKIP(return, "needs CONFIG_KEXEC_JUMP on x86-64: %s", strerror(-ret));
	ASSERT_EQ(0, af_disk_create(&self->disk, "kexec", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "kexec", NULL, self->dir));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(kexec)
{
	unload();
	af_cleanup();
}

/* Nothing but a freeze writes back dirty data here: there is no sync before. */
TEST_F_TIMEOUT(kexec, jump_freezes_and_thaws_filesystems, af_secs(90))
{
	struct disk_io before, after;
	const char *splat;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, make_dirty(self->dir, i ? "two" : "one", DIRTY_MB));
		before = disk_io(&self->disk);
		ASSERT_EQ(0, af_bounded(30, jump, NULL));
		after = disk_io(&self->disk);
		EXPECT_LE(DIRTY_MB << 11, after.sectors - before.sectors);
		EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
		EXPECT_EQ(0, af_writable(self->dir, 10));
	}
	splat = af_klog_splat(&self->log);
	/*
	 * kexec does not set SYSTEM_SUSPEND as hibernation does, so debug kernels
	 * complain of ACPI in syscore_resume().
	 */
	if (!splat || !strstr(splat, "sleeping function called from invalid context"))
		EXPECT_EQ(NULL, splat);
}

TEST_F_TIMEOUT(bad, kexec_jump_fails_and_thaws_the_others, af_secs(60))
{
	int ret = load_return();

	if (ret)
		SKIP(return, "needs CONFIG_KEXEC_JUMP on x86-64: %s", strerror(-ret));
	ret = af_bounded(30, jump, NULL);
	unload();
	EXPECT_GT(0, ret);
	EXPECT_NE(-ETIMEDOUT, ret);
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &self->disk));
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* --- hibernation, with the image written and read back ----------------------- */

#define WRITERS		4

FIXTURE(resumed) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
	struct load *load;
};

FIXTURE_VARIANT(resumed) {
	const char *fs;
	unsigned int needs;
	const char *serial;
};

FIXTURE_VARIANT_ADD(resumed, xfs) {
	.fs = "xfs", .needs = AF_XFS, .serial = "scratch-xfs",
};

FIXTURE_VARIANT_ADD(resumed, ext4) {
	.fs = "ext4", .needs = AF_EXT4, .serial = "scratch-ext4",
};

/*
 * A null_blk disk is memory, so it is put back together with the rest when the
 * image is restored.  A virtual disk of that serial number, when there is one,
 * keeps what was written after the image was made.
 */
static bool find_scratch(const char *serial, struct af_disk *d)
{
	char path[128], buf[64];
	unsigned int ma, mi;
	char c;

	for (c = 'a'; c <= 'z'; c++) {
		snprintf(path, sizeof(path), "/sys/block/vd%c/serial", c);
		if (af_read(path, buf, sizeof(buf)) || strcmp(buf, serial))
			continue;
		memset(d, 0, sizeof(*d));
		snprintf(d->name, sizeof(d->name), "vd%c", c);
		snprintf(d->node, sizeof(d->node), "/dev/vd%c", c);
		snprintf(path, sizeof(path), "/sys/block/vd%c/size", c);
		d->sectors = af_read_long(path);
		snprintf(path, sizeof(path), "/sys/block/vd%c/dev", c);
		if (af_read(path, buf, sizeof(buf)) ||
		    sscanf(buf, "%u:%u", &ma, &mi) != 2)
			return false;
		d->dev = makedev(ma, mi);
		return true;
	}
	return false;
}

FIXTURE_SETUP(resumed)
{
	static const enum load_kind kinds[WRITERS] = {
		LOAD_BUFFERED, LOAD_FSYNC, LOAD_DIRECT, LOAD_MMAP,
	};
	const char *why = af_setup(AF_NULL_BLK | AF_HIBERNATE | variant->needs);
	int i;

	if (why)
		SKIP(return, "%s", why);
	if (!find_scratch(variant->serial, &self->disk))
		ASSERT_EQ(0, af_disk_create(&self->disk, "resumed", NULL));
	af_log("on %s", self->disk.node);
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "resumed", NULL, self->dir));
	self->load = load_alloc(WRITERS);
	for (i = 0; i < WRITERS; i++)
		ASSERT_EQ(0, load_start(&self->load[i], kinds[i], i, self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(resumed)
{
	af_cleanup();
}

TEST_F_TIMEOUT(resumed, writers_and_open_files_go_on, af_secs(240))
{
	struct af_cycle c = { .state = "disk", .test = "none", .deadline = 120 };
	unsigned long progress[WRITERS];
	char path[256], buf[64];
	int fd, i, round;

	/* an open file without a name, and one written but never synced */
	snprintf(path, sizeof(path), "%s/nameless", self->dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, unlink(path));
	ASSERT_EQ(8, pwrite(fd, "nameless", 8, 0));

	ASSERT_EQ(0, af_write("/sys/power/disk", "test_resume"));
	for (round = 0; round < 2; round++) {
		af_sleep_ms(500);
		ASSERT_EQ(0, af_cycle(&c));
		af_log("hibernated and resumed in %ld ms", c.ms);
		EXPECT_NE(NULL, af_klog_find(&self->log, "Freezing filesystems completed"));
		EXPECT_EQ(8, pread(fd, buf, 8, 0));
		EXPECT_EQ(0, memcmp(buf, "nameless", 8));
		EXPECT_EQ(8, pwrite(fd, "nameless", 8, 4096));
		for (i = 0; i < WRITERS; i++)
			progress[i] = load_progress(&self->load[i]);
		af_sleep_ms(1000);
		for (i = 0; i < WRITERS; i++) {
			EXPECT_LT(progress[i], load_progress(&self->load[i]))
				TH_LOG("writer %d stands still", i);
			EXPECT_EQ(0, self->load[i].error);
		}
	}
	for (i = 0; i < WRITERS; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	close(fd);
	for (i = 0; i < WRITERS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
	/* what the disk has is what memory had */
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "resumed", NULL, self->dir));
	for (i = 0; i < WRITERS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
