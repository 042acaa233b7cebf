/*
 * pause is what keeps a pod's namespaces: it sleeps, reaps what the pod's
 * other containers leave behind where it is PID 1 of a shared namespace, and
 * ends on SIGTERM or SIGINT. Freestanding, so that it weighs a few kilobytes
 * and a page or two of memory in every pod.
 */
#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_BLOCK 0
#define WNOHANG 1

#if defined(__x86_64__)
enum { NR_wait4 = 61, NR_exit = 60, NR_rt_sigprocmask = 14, NR_rt_sigtimedwait = 128 };
static long syscall4(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
enum { NR_wait4 = 260, NR_exit = 93, NR_rt_sigprocmask = 135, NR_rt_sigtimedwait = 137 };
static long syscall4(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "pause knows amd64 and arm64"
#endif

void _start(void)
{
	unsigned long set = 1UL << (SIGINT - 1) | 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);

	syscall4(NR_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof set);
	for (;;) {
		long sig = syscall4(NR_rt_sigtimedwait, (long)&set, 0, 0, sizeof set);
		if (sig == SIGINT || sig == SIGTERM)
			syscall4(NR_exit, 0, 0, 0, 0);
		while (syscall4(NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
