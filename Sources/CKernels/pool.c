#include "oplora_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__) || defined(__i386__)
#define oplora_relax() __builtin_ia32_pause()
#else
#define oplora_relax() ((void)0)
#endif

// A training step runs some thousands of short loops, so a worker looks for the next one for a while (about 20 µs)
// before it goes to sleep: waking a sleeping thread costs more than many of the loops take.
enum { spins_before_sleep = 2000 };

// What a signal handler of the program may need, with the widest registers.
enum { signal_stack = 1 << 15 };

struct worker {
    struct oplora_pool *pool;
    pthread_t thread;
    int number;
};

struct oplora_pool {
    int threads;
    struct worker *workers;
    void (*prepare)(void);

    pthread_mutex_t mutex;
    pthread_cond_t work_ready;
    // The loop being run. Written before `generation` goes up, read after that has been seen.
    oplora_iteration iteration;
    void *context;
    ptrdiff_t count;
    atomic_ptrdiff_t next;
    atomic_uint generation;
    atomic_int busy;
    atomic_int stopping;
};

static void take_iterations(oplora_pool *pool, int worker) {
    const ptrdiff_t count = pool->count;
    for (;;) {
        ptrdiff_t index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (index >= count) return;
        pool->iteration(pool->context, index, worker);
    }
}

static void *work(void *argument) {
    struct worker *self = argument;
    oplora_pool *pool = self->pool;
    unsigned seen = 0;
    // A part of this thread's stack, out of reach of kernels that use the stack pointer for other things.
    char room[signal_stack];
    const stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    sigaltstack(&stack, NULL);
    if (pool->prepare) pool->prepare();
    for (;;) {
        for (int spin = 0; spin < spins_before_sleep && atomic_load_explicit(&pool->generation, memory_order_acquire) == seen; spin++)
            oplora_relax();
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) == seen) {
            pthread_mutex_lock(&pool->mutex);
            while (atomic_load_explicit(&pool->generation, memory_order_acquire) == seen) pthread_cond_wait(&pool->work_ready, &pool->mutex);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load_explicit(&pool->stopping, memory_order_acquire)) return NULL;
        take_iterations(pool, self->number);
        atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_release);
    }
}

oplora_pool *oplora_pool_create(int threads, void (*prepare)(void)) {
    oplora_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->threads = 1;
    pool->prepare = prepare;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    for (int number = 1; pool->workers && number < threads; number++) {
        struct worker *worker = &pool->workers[number];
        *worker = (struct worker){.pool = pool, .number = number};
        if (pthread_create(&worker->thread, NULL, work, worker) != 0) break;
        pool->threads = number + 1;
    }
    if (!pool->workers || pool->threads < threads) {
        oplora_pool_destroy(pool);
        return NULL;
    }
    return pool;
}

static void announce(oplora_pool *pool) {
    // Under the mutex, so that a worker that is about to sleep cannot miss it.
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->mutex);
}

void oplora_pool_destroy(oplora_pool *pool) {
    if (!pool) return;
    atomic_store_explicit(&pool->stopping, 1, memory_order_release);
    announce(pool);
    for (int number = 1; number < pool->threads; number++) pthread_join(pool->workers[number].thread, NULL);
    pthread_cond_destroy(&pool->work_ready);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

void oplora_pool_run(oplora_pool *pool, ptrdiff_t count, oplora_iteration iteration, void *context) {
    if (pool->threads == 1 || count <= 1) {
        for (ptrdiff_t index = 0; index < count; index++) iteration(context, index, 0);
        return;
    }
    pool->iteration = iteration;
    pool->context = context;
    pool->count = count;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    announce(pool);
    take_iterations(pool, 0);
    for (int spin = 0; atomic_load_explicit(&pool->busy, memory_order_acquire) != 0; spin++) {
        oplora_relax();
        if (spin >= spins_before_sleep) {
            // The other thread may be waiting for this very core.
            sched_yield();
            spin = 0;
        }
    }
}
