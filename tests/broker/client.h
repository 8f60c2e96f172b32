#pragma once

/* Kafka's side of the process tests: one produce, one fetch, one walk over what came back. */

#include "tests/broker/rig.h"
#include "wire/messages.h"

typedef KProduceResponseResponsesPartitionResponses Produced;
typedef KFetchResponseResponsesPartitions Fetched;

extern Rig *rig; /* of the running test program */

void send_produce(int fd, int16_t version, int16_t acks, const char *topic, int32_t partition, const Buf *batch);
Produced produce(int fd, int16_t version, const char *topic, int32_t partition, const Buf *batch);
Fetched fetch(int fd, int16_t version, const char *topic, int64_t offset, int32_t wait_ms, int32_t min_bytes, int32_t max_bytes,
              Arena *arena);
/* Checks CRC, order and values of rig_batch() records; returns the number of records at or past `from`. */
int walk(KBytes records, int64_t from, int64_t first_value_offset, int first_value);
void answers_quickly(void); /* the broker serves others */

/* main() of a test program: argv[1] is the broker. */
typedef struct ProcessTest {
    const char *name;
    const void *test; /* TTest * */
} ProcessTest;
int process_main(int argc, char **argv, const char *suite, const ProcessTest *tests, size_t n);
