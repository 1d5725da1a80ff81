/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A filesystem of one file, served by a process of the test over /dev/fuse.
 * What the file contains is in memory that the test has as well.
 */
#ifndef AUTOFREEZE_FUSE_H
#define AUTOFREEZE_FUSE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "af.h"

#define FUSE_FILE	"file"
#define FUSE_FILE_INO	2

struct fuse_server {
	int fd;
	char *data;
	size_t size;
	unsigned int max_background, congestion_threshold;	/* 0: default */
	/* Each 20 ms, and with @thawed when the freezer has come and gone. */
	void (*idle)(struct fuse_server *s, bool thawed);
	/* True if the answer to this read comes later. */
	bool (*hold)(struct fuse_server *s, __u64 unique,
		     const struct fuse_read_in *rd);
	void *private;
};

static inline void fuse_answer(struct fuse_server *s, __u64 unique, int error,
			       const void *data, size_t len)
{
	struct fuse_out_header oh = {
		.len = sizeof(oh) + len, .error = error, .unique = unique,
	};
	struct iovec iov[2] = { { &oh, sizeof(oh) }, { (void *)data, len } };

	if (writev(s->fd, iov, len ? 2 : 1) < 0)
		af_log("fuse: %s", strerror(errno));
}

static inline void fuse_fill_attr(struct fuse_server *s, struct fuse_attr *a,
				  __u64 ino)
{
	memset(a, 0, sizeof(*a));
	a->ino = ino;
	a->mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
	a->nlink = 1;
	a->size = ino == FUSE_ROOT_ID ? 0 : s->size;
	a->blksize = 4096;
}

static inline void fuse_serve(struct fuse_server *s, struct fuse_in_header *ih)
{
	struct fuse_entry_out entry = { .nodeid = FUSE_FILE_INO };
	struct fuse_write_in *wr = (void *)(ih + 1);
	struct fuse_read_in *rd = (void *)(ih + 1);
	struct fuse_attr_out attr = { .attr_valid = 3600 };
	struct fuse_write_out written = { .size = wr->size };
	struct fuse_open_out opened = { 0 };
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = 64 << 10,
		.max_write = 128 << 10,
		.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES,
		.max_background = s->max_background,
		.congestion_threshold = s->congestion_threshold,
	};

	switch (ih->opcode) {
	case FUSE_INIT:
		fuse_answer(s, ih->unique, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		entry.attr_valid = 3600;
		entry.entry_valid = 3600;
		fuse_fill_attr(s, &entry.attr, FUSE_FILE_INO);
		fuse_answer(s, ih->unique, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		fuse_fill_attr(s, &attr.attr, ih->nodeid);
		fuse_answer(s, ih->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		fuse_answer(s, ih->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		if (s->hold && s->hold(s, ih->unique, rd))
			break;
		if (rd->offset + rd->size > s->size)
			rd->size = rd->offset < s->size ? s->size - rd->offset : 0;
		fuse_answer(s, ih->unique, 0, s->data + rd->offset, rd->size);
		break;
	case FUSE_WRITE:
		if (wr->offset + wr->size > s->size) {
			fuse_answer(s, ih->unique, -EFBIG, NULL, 0);
			break;
		}
		memcpy(s->data + wr->offset, wr + 1, wr->size);
		fuse_answer(s, ih->unique, 0, &written, sizeof(written));
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	case FUSE_FLUSH:
	case FUSE_FSYNC:
		/* Never again, or an exit waits for a server that is frozen. */
		fuse_answer(s, ih->unique, -ENOSYS, NULL, 0);
		break;
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		fuse_answer(s, ih->unique, 0, NULL, 0);
		break;
	default:
		fuse_answer(s, ih->unique, -EOPNOTSUPP, NULL, 0);
		break;
	}
}

static inline int fuse_run(void *arg)
{
	static char buf[256 << 10];
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct fuse_server *s = arg;
	bool thawed;
	ssize_t n;

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &ev))
		return -errno;
	for (;;) {
		/* there are no signals but the freezer's */
		n = epoll_wait(ep, &ev, 1, 20);
		thawed = n < 0 && errno == EINTR;
		if (s->idle)
			s->idle(s, thawed);
		if (n <= 0)
			continue;
		n = read(s->fd, buf, sizeof(buf));
		if (n >= (ssize_t)sizeof(struct fuse_in_header))
			fuse_serve(s, (void *)buf);
		else if (n < 0 && errno == ENODEV)
			return 0;
	}
}

/*
 * Memory for a server with a file of that size, to be changed before the start.
 * NULL if there is none.
 */
static inline struct fuse_server *fuse_alloc(size_t size)
{
	struct fuse_server *s;

	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return NULL;
	s->size = size;
	s->data = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return s->data == MAP_FAILED ? NULL : s;
}

/* Mount it on @dir and start to serve: the pid or -errno. */
static inline pid_t fuse_start(struct fuse_server *s, const char *dir)
{
	char opts[128];

	s->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0",
		 s->fd);
	if (mount("fuse", dir, "fuse", 0, opts))
		return -errno;
	return af_spawn(fuse_run, s);
}

#endif /* AUTOFREEZE_FUSE_H */
