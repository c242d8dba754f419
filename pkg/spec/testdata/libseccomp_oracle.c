/* Compiles a filter with libseccomp, to compare ours with.
 *
 * stdin:  default ACTION | arch TOKEN | rule ACTION NAME COUNT [INDEX OP VALUE VALUE2]...
 * stdout: struct sock_filter[] */
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>

static int add_rule(scmp_filter_ctx ctx)
{
	struct scmp_arg_cmp args[6];
	unsigned action, count;
	char name[64];

	if (scanf("%x %63s %u", &action, name, &count) != 3 || count > 6)
		return -1;
	for (unsigned i = 0; i < count; i++) {
		unsigned index, op;
		uint64_t value, value2;

		if (scanf("%u %u %" SCNx64 " %" SCNx64, &index, &op, &value, &value2) != 4)
			return -1;
		args[i] = (struct scmp_arg_cmp){ index, op, value, value2 };
	}
	int nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR)
		return 0;
	return seccomp_rule_add_array(ctx, action, nr, count, args);
}

int main(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[16];
	unsigned number;

	while (scanf("%15s", word) == 1) {
		int err = -1;

		if (!strcmp(word, "default") && scanf("%x", &number) == 1) {
			ctx = seccomp_init(number);
			err = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
		} else if (!strcmp(word, "arch") && scanf("%x", &number) == 1) {
			err = seccomp_arch_add(ctx, number);
		} else if (!strcmp(word, "rule")) {
			err = add_rule(ctx);
		}
		if (err) {
			fprintf(stderr, "%s: %d\n", word, err);
			return 1;
		}
	}
	fflush(stdout);
	return seccomp_export_bpf(ctx, 1) ? 1 : 0;
}
