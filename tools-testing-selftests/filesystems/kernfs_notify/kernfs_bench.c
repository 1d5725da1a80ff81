// SPDX-License-Identifier: GPL-2.0
/*
 * How long does an event of kernfs take to its watcher, and how many can be had?
 * Not a test: prints medians and 99th percentiles in microseconds, to be compared
 * between kernels that ran it side by side.
 *
 * usage: kernfs_bench [EVENTS]
 *
 * The notifications are those of md's array_state, see kernfs_links_test.c.
 * "loaded" is with as many tasks that make and remove cgroups as there are CPUs.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/inotify.h>

#include "kernfs_notify.h"

#define NEW_ARRAY	"/sys/module/md_mod/parameters/new_array"
#define IN_SYSFS	"block/md_bench/md/array_state"
#define MAX_EVENTS	100000
#define RATE_MS		2000

static double us[MAX_EVENTS];

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

static int die(const char *what)
{
	printf("# %s: %s\nnot ok 1 kernfs_bench\n", what, strerror(errno));
	exit(1);
}

static void notify(int state)
{
	if (pwrite(state, "inactive", 8, 0) != 8)
		die("array_state");
}

static unsigned int drain(int inotify)
{
	char buf[4096];
	ssize_t n;
	unsigned int events = 0;

	while ((n = read(inotify, buf, sizeof(buf))) > 0)
		events += n / sizeof(struct inotify_event);
	return events;
}

static void latency(const char *what, int state, int inotify, int n)
{
	double start;
	int i;

	for (i = 0; i < n; i++) {
		start = now_us();
		notify(state);
		if (wait_for(inotify, POLLIN, 10000) < 0)
			die("no event");
		us[i] = now_us() - start;
		drain(inotify);
	}
	qsort(us, n, sizeof(us[0]), by_value);
	printf("# %s, n=%d, us:  p50 %.0f  p99 %.0f  (%.0f..%.0f)\n", what, n,
	       us[n / 2], us[n * 99 / 100], us[0], us[n - 1]);
}

static void rate(const char *what, int state, int inotify)
{
	long start = now_ms();
	unsigned int notified = 0, events = 0;

	while (now_ms() - start < RATE_MS) {
		notify(state);
		notified++;
		events += drain(inotify);
	}
	printf("# %s, per second:  notifications %ld  events %ld\n", what,
	       notified * 1000L / RATE_MS, events * 1000L / RATE_MS);
}

static int cgroups(int id)
{
	int root = detached_mount("cgroup2", -1);
	char name[32];

	snprintf(name, sizeof(name), "kn_bench_%d", id);
	while (root >= 0)
		if (mkdirat(root, name, 0755) || unlinkat(root, name, AT_REMOVEDIR))
			break;
	return 1;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 2000, cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int mnt, state = -1, inotify, i;
	pid_t load[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n1..1\n");
	if (n < 1 || n > MAX_EVENTS)
		n = MAX_EVENTS;
	if (geteuid() || access(NEW_ARRAY, W_OK) || unshare(CLONE_NEWNET)) {
		printf("ok 1 kernfs_bench # SKIP needs root, BLK_DEV_MD and NET_NS\n");
		return 4;
	}
	/* Writes through another superblock: the watcher does not see them as such. */
	mnt = detached_mount("sysfs", -1);
	if (mnt < 0 || write_file(NEW_ARRAY, "md_bench"))
		die("md_bench");
	for (i = 0; i < 100 && state < 0; i++, usleep(10000))
		state = openat(mnt, IN_SYSFS, O_RDWR | O_CLOEXEC);
	inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (state < 0 || inotify_add_watch(inotify, "/sys/" IN_SYSFS, IN_MODIFY) < 0)
		die(IN_SYSFS);

	latency("idle", state, inotify, n);
	rate("idle", state, inotify);
	if (cpus > 64)
		cpus = 64;
	for (i = 0; i < cpus; i++) {
		load[i] = fork();
		if (!load[i])
			_exit(cgroups(i));
	}
	usleep(100000);
	drain(inotify);
	latency("loaded", state, inotify, n);
	rate("loaded", state, inotify);
	for (i = 0; i < cpus; i++)
		end_process(&load[i]);
	write_file("/sys/" IN_SYSFS, "clear");
	printf("ok 1 kernfs_bench\n");
	return 0;
}
