use super::*;
use std::os::unix::fs::PermissionsExt;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[test]
fn a_key_that_was_made_is_read_again() {
    let room = tempfile::tempdir().unwrap();
    let directory = room.path().join("keys");
    let origin = name("Company.example");
    for (algorithm, number) in [(Algorithm::Ecdsap256, "013"), (Algorithm::Ed25519, "015")] {
        let (base, key) = generate(&directory, &origin, algorithm).unwrap();
        let file = base.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(file, format!("Kcompany.example.+{number}+{:05}", key.tag()));
        let mode = |end: &str| fs::metadata(with_end(&base, end)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("private"), mode("key") & 0o022), (0o600, 0));
        let read = read(&with_end(&base, "private"), &origin).unwrap();
        assert_eq!((read.data(), read.tag(), read.is_entry()), (key.data(), key.tag(), true));
        assert_eq!(dnskey(&origin, &read), dnskey(&origin, &key));
    }
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    // Those of other zones are not this one's.
    generate(&directory, &name("y.example"), Algorithm::Ed25519).unwrap();
    assert_eq!(load(&directory, &name("company.EXAMPLE.")).unwrap().keys().len(), 2);
}

/// RFC 8080 6.1, whose secret half is in BIND's form there too.
#[test]
fn the_example_of_the_rfc_has_its_tag_and_its_ds() {
    let room = tempfile::tempdir().unwrap();
    let base = room.path().join("Kexample.com.+015+03613");
    let private =
        "Private-key-format: v1.2\nAlgorithm: 15 (ED25519)\nPrivateKey: ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI=\n";
    fs::write(with_end(&base, "private"), private).unwrap();
    fs::set_permissions(with_end(&base, "private"), fs::Permissions::from_mode(0o600)).unwrap();
    let public =
        "example.com. 3600 IN DNSKEY 257 3 15 (\n l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= ) ; a comment\n";
    fs::write(with_end(&base, "key"), public).unwrap();
    let origin = name("example.com");
    let signer = load(room.path(), &origin).unwrap();
    let wanted = "example.com. IN DS 3613 15 2 3AA5AB37EFCE57F737FC1627013FEE07BDF241BD10F3B1964AB55C78E79A304B";
    assert_eq!(ds(&origin, &signer.keys()[0]), wanted);
}

#[test]
fn what_is_wrong_with_a_key_is_told_in_a_sentence() {
    let room = tempfile::tempdir().unwrap();
    let origin = name("company.example.");
    let wrong = |directory: &Path| load(directory, &origin).err().unwrap();
    for directory in [room.path().to_owned(), room.path().join("missing")] {
        let dir = directory.display();
        let wanted = format!(
            "there is no key of company.example. in {dir}: make one with `farside dns keygen --dir {dir} company.example.`"
        );
        assert_eq!(wrong(&directory), wanted);
    }
    let (base, _) = generate(room.path(), &origin, Algorithm::Ecdsap256).unwrap();
    let (private, public) = (with_end(&base, "private"), with_end(&base, "key"));
    let (secret, half) = (fs::read_to_string(&private).unwrap(), fs::read_to_string(&public).unwrap());
    let expect = |private_text: &str, public_text: &str, wanted: &str| {
        fs::write(&private, private_text).unwrap();
        fs::write(&public, public_text).unwrap();
        let told = wrong(room.path());
        assert!(told.ends_with(wanted), "{told}");
    };
    expect("nothing", &half, ".private: this is no private key in BIND's format");
    let other = secret.replace("Algorithm: 13", "Algorithm: 8");
    let only = "algorithm 8 cannot be used: only 13 (ECDSA P-256 with SHA-256) and 15 (Ed25519)";
    expect(&other, &half, only);
    expect(&secret, &half.replace("257", "0"), "a key with flags 0 and protocol 3 signs no zone: flags are 257 or 256");
    expect(&secret, &half.replace("company", "other"), "this is a key of other.example., not of company.example.");
    let (_, another) = Key::generate(Algorithm::Ecdsap256).unwrap();
    let foreign = format!("Private-key-format: v1.3\nAlgorithm: 13\nPrivateKey: {}\n", base64::encode_string(&another));
    expect(&foreign, &half, ".key are not the halves of one key");
    fs::write(&private, &secret).unwrap();
    fs::write(&public, &half).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(wrong(room.path()).contains(".private is open to everybody on this machine: `chmod 600 "));
    fs::set_permissions(&private, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(load(room.path(), &origin).is_ok());
}
