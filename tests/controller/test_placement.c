/* Placement: even spread, distinct replicas, racks, balanced leaders, growth. */

#include "controller/placement.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

#define BROKERS_MAX    40
#define PARTITIONS_MAX 200

typedef struct Counts {
    int replicas[BROKERS_MAX], leaders[BROKERS_MAX];
} Counts;

static void make_brokers(PlacementBroker *b, size_t n, const char *const *racks, size_t n_racks)
{
    for (size_t i = 0; i < n; i++)
        b[i] = (PlacementBroker){.id = (int32_t)i, .rack = n_racks ? racks[i % n_racks] : NULL};
}

static void count(Counts *c, const int32_t *replicas, int partitions, int rf)
{
    *c = (Counts){{0}, {0}};
    for (int p = 0; p < partitions; p++) {
        c->leaders[replicas[p * rf]]++;
        for (int k = 0; k < rf; k++) {
            c->replicas[replicas[p * rf + k]]++;
            for (int j = 0; j < k; j++)
                ck_assert_int_ne(replicas[p * rf + j], replicas[p * rf + k]);
        }
    }
}

static void check_spread(const int *counts, size_t n, int total)
{
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_ge(counts[i], total / (int)n);
        ck_assert_int_le(counts[i], (total + (int)n - 1) / (int)n);
    }
}

START_TEST(ten_by_three_on_six_is_five_each)
{
    PlacementBroker b[6];
    int32_t out[30];
    Counts c;
    make_brokers(b, 6, NULL, 0);
    ck_assert_int_eq(placement_assign(b, 6, 10, 3, 0, out), 0);
    count(&c, out, 10, 3);
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(c.replicas[i], 5);
    check_spread(c.leaders, 6, 10);
}
END_TEST

START_TEST(every_shape_is_even)
{
    static int32_t out[PARTITIONS_MAX * 5];
    for (size_t n = 1; n <= 12; n++) {
        for (int rf = 1; rf <= 5 && (size_t)rf <= n; rf++) {
            for (int partitions = 1; partitions <= 60; partitions += 7) {
                PlacementBroker b[12];
                Counts c;
                make_brokers(b, n, NULL, 0);
                ck_assert_int_eq(placement_assign(b, n, partitions, rf, (uint32_t)(_i * 31), out), 0);
                count(&c, out, partitions, rf);
                check_spread(c.replicas, n, partitions * rf);
                /* leaders follow replicas: within one of even */
                for (size_t i = 0; i < n; i++)
                    ck_assert_int_le(abs(c.leaders[i] - partitions / (int)n), 1 + (partitions % (int)n != 0));
            }
        }
    }
}
END_TEST

START_TEST(replicas_of_a_partition_spread_over_racks)
{
    static const char *const racks[] = {"a", "b", "c"};
    PlacementBroker b[9];
    int32_t out[36];
    Counts c;
    make_brokers(b, 9, racks, 3);
    ck_assert_int_eq(placement_assign(b, 9, 12, 3, 5, out), 0);
    for (int p = 0; p < 12; p++) {
        int seen = 0;
        for (int k = 0; k < 3; k++)
            seen |= 1 << out[p * 3 + k] % 3;
        ck_assert_int_eq(seen, 7);
    }
    count(&c, out, 12, 3);
    check_spread(c.replicas, 9, 36);
}
END_TEST

START_TEST(growing_keeps_the_balance)
{
    PlacementBroker b[5];
    int32_t out[3 * 20];
    Counts c;
    make_brokers(b, 5, NULL, 0);
    for (int p = 0; p < 20; p++)
        ck_assert_int_eq(placement_assign(b, 5, 1, 3, 0, out + 3 * p), 0);
    count(&c, out, 20, 3);
    check_spread(c.replicas, 5, 60);
    check_spread(c.leaders, 5, 20);
}
END_TEST

START_TEST(a_new_broker_gets_new_topics_first)
{
    PlacementBroker b[3];
    int32_t out[4];
    make_brokers(b, 3, NULL, 0);
    b[0].replicas = b[1].replicas = 50;
    ck_assert_int_eq(placement_assign(b, 3, 1, 1, 0, out), 0);
    ck_assert_int_eq(out[0], 2);
}
END_TEST

START_TEST(impossible_factors_are_refused)
{
    PlacementBroker b[2];
    int32_t out[8];
    make_brokers(b, 2, NULL, 0);
    ck_assert_int_eq(placement_assign(b, 2, 1, 3, 0, out), -ERANGE);
    ck_assert_int_eq(placement_assign(b, 2, 1, 0, 0, out), -ERANGE);
    ck_assert_int_eq(placement_assign(b, 0, 1, 1, 0, out), -ERANGE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("placement");
    TCase *t = tcase_create("placement");
    tcase_add_test(t, ten_by_three_on_six_is_five_each);
    tcase_add_loop_test(t, every_shape_is_even, 0, 5);
    tcase_add_test(t, replicas_of_a_partition_spread_over_racks);
    tcase_add_test(t, growing_keeps_the_balance);
    tcase_add_test(t, a_new_broker_gets_new_topics_first);
    tcase_add_test(t, impossible_factors_are_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
