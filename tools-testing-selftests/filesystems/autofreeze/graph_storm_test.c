// SPDX-License-Identifier: GPL-2.0
/*
 * Nothing that changes while a transition begins makes it fail, or the machine
 * with it: filesystems are mounted and unmounted, loop devices come and go, and
 * device mapper tables are exchanged all the time, through suspend after suspend
 * and now and then a hibernation.
 *
 * AF_CYCLES in the environment says how many, AF_CYCLES_SECONDS for how long at
 * most.
 *
 * What a transition may return here: 0; and -EBUSY from a hibernation that finds
 * a filesystem whose mount has begun and has been frozen in the middle, which
 * nobody can freeze and nobody can wait for.  The log says so.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "af_fail.h"

#define MB		(1024 * 1024ULL)
#define STORMS		3
#define LOOPS		4
#define TAIL		2048	/* sectors */

/* One process that makes changes, shared with it. */
struct storm {
	int (*round)(struct storm *s);
	const char *name;
	const char *shared;	/* a directory that all of them use */
	struct af_disk disk, dm, loop;
	char dir[128], file[192];
	int stop;
	unsigned int rounds;
	pid_t pid;
};

/* Made before the harness forks, so that all of its processes have it. */
static struct storm *storms;

static __attribute__((constructor)) void storms_init(void)
{
	storms = mmap(NULL, STORMS * sizeof(*storms), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (storms == MAP_FAILED)
		abort();
}

/* A filesystem, and another one on a file of it. */
static int storm_mounts(struct storm *s)
{
	char file[192], dir[2][128], name[2][32];
	struct af_disk loop;
	int ret;

	snprintf(name[0], sizeof(name[0]), "%s-disk", s->name);
	snprintf(name[1], sizeof(name[1]), "%s-loop", s->name);
	ret = af_mount("ext4", s->disk.node, name[0], NULL, dir[0]);
	if (ret)
		return ret;
	snprintf(file, sizeof(file), "%s/image", dir[0]);
	if (access(file, F_OK)) {
		ret = af_file_create(file, 8 * MB);
		ret = ret ?: af_mkfs("ext4", file, NULL);
	}
	ret = ret ?: af_loop_attach(&loop, file);
	ret = ret ?: af_mount("ext4", loop.node, name[1], NULL, dir[1]);
	ret = ret ?: make_dirty(dir[1], "dirty", 1);
	ret = ret ?: af_umount(dir[1]);
	ret = ret ?: af_loop_detach(&loop);
	return ret ?: af_umount(dir[0]);
}

/* Loop devices over files, and over each other. */
static int storm_loops(struct storm *s)
{
	struct af_disk loop[2 * LOOPS];
	char file[192];
	int i, ret = 0;

	for (i = 0; !ret && i < LOOPS; i++) {
		snprintf(file, sizeof(file), "%s/%s%d", s->shared, s->name, i);
		if (access(file, F_OK))
			ret = af_file_create(file, MB);
		ret = ret ?: af_loop_attach(&loop[2 * i], file);
		ret = ret ?: af_loop_attach(&loop[2 * i + 1], loop[2 * i].node);
	}
	for (i = 2 * LOOPS; !ret && i--;)
		ret = af_loop_detach(&loop[i]);
	return ret;
}

/* The disk of a mounted filesystem becomes another one over the same file. */
static int storm_tables(struct storm *s)
{
	struct af_disk loop;
	char table[128];
	int ret;

	ret = af_loop_attach(&loop, s->file);
	if (ret)
		return ret;
	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0", s->dm.sectors,
		 major(loop.dev), minor(loop.dev));
	ret = make_dirty(s->dir, "dirty", 1);
	ret = ret ?: af_dm_reload(&s->dm, table);
	ret = ret ?: af_loop_detach(&s->loop);
	s->loop = loop;
	return ret;
}

/* Until it is told to stop: being killed would leave things behind. */
static int storm_run(void *arg)
{
	struct storm *s = arg;
	int ret = af_own();

	while (!ret && !get(s->stop)) {
		ret = s->round(s);
		if (ret)
			af_log("%s, round %u: %s", s->name, s->rounds,
			       strerror(-ret));
		else
			set(s->rounds, s->rounds + 1);
	}
	if (af_cleanup() && !ret)
		ret = -EBUSY;
	return ret;
}

FIXTURE(storm) {
	struct af_disk disk;
	char dir[128];
	struct af_klog log;
};

FIXTURE_SETUP(storm)
{
	static const struct storm kinds[STORMS] = {
		{ .round = storm_mounts, .name = "mounts" },
		{ .round = storm_loops, .name = "loops" },
		{ .round = storm_tables, .name = "tables" },
	};
	const char *why = af_setup(AF_NULL_BLK | AF_LOOP | AF_DM | AF_EXT4);
	struct af_disk_opts o = { .mb = 24 }, large = { .mb = 64 };
	int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "shared", &large));
	ASSERT_EQ(0, af_mkfs("ext4", self->disk.node, NULL));
	memcpy(storms, kinds, sizeof(kinds));
	for (i = 0; i < STORMS; i++) {
		struct storm *s = &storms[i];

		if (s->round == storm_loops)
			continue;
		ASSERT_EQ(0, af_disk_create(&s->disk, s->name, &o));
		ASSERT_EQ(0, af_mkfs("ext4", s->disk.node, NULL));
		if (s->round != storm_tables)
			continue;
		ASSERT_EQ(0, af_dm_linear(&s->dm, s->name, &s->disk));
		ASSERT_EQ(0, af_mount("ext4", s->dm.node, s->name, NULL, s->dir));
	}
	/* younger than what comes to stand on it */
	ASSERT_EQ(0, af_mount("ext4", self->disk.node, "shared", NULL, self->dir));
	for (i = 0; i < STORMS; i++) {
		struct storm *s = &storms[i];

		if (s->round != storm_tables)
			continue;
		snprintf(s->file, sizeof(s->file), "%s/image", self->dir);
		ASSERT_EQ(0, af_dm_move(&s->dm, &s->disk, &s->loop, s->file));
		af_undo_first(s->dir);
	}
	ASSERT_EQ(0, af_klog_mark(&self->log));
	for (i = 0; i < STORMS; i++) {
		storms[i].shared = self->dir;
		storms[i].pid = af_spawn(storm_run, &storms[i]);
		ASSERT_LT(0, storms[i].pid);
	}
}

FIXTURE_TEARDOWN_PARENT(storm)
{
	int i;

	for (i = 0; i < STORMS; i++)
		set(storms[i].stop, 1);
	for (i = 0; i < STORMS; i++)
		if (storms[i].pid > 0)
			af_wait(storms[i].pid, 30);
	af_cleanup();
}

static bool all_go_on(void)
{
	unsigned int before[STORMS];
	int i, n;

	for (i = 0; i < STORMS; i++)
		before[i] = get(storms[i].rounds);
	for (i = n = 0; i < STORMS && n < 200; n++) {
		if (get(storms[i].rounds) > before[i])
			i++;
		else
			af_sleep_ms(50);
	}
	if (i < STORMS)
		af_log("%s stands still", storms[i].name);
	return i == STORMS;
}

TEST_F_TIMEOUT(storm, of_mounts_loops_and_tables_is_survived, af_secs(880))
{
	unsigned int wanted = af_env("AF_CYCLES", 50);
	unsigned int seconds = af_env("AF_CYCLES_SECONDS", 780);
	long long begin = af_now_ms();
	unsigned int n, refused = 0;
	const char *failed = NULL;
	int i;

	for (n = 0; n < wanted; n++) {
		struct af_cycle c = { .state = n % 4 == 3 ? "disk" : "mem" };

		if (af_now_ms() - begin > seconds * 1000LL)
			break;
		af_klog_end(&self->log);
		ASSERT_EQ(0, af_klog_mark(&self->log));
		/* not always at the same point of what they do */
		af_sleep_ms(20 + n * 37 % 100);
		af_cycle(&c);
		if (c.error == -EBUSY && n % 4 == 3 &&
		    af_klog_find(&self->log, "being mounted")) {
			refused++;
			c.error = 0;
		}
		EXPECT_EQ(0, c.error)
			TH_LOG("cycle %u, %s, after %ld ms", n + 1, c.state, c.ms);
		/* a suspend that went on without a filesystem does not count */
		failed = af_klog_find(&self->log, FREEZE_FAILED);
		EXPECT_EQ(NULL, failed)
			TH_LOG("cycle %u: %s", n + 1, failed);
		EXPECT_EQ(NULL, af_klog_splat(&self->log));
		if (!__test_passed(_metadata))
			break;
	}
	EXPECT_EQ(wanted, n);
	af_log("%u of %u cycles in %lld s, %u refused for a mount", n, wanted,
	       (af_now_ms() - begin) / 1000, refused);
	EXPECT_TRUE(all_go_on());
	for (i = 0; i < STORMS; i++) {
		set(storms[i].stop, 1);
		EXPECT_EQ(0, af_wait(storms[i].pid, 30))
			TH_LOG("%s", storms[i].name);
		af_log("%s: %u rounds", storms[i].name,
		       storms[i].rounds);
	}
	EXPECT_EQ(0, af_suspend(0));
	EXPECT_EQ(0, af_writable(self->dir, 20));
	EXPECT_EQ(0, af_cleanup());
	EXPECT_EQ(NULL, af_klog_splat(&self->log));
}

TEST_HARNESS_MAIN
