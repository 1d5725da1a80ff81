// SPDX-License-Identifier: GPL-2.0
/*
 * Filesystems freeze in the order of what stands on what, however that came
 * about: what is written back freezes before where it is written to.  They thaw
 * in the reverse order, and what does not depend on each other freezes side by
 * side.
 *
 * The order in which filesystems were mounted says something else here: each is
 * made on a disk of its own, and only then comes to stand on a file of one that
 * was mounted later.  So a kernel that goes by that order freezes the lower one
 * first, and cannot freeze the upper one any more.
 *
 * The knob is at 1, so that a kernel without the automatism freezes as well.
 */
#define _GNU_SOURCE
#include <linux/btrfs.h>
#include <linux/genetlink.h>
#include <linux/loop.h>
#include <linux/nbd.h>
#include <linux/nbd-netlink.h>
#include <linux/major.h>
#include <linux/raid/md_u.h>
#include <arpa/inet.h>
#include <endian.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kselftest_harness.h"
#include "af_fail.h"
#include "fuse.h"

#define MB		(1024 * 1024ULL)
#define FREEZE_TIMEOUT_MS	3000
/* Slow machines freeze slowly, but not so slowly. */
#define SLACK_MS	4000

#define CYCLE		"PM: filesystem dependency cycle: "

/* A filesystem, on a disk that can be exchanged below it. */
struct fs {
	struct af_disk under;	/* where it was made */
	struct af_disk disk;	/* device mapper: what it is mounted from */
	struct af_disk loop;	/* where it was moved to */
	char dir[128];
	dev_t dev;
};

static int fs_mount(struct fs *f, const char *type, const char *name,
		    const char *opts)
{
	int ret = af_mount(type, f->disk.node, name, opts, f->dir);

	return ret ?: af_mount_dev(f->dir, &f->dev);
}

/* The disk only. */
static int fs_disk(struct fs *f, const char *name, unsigned int mb)
{
	struct af_disk_opts o = { .mb = mb };
	int ret = af_disk_create(&f->under, name, &o);

	return ret ?: af_dm_linear(&f->disk, name, &f->under);
}

static int fs_make_opts(struct fs *f, const char *name, unsigned int mb,
			const char *opts)
{
	int ret = fs_disk(f, name, mb);

	ret = ret ?: af_mkfs("ext4", f->disk.node, NULL);
	return ret ?: fs_mount(f, "ext4", name, opts);
}

static int fs_make(struct fs *f, const char *name, unsigned int mb)
{
	return fs_make_opts(f, name, mb, NULL);
}

/* Move all of @upper to a file in @dir. */
static int fs_move_to(struct fs *upper, const char *dir)
{
	char file[192];
	int ret;

	snprintf(file, sizeof(file), "%s/image-%.24s", dir, upper->disk.name);
	ret = af_dm_move(&upper->disk, &upper->under, &upper->loop, file);
	if (!ret && upper->dir[0])
		af_undo_first(upper->dir);
	return ret;
}

static int fs_move(struct fs *upper, const struct fs *lower)
{
	return fs_move_to(upper, lower->dir);
}

#define TAIL	2048	/* sectors */

/*
 * Have @upper, on the disk it was made on, end in a file of @lower.  Nothing is
 * written there, but only the filesystem knows that.
 */
static int fs_link(struct fs *upper, const struct fs *lower)
{
	char file[192], table[256];
	int ret;

	snprintf(file, sizeof(file), "%s/tail-%.24s", lower->dir, upper->disk.name);
	ret = af_file_create(file, TAIL * 512);
	ret = ret ?: af_loop_attach(&upper->loop, file);
	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0\n%llu %u linear %u:%u 0",
		 upper->under.sectors, major(upper->under.dev),
		 minor(upper->under.dev), upper->under.sectors, TAIL,
		 major(upper->loop.dev), minor(upper->loop.dev));
	ret = ret ?: af_dm_reload(&upper->disk, table);
	if (ret)
		return ret;
	af_undo_first(upper->disk.name);
	af_undo_first(upper->dir);
	return 0;
}

static int fs_unlink(struct fs *upper)
{
	char table[128];
	int ret;

	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
		 upper->under.sectors, major(upper->under.dev),
		 minor(upper->under.dev));
	ret = af_dm_reload(&upper->disk, table);
	return ret ?: af_loop_detach(&upper->loop);
}

static int btrfs_device(const char *dir, unsigned long cmd, const char *node)
{
	struct btrfs_ioctl_vol_args args = { 0 };
	int fd = open(dir, O_RDONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	snprintf(args.name, sizeof(args.name), "%s", node);
	if (ioctl(fd, cmd, &args))
		ret = -errno;
	close(fd);
	return ret;
}

#define FILESYSTEMS	6

FIXTURE(graph) {
	struct fs fs[FILESYSTEMS];
	struct af_disk extra[2];
	char dir[128];
	struct af_klog log;
	struct af_events ev;
	/* how the cycle that is there can be broken */
	enum { NO_CYCLE, CYCLE_DM, CYCLE_BTRFS } cycle;
};

static const char *prepare(unsigned int needs)
{
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_DM | AF_TRACE |
				   AF_EXT4 | needs);

	if (why)
		return why;
	if (af_set(AF_KNOB, "1") || keep_dirty() ||
	    af_set("/sys/power/pm_freeze_timeout", "%u", FREEZE_TIMEOUT_MS))
		return "cannot be set up";
	return NULL;
}

FIXTURE_SETUP(graph)
{
	const char *why = prepare(0);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

/* Nothing can be unmounted in a cycle. */
static int break_cycle(FIXTURE_DATA(graph) * self)
{
	struct fs *a = &self->fs[0], *b = &self->fs[1];
	int ret = 0;

	if (self->cycle == CYCLE_DM)
		ret = fs_unlink(b);
	else if (self->cycle == CYCLE_BTRFS)
		ret = btrfs_device(a->dir, BTRFS_IOC_RM_DEV, self->extra[0].node);
	if (self->cycle == CYCLE_DM && !ret) {
		af_undo_first(a->loop.name);
		af_undo_first(a->disk.name);
		af_undo_first(a->dir);
	}
	self->cycle = NO_CYCLE;
	return ret;
}

FIXTURE_TEARDOWN_PARENT(graph)
{
	EXPECT_EQ(0, break_cycle(self));
	EXPECT_EQ(0, af_cleanup());
}

/* What must be so whatever was mounted on what. */
static void expect_usable(struct __test_metadata *_metadata,
			  FIXTURE_DATA(graph) * self)
{
	unsigned int i;

	for (i = 0; i < FILESYSTEMS; i++) {
		if (!self->fs[i].dir[0] || !self->fs[i].dev)
			continue;
		EXPECT_TRUE(becomes_unfrozen(self->fs[i].dir, 10000));
		EXPECT_EQ(0, af_writable(self->fs[i].dir, 20))
			TH_LOG("%s", self->fs[i].dir);
	}
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

struct pair {
	const struct fs *upper, *lower;
};

/*
 * Suspend and hibernate, with something to write back in each upper one: all
 * freezes, in the order of the pairs.  Ends with a NULL.
 */
static void expect_order(struct __test_metadata *_metadata,
			 FIXTURE_DATA(graph) * self, const struct pair *pairs)
{
	static const char * const states[] = { "mem", "disk" };
	const struct pair *p;
	const char *broken;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		struct af_cycle c = { .state = states[i], .deadline = 40 };

		for (p = pairs; p->upper; p++) {
			if (p->upper->dir[0])
				ASSERT_EQ(0, make_dirty(p->upper->dir, "dirty", 1));
		}
		ASSERT_EQ(0, af_events_arm());
		ASSERT_EQ(0, af_cycle(&c))
			TH_LOG("%s", states[i]);
		EXPECT_EQ(0, af_events_read(&self->ev, 20));
		for (p = pairs; p->upper; p++) {
			broken = af_order_broken(&self->ev, p->upper->dev,
						 p->lower->dev);
			EXPECT_EQ(NULL, broken)
				TH_LOG("%s: %s", states[i], broken);
		}
		EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
		expect_usable(_metadata, self);
		if (!__test_passed(_metadata)) {
			af_events_dump(&self->ev);
			return;
		}
	}
}

static void expect_pair(struct __test_metadata *_metadata,
			FIXTURE_DATA(graph) * self, const struct fs *upper,
			const struct fs *lower)
{
	const struct pair p[] = { { upper, lower }, { NULL, NULL } };

	expect_order(_metadata, self, p);
}

/* --- what a device stands on -------------------------------------------------- */

TEST_F_TIMEOUT(graph, dm_reload_onto_a_later_filesystem, af_secs(90))
{
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];

	ASSERT_EQ(0, fs_make(upper, "upper", 16));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, fs_move(upper, lower));
	expect_pair(_metadata, self, upper, lower);
}

TEST_F_TIMEOUT(graph, chain_of_five, af_secs(180))
{
	struct pair p[] = { { NULL, NULL }, { NULL, NULL }, { NULL, NULL },
			    { NULL, NULL }, { NULL, NULL } };
	char name[16];
	int i;

	for (i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "chain%d", i);
		ASSERT_EQ(0, fs_make(&self->fs[i], name, 16 + 8 * i));
	}
	for (i = 3; i >= 0; i--) {
		p[i].upper = &self->fs[i];
		p[i].lower = &self->fs[i + 1];
		ASSERT_EQ(0, fs_move(&self->fs[i], &self->fs[i + 1]));
	}
	expect_order(_metadata, self, p);
}

/* One above two above one. */
TEST_F_TIMEOUT(graph, diamond, af_secs(120))
{
	struct fs *top = &self->fs[0], *left = &self->fs[1], *right = &self->fs[2];
	struct fs *low = &self->fs[3];
	const struct pair p[] = {
		{ top, left }, { top, right }, { left, low }, { right, low },
		{ NULL, NULL },
	};

	ASSERT_EQ(0, fs_make(top, "top", 16));
	ASSERT_EQ(0, fs_make(left, "left", 40));
	ASSERT_EQ(0, fs_make(right, "right", 16));
	ASSERT_EQ(0, fs_make(low, "low", 96));
	ASSERT_EQ(0, fs_move(left, low));
	ASSERT_EQ(0, fs_move(right, low));
	ASSERT_EQ(0, fs_move(top, left));
	/* a second leg */
	top->under = top->loop;
	ASSERT_EQ(0, fs_link(top, right));
	expect_order(_metadata, self, p);
}

TEST_F_TIMEOUT(graph, partitions, af_secs(90))
{
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	struct af_disk_opts o = { .mb = 24 };
	struct af_disk *disk = &self->extra[0], *loop = &self->extra[1];
	char file[192], table[256];

	ASSERT_EQ(0, af_disk_create(disk, "whole", &o));
	ASSERT_EQ(0, af_part_create(&upper->under, disk, 1, 2048, 32768));
	ASSERT_EQ(0, af_dm_linear(&upper->disk, "upper", &upper->under));
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	/* it grows onto a partition of a file */
	snprintf(file, sizeof(file), "%s/image", lower->dir);
	ASSERT_EQ(0, af_file_create(file, 4 * MB));
	ASSERT_EQ(0, af_loop_attach(loop, file));
	ASSERT_EQ(0, af_part_create(&upper->loop, loop, 1, TAIL, TAIL));
	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0\n%llu %u linear %u:%u 0",
		 upper->under.sectors, major(upper->under.dev),
		 minor(upper->under.dev), upper->under.sectors, TAIL,
		 major(upper->loop.dev), minor(upper->loop.dev));
	ASSERT_EQ(0, af_dm_reload(&upper->disk, table));
	af_undo_first(upper->disk.name);
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

TEST_F_TIMEOUT(graph, external_journal_on_a_later_filesystem, af_secs(90))
{
	struct fs *upper = &self->fs[0], *journal = &self->fs[1];
	struct fs *lower = &self->fs[2];
	char opts[128];

	ASSERT_EQ(0, fs_disk(journal, "journal", 16));
	ASSERT_EQ(0, af_mkfs("ext4", journal->disk.node, "-b 4096 -O journal_dev"));
	ASSERT_EQ(0, fs_disk(upper, "upper", 24));
	snprintf(opts, sizeof(opts), "-b 4096 -J device=%s", journal->disk.node);
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, opts));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, fs_move(journal, lower));
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

/* What the loop device is over is a device, so it has no filesystem of its own. */
TEST_F_TIMEOUT(graph, loop_over_a_block_device, af_secs(90))
{
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	struct fs *middle = &self->fs[2];

	ASSERT_EQ(0, fs_disk(middle, "middle", 16));
	ASSERT_EQ(0, af_loop_attach(&upper->disk, middle->disk.node));
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, fs_move(middle, lower));
	af_undo_first(upper->disk.name);
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

TEST_F_TIMEOUT(graph, loop_on_overlay, af_secs(90))
{
	const char *why = af_needs(AF_OVERLAY);
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_make(upper, "upper", 16));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, af_overlay(lower->dir, "overlay", self->dir));
	ASSERT_EQ(0, fs_move_to(upper, self->dir));
	expect_pair(_metadata, self, upper, lower);
}

/*
 * That needs a read-only loop device, so nothing is written from above, but the
 * order is known none the less.
 */
TEST_F_TIMEOUT(graph, loop_change_fd, af_secs(90))
{
	struct fs *upper = &self->fs[0], *old = &self->fs[1];
	struct fs *lower = &self->fs[2];
	char file[2][192];
	int fd, lo, ret;

	ASSERT_EQ(0, fs_make(old, "old", 48));
	snprintf(file[0], sizeof(file[0]), "%s/image", old->dir);
	ASSERT_EQ(0, af_file_create(file[0], 16 * MB));
	ASSERT_EQ(0, af_mkfs("ext4", file[0], NULL));
	ASSERT_EQ(0, af_loop_attach_ro(&upper->loop, file[0]));
	/* a filesystem right on the loop device would take it for removed */
	ASSERT_EQ(0, af_dm_linear_ro(&upper->disk, "upper", &upper->loop));
	ASSERT_EQ(0, af_mount("ext4", upper->disk.node, "upper", "ro", self->dir));
	ASSERT_EQ(0, af_mount_dev(self->dir, &upper->dev));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	snprintf(file[1], sizeof(file[1]), "%s/image", lower->dir);
	ASSERT_EQ(0, af_run(20, "cp %s %s && sync", file[0], file[1]));
	fd = open(file[1], O_RDONLY | O_CLOEXEC);
	lo = open(upper->loop.node, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_LE(0, lo);
	ret = ioctl(lo, LOOP_CHANGE_FD, fd) ? -errno : 0;
	close(fd);
	close(lo);
	ASSERT_EQ(0, ret);
	af_undo_first(upper->loop.name);
	af_undo_first(upper->disk.name);
	af_undo_first(self->dir);
	expect_pair(_metadata, self, upper, lower);
}

TEST_F_TIMEOUT(graph, zram_with_a_backing_device, af_secs(90))
{
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	struct fs *backing = &self->fs[2];

	if (access("/sys/block/zram0/backing_dev", W_OK))
		SKIP(return, "needs CONFIG_ZRAM_WRITEBACK");
	ASSERT_EQ(0, fs_disk(backing, "backing", 16));
	ASSERT_EQ(0, af_write("/sys/block/zram0/backing_dev", "%s",
			      backing->disk.node));
	af_undo_write("/sys/block/zram0/reset", "1");
	ASSERT_EQ(0, af_write("/sys/block/zram0/disksize", "16M"));
	snprintf(upper->disk.node, sizeof(upper->disk.node), "/dev/zram0");
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, fs_move(backing, lower));
	af_undo_first("/sys/block/zram0/reset");
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

/* --- md ----------------------------------------------------------------------- */

#define ARRAY		"md_afgraph"
#define ARRAY_STATE	"/sys/block/" ARRAY "/md/array_state"
#define ARRAY_MB	16

static int array_ioctl(unsigned long cmd, unsigned long arg)
{
	int fd = open("/dev/" ARRAY, O_RDWR | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, cmd, arg))
		ret = -errno;
	close(fd);
	return ret;
}

static bool array_settles(void)
{
	char action[32], degraded[32];
	int i;

	for (i = 0; i < 400; i++) {
		if (!af_read("/sys/block/" ARRAY "/md/sync_action", action,
			     sizeof(action)) &&
		    !af_read("/sys/block/" ARRAY "/md/degraded", degraded,
			     sizeof(degraded)) &&
		    !strcmp(action, "idle") && !strcmp(degraded, "0"))
			return true;
		af_sleep_ms(50);
	}
	af_log("%s, degraded %s", action, degraded);
	return false;
}

TEST_F_TIMEOUT(graph, md_add_of_a_loop_on_a_later_filesystem, af_secs(120))
{
	const char *why = af_needs(AF_MD);
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	struct af_disk_opts o = { .mb = ARRAY_MB };
	char file[192];
	dev_t dev;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_disk_create(&upper->under, "leg", &o));
	ASSERT_EQ(0, af_md_start(&upper->disk, ARRAY, "none", &upper->under, 1,
				 2, ARRAY_MB * 1024, "active"));
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	snprintf(file, sizeof(file), "%s/image", lower->dir);
	ASSERT_EQ(0, af_file_create(file, ARRAY_MB * MB));
	ASSERT_EQ(0, af_loop_attach(&upper->loop, file));
	dev = upper->loop.dev;
	ASSERT_EQ(0, array_ioctl(HOT_ADD_DISK, (minor(dev) & 0xff) |
				 major(dev) << 8 | (minor(dev) & ~0xff) << 12));
	ASSERT_TRUE(array_settles());
	af_undo_first(ARRAY_STATE);
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

/* --- btrfs -------------------------------------------------------------------- */

#define BTRFS_MB	128

static int btrfs_scan(const char *node)
{
	struct btrfs_ioctl_vol_args args = { 0 };
	int fd = open("/dev/btrfs-control", O_RDWR | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	snprintf(args.name, sizeof(args.name), "%s", node);
	if (ioctl(fd, BTRFS_IOC_SCAN_DEV, &args))
		ret = -errno;
	close(fd);
	return ret;
}

TEST_F_TIMEOUT(graph, btrfs_device_add_of_a_loop_on_a_later_filesystem, af_secs(120))
{
	const char *why = af_needs(AF_BTRFS);
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	char file[192];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_disk(upper, "upper", BTRFS_MB));
	ASSERT_EQ(0, af_mkfs("btrfs", upper->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(upper, "btrfs", "upper", NULL));
	ASSERT_EQ(0, fs_make(lower, "lower", BTRFS_MB + 32));
	snprintf(file, sizeof(file), "%s/image", lower->dir);
	ASSERT_EQ(0, af_file_create(file, BTRFS_MB * MB));
	ASSERT_EQ(0, af_loop_attach(&upper->loop, file));
	ASSERT_EQ(0, btrfs_device(upper->dir, BTRFS_IOC_ADD_DEV,
				  upper->loop.node));
	af_undo_first(upper->dir);
	expect_pair(_metadata, self, upper, lower);
}

TEST_F_TIMEOUT(graph, btrfs_over_loops_on_two_filesystems, af_secs(150))
{
	const char *why = af_needs(AF_BTRFS);
	struct fs *upper = &self->fs[0], *second = &self->fs[1];
	struct fs *low[] = { &self->fs[2], &self->fs[3] };
	const struct pair p[] = {
		{ upper, low[0] }, { upper, low[1] }, { NULL, NULL },
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_disk(upper, "upper", BTRFS_MB));
	ASSERT_EQ(0, fs_disk(second, "second", BTRFS_MB));
	ASSERT_EQ(0, af_mkfs("btrfs", upper->disk.node, second->disk.node));
	ASSERT_EQ(0, btrfs_scan(second->disk.node));
	ASSERT_EQ(0, fs_mount(upper, "btrfs", "upper", NULL));
	ASSERT_EQ(0, fs_make(low[0], "low", BTRFS_MB + 32));
	ASSERT_EQ(0, fs_make(low[1], "low2", BTRFS_MB + 32));
	ASSERT_EQ(0, fs_move(second, low[1]));
	ASSERT_EQ(0, fs_move(upper, low[0]));
	expect_order(_metadata, self, p);
}

/* --- swap --------------------------------------------------------------------- */

/* Was it left out, with another one frozen as ever? */
static void expect_left_out(struct __test_metadata *_metadata,
			    FIXTURE_DATA(graph) * self, const struct fs *out,
			    const struct fs *other)
{
	EXPECT_EQ(NULL, af_event_freeze(&self->ev, out->dev))
		TH_LOG("%s was frozen", out->dir);
	EXPECT_NE(NULL, af_event_freeze(&self->ev, other->dev))
		TH_LOG("%s was not frozen", other->dir);
	if (!__test_passed(_metadata))
		af_events_dump(&self->ev);
}

/*
 * Swap is written while filesystems are frozen: memory is needed for an image,
 * and the image itself is written.
 */
TEST_F_TIMEOUT(graph, swap_on_a_loop_device_keeps_the_filesystem_unfrozen, af_secs(90))
{
	struct fs *lower = &self->fs[0], *other = &self->fs[1];
	struct af_cycle c = { .deadline = 40 };
	struct af_cycle disk = { .state = "disk", .deadline = 40 };
	struct af_disk *loop = &self->extra[0];
	const char *line;
	char file[192];

	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	ASSERT_EQ(0, fs_make(other, "other", 16));
	snprintf(file, sizeof(file), "%s/swap", lower->dir);
	ASSERT_EQ(0, af_run(20, "dd if=/dev/zero of=%s bs=1M count=8 conv=fsync", file));
	ASSERT_EQ(0, af_loop_attach(loop, file));
	ASSERT_EQ(0, af_swapon(loop->node));
	ASSERT_EQ(0, make_dirty(lower->dir, "dirty", 1));
	ASSERT_EQ(0, make_dirty(other->dir, "dirty", 1));

	/* what swapon said does not count */
	af_klog_end(&self->log);
	ASSERT_EQ(0, af_klog_mark(&self->log));
	ASSERT_EQ(0, af_events_arm());
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	expect_left_out(_metadata, self, lower, other);
	line = af_klog_find(&self->log, "swap");
	EXPECT_NE(NULL, line)
		TH_LOG("nothing is said about it");
	af_log("%s", line ?: "");
	expect_usable(_metadata, self);

	af_klog_end(&self->log);
	ASSERT_EQ(0, af_klog_mark(&self->log));
	ASSERT_EQ(0, af_events_arm());
	EXPECT_EQ(-EBUSY, af_cycle(&disk));
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	EXPECT_EQ(NULL, af_event_freeze(&self->ev, lower->dev));
	line = af_klog_find(&self->log, "swap");
	EXPECT_NE(NULL, line)
		TH_LOG("nothing is said about it");
	af_log("%s", line ?: "");
	expect_usable(_metadata, self);
}

/* Swap that is not written through the filesystem is no reason to leave it out. */
static void expect_frozen(struct __test_metadata *_metadata,
			  FIXTURE_DATA(graph) * self, const struct fs *lower)
{
	static const char * const states[] = { "mem", "disk" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		struct af_cycle c = { .state = states[i], .deadline = 40 };

		ASSERT_EQ(0, make_dirty(lower->dir, "dirty", 1));
		ASSERT_EQ(0, af_events_arm());
		EXPECT_EQ(0, af_cycle(&c));
		EXPECT_EQ(0, af_events_read(&self->ev, 20));
		EXPECT_NE(NULL, af_event_freeze(&self->ev, lower->dev))
			TH_LOG("%s: %s was not frozen", states[i], lower->dir);
		expect_usable(_metadata, self);
	}
}

/* A swap file is written without the filesystem that it is on. */
TEST_F_TIMEOUT(graph, swap_file_does_not_keep_its_filesystem_unfrozen, af_secs(90))
{
	struct fs *lower = &self->fs[0];
	char file[192];

	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	snprintf(file, sizeof(file), "%s/swap", lower->dir);
	ASSERT_EQ(0, af_run(20, "dd if=/dev/zero of=%s bs=1M count=8 conv=fsync", file));
	ASSERT_EQ(0, chmod(file, 0600));
	ASSERT_EQ(0, af_swapon(file));
	expect_frozen(_metadata, self, lower);
}

/* zram is swapped to, and writes to its file only when a task asks for it. */
TEST_F_TIMEOUT(graph, swap_on_zram_does_not_keep_the_filesystem_of_its_file_unfrozen,
	       af_secs(90))
{
	struct fs *lower = &self->fs[0];
	struct af_disk *loop = &self->extra[0];
	char file[192];

	if (access("/sys/block/zram0/backing_dev", W_OK))
		SKIP(return, "needs CONFIG_ZRAM_WRITEBACK");
	ASSERT_EQ(0, fs_make(lower, "lower", 48));
	snprintf(file, sizeof(file), "%s/backing", lower->dir);
	ASSERT_EQ(0, af_file_create(file, 8 * MB));
	ASSERT_EQ(0, af_loop_attach(loop, file));
	ASSERT_EQ(0, af_write("/sys/block/zram0/backing_dev", "%s", loop->node));
	af_undo_write("/sys/block/zram0/reset", "1");
	ASSERT_EQ(0, af_write("/sys/block/zram0/disksize", "16M"));
	ASSERT_EQ(0, af_swapon("/dev/zram0"));
	expect_frozen(_metadata, self, lower);
}

/* --- cycles ------------------------------------------------------------------- */

/*
 * What is written in a cycle never gets anywhere once a part of it is frozen.
 * Hibernation cannot do without and says so.
 *
 * Mounted without barriers: a flush goes to all of a device, so in a cycle it
 * waits for itself, with no suspend at all.
 */
static void expect_cycle(struct __test_metadata *_metadata,
			 FIXTURE_DATA(graph) * self, const struct fs *member,
			 const struct fs *member2, const struct fs *other)
{
	struct af_cycle disk = { .state = "disk", .deadline = 40 };
	struct af_cycle mem = { .deadline = 40 };
	const char *line;
	unsigned int i;

	ASSERT_EQ(0, make_dirty(other->dir, "dirty", 1));
	ASSERT_EQ(0, af_events_arm());
	EXPECT_EQ(-EDEADLK, af_cycle(&disk));
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	for (i = 0; i < self->ev.nr; i++) {
		EXPECT_FALSE(!self->ev.event[i].thaw && !self->ev.event[i].error)
			TH_LOG("%s (%s) was frozen", self->ev.event[i].fs,
			       self->ev.event[i].id);
	}
	line = af_klog_find(&self->log, CYCLE);
	EXPECT_NE(NULL, line)
		TH_LOG("the cycle was not printed");
	af_log("%s", line ?: "");
	expect_usable(_metadata, self);

	af_klog_end(&self->log);
	ASSERT_EQ(0, af_klog_mark(&self->log));
	ASSERT_EQ(0, af_events_arm());
	ASSERT_EQ(0, af_cycle(&mem));
	EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, mem.ms);
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	EXPECT_NE(NULL, af_klog_find(&self->log, CYCLE))
		TH_LOG("the cycle was not printed");
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	EXPECT_EQ(NULL, af_event_freeze(&self->ev, member->dev))
		TH_LOG("%s was frozen", member->dir);
	expect_left_out(_metadata, self, member2, other);
	expect_usable(_metadata, self);
}

/* The line must name each filesystem and each device of it, in their order. */
static bool names_in_order(const char *line, const char * const *names)
{
	for (; line && *names; names++) {
		line = strstr(line, *names);
		line = line ? line + strlen(*names) : NULL;
	}
	return line;
}

TEST_F_TIMEOUT(graph, cycle_through_dm_is_found_before_anything_is_frozen, af_secs(120))
{
	struct fs *a = &self->fs[0], *b = &self->fs[1], *other = &self->fs[2];
	const char *names[8] = { NULL };
	char id[2][64], sb[2][80];
	const char *line;

	ASSERT_EQ(0, fs_make_opts(a, "cyclic", 24, "nobarrier"));
	ASSERT_EQ(0, fs_make_opts(b, "cyclic2", 48, "nobarrier"));
	ASSERT_EQ(0, fs_make(other, "other", 16));
	ASSERT_EQ(0, fs_move(a, b));
	ASSERT_EQ(0, fs_link(b, a));
	self->cycle = CYCLE_DM;
	expect_cycle(_metadata, self, a, b, other);

	/* "ext4 (dm-0) -> dm-0 -> loop0 -> ext4 (dm-1) -> dm-1 -> loop1 -> ..." */
	disk_id(&a->disk, id[0], sizeof(id[0]));
	disk_id(&b->disk, id[1], sizeof(id[1]));
	snprintf(sb[0], sizeof(sb[0]), "ext4 (%s)", id[0]);
	snprintf(sb[1], sizeof(sb[1]), "ext4 (%s)", id[1]);
	line = af_klog_find(&self->log, CYCLE);
	names[0] = sb[0];
	names[1] = a->loop.name;
	names[2] = sb[1];
	names[3] = b->loop.name;
	if (!names_in_order(line, names)) {
		names[0] = sb[1];
		names[1] = b->loop.name;
		names[2] = sb[0];
		names[3] = a->loop.name;
		EXPECT_TRUE(names_in_order(line, names));
	}

	ASSERT_EQ(0, break_cycle(self));
	/* and without it all is as ever */
	af_klog_end(&self->log);
	ASSERT_EQ(0, af_klog_mark(&self->log));
	expect_pair(_metadata, self, a, b);
}

TEST_F_TIMEOUT(graph, cycle_through_btrfs_is_found_before_anything_is_frozen, af_secs(120))
{
	const char *why = af_needs(AF_BTRFS);
	struct fs *a = &self->fs[0], *b = &self->fs[1], *other = &self->fs[2];
	char file[192];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, fs_disk(a, "cyclic", 2 * BTRFS_MB));
	ASSERT_EQ(0, af_mkfs("btrfs", a->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(a, "btrfs", "cyclic", "nobarrier"));
	snprintf(file, sizeof(file), "%s/image", a->dir);
	ASSERT_EQ(0, af_file_create(file, BTRFS_MB * MB));
	ASSERT_EQ(0, af_loop_attach(&b->disk, file));
	ASSERT_EQ(0, af_mkfs("ext4", b->disk.node, NULL));
	ASSERT_EQ(0, fs_mount(b, "ext4", "cyclic2", "nobarrier"));
	ASSERT_EQ(0, fs_make(other, "other", 16));
	snprintf(file, sizeof(file), "%s/image", b->dir);
	ASSERT_EQ(0, af_file_create(file, BTRFS_MB / 2 * MB));
	ASSERT_EQ(0, af_loop_attach(&self->extra[0], file));
	ASSERT_EQ(0, btrfs_device(a->dir, BTRFS_IOC_ADD_DEV, self->extra[0].node));
	self->cycle = CYCLE_BTRFS;
	expect_cycle(_metadata, self, a, b, other);
	EXPECT_EQ(0, break_cycle(self));
}

/* --- from one suspend to the next --------------------------------------------- */

TEST_F_TIMEOUT(graph, change_between_two_suspends, af_secs(120))
{
	struct fs *a = &self->fs[0], *b = &self->fs[1];

	ASSERT_EQ(0, fs_make(a, "a", 24));
	ASSERT_EQ(0, fs_make(b, "b", 24));
	ASSERT_EQ(0, fs_link(a, b));
	expect_pair(_metadata, self, a, b);
	ASSERT_EQ(0, fs_unlink(a));
	ASSERT_EQ(0, fs_link(b, a));
	expect_pair(_metadata, self, b, a);
}

/*
 * A filesystem that stays unfrozen goes on writing, and must be able to: what
 * it stands on stays unfrozen, too.
 */
TEST_F_TIMEOUT(graph, failed_freeze_leaves_what_it_stands_on_unfrozen, af_secs(90))
{
	struct fs *upper = &self->fs[0], *lower = &self->fs[1];
	struct fs *bottom = &self->fs[2], *other = &self->fs[3];
	struct af_cycle c = { .deadline = 40 };
	char table[256], dir[128];

	/* no journal that would be aborted, and then there is nothing to freeze */
	ASSERT_EQ(0, fs_disk(upper, "upper", 16));
	ASSERT_EQ(0, af_mkfs("ext4", upper->disk.node, "-O ^has_journal"));
	ASSERT_EQ(0, fs_mount(upper, "ext4", "upper", "nobarrier"));
	ASSERT_EQ(0, fs_make(lower, "lower", 24));
	ASSERT_EQ(0, fs_make(bottom, "bottom", 48));
	ASSERT_EQ(0, fs_make(other, "other", 16));
	ASSERT_EQ(0, fs_move(lower, bottom));
	ASSERT_EQ(0, fs_link(upper, lower));
	sync();
	/* all that it writes fails */
	snprintf(table, sizeof(table), "0 %llu error\n%llu %u linear %u:%u 0",
		 upper->under.sectors, upper->under.sectors, TAIL,
		 major(upper->loop.dev), minor(upper->loop.dev));
	ASSERT_EQ(0, af_dm_load(&upper->disk, table));
	ASSERT_EQ(0, af_dm_suspend(&upper->disk, false, true));
	ASSERT_EQ(0, af_dm_resume(&upper->disk));
	ASSERT_EQ(0, make_dirty(lower->dir, "dirty", 1));
	ASSERT_EQ(0, make_dirty(bottom->dir, "dirty", 1));
	ASSERT_EQ(0, make_dirty(other->dir, "dirty", 1));

	ASSERT_EQ(0, af_events_arm());
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_events_read(&self->ev, 20));
	EXPECT_TRUE(freeze_failure_named(&self->log, "ext4", &upper->disk));
	expect_left_out(_metadata, self, lower, other);
	expect_left_out(_metadata, self, bottom, other);
	/* it can no longer be written, so nothing is to be expected of it */
	snprintf(dir, sizeof(dir), "%s", upper->dir);
	upper->dir[0] = '\0';
	expect_usable(_metadata, self);
	snprintf(upper->dir, sizeof(upper->dir), "%s", dir);
}

/* --- side by side ------------------------------------------------------------- */

#define DISKS		16
#define LATENCY_NS	(20 * 1000 * 1000UL)

FIXTURE(parallel) {
	struct af_disk disk[DISKS];
	char dir[DISKS][128];
	dev_t dev[DISKS];
	struct af_events ev;
	struct af_klog log;
};

FIXTURE_SETUP(parallel)
{
	struct af_disk_opts o = { .mb = 16, .latency_ns = LATENCY_NS };
	const char *why = prepare(0);
	char name[16], image[160];
	int i;

	if (why)
		SKIP(return, "%s", why);
	/* once, and in memory: mkfs waits for each of its reads and writes */
	snprintf(image, sizeof(image), "%s/image", af_dir("parallel"));
	ASSERT_EQ(0, af_file_create(image, 16 * MB));
	ASSERT_EQ(0, af_mkfs("ext4", image, NULL));
	for (i = 0; i < DISKS; i++) {
		snprintf(name, sizeof(name), "disk%d", i);
		ASSERT_EQ(0, af_disk_create(&self->disk[i], name, &o));
		ASSERT_EQ(0, af_copy(image, self->disk[i].node));
		ASSERT_EQ(0, af_mount("ext4", self->disk[i].node, name, NULL,
				      self->dir[i]));
		ASSERT_EQ(0, af_mount_dev(self->dir[i], &self->dev[i]));
	}
	unlink(image);
	ASSERT_EQ(0, af_klog_mark(&self->log));
}

FIXTURE_TEARDOWN_PARENT(parallel)
{
	EXPECT_EQ(0, af_cleanup());
}

/*
 * One after the other takes the sum of all.  Side by side takes as long as the
 * slowest, which is slower than alone where processors are few: the bar is half
 * of it more, and something for the beginning and the end.
 */
TEST_F_TIMEOUT(parallel, independent_filesystems_freeze_side_by_side, af_secs(120))
{
	struct af_cycle c = { .deadline = 40 };
	long long first = 0, last = 0, slowest = 0, sum = 0, us;
	const struct af_event *e;
	int i;

	for (i = 0; i < DISKS; i++)
		ASSERT_EQ(0, make_dirty(self->dir[i], "dirty", 1));
	ASSERT_EQ(0, af_events_arm());
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(0, af_events_read(&self->ev, 30));
	for (i = 0; i < DISKS; i++) {
		e = af_event_freeze(&self->ev, self->dev[i]);
		ASSERT_NE(NULL, e)
			TH_LOG("%s was not frozen", self->dir[i]);
		us = e->end - e->begin;
		sum += us;
		slowest = us > slowest ? us : slowest;
		first = !i || e->begin < first ? e->begin : first;
		last = e->end > last ? e->end : last;
	}
	af_log("%d in %lld ms, the slowest %lld ms, the sum %lld ms", DISKS,
	       (last - first) / 1000, slowest / 1000, sum / 1000);
	EXPECT_GE(slowest * 3 / 2 + 50000, last - first);
	/* and they thaw side by side: user tasks do not wait, but the next suspend */
	slowest = 0;
	for (i = 0; i < DISKS; i++) {
		e = af_event_thaw(&self->ev, self->dev[i]);
		ASSERT_NE(NULL, e);
		us = e->end - e->begin;
		slowest = us > slowest ? us : slowest;
		first = !i || e->begin < first ? e->begin : first;
		last = !i || e->end > last ? e->end : last;
	}
	af_log("thawed in %lld ms, the slowest %lld ms", (last - first) / 1000,
	       slowest / 1000);
	EXPECT_GE(slowest * 3 / 2 + 50000, last - first);
	EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

/* --- what is served from userspace -------------------------------------------- */

FIXTURE(served) {
	struct fs lower;	/* of the server's file */
	struct af_disk disk;	/* what is served */
	char dir[128], fuse_dir[128];
	dev_t dev;
	struct af_events ev;
	struct af_klog log;
	bool nbd;
};

FIXTURE_SETUP(served)
{
}

static int nbd_disconnect(void);

/* The server must live until nobody needs it any more. */
FIXTURE_TEARDOWN_PARENT(served)
{
	if (self->dir[0]) {
		becomes_unfrozen(self->dir, 10000);
		af_umount(self->dir);
	}
	if (self->nbd)
		nbd_disconnect();
	if (self->fuse_dir[0]) {
		if (self->disk.node[0])
			af_loop_detach(&self->disk);
		umount2(self->fuse_dir, MNT_FORCE | MNT_DETACH);
	}
	EXPECT_EQ(0, af_cleanup());
}

/* It freezes while its server still runs, so also quickly. */
static void expect_before_tasks(struct __test_metadata *_metadata,
				FIXTURE_DATA(served) * self)
{
	static const char * const states[] = { "mem", "disk" };
	const struct af_event *e;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		struct af_cycle c = { .state = states[i], .deadline = 40 };

		ASSERT_EQ(0, make_dirty(self->dir, "dirty", 2));
		ASSERT_EQ(0, af_events_arm());
		EXPECT_EQ(0, af_cycle(&c));
		af_log("%s: %ld ms", states[i], c.ms);
		EXPECT_GT(FREEZE_TIMEOUT_MS + SLACK_MS, c.ms);
		EXPECT_EQ(0, af_events_read(&self->ev, 20));
		e = af_event_freeze(&self->ev, self->dev);
		EXPECT_NE(NULL, e)
			TH_LOG("%s was not frozen", self->dir);
		EXPECT_LT(0, self->ev.tasks_begin);
		if (e) {
			EXPECT_GT(FREEZE_TIMEOUT_MS * 1000, e->end - e->begin);
			EXPECT_LE(e->end, self->ev.tasks_begin);
		}
		EXPECT_TRUE(becomes_unfrozen(self->dir, 10000));
		EXPECT_EQ(0, af_writable(self->dir, 20));
		EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
		EXPECT_EQ(NULL, af_klog_splat(&self->log));
		if (!__test_passed(_metadata)) {
			af_events_dump(&self->ev);
			return;
		}
	}
}

TEST_F_TIMEOUT(served, loop_on_fuse_freezes_before_the_server, af_secs(120))
{
	const char *why = prepare(AF_FUSE);
	struct fuse_server *server;
	char file[192];

	if (why)
		SKIP(return, "%s", why);
	server = fuse_alloc(24 * MB);
	ASSERT_NE(NULL, server);
	snprintf(self->fuse_dir, sizeof(self->fuse_dir), "%s", af_dir("fuse"));
	ASSERT_LT(0, fuse_start(server, self->fuse_dir));
	snprintf(file, sizeof(file), "%s/" FUSE_FILE, self->fuse_dir);
	ASSERT_EQ(0, af_loop_attach(&self->disk, file));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "served", NULL, self->dir));
	ASSERT_EQ(0, af_mount_dev(self->dir, &self->dev));
	ASSERT_EQ(0, af_klog_mark(&self->log));
	expect_before_tasks(_metadata, self);
}

/* --- nbd ---------------------------------------------------------------------- */

#define NBD_MB		24

struct nbd_server {
	int sock;
	int file;
};

static bool read_all(int fd, void *buf, size_t len)
{
	ssize_t n;

	for (; len; buf += n, len -= n) {
		n = read(fd, buf, len);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			return false;
	}
	return true;
}

static bool write_all(int fd, const void *buf, size_t len)
{
	ssize_t n;

	for (; len; buf += n, len -= n) {
		n = write(fd, buf, len);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			return false;
	}
	return true;
}

static int nbd_serve(void *arg)
{
	struct nbd_server *s = arg;
	static char buf[NBD_MB * MB];	/* no request is larger */
	struct nbd_reply reply = { .magic = htonl(NBD_REPLY_MAGIC) };
	struct nbd_request req;
	size_t len;
	off_t at;

	while (read_all(s->sock, &req, sizeof(req))) {
		at = be64toh(req.from);
		len = ntohl(req.len);
		memcpy(reply.handle, req.handle, sizeof(reply.handle));
		reply.error = 0;
		switch (ntohl(req.type) & 0xffff) {
		case NBD_CMD_READ:
			if (len > sizeof(buf) || pread(s->file, buf, len, at) != (ssize_t)len)
				reply.error = htonl(EIO);
			break;
		case NBD_CMD_WRITE:
			if (len > sizeof(buf) || !read_all(s->sock, buf, len))
				return -EIO;
			if (pwrite(s->file, buf, len, at) != (ssize_t)len)
				reply.error = htonl(EIO);
			break;
		case NBD_CMD_FLUSH:
			if (fdatasync(s->file))
				reply.error = htonl(EIO);
			break;
		case NBD_CMD_DISC:
			return 0;
		default:
			reply.error = htonl(EINVAL);
			break;
		}
		if (!write_all(s->sock, &reply, sizeof(reply)))
			return -EIO;
		if ((ntohl(req.type) & 0xffff) == NBD_CMD_READ && !reply.error &&
		    !write_all(s->sock, buf, len))
			return -EIO;
	}
	return 0;
}

/* A message of generic netlink. */
struct genl {
	struct nlmsghdr nlh;
	struct genlmsghdr genl;
	char attr[512];
};

static struct nlattr *genl_put(struct genl *m, int type, const void *data, int len)
{
	struct nlattr *a = (void *)m + NLMSG_ALIGN(m->nlh.nlmsg_len);

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	if (len)
		memcpy((char *)a + NLA_HDRLEN, data, len);
	m->nlh.nlmsg_len = NLMSG_ALIGN(m->nlh.nlmsg_len) + NLA_ALIGN(a->nla_len);
	return a;
}

static void genl_nest_end(struct genl *m, struct nlattr *a)
{
	a->nla_type |= NLA_F_NESTED;
	a->nla_len = (char *)m + m->nlh.nlmsg_len - (char *)a;
}

static void genl_init(struct genl *m, int family, int cmd)
{
	memset(m, 0, sizeof(*m));
	m->nlh.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	m->nlh.nlmsg_type = family;
	m->nlh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	m->genl.cmd = cmd;
	m->genl.version = 1;
}

/* Send @m; with @id, the number of the family is in the answer. */
static int genl_talk(struct genl *m, int *id)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	int ret = -EIO, len, left;
	char buf[8192] __attribute__((aligned(8)));
	struct nlmsghdr *nlh;
	struct nlattr *a;

	if (fd < 0)
		return -errno;
	if (send(fd, m, m->nlh.nlmsg_len, 0) < 0) {
		ret = -errno;
		goto out;
	}
	for (;;) {
		len = recv(fd, buf, sizeof(buf), 0);
		if (len <= 0)
			goto out;
		for (nlh = (void *)buf; NLMSG_OK(nlh, (unsigned int)len);
		     nlh = NLMSG_NEXT(nlh, len)) {
			if (nlh->nlmsg_type == NLMSG_ERROR) {
				ret = *(int *)NLMSG_DATA(nlh);
				goto out;
			}
			left = nlh->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN);
			a = NLMSG_DATA(nlh) + GENL_HDRLEN;
			while (id && left >= NLA_HDRLEN && a->nla_len >= NLA_HDRLEN) {
				if (a->nla_type == CTRL_ATTR_FAMILY_ID)
					*id = *(__u16 *)((char *)a + NLA_HDRLEN);
				left -= NLA_ALIGN(a->nla_len);
				a = (void *)a + NLA_ALIGN(a->nla_len);
			}
		}
	}
out:
	close(fd);
	return ret;
}

static int nbd_family(void)
{
	struct genl m;
	int id = 0, ret;

	genl_init(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	genl_put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME,
		 sizeof(NBD_GENL_FAMILY_NAME));
	ret = genl_talk(&m, &id);
	return ret ?: id;
}

/*
 * By netlink: with ioctl() a task would have to sleep in the driver, and the
 * freezer ends that, and the connection with it.
 */
static int nbd_connect(int sock)
{
	__u64 size = NBD_MB * MB, blksize = 1024;
	__u64 flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH;
	struct nlattr *list, *item;
	__u32 index = 0, fd = sock;
	int family = nbd_family();
	struct genl m;

	if (family <= 0)
		return family ?: -ENOENT;
	genl_init(&m, family, NBD_CMD_CONNECT);
	genl_put(&m, NBD_ATTR_INDEX, &index, sizeof(index));
	genl_put(&m, NBD_ATTR_SIZE_BYTES, &size, sizeof(size));
	genl_put(&m, NBD_ATTR_BLOCK_SIZE_BYTES, &blksize, sizeof(blksize));
	genl_put(&m, NBD_ATTR_SERVER_FLAGS, &flags, sizeof(flags));
	list = genl_put(&m, NBD_ATTR_SOCKETS, NULL, 0);
	item = genl_put(&m, NBD_SOCK_ITEM, NULL, 0);
	genl_put(&m, NBD_SOCK_FD, &fd, sizeof(fd));
	genl_nest_end(&m, item);
	genl_nest_end(&m, list);
	return genl_talk(&m, NULL);
}

static int nbd_disconnect(void)
{
	int family = nbd_family();
	__u32 index = 0;
	struct genl m;

	if (family <= 0)
		return family ?: -ENOENT;
	genl_init(&m, family, NBD_CMD_DISCONNECT);
	genl_put(&m, NBD_ATTR_INDEX, &index, sizeof(index));
	return genl_talk(&m, NULL);
}

/* And what the server writes to freezes after user tasks. */
TEST_F_TIMEOUT(served, nbd_from_this_machine_freezes_before_the_server, af_secs(120))
{
	const char *why = prepare(0);
	const struct af_event *e;
	struct nbd_server s;
	int pair[2], i;
	char file[192];

	if (why)
		SKIP(return, "%s", why);
	if (access("/dev/nbd0", W_OK) || nbd_family() <= 0)
		SKIP(return, "needs CONFIG_BLK_DEV_NBD and CONFIG_NET");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		SKIP(return, "needs CONFIG_UNIX");
	ASSERT_EQ(0, fs_make(&self->lower, "lower", 64));
	snprintf(file, sizeof(file), "%s/image", self->lower.dir);
	ASSERT_EQ(0, af_file_create(file, NBD_MB * MB));
	s.file = open(file, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, s.file);
	s.sock = pair[1];
	ASSERT_LT(0, af_spawn(nbd_serve, &s));
	self->nbd = true;
	ASSERT_EQ(0, nbd_connect(pair[0]));
	close(pair[0]);
	close(pair[1]);
	close(s.file);
	for (i = 0; i < 100 && af_read_long("/sys/block/nbd0/size") <= 0; i++)
		af_sleep_ms(20);
	ASSERT_EQ(0, af_mkfs("ext4", "/dev/nbd0", NULL));
	ASSERT_EQ(0, af_mount("ext4", "/dev/nbd0", "served", NULL, self->dir));
	ASSERT_EQ(0, af_mount_dev(self->dir, &self->dev));
	ASSERT_EQ(0, af_klog_mark(&self->log));
	expect_before_tasks(_metadata, self);
	/* of the last cycle */
	e = af_event_freeze(&self->ev, self->lower.dev);
	ASSERT_NE(NULL, e);
	EXPECT_LE(self->ev.tasks_frozen, e->begin);
}

TEST_HARNESS_MAIN
