// SPDX-License-Identifier: GPL-2.0
/*
 * A freeze is undone completely, however it ends.
 *
 * A filesystem that became read-only while it was frozen is unlocked by the
 * thaw: its writers get EROFS, they don't wait for ever.  ext2 does that to
 * itself when it reads a damaged directory, and reading is allowed while frozen.
 *
 * A filesystem whose freeze was broken off works as before.  xfs stops its
 * background work when the freeze syncs it.  Here the sync fails after that,
 * because of a dirty page of the block device that can't be written: it belongs
 * to the part of the disk behind the end of the filesystem.  And a freeze that
 * can't write metadata can be killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "af.h"

#define MB	(1024 * 1024UL)

/* --- a filesystem that becomes read-only while it is frozen ---------------- */

#define MARK	"af-damaged-entry"

FIXTURE(turns_readonly) {
	struct af_disk disk;
	char dir[128];
};

/* Give the directory entry MARK, wherever it is on the disk, a bad length. */
static int damage(const char *node)
{
	static char block[1024] __attribute__((aligned(512)));
	int fd, ret = -ENOENT;
	off_t at = 0;
	char *p;

	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (ret && pread(fd, block, sizeof(block), at) == sizeof(block)) {
		p = memmem(block, sizeof(block), MARK, strlen(MARK));
		if (p && p - block >= 8) {
			/* struct ext2_dir_entry_2: inode, then rec_len */
			p[-4] |= 3;
			ret = pwrite(fd, block, sizeof(block), at) < 0 ? -errno : 0;
		}
		at += sizeof(block);
	}
	if (!ret && fsync(fd))
		ret = -errno;
	close(fd);
	return ret;
}

static bool is_readonly(const char *dir)
{
	struct statvfs st;

	return !statvfs(dir, &st) && (st.f_flag & ST_RDONLY);
}

FIXTURE_SETUP(turns_readonly)
{
	const char *why = af_setup(AF_NULL_BLK | AF_EXT2);
	char path[256];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afro", NULL));
	ASSERT_EQ(0, af_mkfs("ext2", self->disk.node, "-b 1024"));
	ASSERT_EQ(0, af_mount("ext2", self->disk.node, "mnt", NULL, self->dir));
	snprintf(path, sizeof(path), "%s/sub/" MARK, self->dir);
	*strrchr(path, '/') = '\0';
	ASSERT_EQ(0, mkdir(path, 0755));
	path[strlen(path)] = '/';
	ASSERT_EQ(0, mknod(path, S_IFREG | 0644, 0));
	ASSERT_EQ(0, af_umount(self->dir));
	ASSERT_EQ(0, damage(self->disk.node));
	ASSERT_EQ(0, af_mount("ext2", self->disk.node, "mnt",
			      "errors=remount-ro", self->dir));
	ASSERT_EQ(0, af_writable(self->dir, 10));
}

FIXTURE_TEARDOWN_PARENT(turns_readonly)
{
	EXPECT_EQ(0, af_cleanup());
}

static void read_damaged_directory(struct __test_metadata *_metadata,
				   const char *dir)
{
	char path[256];
	DIR *d;

	ASSERT_FALSE(is_readonly(dir));
	snprintf(path, sizeof(path), "%s/sub", dir);
	d = opendir(path);
	ASSERT_NE(NULL, d);
	while (readdir(d))
		;
	closedir(d);
	ASSERT_TRUE(is_readonly(dir));
}

TEST_F_TIMEOUT(turns_readonly, writers_fail_after_the_thaw_and_do_not_hang, af_secs(90))
{
	ASSERT_EQ(0, af_fifreeze(self->dir));
	read_damaged_directory(_metadata, self->dir);
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EROFS, af_writable(self->dir, 10));
	EXPECT_EQ(0, af_umount(self->dir));
}

TEST_F_TIMEOUT(turns_readonly, can_be_frozen_and_thawed_again, af_secs(90))
{
	ASSERT_EQ(0, af_fifreeze(self->dir));
	read_damaged_directory(_metadata, self->dir);
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EINVAL, af_fithaw(self->dir));
	EXPECT_EQ(0, af_fifreeze(self->dir));
	EXPECT_EQ(-EBUSY, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(-EROFS, af_writable(self->dir, 10));
	EXPECT_EQ(0, af_umount(self->dir));
}

/* --- a freeze that fails after the filesystem was synced ------------------- */

#define FS_MB		320
#define FILE_MB		64
#define LIFETIME	"/proc/sys/fs/xfs/speculative_prealloc_lifetime"

FIXTURE(sync_fails) {
	struct af_disk disk, dm;
	char dir[128];
	int bdev;
};

FIXTURE_SETUP(sync_fails)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_XFS);
	struct af_disk_opts o = { .mb = FS_MB + 1 };
	char table[256], opts[64];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afabort", &o));
	/* before part of the disk is broken, as mkfs.xfs looks at its end */
	snprintf(opts, sizeof(opts), "-d size=%dm", FS_MB);
	ASSERT_EQ(0, af_mkfs("xfs", self->disk.node, opts));
	snprintf(table, sizeof(table), "0 %lu linear %u:%u 0\n%lu %lu error",
		 FS_MB * MB / 512, major(self->disk.dev),
		 minor(self->disk.dev), FS_MB * MB / 512, MB / 512);
	ASSERT_EQ(0, af_dm_create(&self->dm, "afabort-dm", table));
	ASSERT_EQ(0, af_set(LIFETIME, "1"));
	ASSERT_EQ(0, af_mount("xfs", self->dm.node, "mnt", NULL, self->dir));
	self->bdev = open(self->dm.node, O_WRONLY | O_CLOEXEC);
	if (self->bdev < 0)
		SKIP(return, "needs CONFIG_BLK_DEV_WRITE_MOUNTED");
}

FIXTURE_TEARDOWN_PARENT(sync_fails)
{
	EXPECT_EQ(0, af_cleanup());
}

/* A page of the block device that its next sync can't write. */
static int dirty_the_broken_part(int bdev)
{
	static char page[65536];

	return pwrite(bdev, page, sizeof(page), FS_MB * MB) < 0 ? -errno : 0;
}

static unsigned long free_mb(const char *dir)
{
	struct statvfs st;

	return statvfs(dir, &st) ? 0 : st.f_bfree * st.f_frsize / MB;
}

static int write_file(const char *path)
{
	static char buf[MB];
	int fd, i, ret = 0;

	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	for (i = 0; !ret && i < FILE_MB; i++)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			ret = -EIO;
	if (!ret && fsync(fd))
		ret = -errno;
	close(fd);
	return ret;
}

static void expect_background_work(struct __test_metadata *_metadata,
				   const char *dir)
{
	unsigned long before;
	int64_t end = af_now_ms() + 15000;
	char path[256];

	snprintf(path, sizeof(path), "%s/file", dir);
	ASSERT_EQ(0, write_file(path));
	before = free_mb(dir);
	ASSERT_EQ(0, unlink(path));
	/* inactivation of the unlinked inode gives the space back */
	while (free_mb(dir) < before + FILE_MB / 2 && af_now_ms() < end)
		af_sleep_ms(100);
	EXPECT_GE(free_mb(dir), before + FILE_MB / 2)
		TH_LOG("the space of an unlinked file is not given back");
	EXPECT_EQ(0, af_writable(dir, 10));
}

TEST_F_TIMEOUT(sync_fails, unlinked_files_are_freed_after_a_failed_fifreeze, af_secs(90))
{
	ASSERT_EQ(0, dirty_the_broken_part(self->bdev));
	ASSERT_EQ(-EIO, af_fifreeze(self->dir));
	expect_background_work(_metadata, self->dir);
}

TEST_F_TIMEOUT(sync_fails, unlinked_files_are_freed_after_a_suspend, af_secs(90))
{
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, dirty_the_broken_part(self->bdev));
	EXPECT_EQ(0, af_suspend(0));
	expect_background_work(_metadata, self->dir);
}

TEST_F_TIMEOUT(sync_fails, next_freeze_succeeds, af_secs(90))
{
	ASSERT_EQ(0, dirty_the_broken_part(self->bdev));
	ASSERT_EQ(-EIO, af_fifreeze(self->dir));
	ASSERT_EQ(0, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	expect_background_work(_metadata, self->dir);
}

/* --- metadata that can't be written ---------------------------------------- */

FIXTURE(metadata_fails) {
	struct af_disk disk, log, dm;
	char dir[128];
};

static int dm_switch(struct af_disk *dm, const char *table)
{
	int ret = af_dm_load(dm, table);

	ret = ret ?: af_dm_suspend(dm, false, true);
	return ret ?: af_dm_resume(dm);
}

static int heal(FIXTURE_DATA(metadata_fails) *self)
{
	char table[128];

	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
		 (unsigned long long)self->dm.sectors, major(self->disk.dev),
		 minor(self->disk.dev));
	return dm_switch(&self->dm, table);
}

/* With its log elsewhere, xfs does not shut down but retries, for ever. */
FIXTURE_SETUP(metadata_fails)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_XFS);
	struct af_disk_opts o = { .mb = 64 };
	char opts[128], path[256];
	int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "afmeta", NULL));
	ASSERT_EQ(0, af_disk_create(&self->log, "afmetalog", &o));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "afmeta-dm", &self->disk));
	snprintf(opts, sizeof(opts), "-l logdev=%s,size=32m", self->log.node);
	ASSERT_EQ(0, af_mkfs("xfs", self->dm.node, opts));
	snprintf(opts, sizeof(opts), "logdev=%s", self->log.node);
	ASSERT_EQ(0, af_mount("xfs", self->dm.node, "mnt", opts, self->dir));
	for (i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "%s/dir%d", self->dir, i);
		ASSERT_EQ(0, mkdir(path, 0700));
	}
	snprintf(path, sizeof(path), "0 %llu error",
		 (unsigned long long)self->dm.sectors);
	ASSERT_EQ(0, dm_switch(&self->dm, path));
}

FIXTURE_TEARDOWN_PARENT(metadata_fails)
{
	/* nothing ends while the disk fails */
	heal(self);
	EXPECT_EQ(0, af_cleanup());
}

/* What needs the log only, and is not cached by the test before. */
static int make_dir(void *arg)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/dir0/sub", (char *)arg);
	return mkdir(path, 0700) ? -errno : 0;
}

static int fifreeze(void *dir)
{
	return af_fifreeze(dir);
}

TEST_F_TIMEOUT(metadata_fails, fifreeze_can_be_killed_and_writers_go_on, af_secs(90))
{
	pid_t pid = af_spawn(fifreeze, self->dir);

	ASSERT_GT(pid, 0);
	ASSERT_EQ(-ETIMEDOUT, af_wait(pid, 2));
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	EXPECT_EQ(0, af_bounded(10, make_dir, self->dir));
	EXPECT_EQ(0, heal(self));
	EXPECT_EQ(0, af_writable(self->dir, 20));
}

TEST_F_TIMEOUT(metadata_fails, writers_go_on_after_a_suspend, af_secs(90))
{
	struct af_cycle c = { .deadline = 30 };

	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	EXPECT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_bounded(10, make_dir, self->dir));
	EXPECT_EQ(0, heal(self));
	EXPECT_EQ(0, af_writable(self->dir, 20));
}

TEST_HARNESS_MAIN
