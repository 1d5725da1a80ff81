// SPDX-License-Identifier: GPL-2.0
/*
 * From the end of freezing to the begin of thawing, nothing is written to the
 * device of a filesystem that freezes itself.
 *
 * The load leaves dirty pages behind when its tasks freeze, and the flusher,
 * which is never frozen, is set to write them within 200 ms.  The machine then
 * stays frozen for a second, and what reaches the devices is counted with the
 * block tracepoints.  A kernel that only freezes tasks writes here.
 *
 * The knob for other filesystems stays at 0.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include "load.h"

static const enum load_kind kinds[] = {
	LOAD_BUFFERED, LOAD_MMAP, LOAD_FSYNC, LOAD_BUFFERED,
};

#define NLOADS	ARRAY_SIZE(kinds)

FIXTURE(quiet) {
	struct af_disk disk[2];		/* data, log */
	unsigned int disks;
	char dir[128];
	struct load *load;
};

FIXTURE_VARIANT(quiet) {
	unsigned int needs;
	const char *fs;
	const char *mkfs;
	const char *mount;
	/* mkfs for the log device, and its options for the data device */
	const char *mklog;
	const char *mkfs_log;
	const char *mount_log;
};

FIXTURE_VARIANT_ADD(quiet, xfs) {
	.needs = AF_XFS, .fs = "xfs",
};

FIXTURE_VARIANT_ADD(quiet, ext4) {
	.needs = AF_EXT4, .fs = "ext4",
};

FIXTURE_VARIANT_ADD(quiet, ext4_nojournal) {
	.needs = AF_EXT4, .fs = "ext4", .mkfs = "-O ^has_journal",
};

FIXTURE_VARIANT_ADD(quiet, ext4_data_journal) {
	.needs = AF_EXT4, .fs = "ext4", .mount = "data=journal",
};

FIXTURE_VARIANT_ADD(quiet, xfs_external_log) {
	.needs = AF_XFS, .fs = "xfs",
	.mkfs_log = "-l logdev=%s,size=16m", .mount_log = "logdev=%s",
};

FIXTURE_VARIANT_ADD(quiet, ext4_external_journal) {
	.needs = AF_EXT4, .fs = "ext4", .mkfs = "-b 4096",
	.mklog = "-b 4096 -O journal_dev", .mkfs_log = "-J device=%s",
};

FIXTURE_SETUP(quiet)
{
	struct af_disk_opts slow = { .mbps = 40 };
	char mkfs[256] = "", opts[256] = "";
	const char *why;
	unsigned int i;

	why = af_setup(AF_NULL_BLK | AF_TRACE | variant->needs);
	if (why)
		SKIP(return, "%s", why);

	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));

	ASSERT_EQ(0, af_disk_create(&self->disk[0], "afdata", &slow));
	self->disks = 1;
	if (variant->mkfs)
		strcat(mkfs, variant->mkfs);
	if (variant->mount)
		strcat(opts, variant->mount);
	if (variant->mkfs_log) {
		slow.mb = 32;
		ASSERT_EQ(0, af_disk_create(&self->disk[1], "aflog", &slow));
		self->disks = 2;
		if (variant->mklog)
			ASSERT_EQ(0, af_mkfs(variant->fs, self->disk[1].node,
					     variant->mklog));
		strcat(mkfs, " ");
		sprintf(mkfs + strlen(mkfs), variant->mkfs_log,
			self->disk[1].node);
		if (variant->mount_log)
			sprintf(opts, variant->mount_log, self->disk[1].node);
	}
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk[0].node, mkfs));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk[0].node, "mnt", opts,
			      self->dir));
	self->load = load_alloc(NLOADS);
	for (i = 0; i < NLOADS; i++)
		ASSERT_EQ(0, load_start(&self->load[i], kinds[i], i, self->dir));
	af_sleep_ms(1000);
}

FIXTURE_TEARDOWN_PARENT(quiet)
{
	EXPECT_EQ(0, af_cleanup());
}

static int check_quiet(struct __test_metadata *_metadata,
		       FIXTURE_DATA(quiet) *self, const char *state,
		       const char *test)
{
	struct af_cycle c = { .state = state, .test = test, .delay = 1,
			      .deadline = 60 };
	struct af_window w;
	unsigned int i;

	EXPECT_EQ(0, af_trace_arm(self->disk, self->disks));
	if (af_cycle(&c)) {
		af_log("suspend: %d", c.error);
		return c.error;
	}
	for (i = 0; i < self->disks; i++) {
		EXPECT_EQ(0, af_trace_window(&self->disk[i], &w));
		EXPECT_TRUE(w.seen);
		EXPECT_EQ(0, w.writes) {
			TH_LOG("%u writes to %s, the first: %s", w.writes,
			       self->disk[i].name, w.first);
		}
		/* long enough for the flusher, even where clocks are emulated */
		EXPECT_GT(w.us, 400000);
		af_log("%s: %u writes in %ld ms", self->disk[i].name, w.writes,
		       w.us / 1000);
	}
	return 0;
}

TEST_F_TIMEOUT(quiet, no_write_between_freeze_and_thaw, af_secs(120))
{
	unsigned long before[NLOADS];
	unsigned int i;

	ASSERT_EQ(0, check_quiet(_metadata, self, "mem", "freezer"));
	/* and the writers go on after it */
	for (i = 0; i < NLOADS; i++)
		before[i] = load_progress(&self->load[i]);
	af_sleep_ms(1000);
	for (i = 0; i < NLOADS; i++)
		EXPECT_LT(before[i], load_progress(&self->load[i]));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
}

/* The window of a hibernation without its image: pm_test works there, too. */
TEST_F_TIMEOUT(quiet, no_write_between_freeze_and_thaw_in_hibernation, af_secs(120))
{
	if (access("/sys/power/disk", W_OK))
		SKIP(return, "needs CONFIG_HIBERNATION");
	ASSERT_EQ(0, check_quiet(_metadata, self, "disk", "freezer"));
}

TEST_HARNESS_MAIN
