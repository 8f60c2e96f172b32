#pragma once

/*
 * Format strings (rpk's verbs), both ways: printing records and cutting input into records.
 *
 *   %k %v %t    key, value, topic           {hex} {base64} {base64raw} {json}
 *   %p %o %e    partition, offset, leader epoch          numbers: {ascii} {big8..big64} {little8..little64} {hex4..hex64}
 *   %K %V %T    their sizes; %H number of headers; %i number of the record in this run
 *   %d          timestamp in ms; {s} {iso} {strftime[%F %T]}
 *   %h{...}     once per header, with %k %v %K %V inside
 *   %x %y %a    producer id and epoch, attributes (not known to a reader: -1); %[ %] first offset and end of the partition
 *   %% %{ %}    themselves;  \n \r \t \0 \\ \xNN
 *
 * Input: a text verb takes as many bytes as a size verb before it said, else all up to the literal behind it. Pure but for
 * input_next(), which reads a descriptor.
 */

#include <leat/leat.h>

#include "base/buf.h"

#define FORMAT_HEADERS_MAX 256
#define FORMAT_WHY_MAX     256

typedef struct Format Format;

/* @input: for reading, so every text verb must have an end. Return: 0; -EINVAL with why; -ENOMEM. */
int format_compile(const char *text, bool input, Format **ret, char why[FORMAT_WHY_MAX]);
Format *format_free(Format *f);

typedef struct FormatContext {
    int64_t number;              /* %i */
    int64_t start_offset, end_offset; /* %[ %]; -1 unknown */
} FormatContext;
/* Appends the record. Return: 0 or -ENOMEM. */
int format_record(const Format *f, const leat_record *r, const FormatContext *context, Buf *out);
/* A string of the command line with its escapes undone, into out. Return: 0, -EINVAL. */
int format_unescape(const char *text, size_t size, Buf *out);

/* ---- input --------------------------------------------------------------------------------------------------------- */

typedef struct InputRecord { /* borrowed until the next input_next(); sizes -1 = null (not given) */
    const void *key, *value, *topic;
    ptrdiff_t key_size, value_size, topic_size;
    int64_t partition; /* -1 = not given */
    int64_t timestamp_ms; /* 0 = not given */
    leat_header headers[FORMAT_HEADERS_MAX];
    size_t headers_count;
    char place[32]; /* "line 12", or "record 3" where the input is not lines */
} InputRecord;

typedef struct Input {
    int fd;
    const Format *format;
    bool missing_key_is_null;
    size_t record_size_max;
    void (*before_read)(void *userdata); /* may be NULL; the place to do other work while input is slow */
    void *userdata;
    Buf buf, decoded;
    size_t at; /* of the next record in buf */
    bool eof;
    int64_t line;   /* of the next record, from 1 */
    int64_t record; /* number of the next one, from 1 */
    int64_t bytes;  /* taken so far */
    InputRecord out;
} Input;

void input_init(Input *in, int fd, const Format *format, size_t record_size_max);
void input_deinit(Input *in);
/* Return: 1 a record in in->out; 0 end; -EBADMSG with why ("line 3: ..."); another negative errno from read. -EINTR: a
 * signal came while waiting for input. */
int input_next(Input *in, char why[FORMAT_WHY_MAX]);
/* One line without its end, for input that is JSON lines. Return: as input_next(). */
int input_next_line(Input *in, const char **ret, size_t *ret_size, char why[FORMAT_WHY_MAX]);
