// SPDX-License-Identifier: GPL-2.0
/*
 * A task can be frozen where it sleeps, while it holds freeze protection, and
 * then no filesystem freeze can wait for it: it runs again only after the
 * transition.  Such a task must not make hibernation fail when all that it
 * needs is to run on for a moment, and must not hold up suspend in any case.
 *
 * The task here write()s to the filesystem from a mapping of a file on FUSE.
 * The page fault in the middle of the write reads ahead, and sleeps until the
 * server has answered another request, since no more than one may be on its
 * way in the background.  With lockdep it cannot be tested: that warns of it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "af_fail.h"
#include "fuse.h"

#define FILE_SIZE	0x100000
#define PAGE		4096
#define HELD_OFFSET	0		/* reading there is not answered at once */
#define MAPPED_OFFSET	(FILE_SIZE / 2)	/* far from it for any readahead */

enum release {
	NEVER,
	WHEN_THAWED,	/* after the server itself has been frozen */
	NOW,
};

struct server {
	int release;
	__u64 held;		/* the request that is not answered */
	__u32 held_size;
	int thawed;
};

/* What the server does not answer at once, and when it does. */
static bool hold_read(struct fuse_server *f, __u64 unique,
		      const struct fuse_read_in *rd)
{
	struct server *s = f->private;

	if (rd->offset != HELD_OFFSET || get(s->release) == NOW)
		return false;
	s->held_size = rd->size;
	set(s->held, unique);
	return true;
}

static void release_read(struct fuse_server *f, bool thawed)
{
	struct server *s = f->private;

	if (thawed)
		set(s->thawed, s->thawed + 1);
	if (s->held && (get(s->release) == NOW ||
			(get(s->release) == WHEN_THAWED && s->thawed))) {
		fuse_answer(f, s->held, 0, f->data + HELD_OFFSET, s->held_size);
		set(s->held, 0);
	}
}

FIXTURE(inplace) {
	struct af_disk disk, other, under, loop;
	char dir[128], other_dir[128], fuse_dir[128], storage_dir[128];
	struct af_klog log;
	struct server *server;
	pid_t server_pid, writer_pid;
};

FIXTURE_VARIANT(inplace) {
	const char *fs;
	unsigned int needs;
	bool served;		/* so it is frozen before tasks */
};

FIXTURE_VARIANT_ADD(inplace, xfs) { .fs = "xfs", .needs = AF_XFS };
FIXTURE_VARIANT_ADD(inplace, ext4) { .fs = "ext4", .needs = AF_EXT4 };
FIXTURE_VARIANT_ADD(inplace, ext4_before_tasks) {
	.fs = "ext4", .needs = AF_EXT4 | AF_DM | AF_LOOP, .served = true,
};

struct write_arg {
	const char *dir;
	const void *map;
};

static int write_from_mapping(void *arg)
{
	struct write_arg *w = arg;
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/from-mapping", w->dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, w->map, PAGE) != PAGE)
		return -errno;
	close(fd);
	return 0;
}

/* The end of the disk, where nothing is written, is a file on another FUSE. */
static int serve_disk(FIXTURE_DATA(inplace) *self)
{
	struct fuse_server *storage = fuse_alloc(FILE_SIZE);
	char text[256];
	int ret;

	if (!storage)
		return -ENOMEM;
	self->under = self->disk;
	snprintf(self->storage_dir, sizeof(self->storage_dir), "%s", af_dir("storage"));
	ret = fuse_start(storage, self->storage_dir);
	if (ret < 0)
		return ret;
	snprintf(text, sizeof(text), "%s/" FUSE_FILE, self->storage_dir);
	ret = af_loop_attach(&self->loop, text);
	snprintf(text, sizeof(text), "0 %llu linear %u:%u 0\n%llu %llu linear %u:%u 0",
		 self->under.sectors, major(self->under.dev), minor(self->under.dev),
		 self->under.sectors, self->loop.sectors, major(self->loop.dev),
		 minor(self->loop.dev));
	return ret ?: af_dm_create(&self->disk, "inplace", text);
}

FIXTURE_SETUP(inplace)
{
	const char *why = af_setup(AF_NULL_BLK | AF_FUSE | variant->needs);
	struct write_arg w = { .dir = self->dir };
	struct fuse_server *fuse;
	char path[256];
	int fd, i;

	if (why)
		SKIP(return, "%s", why);
	if (!access("/proc/lockdep", F_OK))
		SKIP(return, "lockdep warns of tasks that are frozen with locks held, as here");
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "inplace", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	if (variant->served)
		ASSERT_EQ(0, serve_disk(self));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "inplace", NULL, self->dir));
	ASSERT_EQ(0, af_disk_create(&self->other, "other", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->other.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->other.node, "other", NULL, self->other_dir));

	self->server = mmap(NULL, sizeof(*self->server), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->server);
	fuse = fuse_alloc(FILE_SIZE);
	ASSERT_NE(NULL, fuse);
	fuse->private = self->server;
	fuse->hold = hold_read;
	fuse->idle = release_read;
	/* one at a time, and nobody skips his turn for congestion */
	fuse->max_background = 1;
	fuse->congestion_threshold = 8;
	snprintf(self->fuse_dir, sizeof(self->fuse_dir), "%s", af_dir("fuse"));
	self->server_pid = fuse_start(fuse, self->fuse_dir);
	ASSERT_LT(0, self->server_pid);

	snprintf(path, sizeof(path), "%s/" FUSE_FILE, self->fuse_dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	w.map = mmap(NULL, FILE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, w.map);
	w.map += MAPPED_OFFSET;
	ASSERT_EQ(0, posix_fadvise(fd, HELD_OFFSET, PAGE, POSIX_FADV_WILLNEED));
	for (i = 0; i < 100 && !get(self->server->held); i++)
		af_sleep_ms(20);
	ASSERT_NE(0, get(self->server->held));

	self->writer_pid = af_spawn(write_from_mapping, &w);
	ASSERT_LT(0, self->writer_pid);
	for (i = 0; i < 100 && af_task_state(self->writer_pid) != 'D'; i++)
		af_sleep_ms(20);
	af_sleep_ms(100);
	ASSERT_EQ('D', af_task_state(self->writer_pid));
	/* the file is open; what it waits for is not to do with the filesystem */
	ASSERT_EQ(0, af_writable(self->dir, 10));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(inplace)
{
	/* the connection ends with its last file descriptor, or now */
	if (self->fuse_dir[0])
		umount2(self->fuse_dir, MNT_FORCE | MNT_DETACH);
	if (self->storage_dir[0])
		umount2(self->storage_dir, MNT_FORCE | MNT_DETACH);
	af_cleanup();
}

static void expect_all_is_over(struct __test_metadata *_metadata,
			       FIXTURE_DATA(inplace) * self)
{
	set(self->server->release, NOW);
	EXPECT_EQ(0, af_wait(self->writer_pid, 10));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_TRUE(becomes_unfrozen(self->other_dir, 5000));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(0, af_writable(self->other_dir, 10));
	EXPECT_EQ(0, af_suspend(0));
	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_F_TIMEOUT(inplace, hibernation_works_when_it_only_needs_to_run_on, af_secs(90))
{
	struct af_cycle c = { .state = "disk", .deadline = 25 };

	if (variant->served)
		SKIP(return, "the server only answers after it was frozen, too late here");
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "4000"));
	set(self->server->release, WHEN_THAWED);
	EXPECT_EQ(0, af_cycle(&c));
	af_log("hibernation took %ld ms, the server was thawed %d times", c.ms,
	       get(self->server->thawed));
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	expect_all_is_over(_metadata, self);
}

TEST_F_TIMEOUT(inplace, suspend_works_when_it_only_needs_to_run_on, af_secs(90))
{
	struct af_cycle c = { .deadline = 25 };

	if (variant->served)
		SKIP(return, "the server only answers after it was frozen, too late here");
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "4000"));
	set(self->server->release, WHEN_THAWED);
	EXPECT_EQ(0, af_cycle(&c));
	af_log("suspend took %ld ms, the server was thawed %d times", c.ms,
	       get(self->server->thawed));
	expect_all_is_over(_metadata, self);
}

/* A server that does not answer must not keep the machine awake. */
TEST_F_TIMEOUT(inplace, suspend_works_when_the_server_never_answers, af_secs(90))
{
	struct af_cycle c = { .deadline = 25 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "1000"));
	EXPECT_EQ(0, af_cycle(&c));
	af_log("suspend took %ld ms", c.ms);
	EXPECT_GT(1000 + 4000, c.ms);
	EXPECT_TRUE(freeze_failure_named(&self->log, variant->fs, &self->disk));
	/* other writers are not kept out by the freeze that was given up */
	EXPECT_EQ(0, af_writable(self->dir, 10));
	expect_all_is_over(_metadata, self);
}

TEST_F_TIMEOUT(inplace, hibernation_fails_in_time_when_the_server_never_answers, af_secs(90))
{
	struct af_cycle c = { .state = "disk", .deadline = 25 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "1000"));
	EXPECT_NE(0, af_cycle(&c));
	af_log("hibernation took %ld ms and returned %d", c.ms, c.error);
	/* a hang is no failure in time: nothing was measured then */
	ASSERT_LT(0, c.ms);
	EXPECT_GT(1000 + 4000, c.ms);
	EXPECT_TRUE(freeze_failure_named(&self->log, variant->fs, &self->disk));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	expect_all_is_over(_metadata, self);
}

TEST_F_TIMEOUT(inplace, wakeup_ends_the_wait_for_it_at_once, af_secs(90))
{
	struct af_cycle c = { .deadline = 25 };
	struct wakeup w = { 0 };
	long long late;

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, wakeup_arm(&w, 1500));
	EXPECT_EQ(-EBUSY, af_cycle(&c));
	late = af_now_ms() - w.at_ms;
	wakeup_end(&w);
	af_log("returned %lld ms after the event", late);
	ASSERT_LE(0, late)
		TH_LOG("it did not wait at all");
	EXPECT_GT(1000, late);
	EXPECT_EQ(0, af_writable(self->dir, 10));
	expect_all_is_over(_metadata, self);
}

static int freeze_dir(void *dir)
{
	return af_fifreeze(dir);
}

/* FIFREEZE waits for writers as well, and whoever waits can be killed. */
TEST_F_TIMEOUT(inplace, freeze_ioctl_that_waits_for_it_can_be_killed, af_secs(60))
{
	pid_t pid = af_spawn(freeze_dir, self->dir);

	ASSERT_LT(0, pid);
	af_sleep_ms(500);
	ASSERT_NE('Z', af_task_state(pid));
	EXPECT_EQ(-EINTR, af_kill(pid, 5));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	set(self->server->release, NOW);
	EXPECT_EQ(0, af_wait(self->writer_pid, 10));
	EXPECT_EQ(0, af_fifreeze(self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
