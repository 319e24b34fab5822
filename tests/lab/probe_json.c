#include "probe.h"

/* ---- JSON ---------------------------------------------------------------------------------------------------------- */

static int after_value; /* a comma is due before the next value */

static void comma(void)
{
    if (after_value)
        putchar(',');
    after_value = 0;
}

/* Bytes above 127 go out as they are: Python reads them with surrogateescape. */
void text(const char *value)
{
    comma();
    after_value = 1;
    if (!value) {
        fputs("null", stdout);
        return;
    }
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)value; *p; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    putchar('"');
}

void number(long long value)
{
    comma();
    printf("%lld", value);
    after_value = 1;
}

void boolean(int value)
{
    comma();
    fputs(value ? "true" : "false", stdout);
    after_value = 1;
}

void key(const char *name)
{
    text(name);
    putchar(':');
    after_value = 0;
}

void open_with(int c)
{
    comma();
    putchar(c);
}

void close_with(int c)
{
    putchar(c);
    after_value = 1;
}

void number_at(const char *name, long long value)
{
    key(name);
    number(value);
}

void text_at(const char *name, const char *value)
{
    key(name);
    text(value);
}

void failed_at(const char *name, int error)
{
    key(name);
    number(error);
    text_at("error", error ? strerrorname_np(error) : NULL);
}
/* ---- reading ---------------------------------------------------------------------------------------------------------- */

/* The whole file, allocated; NULL if it cannot be read. NUL bytes inside become new lines. */
char *contents(const char *path)
{
    FILE *file = fopen(path, "re");
    char *buffer = NULL;
    size_t length = 0, got;
    if (!file)
        return NULL;
    do {
        buffer = realloc(buffer, length + 65537);
        got = fread(buffer + length, 1, 65536, file);
        length += got;
    } while (got);
    fclose(file);
    for (size_t i = 0; i < length; i++)
        if (!buffer[i])
            buffer[i] = '\n';
    buffer[length] = 0;
    return buffer;
}

void line_at(const char *name, const char *path)
{
    char *all = contents(path);
    if (all && *all && all[strlen(all) - 1] == '\n')
        all[strlen(all) - 1] = 0;
    text_at(name, all);
    free(all);
}

void lines_at(const char *name, const char *path)
{
    char *all = contents(path), *rest = all;
    key(name);
    if (!all) {
        text(NULL);
        return;
    }
    open_with('[');
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line)
            text(line);
    close_with(']');
    free(all);
}

void link_text(const char *path)
{
    char target[PATH_MAX];
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length >= 0)
        target[length] = 0;
    text(length < 0 ? NULL : target);
}
