// SPDX-License-Identifier: GPL-2.0
/*
 * What carries notifications of kernfs to inotify(7), once it runs, does not
 * wait for others who wait for memory: not for the locks of the hierarchy, and
 * not for what reclaiming memory on behalf of a watcher runs into.
 *
 * The notifications are those of array_state in sysfs, which monitors of md
 * arrays watch, and those of cgroup.events. md notifies of its state with every
 * successful write to it, and needs no lock of sysfs for that; an array that has
 * no members will do. Watchers also see the write itself, but only of their own
 * superblock: so the writes go to one, of another network namespace, and the
 * watch is on the other.
 *
 * To hold kernfs_rwsem for reading, as somebody would who looks up a file and
 * waits for memory: readdir copies to its caller's buffer under that lock, and
 * the buffer is mapped from a FUSE server that does not answer.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "../../kselftest_harness.h"
#include "kernfs_notify.h"

#define NEW_ARRAY	"/sys/module/md_mod/parameters/new_array"
/* One for each test, since it goes away some time after del_array(). */
#define LOCKS_ARRAY	"block/md_kernfs_locks/md/array_state"
#define STORM_ARRAY	"block/md_kernfs_storm/md/array_state"

#define PROMPT_MS	(1000 * slow())
#define LOST_MS		10000
#define BLOCKED_MS	5000
#define STORM_MS	3000
#define STORM_MODULE	"test_module"
#define STORM_REFCNT	"/sys/module/" STORM_MODULE "/refcnt"

/* Whether @pid sleeps uninterruptibly within BLOCKED_MS, and goes on to. */
static bool blocks(pid_t pid)
{
	long start = now_ms(), since = 0;
	char path[32], buf[256], *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	while (now_ms() - start < BLOCKED_MS) {
		if (read_file(path, buf, sizeof(buf)))
			return false;
		p = strrchr(buf, ')');
		if (!p || p[2] != 'D')
			since = 0;
		else if (!since)
			since = now_ms();
		else if (now_ms() - since > 200)
			return true;
		usleep(10000);
	}
	return false;
}

static void drain(int inotify)
{
	char buf[4096];

	while (read(inotify, buf, sizeof(buf)) > 0)
		;
}

/* Moves the caller to another network namespace. */
static const char *new_array(const char *array, int *state)
{
	char name[32];
	int mnt;

	if (access(NEW_ARRAY, W_OK))
		return "needs BLK_DEV_MD";
	if (unshare(CLONE_NEWNET))
		return "needs NET_NS";
	if (sscanf(array, "block/%31[^/]", name) != 1)
		return "no name of an array";
	mnt = detached_mount("sysfs", -1);
	if (mnt < 0 || write_file(NEW_ARRAY, name))
		return "cannot make the array";
	*state = openat(mnt, array, O_RDWR | O_CLOEXEC);
	close(mnt);
	return *state < 0 ? "cannot make the array" : NULL;
}

/* Says that the array, which is inactive, shall be that: a notification. */
static bool notify_array(int state)
{
	return pwrite(state, "inactive", 8, 0) == 8;
}

static void del_array(const char *array)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/%s", array);
	write_file(path, "clear");
}

FIXTURE(locks)
{
	/* Shared with all processes of the test */
	unsigned int stuck;
	int loop;
	int state;
	int inotify;
	int ready[2], go[2];		/* of the task that unmounts */
	pid_t server, reader, remover, unmounter;
};

/* A sysfs of its own, which is unmounted when told. */
static int unmounter(int ready, int go)
{
	char c;
	int mnt;

	if (unshare(CLONE_NEWNET))
		return 1;
	mnt = detached_mount("sysfs", -1);
	if (mnt < 0 || write(ready, "", 1) != 1 || read(go, &c, 1) != 1)
		return 1;
	close(mnt);
	return 0;
}

FIXTURE_SETUP(locks)
{
	const char *why;
	int ctl;
	char c;
	pid_t pid;		/* not self->..., which the child shares */

	if (geteuid())
		SKIP(return, "needs root");
	if (access("/dev/fuse", R_OK | W_OK))
		SKIP(return, "needs FUSE_FS");
	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		SKIP(return, "needs BLK_DEV_LOOP");
	why = new_array(LOCKS_ARRAY, &self->state);
	if (why)
		SKIP(return, "%s", why);
	self->loop = ioctl(ctl, LOOP_CTL_ADD, -1);
	ASSERT_LE(0, self->loop);
	close(ctl);

	ASSERT_EQ(0, pipe2(self->ready, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(self->go, O_CLOEXEC));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(unmounter(self->ready[1], self->go[0]));
	self->unmounter = pid;
	close(self->ready[1]);
	ASSERT_EQ(1, read(self->ready[0], &c, 1));

	self->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	ASSERT_LE(0, self->inotify);
	ASSERT_LE(0, inotify_add_watch(self->inotify, "/sys/" LOCKS_ARRAY, IN_MODIFY));
}

/* The server first: all others wait for it. */
static void let_go(FIXTURE_DATA(locks) * self)
{
	end_process(&self->server);
	end_process(&self->reader);
	end_process(&self->remover);
	end_process(&self->unmounter);
}

FIXTURE_TEARDOWN_PARENT(locks)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	let_go(self);
	if (ctl >= 0) {
		ioctl(ctl, LOOP_CTL_REMOVE, self->loop);
		close(ctl);
	}
	del_array(LOCKS_ARRAY);
}

/*
 * "." and ".." go to memory, the first entry that is read with kernfs_rwsem held
 * goes to a page of the server.
 */
static int read_dir(int mnt)
{
	size_t dots = 2 * 24, page = sysconf(_SC_PAGESIZE);
	int dir, file;
	char *buf;

	dir = open("/sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	file = openat(mnt, "0", O_RDWR | O_CLOEXEC);
	if (dir < 0 || file < 0)
		return 1;
	buf = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buf == MAP_FAILED ||
	    mmap(buf + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		 file, 0) == MAP_FAILED)
		return 1;
	syscall(SYS_getdents64, dir, buf + page - dots, page);
	return 0;
}

TEST_F_TIMEOUT(locks, an_event_does_not_wait_for_a_reader_and_a_remover_of_the_hierarchy, 60)
{
	long start, ms;
	int dev, mnt;
	pid_t pid;

	/* What it takes to see one at all */
	ASSERT_TRUE(notify_array(self->state));
	ASSERT_LE(0, wait_for(self->inotify, POLLIN, PROMPT_MS));

	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, dev);
	mnt = detached_mount("fuse", dev);
	ASSERT_LE(0, mnt);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		alarm(60);
		close(mnt);
		fuse_server(dev, &self->stuck);
		_exit(1);
	}
	self->server = pid;
	close(dev);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(read_dir(mnt));
	self->reader = pid;
	close(mnt);
	start = now_ms();
	while (!__atomic_load_n(&self->stuck, __ATOMIC_ACQUIRE)) {
		ASSERT_GT(BLOCKED_MS, now_ms() - start);
		usleep(10000);
	}

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

		ioctl(ctl, LOOP_CTL_REMOVE, self->loop);
		_exit(0);
	}
	self->remover = pid;
	ASSERT_TRUE(blocks(self->remover));
	ASSERT_EQ(1, write(self->go[1], "", 1));
	/* The unmount waits on the base; that it need not, is no claim. */
	blocks(self->unmounter);

	drain(self->inotify);
	ASSERT_TRUE(notify_array(self->state));
	ms = wait_for(self->inotify, POLLIN, LOST_MS);
	EXPECT_LE(0, ms) {
		TH_LOG("no inotify event within %d ms", LOST_MS);
	}
	EXPECT_GE(PROMPT_MS, ms);
	if (ms >= 0) {
		TH_LOG("inotify event after %ld ms", ms);
		return;
	}
	let_go(self);
	ms = wait_for(self->inotify, POLLIN, LOST_MS);
	EXPECT_LE(0, ms);
	TH_LOG("inotify event %ld ms after the reader went on", ms);
}

/*
 * A watcher at the limit of its memory cgroup, in which there is little to
 * reclaim: inodes whose last reference is one of overlayfs, and which are to be
 * deleted on a filesystem that is frozen.
 */
#define WATCHES		10
#define FILES		200

FIXTURE(limit)
{
	char ext4[64], overlay[64], image[64];
	int loop;			/* of the image, -1 if there is none */
	bool frozen;
	pid_t watcher;
	int ready[2], go[2], report[2];
	int root;			/* of the cgroups */
	int freeze[2];			/* cgroup.freeze of those that are watched */
	int inotify;			/* of one who is not at its limit */
};

static int open_in(int dir, const char *path, int flags)
{
	return openat(dir, path, flags | O_CLOEXEC);
}

static int write_in(int dir, const char *path, const char *val)
{
	int fd = open_in(dir, path, O_WRONLY), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, val, strlen(val)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static long read_long_in(int dir, const char *path, const char *key)
{
	int fd = open_in(dir, path, O_RDONLY);
	char buf[1024] = {}, *p = buf;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n > 0 && key)
		p = strstr(buf, key);
	return n > 0 && p ? atol(p + (key ? strlen(key) : 0)) : -1;
}

static int run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool have_fs(const char *fs)
{
	char line[64], name[32];
	FILE *f = fopen("/proc/filesystems", "re");
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = (sscanf(line, "nodev %31s", name) == 1 ||
			 sscanf(line, "%31s", name) == 1) && !strcmp(name, fs);
	if (f)
		fclose(f);
	return found;
}

static int watch_cgroup(int inotify, int root, const char *name)
{
	char path[64];
	int fd = open_in(root, name, O_RDONLY), ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = inotify_add_watch(inotify, path, IN_MODIFY);
	close(fd);
	return ret;
}

FIXTURE_SETUP(limit)
{
	static const char * const names[] = { "kn_watcher", "kn_0", "kn_1" };
	char dev[32], opts[256];
	int i, ctl, file, fd;

	/* All reasons to skip come first: nothing is cleaned up after that. */
	self->loop = -1;
	if (geteuid())
		SKIP(return, "needs root");
	if (run((char *[]){ "mkfs.ext4", "-V", NULL }))
		SKIP(return, "needs mkfs.ext4");
	if (!have_fs("ext4") || !have_fs("overlay"))
		SKIP(return, "needs EXT4_FS and OVERLAY_FS");
	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		SKIP(return, "needs BLK_DEV_LOOP");
	self->root = detached_mount("cgroup2", -1);
	if (self->root < 0)
		SKIP(return, "needs CGROUPS");
	if (write_in(self->root, "cgroup.subtree_control", "+memory"))
		SKIP(return, "needs MEMCG, and its controller in the cgroup2 hierarchy");
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, mkdirat(self->root, names[i], 0755));
	self->freeze[0] = open_in(self->root, "kn_0/cgroup.freeze", O_WRONLY);
	self->freeze[1] = open_in(self->root, "kn_1/cgroup.freeze", O_WRONLY);
	ASSERT_LE(0, self->freeze[0]);
	ASSERT_LE(0, self->freeze[1]);

	snprintf(self->ext4, sizeof(self->ext4), "/tmp/kn_ext4_%d", getpid());
	snprintf(self->overlay, sizeof(self->overlay), "/tmp/kn_overlay_%d", getpid());
	snprintf(self->image, sizeof(self->image), "/tmp/kn_image_%d", getpid());
	mkdir("/tmp", 0755);
	ASSERT_EQ(0, mkdir(self->ext4, 0755));
	ASSERT_EQ(0, mkdir(self->overlay, 0755));

	file = open(self->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, 16 << 20));
	ASSERT_EQ(0, run((char *[]){ "mkfs.ext4", "-q", "-F", self->image, NULL }));
	self->loop = ioctl(ctl, LOOP_CTL_GET_FREE);
	ASSERT_LE(0, self->loop);
	snprintf(dev, sizeof(dev), "/dev/loop%d", self->loop);
	fd = open(dev, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, LOOP_SET_FD, file));
	ASSERT_EQ(0, mount(dev, self->ext4, "ext4", 0, NULL));
	close(ctl);
	close(file);
	close(fd);

	fd = open(self->ext4, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, mkdirat(fd, "lower", 0755));
	ASSERT_EQ(0, mkdirat(fd, "upper", 0755));
	ASSERT_EQ(0, mkdirat(fd, "work", 0755));
	close(fd);
	snprintf(opts, sizeof(opts), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work",
		 self->ext4, self->ext4, self->ext4);
	ASSERT_EQ(0, mount("overlay", self->overlay, "overlay", 0, opts));

	ASSERT_EQ(0, pipe2(self->ready, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(self->go, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(self->report, O_CLOEXEC));
	self->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	ASSERT_LE(0, self->inotify);
	ASSERT_LE(0, watch_cgroup(self->inotify, self->root, "kn_0/cgroup.events"));
}

FIXTURE_TEARDOWN_PARENT(limit)
{
	static const char * const names[] = { "kn_watcher", "kn_0", "kn_1" };
	int fd, i, root;
	char dev[32];

	fd = open(self->ext4, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		if (self->frozen)
			ioctl(fd, FITHAW, 0);
		close(fd);
	}
	end_process(&self->watcher);
	umount2(self->overlay, MNT_DETACH);
	umount2(self->ext4, MNT_DETACH);
	if (self->loop >= 0) {
		snprintf(dev, sizeof(dev), "/dev/loop%d", self->loop);
		fd = open(dev, O_RDWR | O_CLOEXEC);
		ioctl(fd, LOOP_CLR_FD, 0);
		close(fd);
	}
	unlink(self->image);
	rmdir(self->overlay);
	rmdir(self->ext4);
	root = detached_mount("cgroup2", -1);
	for (i = 0; root >= 0 && i < 3; i++)
		unlinkat(root, names[i], AT_REMOVEDIR);
	close(root);
}

/*
 * In its cgroup: makes the files, so that their inodes are charged to it, and
 * the watches.  Later it counts those which have overflown.
 */
static int watcher(FIXTURE_DATA(limit) * self)
{
	int fd[WATCHES], dir, i, overflows = 0;
	char name[16], c, buf[4096];

	if (write_in(self->root, "kn_watcher/cgroup.procs", "0"))
		return 1;
	dir = open(self->overlay, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return 1;
	for (i = 0; i < FILES; i++) {
		int file;

		snprintf(name, sizeof(name), "%d", i);
		file = openat(dir, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		if (file < 0)
			return 1;
		close(file);
	}
	for (i = 0; i < WATCHES; i++) {
		fd[i] = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		if (fd[i] < 0 ||
		    watch_cgroup(fd[i], self->root, "kn_0/cgroup.events") < 0 ||
		    watch_cgroup(fd[i], self->root, "kn_1/cgroup.events") < 0)
			return 1;
	}
	memset(buf, 1, sizeof(buf));	/* no page fault of this at the limit */
	if (write(self->ready[1], "", 1) != 1 || read(self->go[0], &c, 1) != 1)
		return 1;
	for (i = 0; i < WATCHES; i++) {
		ssize_t n = read(fd[i], buf, sizeof(buf)), at = 0;

		while (n > 0 && at < n) {
			struct inotify_event *ev = (void *)(buf + at);

			if (ev->mask & IN_Q_OVERFLOW)
				overflows++;
			at += sizeof(*ev) + ev->len;
			if (at >= n) {
				n = read(fd[i], buf, sizeof(buf));
				at = 0;
			}
		}
	}
	return write(self->report[1], &overflows, sizeof(overflows)) != sizeof(overflows);
}

/* How often the watcher's cgroup was at its limit */
static long hits(FIXTURE_DATA(limit) * self)
{
	return read_long_in(self->root, "kn_watcher/memory.events", "max ");
}

TEST_F_TIMEOUT(limit, a_watcher_at_its_limit_overflows_and_delays_no_other, 90)
{
	int i, dir, overflows = 0;
	char path[128], val[32], c;
	long max, ms;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(watcher(self));
	self->watcher = pid;
	close(self->ready[1]);
	close(self->report[1]);
	ASSERT_EQ(1, read(self->ready[0], &c, 1));

	dir = open(self->ext4, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, dir);
	for (i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "upper/%d", i);
		ASSERT_EQ(0, unlinkat(dir, path, 0));
	}
	sync();
	ASSERT_EQ(0, ioctl(dir, FIFREEZE, 0));
	self->frozen = true;

	/* More than there is, and no less: that would reclaim here. */
	max = read_long_in(self->root, "kn_watcher/memory.current", NULL);
	ASSERT_LT(0, max);
	snprintf(val, sizeof(val), "%ld", max);
	ASSERT_EQ(0, write_in(self->root, "kn_watcher/memory.max", val));
	max = hits(self);

	/* In turn, since an event like the last one in the queue is dropped */
	for (i = 0; i < 1000; i++) {
		val[0] = i & 2 ? '0' : '1';
		ASSERT_EQ(1, write(self->freeze[i & 1], val, 1));
		usleep(12000);	/* cgroup_file_notify() defers if more often */
		if (i > 8 && hits(self) > max + 200)
			break;
	}
	TH_LOG("%d notifications; memory.max was hit %ld times", i,
	       hits(self) - max);
	ASSERT_LT(max, hits(self));

	usleep(2 * PROMPT_MS * 1000);
	drain(self->inotify);
	val[0] = read_long_in(self->root, "kn_0/cgroup.events", "frozen ") == 1 ? '0' : '1';
	ASSERT_EQ(1, write(self->freeze[0], val, 1));
	ms = wait_for(self->inotify, POLLIN, LOST_MS);
	EXPECT_LE(0, ms) {
		TH_LOG("no inotify event within %d ms", LOST_MS);
	}
	EXPECT_GE(PROMPT_MS, ms);

	ASSERT_EQ(0, ioctl(dir, FITHAW, 0));
	self->frozen = false;
	ASSERT_EQ(0, write_in(self->root, "kn_watcher/memory.max", "max"));
	ASSERT_EQ(1, write(self->go[1], "", 1));
	ASSERT_EQ((ssize_t)sizeof(overflows),
		  read(self->report[0], &overflows, sizeof(overflows)));
	if (ms >= 0) {
		TH_LOG("inotify event after %ld ms, %d of %d watchers at their limit overflew",
		       ms, overflows, WATCHES);
		EXPECT_LT(0, overflows);
		return;
	}
	ms = wait_for(self->inotify, POLLIN, LOST_MS);
	EXPECT_LE(0, ms);
	TH_LOG("inotify event %ld ms after the thaw", ms);
}

/*
 * Notifications as fast as they can be made, while superblocks of sysfs come
 * and go, and nodes of sysfs and cgroupfs do, those of a module too.  What is claimed: it ends, the
 * last notification arrives, and the kernel has nothing to say about it.
 */
FIXTURE(storm)
{
	unsigned long notified, mounts, loops, cgroups, modules;
	bool stop;
	int state;
	int inotify;
	pid_t task[5];
};

static int load_module(void)
{
	return system("modprobe -q " STORM_MODULE);
}

static int unload_module(void)
{
	return syscall(SYS_delete_module, STORM_MODULE, O_NONBLOCK);
}

FIXTURE_SETUP(storm)
{
	const char *why;

	if (geteuid())
		SKIP(return, "needs root");
	why = new_array(STORM_ARRAY, &self->state);
	if (why)
		SKIP(return, "%s", why);
	if (load_module() || unload_module())
		SKIP(return, "needs modprobe, TEST_LKM=m and MODULE_UNLOAD");
	self->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	ASSERT_LE(0, self->inotify);
	ASSERT_LE(0, inotify_add_watch(self->inotify, "/sys/" STORM_ARRAY, IN_MODIFY));
}

FIXTURE_TEARDOWN_PARENT(storm)
{
	size_t i;

	self->stop = true;
	for (i = 0; i < ARRAY_SIZE(self->task); i++)
		end_process(&self->task[i]);
	del_array(STORM_ARRAY);
}

#define stopped(self)	__atomic_load_n(&(self)->stop, __ATOMIC_RELAXED)

static int notifier(FIXTURE_DATA(storm) * self)
{
	while (!stopped(self)) {
		if (!notify_array(self->state))
			return 1;
		self->notified++;
	}
	return 0;
}

static int mounter(FIXTURE_DATA(storm) * self)
{
	while (!stopped(self)) {
		int mnt, fd, inotify;

		if (unshare(CLONE_NEWNET))
			return 1;
		mnt = detached_mount("sysfs", -1);
		if (mnt < 0)
			return 1;
		/* with a watch, so that there is something to tell */
		inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		fd = open_in(mnt, STORM_ARRAY, O_RDONLY);
		if (fd >= 0) {
			char path[32];

			snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
			inotify_add_watch(inotify, path, IN_MODIFY);
			usleep(1000);
			close(fd);
		}
		close(mnt);
		close(inotify);
		self->mounts++;
	}
	return 0;
}

static int looper(FIXTURE_DATA(storm) * self)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	while (ctl >= 0 && !stopped(self)) {
		int nr = ioctl(ctl, LOOP_CTL_ADD, -1);

		if (nr < 0 || ioctl(ctl, LOOP_CTL_REMOVE, nr) < 0)
			return 1;
		self->loops++;
	}
	return 0;
}

static int cgrouper(FIXTURE_DATA(storm) * self)
{
	int root = detached_mount("cgroup2", -1);

	while (root >= 0 && !stopped(self)) {
		int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

		if (mkdirat(root, "kn_storm", 0755) ||
		    watch_cgroup(inotify, root, "kn_storm/cgroup.events") < 0 ||
		    write_in(root, "kn_storm/cgroup.freeze", "1") ||
		    unlinkat(root, "kn_storm", AT_REMOVEDIR))
			return 1;
		close(inotify);
		self->cgroups++;
	}
	return 0;
}

static int moduler(FIXTURE_DATA(storm) * self)
{
	while (!stopped(self)) {
		int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

		if (load_module() ||
		    inotify_add_watch(inotify, STORM_REFCNT, IN_MODIFY) < 0 || unload_module())
			return 1;
		close(inotify);
		self->modules++;
	}
	return 0;
}

TEST_F_TIMEOUT(storm, notifications_race_with_mounts_and_removals, 60)
{
	static int (* const what[])(FIXTURE_DATA(storm) *) = {
		notifier, mounter, looper, cgrouper, moduler,
	};
	long start = now_ms(), ms;
	int status;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(what); i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(what[i](self));
		self->task[i] = pid;
	}
	while (now_ms() - start < STORM_MS) {
		wait_for(self->inotify, POLLIN, 100);
		drain(self->inotify);
	}
	self->stop = true;
	for (i = 0; i < ARRAY_SIZE(what); i++) {
		ASSERT_EQ(self->task[i], waitpid(self->task[i], &status, 0));
		self->task[i] = 0;
		EXPECT_EQ(0, status);
	}
	TH_LOG("per second: %ld notifications, %ld mounts, %ld loops, %ld cgroups, %ld modules",
	       self->notified * 1000 / STORM_MS, self->mounts * 1000 / STORM_MS,
	       self->loops * 1000 / STORM_MS, self->cgroups * 1000 / STORM_MS,
	       self->modules * 1000 / STORM_MS);
	EXPECT_LT(0UL, self->modules);

	usleep(100000);
	drain(self->inotify);
	ASSERT_TRUE(notify_array(self->state));
	ms = wait_for(self->inotify, POLLIN, LOST_MS);
	EXPECT_LE(0, ms);
	EXPECT_GE(PROMPT_MS, ms);
}

TEST_HARNESS_MAIN
