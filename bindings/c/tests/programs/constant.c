/* Everything that is only read can be const, in C and, by constant.cpp, in C++. The constants are
 * in memory that the system protects. */

#include "check.h"

static const float GRAD[4] = {1, 2, 3, 4}, WEIGHTS[4] = {1, 2, 3, 4};
static const double SCALARS[1] = {0};
static const uint64_t AT[1] = {5};
static const size_t NONE = 0;

static void reads_rule(const FusedAdamRule *rule, const FusedAdamOptions *options) {
  float theta[4] = {0, 0, 0, 0}, m[4] = {0, 0, 0, 0}, v[4] = {0, 0, 0, 0}, elements[4];
  uint16_t half[4], low[4];
  uint8_t blocks[33];
  double value;
  float *const states[2] = {m, v};
  void *const any_states[2] = {m, v};
  FusedAdamRule *copy = NULL;
  OK(fused_adam_rule_clone(rule, &copy));
  fused_adam_rule_free(copy);
  OK(fused_adam_rule_get(rule, "lr", &value));
  OK(fused_adam_rule_check(rule));
  CHECK(fused_adam_rule_name(rule) != NULL && fused_adam_rule_parameter_name(rule, 0) != NULL);
  CHECK(fused_adam_rule_state_count(rule) == 2 && fused_adam_rule_state_name(rule, 0) != NULL);
  CHECK(fused_adam_rule_scalar_count(rule) == 0 && fused_adam_rule_scalar_name(rule, 0) == NULL);
  CHECK(fused_adam_rule_initial_state(rule, 0) == 0 &&
        fused_adam_rule_scalar_after(rule, 0, 1) == 0);
  OK(fused_adam_rule_encode_state(rule, 0, 4, GRAD, blocks));
  const uint8_t *const encoded = blocks;
  OK(fused_adam_rule_decode_state(rule, 0, 4, encoded, elements));
  OK(fused_adam_split_weights(4, WEIGHTS, half, low, 16));
  const uint16_t *const upper = half;
  const void *const lower = low;
  OK(fused_adam_join_weights(4, upper, lower, 16, elements));
  CHECK(memcmp(elements, WEIGHTS, sizeof elements) == 0);

  OK(fused_adam_step_f32(rule, 1, 4, theta, GRAD, states, 2, options, NULL));
  /* An array of rules holds pointers to const. */
  const FusedAdamRule *const rules[1] = {rule};
  FusedAdamParam param;
  memset(&param, 0, sizeof param);
  param.t = 2;
  param.len = 4;
  param.theta = theta;
  param.grad = GRAD;
  param.states = any_states;
  param.state_count = 2;
  const FusedAdamParam params[1] = {param};
  OK(fused_adam_step_all(rules, 1, params, 1, options, NULL));
  param.scalars = SCALARS;
  param.scalar_count = 1;
  CHECK(fused_adam_step_all(rules, 1, &param, 1, options, NULL) == FUSED_ADAM_STATUS_STATES);
}

static void reads_optimizer(const FusedAdamOptimizer *opt, const char *path) {
  size_t number;
  double value;
  const void *state;
  OK(fused_adam_optimizer_find(opt, "w", &number));
  OK(fused_adam_optimizer_get(opt, 0, "lr", &value));
  OK(fused_adam_optimizer_state(opt, number, "m", &state));
  CHECK(state != NULL && fused_adam_optimizer_steps(opt) == 1);
  CHECK(fused_adam_optimizer_t(opt, number) == 1 && fused_adam_optimizer_loss_scale(opt) == 2);
  OK(fused_adam_optimizer_save(opt, path, NULL, NONE));
}

int main(int argc, char **argv) {
  CHECK(argc == 2); /* The path of a file to write. */
  FusedAdamRule *rule = NULL;
  FusedAdamOptions *options = NULL;
  FusedAdamOptimizer *opt = NULL;
  size_t param;
  OK(fused_adam_rule_new("adamw", &rule));
  OK(fused_adam_options_new(&options));
  reads_rule(rule, options);
  const FusedAdamRule *const read_rule = rule;
  const FusedAdamOptions *const read_options = options;
  OK(fused_adam_optimizer_new(read_rule, &opt));
  OK(fused_adam_optimizer_add_group(opt, read_rule, &param));
  OK(fused_adam_optimizer_set_options(opt, read_options));
  const FusedAdamGradScaler scale = {2, 2, 0.5, 50, 0};
  OK(fused_adam_optimizer_set_grad_scaler(opt, &scale));
  FusedAdamLrPhase phase;
  memset(&phase, 0, sizeof phase);
  phase.kind = FUSED_ADAM_LR_MULTI_STEP;
  phase.at = AT;
  phase.at_count = 1;
  phase.gamma = 0.5;
  const FusedAdamLrPhase phases[1] = {phase};
  OK(fused_adam_optimizer_set_lr_schedule(opt, phases, 1));
  OK(fused_adam_optimizer_add(opt, 0, "w", 4, 0, 0, 0, &param));
  float theta[4] = {0, 0, 0, 0};
  FusedAdamTensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.param = param;
  tensor.len = 4;
  tensor.theta = theta;
  tensor.grad = GRAD;
  const FusedAdamTensor tensors[1] = {tensor};
  OK(fused_adam_optimizer_step(opt, tensors, 1, NULL));
  reads_optimizer(opt, argv[1]);
  fused_adam_optimizer_free(opt);
  fused_adam_options_free(options);
  fused_adam_rule_free(rule);
  remove(argv[1]);
  printf("what is only read can be const\n");
  return 0;
}
