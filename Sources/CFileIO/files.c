#define _GNU_SOURCE
#include "oplora_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

int oplora_reserve(int descriptor, int64_t offset, int64_t count) {
#if defined(__linux__)
    // Not posix_fallocate: where the file system cannot do it, that one writes into every block.
    return fallocate(descriptor, FALLOC_FL_KEEP_SIZE, offset, count) == 0 ? 0 : errno;
#else
    (void)descriptor, (void)offset, (void)count;
    return ENOTSUP;
#endif
}

int oplora_rename(const char *old, const char *new, enum oplora_renaming renaming) {
#if defined(__linux__)
    unsigned flags = renaming == oplora_renaming_exchanges ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    int failed = renameat2(AT_FDCWD, old, AT_FDCWD, new, flags);
#elif defined(__APPLE__)
    int failed = renamex_np(old, new, renaming == oplora_renaming_exchanges ? RENAME_SWAP : RENAME_EXCL);
#else
    int failed = -1;
    errno = ENOTSUP;
#endif
    if (!failed) return 0;
    // Kernels and file systems say in these ways that they do not know it.
    return errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP ? ENOTSUP : errno;
}

int oplora_lock(int descriptor) {
    for (;;) {
        if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return 0;
        if (errno != EINTR) return errno;
    }
}
