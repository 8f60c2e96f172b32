/* The replica core: what moves a high watermark, and what must never move it back. */

#include <check.h>

#include "base/hash.h"
#include "broker/replica/replica.h"

static const int32_t one[] = {1};
static const int32_t three[] = {1, 2, 3};

static ReplicaState led(int32_t leader, int32_t epoch, const int32_t *isr, int isr_count)
{
    return (ReplicaState){.leader_id = leader,
                          .leader_epoch = epoch,
                          .partition_epoch = epoch,
                          .replicas = three,
                          .replicas_count = 3,
                          .isr = isr,
                          .isr_count = isr_count};
}

static Replica alone(bool wait_durable)
{
    Replica r;
    ReplicaState s = {.leader_id = 1, .leader_epoch = 0, .replicas = one, .replicas_count = 1, .isr = one, .isr_count = 1};
    replica_init(&r, 1, wait_durable, 0, 0, -1);
    ck_assert(replica_apply(&r, &s));
    return r;
}

START_TEST(alone_durable_waits_for_the_disk)
{
    Replica r = alone(true);
    ck_assert(!replica_progress(&r, 1, 10, 0)); /* appended, not synced */
    ck_assert_int_eq(r.high_watermark, 0);
    ck_assert_int_eq(replica_local_end(&r), 0);
    ck_assert(replica_progress(&r, 1, 12, 7));
    ck_assert_int_eq(r.high_watermark, 7);
    ck_assert(!replica_progress(&r, 1, 12, 7));
}
END_TEST

START_TEST(alone_without_durability_follows_the_end)
{
    Replica r = alone(false);
    ck_assert(replica_progress(&r, 1, 10, 0));
    ck_assert_int_eq(r.high_watermark, 10);
    ck_assert_int_eq(replica_local_end(&r), 10);
}
END_TEST

START_TEST(changing_durability_moves_only_forward)
{
    Replica r = alone(false);
    replica_progress(&r, 1, 10, 4);
    ck_assert(!replica_set_wait_durable(&r, true));
    ck_assert_int_eq(r.high_watermark, 10); /* INV-REPLICA-1: what was shown stays shown */
    r = alone(true);
    replica_progress(&r, 1, 10, 4);
    ck_assert(replica_set_wait_durable(&r, false));
    ck_assert_int_eq(r.high_watermark, 10);
}
END_TEST

START_TEST(slowest_in_sync_member_decides)
{
    Replica r;
    ReplicaState s = led(1, 3, three, 3);
    replica_init(&r, 1, false, 20, 20, 5);
    ck_assert(replica_apply(&r, &s));
    ck_assert_int_eq(r.high_watermark, 5); /* followers have said nothing yet */
    ck_assert(!replica_progress(&r, 2, 18, 18));
    ck_assert(replica_progress(&r, 3, 9, 9));
    ck_assert_int_eq(r.high_watermark, 9);
    ck_assert(!replica_progress(&r, 9, 99, 99)); /* no member */

    static const int32_t pair[] = {1, 2};
    s = led(1, 3, pair, 2);
    s.partition_epoch = 4;
    ck_assert(!replica_apply(&r, &s)); /* same leader epoch */
    ck_assert_int_eq(r.high_watermark, 18); /* 3 left the set */
    ck_assert_int_eq(replica_in_sync_count(&r), 2);
}
END_TEST

START_TEST(new_epoch_forgets_followers)
{
    Replica r;
    ReplicaState s = led(1, 3, three, 3);
    replica_init(&r, 1, false, 20, 20, 5);
    replica_apply(&r, &s);
    replica_progress(&r, 2, 20, 20);
    replica_progress(&r, 3, 6, 6);
    s = led(1, 4, three, 3);
    ck_assert(replica_apply(&r, &s));
    ck_assert_int_eq(r.high_watermark, 6);
    ck_assert(!replica_progress(&r, 3, 20, 20)); /* 2 must speak again in this epoch */
    ck_assert_int_eq(r.high_watermark, 6);
}
END_TEST

START_TEST(follower_does_not_move_it_alone)
{
    Replica r;
    ReplicaState s = led(2, 3, three, 3);
    replica_init(&r, 1, false, 20, 20, 5);
    ck_assert(!replica_apply(&r, &s));
    ck_assert(!replica_is_leader(&r));
    ck_assert(!replica_progress(&r, 1, 30, 30));
    ck_assert_int_eq(r.high_watermark, 5);
    s = led(1, 2, three, 3); /* an older epoch does not come back */
    replica_apply(&r, &s);
    ck_assert_int_eq(r.leader_epoch, 3);
}
END_TEST

START_TEST(checkpoint_beyond_the_log_is_cut)
{
    Replica r;
    replica_init(&r, 1, false, 4, 4, 100);
    ck_assert_int_eq(r.high_watermark, 4);
}
END_TEST

/* Random histories: INV-REPLICA-1 and 2 after every step. */
START_TEST(random_histories)
{
    Rng rng;
    rng_init(&rng, (uint64_t)_i);
    Replica r;
    replica_init(&r, 1, rng_below(&rng, 2) == 0, 0, 0, -1);
    int64_t ends[4] = {0}, durable[4] = {0}, last_hw = 0;
    int32_t epoch = 0;
    for (int step = 0; step < 400; step++) {
        int32_t who = 1 + (int32_t)rng_below(&rng, 3);
        if (rng_below(&rng, 10) == 0) {
            int32_t isr[3] = {1};
            int n = 1;
            for (int32_t id = 2; id <= 3; id++) {
                if (rng_below(&rng, 2))
                    isr[n++] = id;
            }
            ReplicaState s = led(1, epoch += (int32_t)rng_below(&rng, 2), isr, n);
            replica_apply(&r, &s);
        } else {
            int64_t limit = who == 1 ? INT64_MAX : ends[1];
            int64_t grown = ends[who] + (int64_t)rng_below(&rng, 10);
            ends[who] = MIN(grown, limit);
            durable[who] += (int64_t)rng_below(&rng, (uint64_t)(ends[who] - durable[who]) + 1);
            replica_progress(&r, who, ends[who], durable[who]);
        }
        ck_assert_int_ge(r.high_watermark, last_hw);
        ck_assert_int_le(r.high_watermark, r.wait_durable ? durable[1] : ends[1]);
        last_hw = r.high_watermark;
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("replica");
    TCase *tc = tcase_create("core");
    tcase_add_test(tc, alone_durable_waits_for_the_disk);
    tcase_add_test(tc, alone_without_durability_follows_the_end);
    tcase_add_test(tc, changing_durability_moves_only_forward);
    tcase_add_test(tc, slowest_in_sync_member_decides);
    tcase_add_test(tc, new_epoch_forgets_followers);
    tcase_add_test(tc, follower_does_not_move_it_alone);
    tcase_add_test(tc, checkpoint_beyond_the_log_is_cut);
    tcase_add_loop_test(tc, random_histories, 1, 50);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
