#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/conf.h"

START_TEST(defaults_are_kafkas)
{
    Settings s;
    ck_assert_int_eq(settings_load(NULL, &s), 0);
    ck_assert_int_eq(settings_acks(&s), -1);
    ck_assert_int_eq(s.linger_ms, 0);
    ck_assert(s.idempotence);
    ck_assert_int_eq(s.offset_reset, RESET_LATEST);
    ck_assert_int_eq(s.delivery_timeout_ms, 120000);
    ck_assert_uint_eq(s.n_strategies, 2);
    ck_assert_int_eq(s.strategies[0], STRATEGY_RANGE);
    ck_assert_int_eq(s.strategies[1], STRATEGY_COOPERATIVE);
    ck_assert_str_eq(settings_socket_path(&s), "/run/leat/main/client.sock");
    settings_deinit(&s);
}
END_TEST

typedef struct Case {
    const char *key, *value;
    int result;
} Case;

static const Case cases[] = {
    {"acks", "all", 0},
    {"acks", "-1", 0},
    {"acks", "1", 0},
    {"acks", "2", -EINVAL},
    {"acks", "", -EINVAL},
    {"linger.ms", "5", 0},
    {"linger.ms", "250ms", 0},
    {"linger.ms", "-1", -EINVAL},
    {"batch.size", "64K", 0},
    {"batch.size", "255", -EINVAL},
    {"batch.size", "many", -EINVAL},
    {"enable.idempotence", "false", 0},
    {"enable.idempotence", "maybe", -EINVAL},
    {"compression.type", "zstd", 0},
    {"compression.type", "zip", -EINVAL},
    {"partitioner", "murmur2_random", 0},
    {"partitioner", "murmur", -EINVAL},
    {"partition.assignment.strategy", "sticky", 0},
    {"partition.assignment.strategy", "range, roundrobin", 0},
    {"partition.assignment.strategy", "range,unknown", -EINVAL},
    {"partition.assignment.strategy", "", -EINVAL},
    {"auto.offset.reset", "none", 0},
    {"auto.offset.reset", "smallest", -EINVAL},
    {"no.such.key", "1", -ENOENT},
    {"message.copy.max.bytes", "4000", 0},       /* librdkafka's, for the TCP road */
    {"message.copy.max.bytes", "lots", -EINVAL}, /* and checked by it */
};

START_TEST(values_are_checked_when_set)
{
    const Case *c = &cases[_i];
    leat_conf *conf = leat_conf_new();
    ck_assert_msg(leat_conf_set(conf, c->key, c->value) == c->result, "%s = %s", c->key, c->value);
    leat_conf_free(conf);
}
END_TEST

START_TEST(a_refused_value_changes_nothing)
{
    leat_conf *conf = leat_conf_new();
    ck_assert_int_eq(leat_conf_set(conf, "acks", "1"), 0);
    ck_assert_int_eq(leat_conf_set(conf, "acks", "x"), -EINVAL);
    ck_assert_str_eq(leat_conf_get(conf, "acks"), "1");
    ck_assert_str_eq(leat_conf_get(conf, "linger.ms"), "0"); /* a default */
    ck_assert_ptr_null(leat_conf_get(conf, "no.such.key"));
    leat_conf_free(conf);
}
END_TEST

START_TEST(settings_follow_the_text)
{
    Settings s;
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "acks", "-1");
    leat_conf_set(conf, "linger.ms", "1s");
    leat_conf_set(conf, "batch.size", "16K");
    leat_conf_set(conf, "partitioner", "murmur2_random");
    leat_conf_set(conf, "partition.assignment.strategy", "cooperative-sticky , range");
    leat_conf_set(conf, "bootstrap.servers", "localhost:9092");
    ck_assert_int_eq(settings_load(conf, &s), 0);
    ck_assert_int_eq(settings_acks(&s), -1);
    ck_assert_int_eq(s.linger_ms, 1000);
    ck_assert_int_eq(s.batch_size, 16384);
    ck_assert_int_eq(s.partitioner, PARTITIONER_MURMUR2);
    ck_assert_int_eq(s.strategies[0], STRATEGY_COOPERATIVE);
    ck_assert_int_eq(s.strategies[1], STRATEGY_RANGE);
    ck_assert_ptr_null(settings_socket_path(&s));
    settings_deinit(&s);
    leat_conf_set(conf, "bootstrap.servers", "/tmp/x.sock");
    ck_assert_int_eq(settings_load(conf, &s), 0);
    ck_assert_str_eq(settings_socket_path(&s), "/tmp/x.sock");
    settings_deinit(&s);
    leat_conf_free(conf);
}
END_TEST

START_TEST(no_address_is_no_broker)
{
    static const char *const addresses[] = {"", "unix:"};
    leat_client *client = NULL;
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", addresses[_i]);
    ck_assert_int_eq(leat_client_new(conf, &client), -EINVAL);
    ck_assert_ptr_nonnull(strstr(leat_error_text(NULL), "bootstrap.servers"));
    leat_conf_free(conf);
}
END_TEST

START_TEST(no_broker_says_where_it_looked)
{
    leat_client *client = NULL;
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", "unix:/nonexistent/leat.sock");
    ck_assert_int_eq(leat_client_new(conf, &client), -ENOENT);
    ck_assert_ptr_null(client);
    ck_assert_ptr_nonnull(strstr(leat_error_text(NULL), "/nonexistent/leat.sock"));
    leat_conf_free(conf);
}
END_TEST

/* A broker that hangs: its socket takes the connection, nobody greets. */
START_TEST(the_first_connection_waits_as_long_as_it_is_told)
{
    char dir[] = "/tmp/leat-conf-XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    leat_conf *conf = leat_conf_new();
    leat_client *client = NULL;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", dir);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(fd, 8), 0);
    leat_conf_set(conf, "bootstrap.servers", address.sun_path);
    ck_assert_int_eq(leat_conf_set(conf, "socket.connection.setup.timeout.ms", "300ms"), 0);
    int64_t begin_ms = clock_mono_ms();
    ck_assert_int_eq(leat_client_new(conf, &client), -ETIMEDOUT);
    ck_assert_int_ge(clock_mono_ms() - begin_ms, 290);
    ck_assert_int_lt(clock_mono_ms() - begin_ms, 3000);
    leat_conf_free(conf);
    close(fd);
    unlink(address.sun_path);
    rmdir(dir);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("conf");
    TCase *t = tcase_create("conf");
    tcase_add_test(t, defaults_are_kafkas);
    tcase_add_loop_test(t, values_are_checked_when_set, 0, (int)ARRAY_SIZE(cases));
    tcase_add_test(t, a_refused_value_changes_nothing);
    tcase_add_test(t, settings_follow_the_text);
    tcase_add_loop_test(t, no_address_is_no_broker, 0, 2);
    tcase_add_test(t, no_broker_says_where_it_looked);
    tcase_add_test(t, the_first_connection_waits_as_long_as_it_is_told);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
