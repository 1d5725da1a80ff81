// SPDX-License-Identifier: GPL-2.0
/*
 * kernfs_notify() tells poll(2) and inotify(7) that a file of sysfs or cgroupfs
 * has changed.  poll is told by the caller.  inotify is told by a work item,
 * and its users (userspace OOM handlers on memory.events, container managers
 * on cgroup.events) may be the ones who would free the memory that the fork of
 * one more kworker waits for.  So: the event arrives while no kworker can be
 * created.
 *
 * No memory is short here, the fork of kworkers is made to fail: failslab,
 * filtered by task, fails every allocation of kthreadd.  Then the pools of the
 * CPU the test is pinned to are filled from userspace until no worker is left:
 *
 *  - the per-CPU pool with IOCB_CMD_FSYNC, which runs on system_percpu_wq, on
 *    files of a FUSE server that does not answer;
 *  - the unbound pool with requests for modules, which run on system_dfl_wq
 *    until modprobe ends; modprobe is this program (see main()).
 *
 * What a notification is raised with: cgroup.freeze of an empty cgroup, which
 * changes cgroup.events before the write returns.  And a write to an md array
 * which somebody has to answer who knows of it by inotify alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../kselftest_harness.h"
#include "kernfs_notify.h"

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define KTHREADD	"/proc/2/"
#define MODPROBE	"/proc/sys/kernel/modprobe"
#define TRACE		"/sys/kernel/tracing/instances/kernfs_notify/"
#define FS_TYPE		"kernfs_notify_%d_%d_%d"	/* pid, fd, number */
#define NEW_ARRAY	"/sys/module/md_mod/parameters/new_array"
#define ARRAY		"md_kernfs_notify"
#define MD		"/sys/block/" ARRAY "/md/"
#define NULL_BLK	"/sys/kernel/config/nullb/"
#define LEG		"kernfs_notify_"
#define NR_LEGS		2

/* More than a pool keeps idle, fewer than modprobes may run at once (50). */
#define NR_HOGS		32
/* A worker is tried to be created once a second (CREATE_COOLDOWN). */
#define SETTLED_MS	1500
#define SETTLE_MAX_MS	20000
/*
 * A rescuer is called after 10 ms and then every 100 ms. A VM that does not get its
 * CPUs may take longer once, but not each time.
 */
#define RESCUED_MS	(1000 * slow())
#define PROMPT_MS	5000
#define NR_TRIES	3
#define LOST_MS		10000

/* Failures of allocations of kthreadd, and of nobody else. */
static int fail_forks_of_kthreads(bool on)
{
	static const char *const set[][2] = {
		{ FAILSLAB "probability",	"0" },
		{ FAILSLAB "task-filter",	"Y" },
		{ FAILSLAB "cache-filter",	"N" },
		{ FAILSLAB "ignore-gfp-wait",	"N" },
		{ FAILSLAB "interval",		"1" },
		{ FAILSLAB "times",		"-1" },
		{ FAILSLAB "space",		"0" },
		{ FAILSLAB "verbose",		"0" },
	};
	size_t i;
	int err;

	if (!on) {
		err = write_file(KTHREADD "make-it-fail", "0");
		return write_file(FAILSLAB "probability", "0") ?: err;
	}
	for (i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
		err = write_file(set[i][0], set[i][1]);
		if (err)
			return err;
	}
	return write_file(KTHREADD "make-it-fail", "1") ?:
	       write_file(FAILSLAB "probability", "100");
}

FIXTURE(kernfs_notify)
{
	/* Shared with all processes of the test, see FIXTURE_TEARDOWN_PARENT */
	unsigned int fsyncs;		/* that reached the FUSE server */
	bool starved;
	bool tracing;
	char modprobe[PATH_MAX];	/* to be restored */
	char cgroup[32];
	pid_t server;
	pid_t aio;
	pid_t request[NR_HOGS];
	int hold[2];			/* modprobes last until [0] is closed */

	int freeze_fd;
	int events_fd;
	int inotify_fd;
	bool frozen;

	bool array;
	unsigned int answers;		/* of the monitor */
	pid_t monitor;
	pid_t writer;
	int written[2];			/* by the writer, when it has */
};

FIXTURE_SETUP(kernfs_notify)
{
	char path[64], buf[PATH_MAX];
	int root, dir;
	cpu_set_t cpu;

	if (geteuid())
		SKIP(return, "needs root");
	if (read_file(KTHREADD "comm", buf, sizeof(buf)) || strcmp(buf, "kthreadd"))
		SKIP(return, "needs the initial pid namespace");
	if (access(KTHREADD "make-it-fail", W_OK) || access(FAILSLAB "task-filter", W_OK))
		SKIP(return, "needs FAILSLAB, FAULT_INJECTION_DEBUG_FS and debugfs");
	if (read_file(MODPROBE, self->modprobe, sizeof(self->modprobe)))
		SKIP(return, "needs MODULES");
	if (access("/dev/fuse", R_OK | W_OK))
		SKIP(return, "needs FUSE_FS");
	root = detached_mount("cgroup2", -1);
	if (root < 0)
		SKIP(return, "needs CGROUPS");

	snprintf(self->cgroup, sizeof(self->cgroup), "kernfs_notify_%d", getpid());
	ASSERT_EQ(0, mkdirat(root, self->cgroup, 0755));
	dir = openat(root, self->cgroup, O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, dir);
	close(root);
	self->freeze_fd = openat(dir, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
	ASSERT_LE(0, self->freeze_fd);
	self->events_fd = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, self->events_fd);
	close(dir);

	self->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	ASSERT_LE(0, self->inotify_fd);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->events_fd);
	ASSERT_LE(0, inotify_add_watch(self->inotify_fd, path, IN_MODIFY));

	/* The hogs and the notification have to meet in the same pools. */
	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu), &cpu));
}

/*
 * End what starve() began.  The modprobes end with the pipe they hold.  First
 * the hogs, then the fault: else each hog that waits gets a worker of its own,
 * which stays idle for minutes and is in the way of the next test.
 */
static void unstarve(FIXTURE_DATA(kernfs_notify) * self)
{
	int i;

	if (!self->starved)
		return;
	/* Aborts every fsync, which nothing else could. */
	end_process(&self->server);
	for (i = 0; i < NR_HOGS; i++)
		end_process(&self->request[i]);
	fail_forks_of_kthreads(false);
	end_process(&self->aio);
	write_file(MODPROBE, self->modprobe);
	self->starved = false;
}

static void feed(FIXTURE_DATA(kernfs_notify) * self)
{
	close(self->hold[0]);
	unstarve(self);
}

/*
 * A raid1 whose metadata is not in the hands of md: before the first write to a
 * clean array goes on, somebody has to write "active" to array_state.
 *
 * The members have no work items that could be what is waited for: null_blk
 * completes in softirq, and kblockd has a rescuer and is of another pool.
 */
static void start_array(struct __test_metadata *_metadata,
			FIXTURE_DATA(kernfs_notify) * self)
{
	char path[128], buf[32];
	int i, fd, err;

	self->array = true;
	ASSERT_EQ(0, write_file(NEW_ARRAY, ARRAY));
	ASSERT_EQ(0, write_file(MD "metadata_version", "external:kernfs_notify"));
	ASSERT_EQ(0, write_file(MD "level", "raid1"));
	ASSERT_EQ(0, write_file(MD "raid_disks", "2"));
	ASSERT_EQ(0, write_file(MD "component_size", "1024"));
	for (i = 0; i < NR_LEGS; i++) {
		snprintf(path, sizeof(path), NULL_BLK LEG "%d", i);
		ASSERT_EQ(0, mkdir(path, 0755));
		snprintf(path, sizeof(path), NULL_BLK LEG "%d/power", i);
		ASSERT_EQ(0, write_file(path, "1"));
		snprintf(path, sizeof(path), "/sys/block/" LEG "%d/dev", i);
		ASSERT_EQ(0, read_file(path, buf, sizeof(buf)));
		ASSERT_EQ(0, write_file(MD "new_dev", buf));
		snprintf(path, sizeof(path), MD "dev-" LEG "%d/size", i);
		ASSERT_EQ(0, write_file(path, "1024"));
		snprintf(path, sizeof(path), MD "dev-" LEG "%d/slot", i);
		snprintf(buf, sizeof(buf), "%d", i);
		ASSERT_EQ(0, write_file(path, buf));
	}
	ASSERT_EQ(0, write_file(MD "resync_start", "none"));
	err = write_file(MD "array_state", "active");
	if (err == -EINVAL)
		SKIP(return, "needs MD_RAID1");
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, read_file(MD "array_state", buf, sizeof(buf)));
	ASSERT_STREQ("clean", buf);

	/* The first who opens it looks for partitions. */
	fd = open("/dev/" ARRAY, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	close(fd);
}

static void stop_array(FIXTURE_DATA(kernfs_notify) * self)
{
	char path[64];
	int i;

	if (!self->array)
		return;
	/* The monitor may be dead.  The writer cannot be killed while it waits. */
	if (self->writer > 0)
		write_file(MD "array_state", "active");
	end_process(&self->writer);
	end_process(&self->monitor);
	/* The end of somebody else's child is not waited for: it is open until then. */
	for (i = 0; i < 500 && write_file(MD "array_state", "clear") == -EBUSY; i++)
		usleep(10000);
	for (i = 0; i < NR_LEGS; i++) {
		snprintf(path, sizeof(path), NULL_BLK LEG "%d", i);
		rmdir(path);
	}
	self->array = false;
}

/* mdmon would poll(2), and does not need the work item. */
static int monitor(FIXTURE_DATA(kernfs_notify) * self, int inotify)
{
	char buf[4096];

	while (read(inotify, buf, sizeof(buf)) > 0) {
		if (read_file(MD "array_state", buf, sizeof(buf)))
			break;
		if (strcmp(buf, "write-pending"))
			continue;
		__atomic_add_fetch(&self->answers, 1, __ATOMIC_RELAXED);
		if (write_file(MD "array_state", "active"))
			break;
	}
	return 1;
}

static int writer(int written)
{
	static char block[4096] __attribute__((aligned(4096)));
	int fd = open("/dev/" ARRAY, O_WRONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || pwrite(fd, block, sizeof(block), 0) != sizeof(block))
		return 1;
	return write(written, "", 1) != 1;
}

/* In the parent, since the machine must not stay starved if the test dies. */
FIXTURE_TEARDOWN_PARENT(kernfs_notify)
{
	int root;

	unstarve(self);
	stop_array(self);
	if (self->tracing)
		rmdir(TRACE);
	root = detached_mount("cgroup2", -1);
	if (root >= 0) {
		unlinkat(root, self->cgroup, AT_REMOVEDIR);
		close(root);
	}
}

/* One work item on system_percpu_wq for each file of the FUSE server. */
static int aio_hogs(int mnt)
{
	struct iocb cb[NR_HOGS] = {}, *cbs[NR_HOGS];
	struct io_event ev[NR_HOGS];
	aio_context_t ctx = 0;
	char name[16];
	int i;

	for (i = 0; i < NR_HOGS; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cb[i].aio_fildes = openat(mnt, name, O_RDWR | O_CLOEXEC);
		if ((int)cb[i].aio_fildes < 0)
			return 1;
		cb[i].aio_lio_opcode = IOCB_CMD_FSYNC;
		cbs[i] = &cb[i];
	}
	if (syscall(SYS_io_setup, NR_HOGS, &ctx) ||
	    syscall(SYS_io_submit, ctx, NR_HOGS, cbs) != NR_HOGS)
		return 1;
	return syscall(SYS_io_getevents, ctx, NR_HOGS, NR_HOGS, ev, NULL) != NR_HOGS;
}

/* Returns with both pools out of workers, and with no way to get any. */
static void starve(struct __test_metadata *_metadata,
		   FIXTURE_DATA(kernfs_notify) * self)
{
	unsigned int seen = 0, fsyncs;
	int i, dev, mnt, modprobes;
	long start, settled;
	char exe[PATH_MAX] = {};
	pid_t pid;		/* not self->..., which the child shares */

	ASSERT_LT(0, readlink("/proc/self/exe", exe, sizeof(exe) - 1));
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, dev);
	mnt = detached_mount("fuse", dev);
	ASSERT_LE(0, mnt);
	ASSERT_EQ(0, pipe2(self->hold, O_CLOEXEC));

	self->starved = true;
	ASSERT_EQ(0, fail_forks_of_kthreads(true));

	/*
	 * fsyncs cannot be interrupted and their process cannot end before
	 * them.  So the server is another process, alone in having the device
	 * open, and does not outlive a minute.
	 */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		alarm(60);
		close(mnt);
		close(self->hold[0]);
		fuse_server(dev, &self->fsyncs);
		_exit(1);
	}
	self->server = pid;
	close(dev);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->hold[0]);
		_exit(aio_hogs(mnt));
	}
	self->aio = pid;
	close(mnt);

	ASSERT_EQ(0, write_file(MODPROBE, exe));
	for (i = 0; i < NR_HOGS; i++) {
		char type[64];

		snprintf(type, sizeof(type), FS_TYPE, getpid(), self->hold[1], i);
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			close(self->hold[0]);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			syscall(SYS_fsopen, type, 0);
			_exit(0);
		}
		self->request[i] = pid;
	}

	start = now_ms();
	settled = start;
	do {
		usleep(50000);
		ASSERT_EQ(0, ioctl(self->hold[0], FIONREAD, &modprobes));
		fsyncs = __atomic_load_n(&self->fsyncs, __ATOMIC_ACQUIRE);
		if (seen != fsyncs + modprobes) {
			seen = fsyncs + modprobes;
			settled = now_ms();
		}
		ASSERT_GT(SETTLE_MAX_MS, now_ms() - start);
	} while (now_ms() - settled < SETTLED_MS);

	TH_LOG("workers in use: per-CPU %u, unbound %d; work items waiting: %u, %d",
	       fsyncs, modprobes, NR_HOGS - fsyncs, NR_HOGS - modprobes);
	ASSERT_GT(NR_HOGS, fsyncs);
	ASSERT_GT(NR_HOGS, modprobes);
}

/* Forget what happened, then change cgroup.events. */
static void notify(struct __test_metadata *_metadata,
		   FIXTURE_DATA(kernfs_notify) * self)
{
	char buf[512];

	usleep(50000);		/* cgroup_file_notify() defers if more often */
	while (read(self->inotify_fd, buf, sizeof(buf)) > 0)
		;
	ASSERT_LT(0, pread(self->events_fd, buf, sizeof(buf), 0));

	self->frozen = !self->frozen;
	ASSERT_EQ(1, write(self->freeze_fd, self->frozen ? "1" : "0", 1));
}

/* Without the fault: the events this test waits for do exist. */
TEST_F(kernfs_notify, poll_and_inotify_see_the_event_while_kworkers_can_be_created)
{
	long ms;

	notify(_metadata, self);
	ms = wait_for(self->events_fd, POLLPRI, PROMPT_MS);
	EXPECT_LE(0, ms);
	ms = wait_for(self->inotify_fd, POLLIN, PROMPT_MS);
	EXPECT_LE(0, ms);
	TH_LOG("inotify event after %ld ms", ms);
}

TEST_F_TIMEOUT(kernfs_notify, poll_wakes_at_once, 60)
{
	long ms;

	starve(_metadata, self);
	notify(_metadata, self);
	ms = wait_for(self->events_fd, POLLPRI, PROMPT_MS);
	EXPECT_LE(0, ms);
	TH_LOG("poll woke after %ld ms", ms);
	feed(self);
}

TEST_F_TIMEOUT(kernfs_notify, inotify_event_is_delivered_while_no_kworker_can_be_created, 60)
{
	long ms = 0, best = LOST_MS;
	int i;

	starve(_metadata, self);
	for (i = 0; i < NR_TRIES && ms >= 0; i++) {
		notify(_metadata, self);
		ms = wait_for(self->inotify_fd, POLLIN, LOST_MS);
		EXPECT_LE(0, ms) {
			TH_LOG("no inotify event within %d ms", LOST_MS);
		}
		EXPECT_GE(PROMPT_MS, ms);
		if (ms >= 0 && ms < best)
			best = ms;
	}
	feed(self);
	if (ms >= 0) {
		EXPECT_GE(RESCUED_MS, best);
		TH_LOG("inotify event after %ld ms, the best of %d", best, i);
		return;
	}
	/* It was late, not lost: nothing but the workers was missing. */
	ms = wait_for(self->inotify_fd, POLLIN, LOST_MS);
	EXPECT_LE(0, ms);
	TH_LOG("inotify event %ld ms after kworkers could be created again", ms);
}

/* Who runs kernfs_notify_workfn()?  Not a kworker that was there by luck. */
TEST_F_TIMEOUT(kernfs_notify, a_rescuer_delivers_the_event_while_no_kworker_can_be_created, 60)
{
	char line[512], comm[64] = "nobody";
	FILE *trace;

	if (mkdir(TRACE, 0700))
		SKIP(return, "needs tracefs and EVENT_TRACING");
	self->tracing = true;

	starve(_metadata, self);
	ASSERT_EQ(0, write_file(TRACE "events/workqueue/workqueue_execute_start/enable", "1"));
	notify(_metadata, self);
	wait_for(self->inotify_fd, POLLIN, PROMPT_MS);
	ASSERT_EQ(0, write_file(TRACE "events/workqueue/workqueue_execute_start/enable", "0"));

	trace = fopen(TRACE "trace", "re");
	ASSERT_NE(NULL, trace);
	while (fgets(line, sizeof(line), trace))
		if (strstr(line, "kernfs_notify_workfn"))
			sscanf(line, " %63s", comm);
	fclose(trace);
	feed(self);

	EXPECT_EQ(0, strncmp(comm, "kworker/R-", strlen("kworker/R-")));
	TH_LOG("kernfs_notify_workfn() was run by %s", comm);
}

/*
 * The whole way: from md_write_start(), which sleeps, by way of the work item to
 * a process that answers, and back.  The writer notifies, so it has to be on the
 * CPU whose workers are gone; the answer wakes it without any.
 */
TEST_F_TIMEOUT(kernfs_notify,
	       a_write_that_needs_a_watcher_completes_while_no_kworker_can_be_created, 60)
{
	int inotify;
	pid_t pid;		/* not self->..., which the child shares */
	long ms;

	if (access(NEW_ARRAY, W_OK))
		SKIP(return, "needs BLK_DEV_MD");
	if (access(NULL_BLK, W_OK))
		SKIP(return, "needs BLK_DEV_NULL_BLK and configfs");
	start_array(_metadata, self);
	if (_metadata->exit_code)
		return;

	inotify = inotify_init1(IN_CLOEXEC);
	ASSERT_LE(0, inotify);
	ASSERT_LE(0, inotify_add_watch(inotify, MD "array_state", IN_MODIFY));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(monitor(self, inotify));
	self->monitor = pid;
	close(inotify);

	starve(_metadata, self);
	ASSERT_EQ(0u, self->answers);
	ASSERT_EQ(0, pipe2(self->written, O_CLOEXEC));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(writer(self->written[1]));
	self->writer = pid;
	ms = wait_for(self->written[0], POLLIN, LOST_MS);
	EXPECT_LE(0, ms) {
		TH_LOG("no write within %d ms", LOST_MS);
	}
	EXPECT_GE(PROMPT_MS, ms);
	feed(self);
	if (ms >= 0) {
		TH_LOG("written after %ld ms", ms);
	} else {
		ms = wait_for(self->written[0], POLLIN, LOST_MS);
		EXPECT_LE(0, ms);
		TH_LOG("written %ld ms after kworkers could be created again", ms);
	}
	stop_array(self);
	/* It did have to wait for the monitor. */
	EXPECT_EQ(1u, self->answers);
}

/* As /proc/sys/kernel/modprobe: tell the test, then last until it lets go. */
static int modprobe(const char *module)
{
	struct pollfd pfd = {};
	char path[64];
	int pid, fd;

	if (sscanf(module, "fs-kernfs_notify_%d_%d_", &pid, &fd) != 2)
		return 1;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	pfd.fd = open(path, O_WRONLY);
	if (pfd.fd < 0 || write(pfd.fd, "", 1) != 1)
		return 1;
	poll(&pfd, 1, 60000);	/* POLLERR: nobody reads any more */
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "-q") && !strcmp(argv[2], "--"))
		return modprobe(argv[3]);
	return test_harness_run(argc, argv);
}
