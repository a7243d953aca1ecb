//! Each check with every outcome that it can have.

use ollamax_blobs::Owner;
use ollamax_types::Residency;

use super::*;

/// Compares outcome and finding, and sees that advice stands where something can be mended and nowhere else.
#[track_caller]
fn expect(check: &Check, outcome: Outcome, needle: &str) {
    assert_eq!(check.outcome(), outcome, "{check:?}");
    assert!(check.found.contains(needle), "{needle:?} in {check:?}");
    let mendable = matches!(outcome, Outcome::Warn | Outcome::Fail);
    assert_eq!(mendable, !check.fix.is_empty(), "{check:?}");
}

#[test]
fn clocks() {
    expect(&clock(None), Outcome::Skipped, "no other node");
    expect(&clock(Some((NodeId(2), -4_000))), Outcome::Ok, "-4000 ms against node 2");
    expect(&clock(Some((NodeId(2), -6_000))), Outcome::Warn, "-6000 ms");
    expect(&clock(Some((NodeId(2), 3_600_000))), Outcome::Fail, "3600000 ms");
}

#[test]
fn a_quorum_and_its_absence_with_the_age_of_what_is_left() {
    let found = Quorum { leader: Some(NodeId(2)), has_quorum: true, voters: 3, applied: 40, silent_ms: Some(100) };
    expect(&quorum(None), Outcome::Skipped, "not a member");
    expect(&quorum(Some(found)), Outcome::Ok, "node 2 leads, 3 may vote; the state of this node is at index 40");
    let lost = Quorum { has_quorum: false, silent_ms: Some(12_345), ..found };
    expect(&quorum(Some(lost)), Outcome::Fail, "at index 40, a leader's majority was last heard 12 s ago");
    assert!(quorum(Some(lost)).fix.contains("ollamax recover plan"));
    let never = Quorum { leader: None, silent_ms: None, ..lost };
    expect(&quorum(Some(never)), Outcome::Fail, "no leader was heard since this daemon started");
}

#[test]
fn a_data_directory_that_everybody_may_look_into() {
    let place = Path::new("/srv/ollamax");
    let found = |modes: &[u32]| data_dir(Some(modes), place);
    let alone = "/srv/ollamax is for its user and group alone";
    expect(&found(&[0o40_750, 0o755, 0o755]), Outcome::Ok, alone);
    expect(&found(&[0o40_755, 0o700, 0o755]), Outcome::Ok, alone);
    let open = found(&[0o40_755, 0o755, 0o755]);
    expect(&open, Outcome::Warn, "everybody on this machine may look into /srv/ollamax (mode 0755)");
    assert_eq!(open.fix, "chmod o-rwx /srv/ollamax");
    expect(&found(&[0o41_777]), Outcome::Warn, "(mode 1777)");
    expect(&data_dir(None, place), Outcome::Warn, "cannot be read");
}

fn port(name: &'static str, problem: Option<&str>) -> Port {
    Port { name, address: format!("127.0.0.1:{}", name.len()), problem: problem.map(str::to_owned) }
}

#[test]
fn ports_that_answer_and_those_that_do_not() {
    let told = ["10.0.0.7:11436".to_owned()];
    let good = [port("api", None), port("peer", None), port("p2p", None)];
    expect(&ports(&good, &told), Outcome::Ok, "api 127.0.0.1:3, peer 127.0.0.1:4, p2p 127.0.0.1:3 answer");
    expect(&ports(&good, &["127.0.0.1:11436".to_owned()]), Outcome::Warn, "others are told 127.0.0.1:11436");
    expect(&ports(&good, &["[::1]:11436".to_owned()]), Outcome::Warn, "others are told [::1]:11436");
    expect(&ports(&good, &[]), Outcome::Fail, "others are told nothing");
    let deaf = [port("api", None), port("peer", Some("refused"))];
    expect(&ports(&deaf, &told), Outcome::Fail, "peer at 127.0.0.1:4: refused");
}

#[test]
fn a_registry_for_others_is_off_or_answers() {
    let lending = Lending {
        address: SocketAddr::from(([0, 0, 0, 0], 11_438)),
        problem: None,
        networks: 8,
        has_tls: false,
        is_gateway: false,
    };
    expect(&registry(None), Outcome::Skipped, "it is off");
    expect(&registry(Some(&lending)), Outcome::Ok, "answers at 0.0.0.0:11438 to 8 networks, plain");
    let tls = Lending { has_tls: true, ..lending.clone() };
    expect(&registry(Some(&tls)), Outcome::Ok, "networks, over TLS");
    let gateway = Lending { is_gateway: true, ..lending.clone() };
    expect(&registry(Some(&gateway)), Outcome::Warn, "a gateway keeps no models");
    let deaf = Lending { problem: Some("refused".to_owned()), ..lending };
    expect(&registry(Some(&deaf)), Outcome::Fail, "0.0.0.0:11438: refused");
}

#[test]
fn the_way_back_from_another_node() {
    let tried_all = |found: &[(&str, Option<&str>)], lane: Option<Option<&str>>| {
        let found = found.iter().map(|(address, problem)| ((*address).to_owned(), problem.map(str::to_owned)));
        let lane = lane.map(|problem| problem.map(str::to_owned));
        reach_back(&ReachBack::Tried { by: NodeId(2), port: 11_436, found: found.collect(), lane })
    };
    let tried = |found: &[(&str, Option<&str>)]| tried_all(found, None);
    expect(&reach_back(&ReachBack::Nobody("alone")), Outcome::Skipped, "alone");
    let failed = ReachBack::Failed { by: NodeId(2), problem: "it is gone".to_owned() };
    expect(&reach_back(&failed), Outcome::Warn, "node 2 could not be asked: it is gone");
    expect(&tried(&[("a:1", None), ("b:1", None)]), Outcome::Ok, "node 2 reaches a:1, b:1");
    expect(&tried(&[("a:1", None), ("b:1", Some("no route"))]), Outcome::Warn, "reaches a:1, but not b:1: no route");
    let none = tried(&[("a:1", Some("timed out"))]);
    expect(&none, Outcome::Fail, "none of this node's addresses: a:1: timed out");
    assert!(none.fix.contains("ufw allow 11436/tcp"), "{none:?}");
    expect(&tried(&[]), Outcome::Fail, "none of this node's addresses");
    let closed = [("a:1", Some("timed out"))];
    let lane = tried_all(&closed, Some(None));
    expect(&lane, Outcome::Warn, "node 2 reaches this node only over this node's own libp2p connections: a:1: timed");
    assert!(lane.fix.contains("ufw allow 11436/tcp") && lane.fix.contains("without a vote"), "{lane:?}");
    let deaf = tried_all(&closed, Some(Some("none stands")));
    expect(&deaf, Outcome::Fail, "none of this node's addresses: a:1: timed out; p2p: none stands");
    expect(&tried_all(&[("a:1", None)], Some(Some("none stands"))), Outcome::Ok, "node 2 reaches a:1");
}

#[test]
fn the_way_to_another_node() {
    expect(&reachability("b", &Ok(Reached::At("b:1".to_owned()))), Outcome::Ok, "b at b:1");
    expect(&reachability("b", &Ok(Reached::OverP2p)), Outcome::Ok, "b over p2p");
    expect(&reachability("b", &Ok(Reached::Relayed)), Outcome::Ok, "b through a relay");
    expect(&reachability("b", &Err("refused".to_owned())), Outcome::Fail, "b: refused");
}

#[test]
fn disks() {
    let dir = Path::new("/data");
    expect(&disk(Some(50 << 30), dir), Outcome::Ok, "51200 MiB free at /data");
    expect(&disk(Some(5 << 30), dir), Outcome::Warn, "5120 MiB");
    expect(&disk(Some(1 << 30), dir), Outcome::Fail, "1024 MiB");
    expect(&disk(Some(0), dir), Outcome::Fail, "0 MiB");
    expect(&disk(None, dir), Outcome::Warn, "cannot be read");
}

#[test]
fn syncs() {
    expect(&fsync(&Ok(Duration::from_micros(1_500))), Outcome::Ok, "1.5 ms");
    expect(&fsync(&Ok(Duration::from_millis(21))), Outcome::Warn, "21.0 ms");
    expect(&fsync(&Err("no space".to_owned())), Outcome::Fail, "no space");
}

fn up(kind: RuntimeKind, version: &str) -> Report {
    Report { state: RuntimeState::Up, version: version.to_owned(), ..Report::absent(kind) }
}

#[test]
fn runtimes_and_their_versions() {
    let of = |version: &str| runtime(&up(RuntimeKind::Ollama, version));
    expect(&of("0.24.0"), Outcome::Ok, "ollama 0.24.0");
    expect(&of("0.33.0-rc2"), Outcome::Ok, "0.33.0-rc2");
    expect(&of("1.0.0"), Outcome::Ok, "1.0.0");
    expect(&of("0.0.0"), Outcome::Ok, "0.0.0");
    expect(&of("0.23.9"), Outcome::Warn, "the oldest that was tried is 0.24.0");
    expect(&of("0.5.4"), Outcome::Fail, "models can be imported from 0.5.5 on");
    for unreadable in ["", "new", "0.24", "0.24.x", "0.24.0.1"] {
        expect(&of(unreadable), Outcome::Warn, "its version cannot be read");
    }
    let engine = runtime(&up(RuntimeKind::Engine, "0.1.0"));
    expect(&engine, Outcome::Ok, "engine 0.1.0");
    expect(&engine, Outcome::Ok, "that of the Ollama whose API it speaks");
    expect(&runtime(&Report::absent(RuntimeKind::Ollama)), Outcome::Warn, "none beside this node");
    for kind in [RuntimeKind::Ollama, RuntimeKind::Engine] {
        let down = Report { state: RuntimeState::Down("refused".to_owned()), ..Report::absent(kind) };
        expect(&runtime(&down), Outcome::Fail, "is down: refused");
    }
}

fn resident(size_vram_bytes: u64) -> Residency {
    Residency {
        name: "m:latest".parse().expect("a name"),
        digest: ollamax_types::Digest([0; 32]),
        weights: ollamax_types::Digest([0; 32]),
        size_bytes: 10,
        size_vram_bytes,
        context_length: 0,
        expires_at: String::new(),
        details_json: String::new(),
    }
}

#[test]
fn gpus_that_are_used_and_those_that_are_not() {
    let none = Driver::default();
    let sign = Driver { sign: Some("/dev/kfd"), ..Driver::default() };
    let h100 = Gpu {
        uuid: "GPU-1".to_owned(),
        name: "NVIDIA H100".to_owned(),
        memory_total_bytes: None,
        memory_used_bytes: None,
        use_permille: None,
    };
    let listed = Driver { gpus: vec![h100], sign: Some("/dev/nvidia0") };
    let ollama = |resident: &[Residency]| Report { resident: resident.to_vec(), ..up(RuntimeKind::Ollama, "0.24.0") };
    let engine =
        |gpu, resident: &[Residency]| Report { gpu, resident: resident.to_vec(), ..up(RuntimeKind::Engine, "0.1.0") };
    expect(&gpu(&none, &ollama(&[resident(0)])), Outcome::Skipped, "no GPU driver");
    expect(&gpu(&sign, &Report::absent(RuntimeKind::Ollama)), Outcome::Skipped, "/dev/kfd is there; no runtime");
    expect(&gpu(&listed, &ollama(&[])), Outcome::Skipped, "NVIDIA H100 is there; whether it is used");
    expect(&gpu(&listed, &ollama(&[resident(10)])), Outcome::Ok, "NVIDIA H100 is there, and every loaded model");
    expect(&gpu(&listed, &ollama(&[resident(10), resident(0)])), Outcome::Warn, "run on the CPU: m:latest");
    expect(&gpu(&listed, &engine(Some(false), &[])), Outcome::Warn, "built for the CPU alone");
    expect(&gpu(&listed, &engine(Some(true), &[])), Outcome::Skipped, "whether it is used");
    expect(&gpu(&listed, &engine(Some(true), &[resident(0)])), Outcome::Warn, "run on the CPU");
    expect(&gpu(&listed, &engine(Some(true), &[resident(10)])), Outcome::Ok, "uses GPU memory");
}

fn files(access: Access, damaged: &[(&str, &[&str])]) -> ModelStore {
    let damaged = damaged.iter().map(|(file, models)| {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        ((*file).to_owned(), models)
    });
    let owner = "ollama (uid 998)".to_owned();
    let handed = Ok(([127, 0, 0, 1], 7).into());
    ModelStore::Found(Files { path: PathBuf::from("/models"), access, owner, handed, damaged: damaged.collect() })
}

#[test]
fn rights_on_the_model_store() {
    let path = PathBuf::from("/models");
    expect(&model_store(&ModelStore::Elsewhere("on gpu.lan")), Outcome::Skipped, "on gpu.lan");
    expect(&model_store(&ModelStore::NotFound(vec![path])), Outcome::Warn, "none at /models");
    expect(&model_store(&ModelStore::NotFound(Vec::new())), Outcome::Warn, "none at any known place");
    let unusable = ModelStore::Unusable("open /models: Permission denied".to_owned());
    expect(&model_store(&unusable), Outcome::Warn, "open /models: Permission denied");
    let shut = model_store(&ModelStore::Shut {
        problem: "open the model store /usr/share/ollama/.ollama/models: Permission denied".to_owned(),
        folder: PathBuf::from("/usr/share/ollama"),
        group: "ollama".to_owned(),
    });
    expect(&shut, Outcome::Warn, "/usr/share/ollama/.ollama/models: Permission denied");
    let fix = "sudo usermod -aG ollama ollamax && sudo chmod g+x /usr/share/ollama && sudo systemctl restart \
               ollamax-node; then ollamax doctor again";
    assert_eq!(shut.fix, fix);

    let owner = Owner { uid: 998, gid: 998 };
    for (how, needle) in [(How::Owner, "as its owner"), (How::Root, "as root"), (How::Group, "through its group")] {
        let check = model_store(&files(Access::Direct { owner, how }, &[]));
        expect(&check, Outcome::Ok, "/models is owned by ollama (uid 998); this node reads and writes it ");
        expect(&check, Outcome::Ok, needle);
        expect(&check, Outcome::Ok, ", and links into it what it pulls");
    }
    let (reason, remedy) = ("blobs may not be written".to_owned(), "chmod g+w".to_owned());
    let locked = model_store(&files(Access::Locked { owner, reason: reason.clone(), remedy: remedy.clone() }, &[]));
    expect(&locked, Outcome::Warn, "/models is owned by ollama (uid 998); this node only reads it: blobs may not be");
    assert_eq!(locked.fix, remedy);
    expect(&locked, Outcome::Warn, "the runtime fetches from this node at 127.0.0.1:7, and it needs its room twice");
    let ModelStore::Found(alone) = files(Access::Locked { owner, reason: reason.clone(), remedy: remedy.clone() }, &[])
    else {
        panic!("it is there")
    };
    let alone = model_store(&ModelStore::Found(Files { handed: Err("it fetches nothing".to_owned()), ..alone }));
    expect(&alone, Outcome::Warn, "may not be written; nothing can be pulled into it: it fetches nothing");
    assert_eq!(alone.fix, remedy);
    let hidden = model_store(&files(Access::Hidden { reason, remedy: remedy.clone() }, &[]));
    expect(&hidden, Outcome::Warn, "/models cannot be read: blobs may not be written");
    assert_eq!(hidden.fix, remedy);
}

#[test]
fn model_files_that_are_not_what_their_names_say() {
    let access = Access::Direct { owner: Owner { uid: 998, gid: 998 }, how: How::Owner };
    let of_one = model_store(&files(access.clone(), &[("sha256-0102", &["a:latest", "b:latest"])]));
    expect(&of_one, Outcome::Fail, "/models: not the bytes that the name says: sha256-0102 of a:latest, b:latest");
    let of_two = model_store(&files(access, &[("sha256-0102", &["a:latest"]), ("sha256-03", &[])]));
    expect(&of_two, Outcome::Fail, "sha256-0102 of a:latest; sha256-03");
    let fix = "OLLAMA_HOST=<the runtime's address> ollama rm NAME; ollamax model pull NAME.";
    assert!(of_two.fix.contains(fix), "{of_two:?}");
}
