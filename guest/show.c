// SPDX-License-Identifier: GPL-2.0-only
/*
 * The show: xfs and ext4 under write load go through suspend to RAM and
 * through hibernation with the power off in between.
 *
 * "show live" starts the load, suspends, hibernates (the virtual machine ends
 * here; a second one restores the memory, and with it this program in the
 * middle of its write to /sys/power/state), then verifies what was written
 * and runs fsck.  "show cut" is for copies of the disks as they were while the
 * power was off: what a user finds who never resumes the image.
 *
 * Prints one line per result, "cell FILESYSTEM COLUMN ok|bad TEXT".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECORD		4096
#define RECORDS		2048		/* records in a file of the load */
#define SYNCED_SIZE	(8 << 20)
#define ASLEEP_SECS	8		/* until the alarm, freezing included */
#define WRITERS		3
#define TRACING		"/sys/kernel/tracing/"

static struct volume {
	const char *type, *mkfs, *fsck;
	char dev[32], dir[32];
	unsigned int major, minor;
	pid_t writers[WRITERS];
	int synced;			/* open all the time */
	uint64_t sum;			/* of what is synced */
	unsigned int writes;		/* seen between freeze and thaw */
	unsigned int writes_before;	/* of them, in the transition before */
	bool bad_writes;		/* could not be counted */
	bool failed;			/* a writer did */
} volumes[] = {
	{ .type = "xfs", .mkfs = "mkfs.xfs -q -f", .fsck = "xfs_repair -n" },
	{ .type = "ext4", .mkfs = "mkfs.ext4 -q -F", .fsck = "e2fsck -f -n" },
};

#define for_each_volume(v) for (v = volumes; v < volumes + 2; v++)

/* What the writers share: how far each is, and whether it shall stop. */
static struct shared {
	volatile uint64_t done[2][WRITERS];
	volatile bool stop;
} *shared;

static void cell(struct volume *v, const char *column, bool ok, const char *fmt, ...)
{
	va_list ap;

	printf("cell %s %s %s ", v->type, column, ok ? "ok" : "bad");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

static void die(const char *what)
{
	printf("# %s: %s\n", what, strerror(errno));
	exit(1);
}

static int put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	int ret = fd < 0 || write(fd, value, strlen(value)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return ret;
}

static double seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static double asleep(void)
{
	return seconds(CLOCK_BOOTTIME) - seconds(CLOCK_MONOTONIC);
}

static int run(const char *fmt, const char *arg)
{
	char cmd[256];
	int status;

	snprintf(cmd, sizeof(cmd), "%s %s >/tmp/out 2>&1", fmt, arg);
	status = system(cmd);
	if (status) {
		printf("# '%s' gave %d:\n", cmd, status);
		fflush(stdout);
		status = system("sed 's/^/# /' /tmp/out | tail -n 20") ? 1 : 1;
	}
	return status;
}

/* The virtio disk with the filesystem's name as its serial number */
static void find_disk(struct volume *v)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *de;
	struct stat st;
	char path[300], serial[32];

	while (dir && (de = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "/sys/block/%s/serial", de->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%31s", serial) == 1 && !strcmp(serial, v->type))
			snprintf(v->dev, sizeof(v->dev), "/dev/%.20s", de->d_name);
		fclose(f);
	}
	if (dir)
		closedir(dir);
	if (stat(v->dev, &st))
		die(v->type);
	v->major = major(st.st_rdev);
	v->minor = minor(st.st_rdev);
	snprintf(v->dir, sizeof(v->dir), "/mnt/%s", v->type);
	mkdir(v->dir, 0755);
}

static void mount_volume(struct volume *v)
{
	if (mount(v->dev, v->dir, v->type, 0, NULL))
		die(v->dev);
}

static char *path_in(struct volume *v, const char *name)
{
	static char path[64];

	snprintf(path, sizeof(path), "%s/%s", v->dir, name);
	return path;
}

static void fill(uint64_t *buf, uint64_t seed)
{
	size_t i;

	for (i = 0; i < RECORD / sizeof(*buf); i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		buf[i] = seed;
	}
}

/* FNV-1a, 64 bits */
static uint64_t checksum(int fd)
{
	unsigned char buf[RECORD];
	uint64_t sum = 0xcbf29ce484222325ULL;
	off_t pos = 0;
	ssize_t n, i;

	while ((n = pread(fd, buf, sizeof(buf), pos)) > 0) {
		for (i = 0; i < n; i++)
			sum = (sum ^ buf[i]) * 0x100000001b3ULL;
		pos += n;
	}
	return pos == SYNCED_SIZE ? sum : 0;
}

static void write_synced(struct volume *v)
{
	uint64_t buf[RECORD / 8];
	unsigned int i;

	v->synced = open(path_in(v, "synced"), O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (v->synced < 0)
		die(v->dir);
	for (i = 0; i < SYNCED_SIZE / RECORD; i++) {
		fill(buf, i);
		if (write(v->synced, buf, RECORD) != RECORD)
			die("write");
	}
	if (fsync(v->synced))
		die("fsync");
	v->sum = checksum(v->synced);
}

/* Record number n goes to place n % RECORDS, so the last ones are known. */
static void writer_buffered(struct volume *v, volatile uint64_t *done)
{
	int fd = open(path_in(v, "buffered"), O_RDWR | O_CREAT, 0644);
	uint64_t buf[RECORD / 8];

	while (fd >= 0 && !shared->stop) {
		fill(buf, *done);
		if (pwrite(fd, buf, RECORD, *done % RECORDS * RECORD) != RECORD)
			_exit(1);
		if (++*done % 128 == 0 && fsync(fd))
			_exit(1);
	}
	_exit(fd < 0);
}

static void writer_mapped(struct volume *v, volatile uint64_t *done)
{
	int fd = open(path_in(v, "mapped"), O_RDWR | O_CREAT, 0644);
	char *map;

	if (fd < 0 || ftruncate(fd, RECORDS * RECORD))
		_exit(1);
	map = mmap(NULL, RECORDS * RECORD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		_exit(1);
	while (!shared->stop) {
		fill((uint64_t *)(map + *done % RECORDS * RECORD), *done);
		++*done;
	}
	_exit(0);
}

static void writer_names(struct volume *v, volatile uint64_t *done)
{
	char from[64], to[64];

	while (!shared->stop) {
		int fd;

		snprintf(from, sizeof(from), "%s/new%llu", v->dir, (unsigned long long)*done % 64);
		snprintf(to, sizeof(to), "%s/name%llu", v->dir, (unsigned long long)*done % 64);
		fd = open(from, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		if (fd < 0 || write(fd, from, sizeof(from)) < 0 || close(fd) || rename(from, to))
			_exit(1);
		++*done;
	}
	_exit(0);
}

static void start_writers(struct volume *v)
{
	static void (* const writers[WRITERS])(struct volume *, volatile uint64_t *) = {
		writer_buffered, writer_mapped, writer_names,
	};
	unsigned int i;

	for (i = 0; i < WRITERS; i++) {
		v->writers[i] = fork();
		if (v->writers[i] == 0)
			writers[i](v, &shared->done[v - volumes][i]);
	}
}

/* Does every writer get on within 20 seconds? */
static bool writers_progress(struct volume *v)
{
	double end = seconds(CLOCK_MONOTONIC) + 20;
	uint64_t before[WRITERS];
	unsigned int i;

	for (i = 0; i < WRITERS; i++)
		before[i] = shared->done[v - volumes][i];
	for (i = 0; i < WRITERS; i++) {
		while (shared->done[v - volumes][i] == before[i]) {
			if (seconds(CLOCK_MONOTONIC) > end)
				return false;
			usleep(10000);
		}
	}
	return true;
}

/* All of them before any filesystem is unmounted: they share open files. */
static void stop_writers(void)
{
	struct volume *v;
	unsigned int i;
	int status;

	shared->stop = true;
	for_each_volume(v) {
		for (i = 0; i < WRITERS; i++)
			v->failed |= waitpid(v->writers[i], &status, 0) != v->writers[i] || status;
	}
}

static bool verify_records(struct volume *v, const char *name, uint64_t done)
{
	uint64_t want[RECORD / 8], got[RECORD / 8], i;
	int fd = open(path_in(v, name), O_RDONLY);
	bool good = fd >= 0;

	for (i = done > RECORDS ? done - RECORDS : 0; good && i < done; i++) {
		fill(want, i);
		good = pread(fd, got, RECORD, i % RECORDS * RECORD) == RECORD &&
		       !memcmp(want, got, RECORD);
	}
	if (fd >= 0)
		close(fd);
	return good;
}

static void trace_start(void)
{
	put(TRACING "tracing_on", "0");
	put(TRACING "buffer_size_kb", "4096");
	put(TRACING "trace", "\n");
	if (put(TRACING "events/power/suspend_resume/enable", "1") ||
	    put(TRACING "events/printk/console/enable", "1") ||
	    put(TRACING "events/block/block_rq_issue/enable", "1"))
		die("tracing");
	put(TRACING "tracing_on", "1");
}

/*
 * No write may be issued from the freeze of the user tasks, and where the
 * filesystems are frozen after them from the end of that, until the thaw.  The
 * kernel's messages say so, since the events in the trace leave out
 * hibernation.  In the second machine the trace is the one of the first up to
 * the image, and goes on from there.
 */
static void trace_count(void)
{
	FILE *f;
	char line[512], rwbs[16];
	bool quiet = false, seen = false;
	struct volume *v;

	put(TRACING "tracing_on", "0");
	f = fopen(TRACING "trace", "re");
	while (f && fgets(line, sizeof(line), f)) {
		unsigned int maj, min;
		char *p;

		if (strstr(line, "Freezing user space processes completed") ||
		    strstr(line, "Freezing filesystems completed")) {
			quiet = seen = true;
			for_each_volume(v)
				v->writes = v->writes_before;
		} else if (strstr(line, "suspend_resume: thaw_processes")) {
			quiet = false;
		}
		p = strstr(line, "block_rq_issue: ");
		if (!quiet || !p || sscanf(p, "block_rq_issue: %u,%u %15s", &maj, &min, rwbs) != 3)
			continue;
		for_each_volume(v) {
			if (maj == v->major && min == v->minor && strpbrk(rwbs, "WD"))
				v->writes++;
		}
	}
	if (f)
		fclose(f);
	for_each_volume(v) {
		v->writes_before = v->writes;
		v->bad_writes |= !seen;
	}
}

static void suspend(void)
{
	double before = asleep(), slept;
	char alarm[16];
	struct volume *v;
	int ret;

	trace_start();
	snprintf(alarm, sizeof(alarm), "+%d", ASLEEP_SECS);
	put("/sys/class/rtc/rtc0/wakealarm", "0");
	if (put("/sys/class/rtc/rtc0/wakealarm", alarm) || put("/sys/power/mem_sleep", "deep"))
		die("wakealarm");
	ret = put("/sys/power/state", "mem");
	slept = asleep() - before;
	trace_count();
	for_each_volume(v) {
		/* no proof of sleep but this: the counters count tests, too */
		bool ok = !ret && slept > 1;

		if (ret)
			cell(v, "suspend", false, "%s", strerror(-ret));
		else
			cell(v, "suspend", ok && writers_progress(v), "%.1f s asleep", slept);
	}
}

static void hibernate(void)
{
	struct volume *v;
	int ret;

	trace_start();
	if (put("/sys/power/disk", "shutdown"))
		die("/sys/power/disk");
	printf("# hibernating\n");
	fflush(stdout);
	ret = put("/sys/power/state", "disk");
	trace_count();
	for_each_volume(v) {
		uint64_t sum;

		cell(v, "hibernate", !ret, "%s", ret ? strerror(-ret) : "power off");
		if (ret)
			continue;
		sum = checksum(v->synced);
		cell(v, "resume", writers_progress(v) && sum == v->sum, "%s",
		     sum == v->sum ? "goes on" : "checksum differs");
	}
}

static void verify(void)
{
	struct volume *v;

	stop_writers();
	for_each_volume(v) {
		bool good = !v->failed, clean;
		uint64_t *done = (uint64_t *)shared->done[v - volumes];

		close(v->synced);
		if (umount(v->dir))
			die("umount");
		mount_volume(v);
		v->synced = open(path_in(v, "synced"), O_RDONLY);
		good &= checksum(v->synced) == v->sum;
		good &= verify_records(v, "buffered", done[0]) && verify_records(v, "mapped", done[1]);
		close(v->synced);
		if (umount(v->dir))
			die("umount");
		clean = !run(v->fsck, v->dev);
		printf("# %s: %llu records, %llu pages, %llu renames\n", v->type, (unsigned long long)done[0],
		       (unsigned long long)done[1], (unsigned long long)done[2]);
		cell(v, "writes", !v->writes && !v->bad_writes, "%u", v->writes);
		cell(v, "fsck", good && clean, "%s", !clean ? "errors" : good ? "clean" : "data differs");
	}
}

static bool needs_recovery(const char *dev)
{
	uint32_t incompat = 0;
	int fd = open(dev, O_RDONLY);

	/* s_feature_incompat of the superblock at 1024 */
	if (fd < 0 || pread(fd, &incompat, sizeof(incompat), 1024 + 0x60) != sizeof(incompat))
		die(dev);
	close(fd);
	return incompat & 4;
}

static int cut(void)
{
	struct volume *v;

	for_each_volume(v) {
		uint64_t sum, want = 0xcbf29ce484222325ULL, buf[RECORD / 8];
		unsigned int i, j;
		bool replay = false, clean;

		find_disk(v);
		/* xfs leaves a record in its log at each freeze, by design */
		if (!strcmp(v->type, "ext4"))
			replay = needs_recovery(v->dev);
		mount_volume(v);
		v->synced = open(path_in(v, "synced"), O_RDONLY);
		sum = checksum(v->synced);
		close(v->synced);
		for (i = 0; i < SYNCED_SIZE / RECORD; i++) {
			fill(buf, i);
			for (j = 0; j < RECORD; j++)
				want = (want ^ ((unsigned char *)buf)[j]) * 0x100000001b3ULL;
		}
		if (umount(v->dir))
			die("umount");
		clean = !run(v->fsck, v->dev);
		cell(v, "unresumed", !replay && clean && sum == want, "%s",
		     sum != want ? "data differs" : !clean ? "errors" : replay ? "needs replay" : "clean");
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct volume *v;

	if (argc > 1 && !strcmp(argv[1], "cut"))
		return cut();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	for_each_volume(v) {
		find_disk(v);
		if (run(v->mkfs, v->dev))
			exit(1);
		mount_volume(v);
		write_synced(v);
	}
	/*
	 * Let the flusher's turn fall between freeze and thaw each time.  (The
	 * base then hangs now and then, in "Disabling non-boot CPUs".)
	 */
	put("/proc/sys/vm/dirty_writeback_centisecs", "5");
	put("/proc/sys/vm/dirty_expire_centisecs", "5");
	for_each_volume(v)
		start_writers(v);
	for_each_volume(v)
		writers_progress(v);
	sleep(2);
	suspend();
	sleep(2);
	hibernate();
	sleep(1);
	verify();
	return 0;
}
