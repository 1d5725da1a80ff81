// SPDX-License-Identifier: GPL-2.0
/*
 * Read-only filesystems and freezing.
 *
 * A read-only mount has nothing to freeze: it is no obstacle to a suspend, and
 * afterwards it can be made writable and written to.
 *
 * A filesystem that turns read-only by itself while the kernel has it frozen,
 * because it found an error, must let go of its writers at the thaw: they are to
 * get EROFS, not to wait for ever.  ext2 is such a filesystem: with
 * errors=remount-ro, reading a damaged directory makes it read-only, and the task
 * that hibernates through /dev/snapshot can read it meanwhile.  (Frozen by
 * userspace: see freeze_undo_test.)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <linux/suspend_ioctls.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "af_fail.h"

FIXTURE(readonly) {
	struct af_disk disk;
	char dir[128];
};

FIXTURE_VARIANT(readonly) {
	unsigned int needs;
	const char *fs;
};

FIXTURE_VARIANT_ADD(readonly, xfs) {
	.needs = AF_XFS, .fs = "xfs",
};

FIXTURE_VARIANT_ADD(readonly, ext4) {
	.needs = AF_EXT4, .fs = "ext4",
};

FIXTURE_SETUP(readonly)
{
	const char *why = af_setup(AF_NULL_BLK | AF_TRACE | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "afro", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "mnt", "ro",
			      self->dir));
}

FIXTURE_TEARDOWN_PARENT(readonly)
{
	EXPECT_EQ(0, af_cleanup());
}

TEST_F_TIMEOUT(readonly, read_only_mount_suspends_and_becomes_writable_after, af_secs(60))
{
	struct af_window w;
	struct af_klog k;
	unsigned int i;

	ASSERT_EQ(0, af_klog_mark(&k));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, af_trace_arm(&self->disk, 1));
		ASSERT_EQ(0, af_suspend(0));
		ASSERT_EQ(0, af_trace_window(&self->disk, &w));
		EXPECT_TRUE(w.seen);
		EXPECT_EQ(0, w.writes);
		/* not frozen any more: a thaw has nothing to thaw */
		EXPECT_EQ(-EINVAL, af_fithaw(self->dir));
		EXPECT_EQ(-EROFS, af_writable(self->dir, 10));
	}
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	ASSERT_EQ(0, mount(self->disk.node, self->dir, NULL, MS_REMOUNT, NULL));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	ASSERT_EQ(0, mount(self->disk.node, self->dir, NULL,
			   MS_REMOUNT | MS_RDONLY, NULL));
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(NULL, af_klog_splat(&k));
	EXPECT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck(variant->fs, self->disk.node, NULL));
}

/* What userspace froze read-only stays so, and thaws. */
TEST_F_TIMEOUT(readonly, userspace_freeze_of_read_only_mount_survives_suspend, af_secs(60))
{
	struct af_klog k;

	ASSERT_EQ(0, af_klog_mark(&k));
	ASSERT_EQ(0, af_fifreeze(self->dir));
	ASSERT_EQ(0, af_set(AF_KNOB, "0"));
	ASSERT_EQ(0, af_suspend(0));
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(-EBUSY, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EINVAL, af_fithaw(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&k));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	ASSERT_EQ(0, mount(self->disk.node, self->dir, NULL, MS_REMOUNT, NULL));
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

FIXTURE(turns_readonly) {
	struct af_disk disk;
	char dir[128];
	char damaged[160];
	int error;
};

/*
 * Damage the directory "damaged": its block starts with the entry "." and has
 * the name of its only file further on.
 */
static int damage(const char *node, const char *marker)
{
	static char buf[4096];
	int fd, ret = -ENOENT;
	off_t at;

	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (at = 0; pread(fd, buf, sizeof(buf), at) == sizeof(buf);
	     at += sizeof(buf)) {
		if (!memmem(buf, sizeof(buf), marker, strlen(marker)) ||
		    buf[6] != 1 || buf[8] != '.')
			continue;
		memset(buf + 4, 0, 2);		/* rec_len of "." */
		ret = pwrite(fd, buf, sizeof(buf), at) == sizeof(buf) &&
		      !fsync(fd) ? 0 : -errno;
		break;
	}
	close(fd);
	return ret;
}

FIXTURE_SETUP(turns_readonly)
{
	struct af_disk_opts o = { .mb = 32 };
	const char *why = af_setup(AF_NULL_BLK | AF_EXT2);
	char path[256];
	int fd;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afro", &o));
	ASSERT_EQ(0, af_mkfs("ext2", self->disk.node, "-b 4096"));
	ASSERT_EQ(0, af_mount("ext2", self->disk.node, "mnt", NULL, self->dir));
	snprintf(self->damaged, sizeof(self->damaged), "%s/damaged", self->dir);
	ASSERT_EQ(0, mkdir(self->damaged, 0755));
	snprintf(path, sizeof(path), "%s/autofreeze-marker", self->damaged);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	close(fd);
	ASSERT_EQ(0, af_umount(self->dir));
	ASSERT_EQ(0, damage(self->disk.node, "autofreeze-marker"));
	ASSERT_EQ(0, af_mount("ext2", self->disk.node, "mnt",
			      "errors=remount-ro", self->dir));
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
}

FIXTURE_TEARDOWN_PARENT(turns_readonly)
{
	EXPECT_EQ(0, af_cleanup());
}

/* 0 if the directory proved damaged and the filesystem is read-only now. */
static int meet_the_error(const char *path)
{
	DIR *d = opendir(path);
	char buf[4096], *p;
	int ret = -ENOENT;

	if (!d)
		return -errno;
	errno = 0;
	while (readdir(d))
		;
	closedir(d);
	if (af_read("/proc/self/mounts", buf, sizeof(buf)))
		return -EIO;
	for (p = strtok(buf, "\n"); p; p = strtok(NULL, "\n"))
		if (strstr(p, " ext2 ") && strstr(p, " ro,"))
			ret = 0;
	return ret;
}

static int meet_the_error_frozen(void *arg)
{
	FIXTURE_DATA(turns_readonly) *self = arg;
	int snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);

	if (snap < 0 || ioctl(snap, SNAPSHOT_FREEZE, 0))
		return -errno;
	self->error = meet_the_error(self->damaged);
	if (ioctl(snap, SNAPSHOT_UNFREEZE, 0))
		return -errno;
	close(snap);
	return 0;
}

TEST_F_TIMEOUT(turns_readonly, writers_get_erofs_when_it_happens_in_the_kernels_freeze, af_secs(60))
{
	if (access("/dev/snapshot", W_OK))
		SKIP(return, "needs CONFIG_HIBERNATION_SNAPSHOT_DEV");
	ASSERT_EQ(0, af_bounded(20, meet_the_error_frozen, self));
	ASSERT_EQ(0, self->error);
	EXPECT_EQ(-EROFS, af_writable(self->dir, 10));
	EXPECT_EQ(0, af_suspend(0));
	EXPECT_EQ(-EROFS, af_writable(self->dir, 10));
}

TEST_HARNESS_MAIN
