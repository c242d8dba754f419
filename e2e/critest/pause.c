/* Sleeps until it is told to end. As PID 1 it gets no signal it has no handler for, and it reaps what it inherits. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static void reap(int signal) {
  int before = errno;
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0) {}
  errno = before;
}

int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
