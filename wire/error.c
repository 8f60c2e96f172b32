/* Names, sentences and retriability of Kafka's errors (kafka-wire.md section 14). One table, index = code + 1. */

#include "wire/error.h"

#include <stdio.h>

#include "base/compiler.h"

typedef struct ErrorInfo {
    const char *name;
    const char *message;
    bool retriable;
} ErrorInfo;

static const ErrorInfo errors[] = {
    [0] = {"UNKNOWN_SERVER_ERROR", "the server met an error that it did not expect", false},
    [1] = {"NONE", "no error", false},
    [2] = {"OFFSET_OUT_OF_RANGE", "the offset is outside the range that the partition holds", false},
    [3] = {"CORRUPT_MESSAGE", "the batch is damaged: its checksum or size does not fit", true},
    [4] = {"UNKNOWN_TOPIC_OR_PARTITION", "this server does not host that topic or partition", true},
    [5] = {"INVALID_FETCH_SIZE", "the requested fetch size is invalid", false},
    [6] = {"LEADER_NOT_AVAILABLE", "the partition has no leader at the moment", true},
    [7] = {"NOT_LEADER_OR_FOLLOWER", "this server does not lead the partition; refresh the metadata", true},
    [8] = {"REQUEST_TIMED_OUT", "the request timed out", true},
    [9] = {"BROKER_NOT_AVAILABLE", "the broker is not available", false},
    [10] = {"REPLICA_NOT_AVAILABLE", "the replica is not available", true},
    [11] = {"MESSAGE_TOO_LARGE", "the batch is larger than the topic's max.message.bytes", false},
    [12] = {"STALE_CONTROLLER_EPOCH", "the controller's epoch is stale", false},
    [13] = {"OFFSET_METADATA_TOO_LARGE", "the metadata stored with the offset is larger than offset.metadata.max.bytes", false},
    [14] = {"NETWORK_EXCEPTION", "the connection was lost before an answer arrived", true},
    [15] = {"COORDINATOR_LOAD_IN_PROGRESS", "the group coordinator is still loading its state; try again", true},
    [16] = {"COORDINATOR_NOT_AVAILABLE", "the group coordinator is not available; try again", true},
    [17] = {"NOT_COORDINATOR", "this server is not the coordinator of the group", true},
    [18] = {"INVALID_TOPIC_EXCEPTION", "the topic name is invalid, or the topic is internal", false},
    [19] = {"RECORD_LIST_TOO_LARGE", "the batch is larger than the topic's segment.bytes", false},
    [20] = {"NOT_ENOUGH_REPLICAS", "fewer replicas are in sync than min.insync.replicas asks for", true},
    [21] = {"NOT_ENOUGH_REPLICAS_AFTER_APPEND", "the batch was appended, but fewer replicas are in sync than min.insync.replicas asks for", true},
    [22] = {"INVALID_REQUIRED_ACKS", "acks must be -1, 0 or 1", false},
    [23] = {"ILLEGAL_GENERATION", "the member's generation is not the group's", false},
    [24] = {"INCONSISTENT_GROUP_PROTOCOL", "the member shares no protocol with the group", false},
    [25] = {"INVALID_GROUP_ID", "the group id is invalid", false},
    [26] = {"UNKNOWN_MEMBER_ID", "the coordinator does not know this member", false},
    [27] = {"INVALID_SESSION_TIMEOUT", "the session timeout is outside group.min.session.timeout.ms and group.max.session.timeout.ms", false},
    [28] = {"REBALANCE_IN_PROGRESS", "the group is rebalancing; join again", false},
    [29] = {"INVALID_COMMIT_OFFSET_SIZE", "the size of the offset commit is invalid", false},
    [30] = {"TOPIC_AUTHORIZATION_FAILED", "no right to use this topic", false},
    [31] = {"GROUP_AUTHORIZATION_FAILED", "no right to use this group", false},
    [32] = {"CLUSTER_AUTHORIZATION_FAILED", "no right to administer the cluster", false},
    [33] = {"INVALID_TIMESTAMP", "the timestamp is outside the accepted range", false},
    [34] = {"UNSUPPORTED_SASL_MECHANISM", "the SASL mechanism is not supported", false},
    [35] = {"ILLEGAL_SASL_STATE", "the request does not fit the state of the SASL exchange", false},
    [36] = {"UNSUPPORTED_VERSION", "this version of the API is not supported", false},
    [37] = {"TOPIC_ALREADY_EXISTS", "a topic of this name exists already", false},
    [38] = {"INVALID_PARTITIONS", "the number of partitions is invalid", false},
    [39] = {"INVALID_REPLICATION_FACTOR", "the replication factor is invalid, or larger than the number of brokers", false},
    [40] = {"INVALID_REPLICA_ASSIGNMENT", "the replica assignment is invalid", false},
    [41] = {"INVALID_CONFIG", "the configuration is invalid", false},
    [42] = {"NOT_CONTROLLER", "this server is not the controller", true},
    [43] = {"INVALID_REQUEST", "the request is malformed or contradicts itself", false},
    [44] = {"UNSUPPORTED_FOR_MESSAGE_FORMAT", "the message format does not support this operation", false},
    [45] = {"POLICY_VIOLATION", "the request violates a policy", false},
    [46] = {"OUT_OF_ORDER_SEQUENCE_NUMBER", "the batch does not follow the producer's last sequence number", false},
    [47] = {"DUPLICATE_SEQUENCE_NUMBER", "the sequence number was seen before", false},
    [48] = {"INVALID_PRODUCER_EPOCH", "a producer with a newer epoch took over", false},
    [49] = {"INVALID_TXN_STATE", "the producer is not in a state that allows this", false},
    [50] = {"INVALID_PRODUCER_ID_MAPPING", "the producer id does not belong to the transactional id", false},
    [51] = {"INVALID_TRANSACTION_TIMEOUT", "the transaction timeout is larger than transaction.max.timeout.ms", false},
    [52] = {"CONCURRENT_TRANSACTIONS", "another transactional operation is under way; try again", true},
    [53] = {"TRANSACTION_COORDINATOR_FENCED", "a newer transaction coordinator took over", false},
    [54] = {"TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "no right to use this transactional id", false},
    [55] = {"SECURITY_DISABLED", "no authorizer is configured", false},
    [56] = {"OPERATION_NOT_ATTEMPTED", "not attempted because another part of the request failed", false},
    [57] = {"KAFKA_STORAGE_ERROR", "the broker's disk is full or has failed", true},
    [58] = {"LOG_DIR_NOT_FOUND", "the log directory was not found", false},
    [59] = {"SASL_AUTHENTICATION_FAILED", "SASL authentication failed", false},
    [60] = {"UNKNOWN_PRODUCER_ID", "the broker knows nothing of this producer id any more", false},
    [61] = {"REASSIGNMENT_IN_PROGRESS", "a reassignment of the partition is under way", false},
    [62] = {"DELEGATION_TOKEN_AUTH_DISABLED", "delegation tokens are not enabled", false},
    [63] = {"DELEGATION_TOKEN_NOT_FOUND", "the delegation token was not found", false},
    [64] = {"DELEGATION_TOKEN_OWNER_MISMATCH", "the delegation token belongs to somebody else", false},
    [65] = {"DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", "delegation tokens cannot be requested on this connection", false},
    [66] = {"DELEGATION_TOKEN_AUTHORIZATION_FAILED", "no right to use this delegation token", false},
    [67] = {"DELEGATION_TOKEN_EXPIRED", "the delegation token has expired", false},
    [68] = {"INVALID_PRINCIPAL_TYPE", "the principal type is not supported", false},
    [69] = {"NON_EMPTY_GROUP", "the group has members", false},
    [70] = {"GROUP_ID_NOT_FOUND", "the group does not exist", false},
    [71] = {"FETCH_SESSION_ID_NOT_FOUND", "the fetch session was not found", true},
    [72] = {"INVALID_FETCH_SESSION_EPOCH", "the epoch of the fetch session is invalid", true},
    [73] = {"LISTENER_NOT_FOUND", "the leader has no listener of that name", true},
    [74] = {"TOPIC_DELETION_DISABLED", "topic deletion is disabled (delete.topic.enable)", false},
    [75] = {"FENCED_LEADER_EPOCH", "the leader epoch in the request is older than the broker's", true},
    [76] = {"UNKNOWN_LEADER_EPOCH", "the leader epoch in the request is newer than the broker's", true},
    [77] = {"UNSUPPORTED_COMPRESSION_TYPE", "the compression codec is not supported in this version of the API", false},
    [78] = {"STALE_BROKER_EPOCH", "the broker's epoch is stale", false},
    [79] = {"OFFSET_NOT_AVAILABLE", "the offset is not available yet on the new leader; try again", true},
    [80] = {"MEMBER_ID_REQUIRED", "join again with the member id that was assigned", false},
    [81] = {"PREFERRED_LEADER_NOT_AVAILABLE", "the preferred leader is not available", true},
    [82] = {"GROUP_MAX_SIZE_REACHED", "the group has reached group.max.size", false},
    [83] = {"FENCED_INSTANCE_ID", "another member took over this group.instance.id", false},
    [84] = {"ELIGIBLE_LEADERS_NOT_AVAILABLE", "no eligible leader is available", true},
    [85] = {"ELECTION_NOT_NEEDED", "the partition has the wanted leader already", true},
    [86] = {"NO_REASSIGNMENT_IN_PROGRESS", "no reassignment is under way", false},
    [87] = {"GROUP_SUBSCRIBED_TO_TOPIC", "a member of the group is subscribed to the topic", false},
    [88] = {"INVALID_RECORD", "a record breaks the rules of its topic", false},
    [89] = {"UNSTABLE_OFFSET_COMMIT", "transactional commits of this partition are still open", true},
    [90] = {"THROTTLING_QUOTA_EXCEEDED", "the quota is exceeded", true},
    [91] = {"PRODUCER_FENCED", "a newer producer with the same transactional id took over", false},
    [92] = {"RESOURCE_NOT_FOUND", "the resource was not found", false},
    [93] = {"DUPLICATE_RESOURCE", "the resource exists already", false},
    [94] = {"UNACCEPTABLE_CREDENTIAL", "the credential is not acceptable", false},
    [95] = {"INCONSISTENT_VOTER_SET", "the sets of voters differ", false},
    [96] = {"INVALID_UPDATE_VERSION", "the feature version is invalid", false},
    [97] = {"FEATURE_UPDATE_FAILED", "the feature could not be updated", false},
    [98] = {"PRINCIPAL_DESERIALIZATION_FAILURE", "the principal could not be read", false},
    [99] = {"SNAPSHOT_NOT_FOUND", "the snapshot was not found", false},
    [100] = {"POSITION_OUT_OF_RANGE", "the position is outside the snapshot", false},
    [101] = {"UNKNOWN_TOPIC_ID", "this server knows no topic with that id", true},
    [102] = {"DUPLICATE_BROKER_REGISTRATION", "a broker with this id is registered and alive", false},
    [103] = {"BROKER_ID_NOT_REGISTERED", "this broker is not registered", false},
    [104] = {"INCONSISTENT_TOPIC_ID", "the topic id does not belong to the topic of that name", true},
    [105] = {"INCONSISTENT_CLUSTER_ID", "the broker belongs to another cluster", false},
    [106] = {"TRANSACTIONAL_ID_NOT_FOUND", "the transactional id is unknown", false},
    [107] = {"FETCH_SESSION_TOPIC_ID_ERROR", "the fetch session uses the other way to name topics", true},
    [108] = {"INELIGIBLE_REPLICA", "a replica in the new ISR is not eligible", false},
    [109] = {"NEW_LEADER_ELECTED", "another leader was elected meanwhile", false},
    [110] = {"OFFSET_MOVED_TO_TIERED_STORAGE", "the offset was moved to tiered storage", false},
    [111] = {"FENCED_MEMBER_EPOCH", "the member's epoch was fenced", false},
    [112] = {"UNRELEASED_INSTANCE_ID", "another member still uses this group.instance.id", false},
    [113] = {"UNSUPPORTED_ASSIGNOR", "the assignor is not supported", false},
    [114] = {"STALE_MEMBER_EPOCH", "the member's epoch is stale", false},
    [115] = {"MISMATCHED_ENDPOINT_TYPE", "the request was sent to the wrong kind of endpoint", false},
    [116] = {"UNSUPPORTED_ENDPOINT_TYPE", "this kind of endpoint is not supported", false},
    [117] = {"UNKNOWN_CONTROLLER_ID", "the controller id is unknown", false},
    [118] = {"UNKNOWN_SUBSCRIPTION_ID", "the telemetry subscription is unknown", false},
    [119] = {"TELEMETRY_TOO_LARGE", "the telemetry data are too large", false},
    [120] = {"INVALID_REGISTRATION", "the broker's registration is invalid", false},
    [121] = {"TRANSACTION_ABORTABLE", "the transaction failed and can be aborted", false},
    [122] = {"INVALID_RECORD_STATE", "the record is in the wrong state", false},
    [123] = {"SHARE_SESSION_NOT_FOUND", "the share session was not found", true},
    [124] = {"INVALID_SHARE_SESSION_EPOCH", "the epoch of the share session is invalid", true},
    [125] = {"FENCED_STATE_EPOCH", "the epoch of the state is stale", false},
    [126] = {"INVALID_VOTER_KEY", "the key of the voter does not fit", false},
    [127] = {"DUPLICATE_VOTER", "the voter is in the set already", false},
    [128] = {"VOTER_NOT_FOUND", "the voter was not found", false},
    [129] = {"INVALID_REGULAR_EXPRESSION", "the regular expression is invalid", false},
    [130] = {"REBOOTSTRAP_REQUIRED", "the client should bootstrap anew", false},
    [131] = {"STREAMS_INVALID_TOPOLOGY", "the topology is invalid", false},
    [132] = {"STREAMS_INVALID_TOPOLOGY_EPOCH", "the epoch of the topology is invalid", false},
    [133] = {"STREAMS_TOPOLOGY_FENCED", "a newer topology took over", false},
    [134] = {"SHARE_SESSION_LIMIT_REACHED", "too many share sessions", true},
};

static const ErrorInfo *find(KafkaError e)
{
    return e >= -1 && (size_t)(e + 1) < ARRAY_SIZE(errors) ? &errors[e + 1] : NULL;
}

const char *k_error_name(KafkaError e)
{
    static _Thread_local char text[24];
    const ErrorInfo *info = find(e);
    if (info)
        return info->name;
    snprintf(text, sizeof(text), "UNKNOWN(%d)", e);
    return text;
}

const char *k_error_message(KafkaError e)
{
    const ErrorInfo *info = find(e);
    return info ? info->message : "an error code that this version does not know";
}

bool k_error_is_retriable(KafkaError e)
{
    const ErrorInfo *info = find(e);
    return info && info->retriable;
}
