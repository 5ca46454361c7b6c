// Which tiles a matrix product should be cut into: GFLOP/s of oneDNN's single-threaded GEMM for the products of a block of
// SmolLM2-135M (1024 tokens), tile by tile, with one thread or several.
//
//     cc -O2 Benchmarks/tiles.c -o tiles -ldnnl -lgomp -lpthread && ./tiles 2
//
// oneDNN packs both inputs again for each tile: a narrow tile packs much and multiplies little.
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern void omp_set_num_threads(int count);

typedef struct {
    int thread, threads, m, n, k, rows, columns, transposed, rounds;
    const float *a, *b;
    float *c;
} job;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

// c[m,n] = a[m,k] · b, b stored as [n,k] where transposed and as [k,n] otherwise; every threads-th tile is this thread's.
static void *multiply(void *argument) {
    const job *j = argument;
    omp_set_num_threads(1);
    for (int round = 0; round < j->rounds; round++) {
        int tile = 0;
        for (int row = 0; row < j->m; row += j->rows) {
            for (int column = 0; column < j->n; column += j->columns, tile++) {
                if (tile % j->threads != j->thread) continue;
                int rows = j->m - row < j->rows ? j->m - row : j->rows;
                int columns = j->n - column < j->columns ? j->n - column : j->columns;
                const float *b = j->b + (j->transposed ? (long)column * j->k : column);
                dnnl_sgemm('N', j->transposed ? 'T' : 'N', rows, columns, j->k, 1, j->a + (long)row * j->k, j->k, b,
                           j->transposed ? j->k : j->n, 0, j->c + (long)row * j->n + column, j->n);
            }
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    enum { most = 64 };
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > most) return 64;
    const int products[][3] = {{1024, 576, 576}, {1024, 192, 576}, {1024, 1536, 576}, {1024, 576, 1536}};
    const int cuts[][2] = {{1, 8}, {1, 4}, {2, 4}, {4, 2}, {4, 4}, {8, 4}, {4, 8}}; // of rows and of columns
    for (int p = 0; p < 4; p++) {
        for (int transposed = 0; transposed < 2; transposed++) {
            int m = products[p][0], n = products[p][1], k = products[p][2];
            float *a = calloc((size_t)m * k, 4), *b = calloc((size_t)n * k, 4), *c = calloc((size_t)m * n, 4);
            for (long i = 0; i < (long)m * k; i++) a[i] = i % 7;
            for (long i = 0; i < (long)n * k; i++) b[i] = i % 5;
            printf("[%d,%d] = [%d,%d] x %s:", m, n, m, k, transposed ? "[n,k] transposed" : "[k,n]");
            for (unsigned cut = 0; cut < sizeof cuts / sizeof *cuts; cut++) {
                int rows = m / cuts[cut][0], columns = (n + cuts[cut][1] - 1) / cuts[cut][1];
                int rounds = (int)(4e9 / (2.0 * m * n * k)) + 1;
                double best = 1e9;
                for (int attempt = 0; attempt < 3; attempt++) {
                    pthread_t handles[most];
                    job jobs[most];
                    double start = seconds();
                    for (int i = 0; i < threads; i++) {
                        jobs[i] = (job){i, threads, m, n, k, rows, columns, transposed, rounds, a, b, c};
                        pthread_create(handles + i, NULL, multiply, jobs + i);
                    }
                    for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
                    double taken = (seconds() - start) / rounds;
                    if (taken < best) best = taken;
                }
                printf("  %dx%d %.0f", rows, columns, 2.0 * m * n * k / best / 1e9);
            }
            printf("\n");
            free(a), free(b), free(c);
        }
    }
}
