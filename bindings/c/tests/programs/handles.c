/* FusedAdamOptimizer: groups, clipping, loss scales, 16-bit copies, states, and checkpoints from
 * which a run resumes with bit-identical results. */

#include "check.h"

#include <math.h>

enum { W = 1000, B = 10 };

/* All data that a run changes. */
struct run {
  float w[W], w_grad[W];
  double b[B], b_grad[B];
  uint16_t copy[W];
  FusedAdamOptimizer *opt;
  size_t w_param, b_param, biases;
};

static void begin(struct run *run) {
  memset(run, 0, sizeof *run);
  for (int i = 0; i < W; i++) run->w[i] = (float)(i % 7) / 8 - 0.25f;
  FusedAdamRule *rule = NULL;
  OK(fused_adam_rule_new("adamw", &rule));
  OK(fused_adam_rule_set(rule, "lr", 1e-2));
  OK(fused_adam_optimizer_new(rule, &run->opt));
  OK(fused_adam_rule_set(rule, "weight_decay", 0));
  OK(fused_adam_rule_set(rule, "amsgrad", 1));
  OK(fused_adam_optimizer_add_group(run->opt, rule, &run->biases));
  fused_adam_rule_free(rule);
  OK(fused_adam_optimizer_add(run->opt, 0, "w", W, FUSED_ADAM_TYPE_F32, FUSED_ADAM_TYPE_F32,
                              FUSED_ADAM_TYPE_BF16, &run->w_param));
  OK(fused_adam_optimizer_add(run->opt, run->biases, "b", B, FUSED_ADAM_TYPE_F64,
                              FUSED_ADAM_TYPE_F64, FUSED_ADAM_TYPE_F64, &run->b_param));
  size_t found = 77;
  OK(fused_adam_optimizer_find(run->opt, "b", &found));
  CHECK(found == run->b_param);
  FusedAdamOptions *options = NULL;
  OK(fused_adam_options_new(&options));
  OK(fused_adam_options_set(options, "clip_norm", 0.5));
  OK(fused_adam_options_round_stochastically(options, 11));
  OK(fused_adam_optimizer_set_options(run->opt, options));
  fused_adam_options_free(options);
  FusedAdamGradScaler scale = {1024, 2, 0.5, 50, 0};
  OK(fused_adam_optimizer_set_grad_scaler(run->opt, &scale));
}

/* Takes step number `t`. The gradients are those of a quadratic loss; `lr` follows a schedule. */
static FusedAdamReport step(struct run *run, int t) {
  OK(fused_adam_optimizer_set(run->opt, 0, "lr", 1e-2 / (1 + t % 10)));
  double scale = fused_adam_optimizer_loss_scale(run->opt);
  for (int i = 0; i < W; i++) run->w_grad[i] += (float)scale * 2 * run->w[i];
  for (int i = 0; i < B; i++) run->b_grad[i] = scale * 2 * (run->b[i] - i);
  if (t % 40 == 33) run->b_grad[3] = NAN;
  FusedAdamTensor tensors[] = {
      {.param = run->b_param, .len = B, .theta = run->b, .grad = run->b_grad},
      {.param = run->w_param, .len = W, .theta = run->w, .grad = run->w_grad, .copy = run->copy,
       .copy_type = FUSED_ADAM_TYPE_F16, .zero_grad = 1},
  };
  FusedAdamReport report;
  OK(fused_adam_optimizer_step(run->opt, tensors, 2, &report));
  CHECK(report.skipped == (t % 40 == 33) && report.has_grad_norm && !report.has_largest_update);
  CHECK(report.nonfinite == (report.skipped ? 1u : 0u));
  for (int i = 0; i < W; i++) CHECK(run->w_grad[i] == 0);
  return report;
}

static void same(const struct run *one, const struct run *other) {
  CHECK(memcmp(one->w, other->w, sizeof one->w) == 0);
  CHECK(memcmp(one->b, other->b, sizeof one->b) == 0);
  CHECK(memcmp(one->copy, other->copy, sizeof one->copy) == 0);
  const char *const names[] = {"m", "v", "v_max"};
  for (int i = 0; i < 3; i++) {
    const void *a = NULL, *b = NULL;
    if (i < 2) {
      OK(fused_adam_optimizer_state(one->opt, one->w_param, names[i], &a));
      OK(fused_adam_optimizer_state(other->opt, other->w_param, names[i], &b));
      CHECK(a != NULL && b != NULL && a != b && memcmp(a, b, W * sizeof(uint16_t)) == 0);
    }
    OK(fused_adam_optimizer_state(one->opt, one->b_param, names[i], &a));
    OK(fused_adam_optimizer_state(other->opt, other->b_param, names[i], &b));
    CHECK(a != NULL && b != NULL && a != b && memcmp(a, b, B * sizeof(double)) == 0);
  }
  CHECK(fused_adam_optimizer_steps(one->opt) == fused_adam_optimizer_steps(other->opt));
  CHECK(fused_adam_optimizer_loss_scale(one->opt) == fused_adam_optimizer_loss_scale(other->opt));
  CHECK(fused_adam_optimizer_t(one->opt, one->w_param) ==
        fused_adam_optimizer_t(other->opt, other->w_param));
}

static void goes_on_from_a_file(const char *path, int steps) {
  static struct run whole, part;
  begin(&whole);
  const void *none = &whole;
  OK(fused_adam_optimizer_state(whole.opt, whole.w_param, "m", &none));
  CHECK(none == NULL); /* There are no states before the first step. */
  for (int t = 0; t < steps; t++) {
    FusedAdamReport report = step(&whole, t);
    if (t == 0) CHECK(report.grad_norm > 0.5 && report.clip_factor == 0.5 / report.grad_norm);
    if (t != steps / 2) continue;
    FusedAdamExtraTensor kept[] = {{"w", whole.w, W, FUSED_ADAM_TYPE_F32},
                            {"b", whole.b, B, FUSED_ADAM_TYPE_F64},
                            {"for the forward pass", whole.copy, W, FUSED_ADAM_TYPE_F16}};
    OK(fused_adam_optimizer_save(whole.opt, path, kept, 3));
  }
  CHECK(fused_adam_optimizer_loss_scale(whole.opt) != 1024 &&
        fused_adam_optimizer_steps(whole.opt) < (uint64_t)steps);

  begin(&part);
  FusedAdamExtraTensor kept[] = {{"b", part.b, B, FUSED_ADAM_TYPE_F64},
                          {"w", part.w, W, FUSED_ADAM_TYPE_F32},
                          {"for the forward pass", part.copy, W, FUSED_ADAM_TYPE_F16}};
  OK(fused_adam_optimizer_load(part.opt, path, kept, 3));
  double lr = 0;
  OK(fused_adam_optimizer_get(part.opt, 0, "lr", &lr));
  CHECK(lr == 1e-2 / (1 + steps / 2 % 10)); /* Rules are loaded from the file. */
  for (int t = steps / 2 + 1; t < steps; t++) step(&part, t);
  same(&whole, &part);
  fused_adam_optimizer_free(whole.opt);
  fused_adam_optimizer_free(part.opt);
  printf("a run of %d steps and a resumed run are bit-identical\n", steps);
}

int main(int argc, char **argv) {
  CHECK(argc == 2); /* The path of a file to write. */
  goes_on_from_a_file(argv[1], 200);
  remove(argv[1]);
  return 0;
}
