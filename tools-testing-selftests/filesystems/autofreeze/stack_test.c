// SPDX-License-Identifier: GPL-2.0
/*
 * A filesystem on a loop device on a file of another filesystem: suspend
 * succeeds under load on all of them, nothing is written to any of the devices
 * meanwhile, and nothing is lost.
 *
 * The stacks are mounted from the bottom up, so that the reverse of the order of
 * mounting is the right one.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include "load.h"

#define MB	(1024 * 1024LL)
#define LEVELS	3
#define CYCLES	2

FIXTURE(stack) {
	struct af_disk disk[LEVELS];
	char dir[LEVELS][128];
	struct load *load;
};

FIXTURE_VARIANT(stack) {
	/* from the bottom up; a size of the file the next one is in */
	const char *fs[LEVELS];
	unsigned int mb[LEVELS];
	unsigned int levels;
};

FIXTURE_VARIANT_ADD(stack, xfs_on_ext4) {
	.fs = { "ext4", "xfs" }, .mb = { 480, 320 }, .levels = 2,
};

FIXTURE_VARIANT_ADD(stack, ext4_on_xfs_on_ext4) {
	.fs = { "ext4", "xfs", "ext4" }, .mb = { 480, 320, 96 }, .levels = 3,
};

FIXTURE_SETUP(stack)
{
	struct af_disk_opts o = { .mb = variant->mb[0] };
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_TRACE | AF_XFS |
				   AF_EXT4);
	char name[32], path[192];
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk[0], "afstack", &o));
	for (i = 0; i < variant->levels; i++) {
		if (i) {
			snprintf(path, sizeof(path), "%s/image", self->dir[i - 1]);
			ASSERT_EQ(0, af_file_create(path, variant->mb[i] * MB));
			ASSERT_EQ(0, af_loop_attach(&self->disk[i], path));
		}
		snprintf(name, sizeof(name), "level%u", i);
		ASSERT_EQ(0, af_mkfs(variant->fs[i], self->disk[i].node, NULL));
		ASSERT_EQ(0, af_mount(variant->fs[i], self->disk[i].node, name,
				      NULL, self->dir[i]));
	}
	self->load = load_alloc(2 * LEVELS);
}

FIXTURE_TEARDOWN_PARENT(stack)
{
	EXPECT_EQ(0, af_cleanup());
}

TEST_F_TIMEOUT(stack, suspends_under_load_without_writes_and_losses, af_secs(180))
{
	unsigned int n = 2 * variant->levels, i, cycle;
	struct af_cycle c = { .delay = 1 };
	unsigned long before[2 * LEVELS];
	struct af_window w;
	struct af_klog k;

	ASSERT_EQ(0, af_klog_mark(&k));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	for (i = 0; i < n; i++)
		ASSERT_EQ(0, load_start(&self->load[i],
					i % 2 ? LOAD_MMAP : LOAD_BUFFERED, i,
					self->dir[i / 2]));
	for (cycle = 0; cycle < CYCLES; cycle++) {
		af_sleep_ms(300);
		ASSERT_EQ(0, af_trace_arm(self->disk, variant->levels));
		EXPECT_EQ(0, af_cycle(&c));
		if (c.error)
			break;
		for (i = 0; i < variant->levels; i++) {
			ASSERT_EQ(0, af_trace_window(&self->disk[i], &w));
			EXPECT_TRUE(w.seen);
			EXPECT_EQ(0, w.writes) {
				TH_LOG("level %u, %u writes, the first: %s", i,
				       w.writes, w.first);
			}
		}
	}
	for (i = 0; i < n; i++)
		before[i] = load_progress(&self->load[i]);
	af_sleep_ms(1000);
	for (i = 0; i < n; i++)
		EXPECT_LT(before[i], load_progress(&self->load[i]));
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));

	for (i = 0; i < n; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
	for (i = variant->levels; i-- > 0;) {
		ASSERT_EQ(0, af_umount(self->dir[i]));
		EXPECT_EQ(0, af_fsck(variant->fs[i], self->disk[i].node, NULL));
		if (i)
			ASSERT_EQ(0, af_loop_detach(&self->disk[i]));
	}
	EXPECT_EQ(NULL, af_klog_splat(&k));
	af_klog_end(&k);
}

FIXTURE(loop) {
	struct af_disk slow, disk, loop;
	char slow_dir[128], dir[128];
};

/* Of the file of the loop device. */
FIXTURE_VARIANT(loop) {
	const char *fs;
};

FIXTURE_VARIANT_ADD(loop, xfs) { .fs = "xfs" };
FIXTURE_VARIANT_ADD(loop, ext4) { .fs = "ext4" };

/*
 * The slow filesystem is the older one and so the last to freeze: the flusher
 * has time to write to the loop device with its file frozen already.
 */
FIXTURE_SETUP(loop)
{
	struct af_disk_opts slow = { .mb = 128, .latency_ns = 30 * 1000 * 1000 };
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_XFS | AF_EXT4);
	char path[192];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->slow, "afslow", &slow));
	ASSERT_EQ(0, af_mkfs("ext4", self->slow.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->slow.node, "slow", NULL,
			      self->slow_dir));
	ASSERT_EQ(0, af_disk_create(&self->disk, "afdisk", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "disk", NULL,
			      self->dir));
	snprintf(path, sizeof(path), "%s/image", self->dir);
	ASSERT_EQ(0, af_file_create(path, 64 * MB));
	ASSERT_EQ(0, af_loop_attach(&self->loop, path));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "2"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "2"));
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "3000"));
}

FIXTURE_TEARDOWN_PARENT(loop)
{
	EXPECT_EQ(0, af_cleanup());
}

/* Writes to the page cache of the device, which nothing freezes. */
static int dirty_device(void *node)
{
	static char data[65536];
	int fd = open(node, O_WRONLY | O_CLOEXEC);
	off_t pos = 0;

	while (fd >= 0 && pwrite(fd, data, sizeof(data), pos) > 0)
		pos = (pos + sizeof(data)) % (64 * MB);
	return -errno;
}

TEST_F_TIMEOUT(loop, write_back_to_a_frozen_file_does_not_hold_up_suspend, af_secs(90))
{
	unsigned int cycle;
	char path[192];

	ASSERT_LT(0, af_spawn(dirty_device, self->loop.node));
	snprintf(path, sizeof(path), "%s/dirty", self->slow_dir);
	for (cycle = 0; cycle < 8; cycle++) {
		ASSERT_EQ(0, af_file_create(path, 65536 + cycle));
		af_sleep_ms(500);
		ASSERT_EQ(0, af_suspend(0));
	}
}

TEST_HARNESS_MAIN
