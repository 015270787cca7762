/* Steps on the program's own threads: shared by the programs with pthreads and with OpenMP. */

#ifndef THREAD_POOL_H
#define THREAD_POOL_H

#include "check.h"

/* Large enough for several threads, with chunks of this size. */
enum { LEN = 20000, CHUNK = 1000, STEPS = 2 };

static float theta[LEN], grad[LEN], m[LEN], v[LEN], expected[LEN];

/* Takes steps on the threads that are set, and calls `after` after each one. */
static void train(const char *norm, void (*after)(void)) {
  FusedAdamRule *rule = NULL;
  FusedAdamOptions *options = NULL;
  OK(fused_adam_rule_new("adamw", &rule));
  OK(fused_adam_options_new(&options));
  OK(fused_adam_options_set(options, norm, 1));
  OK(fused_adam_options_set_chunk(options, CHUNK));
  float *const states[] = {m, v};
  for (size_t i = 0; i < LEN; i++) {
    theta[i] = 0.5f;
    grad[i] = (float)(i % 13) - 6.5f;
    m[i] = v[i] = 0;
  }
  for (int t = 1; t <= STEPS; t++) {
    OK(fused_adam_step_f32(rule, (uint64_t)t, LEN, theta, grad, states, 2, options, NULL));
    if (after != NULL) after();
  }
  fused_adam_options_free(options);
  fused_adam_rule_free(rule);
}

/* The number of elements that the first step has changed. */
static size_t changed(void) {
  size_t count = 0;
  for (size_t i = 0; i < LEN; i++) count += theta[i] != 0.5f;
  return count;
}

#endif
