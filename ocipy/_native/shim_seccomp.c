/* config-linux.md, Seccomp, as a BPF program: all calls of libseccomp that a profile takes, in one call from Python. */
#include "shim.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <seccomp.h>

/* linux/seccomp.py has these numbers: drift fails the build. */
_Static_assert(SCMP_ACT_KILL_PROCESS == 0x80000000U && SCMP_ACT_KILL_THREAD == 0 && SCMP_ACT_TRAP == 0x00030000U, "");
_Static_assert(SCMP_ACT_ERRNO(0) == 0x00050000U && SCMP_ACT_NOTIFY == 0x7fc00000U && SCMP_ACT_TRACE(0) == 0x7ff00000U, "");
_Static_assert(SCMP_ACT_LOG == 0x7ffc0000U && SCMP_ACT_ALLOW == 0x7fff0000U, "");
_Static_assert(SCMP_CMP_NE == 1 && SCMP_CMP_LT == 2 && SCMP_CMP_LE == 3 && SCMP_CMP_EQ == 4, "");
_Static_assert(SCMP_CMP_GE == 5 && SCMP_CMP_GT == 6 && SCMP_CMP_MASKED_EQ == 7, "");

#define MAX_CONDITIONS 6
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

uint32_t shim_seccomp_arch(const char *name)
{
	return name[0] ? seccomp_arch_resolve_name(name) : seccomp_arch_native();
}

unsigned shim_seccomp_version(void)
{
	const struct scmp_version *version = seccomp_version();

	return version->major << 16 | version->minor << 8 | version->micro;
}

static uint64_t count_names(const uint64_t *words, int entries)
{
	uint64_t count = 0;

	for (; entries; entries--, words += 4 + words[3])
		count += words[1];
	return count;
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

/* One name with all alternatives of its entry. A name that this libseccomp does not know is left out. */
static int add_name(struct compiler *compiler, const char *name, uint32_t action, const uint64_t *words, uint64_t alternatives)
{
	struct scmp_arg_cmp conditions[MAX_CONDITIONS];
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR)
		return 0;
	int own_number = seccomp_syscall_resolve_name_arch(compiler->arch, name);
	if (own_number > compiler->largest)
		compiler->largest = own_number;
	if (action == compiler->default_action)
		return 0;
	for (; alternatives; alternatives--) {
		unsigned count = (unsigned)*words++;
		if (count > MAX_CONDITIONS)
			return fail(EINVAL);
		for (unsigned i = 0; i < count; i++, words += 3)
			conditions[i] = (struct scmp_arg_cmp){(unsigned)words[0], (enum scmp_compare)(words[0] >> 32), words[1],
							      words[2]};
		int error = seccomp_rule_add_array(compiler->context, action, number, count, conditions);
		if (error < 0)
			return fail(-error);
	}
	return 0;
}

/*
 * words: per entry of `syscalls` {action, names, alternatives, words of these}, per alternative {conditions}, per condition
 * {index | op << 32, value, valueTwo}; names are in `names`, each ended by NUL.
 */
static int add_rules(struct compiler *compiler, const char *names, const uint64_t *words, int entries, int *at)
{
	for (int i = 0; i < entries; i++) {
		*at = i;
		for (uint64_t left = words[1]; left; left--, names += strlen(names) + 1)
			if (add_name(compiler, names, (uint32_t)words[0], words + 4, words[2]) < 0)
				return -1;
		words += 4 + words[3];
	}
	*at = entries;
	return 0;
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
 * The program for one architecture: several at once take libseccomp the square of the time. Returns its bytes; place[0] is the
 * largest number named. On failure place[1] is the entry of `syscalls` at fault, -1 for the architecture, `entries` for the whole.
 */
long shim_seccomp_compile(uint32_t arch, uint32_t default_action, const char *names, const uint64_t *words, int entries,
			  char *program, size_t size, int *place)
{
	struct compiler compiler = {seccomp_init(default_action), arch, default_action, -1};
	long result = -1;

	place[1] = entries;
	if (!compiler.context)
		return fail(EINVAL);
	if (count_names(words, entries) > MANY_RULES)
		(void)seccomp_attr_set(compiler.context, SCMP_FLTATR_CTL_OPTIMIZE, TREE);
	if (set_arch(&compiler) < 0)
		place[1] = -1;
	else if (add_rules(&compiler, names, words, entries, &place[1]) == 0)
		result = export_program(compiler.context, program, size);
	int error = errno;
	place[0] = compiler.largest;
	seccomp_release(compiler.context);
	errno = error;
	return result;
}
