/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Writers that can prove what they wrote.
 *
 * Each writer fills one file after the other with blocks that tell which block
 * of which file of which writer they are, and counts in shared memory how many
 * blocks the kernel has accepted.  load_verify() reads all of them back; after
 * an unmount and a mount nothing of it may be missing either.
 */
#ifndef AUTOFREEZE_LOAD_H
#define AUTOFREEZE_LOAD_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/io_uring.h>

#include "af.h"

#define LOAD_BLOCK	4096
/* Blocks of one file; the file before is kept, older ones are removed. */
#define LOAD_BLOCKS	512

enum load_kind {
	LOAD_BUFFERED,		/* write(2), left to the flusher */
	LOAD_FSYNC,		/* write(2) and fsync(2), block by block */
	LOAD_DIRECT,		/* O_DIRECT */
	LOAD_MMAP,		/* stores to a shared mapping */
	LOAD_MADVISE,		/* the same, while another thread madvise()s it */
	LOAD_URING,		/* io_uring, buffered, in io-wq workers */
	LOAD_URING_DIRECT,	/* io_uring, O_DIRECT, from the submitter */
	LOAD_KINDS,
};

struct load {
	enum load_kind kind;
	unsigned int id;
	char dir[128];
	pid_t pid;
	unsigned int pause_us;		/* after each block, else as fast as it can */
	volatile unsigned int file;	/* the file being written */
	volatile unsigned int done;	/* blocks of it that are written */
	volatile int error;		/* why the writer gave up */
};

static inline unsigned long long load_word(const struct load *l,
					   unsigned int file,
					   unsigned int block, unsigned int i)
{
	unsigned long long x = l->id;

	x = (x << 48) ^ ((unsigned long long)file << 24) ^ block;
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ (x >> 29) ^ ((unsigned long long)i << 1 | 1);
}

static inline void load_fill(const struct load *l, unsigned int file,
			     unsigned int block, void *buf)
{
	unsigned long long *p = buf;
	unsigned int i;

	for (i = 0; i < LOAD_BLOCK / 8; i++)
		p[i] = load_word(l, file, block, i);
}

static inline void load_path(const struct load *l, unsigned int file,
			     char *path, size_t size)
{
	snprintf(path, size, "%s/load.%u.%u", l->dir, l->id, file);
}

static inline int load_open(struct load *l, int flags)
{
	char path[192];

	if (l->file >= 2) {
		load_path(l, l->file - 2, path, sizeof(path));
		unlink(path);
	}
	load_path(l, l->file, path, sizeof(path));
	return open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
}

static inline void load_pause(const struct load *l)
{
	if (l->pause_us)
		usleep(l->pause_us);
}

static inline int load_write_file(struct load *l, int fd)
{
	/* O_DIRECT likes it aligned, and bigger than one block */
	unsigned int n = l->kind == LOAD_DIRECT ? 8 : 1, i;
	static char buf[8 * LOAD_BLOCK] __attribute__((aligned(4096)));

	while (l->done < LOAD_BLOCKS) {
		for (i = 0; i < n; i++)
			load_fill(l, l->file, l->done + i, buf + i * LOAD_BLOCK);
		if (pwrite(fd, buf, n * LOAD_BLOCK,
			   (off_t)l->done * LOAD_BLOCK) != n * LOAD_BLOCK)
			return -errno;
		if (l->kind == LOAD_FSYNC && fsync(fd))
			return -errno;
		l->done += n;
		load_pause(l);
	}
	return 0;
}

struct load_advice {
	const struct load *load;
	void *map;
	volatile bool stop;
};

/*
 * Flags of the mapping can only change when nobody faults in it, and dropping
 * the pages makes sure that there always are faults.
 */
static void *load_advise(void *arg)
{
	static const int advice[] = { MADV_RANDOM, MADV_DONTNEED, MADV_NORMAL };
	struct load_advice *a = arg;
	unsigned int i;

	for (i = 0; !a->stop; i++) {
		madvise(a->map, LOAD_BLOCKS * LOAD_BLOCK, advice[i % 3]);
		if (i % 16 == 0)
			load_pause(a->load);
	}
	return NULL;
}

static inline int load_mmap_file(struct load *l, int fd)
{
	struct load_advice a = { .stop = false };
	bool advise = l->kind == LOAD_MADVISE;
	pthread_t thread;
	char *map;

	if (ftruncate(fd, LOAD_BLOCKS * LOAD_BLOCK))
		return -errno;
	map = mmap(NULL, LOAD_BLOCKS * LOAD_BLOCK, PROT_READ | PROT_WRITE,
		   MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	a.load = l;
	a.map = map;
	if (advise && pthread_create(&thread, NULL, load_advise, &a))
		return -EAGAIN;
	while (l->done < LOAD_BLOCKS) {
		load_fill(l, l->file, l->done, map + l->done * LOAD_BLOCK);
		l->done++;
		load_pause(l);
	}
	if (advise) {
		a.stop = true;
		pthread_join(thread, NULL);
	}
	munmap(map, LOAD_BLOCKS * LOAD_BLOCK);
	return 0;
}

#define LOAD_DEPTH	8

struct load_ring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static inline int load_ring_init(struct load_ring *r)
{
	struct io_uring_params p;
	char *sq, *cq;

	memset(&p, 0, sizeof(p));
	r->fd = syscall(__NR_io_uring_setup, LOAD_DEPTH, &p);
	if (r->fd < 0)
		return -errno;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned int),
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
		  IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*r->cqes),
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
		  IORING_OFF_CQ_RING);
	r->sqes = mmap(NULL, p.sq_entries * sizeof(*r->sqes),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
		       IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || r->sqes == MAP_FAILED)
		return -errno;
	r->sq_tail = (void *)(sq + p.sq_off.tail);
	r->sq_mask = (void *)(sq + p.sq_off.ring_mask);
	r->sq_array = (void *)(sq + p.sq_off.array);
	r->cq_head = (void *)(cq + p.cq_off.head);
	r->cq_tail = (void *)(cq + p.cq_off.tail);
	r->cq_mask = (void *)(cq + p.cq_off.ring_mask);
	r->cqes = (void *)(cq + p.cq_off.cqes);
	return 0;
}

/* Write LOAD_DEPTH blocks at once; they count when all are there. */
static inline int load_ring_batch(struct load *l, struct load_ring *r, int fd,
				  char *buf)
{
	unsigned int tail = *r->sq_tail, head = *r->cq_head, i, left;
	int ret;

	for (i = 0; i < LOAD_DEPTH; i++, tail++) {
		struct io_uring_sqe *sqe = &r->sqes[tail & *r->sq_mask];

		load_fill(l, l->file, l->done + i, buf + i * LOAD_BLOCK);
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_WRITE;
		sqe->flags = l->kind == LOAD_URING ? IOSQE_ASYNC : 0;
		sqe->fd = fd;
		sqe->addr = (uintptr_t)(buf + i * LOAD_BLOCK);
		sqe->len = LOAD_BLOCK;
		sqe->off = (l->done + i) * (unsigned long long)LOAD_BLOCK;
		r->sq_array[tail & *r->sq_mask] = tail & *r->sq_mask;
	}
	__atomic_store_n(r->sq_tail, tail, __ATOMIC_RELEASE);

	for (left = LOAD_DEPTH, i = LOAD_DEPTH; left;) {
		/* interrupted by the freezer: go on with what is left */
		ret = syscall(__NR_io_uring_enter, r->fd, i, left,
			      IORING_ENTER_GETEVENTS, NULL, 0);
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (ret > 0)
			i -= ret;
		while (head != __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE)) {
			ret = r->cqes[head & *r->cq_mask].res;
			if (ret != LOAD_BLOCK)
				return ret < 0 ? ret : -EIO;
			head++;
			left--;
		}
		__atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
	}
	l->done += LOAD_DEPTH;
	load_pause(l);
	return 0;
}

static int load_run(void *arg)
{
	static char buf[LOAD_DEPTH * LOAD_BLOCK] __attribute__((aligned(4096)));
	struct load *l = arg;
	struct load_ring ring = { .fd = -1 };
	bool uring = l->kind == LOAD_URING || l->kind == LOAD_URING_DIRECT;
	int fd, ret = 0, flags = 0;

	if (l->kind == LOAD_DIRECT || l->kind == LOAD_URING_DIRECT)
		flags = O_DIRECT;
	if (uring)
		ret = load_ring_init(&ring);
	while (!ret) {
		fd = load_open(l, flags);
		if (fd < 0) {
			ret = -errno;
			break;
		}
		if (uring) {
			while (!ret && l->done < LOAD_BLOCKS)
				ret = load_ring_batch(l, &ring, fd, buf);
		} else if (l->kind == LOAD_MMAP || l->kind == LOAD_MADVISE) {
			ret = load_mmap_file(l, fd);
		} else {
			ret = load_write_file(l, fd);
		}
		close(fd);
		if (!ret) {
			/* in this order: a kill in between loses nothing */
			l->done = 0;
			l->file++;
		}
	}
	l->error = ret;
	return ret;
}

/*
 * @l must be in memory shared with the children, see load_alloc().  Only
 * l->pause_us may have been set before.
 */
static inline int load_start(struct load *l, enum load_kind kind,
			     unsigned int id, const char *dir)
{
	l->file = 0;
	l->done = 0;
	l->error = 0;
	l->kind = kind;
	l->id = id;
	snprintf(l->dir, sizeof(l->dir), "%s", dir);
	l->pid = af_spawn(load_run, l);
	return l->pid < 0 ? l->pid : 0;
}

/* 0, or why the writer ended before it was told to. */
static inline int load_stop(struct load *l)
{
	int ret = af_kill(l->pid, 20);

	return ret == -ETIMEDOUT ? ret : l->error;
}

static inline struct load *load_alloc(unsigned int n)
{
	return mmap(NULL, n * sizeof(struct load), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Blocks written so far, to see whether a writer is alive. */
static inline unsigned long load_progress(const struct load *l)
{
	return (unsigned long)l->file * LOAD_BLOCKS + l->done;
}

static inline int load_verify_file(const struct load *l, unsigned int file,
				   unsigned int blocks)
{
	unsigned long long buf[LOAD_BLOCK / 8];
	unsigned int b, i;
	char path[192];
	int fd, ret = 0;

	load_path(l, file, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return blocks ? -errno : 0;
	for (b = 0; b < blocks && !ret; b++) {
		if (read(fd, buf, LOAD_BLOCK) != LOAD_BLOCK) {
			af_log("%s: block %u of %u is missing", path, b, blocks);
			ret = -ENODATA;
			break;
		}
		for (i = 0; i < LOAD_BLOCK / 8; i++)
			if (buf[i] != load_word(l, file, b, i)) {
				af_log("%s: block %u of %u, word %u: %llx", path,
				       b, blocks, i, buf[i]);
				ret = -EILSEQ;
				break;
			}
	}
	close(fd);
	return ret;
}

/* Everything that a stopped writer has written is there. */
static inline int load_verify(const struct load *l)
{
	int ret = load_verify_file(l, l->file, l->done);

	if (!ret && l->file)
		ret = load_verify_file(l, l->file - 1, LOAD_BLOCKS);
	return ret;
}

#endif /* AUTOFREEZE_LOAD_H */
