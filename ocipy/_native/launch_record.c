/* The record of a container, read without a JSON library: record.py writes one value on each line, compact and in ASCII. */
#include "launch.h"

enum kind { TEXT, NUMBER, TRUTH, TEXTS, TABLE };

static char buffer[RECORD_LIMIT];
static u64 numbers[4];
static int truths[2];

/* Every key that must be there, with its type; what is kept of it. Held together with record.py by a test. */
static const struct known {
	const char *key;
	enum kind kind;
	int at; /* in numbers or truths, -1: not kept */
} known[] = {
	{"id", TEXT, 0}, {"status", TEXT, 0}, {"pid", NUMBER, 0}, {"start_time", NUMBER, 1}, {"boot_id", TEXT, 0},
	{"runtime_pid", NUMBER, 2}, {"runtime_start_time", NUMBER, 3}, {"bundle", TEXT, 0}, {"rootfs", TEXT, 0}, {"created", TEXT, 0},
	{"owner_uid", NUMBER, -1}, {"cgroup_manager", TEXT, 0}, {"cgroup_paths", TABLE, 0}, {"made_cgroups", TEXTS, 0},
	{"made_resctrl", TEXTS, 0}, {"mounts", TEXTS, 0}, {"own_pid_namespace", TRUTH, 0}, {"hooks_after", TRUTH, 1},
	{"annotations", TABLE, 0},
};

static struct value values[ARRAY_SIZE(known)];

/* ---- JSON: each function gives the place behind what it has read, NULL if that is not there --------------------------- */

static const char *read_value(const char *at, int depth);

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static const char *read_digits(const char *at)
{
	if (!is_digit(*at))
		return NULL;
	while (is_digit(*at))
		at++;
	return at;
}

static const char *read_string(const char *at)
{
	if (*at++ != '"')
		return NULL;
	for (; *at != '"'; at++) {
		if ((u8)*at < 32 || (u8)*at > 126)
			return NULL;
		if (*at != '\\')
			continue;
		at++;
		if (*at == 'u') {
			for (int i = 0; i < 4; i++, at++)
				if (!is_digit(at[1]) && !((at[1] | 32) >= 'a' && (at[1] | 32) <= 'f'))
					return NULL;
		} else if (*at != '"' && *at != '\\' && *at != '/' && *at != 'b' && *at != 'f' && *at != 'n' && *at != 'r' &&
			   *at != 't') {
			return NULL;
		}
	}
	return at + 1;
}

/* Members of an object or items of an array, up to `close`. */
static const char *read_items(const char *at, char close, int depth)
{
	if (*++at == close)
		return at + 1;
	for (;;) {
		if (close == '}') {
			at = read_string(at);
			if (!at || *at++ != ':')
				return NULL;
		}
		at = read_value(at, depth);
		if (!at || (*at != ',' && *at != close))
			return NULL;
		if (*at++ == close)
			return at;
	}
}

static const char *read_word(const char *at, const char *word)
{
	while (*word)
		if (*at++ != *word++)
			return NULL;
	return at;
}

static const char *read_value(const char *at, int depth)
{
	if (depth > 32)
		return NULL;
	switch (*at) {
	case '"':
		return read_string(at);
	case '{':
		return read_items(at, '}', depth + 1);
	case '[':
		return read_items(at, ']', depth + 1);
	case 't':
		return read_word(at, "true");
	case 'f':
		return read_word(at, "false");
	case 'n':
		return read_word(at, "null");
	default:
		at += *at == '-';
		return *at == '0' ? at + 1 : read_digits(at);
	}
}

/* An array, or with `close` '}' an object, that holds nothing but texts. */
static int holds_texts(const char *at, char close)
{
	if (*at++ != (close == '}' ? '{' : '['))
		return 0;
	if (*at == close)
		return 1;
	do {
		if (close == '}') {
			at = read_string(at);
			if (!at || *at++ != ':')
				return 0;
		}
		at = read_string(at);
	} while (at && *at++ == ',');
	return at && at[-1] == close;
}

/* ---- the record ----------------------------------------------------------------------------------------------------- */

static int take_number(const char *at, const char *end, u64 *to)
{
	u64 number = 0;

	if (!is_digit(*at) || (*at == '0' && end - at > 1) || end - at > 18)
		return 0;
	for (; at < end; at++) {
		if (!is_digit(*at))
			return 0;
		number = number * 10 + (u64)(*at - '0');
	}
	*to = number;
	return 1;
}

static int take(size_t index, const char *at, const char *end)
{
	u64 ignored;

	values[index].at = at;
	values[index].size = (u32)(end - at);
	switch (known[index].kind) {
	case TEXT:
		return *at == '"';
	case NUMBER:
		return take_number(at, end, known[index].at < 0 ? &ignored : &numbers[known[index].at]);
	case TRUTH:
		truths[known[index].at] = *at == 't';
		return *at == 't' || *at == 'f';
	case TEXTS:
		return holds_texts(at, ']');
	default:
		return holds_texts(at, '}');
	}
}

/* One line `key value\n`; keys that this version does not know are read over. */
static const char *take_line(const char *line)
{
	const char *space = line;
	const char *end;

	while (*space == '_' || is_digit(*space) || ((*space | 32) >= 'a' && (*space | 32) <= 'z'))
		space++;
	if (space == line || *space != ' ' || is_digit(*line))
		return NULL;
	end = read_value(space + 1, 0);
	if (!end || *end != '\n')
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strlen(known[i].key) == (size_t)(space - line) && memcmp(known[i].key, line, (size_t)(space - line)) == 0)
			return values[i].at == NULL && take(i, space + 1, end) ? end + 1 : NULL;
	return end + 1;
}

int value_is(struct value value, const char *text)
{
	size_t size = strlen(text);

	return value.size == size + 2 && memcmp(value.at + 1, text, size) == 0;
}

static struct value kept(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (same(known[i].key, key))
			return values[i];
	return (struct value){NULL, 0};
}

/* 0 unless the record is whole: then Python says what is wrong with it. */
int read_record(struct record *record, const char *id)
{
	long size = read_text(entry_fd, "state", buffer, sizeof(buffer));
	const char *line = buffer;

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		values[i].at = NULL;
	if (size <= 0 || size >= RECORD_LIMIT - 1 || buffer[size - 1] != '\n' || strlen(buffer) != (size_t)size)
		return 0;
	while (line && *line)
		line = take_line(line);
	for (size_t i = 0; line && i < ARRAY_SIZE(values); i++)
		if (!values[i].at)
			line = NULL;
	if (!line)
		return 0;
	*record = (struct record){
		.id = kept("id"), .status = kept("status"), .boot_id = kept("boot_id"), .bundle = kept("bundle"),
		.rootfs = kept("rootfs"), .created = kept("created"), .annotations = kept("annotations"),
		.cgroup_manager = kept("cgroup_manager"), .cgroup_paths = kept("cgroup_paths"),
		.made_cgroups = kept("made_cgroups"), .mounts = kept("mounts"), .made_resctrl = kept("made_resctrl"),
		.pid = numbers[0], .start_time = numbers[1], .own_pid_namespace = truths[0], .hooks_after = truths[1],
	};
	/* Of a container that is being created, or of none that we know, Python tells. */
	return value_is(record->id, id) && value_is(record->status, "created") && record->pid > 1 && record->pid < 1 << 22 &&
	       numbers[2] < 1 << 22 && record->start_time && record->boot_id.size > 2;
}

static int copy_text(struct value *rest, char *to, size_t size)
{
	size_t used = 0;

	for (rest->at++; *rest->at != '"'; rest->at++) {
		if (*rest->at == '\\' || used == size - 1)
			return 0;
		to[used++] = *rest->at;
	}
	to[used] = 0;
	rest->at++;
	return 1;
}

int next_text(struct value *rest, char *key, char *text, size_t size)
{
	rest->at++; /* the bracket, or a comma */
	if (*rest->at != '"')
		return 0;
	if (key) {
		if (!copy_text(rest, key, size))
			return FALLBACK;
		rest->at++;
	}
	return copy_text(rest, text, size) ? 1 : FALLBACK;
}

/* ---- the processes ---------------------------------------------------------------------------------------------------- */

/* The whole of a small file, terminated; -errno, or its size. */
long read_text(int directory, const char *path, char *to, size_t size)
{
	long fd = SYS_QUIET(openat, directory, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	long used = 0, got = 1;

	if (fd < 0)
		return fd;
	while (got > 0 && (size_t)used < size - 1) {
		got = SYS_QUIET(read, fd, to + used, size - 1 - (size_t)used);
		used += got > 0 ? got : 0;
	}
	close_fd((int)fd);
	to[used] = 0;
	return got < 0 ? got : used;
}

/* Field 22 of /proc/PID/stat; 0 when there is no such process, or only its zombie is left; UNKNOWN when that is not to be
 * seen, for want of descriptors or of /proc. As start_time() of store.py. */
u64 start_time(u64 pid)
{
	static char path[PATH_MAX], stat[4096];
	const char *at = NULL, *threads;
	char state;
	u64 time = 0;
	long size;

	join(path, "/proc/", decimal((long)pid));
	join(path, path, "/stat");
	size = read_text(AT_FDCWD, path, stat, sizeof(stat));
	if (size <= 0)
		return size == -ENOENT || size == -ESRCH ? 0 : UNKNOWN;
	for (const char *c = stat; *c; c++)
		at = *c == ')' ? c : at;
	if (!at || !at[1] || !at[2])
		return 0;
	state = at[2];
	at += 2; /* field 3 */
	for (int field = 3; field < 20; field++)
		while (*at && *at++ != ' ')
			;
	threads = at;
	for (int field = 20; field < 22; field++)
		while (*at && *at++ != ' ')
			;
	if ((state == 'Z' || state == 'X') && (threads[0] == '0' || threads[0] == '1') && threads[1] == ' ')
		return 0;
	for (; is_digit(*at); at++)
		time = time * 10 + (u64)(*at - '0');
	return time;
}

/* A pidfd of the container's init; GONE also when it is a zombie or of another boot. As liveness() of state.py. */
int open_init(const struct record *record)
{
	static char boot[64];
	long size = read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	long pidfd;
	u64 time;

	if (size < 2)
		return FALLBACK;
	boot[size - 1] = 0;
	if (!value_is(record->boot_id, boot))
		return GONE;
	pidfd = SYS_QUIET(pidfd_open, record->pid, 0);
	if (pidfd < 0)
		return pidfd == -ESRCH || pidfd == -EINVAL ? GONE : FALLBACK;
	time = start_time(record->pid);
	if (time == record->start_time)
		return (int)pidfd;
	close_fd((int)pidfd);
	return time == UNKNOWN ? FALLBACK : GONE;
}

/* struct flock of 64-bit machines */
struct lock {
	short type, whence;
	i64 start, size;
	int pid;
};

#define OFD_GETLK 36
#define WRITE_LOCK 1
#define UNLOCKED 2

int waits_for_start(void)
{
	struct lock lock = {.type = WRITE_LOCK};
	long fd = SYS_QUIET(openat, entry_fd, "init.lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	long error;

	if (fd < 0)
		return fd == -ENOENT ? 0 : FALLBACK;
	error = SYS_QUIET(fcntl, fd, OFD_GETLK, &lock);
	close_fd((int)fd);
	return error < 0 ? FALLBACK : lock.type != UNLOCKED;
}

static int says_one(const char *path)
{
	char answer[16];
	long size = read_text(AT_FDCWD, path, answer, sizeof(answer));

	if (size < 0 && size != -ENOENT && size != -ENODEV)
		return FALLBACK;
	return size > 0 && answer[0] == '1';
}

/* Of the container's own cgroup, as is_frozen() of freezer.py; FALLBACK when its path is not plain. */
int is_frozen(const struct record *record)
{
	static char name[PATH_MAX], path[PATH_MAX], unified[PATH_MAX];
	struct value rest = record->cgroup_paths;
	int found;

	unified[0] = 0;
	while ((found = next_text(&rest, name, path, sizeof(path))) == 1) {
		if (same(name, "freezer")) {
			if (!join(path, path, "/freezer.self_freezing"))
				return FALLBACK;
			return says_one(path);
		}
		if (!name[0])
			join(unified, path, "");
	}
	if (found == FALLBACK)
		return FALLBACK;
	if (!unified[0])
		return 0;
	if (!join(unified, unified, "/cgroup.freeze"))
		return FALLBACK;
	return says_one(unified);
}
