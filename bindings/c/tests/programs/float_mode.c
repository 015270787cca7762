/* A program that flushes subnormal numbers to zero gets the same bits, and keeps its mode. */

#include "check.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
static unsigned long mode(void) { return _mm_getcsr() & 0xE040u; }
static void set_mode(unsigned long bits) { _mm_setcsr((_mm_getcsr() & ~0xE040u) | (unsigned)bits); }
#define FLUSH 0x8040u
#elif defined(__aarch64__)
static unsigned long mode(void) {
  unsigned long bits;
  __asm__ volatile("mrs %0, fpcr" : "=r"(bits));
  return bits;
}
static void set_mode(unsigned long bits) { __asm__ volatile("msr fpcr, %0" : : "r"(bits)); }
#define FLUSH (1ul << 24)
#else
static unsigned long mode(void) { return 0; }
static void set_mode(unsigned long bits) { (void)bits; }
#define FLUSH 0
#endif

/* Where subnormal numbers matter. */
static void step(size_t len, float *theta, float *m, float *v, const float *grad) {
  FusedAdamRule *rule = NULL;
  OK(fused_adam_rule_new("adamw", &rule));
  for (size_t i = 0; i < len; i++) {
    theta[i] = 1e-38f;
    m[i] = 1e-40f;
    v[i] = 3e-45f;
  }
  float *states[] = {m, v};
  OK(fused_adam_step_f32(rule, 1, len, theta, grad, states, 2, NULL, NULL));
  fused_adam_rule_free(rule);
}

/* `threads` is for fused_adam_set_threads. */
static void flushing_changes_nothing(size_t len, size_t threads) {
  float *buffers = calloc(7 * len, sizeof *buffers);
  CHECK(buffers != NULL);
  float *grad = buffers + 6 * len;
  for (size_t i = 0; i < len; i++) {
    grad[i] = 2e-38f;
  }
  step(len, buffers, buffers + len, buffers + 2 * len, grad);
  unsigned long before = mode();
  set_mode(before | FLUSH);
  unsigned long flushing = mode();
  OK(fused_adam_set_threads(threads)); /* New threads have the mode of this one. */
  step(len, buffers + 3 * len, buffers + 4 * len, buffers + 5 * len, grad);
  CHECK(mode() == flushing);
  set_mode(before);
  CHECK(memcmp(buffers, buffers + 3 * len, 3 * len * sizeof *buffers) == 0);
  OK(fused_adam_set_threads(0));
  free(buffers);
}

int main(void) {
  flushing_changes_nothing(100, 1);
  flushing_changes_nothing(400000, 3);
  printf("the bits are the same where subnormal numbers are flushed\n");
  return 0;
}
