/* D15, row by row. */

#include <check.h>

#include "broker/rights.h"

static const gid_t in_admin[] = {100, 700}, in_clients[] = {100, 800}, in_none[] = {100}, in_unset[] = {(gid_t)-1};

static const struct {
    const char *row;
    uid_t uid;
    const gid_t *groups;
    size_t n_groups;
    uint32_t rights;
} local[] = {
    {"root", 0, in_none, 1, RIGHT_ALL_CLIENT},
    {"the daemon's user", 500, in_none, 1, RIGHT_ALL_CLIENT},
    {"group leat-admin", 1000, in_admin, 2, RIGHT_ALL_CLIENT},
    {"group leat-clients", 1000, in_clients, 2, RIGHT_USE},
    {"nobody we know", 1000, in_none, 1, 0},
    {"no groups at all", 1000, NULL, 0, 0},
};

START_TEST(local_peers)
{
    RightsRules rules = {.daemon_uid = 500, .admin_gid = 700, .clients_gid = 800};
    RightsPeer peer = {.uid = local[_i].uid, .groups = local[_i].groups, .n_groups = local[_i].n_groups};
    ck_assert_msg(rights_of_local(&rules, &peer) == local[_i].rights, "%s", local[_i].row);
}
END_TEST

START_TEST(groups_that_do_not_exist_admit_nobody)
{
    RightsRules rules = {.daemon_uid = 500, .admin_gid = (gid_t)-1, .clients_gid = (gid_t)-1};
    RightsPeer peer = {.uid = 1000, .groups = in_unset, .n_groups = 1};
    ck_assert_uint_eq(rights_of_local(&rules, &peer), 0);
}
END_TEST

START_TEST(tcp_peers)
{
    ck_assert_uint_eq(rights_of_tcp(true, false), RIGHT_USE | RIGHT_CREATE);
    ck_assert_uint_eq(rights_of_tcp(false, false), RIGHT_USE);
    ck_assert_uint_eq(rights_of_tcp(true, true), RIGHT_ALL_CLIENT);
    ck_assert_uint_eq(rights_of_tcp(true, true) & RIGHT_INTERNAL, 0);
}
END_TEST

START_TEST(missing)
{
    ck_assert_uint_eq(rights_missing(RIGHT_USE, RIGHT_USE), 0);
    ck_assert_uint_eq(rights_missing(RIGHT_USE, RIGHT_ADMIN), RIGHT_ADMIN);
    ck_assert_uint_eq(rights_missing(RIGHT_USE, RIGHT_CREATE), RIGHT_CREATE);
    ck_assert_uint_eq(rights_missing(RIGHT_ADMIN, RIGHT_CREATE), 0); /* who may do all may create */
    ck_assert_uint_eq(rights_missing(RIGHT_ALL_CLIENT, RIGHT_INTERNAL), RIGHT_INTERNAL);
    ck_assert_uint_eq(rights_missing(0, 0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rights");
    TCase *tc = tcase_create("D15");
    tcase_add_loop_test(tc, local_peers, 0, (int)ARRAY_SIZE(local));
    tcase_add_test(tc, groups_that_do_not_exist_admit_nobody);
    tcase_add_test(tc, tcp_peers);
    tcase_add_test(tc, missing);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
