// The same program in C++. C++20 also has the initializers of the README's schedule, if the members
// are in the order of their declaration.

#include <fused_adam.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" // The others are 0.
[[maybe_unused]] static const FusedAdamLrPhase SCHEDULE[] = {
    {.kind = FUSED_ADAM_LR_WARMUP, .steps = 100, .until = 100},
    {.kind = FUSED_ADAM_LR_COSINE, .steps = 900, .floor = 0.1, .until = 1000},
    {.kind = FUSED_ADAM_LR_CONSTANT, .steps = UINT64_MAX, .factor = 0.1},
};
#pragma GCC diagnostic pop

#include "constant.c"
