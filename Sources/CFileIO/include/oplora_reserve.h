// What Swift's import of the C library leaves out.
#pragma once

#include <stdint.h>

/// Sets room aside on the disk for the bytes from `offset` on, without changing the file's size. Returns zero, or the number of
/// the error: ENOSPC, EDQUOT, or one that says that this system, disk or file cannot do it.
int oplora_reserve(int descriptor, int64_t offset, int64_t count);
