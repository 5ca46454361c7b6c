// The statistics of one element type for one instruction set; see statistics_variant.h for the names that are defined.

#define OF(f) NAME(JOIN(f, ELEMENT))
#define WIDTH (8 * (int)sizeof(STORED))

#if FLOATING
#define TOP ((STORED)((STORED)1 << (WIDTH - 2) | (((STORED)1 << (WIDTH - 2)) - 1)))
#define INFINITE ((STORED)((STORED)(2 * BIAS + 1) << FRACTION))

static inline KEY OF(key)(STORED stored) { return (KEY)(stored ^ ((stored >> (WIDTH - 1)) & TOP)); }
static inline MAGNITUDE OF(magnitude)(STORED stored) { return (MAGNITUDE)(stored & TOP); }

static inline double OF(value)(STORED stored) {
#if FRACTION == 52
    return double_of_bits((uint64_t)stored);
#else
    uint32_t bits = (uint32_t)(uint64_t)(stored & TOP) << (23 - FRACTION);
    float value;
    memcpy(&value, &bits, sizeof value);
#if BIAS == 15
    // The multiplication corrects the bias, subnormal numbers included. Only finite numbers come here.
    value *= 0x1p112f;
#endif
    memcpy(&bits, &value, sizeof bits);
    bits |= (uint32_t)(stored < 0) << 31;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
#endif
}

static inline uint64_t OF(extreme)(KEY key) {
    // A zero has no sign here. The map from numbers to keys is its own inverse.
    return bits_of_double(OF(value)((STORED)OF(key)((STORED)key)) + 0.0);
}

// The least magnitude whose value is 2^exponent or more.
static inline MAGNITUDE OF(limit)(int exponent) {
    int biased = exponent + BIAS;
    return (MAGNITUDE)(biased > 0 ? (STORED)biased << FRACTION : (STORED)1 << (FRACTION - 1 + biased));
}
#else
static inline KEY OF(key)(STORED stored) { return (KEY)stored; }
static inline MAGNITUDE OF(magnitude)(STORED stored) {
    MAGNITUDE wide = (MAGNITUDE)stored;
    return stored < 0 ? (MAGNITUDE)(0 - wide) : wide;
}
static inline double OF(value)(STORED stored) { return (double)stored; }
static inline uint64_t OF(extreme)(KEY key) { return (uint64_t)key; }
#endif

static void OF(measure_block)(oplora_statistics *result, const char *source, ptrdiff_t count) {
    STORED stored[block];
    MAGNITUDE magnitudes[block];
    double values[block];
    memcpy(stored, source, (size_t)count * sizeof(STORED));
    for (ptrdiff_t i = 0; i < count; i++) magnitudes[i] = OF(magnitude)(stored[i]);

    // How many magnitudes reach each limit; a bin is what lies between two.
    MAGNITUDE limits[20], reached[20];
    limits[0] = 1;
#if FLOATING
    enum { limit_count = 20 };
    for (int bin = 1; bin < oplora_statistics_bins; bin++) limits[bin] = OF(limit)(2 * bin - 26);
    limits[16] = (MAGNITUDE)INFINITE;
    for (int limit = 17; limit < limit_count; limit++) limits[limit] = (MAGNITUDE)(INFINITE + 1);
#else
    enum { limit_count = 16, step = WIDTH < 16 ? 1 : WIDTH / 16 };
    // Limits beyond the type, with one step a bit, are beyond the magnitude's type too in one place: none reaches them.
    for (int bin = 1; bin < oplora_statistics_bins; bin++)
        limits[bin] = bin * step < 8 * (int)sizeof(MAGNITUDE) - 1 || sizeof(MAGNITUDE) == 8 ? (MAGNITUDE)((MAGNITUDE)1 << bin * step) : INT16_MAX;
#endif
    for (int first = 0; first < limit_count; first += limits_at_once) {
        const MAGNITUDE a = limits[first], b = limits[first + 1], c = limits[first + 2], d = limits[first + 3];
        MAGNITUDE in_a = 0, in_b = 0, in_c = 0, in_d = 0;
        for (ptrdiff_t i = 0; i < count; i++) {
            in_a += magnitudes[i] >= a;
            in_b += magnitudes[i] >= b;
            in_c += magnitudes[i] >= c;
            in_d += magnitudes[i] >= d;
        }
        reached[first] = in_a;
        reached[first + 1] = in_b;
        reached[first + 2] = in_c;
        reached[first + 3] = in_d;
    }
    result->zeros = (uint64_t)(count - (ptrdiff_t)reached[0]);
    for (int bin = 0; bin < oplora_statistics_bins - 1; bin++) result->bins[bin] = (uint64_t)(reached[bin] - reached[bin + 1]);
#if FLOATING
    result->bins[15] = (uint64_t)(reached[15] - reached[16]);
    result->infinite = (uint64_t)(reached[16] - reached[17]);
    result->nan = (uint64_t)reached[17];
    if (reached[16]) {
        ptrdiff_t kept = 0;
        for (ptrdiff_t i = 0; i < count; i++)
            if (magnitudes[i] < (MAGNITUDE)INFINITE) stored[kept++] = stored[i];
        count = kept;
    }
#else
    result->bins[15] = (uint64_t)reached[15];
#endif
    result->finite = (uint64_t)count;
    if (!count) return;

    KEY smallest = OF(key)(stored[0]), largest = smallest;
    for (ptrdiff_t i = 0; i < count; i++) {
        KEY key = OF(key)(stored[i]);
        smallest = key < smallest ? key : smallest;
        largest = key > largest ? key : largest;
    }
    result->minimum = OF(extreme)(smallest);
    result->maximum = OF(extreme)(largest);
    for (ptrdiff_t i = 0; i < count; i++) values[i] = OF(value)(stored[i]);
    NAME(moments)(result, values, count);
}

static void OF(measure)(oplora_statistics *result, const char *source, ptrdiff_t count) {
    for (ptrdiff_t start = 0; start < count; start += block) {
        oplora_statistics part = {0};
        OF(measure_block)(&part, source + start * (ptrdiff_t)sizeof(STORED), count - start < block ? count - start : block);
        oplora_statistics_add(result, &part, JOIN(oplora_statistics, ELEMENT));
    }
}

#if FLOATING
#undef TOP
#undef INFINITE
#undef FRACTION
#undef BIAS
#endif
#undef OF
#undef WIDTH
#undef ELEMENT
#undef STORED
#undef KEY
#undef MAGNITUDE
