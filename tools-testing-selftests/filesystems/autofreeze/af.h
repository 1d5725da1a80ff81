/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the autofreeze selftests: throw-away disks and filesystems, load,
 * suspend cycles with a deadline, and what the kernel traced and logged
 * meanwhile.
 *
 * A test calls af_setup() first and af_cleanup() last.  Everything made in
 * between through these helpers is written down in memory shared with all
 * processes of the test, so FIXTURE_TEARDOWN_PARENT() may call af_cleanup() for
 * a child that is stuck or dead.
 *
 * Functions return 0 or a positive result, or a negative errno.  -ETIMEDOUT
 * means that the deadline passed and that the helper gave up waiting; a process
 * that is stuck then stays behind, and af_cleanup() looks after it.
 */
#ifndef AUTOFREEZE_AF_H
#define AUTOFREEZE_AF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Where mount points and scratch files are made, see af_dir(). */
#define AF_DIR		"/tmp/autofreeze"

/* The knob for filesystems that do not freeze by themselves. */
#define AF_KNOB		"/sys/power/freeze_filesystems"

#define af_log(fmt, ...) \
	do { \
		printf("# " fmt "\n", ##__VA_ARGS__); \
		fflush(stdout); \
	} while (0)

/* What a test cannot do without.  Or together with the AF_FS_* of the variant. */
enum {
	AF_NULL_BLK	= 1 << 0,	/* null_blk and configfs */
	AF_DM		= 1 << 1,	/* device mapper */
	AF_LOOP		= 1 << 2,
	AF_TRACE	= 1 << 3,	/* tracefs and block events */
	AF_RTC		= 1 << 4,	/* sleeping for real, woken by the clock */
	AF_URING	= 1 << 5,
	AF_FAIL_FUNC	= 1 << 6,	/* CONFIG_FAIL_FUNCTION */
	AF_SNAPSHOT	= 1 << 7,	/* /dev/snapshot */
	AF_HIBERNATE	= 1 << 8,	/* active swap and /sys/power/resume set */
	AF_NTFS3	= 1 << 14,	/* the filesystem and its mkfs */
	AF_OCFS2	= 1 << 15,
	AF_XFS		= 1 << 16,
	AF_EXT4		= 1 << 17,
	AF_EXT2		= 1 << 18,
	AF_BTRFS	= 1 << 19,
	AF_OVERLAY	= 1 << 20,
	AF_FUSE		= 1 << 21,
	AF_MD		= 1 << 22,	/* md with raid1 */
	AF_F2FS		= 1 << 23,
	AF_NILFS2	= 1 << 24,
	AF_JFS		= 1 << 25,
	AF_VFAT		= 1 << 26,
	AF_EXFAT	= 1 << 27,
	AF_UDF		= 1 << 28,
	AF_MINIX	= 1 << 29,
	AF_GFS2		= 1 << 30,
};

/**
 * af_setup - check the needs of a test and clean up after the one before
 * @needs: AF_* flags; root and pm_test are always needed
 *
 * Sets pm_test_delay to 0, the knob to 0 and pm_freeze_timeout to 5000 ms for
 * the time of the test.
 *
 * Return: NULL, or the reason to SKIP.
 */
const char *af_setup(unsigned int needs);

/* NULL if all of @needs is there, or the reason to SKIP. */
const char *af_needs(unsigned int needs);

/**
 * af_cleanup - undo everything, in the order that cannot block
 *
 * Kill the load, thaw and resume devices, only then wait for the killed (they
 * sleep uninterruptibly until the thaw), unmount, remove devices in the reverse
 * order of their making, put settings back.
 *
 * Return: the number of things that could not be undone.
 */
int af_cleanup(void);

/* --- files, settings, processes ------------------------------------------ */

/* One write(2) of the formatted text to an existing file. */
int af_write(const char *path, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Read a small file, NUL-terminated, without the last newline. */
int af_read(const char *path, char *buf, size_t size);
/* Read a number, or a negative errno. */
long af_read_long(const char *path);
/* Like af_write(), but af_cleanup() puts the old value back. */
int af_set(const char *path, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* When its turn comes, af_cleanup() writes @value to @path. */
void af_undo_write(const char *path, const char *value);
/*
 * af_cleanup() undoes the mount, the device other than a disk, or the write,
 * @name, before all that is there by now: it has come to stand on something
 * younger.
 */
void af_undo_first(const char *name);

/*
 * For a child that makes and undoes things side by side with others: what it
 * makes from here on is its own, and so is af_cleanup().
 */
int af_own(void);

/* A positive number from the environment, or @def. */
unsigned int af_env(const char *name, unsigned int def);

/*
 * @seconds where nothing slows the kernel down: AF_SLOW in the environment says
 * how many times longer all that is waited for may take, with KASAN for one.
 */
unsigned int af_secs(unsigned int seconds);

/* Make AF_DIR/name and return its path (static storage, one per call site use). */
const char *af_dir(const char *name);

/* Run a shell command: its exit status, or -ETIMEDOUT.  Only the first lines
 * of the output of a failing one are printed.
 */
int af_run(unsigned int seconds, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
bool af_have(const char *tool);

/* Run @fn(@arg) in a child: its return value (0..255 or -errno), or -ETIMEDOUT
 * with the child left behind.
 */
int af_bounded(unsigned int seconds, int (*fn)(void *arg), void *arg);

/* Start @fn(@arg) in a child that af_cleanup() kills.  The pid or -errno. */
pid_t af_spawn(int (*fn)(void *arg), void *arg);
/* Wait for such a child: 0..255, -EINTR if a signal killed it, -ETIMEDOUT. */
int af_wait(pid_t pid, unsigned int seconds);
/* Kill such a child and wait for it. */
int af_kill(pid_t pid, unsigned int seconds);
/* State letter of a task as in /proc/PID/stat ('R', 'S', 'D', 'Z'), 0 if gone. */
char af_task_state(pid_t pid);

long long af_now_ms(void);	/* CLOCK_MONOTONIC: stands still in suspend */
long long af_asleep_ms(void);	/* CLOCK_BOOTTIME - CLOCK_MONOTONIC */
void af_sleep_ms(unsigned int ms);

/* --- disks ---------------------------------------------------------------- */

struct af_disk {
	char name[32];		/* nullb name, dm name or loopN */
	char node[64];		/* /dev/... */
	dev_t dev;
	unsigned long long sectors;	/* of 512 bytes */
};

struct af_disk_opts {
	unsigned int mb;	/* size, default 320 (what mkfs.xfs wants) */
	unsigned int mbps;	/* bandwidth limit, 0 for none */
	unsigned long latency_ns;/* each request takes that long */
	unsigned int cache_mb;	/* volatile write cache */
	bool discard;		/* not with mbps: null_blk never starts a big one */
};

/*
 * A null_blk disk that keeps what is written in memory; @o may be NULL.  A number
 * is added to @name, here and for device mapper.
 */
int af_disk_create(struct af_disk *d, const char *name,
		   const struct af_disk_opts *o);
/* Power the disk off, mounted or not: what pulling out a stick does. */
int af_disk_unplug(struct af_disk *d);

/* Partition @number of @disk, without a partition table; in sectors of 512. */
int af_part_create(struct af_disk *d, const struct af_disk *disk, int number,
		   unsigned long long first, unsigned long long sectors);

/* Make @path a file of that size without blocks. */
int af_file_create(const char *path, unsigned long long bytes);

/* Copy a disk or file to a new file or an empty disk, but for zeroes. */
int af_copy(const char *from, const char *to);

/* A loop device over @file.  The file stays open in the kernel. */
int af_loop_attach(struct af_disk *d, const char *file);
int af_loop_attach_ro(struct af_disk *d, const char *file);
int af_loop_detach(struct af_disk *d);

/*
 * Device mapper.  @table has one "START LENGTH TARGET PARAMS" a line.
 * af_dm_linear() maps all of @under.
 */
int af_dm_create(struct af_disk *d, const char *name, const char *table);
int af_dm_linear(struct af_disk *d, const char *name,
		 const struct af_disk *under);
int af_dm_linear_ro(struct af_disk *d, const char *name,
		    const struct af_disk *under);
int af_dm_load(struct af_disk *d, const char *table);
/* Have @table take effect, with what is mounted on the device frozen. */
int af_dm_reload(struct af_disk *d, const char *table);
/*
 * Move all of @d, so far a linear mapping of @from, to @loop, a loop device over
 * the new file @file.  A filesystem on it stays mounted.
 */
int af_dm_move(struct af_disk *d, const struct af_disk *from,
	       struct af_disk *loop, const char *file);
/* @lockfs: freeze the filesystem on it, @flush: wait for queued I/O. */
int af_dm_suspend(struct af_disk *d, bool lockfs, bool flush);
int af_dm_resume(struct af_disk *d);
int af_dm_remove(struct af_disk *d);

/*
 * Start the raid1 array /dev/@name of @raid_disks, of which @n are there, with
 * @kb of each.  @metadata as in sysfs: "none" or "external:...".
 */
int af_md_start(struct af_disk *d, const char *name, const char *metadata,
		const struct af_disk *disk, unsigned int n,
		unsigned int raid_disks, unsigned int kb, const char *state);
/* Write to the file @file of the array in sysfs. */
int af_md_write(const char *name, const char *file, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* mkswap and swapon; af_cleanup() switches it off. */
int af_swapon(const char *node);

/* --- filesystems ---------------------------------------------------------- */

/* mkfs.@fs with the options that keep it small and quick, and @opts. */
int af_mkfs(const char *fs, const char *node, const char *opts);
/* Mount on af_dir(@name); the path is in @dir (at least 128 bytes). */
int af_mount(const char *fs, const char *node, const char *name,
	     const char *opts, char *dir);
int af_umount(const char *dir);
/* Mount an overlayfs, the layers of which are made in @layers, as af_mount(). */
int af_overlay(const char *layers, const char *name, char *dir);
/* The device number of the superblock, as trace events have it. */
int af_mount_dev(const char *dir, dev_t *dev);
/* fsck without repair: 0 if clean, -ENOENT if there is none.  Not if mounted. */
int af_fsck(const char *fs, const char *node, const char *opts);
/* FIFREEZE and FITHAW: 0 or -errno. */
int af_fifreeze(const char *dir);
int af_fithaw(const char *dir);
/* May a file in @dir be written and fsynced now?  0, -errno, -ETIMEDOUT. */
int af_writable(const char *dir, unsigned int seconds);

/* Buffered writer with fsync now and then, until killed (@dir is a char *). */
int af_writer(void *dir);

/* --- suspend -------------------------------------------------------------- */

struct af_cycle {
	/* in; zero means the default */
	const char *state;	/* "mem", "freeze", "disk"; default "mem" */
	const char *test;	/* level of pm_test, default "freezer" */
	unsigned int delay;	/* seconds to stay there (pm_test_delay) */
	/*
	 * > 0: no pm_test, but an RTC alarm that many seconds ahead, or later
	 * if freezing takes longer than that
	 */
	unsigned int wake;
	unsigned int deadline;	/* seconds until it counts as hung, default 30 */
	/* out */
	int error;		/* -errno of the write to /sys/power/state */
	long ms;		/* how long it took, time asleep not counted */
	long slept_ms;		/* how long the machine was really asleep */
	long long begin_us;	/* when it began, on the clock of struct af_events */
	pid_t pid;		/* the task that did it */
};

/* One transition.  c->error, or -ETIMEDOUT if it is stuck: then af_cycle_wait()
 * may go on waiting when the test has removed the cause.
 */
int af_cycle(struct af_cycle *c);
int af_cycle_start(struct af_cycle *c);
int af_cycle_wait(struct af_cycle *c, unsigned int seconds);
/* pm_test=freezer, @delay seconds inside. */
int af_suspend(unsigned int delay);
/* A number of /sys/power/suspend_stats, "success" or "failed_freeze". */
long af_stat(const char *name);

/* --- what happened meanwhile ---------------------------------------------- */

struct af_window {
	bool seen;		/* user tasks froze and were thawed */
	unsigned int writes;	/* writes, discards and flushes in between */
	long us;		/* length of the window */
	char first[256];	/* the trace line of the first such write */
};

/*
 * Trace requests and bios to the @n disks, suspend_resume and the messages of
 * the freezer.  Recording stops by itself when tasks are thawed, so that load
 * does not push the window out of the buffer: arm again for each cycle.
 */
int af_trace_arm(const struct af_disk *d, unsigned int n);
/* What was written to @d between the end of freezing and the begin of thawing. */
int af_trace_window(const struct af_disk *d, struct af_window *w);
/* Enable one more event ("power/filesystem_freeze"); -ENOENT if there is none. */
int af_trace_event(const char *event);
/* Print what was recorded, at most @lines, as diagnostics. */
void af_trace_dump(unsigned int lines);
/* The next recorded line that contains @what from *@pos on; *@pos starts as 0. */
int af_trace_find(const char *what, long *pos, char *line, size_t size);

/* A filesystem froze or thawed, or failed to.  Times are microseconds. */
struct af_event {
	bool thaw;
	char fs[16];
	char id[32];
	dev_t dev;
	int error;
	long long begin, end;
};

#define AF_EVENTS	512

struct af_events {
	/* of freezing user tasks, of which the last try counts; 0 if not seen */
	long long tasks_begin, tasks_frozen, tasks_thaw;
	long long frozen;	/* tasks and filesystems */
	long long ordering;	/* how long it took to find the order */
	unsigned int nr;
	struct af_event event[AF_EVENTS];
};

/* Record what freezes and thaws when; af_trace_arm() is for something else. */
int af_events_arm(void);
/* Read it when all that froze has thawed, or that many seconds have passed. */
int af_events_read(struct af_events *ev, unsigned int seconds);
/* The last time that the filesystem froze, or thawed, without an error. */
const struct af_event *af_event_freeze(const struct af_events *ev, dev_t dev);
const struct af_event *af_event_thaw(const struct af_events *ev, dev_t dev);
/*
 * NULL if @upper was frozen before the freeze of @lower began, and thawed when
 * the thaw of @lower had ended; else what is wrong.
 */
const char *af_order_broken(const struct af_events *ev, dev_t upper, dev_t lower);
void af_events_dump(const struct af_events *ev);

struct af_klog {
	int fd;
	char *text;
	size_t len;
};

/* Remember the end of the kernel log. */
int af_klog_mark(struct af_klog *k);
/* The first line since then that contains @what, or NULL. */
const char *af_klog_find(struct af_klog *k, const char *what);
/* A warning, oops, lockdep report or hung task since then, or NULL. */
const char *af_klog_splat(struct af_klog *k);
void af_klog_end(struct af_klog *k);

#endif /* AUTOFREEZE_AF_H */
