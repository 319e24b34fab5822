/*
 * Raw system calls for the code that runs after clone: no libc, no errno, no heap. Every wrapper notes the call that
 * it is about to make in `now`, so that a failed step can say which one it was.
 */
#ifndef OCIPY_SYS_H
#define OCIPY_SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <linux/types.h>
#include "ops.h"

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;
typedef __INT64_TYPE__ i64;
typedef __SIZE_TYPE__ size_t;

#define NULL ((void *)0)
#define PATH_MAX 4096
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* Not in the kernel's exported headers, or only in newer ones than we build with. */
#ifndef MOVE_MOUNT_T_SYMLINKS
#define MOVE_MOUNT_T_SYMLINKS 0x00000010
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#define FD_CLOEXEC_RANGE 4 /* CLOSE_RANGE_CLOEXEC */
#define MNT_DETACH 2
#define UMOUNT_NOFOLLOW 8
#define PROC_MAGIC 0x9fa0
#define DEVPTS_MAGIC 0x1cd1

extern u32 now; /* CALL_… of the call under way */

static inline long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory", "cc");
	return x0;
#else
#error "ocipy knows the system calls of x86_64 and aarch64"
#endif
}

#define SYSCALL_ARGS(n, a, b, c, d, e, f, ...) (n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)
#define SYSCALL(...) syscall6(SYSCALL_ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0))
#define SYS(name, ...) (now = CALL_##name, SYSCALL(__NR_##name __VA_OPT__(, ) __VA_ARGS__))
#define SYS_QUIET(name, ...) SYSCALL(__NR_##name __VA_OPT__(, ) __VA_ARGS__)

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
size_t strlen(const char *text);
int memcmp(const void *left, const void *right, size_t size);

static inline int same(const char *left, const char *right)
{
	size_t size = strlen(left);
	return size == strlen(right) && memcmp(left, right, size) == 0;
}

static inline __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		SYS_QUIET(exit_group, status);
}

static inline void close_fd(int fd)
{
	if (fd >= 0)
		SYS_QUIET(close, fd);
}

/* statx of an open file: one layout on every architecture. */
static inline long stat_fd(int fd, struct statx *info)
{
	now = CALL_fstat;
	return SYS_QUIET(statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, info);
}

static inline long file_type(const struct statx *info)
{
	return info->stx_mode & S_IFMT;
}

/* /dev/null, by what it is. */
static inline int is_null(const struct statx *info)
{
	return file_type(info) == S_IFCHR && info->stx_rdev_major == 1 && info->stx_rdev_minor == 3;
}

#endif
