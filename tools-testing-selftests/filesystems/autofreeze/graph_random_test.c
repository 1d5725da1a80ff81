// SPDX-License-Identifier: GPL-2.0
/*
 * Filesystems on stacks of devices that nobody thought of: the order in which
 * they freeze is one that an oracle, which reads /sys and /proc and knows nothing
 * of how the stack was built, finds right.
 *
 * AF_STACKS in the environment says how many, AF_SEED with what they begin.  The
 * seed of each is printed: with AF_SEED=that and AF_STACKS=1 it is built again.
 */
#define _GNU_SOURCE
#include <dirent.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define FILESYSTEMS	6	/* at most, of a stack */
#define LINKS		4	/* at most, of a filesystem */
#define LINK_SECTORS	2048
#define FREEZE_TIMEOUT_MS	3000

/* --- building ------------------------------------------------------------------ */

static unsigned long long random_state;

static unsigned int pick(unsigned int n)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (random_state >> 33) % n;
}

/* Mounted from a device mapper device, so that it can grow onto others. */
struct fs {
	const char *type;
	unsigned int mb;
	struct af_disk base, disk, file[LINKS], link[LINKS];
	unsigned int links;
	char dir[128];
	char overlay[128];	/* mounted on directories of it, or "" */
	bool above[FILESYSTEMS];	/* it stands on these, however far below */
};

FIXTURE(stack) {
	struct fs fs[FILESYSTEMS];
	struct af_disk part[FILESYSTEMS];
	unsigned int nr, serial;
	struct af_events ev;
	struct af_klog log;
};

/* A directory of @f to make files in, seen through an overlay or not. */
static const char *dir_of(const struct fs *f)
{
	return *f->overlay && pick(2) ? f->overlay : f->dir;
}

static int add_overlay(struct fs *f, unsigned int i)
{
	char name[16];

	snprintf(name, sizeof(name), "overlay%u", i);
	return af_overlay(f->dir, name, f->overlay);
}

/* What the @i-th filesystem begins on: a disk, a partition, or a file. */
static int make_base(FIXTURE_DATA(stack) * self, unsigned int i)
{
	struct fs *f = &self->fs[i], *low = i ? &self->fs[pick(i)] : NULL;
	struct af_disk_opts o = { .mb = f->mb + 2 };
	unsigned int kind = pick(4), j;
	char file[192];
	int ret;

	if (kind < 2 && low && low->mb >= 2 * f->mb) {
		snprintf(file, sizeof(file), "%s/image%u", dir_of(low), i);
		ret = af_file_create(file, f->mb << 20);
		ret = ret ?: af_loop_attach(&f->base, file);
		f->above[low - self->fs] = true;
		for (j = 0; j < FILESYSTEMS; j++)
			f->above[j] |= low->above[j];
		return ret;
	}
	if (kind == 2) {
		ret = af_disk_create(&self->part[i], "whole", &o);
		return ret ?: af_part_create(&f->base, &self->part[i], 1, 2048,
					     f->mb * 2048ULL);
	}
	return af_disk_create(&f->base, "disk", &o);
}

static int make_fs(FIXTURE_DATA(stack) * self, unsigned int i)
{
	struct fs *f = &self->fs[i];
	bool xfs = !pick(4);
	char name[16];
	int ret;

	f->type = xfs ? "xfs" : "ext4";
	f->mb = xfs ? 48 : 12 << pick(4);
	ret = make_base(self, i);
	ret = ret ?: af_dm_linear(&f->disk, "random", &f->base);
	ret = ret ?: af_mkfs(f->type, f->disk.node, NULL);
	snprintf(name, sizeof(name), "fs%u", i);
	ret = ret ?: af_mount(f->type, f->disk.node, name, NULL, f->dir);
	if (!ret && !pick(3))
		ret = add_overlay(f, i);
	return ret;
}

static int reload(struct fs *f)
{
	unsigned long long at = f->base.sectors;
	char table[1024];
	unsigned int i;
	int n;

	n = snprintf(table, sizeof(table), "0 %llu linear %u:%u 0\n", at,
		     major(f->base.dev), minor(f->base.dev));
	for (i = 0; i < f->links; i++, at += LINK_SECTORS)
		n += snprintf(table + n, sizeof(table) - n,
			      "%llu %u linear %u:%u 0\n", at, LINK_SECTORS,
			      major(f->link[i].dev), minor(f->link[i].dev));
	return af_dm_reload(&f->disk, table);
}

/* All that stands on @up stands on @low and what is below it now. */
static void stands_on(FIXTURE_DATA(stack) * self, struct fs *up, struct fs *low)
{
	unsigned int i, j;

	for (i = 0; i < self->nr; i++) {
		struct fs *f = &self->fs[i];

		if (f != up && !f->above[up - self->fs])
			continue;
		f->above[low - self->fs] = true;
		for (j = 0; j < FILESYSTEMS; j++)
			f->above[j] |= low->above[j];
	}
}

/* All of @up, which has not grown, moves to a file of @low. */
static int move_fs(FIXTURE_DATA(stack) * self, struct fs *up, struct fs *low)
{
	struct af_disk to;
	char file[192];
	int ret;

	snprintf(file, sizeof(file), "%s/moved%u", dir_of(low), self->serial++);
	ret = af_dm_move(&up->disk, &up->base, &to, file);
	if (ret)
		return ret;
	if (!strncmp(up->base.name, "loop", 4))
		ret = af_loop_detach(&up->base);
	up->base = to;
	stands_on(self, up, low);
	return ret;
}

/* @up grows onto a file of @low, with more devices in between or not. */
static int link_fs(FIXTURE_DATA(stack) * self, struct fs *up, struct fs *low)
{
	struct af_disk *under = &up->file[up->links], *d = &up->link[up->links];
	unsigned int how = pick(4);
	char file[192];
	int ret;

	snprintf(file, sizeof(file), "%s/link%u", dir_of(low), self->serial++);
	ret = af_file_create(file, LINK_SECTORS * 2 * 512);
	ret = ret ?: af_loop_attach(under, file);
	if (ret)
		return ret;
	if (how == 1)
		ret = af_part_create(d, under, 1, LINK_SECTORS, LINK_SECTORS);
	else if (how == 2)
		ret = af_dm_linear(d, "between", under);
	else if (how == 3)
		ret = af_loop_attach(d, under->node);
	else
		*d = *under;
	if (ret)
		return ret;
	up->links++;
	ret = reload(up);

	stands_on(self, up, low);
	return ret;
}

static int build(FIXTURE_DATA(stack) * self)
{
	unsigned int i, j, n, links;
	int ret = 0;

	memset(self->fs, 0, sizeof(self->fs));
	n = 3 + pick(FILESYSTEMS - 2);
	for (self->nr = 0; !ret && self->nr < n; self->nr++)
		ret = make_fs(self, self->nr);
	for (i = 0; !ret && i < n; i++) {
		j = pick(n);
		if (i != j && !self->fs[j].above[i] &&
		    self->fs[j].mb >= 2 * self->fs[i].mb)
			ret = move_fs(self, &self->fs[i], &self->fs[j]);
	}
	for (links = 1 + pick(2 * n); !ret && links--;) {
		i = pick(n);
		j = pick(n);
		if (i == j || self->fs[j].above[i] || self->fs[i].links == LINKS)
			continue;
		ret = link_fs(self, &self->fs[i], &self->fs[j]);
	}
	return ret;
}

/* From the top down: what has nothing above it can go. */
static void unbuild_order(FIXTURE_DATA(stack) * self)
{
	bool done[FILESYSTEMS] = { false };
	unsigned int i, j, n;

	/* the last one that is named here is undone first */
	for (n = 0; n < self->nr;) {
		for (i = 0; i < self->nr; i++) {
			bool ready = !done[i];

			for (j = 0; j < self->nr; j++)
				ready &= !self->fs[i].above[j] || done[j];
			if (!ready)
				continue;
			af_undo_first(self->fs[i].base.name);
			for (j = 0; j < self->fs[i].links; j++) {
				af_undo_first(self->fs[i].file[j].name);
				af_undo_first(self->fs[i].link[j].name);
			}
			af_undo_first(self->fs[i].disk.name);
			af_undo_first(self->fs[i].dir);
			if (*self->fs[i].overlay)
				af_undo_first(self->fs[i].overlay);
			done[i] = true;
			n++;
		}
	}
}

/* --- the oracle ---------------------------------------------------------------- */

struct mounted {
	dev_t dev;
	char dir[128], type[16], upper[160];
};

struct oracle {
	struct mounted m[64];
	unsigned int nr;
};

static int oracle_init(struct oracle *o)
{
	char line[2048], *p, *q;
	unsigned int ma, mi;
	struct mounted *m;
	FILE *f;

	o->nr = 0;
	f = fopen("/proc/self/mountinfo", "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f) && o->nr < ARRAY_SIZE(o->m)) {
		m = &o->m[o->nr];
		memset(m, 0, sizeof(*m));
		p = strstr(line, " - ");
		if (sscanf(line, "%*d %*d %u:%u %*s %127s", &ma, &mi, m->dir) != 3 ||
		    !p || sscanf(p, " - %15s", m->type) != 1)
			continue;
		m->dev = makedev(ma, mi);
		q = strstr(p, "upperdir=");
		if (q)
			snprintf(m->upper, sizeof(m->upper), "%.*s",
				 (int)strcspn(q + 9, ",\n "), q + 9);
		o->nr++;
	}
	fclose(f);
	return 0;
}

static const struct mounted *mount_of(const struct oracle *o, const char *path)
{
	const struct mounted *best = NULL;
	unsigned int i;
	size_t len;

	for (i = 0; i < o->nr; i++) {
		len = strlen(o->m[i].dir);
		if (strncmp(path, o->m[i].dir, len) ||
		    (len > 1 && path[len] != '/' && path[len]))
			continue;
		if (!best || len >= strlen(best->dir))
			best = &o->m[i];
	}
	return best;
}

static dev_t read_dev(const char *fmt, const char *a, const char *b)
{
	char path[512], buf[32];
	unsigned int ma, mi;

	snprintf(path, sizeof(path), fmt, a, b);
	if (af_read(path, buf, sizeof(buf)) || sscanf(buf, "%u:%u", &ma, &mi) != 2)
		return 0;
	return makedev(ma, mi);
}

/* Filesystems that are written to with those that were there before. */
struct found {
	dev_t dev[64];
	unsigned int nr;
};

static void below_fs(const struct oracle *o, const struct mounted *m,
		     struct found *f);

static void below_dev(const struct oracle *o, dev_t dev, struct found *f)
{
	char sys[64], path[512], file[256];
	const struct mounted *m;
	struct dirent *de;
	dev_t next;
	DIR *d;

	snprintf(sys, sizeof(sys), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	snprintf(path, sizeof(path), "%s/partition", sys);
	if (!access(path, F_OK)) {
		next = read_dev("%s/../dev%s", sys, "");
		if (next)
			below_dev(o, next, f);
		return;
	}
	snprintf(path, sizeof(path), "%s/loop/backing_file", sys);
	if (!af_read(path, file, sizeof(file))) {
		m = mount_of(o, file);
		if (!strncmp(file, "/dev/", 5)) {
			next = read_dev("/sys/class/block/%s/dev%s", file + 5, "");
			if (next)
				below_dev(o, next, f);
		} else if (m) {
			below_fs(o, m, f);
		}
	}
	snprintf(path, sizeof(path), "%s/slaves", sys);
	d = opendir(path);
	while (d && (de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		next = read_dev("%s/slaves/%s/dev", sys, de->d_name);
		if (next)
			below_dev(o, next, f);
	}
	if (d)
		closedir(d);
}

static void below_fs(const struct oracle *o, const struct mounted *m,
		     struct found *f)
{
	const struct mounted *upper;
	unsigned int i;

	for (i = 0; i < f->nr; i++)
		if (f->dev[i] == m->dev)
			return;
	if (f->nr == ARRAY_SIZE(f->dev))
		return;
	f->dev[f->nr++] = m->dev;
	upper = *m->upper ? mount_of(o, m->upper) : NULL;
	if (upper)
		below_fs(o, upper, f);
	else
		below_dev(o, m->dev, f);
}

/* --- the test ------------------------------------------------------------------- */

FIXTURE_SETUP(stack)
{
}

FIXTURE_TEARDOWN_PARENT(stack)
{
	unbuild_order(self);
	EXPECT_EQ(0, af_cleanup());
}

static bool can_freeze(const struct mounted *m)
{
	return !strcmp(m->type, "ext4") || !strcmp(m->type, "xfs");
}

static const struct mounted *by_dev(const struct oracle *o, dev_t dev)
{
	unsigned int i;

	for (i = 0; i < o->nr; i++)
		if (o->m[i].dev == dev)
			return &o->m[i];
	return NULL;
}

/* How many pairs were checked, or a negative number. */
static int check_order(FIXTURE_DATA(stack) * self, const struct oracle *o)
{
	unsigned int i, j, pairs = 0;
	const struct mounted *low;
	const char *broken;
	struct found f;
	int bad = 0;

	for (i = 0; i < o->nr; i++) {
		if (!can_freeze(&o->m[i]))
			continue;
		f.nr = 0;
		below_fs(o, &o->m[i], &f);
		for (j = 1; j < f.nr; j++) {
			low = by_dev(o, f.dev[j]);
			if (!low || !can_freeze(low))
				continue;
			pairs++;
			broken = af_order_broken(&self->ev, f.dev[0], f.dev[j]);
			if (!broken)
				continue;
			af_log("%s above %s: %s", o->m[i].dir, low->dir, broken);
			bad++;
		}
	}
	return bad ? -bad : (int)pairs;
}

static const char *prepare(void)
{
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_DM | AF_TRACE |
				   AF_OVERLAY | AF_EXT4 | AF_XFS);

	if (!why && (af_set(AF_KNOB, "1") || keep_dirty() ||
		     af_set("/sys/power/pm_freeze_timeout", "%u",
			    FREEZE_TIMEOUT_MS)))
		why = "cannot be set up";
	return why;
}

TEST_F_TIMEOUT(stack, freezes_and_thaws_in_the_order_that_an_oracle_finds, af_secs(4000))
{
	unsigned int stacks = af_env("AF_STACKS", 4), n, i;
	unsigned int seed = af_env("AF_SEED", 1 + getpid() * 1000);
	int all = 0;
	long long begin = af_now_ms();
	struct oracle o;
	int pairs;

	for (n = 0; n < stacks; n++, seed++) {
		const char *why = prepare();
		struct af_cycle c = { .deadline = 60 };

		if (why)
			SKIP(return, "%s", why);
		af_log("AF_SEED=%u", seed);
		random_state = seed * 0x9e3779b97f4a7c15ULL;
		for (i = 0; i < 4; i++)
			pick(1);
		ASSERT_EQ(0, af_klog_mark(&self->log));
		ASSERT_EQ(0, build(self));
		for (i = 0; i < self->nr; i++)
			ASSERT_EQ(0, make_dirty(self->fs[i].dir, "dirty", 1));
		ASSERT_EQ(0, oracle_init(&o));
		ASSERT_EQ(0, af_events_arm());
		ASSERT_EQ(0, af_cycle(&c));
		EXPECT_EQ(0, af_events_read(&self->ev, 20));
		pairs = check_order(self, &o);
		EXPECT_LE(0, pairs);
		af_log("%u filesystems, %d pairs, %ld ms", self->nr, pairs, c.ms);
		for (i = 0; i < self->nr; i++) {
			EXPECT_TRUE(becomes_unfrozen(self->fs[i].dir, 10000));
			EXPECT_EQ(0, af_writable(self->fs[i].dir, 20));
		}
		EXPECT_EQ(NULL, af_klog_find(&self->log, FREEZE_FAILED));
		EXPECT_EQ(NULL, af_klog_splat(&self->log));
		if (!__test_passed(_metadata)) {
			af_events_dump(&self->ev);
			return;
		}
		all += pairs;
		af_klog_end(&self->log);
		unbuild_order(self);
		ASSERT_EQ(0, af_cleanup());
		self->nr = 0;
	}
	af_log("%u stacks, %d pairs in %lld s", stacks, all,
	       (af_now_ms() - begin) / 1000);
	/* else it has shown nothing */
	EXPECT_LT(0, all);
}

TEST_HARNESS_MAIN
