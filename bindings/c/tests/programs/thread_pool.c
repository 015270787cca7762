/* Long steps run on the program's own threads, which are pthreads here. The bits are the same. */

#define _POSIX_C_SOURCE 200809L

#include "thread_pool.h"

#include <dirent.h>
#include <pthread.h>
#include <time.h>

static pthread_t calling;
static size_t runs, works, most, least_changed;

struct job {
  FusedAdamWork work;
  void *argument;
};

/* The threads flush subnormal numbers to zero, except under valgrind. They work nevertheless, and
 * keep their mode. */
#if defined(__x86_64__)
#include <xmmintrin.h>
static void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040u); }
static int flushes(void) { return (_mm_getcsr() & 0x8040u) == 0x8040u; }
#else
static void flush(void) {}
static int flushes(void) { return 1; }
#endif

static void *call(void *job) {
  CHECK(!pthread_equal(pthread_self(), calling));
  flush();
  int mode = flushes();
  ((struct job *)job)->work(((struct job *)job)->argument);
  CHECK(flushes() == mode);
  return NULL;
}

/* A pool that starts `count` threads each time. The calling thread only waits. */
static void run(void *context, size_t count, FusedAdamWork work, void *argument) {
  CHECK(context == &runs && pthread_equal(pthread_self(), calling));
  struct job job = {work, argument};
  pthread_t threads[64];
  CHECK(count > 1 && count <= 64);
  for (size_t i = 0; i < count; i++) {
    CHECK(pthread_create(&threads[i], NULL, call, &job) == 0);
  }
  for (size_t i = 0; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  runs++;
  works += count;
  if (count > most) most = count;
  size_t now = changed();
  if (now < least_changed) least_changed = now;
}

/* The number of threads of this process, or 1 where it is unknown. */
static int threads_now(void) {
  DIR *tasks = opendir("/proc/self/task");
  if (tasks == NULL) return 1;
  int count = 0;
  for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

/* A pool need not use all threads, nor call the function at all. */
static void lazy(void *context, size_t count, FusedAdamWork work, void *argument) {
  (void)count;
  if (*(int *)context) work(argument);
}

static int before;

/* The system may count a thread for a moment after it has ended. */
static void no_others(void) {
  for (int i = 0; i < 10000 && threads_now() != before; i++) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  CHECK(threads_now() == before);
}

int main(void) {
  calling = pthread_self();
  before = threads_now();
  CHECK(fused_adam_set_thread_pool(4, NULL, NULL) == FUSED_ADAM_STATUS_NULL);
  CHECK(strcmp(fused_adam_last_error(), "`run` is NULL, expected a function") == 0);
  CHECK(fused_adam_set_thread_pool(0, run, &runs) == FUSED_ADAM_STATUS_THREADS);
  CHECK(strcmp(fused_adam_last_error(), "`threads` is 0, expected 1 to 1024") == 0);
  CHECK(fused_adam_set_thread_pool(1025, run, &runs) == FUSED_ADAM_STATUS_THREADS);

  /* One pass: when `run` returns, the step is done. So the pool did all of it. */
  least_changed = LEN;
  OK(fused_adam_set_thread_pool(3, run, &runs));
  CHECK(fused_adam_threads() == 3);
  train("grad_scale", no_others);
  CHECK(runs == STEPS && works == 3 * STEPS && most == 3 && least_changed == LEN);
  memcpy(expected, theta, sizeof theta);
  OK(fused_adam_set_threads(1));
  train("grad_scale", no_others);
  CHECK(runs == STEPS && memcmp(expected, theta, sizeof theta) == 0);

  /* Two passes: the first computes the norm of the gradients. */
  train("clip_norm", NULL);
  memcpy(expected, theta, sizeof theta);
  OK(fused_adam_set_thread_pool(2, run, &runs));
  train("clip_norm", no_others);
  CHECK(runs == 3 * STEPS && memcmp(expected, theta, sizeof theta) == 0);
  OK(fused_adam_set_thread_pool(1, run, &runs));
  train("clip_norm", no_others);
  CHECK(runs == 3 * STEPS && memcmp(expected, theta, sizeof theta) == 0);

  for (int calls = 0; calls < 2; calls++) {
    OK(fused_adam_set_thread_pool(8, lazy, &calls));
    train("clip_norm", no_others);
    CHECK(memcmp(expected, theta, sizeof theta) == 0);
  }

  /* The library's own threads again. */
  OK(fused_adam_set_threads(2));
  train("clip_norm", NULL);
  CHECK(runs == 3 * STEPS && memcmp(expected, theta, sizeof theta) == 0);
  OK(fused_adam_set_threads(0));
  printf("%zu calls ran on %zu of the program's own threads\n", runs, works);
  return 0;
}
