#pragma once

/*
 * One peer of the control socket: an nng stream on which we speak SP as a REP socket does. Both sides say the eight bytes of
 * SP's hello, then messages go as SP frames do, one byte 1, eight bytes of length, the body, which begins with the words by
 * which REQ knows its answer again. A peer has one request under way at a time; who says anything else is hung up on.
 *
 * nng calls back on its own threads; a callback marks its operation done and writes to the eventfd of its owner, on whose
 * loop everything here happens.
 */

#include "base/buf.h"
#include <nng/nng.h>
#include <stdatomic.h>

#define SP_HEAD_SIZE   9
#define SP_REQUEST_MAX 65536

/* An operation of nng's. */
typedef struct NngOp {
    nng_aio *aio;
    int wake_fd;
    void (*before)(void *userdata, nng_aio *aio); /* on nng's thread, before it is done; may be NULL */
    void *userdata;
    bool is_running; /* the loop's view: begun and not yet seen to be done */
    atomic_bool is_done;
} NngOp;

int nng_op_init(NngOp *op); /* wake_fd, before and userdata are set; 0 or an error of nng's */
void nng_op_deinit(NngOp *op);
nng_aio *nng_op_begin(NngOp *op);
bool nng_op_has_ended(NngOp *op); /* says so once */

typedef enum SpStage { SP_HELLO, SP_HEAD, SP_BODY } SpStage;

typedef struct SpPeer {
    nng_stream *stream;
    NngOp rx, tx;
    bool is_closed;

    SpStage stage;
    uint8_t head[SP_HEAD_SIZE];
    uint8_t *into;
    size_t want, got;

    uint8_t *body; /* the request, after tags_size bytes that its answer begins with */
    size_t body_size, tags_size;
    bool has_request; /* complete and not answered */

    Buf out, next; /* out is being sent and must stay where it is */
    size_t sent;
} SpPeer;

int sp_init(SpPeer *p, nng_stream *take_stream, int wake_fd); /* -ENOMEM: the stream is the caller's still */
void sp_deinit(SpPeer *p);
bool sp_step(SpPeer *p); /* what has ended meanwhile. Return: true when a request has come */
int sp_answer(SpPeer *p, const void *data, size_t size); /* -ENOMEM: there will be none */
void sp_close(SpPeer *p);
static inline bool sp_is_still(const SpPeer *p) /* nothing is under way in nng: may be freed when closed */
{
    return !p->tx.is_running && !p->rx.is_running;
}
