/* config-linux.md, Seccomp, as a BPF program: all calls of libseccomp that a profile takes, in one call from Python. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include "filter.cdef"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <seccomp.h>

/* linux/seccomp.py has these numbers: drift fails the build. */
_Static_assert(SCMP_ACT_KILL_PROCESS == 0x80000000U && SCMP_ACT_KILL_THREAD == 0 && SCMP_ACT_TRAP == 0x00030000U, "");
_Static_assert(SCMP_ACT_ERRNO(0) == 0x00050000U && SCMP_ACT_NOTIFY == 0x7fc00000U && SCMP_ACT_TRACE(0) == 0x7ff00000U, "");
_Static_assert(SCMP_ACT_LOG == 0x7ffc0000U && SCMP_ACT_ALLOW == 0x7fff0000U, "");

#define MANY_RULES 32 /* from here on a binary tree is faster than a list; libseccomp up to 2.5.4 cannot make an empty one */
#define TREE 2

struct compiler {
	scmp_filter_ctx context;
	uint32_t arch;
	uint32_t default_action;
	int largest; /* number of a system call that the profile names, -1 for none */
};

static int fail(int error)
{
	errno = error;
	return -1;
}

uint32_t filter_arch(const char *name)
{
	return name[0] ? seccomp_arch_resolve_name(name) : seccomp_arch_native();
}

int filter_number(uint32_t arch, const char *name)
{
	return seccomp_syscall_resolve_name_arch(arch, name);
}

unsigned filter_version(void)
{
	const struct scmp_version *version = seccomp_version();

	return version->major << 16 | version->minor << 8 | version->micro;
}

/* libseccomp begins with this machine's architecture. */
static int set_arch(const struct compiler *compiler)
{
	if (compiler->arch == seccomp_arch_native())
		return 0;
	int error = seccomp_arch_add(compiler->context, compiler->arch);
	if (error == 0)
		error = seccomp_arch_remove(compiler->context, seccomp_arch_native());
	return error < 0 ? fail(-error) : 0;
}

/* A name that this libseccomp does not know is left out; a rule that says what the default says would be refused. */
static int add_name(struct compiler *compiler, const char *name, uint32_t action)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR)
		return 0;
	int own_number = seccomp_syscall_resolve_name_arch(compiler->arch, name);
	if (own_number > compiler->largest)
		compiler->largest = own_number;
	if (action == compiler->default_action)
		return 0;
	int error = seccomp_rule_add_array(compiler->context, action, number, 0, NULL);
	return error < 0 ? fail(-error) : 0;
}

static long export_program(scmp_filter_ctx context, char *program, size_t size)
{
	int fd = memfd_create("seccomp", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	int error = seccomp_export_bpf(context, fd);
	long got = error < 0 ? fail(-error) : pread(fd, program, size, 0);
	close(fd);
	return got;
}

/*
 * The program for one architecture: several at once take libseccomp the square of the time. names[i] is filtered by actions[i].
 * Returns its bytes; place[0] is the largest number named. On failure place[1] is the name at fault, -1 for the architecture,
 * `count` for the whole.
 */
long filter_compile(uint32_t arch, uint32_t default_action, const char *names, const uint32_t *actions, int count,
			  char *program, size_t size, int *place)
{
	struct compiler compiler = {seccomp_init(default_action), arch, default_action, -1};
	int *at = &place[1], error = 0;

	*at = -1;
	if (!compiler.context)
		return fail(EINVAL);
	if (count > MANY_RULES)
		(void)seccomp_attr_set(compiler.context, SCMP_FLTATR_CTL_OPTIMIZE, TREE);
	error = set_arch(&compiler);
	for (*at += error == 0; error == 0 && *at < count; names += strlen(names) + 1) {
		error = add_name(&compiler, names, actions[*at]);
		*at += error == 0;
	}
	long result = error == 0 ? export_program(compiler.context, program, size) : -1;
	error = errno;
	place[0] = compiler.largest;
	seccomp_release(compiler.context);
	errno = error;
	return result;
}
