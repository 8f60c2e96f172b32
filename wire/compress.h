#pragma once

/*
 * The four codecs of record batches. Decompression is bounded by the caller's limit, so that a small batch cannot expand
 * without end; both framings of snappy are read, xerial's is written; lz4 frames have independent blocks (Java).
 */

#include "base/buf.h"
#include "wire/batch.h"

/* Appends to out. Return: 0; -EBADMSG damaged; -EFBIG beyond size_max; -EOPNOTSUPP unknown codec; -ENOMEM. */
int codec_decompress(BatchCodec codec, const void *data, size_t size, size_t size_max, Buf *out);
/* level: codec's own scale, INT32_MIN = default. */
int codec_compress(BatchCodec codec, int level, const void *data, size_t size, Buf *out);
/* Whole batch in, whole batch out: recompresses the records with `codec`, new header and CRC. */
int batch_compress(const void *batch, size_t size, BatchCodec codec, int level, Buf *out);
const char *codec_name(BatchCodec codec); /* "none" "gzip" ... */
int codec_parse(const char *name, BatchCodec *ret);
