/* Prints the effective uid. Installed setuid root: with no_new_privs the kernel ignores the bit on execve. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %u\n", (unsigned)geteuid());
  return 0;
}
