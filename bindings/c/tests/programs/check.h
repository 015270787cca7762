/* Shared by the programs of this folder: checks that print where they failed. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fused_adam.h"

#define CHECK(that)                                                        \
  do {                                                                     \
    if (!(that)) {                                                         \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #that);   \
      fprintf(stderr, "last error: %s\n", fused_adam_last_error());        \
      exit(1);                                                             \
    }                                                                      \
  } while (0)

#define OK(call) CHECK((call) == FUSED_ADAM_STATUS_OK)

#endif
