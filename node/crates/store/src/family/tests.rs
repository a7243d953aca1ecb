//! Round trips of every family, order of keys, and golden samples: bytes that no release may ever change.

mod names;
mod state_keys;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use ollamax_core::catalog::txn::Effect;
use ollamax_core::catalog::{
    self, Answer, Blob, Cluster, Cordon, Counts, Due, Failure, How, Lease, Location, Member, MemberState, Migration,
    MigrationStatus, Model, Phase, Pin, Plan, PlanKind, Refusal, Remembered, Replicas, Session, Setting, Since, Token,
    Usage, Value, Version, Want, Wish,
};
use ollamax_proto::disk;
use ollamax_types::{
    ClusterId, Digest, ErrorCode, Incarnation, ModelName, ModelRecord, NodeId, PeerId, Role, Root, Timestamp, TokenId,
};

use super::*;
use crate::framing::seal;

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Voter), Just(Role::Learner), Just(Role::Gateway)]
}

fn member_state() -> impl Strategy<Value = MemberState> {
    prop_oneof![
        Just(MemberState::Active),
        Just(MemberState::Drained),
        any::<u64>().prop_map(|at| MemberState::Departed { at: Timestamp(at) }),
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,20}", 0..3)
}

fn cluster() -> impl Strategy<Value = Cluster> {
    (any::<[u8; 16]>(), ".{0,20}", any::<[u8; 32]>(), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
        |(id, name, public_key, created, next_node_id, version)| Cluster {
            id: ClusterId(id),
            name,
            public_key,
            created_at: Timestamp(created),
            next_node_id,
            version,
        },
    )
}

fn member() -> impl Strategy<Value = Member> {
    let who = (any::<u64>(), ".{0,20}", "[a-zA-Z0-9]{0,60}", any::<[u8; 16]>());
    let place = (labels(), labels(), cordon());
    (who, role(), member_state(), (texts(), texts(), texts()), any::<u64>(), place).prop_map(
        |((id, name, peer, incarnation), role, state, (peers, p2ps, apis), joined, place)| Member {
            id: NodeId(id),
            name,
            peer_id: PeerId(peer),
            incarnation: Incarnation(incarnation),
            role,
            state,
            peer_addresses: peers,
            p2p_addresses: p2ps,
            api_addresses: apis,
            joined_at: Timestamp(joined),
            labels: place.0,
            own_labels: place.1,
            cordon: place.2,
        },
    )
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-z]{1,8}", ".{0,8}", 0..3)
}

fn cordon() -> impl Strategy<Value = Cordon> {
    prop_oneof![Just(Cordon::Open), Just(Cordon::Cordoned), Just(Cordon::Emptying)]
}

fn want() -> impl Strategy<Value = Want> {
    let avoid = prop::collection::btree_set(any::<u64>().prop_map(NodeId), 0..3);
    let bytes = (any::<u64>(), any::<u64>());
    (labels(), bytes, avoid).prop_map(|(labels, (gpu_memory_bytes_min, disk_free_bytes_min), avoid)| Want {
        labels,
        gpu_memory_bytes_min,
        avoid,
        disk_free_bytes_min,
    })
}

fn kind() -> impl Strategy<Value = PlanKind> {
    use PlanKind::{Asked, Emptying, Rebalance, Repair};
    prop_oneof![Just(Asked), Just(Repair), Just(Rebalance), Just(Emptying)]
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

/// When and by whom.
fn at() -> impl Strategy<Value = (Timestamp, String)> {
    (any::<u64>().prop_map(Timestamp), ".{0,20}")
}

fn model() -> impl Strategy<Value = Model> {
    let since = (at(), ".{0,20}").prop_map(|((at, by), note)| Since { at, by, note });
    let phase = (0..4_u8, since).prop_map(|(word, since)| match word {
        0 => Phase::Active,
        1 => Phase::Deprecated(since),
        2 => Phase::Disabled(since),
        _ => Phase::Deleted(since),
    });
    let pin = prop::option::of((digest(), at()).prop_map(|(digest, (at, by))| Pin { digest, by, at }));
    let dropped = (digest(), at(), any::<bool>());
    let dropped = dropped.prop_map(|(digest, (at, by), insisted)| catalog::Drop { digest, at, by, insisted });
    let drops = prop::collection::btree_map(any::<u64>().prop_map(NodeId), dropped, 0..3);
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>());
    let times = (any::<u64>(), prop::option::of(1..=u64::MAX));
    (model_name(), phase, pin, drops, numbers, times).prop_map(|(name, phase, pin, drops, numbers, times)| {
        let (head, first, used_on) = numbers;
        let (noted_at, unheld_since) = (Timestamp(times.0), times.1.map(Timestamp));
        Model { name, phase, pin, head, first, drops, used_on, noted_at, unheld_since }
    })
}

fn version() -> impl Strategy<Value = Version> {
    let how = prop_oneof![
        Just(How::Found),
        Just(How::Pulled),
        any::<u64>().prop_map(|to| How::RolledBack { to }),
        model_name().prop_map(|from| How::Tagged { from }),
    ];
    (any::<u64>(), digest(), any::<u64>(), how, at()).prop_map(|(number, digest, size_bytes, how, (at, by))| Version {
        number,
        digest,
        size_bytes,
        at,
        how,
        by,
    })
}

fn token() -> impl Strategy<Value = Token> {
    let times = (any::<u64>(), any::<u64>());
    (".{0,20}", any::<[u8; 32]>(), role(), any::<u32>(), times, any::<bool>()).prop_map(
        |(id, secret_sha256, role, uses_left, (created, expires), revoked)| Token {
            id: TokenId(id),
            secret_sha256,
            role,
            uses_left,
            created_at: Timestamp(created),
            expires_at: Timestamp(expires),
            revoked,
        },
    )
}

fn location() -> impl Strategy<Value = Location> {
    let digests = (any::<[u8; 32]>(), prop::option::of(any::<[u8; 32]>()));
    (any::<u64>(), model_name(), digests, any::<u64>(), any::<u64>(), ".{0,40}", texts()).prop_map(
        |(node, name, (digest, weights), size_bytes, modified, details_json, capabilities)| Location {
            node: NodeId(node),
            model: ModelRecord {
                name,
                digest: Digest(digest),
                weights: Digest(weights.unwrap_or(digest)),
                size_bytes,
                modified_at: Timestamp(modified),
                details_json,
                capabilities,
            },
        },
    )
}

fn model_name() -> impl Strategy<Value = ModelName> {
    let name = "([a-z]{1,8}/)?[A-Za-z0-9]{1,12}(:[a-z0-9]{1,6})?";
    name.prop_map(|name| name.parse::<ModelName>().expect("the pattern gives model names"))
}

fn blob() -> impl Strategy<Value = Blob> {
    (any::<u64>(), any::<[u8; 32]>(), any::<u64>(), any::<u64>()).prop_map(|(size_bytes, root, by, at)| Blob {
        size_bytes,
        root: Root(root),
        bound_by: NodeId(by),
        bound_at: Timestamp(at),
    })
}

fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec(any::<u64>().prop_map(NodeId), 0..4)
}

fn wish() -> impl Strategy<Value = Wish> {
    let replicas =
        prop_oneof![any::<u32>().prop_map(Replicas::Count), Just(Replicas::All), nodes().prop_map(Replicas::Nodes),];
    let plan = (1..u64::MAX, nodes(), any::<u64>(), kind()).prop_map(|(ingester, targets, at, kind)| Plan {
        ingester: NodeId(ingester),
        targets,
        made_at: Timestamp(at),
        kind,
    });
    let failure = (prop::sample::select(ErrorCode::ALL), ".{0,20}", any::<u64>(), any::<bool>());
    let failure = failure.prop_map(|(code, text, at, by_hand)| Failure { code, text, at: Timestamp(at), by_hand });
    let failures = prop::collection::btree_map(any::<u64>().prop_map(NodeId), failure, 0..3);
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let surplus = prop::collection::btree_set(any::<u64>().prop_map(NodeId), 0..3);
    let asker = (".{0,20}", want(), any::<bool>(), surplus, any::<bool>());
    let version = prop::option::of(digest());
    (model_name(), numbers, any::<bool>(), replicas, version, prop::option::of(plan), failures, asker).prop_map(
        |(name, (round, size_bytes, asked), insecure, replicas, digest, plan, failures, asker)| Wish {
            name,
            round,
            insecure,
            replicas,
            digest,
            size_bytes,
            plan,
            failures,
            asked_at: Timestamp(asked),
            asked_by: asker.0,
            want: asker.1,
            declared: asker.2,
            surplus: asker.3,
            shared: asker.4,
        },
    )
}

/// Any text, NUL included.
fn wild() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), any::<char>()], 0..8)
        .prop_map(|characters| characters.into_iter().collect())
}

fn pair() -> impl Strategy<Value = (Key, Record)> {
    prop_oneof![
        cluster().prop_map(|record| (Key::Cluster, Record::Cluster(record))),
        (any::<u64>(), member()).prop_map(|(id, record)| (Key::Member(NodeId(id)), Record::Member(record))),
        (wild(), any::<u64>()).prop_map(|(p, id)| (Key::MemberByPeer(PeerId(p)), Record::NodeId(NodeId(id)))),
        (wild(), token()).prop_map(|(id, record)| (Key::Token(TokenId(id)), Record::Token(record))),
        (wild(), any::<u64>(), location()).prop_map(|(m, n, r)| (Key::Location(m, NodeId(n)), Record::Location(r))),
        (wild(), any::<u64>(), location()).prop_map(|(m, n, r)| (Key::NodeModel(NodeId(n), m), Record::Location(r))),
        (wild(), prop::collection::vec(any::<u8>(), 0..40), any::<u64>())
            .prop_map(|(key, value, revision)| (Key::Setting(key), Record::Setting(Setting { value, revision }))),
        newer_pair(),
        tasks::pair(),
        state_keys::pair(),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let history = (any::<u64>(), any::<u64>(), any::<u64>());
    (prop::collection::vec(any::<u8>(), 0..40), history, prop::option::of(1..u64::MAX))
        .prop_map(|(bytes, (created, modified, version), lease)| Value { bytes, created, modified, version, lease })
}

fn answer() -> impl Strategy<Value = Answer> {
    let effect = prop_oneof![
        prop::option::of(value()).prop_map(Effect::Got),
        any::<u64>().prop_map(|previous| Effect::Put { previous }),
        any::<u64>().prop_map(|previous| Effect::Deleted { previous }),
    ];
    prop_oneof![
        Just(Answer::Done),
        Just(Answer::Refused(Refusal::LeaseNotFound(4))),
        migration().prop_map(|row| Answer::Migration(Box::new(row))),
        any::<u64>().prop_map(|round| Answer::Wish { round }),
        any::<[u8; 32]>().prop_map(|digest| Answer::Pinned { digest: Digest(digest) }),
        (any::<bool>(), prop::collection::vec(effect, 0..4)).prop_map(|(held, effects)| Answer::Txn { held, effects }),
    ]
}

fn session() -> impl Strategy<Value = Session> {
    (".{0,20}", any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), noted()).prop_map(
        |(principal, ttl_ms, ends, window, highest, due_at)| Session {
            principal,
            ttl_ms,
            ends_at: Timestamp(ends),
            window,
            highest,
            due_at,
        },
    )
}

fn noted() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of(any::<u64>().prop_map(Timestamp))
}

fn migration() -> impl Strategy<Value = Migration> {
    let status = prop_oneof![
        Just(MigrationStatus::Applying),
        Just(MigrationStatus::Applied),
        Just(MigrationStatus::Reverting),
        Just(MigrationStatus::Reverted),
        Just(MigrationStatus::Failed),
    ];
    let cursor = prop_oneof![
        any::<u64>().prop_map(Key::Lease),
        (any::<u64>(), any::<u64>()).prop_map(|(at, id)| Key::Deadline(Timestamp(at), Due::Session(id))),
        (wild(), wild()).prop_map(|(namespace, key)| Key::Value(namespace, key)),
    ];
    let texts = (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}");
    let times = (any::<u64>(), noted(), noted(), any::<u64>());
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (texts, times, numbers, status, any::<bool>(), any::<bool>(), prop::option::of(cursor)).prop_map(
        |(texts, times, numbers, status, reversible, forced, cursor)| Migration {
            number: numbers.0,
            name: texts.0,
            phase: numbers.1,
            group: texts.1,
            started_at: Timestamp(times.0),
            finished_at: times.1,
            actor: texts.2,
            duration_ms: numbers.2,
            status,
            error: texts.3,
            reverted_at: times.2,
            reverted_by: texts.4,
            revert_duration_ms: numbers.3,
            reversible,
            forced,
            began_at: Timestamp(times.3),
            cursor,
            looked_at: numbers.4,
            changed: numbers.5,
        },
    )
}

/// Values, leases, sessions and what goes with them; what came with migrations and wishes.
fn newer_pair() -> impl Strategy<Value = (Key, Record)> {
    let numbers = || (any::<u64>(), any::<u64>(), any::<u64>());
    let due = prop_oneof![any::<u64>().prop_map(Due::Lease), any::<u64>().prop_map(Due::Session)];
    prop_oneof![
        (wild(), wild(), value()).prop_map(|(n, k, value)| (Key::Value(n, k), Record::Value(value))),
        (wild(), wild(), numbers()).prop_map(|(n, p, (keys, bytes, bytes_max))| {
            (Key::Usage(n, p), Record::Usage(Usage { keys, bytes, bytes_max }))
        }),
        (any::<u64>(), numbers(), any::<u32>(), noted()).prop_map(|(id, (ttl_ms, ends, _), values, due_at)| {
            (Key::Lease(id), Record::Lease(Lease { ttl_ms, ends_at: Timestamp(ends), values, due_at }))
        }),
        (any::<u64>(), wild(), wild()).prop_map(|(id, n, k)| (Key::LeaseValue(id, n, k), Record::Present)),
        (any::<u64>(), session()).prop_map(|(id, session)| (Key::Session(id), Record::Session(session))),
        (numbers(), any::<u64>(), answer()).prop_map(|((id, sequence, revision), term, answer)| {
            (Key::SessionAnswer(id, sequence), Record::Remembered(Remembered { revision, term, answer }))
        }),
        (any::<u64>(), due).prop_map(|(at, due)| (Key::Deadline(Timestamp(at), due), Record::Present)),
        (numbers(), numbers(), any::<[u64; 2]>()).prop_map(
            |((sessions, leases, wishes), (blobs, models, tasks), [once, tasks_changed_at])| {
                let counts = Counts { sessions, leases, wishes, blobs, models, tasks, once, tasks_changed_at };
                (Key::Counts, Record::Counts(counts))
            }
        ),
        (any::<u32>(), migration())
            .prop_map(|(number, row)| (Key::Migration(number), Record::Migration(Box::new(row)))),
        (any::<[u8; 32]>(), blob()).prop_map(|(sha256, blob)| (Key::Blob(Digest(sha256)), Record::Blob(blob))),
        (wild(), wish()).prop_map(|(model, wish)| (Key::Wish(model), Record::Wish(Box::new(wish)))),
        (wild(), model()).prop_map(|(key, model)| (Key::Model(key), Record::Model(Box::new(model)))),
        // The number is in the key alone.
        (wild(), version()).prop_map(|(m, v)| (Key::Version(m, v.number), Record::Version(Box::new(v)))),
    ]
}

/// Model names compare without regard to case; what is stored keeps it.
fn spelled(record: &Record) -> String {
    match record {
        Record::Location(location) => location.model.name.full(),
        Record::Wish(wish) => wish.name.full(),
        Record::Model(model) => model.name.full(),
        _ => String::new(),
    }
}

proptest! {
    #[test]
    fn every_key_and_record_comes_back_as_it_went((key, record) in pair()) {
        let bytes = encode_key(&key);
        prop_assert_eq!(decode_key(&bytes), Ok(key.clone()));
        let value = encode_record(&key, &record).expect("key and record fit");
        let back = decode_record(&key, &value).expect("what was written can be read");
        prop_assert_eq!(spelled(&back), spelled(&record));
        prop_assert_eq!(back, record);
    }

    #[test]
    fn the_order_of_bytes_is_the_order_of_keys_within_a_family((a, _) in pair(), (b, _) in pair()) {
        let (left, right) = (encode_key(&a), encode_key(&b));
        if left[0] == right[0] {
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(
        key in prop::collection::vec(any::<u8>(), 0..40),
        value in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        if let Ok(known) = decode_key(&key) {
            prop_assert_eq!(encode_key(&known), key, "one key, one form");
            drop(decode_record(&known, &value));
        }
    }
}

fn sample_location() -> Location {
    Location {
        node: NodeId(2),
        model: ModelRecord {
            name: "Demo".parse::<ModelName>().expect("valid"),
            digest: Digest([7; 32]),
            weights: Digest([7; 32]),
            size_bytes: 300,
            modified_at: Timestamp(5),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        },
    }
}

fn golden(key: &Key, record: &Record, key_hex: &str, value_hex: &str) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&encode_key(key)), key_hex, "{key}");
    let value = encode_record(key, record).expect("fits");
    assert_eq!(hex(&value), value_hex, "{key}");
    assert_eq!(decode_record(key, &value).as_ref(), Ok(record), "{key}");
}

#[test]
fn golden_samples_of_every_family_have_not_changed() {
    let id16 = "11".repeat(16);
    let bytes32 = "22".repeat(32);
    let cluster = Cluster {
        id: ClusterId([0x11; 16]),
        name: "lab".to_owned(),
        public_key: [0x22; 32],
        created_at: Timestamp(1),
        next_node_id: 2,
        version: 1,
    };
    let value = format!("010a10{id16}12036c61621a20{bytes32}200128023001");
    golden(&Key::Cluster, &Record::Cluster(cluster), "01", &value);

    let member = Member {
        id: NodeId(1),
        name: "n1".to_owned(),
        peer_id: PeerId("12D3".to_owned()),
        incarnation: Incarnation([0x11; 16]),
        role: Role::Learner,
        state: MemberState::Departed { at: Timestamp(9) },
        peer_addresses: vec!["a:1".to_owned()],
        p2p_addresses: vec!["b".to_owned()],
        api_addresses: vec!["c".to_owned()],
        joined_at: Timestamp(3),
        labels: Default::default(),
        own_labels: Default::default(),
        cordon: Default::default(),
    };
    let value = format!("01080112026e311a04313244332210{id16}2802300338094203613a314a01625201635803");
    golden(&Key::Member(NodeId(1)), &Record::Member(member.clone()), "020000000000000001", &value);
    let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let (labels, own_labels, cordon) = (label("room", "a"), label("os", "linux"), Cordon::Emptying);
    let placed = Member { labels, own_labels, cordon, ..member };
    let value = format!("{value}62090a04726f6f6d1201616a0b0a026f7312056c696e75787002");
    golden(&Key::Member(NodeId(1)), &Record::Member(placed), "020000000000000001", &value);

    golden(&Key::MemberByPeer(PeerId("12D3".to_owned())), &Record::NodeId(NodeId(1)), "0331324433", "010801");

    let token = Token {
        id: TokenId("tk".to_owned()),
        secret_sha256: [0x22; 32],
        role: Role::Voter,
        uses_left: 1,
        created_at: Timestamp(1),
        expires_at: Timestamp(2),
        revoked: true,
    };
    let value = format!("010a02746b1220{bytes32}18012001280130023801");
    golden(&Key::Token(TokenId("tk".to_owned())), &Record::Token(token), "04746b", &value);

    let name = "72656769737472792e6f6c6c616d612e61692f6c6962726172792f44656d6f3a6c6174657374";
    let location_value = format!("0108021226{name}1a20{}20ac0228053202{}", "07".repeat(32), "7b7d");
    let location = Record::Location(sample_location());
    let model = "m:t".to_owned();
    golden(&Key::Location(model.clone(), NodeId(2)), &location, "056d3a7400010000000000000002", &location_value);
    golden(&Key::NodeModel(NodeId(2), model), &location, "0600000000000000026d3a74", &location_value);
    let mut known = sample_location();
    known.model.weights = Digest([8; 32]);
    let known_value = format!("{location_value}3a20{}", "08".repeat(32));
    let key = Key::Location("m:t".to_owned(), NodeId(2));
    golden(&key, &Record::Location(known.clone()), "056d3a7400010000000000000002", &known_value);
    known.model.capabilities = vec!["ab".to_owned(), "c".to_owned()];
    let able_value = format!("{known_value}42026162420163");
    golden(&key, &Record::Location(known), "056d3a7400010000000000000002", &able_value);

    let setting = Setting { value: vec![0xff], revision: 8 };
    golden(&Key::Setting("k".to_owned()), &Record::Setting(setting), "076b", "010a01ff1008");
}

#[test]
fn golden_samples_of_values_leases_and_sessions_have_not_changed() {
    let (none, user_a) = (String::new(), "user/a".to_owned());
    let value = Value { bytes: vec![0xff], created: 1, modified: 2, version: 3, lease: Some(4) };
    let value_hex = "010a01ff1001180220032804";
    golden(&Key::Value(none.clone(), user_a.clone()), &Record::Value(value), "080001757365722f61", value_hex);

    let usage = Usage { keys: 1, bytes: 2, bytes_max: 3 };
    let key = Key::Usage(none.clone(), "user/".to_owned());
    golden(&key, &Record::Usage(usage), "090001757365722f", "01080110021803");

    let lease = Lease { ttl_ms: 1_000, ends_at: Timestamp(2), values: 1, due_at: None };
    golden(&Key::Lease(5), &Record::Lease(lease), "0a0000000000000005", "0108e80710021801");
    let lease = Lease { due_at: Some(Timestamp(2)), ..lease };
    golden(&Key::Lease(5), &Record::Lease(lease), "0a0000000000000005", "0108e807100218012002");
    let key = Key::LeaseValue(5, none, user_a);
    golden(&key, &Record::Present, "0b00000000000000050001757365722f61", "01");

    let principal = "a".to_owned();
    let session = Session { principal, ttl_ms: 1_000, ends_at: Timestamp(2), window: 4, highest: 3, due_at: None };
    let (key_hex, value_hex) = ("0c0000000000000005", "010a016110e807180220042803");
    golden(&Key::Session(5), &Record::Session(session.clone()), key_hex, value_hex);
    let session = Session { due_at: Some(Timestamp(2)), ..session };
    golden(&Key::Session(5), &Record::Session(session), key_hex, &format!("{value_hex}3002"));
    let remembered = Record::Remembered(Remembered { revision: 9, term: 2, answer: Answer::Done });
    let key_hex = "0d00000000000000050000000000000003";
    golden(&Key::SessionAnswer(5, 3), &remembered, key_hex, "010a06080910021a00");

    let at = |due| Key::Deadline(Timestamp(2), due);
    golden(&at(Due::Lease(5)), &Record::Present, "0e0000000000000002010000000000000005", "01");
    golden(&at(Due::Session(5)), &Record::Present, "0e0000000000000002020000000000000005", "01");
    let counts = Counts { sessions: 1, leases: 2, ..Counts::default() };
    golden(&Key::Counts, &Record::Counts(counts), "0f", "0108011002");
    let counts = Counts { wishes: 3, blobs: 4, ..counts };
    golden(&Key::Counts, &Record::Counts(counts), "0f", "010801100218032004");
    let counts = Counts { models: 5, ..counts };
    golden(&Key::Counts, &Record::Counts(counts), "0f", "0108011002180320042805");
    let counts = Counts { tasks: 6, once: 7, ..counts };
    golden(&Key::Counts, &Record::Counts(counts), "0f", "010801100218032004280530063807");
    let counts = Counts { tasks_changed_at: 300, ..counts };
    golden(&Key::Counts, &Record::Counts(counts), "0f", "01080110021803200428053006380740ac02");
}

#[test]
fn golden_samples_of_files_and_wishes_have_not_changed() {
    let blob = Blob { size_bytes: 300, root: Root([0x22; 32]), bound_by: NodeId(2), bound_at: Timestamp(5) };
    let value_hex = format!("0108ac021220{}18022005", "22".repeat(32));
    golden(&Key::Blob(Digest([7; 32])), &Record::Blob(blob), &format!("11{}", "07".repeat(32)), &value_hex);

    let asked = Wish {
        name: "Demo".parse().expect("valid"),
        round: 8,
        insecure: false,
        replicas: Replicas::Count(2),
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: BTreeMap::new(),
        asked_at: Timestamp(9),
        asked_by: "a".to_owned(),
        want: Default::default(),
        declared: false,
        surplus: BTreeSet::new(),
        shared: false,
    };
    let name = "0a2672656769737472792e6f6c6c616d612e61692f6c6962726172792f44656d6f3a6c6174657374";
    let key = Key::Wish("m:t".to_owned());
    let check = |wish: &Wish, value_hex: &str| {
        let value_hex = format!("01{name}{value_hex}").replace(' ', "");
        golden(&key, &Record::Wish(Box::new(wish.clone())), "126d3a74", &value_hex);
    };
    check(&asked, "1008 22020802 5009 5a0161");
    check(&Wish { replicas: Replicas::All, ..asked.clone() }, "1008 22021200 5009 5a0161");
    let nodes = Replicas::Nodes(vec![NodeId(1), NodeId(3)]);
    let failure = Failure { code: ErrorCode::DiskFull, text: "t".to_owned(), at: Timestamp(7), by_hand: false };
    let under_way = Wish {
        insecure: true,
        replicas: nodes,
        digest: Some(Digest([7; 32])),
        size_bytes: 300,
        plan: Some(Plan {
            ingester: NodeId(1),
            targets: vec![NodeId(1), NodeId(3)],
            made_at: Timestamp(6),
            kind: Default::default(),
        }),
        failures: BTreeMap::from([(NodeId(3), failure)]),
        ..asked
    };
    let version = format!("2a20{} 30ac02", "07".repeat(32));
    let failed = "4a12 0803 1209 6469736b5f66756c6c 1a0174 2007";
    let head = format!("1008 1801 2206 1a04 0a020103 {version} 3801 42020103");
    check(&under_way, &format!("{head} {failed} 5009 5a0161 6006"));

    let by_hand = |failure: &Failure| Failure { by_hand: true, ..failure.clone() };
    let placed = Wish {
        plan: under_way.plan.clone().map(|plan| Plan { kind: PlanKind::Rebalance, ..plan }),
        failures: under_way.failures.iter().map(|(node, failure)| (*node, by_hand(failure))).collect(),
        want: Want {
            labels: BTreeMap::from([("room".to_owned(), "a".to_owned())]),
            gpu_memory_bytes_min: 300,
            avoid: BTreeSet::from([NodeId(4)]),
            disk_free_bytes_min: 0,
        },
        declared: true,
        ..under_way
    };
    let failed = "4a14 0803 1209 6469736b5f66756c6c 1a0174 2007 2801";
    let want = "6a11 0a09 0a04726f6f6d 120161 10ac02 1a0104";
    let placed_hex = format!("{head} {failed} 5009 5a0161 6006 {want} 7001 7802");
    check(&placed, &placed_hex);
    let surplus = BTreeSet::from([NodeId(2), NodeId(5)]);
    check(&Wish { surplus, ..placed.clone() }, &format!("{placed_hex} 8201020205"));
    check(&Wish { shared: true, ..placed.clone() }, &format!("{placed_hex} 880101"));

    let keeping = Wish { want: Want { disk_free_bytes_min: 300, ..placed.want.clone() }, ..placed };
    let want = "6a14 0a09 0a04726f6f6d 120161 10ac02 1a0104 20ac02";
    check(&keeping, &format!("{head} {failed} 5009 5a0161 6006 {want} 7001 7802"));
}

#[test]
fn a_wish_of_a_newer_release_is_refused() {
    let replicas = Some(disk::Replicas { of: Some(disk::replicas::Of::Count(1)) });
    let known = disk::WishRecord { name: "m".to_owned(), round: 1, replicas, ..disk::WishRecord::default() };
    let decode = |message: &disk::WishRecord| decode_record(&Key::Wish("m:t".to_owned()), &seal(1, message));
    assert!(decode(&known).is_ok());
    let code = |code: &str| disk::WishFailure {
        node: 1,
        code: code.to_owned(),
        text: String::new(),
        at_ms: 1,
        by_hand: false,
    };
    assert!(decode(&disk::WishRecord { failures: vec![code("disk_full")], ..known.clone() }).is_ok());
    for changed in [
        disk::WishRecord { replicas: None, ..known.clone() },
        disk::WishRecord { replicas: Some(disk::Replicas { of: None }), ..known.clone() },
        disk::WishRecord { failures: vec![code("of_the_future")], ..known.clone() },
        disk::WishRecord { digest: vec![7; 31], ..known.clone() },
        disk::WishRecord { ingester: 1, plan_kind: 4, ..known.clone() },
        disk::WishRecord { name: "no name".to_owned(), ..known },
    ] {
        assert!(decode(&changed).is_err(), "{changed:?}");
    }
}

#[test]
fn a_golden_sample_of_the_ledger_has_not_changed() {
    let row = Migration {
        number: 1,
        name: "n".to_owned(),
        phase: 0,
        group: "core".to_owned(),
        started_at: Timestamp(1),
        finished_at: Some(Timestamp(2)),
        actor: "a".to_owned(),
        duration_ms: 3,
        status: MigrationStatus::Applied,
        error: String::new(),
        reverted_at: None,
        reverted_by: String::new(),
        revert_duration_ms: 0,
        reversible: true,
        forced: false,
        began_at: Timestamp(1),
        cursor: Some(Key::Lease(5)),
        looked_at: 4,
        changed: 2,
    };
    let fifteen = "0801 12016e 2204636f7265 2801 3002 3a0161 4003 4802 7001";
    let walk = "800101 8a01090a0000000000000005 900104 980102";
    let value_hex = format!("01{fifteen}{walk}").replace(' ', "");
    golden(&Key::Migration(1), &Record::Migration(Box::new(row)), "1000000001", &value_hex);
}

#[test]
fn a_location_from_before_weights_were_known_has_its_manifest_in_their_place() {
    let message = disk::LocationRecord {
        node: 2,
        name: "Demo".to_owned(),
        digest: vec![7; 32],
        size_bytes: 300,
        modified_at_ms: 5,
        details_json: "{}".to_owned(),
        weights: vec![],
        capabilities: vec![],
    };
    let decode =
        |message: &disk::LocationRecord| decode_record(&Key::Location("m:t".to_owned(), NodeId(2)), &seal(1, message));
    assert_eq!(decode(&message), Ok(Record::Location(sample_location())));
    assert!(decode(&disk::LocationRecord { weights: vec![7; 31], ..message }).is_err());
}

#[test]
fn a_record_of_another_family_a_newer_version_and_an_unknown_family_are_refused() {
    assert!(encode_record(&Key::Cluster, &Record::NodeId(NodeId(1))).is_err());
    assert!(decode_record(&Key::MemberByPeer(PeerId::default()), &[2, 8, 1]).is_err());
    assert!(decode_key(&[0x55, 1]).is_err());
    assert!(decode_key(&[]).is_err());
}

#[test]
fn the_end_of_a_prefix_lies_behind_all_its_keys() {
    let rows: &[(&[u8], Option<&[u8]>)] =
        &[(&[1], Some(&[2])), (&[1, 0xff], Some(&[2])), (&[0xff, 0xff], None), (&[7, 3], Some(&[7, 4]))];
    for (prefix, end) in rows {
        assert_eq!(prefix_end(prefix).as_deref(), *end, "{prefix:?}");
    }
}

#[test]
fn versions_lie_in_the_order_of_their_numbers_and_each_under_its_own() {
    let key = |number| Key::Version("m:t".to_owned(), number);
    let keys: Vec<Vec<u8>> = [1, 2, 255, 256, u64::MAX].map(|number| encode_key(&key(number))).into();
    assert!(keys.is_sorted(), "{keys:?}");
    let (digest, by) = (Digest([7; 32]), "node/1".to_owned());
    let version = Version { number: 2, digest, size_bytes: 5, at: Timestamp(6), how: How::Found, by };
    let record = Record::Version(Box::new(version));
    assert!(encode_record(&key(2), &record).is_ok());
    assert!(encode_record(&key(1), &record).is_err());
}
