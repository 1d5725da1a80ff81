// SPDX-License-Identifier: GPL-2.0
/*
 * What holds for filesystems that are frozen after user tasks also holds for
 * those that are frozen before, because their storage is served from userspace.
 *
 * All are made on disks of the same kind, below device mapper.  Those that have
 * to be frozen first end in a loop device over a file on FUSE.  Nothing is
 * written there, but only the filesystem knows that.  So a disk can be broken,
 * stopped and looked at in the same way in both phases, and all that differs is
 * what the kernel makes of the graph.  That what is served can be written in its
 * phase is shown by graph_test.
 *
 * The first filesystem is the one that something happens to, the second one is
 * its neighbour in the same phase, and the third one is of the other phase.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <linux/suspend_ioctls.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "kselftest_harness.h"
#include "af_fail.h"
#include "fuse.h"
#include "load.h"

#define MB		(1024 * 1024UL)
#define TAIL		2048	/* sectors */
#define FREEZE_TIMEOUT_MS	4000
#define SLACK_MS	4000
/* A wakeup has to end the freeze within 100 ms; the rest is for the thaw. */
#define WAKEUP_SLACK_MS	1000

enum { VICTIM, PEER, OTHER, EXTRA, NR };

struct fs {
	struct af_disk under, disk;	/* disk is device mapper on under */
	char dir[128], tail[32];
	dev_t dev;
	bool served;
};

FIXTURE(phase) {
	struct fs fs[NR];
	struct af_disk fuse_loop, loop;
	char fuse_dir[128];
	struct af_klog log;
	struct af_events ev;
	bool frozen, readonly, recover;	/* what a task saw */
};

FIXTURE_VARIANT(phase) {
	bool served;
};

FIXTURE_VARIANT_ADD(phase, after_tasks) { .served = false };
FIXTURE_VARIANT_ADD(phase, before_tasks) { .served = true };

/* The table of the disk, with its tail and @head instead of what is before. */
static const char *fs_table(const struct fs *f, const char *head)
{
	static char table[256];
	int n = snprintf(table, sizeof(table), "0 %llu %s", f->under.sectors, head);

	if (f->tail[0])
		snprintf(table + n, sizeof(table) - n, "\n%llu %u %s",
			 f->under.sectors, TAIL, f->tail);
	return table;
}

static const char *onto(const struct af_disk *d)
{
	static char head[64];

	snprintf(head, sizeof(head), "linear %u:%u 0", major(d->dev), minor(d->dev));
	return head;
}

static const char *delayed(const struct af_disk *d, unsigned int ms)
{
	static char head[128];
	unsigned int ma = major(d->dev), mi = minor(d->dev);

	snprintf(head, sizeof(head), "delay %u:%u 0 0 %u:%u 0 %u %u:%u 0 0", ma,
		 mi, ma, mi, ms, ma, mi);
	return head;
}

static int fs_switch(struct fs *f, const char *head)
{
	int ret = af_dm_load(&f->disk, fs_table(f, head));

	ret = ret ?: af_dm_suspend(&f->disk, false, true);
	return ret ?: af_dm_resume(&f->disk);
}

static int fs_mount(struct fs *f, const char *type, const char *opts)
{
	int ret = af_mount(type, f->disk.node, f->under.name, opts, f->dir);

	return ret ?: af_mount_dev(f->dir, &f->dev);
}

static void serve_tail(FIXTURE_DATA(phase) *self, struct fs *f)
{
	f->served = true;
	snprintf(f->tail, sizeof(f->tail), "linear %u:%u %u",
		 major(self->fuse_loop.dev), minor(self->fuse_loop.dev),
		 (unsigned int)(f - self->fs) * TAIL);
}

static int fs_make(FIXTURE_DATA(phase) *self, int i, bool served,
		   const char *type, const char *mkfs_opts, const char *opts,
		   const struct af_disk_opts *o)
{
	static const char * const names[] = { "victim", "peer", "other", "extra" };
	struct fs *f = &self->fs[i];
	int ret = af_disk_create(&f->under, names[i], o);

	if (served)
		serve_tail(self, f);
	ret = ret ?: af_mkfs(type, f->under.node, mkfs_opts);
	ret = ret ?: af_dm_create(&f->disk, names[i], fs_table(f, onto(&f->under)));
	return ret ?: fs_mount(f, type, opts);
}

FIXTURE_SETUP(phase)
{
	const char *why = af_setup(AF_NULL_BLK | AF_DM | AF_LOOP | AF_FUSE |
				   AF_TRACE | AF_EXT4);
	struct af_disk_opts o = { .mb = 48 }, small = { .mb = 16 };
	struct fuse_server *server;
	char file[192];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, keep_dirty());
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "%u", FREEZE_TIMEOUT_MS));
	server = fuse_alloc(NR * TAIL * 512);
	ASSERT_NE(NULL, server);
	snprintf(self->fuse_dir, sizeof(self->fuse_dir), "%s", af_dir("fuse"));
	ASSERT_LT(0, fuse_start(server, self->fuse_dir));
	snprintf(file, sizeof(file), "%s/" FUSE_FILE, self->fuse_dir);
	ASSERT_EQ(0, af_loop_attach(&self->fuse_loop, file));
	ASSERT_EQ(0, fs_make(self, PEER, variant->served, "ext4", NULL, NULL, &small));
	ASSERT_EQ(0, fs_make(self, OTHER, !variant->served, "ext4", NULL, NULL, &small));
	/*
	 * No journal that would be aborted, and then there is nothing to freeze.
	 * Without barriers the sync of what is clean does not touch the disk.
	 */
	ASSERT_EQ(0, fs_make(self, VICTIM, variant->served, "ext4",
			     "-O ^has_journal", "nobarrier", &o));
	ASSERT_EQ(0, af_writable(self->fs[VICTIM].dir, 10));
	sync();
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(phase)
{
	/* nothing is kept there, so whoever needs it may as well get an error */
	if (self->fuse_dir[0])
		umount2(self->fuse_dir, MNT_FORCE | MNT_DETACH);
	EXPECT_EQ(0, af_cleanup());
}

static const char *phase_broken(const struct af_events *ev, const struct fs *f)
{
	const struct af_event *freeze = af_event_freeze(ev, f->dev);
	const struct af_event *thaw = af_event_thaw(ev, f->dev);

	if (!freeze)
		return "was not frozen";
	if (f->served ? freeze->end > ev->tasks_begin : freeze->begin < ev->tasks_frozen)
		return "was frozen in the wrong phase";
	if (!thaw)
		return "was not thawed";
	return thaw->begin < ev->tasks_thaw ? "was thawed before tasks" : NULL;
}

#define expect_in_phase(i) do {							\
	const struct fs *fs_ = &self->fs[i];					\
	const char *broken_ = phase_broken(&self->ev, fs_);			\
	EXPECT_EQ(NULL, broken_)						\
		TH_LOG("%s %s", fs_->dir, broken_);				\
} while (0)

#define expect_not_frozen(i)							\
	EXPECT_EQ(NULL, af_event_freeze(&self->ev, self->fs[i].dev))

#define expect_usable(i) do {							\
	const char *dir_ = self->fs[i].dir;					\
	EXPECT_TRUE(becomes_unfrozen(dir_, 10000));				\
	EXPECT_EQ(0, af_writable(dir_, 20))					\
		TH_LOG("%s", dir_);						\
} while (0)

#define expect_others_usable() do {						\
	expect_usable(PEER);							\
	expect_usable(OTHER);							\
} while (0)

/* The transition returns @error, after less than it takes to hang. */
#define expect_cycle(cycle, error) do {						\
	struct af_cycle *c_ = (cycle);						\
	ASSERT_EQ(0, af_events_arm());						\
	c_->deadline = 25;							\
	ASSERT_EQ(error, af_cycle(c_))						\
		TH_LOG("after %ld ms", c_->ms);					\
	/* only if it was the kernel that returned is there a time */		\
	ASSERT_LT(0, c_->ms);							\
	EXPECT_EQ(0, af_events_read(&self->ev, 20));				\
	EXPECT_EQ(NULL, af_klog_splat(&self->log));				\
} while (0)

static void expect_all_is_well(struct __test_metadata *_metadata,
			       FIXTURE_DATA(phase) *self)
{
	struct af_cycle c = { .state = "disk" };
	int i;

	expect_cycle(&c, 0);
	for (i = 0; i < NR; i++) {
		if (!self->fs[i].dev)
			continue;
		expect_in_phase(i);
		expect_usable(i);
	}
	if (!__test_passed(_metadata))
		af_events_dump(&self->ev);
}

/* --- errors ------------------------------------------------------------------ */

TEST_F_TIMEOUT(phase, error_fails_hibernation_and_all_is_thawed, af_secs(120))
{
	struct af_cycle c = { .state = "disk" };
	struct fs *f = &self->fs[VICTIM];

	ASSERT_EQ(0, fs_switch(f, "error"));
	expect_cycle(&c, -EIO);
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &f->disk));
	if (variant->served) {
		/* that was all: it has not come to the tasks */
		EXPECT_EQ(0, self->ev.tasks_begin);
		expect_not_frozen(OTHER);
	} else {
		expect_in_phase(OTHER);
	}
	expect_others_usable();
	ASSERT_EQ(0, fs_switch(f, onto(&f->under)));
	expect_all_is_well(_metadata, self);
}

/* The neighbour has the end of the disk in a file, so it stays writable, too. */
TEST_F_TIMEOUT(phase, suspend_leaves_out_what_fails_and_what_that_stands_on, af_secs(120))
{
	struct fs *f = &self->fs[VICTIM];
	struct af_cycle c = { 0 };
	char file[192];

	snprintf(file, sizeof(file), "%s/tail", self->fs[PEER].dir);
	ASSERT_EQ(0, af_file_create(file, TAIL * 512));
	ASSERT_EQ(0, af_loop_attach(&self->loop, file));
	snprintf(f->tail, sizeof(f->tail), "%.31s", onto(&self->loop));
	ASSERT_EQ(0, fs_switch(f, onto(&f->under)));
	af_undo_first(f->disk.name);
	af_undo_first(f->dir);
	expect_all_is_well(_metadata, self);
	EXPECT_EQ(NULL, af_order_broken(&self->ev, f->dev, self->fs[PEER].dev));

	ASSERT_EQ(0, fs_switch(f, "error"));
	expect_cycle(&c, 0);
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &f->disk));
	expect_not_frozen(PEER);
	expect_in_phase(OTHER);
	expect_others_usable();
	ASSERT_EQ(0, fs_switch(f, onto(&f->under)));
}

/* --- time -------------------------------------------------------------------- */

/* It is clean: the sync that a hibernation begins with has nothing to write. */
TEST_F_TIMEOUT(phase, disk_that_never_answers_is_given_up_in_time, af_secs(120))
{
	struct af_cycle disk = { .state = "disk" }, mem = { 0 };
	struct fs *f = &self->fs[VICTIM];

	ASSERT_EQ(0, af_dm_suspend(&f->disk, false, false));
	expect_cycle(&disk, -ETIMEDOUT);
	af_log("hibernation took %ld ms", disk.ms);
	EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, disk.ms);
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &f->disk));
	expect_others_usable();

	/* the first freeze still waits for the disk */
	expect_cycle(&mem, 0);
	af_log("suspend took %ld ms", mem.ms);
	EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, mem.ms);
	/* after tasks nothing at all is frozen then, it may wait for any of them */
	if (variant->served) {
		expect_in_phase(PEER);
		expect_in_phase(OTHER);
	}
	expect_others_usable();
	ASSERT_EQ(0, af_dm_resume(&f->disk));
	expect_usable(VICTIM);
	expect_all_is_well(_metadata, self);
}

TEST_F_TIMEOUT(phase, wakeup_ends_the_wait_for_a_disk_at_once, af_secs(120))
{
	struct af_cycle c = { .deadline = 20 };
	struct fs *f = &self->fs[VICTIM];
	struct wakeup w = { 0 };
	long long late;

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, af_dm_suspend(&f->disk, false, false));
	ASSERT_EQ(0, wakeup_arm(&w, 1000));
	EXPECT_EQ(-EBUSY, af_cycle(&c));
	late = af_now_ms() - w.at_ms;
	wakeup_end(&w);
	af_log("returned %lld ms after the event", late);
	ASSERT_LE(0, late)
		TH_LOG("it did not wait for the disk at all");
	ASSERT_GT(WAKEUP_SLACK_MS, late);
	expect_others_usable();
	ASSERT_EQ(0, af_dm_resume(&f->disk));
	expect_all_is_well(_metadata, self);
}

/* Longer than pm_freeze_timeout, and so than what the first phase has of it. */
TEST_F_TIMEOUT(phase, slow_write_back_is_no_failure, af_secs(120))
{
	struct af_disk_opts o = { .mb = 128, .mbps = 12 };
	struct fs *f = &self->fs[EXTRA];
	struct af_cycle c = { 0 };
	char path[128];

	if (af_secs(1) > 1)
		SKIP(return, "this kernel is slower than the disk is meant to be");
	ASSERT_EQ(0, fs_make(self, EXTRA, variant->served, "ext4",
			     "-O ^has_journal", NULL, &o));
	/* null_blk never starts a request larger than what one tick allows */
	snprintf(path, sizeof(path), "/sys/block/%s/queue/max_sectors_kb", f->under.name);
	ASSERT_EQ(0, af_write(path, "64"));
	ASSERT_EQ(0, make_dirty(f->dir, "dirty", 36));
	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "1000"));
	expect_cycle(&c, 0);
	af_log("suspend took %ld ms", c.ms);
	/* else all was clean in time and nothing has been shown */
	EXPECT_LT(1500, c.ms);
	expect_in_phase(EXTRA);
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
}

TEST_F_TIMEOUT(phase, neighbours_freeze_side_by_side, af_secs(120))
{
	struct fs *a = &self->fs[VICTIM], *b = &self->fs[PEER];
	const struct af_event *x, *y;
	struct af_cycle c = { 0 };

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, fs_switch(a, delayed(&a->under, 700)));
	ASSERT_EQ(0, fs_switch(b, delayed(&b->under, 700)));
	expect_cycle(&c, 0);
	expect_in_phase(VICTIM);
	expect_in_phase(PEER);
	x = af_event_freeze(&self->ev, a->dev);
	y = af_event_freeze(&self->ev, b->dev);
	ASSERT_TRUE(x && y);
	EXPECT_LT(x->begin, y->end);
	EXPECT_LT(y->begin, x->end);
	/* each waits for its disk, or side by side means nothing */
	EXPECT_LT(500000, x->end - x->begin);
	EXPECT_LT(500000, y->end - y->begin);
	ASSERT_EQ(0, fs_switch(a, onto(&a->under)));
	ASSERT_EQ(0, fs_switch(b, onto(&b->under)));
}

/* --- order, and what changes it ---------------------------------------------- */

/* The older one comes to stand on a file of the younger one, with all of it. */
TEST_F_TIMEOUT(phase, older_on_younger_freezes_first, af_secs(120))
{
	struct fs *upper = &self->fs[PEER], *lower = &self->fs[VICTIM];
	char file[192];

	snprintf(file, sizeof(file), "%s/image", lower->dir);
	ASSERT_EQ(0, af_dm_suspend(&upper->disk, true, true));
	ASSERT_EQ(0, af_copy(upper->under.node, file));
	ASSERT_EQ(0, af_loop_attach(&self->loop, file));
	ASSERT_EQ(0, af_dm_load(&upper->disk, fs_table(upper, onto(&self->loop))));
	ASSERT_EQ(0, af_dm_resume(&upper->disk));
	af_undo_first(upper->disk.name);
	af_undo_first(upper->dir);
	ASSERT_EQ(0, make_dirty(upper->dir, "dirty", 2));
	expect_all_is_well(_metadata, self);
	EXPECT_EQ(NULL, af_order_broken(&self->ev, upper->dev, lower->dev));
}

/* When the order has been found, add a tail that is served, or take it away. */
static int change_tail(void *arg)
{
	FIXTURE_DATA(phase) *self = arg;
	struct fs *f = &self->fs[PEER];
	long long end = af_now_ms() + 10000;
	char line[256];
	long pos = 0;

	while (af_trace_find("order_filesystems", &pos, line, sizeof(line))) {
		if (af_now_ms() > end)
			return -ETIMEDOUT;
		af_sleep_ms(20);
	}
	return fs_switch(f, onto(&f->under));
}

/*
 * A filesystem moves to the other phase when the first one has begun and waits
 * for a slow disk.  One that is then found too late is frozen in another try,
 * with tasks running, and one that is frozen already stays so.
 */
TEST_F_TIMEOUT(phase, change_of_the_phase_in_between, af_secs(120))
{
	struct fs *slow = &self->fs[variant->served ? VICTIM : OTHER];
	struct af_cycle c = { .state = "disk", .deadline = 25 };
	struct fs *f = &self->fs[PEER];
	pid_t pid;

	ASSERT_EQ(0, af_set("/sys/power/pm_freeze_timeout", "20000"));
	ASSERT_EQ(0, fs_switch(slow, delayed(&slow->under, 1500)));
	if (variant->served)
		f->tail[0] = '\0';
	else
		serve_tail(self, f);
	ASSERT_EQ(0, af_events_arm());
	pid = af_spawn(change_tail, self);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, af_cycle(&c));
	af_log("hibernation took %ld ms", c.ms);
	ASSERT_EQ(0, af_wait(pid, 10));
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	EXPECT_EQ(!variant->served,
		  !!af_klog_find(&self->log, "processes again"));
	/* in either case it was frozen with tasks running */
	expect_in_phase(PEER);
	expect_in_phase(OTHER);
	expect_in_phase(VICTIM);
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
	ASSERT_EQ(0, fs_switch(slow, onto(&slow->under)));
	if (!__test_passed(_metadata))
		af_events_dump(&self->ev);
}

/* --- who else has it, or writes to it ----------------------------------------- */

TEST_F_TIMEOUT(phase, userspace_freeze_survives_suspend, af_secs(120))
{
	struct fs *f = &self->fs[VICTIM];
	struct af_cycle c = { 0 };

	ASSERT_EQ(0, af_set(AF_KNOB, "0"));
	ASSERT_EQ(0, af_fifreeze(f->dir));
	expect_cycle(&c, 0);
	expect_in_phase(VICTIM);
	EXPECT_TRUE(is_frozen(f->dir));
	EXPECT_EQ(0, af_fithaw(f->dir));
	EXPECT_EQ(-EINVAL, af_fithaw(f->dir));
	expect_all_is_well(_metadata, self);
}

static int truncating_open(void *path)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	return fd < 0 ? -errno : 0;
}

TEST_F_TIMEOUT(phase, open_that_waits_for_a_listener_is_not_waited_for, af_secs(120))
{
	struct fanotify_event_metadata event;
	struct fanotify_response r = { .response = FAN_ALLOW };
	struct pollfd p = { .events = POLLIN };
	char path[192];
	pid_t pid;

	p.fd = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
	if (p.fd < 0 && (errno == ENOSYS || errno == EINVAL))
		SKIP(return, "no fanotify permission events (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)");
	ASSERT_LE(0, p.fd);
	snprintf(path, sizeof(path), "%s/file", self->fs[VICTIM].dir);
	ASSERT_EQ(0, af_file_create(path, 4096));
	ASSERT_EQ(0, fanotify_mark(p.fd, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, path));
	pid = af_spawn(truncating_open, path);
	ASSERT_LT(0, pid);
	ASSERT_EQ(1, poll(&p, 1, 5000));
	expect_all_is_well(_metadata, self);
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	ASSERT_EQ((ssize_t)sizeof(event), read(p.fd, &event, sizeof(event)));
	r.fd = event.fd;
	ASSERT_EQ((ssize_t)sizeof(r), write(p.fd, &r, sizeof(r)));
	EXPECT_EQ(0, af_wait(pid, 10));
}

static int splice_from_empty_pipe(void *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), p[2];

	if (fd < 0 || pipe(p))
		return -errno;
	return splice(p[0], NULL, fd, NULL, 4096, 0) < 0 ? -errno : 0;
}

/*
 * It holds the filesystem, and lets go only when it is about to be frozen: too
 * late for what is frozen before tasks.  That is left out then.
 */
TEST_F_TIMEOUT(phase, splice_from_an_empty_pipe_does_not_hold_up_suspend, af_secs(120))
{
	struct fs *f = &self->fs[VICTIM];
	struct af_cycle c = { 0 };
	char path[192];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/spliced", f->dir);
	pid = af_spawn(splice_from_empty_pipe, path);
	ASSERT_LT(0, pid);
	af_sleep_ms(500);
	ASSERT_EQ('S', af_task_state(pid));
	expect_cycle(&c, 0);
	EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, c.ms);
	if (variant->served) {
		EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &f->disk));
		expect_not_frozen(VICTIM);
	} else {
		expect_in_phase(VICTIM);
	}
	expect_in_phase(PEER);
	expect_in_phase(OTHER);
	expect_usable(VICTIM);
	EXPECT_EQ(-EINTR, af_kill(pid, 10));
	expect_all_is_well(_metadata, self);
}

/*
 * A page fault that waits for the thaw holds what madvise() waits for, and that
 * cannot be frozen.  So where the fault comes before tasks are frozen these may
 * refuse, as they do when a kernel freezes all filesystems first: the suspend
 * fails in time then, and nothing stays frozen.
 */
TEST_F_TIMEOUT(phase, madvise_of_a_faulting_mapping_leaves_nothing_frozen, af_secs(120))
{
	struct af_cycle c = { .deadline = 25 };
	struct load *load = load_alloc(2);
	int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, load_start(&load[i], LOAD_MADVISE, i,
					self->fs[VICTIM].dir));
	af_sleep_ms(300);
	ASSERT_EQ(0, af_events_arm());
	af_cycle(&c);
	af_log("suspend took %ld ms and returned %d", c.ms, c.error);
	ASSERT_LT(0, c.ms);
	EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, c.ms);
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	if (variant->served && c.error) {
		EXPECT_EQ(-EBUSY, c.error);
		EXPECT_NE(NULL, af_event_freeze(&self->ev, self->fs[VICTIM].dev));
		expect_not_frozen(OTHER);
	} else {
		EXPECT_EQ(0, c.error);
		expect_in_phase(VICTIM);
	}
	expect_usable(VICTIM);
	expect_usable(OTHER);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, load_stop(&load[i]));
	expect_all_is_well(_metadata, self);
}

/* --- what the one task sees that is not frozen --------------------------------- */

/* The superblock of ext4, on the disk: does its journal need to be replayed? */
static bool needs_recovery(const struct fs *f)
{
	static unsigned char buf[4096] __attribute__((aligned(4096)));
	int fd = open(f->under.node, O_RDONLY | O_DIRECT | O_CLOEXEC);
	bool ret;

	ret = pread(fd, buf, sizeof(buf), 0) != sizeof(buf) || (buf[1024 + 0x60] & 4);
	close(fd);
	return ret;
}

static int look_at_disk(void *arg)
{
	FIXTURE_DATA(phase) *self = arg;
	int snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);

	if (snap < 0 || ioctl(snap, SNAPSHOT_FREEZE, 0))
		return -errno;
	self->recover = needs_recovery(&self->fs[PEER]);
	return ioctl(snap, SNAPSHOT_UNFREEZE, 0) ? -errno : 0;
}

TEST_F_TIMEOUT(phase, disk_of_a_lost_image_needs_no_recovery, af_secs(120))
{
	if (access("/dev/snapshot", W_OK))
		SKIP(return, "needs CONFIG_HIBERNATION_SNAPSHOT_DEV");
	ASSERT_EQ(0, af_writable(self->fs[PEER].dir, 10));
	ASSERT_TRUE(needs_recovery(&self->fs[PEER]));
	ASSERT_EQ(0, af_bounded(20, look_at_disk, self));
	EXPECT_FALSE(self->recover);
	expect_usable(PEER);
}

/* The block that the inode is in has been forgotten, and cannot be read again. */
static int meet_an_error(void *arg)
{
	FIXTURE_DATA(phase) *self = arg;
	int snap = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	struct fs *f = &self->fs[EXTRA];
	struct statvfs vfs;
	struct stat st;
	char path[192];

	snprintf(path, sizeof(path), "%s/file", f->dir);
	if (snap < 0 || ioctl(snap, SNAPSHOT_FREEZE, 0))
		return -errno;
	self->frozen = is_frozen(f->dir);
	fs_switch(f, "error");
	stat(path, &st);
	self->readonly = !statvfs(f->dir, &vfs) && (vfs.f_flag & ST_RDONLY);
	fs_switch(f, onto(&f->under));
	return ioctl(snap, SNAPSHOT_UNFREEZE, 0) ? -errno : 0;
}

TEST_F_TIMEOUT(phase, turned_read_only_it_is_thawed_for_writers, af_secs(120))
{
	const char *why = af_needs(AF_EXT2 | AF_SNAPSHOT);
	struct af_disk_opts o = { .mb = 16 };
	struct fs *f = &self->fs[EXTRA];
	char path[192];
	int fd;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_make(self, EXTRA, variant->served, "ext2", NULL, NULL, &o));
	snprintf(path, sizeof(path), "%s/file", f->dir);
	ASSERT_EQ(0, af_file_create(path, 1));
	ASSERT_EQ(0, af_umount(f->dir));
	ASSERT_EQ(0, fs_mount(f, "ext2", "errors=remount-ro"));
	/* what it is called is known, what it is must be read */
	path[strlen(path) - 1] = '\0';
	ASSERT_EQ(-1, access(path, F_OK));
	fd = open(f->disk.node, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, BLKFLSBUF, 0));
	close(fd);
	ASSERT_EQ(0, af_bounded(20, meet_an_error, self));
	EXPECT_TRUE(self->frozen);
	ASSERT_TRUE(self->readonly);
	EXPECT_EQ(-EROFS, af_writable(f->dir, 10));
	EXPECT_EQ(0, af_umount(f->dir));
}

/* --- what a freeze stops before it fails ---------------------------------------- */

static unsigned long free_mb(const char *dir)
{
	struct statvfs st;

	return statvfs(dir, &st) ? 0 : st.f_bfree * st.f_frsize / MB;
}

/* xfs gives the space of a deleted file back in the background. */
TEST_F_TIMEOUT(phase, background_work_goes_on_after_a_freeze_that_failed, af_secs(120))
{
	const char *why = af_needs(AF_XFS | AF_FAIL_FUNC);
	struct fs *f = &self->fs[EXTRA];
	struct af_cycle c = { 0 };
	unsigned long before;
	char path[192];
	int i;

	if (!why && inject_error("sb_freeze_fs", -ENOSPC, 1))
		why = "this kernel has no such point of error injection";
	inject_nothing();
	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_make(self, EXTRA, variant->served, "xfs", NULL, NULL, NULL));
	ASSERT_EQ(0, make_dirty(f->dir, "file", 32));
	sync();
	before = free_mb(f->dir);
	ASSERT_EQ(0, inject_error("sb_freeze_fs", -ENOSPC, 1));
	expect_cycle(&c, 0);
	inject_nothing();
	EXPECT_TRUE(freeze_failure_named(&self->log, "xfs", &f->disk));
	expect_usable(EXTRA);
	snprintf(path, sizeof(path), "%s/file", f->dir);
	ASSERT_EQ(0, unlink(path));
	for (i = 0; i < 100 && free_mb(f->dir) < before + 16; i++)
		af_sleep_ms(100);
	EXPECT_LE(before + 16, free_mb(f->dir));
}

TEST_HARNESS_MAIN
