/* States in 8 bits and split master weights: equal bits on any number of threads, equal to those of
 * the core, which a file has, and resumed from a checkpoint. */

#include "check.h"

#include <math.h>

/* The number of elements is not a multiple of 32. A state has one more byte, to begin at any. */
enum { N = 20003, BLOCKS = (N + 31) / 32, BYTES = 33 * BLOCKS, STEPS = 4 };

struct buffers {
  float theta[N];
  uint8_t m[BYTES + 1], v[BYTES + 1];
};

static FusedAdamRule *rule;
static float grad[N];
static uint16_t grad_bf16[N];

static void fill_theta(float *theta) {
  for (int i = 0; i < N; i++) theta[i] = (float)(i % 7) / 8 - 0.25f;
}

/* Fills the gradients of step `t`, which are exact in bfloat16. */
static void fill_grad(int t) {
  for (int i = 0; i < N; i++) {
    grad[i] = (float)(i % 13) / 16 - (float)t / 4;
    uint32_t bits;
    memcpy(&bits, &grad[i], sizeof bits);
    grad_bf16[i] = (uint16_t)(bits >> 16);
  }
}

/* Options with a seed, and chunks that are shared by threads. */
static FusedAdamOptions *seeded(void) {
  FusedAdamOptions *options = NULL;
  OK(fused_adam_options_new(&options));
  OK(fused_adam_options_round_stochastically(options, 7));
  OK(fused_adam_options_set_chunk(options, 1000));
  return options;
}

static void equals_the_core_on_any_threads(const char *path) {
  static struct buffers core, own;
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL && fread(core.theta, sizeof core.theta, 1, file) == 1);
  CHECK(fread(core.m, BYTES, 1, file) == 1 && fread(core.v, BYTES, 1, file) == 1);
  CHECK(fgetc(file) == EOF && fclose(file) == 0);

  CHECK(fused_adam_state_bytes(FUSED_ADAM_TYPE_BLOCK8, N) == BYTES);
  CHECK(fused_adam_state_bytes(FUSED_ADAM_TYPE_F32, N) == sizeof own.theta);
  FusedAdamOptions *options = seeded();
  for (size_t threads = 1; threads <= 3; threads += 2) {
    OK(fused_adam_set_threads(threads));
    memset(&own, 0, sizeof own);
    fill_theta(own.theta);
    uint8_t *const states[] = {own.m + 1, own.v}; /* Blocks can have any address. */
    for (int t = 1; t <= STEPS; t++) {
      fill_grad(t);
      OK(fused_adam_step_8bit(rule, t, N, own.theta, grad, states, 2, options, NULL));
    }
    CHECK(memcmp(own.theta, core.theta, sizeof core.theta) == 0);
    CHECK(memcmp(own.m + 1, core.m, BYTES) == 0 && memcmp(own.v, core.v, BYTES) == 0);
    CHECK(own.m[0] == 0 && own.v[BYTES] == 0);
  }
  OK(fused_adam_set_threads(0));
  fused_adam_options_free(options);
  printf("%d steps of %d elements on 1 and 3 threads have the core's bits\n", STEPS, N);
}

/* A split of 16 bits is float master weights, to the bit. The states are float. */
static void split_equals_float(void) {
  static float weights[N], joined[N], m[2][N], v[2][N];
  static uint16_t theta[N], correction[N];
  fill_theta(weights);
  for (int i = 0; i < N; i++) weights[i] += 1e-5f * (float)i;
  OK(fused_adam_split_weights(N, weights, theta, correction, 16));
  void *of_float[] = {m[0], v[0]};
  float *const of_split[] = {m[1], v[1]};
  const FusedAdamRule *rules[] = {rule};
  for (int t = 1; t <= STEPS; t++) {
    fill_grad(t);
    FusedAdamParam whole = {.t = t, .len = N, .theta = weights, .grad = grad_bf16,
                            .grad_type = FUSED_ADAM_TYPE_BF16, .states = of_float,
                            .state_count = 2};
    OK(fused_adam_step_all(rules, 1, &whole, 1, NULL, NULL));
    OK(fused_adam_step_split(rule, t, N, theta, correction, 16, grad_bf16, of_split, 2, NULL,
                             NULL));
  }
  OK(fused_adam_join_weights(N, theta, correction, 16, joined));
  CHECK(memcmp(joined, weights, sizeof weights) == 0);
  CHECK(memcmp(m[0], m[1], sizeof m[0]) == 0 && memcmp(v[0], v[1], sizeof v[0]) == 0);
  printf("split master weights have the bits of float ones\n");
}

/* A run of an optimizer with states in 8 bits: on float weights, or on split ones. */
struct run {
  float weights[N];
  uint16_t theta[N], correction[N];
  uint8_t correction8[N];
  int bits; /* The number of bits of the correction, or 0 for float weights. */
  FusedAdamOptimizer *opt;
  size_t param;
};

static void *correction_of(struct run *run) {
  return run->bits == 8 ? (void *)run->correction8 : run->correction;
}

static void begin(struct run *run, int bits) {
  memset(run, 0, sizeof *run);
  run->bits = bits;
  fill_theta(run->weights);
  OK(fused_adam_optimizer_new(rule, &run->opt));
  int32_t of = bits ? FUSED_ADAM_TYPE_BF16 : FUSED_ADAM_TYPE_F32;
  OK(fused_adam_optimizer_add(run->opt, 0, "w", N, of, FUSED_ADAM_TYPE_BF16, FUSED_ADAM_TYPE_BLOCK8,
                              &run->param));
  FusedAdamOptions *options = seeded();
  OK(fused_adam_optimizer_set_options(run->opt, options));
  fused_adam_options_free(options);
  if (bits) OK(fused_adam_split_weights(N, run->weights, run->theta, correction_of(run), bits));
}

static void step(struct run *run, int t) {
  fill_grad(t);
  FusedAdamTensor tensor = {.param = run->param, .len = N, .theta = run->weights,
                            .grad = grad_bf16};
  if (run->bits) {
    tensor.theta = run->theta;
    tensor.correction = correction_of(run);
    tensor.correction_bits = run->bits;
  }
  OK(fused_adam_optimizer_step(run->opt, &tensor, 1, NULL));
}

/* Brings the weights of split ones up to date. */
static void join(struct run *run) {
  if (run->bits) {
    OK(fused_adam_join_weights(N, run->theta, correction_of(run), run->bits, run->weights));
  }
}

static const void *state(const struct run *run, const char *name) {
  const void *blocks = NULL;
  OK(fused_adam_optimizer_state(run->opt, run->param, name, &blocks));
  CHECK(blocks != NULL);
  return blocks;
}

static void check_same(struct run *one, struct run *other) {
  join(one);
  join(other);
  CHECK(memcmp(one->weights, other->weights, sizeof one->weights) == 0);
  CHECK(memcmp(state(one, "m"), state(other, "m"), BYTES) == 0);
  CHECK(memcmp(state(one, "v"), state(other, "v"), BYTES) == 0);
}

/* Saves a run of an optimizer in the middle, with its joined weights, and resumes it. */
static void resumes(const char *path, int bits) {
  static struct run whole, part;
  begin(&whole, bits);
  for (int t = 1; t <= STEPS; t++) {
    step(&whole, t);
    if (t != STEPS / 2) continue;
    join(&whole);
    FusedAdamExtraTensor kept = {"w", whole.weights, N, FUSED_ADAM_TYPE_F32};
    OK(fused_adam_optimizer_save(whole.opt, path, &kept, 1));
  }
  begin(&part, bits);
  FusedAdamExtraTensor kept = {"w", part.weights, N, FUSED_ADAM_TYPE_F32};
  OK(fused_adam_optimizer_load(part.opt, path, &kept, 1));
  if (bits) OK(fused_adam_split_weights(N, part.weights, part.theta, correction_of(&part), bits));
  for (int t = STEPS / 2 + 1; t <= STEPS; t++) step(&part, t);
  check_same(&whole, &part);
  fused_adam_optimizer_free(part.opt);
  if (bits == 16) {
    /* The same run on float weights. */
    begin(&part, 0);
    for (int t = 1; t <= STEPS; t++) step(&part, t);
    check_same(&whole, &part);
    fused_adam_optimizer_free(part.opt);
  }
  fused_adam_optimizer_free(whole.opt);
  printf("a run with states in 8 bits and a resumed run have equal bits (correction: %d bits)\n",
         bits);
}

/* An initial value that is not 0, and the decoded states of an optimizer. */
static void encodes_and_decodes(void) {
  enum { LEN = 40 };
  FusedAdamRule *adagrad = NULL;
  OK(fused_adam_rule_new("adagrad", &adagrad));
  OK(fused_adam_rule_set(adagrad, "initial_accumulator_value", 0.3));
  float elements[LEN], decoded[LEN], theta[LEN] = {0};
  uint8_t blocks[2 * 33];
  void *const states[] = {blocks};
  for (int i = 0; i < LEN; i++) elements[i] = (float)fused_adam_rule_initial_state(adagrad, 0);
  OK(fused_adam_rule_encode_state(adagrad, 0, LEN, elements, blocks));
  OK(fused_adam_rule_decode_state(adagrad, 0, LEN, blocks, decoded));
  for (int i = 0; i < LEN; i++) CHECK(fabsf(decoded[i] - 0.3f) < 0.3f / 64);
  for (int i = LEN - 32; i < 32; i++) CHECK(blocks[33 + i] == 0); /* They do not exist. */

  /* The optimizer encodes the same initial state. */
  FusedAdamOptimizer *opt = NULL;
  size_t param;
  OK(fused_adam_optimizer_new(adagrad, &opt));
  OK(fused_adam_optimizer_add(opt, 0, "", LEN, 0, 0, FUSED_ADAM_TYPE_BLOCK8, &param));
  float own[LEN] = {0};
  FusedAdamTensor tensor = {.param = param, .len = LEN, .theta = own, .grad = elements};
  OK(fused_adam_optimizer_step(opt, &tensor, 1, NULL));
  /* The seed of the parameter is the hash of its name. */
  FusedAdamParam same = {.t = 1, .len = LEN, .theta = theta, .grad = elements,
                         .states = states, .state_count = 1,
                         .state_type = FUSED_ADAM_TYPE_BLOCK8, .seed = 0xcbf29ce484222325u};
  const FusedAdamRule *rules[] = {adagrad};
  OK(fused_adam_step_all(rules, 1, &same, 1, NULL, NULL));
  const void *made = NULL;
  OK(fused_adam_optimizer_state(opt, param, fused_adam_rule_state_name(adagrad, 0), &made));
  CHECK(memcmp(own, theta, sizeof own) == 0 && memcmp(made, blocks, sizeof blocks) == 0);
  CHECK(theta[0] != 0);
  fused_adam_optimizer_free(opt);
  fused_adam_rule_free(adagrad);
}

int main(int argc, char **argv) {
  CHECK(argc == 3); /* The path of a file to write, and of the core's results. */
  OK(fused_adam_rule_new("adamw", &rule));
  equals_the_core_on_any_threads(argv[2]);
  split_equals_float();
  resumes(argv[1], 0);
  resumes(argv[1], 16);
  resumes(argv[1], 8);
  encodes_and_decodes();
  fused_adam_rule_free(rule);
  remove(argv[1]);
  return 0;
}
