/* Two threads use one optimizer, rule and options at the same time. */

#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>

/* Large enough for several threads. */
enum { LEN = 300000, SMALL = 64, CALLS = 300 };

static FusedAdamRule *rule;
static FusedAdamOptimizer *opt;
static const char *path;
static size_t large, small;
static float theta[LEN], grad[LEN];
static int runs;

#define BUSY(call, is)                                                                 \
  do {                                                                                 \
    CHECK((call) == FUSED_ADAM_STATUS_BUSY);                                           \
    CHECK(strcmp(fused_adam_last_error(), "`opt` is " is " by another call, expected " \
                                          "one call at a time, or several that only "  \
                                          "read") == 0);                               \
  } while (0)

/* Calls every function while the optimizer takes a step. */
static void use_it(void) {
  size_t number = 7;
  double value = 7;
  const void *state = &value;
  FusedAdamTensor tensor = {.param = large, .len = LEN, .theta = theta, .grad = grad};
  FusedAdamLrPhase phase = {.kind = FUSED_ADAM_LR_EXPONENTIAL, .gamma = 0.5};
  FusedAdamGradScaler scale = {1024, 2, 0.5, 50, 0};
  BUSY(fused_adam_optimizer_step(opt, &tensor, 1, NULL), "in use");
  BUSY(fused_adam_optimizer_add_group(opt, rule, &number), "in use");
  BUSY(fused_adam_optimizer_add(opt, 0, "other", 8, 0, 0, 0, &number), "in use");
  BUSY(fused_adam_optimizer_set(opt, 0, "lr", 1), "in use");
  BUSY(fused_adam_optimizer_set_options(opt, NULL), "in use");
  BUSY(fused_adam_optimizer_set_grad_scaler(opt, &scale), "in use");
  BUSY(fused_adam_optimizer_set_lr_schedule(opt, &phase, 1), "in use");
  BUSY(fused_adam_optimizer_load(opt, path, NULL, 0), "in use");
  BUSY(fused_adam_optimizer_find(opt, "large", &number), "being changed");
  BUSY(fused_adam_optimizer_get(opt, 0, "lr", &value), "being changed");
  BUSY(fused_adam_optimizer_state(opt, large, "m", &state), "being changed");
  BUSY(fused_adam_optimizer_save(opt, path, NULL, 0), "being changed");
  CHECK(number == 7 && value == 7 && state == &value);
  CHECK(fopen(path, "r") == NULL);
  /* Functions that do not return a status. */
  CHECK(fused_adam_rule_name(NULL) == NULL &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_NULL);
  CHECK(fused_adam_optimizer_steps(opt) == 0 &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_BUSY);
  CHECK(fused_adam_optimizer_t(opt, large) == 0 && fused_adam_optimizer_loss_scale(opt) == 1);
  /* NULL is reported first. */
  CHECK(fused_adam_optimizer_step(NULL, &tensor, 1, NULL) == FUSED_ADAM_STATUS_NULL);
}

/* The thread pool of the step: it uses the optimizer on this thread, and on another one. */
static void *in_a_thread(void *nothing) {
  use_it();
  return nothing;
}

static void run(void *context, size_t count, FusedAdamWork work, void *argument) {
  (void)context, (void)count;
  use_it();
  pthread_t other;
  CHECK(pthread_create(&other, NULL, in_a_thread, NULL) == 0);
  CHECK(pthread_join(other, NULL) == 0);
  work(argument);
  runs++;
}

static void a_step_makes_it_busy(void) {
  FusedAdamTensor tensor = {.param = large, .len = LEN, .theta = theta, .grad = grad};
  OK(fused_adam_set_thread_pool(2, run, NULL));
  OK(fused_adam_optimizer_step(opt, &tensor, 1, NULL));
  OK(fused_adam_set_threads(1));
  CHECK(runs == 1);
  /* The calls have changed nothing, and the optimizer can be used again. */
  double lr = 0;
  size_t number = 7;
  OK(fused_adam_optimizer_get(opt, 0, "lr", &lr));
  CHECK(lr == 0.25);
  CHECK(fused_adam_optimizer_find(opt, "other", &number) == FUSED_ADAM_STATUS_UNKNOWN);
  CHECK(fused_adam_optimizer_steps(opt) == 1 && fused_adam_optimizer_loss_scale(opt) == 1);
}

struct counts {
  uint64_t ok, busy, read;
  float theta[SMALL], grad[SMALL];
};

static void count(struct counts *counts, FusedAdamStatus status, uint64_t *good) {
  CHECK(status == FUSED_ADAM_STATUS_OK || status == FUSED_ADAM_STATUS_BUSY);
  *(status == FUSED_ADAM_STATUS_OK ? good : &counts->busy) += 1;
}

static void *hammer(void *given) {
  struct counts *counts = given;
  FusedAdamTensor tensor = {
      .param = small, .len = SMALL, .theta = counts->theta, .grad = counts->grad};
  for (int i = 0; i < CALLS; i++) {
    double lr = 0;
    count(counts, fused_adam_optimizer_step(opt, &tensor, 1, NULL), &counts->ok);
    count(counts, fused_adam_optimizer_get(opt, 0, "lr", &lr), &counts->read);
    count(counts, fused_adam_optimizer_set(opt, 0, "lr", 0.25), &counts->read);
  }
  return NULL;
}

static void two_threads_step(void) {
  static struct counts counts[2];
  pthread_t threads[2];
  uint64_t steps = fused_adam_optimizer_steps(opt);
  for (int i = 0; i < 2; i++) {
    CHECK(pthread_create(&threads[i], NULL, hammer, &counts[i]) == 0);
  }
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  uint64_t ok = counts[0].ok + counts[1].ok, busy = counts[0].busy + counts[1].busy;
  CHECK(fused_adam_optimizer_steps(opt) == steps + ok);
  CHECK(fused_adam_optimizer_t(opt, small) == ok);
  CHECK(ok + busy + counts[0].read + counts[1].read == 2 * 3 * CALLS && ok > 0);
  /* No call has left it busy. */
  hammer(&counts[0]);
  CHECK(fused_adam_optimizer_steps(opt) == steps + ok + CALLS);
  printf("two threads took %d steps, and %d calls were busy\n", (int)ok, (int)busy);
}

/* Any number of calls can read it at the same time. */
static void *reads(void *nothing) {
  for (int i = 0; i < CALLS; i++) {
    double lr = 0;
    const void *state = NULL;
    OK(fused_adam_optimizer_get(opt, 0, "lr", &lr));
    OK(fused_adam_optimizer_state(opt, small, "m", &state));
    CHECK(lr == 0.25 && state != NULL && fused_adam_optimizer_steps(opt) > 0);
  }
  return nothing;
}

/* A rule and options are never busy. Each step has one of the values. */
static FusedAdamOptions *options;

static void *changes(void *nothing) {
  for (int i = 0; i < CALLS; i++) {
    OK(fused_adam_rule_set(rule, "lr", i % 2 ? 0.5 : 0.25));
    OK(fused_adam_options_set(options, "grad_scale", i % 2 ? 1 : -1));
  }
  return nothing;
}

static void *steps_with(void *nothing) {
  for (int i = 0; i < CALLS; i++) {
    float x = 8, g = 1, state = 0;
    float *const states[] = {&state};
    OK(fused_adam_step_f32(rule, 1, 1, &x, &g, states, 1, NULL, NULL));
    CHECK(x == 7.75f || x == 7.5f);
    FusedAdamStatus status = fused_adam_step_f32(rule, 2, 1, &x, &g, states, 1, options, NULL);
    CHECK(status == FUSED_ADAM_STATUS_OK || status == FUSED_ADAM_STATUS_VALUE);
  }
  return nothing;
}

static void together(void *(*one)(void *), void *(*other)(void *)) {
  pthread_t threads[2];
  CHECK(pthread_create(&threads[0], NULL, one, NULL) == 0);
  CHECK(pthread_create(&threads[1], NULL, other, NULL) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(int argc, char **argv) {
  CHECK(argc == 2); /* The path of a file, which is not written. */
  path = argv[1];
  OK(fused_adam_rule_new("lion", &rule));
  OK(fused_adam_rule_set(rule, "weight_decay", 0));
  OK(fused_adam_rule_set(rule, "lr", 0.25));
  OK(fused_adam_options_new(&options));
  OK(fused_adam_optimizer_new(rule, &opt));
  OK(fused_adam_optimizer_add(opt, 0, "large", LEN, 0, 0, 0, &large));
  OK(fused_adam_optimizer_add(opt, 0, "small", SMALL, 0, 0, 0, &small));
  a_step_makes_it_busy();
  two_threads_step();
  together(reads, reads);
  together(changes, steps_with);
  fused_adam_optimizer_free(opt);
  fused_adam_options_free(options);
  fused_adam_rule_free(rule);
  return 0;
}
