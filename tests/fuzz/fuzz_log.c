/*
 * Arbitrary bytes as the files of a log. The first byte chooses what they are: the segment, an index, a snapshot, the epoch
 * file, the marks, a checkpoint. The log is opened as after a crash, read from end to end, appended to, closed and opened
 * again; nothing may crash, hang or hand out a batch whose CRC is wrong.
 *
 * LEAT_FUZZ_SEEDS=DIR writes a sound log's files there as inputs to begin with.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "storage/inspect.h"
#include "storage/log_dir.h"

#define MEMORY_SIZE (4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static char path[64];
static uint8_t *memory;
static LogDir *dir;

static Plog *open_log(void)
{
    LogDirOptions o = {.path = path, .segment_bytes_default = 1 << 20};
    PlogConfig config = PLOG_CONFIG_DEFAULT;
    PlogId id = {.topic = "t"};
    Plog *log = NULL;
    char why[256];

    config.file_delete_delay_ms = 0;
    id.topic_id.b[0] = 7;
    CHECK(log_dir_open(&o, &dir, why, sizeof(why)) == 0);
    if (plog_open(dir, &id, &config, &log, why, sizeof(why)) != 0)
        return NULL;
    return log;
}

static void read_everything(Plog *log)
{
    PlogTimeOffset t;
    PlogSlice slice;
    int64_t next = plog_start(log);

    for (int steps = 0; next < plog_end(log) && steps < 100000; steps++) {
        int r = plog_read(log, next, plog_end(log), memory, MEMORY_SIZE, true, &slice);
        if (r == PLOG_E_CORRUPT) {
            CHECK(slice.next_offset >= next);
            next = slice.next_offset > next ? slice.next_offset : next + (steps % 2);
            continue;
        }
        CHECK(r == 0 || r == PLOG_E_TOO_LARGE || r == -EOVERFLOW);
        if (r != 0 || slice.size == 0)
            break;
        for (size_t at = 0; at < slice.size;) {
            BatchHeader h;
            CHECK(batch_header_decode(memory + at, slice.size - at, &h) == 0);
            CHECK(batch_crc_is_valid(memory + at, &h));
            at += batch_total_size(&h);
        }
        CHECK(slice.next_offset > next);
        next = slice.next_offset;
    }
    (void)plog_offset_for_time(log, 1000, INT64_MAX, &t);
    (void)plog_max_timestamp(log, INT64_MAX, &t);
    (void)plog_locate(log, (plog_start(log) + plog_end(log)) / 2, INT64_MAX, 1000, true, &slice);
}

static void append_one(Plog *log)
{
    BatchStamp stamp = {.producer_id = 6, .base_sequence = (int32_t)(plog_end(log) & 0xffff)};
    RecordView record = {.timestamp = 1000 + (plog_end(log) & 0xffff), .key = "k", .key_size = 1, .value = "value", .value_size = 5};
    int64_t end = plog_end(log), offset;
    BatchHeader h;
    PlogAppend a = {.batch = memory, .header = &h};
    BatchBuilder b;
    size_t done;

    batch_builder_init(&b, memory, MEMORY_SIZE);
    for (int i = 0; i < 3; i++)
        CHECK(batch_builder_append(&b, &record) == 0);
    a.size = batch_builder_finish(&b, &stamp);

    CHECK(batch_header_decode(memory, a.size, &h) == 0);
    if (end < INT64_MAX - 10 && plog_append(log, &a, 1, &offset, &done) == 0)
        CHECK(offset == end);
}

static void put_file(const char *name, const uint8_t *data, size_t size)
{
    char full[256];
    FILE *f;

    (void)snprintf(full, sizeof(full), "%s/%s", path, name);
    f = fopen(full, "w");
    CHECK(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

static void make_sound_log(void)
{
    Plog *log = open_log();

    CHECK(log != NULL);
    for (int i = 0; i < 10; i++)
        append_one(log);
    plog_close(log);
    dir = log_dir_close(dir, true);
}

static int ignore(void *userdata, const InspectProblem *problem)
{
    (void)userdata, (void)problem;
    return 0;
}

static const char *const names[] = {
    "t-0/00000000000000000000.log",      "t-0/00000000000000000000.index", "t-0/00000000000000000000.timeindex",
    "t-0/00000000000000000030.snapshot", "t-0/leader-epoch-checkpoint",    "durable-marks",
    "recovery-point-offset-checkpoint",  "t-0/damaged-ranges",             "t-0/00000000000000000000.log.swap",
    "log-start-offset-checkpoint"};

static void write_seeds(const char *to)
{
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char full[256], out[256];
        uint8_t first = (uint8_t)i;
        Buf data = BUF_NULL, seed = BUF_NULL;
        (void)snprintf(full, sizeof(full), "%s/%s", path, i == 8 ? names[0] : names[i]);
        (void)snprintf(out, sizeof(out), "%s/seed-%zu", to, i);
        if (fs_read_file(full, 1 << 20, &data) < 0)
            continue;
        CHECK(buf_append(&seed, &first, 1) == 0 && buf_append(&seed, data.data, MIN(data.size, (size_t)20000)) == 0);
        CHECK(fs_write_file_atomic(out, seed.data, seed.size, 0644) == 0);
        buf_deinit(&data);
        buf_deinit(&seed);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char folder[128];
    InspectSummary summary;
    Plog *log;
    bool clean;

    if (size == 0)
        return 0;
    (void)snprintf(path, sizeof(path), "/dev/shm/leat-fuzz-%d", getpid());
    if (!memory)
        memory = malloc(MEMORY_SIZE);
    CHECK(fs_remove_tree(path) == 0);
    make_sound_log();
    if (getenv("LEAT_FUZZ_SEEDS"))
        write_seeds(getenv("LEAT_FUZZ_SEEDS"));
    clean = data[0] & 0x80;
    put_file(names[(data[0] & 0x7f) % ARRAY_SIZE(names)], data + 1, size - 1);
    if (!clean) {
        char marker[128];
        (void)snprintf(marker, sizeof(marker), "%s/.kafka_cleanshutdown", path);
        (void)unlink(marker);
    }
    (void)snprintf(folder, sizeof(folder), "%s/t-0", path);
    (void)inspect_verify(folder, ignore, NULL, &summary);
    for (int i = 0; i < 2; i++) {
        log = open_log();
        if (log) {
            read_everything(log);
            append_one(log);
            read_everything(log);
            plog_close(log);
        }
        dir = log_dir_close(dir, true);
    }
    CHECK(fs_remove_tree(path) == 0);
    return 0;
}
