/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of kernfs notifications share. */
#ifndef KERNFS_NOTIFY_H
#define KERNFS_NOTIFY_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * How many times longer what is waited for may take than where nothing slows the
 * kernel down: with KASAN for one
 */
static inline long slow(void)
{
	const char *val = getenv("AF_SLOW");
	long n = val ? atol(val) : 1;

	return n > 0 ? n : 1;
}

static inline int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

static inline int write_file(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, val, strlen(val));
	close(fd);
	return n < 0 ? -errno : 0;
}

/* A mount that no directory knows of and that ends with its last user. */
static inline int detached_mount(const char *type, int dev)
{
	int fs, mnt = -1;
	char val[16];

	fs = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return -1;
	if (dev >= 0) {
		snprintf(val, sizeof(val), "%d", dev);
		if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "fd", val, 0) ||
		    syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "rootmode", "40000", 0) ||
		    syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "user_id", "0", 0) ||
		    syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "group_id", "0", 0))
			goto out;
	}
	if (!syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mnt = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
out:
	close(fs);
	return mnt;
}

/*
 * A FUSE server with files 0, 1, 2... of a page.  It counts the requests to read
 * and to fsync, but never answers them: they last as long as the server.
 */
static inline void fuse_server(int dev, unsigned int *stuck)
{
	static char buf[FUSE_MIN_READ_BUFFER];
	struct fuse_in_header *in = (void *)buf;
	struct {
		struct fuse_out_header h;
		union {
			struct fuse_init_out init;
			struct fuse_entry_out entry;
			struct fuse_attr_out attr;
			struct fuse_open_out open;
		};
	} out;

	for (;;) {
		size_t len = 0;

		if (read(dev, buf, sizeof(buf)) < 0) {
			if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
				continue;
			return;
		}

		memset(&out, 0, sizeof(out));
		out.h.unique = in->unique;
		switch (in->opcode) {
		case FUSE_INIT:
			out.init.major = FUSE_KERNEL_VERSION;
			out.init.minor = FUSE_KERNEL_MINOR_VERSION;
			out.init.max_write = 4096;
			len = sizeof(out.init);
			break;
		case FUSE_LOOKUP:
			out.entry.nodeid = FUSE_ROOT_ID + 1 + atoi((char *)(in + 1));
			out.entry.attr.ino = out.entry.nodeid;
			out.entry.attr.mode = S_IFREG | 0600;
			out.entry.attr.nlink = 1;
			out.entry.attr.size = 4096;
			len = sizeof(out.entry);
			break;
		case FUSE_GETATTR:
			out.attr.attr.ino = in->nodeid;
			out.attr.attr.mode = in->nodeid == FUSE_ROOT_ID ?
					     S_IFDIR | 0700 : S_IFREG | 0600;
			out.attr.attr.nlink = 1;
			out.attr.attr.size = 4096;
			len = sizeof(out.attr);
			break;
		case FUSE_OPEN:
			len = sizeof(out.open);
			break;
		case FUSE_READ:
		case FUSE_FSYNC:
			__atomic_add_fetch(stuck, 1, __ATOMIC_RELEASE);
			continue;
		case FUSE_FLUSH:
		case FUSE_RELEASE:
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			continue;
		default:
			out.h.error = -ENOSYS;
		}
		out.h.len = sizeof(out.h) + len;
		if (write(dev, &out, out.h.len) < 0 && errno != ENOENT)
			return;
	}
}

/* Milliseconds until @events are there, -1 if they are not within @max_ms. */
static inline long wait_for(int fd, short events, int max_ms)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	long start = now_ms();

	if (poll(&pfd, 1, max_ms) != 1 || !(pfd.revents & events))
		return -1;
	return now_ms() - start;
}

static inline void end_process(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);	/* ECHILD: from the parent's teardown */
	}
	*pid = 0;
}

#endif /* KERNFS_NOTIFY_H */
