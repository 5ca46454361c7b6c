// The training kernels, compiled from one source for each instruction set and chosen at run time.
#include "oplora_training.h"

#include "instruction_sets.h"

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
    static const oplora_training_kernels *const variants[instruction_sets] = {
        &training_kernels_portable,
#if defined(__x86_64__)
        &training_kernels_avx2,
        &training_kernels_avx512,
#endif
    };
    return index >= 0 && index < instruction_sets && has_instruction_set(index) ? variants[index] : NULL;
}

const oplora_training_kernels *oplora_training_kernels_best(void) { return oplora_training_kernels_variant(best_instruction_set()); }
