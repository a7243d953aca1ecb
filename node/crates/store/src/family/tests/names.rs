//! Names of models and their versions: golden samples, and what only a newer release writes.

use super::*;

#[test]
fn golden_samples_of_names_and_their_versions_have_not_changed() {
    let demo = "2672656769737472792e6f6c6c616d612e61692f6c6962726172792f44656d6f3a6c6174657374";
    let name = || "Demo".parse::<ModelName>().expect("valid");
    let check = |key: &Key, record: Record, key_hex: &str, value_hex: &str| {
        golden(key, &record, key_hex, &format!("01{value_hex}").replace(' ', ""));
    };
    let (sevens, eights) = ("07".repeat(32), "08".repeat(32));
    let key = Key::Model("m:t".to_owned());
    let fresh = Model::new(name(), Timestamp(4));
    check(&key, Record::Model(Box::new(fresh.clone())), "136d3a74", &format!("0a{demo} 6804"));
    let unheld = Model { unheld_since: Some(Timestamp(5)), ..fresh.clone() };
    check(&key, Record::Model(Box::new(unheld)), "136d3a74", &format!("0a{demo} 6804 7005"));
    let (at, by) = (Timestamp(3), "c".to_owned());
    let dropped = catalog::Drop { digest: Digest([8; 32]), at, by, insisted: true };
    let since = || Since { at: Timestamp(1), by: "a".to_owned(), note: "n".to_owned() };
    let full = |phase| Model {
        phase,
        pin: Some(Pin { digest: Digest([7; 32]), by: "b".to_owned(), at: Timestamp(2) }),
        head: 9,
        first: 3,
        drops: BTreeMap::from([(NodeId(2), dropped.clone())]),
        used_on: 20_000,
        ..fresh.clone()
    };
    let behind = format!(
        "1801 220161 2a016e 3220{sevens} 3a0162 4002 4809 5003 5a2b 0802 1220{eights} 1803 220163 2801 60a09c01 6804"
    );
    for (phase, number) in
        [(Phase::Deprecated(since()), 1), (Phase::Disabled(since()), 2), (Phase::Deleted(since()), 3)]
    {
        let value_hex = format!("0a{demo} 100{number} {behind}");
        check(&key, Record::Model(Box::new(full(phase))), "136d3a74", &value_hex);
    }

    let version = |how| Version {
        number: 258,
        digest: Digest([7; 32]),
        size_bytes: 300,
        at: Timestamp(6),
        how,
        by: "a".to_owned(),
    };
    let key = Key::Version("m:t".to_owned(), 258);
    for (how, how_hex) in [
        (How::Found, "2001".to_owned()),
        (How::Pulled, "2002".to_owned()),
        (How::RolledBack { to: 2 }, "2003 2802".to_owned()),
        (How::Tagged { from: name() }, format!("2004 32{demo}")),
    ] {
        let value_hex = format!("0a20{sevens} 10ac02 1806 {how_hex} 3a0161");
        let record = Record::Version(Box::new(version(how)));
        check(&key, record, "146d3a7400010000000000000102", &value_hex);
    }
}

#[test]
fn a_name_a_version_or_a_place_of_a_newer_release_is_refused() {
    let model_key = Key::Model("m:t".to_owned());
    let model = disk::ModelRow { name: "m".to_owned(), ..disk::ModelRow::default() };
    let dropped = disk::DropRow { node: 1, digest: vec![7; 31], ..disk::DropRow::default() };
    assert!(decode_record(&model_key, &seal(1, &model)).is_ok());
    for changed in [
        disk::ModelRow { phase: 4, ..model.clone() },
        disk::ModelRow { pin_digest: vec![7; 33], ..model.clone() },
        disk::ModelRow { drops: vec![dropped], ..model.clone() },
        disk::ModelRow { name: "no name".to_owned(), ..model },
    ] {
        assert!(decode_record(&model_key, &seal(1, &changed)).is_err(), "{changed:?}");
    }
    let version_key = Key::Version("m:t".to_owned(), 1);
    let version = disk::VersionRow { digest: vec![7; 32], how: 1, ..disk::VersionRow::default() };
    assert!(decode_record(&version_key, &seal(1, &version)).is_ok());
    for changed in [
        disk::VersionRow { how: 0, ..version.clone() },
        disk::VersionRow { how: 5, ..version.clone() },
        disk::VersionRow { how: 4, from: "no name".to_owned(), ..version.clone() },
        disk::VersionRow { digest: Vec::new(), ..version },
    ] {
        assert!(decode_record(&version_key, &seal(1, &changed)).is_err(), "{changed:?}");
    }
    let (member_key, incarnation) = (Key::Member(NodeId(1)), vec![1; 16]);
    let (role, standing) = (1, disk::MemberStanding::Active.into());
    let member = disk::MemberRecord { id: 1, incarnation, role, standing, ..disk::MemberRecord::default() };
    assert!(decode_record(&member_key, &seal(1, &member)).is_ok());
    assert!(decode_record(&member_key, &seal(1, &disk::MemberRecord { cordon: 3, ..member })).is_err());
}
