/* The end of a plan: directory, program, ready, start, execve. runtime.md, Lifecycle; config.md, Process. */
#include <linux/signal.h>
#include "init.h"

/* getcwd says "(unreachable)" of a directory outside our root (CVE-2024-21626). */
static long verify_cwd(void)
{
	char path[PATH_MAX];
	long size = SYS(getcwd, path, sizeof(path));

	if (size < 0)
		return size;
	if (path[0] == '/')
		return 0;
	now = CALL_verify;
	return -EPERM;
}

/* Not by a path that may lead through a magic link: what leaked into us must not be anyone's directory. */
static long enter(const char *path)
{
	int fd = open_in_root(path, O_PATH | O_DIRECTORY, 0);
	long error = fd < 0 ? fd : SYS(fchdir, fd);

	close_fd(fd);
	return error;
}

/* Tried before the change of user, for directories that only root may enter, and after it, for those that only the user
 * may (root-squashed mounts). */
long do_cwd(const struct step *step)
{
	const char *path = TEXT(step, CWD, path);
	long error;

	if (self.in_cwd)
		return 0;
	error = enter(path);
	if (error == -ENOENT && NUMBER(step, CWD, create)) {
		int fd = create_in_root(path, DIRECTORY, 0755);
		error = fd < 0 ? fd : enter(path);
		close_fd(fd);
	}
	if (error == -EACCES && !NUMBER(step, CWD, final))
		return 0;
	if (error < 0)
		return error;
	self.in_cwd = 1;
	return verify_cwd();
}

/* The home directory of a uid: the sixth field of its line. `line` is one line of passwd without its end. */
static int home_of(const char *line, size_t size, u64 uid, const char **home, size_t *home_size)
{
	size_t start[8], fields = 0;
	u64 number = 0;

	start[fields++] = 0;
	for (size_t i = 0; i < size && fields < 7; i++)
		if (line[i] == ':')
			start[fields++] = i + 1;
	if (fields < 7 || start[3] - start[2] < 2)
		return 0;
	for (size_t i = start[2]; i < start[3] - 1; i++) {
		if (line[i] < '0' || line[i] > '9' || number > 0xffffffff)
			return 0;
		number = number * 10 + (u64)(line[i] - '0');
	}
	*home = line + start[5];
	*home_size = start[6] - start[5] - 1;
	return number == uid;
}

static void set_home(const char *home, size_t size)
{
	if (size == 0 || size > sizeof(self.home) - 6)
		home = "/", size = 1;
	memcpy(self.home, "HOME=", 5);
	memcpy(self.home + 5, home, size);
	self.home[5 + size] = 0;
	self.home_size = 5 + size;
}

#define PASSWD_LIMIT (4 << 20)

/* An image may put a link to /dev/zero there, or a file of exabytes: what has no end is not read. */
static int open_passwd(void)
{
	struct statx info;
	int fd = open_in_root("/etc/passwd", O_RDONLY | O_NONBLOCK, 0);

	if (fd >= 0 && stat_fd(fd, &info) == 0 && file_type(&info) == S_IFREG && info.stx_size <= PASSWD_LIMIT)
		return fd;
	close_fd(fd);
	return -1;
}

/* HOME, where the config has none: from the container's own passwd, "/" if it has no such user. */
long do_home(const struct step *step)
{
	char buffer[2048];
	size_t held = 0, all = 0;
	const char *home;
	size_t home_size;
	int fd = open_passwd();
	long got;

	set_home("/", 1);
	if (fd < 0)
		return 0;
	while (all < PASSWD_LIMIT && (got = SYS_QUIET(read, fd, buffer + held, sizeof(buffer) - held)) > 0) {
		size_t line = 0;
		held += (size_t)got;
		all += (size_t)got;
		for (size_t i = 0; i < held; i++) {
			if (buffer[i] != '\n')
				continue;
			if (home_of(buffer + line, i - line, NUMBER(step, HOME, uid), &home, &home_size)) {
				set_home(home, home_size);
				close_fd(fd);
				return 0;
			}
			line = i + 1;
		}
		if (line == 0 && held == sizeof(buffer))
			line = held; /* no line is that long */
		for (size_t i = line; i < held; i++)
			buffer[i - line] = buffer[i];
		held -= line;
	}
	if (held && home_of(buffer, held, NUMBER(step, HOME, uid), &home, &home_size))
		set_home(home, home_size);
	close_fd(fd);
	return 0;
}

/* Is there a program of this name that the user may execute? */
static long try_program(const char *directory, size_t size, const char *name)
{
	struct statx info;
	size_t name_size = strlen(name);
	long error;

	if (size + name_size + 2 > sizeof(self.program))
		return -ENAMETOOLONG;
	memcpy(self.program, directory, size);
	if (size)
		self.program[size++] = '/';
	memcpy(self.program + size, name, name_size + 1);
	now = CALL_fstat;
	error = SYS_QUIET(statx, AT_FDCWD, self.program, 0, STATX_BASIC_STATS, &info);
	if (error == 0 && file_type(&info) == S_IFDIR)
		error = -EISDIR;
	if (error == 0) {
		now = CALL_faccessat2;
		error = SYS_QUIET(faccessat, AT_FDCWD, self.program, 1);
	}
	return error;
}

/* args[0] as execvp would find it: engines want to hear at create that it is not there. */
long do_lookup(const struct step *step)
{
	const char *program = TEXT(step, LOOKUP, program), *search = TEXT(step, LOOKUP, search);
	long denied = 0;

	for (const char *at = program; *at; at++)
		if (*at == '/')
			return try_program("", 0, program);
	while (*program && search && *search) {
		size_t size = 0;
		while (search[size] && search[size] != ':')
			size++;
		long error = size ? try_program(search, size, program) : try_program(".", 1, program);
		if (error == 0)
			return 0;
		if (error == -EACCES)
			denied = error;
		search += search[size] ? size + 1 : size;
	}
	now = CALL_lookup;
	return denied ? denied : -ENOENT;
}

/* Closes all from `first` on but what init itself still needs (the root is the container's own): whoever waits for the end of
 * a pipe that leaked into create must not wait for the container. */
long do_close_fds(const struct step *step)
{
	int keep[] = {self.sync, self.root, FD(step, CLOSE_FDS, listener), FD(step, CLOSE_FDS, lock)};
	int from = (int)NUMBER(step, CLOSE_FDS, first);

	close_fd(self.proc);
	self.proc = -1;
	for (;;) {
		int next = -1;
		for (u32 i = 0; i < ARRAY_SIZE(keep); i++)
			if (keep[i] >= from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0)
			return SYS(close_range, from, ~0U, 0);
		long error = next > from ? SYS(close_range, from, next - 1, 0) : 0;
		if (error < 0)
			return error;
		from = next + 1;
	}
}

#define F_OFD_SETLK 37

struct file_lock {
	u16 type;
	u16 whence;
	i64 start;
	i64 size;
	int pid;
};

/* While init holds the lock the container is "created"; execve closes the descriptor and with it frees the lock. */
long do_lock(const struct step *step)
{
	struct file_lock lock = {.type = F_WRLCK};

	return SYS(fcntl, FD(step, LOCK, lock), F_OFD_SETLK, &lock);
}

long do_ready(const struct step *step)
{
	long error = report_fd(REPORT_READY, 0, 0, -1);

	(void)step;
	if (error < 0)
		return error;
	await_ack();
	return 0;
}

static void die_of(int signal)
{
	leave(128 + signal);
}

#define SA_RESTORER 0x04000000

/* pid 1 of a namespace ignores signals that it has no handler for; execve removes the handlers. */
static void catch_signals(void)
{
	static const u8 terminating[] = {1, 2, 3, 6, 10, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30};
	u64 action[4] = {(u64)die_of, SA_RESTORER, (u64)die_of, 0};
#if defined(__aarch64__)
	action[1] = action[2] = 0; /* no restorer in this architecture's structure: handler, flags, mask */
#endif

	for (u32 i = 0; i < sizeof(terminating); i++)
		SYS_QUIET(rt_sigaction, terminating[i], action, NULL, sizeof(u64));
}

/* A `start` that dies before GO leaves the container created: back to accept. */
long do_wait_start(const struct step *step)
{
	struct report report;

	catch_signals();
	close_fd(self.sync);
	self.sync = -1;
	for (;;) {
		long connection = SYS(accept4, FD(step, WAIT_START, listener), NULL, NULL, O_CLOEXEC);
		if (connection == -EINTR || connection == -ECONNABORTED)
			continue;
		if (connection < 0)
			leave(1); /* no limit of open files is too small to be set, but this one is to be started with */
		long size = SYS_QUIET(recvfrom, connection, &report, sizeof(report));
		if (size == sizeof(report) && report.kind == REPORT_GO) {
			self.channel = (int)connection;
			if (report.value && self.traced != UNTRACEABLE) { /* start is traced: it hears of the steps here */
				self.traced = TRACED;
				self.marks = NULL;
			}
			close_fd(FD(step, WAIT_START, listener));
			return 0;
		}
		close_fd((int)connection);
	}
}

#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22

/* Pointers to the texts of args and env; HOME goes last when a step looked it up. */
static const char **vectors(const struct step *step)
{
	u64 count = COUNT(step, EXEC, args) + COUNT(step, EXEC, env) + 3;
	long memory = SYS(mmap, NULL, count * sizeof(char *), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
	const char **vector = (const char **)memory;
	const char *text = BYTES(step, EXEC, args);
	u32 at = 0;

	if (memory < 0 && memory > -4096)
		fail(memory);
	for (u32 i = 0; i < COUNT(step, EXEC, args); i++, text += strlen(text) + 1)
		vector[at++] = text;
	vector[at++] = NULL;
	text = BYTES(step, EXEC, env);
	for (u32 i = 0; i < COUNT(step, EXEC, env); i++, text += strlen(text) + 1)
		vector[at++] = text;
	if (self.home_size)
		vector[at++] = self.home;
	vector[at] = NULL;
	return vector;
}

long do_exec(const struct step *step)
{
	const char **args = vectors(step);
	long error = report_fd(REPORT_EXECUTING, 0, 0, -1);

	if (error < 0 && error != -EPIPE && error != -ECONNRESET)
		return error;
	return SYS(execve, self.program, args, args + COUNT(step, EXEC, args) + 1);
}
