#pragma once

/*
 * Walking .log files of a stopped node, batch by batch, with a verdict on each. Reads only; log.c prints and repairs.
 *
 * What counts as bad is what storage/ holds to be bad: a header that does not decode, an offset that goes back, a checksum
 * that does not fit, records that do not parse (deep). Behind a bad batch the walk goes on at the next place where a whole
 * batch with a fitting offset and a valid checksum stands. Zeros up to the end of the file are room that was allocated
 * ahead, not damage.
 */

#include "base/buf.h"
#include "wire/batch.h"

typedef enum ScanVerdict { SCAN_GOOD, SCAN_BAD, SCAN_FREE } ScanVerdict;

typedef struct ScanItem {
    ScanVerdict verdict;
    int64_t position, size;          /* bytes; of a bad one up to where the next good batch begins */
    int64_t first_offset, next_offset; /* of a bad one: expected, and where the next good one goes on (-1 = end of file) */
    BatchHeader header;              /* SCAN_GOOD; of a bad one when has_header */
    bool has_header;
    uint32_t crc_computed;
    char why[160];
    const uint8_t *batch; /* SCAN_GOOD: the whole batch, until the next call */
} ScanItem;

typedef struct Scan {
    int fd;
    int64_t base_offset, file_size, position, expected;
    bool deep;
    Buf window;
    int64_t window_at; /* of window.data[0] in the file */
    Buf plain;         /* decompressed records of the last batch */
    int error;         /* negative errno of a read */
} Scan;

#define SCAN_BATCH_MAX (128u << 20)
#define SCAN_PLAIN_MAX (256u << 20)

/* @fd stays the caller's. @base_offset: number in the file's name. */
int scan_open(Scan *s, int fd, int64_t base_offset, bool deep);
void scan_close(Scan *s);
/* Return: 1 an item, 0 end of file, negative errno of a read. */
int scan_next(Scan *s, ScanItem *ret);
/* Records of a good batch: where they are uncompressed (in s->plain if need be). Return: 0 or -EBADMSG, -EFBIG... */
int scan_records(Scan *s, const ScanItem *item, const void **ret, size_t *ret_size);

/* Names. "orders-3" -> topic and partition. */
bool log_name_parse(const char *name, size_t *ret_topic_size, int32_t *ret_partition);
/* Base offsets of the segments of a partition directory, ascending; free() it. Return: count or negative errno. */
int64_t log_segments(int dir_fd, int64_t **ret);
void segment_name(int64_t base_offset, const char *suffix, char out[40]);
