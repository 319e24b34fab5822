/*
 * Is this buffer a plan that init can execute without looking? Asked before clone, of the same bytes that init will map, and
 * written from the format alone (drawn in plan/encode.py), so that a mistake of the encoder is found here.
 *
 * Nothing of Python, cffi or the shim is included: with -DOCIPY_FUZZ this file alone is a libFuzzer target.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "ops.h"

#define MAGIC 0x797069636fULL /* "ocipy" */
#define VERSION 1
#define LARGEST_FD (1u << 20)
#define NO_FD UINT64_MAX

struct header {
	uint64_t magic, version, count, size;
};

struct record {
	uint64_t op, index, field[MAX_FIELDS];
};

/* What is wrong, in the order of linux.sys.PLAN_ERRORS. */
enum { OK, SHORT, NO_MAGIC, OTHER_VERSION, OTHER_SIZE, TOO_MANY, UNKNOWN_OP, DISORDER, BAD_TEXT, BAD_LIST, BAD_BYTES, BAD_FD, UNUSED };

struct buffer {
	const uint8_t *start;
	uint64_t size;
	uint64_t pool; /* where the steps end */
};

static const char *const signatures[OP_COUNT] = OP_SIGNATURES;

/* Where the text at `offset` ends, behind its NUL; 0 when it lies outside or has no end. */
static uint64_t end_of_text(const struct buffer *buffer, uint64_t offset)
{
	if (offset < buffer->pool || offset >= buffer->size)
		return 0;
	const uint8_t *end = memchr(buffer->start + offset, 0, buffer->size - offset);
	return end ? (uint64_t)(end - buffer->start) + 1 : 0;
}

static int check_list(const struct buffer *buffer, uint64_t offset, uint64_t count)
{
	if (offset < buffer->pool || offset > buffer->size)
		return BAD_LIST;
	for (; count; count--) {
		offset = end_of_text(buffer, offset);
		if (!offset)
			return BAD_LIST;
	}
	return OK;
}

static int check_field(const struct buffer *buffer, char kind, uint64_t value)
{
	uint64_t offset = value & UINT32_MAX, count = value >> 32;

	switch (kind) {
	case 'u':
		return OK;
	case 'f':
		return value == NO_FD || value < LARGEST_FD ? OK : BAD_FD;
	case 't':
		return value && end_of_text(buffer, value) ? OK : BAD_TEXT;
	case 's':
		return !value || end_of_text(buffer, value) ? OK : BAD_TEXT;
	case 'l':
		return value ? check_list(buffer, offset, count) : OK;
	case 'b':
		if (!value)
			return OK;
		if (offset < buffer->pool || offset > buffer->size || offset % 8)
			return BAD_BYTES;
		return count <= buffer->size - offset ? OK : BAD_BYTES;
	default: /* behind the last field of the op */
		return value ? UNUSED : OK;
	}
}

static int check_step(const struct buffer *buffer, const struct record *record, uint64_t *field)
{
	if (record->op == 0 || record->op >= OP_COUNT || !signatures[record->op])
		return UNKNOWN_OP;
	const char *kind = signatures[record->op];
	for (*field = 0; *field < MAX_FIELDS; ++*field) {
		int error = check_field(buffer, *kind, record->field[*field]);
		if (error)
			return error;
		kind += *kind != 0;
	}
	return OK;
}

/* 0, or what is wrong, and of which step and field. */
int check_plan(const uint8_t *start, size_t size, uint64_t *step, uint64_t *field);
int check_plan(const uint8_t *start, size_t size, uint64_t *step, uint64_t *field)
{
	struct buffer buffer = {start, size, 0};
	struct header header;
	struct record record;
	uint64_t next_index = 0;

	*step = *field = 0;
	if (size < sizeof(header))
		return SHORT;
	memcpy(&header, start, sizeof(header));
	if (header.magic != MAGIC)
		return NO_MAGIC;
	if (header.version != VERSION)
		return OTHER_VERSION;
	if (header.size != size || size > UINT32_MAX)
		return OTHER_SIZE;
	if (header.count > (size - sizeof(header)) / sizeof(record))
		return TOO_MANY;
	buffer.pool = sizeof(header) + header.count * sizeof(record);
	for (*step = 0; *step < header.count; ++*step) {
		memcpy(&record, start + sizeof(header) + *step * sizeof(record), sizeof(record));
		*field = 0;
		if (record.index < next_index || record.index >= UINT32_MAX)
			return DISORDER;
		next_index = record.index + 1;
		int error = check_step(&buffer, &record, field);
		if (error)
			return error;
	}
	return OK;
}

#ifdef OCIPY_FUZZ
static volatile size_t sink;

/* What init would do with a field that was found good: a sanitizer says when it should not have been. */
static void touch(const uint8_t *start, char kind, uint64_t value)
{
	const char *text = (const char *)start + (uint32_t)value;
	uint64_t count = value >> 32;

	if (!value || kind == 'u' || kind == 'f')
		return;
	if (kind == 's' || kind == 't')
		sink += strlen(text);
	else if (kind == 'l')
		for (; count; count--, text += strlen(text) + 1)
			sink += strlen(text);
	else
		for (; count; count--)
			sink += (size_t)text[count - 1];
}

int LLVMFuzzerTestOneInput(const uint8_t *start, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *start, size_t size)
{
	struct record record;
	uint64_t step, field, count;

	if (check_plan(start, size, &step, &field) != OK)
		return 0;
	memcpy(&count, start + offsetof(struct header, count), sizeof(count));
	for (step = 0; step < count; step++) {
		memcpy(&record, start + sizeof(struct header) + step * sizeof(record), sizeof(record));
		for (field = 0; signatures[record.op][field]; field++)
			touch(start, signatures[record.op][field], record.field[field]);
	}
	return 0;
}
#endif
