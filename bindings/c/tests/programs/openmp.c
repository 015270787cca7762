/* Long steps run on the threads of OpenMP. The bits are the same. */

#include "thread_pool.h"

#include <omp.h>

static size_t runs, threads_seen;

static void run(void *context, size_t count, FusedAdamWork work, void *argument) {
  (void)context;
  size_t seen = 0;
#pragma omp parallel num_threads((int)count) reduction(+ : seen)
  {
    work(argument);
    seen = 1;
  }
  runs++;
  if (seen > threads_seen) threads_seen = seen;
  CHECK(changed() == LEN); /* The team has done the whole step. */
}

int main(void) {
  omp_set_dynamic(0);
  OK(fused_adam_set_threads(1));
  train("grad_scale", NULL);
  memcpy(expected, theta, sizeof theta);
  OK(fused_adam_set_thread_pool(3, run, NULL));
  train("grad_scale", NULL);
  CHECK(runs == STEPS && threads_seen == 3);
  CHECK(memcmp(expected, theta, sizeof theta) == 0);
  OK(fused_adam_set_threads(0));
  printf("%zu steps ran on %zu threads of OpenMP\n", runs, threads_seen);
  return 0;
}
