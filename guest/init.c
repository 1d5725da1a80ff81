// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's init: mount what the tests need, set up the swap disk for
 * hibernation, run the tests of /tests.list with a limit of time each, and
 * power off.
 *
 * The first serial port is the kernel's console.  The second one carries KTAP
 * and, as its last line, GUEST_DONE: a guest that panics or hangs never gets
 * to write it, and only its presence makes what stands before it a verdict.
 *
 * Each line of /tests.list is "SECONDS NAME [ARG...]" for /tests/NAME.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define GUEST_DONE	"# autofreeze guest: done"
#define MAX_ARGS	64
#define KILL_SECS	10	/* a killed test gets this long to go away */
#define SWAP_SERIAL	"swap"	/* of the virtio disk to use as swap */

static int result = -1;		/* the second serial port */
static bool mute;		/* nothing of the tests to the console */

static void say(const char *fmt, ...)
{
	char line[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	dprintf(result, "%s\n", line);
	if (!mute)
		dprintf(STDOUT_FILENO, "%s\n", line);
}

static int put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = -1;

	if (fd >= 0) {
		ret = write(fd, value, strlen(value)) < 0 ? -1 : 0;
		close(fd);
	}
	return ret;
}

static char *get(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void mount_all(void)
{
	static const char * const mounts[][2] = {
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "devtmpfs", "/dev" },
		{ "tmpfs", "/dev/shm" },
		{ "tmpfs", "/tmp" },
		{ "tmpfs", "/run" },
		{ "debugfs", "/sys/kernel/debug" },
		{ "tracefs", "/sys/kernel/tracing" },
		{ "configfs", "/sys/kernel/config" },
	};
	size_t i;

	for (i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i][1], 0755);
		mount(mounts[i][0], mounts[i][1], mounts[i][0], 0, NULL);
	}
	mkdir("/mnt", 0755);
	symlink("/proc/self/fd", "/dev/fd");
}

static void open_ports(void)
{
	struct termios tio;
	int fd = open("/dev/console", O_RDWR);

	if (fd >= 0) {
		dup2(fd, STDIN_FILENO);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		if (fd > STDERR_FILENO)
			close(fd);
	}
	result = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (result < 0 || tcgetattr(result, &tio)) {
		result = STDOUT_FILENO;
		return;
	}
	tio.c_oflag &= ~OPOST;		/* no carriage returns */
	tcsetattr(result, TCSANOW, &tio);
}

/* A hang is a verdict: whatever hangs longer than any test may panics. */
static void set_watchdogs(void)
{
	put("/proc/sys/kernel/hung_task_timeout_secs", "150");
	put("/proc/sys/kernel/hung_task_panic", "1");
	put("/proc/sys/kernel/softlockup_panic", "1");
	put("/proc/sys/kernel/sysrq", "1");
}

static bool find_disk(const char *serial, char *name, size_t size)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *de;
	bool found = false;
	char path[300], buf[64];

	while (dir && !found && (de = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/block/%s/serial", de->d_name);
		if (de->d_name[0] == '.' || strcmp(get(path, buf, sizeof(buf)), serial))
			continue;
		snprintf(name, size, "%.31s", de->d_name);
		found = true;
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Leaves a header that is already there alone: it may be an image's. */
static int make_swap(const char *dev)
{
	char page[4096] = { 0 };
	uint32_t info[2];
	uint64_t bytes = 0;
	int fd = open(dev, O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0 || read(fd, page, sizeof(page)) < 0)
		goto fail;
	if (!memcmp(page + 4086, "SWAPSPACE2", 10) || !memcmp(page + 4086, "S1SUSPEND", 10)) {
		close(fd);
		return 0;
	}
	memset(page, 0, sizeof(page));
	info[0] = 1;				/* version */
	info[1] = bytes / sizeof(page) - 1;	/* last page */
	memcpy(page + 1024, info, sizeof(info));
	memcpy(page + 4086, "SWAPSPACE2", 10);
	if (pwrite(fd, page, sizeof(page), 0) != sizeof(page) || fsync(fd))
		goto fail;
	close(fd);
	return 0;
fail:
	if (fd >= 0)
		close(fd);
	return -1;
}

/*
 * Naming the resume device makes the kernel look for an image there: it comes
 * back here when there is none, and before swapon(), which needs the disk for
 * itself.
 */
static void set_up_swap(void)
{
	char name[32], dev[64], num[32];
	struct stat st;

	if (!find_disk(SWAP_SERIAL, name, sizeof(name)))
		return;
	snprintf(dev, sizeof(dev), "/dev/%s", name);
	if (stat(dev, &st)) {
		say("# swap: no %s", dev);
		return;
	}
	snprintf(num, sizeof(num), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	if (make_swap(dev) || put("/sys/power/resume", num) || swapon(dev, 0))
		say("# swap: %s: %s", dev, strerror(errno));
}

static void pass_on(const char *line, int len, const char *name)
{
	say("  %.*s", len, line);
	if (len > 11 && strstr(line, "TAP version"))
		say("  # Subtest: %s", name);
}

/* Pass on the output of a test, line by line, until it ends or @end. */
static bool relay(int fd, double end, const char *name)
{
	char buf[4096] = "";
	size_t used = 0;

	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		double left = end - now();
		char *nl;
		ssize_t n;

		if (left <= 0)
			return false;
		if (poll(&pfd, 1, left * 1000 + 1) <= 0)
			continue;
		n = read(fd, buf + used, sizeof(buf) - 1 - used);
		if (n <= 0) {
			if (used)
				pass_on(buf, used, name);
			return true;
		}
		used += n;
		while ((nl = memchr(buf, '\n', used))) {
			*nl = '\0';
			pass_on(buf, nl - buf, name);
			used -= nl + 1 - buf;
			memmove(buf, nl + 1, used);
		}
		if (used == sizeof(buf) - 1) {
			pass_on(buf, used, name);
			used = 0;
		}
	}
}

static bool reap(pid_t pid, int *status, double end)
{
	for (;;) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		if (now() >= end)
			return false;
		usleep(20000);
	}
}

static pid_t start(char **argv, int *out)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -1;
	pid = fork();
	if (pid == 0) {
		setsid();
		dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
		dup2(fds[1], STDOUT_FILENO);
		dup2(fds[1], STDERR_FILENO);
		if (chdir("/tests") == 0)
			execv(argv[0], argv);
		dprintf(STDOUT_FILENO, "# %s: %s\n", argv[0], strerror(errno));
		_exit(1);
	}
	close(fds[1]);
	*out = fds[0];
	return pid;
}

/* Returns false when the guest is of no more use. */
static bool run_test(unsigned int number, char *line)
{
	char *argv[MAX_ARGS + 1], path[256], *word, *save;
	unsigned int argc = 0;
	double secs = atof(strtok_r(line, " \t", &save)), begin = now();
	const char *name = strtok_r(NULL, " \t", &save), *verdict;
	char why[64] = "";
	bool ended, usable = true;
	int out = -1, status = 0;
	pid_t pid;

	snprintf(path, sizeof(path), "/tests/%s", name);
	argv[argc++] = path;
	while (argc < MAX_ARGS && (word = strtok_r(NULL, " \t", &save)))
		argv[argc++] = word;
	argv[argc] = NULL;

	pid = start(argv, &out);
	ended = relay(out, begin + secs, name);
	if (ended)
		ended = reap(pid, &status, begin + secs);
	if (!ended) {
		/* what it waits for belongs into the log, before it is killed */
		put("/proc/sysrq-trigger", "w");
		kill(-pid, SIGKILL);
		usable = reap(pid, &status, now() + KILL_SECS);
		snprintf(why, sizeof(why), " # TIMEOUT %.0f s%s", secs,
			 usable ? "" : ", cannot be killed");
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == 4) {
		snprintf(why, sizeof(why), " # SKIP");
	} else if (WIFEXITED(status) && WEXITSTATUS(status)) {
		snprintf(why, sizeof(why), " # exit=%d", WEXITSTATUS(status));
	} else if (WIFSIGNALED(status)) {
		snprintf(why, sizeof(why), " # signal=%d", WTERMSIG(status));
	}
	close(out);
	verdict = !*why || !strcmp(why, " # SKIP") ? "ok" : "not ok";
	say("# %s took %.1f s", name, now() - begin);
	say("%s %u %s%s", verdict, number, name, why);
	return usable;
}

static void run_tests(void)
{
	FILE *list = fopen("/tests.list", "re");
	char *lines[256], *line = NULL;
	unsigned int count = 0, i;
	size_t size = 0;
	bool usable = true;

	while (list && count < 256 && getline(&line, &size, list) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (strchr(line, ' '))
			lines[count++] = strdup(line);
	}
	if (list)
		fclose(list);
	say("KTAP version 1");
	say("1..%u", count);
	for (i = 0; i < count; i++) {
		if (usable)
			usable = run_test(i + 1, lines[i]);
		else
			say("not ok %u %s # not run: the guest hangs", i + 1,
			    strchr(lines[i], ' ') + 1);
	}
}

int main(void)
{
	char cmdline[4096];

	setenv("PATH", "/tests:/bin:/sbin:/usr/bin:/usr/sbin", 1);
	setenv("HOME", "/tmp", 1);
	mount_all();
	open_ports();
	get("/proc/cmdline", cmdline, sizeof(cmdline));
	mute = strstr(cmdline, "af.mute");
	set_watchdogs();
	set_up_swap();
	if (strstr(cmdline, "af.resume"))
		say("# there was no image to resume");
	else
		run_tests();
	say(GUEST_DONE);
	tcdrain(result);
	/* no sync and no umount: after a hang neither comes back */
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
