// Makes the Nth call of one kind fail in the program that this library is preloaded into (Linux).
//
//     FAULTY_CALL=write FAULTY_NUMBER=3 FAULTY_ERROR=28 FAULTY_FOLDER=/tmp/x LD_PRELOAD=libFaultyCalls.so program …
//
// Kinds: open, read, write, fsync, close, rename (renameat2, too), renameat2, link, mkdir. Counted are the calls on files whose path begins with FAULTY_FOLDER.
// An error of 0 makes a read or write short instead: it takes one byte. EINTR (4) fails once and lets the next try through.
// Reads are those at a place (pread).
#ifdef __linux__
#define _GNU_SOURCE
#include "faulty_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int calls;

// Whether this call is the one that fails; sets errno.
static int fails(const char *kind, const char *path) {
    const char *wanted = getenv("FAULTY_CALL"), *folder = getenv("FAULTY_FOLDER");
    const char *number = getenv("FAULTY_NUMBER"), *error = getenv("FAULTY_ERROR");
    if (!wanted || !folder || !number || !error || strcmp(wanted, kind) != 0) return 0;
    if (!path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != atoi(number)) return 0;
    errno = atoi(error);
    return 1;
}

// The path of an open file, in `path`; an empty text where there is none.
static const char *path_of(int descriptor, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, 4095);
    path[length > 0 ? length : 0] = 0;
    return path;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list list;
        va_start(list, flags);
        mode = va_arg(list, mode_t);
        va_end(list);
    }
    if (fails("open", path)) return -1;
    return NEXT(open)(path, flags, mode);
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
    char path[4096];
    if (count > 0 && fails("write", path_of(descriptor, path))) {
        if (errno) return -1;
        return NEXT(write)(descriptor, bytes, 1);
    }
    return NEXT(write)(descriptor, bytes, count);
}

ssize_t pread(int descriptor, void *bytes, size_t count, off_t offset) {
    char path[4096];
    if (count > 0 && fails("read", path_of(descriptor, path))) {
        if (errno) return -1;
        return NEXT(pread)(descriptor, bytes, 1, offset);
    }
    return NEXT(pread)(descriptor, bytes, count, offset);
}

int fsync(int descriptor) {
    char path[4096];
    return fails("fsync", path_of(descriptor, path)) ? -1 : NEXT(fsync)(descriptor);
}

// As on Linux, the descriptor is gone also when closing fails.
int close(int descriptor) {
    char path[4096];
    if (!fails("close", path_of(descriptor, path))) return NEXT(close)(descriptor);
    int error = errno;
    NEXT(close)(descriptor);
    errno = error;
    return -1;
}

int rename(const char *old, const char *new) { return fails("rename", new) ? -1 : NEXT(rename)(old, new); }

int renameat2(int folder, const char *old, int other, const char *new, unsigned flags) {
    return fails("rename", new) || fails("renameat2", new) ? -1 : NEXT(renameat2)(folder, old, other, new, flags);
}

int link(const char *old, const char *new) { return fails("link", new) ? -1 : NEXT(link)(old, new); }

int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
#endif
