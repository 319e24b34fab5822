/* JSON on standard output, a value at a time: probe.c, probe_process.c, probe_surroundings.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

extern char **environ;

void text(const char *value); /* NULL is null */
void number(long long value);
void boolean(int value);
void key(const char *name);
void open_with(int c);
void close_with(int c);
void number_at(const char *name, long long value);
void text_at(const char *name, const char *value);
void failed_at(const char *name, int error);
void line_at(const char *name, const char *path);  /* a file of one line */
void lines_at(const char *name, const char *path); /* a file, as a list of lines */
void link_text(const char *path);
char *contents(const char *path);

void report_process(void);
void report_surroundings(void);
