// A pool of threads that runs a counted loop and nothing else.
#pragma once

#include <stddef.h>

typedef struct oplora_pool oplora_pool;

/// One iteration: `index` in 0..<count, `worker` in 0..<threads. Each index is run exactly once; which worker gets it
/// depends on timing, so an iteration may write only what belongs to its index (or scratch that belongs to its worker).
typedef void (*oplora_iteration)(void *context, ptrdiff_t index, int worker);

/// Makes a pool of `threads` workers, the caller of `oplora_pool_run` being the first of them. `prepare` (may be NULL)
/// runs once on each of the other threads as it starts. NULL when the system gives no thread.
oplora_pool *oplora_pool_create(int threads, void (*prepare)(void));
void oplora_pool_destroy(oplora_pool *pool);

/// Runs all iterations and returns when the last one has ended. Calls from several threads are not allowed, nor calls
/// from inside an iteration.
void oplora_pool_run(oplora_pool *pool, ptrdiff_t count, oplora_iteration iteration, void *context);
