// SPDX-License-Identifier: GPL-2.0
/*
 * A RAID array whose metadata is kept by a monitor in userspace (firmware RAID
 * and mdmon) needs that monitor for the first write after some idle time: md
 * sets array_state to "write-pending" and the write waits until the monitor
 * answers "active".  When user tasks are frozen the monitor cannot answer, yet
 * filesystems are written then, and so is the hibernation image.  md has to get
 * the answer before tasks are frozen, and the array must not be declared clean
 * again until they run.
 *
 * The bug shows as a machine that hangs for good: nothing is left to report it,
 * so the harness around the test has to notice.  The other tests show the same
 * by what the monitor was asked.
 *
 * The monitor here is a process that knows nothing but this protocol.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "af.h"

#define NAME		"md_autofreeze"
#define NODE		"/dev/" NAME
#define MD		"/sys/block/" NAME "/md/"
#define STATE		MD "array_state"
#define LEGS		2
#define DISK_MB		320	/* what mkfs.xfs wants */
#define DATA_KB		(DISK_MB * 1024 - 4096)
#define MD_PM_TIMEOUT	20	/* seconds md waits for the answer */

/* How the monitor behaves, and what it was asked.  Shared by all processes. */
static struct monitor {
	pid_t pid;
	volatile bool deaf;	/* do not answer */
	volatile bool eager;	/* declare the array clean as soon as possible */
	volatile unsigned int asked;	/* times it saw "write-pending" */
} *monitor;

static __attribute__((constructor)) void monitor_init(void)
{
	monitor = mmap(NULL, sizeof(*monitor), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (monitor == MAP_FAILED)
		abort();
}

static void monitor_run(void)
{
	struct pollfd p = { .events = POLLPRI };
	char state[32];
	ssize_t n;

	p.fd = open(STATE, O_RDWR | O_CLOEXEC);
	while (p.fd >= 0) {
		n = pread(p.fd, state, sizeof(state) - 1, 0);
		if (n < 0)
			break;
		state[n] = '\0';
		if (!strncmp(state, "write-pending", 13)) {
			if (!monitor->deaf) {
				monitor->asked++;
				if (pwrite(p.fd, "active", 6, 0) < 0)
					break;
				continue;
			}
		} else if (!strncmp(state, "active-idle", 11) ||
			   (monitor->eager && !strncmp(state, "active", 6))) {
			/* fails while there are writes */
			if (pwrite(p.fd, "clean", 5, 0) == 5)
				continue;
		}
		/* With a time limit only to notice a change of the behaviour. */
		poll(&p, 1, monitor->eager ? 1 : 100);
	}
	_exit(1);
}

static int monitor_start(void)
{
	pid_t pid;

	memset(monitor, 0, sizeof(*monitor));
	pid = fork();
	if (!pid)
		monitor_run();
	monitor->pid = pid;
	return pid < 0 ? -errno : 0;
}

static bool state_is(const char *want)
{
	char buf[32];

	return !af_read(STATE, buf, sizeof(buf)) && !strcmp(buf, want);
}

static bool state_becomes(const char *want, unsigned int seconds)
{
	int64_t end = af_now_ms() + seconds * 1000;

	while (!state_is(want)) {
		if (af_now_ms() > end)
			return false;
		af_sleep_ms(10);
	}
	return true;
}

static void array_stop(void)
{
	int i, ret = 0;

	for (i = 0; i < 50 && !access(STATE, F_OK); i++) {
		ret = af_write(STATE, "clear");
		if (!ret)
			break;
		af_sleep_ms(100);
	}
	if (ret)
		af_log("stopping the array: %s", strerror(-ret));
}

struct array {
	struct af_disk disk[LEGS], md;
	char dir[128];
	struct af_klog log;
};

static int array_setup(struct array *a, const char *state)
{
	struct af_disk_opts o = { .mb = DISK_MB };
	char name[16];
	int i, ret;

	for (i = 0; i < LEGS; i++) {
		snprintf(name, sizeof(name), "leg%d", i);
		ret = af_disk_create(&a->disk[i], name, &o);
		if (ret)
			return ret;
	}
	ret = af_md_start(&a->md, NAME, "external:autofreeze", a->disk, LEGS,
			  LEGS, DATA_KB, state);
	if (ret)
		return ret;
	return monitor_start();
}

/* The monitor must live until everything is written that will be. */
static void array_teardown(struct array *a)
{
	monitor->deaf = false;
	monitor->eager = false;
	if (a->dir[0]) {
		af_fithaw(a->dir);
		af_umount(a->dir);
	}
	array_stop();
	if (monitor->pid > 0)
		kill(monitor->pid, SIGKILL);
	af_cleanup();
}

/* --- a filesystem on the array --------------------------------------------- */

FIXTURE(filesystem) {
	struct array a;
};

FIXTURE_VARIANT(filesystem) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(filesystem, ext4) { .fs = "ext4", .needs = AF_EXT4 };
FIXTURE_VARIANT_ADD(filesystem, xfs) { .fs = "xfs", .needs = AF_XFS };

FIXTURE_SETUP(filesystem)
{
	const char *why = af_setup(AF_NULL_BLK | AF_MD | variant->needs);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, array_setup(&self->a, "active"));
	/* Also on a kernel where the filesystem does not freeze by itself. */
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_mkfs(variant->fs, NODE, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, NODE, "md", NULL, self->a.dir));
	ASSERT_EQ(0, af_writable(self->a.dir, 10));
	sync();
	ASSERT_TRUE(state_becomes("clean", 30));
}

FIXTURE_TEARDOWN_PARENT(filesystem)
{
	array_teardown(&self->a);
}

/* Suspend to RAM would go on without the filesystem: hibernation would not. */
static const char * const states[] = { "mem", "disk", "mem", "disk" };

TEST_F_TIMEOUT(filesystem, freezes_on_an_idle_array, af_secs(120))
{
	unsigned int i;

	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		struct af_cycle c = { .state = states[i], .deadline = 20 };

		ASSERT_TRUE(state_becomes("clean", 30));
		ASSERT_EQ(0, af_klog_mark(&self->a.log));
		ASSERT_EQ(0, af_cycle(&c));
		ASSERT_EQ(NULL, af_klog_find(&self->a.log, "freezing failed"));
		EXPECT_EQ(0, af_writable(self->a.dir, 10));
		af_klog_end(&self->a.log);
	}
}

/* A monitor may have decided that the array is clean just before it is frozen. */
TEST_F_TIMEOUT(filesystem, freezes_on_an_array_that_is_declared_clean_at_once, af_secs(120))
{
	unsigned int i;

	monitor->eager = true;
	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		struct af_cycle c = { .state = states[i], .deadline = 20 };

		ASSERT_EQ(0, af_klog_mark(&self->a.log));
		ASSERT_EQ(0, af_cycle(&c));
		ASSERT_EQ(NULL, af_klog_find(&self->a.log, "freezing failed"));
		af_klog_end(&self->a.log);
	}
	EXPECT_EQ(0, af_writable(self->a.dir, 10));
}

/* --- only the array -------------------------------------------------------- */

FIXTURE(idle_array) {
	struct array a;
	int fd;
};

FIXTURE_SETUP(idle_array)
{
	const char *why = af_setup(AF_NULL_BLK | AF_MD);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, array_setup(&self->a, "active"));
	self->fd = open(NODE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	ASSERT_TRUE(state_becomes("clean", 30));
	ASSERT_EQ(0, af_klog_mark(&self->a.log));
}

FIXTURE_TEARDOWN_PARENT(idle_array)
{
	array_teardown(&self->a);
}

TEST_F_TIMEOUT(idle_array, is_made_active_before_tasks_freeze, af_secs(60))
{
	unsigned int asked = monitor->asked;

	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(asked + 1, monitor->asked);
	/* The sleep over, it idles as before. */
	EXPECT_TRUE(state_becomes("clean", 10));
}

TEST_F_TIMEOUT(idle_array, is_made_active_for_hibernation, af_secs(60))
{
	struct af_cycle c = { .state = "disk" };
	unsigned int asked = monitor->asked;

	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_EQ(asked + 1, monitor->asked);
	EXPECT_TRUE(state_becomes("clean", 10));
}

TEST_F_TIMEOUT(idle_array, with_a_dead_monitor_does_not_keep_the_machine_awake, af_secs(90))
{
	struct af_cycle c = { .deadline = MD_PM_TIMEOUT + 20 };

	monitor->deaf = true;
	EXPECT_EQ(0, af_cycle(&c));
	EXPECT_NE(NULL, af_klog_find(&self->a.log, "md: " NAME ": "));
	monitor->deaf = false;
	EXPECT_TRUE(state_becomes("clean", 10));
}

TEST_F_TIMEOUT(idle_array, with_a_dead_monitor_fails_hibernation, af_secs(90))
{
	struct af_cycle c = { .state = "disk", .deadline = MD_PM_TIMEOUT + 20 };

	monitor->deaf = true;
	EXPECT_EQ(-ETIMEDOUT, af_cycle(&c));
	/* The kernel's error: the helper would not know how long it took. */
	EXPECT_LT(MD_PM_TIMEOUT * 1000 / 2, c.ms);
	EXPECT_NE(NULL, af_klog_find(&self->a.log, "md: " NAME ": "));
	monitor->deaf = false;
	EXPECT_TRUE(state_becomes("clean", 10));
	c.deadline = 20;
	EXPECT_EQ(0, af_cycle(&c));
}

/* --- an array that nothing was written to since it was assembled ------------ */

FIXTURE(read_auto_array) {
	struct array a;
};

FIXTURE_SETUP(read_auto_array)
{
	const char *why = af_setup(AF_NULL_BLK | AF_MD);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, array_setup(&self->a, "read-auto"));
	ASSERT_TRUE(state_becomes("read-auto", 1));
}

FIXTURE_TEARDOWN_PARENT(read_auto_array)
{
	array_teardown(&self->a);
}

TEST_F_TIMEOUT(read_auto_array, is_made_active_where_somebody_could_write, af_secs(60))
{
	int fd = open(NODE, O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_TRUE(state_is("read-auto"));
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(1u, monitor->asked);
	EXPECT_TRUE(state_becomes("clean", 10));
}

TEST_F_TIMEOUT(read_auto_array, is_left_alone_where_nobody_could, af_secs(60))
{
	ASSERT_EQ(0, af_suspend(0));
	EXPECT_EQ(0u, monitor->asked);
	EXPECT_TRUE(state_is("read-auto"));
}

/* --- the hibernation image on the array ------------------------------------- */

FIXTURE(swap) {
	struct array a;
	char resume[32], node[64];	/* of the swap device before */
};

FIXTURE_SETUP(swap)
{
	const char *why = af_setup(AF_NULL_BLK | AF_MD | AF_HIBERNATE);
	char swaps[4096], *line, *end;
	struct stat st;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, array_setup(&self->a, "active"));
	if (!af_have("mkswap"))
		SKIP(return, "needs mkswap");
	ASSERT_EQ(0, af_read("/sys/power/resume", self->resume, sizeof(self->resume)));
	ASSERT_EQ(0, af_run(20, "mkswap " NODE));
	/* The image goes to the array only if that is the one swap device. */
	ASSERT_EQ(0, af_read("/proc/swaps", swaps, sizeof(swaps)));
	line = strchr(swaps, '\n');
	ASSERT_NE(NULL, line);
	line++;
	end = strpbrk(line, " \t");
	ASSERT_NE(NULL, end);
	if (strchr(end, '\n'))
		SKIP(return, "more than one swap device");
	*end = '\0';
	ASSERT_EQ(0, swapoff(line)) TH_LOG("swapoff %s: %m", line);
	snprintf(self->node, sizeof(self->node), "%s", line);
	ASSERT_EQ(0, swapon(NODE, 0)) TH_LOG("swapon: %m");
	ASSERT_EQ(0, stat(NODE, &st));
	ASSERT_EQ(0, af_write("/sys/power/resume", "%u:%u", major(st.st_rdev),
			      minor(st.st_rdev)));
	sync();
	ASSERT_TRUE(state_becomes("clean", 30));
}

FIXTURE_TEARDOWN_PARENT(swap)
{
	swapoff(NODE);
	if (self->node[0]) {
		swapon(self->node, 0);
		af_write("/sys/power/resume", "%s", self->resume);
	}
	array_teardown(&self->a);
}

TEST_F_TIMEOUT(swap, takes_the_hibernation_image, af_secs(240))
{
	struct af_cycle c = { .state = "disk", .test = "none", .deadline = 200 };

	ASSERT_EQ(0, af_set("/sys/power/disk", "test_resume"));
	ASSERT_EQ(0, af_cycle(&c));
	EXPECT_TRUE(state_becomes("clean", 10));
}

TEST_HARNESS_MAIN
