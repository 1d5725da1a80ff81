// SPDX-License-Identifier: GPL-2.0
/*
 * open(O_TRUNC) of an existing file waits for others before it truncates: for a
 * fanotify listener to permit the open, for the holder of a lease to give it
 * up.  It must not hold freeze protection meanwhile, or neither FIFREEZE nor a
 * system suspend gets anywhere before these others feel like it.  The truncation
 * itself must still wait until the filesystem is thawed.
 *
 * The bug shows as a freeze that ends only when the listener answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "af.h"

#define CONTENT		"not truncated"
#define SIZE		((long)sizeof(CONTENT))
#define FREEZE_SECS	2	/* far more than an idle filesystem needs */

struct opener {
	const char *path;
	int flags;
	int unwanted_fd;	/* not to keep the listener's group alive */
};

static int truncating_open(void *arg)
{
	const struct opener *o = arg;
	int fd;

	if (o->unwanted_fd >= 0)
		close(o->unwanted_fd);
	fd = open(o->path, o->flags | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static int freeze(void *dir)
{
	return af_fifreeze(dir);
}

static long size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? -errno : st.st_size;
}

static bool asked(int fan, int ms)
{
	struct pollfd p = { .fd = fan, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* Answer the one event that is there. */
static int answer(int fan, unsigned int response)
{
	struct fanotify_event_metadata event;
	struct fanotify_response r = { .response = response };

	if (!asked(fan, 1000) || read(fan, &event, sizeof(event)) != sizeof(event))
		return -ENOMSG;
	r.fd = event.fd;
	if (write(fan, &r, sizeof(r)) != sizeof(r))
		return -errno;
	close(event.fd);
	return 0;
}

FIXTURE(open_trunc) {
	struct af_disk disk;
	char dir[128], path[160];
	struct opener opener;
	int fan;
};

FIXTURE_VARIANT(open_trunc) {
	const char *fs;
	unsigned int needs;
};

FIXTURE_VARIANT_ADD(open_trunc, ext4) { .fs = "ext4", .needs = AF_EXT4 };
FIXTURE_VARIANT_ADD(open_trunc, xfs) { .fs = "xfs", .needs = AF_XFS };

FIXTURE_SETUP(open_trunc)
{
	const char *why = af_setup(AF_NULL_BLK | variant->needs);
	int fd;

	if (why)
		SKIP(return, "%s", why);
	self->fan = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY);
	if (self->fan < 0 && (errno == ENOSYS || errno == EINVAL))
		SKIP(return, "no fanotify permission events (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)");
	ASSERT_LE(0, self->fan);

	/* Also on a kernel where the filesystem does not freeze by itself. */
	ASSERT_EQ(0, af_set(AF_KNOB, "1"));
	ASSERT_EQ(0, af_disk_create(&self->disk, "trunc", NULL));
	ASSERT_EQ(0, af_mkfs(variant->fs, self->disk.node, NULL));
	ASSERT_EQ(0, af_mount(variant->fs, self->disk.node, "trunc", NULL, self->dir));
	snprintf(self->path, sizeof(self->path), "%s/file", self->dir);
	fd = open(self->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(SIZE, write(fd, CONTENT, SIZE));
	ASSERT_EQ(0, fsync(fd));
	close(fd);
	self->opener = (struct opener){ self->path, O_WRONLY, self->fan };
}

FIXTURE_TEARDOWN_PARENT(open_trunc)
{
	af_cleanup();
}

/* A file with a listener, and somebody who waits for it in open(O_TRUNC). */
#define open_and_wait_for_the_listener() ({					\
	ASSERT_EQ(0, fanotify_mark(self->fan, FAN_MARK_ADD, FAN_OPEN_PERM,	\
				   AT_FDCWD, self->path))			\
		TH_LOG("fanotify_mark: %m");					\
	pid_t pid_ = af_spawn(truncating_open, &self->opener);			\
	ASSERT_LT(0, pid_);							\
	ASSERT_TRUE(asked(self->fan, 5000));					\
	pid_; })

TEST_F_TIMEOUT(open_trunc, freeze_does_not_wait_for_the_listener, af_secs(60))
{
	pid_t pid = open_and_wait_for_the_listener();

	EXPECT_EQ(0, af_bounded(FREEZE_SECS, freeze, self->dir));
	EXPECT_EQ(SIZE, size_of(self->path));
	EXPECT_EQ(0, answer(self->fan, FAN_ALLOW));
	/* It has its permission: now it waits for the thaw. */
	EXPECT_EQ(-ETIMEDOUT, af_wait(pid, 1));
	EXPECT_EQ(SIZE, size_of(self->path));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, af_wait(pid, 10));
	EXPECT_EQ(0, size_of(self->path));
}

TEST_F_TIMEOUT(open_trunc, suspend_does_not_wait_for_the_listener, af_secs(90))
{
	pid_t pid = open_and_wait_for_the_listener();
	struct af_cycle c = { .deadline = 15 };

	EXPECT_EQ(0, af_cycle(&c));
	EXPECT_EQ(SIZE, size_of(self->path));
	EXPECT_EQ(0, answer(self->fan, FAN_ALLOW));
	if (c.error == -ETIMEDOUT)
		af_cycle_wait(&c, 30);
	EXPECT_EQ(0, af_wait(pid, 10));
	EXPECT_EQ(0, size_of(self->path));
}

TEST_F_TIMEOUT(open_trunc, freeze_does_not_wait_for_a_lease_holder, af_secs(90))
{
	char locks[4096] = "";
	pid_t pid;
	int i, fd;

	/* The lease is ours, and nobody here minds the signal. */
	signal(SIGIO, SIG_IGN);
	fd = open(self->path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) && errno == EINVAL)
		SKIP(return, "no leases (CONFIG_FILE_LOCKING)");
	pid = af_spawn(truncating_open, &self->opener);
	ASSERT_LT(0, pid);
	for (i = 0; i < 100 && !strstr(locks, "BREAKING"); i++) {
		af_sleep_ms(50);
		ASSERT_EQ(0, af_read("/proc/locks", locks, sizeof(locks)));
	}
	ASSERT_NE(NULL, strstr(locks, "BREAKING"));

	EXPECT_EQ(0, af_bounded(FREEZE_SECS, freeze, self->dir));
	EXPECT_EQ(0, fcntl(fd, F_SETLEASE, F_UNLCK));
	EXPECT_EQ(-ETIMEDOUT, af_wait(pid, 1));
	EXPECT_EQ(SIZE, size_of(self->path));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, af_wait(pid, 10));
	EXPECT_EQ(0, size_of(self->path));
}

TEST_F_TIMEOUT(open_trunc, refused_open_does_not_truncate, af_secs(60))
{
	pid_t pid = open_and_wait_for_the_listener();

	EXPECT_EQ(0, answer(self->fan, FAN_DENY));
	EXPECT_EQ(EPERM, af_wait(pid, 10));
	EXPECT_EQ(SIZE, size_of(self->path));
	/* What the open took it gave back. */
	EXPECT_EQ(0, af_bounded(FREEZE_SECS, freeze, self->dir));
	EXPECT_EQ(0, af_fithaw(self->dir));
	EXPECT_EQ(0, mount(NULL, self->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL))
		TH_LOG("remount read-only: %m");
}

/* -EROFS comes before anybody is asked, also where a read-only open would do. */
TEST_F_TIMEOUT(open_trunc, read_only_mount_refuses_before_the_listener_is_asked, af_secs(60))
{
	ASSERT_EQ(0, fanotify_mark(self->fan, FAN_MARK_ADD, FAN_OPEN_PERM,
				   AT_FDCWD, self->path));
	ASSERT_EQ(0, mount(NULL, self->dir, NULL,
			   MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	self->opener.flags = O_RDONLY;
	EXPECT_EQ(-EROFS, af_bounded(5, truncating_open, &self->opener));
	self->opener.flags = O_WRONLY;
	EXPECT_EQ(-EROFS, af_bounded(5, truncating_open, &self->opener));
	EXPECT_FALSE(asked(self->fan, 0));
	EXPECT_EQ(SIZE, size_of(self->path));
}

/* A mount cannot become read-only between the check and the truncation. */
TEST_F_TIMEOUT(open_trunc, mount_stays_writable_until_truncated, af_secs(60))
{
	pid_t pid;

	/* Of the file's access modes only this one adds no writer by itself. */
	self->opener.flags = O_RDONLY;
	pid = open_and_wait_for_the_listener();
	EXPECT_EQ(-1, mount(NULL, self->dir, NULL,
			    MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(0, answer(self->fan, FAN_ALLOW));
	EXPECT_EQ(0, af_wait(pid, 10));
	EXPECT_EQ(0, size_of(self->path));
	EXPECT_EQ(0, mount(NULL, self->dir, NULL,
			   MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
}

TEST_HARNESS_MAIN
