// SPDX-License-Identifier: GPL-2.0
/*
 * Every filesystem that freezes itself and for which there is a mkfs: while it is
 * frozen nothing is written to its disk, whoever asks for it, and what is on the
 * disk is what a machine would find that never resumes.
 *
 * The task that holds the snapshot device is the only one that runs on when
 * tasks are frozen. It copies the disk then, past the page cache.
 */
#define _GNU_SOURCE
#include <linux/loop.h>
#include <linux/suspend_ioctls.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "af_fail.h"
#include "load.h"

#define NLOADS	4
#define DISK_MB	160
#define DIRTY_MB	24

static const enum load_kind kinds[NLOADS] = {
	LOAD_BUFFERED, LOAD_MMAP, LOAD_FSYNC, LOAD_BUFFERED,
};

FIXTURE(fs) {
	struct af_disk disk, dm;
	char dir[128], before[192];
	struct load *load;
	struct af_klog log;
	pid_t churn;
};

FIXTURE_VARIANT(fs) {
	const char *fs;
	unsigned int needs;
	/* FIFREEZE is refused, but device mapper freezes it */
	bool no_fifreeze;
	/* It says that it is mounted, for all to see, as long as it is. */
	bool dirty_bit;
	/* What is deleted and open is not known on the disk, and lost. */
	bool no_orphans;
	/* It may take that long to commit something; flushers take 200 ms here. */
	unsigned int commits_ms;
};

/* How long it is watched */
#define WATCH_MS	((variant->commits_ms ?: 200) + 1000)

FIXTURE_VARIANT_ADD(fs, ext2) {
	.fs = "ext2", .needs = AF_EXT2, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, nilfs2) {
	.fs = "nilfs2", .needs = AF_NILFS2, .commits_ms = 5000,
};

FIXTURE_VARIANT_ADD(fs, vfat) {
	.fs = "vfat", .needs = AF_VFAT, .no_fifreeze = true, .dirty_bit = true,
	.no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, exfat) {
	.fs = "exfat", .needs = AF_EXFAT, .no_fifreeze = true, .dirty_bit = true,
	.no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, udf) {
	.fs = "udf", .needs = AF_UDF, .no_fifreeze = true, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, minix) {
	.fs = "minix", .needs = AF_MINIX, .no_fifreeze = true, .no_orphans = true,
};

struct churn {
	const char *dir;
	bool no_orphans;
};

/* Makes files, and removes them, while they are open if that is not lost. */
static int churn(void *arg)
{
	struct churn *c = arg;
	unsigned int i;
	char path[192];
	int fd[32];

	memset(fd, -1, sizeof(fd));
	for (i = 0;; i++) {
		int *f = &fd[i % ARRAY_SIZE(fd)];

		close(*f);
		snprintf(path, sizeof(path), "%s/new.%u", c->dir, i % 64);
		*f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (*f < 0 || write(*f, path, sizeof(path)) < 0)
			return -errno;
		if (c->no_orphans) {
			close(*f);
			*f = -1;
		}
		if (unlink(path))
			return -errno;
		usleep(2000);
	}
}

static int put_file(const char *path, unsigned int kb)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), ret = 0;
	char buf[1024];

	memset(buf, 'b', sizeof(buf));
	while (fd >= 0 && kb-- && !ret)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			ret = -errno;
	if (fd < 0 || fsync(fd))
		ret = -errno;
	close(fd);
	return ret;
}

static bool is_whole(const char *path, unsigned int kb)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[1024], want[1024];
	bool ret = fd >= 0;

	memset(want, 'b', sizeof(want));
	while (ret && kb--)
		ret = read(fd, buf, sizeof(buf)) == sizeof(buf) &&
		      !memcmp(buf, want, sizeof(buf));
	close(fd);
	return ret;
}

FIXTURE_SETUP(fs)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_SNAPSHOT | AF_LOOP |
				   variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set("/sys/power/pm_test", "none"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "fs", &o));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "fs", &self->disk));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->dm.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->dm.node, "fs", NULL, self->dir));
	snprintf(self->before, sizeof(self->before), "%s/before", self->dir);
	ASSERT_EQ(0, put_file(self->before, 256));
	sync();
	self->load = load_alloc(NLOADS);
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(fs)
{
	af_cleanup();
}

static void start_loads(struct __test_metadata *_metadata, FIXTURE_DATA(fs) *self,
			bool no_orphans)
{
	struct churn c = { self->dir, no_orphans };
	int i;

	for (i = 0; i < NLOADS; i++)
		ASSERT_EQ(0, load_start(&self->load[i], kinds[i], i, self->dir));
	self->churn = af_spawn(churn, &c);
	ASSERT_LT(0, self->churn);
	af_sleep_ms(1000);
}

/* They go on, and all that they wrote is there. */
static void stop_loads(struct __test_metadata *_metadata, FIXTURE_DATA(fs) *self)
{
	unsigned long before[NLOADS];
	int i;

	for (i = 0; i < NLOADS; i++)
		before[i] = load_progress(&self->load[i]);
	for (i = 0; i < 100; i++) {
		af_sleep_ms(100);
		if (load_progress(&self->load[0]) != before[0])
			break;
	}
	af_sleep_ms(500);
	for (i = 0; i < NLOADS; i++)
		EXPECT_LT(before[i], load_progress(&self->load[i]));
	EXPECT_EQ(-EINTR, af_kill(self->churn, 20));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
}

TEST_F_TIMEOUT(fs, nothing_is_written_while_tasks_are_frozen_and_the_disk_is_in_order, af_secs(120))
{
	unsigned long long frozen, later;
	struct af_disk loop;
	char copy[128], dir[128], path[160];
	long long start, ms;
	int snap, err, ret;

	snprintf(copy, sizeof(copy), "%s.copy", af_dir("fs"));
	start_loads(_metadata, self, variant->no_orphans);
	snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, snap);
	start = af_now_ms();
	ASSERT_EQ(0, ioctl(snap, SNAPSHOT_FREEZE, 0));
	ms = af_now_ms() - start;
	frozen = disk_io(&self->disk).sectors;
	af_sleep_ms(WATCH_MS);
	later = disk_io(&self->disk).sectors;
	err = af_copy(self->disk.node, copy);
	ASSERT_EQ(0, ioctl(snap, SNAPSHOT_UNFREEZE, 0));
	close(snap);
	EXPECT_EQ(0, err);
	EXPECT_EQ(frozen, later);
	TH_LOG("tasks and filesystems were frozen after %lld ms", ms);

	EXPECT_TRUE(becomes_unfrozen(self->dir, 5000));
	stop_loads(_metadata, self);
	ASSERT_EQ(0, af_umount(self->dir));
	ret = af_fsck(variant->fs, self->dm.node, NULL);
	EXPECT_TRUE(!ret || ret == -ENOENT);
	/* As if the machine had been switched off in the middle of it */
	ASSERT_EQ(0, af_loop_attach(&loop, copy));
	if (!variant->dirty_bit) {
		ret = af_fsck(variant->fs, loop.node, NULL);
		EXPECT_TRUE(!ret || ret == -ENOENT);
	}
	ASSERT_EQ(0, af_mount(variant->fs, loop.node, "copy", NULL, dir));
	snprintf(path, sizeof(path), "%s/before", dir);
	EXPECT_TRUE(is_whole(path, 256));
	ASSERT_EQ(0, af_umount(dir));
	EXPECT_EQ(NULL, af_klog_find(&self->log, "unchecked fs"));	/* ext2, nilfs2 */
	unlink(copy);
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

static int do_sync(void *unused)
{
	(void)unused;
	sync();
	return 0;
}

TEST_F_TIMEOUT(fs, nothing_is_written_while_userspace_has_it_frozen_whoever_syncs, af_secs(90))
{
	unsigned long long frozen, later;
	int sync;

	if (variant->no_fifreeze)
		SKIP(return, "FIFREEZE is refused");
	start_loads(_metadata, self, variant->no_orphans);
	ASSERT_EQ(0, af_fifreeze(self->dir));
	frozen = disk_io(&self->disk).sectors;
	sync = af_bounded(10, do_sync, NULL);
	af_sleep_ms(WATCH_MS);
	later = disk_io(&self->disk).sectors;
	ASSERT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, sync);
	EXPECT_EQ(frozen, later);
	stop_loads(_metadata, self);
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

struct holder {
	char path[192];
	int ready;
};

static int hold_unlinked(void *arg)
{
	struct holder *h = arg;
	int fd = open(h->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char buf[65536] = {};

	if (fd < 0 || write(fd, buf, sizeof(buf)) < 0 || fsync(fd) || unlink(h->path))
		return -errno;
	if (write(h->ready, "", 1) != 1)
		return -errno;
	pause();
	return 0;
}

/*
 * The last one to have a file open may go away while it is frozen. What is left of
 * the file has to be removed then, which is a write.
 */
TEST_F_TIMEOUT(fs, removal_of_a_deleted_file_waits_for_the_thaw, af_secs(60))
{
	struct holder h;
	int fds[2], i;
	char state = 'R', c;
	pid_t pid;

	snprintf(h.path, sizeof(h.path), "%s/held", self->dir);
	ASSERT_EQ(0, pipe(fds));
	h.ready = fds[1];
	pid = af_spawn(hold_unlinked, &h);
	ASSERT_LT(0, pid);
	ASSERT_EQ(1, read(fds[0], &c, 1));
	sync();

	ASSERT_EQ(0, variant->no_fifreeze ? af_dm_suspend(&self->dm, true, true) :
					    af_fifreeze(self->dir));
	kill(pid, SIGKILL);
	for (i = 0; i < 20 && state != 'D'; i++) {
		af_sleep_ms(100);
		state = af_task_state(pid);
	}
	ASSERT_EQ(0, variant->no_fifreeze ? af_dm_resume(&self->dm) :
					    af_fithaw(self->dir));
	EXPECT_EQ('D', state);
	EXPECT_EQ(-EINTR, af_wait(pid, 20));
	ASSERT_EQ(0, af_umount(self->dir));
	i = af_fsck(variant->fs, self->dm.node, NULL);
	EXPECT_TRUE(!i || i == -ENOENT);
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- loop devices on what does not freeze itself but stands on what does ----- */

FIXTURE(loop) {
	struct af_disk disk, loop;
	char dir[128], overlay[128], file[192];
	struct af_klog log;
};

FIXTURE_SETUP(loop)
{
	struct af_disk_opts o = { .mbps = 8 };
	const char *why = af_setup(AF_NULL_BLK | AF_EXT4 | AF_LOOP | AF_OVERLAY);
	static const char * const subdirs[] = { "lower", "upper", "work" };
	char path[256], opts[512];
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "loop", &o));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "loop", NULL, self->dir));
	for (i = 0; i < ARRAY_SIZE(subdirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", self->dir, subdirs[i]);
		ASSERT_EQ(0, mkdir(path, 0755));
	}
	snprintf(opts, sizeof(opts), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work",
		 self->dir, self->dir, self->dir);
	snprintf(self->overlay, sizeof(self->overlay), "%s", af_dir("overlay"));
	ASSERT_EQ(0, mount("overlay", self->overlay, "overlay", 0, opts));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(loop)
{
	if (self->overlay[0])
		umount2(self->overlay, MNT_DETACH);
	af_cleanup();
}

/*
 * The disk is slow and the loop device does direct I/O, so that the flusher is at
 * it all the time: also when the filesystem below is frozen and kernel threads,
 * which workqueues count among, are about to be.
 */
TEST_F_TIMEOUT(loop, dirty_device_on_overlayfs_does_not_keep_the_machine_awake, af_secs(120))
{
	struct af_cycle c = { .test = "freezer", .deadline = 30 };
	static char buf[1 << 20];
	char path[128];
	int fd, i;

	af_set("/sys/power/sync_on_suspend", "0");
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	snprintf(self->file, sizeof(self->file), "%s/file", self->overlay);
	fd = open(self->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, posix_fallocate(fd, 0, DIRTY_MB << 20));
	close(fd);
	sync();
	ASSERT_EQ(0, af_loop_attach(&self->loop, self->file));
	fd = open(self->loop.node, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	if (ioctl(fd, LOOP_SET_DIRECT_IO, 1))
		SKIP(return, "no direct I/O to a file on overlayfs");
	/* what has been started is waited for, that must not be all of it */
	snprintf(path, sizeof(path), "/sys/block/%s/queue/nr_requests",
		 strrchr(self->loop.node, '/') + 1);
	ASSERT_EQ(0, af_write(path, "4"));
	memset(buf, 'l', sizeof(buf));
	for (i = 0; i < DIRTY_MB; i++)
		ASSERT_EQ((ssize_t)sizeof(buf), write(fd, buf, sizeof(buf)));
	EXPECT_EQ(0, af_cycle(&c));
	af_log("suspend: %d, %ld ms", c.error, c.ms);
	EXPECT_EQ(0, fsync(fd));
	close(fd);
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

static int discard(void *node)
{
	unsigned long long range[2] = { 0, 1 << 20 };
	int fd = open(node, O_RDWR | O_CLOEXEC);

	return fd >= 0 && !ioctl(fd, BLKDISCARD, range) ? 0 : -errno;
}

TEST_F_TIMEOUT(loop, discard_waits_while_the_file_is_on_a_frozen_filesystem, af_secs(60))
{
	char state = 'R';
	pid_t pid;
	int i;

	snprintf(self->file, sizeof(self->file), "%s/file", self->dir);
	ASSERT_EQ(0, put_file(self->file, 2 << 10));
	ASSERT_EQ(0, af_loop_attach(&self->loop, self->file));
	ASSERT_EQ(0, af_fifreeze(self->dir));
	pid = af_spawn(discard, self->loop.node);
	for (i = 0; i < 20 && state != 'D'; i++) {
		af_sleep_ms(100);
		state = af_task_state(pid);
	}
	ASSERT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ('D', state);
	EXPECT_EQ(0, af_wait(pid, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_HARNESS_MAIN
