// SPDX-License-Identifier: GPL-2.0
/*
 * Every filesystem that freezes itself and for which there is a mkfs: while it is
 * frozen nothing is written to its disk, whoever asks for it, and what is on the
 * disk is what a machine would find that never resumes. And what each of them
 * does in the background neither writes meanwhile nor delays the freeze.
 *
 * The task that holds the snapshot device is the only one that runs on when
 * tasks are frozen. It copies the disk then, past the page cache.
 */
#define _GNU_SOURCE
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/suspend_ioctls.h>
#include <mtd/ubi-user.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/statfs.h>

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
	struct af_disk disk[2], dm;
	char dir[128], before[192];
	struct load *load;
	struct af_klog log;
	pid_t churn, trim;
};

FIXTURE_VARIANT(fs) {
	const char *fs;
	unsigned int needs;
	const char *mkfs;	/* options; %s is the node of a second disk */
	const char *mount;
	/* FIFREEZE is refused, but device mapper freezes it */
	bool no_fifreeze;
	/* It says that it is mounted, for all to see, as long as it is. */
	bool dirty_bit;
	/* What is deleted and open is not known on the disk, and lost. */
	bool no_orphans;
	/* Who drops the last reference to a deleted file does not wait, nor delete it. */
	bool deletes_later;
	/* Nobody frees what the log has left behind: what may be written a second */
	unsigned int mbps;
	/* It may take that long to commit something; flushers take 200 ms here. */
	unsigned int commits_ms;
	/* There is FITRIM, and it waits if userspace has it frozen. */
	bool trims, trim_waits;
	/* 1 to this file in /sys/fs, of a disk, makes it collect garbage all the time. */
	const char *gc;
};

/* How long it is watched */
#define WATCH_MS	((variant->commits_ms ?: 200) + 1000)

FIXTURE_VARIANT_ADD(fs, ext2) {
	.fs = "ext2", .needs = AF_EXT2, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, f2fs) {
	.fs = "f2fs", .needs = AF_F2FS, .deletes_later = true,
	.trims = true, .trim_waits = true,
};

FIXTURE_VARIANT_ADD(fs, f2fs_gc) {
	.fs = "f2fs", .needs = AF_F2FS, .mount = "gc_merge", .deletes_later = true,
	.trims = true, .trim_waits = true, .gc = "f2fs/%s/gc_urgent",
};

FIXTURE_VARIANT_ADD(fs, nilfs2) {
	.fs = "nilfs2", .needs = AF_NILFS2, .commits_ms = 5000, .mbps = 30,
};

FIXTURE_VARIANT_ADD(fs, jfs) {
	.fs = "jfs", .needs = AF_JFS, .no_orphans = true,
	.trims = true, .trim_waits = true,
};

FIXTURE_VARIANT_ADD(fs, btrfs) {
	.fs = "btrfs", .needs = AF_BTRFS, .trims = true, .trim_waits = true,
};

FIXTURE_VARIANT_ADD(fs, btrfs_raid1) {
	.fs = "btrfs", .needs = AF_BTRFS, .mkfs = "-m raid1 -d raid1 %s",
	.trims = true, .trim_waits = true,
};

FIXTURE_VARIANT_ADD(fs, vfat) {
	.fs = "vfat", .needs = AF_VFAT, .no_fifreeze = true, .dirty_bit = true,
	.no_orphans = true, .trims = true,
};

FIXTURE_VARIANT_ADD(fs, exfat) {
	.fs = "exfat", .needs = AF_EXFAT, .no_fifreeze = true, .dirty_bit = true,
	.no_orphans = true, .trims = true,
};

FIXTURE_VARIANT_ADD(fs, udf) {
	.fs = "udf", .needs = AF_UDF, .no_fifreeze = true, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, minix) {
	.fs = "minix", .needs = AF_MINIX, .no_fifreeze = true, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, ntfs3) {
	.fs = "ntfs3", .needs = AF_NTFS3, .no_fifreeze = true, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, ocfs2) {
	.fs = "ocfs2", .needs = AF_OCFS2, .mount = "heartbeat=none",
	.no_fifreeze = true, .dirty_bit = true, .commits_ms = 5000, .trims = true,
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

/* Discards what is free, over and over. */
static int trim(void *dir)
{
	struct fstrim_range range;
	int fd = open(dir, O_RDONLY | O_CLOEXEC);

	for (;;) {
		range = (struct fstrim_range){ .len = UINT64_MAX };
		if (fd < 0 || ioctl(fd, FITRIM, &range))
			return -errno;
		usleep(20000);
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
	struct af_disk_opts o = {
		.mb = DISK_MB, .mbps = variant->mbps, .discard = variant->trims,
	};
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_SNAPSHOT | AF_LOOP |
				   variant->needs);
	char opts[256], path[300], id[64];
	int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set("/sys/power/pm_test", "none"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, af_disk_create(&self->disk[i], "fs", &o));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "fs", &self->disk[0]));
	snprintf(opts, sizeof(opts), variant->mkfs ?: "", self->disk[1].node);
	ASSERT_EQ(0, af_mkfs(variant->fs, self->dm.node, opts));
	ASSERT_EQ(0, af_mount(variant->fs, self->dm.node, "fs", variant->mount, self->dir));
	snprintf(self->before, sizeof(self->before), "%s/before", self->dir);
	ASSERT_EQ(0, put_file(self->before, 256));
	sync();
	if (variant->gc) {
		snprintf(opts, sizeof(opts), variant->gc,
			 disk_id(&self->dm, id, sizeof(id)));
		snprintf(path, sizeof(path), "/sys/fs/%s", opts);
		ASSERT_EQ(0, af_write(path, "1"));
	}
	self->load = load_alloc(NLOADS);
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(fs)
{
	af_cleanup();
}

static unsigned long long sectors_written(FIXTURE_DATA(fs) *self)
{
	struct disk_io a = disk_io(&self->disk[0]), b = disk_io(&self->disk[1]);

	return a.sectors + a.discarded + b.sectors + b.discarded;
}

static void start_loads(struct __test_metadata *_metadata, FIXTURE_DATA(fs) *self,
			bool no_orphans, bool trims)
{
	struct churn c = { self->dir, no_orphans };
	pid_t pid = 0;
	int i;

	for (i = 0; i < NLOADS; i++)
		ASSERT_EQ(0, load_start(&self->load[i], kinds[i], i, self->dir));
	self->churn = af_spawn(churn, &c);
	ASSERT_LT(0, self->churn);
	if (trims)
		pid = af_spawn(trim, self->dir);
	ASSERT_LE(0, pid);
	self->trim = pid;
	af_sleep_ms(1000);
}

/* They go on, and all that they wrote is there. */
static void stop_loads(struct __test_metadata *_metadata, FIXTURE_DATA(fs) *self)
{
	unsigned long before[NLOADS];
	long long end;
	int i;

	for (i = 0; i < NLOADS; i++)
		before[i] = load_progress(&self->load[i]);
	end = af_now_ms() + af_secs(10) * 1000LL;
	for (i = 0; i < NLOADS; i++) {
		while (load_progress(&self->load[i]) == before[i] && af_now_ms() < end)
			af_sleep_ms(50);
		EXPECT_LT(before[i], load_progress(&self->load[i]));
	}
	EXPECT_EQ(-EINTR, af_kill(self->churn, 20));
	if (self->trim)
		EXPECT_EQ(-EINTR, af_kill(self->trim, 20));
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
	int snap, err = 0, ret;

	snprintf(copy, sizeof(copy), "%s.copy", af_dir("fs"));
	start_loads(_metadata, self, variant->no_orphans, variant->trims);
	snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, snap);
	start = af_now_ms();
	ASSERT_EQ(0, ioctl(snap, SNAPSHOT_FREEZE, 0));
	ms = af_now_ms() - start;
	frozen = sectors_written(self);
	af_sleep_ms(WATCH_MS);
	later = sectors_written(self);
	if (!variant->mkfs)
		err = af_copy(self->disk[0].node, copy);
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
	if (!variant->mkfs) {
		/* As if the machine had been switched off in the middle of it */
		ASSERT_EQ(0, af_loop_attach(&loop, copy));
		if (!variant->dirty_bit) {
			ret = af_fsck(variant->fs, loop.node, NULL);
			EXPECT_TRUE(!ret || ret == -ENOENT);
		}
		/* btrfs does not want to see two of the same UUID */
		ASSERT_EQ(0, af_dm_remove(&self->dm));
		ASSERT_EQ(0, af_mount(variant->fs, loop.node, "copy", variant->mount, dir));
		snprintf(path, sizeof(path), "%s/before", dir);
		EXPECT_TRUE(is_whole(path, 256));
		ASSERT_EQ(0, af_umount(dir));
		EXPECT_EQ(NULL, af_klog_find(&self->log, "unchecked fs"));	/* ext2, nilfs2 */
	}
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

static int fifreeze(void *dir)
{
	return af_fifreeze(dir);
}

TEST_F_TIMEOUT(fs, nothing_is_written_while_userspace_has_it_frozen_whoever_syncs, af_secs(90))
{
	unsigned long long frozen, later;
	int sync;

	if (variant->no_fifreeze)
		SKIP(return, "FIFREEZE is refused");
	start_loads(_metadata, self, variant->no_orphans, variant->trim_waits);
	ASSERT_EQ(0, af_fifreeze(self->dir));
	frozen = sectors_written(self);
	sync = af_bounded(10, do_sync, NULL);
	af_sleep_ms(WATCH_MS);
	later = sectors_written(self);
	ASSERT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, sync);
	EXPECT_EQ(frozen, later);
	stop_loads(_metadata, self);
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* Does it sleep uninterruptibly, within 2 s? */
static bool comes_to_wait(pid_t pid)
{
	int i;

	for (i = 0; i < 20; i++) {
		if (af_task_state(pid) == 'D')
			return true;
		af_sleep_ms(100);
	}
	return false;
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

	if (fd < 0 || write(fd, buf, sizeof(buf)) < 0 || fsync(fd))
		return -errno;
	/* To close what can be written to may be a write, too. */
	if (open(h->path, O_RDONLY | O_CLOEXEC) < 0 || close(fd) || unlink(h->path))
		return -errno;
	if (write(h->ready, "", 1) != 1)
		return -errno;
	pause();
	return 0;
}

/* A child that has a deleted file in @dir open until it is killed, or -errno */
static pid_t spawn_holder(const char *dir)
{
	struct holder h;
	int fds[2];
	pid_t pid;
	char c;

	if (pipe(fds))
		return -errno;
	snprintf(h.path, sizeof(h.path), "%s/held", dir);
	h.ready = fds[1];
	pid = af_spawn(hold_unlinked, &h);
	close(fds[1]);
	if (pid > 0 && read(fds[0], &c, 1) != 1)
		pid = -EIO;
	close(fds[0]);
	return pid;
}

/* Not while device mapper has it suspended: that may have to read. */
static long long blocks_free(const char *dir)
{
	struct statfs st;

	return statfs(dir, &st) ? -errno : (long long)st.f_bfree;
}

/*
 * The last one to have a file open may go away while it is frozen. What is left of
 * the file has to be removed then, which is a write.
 */
TEST_F_TIMEOUT(fs, removal_of_a_deleted_file_waits_for_the_thaw, af_secs(60))
{
	long long before = 0, frozen = 0;
	bool waits;
	pid_t pid;
	int ret, i;

	pid = spawn_holder(self->dir);
	ASSERT_LT(0, pid);
	sync();

	ASSERT_EQ(0, variant->no_fifreeze ? af_dm_suspend(&self->dm, true, true) :
					    af_fifreeze(self->dir));
	if (!variant->no_fifreeze)
		before = blocks_free(self->dir);
	kill(pid, SIGKILL);
	waits = comes_to_wait(pid);
	if (!variant->no_fifreeze)
		frozen = blocks_free(self->dir);
	ASSERT_EQ(0, variant->no_fifreeze ? af_dm_resume(&self->dm) :
					    af_fithaw(self->dir));
	EXPECT_EQ(!variant->deletes_later, waits);
	EXPECT_LE(0, before);
	EXPECT_EQ(before, frozen);
	EXPECT_EQ(-EINTR, af_wait(pid, 20));
	for (i = 0; variant->deletes_later && blocks_free(self->dir) <= before; i++) {
		ASSERT_GT(100, i)
			TH_LOG("the deleted file takes space after the thaw");
		af_sleep_ms(100);
	}
	ASSERT_EQ(0, af_umount(self->dir));
	ret = af_fsck(variant->fs, self->dm.node, NULL);
	EXPECT_TRUE(!ret || ret == -ENOENT);
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- f2fs: who needs space waits for a thread that collects garbage ----------- */

#define NWRITERS	3

FIXTURE(f2fs) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(f2fs)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	const char *why = af_setup(AF_NULL_BLK | AF_F2FS);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "f2fs", &o));
	ASSERT_EQ(0, af_mkfs("f2fs", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("f2fs", self->disk.node, "f2fs", "gc_merge,mode=lfs", self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(f2fs)
{
	af_cleanup();
}

/* Here and there in a file of that many blocks, each of which goes somewhere else */
static int overwrite(void *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	unsigned int seed = getpid();
	char buf[4096] = {};
	struct stat st;
	unsigned int i;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	for (i = 1;; i++) {
		if (pwrite(fd, buf, sizeof(buf), rand_r(&seed) % (st.st_size >> 12) << 12) < 0)
			return -errno;
		if (i % 256 == 0 && fsync(fd))
			return -errno;
	}
}

TEST_F_TIMEOUT(f2fs, full_filesystem_freezes_while_writers_wait_for_gc, af_secs(120))
{
	struct churn c = { self->dir, true };
	struct statfs st;
	pid_t pid[NWRITERS];
	char path[160];
	int i;

	ASSERT_EQ(0, statfs(self->dir, &st));
	snprintf(path, sizeof(path), "%s/file", self->dir);
	ASSERT_EQ(0, put_file(path, st.f_bavail * (st.f_bsize >> 10) * 9 / 10));
	for (i = 0; i < NWRITERS; i++)
		pid[i] = af_spawn(overwrite, path);
	ASSERT_LT(0, af_spawn(churn, &c));
	af_sleep_ms(3000);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, af_bounded(20, fifreeze, self->dir));
		ASSERT_EQ(0, af_fithaw(self->dir));
		af_sleep_ms(200);
	}
	for (i = 0; i < NWRITERS; i++)
		EXPECT_EQ(-EINTR, af_kill(pid[i], 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- jfs: the log is not one of the filesystem alone ------------------------- */

FIXTURE(jfs) {
	struct af_disk disk[3];
	char dir[2][128];
	struct af_klog log;
};

FIXTURE_SETUP(jfs)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	const char *why = af_setup(AF_NULL_BLK | AF_JFS);
	int i;

	if (why)
		SKIP(return, "%s", why);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, af_disk_create(&self->disk[i], "jfs", &o));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(jfs)
{
	af_cleanup();
}

TEST_F_TIMEOUT(jfs, a_filesystem_without_a_log_freezes, af_secs(60))
{
	ASSERT_EQ(0, af_mkfs("jfs", self->disk[0].node, NULL));
	ASSERT_EQ(0, af_mount("jfs", self->disk[0].node, "jfs", "nointegrity", self->dir[0]));
	EXPECT_EQ(0, af_writable(self->dir[0], 10));
	EXPECT_EQ(0, af_fifreeze(self->dir[0]));
	EXPECT_EQ(0, af_fithaw(self->dir[0]));
	EXPECT_EQ(0, af_writable(self->dir[0], 10));
	EXPECT_EQ(0, af_umount(self->dir[0]));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_F_TIMEOUT(jfs, filesystems_that_share_a_log_freeze_one_by_one, af_secs(90))
{
	struct af_cycle c = { .test = "freezer", .deadline = 30 };
	char opts[128];
	int i;

	ASSERT_EQ(0, af_mkfs("jfs", self->disk[2].node, "-J journal_dev"));
	snprintf(opts, sizeof(opts), "-J device=%s", self->disk[2].node);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, af_mkfs("jfs", self->disk[i].node, opts));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, af_mount("jfs", self->disk[i].node, i ? "b" : "a", NULL,
				      self->dir[i]));
	ASSERT_EQ(0, af_fifreeze(self->dir[0]));
	EXPECT_EQ(0, af_writable(self->dir[1], 10));
	ASSERT_EQ(0, af_fifreeze(self->dir[1]));
	ASSERT_EQ(0, af_fithaw(self->dir[0]));
	EXPECT_EQ(0, af_writable(self->dir[0], 10));
	ASSERT_EQ(0, af_fithaw(self->dir[1]));
	EXPECT_EQ(0, af_writable(self->dir[1], 10));

	/* and both at a time */
	EXPECT_EQ(0, af_cycle(&c));
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, af_writable(self->dir[i], 10));
		EXPECT_EQ(0, af_umount(self->dir[i]));
	}
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- ocfs2: some of what it does while frozen holds what the thaw needs -------- */

FIXTURE(ocfs2) {
	struct af_disk disk, dm;
	char dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(ocfs2)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_OCFS2);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "ocfs2", &o));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "ocfs2", &self->disk));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(ocfs2)
{
	af_cleanup();
}

static int read_file(void *path)
{
	return is_whole(path, 256) ? 0 : -EIO;
}

TEST_F_TIMEOUT(ocfs2, reader_does_not_wait_for_the_thaw, af_secs(60))
{
	char path[160];
	int ret;

	ASSERT_EQ(0, af_mkfs("ocfs2", self->dm.node, NULL));
	ASSERT_EQ(0, af_mount("ocfs2", self->dm.node, "ocfs2", "heartbeat=none", self->dir));
	/* not read since it was written, so that its access time is to be updated */
	snprintf(path, sizeof(path), "%s/file", self->dir);
	ASSERT_EQ(0, put_file(path, 256));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	ret = af_bounded(5, read_file, path);
	ASSERT_EQ(0, af_dm_resume(&self->dm));
	EXPECT_EQ(0, ret);
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

static int dm_resume(void *d)
{
	return af_dm_resume(d);
}

static int with_quotas(FIXTURE_DATA(ocfs2) *self)
{
	int ret = af_mkfs("ocfs2", self->dm.node, "--fs-features=usrquota,grpquota");

	return ret ?: af_mount("ocfs2", self->dm.node, "ocfs2",
			       "heartbeat=none,usrquota,grpquota", self->dir);
}

static int get_quota(void *dm)
{
	struct fs_disk_quota q;

	return quotactl(QCMD(Q_XGETQUOTA, USRQUOTA), ((struct af_disk *)dm)->node, 12345,
			(void *)&q) ? -errno : 0;
}

/* Who has no quota yet gets one, which is written. */
TEST_F_TIMEOUT(ocfs2, who_asks_for_a_quota_does_not_keep_it_frozen, af_secs(60))
{
	pid_t pid;

	ASSERT_EQ(0, with_quotas(self));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	pid = af_spawn(get_quota, &self->dm);
	ASSERT_LT(0, pid);
	af_sleep_ms(1000);
	ASSERT_EQ(0, af_bounded(10, dm_resume, &self->dm));
	EXPECT_EQ(0, af_wait(pid, 10));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("ocfs2", self->dm.node, NULL));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_F_TIMEOUT(ocfs2, quotas_do_not_keep_it_frozen, af_secs(90))
{
	char path[160];

	ASSERT_EQ(0, with_quotas(self));
	snprintf(path, sizeof(path), "%s/file", self->dir);
	ASSERT_EQ(0, put_file(path, 256));
	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	/* they are synced every 10 s */
	af_sleep_ms(11000);
	ASSERT_EQ(0, af_bounded(10, dm_resume, &self->dm));
	EXPECT_EQ(0, af_writable(self->dir, 10));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("ocfs2", self->dm.node, NULL));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- ntfs3: a file may be deleted when memory is reclaimed ----------------------- */

FIXTURE(ntfs3) {
	struct af_disk disk, dm;
	char dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(ntfs3)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_NTFS3);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "ntfs3", &o));
	ASSERT_EQ(0, af_dm_linear(&self->dm, "ntfs3", &self->disk));
	ASSERT_EQ(0, af_mkfs("ntfs3", self->dm.node, NULL));
	ASSERT_EQ(0, af_mount("ntfs3", self->dm.node, "ntfs3", NULL, self->dir));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(ntfs3)
{
	af_cleanup();
}

static int drop(void *unused)
{
	return af_write("/proc/sys/vm/drop_caches", "3");
}

/* Reclaim, while it is frozen and for a while after that: it writes nothing. */
static void reclaim_frozen(struct __test_metadata *_metadata, FIXTURE_DATA(ntfs3) *self)
{
	unsigned long long before, frozen;
	int ret = 0, i;

	ASSERT_EQ(0, af_dm_suspend(&self->dm, true, true));
	before = disk_io(&self->disk).sectors;
	/* pages and dentries first, and then inodes */
	for (i = 0; i < 3 && !ret; i++)
		ret = af_bounded(10, drop, NULL);
	EXPECT_EQ(0, ret);
	af_sleep_ms(1000);
	frozen = disk_io(&self->disk).sectors;
	ASSERT_EQ(0, af_bounded(10, dm_resume, &self->dm));
	EXPECT_EQ(before, frozen);
}

/* A stream of a file that was removed has the last reference to it. */
TEST_F_TIMEOUT(ntfs3, file_that_reclaim_deletes_is_deleted_after_the_thaw, af_secs(60))
{
	char file[160], stream[170];
	long long unused;
	int i;

	snprintf(file, sizeof(file), "%s/file", self->dir);
	snprintf(stream, sizeof(stream), "%s:stream", file);
	ASSERT_EQ(0, put_file(file, 256));
	ASSERT_EQ(0, put_file(stream, 1));
	ASSERT_EQ(0, unlink(file));
	sync();
	unused = blocks_free(self->dir);
	ASSERT_LT(0, unused);
	reclaim_frozen(_metadata, self);
	for (i = 0; blocks_free(self->dir) <= unused; i++) {
		ASSERT_GT(100, i)
			TH_LOG("the deleted file takes space after the thaw");
		af_sleep_ms(100);
	}
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* So has one in a directory that was removed, if somebody had it open then. */
TEST_F_TIMEOUT(ntfs3, directory_is_not_left_to_reclaim, af_secs(60))
{
	char dir[160], file[170], stream[180];
	int fd;

	snprintf(dir, sizeof(dir), "%s/directory", self->dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	snprintf(stream, sizeof(stream), "%s:stream", file);
	ASSERT_EQ(0, mkdir(dir, 0700));
	ASSERT_EQ(0, put_file(file, 1));
	ASSERT_EQ(0, put_file(stream, 1));
	fd = open(stream, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, unlink(file));
	ASSERT_EQ(0, rmdir(dir));
	ASSERT_EQ(0, close(fd));
	sync();
	reclaim_frozen(_metadata, self);
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- btrfs: what takes hours gives way --------------------------------------- */

#define BTRFS_MB	64

FIXTURE(btrfs) {
	struct af_disk disk[3], dm[3];
	char dir[128], data[160];
	struct af_klog log;
};

FIXTURE_SETUP(btrfs)
{
	struct af_disk_opts o = { .mb = 512, .mbps = 16 };
	const char *why = af_setup(AF_NULL_BLK | AF_BTRFS | AF_DM);
	int i;

	if (why)
		SKIP(return, "%s", why);
	if (!af_have("btrfs"))
		SKIP(return, "needs btrfs-progs");
	/* less than it takes to relocate a chunk */
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", 3000 * af_secs(1)));
	af_set("/sys/power/sync_on_suspend", "0");
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, af_disk_create(&self->disk[i], "btrfs", &o));
		ASSERT_EQ(0, af_dm_linear(&self->dm[i], "btrfs", &self->disk[i]));
	}
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(btrfs)
{
	af_cleanup();
}

static bool replacing(const char *dir)
{
	return !af_run(10, "! btrfs replace status -1 %s | grep -q finished", dir);
}

/* Make the filesystem, with something in it to keep it busy. */
static void fill(struct __test_metadata *_metadata, FIXTURE_DATA(btrfs) *self,
		 const char *mkfs)
{
	ASSERT_EQ(0, af_mkfs("btrfs", self->dm[0].node, mkfs));
	ASSERT_EQ(0, af_mount("btrfs", self->dm[0].node, "btrfs", NULL, self->dir));
	snprintf(self->data, sizeof(self->data), "%s/data", self->dir);
	ASSERT_EQ(0, put_file(self->data, BTRFS_MB << 10));
}

/* The machine sleeps while @pid, or a replace without one, is at it. */
static void suspend_during(struct __test_metadata *_metadata, FIXTURE_DATA(btrfs) *self,
			   pid_t pid, unsigned int times)
{
	struct af_cycle c = { .test = "freezer", .deadline = 60 };

	ASSERT_LE(0, pid);
	af_sleep_ms(1500);
	while (times--) {
		EXPECT_TRUE(pid ? af_task_state(pid) : replacing(self->dir)) {
			TH_LOG("it was too short");
		}
		EXPECT_EQ(0, af_cycle(&c));
		af_log("suspend: %d, %ld ms", c.error, c.ms);
		af_sleep_ms(300);
	}
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
}

static void all_is_well(struct __test_metadata *_metadata, FIXTURE_DATA(btrfs) *self,
			const struct af_disk *d)
{
	EXPECT_TRUE(is_whole(self->data, BTRFS_MB << 10));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("btrfs", d->node, NULL));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

static int run_balance(void *dir)
{
	return af_run(100, "btrfs balance start --full-balance %s", (char *)dir);
}

static int run_scrub(void *dir)
{
	return af_run(100, "btrfs scrub start -B %s", (char *)dir);
}

static int run_defrag(void *dir)
{
	return af_run(100, "btrfs filesystem defragment -f -r -czlib %s", (char *)dir);
}

struct replace {
	const char *node, *dir;
};

static int run_replace(void *arg)
{
	struct replace *r = arg;

	return af_run(100, "btrfs replace start -f -B 1 %s %s", r->node, r->dir);
}

TEST_F_TIMEOUT(btrfs, balance_lets_the_machine_sleep_and_goes_on, af_secs(180))
{
	pid_t pid;

	fill(_metadata, self, NULL);
	pid = af_spawn(run_balance, self->dir);
	suspend_during(_metadata, self, pid, 2);
	EXPECT_EQ(NULL, af_klog_find(&self->log, "canceled"));
	EXPECT_EQ(0, af_wait(pid, 100));
	all_is_well(_metadata, self, &self->dm[0]);
}

TEST_F_TIMEOUT(btrfs, defragmentation_lets_the_machine_sleep_and_goes_on, af_secs(180))
{
	pid_t pid;

	fill(_metadata, self, NULL);
	pid = af_spawn(run_defrag, self->dir);
	suspend_during(_metadata, self, pid, 2);
	EXPECT_EQ(0, af_wait(pid, 100));
	all_is_well(_metadata, self, &self->dm[0]);
}

/* It ends, like on a kernel that only freezes tasks, and may be started again. */
TEST_F_TIMEOUT(btrfs, scrub_lets_the_machine_sleep, af_secs(180))
{
	pid_t pid;

	fill(_metadata, self, NULL);
	pid = af_spawn(run_scrub, self->dir);
	suspend_during(_metadata, self, pid, 1);
	EXPECT_LE(0, af_wait(pid, 100));
	EXPECT_EQ(0, run_scrub(self->dir));
	all_is_well(_metadata, self, &self->dm[0]);
}

/* Whether what is written gets to the disk, or is lost as in a power cut. */
static int set_power(struct af_disk *d, const struct af_disk *under, bool on)
{
	char table[128];
	int ret;

	snprintf(table, sizeof(table), "0 %llu %s %u:%u 0%s\n", d->sectors,
		 on ? "linear" : "flakey", major(under->dev), minor(under->dev),
		 on ? "" : " 0 180 1 drop_writes");
	ret = af_dm_load(d, table);
	ret = ret ?: af_dm_suspend(d, false, false);
	return ret ?: af_dm_resume(d);
}

/*
 * A replace that did not come to its end goes on when the filesystem is mounted.
 * There is no task then that freezes, and starts it again.
 */
TEST_F_TIMEOUT(btrfs, resumed_replace_lets_the_machine_sleep_and_goes_on, af_secs(180))
{
	struct replace r = { self->dm[2].node, self->dir };
	unsigned long long before[3], after[3];
	char opts[160];
	int i, ret = 0;
	pid_t pid;

	snprintf(opts, sizeof(opts), "-m raid1 -d raid1 %s", self->dm[1].node);
	fill(_metadata, self, opts);
	pid = af_spawn(run_replace, &r);
	ASSERT_LT(0, pid);
	af_sleep_ms(1500);
	for (i = 0; i < 3; i++)
		ret = ret ?: set_power(&self->dm[i], &self->disk[i], false);
	if (ret == -EINVAL)
		SKIP(return, "needs CONFIG_DM_FLAKEY");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, af_run(30, "btrfs replace cancel %s", self->dir)) {
		TH_LOG("it was too short");
	}
	EXPECT_LT(0, af_wait(pid, 30));
	ASSERT_EQ(0, af_umount(self->dir));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, set_power(&self->dm[i], &self->disk[i], true));
	/* what it has been told about devices, which are others now */
	ASSERT_EQ(0, af_run(10, "btrfs device scan --forget"));

	snprintf(opts, sizeof(opts), "device=%s,device=%s", self->dm[1].node, self->dm[2].node);
	ASSERT_EQ(0, af_mount("btrfs", self->dm[0].node, "btrfs", opts, self->dir));
	af_sleep_ms(500);
	ASSERT_EQ(0, af_fifreeze(self->dir));
	for (i = 0; i < 3; i++)
		before[i] = disk_io(&self->disk[i]).writes;
	af_sleep_ms(1000);
	for (i = 0; i < 3; i++)
		after[i] = disk_io(&self->disk[i]).writes;
	ASSERT_EQ(0, af_fithaw(self->dir));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(before[i], after[i]);

	suspend_during(_metadata, self, 0, 2);
	for (i = 0; i < 60 && replacing(self->dir); i++)
		af_sleep_ms(500);
	EXPECT_GT(60, i);
	all_is_well(_metadata, self, &self->dm[2]);
}

/* --- ubifs: it has no disk, but flash, which is memory here ------------------- */

#define FLASH		"/dev/mtd0"
#define UBI_CTRL	"/dev/ubi_ctrl"
#define UBI_VOLUME	"/dev/ubi0_0"
#define VOLUME_MB	16

FIXTURE(ubifs) {
	char dir[128], before[192];
	struct load *load;
	struct af_klog log;
	pid_t churn;
	bool attached;
};

/* All of a character device that cannot be mapped */
static char *read_all(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t size = 64 << 20;
	char *buf = malloc(size);
	ssize_t n = 1;

	for (*len = 0; buf && fd >= 0 && n > 0 && *len < size; *len += n)
		n = read(fd, buf + *len, size - *len < 131072 ? size - *len : 131072);
	close(fd);
	if (n == 0)
		return buf;
	free(buf);
	return NULL;
}

/* As the flash was at some time, or erased */
static int write_flash(const char *data, size_t len)
{
	int fd = open(FLASH, O_WRONLY | O_CLOEXEC), ret = 0;
	char erased[4096];
	size_t at;

	memset(erased, 0xff, sizeof(erased));
	for (at = 0; fd >= 0 && !ret && at < len; at += sizeof(erased))
		if (write(fd, data ? data + at : erased, sizeof(erased)) < 0)
			ret = -errno;
	close(fd);
	return fd < 0 ? -ENODEV : ret;
}

static int ubi_ctrl(unsigned long cmd, void *arg)
{
	int fd = open(UBI_CTRL, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0 || ioctl(fd, cmd, arg) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static int ubi_attach(FIXTURE_DATA(ubifs) *self)
{
	struct ubi_attach_req attach = { .ubi_num = 0, .mtd_num = 0 };
	int ret = ubi_ctrl(UBI_IOCATT, &attach);

	self->attached = !ret;
	return ret;
}

static int ubi_detach(FIXTURE_DATA(ubifs) *self)
{
	int num = 0, ret = ubi_ctrl(UBI_IOCDET, &num);

	self->attached = ret;
	return ret;
}

FIXTURE_SETUP(ubifs)
{
	struct ubi_mkvol_req vol = {
		.vol_id = UBI_VOL_NUM_AUTO, .alignment = 1, .bytes = VOLUME_MB << 20,
		.vol_type = UBI_DYNAMIC_VOLUME, .name_len = 2, .name = "fs",
	};
	const char *why = af_setup(AF_SNAPSHOT);
	char line[128] = "";
	size_t size;
	int fd, ret;
	FILE *f;

	if (why)
		SKIP(return, "%s", why);
	/* not what somebody's system is on */
	f = fopen("/proc/mtd", "r");
	while (f && fgets(line, sizeof(line), f) && !strstr(line, "mtd0:"))
		;
	if (f)
		fclose(f);
	if (!strstr(line, "mtdram test device") || sscanf(line, "mtd0: %zx", &size) != 1)
		SKIP(return, "needs CONFIG_MTD_MTDRAM, and no other flash");
	if (access(UBI_CTRL, F_OK))
		SKIP(return, "needs CONFIG_MTD_UBI");
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	ASSERT_EQ(0, write_flash(NULL, size));
	ASSERT_EQ(0, ubi_attach(self));
	fd = open("/dev/ubi0", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_LE(0, ioctl(fd, UBI_IOCMKVOL, &vol));
	close(fd);
	ret = af_mount("ubifs", "ubi0:fs", "ubifs", NULL, self->dir);
	if (ret == -ENODEV)
		SKIP(return, "needs CONFIG_UBIFS_FS");
	ASSERT_EQ(0, ret);
	snprintf(self->before, sizeof(self->before), "%s/before", self->dir);
	ASSERT_EQ(0, put_file(self->before, 256));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(ubifs)
{
	af_cleanup();
	if (self->attached)
		ubi_detach(self);
}

TEST_F_TIMEOUT(ubifs, nothing_is_written_while_tasks_are_frozen_and_the_flash_is_in_order,
	       af_secs(120))
{
	struct churn c = { self->dir, false };
	size_t len, len2, size;
	char *frozen, *later, *flash;
	int snap, i;

	self->load = load_alloc(2);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, load_start(&self->load[i], kinds[i], i, self->dir));
	self->churn = af_spawn(churn, &c);
	ASSERT_LT(0, self->churn);
	af_sleep_ms(1000);

	snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, snap);
	ASSERT_EQ(0, ioctl(snap, SNAPSHOT_FREEZE, 0));
	/* UBI may move blocks, but not change what is read from the volume. */
	frozen = read_all(UBI_VOLUME, &len);
	/* a write-buffer may be synced after 5 s */
	af_sleep_ms(6000);
	later = read_all(UBI_VOLUME, &len2);
	flash = read_all(FLASH, &size);
	ASSERT_EQ(0, ioctl(snap, SNAPSHOT_UNFREEZE, 0));
	close(snap);
	ASSERT_NE(NULL, frozen);
	ASSERT_NE(NULL, later);
	ASSERT_NE(NULL, flash);
	ASSERT_EQ(len, len2);
	EXPECT_LE((size_t)VOLUME_MB << 20, len);
	EXPECT_EQ(0, memcmp(frozen, later, len));

	EXPECT_EQ(0, af_writable(self->dir, 10));
	EXPECT_EQ(-EINTR, af_kill(self->churn, 20));
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, load_stop(&self->load[i]));
		EXPECT_EQ(0, load_verify(&self->load[i]));
	}
	ASSERT_EQ(0, af_umount(self->dir));
	/* As if the machine had been switched off in the middle of it */
	ASSERT_EQ(0, ubi_detach(self));
	ASSERT_EQ(0, write_flash(flash, size));
	ASSERT_EQ(0, ubi_attach(self));
	ASSERT_EQ(0, af_mount("ubifs", "ubi0:fs", "ubifs", NULL, self->dir));
	EXPECT_TRUE(is_whole(self->before, 256));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_find(&self->log, "UBIFS error"));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_F_TIMEOUT(ubifs, removal_of_a_deleted_file_waits_for_the_thaw, af_secs(60))
{
	bool waits;
	pid_t pid;

	pid = spawn_holder(self->dir);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, af_fifreeze(self->dir));
	kill(pid, SIGKILL);
	waits = comes_to_wait(pid);
	ASSERT_EQ(0, af_fithaw(self->dir));
	EXPECT_TRUE(waits);
	EXPECT_EQ(-EINTR, af_wait(pid, 20));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

/* --- loop devices: their workers write to files of a filesystem that freezes -- */

FIXTURE(loop) {
	struct af_disk disk, loop;
	char dir[128], file[192];
	struct af_klog log;
};

FIXTURE_SETUP(loop)
{
	struct af_disk_opts o = { .mbps = 8 };
	const char *why = af_setup(AF_NULL_BLK | AF_EXT4 | AF_LOOP);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&self->disk, "loop", &o));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "loop", NULL, self->dir));
	snprintf(self->file, sizeof(self->file), "%s/file", self->dir);
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(loop)
{
	af_cleanup();
}

/* A zoned one in @dir, of which the first zone may be written like any disk */
static int zloop_create(const char *dir, struct af_disk *d)
{
	char path[256];
	int ret;

	snprintf(path, sizeof(path), "%s/0", dir);
	if (mkdir(path, 0755))
		return -errno;
	ret = af_write("/dev/zloop-control",
		       "add id=0,capacity_mb=64,zone_size_mb=32,conv_zones=1,base_dir=%s", dir);
	if (ret)
		return ret;
	af_undo_write("/dev/zloop-control", "remove id=0");
	snprintf(d->node, sizeof(d->node), "/dev/zloop0");
	return 0;
}

/*
 * The disk is slow and the device does direct I/O, so that the flusher is at it
 * all the time: also when the filesystem below is frozen and kernel threads,
 * which workqueues count among, are about to be.
 */
static void suspend_with_dirty(struct __test_metadata *_metadata, FIXTURE_DATA(loop) *self, int fd)
{
	struct af_cycle c = { .test = "freezer", .deadline = 30 };
	static char buf[1 << 20];
	char path[128];
	int i;

	af_set("/sys/power/sync_on_suspend", "0");
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_writeback_centisecs", "10"));
	ASSERT_EQ(0, af_set("/proc/sys/vm/dirty_expire_centisecs", "10"));
	/* what has been started is waited for, that must not be all of it */
	snprintf(path, sizeof(path), "/sys/block/%s/queue/nr_requests",
		 strrchr(self->loop.node, '/') + 1);
	ASSERT_EQ(0, af_write(path, "4"));
	memset(buf, 'l', sizeof(buf));
	/* Twice, as the flusher may pause just then */
	for (i = 0; i < 2 * DIRTY_MB; i++) {
		ASSERT_EQ((ssize_t)sizeof(buf),
			  pwrite(fd, buf, sizeof(buf), (i % DIRTY_MB) * sizeof(buf)));
		if ((i + 1) % DIRTY_MB)
			continue;
		EXPECT_EQ(0, af_cycle(&c));
		af_log("suspend: %d, %ld ms", c.error, c.ms);
	}
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_F_TIMEOUT(loop, dirty_device_on_overlayfs_does_not_keep_the_machine_awake, af_secs(120))
{
	const char *why = af_needs(AF_OVERLAY);
	char dir[128];
	int fd;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_overlay(self->dir, "overlay", dir));
	snprintf(self->file, sizeof(self->file), "%s/file", dir);
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
	suspend_with_dirty(_metadata, self, fd);
	close(fd);
}

TEST_F_TIMEOUT(loop, dirty_zoned_device_does_not_keep_the_machine_awake, af_secs(120))
{
	int fd;

	if (access("/dev/zloop-control", F_OK))
		SKIP(return, "needs CONFIG_BLK_DEV_ZONED_LOOP");
	ASSERT_EQ(0, zloop_create(self->dir, &self->loop));
	fd = open(self->loop.node, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	suspend_with_dirty(_metadata, self, fd);
	close(fd);
}

static int discard(void *node)
{
	unsigned long long range[2] = { 0, 1 << 20 };
	int fd = open(node, O_RDWR | O_CLOEXEC);

	return fd >= 0 && !ioctl(fd, BLKDISCARD, range) ? 0 : -errno;
}

static int write_block(void *node)
{
	static char buf[4096] __attribute__((aligned(4096)));
	int fd = open(node, O_RDWR | O_DIRECT | O_CLOEXEC);

	return fd >= 0 && write(fd, buf, sizeof(buf)) == sizeof(buf) ? 0 : -errno;
}

static void expect_wait(struct __test_metadata *_metadata, FIXTURE_DATA(loop) *self,
			int (*fn)(void *node))
{
	bool waits;
	pid_t pid;

	ASSERT_EQ(0, af_fifreeze(self->dir));
	pid = af_spawn(fn, self->loop.node);
	waits = comes_to_wait(pid);
	ASSERT_EQ(0, af_fithaw(self->dir));
	EXPECT_TRUE(waits);
	EXPECT_EQ(0, af_wait(pid, 20));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
}

TEST_F_TIMEOUT(loop, discard_waits_while_the_file_is_on_a_frozen_filesystem, af_secs(60))
{
	ASSERT_EQ(0, put_file(self->file, 2 << 10));
	ASSERT_EQ(0, af_loop_attach(&self->loop, self->file));
	expect_wait(_metadata, self, discard);
}

TEST_F_TIMEOUT(loop, write_to_a_zone_waits_while_its_file_is_on_a_frozen_filesystem, af_secs(60))
{
	if (access("/dev/zloop-control", F_OK))
		SKIP(return, "needs CONFIG_BLK_DEV_ZONED_LOOP");
	ASSERT_EQ(0, zloop_create(self->dir, &self->loop));
	/* an overwrite is what ext4 has no transaction for that would warn */
	ASSERT_EQ(0, af_bounded(10, write_block, self->loop.node));
	sync();
	expect_wait(_metadata, self, write_block);
}

TEST_HARNESS_MAIN
