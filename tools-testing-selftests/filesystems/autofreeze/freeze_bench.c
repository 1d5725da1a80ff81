// SPDX-License-Identifier: GPL-2.0
/*
 * How long does it take to freeze filesystems?  Not a test: prints medians, with
 * the least and the most, to be compared between kernels that ran it side by
 * side.
 *
 * usage: freeze_bench freeze [RUNS [KNOB]]
 *
 * Suspends, up to where tasks and filesystems are frozen, with ext4 filesystems
 * on disks where a request takes LATENCY_MS: side by side, or as a chain, where
 * each disk ends in a file of the next filesystem.  Clean, or with DIRTY_KB of
 * dirty data in each.  "frozen" is the time from the write to /sys/power/state to
 * the end of freezing tasks and filesystems, "total" the time until that write
 * returns.  "slowest" and "sum" are of the single freezes, where they are traced.
 *
 * usage: freeze_bench order [RUNS [KNOB]]
 *
 * Finds the order of so many superblocks: tmpfs, which is in no order, and
 * overlays on one of them.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "af.h"

#define LATENCY_MS	20
#define DISK_MB		8
#define DIRTY_KB	256
#define MAX_FS		64
#define MAX_RUNS	100
#define TAIL		2048	/* sectors */

struct fs {
	struct af_disk under, disk, loop;
	char dir[128];
	dev_t dev;
};

static struct fs fs[MAX_FS];
static struct af_events ev;

static int by_value(const void *a, const void *b)
{
	long d = *(const long *)a - *(const long *)b;

	return d < 0 ? -1 : d > 0;
}

static void print_times(const char *what, long *v, unsigned int n)
{
	qsort(v, n, sizeof(*v), by_value);
	printf("  %s %ld (%ld..%ld)", what, v[n / 2], v[0], v[n - 1]);
}

static int make(unsigned int n, bool chain)
{
	struct af_disk_opts o = {
		.mb = DISK_MB, .latency_ns = LATENCY_MS * 1000000UL,
	};
	char image[160], file[192], table[256], name[16];
	unsigned int i;
	int ret;

	/* once, and in memory: mkfs waits for each of its reads and writes */
	snprintf(image, sizeof(image), "%s/image", af_dir("bench"));
	ret = af_file_create(image, DISK_MB << 20);
	ret = ret ?: af_mkfs("ext4", image, NULL);
	for (i = 0; i < n && !ret; i++) {
		struct fs *f = &fs[i];

		memset(f, 0, sizeof(*f));
		snprintf(name, sizeof(name), "bench%u", i);
		ret = af_disk_create(&f->under, name, &o);
		ret = ret ?: af_copy(image, f->under.node);
		ret = ret ?: af_dm_linear(&f->disk, name, &f->under);
		ret = ret ?: af_mount("ext4", f->disk.node, name, NULL, f->dir);
		ret = ret ?: af_mount_dev(f->dir, &f->dev);
	}
	unlink(image);
	for (i = 1; chain && i < n && !ret; i++) {
		struct fs *up = &fs[i - 1];

		snprintf(file, sizeof(file), "%s/tail", fs[i].dir);
		ret = af_file_create(file, TAIL * 512);
		ret = ret ?: af_loop_attach(&up->loop, file);
		snprintf(table, sizeof(table),
			 "0 %llu linear %u:%u 0\n%llu %u linear %u:%u 0",
			 up->under.sectors, major(up->under.dev),
			 minor(up->under.dev), up->under.sectors, TAIL,
			 major(up->loop.dev), minor(up->loop.dev));
		ret = ret ?: af_dm_reload(&up->disk, table);
	}
	/* from the top down */
	for (i = n; i--;) {
		if (fs[i].loop.name[0])
			af_undo_first(fs[i].loop.name);
		if (fs[i].disk.name[0])
			af_undo_first(fs[i].disk.name);
		if (fs[i].dir[0])
			af_undo_first(fs[i].dir);
	}
	return ret;
}

static int dirty_all(unsigned int n)
{
	static char buf[DIRTY_KB << 10];
	char path[192];
	unsigned int i;
	FILE *f;

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/dirty", fs[i].dir);
		f = fopen(path, "w");
		if (!f || fwrite(buf, sizeof(buf), 1, f) != 1 || fclose(f))
			return -1;
	}
	return 0;
}

static int bench(unsigned int n, bool chain, bool fill, unsigned int runs)
{
	long frozen[MAX_RUNS], total[MAX_RUNS], slowest[MAX_RUNS], sum[MAX_RUNS];
	const struct af_event *e;
	bool traced = true;
	unsigned int i, j;
	long us;

	for (i = 0; i < runs; i++) {
		struct af_cycle c = { .deadline = 120 };

		sync();
		if ((fill && dirty_all(n)) || af_events_arm() || af_cycle(&c) ||
		    af_events_read(&ev, 60))
			return -1;
		frozen[i] = (ev.frozen - c.begin_us) / 1000;
		total[i] = c.ms;
		slowest[i] = sum[i] = 0;
		for (j = 0; j < n; j++) {
			e = af_event_freeze(&ev, fs[j].dev);
			traced &= !!e;
			us = e ? e->end - e->begin : 0;
			sum[i] += us / 1000;
			slowest[i] = us / 1000 > slowest[i] ? us / 1000 : slowest[i];
		}
	}
	printf("# %2u %s, %s, n=%u, ms:", n, chain ? "in a chain" : "side by side",
	       fill ? "dirty" : "clean", runs);
	print_times("frozen", frozen, runs);
	print_times("total", total, runs);
	if (traced) {
		print_times("slowest", slowest, runs);
		print_times("sum", sum, runs);
	}
	printf("\n");
	fflush(stdout);
	return 0;
}

static int bench_freeze(unsigned int runs, const char *knob)
{
	static const unsigned int counts[] = { 1, 4, 16, 64 };
	unsigned int i;
	const char *why;
	int chain, fill, ret = 0;

	for (chain = 0; chain < 2; chain++) {
		for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
			if (chain && counts[i] == 1)
				continue;
			why = af_setup(AF_NULL_BLK | AF_LOOP | AF_DM | AF_EXT4 |
				       AF_TRACE);
			if (why) {
				printf("# SKIP %s\n", why);
				return 4;
			}
			ret = af_set(AF_KNOB, "%s", knob);
			ret = ret ?: af_set("/sys/power/pm_freeze_timeout", "60000");
			if (!access("/sys/power/sync_on_suspend", F_OK))
				ret = ret ?: af_set("/sys/power/sync_on_suspend", "0");
			ret = ret ?: make(counts[i], chain);
			for (fill = 0; fill < 2 && !ret; fill++)
				ret = bench(counts[i], chain, fill, runs);
			if (ret)
				printf("# %u %s: failed\n", counts[i],
				       chain ? "in a chain" : "side by side");
			af_cleanup();
			if (ret)
				return 1;
		}
	}
	return 0;
}

static int add_tmpfs(const char *dir)
{
	return mount("tmpfs", dir, "tmpfs", 0, "size=64k");
}

static int add_overlay(const char *dir)
{
	static const char * const sub[] = { "lower", "upper", "work" };
	char path[3][192], opts[640];
	int i;

	/* dir is dir_of/N, beside what it is made of */
	for (i = 0; i < 3; i++) {
		snprintf(path[i], sizeof(path[i]), "%s-%s", dir, sub[i]);
		if (mkdir(path[i], 0700))
			return -1;
	}
	snprintf(opts, sizeof(opts), "lowerdir=%s,upperdir=%s,workdir=%s", path[0],
		 path[1], path[2]);
	return mount("overlay", dir, "overlay", 0, opts);
}

static int bench_order(unsigned int runs, const char *knob)
{
	static const unsigned int counts[] = { 10, 100, 1000, 5000 };
	static const char * const names[] = { "tmpfs", "overlay" };
	static int (* const add[])(const char *) = { add_tmpfs, add_overlay };
	unsigned int kind, i, n, r;
	char top[128], dir[160];
	long us[MAX_RUNS], all[MAX_RUNS];
	const char *why;

	for (kind = 0; kind < 2; kind++) {
		why = af_setup(AF_TRACE | AF_OVERLAY);
		if (why) {
			printf("# SKIP %s\n", why);
			return 4;
		}
		af_set(AF_KNOB, "%s", knob);
		snprintf(top, sizeof(top), "%s", af_dir("order"));
		if (add_tmpfs(top) || mount(NULL, top, NULL, MS_REMOUNT, "size=256m"))
			return 1;
		for (i = n = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
			for (; n < counts[i]; n++) {
				snprintf(dir, sizeof(dir), "%s/%u", top, n);
				if (mkdir(dir, 0700) || add[kind](dir)) {
					perror(dir);
					return 1;
				}
			}
			for (r = 0; r < runs; r++) {
				struct af_cycle c = { .deadline = 120 };

				if (af_events_arm() || af_cycle(&c) ||
				    af_events_read(&ev, 10))
					return 1;
				us[r] = ev.ordering;
				all[r] = ev.frozen - c.begin_us;
			}
			printf("# %u %s, n=%u, us:", n, names[kind], runs);
			print_times("frozen", all, runs);
			print_times("order", us, runs);
			printf("\n");
			fflush(stdout);
		}
		while (n--) {
			snprintf(dir, sizeof(dir), "%s/%u", top, n);
			umount(dir);
		}
		umount2(top, MNT_DETACH);
		af_cleanup();
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned int runs = argc > 2 ? atoi(argv[2]) : 10;
	const char *knob = argc > 3 ? argv[3] : "0";

	if (argc < 2 || runs < 1 || runs > MAX_RUNS) {
		fprintf(stderr, "usage: freeze_bench freeze|order [RUNS [KNOB]]\n");
		return 2;
	}
	if (!strcmp(argv[1], "order"))
		return bench_order(runs, knob);
	return bench_freeze(runs, knob);
}
