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

static int make_file(const char *path, off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int ret = 0;

	if (fd < 0 || ftruncate(fd, size))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

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
			ASSERT_EQ(0, make_file(path, variant->mb[i] * MB));
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

TEST_F_TIMEOUT(stack, suspends_under_load_without_writes_and_losses, 180)
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

TEST_HARNESS_MAIN
