/* A forked process takes steps on its own threads. */

#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

/* A child process has no threads of its parent. It starts its own. */
static void steps_after_a_fork(size_t len) {
  FusedAdamRule *rule = NULL;
  OK(fused_adam_rule_new("lion", &rule));
  float *buffers = calloc(3 * len, sizeof *buffers);
  CHECK(buffers != NULL);
  float *theta = buffers, *m = buffers + len;
  const float *grad = buffers + 2 * len;
  OK(fused_adam_set_threads(2));
  CHECK(fused_adam_threads() == 2);
  OK(fused_adam_step_f32(rule, 1, len, theta, grad, &m, 1, NULL, NULL));
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(60); /* Fails if the step hangs. */
    int went_well =
        fused_adam_set_threads(2) == FUSED_ADAM_STATUS_OK &&
        fused_adam_step_f32(rule, 2, len, theta, grad, &m, 1, NULL, NULL) == FUSED_ADAM_STATUS_OK;
    _exit(went_well ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  OK(fused_adam_step_f32(rule, 2, len, theta, grad, &m, 1, NULL, NULL));
  OK(fused_adam_set_threads(0));
  free(buffers);
  fused_adam_rule_free(rule);
  printf("a forked process takes steps on its own threads\n");
}

int main(void) {
  steps_after_a_fork(400000); /* Large enough for several threads. */
  return 0;
}
