// Which of the variants that kernels are compiled in the processor has: 0 portable, 1 AVX2, 2 AVX-512.
#pragma once

#include <stdbool.h>

enum { instruction_sets = 3 };

static inline bool has_instruction_set(int index) {
    if (index == 0) return true;
#if defined(__x86_64__)
    if (index == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (index == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
#endif
    return false;
}

/// The widest of them.
static inline int best_instruction_set(void) {
    for (int index = instruction_sets - 1; index > 0; index--)
        if (has_instruction_set(index)) return index;
    return 0;
}
