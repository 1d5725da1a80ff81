// SPDX-License-Identifier: GPL-2.0
/* Helpers of the autofreeze selftests, see af.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/blkpg.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <linux/loop.h>

#include "kselftest.h"
#include "af.h"

#define CONFIGFS	"/sys/kernel/config"
#define NULLB		CONFIGFS "/nullb"
#define TRACEFS		"/sys/kernel/tracing"
#define TRACE		TRACEFS "/instances/autofreeze"
#define RTC		"/sys/class/rtc/rtc0/wakealarm"

enum kind { FREE, SETTING, CHILD, DISK, LOOP, PART, DM, MOUNT, SWAP, UNDO };

/* What af_cleanup() has to undo, in the order of its making. */
struct item {
	enum kind kind;
	pid_t pid;
	char name[160];
	char old[160];
};

/* Shared by all processes of a test program. */
static struct shared {
	int nr;
	struct item item[512];
	unsigned int serial;	/* makes the names of devices unique */
	bool own;		/* not shared after all: of one child */
	/* the transition that is going on or was the last */
	int error;
	long ms;
	long slept_ms;
	long long begin_us;
} *sh;

static __attribute__((constructor)) void af_init(void)
{
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		abort();
}

int af_own(void)
{
	struct shared *own = calloc(1, sizeof(*own));

	if (!own)
		return -ENOMEM;
	own->own = true;
	sh = own;
	return 0;
}

static struct item *remember(enum kind kind, const char *name)
{
	int i, n = 0;
	struct item *it;

	/* They stay in the order in which they were made. */
	if (sh->nr == ARRAY_SIZE(sh->item)) {
		for (i = 0; i < sh->nr; i++)
			if (sh->item[i].kind != FREE)
				sh->item[n++] = sh->item[i];
		sh->nr = n;
	}
	if (sh->nr == ARRAY_SIZE(sh->item)) {
		af_log("too many things to clean up, increase the table");
		abort();
	}
	it = &sh->item[sh->nr++];
	memset(it, 0, sizeof(*it));
	snprintf(it->name, sizeof(it->name), "%s", name);
	it->kind = kind;
	return it;
}

static void forget(enum kind kind, const char *name)
{
	int i;

	for (i = sh->nr - 1; i >= 0; i--)
		if (sh->item[i].kind == kind &&
		    !strcmp(sh->item[i].name, name)) {
			sh->item[i].kind = FREE;
			return;
		}
}

void af_undo_first(const char *name)
{
	struct item copy;
	int i;

	for (i = sh->nr - 1; i >= 0; i--) {
		copy = sh->item[i];
		if (strcmp(copy.name, name) ||
		    (copy.kind != LOOP && copy.kind != PART &&
		     copy.kind != DM && copy.kind != MOUNT &&
		     copy.kind != UNDO))
			continue;
		sh->item[i].kind = FREE;
		*remember(copy.kind, copy.name) = copy;
		return;
	}
}

void af_undo_write(const char *path, const char *value)
{
	struct item *it = remember(UNDO, path);

	snprintf(it->old, sizeof(it->old), "%s", value);
}

/* --- files, settings, processes ------------------------------------------ */

static int write_str(const char *path, const char *s)
{
	int fd, ret = 0;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, s, strlen(s)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int af_write(const char *path, const char *fmt, ...)
{
	char buf[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	return write_str(path, buf);
}

int af_read(const char *path, char *buf, size_t size)
{
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return n;
	while (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[n] = 0;
	return 0;
}

long af_read_long(const char *path)
{
	char buf[64];
	int ret = af_read(path, buf, sizeof(buf));

	return ret ? ret : strtol(buf, NULL, 0);
}

int af_set(const char *path, const char *fmt, ...)
{
	char buf[256], old[160], *p, *q;
	struct item *it;
	va_list ap;
	int i, ret;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);

	for (i = 0; i < sh->nr; i++)
		if (sh->item[i].kind == SETTING &&
		    !strcmp(sh->item[i].name, path))
			return write_str(path, buf);

	ret = af_read(path, old, sizeof(old));
	if (ret)
		return ret;
	ret = write_str(path, buf);
	if (ret)
		return ret;
	it = remember(SETTING, path);
	/* A choice shows as "none [core] devices". */
	p = strchr(old, '[');
	q = p ? strchr(p, ']') : NULL;
	if (q) {
		*q = 0;
		snprintf(it->old, sizeof(it->old), "%s", p + 1);
	} else {
		snprintf(it->old, sizeof(it->old), "%s", old);
	}
	return 0;
}

const char *af_dir(const char *name)
{
	static char buf[4][128];
	static int i;
	char *path = buf[i++ % 4];

	mkdir(AF_DIR, 0755);
	snprintf(path, sizeof(buf[0]), "%s/%s", AF_DIR, name);
	mkdir(path, 0755);
	return path;
}

unsigned int af_env(const char *name, unsigned int def)
{
	const char *s = getenv(name);

	return s && atoi(s) > 0 ? (unsigned int)atoi(s) : def;
}

unsigned int af_secs(unsigned int seconds)
{
	return seconds * af_env("AF_SLOW", 1);
}

long long af_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

long long af_asleep_ms(void)
{
	struct timespec m, b;

	clock_gettime(CLOCK_MONOTONIC, &m);
	clock_gettime(CLOCK_BOOTTIME, &b);
	return (b.tv_sec - m.tv_sec) * 1000LL + (b.tv_nsec - m.tv_nsec) / 1000000;
}

void af_sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

char af_task_state(pid_t pid)
{
	char path[64], buf[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (af_read(path, buf, sizeof(buf)))
		return 0;
	p = strrchr(buf, ')');
	return p && p[1] == ' ' ? p[2] : 0;
}

/* Works for any task, but only a child can tell how it ended. */
static int wait_pid(pid_t pid, unsigned int seconds)
{
	long long end = af_now_ms() + af_secs(seconds) * 1000LL;
	unsigned int pause = 1;
	int status;
	char state;
	pid_t ret;

	for (;;) {
		ret = waitpid(pid, &status, WNOHANG);
		if (ret == pid) {
			if (WIFEXITED(status))
				return WEXITSTATUS(status);
			return -EINTR;
		}
		if (ret < 0) {
			state = af_task_state(pid);
			if (!state || state == 'Z')
				return -ECHILD;
		}
		if (af_now_ms() >= end)
			return -ETIMEDOUT;
		af_sleep_ms(pause);
		if (pause < 20)
			pause *= 2;
	}
}

static pid_t start(int (*fn)(void *arg), void *arg)
{
	pid_t pid;
	int ret;

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid)
		return pid;
	ret = fn(arg);
	_exit(ret < 0 ? -ret : ret);
}

/* Exit codes of children are errnos: no syscall used here fails above 133. */
int af_bounded(unsigned int seconds, int (*fn)(void *arg), void *arg)
{
	pid_t pid = start(fn, arg);
	struct item *it;
	int ret;

	if (pid < 0)
		return pid;
	ret = wait_pid(pid, seconds);
	if (ret == -ETIMEDOUT) {
		kill(pid, SIGKILL);
		if (wait_pid(pid, 1) == -ETIMEDOUT) {
			it = remember(CHILD, "helper");
			it->pid = pid;
		}
		return -ETIMEDOUT;
	}
	return ret > 0 ? -ret : ret;
}

pid_t af_spawn(int (*fn)(void *arg), void *arg)
{
	struct item *it = remember(CHILD, "load");
	pid_t pid = start(fn, arg);

	if (pid < 0)
		it->kind = FREE;
	else
		it->pid = pid;
	return pid;
}

static void forget_pid(pid_t pid)
{
	int i;

	for (i = 0; i < sh->nr; i++)
		if (sh->item[i].kind == CHILD && sh->item[i].pid == pid)
			sh->item[i].kind = FREE;
}

int af_wait(pid_t pid, unsigned int seconds)
{
	int ret = wait_pid(pid, seconds);

	if (ret != -ETIMEDOUT)
		forget_pid(pid);
	return ret;
}

int af_kill(pid_t pid, unsigned int seconds)
{
	kill(pid, SIGKILL);
	return af_wait(pid, seconds);
}

int af_run(unsigned int seconds, const char *fmt, ...)
{
	char cmd[2048], line[256], log[128];
	va_list ap;
	pid_t pid;
	FILE *f;
	int i, ret;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	mkdir(AF_DIR, 0755);
	snprintf(log, sizeof(log), AF_DIR "/run.%d", getpid());

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		int fd = open(log, O_RDWR | O_CREAT | O_TRUNC, 0600);

		setpgid(0, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	ret = wait_pid(pid, seconds);
	if (ret == -ETIMEDOUT) {
		kill(-pid, SIGKILL);
		wait_pid(pid, 1);
	}
	if (ret) {
		af_log("%s: %d", cmd, ret);
		f = fopen(log, "r");
		for (i = 0; i < 12 && f && fgets(line, sizeof(line), f); i++)
			printf("#   %s%s", line, strchr(line, '\n') ? "" : "\n");
		if (f)
			fclose(f);
	}
	unlink(log);
	return ret;
}

bool af_have(const char *tool)
{
	static const char * const dirs[] = {
		"/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin",
	};
	char path[128];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i], tool);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

/* --- setup and cleanup ---------------------------------------------------- */

static bool have_fs(const char *fs)
{
	char buf[4096], want[32];

	snprintf(want, sizeof(want), "\t%s\n", fs);
	if (af_read("/proc/filesystems", buf, sizeof(buf) - 1))
		return false;
	strcat(buf, "\n");
	return strstr(buf, want);
}

static bool have_swap(void)
{
	char buf[4096], *nl;

	if (af_read("/proc/swaps", buf, sizeof(buf)))
		return false;
	nl = strchr(buf, '\n');
	return nl && nl[1];
}

static bool have_raid1(void)
{
	char buf[4096];

	return !af_read("/proc/mdstat", buf, sizeof(buf)) &&
	       strstr(buf, "[raid1]");
}

static void mount_once(const char *probe, const char *fs, const char *dir)
{
	if (access(probe, F_OK))
		mount(fs, dir, fs, 0, NULL);
}

/* What comes after mkfs. */
static const char *mkfs_of(const char *fs)
{
	return strcmp(fs, "ntfs3") ? fs : "ntfs";
}

const char *af_needs(unsigned int needs)
{
	static const struct {
		unsigned int flag;
		const char *fs;
	} filesystems[] = {
		{ AF_XFS, "xfs" }, { AF_EXT4, "ext4" }, { AF_EXT2, "ext2" },
		{ AF_BTRFS, "btrfs" }, { AF_F2FS, "f2fs" }, { AF_NILFS2, "nilfs2" },
		{ AF_JFS, "jfs" }, { AF_VFAT, "vfat" }, { AF_EXFAT, "exfat" },
		{ AF_UDF, "udf" }, { AF_MINIX, "minix" }, { AF_GFS2, "gfs2" },
		{ AF_NTFS3, "ntfs3" }, { AF_OCFS2, "ocfs2" },
	};
	unsigned int i;
	char buf[64];

	if ((needs & AF_NULL_BLK) && access(NULLB, W_OK))
		return "needs CONFIG_BLK_DEV_NULL_BLK and CONFIG_CONFIGFS_FS";
	if ((needs & AF_DM) && access("/dev/mapper/control", W_OK))
		return "needs CONFIG_BLK_DEV_DM";
	if ((needs & AF_LOOP) && access("/dev/loop-control", W_OK))
		return "needs CONFIG_BLK_DEV_LOOP";
	if ((needs & AF_TRACE) &&
	    access(TRACEFS "/events/block/block_rq_issue/filter", W_OK))
		return "needs CONFIG_BLK_DEV_IO_TRACE";
	if ((needs & AF_RTC) && access(RTC, W_OK))
		return "needs an RTC that can wake the machine";
	if ((needs & AF_URING) && syscall(__NR_io_uring_setup, 0, NULL) &&
	    errno == ENOSYS)
		return "needs CONFIG_IO_URING";
	if ((needs & AF_FAIL_FUNC) &&
	    access("/sys/kernel/debug/fail_function/inject", W_OK))
		return "needs CONFIG_FAIL_FUNCTION";
	if ((needs & AF_SNAPSHOT) && access("/dev/snapshot", W_OK))
		return "needs CONFIG_HIBERNATION_SNAPSHOT_DEV";
	if (needs & AF_HIBERNATE) {
		if (access("/sys/power/disk", W_OK))
			return "needs CONFIG_HIBERNATION";
		if (!have_swap() || af_read("/sys/power/resume", buf, sizeof(buf)) ||
		    !strcmp(buf, "0:0"))
			return "needs active swap and /sys/power/resume";
	}
	for (i = 0; i < ARRAY_SIZE(filesystems); i++) {
		static char why[64];
		const char *fs = filesystems[i].fs;

		snprintf(why, sizeof(why), "mkfs.%s", mkfs_of(fs));
		if (!(needs & filesystems[i].flag) || (have_fs(fs) && af_have(why)))
			continue;
		snprintf(why, sizeof(why), "needs the filesystem %s and mkfs.%s", fs, mkfs_of(fs));
		return why;
	}
	if ((needs & AF_OVERLAY) && !have_fs("overlay"))
		return "needs CONFIG_OVERLAY_FS";
	if ((needs & AF_FUSE) && access("/dev/fuse", R_OK | W_OK))
		return "needs CONFIG_FUSE_FS";
	if ((needs & AF_MD) && !have_raid1())
		return "needs CONFIG_BLK_DEV_MD and CONFIG_MD_RAID1";
	return NULL;
}

const char *af_setup(unsigned int needs)
{
	const char *why;

	if (geteuid())
		return "needs root";
	if (sh->nr)
		af_cleanup();
	if (access("/sys/power/pm_test", W_OK))
		return "needs CONFIG_PM_SLEEP_DEBUG";
	if (access(AF_KNOB, W_OK))
		return "needs a kernel that freezes filesystems in suspend";

	mount_once("/sys/kernel/debug/tracing", "debugfs", "/sys/kernel/debug");
	mount_once(TRACEFS "/events", "tracefs", TRACEFS);
	mount_once(NULLB, "configfs", CONFIGFS);
	/* A WARN_ONCE that fired in an earlier test shall fire again. */
	write_str("/sys/kernel/debug/clear_warn_once", "1");

	why = af_needs(needs);
	if (why)
		return why;

	af_set("/sys/module/suspend/parameters/pm_test_delay", "0");
	af_set("/sys/module/hibernate/parameters/pm_test_delay", "0");
	af_set("/sys/power/pm_freeze_timeout", "5000");
	af_set(AF_KNOB, "0");
	return NULL;
}

static int do_umount(void *dir)
{
	int i;

	for (i = 0; i < 100; i++) {
		if (!umount2(dir, 0) || errno == EINVAL || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return -errno;
		af_sleep_ms(50);
	}
	return -EBUSY;
}

static int do_fithaw(void *dir)
{
	while (!af_fithaw(dir))
		;
	return 0;
}

/* @what: number and disk.  The latter may be gone, or the former with it. */
static void part_remove(const char *what)
{
	struct blkpg_partition part = { .pno = atoi(what) };
	struct blkpg_ioctl_arg arg = {
		.op = BLKPG_DEL_PARTITION, .datalen = sizeof(part), .data = &part,
	};
	int fd = open(strchr(what, ' ') + 1, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	ioctl(fd, BLKPG, &arg);
	close(fd);
}

static void disk_remove(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), NULLB "/%s/power", name);
	write_str(path, "0");
	snprintf(path, sizeof(path), NULLB "/%s", name);
	rmdir(path);
}

int af_cleanup(void)
{
	bool stuck = false;
	struct item *it;
	int i, bad = 0;

	if (!sh->own && !access(TRACE, F_OK)) {
		write_str(TRACE "/tracing_on", "0");
		rmdir(TRACE);
	}

	for (i = 0; i < sh->nr; i++)
		if (sh->item[i].kind == CHILD)
			kill(sh->item[i].pid, SIGKILL);

	for (i = sh->nr - 1; i >= 0; i--) {
		struct af_disk d;

		it = &sh->item[i];
		if (it->kind == DM) {
			memset(&d, 0, sizeof(d));
			snprintf(d.name, sizeof(d.name), "%.31s", it->name);
			af_dm_resume(&d);
		} else if (it->kind == MOUNT) {
			af_bounded(5, do_fithaw, it->name);
		}
	}

	/* Tasks that were stuck in a frozen filesystem can die now. */
	for (i = sh->nr - 1; i >= 0; i--) {
		it = &sh->item[i];
		if (it->kind != CHILD)
			continue;
		if (wait_pid(it->pid, 10) == -ETIMEDOUT) {
			af_log("task %d (%s) does not end", it->pid, it->name);
			bad++;
		}
		it->kind = FREE;
	}

	for (i = sh->nr - 1; i >= 0; i--) {
		struct af_disk d;
		int ret = 0, try;

		it = &sh->item[i];
		memset(&d, 0, sizeof(d));
		snprintf(d.name, sizeof(d.name), "%.31s", it->name);
		snprintf(d.node, sizeof(d.node), "%.63s", it->old);
		switch (it->kind) {
		case MOUNT:
			ret = af_bounded(20, do_umount, it->name);
			if (ret) {
				/* leave it on its devices, it's lost anyway */
				umount2(it->name, MNT_DETACH);
				stuck = true;
			}
			break;
		case LOOP:
			ret = stuck ? -EBUSY : af_loop_detach(&d);
			/* a child may have done so, see af_own() */
			if (ret == -ENXIO)
				ret = 0;
			break;
		case PART:
			if (!stuck)
				part_remove(it->old);
			break;
		case DM:
			if (stuck)
				ret = -EBUSY;
			for (try = 0; !stuck && try < 50; try++) {
				ret = af_dm_remove(&d);
				if (ret != -EBUSY)
					break;
				af_sleep_ms(100);
			}
			break;
		case DISK:
			if (stuck)
				ret = -EBUSY;
			else
				disk_remove(it->name);
			break;
		case SETTING:
			ret = write_str(it->name, it->old);
			break;
		case UNDO:
			/* who has looked at a device may not have closed it yet */
			for (try = 0; !stuck && try < 50; try++) {
				ret = write_str(it->name, it->old);
				if (ret != -EBUSY)
					break;
				af_sleep_ms(100);
			}
			if (ret == -ENOENT)
				ret = 0;
			break;
		case SWAP:
			ret = swapoff(it->name) ? -errno : 0;
			break;
		default:
			break;
		}
		if (ret) {
			af_log("cleaning up %s: %s", it->name, strerror(-ret));
			bad++;
		}
		it->kind = FREE;
	}
	sh->nr = 0;
	return bad;
}

/* --- disks ---------------------------------------------------------------- */

static int disk_fill(struct af_disk *d)
{
	char path[128], buf[64];
	unsigned int ma, mi;
	int ret;

	snprintf(path, sizeof(path), "/sys/class/block/%s/dev",
		 strrchr(d->node, '/') + 1);
	ret = af_read(path, buf, sizeof(buf));
	if (ret)
		return ret;
	if (sscanf(buf, "%u:%u", &ma, &mi) != 2)
		return -EINVAL;
	d->dev = makedev(ma, mi);
	snprintf(path, sizeof(path), "/sys/class/block/%s/size",
		 strrchr(d->node, '/') + 1);
	d->sectors = af_read_long(path);
	return 0;
}

static int disk_attr(struct af_disk *d, const char *attr, unsigned long val)
{
	char path[128];

	snprintf(path, sizeof(path), NULLB "/%s/%s", d->name, attr);
	return af_write(path, "%lu", val);
}

int af_disk_create(struct af_disk *d, const char *name,
		   const struct af_disk_opts *o)
{
	static const struct af_disk_opts defaults;
	char path[128];
	int ret;

	if (!o)
		o = &defaults;
	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s-%u", name, ++sh->serial);
	snprintf(d->node, sizeof(d->node), "/dev/%s", d->name);
	snprintf(path, sizeof(path), NULLB "/%s", d->name);
	if (mkdir(path, 0755))
		return -errno;
	remember(DISK, d->name);

	ret = disk_attr(d, "memory_backed", 1);
	ret = ret ?: disk_attr(d, "size", o->mb ?: 320);
	ret = ret ?: disk_attr(d, "discard", o->discard);
	if (o->mbps)
		ret = ret ?: disk_attr(d, "mbps", o->mbps);
	if (o->cache_mb)
		ret = ret ?: disk_attr(d, "cache_size", o->cache_mb);
	if (o->latency_ns) {
		ret = ret ?: disk_attr(d, "irqmode", 2);
		ret = ret ?: disk_attr(d, "completion_nsec", o->latency_ns);
	}
	ret = ret ?: disk_attr(d, "power", 1);
	ret = ret ?: disk_fill(d);
	return ret;
}

int af_disk_unplug(struct af_disk *d)
{
	return disk_attr(d, "power", 0);
}

int af_part_create(struct af_disk *d, const struct af_disk *disk, int number,
		   unsigned long long first, unsigned long long sectors)
{
	struct blkpg_partition part = {
		.start = first * 512, .length = sectors * 512, .pno = number,
	};
	struct blkpg_ioctl_arg arg = {
		.op = BLKPG_ADD_PARTITION, .datalen = sizeof(part), .data = &part,
	};
	struct item *it;
	int fd, ret = 0;

	memset(d, 0, sizeof(*d));
	fd = open(disk->node, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, BLKPG, &arg))
		ret = -errno;
	close(fd);
	if (ret)
		return ret;
	snprintf(d->name, sizeof(d->name), "%.24sp%d", disk->name, number);
	snprintf(d->node, sizeof(d->node), "%.50sp%d", disk->node, number);
	it = remember(PART, d->name);
	snprintf(it->old, sizeof(it->old), "%d %s", number, disk->node);
	return disk_fill(d);
}

int af_file_create(const char *path, unsigned long long bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, bytes))
		ret = -errno;
	close(fd);
	return ret;
}

static int loop_attach(struct af_disk *d, const char *file, int mode)
{
	struct loop_config cfg = { .block_size = 512 };
	int ctl, lo, i, ret = 0, tries = 0;

	if (mode == O_RDONLY)
		cfg.info.lo_flags = LO_FLAGS_READ_ONLY;

	memset(d, 0, sizeof(*d));
	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		return -errno;
	i = open(file, mode | O_CLOEXEC);
	if (i < 0) {
		ret = -errno;
		goto out;
	}
	cfg.fd = i;
again:
	i = ioctl(ctl, LOOP_CTL_GET_FREE);
	if (i < 0) {
		ret = -errno;
		goto out_file;
	}
	snprintf(d->name, sizeof(d->name), "loop%d", i);
	snprintf(d->node, sizeof(d->node), "/dev/loop%d", i);
	lo = open(d->node, mode | O_CLOEXEC);
	if (lo < 0 || ioctl(lo, LOOP_CONFIGURE, &cfg)) {
		ret = -errno;
		/* somebody else was quicker */
		if (ret == -EBUSY && lo >= 0 && tries++ < 100) {
			close(lo);
			ret = 0;
			goto again;
		}
	} else {
		struct item *it = remember(LOOP, d->name);

		snprintf(it->old, sizeof(it->old), "%s", d->node);
		ret = disk_fill(d);
	}
	if (lo >= 0)
		close(lo);
out_file:
	close(cfg.fd);
out:
	close(ctl);
	return ret;
}

int af_loop_attach(struct af_disk *d, const char *file)
{
	return loop_attach(d, file, O_RDWR);
}

int af_loop_attach_ro(struct af_disk *d, const char *file)
{
	return loop_attach(d, file, O_RDONLY);
}

int af_loop_detach(struct af_disk *d)
{
	int fd, ret = 0;

	fd = open(d->node, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, LOOP_CLR_FD, 0))
		ret = -errno;
	close(fd);
	if (!ret)
		forget(LOOP, d->name);
	return ret;
}

static int dm_ioctl(const char *name, unsigned long cmd, unsigned int flags,
		    const char *table, dev_t *dev)
{
	static char buf[16384] __attribute__((aligned(8)));
	struct dm_ioctl *dmi = (void *)buf;
	size_t at = sizeof(*dmi);
	int fd, ret = 0;

	memset(buf, 0, sizeof(buf));
	dmi->version[0] = DM_VERSION_MAJOR;
	dmi->data_size = sizeof(buf);
	dmi->data_start = sizeof(*dmi);
	dmi->flags = flags;
	snprintf(dmi->name, sizeof(dmi->name), "%s", name);

	while (table && *table) {
		struct dm_target_spec *spec = (void *)(buf + at);
		unsigned long long first, len;
		int n, eol = strcspn(table, "\n");
		char *params;

		if (sscanf(table, "%llu %llu %15s %n", &first, &len,
			   spec->target_type, &n) != 3)
			return -EINVAL;
		spec->sector_start = first;
		spec->length = len;
		params = (char *)(spec + 1);
		if (n < eol)
			memcpy(params, table + n, eol - n);
		at += (sizeof(*spec) + (n < eol ? eol - n : 0) + 1 + 7) & ~7UL;
		spec->next = at - ((char *)spec - buf);
		dmi->target_count++;
		table += eol;
		table += *table == '\n';
	}

	fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, cmd, dmi))
		ret = -errno;
	else if (dev)
		*dev = makedev((dmi->dev >> 8) & 0xfff,
			       (dmi->dev & 0xff) | ((dmi->dev >> 12) & 0xfff00));
	close(fd);
	return ret;
}

int af_dm_load(struct af_disk *d, const char *table)
{
	return dm_ioctl(d->name, DM_TABLE_LOAD, 0, table, NULL);
}

int af_dm_resume(struct af_disk *d)
{
	return dm_ioctl(d->name, DM_DEV_SUSPEND, 0, NULL, NULL);
}

int af_dm_suspend(struct af_disk *d, bool lockfs, bool flush)
{
	return dm_ioctl(d->name, DM_DEV_SUSPEND, DM_SUSPEND_FLAG |
			(lockfs ? 0 : DM_SKIP_LOCKFS_FLAG) |
			(flush ? 0 : DM_NOFLUSH_FLAG), NULL, NULL);
}

int af_dm_reload(struct af_disk *d, const char *table)
{
	int ret;

	ret = af_dm_load(d, table);
	ret = ret ?: af_dm_suspend(d, true, true);
	return ret ?: af_dm_resume(d);
}

/* Direct I/O: nobody else keeps the cache of a device below up to date. */
int af_copy(const char *from, const char *to)
{
	static const char zero[65536];
	static char buf[65536] __attribute__((aligned(4096)));
	int in = open(from, O_RDONLY | O_DIRECT | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;
	off_t at = 0;
	ssize_t n;
	int ret = 0;

	if (in < 0 || out < 0 || fstat(out, &st))
		return -errno;
	while (!ret && (n = read(in, buf, sizeof(buf)))) {
		if (n < 0)
			ret = -errno;
		else if (memcmp(buf, zero, n) && pwrite(out, buf, n, at) != n)
			ret = -errno;
		at += n;
	}
	if (!ret && S_ISREG(st.st_mode) && ftruncate(out, at))
		ret = -errno;
	if (!ret && fsync(out))
		ret = -errno;
	close(in);
	close(out);
	return ret;
}

int af_dm_move(struct af_disk *d, const struct af_disk *from,
	       struct af_disk *loop, const char *file)
{
	char table[128];
	int ret;

	ret = af_dm_suspend(d, true, true);
	ret = ret ?: af_copy(from->node, file);
	ret = ret ?: af_loop_attach(loop, file);
	if (!ret) {
		snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
			 d->sectors, major(loop->dev), minor(loop->dev));
		ret = af_dm_load(d, table);
	}
	ret = ret ?: af_dm_resume(d);
	if (!ret)
		af_undo_first(d->name);
	return ret;
}

int af_dm_remove(struct af_disk *d)
{
	int ret = dm_ioctl(d->name, DM_DEV_REMOVE, 0, NULL, NULL);

	if (ret == -ENXIO)
		ret = 0;
	if (!ret)
		forget(DM, d->name);
	return ret;
}

static int dm_create(struct af_disk *d, const char *name, const char *table,
		     unsigned int flags)
{
	dev_t dev;
	int ret;

	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s-%u", name, ++sh->serial);
	ret = dm_ioctl(d->name, DM_DEV_CREATE, 0, NULL, &dev);
	if (ret)
		return ret;
	remember(DM, d->name);
	snprintf(d->node, sizeof(d->node), "/dev/dm-%u", minor(dev));
	ret = dm_ioctl(d->name, DM_TABLE_LOAD, flags, table, NULL);
	ret = ret ?: af_dm_resume(d);
	ret = ret ?: disk_fill(d);
	return ret;
}

int af_dm_create(struct af_disk *d, const char *name, const char *table)
{
	return dm_create(d, name, table, 0);
}

int af_dm_linear_ro(struct af_disk *d, const char *name,
		    const struct af_disk *under)
{
	char table[128];

	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
		 under->sectors, major(under->dev),
		 minor(under->dev));
	return dm_create(d, name, table, DM_READONLY_FLAG);
}

int af_dm_linear(struct af_disk *d, const char *name,
		 const struct af_disk *under)
{
	char table[128];

	snprintf(table, sizeof(table), "0 %llu linear %u:%u 0",
		 under->sectors, major(under->dev),
		 minor(under->dev));
	return af_dm_create(d, name, table);
}

int af_md_write(const char *name, const char *file, const char *fmt, ...)
{
	char path[160], val[64];
	va_list ap;
	int ret;

	va_start(ap, fmt);
	vsnprintf(val, sizeof(val), fmt, ap);
	va_end(ap);
	snprintf(path, sizeof(path), "/sys/block/%s/md/%s", name, file);
	ret = write_str(path, val);
	if (ret)
		af_log("%s to %s: %s", val, path, strerror(-ret));
	return ret;
}

static int leg_write(const char *name, const struct af_disk *leg,
		     const char *file, long val)
{
	char path[96];

	/* the name of the device, which is not the name for device mapper */
	snprintf(path, sizeof(path), "dev-%s/%s", strrchr(leg->node, '/') + 1, file);
	return af_md_write(name, path, "%ld", val);
}

int af_md_start(struct af_disk *d, const char *name, const char *metadata,
		const struct af_disk *disk, unsigned int n,
		unsigned int raid_disks, unsigned int kb, const char *state)
{
	char path[128], now[32];
	unsigned int i;
	int ret;

	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->node, sizeof(d->node), "/dev/%.50s", name);
	snprintf(path, sizeof(path), "/sys/block/%s/md/array_state", name);

	/* A stopped array may stay, to be used again. */
	ret = write_str("/sys/module/md_mod/parameters/new_array", name);
	if (ret == -EEXIST && !af_read(path, now, sizeof(now)) &&
	    !strcmp(now, "clear"))
		ret = 0;
	if (!ret)
		af_undo_write(path, "clear");
	ret = ret ?: af_md_write(name, "metadata_version", "%s", metadata);
	ret = ret ?: af_md_write(name, "level", "raid1");
	ret = ret ?: af_md_write(name, "raid_disks", "%u", raid_disks);
	ret = ret ?: af_md_write(name, "component_size", "%u", kb);
	for (i = 0; i < n; i++) {
		ret = ret ?: af_md_write(name, "new_dev", "%u:%u",
					 major(disk[i].dev), minor(disk[i].dev));
		ret = ret ?: leg_write(name, &disk[i], "offset", 0);
		ret = ret ?: leg_write(name, &disk[i], "size", kb);
		ret = ret ?: leg_write(name, &disk[i], "slot", i);
	}
	ret = ret ?: af_md_write(name, "resync_start", "none");
	ret = ret ?: af_md_write(name, "array_state", "%s", state);
	return ret ?: disk_fill(d);
}

int af_swapon(const char *node)
{
	int ret = af_run(20, "mkswap %s", node);

	if (ret)
		return ret;
	if (swapon(node, 0))
		return -errno;
	remember(SWAP, node);
	return 0;
}

/* --- filesystems ---------------------------------------------------------- */

int af_mkfs(const char *fs, const char *node, const char *opts)
{
	const char *def = "", *env = "";

	opts = opts ?: "";
	/*
	 * mkfs.xfs writes zeroes to all of its log, 64 MB and more of memory
	 * here, and allows a smaller one only to the filesystems of tests.
	 */
	if (!strcmp(fs, "xfs")) {
		env = "TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1";
		def = strstr(opts, "-l ") ? "-f -q" : "-f -q -l size=16m";
	} else if (!strncmp(fs, "ext", 3)) {
		def = "-F -q -E lazy_itable_init=0,lazy_journal_init=0";
	} else if (!strcmp(fs, "btrfs")) {
		def = strstr(opts, "raid") ? "-f -q" : "-f -q -m single -d single";
	} else if (!strcmp(fs, "f2fs") || !strcmp(fs, "nilfs2")) {
		def = "-f -q";
	} else if (!strcmp(fs, "jfs")) {
		def = "-q";
	} else if (!strcmp(fs, "minix")) {
		def = "-3";
	} else if (!strcmp(fs, "ntfs3")) {
		def = "-F -Q -q";
	} else if (!strcmp(fs, "ocfs2")) {
		def = "-F -q -M local -N 1 -b 4K -C 4K -J size=8M";
	} else if (!strcmp(fs, "gfs2")) {
		def = "-O -q -p lock_nolock -j 1 -J 8";
	}
	return af_run(60, "%s mkfs.%s %s %s %s", env, mkfs_of(fs), def, opts, node);
}

int af_mount(const char *fs, const char *node, const char *name,
	     const char *opts, char *dir)
{
	unsigned long flags = 0;
	char rest[640] = "", copy[640], *p, *save;

	snprintf(copy, sizeof(copy), "%s", opts ?: "");
	for (p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		if (!strcmp(p, "ro")) {
			flags |= MS_RDONLY;
			continue;
		}
		if (*rest)
			strcat(rest, ",");
		strcat(rest, p);
	}
	snprintf(dir, 128, "%s", af_dir(name));
	if (mount(node, dir, fs, flags, rest))
		return -errno;
	remember(MOUNT, dir);
	return 0;
}

int af_overlay(const char *layers, const char *name, char *dir)
{
	static const char * const sub[] = { "lower", "upper", "work" };
	char opts[640], path[3][192];
	unsigned int i;

	for (i = 0; i < 3; i++) {
		snprintf(path[i], sizeof(path[i]), "%s/%s", layers, sub[i]);
		if (mkdir(path[i], 0755))
			return -errno;
	}
	snprintf(opts, sizeof(opts), "lowerdir=%s,upperdir=%s,workdir=%s",
		 path[0], path[1], path[2]);
	return af_mount("overlay", "overlay", name, opts, dir);
}

int af_umount(const char *dir)
{
	int ret = af_bounded(30, do_umount, (void *)dir);

	if (!ret)
		forget(MOUNT, dir);
	return ret;
}

int af_mount_dev(const char *dir, dev_t *dev)
{
	unsigned int ma, mi;
	char line[1024], at[256];
	int ret = -ENOENT;
	FILE *f;

	f = fopen("/proc/self/mountinfo", "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*d %*d %u:%u %*s %255s", &ma, &mi, at) != 3 ||
		    strcmp(at, dir))
			continue;
		*dev = makedev(ma, mi);
		ret = 0;
	}
	fclose(f);
	return ret;
}

int af_fsck(const char *fs, const char *node, const char *opts)
{
	static const struct {
		const char *fs, *fsck;
	} tools[] = {
		{ "xfs", "xfs_repair -n" },
		{ "ext2", "e2fsck -fn" },
		{ "ext4", "e2fsck -fn" },
		{ "btrfs", "btrfs check -q" },
		{ "f2fs", "fsck.f2fs --dry-run" },
		{ "jfs", "jfs_fsck -n -f -v" },
		{ "vfat", "fsck.vfat -n" },
		{ "exfat", "fsck.exfat -n" },
		{ "minix", "fsck.minix -f" },
		{ "ocfs2", "fsck.ocfs2 -fn" },
	};
	unsigned int i;
	char tool[16];

	for (i = 0; i < ARRAY_SIZE(tools); i++) {
		if (strcmp(fs, tools[i].fs))
			continue;
		snprintf(tool, sizeof(tool), "%.*s", (int)strcspn(tools[i].fsck, " "),
			 tools[i].fsck);
		if (!af_have(tool))
			return -ENOENT;
		return af_run(60, "%s %s %s", tools[i].fsck, opts ?: "", node);
	}
	return -ENOENT;
}

static int dir_ioctl(const char *dir, unsigned long cmd)
{
	int fd, ret = 0;

	fd = open(dir, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, cmd, 0))
		ret = -errno;
	close(fd);
	return ret;
}

int af_fifreeze(const char *dir)
{
	return dir_ioctl(dir, FIFREEZE);
}

int af_fithaw(const char *dir)
{
	return dir_ioctl(dir, FITHAW);
}

static int do_write_file(void *dir)
{
	char path[256];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/af-writable", (char *)dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, path, sizeof(path)) < 0 || fsync(fd))
		ret = -errno;
	close(fd);
	unlink(path);
	return ret;
}

int af_writable(const char *dir, unsigned int seconds)
{
	return af_bounded(seconds, do_write_file, (void *)dir);
}

int af_writer(void *dir)
{
	static char buf[65536];
	char path[256];
	int fd, i, n;

	for (n = 0;; n++) {
		snprintf(path, sizeof(path), "%s/af-writer.%d.%d", (char *)dir,
			 getpid(), n % 8);
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		for (i = 0; i < 32; i++) {
			memset(buf, n + i, sizeof(buf));
			if (write(fd, buf, sizeof(buf)) < 0 && errno != ENOSPC)
				return -errno;
		}
		if (n % 4 == 0 && fsync(fd) && errno != ENOSPC)
			return -errno;
		close(fd);
	}
}

/* --- suspend -------------------------------------------------------------- */

/*
 * Have the clock wake the machine.  An alarm that comes too early, because
 * freezing takes long, must end the transition, or nothing wakes the machine:
 * that is what wakeup_count is for.
 */
static int arm_alarm(unsigned int seconds)
{
	char count[32];
	int ret;

	write_str(RTC, "0");
	ret = af_write(RTC, "+%u", seconds);
	ret = ret ?: af_read("/sys/power/wakeup_count", count, sizeof(count));
	return ret ?: write_str("/sys/power/wakeup_count", count);
}

static int do_cycle(void *arg)
{
	struct af_cycle *c = arg;
	unsigned int wake = c->wake;
	long long t, asleep;
	struct timespec ts;
	time_t alarm = 0;

	do {
		if (wake) {
			sh->error = arm_alarm(wake);
			if (sh->error)
				return 0;
			alarm = time(NULL) + wake;
			wake *= 3;
		}
		t = af_now_ms();
		clock_gettime(CLOCK_MONOTONIC, &ts);
		sh->begin_us = ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
		asleep = af_asleep_ms();
		sh->error = write_str("/sys/power/state", c->state);
	} while (sh->error == -EBUSY && wake && wake < 100 &&
		 time(NULL) + 1 >= alarm);
	sh->ms = af_now_ms() - t;
	sh->slept_ms = af_asleep_ms() - asleep;
	return 0;
}

int af_cycle_start(struct af_cycle *c)
{
	struct item *it;
	int ret;

	c->state = c->state ?: "mem";
	c->test = c->test ?: "freezer";
	c->deadline = c->deadline ?: 30;

	ret = af_set("/sys/power/pm_test", "%s", c->wake ? "none" : c->test);
	if (ret)
		return ret;
	af_set("/sys/module/suspend/parameters/pm_test_delay", "%u", c->delay);
	af_set("/sys/module/hibernate/parameters/pm_test_delay", "%u", c->delay);
	sh->error = -ETIMEDOUT;
	it = remember(CHILD, "transition");
	c->pid = start(do_cycle, c);
	it->pid = c->pid;
	return c->pid < 0 ? c->pid : 0;
}

int af_cycle_wait(struct af_cycle *c, unsigned int seconds)
{
	c->error = af_wait(c->pid, seconds);
	if (c->error == -ETIMEDOUT)
		return c->error;
	c->error = sh->error;
	c->ms = sh->ms;
	c->slept_ms = sh->slept_ms;
	c->begin_us = sh->begin_us;
	return c->error;
}

int af_cycle(struct af_cycle *c)
{
	int ret = af_cycle_start(c);

	if (ret)
		return c->error = ret;
	return af_cycle_wait(c, c->deadline);
}

int af_suspend(unsigned int delay)
{
	struct af_cycle c = { .delay = delay };

	return af_cycle(&c);
}

long af_stat(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/power/suspend_stats/%s", name);
	return af_read_long(path);
}

/* --- what happened meanwhile ---------------------------------------------- */

/* dev_t as the kernel has it inside, where trace filters see it. */
static unsigned int kdev(dev_t dev)
{
	return major(dev) << 20 | minor(dev);
}

static int trace_clear(void)
{
	int fd = open(TRACE "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

int af_trace_arm(const struct af_disk *d, unsigned int n)
{
	char filter[1024] = "(";
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++)
		snprintf(filter + strlen(filter), sizeof(filter) - strlen(filter),
			 "%sdev == %u", i ? " || " : "", kdev(d[i].dev));
	snprintf(filter + strlen(filter), sizeof(filter) - strlen(filter),
		 ") && (rwbs ~ \"*W*\" || rwbs ~ \"*D*\" || rwbs ~ \"F*\" || rwbs ~ \"Z*\")");

	if (mkdir(TRACE, 0755) && errno != EEXIST)
		return -errno;
	ret = write_str(TRACE "/tracing_on", "0");
	ret = ret ?: trace_clear();
	ret = ret ?: write_str(TRACE "/buffer_size_kb", "2048");
	ret = ret ?: write_str(TRACE "/events/block/block_rq_issue/filter", filter);
	ret = ret ?: write_str(TRACE "/events/block/block_bio_queue/filter", filter);
	ret = ret ?: write_str(TRACE "/events/printk/console/filter",
			       "msg ~ \"*Freezing*\"");
	/* The trigger counts down to 0 and then has to be set anew. */
	write_str(TRACE "/events/power/suspend_resume/trigger", "!traceoff");
	ret = ret ?: write_str(TRACE "/events/power/suspend_resume/trigger",
			       "traceoff:1 if action == \"thaw_processes\" && start == 1");
	ret = ret ?: af_trace_event("power/suspend_resume");
	ret = ret ?: af_trace_event("block/block_rq_issue");
	ret = ret ?: af_trace_event("block/block_bio_queue");
	ret = ret ?: af_trace_event("printk/console");
	ret = ret ?: write_str(TRACE "/tracing_on", "1");
	return ret;
}

int af_trace_event(const char *event)
{
	char path[160];

	snprintf(path, sizeof(path), TRACE "/events/%s/enable", event);
	return write_str(path, "1");
}

/* "task-pid [cpu] flags seconds.microseconds: event: ..." */
static double line_time(const char *line)
{
	const char *p = strchr(line, ']');

	p = p ? strstr(p, ": ") : NULL;
	if (!p)
		return 0;
	while (p > line && p[-1] != ' ')
		p--;
	return atof(p);
}

int af_trace_window(const struct af_disk *d, struct af_window *w)
{
	char line[512], rq[64], bio[64];
	double begin = 0, t;
	FILE *f;

	memset(w, 0, sizeof(*w));
	snprintf(rq, sizeof(rq), "block_rq_issue: %u,%u ", major(d->dev),
		 minor(d->dev));
	snprintf(bio, sizeof(bio), "block_bio_queue: %u,%u ", major(d->dev),
		 minor(d->dev));
	f = fopen(TRACE "/trace", "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		t = line_time(line);
		/*
		 * The last of these before the thaw is when all is frozen; a
		 * hibernation has only the messages.
		 */
		if (strstr(line, "suspend_resume: freeze_processes[0] end") ||
		    strstr(line, "Freezing user space processes completed") ||
		    strstr(line, "Freezing filesystems completed")) {
			begin = t;
			w->writes = 0;
			w->first[0] = 0;
		} else if (strstr(line, "suspend_resume: thaw_processes[0] begin")) {
			w->seen = begin > 0;
			w->us = (t - begin) * 1e6;
			break;
		} else if (begin && (strstr(line, rq) || strstr(line, bio))) {
			if (!w->writes++)
				snprintf(w->first, sizeof(w->first), "%.*s",
					 (int)strcspn(line, "\n"), line);
		}
	}
	fclose(f);
	return 0;
}

void af_trace_dump(unsigned int lines)
{
	char line[512];
	FILE *f = fopen(TRACE "/trace", "r");

	while (f && lines && fgets(line, sizeof(line), f)) {
		if (line[0] == '#')
			continue;
		printf("# %s", line);
		lines--;
	}
	if (f)
		fclose(f);
}

int af_trace_find(const char *what, long *pos, char *line, size_t size)
{
	FILE *f = fopen(TRACE "/trace", "r");
	long nr = 0;
	int ret = -ENOENT;

	if (!f)
		return -errno;
	while (fgets(line, size, f)) {
		if (nr++ < *pos || line[0] == '#' || !strstr(line, what))
			continue;
		*pos = nr;
		line[strcspn(line, "\n")] = 0;
		ret = 0;
		break;
	}
	fclose(f);
	return ret;
}

int af_events_arm(void)
{
	int ret;

	if (mkdir(TRACE, 0755) && errno != EEXIST)
		return -errno;
	write_str(TRACE "/events/power/suspend_resume/trigger", "!traceoff");
	ret = write_str(TRACE "/tracing_on", "0");
	ret = ret ?: write_str(TRACE "/events/enable", "0");
	/* a clock that all processors have in common */
	ret = ret ?: write_str(TRACE "/trace_clock", "mono");
	ret = ret ?: trace_clear();
	ret = ret ?: write_str(TRACE "/buffer_size_kb", "2048");
	ret = ret ?: af_trace_event("power/suspend_resume");
	ret = ret ?: write_str(TRACE "/events/printk/console/filter",
			       "msg ~ \"*Freezing*\"");
	ret = ret ?: af_trace_event("printk/console");
	/*
	 * A kernel without these has no order to show, but what becomes of the
	 * suspend is still worth to know.
	 */
	af_trace_event("power/filesystem_freeze");
	af_trace_event("power/filesystem_thaw");
	return ret ?: write_str(TRACE "/tracing_on", "1");
}

static int events_read(struct af_events *ev)
{
	char line[512], *p;
	struct af_event *e;
	unsigned int ma, mi;
	long long us, t, order = 0;
	FILE *f;

	memset(ev, 0, sizeof(*ev));
	f = fopen(TRACE "/trace", "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f) && ev->nr < AF_EVENTS) {
		t = line_time(line) * 1e6 + 0.5;
		/* freeze_processes[0] is all of it, filesystems included */
		if (strstr(line, "Freezing user space processes completed"))
			ev->tasks_frozen = t;
		else if (strstr(line, "Freezing user space processes") &&
			 !strstr(line, "failed") && !strstr(line, "aborted"))
			ev->tasks_begin = t;
		else if (strstr(line, "suspend_resume: thaw_processes[0] begin"))
			ev->tasks_thaw = t;
		else if (strstr(line, "suspend_resume: freeze_processes[0] end"))
			ev->frozen = t;
		else if (strstr(line, "suspend_resume: order_filesystems[0] begin"))
			order = t;
		else if (strstr(line, "suspend_resume: order_filesystems["))
			ev->ordering = t - order;

		e = &ev->event[ev->nr];
		p = strstr(line, "filesystem_freeze: ");
		e->thaw = !p;
		p = p ?: strstr(line, "filesystem_thaw: ");
		if (!p || sscanf(strchr(p, ' '), " %15s %31s dev=%u:%u ret=%d us=%lld",
				 e->fs, e->id, &ma, &mi, &e->error, &us) != 6)
			continue;
		e->dev = makedev(ma, mi);
		e->end = t;
		e->begin = t - us;
		ev->nr++;
	}
	fclose(f);
	return 0;
}

int af_events_read(struct af_events *ev, unsigned int seconds)
{
	long long end = af_now_ms() + seconds * 1000LL;
	unsigned int frozen, thawed, i;
	int ret;

	for (;;) {
		ret = events_read(ev);
		if (ret)
			return ret;
		for (i = frozen = thawed = 0; i < ev->nr; i++) {
			frozen += !ev->event[i].thaw && !ev->event[i].error;
			thawed += ev->event[i].thaw;
		}
		/* times read while events are added can be wrong: read again */
		if (thawed >= frozen)
			return write_str(TRACE "/tracing_on", "0") ?:
			       events_read(ev);
		if (af_now_ms() > end)
			return -ETIMEDOUT;
		af_sleep_ms(50);
	}
}

static const struct af_event *last_event(const struct af_events *ev, dev_t dev,
					 bool thaw)
{
	unsigned int i;

	for (i = ev->nr; i-- > 0;)
		if (ev->event[i].dev == dev && ev->event[i].thaw == thaw &&
		    !ev->event[i].error)
			return &ev->event[i];
	return NULL;
}

const struct af_event *af_event_freeze(const struct af_events *ev, dev_t dev)
{
	return last_event(ev, dev, false);
}

const struct af_event *af_event_thaw(const struct af_events *ev, dev_t dev)
{
	return last_event(ev, dev, true);
}

/* Two times that were rounded. */
#define ROUNDING	2

const char *af_order_broken(const struct af_events *ev, dev_t upper, dev_t lower)
{
	const struct af_event *u = af_event_freeze(ev, upper);
	const struct af_event *l = af_event_freeze(ev, lower);
	static char why[192];

	if (!u || !l) {
		snprintf(why, sizeof(why), "%u:%u was not frozen",
			 major(u ? lower : upper), minor(u ? lower : upper));
		return why;
	}
	if (u->end > l->begin + ROUNDING) {
		snprintf(why, sizeof(why),
			 "%s (%s) began to freeze %lld us before %s (%s) was frozen",
			 l->fs, l->id, u->end - l->begin, u->fs, u->id);
		return why;
	}
	u = af_event_thaw(ev, upper);
	l = af_event_thaw(ev, lower);
	if (!u || !l) {
		snprintf(why, sizeof(why), "%u:%u was not thawed",
			 major(u ? lower : upper), minor(u ? lower : upper));
		return why;
	}
	if (l->end > u->begin + ROUNDING) {
		snprintf(why, sizeof(why),
			 "%s (%s) began to thaw %lld us before %s (%s) was thawed",
			 u->fs, u->id, l->end - u->begin, l->fs, l->id);
		return why;
	}
	return NULL;
}

void af_events_dump(const struct af_events *ev)
{
	const struct af_event *e;
	unsigned int i;

	for (i = 0; i < ev->nr; i++) {
		e = &ev->event[i];
		af_log("%s %s (%s) %u:%u from %lld to %lld us: %d",
		       e->thaw ? "thaw" : "freeze", e->fs, e->id, major(e->dev),
		       minor(e->dev), e->begin - ev->event[0].begin,
		       e->end - ev->event[0].begin, e->error);
	}
}

int af_klog_mark(struct af_klog *k)
{
	memset(k, 0, sizeof(*k));
	k->fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (k->fd < 0)
		return -errno;
	lseek(k->fd, 0, SEEK_END);
	return 0;
}

static void klog_read(struct af_klog *k)
{
	char rec[8192], *text;
	ssize_t n;
	size_t len;

	for (;;) {
		n = read(k->fd, rec, sizeof(rec) - 1);
		if (n < 0 && errno == EPIPE)
			continue;	/* records were overwritten */
		if (n <= 0)
			break;
		rec[n] = 0;
		text = strchr(rec, ';');
		if (!text)
			continue;
		text++;
		len = strcspn(text, "\n");
		k->text = realloc(k->text, k->len + len + 2);
		memcpy(k->text + k->len, text, len);
		k->len += len;
		k->text[k->len++] = '\n';
		k->text[k->len] = 0;
	}
}

const char *af_klog_find(struct af_klog *k, const char *what)
{
	static char line[512];
	char *p;

	klog_read(k);
	p = k->text ? strstr(k->text, what) : NULL;
	if (!p)
		return NULL;
	while (p > k->text && p[-1] != '\n')
		p--;
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
	return line;
}

const char *af_klog_splat(struct af_klog *k)
{
	static const char * const bad[] = {
		"WARNING:", "BUG:", "Oops:", "kernel BUG", "INFO: task ",
		"possible recursive locking", "possible circular locking",
		"possible deadlock", "soft lockup", "UBSAN:",
	};
	const char *line;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		line = af_klog_find(k, bad[i]);
		if (line)
			return line;
	}
	return NULL;
}

void af_klog_end(struct af_klog *k)
{
	if (k->fd >= 0)
		close(k->fd);
	free(k->text);
	memset(k, 0, sizeof(*k));
	k->fd = -1;
}
