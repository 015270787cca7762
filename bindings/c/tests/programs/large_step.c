/* A step on the library's threads, which then wait until the program ends. */

#include "check.h"

int main(void) {
  size_t len = 400000;
  float *buffers = calloc(3 * len, sizeof *buffers);
  CHECK(buffers != NULL);
  float *const states[] = {buffers + len};
  FusedAdamRule *rule = NULL;
  OK(fused_adam_rule_new("lion", &rule));
  OK(fused_adam_step_f32(rule, 1, len, buffers, buffers + 2 * len, states, 1, NULL, NULL));
  fused_adam_rule_free(rule);
  free(buffers);
  return 0;
}
