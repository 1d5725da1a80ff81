// SPDX-License-Identifier: GPL-2.0
/*
 * Nothing that ext4 runs by itself writes to a frozen ext4: not the work that
 * updates the superblock, not the one that discards freed blocks, not the
 * threads that used to be stopped by the freezer.  What they have to do is done
 * after the thaw.
 *
 * Writes and discards are counted by the disk, so it does not matter who made
 * them.  The bugs show as a count that grows while nobody should write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "af.h"

#define SYNC_ON_SUSPEND	"/sys/power/sync_on_suspend"

struct counts {
	unsigned long writes, sectors, discards, flushes;
};

static struct counts count(const struct af_disk *d)
{
	char path[128], buf[512] = "";
	struct counts c = { 0 };

	snprintf(path, sizeof(path), "/sys/block/%s/stat", d->name);
	af_read(path, buf, sizeof(buf));
	if (sscanf(buf, "%*u %*u %*u %*u %lu %*u %lu %*u %*u %*u %*u %lu %*u %*u %*u %lu",
		   &c.writes, &c.sectors, &c.discards, &c.flushes) != 4)
		af_log("cannot read %s", path);
	return c;
}

static int put_file(const char *dir, const char *prefix, int nr, size_t size)
{
	static char data[65536];
	char path[200];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s%d", dir, prefix, nr);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, data, size) != (ssize_t)size)
		ret = -errno;
	close(fd);
	return ret;
}

/* --- works ------------------------------------------------------------------ */

FIXTURE(frozen_ext4) {
	struct af_disk disk;
	char dir[128];
};

FIXTURE_SETUP(frozen_ext4)
{
	/* Slow, so that what is not waited for is seen. */
	struct af_disk_opts o = { .latency_ns = 10000000, .discard = true };
	const char *why = af_setup(AF_NULL_BLK | AF_EXT4);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "quiet", &o));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "quiet",
			      "commit=1,discard", self->dir));
}

FIXTURE_TEARDOWN_PARENT(frozen_ext4)
{
	af_cleanup();
}

TEST_F_TIMEOUT(frozen_ext4, superblock_update_waits_for_the_thaw, af_secs(60))
{
	struct counts before, after;
	char path[128];
	int i;

	/* Make each commit ask for an update, not one an hour. */
	snprintf(path, sizeof(path), "/sys/fs/ext4/%s/sb_update_sec", self->disk.name);
	if (access(path, W_OK))
		SKIP(return, "no sb_update_sec");
	ASSERT_EQ(0, af_write(path, "0"));
	snprintf(path, sizeof(path), "/sys/fs/ext4/%s/sb_update_kb", self->disk.name);
	ASSERT_EQ(0, af_write(path, "0"));

	ASSERT_EQ(0, put_file(self->dir, "f", 0, 4096));
	ASSERT_EQ(0, af_fifreeze(self->dir));
	before = count(&self->disk);
	af_sleep_ms(4000);
	after = count(&self->disk);
	EXPECT_EQ(before.writes, after.writes);
	EXPECT_EQ(before.flushes, after.flushes);

	/* It was put off, not dropped: updates follow one another again. */
	ASSERT_EQ(0, af_fithaw(self->dir));
	before = count(&self->disk);
	for (i = 0; i < 100 && count(&self->disk).writes < before.writes + 4; i++)
		af_sleep_ms(100);
	EXPECT_GE(count(&self->disk).writes, before.writes + 4);
}

TEST_F_TIMEOUT(frozen_ext4, discards_wait_for_the_thaw, af_secs(120))
{
	const int nr = 300;
	struct counts start, before, after;
	char path[200];
	int i;

	/* Every other file goes, so what they free does not merge. */
	for (i = 0; i < nr; i++) {
		ASSERT_EQ(0, put_file(self->dir, "gone", i, 8192));
		ASSERT_EQ(0, put_file(self->dir, "kept", i, 8192));
		if (i % 50 == 0)
			sync();
	}
	sync();
	start = count(&self->disk);
	for (i = 0; i < nr; i++) {
		snprintf(path, sizeof(path), "%s/gone%d", self->dir, i);
		ASSERT_EQ(0, unlink(path));
	}
	ASSERT_EQ(0, af_fifreeze(self->dir));
	before = count(&self->disk);
	af_sleep_ms(4000);
	after = count(&self->disk);
	EXPECT_EQ(before.discards, after.discards);
	EXPECT_EQ(before.writes, after.writes);
	TH_LOG("discards: %lu before the freeze, %lu while frozen",
	       before.discards - start.discards, after.discards - before.discards);

	ASSERT_EQ(0, af_fithaw(self->dir));
	for (i = 0; i < 300 && count(&self->disk).discards < start.discards + nr / 2; i++)
		af_sleep_ms(100);
	EXPECT_GE(count(&self->disk).discards, start.discards + nr / 2);
}

/* --- the types of the driver, in suspend with the knob off ------------------ */

FIXTURE(suspended) {
	struct af_disk disk;
	char dir[128];
};

FIXTURE_VARIANT(suspended) {
	const char *type, *mkfs_opts, *mount_opts;
};

FIXTURE_VARIANT_ADD(suspended, ext4) {
	.type = "ext4", .mount_opts = "init_itable=0,commit=1",
};

FIXTURE_VARIANT_ADD(suspended, ext4_without_journal) {
	.type = "ext4", .mkfs_opts = "-O ^has_journal", .mount_opts = "init_itable=0",
};

FIXTURE_VARIANT_ADD(suspended, ext3) {
	.type = "ext3", .mount_opts = "commit=1",
};

/* Served by ext4 where ext2 is not built (CONFIG_EXT4_USE_FOR_EXT2). */
FIXTURE_VARIANT_ADD(suspended, ext2) { .type = "ext2" };

FIXTURE_SETUP(suspended)
{
	const char *why = af_setup(AF_NULL_BLK | AF_TRACE | AF_EXT4);
	char opts[128];
	int ret;

	if (why)
		SKIP(return, "%s", why);
	/* Or everything is written before anything is frozen. */
	ASSERT_EQ(0, af_set(SYNC_ON_SUSPEND, "0"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "susp", NULL));
	/* Leave ext4lazyinit something to do, where there is a descriptor checksum. */
	snprintf(opts, sizeof(opts), "%s -E lazy_itable_init=1 -g 2048 -N 40960",
		 variant->mkfs_opts ?: "");
	ASSERT_EQ(0, af_mkfs(variant->type, self->disk.node, opts));
	ret = af_mount(variant->type, self->disk.node, "susp",
		       variant->mount_opts, self->dir);
	if (ret == -ENODEV)
		SKIP(return, "%s is not served by this kernel", variant->type);
	ASSERT_EQ(0, ret);
	snprintf(opts, sizeof(opts), "/sys/fs/ext4/%s", self->disk.name);
	if (access(opts, F_OK))
		SKIP(return, "%s is not served by ext4", variant->type);
}

FIXTURE_TEARDOWN_PARENT(suspended)
{
	af_cleanup();
}

TEST_F_TIMEOUT(suspended, is_written_back_before_sleep, af_secs(60))
{
	const int nr = 16;
	const size_t size = 65536;
	struct counts before;
	int i;

	/* Count only what is written below. */
	ASSERT_EQ(0, mount(NULL, self->dir, NULL, MS_REMOUNT, "noinit_itable"));
	sync();
	for (i = 0; i < nr; i++)
		ASSERT_EQ(0, put_file(self->dir, "dirty", i, size));
	before = count(&self->disk);
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_LE(before.sectors + nr * size / 512, count(&self->disk).sectors);
}

TEST_F_TIMEOUT(suspended, is_quiet_while_tasks_are_frozen, af_secs(60))
{
	struct af_window w;
	int i;

	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, put_file(self->dir, "dirty", i, 65536));
	ASSERT_EQ(0, af_trace_arm(&self->disk, 1));
	ASSERT_EQ(0, af_suspend(4));
	ASSERT_EQ(0, af_trace_window(&self->disk, &w));
	ASSERT_TRUE(w.seen);
	EXPECT_LT(3000000, w.us);
	EXPECT_EQ(0u, w.writes) TH_LOG("first: %s", w.first);
}

TEST_HARNESS_MAIN
