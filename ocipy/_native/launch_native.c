/*
 * state, start, kill and delete without Python: a container's life needs each of them, and an interpreter takes ten times as long to
 * start as the work takes. Of the command line only what engines send is understood here.
 */
#include "launch.h"

#define AF_UNIX 1
#define SOCK_SEQPACKET_CLOEXEC (5 | O_CLOEXEC)
#define MSG_NOSIGNAL 0x4000
#define LOCK_EX_NB (2 | 4)
#define OUTPUT_LIMIT (RECORD_LIMIT + 4096)

int entry_fd = -1;

static struct options {
	const char *root, *verb, *id, *signal;
	int force;
} options;

static char output[OUTPUT_LIMIT];
static size_t output_size;

/* What start says to init, and init to start (container/reports.py). */
struct report {
	u32 kind, step, call, error;
	u64 value;
};

static struct report failure;
static char failure_text[2 * sizeof(struct report) + 1];

/* ---- the command line --------------------------------------------------------------------------------------------------- */

static int is_one_of(const char *text, const char *const *words)
{
	for (; *words; words++)
		if (same(text, *words))
			return 1;
	return 0;
}

/* The global options that engines send, and that change nothing here as long as all goes well. */
static int known_option(const char *name, const char *value)
{
	static const char *const styles[] = {"text", "json", NULL}, *const levels[] = {"error", "warning", NULL};
	static const char *const managers[] = {"cgroupfs", "systemd", "disabled", NULL}, *const rootless[] = {"true", "false", "auto", NULL};

	if (same(name, "root"))
		options.root = value;
	return same(name, "root") || same(name, "log") || (same(name, "log-format") && is_one_of(value, styles)) ||
	       (same(name, "log-level") && is_one_of(value, levels)) ||
	       (same(name, "cgroup-manager") && is_one_of(value, managers)) || (same(name, "rootless") && is_one_of(value, rootless));
}

/* Up to the verb; NULL when there is something else. */
static char **parse_global(char **argv)
{
	static char name[32];

	for (; *argv && **argv == '-'; argv++) {
		const char *option = *argv + 1 + ((*argv)[1] == '-');
		size_t size = 0;

		while (option[size] && option[size] != '=' && size < sizeof(name) - 1) {
			name[size] = option[size];
			size++;
		}
		name[size] = 0;
		if (same(option, "systemd-cgroup"))
			continue;
		if (option[size] != '=' && !*++argv)
			return NULL;
		if (!known_option(name, option[size] == '=' ? option + size + 1 : *argv))
			return NULL;
	}
	return *argv ? argv : NULL;
}

static int parse_verb(char **argv)
{
	static const char *const verbs[] = {"state", "start", "kill", "delete", NULL};

	options.verb = *argv++;
	if (!is_one_of(options.verb, verbs))
		return 0;
	for (; *argv; argv++) {
		if (same(options.verb, "delete") && (same(*argv, "--force") || same(*argv, "-f") || same(*argv, "-force")))
			options.force = 1;
		else if (**argv == '-' || !**argv)
			return 0;
		else if (!options.id)
			options.id = *argv;
		else if (same(options.verb, "kill") && !options.signal)
			options.signal = *argv;
		else
			return 0;
	}
	return options.id != NULL;
}

static int is_id(const char *id)
{
	size_t size = strlen(id);

	for (size_t i = 0; i < size; i++) {
		char c = id[i];
		if (!((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9') && c != '_' && c != '+' && c != '-' && c != '.')
			return 0;
	}
	return size > 0 && size <= 255 && !same(id, ".") && !same(id, "..");
}

/* ---- the entry ----------------------------------------------------------------------------------------------------------- */

static int in_user_namespace(void)
{
	static char map[64];
	static const char *const host[] = {"0", "0", "4294967295"};
	const char *at = map;

	if (read_text(AT_FDCWD, "/proc/self/uid_map", map, sizeof(map)) <= 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(host); i++) {
		while (*at == ' ')
			at++;
		if (memcmp(at, host[i], strlen(host[i])) != 0)
			return 1;
		at += strlen(host[i]);
	}
	return *at != '\n';
}

/* As default_root() of store.py: an absolute path, or 0. */
static int find_root(char **environment)
{
	static char path[PATH_MAX];
	const char *runtime = environment_value(environment, "XDG_RUNTIME_DIR");
	int has_runtime = runtime && *runtime;

	if (!options.root && SYS_QUIET(geteuid) == 0 && !(has_runtime && in_user_namespace()))
		options.root = "/run/ocipy";
	if (!options.root && has_runtime && join(path, runtime, "/ocipy"))
		options.root = path;
	if (!options.root || options.root[0] != '/')
		return 0;
	for (const char *at = options.root; *at; at++)
		if (at[0] == '.' && at[1] == '.')
			return 0;
	return 1;
}

/* "" when it is too long. */
const char *entry_path(void)
{
	static char path[PATH_MAX];

	if (!join(path, options.root, "/") || !join(path, path, options.id))
		path[0] = 0;
	return path;
}

/* As Entry.lock() of store.py: whoever waits for it finds us in its text. A directory without a lock is no usual container. */
int lock_entry(void)
{
	static char text[PATH_MAX];
	struct statx info;
	long fd = SYS_QUIET(openat, entry_fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	u64 pid = (u64)SYS_QUIET(getpid), time = start_time(pid);

	if (fd < 0)
		return 0;
	if (SYS_QUIET(flock, fd, LOCK_EX_NB) < 0 ||
	    SYS_QUIET(statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &info) < 0 || info.stx_nlink == 0 ||
	    time == UNKNOWN) {
		close_fd((int)fd);
		return 0;
	}
	join(text, decimal((long)pid), " ");
	join(text, text, decimal((long)time));
	join(text, text, " other\n");
	SYS_QUIET(pwrite64, fd, text, strlen(text), 0);
	return 1;
}

/* ---- state ------------------------------------------------------------------------------------------------------------------ */

static void put(const char *text, size_t size)
{
	if (output_size + size > sizeof(output))
		size = 0, output_size = sizeof(output) + 1; /* too long: told by write_output */
	else
		memcpy(output + output_size, text, size);
	output_size += size;
}

static void put_text(const char *text)
{
	put(text, strlen(text));
}

static void put_member(const char *name, const char *value, size_t size)
{
	put_text(output_size ? ",\n  \"" : "{\n  \"");
	put_text(name);
	put_text("\": ");
	put(value, size);
}

/* Compact in the record, an entry on each line here. */
static void put_annotations(struct value table)
{
	int quoted = 0;

	put_text(",\n  \"annotations\": {");
	for (u32 i = 1; i < table.size - 1; i++) {
		char c = table.at[i];
		if (i == 1)
			put_text("\n    ");
		put(&c, 1);
		if (quoted && c == '\\')
			put(table.at + ++i, 1);
		else if (c == '"')
			quoted = !quoted;
		else if (!quoted && c == ',')
			put_text("\n    ");
		else if (!quoted && c == ':')
			put_text(" ");
	}
	put_text("\n  }");
}

static int write_output(void)
{
	static const char torn[] = "ocipy: the state could not be written to the end\n";
	size_t done = 0;

	if (output_size > sizeof(output))
		return FALLBACK;
	while (done < output_size) {
		long written = SYS_QUIET(write, 1, output + done, output_size - done);
		if (written <= 0 && done) {
			SYS_QUIET(write, 2, torn, sizeof(torn) - 1);
			return 1;
		}
		if (written <= 0)
			return FALLBACK;
		done += (size_t)written;
	}
	return 0;
}

static int serve_state(const struct record *record)
{
	int pidfd = open_init(record);
	const char *status = "stopped", *pid = "0";

	if (pidfd == FALLBACK)
		return FALLBACK;
	if (pidfd >= 0) {
		int frozen = is_frozen(record), waits = waits_for_start();
		if (frozen == FALLBACK || waits == FALLBACK)
			return FALLBACK;
		status = frozen ? "paused" : waits ? "created" : "running";
		pid = decimal((long)record->pid);
	}
	put_member("ociVersion", "\"" SPEC_VERSION "\"", sizeof(SPEC_VERSION) + 1);
	put_member("id", record->id.at, record->id.size);
	put_member("pid", pid, strlen(pid));
	put_member("status", "\"", 1);
	put_text(status);
	put_text("\"");
	put_member("bundle", record->bundle.at, record->bundle.size);
	put_member("rootfs", record->rootfs.at, record->rootfs.size);
	put_member("created", record->created.at, record->created.size);
	if (record->annotations.size > 2)
		put_annotations(record->annotations);
	put_member("owner", "\"\"", 2);
	put_text("\n}");
	return write_output();
}

/* ---- kill --------------------------------------------------------------------------------------------------------------------- */

#define SIGKILL 9
#define SIGTERM 15
#define SIGNALS 64

/* A number or a usual name; FALLBACK for what Python may know. */
static int parse_signal(const char *text)
{
	static const char *const names[] = {"HUP",  "INT",  "QUIT",   "ILL",  "TRAP", "ABRT", "BUS",  "FPE",  "KILL", "USR1",
					    "SEGV", "USR2", "PIPE",   "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP"};
	int number = 0;

	if (*text >= '0' && *text <= '9') {
		for (int i = 0; text[i]; i++) {
			if (text[i] < '0' || text[i] > '9' || i == 3)
				return FALLBACK;
			number = number * 10 + text[i] - '0';
		}
		return number <= SIGNALS ? number : FALLBACK;
	}
	if (text[0] == 'S' && text[1] == 'I' && text[2] == 'G')
		text += 3;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (same(text, names[i]))
			return (int)i + 1;
	return FALLBACK;
}

static int serve_kill(const struct record *record)
{
	int signal = options.signal ? parse_signal(options.signal) : SIGTERM;
	int pidfd;

	if (signal == FALLBACK)
		return FALLBACK;
	/* Who shares a pid namespace with others leaves processes behind; who is frozen does not die. */
	if (signal == SIGKILL && (!record->own_pid_namespace || is_frozen(record)))
		return FALLBACK;
	pidfd = open_init(record);
	if (pidfd < 0 || SYS_QUIET(pidfd_send_signal, pidfd, signal, NULL, 0) < 0)
		return FALLBACK;
	return signal == SIGKILL && is_frozen(record) ? FALLBACK : 0; /* frozen meanwhile */
}

/* ---- start -------------------------------------------------------------------------------------------------------------------- */

struct address {
	u16 family;
	char path[108];
};

static int connect_to_init(void)
{
	struct address address = {.family = AF_UNIX};
	static char path[PATH_MAX];
	long fd = SYS_QUIET(socket, AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0);

	if (fd < 0)
		return FALLBACK;
	join(path, "/proc/self/fd/", decimal(entry_fd));
	join(path, path, "/start");
	memcpy(address.path, path, strlen(path) + 1);
	if (SYS_QUIET(connect, fd, &address, sizeof(address)) == 0)
		return (int)fd;
	close_fd((int)fd);
	return FALLBACK;
}

/* GO, then reports until the end of file. What went wrong goes to Python, which has the words: init is gone by then. */
static int serve_start(void)
{
	struct report report = {.kind = REPORT_GO};
	int executing = 0;
	int fd = connect_to_init();

	if (fd < 0)
		return FALLBACK;
	if (SYS_QUIET(sendto, fd, &report, sizeof(report), MSG_NOSIGNAL) < 0)
		return FALLBACK;
	for (;;) {
		long size = SYS_QUIET(recvfrom, fd, &report, sizeof(report));
		if (size == -EINTR)
			continue;
		if (size != sizeof(report))
			break;
		executing |= report.kind == REPORT_EXECUTING;
		if (report.kind == REPORT_ERROR) {
			failure = report;
			return FALLBACK;
		}
	}
	if (executing)
		return 0;
	failure.kind = REPORT_GO; /* its init ended */
	return FALLBACK;
}

/* For Python: what init answered to GO, in hexadecimal, or NULL. */
const char *start_report(void)
{
	static const char digits[] = "0123456789abcdef";
	const u8 *bytes = (const u8 *)&failure;

	if (!failure.kind)
		return NULL;
	for (size_t i = 0; i < sizeof(failure); i++) {
		failure_text[2 * i] = digits[bytes[i] >> 4];
		failure_text[2 * i + 1] = digits[bytes[i] & 15];
	}
	return failure_text;
}

static int may_start(const struct record *record)
{
	int pidfd = open_init(record);
	int ready = pidfd >= 0 && is_frozen(record) == 0 && waits_for_start() == 1;

	close_fd(pidfd);
	return ready;
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------ */

/* The exit status, or FALLBACK. */
int serve(char **argv, char **environment)
{
	static struct record record;
	char **verb = *argv ? parse_global(argv + 1) : NULL;
	long error;

	if (!verb || !parse_verb(verb) || !is_id(options.id) || !find_root(environment))
		return FALLBACK;
	if (same(options.verb, "start") && environment_value(environment, "NOTIFY_SOCKET"))
		return FALLBACK;
	if (!*entry_path())
		return FALLBACK;
	error = SYS_QUIET(openat, AT_FDCWD, entry_path(), O_DIRECTORY_CLOEXEC);
	entry_fd = (int)error;
	if (error == -ENOENT && same(options.verb, "delete") && options.force)
		return 0; /* engines delete twice */
	if (error < 0)
		return FALLBACK;
	if (same(options.verb, "delete"))
		return serve_delete(options.id, options.force);
	if (same(options.verb, "start") && !lock_entry())
		return FALLBACK;
	if (!read_record(&record, options.id))
		return FALLBACK;
	if (same(options.verb, "state"))
		return serve_state(&record);
	if (same(options.verb, "kill"))
		return serve_kill(&record);
	return record.hooks_after || !may_start(&record) ? FALLBACK : serve_start();
}
