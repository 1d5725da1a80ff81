// SPDX-License-Identifier: GPL-2.0
/*
 * Suspend is as good the 200th time as the first: cycles of pm_test=freezer on
 * an xfs and an ext4 under every kind of writer, without one failure.
 *
 * AF_CYCLES in the environment says how many, AF_CYCLES_SECONDS for how long at
 * most; the number, the time of each and of all go to the log.
 *
 * The knob is at 1, so a kernel that freezes filesystems before user tasks fails
 * in one of the first cycles, in the shared mappings that are madvise()d.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include "load.h"

#define FILESYSTEMS	2

/* All kinds, those with the longest way through the kernel on both. */
static const struct {
	enum load_kind kind;
	unsigned int fs;
} loads[] = {
	{ LOAD_MADVISE, 0 },	{ LOAD_MADVISE, 1 },
	{ LOAD_BUFFERED, 0 },	{ LOAD_BUFFERED, 1 },
	{ LOAD_MMAP, 0 },	{ LOAD_FSYNC, 1 },
	{ LOAD_DIRECT, 1 },	{ LOAD_URING, 0 },
	{ LOAD_URING_DIRECT, 1 },
};

#define NLOADS		ARRAY_SIZE(loads)

/* Writers that leave something of the two processors to the suspend. */
#define PAUSE_US	2000

FIXTURE(cycles) {
	struct af_disk disk[FILESYSTEMS];
	char dir[FILESYSTEMS][128];
	struct load *load;
};

static const char * const fs[FILESYSTEMS] = { "xfs", "ext4" };

FIXTURE_SETUP(cycles)
{
	const char *why = af_setup(AF_NULL_BLK | AF_URING | AF_XFS | AF_EXT4);
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	for (i = 0; i < FILESYSTEMS; i++) {
		ASSERT_EQ(0, af_disk_create(&self->disk[i], "afcycle", NULL));
		ASSERT_EQ(0, af_mkfs(fs[i], self->disk[i].node, NULL));
		ASSERT_EQ(0, af_mount(fs[i], self->disk[i].node, fs[i], NULL,
				      self->dir[i]));
	}
	self->load = load_alloc(NLOADS);
	for (i = 0; i < NLOADS; i++) {
		self->load[i].pause_us = PAUSE_US;
		ASSERT_EQ(0, load_start(&self->load[i], loads[i].kind, i,
					self->dir[loads[i].fs]));
	}
}

FIXTURE_TEARDOWN_PARENT(cycles)
{
	EXPECT_EQ(0, af_cleanup());
}

static int compare(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return x < y ? -1 : x > y;
}

TEST_F_TIMEOUT(cycles, many_suspends_under_all_writers_without_a_failure, af_secs(880))
{
	unsigned int wanted = af_env("AF_CYCLES", 200);
	unsigned int seconds = af_env("AF_CYCLES_SECONDS", 780);
	long long begin = af_now_ms();
	unsigned long before[NLOADS];
	struct af_cycle c = { .delay = 0 };
	unsigned int i, n;
	const char *failed = NULL;
	struct af_klog k;
	long *ms;

	ms = calloc(wanted, sizeof(*ms));
	ASSERT_NE(NULL, ms);
	ASSERT_EQ(0, af_klog_mark(&k));
	for (n = 0; n < wanted; n++) {
		if (af_now_ms() - begin > seconds * 1000LL)
			break;
		/* not always at the same point of what the writers do */
		af_sleep_ms(20 + n * 37 % 100);
		if (af_cycle(&c))
			break;
		ms[n] = c.ms;
		/* a suspend that went on without a filesystem does not count */
		failed = af_klog_find(&k, "freezing failed");
		if (failed)
			break;
		if ((n + 1) % 50 == 0)
			af_log("%u cycles in %lld s", n + 1,
			       (af_now_ms() - begin) / 1000);
	}
	EXPECT_EQ(0, c.error) {
		TH_LOG("cycle %u after %ld ms", n + 1, c.ms);
	}
	EXPECT_EQ(NULL, failed) {
		TH_LOG("cycle %u: %s", n + 1, failed);
	}
	EXPECT_EQ(wanted, n);
	if (n) {
		qsort(ms, n, sizeof(*ms), compare);
		af_log("%u of %u cycles without a failure in %lld s", n, wanted,
		       (af_now_ms() - begin) / 1000);
		af_log("ms each: least %ld, median %ld, 95%% %ld, most %ld",
		       ms[0], ms[n / 2], ms[n * 95 / 100], ms[n - 1]);
	}

	for (i = 0; i < NLOADS; i++)
		before[i] = load_progress(&self->load[i]);
	af_sleep_ms(3000);
	for (i = 0; i < NLOADS; i++)
		EXPECT_LT(before[i], load_progress(&self->load[i])) {
			TH_LOG("writer %u of kind %u", i, self->load[i].kind);
		}
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
	for (i = 0; i < FILESYSTEMS; i++) {
		ASSERT_EQ(0, af_umount(self->dir[i]));
		EXPECT_EQ(0, af_fsck(fs[i], self->disk[i].node, NULL));
	}
	EXPECT_EQ(NULL, af_klog_splat(&k));
	af_klog_end(&k);
	free(ms);
}

TEST_HARNESS_MAIN
