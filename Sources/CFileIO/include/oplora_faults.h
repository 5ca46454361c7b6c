// Faults of mapped files: a page that the file no longer has, or that the disk cannot give, is a signal (SIGBUS) to the thread that
// touches it. That thread is held, and another one, which may do what a signal handler may not, ends the program in order.
#pragma once

#include <pthread.h>
#include <stdbool.h>

/// Has the faults of all threads reported to one, as a SIGBUS that it has blocked and waits for. Returns whether the system agreed.
bool oplora_watch_faults(pthread_t thread);

/// Gives the calling thread a stack for its faults. One that never ends, such as the main thread; others have theirs from whoever made them.
void oplora_take_faults(void);

/// What the first thread that is held has touched; NULL where none is.
const void *oplora_fault_place(void);

/// Lets go: the fault is not one of a mapped file, and the program ends of it as it would have.
void oplora_let_fault(void);

/// Whether a signal was ignored when the program started, as nohup has it.
bool oplora_is_ignored(int signal);
