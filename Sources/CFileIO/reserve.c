#define _GNU_SOURCE
#include "oplora_reserve.h"

#include <errno.h>
#include <fcntl.h>

int oplora_reserve(int descriptor, int64_t offset, int64_t count) {
#if defined(__linux__)
    // Not posix_fallocate: where the file system cannot do it, that one writes into every block.
    return fallocate(descriptor, FALLOC_FL_KEEP_SIZE, offset, count) == 0 ? 0 : errno;
#else
    (void)descriptor, (void)offset, (void)count;
    return ENOTSUP;
#endif
}
