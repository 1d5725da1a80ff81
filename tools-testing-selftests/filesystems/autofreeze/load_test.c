// SPDX-License-Identifier: GPL-2.0
/*
 * Suspend succeeds, cycle after cycle, whatever writes to a filesystem that
 * freezes itself, and what was written is there afterwards: in the cache, and on
 * the disk after an unmount that leaves nothing to repair.
 *
 * The knob is at 1: a kernel that freezes filesystems while user tasks still run
 * fails here.  A task that waits for the thaw in a page fault holds the lock of
 * its mapping, a task that wants to change the mapping waits for that lock, and
 * that one cannot be frozen.  And splice() from an empty pipe waits for data
 * with the filesystem held against freezing, for as long as it likes.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "load.h"

/* writers of one kind, or one of each kind */
#define NLOADS(kind)	((kind) == LOAD_KINDS ? LOAD_KINDS : 4)

FIXTURE(load) {
	struct af_disk disk;
	char dir[128];
	struct load *load;
	int pipe[2];
};

FIXTURE_VARIANT(load) {
	unsigned int needs;
	const char *fs;
};

FIXTURE_VARIANT_ADD(load, xfs) {
	.needs = AF_XFS, .fs = "xfs",
};

FIXTURE_VARIANT_ADD(load, ext4) {
	.needs = AF_EXT4, .fs = "ext4",
};

FIXTURE_SETUP(load)
{
	const char *why = af_setup(AF_NULL_BLK | AF_URING | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "afload", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "mnt", NULL,
			      self->dir));
	self->load = load_alloc(LOAD_KINDS);
}

FIXTURE_TEARDOWN_PARENT(load)
{
	EXPECT_EQ(0, af_cleanup());
}

/* @n suspends as @c says, under writers of that kind or of all kinds. */
static void cycles_under(struct __test_metadata *_metadata,
			 FIXTURE_DATA(load) *self,
			 const FIXTURE_VARIANT(load) *variant,
			 enum load_kind kind, unsigned int cycles,
			 struct af_cycle *c)
{
	unsigned long before[LOAD_KINDS];
	unsigned int nloads = NLOADS(kind), i, n;
	long ms = 0;
	struct af_klog k;

	ASSERT_EQ(0, af_klog_mark(&k));
	for (i = 0; i < nloads; i++)
		ASSERT_EQ(0, load_start(&self->load[i],
					kind == LOAD_KINDS ? i : kind, i,
					self->dir));

	for (n = 0; n < cycles; n++) {
		af_sleep_ms(200);
		EXPECT_EQ(0, af_cycle(c)) {
			TH_LOG("cycle %u of %u after %ld ms", n + 1, cycles, c->ms);
		}
		if (c->error)
			return;
		if (c->wake)
			EXPECT_GE(c->slept_ms, 500);
		ms += c->ms;
	}
	/* a suspend that went on without the filesystem does not count */
	EXPECT_EQ(NULL, af_klog_find(&k, "freezing failed"));
	EXPECT_EQ(NULL, af_klog_find(&k, "user space processes failed"));
	af_log("%u cycles, %ld ms each", cycles, ms / cycles);

	for (i = 0; i < nloads; i++)
		before[i] = load_progress(&self->load[i]);
	af_sleep_ms(1000);
	for (i = 0; i < nloads; i++)
		EXPECT_LT(before[i], load_progress(&self->load[i]));

	for (i = 0; i < nloads; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	for (i = 0; i < nloads; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));

	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "mnt", NULL,
			      self->dir));
	for (i = 0; i < nloads; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
	EXPECT_EQ(NULL, af_klog_splat(&k));
	af_klog_end(&k);
}

#define CYCLES_UNDER(name, kind)					\
TEST_F_TIMEOUT(load, suspend_succeeds_under_##name, af_secs(180))		\
{									\
	struct af_cycle c = { .test = "freezer" };			\
									\
	cycles_under(_metadata, self, variant, kind, 2, &c);		\
}

CYCLES_UNDER(buffered_writers, LOAD_BUFFERED)
CYCLES_UNDER(fsync_storm, LOAD_FSYNC)
CYCLES_UNDER(direct_writers, LOAD_DIRECT)
CYCLES_UNDER(mmap_writers, LOAD_MMAP)
CYCLES_UNDER(io_uring_buffered_writers, LOAD_URING)
CYCLES_UNDER(io_uring_direct_writers, LOAD_URING_DIRECT)
CYCLES_UNDER(madvise_of_faulting_shared_mappings, LOAD_MADVISE)

/* Not a test level: the machine sleeps, and the clock wakes it. */
TEST_F_TIMEOUT(load, suspend_to_ram_succeeds_under_all_writers, af_secs(300))
{
	struct af_cycle c = { .wake = 5, .deadline = 120 };

	if (access("/sys/class/rtc/rtc0/wakealarm", W_OK))
		SKIP(return, "needs an RTC that can wake the machine");
	cycles_under(_metadata, self, variant, LOAD_KINDS, 1, &c);
}

/* As a user without any rights, wait for data that never comes. */
static int splice_from_empty_pipe(void *arg)
{
	FIXTURE_DATA(load) *self = arg;
	char path[192];
	int fd;

	snprintf(path, sizeof(path), "%s/public", self->dir);
	if (chdir(path) || setgroups(0, NULL) || setgid(1000) || setuid(1000))
		return -errno;
	fd = open("splice", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(self->pipe[1]);
	if (splice(self->pipe[0], NULL, fd, NULL, 4096, 0) < 0)
		return -errno;
	return 0;
}

TEST_F_TIMEOUT(load, unprivileged_splice_from_empty_pipe_does_not_hold_up_suspend, af_secs(90))
{
	struct af_cycle c = { .deadline = 20 };
	char path[192];
	unsigned int n;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/public", self->dir);
	ASSERT_EQ(0, mkdir(path, 0777));
	ASSERT_EQ(0, chmod(path, 0777));
	ASSERT_EQ(0, pipe(self->pipe));
	pid = af_spawn(splice_from_empty_pipe, self);
	ASSERT_GT(pid, 0);
	af_sleep_ms(500);
	ASSERT_EQ('S', af_task_state(pid)) {
		TH_LOG("splice: %d", af_wait(pid, 1));
	}

	for (n = 0; n < 3; n++) {
		EXPECT_EQ(0, af_cycle(&c)) {
			TH_LOG("cycle %u, %s", n + 1, c.error == -ETIMEDOUT ?
			       "stuck" : "failed");
		}
		if (c.error)
			break;
		EXPECT_LT(c.ms, 4000);
		/* interrupted by the freezer, it has gone back to wait */
		af_sleep_ms(200);
		EXPECT_EQ('S', af_task_state(pid));
		EXPECT_EQ(0, af_writable(self->dir, 10));
	}
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	if (c.error == -ETIMEDOUT)
		af_cycle_wait(&c, 20);
}

TEST_HARNESS_MAIN
