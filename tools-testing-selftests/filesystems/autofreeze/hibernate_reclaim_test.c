// SPDX-License-Identifier: GPL-2.0
/*
 * Hibernation shrinks caches to make room for the image, when filesystems are
 * frozen already.  An inode that goes away with its last reference may have to
 * be removed from the disk, which waits for the thaw; and the task that shrinks
 * is the one that would have to thaw.
 *
 * Overlayfs inodes pin inodes of the filesystem below.  When the files are
 * unlinked there behind the back of overlayfs, the last reference to them goes
 * when memory reclaim drops the inode of overlayfs.
 *
 * On a kernel that gets it wrong the machine does not come back.
 */
#define _GNU_SOURCE

#include "kselftest_harness.h"
#include "af_fail.h"

#define FILES	2000

FIXTURE(reclaim) {
	struct af_disk disk;
	char dir[128], overlay[128];
	struct af_klog log;
};

FIXTURE_VARIANT(reclaim) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(reclaim, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(reclaim, ext4) { .fs = "ext4", .needs = AF_EXT4 };

FIXTURE_SETUP(reclaim)
{
	const char *why = af_setup(AF_NULL_BLK | AF_OVERLAY | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_set("/sys/power/image_size", "0"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "reclaim", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "reclaim", NULL, self->dir));
	ASSERT_EQ(0, af_overlay(self->dir, "overlay", self->overlay));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(reclaim)
{
	af_cleanup();
}

TEST_F_TIMEOUT(reclaim, shrinking_memory_does_not_wait_for_a_frozen_filesystem, af_secs(120))
{
	struct af_cycle c = { .state = "disk", .deadline = 60 };
	char path[256];
	int fd, i;

	for (i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/f%d", self->overlay, i);
		fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		ASSERT_LE(0, fd);
		ASSERT_EQ(1, write(fd, "x", 1));
		close(fd);
	}
	for (i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/upper/f%d", self->dir, i);
		ASSERT_EQ(0, unlink(path));
	}
	sync();
	EXPECT_EQ(0, af_cycle(&c));
	af_log("hibernation took %ld ms", c.ms);
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
