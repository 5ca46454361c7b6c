// What Swift's import of the C library leaves out.
#pragma once

#include <stdint.h>

/// Sets room aside on the disk for the bytes from `offset` on, without changing the file's size. Returns zero, or the number of
/// the error: ENOSPC, EDQUOT, or one that says that this system, disk or file cannot do it.
int oplora_reserve(int descriptor, int64_t offset, int64_t count);

enum oplora_renaming {
    /// Only to a name that nothing has.
    oplora_renaming_keeps,
    /// What has the new name gets the old one.
    oplora_renaming_exchanges,
};

/// Renames in one step. Returns zero, or the number of the error; ENOTSUP where this system or disk cannot do it.
int oplora_rename(const char *old, const char *new, enum oplora_renaming renaming);

/// Takes the lock of an open file or folder, which goes with its last descriptor. Returns zero, or the number of the error:
/// EWOULDBLOCK where another has it, or one that says that this system or disk has no locks.
int oplora_lock(int descriptor);
