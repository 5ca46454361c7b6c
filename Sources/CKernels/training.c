// The training kernels, compiled from one source for each instruction set and chosen at run time.
#include "oplora_training.h"

#include <math.h>
#include <string.h>

#define VARIANT portable
#include "training_variant.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT avx2
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#include "training_variant.h"
#pragma clang attribute pop
#undef VARIANT

#define VARIANT avx512
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,prefer-256-bit"))), apply_to = function)
#include "training_variant.h"
#pragma clang attribute pop
#undef VARIANT
#endif

bool oplora_has_bf16_products(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

const oplora_training_kernels *oplora_training_kernels_variant(int index) {
    if (index == 0) return &training_kernels_portable;
#if defined(__x86_64__)
    if (index == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return &training_kernels_avx2;
    if (index == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return &training_kernels_avx512;
#endif
    return NULL;
}

const oplora_training_kernels *oplora_training_kernels_best(void) {
    for (int index = 2; index > 0; index--) {
        const oplora_training_kernels *kernels = oplora_training_kernels_variant(index);
        if (kernels) return kernels;
    }
    return &training_kernels_portable;
}
