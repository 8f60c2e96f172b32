/*
 * main() for a fuzz target when it is not linked to libFuzzer: replays every file of the corpus directories, then a fixed
 * number of mutations of them from a fixed seed. So each target is also an ordinary test, the same at every run.
 *
 *   fuzz_x [-n MUTATIONS] [-s SEED] PATH...        PATH: a corpus directory or one file (to reproduce a crash)
 *
 * With FUZZ_KEEP=FILE in the environment each input is written there before it is tried, so that a crash leaves its cause
 * behind; it costs a file per input and is therefore not the default.
 */

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/hash.h"
#include "base/text.h"

#define INPUT_SIZE_MAX   (1u << 20)
#define INPUTS_MAX       4096
#define MUTATIONS_DEFAULT 20000
#define STEPS_MAX        8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

typedef struct Corpus {
    Buf inputs[INPUTS_MAX];
    size_t n;
} Corpus;

static Corpus corpus;
static const char *keep_path;

static void try_input(const uint8_t *data, size_t size)
{
    /* Its own block of exactly this size: a sanitizer sees the first byte too many. */
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    if (keep_path != NULL)
        (void)fs_write_file_atomic(keep_path, data, size, 0644);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int corpus_add_file(const char *path)
{
    Buf b = BUF_NULL;
    int r = fs_read_file(path, INPUT_SIZE_MAX, &b);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return r;
    }
    if (corpus.n == INPUTS_MAX) {
        fprintf(stderr, "%s: more than %d inputs\n", path, INPUTS_MAX);
        return -E2BIG;
    }
    corpus.inputs[corpus.n++] = b;
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int corpus_add(const char *path)
{
    struct dirent **names;
    struct stat st;
    int n, r = 0;

    if (stat(path, &st) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -errno;
    }
    if (!S_ISDIR(st.st_mode))
        return corpus_add_file(path);
    n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char file[4096];

        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (r == 0 && names[i]->d_name[0] != '.')
            r = corpus_add_file(file);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return r;
}

static uint8_t interesting_byte(Rng *rng)
{
    static const uint8_t bytes[] = {0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff, 0x10, 0x40};
    return rng_below(rng, 2) ? bytes[rng_below(rng, sizeof bytes)] : (uint8_t)rng_next(rng);
}

static size_t mutate_once(Rng *rng, uint8_t *data, size_t size, size_t capacity)
{
    size_t at, n = 1 + rng_below(rng, 12);

    if (size == 0) {
        data[0] = interesting_byte(rng);
        return 1;
    }
    at = rng_below(rng, size);
    switch (rng_below(rng, 7)) {
    case 0:
        data[at] ^= (uint8_t)(1u << rng_below(rng, 8));
        return size;
    case 1:
        data[at] = interesting_byte(rng);
        return size;
    case 2: /* a run of one byte */
        n = MIN(n, size - at);
        memset(data + at, interesting_byte(rng), n);
        return size;
    case 3:
        return at; /* cut */
    case 4: /* drop some bytes */
        n = MIN(n, size - at);
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    case 5: /* double some bytes */
        n = MIN(n, MIN(size - at, capacity - size));
        memmove(data + at + n, data + at, size - at);
        return size + n;
    default: { /* a piece of another input */
        const Buf *other = &corpus.inputs[rng_below(rng, corpus.n)];
        size_t from = other->size > 0 ? rng_below(rng, other->size) : 0;

        n = MIN(other->size - from, size - at);
        if (n > 0)
            memcpy(data + at, other->data + from, n);
        return size;
    }
    }
}

static void run_mutations(Rng *rng, int64_t count)
{
    uint8_t *data = malloc(INPUT_SIZE_MAX);

    if (data == NULL)
        abort();
    for (int64_t i = 0; i < count; i++) {
        const Buf *b = &corpus.inputs[rng_below(rng, corpus.n)];
        size_t size = b->size, steps = 1 + rng_below(rng, STEPS_MAX);

        if (size > 0)
            memcpy(data, b->data, size);
        while (steps-- > 0)
            size = mutate_once(rng, data, size, INPUT_SIZE_MAX);
        try_input(data, size);
    }
    free(data);
}

static int usage(const char *program)
{
    fprintf(stderr, "usage: %s [-n MUTATIONS] [-s SEED] PATH...\n", program);
    return 64;
}

int main(int argc, char **argv)
{
    int64_t mutations = MUTATIONS_DEFAULT, seed = 1;
    Rng rng;
    int option;

    if (LLVMFuzzerInitialize != NULL)
        (void)LLVMFuzzerInitialize(&argc, &argv);
    while ((option = getopt(argc, argv, "n:s:")) != -1) {
        if (option == 'n' ? parse_i64(optarg, &mutations) < 0 : option != 's' || parse_i64(optarg, &seed) < 0)
            return usage(argv[0]);
    }
    if (optind == argc)
        return usage(argv[0]);
    keep_path = getenv("FUZZ_KEEP");
    for (int i = optind; i < argc; i++)
        if (corpus_add(argv[i]) < 0)
            return 1;
    if (corpus.n == 0) {
        fprintf(stderr, "no input in the corpus\n");
        return 1;
    }
    for (size_t i = 0; i < corpus.n; i++)
        try_input(corpus.inputs[i].data, corpus.inputs[i].size);
    rng_init(&rng, (uint64_t)seed);
    run_mutations(&rng, mutations);
    printf("%zu inputs, %lld mutations\n", corpus.n, (long long)mutations);
    for (size_t i = 0; i < corpus.n; i++)
        buf_deinit(&corpus.inputs[i]);
    return 0;
}
