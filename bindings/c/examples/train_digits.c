/* Trains a linear classifier on handwritten digits, with the library's optimizer and with a
 * textbook loop, and checks that both end with the same weights.
 *
 *   gunzip -c data/digits.csv.gz > digits.csv
 *   cc -O2 bindings/c/examples/train_digits.c bindings/c/examples/textbook.c \
 *     $(pkg-config --cflags --libs fused-adam) -lm -o train_digits
 *   ./train_digits digits.csv
 *
 * Each row of the file is a digit: 64 pixels from 0 to 16, and the label. Every fifth digit is held
 * out. */

#include <fused_adam.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "textbook.h"

enum { PIXELS = 64, CLASSES = 10, WEIGHTS = PIXELS * CLASSES, BATCH = 96, MOST = 2000 };

/* In double, the library and the textbook differ only by rounding. A step moves a weight by about
 * lr = 0.01. It rounds about ten times, with a relative error of 2^-53 each. A small gradient has a
 * larger relative error, because it is a sum of larger terms, and Adam divides by its size. So
 * assume a thousand roundings per step. Over 600 steps of 0.01 they add up to 7e-13 for a weight.
 * The error of the loss is of the same order. */
static const double CLOSE = 1e-12;

/* In float the states are rounded to 2^-24, which is 5e8 times as coarse as in double. */
static const double CLOSE_IN_FLOAT = 1e-12 * 5e8;

static double pixels[MOST][PIXELS];
static int labels[MOST];

static void stop(const char *why) {
  fprintf(stderr, "train_digits: %s\n", why);
  exit(1);
}

/* Checks the status that a call returned. */
static void ok(FusedAdamStatus status) {
  if (status != FUSED_ADAM_STATUS_OK) stop(fused_adam_last_error());
}

/* Reads the digits. The held-out digits come last. Stores the number of the others in `training`,
 * and returns the number of all. */
static int read_digits(const char *path, int *training) {
  FILE *file = fopen(path, "r");
  if (file == NULL) stop("the file of digits cannot be opened");
  int rows = 0, value, training_rows = 0, held_out_rows = 0;
  while (rows < MOST && fscanf(file, "%d", &value) == 1) {
    /* The held-out digits are first stored at the end of the array, in reverse order. */
    const int at = rows++ % 5 == 4 ? MOST - ++held_out_rows : training_rows++;
    for (int i = 0; i < PIXELS; i++) {
      pixels[at][i] = value / 16.0;
      if (fscanf(file, ",%d", &value) != 1) stop("a row of digits ends early");
    }
    if (value < 0 || value >= CLASSES) stop("a label is not a digit");
    labels[at] = value;
  }
  fclose(file);
  if (rows < 2 * BATCH) stop("the file has too few digits");
  memmove(pixels[training_rows], pixels[MOST - held_out_rows],
          (size_t)held_out_rows * sizeof *pixels);
  memmove(labels + training_rows, labels + MOST - held_out_rows,
          (size_t)held_out_rows * sizeof *labels);
  *training = training_rows;
  return rows;
}

/* The parameters, or the sum of their gradients. */
struct model {
  double w[WEIGHTS], b[CLASSES];
};

/* Returns the mean loss over the digits from `from` to `to`. Adds to `grad` and to `correct`, the
 * number of digits that are classified correctly. */
static double loss_of(const struct model *model, int from, int to, struct model *grad,
                      int *correct) {
  double loss = 0;
  for (int n = from; n < to; n++) {
    double scores[CLASSES], largest = -INFINITY, sum = 0;
    int best = 0;
    for (int c = 0; c < CLASSES; c++) {
      scores[c] = model->b[c];
      for (int i = 0; i < PIXELS; i++) scores[c] += model->w[c * PIXELS + i] * pixels[n][i];
      if (scores[c] > largest) largest = scores[best = c];
    }
    for (int c = 0; c < CLASSES; c++) sum += exp(scores[c] - largest);
    loss += log(sum) + largest - scores[labels[n]];
    if (correct != NULL) *correct += best == labels[n];
    if (grad == NULL) continue;
    for (int c = 0; c < CLASSES; c++) {
      const double error = (exp(scores[c] - largest) / sum - (c == labels[n])) / (to - from);
      grad->b[c] += error;
      for (int i = 0; i < PIXELS; i++) grad->w[c * PIXELS + i] += error * pixels[n][i];
    }
  }
  return loss / (to - from);
}

/* Takes a step on a model. `state` is the data of the optimizer. */
typedef void step_function(void *state, uint64_t t, struct model *model, struct model *grad);

/* The library's optimizer. Weights and biases are in two groups, because biases do not decay. */
struct by_library {
  FusedAdamOptimizer *opt;
  size_t w, b;
  /* Parameters in float. The model then holds a copy of them in double. */
  float w_float[WEIGHTS], b_float[CLASSES], w_grad[WEIGHTS], b_grad[CLASSES];
};

static const double LR = 1e-2, BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8, WEIGHT_DECAY = 1e-2;

static void make(struct by_library *library, int32_t type) {
  FusedAdamRule *rule = NULL;
  ok(fused_adam_rule_new("adamw", &rule));
  ok(fused_adam_rule_set(rule, "lr", LR));
  ok(fused_adam_rule_set(rule, "beta1", BETA1));
  ok(fused_adam_rule_set(rule, "beta2", BETA2));
  ok(fused_adam_rule_set(rule, "eps", EPS));
  ok(fused_adam_rule_set(rule, "weight_decay", WEIGHT_DECAY));
  ok(fused_adam_optimizer_new(rule, &library->opt));
  ok(fused_adam_rule_set(rule, "weight_decay", 0));
  size_t biases = 0;
  ok(fused_adam_optimizer_add_group(library->opt, rule, &biases));
  fused_adam_rule_free(rule);
  ok(fused_adam_optimizer_add(library->opt, 0, "w", WEIGHTS, type, type, type, &library->w));
  ok(fused_adam_optimizer_add(library->opt, biases, "b", CLASSES, type, type, type, &library->b));
}

static void library_step(void *state, uint64_t t, struct model *model, struct model *grad) {
  (void)t; /* The optimizer counts its steps. */
  struct by_library *library = state;
  const FusedAdamTensor tensors[] = {
      {.param = library->w, .len = WEIGHTS, .theta = model->w, .grad = grad->w},
      {.param = library->b, .len = CLASSES, .theta = model->b, .grad = grad->b},
  };
  ok(fused_adam_optimizer_step(library->opt, tensors, 2, NULL));
}

static void library_step_in_float(void *state, uint64_t t, struct model *model,
                                  struct model *grad) {
  (void)t;
  struct by_library *library = state;
  for (int i = 0; i < WEIGHTS; i++) library->w_grad[i] = (float)grad->w[i];
  for (int i = 0; i < CLASSES; i++) library->b_grad[i] = (float)grad->b[i];
  const FusedAdamTensor tensors[] = {
      {.param = library->w, .len = WEIGHTS, .theta = library->w_float, .grad = library->w_grad},
      {.param = library->b, .len = CLASSES, .theta = library->b_float, .grad = library->b_grad},
  };
  ok(fused_adam_optimizer_step(library->opt, tensors, 2, NULL));
  for (int i = 0; i < WEIGHTS; i++) model->w[i] = library->w_float[i];
  for (int i = 0; i < CLASSES; i++) model->b[i] = library->b_float[i];
}

/* The textbook loop. */
struct by_textbook {
  struct model m, v;
};

static void textbook_step(void *state, uint64_t t, struct model *model, struct model *grad) {
  struct by_textbook *book = state;
  textbook_adamw_f64(WEIGHTS, model->w, grad->w, book->m.w, book->v.w, t, LR, BETA1, BETA2, EPS,
                     WEIGHT_DECAY);
  textbook_adamw_f64(CLASSES, model->b, grad->b, book->m.b, book->v.b, t, LR, BETA1, BETA2, EPS, 0);
}

struct result {
  struct model model;
  double loss;
};

static struct result train(const char *name, step_function *step, void *state, int training,
                           int count, int steps) {
  struct result result;
  memset(&result, 0, sizeof result);
  for (int t = 1; t <= steps; t++) {
    struct model grad;
    memset(&grad, 0, sizeof grad);
    const int from = (t - 1) * BATCH % (training - BATCH);
    loss_of(&result.model, from, from + BATCH, &grad, NULL);
    step(state, (uint64_t)t, &result.model, &grad);
  }
  int correct = 0;
  result.loss = loss_of(&result.model, 0, training, NULL, NULL);
  const double held_out = loss_of(&result.model, training, count, NULL, &correct);
  printf("%-16s loss %.15f, held-out loss %.4f, held-out accuracy %.1f %%\n", name, result.loss,
         held_out, 100.0 * correct / (count - training));
  /* A linear classifier reaches about 95 %. */
  if (steps >= 600 && correct < 0.93 * (count - training))
    stop("the held-out accuracy is below 93 %");
  return result;
}

static void compare(const char *what, const struct result *result, const struct result *book,
                    double close) {
  double largest = 0;
  for (int i = 0; i < WEIGHTS; i++)
    largest = fmax(largest, fabs(result->model.w[i] - book->model.w[i]));
  for (int i = 0; i < CLASSES; i++)
    largest = fmax(largest, fabs(result->model.b[i] - book->model.b[i]));
  const double losses = fabs(result->loss - book->loss);
  printf("%s and the textbook differ by %.1e in a weight and %.1e in the loss, tolerance %.0e\n",
         what, largest, losses, close);
  if (!(largest <= close && losses <= close)) stop("the difference is larger than the tolerance");
}

int main(int argc, char **argv) {
  if (argc < 2) stop("expected the file of digits, and perhaps the number of steps");
  int training = 0;
  const int count = read_digits(argv[1], &training), steps = argc > 2 ? atoi(argv[2]) : 600;
  static struct by_library in_double, in_float;
  static struct by_textbook book;
  make(&in_double, FUSED_ADAM_TYPE_F64);
  make(&in_float, FUSED_ADAM_TYPE_F32);
  const struct result textbook = train("textbook", textbook_step, &book, training, count, steps);
  const struct result double_result =
      train("fused-adam", library_step, &in_double, training, count, steps);
  const struct result float_result =
      train("fused-adam float", library_step_in_float, &in_float, training, count, steps);
  compare("fused-adam", &double_result, &textbook, CLOSE);
  compare("fused-adam in float", &float_result, &textbook, CLOSE_IN_FLOAT);
  fused_adam_optimizer_free(in_double.opt);
  fused_adam_optimizer_free(in_float.opt);
  return 0;
}
