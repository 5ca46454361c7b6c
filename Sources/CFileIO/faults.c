#define _GNU_SOURCE
#include "oplora_faults.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

static pthread_t listener;
static _Atomic(const void *) place;
static atomic_bool let;

static void end_as_usual(void) { signal(SIGBUS, SIG_DFL); }

static void hold(int number, siginfo_t *info, void *context) {
    (void)context;
    if (info->si_code <= 0) {
        // Sent by somebody, and not a fault.
        end_as_usual();
        raise(number);
        return;
    }
    const void *none = NULL;
    if (atomic_compare_exchange_strong(&place, &none, info->si_addr)) pthread_kill(listener, number);
    const struct timespec moment = {.tv_nsec = 1000000};
    while (!atomic_load(&let)) nanosleep(&moment, NULL);
    // The instruction is tried again, and this time the signal has its usual meaning.
    end_as_usual();
}

bool oplora_watch_faults(pthread_t thread) {
    listener = thread;
    // On a stack of its own: the matrix kernels that oneDNN makes use the stack pointer for other things.
    struct sigaction action = {.sa_sigaction = hold, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) == 0;
}

void oplora_take_faults(void) {
    static char room[1 << 16];
    const stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    sigaltstack(&stack, NULL);
}

const void *oplora_fault_place(void) { return atomic_load(&place); }

void oplora_let_fault(void) { atomic_store(&let, true); }

bool oplora_is_ignored(int signal) {
    struct sigaction action;
    return sigaction(signal, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN;
}
