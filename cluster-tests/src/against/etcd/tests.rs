//! The bytes that go to etcd, compared with bytes that etcd 3.4.23 was seen to take.

use prost::Message;

use super::*;

fn bytes(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

#[test]
fn requests_are_encoded_as_etcd_reads_them() {
    let put_bytes = b"\x0a\x08user/007\x12\x01v";
    assert_eq!(bytes(&put("user/007", b"v")), put_bytes);
    assert_eq!(bytes(&get("user/007", Fresh::Stale)), b"\x0a\x08user/007\x38\x01");
    assert_eq!(bytes(&get("user/007", Fresh::Linearizable)), b"\x0a\x08user/007");
    assert_eq!(bytes(&list("user/0", 100)), b"\x0a\x06user/0\x12\x06user/1\x18\x64");
    // Compare: target MOD, key, revision. One operation: a put, which is field 2 of its kind.
    let swap_bytes = b"\x0a\x0e\x10\x02\x1a\x08user/007\x30\x02\x12\x0f\x12\x0d\x0a\x08user/007\x12\x01w";
    assert_eq!(bytes(&swap("user/007", 2, b"w")), swap_bytes);
    assert_eq!(bytes(&wire::MoveLeaderRequest { target_id: 300 }), b"\x08\xac\x02");
    assert_eq!(bytes(&wire::StatusRequest {}), b"");
}

#[test]
fn answers_of_etcd_are_read_and_what_is_not_known_is_skipped() {
    // Header with a cluster id (field 1) that we do not read; then one value and how many there are (field 4).
    let header =
        b"\x0a\x18\x08\xa4\xa3\xf0\xe3\xea\xf5\x87\xbf\x18\x10\xc8\xb9\x96\xfc\xb8\x9a\xb9\xd6\x7e\x18\x02\x20\x02";
    let value = b"\x12\x13\x0a\x08user/007\x10\x02\x18\x02\x20\x01\x2a\x01v\x20\x01";
    let reply = wire::RangeResponse::decode([header.as_slice(), value].concat().as_slice()).expect("etcd's bytes");
    let header_read = reply.header.expect("a header");
    assert_eq!((header_read.revision, header_read.raft_term), (2, 2));
    assert_eq!(reply.kvs.len(), 1);
    let found = &reply.kvs[0];
    assert_eq!((found.key.as_slice(), found.value.as_slice(), found.mod_revision), (&b"user/007"[..], &b"v"[..], 2));

    let swapped = b"\x10\x01\x1a\x06\x12\x04\x0a\x02\x18\x03";
    let reply = wire::TxnResponse::decode([header.as_slice(), swapped].concat().as_slice()).expect("etcd's bytes");
    assert!(reply.succeeded);

    let status = b"\x12\x063.4.23\x18\x80\xa0\x01\x20\xc8\xb9\x96\xfc\xb8\x9a\xb9\xd6\x7e\x28\x06\x30\x02\x38\x06\x48\x80\x80\x01";
    let reply = wire::StatusResponse::decode([header.as_slice(), status].concat().as_slice()).expect("etcd's bytes");
    assert_eq!(reply.header.map(|header| header.member_id), Some(reply.leader), "it leads");
    assert_eq!(reply.raft_applied_index, 6);
}

#[test]
fn a_metric_is_found_by_its_whole_name() {
    let text = "# HELP a_count x\na_count_more 9\na_count 8\nb{x=\"1\"} 2\n";
    assert_eq!(value(text, "a_count"), Some(8.0));
    assert_eq!(value(text, "b"), None);
}

#[test]
fn what_would_change_etcd_is_taken_from_its_environment() {
    assert!(decides("ETCD_ELECTION_TIMEOUT") && decides("https_proxy") && decides("HTTP_PROXY"));
    assert!(!decides("PATH") && !decides("TMPDIR"));
}

#[test]
fn the_end_of_a_prefix_is_its_successor() {
    assert_eq!(behind(b"user/0"), b"user/1");
}
