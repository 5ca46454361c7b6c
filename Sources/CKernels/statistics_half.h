// The statistics of floating types of 16 bits for one instruction set: how often each pattern occurs says everything.
//
// Numbers of one sign and exponent are whole multiples of one unit, so that their sums and squares are whole numbers too,
// and exact. Only adding the at most 512 pairs of sign and exponent rounds.

static void NAME(measure_half)(oplora_statistics *result, const char *source, ptrdiff_t count, int fraction, int bias, uint32_t *scratch) {
    const int exponents = 1 << (15 - fraction), hidden = 1 << fraction, infinity = exponents - 1;
    half_sums sums[2 * (half_patterns >> 8)] = {{0}};
    uint64_t subnormal[16] = {0};
    int smallest = INT16_MAX, largest = INT16_MIN;
    // How often each pattern occurs. Neighbours count in different tables, so that equal ones do not wait for each other.
    uint32_t(*counts)[half_patterns] = (uint32_t(*)[half_patterns])scratch;
    if (count < half_few) {
        // Going through the tables would take longer than through the numbers.
        for (ptrdiff_t i = 0; i < count; i++) {
            uint16_t pattern;
            memcpy(&pattern, source + 2 * i, 2);
            int group = pattern >> fraction, magnitude = pattern & 0x7FFF, rest = pattern & (hidden - 1);
            int biased = group & (exponents - 1);
            if (biased == infinity) {
                if (rest) result->nan++;
                else result->infinite++;
                continue;
            }
            sums[group].count++;
            sums[group].sum += (uint64_t)rest;
            sums[group].squares += (uint64_t)rest * (uint64_t)rest;
            if (!magnitude) result->zeros++;
            else if (!biased) subnormal[31 - __builtin_clz((unsigned)magnitude)]++;
            int key = half_key(pattern);
            smallest = key < smallest ? key : smallest;
            largest = key > largest ? key : largest;
        }
    } else {
        ptrdiff_t i = 0;
        for (; i + 16 <= count; i += 16) {
            __builtin_prefetch(source + 2 * i + 1024);
            for (int part = 0; part < 16; part += 4) {
                uint64_t word;
                memcpy(&word, source + 2 * (i + part), 8);
                counts[0][word & 0xFFFF]++;
                counts[1][word >> 16 & 0xFFFF]++;
                counts[0][word >> 32 & 0xFFFF]++;
                counts[1][word >> 48]++;
            }
        }
        for (; i < count; i++) {
            uint16_t pattern;
            memcpy(&pattern, source + 2 * i, 2);
            counts[0][pattern]++;
        }
        for (int group = 0; group < 2 * exponents; group++) {
            uint32_t *of_group = counts[0] + ((ptrdiff_t)group << fraction);
            uint32_t *others = counts[1] + ((ptrdiff_t)group << fraction);
            uint64_t all = 0, sum = 0, squares = 0;
            for (int rest = 0; rest < hidden; rest++) all += of_group[rest] += others[rest];
            if (!all) continue;
            memset(others, 0, (size_t)hidden * sizeof *others);
            int biased = group & (exponents - 1);
            if (biased == infinity) {
                result->infinite += of_group[0];
                result->nan += all - of_group[0];
                memset(of_group, 0, (size_t)hidden * sizeof *of_group);
                continue;
            }
            for (uint32_t rest = 0; rest < (uint32_t)hidden; rest++) {
                sum += (uint64_t)of_group[rest] * rest;
                squares += (uint64_t)of_group[rest] * (rest * rest);
            }
            sums[group] = (half_sums){.count = all, .sum = sum, .squares = squares};
            if (!biased) {
                result->zeros += of_group[0];
                for (int bit = 0; bit < fraction; bit++)
                    for (int rest = 1 << bit; rest < 2 << bit; rest++) subnormal[bit] += of_group[rest];
            }
            int first = 0, last = hidden - 1;
            while (!of_group[first]) first++;
            while (!of_group[last]) last--;
            int one = half_key((uint16_t)(group << fraction | first)), other = half_key((uint16_t)(group << fraction | last));
            smallest = one < smallest ? one : smallest;
            smallest = other < smallest ? other : smallest;
            largest = one > largest ? one : largest;
            largest = other > largest ? other : largest;
            memset(of_group, 0, (size_t)hidden * sizeof *of_group);
        }
    }
    half_finish(result, sums, subnormal, fraction, bias);
    if (!result->finite) return;
    result->minimum = half_extreme(smallest, fraction, bias);
    result->maximum = half_extreme(largest, fraction, bias);
}
