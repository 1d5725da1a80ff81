// SPDX-License-Identifier: GPL-2.0
/*
 * How long does it take to freeze filesystems?  Not a test: prints a table of
 * medians, to be compared between kernels that ran it side by side.
 *
 * Each row is a number of ext4 filesystems on disks where a request takes
 * LATENCY_MS, side by side or each on a loop device over a file of the one
 * before, clean or with dirty data.  "frozen" is the time from the write to
 * /sys/power/state to the end of freezing tasks and filesystems, as traced,
 * "total" the time until that write returns.
 *
 * usage: freeze_bench [RUNS [KNOB]]
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "af.h"

#define LATENCY_MS	20
#define MAX_FS		64
#define MAX_RUNS	100
#define CHAIN_MB	8

static char dirs[MAX_FS][128];
static struct af_disk disks[MAX_FS];

static int by_value(const void *a, const void *b)
{
	long d = *(const long *)a - *(const long *)b;

	return d < 0 ? -1 : d > 0;
}

/* Median, least and most */
static void print_times(const char *what, long *v, unsigned int n)
{
	qsort(v, n, sizeof(*v), by_value);
	printf(" %s %5ld (%ld..%ld)", what, v[n / 2], v[0], v[n - 1]);
}

static int make(unsigned int n, bool chain)
{
	struct af_disk_opts o = {
		.mb = 16, .latency_ns = LATENCY_MS * 1000000UL,
	};
	char name[32], file[192];
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "bench%u", i);
		if (chain && i) {
			snprintf(file, sizeof(file), "%s/image", dirs[i - 1]);
			ret = af_file_create(file, (n - i) * CHAIN_MB * 1048576ULL);
			ret = ret ?: af_loop_attach(&disks[i], file);
		} else {
			if (chain)
				o.mb = (n + 1) * CHAIN_MB;
			ret = af_disk_create(&disks[i], name, &o);
		}
		ret = ret ?: af_mkfs("ext4", disks[i].node, "-O ^resize_inode");
		ret = ret ?: af_mount("ext4", disks[i].node, name, NULL, dirs[i]);
		if (ret) {
			af_log("%s: %s", name, strerror(-ret));
			return ret;
		}
	}
	return 0;
}

static int dirty(unsigned int n)
{
	char path[192];
	unsigned int i;
	FILE *f;

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/dirty", dirs[i]);
		f = fopen(path, "w");
		if (!f || fprintf(f, "%65536d", i) < 0 || fclose(f))
			return -1;
	}
	return 0;
}

/* Microseconds from the first to the second of two lines of the trace. */
static long between(const char *from, const char *to)
{
	char line[512];
	double t[2];
	long pos = 0;
	char *p;
	int i;

	for (i = 0; i < 2; i++) {
		if (af_trace_find(i ? to : from, &pos, line, sizeof(line)) < 0)
			return -1;
		/* "task-pid [cpu] flags seconds.micros: event: ..." */
		p = strstr(line, ": ");
		while (p && p > line && p[-1] != ' ')
			p--;
		t[i] = p ? atof(p) : 0;
	}
	return (t[1] - t[0]) * 1000000;
}

static int bench(unsigned int n, bool chain, bool fill, unsigned int runs)
{
	long frozen[MAX_RUNS], total[MAX_RUNS];
	unsigned int i;

	for (i = 0; i < runs; i++) {
		struct af_cycle c = { .deadline = 120 };

		if (fill && dirty(n))
			return -1;
		if (af_trace_arm(NULL, 0))
			return -1;
		if (af_cycle(&c))
			return -1;
		frozen[i] = between("freeze_processes[0] begin",
				    "freeze_processes[0] end") / 1000;
		total[i] = c.ms;
		af_sleep_ms(100);
	}
	printf("# %2u %-11s %-5s", n, chain ? "chain" : "independent",
	       fill ? "dirty" : "clean");
	print_times("frozen ms", frozen, runs);
	print_times("total ms", total, runs);
	printf(" n=%u\n", runs);
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	static const unsigned int counts[] = { 1, 4, 16, 64 };
	unsigned int runs = argc > 1 ? atoi(argv[1]) : 10, i;
	const char *knob = argc > 2 ? argv[2] : "0", *why;
	int chain, fill, ret = 0;

	if (runs < 1 || runs > MAX_RUNS)
		runs = 10;
	for (chain = 0; chain < 2; chain++) {
		for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
			/* loop devices on loop devices have a limit of depth */
			if (chain && counts[i] > 8)
				continue;
			why = af_setup(AF_NULL_BLK | AF_LOOP | AF_EXT4 | AF_TRACE);
			if (why) {
				printf("1..0 # SKIP %s\n", why);
				return 4;
			}
			af_set(AF_KNOB, "%s", knob);
			af_set("/sys/power/pm_freeze_timeout", "60000");
			ret = make(counts[i], chain);
			for (fill = 0; fill < 2 && !ret; fill++)
				ret = bench(counts[i], chain, fill, runs);
			if (ret)
				af_log("%u %s: failed", counts[i],
				       chain ? "chain" : "independent");
			af_cleanup();
		}
	}
	return ret ? 1 : 0;
}
