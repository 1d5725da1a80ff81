// SPDX-License-Identifier: GPL-2.0
/*
 * The background work of xfs does not write while the filesystem is frozen,
 * although nothing stops its threads, and goes on after the thaw.
 *
 * Before the freeze each kind of it is given something to do: metadata for the
 * log worker and the AIL, an unlinked file for inodegc, space behind the end of
 * a file for blockgc.  What they wait for is shortened to a second, and the
 * filesystem then stays frozen for four.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <unistd.h>
#include <linux/fs.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define KB		1024UL
#define MB		(1024 * KB)
#define SYNC		"/proc/sys/fs/xfs/xfssyncd_centisecs"
#define LIFETIME	"/proc/sys/fs/xfs/speculative_prealloc_lifetime"
#define FROZEN		4	/* seconds */

FIXTURE(background) {
	struct af_disk disk;
	char dir[128];
	char file[160];		/* has space behind its end */
	unsigned long free_mb;	/* with all files still there */
};

FIXTURE_SETUP(background)
{
	const char *why = af_setup(AF_NULL_BLK | AF_TRACE | AF_XFS);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(SYNC, "100"));
	ASSERT_EQ(0, af_set(LIFETIME, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "afbg", NULL));
	ASSERT_EQ(0, af_mkfs("xfs", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("xfs", self->disk.node, "mnt", NULL, self->dir));
}

FIXTURE_TEARDOWN_PARENT(background)
{
	EXPECT_EQ(0, af_cleanup());
}

static unsigned long free_mb(const char *dir)
{
	struct statvfs st;

	return statvfs(dir, &st) ? 0 : st.f_bfree * st.f_frsize / MB;
}

static unsigned long allocated(const char *file)
{
	struct stat st;

	return stat(file, &st) ? 0 : st.st_blocks * 512;
}

/* Write @mb and leave the file open; it is dirty if @sync is not set. */
static int write_file(const char *path, unsigned int mb, bool sync)
{
	static char buf[64 * KB];
	int fd;

	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	for (mb *= MB / sizeof(buf); fd >= 0 && mb; mb--)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			return -1;
	if (fd >= 0 && sync && fsync(fd))
		return -1;
	return fd;
}

/* xfs keeps the space behind the end of a file that is opened to grow often. */
static void leave_work(struct __test_metadata *_metadata,
		       FIXTURE_DATA(background) *self)
{
	char path[192];
	int i, fd;

	snprintf(path, sizeof(path), "%s/unlinked", self->dir);
	fd = write_file(path, 48, true);
	ASSERT_GE(fd, 0);
	snprintf(self->file, sizeof(self->file), "%s/grows", self->dir);
	for (i = 0; i < 4; i++) {
		int grows = write_file(self->file, 1, true);

		ASSERT_GE(grows, 0);
		close(grows);
	}
	self->free_mb = free_mb(self->dir);
	for (i = 0; i < 200; i++) {
		snprintf(path, sizeof(path), "%s/dir%d", self->dir, i);
		ASSERT_EQ(0, mkdir(path, 0700));
	}
	snprintf(path, sizeof(path), "%s/unlinked", self->dir);
	ASSERT_EQ(0, unlink(path));
	close(fd);
}

static void expect_work_done(struct __test_metadata *_metadata,
			     FIXTURE_DATA(background) *self)
{
	int64_t end = af_now_ms() + 20000;

	while ((free_mb(self->dir) < self->free_mb + 40 ||
		allocated(self->file) > 4 * MB + 64 * KB) && af_now_ms() < end)
		af_sleep_ms(100);
	EXPECT_GE(free_mb(self->dir), self->free_mb + 40)
		TH_LOG("inodegc did not free the unlinked file");
	EXPECT_LE(allocated(self->file), 4 * MB + 64 * KB)
		TH_LOG("blockgc did not trim the file");
	EXPECT_EQ(0, af_writable(self->dir, 10));
}

static void expect_quiet_cycle(struct __test_metadata *_metadata,
			       FIXTURE_DATA(background) *self)
{
	struct af_cycle c = { .delay = FROZEN, .deadline = 60 };
	struct af_window w;

	ASSERT_EQ(0, af_trace_arm(&self->disk, 1));
	ASSERT_EQ(0, af_cycle(&c));
	ASSERT_EQ(0, af_trace_window(&self->disk, &w));
	EXPECT_TRUE(w.seen);
	EXPECT_GT(w.us, (FROZEN - 1) * 1000000);
	EXPECT_EQ(0, w.writes)
		TH_LOG("%u writes, the first: %s", w.writes, w.first);
}

TEST_F_TIMEOUT(background, writes_nothing_in_a_suspend_and_goes_on_after, af_secs(120))
{
	leave_work(_metadata, self);
	expect_quiet_cycle(_metadata, self);
	expect_work_done(_metadata, self);
	EXPECT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("xfs", self->disk.node, NULL));
}

/* What FIFREEZE has always promised, and what the above is built on. */
TEST_F_TIMEOUT(background, writes_nothing_while_userspace_has_it_frozen, af_secs(120))
{
	struct disk_io before, after;

	leave_work(_metadata, self);
	ASSERT_EQ(0, af_fifreeze(self->dir));
	before = disk_io(&self->disk);
	af_sleep_ms(FROZEN * 1000);
	after = disk_io(&self->disk);
	EXPECT_EQ(before.writes, after.writes);
	ASSERT_EQ(0, af_fithaw(self->dir));
	expect_work_done(_metadata, self);
}

/* The log worker, the AIL and the rest of it have nothing to do then. */
TEST_F_TIMEOUT(background, writes_nothing_on_a_read_only_mount, af_secs(120))
{
	leave_work(_metadata, self);
	ASSERT_EQ(0, mount(NULL, self->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	ASSERT_EQ(0, af_run(30, "find %s -type d >/dev/null", self->dir));
	expect_quiet_cycle(_metadata, self);
	/* nobody waits for the thaw; this also makes it writable */
	ASSERT_TRUE(becomes_unfrozen(self->dir, 5000));
	expect_work_done(_metadata, self);
}

/* Quotacheck at mount writes.  It must be done with it when the mount is. */
TEST_F_TIMEOUT(background, writes_nothing_after_a_read_only_mount_with_quotacheck, af_secs(120))
{
	struct disk_io before, after;
	int ret;

	leave_work(_metadata, self);
	ASSERT_EQ(0, af_umount(self->dir));
	ret = af_mount("xfs", self->disk.node, "mnt", "ro,uquota,gquota",
		       self->dir);
	if (ret == -EINVAL)
		SKIP(return, "needs CONFIG_XFS_QUOTA");
	ASSERT_EQ(0, ret);
	before = disk_io(&self->disk);
	/* the inode shrinker pushes what is left to write */
	ASSERT_EQ(0, af_run(30, "find %s >/dev/null", self->dir));
	ASSERT_EQ(0, af_write("/proc/sys/vm/drop_caches", "2"));
	af_sleep_ms(1000);
	after = disk_io(&self->disk);
	EXPECT_EQ(before.writes, after.writes);
	EXPECT_EQ(0, af_umount(self->dir));
}

TEST_HARNESS_MAIN
