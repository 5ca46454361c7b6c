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
    float value;
    memcpy(&value, &stored, sizeof value);
    return (double)value;
#endif
}

static inline uint64_t OF(extreme)(KEY key) {
    // A zero has no sign here. The map from numbers to keys is its own inverse.
    return bits_of_double(OF(value)((STORED)OF(key)((STORED)key)) + 0.0);
}

// The least magnitude whose value is 2^exponent or more.
static inline MAGNITUDE OF(limit)(int exponent) {
    // All limits are normal numbers.
    return (MAGNITUDE)((STORED)(exponent + BIAS) << FRACTION);
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

static inline STORED OF(load)(const char *source, ptrdiff_t index) {
    // Tensors in a file need not be aligned to their elements.
    STORED stored;
    memcpy(&stored, source + index * (ptrdiff_t)sizeof stored, sizeof stored);
    return stored;
}

static void OF(measure_block)(oplora_statistics *result, const char *source, ptrdiff_t count) {
    MAGNITUDE magnitudes[block];
    MAGNITUDE least = OF(magnitude)(OF(load)(source, 0)), most = least;
    KEY smallest = OF(key)(OF(load)(source, 0)), largest = smallest;
    for (ptrdiff_t i = 0; i < count; i++) {
        STORED stored = OF(load)(source, i);
        MAGNITUDE magnitude = OF(magnitude)(stored);
        KEY key = OF(key)(stored);
        magnitudes[i] = magnitude;
        least = magnitude < least ? magnitude : least;
        most = magnitude > most ? magnitude : most;
        smallest = key < smallest ? key : smallest;
        largest = key > largest ? key : largest;
    }

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
    // Most blocks lie between few of the limits: all reach those below and none those above.
    int begin = 0, end = limit_count;
    while (begin < limit_count && limits[begin] <= least) reached[begin++] = (MAGNITUDE)count;
    while (end > begin && limits[end - 1] > most) reached[--end] = 0;
    // A few more on either side are counted, for the loop takes several at a time.
    for (int next = begin; next < end; next += limits_at_once) {
        const int first = next < limit_count - limits_at_once ? next : limit_count - limits_at_once;
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
    STORED finite[block];
    if (reached[16]) {
        ptrdiff_t kept = 0;
        for (ptrdiff_t i = 0; i < count; i++)
            if (magnitudes[i] < (MAGNITUDE)INFINITE) finite[kept++] = OF(load)(source, i);
        if (!kept) return;
        count = kept;
        source = (const char *)finite;
        smallest = largest = OF(key)(finite[0]);
        for (ptrdiff_t i = 1; i < count; i++) {
            KEY key = OF(key)(finite[i]);
            smallest = key < smallest ? key : smallest;
            largest = key > largest ? key : largest;
        }
    }
#else
    result->bins[15] = (uint64_t)reached[15];
#endif
    result->finite = (uint64_t)count;
    result->minimum = OF(extreme)(smallest);
    result->maximum = OF(extreme)(largest);

    const double origin = OF(value)(OF(load)(source, 0));
    double sums[lanes] = {0}, squares[lanes] = {0};
    ptrdiff_t whole = count / lanes * lanes;
    for (ptrdiff_t i = 0; i < whole; i += lanes)
        for (int lane = 0; lane < lanes; lane++) {
            double distance = OF(value)(OF(load)(source, i + lane)) - origin;
            sums[lane] += distance;
            squares[lane] += distance * distance;
        }
    for (ptrdiff_t i = whole; i < count; i++) {
        double distance = OF(value)(OF(load)(source, i)) - origin;
        sums[i - whole] += distance;
        squares[i - whole] += distance * distance;
    }
    NAME(moments)(result, origin, sums, squares, count);
}

static void OF(measure)(oplora_statistics *result, const char *source, ptrdiff_t count) {
    for (ptrdiff_t start = 0; start < count; start += block) {
        oplora_statistics part = {0};
        OF(measure_block)(&part, source + start * (ptrdiff_t)sizeof(STORED), count - start < block ? count - start : block);
        oplora_statistics_add(result, &part, JOIN(oplora_element, ELEMENT));
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
