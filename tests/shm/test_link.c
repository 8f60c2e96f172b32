/* A daemon's link to the broker, broker and daemon on one loop: it connects, sends, and comes back after every end. */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_link.h"
#include "tests/shm/rig.h"

typedef struct Owner {
    unsigned n_up, n_down, n_refused, n_frames, n_completions, n_bursts;
    int refused_error;
    char why[256];
    uint64_t next_tag;
    size_t last_size;
    bool answer; /* REQUEST frames with RESPONSE */
    FabLink *link;
} Owner;

static Rig rig;
static Owner owner;
static FabLink *link_;
static unsigned fds_before;

static void up(void *userdata, const FabWelcome *welcome)
{
    Owner *o = userdata;
    ck_assert_uint_eq(welcome->broker_epoch, 77);
    o->n_up++;
}

static void down(void *userdata, const char *why)
{
    Owner *o = userdata;
    o->n_down++;
    (void)snprintf(o->why, sizeof(o->why), "%s", why);
}

static void frame(void *userdata, const FabDelivery *d)
{
    Owner *o = userdata;
    o->n_frames++;
    o->last_size = d->frame.size;
    if (d->frame.type == FAB_FRAME_RESPONSE) {
        ck_assert_uint_eq(d->frame.tag, o->next_tag++);
        ck_assert(has_pattern(d->payload, d->frame.size, d->frame.tag));
    } else if (d->frame.type == FAB_FRAME_REQUEST && o->answer) {
        FabSqe sqe = {.op = FAB_OP_RESPONSE, .user_data = d->frame.tag};
        ck_assert_int_eq(fab_link_send(o->link, &sqe, d->payload, d->frame.size), 0);
    }
}

static void completion(void *userdata, const FabCqe *cqe UNUSED)
{
    ((Owner *)userdata)->n_completions++;
}

static void burst(void *userdata)
{
    ((Owner *)userdata)->n_bursts++;
}

static void refused(void *userdata, int error, const char *why)
{
    Owner *o = userdata;
    o->n_refused++;
    o->refused_error = error;
    (void)snprintf(o->why, sizeof(o->why), "%s", why);
}

static void setup(void)
{
    static const FabLinkOps ops = {.up = up,
                                   .down = down,
                                   .frame = frame,
                                   .completion = completion,
                                   .turn_end = burst,
                                   .refused = refused};
    FabServerOptions server = {.memory_max = 1u << 30, .sessions_max = 10, .build_id = "build 1"};

    fds_before = count_fds();
    rig_setup(&rig, &server);
    FabClientOptions o = {.socket_path = rig.path,
                          .role = FAB_ROLE_CONTROLLER,
                          .client_id = "controller",
                          .build_id = "build 1"};
    owner = (Owner){0};
    ck_assert_int_eq(fab_link_new(rig.loop, &o, &ops, &owner, &link_), 0);
    owner.link = link_;
}

static void teardown(void)
{
    fab_link_free(link_);
    rig_teardown(&rig);
    ck_assert_uint_eq(count_fds(), fds_before);
}

#define TURN_UNTIL(condition)                                                                      \
    do {                                                                                           \
        int64_t until = clock_mono_ms() + 3000;                                                    \
        while (!(condition)) {                                                                     \
            ck_assert_int_eq(loop_turn(rig.loop, 50 * NS_PER_MS), 0);                              \
            ck_assert_msg(clock_mono_ms() < until, "%s", #condition);                              \
        }                                                                                          \
    } while (0)

START_TEST(requests_of_every_size)
{
    static const size_t sizes[] = {0, 1, 1000, 100000, 600000, 3000000};
    uint8_t *payload = malloc(3000000);

    TURN_UNTIL(owner.n_up == 1);
    ck_assert_int_eq(fab_session_role(rig.last), FAB_ROLE_CONTROLLER);
    for (uint64_t i = 0; i < 60; i++) {
        FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = i};
        size_t size = sizes[i % ARRAY_SIZE(sizes)];
        fill_pattern(payload, size, i);
        ck_assert_int_eq(fab_link_send(link_, &sqe, payload, size), 0);
    }
    TURN_UNTIL(owner.n_frames == 60);
    ck_assert_uint_eq(owner.last_size, 3000000);
    free(payload);
}
END_TEST

/* A burst larger than queue and arena is kept here and goes out as there is room; there is an end to that too. */
START_TEST(bursts_are_kept)
{
    FabSqe sqe = {.op = FAB_OP_PRODUCE, .acks = 1};
    uint8_t payload[4000] = {0};
    unsigned n = 0;
    int r;

    TURN_UNTIL(owner.n_up == 1);
    while ((r = fab_link_send(link_, &sqe, payload, sizeof(payload))) == 0)
        n++;
    ck_assert_int_eq(r, -ENOBUFS);
    ck_assert_uint_gt(n, 16000);
    TURN_UNTIL(owner.n_completions == 2 * n);
    ck_assert_uint_gt(owner.n_bursts, 0);
    ck_assert_int_eq(fab_link_send(link_, &sqe, payload, sizeof(payload)), 0);
}
END_TEST

static int take_response(Rig *r, FabSession *s UNUSED, const FabSqe *sqe, const void *payload)
{
    ck_assert_uint_eq(sqe->op, FAB_OP_RESPONSE);
    ck_assert_uint_eq(sqe->user_data, 42);
    ck_assert(memcmp(payload, "question", 8) == 0);
    r->n_produced++;
    return 0;
}

START_TEST(questions_of_the_broker)
{
    owner.answer = true;
    rig.on_sqe = take_response;
    TURN_UNTIL(owner.n_up == 1);
    ck_assert_int_eq(fab_session_send(rig.last,
                                      &(FabFrame){.type = FAB_FRAME_REQUEST, .tag = 42, .size = 8},
                                      "question"),
                     0);
    TURN_UNTIL(rig.n_produced == 1);
}
END_TEST

START_TEST(comes_back)
{
    FabSqe sqe = {.op = FAB_OP_REQUEST};

    for (unsigned i = 1; i <= 3; i++) {
        TURN_UNTIL(owner.n_up == i);
        ck_assert(fab_link_is_up(link_));
        fab_session_close(rig.last, "restart");
        TURN_UNTIL(owner.n_down == i);
        ck_assert_str_eq(owner.why, "restart");
        ck_assert(!fab_link_is_up(link_));
        ck_assert_ptr_null(fab_link_client(link_));
        ck_assert_int_eq(fab_link_send(link_, &sqe, NULL, 0), -ENOTCONN);
    }
    TURN_UNTIL(owner.n_up == 4);
    ck_assert_int_eq(fab_link_send(link_, &sqe, NULL, 0), 0);
    TURN_UNTIL(owner.n_frames == 1);
}
END_TEST

START_TEST(refusals_are_told)
{
    rig.authorize_error = -EACCES;
    TURN_UNTIL(owner.n_refused == 2);
    ck_assert_int_eq(owner.refused_error, -EACCES);
    ck_assert_ptr_nonnull(strstr(owner.why, "leat-clients"));
    rig.authorize_error = 0;
    TURN_UNTIL(owner.n_up == 1);
    ck_assert_uint_eq(owner.n_down, 0);
}
END_TEST

/* Idle, it costs no turns. */
START_TEST(sleeps)
{
    TURN_UNTIL(owner.n_up == 1);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
    int64_t start = clock_mono_ns();
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 10 * NS_PER_MS), 0);
    ck_assert_int_gt(clock_mono_ns() - start, 45 * NS_PER_MS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("link");
    TCase *tc = tcase_create("link");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 10);
    tcase_add_test(tc, requests_of_every_size);
    tcase_add_test(tc, bursts_are_kept);
    tcase_add_test(tc, questions_of_the_broker);
    tcase_add_test(tc, comes_back);
    tcase_add_test(tc, refusals_are_told);
    tcase_add_test(tc, sleeps);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
