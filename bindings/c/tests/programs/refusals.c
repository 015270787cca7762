/* Checks the status and the message of each wrong call, and that the call changed nothing. */

#include "check.h"

#include <math.h>
#include <stddef.h>

/* The memory that a step may write. The wrong calls must not write it. */
static struct {
  float theta[8], grad[8], m[8], v[8];
  double doubles[8];
  uint16_t copy[8], half[8], low[8];
  uint8_t blocks[2][33];
} mine, before;

static FusedAdamReport report, report_before;

static FusedAdamRule *adamw;
static FusedAdamOptimizer *opt;
static size_t param;
static int refused;
/* The number of steps of `opt`. */
static uint64_t steps = 1;

static void refuse(int line, FusedAdamStatus got, FusedAdamStatus code, const char *message) {
  const char *said = fused_adam_last_error();
  if (got != code || fused_adam_last_status() != code || strstr(said, message) == NULL) {
    fprintf(stderr, "line %d: %s: \"%s\", expected %s with \"%s\"\n", line,
            fused_adam_status_name(got), said, fused_adam_status_name(code), message);
    exit(1);
  }
  if (memcmp(&mine, &before, sizeof mine) != 0 ||
      /* Without the padding at the end. */
      memcmp(&report, &report_before, offsetof(FusedAdamReport, skipped) + 1) != 0) {
    fprintf(stderr, "line %d: the call failed, but it wrote\n", line);
    exit(1);
  }
  CHECK(opt == NULL || fused_adam_optimizer_steps(opt) == steps);
  printf("%-11s %s\n", fused_adam_status_name(got), said);
  refused++;
}

#define REFUSE(call, code, message) refuse(__LINE__, call, FUSED_ADAM_STATUS_##code, message)

/* Valid steps. Each test changes one argument. */
static float *states[5];
static void *any_states[5];

static FusedAdamStatus step(FusedAdamRule *rule, uint64_t t, size_t len, float *theta,
                            const float *grad, float *const *in, size_t count,
                            const FusedAdamOptions *options) {
  return fused_adam_step_f32(rule, t, len, theta, grad, in, count, options, &report);
}

static FusedAdamParam lent(void) {
  FusedAdamParam right = {.t = 1,
                          .len = 8,
                          .theta = mine.theta,
                          .grad = mine.grad,
                          .states = any_states,
                          .state_count = 2};
  return right;
}

static FusedAdamStatus step_lent(FusedAdamParam changed, const FusedAdamOptions *options) {
  const FusedAdamRule *rules[] = {adamw};
  return fused_adam_step_all(rules, 1, &changed, 1, options, &report);
}

static FusedAdamTensor tensor(void) {
  FusedAdamTensor right = {.param = param, .len = 8, .theta = mine.theta, .grad = mine.grad};
  return right;
}

static FusedAdamStatus step_tensor(FusedAdamTensor changed) {
  return fused_adam_optimizer_step(opt, &changed, 1, &report);
}

/* Returns `pointer` moved by `bytes`. */
static void *moved(void *pointer, int bytes) { return (char *)pointer + bytes; }

static void wrong_buffers(void) {
  REFUSE(step(NULL, 1, 8, mine.theta, mine.grad, states, 2, NULL), NULL,
         "`rule` is NULL, expected a handle");
  REFUSE(step(adamw, 1, 8, NULL, mine.grad, states, 2, NULL), NULL,
         "`theta` is NULL, expected 8 elements of f32");
  REFUSE(step(adamw, 1, 8, mine.theta, NULL, states, 2, NULL), NULL, "`grad` is NULL");
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, NULL, 2, NULL), NULL,
         "`states` is NULL, expected an array of 2");
  states[1] = NULL;
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 2, NULL), NULL, "`v` is NULL");
  states[1] = mine.v;
  REFUSE(step(adamw, 1, SIZE_MAX, mine.theta, mine.grad, states, 2, NULL), LENGTH,
         "expected at most");
  REFUSE(step(adamw, 1, SIZE_MAX / 4 + 2, mine.theta, mine.grad, states, 2, NULL), LENGTH,
         "expected at most");
  REFUSE(step(adamw, 1, (size_t)PTRDIFF_MAX / 4, (float *)(UINTPTR_MAX - 15), mine.grad, states, 2,
              NULL),
         LENGTH, "expected that they end within memory");
  REFUSE(step(adamw, 1, 7, moved(mine.theta, 1), mine.grad, states, 2, NULL), MISALIGNED,
         "expected a multiple of 4 for f32");
  REFUSE(step(adamw, 1, 7, mine.theta, moved(mine.grad, 2), states, 2, NULL), MISALIGNED,
         "`grad` is at address");
  states[0] = moved(mine.m, 3);
  REFUSE(step(adamw, 1, 7, mine.theta, mine.grad, states, 2, NULL), MISALIGNED,
         "`m` is at address");
  states[0] = mine.theta;
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 2, NULL), OVERLAP, "share 32 bytes");
  states[0] = mine.v;
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 2, NULL), OVERLAP,
         "since one of them is written");
  states[0] = mine.m;
  REFUSE(step(adamw, 1, 8, mine.theta, mine.theta, states, 2, NULL), OVERLAP, "`grad`");
  REFUSE(step(adamw, 1, 4, mine.theta, mine.theta + 3, states, 2, NULL), OVERLAP, "share 4 bytes");
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 1, NULL), STATES, "state `v` is missing");
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, NULL, 0, NULL), STATES, "state `m` is missing");
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 3, NULL), STATES, "3 states were given");
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, SIZE_MAX, NULL), STATES,
         "expected the states `m`, `v`");
  REFUSE(step(adamw, 0, 8, mine.theta, mine.grad, states, 2, NULL), VALUE, "`t` is 0, expected 1");
}

static void wrong_tensors(void) {
  const FusedAdamRule *rules[] = {adamw, NULL};
  FusedAdamParam right = lent();
  REFUSE(fused_adam_step_all(NULL, 1, &right, 1, NULL, &report), NULL,
         "`rules` is NULL, expected an array of 1");
  REFUSE(fused_adam_step_all(rules, 2, &right, 1, NULL, &report), NULL,
         "`rules` is NULL, expected a handle");
  REFUSE(fused_adam_step_all(rules, 1, NULL, 3, NULL, &report), NULL,
         "`tensors` is NULL, expected an array of 3");
  REFUSE(fused_adam_step_all(rules, SIZE_MAX, &right, 1, NULL, &report), LENGTH,
         "as many as memory can hold");
  REFUSE(fused_adam_step_all(rules, 1, moved(&right, 1), 1, NULL, &report), MISALIGNED,
         "`tensors` is at address");
  FusedAdamParam wrong = lent();
  wrong.rule = 1;
  REFUSE(step_lent(wrong, NULL), UNKNOWN, "`rule` is 1, expected 0, an index of `rules`");
  wrong = lent();
  wrong.theta_type = 5;
  REFUSE(step_lent(wrong, NULL), TYPE, "`theta_type` is 5, expected a FusedAdamType, 0 to 3");
  wrong.theta_type = 0;
  wrong.grad_type = -1;
  REFUSE(step_lent(wrong, NULL), TYPE, "`grad_type` is -1");
  wrong.grad_type = 0;
  wrong.state_type = 99;
  REFUSE(step_lent(wrong, NULL), TYPE, "`state_type` is 99, expected a FusedAdamType, 0 to 4");
  wrong = lent();
  wrong.grad = mine.doubles;
  wrong.grad_type = FUSED_ADAM_TYPE_F64;
  REFUSE(step_lent(wrong, NULL), TYPE,
         "`grad` is f64, expected f32, bf16 or f16");
  wrong = lent();
  wrong.theta = mine.doubles;
  wrong.theta_type = FUSED_ADAM_TYPE_F64;
  REFUSE(step_lent(wrong, NULL), TYPE, "expected f64");
  wrong = lent();
  wrong.len = 4; /* The bytes hold 4 doubles. */
  wrong.state_type = FUSED_ADAM_TYPE_F64;
  REFUSE(step_lent(wrong, NULL), TYPE, "`m` is f64");
  wrong = lent();
  wrong.copy = mine.copy;
  REFUSE(step_lent(wrong, NULL), TYPE, "`copy_type` is f32, expected bf16 or f16");
  wrong.copy_type = FUSED_ADAM_TYPE_BF16;
  wrong.theta = mine.copy;
  wrong.len = 4;
  wrong.theta_type = FUSED_ADAM_TYPE_BF16;
  wrong.copy = mine.copy + 4;
  REFUSE(step_lent(wrong, NULL), TYPE, "expected f32 to be copied");
  wrong = lent();
  wrong.copy_type = FUSED_ADAM_TYPE_F16;
  wrong.copy = mine.v;
  REFUSE(step_lent(wrong, NULL), OVERLAP, "`copy`");

  double product = 0.5;
  wrong = lent();
  wrong.scalars = &product;
  wrong.scalar_count = 1;
  REFUSE(step_lent(wrong, NULL), STATES, "1 scalar was given, expected none");
  wrong.scalars = NULL;
  REFUSE(step_lent(wrong, NULL), NULL, "`scalars` is NULL, expected 1 elements of f64");
  wrong.scalars = moved(mine.doubles, 4);
  REFUSE(step_lent(wrong, NULL), MISALIGNED, "`scalars` is at address");
  wrong.scalars = moved(mine.theta, 8);
  REFUSE(step_lent(wrong, NULL), OVERLAP, "share 8 bytes");
  wrong = lent();
  wrong.scalar_count = SIZE_MAX;
  wrong.scalars = &product;
  REFUSE(step_lent(wrong, NULL), LENGTH, "`scalars` has");

  FusedAdamParam two[] = {lent(), lent()};
  void *others[] = {mine.doubles, (float *)mine.doubles + 4};
  two[0].len = 4;
  two[1] = two[0];
  two[1].states = others;
  two[1].theta = mine.theta + 3;
  REFUSE(fused_adam_step_all(rules, 1, two, 2, NULL, &report), OVERLAP,
         "`theta` of tensor `0` and `theta` of tensor `1` share 4 bytes");
  two[1].theta = NULL;
  REFUSE(fused_adam_step_all(rules, 1, two, 2, NULL, &report), NULL,
         "`theta` of tensor `1` is NULL");
}

static void wrong_states_in_8_bits(void) {
  void *blocks[] = {mine.blocks[0], mine.blocks[1]};
  FusedAdamParam right = lent(), wrong;
  right.states = blocks;
  right.state_type = FUSED_ADAM_TYPE_BLOCK8;
  wrong = right;
  wrong.theta_type = FUSED_ADAM_TYPE_BLOCK8;
  REFUSE(step_lent(wrong, NULL), TYPE,
         "`theta_type` is 8 bits, expected f32, f64, bf16 or f16, since only states can have 8 "
         "bits");
  wrong = right;
  wrong.grad_type = FUSED_ADAM_TYPE_BLOCK8;
  REFUSE(step_lent(wrong, NULL), TYPE, "`grad_type` is 8 bits");
  wrong = lent();
  wrong.copy = mine.copy;
  wrong.copy_type = FUSED_ADAM_TYPE_BLOCK8;
  REFUSE(step_lent(wrong, NULL), TYPE, "`copy_type` is 8 bits");
  wrong = right;
  wrong.offset = 7;
  REFUSE(step_lent(wrong, NULL), VALUE,
         "`offset` is 7, expected a multiple of 32 for states in 8 bits");
  FusedAdamParam two[] = {right, right};
  const FusedAdamRule *rules[] = {adamw};
  two[0].len = 0;
  two[1].offset = 33;
  REFUSE(fused_adam_step_all(rules, 1, two, 2, NULL, &report), VALUE,
         "tensor number 1: `offset` is 33");
  wrong = right;
  wrong.theta = mine.doubles;
  wrong.grad = mine.doubles + 4;
  wrong.theta_type = FUSED_ADAM_TYPE_F64;
  wrong.len = 4;
  wrong.grad_type = FUSED_ADAM_TYPE_F64;
  REFUSE(step_lent(wrong, NULL), TYPE, "`m` is 8 bits, expected f64");
  wrong = right;
  wrong.state_count = 1;
  REFUSE(step_lent(wrong, NULL), STATES, "state `v` is missing");
  blocks[1] = NULL;
  REFUSE(step_lent(right, NULL), NULL, "`v` is NULL, expected 8 elements of 8 bits");
  blocks[1] = mine.blocks[0] + 32;
  REFUSE(step_lent(right, NULL), OVERLAP, "`m` and `v` share 1 bytes");
  blocks[1] = mine.blocks[1];
  uint8_t *const in[] = {mine.blocks[0], mine.blocks[1]}, *const half_in[] = {in[0], NULL};
  REFUSE(fused_adam_step_8bit(adamw, 1, 8, mine.theta, mine.grad, half_in, 2, NULL, &report), NULL,
         "`v` is NULL");
  REFUSE(fused_adam_step_8bit(adamw, 1, SIZE_MAX, NULL, NULL, in, 2, NULL, &report), LENGTH,
         "expected at most");
  REFUSE(fused_adam_step_8bit(adamw, 0, 8, mine.theta, mine.grad, in, 2, NULL, &report), VALUE,
         "`t` is 0, expected 1");

  uint8_t *const to = mine.blocks[0];
  REFUSE(fused_adam_rule_encode_state(NULL, 0, 8, mine.theta, to), NULL, "`rule` is NULL");
  REFUSE(fused_adam_rule_encode_state(adamw, 2, 8, mine.theta, to), UNKNOWN,
         "there is no state 2, expected an index of [\"m\", \"v\"]");
  REFUSE(fused_adam_rule_encode_state(adamw, 0, 8, NULL, to), NULL,
         "`elements` is NULL, expected 8 elements of f32");
  REFUSE(fused_adam_rule_encode_state(adamw, 0, 8, mine.theta, NULL), NULL, "`blocks` is NULL");
  REFUSE(fused_adam_rule_encode_state(adamw, 0, 7, moved(mine.theta, 1), to), MISALIGNED,
         "`elements` is at address");
  REFUSE(fused_adam_rule_encode_state(adamw, 0, 2, mine.theta, (uint8_t *)mine.theta + 7), OVERLAP,
         "`elements` and `blocks` share 1 bytes");
  REFUSE(fused_adam_rule_decode_state(adamw, SIZE_MAX, 8, to, mine.theta), UNKNOWN,
         "there is no state");
  REFUSE(fused_adam_rule_decode_state(adamw, 0, SIZE_MAX, to, mine.theta), LENGTH,
         "`elements` has");
  REFUSE(fused_adam_rule_decode_state(adamw, 0, 8, NULL, mine.theta), NULL,
         "`blocks` is NULL, expected 8 elements of 8 bits");
  CHECK(fused_adam_state_bytes(9, 8) == 0 && fused_adam_last_status() == FUSED_ADAM_STATUS_TYPE);
  CHECK(fused_adam_state_bytes(FUSED_ADAM_TYPE_BLOCK8, SIZE_MAX) == 0 &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_LENGTH);
  CHECK(fused_adam_state_bytes(FUSED_ADAM_TYPE_BLOCK8, 33) == 66);
}

static void wrong_corrections(void) {
  FusedAdamParam right = lent(), wrong = lent();
  wrong.correction = mine.low;
  wrong.correction_bits = 16;
  REFUSE(step_lent(wrong, NULL), TYPE, "`theta` is f32, expected bf16 to have a correction");
  wrong.copy = mine.copy;
  wrong.copy_type = FUSED_ADAM_TYPE_BF16;
  REFUSE(step_lent(wrong, NULL), TYPE, "`copy` and `correction` are both given");
  right.theta = mine.half;
  right.theta_type = FUSED_ADAM_TYPE_BF16;
  right.correction = mine.low;
  right.correction_bits = 16;
  wrong = right;
  wrong.correction_bits = 12;
  REFUSE(step_lent(wrong, NULL), VALUE, "`correction_bits` is 12, expected 8 or 16");
  wrong.correction_bits = 0;
  REFUSE(step_lent(wrong, NULL), VALUE, "`correction_bits` is 0, expected 8 or 16");
  wrong = right;
  wrong.correction = NULL;
  REFUSE(step_lent(wrong, NULL), NULL, "`correction` is NULL, expected 8 elements of 16 bits");
  wrong = right;
  wrong.len = 7;
  wrong.correction = moved(mine.low, 1);
  REFUSE(step_lent(wrong, NULL), MISALIGNED, "expected a multiple of 2 for 16 bits");
  wrong.correction = mine.half;
  REFUSE(step_lent(wrong, NULL), OVERLAP, "`correction`");
  REFUSE(fused_adam_step_split(adamw, 1, 8, mine.half, NULL, 8, mine.copy, states, 2, NULL,
                               &report),
         NULL, "`correction` is NULL, expected 8 elements of 8 bits");
  REFUSE(fused_adam_step_split(adamw, 1, 8, mine.half, mine.low, 1, mine.copy, states, 2, NULL,
                               &report),
         VALUE, "`correction_bits` is 1");
  REFUSE(fused_adam_step_split(adamw, 1, 8, mine.half, NULL, 0, mine.copy, states, 2, NULL,
                               &report),
         VALUE, "`correction_bits` is 0");

  uint16_t *const half = mine.half;
  REFUSE(fused_adam_split_weights(8, mine.theta, half, mine.low, 32), VALUE,
         "`correction_bits` is 32, expected 8 or 16");
  REFUSE(fused_adam_split_weights(8, NULL, half, mine.low, 16), NULL,
         "`weights` is NULL, expected 8 elements of f32");
  REFUSE(fused_adam_split_weights(8, mine.theta, NULL, mine.low, 16), NULL, "`theta` is NULL");
  REFUSE(fused_adam_split_weights(8, mine.theta, half, NULL, 16), NULL, "`correction` is NULL");
  REFUSE(fused_adam_split_weights(SIZE_MAX / 2, mine.theta, half, mine.low, 8), LENGTH,
         "`weights` has");
  REFUSE(fused_adam_split_weights(8, mine.theta, half, mine.theta, 8), OVERLAP,
         "`weights` and `correction` share 8 bytes");
  REFUSE(fused_adam_join_weights(8, half, mine.low, 0, mine.theta), VALUE,
         "`correction_bits` is 0");
  REFUSE(fused_adam_join_weights(8, half, mine.low, 16, NULL), NULL, "`weights` is NULL");
  REFUSE(fused_adam_join_weights(7, half, moved(mine.low, 1), 16, mine.theta), MISALIGNED,
         "`correction` is at address");
}

static void wrong_scalars(void) {
  FusedAdamRule *nadam = NULL;
  OK(fused_adam_rule_new("nadam", &nadam));
  double product[2] = {1.0, 1.0};
  REFUSE(fused_adam_rule_advance_scalars(NULL, 1, product, 1), NULL, "`rule` is NULL");
  REFUSE(fused_adam_rule_advance_scalars(nadam, 1, NULL, 1), NULL,
         "`scalars` is NULL, expected 1 elements of f64");
  REFUSE(fused_adam_rule_advance_scalars(nadam, 1, moved(product, 4), 1), MISALIGNED,
         "`scalars` is at address");
  REFUSE(fused_adam_rule_advance_scalars(nadam, 1, product, 2), STATES,
         "2 scalars were given, expected the scalar `mu_product`");
  REFUSE(fused_adam_rule_advance_scalars(nadam, 1, NULL, 0), STATES, "0 scalars were given");
  REFUSE(fused_adam_rule_advance_scalars(adamw, 1, product, 1), STATES,
         "expected none");
  REFUSE(fused_adam_rule_advance_scalars(nadam, 0, product, 1), VALUE, "`t` is 0, expected 1");
  OK(fused_adam_rule_advance_scalars(adamw, 1, NULL, 0));
  const FusedAdamRule *rules[] = {nadam};
  FusedAdamParam wrong = lent();
  wrong.scalars = product;
  wrong.scalar_count = 2;
  REFUSE(fused_adam_step_all(rules, 1, &wrong, 1, NULL, &report), STATES, "2 scalars were given");
  wrong.scalar_count = 0;
  REFUSE(fused_adam_step_all(rules, 1, &wrong, 1, NULL, &report), STATES, "0 scalars were given");
  wrong.scalar_count = 1; /* The product before the first step, which has no factors. */
  REFUSE(fused_adam_step_all(rules, 1, &wrong, 1, NULL, &report), VALUE,
         "`mu_product` is 1, expected");
  OK(fused_adam_rule_set(nadam, "beta1", 2.0));
  REFUSE(fused_adam_rule_advance_scalars(nadam, 1, product, 1), VALUE, "`beta1` is 2, expected");
  CHECK(product[0] == 1.0 && product[1] == 1.0);
  CHECK(fused_adam_rule_scalar_after(nadam, 0, 1) == 0 &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_VALUE);
  CHECK(fused_adam_rule_scalar_after(NULL, 0, 1) == 0 &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_NULL);
  CHECK(fused_adam_rule_scalar_count(NULL) == 0 && fused_adam_rule_scalar_name(NULL, 0) == NULL);
  fused_adam_rule_free(nadam);
}

static void wrong_names_and_values(void) {
  FusedAdamRule *none = adamw;
  REFUSE(fused_adam_rule_new("adamm", &none), UNKNOWN,
         "there is no rule `adamm`, expected one of ");
  CHECK(none == NULL);
  REFUSE(fused_adam_rule_new(NULL, &none), NULL, "`name` is NULL, expected a text");
  REFUSE(fused_adam_rule_new("adam", NULL), NULL, "`out` is NULL");
  REFUSE(fused_adam_rule_new("\xff", &none), TEXT, "`name` is not UTF-8");
  REFUSE(fused_adam_rule_clone(NULL, &none), NULL, "`rule` is NULL");
  REFUSE(fused_adam_rule_set(NULL, "lr", 1), NULL, "`rule` is NULL");
  REFUSE(fused_adam_rule_set(adamw, NULL, 1), NULL, "`name` is NULL");
  REFUSE(fused_adam_rule_set(adamw, "momentum", 1), UNKNOWN,
         "`adamw` has no hyper-parameter `momentum`, expected one of amsgrad, beta1, beta2, "
         "bias_correction, eps, lr, maximize, weight_decay");
  REFUSE(fused_adam_rule_set(adamw, "momentum", NAN), UNKNOWN,
         "`adamw` has no hyper-parameter `momentum`");
  REFUSE(fused_adam_rule_set(adamw, "lr", NAN), VALUE, "`lr` is NaN, expected a finite number");
  REFUSE(fused_adam_rule_set(adamw, "beta1", INFINITY), VALUE,
         "`beta1` is inf, expected a finite number");
  REFUSE(fused_adam_rule_set(adamw, "amsgrad", 0.5), VALUE, "`amsgrad` is 0.5, expected 0 or 1");
  FusedAdamRule *counts = NULL;
  OK(fused_adam_rule_new("ademamix", &counts));
  REFUSE(fused_adam_rule_set(counts, "alpha_warmup", 2.5), VALUE,
         "`alpha_warmup` is 2.5, expected a whole number from 0 to 2^53");
  REFUSE(fused_adam_rule_set(counts, "alpha_warmup", -1), VALUE, "`alpha_warmup` is -1");
  fused_adam_rule_free(counts);
  double value = 7;
  REFUSE(fused_adam_rule_get(adamw, "momentum", &value), UNKNOWN, "no hyper-parameter `momentum`");
  CHECK(value == 7);
  REFUSE(fused_adam_rule_get(adamw, "lr", NULL), NULL, "`value` is NULL");
  REFUSE(fused_adam_rule_check(NULL), NULL, "`rule` is NULL");
  wrong_scalars();

  FusedAdamRule *bad = NULL;
  OK(fused_adam_rule_clone(adamw, &bad));
  OK(fused_adam_rule_set(bad, "beta2", 1.0));
  REFUSE(fused_adam_rule_check(bad), VALUE, "`beta2` is 1, expected a number in [0, 1)");
  REFUSE(step(bad, 1, 8, mine.theta, mine.grad, states, 2, NULL), VALUE, "`beta2` is 1");
  FusedAdamOptimizer *no_optimizer = opt;
  REFUSE(fused_adam_optimizer_new(bad, &no_optimizer), VALUE, "`beta2` is 1");
  CHECK(no_optimizer == NULL);
  size_t group = 7;
  REFUSE(fused_adam_optimizer_add_group(opt, bad, &group), VALUE, "`beta2` is 1");
  CHECK(group == 7);
  fused_adam_rule_free(bad);

  FusedAdamOptions *options = NULL;
  OK(fused_adam_options_new(&options));
  REFUSE(fused_adam_options_new(NULL), NULL, "`out` is NULL");
  REFUSE(fused_adam_options_set(NULL, "clip_norm", 1), NULL, "`options` is NULL");
  REFUSE(fused_adam_options_set(options, "clip", 1), UNKNOWN,
         "there is no option `clip`, expected one of grad_scale, clip_norm");
  REFUSE(fused_adam_options_set(options, "skip_nonfinite", 2), VALUE,
         "`skip_nonfinite` is 2, expected 0 or 1");
  REFUSE(fused_adam_options_set_backend(options, "sse"), UNKNOWN,
         "there is no backend `sse`, expected one of auto");
  const char *absent = fused_adam_backend_resolved("neon") == NULL ? "neon" : "avx2";
  REFUSE(fused_adam_options_set_backend(options, absent), BACKEND,
         "is not available on this CPU, expected one of");
  REFUSE(fused_adam_options_set_chunk(NULL, 1), NULL, "`options` is NULL");
  REFUSE(fused_adam_options_round_to_nearest(NULL), NULL, "`options` is NULL");
  REFUSE(fused_adam_options_round_stochastically(NULL, 1), NULL, "`options` is NULL");
  static const struct {
    const char *name;
    double value;
    const char *message;
  } wrong[] = {
      {"grad_scale", -1, "`grad_scale` is -1"}, {"grad_scale", NAN, "`grad_scale` is NaN"},
      {"clip_norm", -1, "`clip_norm` is -1"},   {"clip_norm_inf", NAN, "`clip_norm` is NaN"},
      {"clip_value", 0, "`clip_value` is 0"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    FusedAdamOptions *one = NULL;
    OK(fused_adam_options_new(&one));
    OK(fused_adam_options_set(one, wrong[i].name, wrong[i].value));
    REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 2, one), VALUE, wrong[i].message);
    fused_adam_options_free(one);
  }
  OK(fused_adam_options_set(options, "clip_norm", 1.0));
  mine.grad[3] = before.grad[3] = INFINITY;
  REFUSE(step(adamw, 1, 8, mine.theta, mine.grad, states, 2, options), NONFINITE,
         "the gradients' norm is inf");
  mine.grad[3] = before.grad[3] = 1;
  fused_adam_options_free(options);

  REFUSE(fused_adam_set_threads(1025), THREADS, "`threads` is 1025, expected 0 to 1024");
  CHECK(fused_adam_backend_resolved("sse") == NULL &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_UNKNOWN);
  CHECK(fused_adam_backend_resolved(NULL) == NULL &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_NULL);
}

static void wrong_registrations(void) {
  size_t number = 7;
  REFUSE(fused_adam_optimizer_new(adamw, NULL), NULL, "`out` is NULL");
  REFUSE(fused_adam_optimizer_add_group(opt, NULL, &number), NULL, "`rule` is NULL");
  REFUSE(fused_adam_optimizer_add_group(opt, adamw, NULL), NULL, "`group` is NULL");
  REFUSE(fused_adam_optimizer_add(NULL, 0, "b", 8, 0, 0, 0, &number), NULL,
         "`opt` is NULL, expected a handle");
  REFUSE(fused_adam_optimizer_add(opt, 0, NULL, 8, 0, 0, 0, &number), NULL, "`name` is NULL");
  REFUSE(fused_adam_optimizer_add(opt, 0, "b", 8, 0, 0, 0, NULL), NULL, "`param` is NULL");
  REFUSE(fused_adam_optimizer_add(opt, 1, "b", 8, 0, 0, 0, &number), UNKNOWN,
         "there is no group 1");
  REFUSE(fused_adam_optimizer_add(opt, 0, "w", 8, 0, 0, 0, &number), DUPLICATE,
         "there is a parameter `w` already");
  REFUSE(fused_adam_optimizer_add(opt, 0, "b", 8, 0, 7, 0, &number), TYPE, "`grad_type` is 7");
  REFUSE(fused_adam_optimizer_add(opt, 0, "b", 8, FUSED_ADAM_TYPE_F64, 0, 0, &number), TYPE,
         "parameter `b` is f64 with a gradient of f32 and states of f32, expected f64 for all or "
         "for none");
  REFUSE(fused_adam_optimizer_add(opt, 0, "b", SIZE_MAX, 0, 0, 0, &number), LENGTH, "`b` has");
  REFUSE(fused_adam_optimizer_find(opt, "b", &number), UNKNOWN, "there is no parameter `b`");
  REFUSE(fused_adam_optimizer_find(NULL, "w", &number), NULL, "`opt` is NULL");
  double value = 7;
  REFUSE(fused_adam_optimizer_set(opt, 3, "lr", 1), UNKNOWN,
         "there is no group 3, expected 0");
  REFUSE(fused_adam_optimizer_set(opt, 0, "l", 1), UNKNOWN, "no hyper-parameter `l`");
  REFUSE(fused_adam_optimizer_set(NULL, 0, "lr", 1), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_get(opt, 3, "lr", &value), UNKNOWN, "there is no group 3");
  REFUSE(fused_adam_optimizer_get(NULL, 0, "lr", &value), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_set_options(NULL, NULL), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_set_grad_scaler(NULL, NULL), NULL, "`opt` is NULL");
  const void *state = &number;
  REFUSE(fused_adam_optimizer_state(opt, param, "s", &state), UNKNOWN,
         "there is no state `s`, expected one of [\"m\", \"v\"]");
  REFUSE(fused_adam_optimizer_state(opt, 9, "m", &state), UNKNOWN,
         "there is no parameter 9");
  REFUSE(fused_adam_optimizer_state(NULL, param, "m", &state), NULL, "`opt` is NULL");
  CHECK(number == 7 && value == 7 && state == &number);

  /* Functions that do not return a status also accept wrong arguments. */
  CHECK(fused_adam_optimizer_steps(NULL) == 0 && fused_adam_optimizer_t(NULL, 0) == 0);
  CHECK(fused_adam_optimizer_t(opt, 9) == 0 &&
        fused_adam_last_status() == FUSED_ADAM_STATUS_UNKNOWN);
  CHECK(fused_adam_optimizer_loss_scale(NULL) == 1.0);
  CHECK(fused_adam_rule_name(NULL) == NULL && fused_adam_rule_state_count(NULL) == 0);
  CHECK(fused_adam_rule_state_name(NULL, 0) == NULL &&
        fused_adam_rule_parameter_name(NULL, 0) == NULL);
  CHECK(fused_adam_rule_initial_state(NULL, 0) == 0.0);
  fused_adam_optimizer_free(NULL);
  fused_adam_options_free(NULL);
  fused_adam_rule_free(NULL);
}

/* A parameter that is split, with states in 8 bits. It is in another optimizer. */
static void wrong_splits_of_an_optimizer(void) {
  FusedAdamOptimizer *rest = opt;
  size_t split, number = 7;
  OK(fused_adam_optimizer_new(adamw, &opt));
  steps = 0;
  int32_t bf16 = FUSED_ADAM_TYPE_BF16, block8 = FUSED_ADAM_TYPE_BLOCK8;
  REFUSE(fused_adam_optimizer_add(opt, 0, "w", 8, block8, bf16, block8, &number), TYPE,
             "`theta_type` is 8 bits, expected f32, f64, bf16 or f16");
  REFUSE(fused_adam_optimizer_add(opt, 0, "w", 8, bf16, block8, block8, &number), TYPE,
             "`grad_type` is 8 bits");
  int32_t f64 = FUSED_ADAM_TYPE_F64;
  REFUSE(fused_adam_optimizer_add(opt, 0, "w", 8, f64, f64, block8, &number), TYPE,
             "parameter `w` is f64 with a gradient of f64 and states of 8 bits, expected f64 for "
             "all or for none");
  CHECK(number == 7);
  OK(fused_adam_optimizer_add(opt, 0, "w", 8, bf16, bf16, block8, &split));
  FusedAdamTensor right = {.param = split, .len = 8, .theta = mine.half, .grad = mine.copy,
                           .correction = mine.low, .correction_bits = 16}, wrong;
  wrong = right;
  wrong.correction_bits = 4;
  REFUSE(step_tensor(wrong), VALUE, "`correction_bits` is 4, expected 8 or 16");
  wrong = right;
  wrong.correction = NULL;
  REFUSE(step_tensor(wrong), NULL, "`correction` of tensor `0` is NULL, expected 8 elements");
  wrong = right;
  wrong.correction = mine.half + 4;
  REFUSE(step_tensor(wrong), OVERLAP, "`correction` of tensor `0`");
  wrong = right;
  wrong.copy = mine.low;
  REFUSE(step_tensor(wrong), TYPE, "`copy` and `correction` are both given");
  OK(step_tensor(right));
  steps = 1;
  memcpy(&mine, &before, sizeof mine);
  memcpy(&report, &report_before, sizeof report);
  /* The blocks of the optimizer, which a step writes, as a correction. */
  const void *m = NULL;
  OK(fused_adam_optimizer_state(opt, split, "m", &m));
  wrong = right;
  wrong.correction = (void *)(uintptr_t)m;
  wrong.correction_bits = 8;
  REFUSE(step_tensor(wrong), OVERLAP, "share 8 bytes");
  FusedAdamExtraTensor kept = {"w", mine.blocks, 8, FUSED_ADAM_TYPE_BLOCK8};
  REFUSE(fused_adam_optimizer_save(opt, "unused", &kept, 1), TYPE,
         "`element_type` is 8 bits, expected f32, f64, bf16 or f16");
  fused_adam_optimizer_free(opt);
  opt = rest;
}

static void wrong_steps(void) {
  FusedAdamTensor right = tensor(), wrong;
  wrong = right;
  wrong.correction = mine.low;
  wrong.correction_bits = 16;
  REFUSE(step_tensor(wrong), TYPE,
         "`theta` of parameter `w` is f32, expected bf16 to have a correction");
  REFUSE(fused_adam_optimizer_step(NULL, &right, 1, &report), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_step(opt, NULL, 1, &report), NULL, "`tensors` is NULL");
  FusedAdamTensor twice[] = {right, right};
  REFUSE(fused_adam_optimizer_step(opt, twice, 2, &report), DUPLICATE,
         "parameter `w` was given twice");
  wrong = right;
  wrong.param = 5;
  REFUSE(step_tensor(wrong), UNKNOWN, "there is no parameter 5");
  wrong = right;
  wrong.len = 7;
  REFUSE(step_tensor(wrong), LENGTH, "`theta` of parameter `w` has 7 elements, expected 8");
  wrong = right;
  wrong.theta = NULL;
  REFUSE(step_tensor(wrong), NULL, "`theta` of tensor `0` is NULL");
  wrong = right;
  wrong.grad = mine.theta;
  REFUSE(step_tensor(wrong), OVERLAP, "share 32 bytes");
  /* The optimizer's own state, which a step writes, as a gradient. */
  const void *m = NULL;
  OK(fused_adam_optimizer_state(opt, right.param, "m", &m));
  CHECK(m != NULL);
  wrong.grad = m;
  REFUSE(step_tensor(wrong), OVERLAP, "`m` of tensor `0`");
  wrong = right;
  wrong.zero_grad = 2;
  REFUSE(step_tensor(wrong), VALUE, "`zero_grad` is 2, expected 0 or 1");
  wrong = right;
  wrong.copy = mine.copy;
  REFUSE(step_tensor(wrong), TYPE, "`copy_type` is f32");
  wrong.copy_type = FUSED_ADAM_TYPE_BF16;
  wrong.copy = mine.theta;
  REFUSE(step_tensor(wrong), OVERLAP, "`copy` of tensor `0`");
  /* A rule that was changed to be invalid, or to have other states. */
  OK(fused_adam_optimizer_set(opt, 0, "eps", 0.0));
  REFUSE(step_tensor(right), VALUE, "`eps` is 0, expected");
  OK(fused_adam_optimizer_set(opt, 0, "eps", 1e-8));
  OK(fused_adam_optimizer_set(opt, 0, "amsgrad", 1));
  REFUSE(step_tensor(right), STATES, "state `v_max` is missing");
  OK(fused_adam_optimizer_set(opt, 0, "amsgrad", 0));
  FusedAdamGradScaler none = {0};
  OK(fused_adam_optimizer_set_grad_scaler(opt, &none));
  REFUSE(step_tensor(right), VALUE, "`loss_scale` is 0, expected");
  /* A loss scale that cannot shrink, and a gradient that is not finite. */
  FusedAdamGradScaler least = {1.2e-38, 2, 0.5, 1, 0};
  OK(fused_adam_optimizer_set_grad_scaler(opt, &least));
  mine.grad[3] = before.grad[3] = INFINITY;
  REFUSE(step_tensor(right), NONFINITE, "the loss scale is 1.2e-38, which cannot shrink");
  mine.grad[3] = before.grad[3] = 1;
  OK(fused_adam_optimizer_set_grad_scaler(opt, NULL));
}

static void wrong_files(const char *path) {
  const char *const missing = "/no/such/folder/file";
  REFUSE(fused_adam_optimizer_save(NULL, path, NULL, 0), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_save(opt, NULL, NULL, 0), NULL, "`path` is NULL");
  REFUSE(fused_adam_optimizer_save(opt, missing, NULL, 0), IO, missing);
  REFUSE(fused_adam_optimizer_load(opt, missing, NULL, 0), IO, missing);
  REFUSE(fused_adam_optimizer_load(NULL, path, NULL, 0), NULL, "`opt` is NULL");
  REFUSE(fused_adam_optimizer_save(opt, path, NULL, 1), NULL,
         "`kept` is NULL, expected an array of 1");
  FusedAdamExtraTensor kept = {"w", mine.theta, 8, FUSED_ADAM_TYPE_F32};
  FusedAdamExtraTensor same[] = {kept, kept};
  REFUSE(fused_adam_optimizer_save(opt, path, same, 2), CHECKPOINT, "there are two tensors `w`");
  OK(fused_adam_optimizer_save(opt, path, &kept, 1));
  REFUSE(fused_adam_optimizer_load(opt, path, same, 2), OVERLAP, "`values` of tensor `0`");
  /* A load replaces the states, so it must not write to their old memory. */
  const void *state = NULL;
  OK(fused_adam_optimizer_state(opt, 0, "m", &state));
  CHECK(state != NULL);
  FusedAdamExtraTensor wrong = kept;
  memcpy(&wrong.values, &state, sizeof state);
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), OVERLAP, "share 32 bytes");
  wrong = kept;
  wrong.name = "u";
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), CHECKPOINT, "lacks the tensor `u`");
  wrong = kept;
  wrong.len = 7;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), CHECKPOINT,
         "the length of `w` is 8, expected 7");
  /* Above the states in memory, as far as its length reaches. */
  float on_the_stack[8];
  wrong.values = on_the_stack;
  wrong.len = (size_t)1 << 50;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), LENGTH, "more than memory");
  wrong = kept;
  wrong.values = mine.doubles;
  wrong.element_type = FUSED_ADAM_TYPE_F64;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), CHECKPOINT, "the type of `w`");
  wrong.element_type = 12;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), TYPE, "`element_type` is 12");
  wrong = kept;
  wrong.values = NULL;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), NULL, "`values` of tensor `0` is NULL");
  wrong = kept;
  wrong.name = NULL;
  REFUSE(fused_adam_optimizer_load(opt, path, &wrong, 1), NULL, "`name` is NULL");

  /* An optimizer with another parameter. The load must not write the kept tensors either. */
  FusedAdamOptimizer *mine_too = opt;
  OK(fused_adam_optimizer_new(adamw, &opt));
  size_t other;
  OK(fused_adam_optimizer_add(opt, 0, "other", 8, 0, 0, 0, &other));
  FusedAdamTensor one = {.param = other, .len = 8, .theta = before.copy, .grad = mine.grad};
  float elsewhere[8] = {0};
  one.theta = elsewhere;
  OK(fused_adam_optimizer_step(opt, &one, 1, NULL));
  mine.theta[0] = before.theta[0] = 99; /* The file has another value. */
  REFUSE(fused_adam_optimizer_load(opt, path, &kept, 1), CHECKPOINT,
         "a parameter is `w`, expected one that is registered");
  fused_adam_optimizer_free(opt);
  opt = mine_too;

  FILE *file = fopen(path, "w");
  CHECK(file != NULL && fputs("this is no checkpoint", file) >= 0 && fclose(file) == 0);
  REFUSE(fused_adam_optimizer_load(opt, path, &kept, 1), CHECKPOINT, "is not a safetensors file");
  remove(path);
}

int main(int argc, char **argv) {
  CHECK(argc == 2); /* The path of a file to write. */
  for (int i = 0; i < 8; i++) {
    mine.theta[i] = 0.5f;
    mine.grad[i] = 1.0f;
  }
  states[0] = any_states[0] = mine.m;
  states[1] = any_states[1] = mine.v;
  OK(fused_adam_rule_new("adamw", &adamw));
  OK(fused_adam_optimizer_new(adamw, &opt));
  OK(fused_adam_optimizer_add(opt, 0, "w", 8, FUSED_ADAM_TYPE_F32, FUSED_ADAM_TYPE_F32,
                              FUSED_ADAM_TYPE_F32, &param));
  FusedAdamTensor first = tensor();
  OK(fused_adam_optimizer_step(opt, &first, 1, &report));
  memcpy(&before, &mine, sizeof mine);
  memcpy(&report_before, &report, sizeof report);

  wrong_buffers();
  wrong_tensors();
  wrong_states_in_8_bits();
  wrong_corrections();
  wrong_names_and_values();
  wrong_registrations();
  wrong_steps();
  wrong_splits_of_an_optimizer();
  wrong_files(argv[1]);

  /* Valid calls. */
  float *no_states[] = {NULL, NULL};
  OK(step(adamw, 1, 0, NULL, NULL, no_states, 2, NULL));
  OK(fused_adam_step_all(NULL, 0, NULL, 0, NULL, NULL));
  OK(fused_adam_optimizer_step(opt, NULL, 0, NULL));
  fused_adam_optimizer_free(opt);
  fused_adam_rule_free(adamw);
  printf("%d wrong calls returned their errors\n", refused);
  return 0;
}
