/* Takes three steps of each rule with its defaults, in each element type and on each backend of
 * this CPU. The rules of the table must have the results in the table, bit for bit. The rules named
 * as arguments must be bit-identical to the scalar backend. */

#include "check.h"

struct line {
  const char *rule;
  uint32_t f32[4];
  uint64_t f64[4];
  uint16_t bf16[4];
  uint16_t f16[4];
};

static const struct line table[] = {
#include "bits_table.inc"
};

/* The same numbers in each element type. The 16-bit types are given as bits. */
static const double theta_f64[4] = {0.5, -0.25, 1.0, -2.0};
static const double grad_f64[4] = {0.125, -1.5, 0.0, 3.0};
static const uint16_t theta_bf16[4] = {0x3f00, 0xbe80, 0x3f80, 0xc000};
static const uint16_t grad_bf16[3][4] = {{0x3e00, 0xbfc0, 0x0000, 0x4040},
                                         {0x3e80, 0xc040, 0x0000, 0x40c0},
                                         {0x3ec0, 0xc090, 0x0000, 0x4110}};
static const uint16_t theta_f16[4] = {0x3800, 0xb400, 0x3c00, 0xc000};
static const uint16_t grad_f16[3][4] = {{0x3000, 0xbe00, 0x0000, 0x4200},
                                        {0x3400, 0xc200, 0x0000, 0x4600},
                                        {0x3600, 0xc480, 0x0000, 0x4880}};

enum { MOST_STATES = 4 };

/* Returns theta after the three steps. */
static struct line steps(const char *name, const FusedAdamOptions *options) {
  FusedAdamRule *rule = NULL;
  OK(fused_adam_rule_new(name, &rule));
  size_t count = fused_adam_rule_state_count(rule);
  CHECK(count <= MOST_STATES);

  struct line got = {.rule = name};
  double states64[MOST_STATES][4];
  float states32[MOST_STATES][4];
  uint16_t states_b[MOST_STATES][4], states_h[MOST_STATES][4];
  float *in32[MOST_STATES];
  double *in64[MOST_STATES], theta64[4];
  uint16_t *in_b[MOST_STATES], *in_h[MOST_STATES];
  for (size_t s = 0; s < count; s++) {
    CHECK(fused_adam_rule_state_name(rule, s) != NULL);
    for (int i = 0; i < 4; i++) {
      states32[s][i] = (float)(states64[s][i] = fused_adam_rule_initial_state(rule, s));
      /* In 16 bits the initial state is zero: no bit is set, in every type. */
      states_b[s][i] = states_h[s][i] = 0;
    }
    in32[s] = states32[s];
    in64[s] = states64[s];
    in_b[s] = states_b[s];
    in_h[s] = states_h[s];
  }
  CHECK(fused_adam_rule_state_name(rule, count) == NULL);
  float theta32[4];
  for (int i = 0; i < 4; i++) {
    theta32[i] = (float)(theta64[i] = theta_f64[i]);
    got.bf16[i] = theta_bf16[i];
    got.f16[i] = theta_f16[i];
  }
  for (uint64_t t = 1; t <= 3; t++) {
    float grad32[4];
    double grad64[4];
    for (int i = 0; i < 4; i++) {
      grad32[i] = (float)(grad64[i] = grad_f64[i] * (double)t);
    }
    OK(fused_adam_step_f32(rule, t, 4, theta32, grad32, in32, count, options, NULL));
    OK(fused_adam_step_f64(rule, t, 4, theta64, grad64, in64, count, options, NULL));
    OK(fused_adam_step_bf16(rule, t, 4, got.bf16, grad_bf16[t - 1], in_b, count, options, NULL));
    OK(fused_adam_step_f16(rule, t, 4, got.f16, grad_f16[t - 1], in_h, count, options, NULL));
  }
  memcpy(got.f32, theta32, sizeof theta32);
  memcpy(got.f64, theta64, sizeof theta64);
  fused_adam_rule_free(rule);
  return got;
}

static void check_same(const struct line *got, const struct line *expected) {
  CHECK(memcmp(got->f32, expected->f32, sizeof got->f32) == 0);
  CHECK(memcmp(got->f64, expected->f64, sizeof got->f64) == 0);
  CHECK(memcmp(got->bf16, expected->bf16, sizeof got->bf16) == 0);
  CHECK(memcmp(got->f16, expected->f16, sizeof got->f16) == 0);
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  static const char *const backends[] = {"auto", "scalar", "wide", "native",
                                         "avx2", "avx512", "neon"};
  CHECK(fused_adam_version_number() == 1000000u * FUSED_ADAM_VERSION_MAJOR +
                                           1000u * FUSED_ADAM_VERSION_MINOR +
                                           FUSED_ADAM_VERSION_PATCH);
  FusedAdamOptions *scalar = NULL;
  OK(fused_adam_options_new(&scalar));
  OK(fused_adam_options_set_backend(scalar, "scalar"));
  for (size_t b = 0; b < sizeof backends / sizeof *backends; b++) {
    const char *resolved = fused_adam_backend_resolved(backends[b]);
    if (resolved == NULL) {
      printf("skipped: %s (not available on this CPU)\n", backends[b]);
      continue;
    }
    FusedAdamOptions *options = NULL;
    OK(fused_adam_options_new(&options));
    OK(fused_adam_options_set_backend(options, backends[b]));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
      struct line got = steps(table[i].rule, options);
      check_same(&got, &table[i]);
    }
    for (int i = 1; i < argc; i++) {
      struct line got = steps(argv[i], options), expected = steps(argv[i], scalar);
      check_same(&got, &expected);
      /* The steps change theta. */
      CHECK(memcmp(got.f64, theta_f64, sizeof got.f64) != 0);
    }
    fused_adam_options_free(options);
    printf("%s (%s): %d rules equal the scalar backend, %zu equal the table\n", backends[b],
           resolved, argc - 1, sizeof table / sizeof *table);
  }
  fused_adam_options_free(scalar);
  return 0;
}
