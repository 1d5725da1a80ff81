/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the failure tests share: errors injected into the freeze, a look at
 * whether a filesystem is frozen that never blocks, a wakeup event that needs
 * no task to run, and what a disk has been asked to write.
 */
#ifndef AUTOFREEZE_AF_FAIL_H
#define AUTOFREEZE_AF_FAIL_H

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "af.h"

#define FAIL_FUNCTION	"/sys/kernel/debug/fail_function/"

/* The failure line of the kernel, after "PM: TYPE (ID)". */
#define FREEZE_FAILED	"freezing failed"

/* What two processes look at and change. */
#define get(x)		__atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define set(x, v)	__atomic_store_n(&(x), (v), __ATOMIC_SEQ_CST)

/* The name by which the kernel's messages call the disk, like "dm-0". */
static inline const char *disk_id(const struct af_disk *d, char *buf, size_t size)
{
	char path[64], link[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(d->dev),
		 minor(d->dev));
	n = readlink(path, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	snprintf(buf, size, "%s", basename(link));
	return buf;
}

/* "ext4 (dm-0): freezing failed" in the log since @k? */
static inline bool freeze_failure_named(struct af_klog *k, const char *fs,
					const struct af_disk *d)
{
	char id[64], what[160];
	const char *line;

	snprintf(what, sizeof(what), "%s (%s): " FREEZE_FAILED, fs,
		 disk_id(d, id, sizeof(id)));
	line = af_klog_find(k, what);
	if (line)
		af_log("%s", line);
	return line;
}

/*
 * A remount of a frozen filesystem is refused, without waiting for anything:
 * the one question that a task may ask that must not sleep until the thaw.
 */
static inline bool is_frozen(const char *dir)
{
	return mount(NULL, dir, NULL, MS_REMOUNT, NULL) && errno == EBUSY;
}

static inline bool becomes_unfrozen(const char *dir, unsigned int ms)
{
	long long end = af_now_ms() + ms;

	while (is_frozen(dir)) {
		if (af_now_ms() > end)
			return false;
		af_sleep_ms(20);
	}
	return true;
}

/* Writes and flushes that @d has completed so far, sectors written and discarded. */
struct disk_io {
	unsigned long long writes, sectors, discarded;
};

static inline struct disk_io disk_io(const struct af_disk *d)
{
	unsigned long long f[17] = { 0 };
	char path[64], buf[512], *p = buf;
	struct disk_io io;
	unsigned int i;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(d->dev),
		 minor(d->dev));
	if (af_read(path, buf, sizeof(buf)) < 0)
		buf[0] = '\0';
	for (i = 0; i < 17 && *p; i++)
		f[i] = strtoull(p, &p, 10);
	io.writes = f[4] + f[15];
	io.sectors = f[6];
	io.discarded = f[13];
	return io;
}

/* --- errors injected into the freeze --------------------------------------- */

/*
 * Let the @nth call of @func, and each one after it, return @error.
 * -ENOENT: this kernel cannot inject errors there.
 */
static inline int inject_error(const char *func, int error, unsigned int nth)
{
	int ret = af_write(FAIL_FUNCTION "inject", "%s", func);
	char path[128];

	if (ret < 0)
		return -ENOENT;
	snprintf(path, sizeof(path), FAIL_FUNCTION "%s/retval", func);
	ret = af_write(path, "%#lx", (unsigned long)(long)error);
	if (ret >= 0)
		ret = af_write(FAIL_FUNCTION "verbose", "0");
	if (ret >= 0)
		ret = af_write(FAIL_FUNCTION "interval", "1");
	/* every call that passes takes one off, the one that finds 1 fails */
	if (ret >= 0)
		ret = af_write(FAIL_FUNCTION "space", "%u", nth);
	if (ret >= 0)
		ret = af_write(FAIL_FUNCTION "times", "-1");
	if (ret >= 0)
		ret = af_write(FAIL_FUNCTION "probability", "100");
	return ret < 0 ? ret : 0;
}

static inline void inject_nothing(void)
{
	af_write(FAIL_FUNCTION "probability", "0");
	af_write(FAIL_FUNCTION "space", "0");
	af_write(FAIL_FUNCTION "inject", " ");
}

/* --- a wakeup event while all tasks are frozen ----------------------------- */

struct wakeup {
	int timer, epoll;
	long long at_ms;		/* CLOCK_MONOTONIC */
};

/*
 * A timer that is watched with EPOLLWAKEUP reports a wakeup event from its
 * interrupt, whoever is frozen.  Reading and writing back wakeup_count is how
 * userspace asks for events to end a transition.
 */
static inline int wakeup_arm(struct wakeup *w, unsigned int ms)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLWAKEUP };
	struct itimerspec spec = { 0 };
	char count[32];
	int ret;

	w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (w->timer < 0 || w->epoll < 0)
		return -errno;
	if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->timer, &ev))
		return -errno;
	ret = af_read("/sys/power/wakeup_count", count, sizeof(count));
	if (ret < 0)
		return ret;
	ret = af_write("/sys/power/wakeup_count", "%s", count);
	if (ret < 0)
		return ret;
	w->at_ms = af_now_ms() + ms;
	spec.it_value.tv_sec = w->at_ms / 1000;
	spec.it_value.tv_nsec = w->at_ms % 1000 * 1000000;
	if (timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &spec, NULL))
		return -errno;
	return 0;
}

static inline void wakeup_end(struct wakeup *w)
{
	close(w->epoll);
	close(w->timer);
}

/* --- dirty data that stays dirty ------------------------------------------- */

/* Nothing is written back but by sync and freeze, unless memory gets short. */
static inline int keep_dirty(void)
{
	int ret = af_set("/proc/sys/vm/dirty_writeback_centisecs", "0");

	if (ret >= 0)
		ret = af_set("/proc/sys/vm/dirty_ratio", "80");
	if (ret >= 0)
		ret = af_set("/proc/sys/vm/dirty_background_ratio", "70");
	/* neither does suspend sync before it freezes */
	if (ret >= 0 && !access("/sys/power/sync_on_suspend", F_OK))
		ret = af_set("/sys/power/sync_on_suspend", "0");
	return ret < 0 ? ret : 0;
}

static inline int make_dirty(const char *dir, const char *name, unsigned int mb)
{
	char path[256], *buf = malloc(1 << 20);
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || !buf) {
		free(buf);
		return -errno;
	}
	memset(buf, 'd', 1 << 20);
	while (mb-- && !ret)
		if (write(fd, buf, 1 << 20) != 1 << 20)
			ret = -errno;
	close(fd);
	free(buf);
	return ret;
}

#endif /* AUTOFREEZE_AF_FAIL_H */
