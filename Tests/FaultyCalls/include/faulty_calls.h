// A library to be preloaded into a program, so that one of its system calls fails; see faulty_calls.c.
#pragma once
