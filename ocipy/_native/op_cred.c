/* Who the program is and what it may do. config.md, User, Linux Process; config-linux.md, Seccomp, Personality. */
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include "init.h"

long do_no_new_privileges(const struct step *step)
{
	(void)step;
	return SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

long do_personality(const struct step *step)
{
	long old = SYS(personality, NUMBER(step, PERSONALITY, persona));

	return old < 0 ? old : 0;
}

long do_memory_policy(const struct step *step)
{
	u32 size = COUNT(step, MEMORY_POLICY, nodes);

	return SYS(set_mempolicy, NUMBER(step, MEMORY_POLICY, mode), size ? BYTES(step, MEMORY_POLICY, nodes) : NULL,
		   size * 8 + 1);
}

/* AppArmor's profile or SELinux's context of the next execve; `attribute` is below /proc/thread-self/attr. */
long do_exec_label(const struct step *step)
{
	const char *value = TEXT(step, EXEC_LABEL, value);

	return write_proc(TEXT(step, EXEC_LABEL, attribute), value, strlen(value));
}

long do_seccomp(const struct step *step)
{
	struct sock_fprog program = {.len = (u16)(COUNT(step, SECCOMP, filter) / sizeof(struct sock_filter)),
				     .filter = (struct sock_filter *)BYTES(step, SECCOMP, filter)};
	long fd = SYS(seccomp, SECCOMP_SET_MODE_FILTER, NUMBER(step, SECCOMP, flags), &program);

	self.traced = fd < 0 ? self.traced : UNTRACEABLE;
	if (fd < 0 || !(NUMBER(step, SECCOMP, flags) & SECCOMP_FILTER_FLAG_NEW_LISTENER))
		return fd < 0 ? fd : 0;
	long error = report_fd(REPORT_LISTENER, 0, 0, (int)fd);
	close_fd((int)fd);
	if (error >= 0)
		await_ack();
	return error < 0 ? error : 0;
}

long do_bounding_set(const struct step *step)
{
	u64 keep = NUMBER(step, BOUNDING_SET, keep);

	for (u32 cap = 0; cap < 64; cap++) {
		long held = SYS(prctl, PR_CAPBSET_READ, cap, 0, 0, 0);
		if (held < 0)
			return 0; /* past the last capability of this kernel */
		if (!held || keep & 1ULL << cap)
			continue;
		self.value = cap;
		long error = SYS(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (error < 0)
			return error;
	}
	return 0;
}

long do_user(const struct step *step)
{
	u64 uid = NUMBER(step, USER, uid), gid = NUMBER(step, USER, gid);
	long error = SYS(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);

	if (error == 0 && NUMBER(step, USER, set_groups))
		error = SYS(setgroups, COUNT(step, USER, groups) / 4, BYTES(step, USER, groups));
	if (error == 0)
		error = SYS(setresgid, gid, gid, gid);
	if (error == 0)
		error = SYS(setresuid, uid, uid, uid);
	if (error == 0)
		error = SYS(prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
	SYS_QUIET(prctl, PR_SET_DUMPABLE, 0); /* a new uid resets it to fs.suid_dumpable, which may be 1 */
	return error;
}

static u64 halves(const struct __user_cap_data_struct *data, u32 which)
{
	const u32 *low = &data[0].effective + which, *high = &data[1].effective + which;

	return *low | (u64)*high << 32;
}

/*
 * What cannot be granted is a warning, not an error (config.md, capabilities): sets are cut to what we hold. `keep` are
 * capabilities that init itself still needs before execve; a second step without it follows.
 */
long do_capabilities(const struct step *step)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	u64 keep = NUMBER(step, CAPABILITIES, keep), ambient = NUMBER(step, CAPABILITIES, ambient);
	u64 inheritable = NUMBER(step, CAPABILITIES, inheritable);
	u64 permitted = NUMBER(step, CAPABILITIES, permitted), effective = NUMBER(step, CAPABILITIES, effective), held;

	now = CALL_capset;
	long error = SYS_QUIET(capget, &header, data);
	if (error < 0)
		return error;
	held = halves(data, 1);
	if (permitted & ~held)
		report_fd(REPORT_WARNING, 0, permitted & ~held, -1);
	permitted = (permitted | keep) & held;
	effective = (effective | keep) & permitted;
	inheritable &= held;
	for (u32 i = 0; i < 2; i++) {
		data[i].effective = (u32)(effective >> 32 * i);
		data[i].permitted = (u32)(permitted >> 32 * i);
		data[i].inheritable = (u32)(inheritable >> 32 * i);
	}
	error = SYS(capset, &header, data);
	if (error < 0 || keep)
		return error;
	SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (u32 cap = 0; cap < 64 && error == 0; cap++)
		if (ambient & permitted & inheritable & 1ULL << cap)
			error = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return error;
}

long do_umask(const struct step *step)
{
	SYS_QUIET(umask, NUMBER(step, UMASK, mask));
	return 0;
}
