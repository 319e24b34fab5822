/*
 * The launcher's reader of records under the sanitizers: `record_fuzz ROOT` reads from standard input records, each a size of 4 bytes and
 * its text, makes each one the state of ROOT/x, and answers to each what `state x` writes, '+' or '-' (left to Python), and NUL.
 *
 * The launcher is included, not linked: its names of libc would collide with the sanitizers', its _start with that of libc.
 */
#define strlen plain_strlen
#define memcpy plain_memcpy
#define memset plain_memset
#define memcmp plain_memcmp
#include "launch.h"
#define __asm__(text) struct no_start
#include "launcher.c"
#undef __asm__

void __asan_poison_memory_region(const volatile void *at, size_t size);
void __asan_unpoison_memory_region(const volatile void *at, size_t size);

/* What stands behind the text is of the record before: to read it is an error, although it is in the buffer. */
static char buffer[RECORD_LIMIT];

static size_t end_of_record(const char *text)
{
	size_t size = plain_strlen(text);

	if (text == buffer)
		__asan_poison_memory_region(buffer + size + 1, sizeof(buffer) - size - 1);
	return size;
}

#undef strlen
#define strlen end_of_record
#include "launch_record.c"
#include "launch_native.c"
#include "launch_delete.c"

static void walk(struct value list)
{
	static char path[PATH_MAX];
	struct value rest = list;

	while (next_text(&rest, NULL, path, sizeof(path)) == 1)
		is_parent(path, list);
}

static int read_all(void *to, size_t size)
{
	for (size_t used = 0; used < size;) {
		long got = SYS_QUIET(read, 0, (char *)to + used, size - used);
		if (got <= 0)
			return 0;
		used += (size_t)got;
	}
	return 1;
}

static void write_state(const char *root, const char *text, size_t size)
{
	static char path[PATH_MAX];
	long fd;

	join(path, root, "/x/state");
	fd = SYS_QUIET(openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	SYS_QUIET(write, fd, text, size);
	close_fd((int)fd);
}

int main(int argc, char **argv)
{
	static char text[4 * RECORD_LIMIT];
	char *command[] = {"ocipy", "--root", argv[argc - 1], "state", "x", NULL};
	char *environment[] = {NULL};
	struct record record;
	u32 size;

	while (read_all(&size, sizeof(size)) && size <= sizeof(text) && read_all(text, size)) {
		write_state(argv[argc - 1], text, size);
		__asan_unpoison_memory_region(buffer, sizeof(buffer));
		options = (struct options){0};
		output_size = 0;
		SYS_QUIET(write, 1, serve(command, environment) == FALLBACK ? "-" : "+", 2);
		__asan_unpoison_memory_region(buffer, sizeof(buffer));
		if (read_record(&record, "x")) {
			walk(record.made_cgroups);
			walk(record.mounts);
			walk(record.made_resctrl);
		}
		SYS_QUIET(close_range, FIRST_FD, ~0U, 0);
	}
	return 0;
}
