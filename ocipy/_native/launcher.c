/*
 * The `ocipy` on the PATH: makes the process clean, serves what is common in a container's life (launch.h), else becomes an isolated
 * Python.
 *
 *   caller ── execve ──▶ launcher ── execve ──▶ interpreter.c SITE… -- ARGV…
 *                                          └──▶ python3.X -I -S -B -X utf8 -c BOOT SITE… -- ARGV…   where that was not built
 *
 * It exists because what it does must come before Python's own start: LD_PRELOAD, GLIBC_TUNABLES and a closed
 * descriptor 0 act before any flag of Python is read. Static, no libc: nothing in the environment can reach it.
 *
 * Python and the package are found beside /proc/self/exe, never through the environment or the current directory:
 *   PREFIX/bin/ocipy, PREFIX/bin/python3.X (else the system's), PREFIX/lib/python3.X/site-packages (or Debian's names).
 *
 * sys.path is the standard library, then SITE, so that nothing installed can stand in for a standard module; `site` does
 * not run, so no .pth file, sitecustomize or usercustomize does.
 */
#include <linux/signal.h>
#include "launch.h"

#define BOOT \
	"import sys\n" \
	"a=sys.argv\n" \
	"i=a.index('--')\n" \
	"sys.path+=a[1:i]\n" \
	"del a[:i+1]\n" \
	"from ocipy.cli.boot import boot\n" \
	"boot(a[1:])"
#define SAFE_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PYTHON "/bin/python" PY_VERSION
#define PACKAGE "/ocipy/__init__.py"
#define INTERPRETER "/ocipy/_native/ocipy"
#define FIRST_FD 3
#define MAX_SITES 8

static const char *const allowed_environment[] = {
	"XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS",
};
static const char *const listen_environment[] = {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"};

/* Options that take a value in the next argument: needed to find the end of our own options in `exec`. */
static const char *const valued_options[] = {
	"root", "log", "trace", "log-format", "log-level", "cgroup-manager", "rootless", "criu", "bundle", "b",
	"console-socket", "pid-file", "pidfd-socket", "preserve-fds", "cwd", "env", "e", "user", "u", "additional-gids",
	"g", "process", "p", "process-label", "apparmor", "cap", "c", "cgroup",
};

static const char *const site_directories[] = {
	"/lib/python" PY_VERSION "/site-packages", "/lib64/python" PY_VERSION "/site-packages",
	"/lib/python" PY_VERSION "/dist-packages", "/local/lib/python" PY_VERSION "/dist-packages",
	"/lib/python3/dist-packages",
};
static const char *const system_site_directories[] = {
	"/usr/local/lib/python" PY_VERSION "/dist-packages", "/usr/lib/python3/dist-packages",
};
static const char *const system_pythons[] = {"/usr/bin/python" PY_VERSION, "/usr/local/bin/python" PY_VERSION};

static char prefix[PATH_MAX];
static char python[PATH_MAX];
static char sites[MAX_SITES][PATH_MAX];
static int site_count;

size_t strlen(const char *text)
{
	size_t size = 0;

	while (((volatile const char *)text)[size])
		size++;
	return size;
}

void *memcpy(void *to, const void *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((volatile u8 *)to)[i] = ((const u8 *)from)[i];
	return to;
}

/* The compiler may call these for what it clears or copies itself. */
void *memset(void *to, int byte, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((volatile u8 *)to)[i] = (u8)byte;
	return to;
}

int memcmp(const void *left, const void *right, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const u8 *)left)[i] != ((const u8 *)right)[i])
			return ((const u8 *)left)[i] - ((const u8 *)right)[i];
	return 0;
}

/* ---- texts ---------------------------------------------------------------------------------------------------- */

/* to = left + right; 0 if it does not fit. */
int join(char to[PATH_MAX], const char *left, const char *right)
{
	size_t head = strlen(left);
	size_t tail = strlen(right) + 1;

	if (head + tail > PATH_MAX)
		return 0;
	memcpy(to, left, head);
	memcpy(to + head, right, tail);
	return 1;
}

const char *decimal(long number)
{
	static char digits[24];
	char *at = digits + sizeof(digits) - 1;

	do {
		*--at = (char)('0' + number % 10);
	} while (number /= 10);
	return at;
}

/* One line, one write: callers read our standard error as a whole. */
static __attribute__((noreturn)) void die(const char *first, const char *second, const char *third)
{
	static char line[2 * PATH_MAX];
	const char *parts[] = {"ocipy: ", first, second, third, "\n"};
	size_t size = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t part = strlen(parts[i]);
		if (size + part > sizeof(line))
			part = sizeof(line) - size;
		memcpy(line + size, parts[i], part);
		size += part;
	}
	SYS_QUIET(write, 2, line, size);
	leave(1);
}

/* A whole decimal number of up to 9 digits (a pid has up to 7), else -1. */
static int parse_number(const char *text)
{
	int number = 0;
	int digits = 0;

	if (!text)
		return -1;
	for (; text[digits]; digits++) {
		if (text[digits] < '0' || text[digits] > '9' || digits == 9)
			return -1;
		number = number * 10 + (text[digits] - '0');
	}
	return digits ? number : -1;
}

/* The rest of `text` after `name` and '=', or NULL. */
const char *value_after(const char *text, const char *name)
{
	size_t size = strlen(name);

	for (size_t i = 0; i < size; i++)
		if (text[i] != name[i])
			return NULL;
	return text[size] == '=' ? text + size + 1 : NULL;
}

const char *environment_value(char **environment, const char *name)
{
	const char *value = NULL;

	for (; *environment && !value; environment++)
		value = value_after(*environment, name);
	return value;
}

static int contains(const char *const *names, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (same(names[i], name))
			return 1;
	return 0;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------ */

/* --preserve-fds of our own command line. A program's arguments (`exec ID program …`) are not ours to read. */
static int preserve_option(char **argv)
{
	const char *verb = NULL;
	int found = 0;

	for (argv += *argv != NULL; *argv; argv++) {
		const char *name = *argv;
		const char *value;

		if (name[0] != '-' || !name[1]) {
			if (verb && same(verb, "exec"))
				break;
			verb = verb ? verb : name;
			continue;
		}
		name += name[1] == '-' ? 2 : 1;
		if (!*name)
			break;
		value = value_after(name, "preserve-fds");
		if (!value && contains(valued_options, ARRAY_SIZE(valued_options), name) && argv[1]) {
			value = same(name, "preserve-fds") ? argv[1] : NULL;
			argv++;
		}
		if (value)
			found = parse_number(value);
	}
	return found < 0 ? 0 : found; /* nonsense is for the parser of options to report */
}

/* Is --trace among the global options? */
static int wants_trace(char **argv)
{
	for (argv += *argv != NULL; *argv && (*argv)[0] == '-'; argv++) {
		const char *name = *argv + 1 + ((*argv)[1] == '-');

		if (same(name, "trace") || value_after(name, "trace"))
			return 1;
		argv += contains(valued_options, ARRAY_SIZE(valued_options), name) && argv[1];
	}
	return 0;
}

/* CLOCK_MONOTONIC in nanoseconds. */
static u64 monotonic(void)
{
	u64 time[2] = {0, 0};

	SYS_QUIET(clock_gettime, 1, time);
	return time[0] * 1000000000 + time[1];
}

/* LISTEN_FDS counts if it is addressed to this process: a stale one would let a stranger's descriptors through. */
static int listen_descriptors(char **environment)
{
	int count = parse_number(environment_value(environment, "LISTEN_FDS"));
	const char *pid = environment_value(environment, "LISTEN_PID");

	if (count <= 0 || (pid && parse_number(pid) != SYS_QUIET(getpid)))
		return 0;
	return count;
}

static int is_open(int fd)
{
	return SYS_QUIET(fcntl, fd, F_GETFD) >= 0;
}

/* 0 to 2 are open, what is preserved stays as it is, everything else ends with the next execve. */
static void settle_descriptors(int listen, int preserve)
{
	for (int fd = 0; fd < FIRST_FD; fd++)
		if (!is_open(fd) && SYS_QUIET(openat, AT_FDCWD, "/dev/null", O_RDWR) != fd)
			leave(1); /* nowhere to say so */
	for (int fd = FIRST_FD; fd < FIRST_FD + listen + preserve; fd++)
		if (!is_open(fd))
			die(fd < FIRST_FD + listen ? "LISTEN_FDS" : "--preserve-fds", " names a file descriptor that is not open: ",
			    decimal(fd));
	if (SYS_QUIET(close_range, FIRST_FD + listen + preserve, ~0U, FD_CLOEXEC_RANGE) < 0)
		die("close_range(CLOSE_RANGE_CLOEXEC) was refused; ocipy needs Linux 5.12 or newer", "", "");
}

/* A caller that ignores SIGCHLD would let the kernel reap our children; a blocked SIGTERM would never end us. A closed pipe and a
 * limit on the size of files are errors, for words: so Python has it too. */
static void settle_signals(void)
{
	u64 none = 0;
	u64 action[4] = {0, 0, 0, 0}, ignore[4] = {(u64)SIG_IGN, 0, 0, 0};

	SYS_QUIET(rt_sigaction, SIGCHLD, action, NULL, sizeof(none));
	SYS_QUIET(rt_sigaction, SIGPIPE, ignore, NULL, sizeof(none));
	SYS_QUIET(rt_sigaction, SIGXFSZ, ignore, NULL, sizeof(none));
	SYS_QUIET(rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
}

/* ---- Python and the package --------------------------------------------------------------------------------------- */

static int exists(const char *path, int mode)
{
	return SYS_QUIET(faccessat, AT_FDCWD, path, mode) == 0;
}

#define EXISTS 0
#define EXECUTABLE 1

/* /proc/self/exe is PREFIX/bin/ocipy. */
static void find_prefix(void)
{
	long size = SYS_QUIET(readlinkat, AT_FDCWD, "/proc/self/exe", prefix, sizeof(prefix) - 1);

	if (size < 0)
		die("/proc/self/exe cannot be read: is /proc mounted?", "", "");
	for (int slashes = 0; size > 0 && slashes < 2; slashes += prefix[size] == '/')
		size--;
	prefix[size] = 0;
}

static void find_python(void)
{
	if (join(python, prefix, PYTHON) && exists(python, EXECUTABLE))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(system_pythons); i++)
		if (exists(system_pythons[i], EXECUTABLE)) {
			join(python, system_pythons[i], "");
			return;
		}
	die("no python" PY_VERSION " in ", prefix, "/bin nor in /usr/bin: install it, or reinstall ocipy for the Python that there is");
}

/* interpreter.c, where it was built and the library that it was built for is still there. */
static int find_interpreter(void)
{
#ifdef LIBPYTHON
	return join(python, sites[0], INTERPRETER) && exists(python, EXECUTABLE) && exists(LIBPYTHON, EXISTS);
#else
	return 0;
#endif
}

static void add_site(const char *directory, const char *name)
{
	if (site_count < MAX_SITES && join(sites[site_count], directory, name) && exists(sites[site_count], EXISTS))
		site_count++;
}

/* First the directory that holds the package; outside a virtual environment its dependencies may lie in others. */
static void find_sites(void)
{
	static char path[PATH_MAX];
	const char *home = NULL;

	for (size_t i = 0; !home && i < ARRAY_SIZE(site_directories); i++)
		if (join(path, prefix, site_directories[i]) && join(path, path, PACKAGE) && exists(path, EXISTS))
			home = site_directories[i];
	if (!home)
		die("the package ocipy is not in ", prefix, "/lib/python" PY_VERSION "/site-packages: reinstall ocipy");
	add_site(prefix, home);
	if (join(path, prefix, "/pyvenv.cfg") && exists(path, EXISTS))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(site_directories); i++)
		if (site_directories[i] != home)
			add_site(prefix, site_directories[i]);
	for (size_t i = 0; i < ARRAY_SIZE(system_site_directories); i++)
		add_site(system_site_directories[i], "");
}

/* ---- execve ------------------------------------------------------------------------------------------------------- */

#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20

static char **python_arguments(int own, long argc, char **argv)
{
	static const char *const fixed[] = {python, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT};
	size_t flags = own ? 1 : ARRAY_SIZE(fixed);
	size_t size = (ARRAY_SIZE(fixed) + MAX_SITES + (size_t)argc + 4) * sizeof(char *);
	long memory = SYS_QUIET(mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	const char **all = (const char **)memory;
	size_t count = 0;

	if (memory < 0 && memory > -4096)
		die("out of memory", "", "");
	for (size_t i = 0; i < flags; i++)
		all[count++] = fixed[i];
	for (int i = 0; i < site_count; i++)
		all[count++] = sites[i];
	all[count++] = "--";
	if (argc == 0)
		all[count++] = "ocipy";
	for (long i = 0; i < argc; i++)
		all[count++] = argv[i];
	return (char **)memory;
}

/* LC_ALL: texts of errors in English, whatever the caller's language, and no search for locales. */
static char **python_environment(char **environment, int listen, u64 began)
{
	static char *all[ARRAY_SIZE(allowed_environment) + ARRAY_SIZE(listen_environment) + 5] = {SAFE_PATH, "LC_ALL=C"};
	static char report[PATH_MAX], trace[PATH_MAX];
	size_t count = 2;

	if (start_report() && join(report, "OCIPY_START_REPORT=", start_report()))
		all[count++] = report;
	if (began) { /* for cli/trace.py: when we were executed, and when Python is */
		join(trace, "OCIPY_TRACE=", decimal((long)began));
		join(trace, trace, " ");
		join(trace, trace, decimal((long)monotonic()));
		all[count++] = trace;
	}

	for (size_t i = 0; i < ARRAY_SIZE(allowed_environment) + (listen ? ARRAY_SIZE(listen_environment) : 0); i++) {
		const char *name = i < ARRAY_SIZE(allowed_environment) ? allowed_environment[i]
								       : listen_environment[i - ARRAY_SIZE(allowed_environment)];
		char **at = environment;

		while (*at && !value_after(*at, name))
			at++;
		if (*at)
			all[count++] = *at;
	}
	return all;
}

__attribute__((used, noreturn)) void launcher_main(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	char **environment = argv + argc + 1;
	int listen = listen_descriptors(environment);
	char **arguments;
	u64 began = wants_trace(argv) ? monotonic() : 0;
	int status, own;

	settle_descriptors(listen, preserve_option(argv));
	settle_signals();
	status = serve(argv, environment);
	if (status != FALLBACK)
		leave(status);
	find_prefix();
	find_sites();
	own = find_interpreter();
	if (!own)
		find_python();
	arguments = python_arguments(own, argc, argv);
	SYS_QUIET(execve, python, arguments, python_environment(environment, listen, began));
	die(python, " cannot be executed: reinstall ocipy for a Python of this machine", "");
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall launcher_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl launcher_main\n");
#endif
