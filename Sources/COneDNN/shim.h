#include <oneapi/dnnl/dnnl.h>

// Debian's oneDNN runs on OpenMP. The project splits work itself, in a fixed way that does not depend on the number
// of threads, so each of its threads asks OpenMP for a team of one. Declared here because the toolchain's clang
// ships no omp.h.
extern void omp_set_num_threads(int count);
