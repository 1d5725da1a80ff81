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
#include <linux/loop.h>
#include <linux/suspend_ioctls.h>
#include <mtd/ubi-user.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
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
	pid_t churn;
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
};

/* How long it is watched */
#define WATCH_MS	((variant->commits_ms ?: 200) + 1000)

FIXTURE_VARIANT_ADD(fs, ext2) {
	.fs = "ext2", .needs = AF_EXT2, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, f2fs) {
	.fs = "f2fs", .needs = AF_F2FS, .deletes_later = true,
};

FIXTURE_VARIANT_ADD(fs, nilfs2) {
	.fs = "nilfs2", .needs = AF_NILFS2, .commits_ms = 5000, .mbps = 30,
};

FIXTURE_VARIANT_ADD(fs, jfs) {
	.fs = "jfs", .needs = AF_JFS, .no_orphans = true,
};

FIXTURE_VARIANT_ADD(fs, btrfs) {
	.fs = "btrfs", .needs = AF_BTRFS,
};

FIXTURE_VARIANT_ADD(fs, btrfs_raid1) {
	.fs = "btrfs", .needs = AF_BTRFS, .mkfs = "-m raid1 -d raid1 %s",
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
	struct af_disk_opts o = { .mb = DISK_MB, .mbps = variant->mbps };
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_SNAPSHOT | AF_LOOP |
				   variant->needs);
	char opts[256];
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
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_stop(&self->load[i]));
	for (i = 0; i < NLOADS; i++)
		EXPECT_EQ(0, load_verify(&self->load[i]));
}

static unsigned long long sectors_written(FIXTURE_DATA(fs) *self)
{
	return disk_io(&self->disk[0]).sectors + disk_io(&self->disk[1]).sectors;
}

TEST_F_TIMEOUT(fs, nothing_is_written_while_tasks_are_frozen_and_the_disk_is_in_order, af_secs(120))
{
	unsigned long long frozen, later;
	struct af_disk loop;
	char copy[128], dir[128], path[160];
	long long start, ms;
	int snap, err = 0, ret;

	snprintf(copy, sizeof(copy), "%s.copy", af_dir("fs"));
	start_loads(_metadata, self, variant->no_orphans);
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

TEST_F_TIMEOUT(fs, nothing_is_written_while_userspace_has_it_frozen_whoever_syncs, af_secs(90))
{
	unsigned long long frozen, later;
	int sync;

	if (variant->no_fifreeze)
		SKIP(return, "FIFREEZE is refused");
	start_loads(_metadata, self, variant->no_orphans);
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

	if (fd < 0 || write(fd, buf, sizeof(buf)) < 0 || fsync(fd) || unlink(h->path))
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

/* --- btrfs: what takes hours gives way --------------------------------------- */

FIXTURE(btrfs) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(btrfs)
{
	struct af_disk_opts o = { .mb = 512, .mbps = 16 };
	const char *why = af_setup(AF_NULL_BLK | AF_BTRFS);
	char path[160];

	if (why)
		SKIP(return, "%s", why);
	if (!af_have("btrfs"))
		SKIP(return, "needs btrfs-progs");
	/* less than it takes to relocate a chunk */
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", 3000 * af_secs(1)));
	af_set("/sys/power/sync_on_suspend", "0");
	ASSERT_EQ(0, af_disk_create(&self->disk, "btrfs", &o));
	ASSERT_EQ(0, af_mkfs("btrfs", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("btrfs", self->disk.node, "btrfs", NULL, self->dir));
	snprintf(path, sizeof(path), "%s/data", self->dir);
	ASSERT_EQ(0, put_file(path, 64 << 10));
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(btrfs)
{
	af_cleanup();
}

static int run_balance(void *dir)
{
	return af_run(100, "btrfs balance start --full-balance %s", (char *)dir);
}

TEST_F_TIMEOUT(btrfs, balance_lets_the_machine_sleep_and_goes_on, af_secs(180))
{
	struct af_cycle c = { .test = "freezer", .deadline = 60 };
	char path[160];
	pid_t pid;
	int i;

	pid = af_spawn(run_balance, self->dir);
	ASSERT_LT(0, pid);
	af_sleep_ms(1500);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, af_cycle(&c));
		af_log("suspend: %d, %ld ms", c.error, c.ms);
		af_sleep_ms(300);
	}
	EXPECT_NE(0, af_task_state(pid)) {
		TH_LOG("the balance was too short");
	}
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	EXPECT_EQ(NULL, af_klog_find(&self->log, "canceled"));
	EXPECT_EQ(0, af_wait(pid, 100));
	snprintf(path, sizeof(path), "%s/data", self->dir);
	EXPECT_TRUE(is_whole(path, 64 << 10));
	ASSERT_EQ(0, af_umount(self->dir));
	EXPECT_EQ(0, af_fsck("btrfs", self->disk.node, NULL));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	af_klog_end(&self->log);
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
