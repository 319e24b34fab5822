/* syscalls MICROSECONDS: what comes of every system call, one line each: its number, and "errno N" or "signal N". Arguments are what a call refuses (-1), so that
 * little is done; then calls that filters look into the arguments of. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define END 480 /* the kernel's newest is below */
#define X32 0x40000000L

static const struct {
	const char *name;
	long number, first, second;
} looked_into[] = {
	{"clone of a user namespace", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0},
	{"clone of a time namespace", SYS_clone, 0x80 | SIGCHLD, 0},
	{"clone", SYS_clone, SIGCHLD, 0},
	{"unshare of a user namespace", SYS_unshare, CLONE_NEWUSER, 0},
	{"unshare of files", SYS_unshare, CLONE_FILES, 0},
	{"personality Linux", SYS_personality, PER_LINUX, 0},
	{"personality Linux32", SYS_personality, PER_LINUX32, 0},
	{"personality uname 2.6", SYS_personality, UNAME26, 0},
	{"personality Linux32 uname 2.6", SYS_personality, PER_LINUX32 | UNAME26, 0},
	{"personality without ASLR", SYS_personality, ADDR_NO_RANDOMIZE, 0},
	{"personality BSD", SYS_personality, PER_BSD, 0},
	{"socket unix", SYS_socket, AF_UNIX, SOCK_STREAM},
	{"socket alg", SYS_socket, AF_ALG, SOCK_SEQPACKET},
	{"socket vsock", SYS_socket, AF_VSOCK, SOCK_STREAM},
	{"socket packet", SYS_socket, AF_PACKET, SOCK_RAW},
	{"socket netlink audit", SYS_socket, AF_NETLINK, SOCK_RAW},
	{"keyctl get keyring", SYS_keyctl, 0, -3},
	{"ptrace traceme", SYS_ptrace, 0, 0},
};

static unsigned patience;

static void tell(pid_t child)
{
	int status;

	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("signal %d\n", WTERMSIG(status));
	else
		printf("errno %d\n", WEXITSTATUS(status));
}

/* In a process of its own, for so many microseconds: some end it, some wait. */
static void try(long number, long first, long second, long rest)
{
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		ualarm(patience, 0);
		_exit(syscall(number, first, second, rest, rest, rest, rest) < 0 ? errno : 0);
	}
	tell(child);
}

#ifdef __x86_64__
static void try_of_i386(long number)
{
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		long result = number;

		ualarm(patience, 0);
		__asm__ volatile("int $0x80" : "+a"(result) : "b"(-1L), "c"(-1L), "d"(-1L) : "memory", "r8", "r9", "r10", "r11");
		_exit((int)result < 0 ? -(int)result : 0);
	}
	tell(child);
}
#endif

int main(int argc, char **argv)
{
	patience = argc > 1 ? (unsigned)atoi(argv[1]) : 200000;
	for (long number = 0; number < END; number++) {
#ifdef SYS_vfork
		if (number == SYS_vfork) /* its child would use our stack */
			continue;
#endif
		printf("%ld: ", number);
		try(number, -1, -1, -1);
	}
	for (unsigned i = 0; i < sizeof(looked_into) / sizeof(looked_into[0]); i++) {
		printf("%s: ", looked_into[i].name);
		try(looked_into[i].number, looked_into[i].first, looked_into[i].second, 0);
	}
#ifdef __x86_64__
	printf("x32 getpid: ");
	try(X32 | SYS_getpid, -1, -1, -1);
	for (long number = 1; number < 30; number++) {
		printf("i386 %ld: ", number);
		try_of_i386(number);
	}
#endif
	return 0;
}
