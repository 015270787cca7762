/* Learning-rate schedules: the factor of each kind, steps with a schedule, and wrong schedules. */

#include "check.h"

#include <math.h>

static double factor(const FusedAdamLrPhase *phases, size_t count, uint64_t step) {
  double got = NAN;
  OK(fused_adam_lr_factor(phases, count, step, &got));
  return got;
}

static const FusedAdamLrPhase warmup_cosine[] = {
    {.kind = FUSED_ADAM_LR_WARMUP, .steps = 10, .until = 10},
    {.kind = FUSED_ADAM_LR_COSINE, .steps = 90, .floor = 0.1, .until = 100},
    {.kind = FUSED_ADAM_LR_CONSTANT, .factor = 0.1, .steps = UINT64_MAX},
};

static void each_kind_has_its_factors(void) {
  static const uint64_t at[] = {7, 3};
  static const struct {
    FusedAdamLrPhase phase;
    struct {
      uint64_t step;
      double factor;
    } expected[3];
  } kinds[] = {
      {{.kind = FUSED_ADAM_LR_WARMUP, .steps = 4}, {{0, 0.25}, {1, 0.5}, {3, 1}}},
      {{.kind = FUSED_ADAM_LR_CONSTANT, .factor = 0.5, .steps = 3}, {{0, 0.5}, {2, 0.5}, {3, 1}}},
      {{.kind = FUSED_ADAM_LR_LINEAR, .from = 0.5, .to = 2, .steps = 4},
       {{0, 0.5}, {2, 1.25}, {9, 2}}},
      {{.kind = FUSED_ADAM_LR_COSINE, .steps = 10, .floor = 0.5}, {{0, 1}, {5, 0.75}, {10, 0.5}}},
      {{.kind = FUSED_ADAM_LR_COSINE_RESTARTS, .steps = 4, .growth = 2, .floor = 0.5},
       {{2, 0.75}, {4, 1}, {8, 0.75}}},
      {{.kind = FUSED_ADAM_LR_STEP, .every = 5, .gamma = 0.5}, {{4, 1}, {5, 0.5}, {10, 0.25}}},
      {{.kind = FUSED_ADAM_LR_MULTI_STEP, .at = at, .at_count = 2, .gamma = 0.5},
       {{2, 1}, {3, 0.5}, {7, 0.25}}},
      {{.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 0.5}, {{0, 1}, {1, 0.5}, {3, 0.125}}},
      {{.kind = FUSED_ADAM_LR_POLYNOMIAL, .steps = 4, .power = 2}, {{0, 1}, {2, 0.25}, {9, 0}}},
      {{.kind = FUSED_ADAM_LR_ONE_CYCLE, .steps = 11, .rise = 0.5454545454545454, .first = 0.25,
        .last = 0.125},
       {{0, 0.25}, {5, 1}, {99, 0.125}}},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    for (int j = 0; j < 3; j++) {
      double got = factor(&kinds[i].phase, 1, kinds[i].expected[j].step);
      if (!(fabs(got - kinds[i].expected[j].factor) <= 1e-15)) {
        fprintf(stderr, "kind %d, row %d: %.17g\n", (int)kinds[i].phase.kind, j, got);
        exit(1);
      }
    }
  }
  CHECK(factor(NULL, 0, 5) == 1);
  /* Each phase begins at its own step 0. */
  static const uint64_t steps[] = {0, 9, 10, 55, 100, 1000};
  static const double expected[] = {0.1, 1, 1, 0.55, 0.1, 0.1};
  for (int i = 0; i < 6; i++) {
    CHECK(fabs(factor(warmup_cosine, 3, steps[i]) - expected[i]) <= 1e-15);
  }
}

enum { LEN = 50, STEPS = 120 };

static FusedAdamOptimizer *new_optimizer(void) {
  FusedAdamRule *rule = NULL;
  FusedAdamOptimizer *opt = NULL;
  size_t param, group;
  OK(fused_adam_rule_new("adamw", &rule));
  OK(fused_adam_rule_set(rule, "lr", 0.01));
  OK(fused_adam_optimizer_new(rule, &opt));
  OK(fused_adam_rule_set(rule, "lr", 0.5));
  OK(fused_adam_optimizer_add_group(opt, rule, &group));
  OK(fused_adam_optimizer_add(opt, 0, "w", LEN, 0, 0, 0, &param));
  OK(fused_adam_optimizer_add(opt, group, "b", LEN, 0, 0, 0, &param));
  fused_adam_rule_free(rule);
  return opt;
}

/* Takes a step and returns the factor of its schedule. */
static double step(FusedAdamOptimizer *opt, float theta[2][LEN]) {
  float grad[2][LEN];
  for (int i = 0; i < LEN; i++) {
    grad[0][i] = theta[0][i] - (float)(i % 5);
    grad[1][i] = theta[1][i] - (float)(i % 3);
  }
  const FusedAdamTensor tensors[] = {
      {.param = 0, .len = LEN, .theta = theta[0], .grad = grad[0]},
      {.param = 1, .len = LEN, .theta = theta[1], .grad = grad[1]},
  };
  FusedAdamReport report;
  OK(fused_adam_optimizer_step(opt, tensors, 2, &report));
  return report.lr_factor;
}

/* The same bits as with learning rates that the program sets. The run resumes from a file. */
static void steps_follow_a_schedule(const char *path) {
  static float by_hand[2][LEN], scheduled[2][LEN], resumed[2][LEN], forgotten[2][LEN];
  FusedAdamOptimizer *hand = new_optimizer(), *opt = new_optimizer();
  CHECK(step(opt, resumed) == 1); /* There is no schedule yet. */
  fused_adam_optimizer_free(opt);
  memset(resumed, 0, sizeof resumed);
  opt = new_optimizer();
  {
    FusedAdamLrPhase copied[3];
    memcpy(copied, warmup_cosine, sizeof copied);
    OK(fused_adam_optimizer_set_lr_schedule(opt, copied, 3));
    memset(copied, 0xff, sizeof copied);
  }
  for (uint64_t t = 0; t < STEPS; t++) {
    double of_step = factor(warmup_cosine, 3, t);
    OK(fused_adam_optimizer_set(hand, 0, "lr", 0.01 * of_step));
    OK(fused_adam_optimizer_set(hand, 1, "lr", 0.5 * of_step));
    CHECK(step(hand, by_hand) == 1);
    CHECK(step(opt, scheduled) == of_step);
    double lr = 0;
    OK(fused_adam_optimizer_get(opt, 1, "lr", &lr));
    CHECK(lr == 0.5);
    if (t != STEPS / 3) continue;
    OK(fused_adam_optimizer_save(opt, path, NULL, 0));
    memcpy(resumed, scheduled, sizeof resumed);
    memcpy(forgotten, scheduled, sizeof forgotten);
  }
  CHECK(memcmp(by_hand, scheduled, sizeof by_hand) == 0);
  fused_adam_optimizer_free(hand);

  FusedAdamOptimizer *late = new_optimizer(), *none = new_optimizer();
  OK(fused_adam_optimizer_set_lr_schedule(late, warmup_cosine, 3));
  OK(fused_adam_optimizer_load(late, path, NULL, 0)); /* This keeps the schedule. */
  OK(fused_adam_optimizer_load(none, path, NULL, 0));
  for (int t = STEPS / 3 + 1; t < STEPS; t++) {
    step(late, resumed);
    CHECK(step(none, forgotten) == 1); /* The file does not have the schedule. */
  }
  CHECK(memcmp(resumed, scheduled, sizeof resumed) == 0);
  CHECK(memcmp(forgotten, scheduled, sizeof forgotten) != 0);
  OK(fused_adam_optimizer_set_lr_schedule(late, NULL, 0));
  CHECK(step(late, resumed) == 1);
  fused_adam_optimizer_free(opt);
  fused_adam_optimizer_free(late);
  fused_adam_optimizer_free(none);
  remove(path);
}

static void wrong_schedules(void) {
  FusedAdamOptimizer *opt = new_optimizer();
  static float theta[2][LEN];
  OK(fused_adam_optimizer_set_lr_schedule(opt, warmup_cosine, 3));
#define WRONG(code, text, count, ...)                                                         \
  do {                                                                                        \
    const FusedAdamLrPhase wrong[] = {__VA_ARGS__};                                           \
    double kept = 7;                                                                          \
    CHECK(fused_adam_optimizer_set_lr_schedule(opt, wrong, count) == FUSED_ADAM_STATUS_##code); \
    CHECK(strcmp(fused_adam_last_error(), text) == 0);                                        \
    CHECK(fused_adam_lr_factor(wrong, count, 0, &kept) == FUSED_ADAM_STATUS_##code);          \
    CHECK(kept == 7);                                                                         \
  } while (0)
  WRONG(VALUE, "`kind` is 0, expected a FusedAdamLr, 1 to 10", 1, {.steps = 5});
  WRONG(VALUE, "`kind` is 11, expected a FusedAdamLr, 1 to 10", 1, {.kind = 11});
  WRONG(VALUE, "`steps` is 0, expected at least 1", 1, {.kind = FUSED_ADAM_LR_COSINE});
  WRONG(VALUE, "`every` is 0, expected at least 1", 1, {.kind = FUSED_ADAM_LR_STEP, .steps = 3});
  WRONG(VALUE, "phase 1: `growth` is 0, expected at least 1", 2,
        {.kind = FUSED_ADAM_LR_WARMUP, .steps = 5, .until = 5},
        {.kind = FUSED_ADAM_LR_COSINE_RESTARTS, .steps = 5});
  WRONG(VALUE, "phase 1: `until` is 5, expected more than 5, where the phase begins", 3,
        {.kind = FUSED_ADAM_LR_WARMUP, .steps = 5, .until = 5},
        {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 1, .until = 5},
        {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 1});
  WRONG(VALUE, "phase 0: `until` is 0, expected more than 0, where the phase begins", 2,
        {.kind = FUSED_ADAM_LR_WARMUP, .steps = 5},
        {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 1});
  WRONG(VALUE, "phase 1: `until` is 9, expected 0, since the last phase does not end", 2,
        {.kind = FUSED_ADAM_LR_WARMUP, .steps = 5, .until = 5},
        {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 1, .until = 9});
  WRONG(VALUE, "`gamma` is NaN, expected a finite number of at least 0", 1,
        {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = NAN});
  WRONG(VALUE, "`rise` is 1.5, expected a number in [0, 1]", 1,
        {.kind = FUSED_ADAM_LR_ONE_CYCLE, .steps = 5, .rise = 1.5});
  WRONG(NULL, "`at` is NULL, expected an array of 2", 1,
        {.kind = FUSED_ADAM_LR_MULTI_STEP, .at_count = 2, .gamma = 0.5});
  CHECK(fused_adam_optimizer_set_lr_schedule(opt, NULL, 2) == FUSED_ADAM_STATUS_NULL);
  CHECK(strcmp(fused_adam_last_error(), "`phases` is NULL, expected an array of 2") == 0);
  CHECK(fused_adam_optimizer_set_lr_schedule(NULL, warmup_cosine, 3) == FUSED_ADAM_STATUS_NULL);
  CHECK(fused_adam_lr_factor(warmup_cosine, 3, 0, NULL) == FUSED_ADAM_STATUS_NULL);
  CHECK(step(opt, theta) == factor(warmup_cosine, 3, 0)); /* It is still the schedule. */
  fused_adam_optimizer_free(opt);
}

int main(int argc, char **argv) {
  CHECK(argc == 2); /* The path of a file to write. */
  each_kind_has_its_factors();
  steps_follow_a_schedule(argv[1]);
  wrong_schedules();
  printf("steps follow learning-rate schedules\n");
  return 0;
}
