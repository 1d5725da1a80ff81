// SPDX-License-Identifier: GPL-2.0
/*
 * A freeze that breaks off leaves xfs as it was: its background work goes on.
 *
 * xfs stops inode garbage collection in the sync of a freeze.  When the sync then
 * fails on the block device, nothing restarts it: the space of files that are
 * removed from then on does not come back, until a later freeze and thaw.
 *
 * The sync fails here because somebody wrote to the block device through its
 * page cache, to a place behind the filesystem that reports errors.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "kselftest_harness.h"
#include "af.h"

#define MB		(1024 * 1024ULL)
#define FS_MB		304
#define FILE_MB		32

FIXTURE(xfs_abort) {
	struct af_disk disk;
	struct af_disk dm;
	char dir[128];
	char file[160];
	uint64_t used;
};

FIXTURE_SETUP(xfs_abort)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_XFS);
	char table[256], opts[64];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afxfs", NULL));
	snprintf(table, sizeof(table),
		 "0 %llu linear %s 0\n%llu %llu error", FS_MB * MB / 512,
		 self->disk.node, FS_MB * MB / 512, MB / 512);
	snprintf(opts, sizeof(opts), "-d size=%um", FS_MB);
	/* not on the device with the errors: mkfs clears its end, too */
	ASSERT_EQ(0, af_mkfs("xfs", self->disk.node, opts));
	ASSERT_EQ(0, af_dm_create(&self->dm, "afxfs-dm", table));
	ASSERT_EQ(0, af_mount("xfs", self->dm.node, "mnt", NULL, self->dir));
}

FIXTURE_TEARDOWN_PARENT(xfs_abort)
{
	EXPECT_EQ(0, af_cleanup());
}

/* Keep writing where it fails, so that each sync of the device meets an error. */
static int write_behind(void *arg)
{
	FIXTURE_DATA(xfs_abort) *self = arg;
	static char buf[4096];
	int fd;

	fd = open(self->dm.node, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		pwrite(fd, buf, sizeof(buf), FS_MB * MB);
		/* starts the write and, other than fsync(), eats no error */
		sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		af_sleep_ms(5);
	}
}

static uint64_t mb_free(const char *dir)
{
	struct statfs st;

	return statfs(dir, &st) ? 0 : st.f_bfree * st.f_bsize / MB;
}

static int write_file(FIXTURE_DATA(xfs_abort) *self)
{
	static char buf[65536];
	int fd, i;

	snprintf(self->file, sizeof(self->file), "%s/big", self->dir);
	fd = open(self->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	for (i = 0; i < FILE_MB * 16; i++)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			return -errno;
	if (fsync(fd))
		return -errno;
	close(fd);
	return 0;
}

TEST_F_TIMEOUT(xfs_abort, space_of_removed_files_comes_back_after_a_failed_freeze, 90)
{
	unsigned int i, failed = 0;
	uint64_t full, now = 0;
	pid_t pid;
	int ret;

	ASSERT_EQ(0, write_file(self));
	full = mb_free(self->dir);

	pid = af_spawn(write_behind, self);
	ASSERT_GT(pid, 0);
	af_sleep_ms(200);
	/* Five in a row: where in the freeze the error is met may differ. */
	for (i = 0; i < 100 && failed < 5; i++) {
		ret = af_fifreeze(self->dir);
		if (!ret) {
			/* the thaw restarts all, so begin again */
			ASSERT_EQ(0, af_fithaw(self->dir));
			failed = 0;
		} else {
			EXPECT_EQ(-EIO, ret);
			failed++;
		}
		af_sleep_ms(20);
	}
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	ASSERT_EQ(5, failed);

	ASSERT_EQ(0, unlink(self->file));
	for (i = 0; i < 50; i++) {
		now = mb_free(self->dir);
		if (now >= full + FILE_MB - 1)
			break;
		af_sleep_ms(200);
	}
	EXPECT_GE(now, full + FILE_MB - 1) {
		TH_LOG("%llu MB free with the file, %llu MB without it",
		       (unsigned long long)full, (unsigned long long)now);
	}
	EXPECT_EQ(0, af_writable(self->dir, 10));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("xfs", self->dm.node, NULL));
}

TEST_HARNESS_MAIN
